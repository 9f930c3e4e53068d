"""The client library for pages: does it keep the rules of the Python client?

Its rules are tested in Node with virtual time (tests/js), and then it talks to real gateways: in
Node, and as a page in Chromium.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.server
import json
import re
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests import browser
from tests.browser import Browser
from tests.gateway.cluster import gateway
from tests.node import NODE, WEBSOCKET_FLAGS, node, node_tests, ws_node
from tests.pages import PAGES, ROOT, blocks_of
from tests.waiting import until
from wsdemo.client import Client
from wsdemo.features import InboxSettings, RoomSettings, WatchSettings
from wsdemo.gateway.server import Gateway
from wsdemo.protocol import CLOSE_POLICIES, Status
from wsdemo.redis.server import BundledServer
from wsdemo.settings import ClientSettings, Keyspace, Timing

LIBRARY: Final = ROOT / "wsdemo" / "client" / "wsdemo.js"
STORY: Final = ROOT / "tests" / "js" / "story.mjs"
STEP_S: Final = 20.0

with_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
with_websocket = pytest.mark.skipif(
    WEBSOCKET_FLAGS is None, reason="this node has no WebSocket (it came with version 20.10)"
)
with_chromium = pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture
async def gateways(
    shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    async with contextlib.AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(gateway(shared_server, keyspace, name))
            for name in ("gateway-01", "gateway-02")
        ]
        yield first, second


@pytest.fixture
async def featured(
    shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways with durable messages, rooms and presence events."""
    features = {"inbox": InboxSettings(), "rooms": RoomSettings(), "watch": WatchSettings()}
    async with contextlib.AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                gateway(shared_server, keyspace, name, settings=features)
            )
            for name in ("gateway-01", "gateway-02")
        ]
        yield first, second


@with_node
async def test_it_keeps_the_rules_in_virtual_time() -> None:
    """Each rule by itself, with a gateway that the test plays."""
    assert await node_tests("test_wsdemo.mjs") >= 20


@with_node
async def test_it_keeps_the_rules_of_durable_messages_in_virtual_time() -> None:
    """Position, acknowledgement, doubles, gaps, and sending again."""
    assert await node_tests("test_durable.mjs") >= 20


@with_node
async def test_its_tables_are_those_of_the_protocol() -> None:
    """Close codes, statuses and times: word for word."""
    script = (
        f"import * as all from {json.dumps(LIBRARY.as_uri())};"
        "console.log(JSON.stringify([all.CLOSE_CODES, all.TIMES]))"
    )
    codes, times = json.loads(await node("--input-type=module", "-e", script))
    assert codes == {
        str(int(code)): [policy.reason, policy.reconnect] for code, policy in CLOSE_POLICIES.items()
    }
    python = ClientSettings()
    assert times == {
        "dial": 1000 * python.connect_timeout_s,
        "register": 1000 * python.register_timeout_s,
        "close": 1000 * python.close_timeout_s,
        "ack": 1000 * python.ack_timeout_s,
        "backoffBase": 1000 * python.backoff_base_s,
        "backoffCap": 1000 * python.backoff_cap_s,
        "pongAtLeast": 1000 * python.pong_within_at_least_s,
    }
    statuses = re.search(r"const STATUSES = (\[.*\]);", LIBRARY.read_text(encoding="utf-8"))
    assert statuses is not None
    assert {*json.loads(statuses[1])} == {status.value for status in Status}


# --- against real gateways -------------------------------------------------------------------


def example(gateways: tuple[Gateway, Gateway]) -> str:
    """Return the example of the page, with the addresses of these gateways."""
    (block,) = (b for b in blocks_of(PAGES["docs/browser-client.md"]) if b.kind == "javascript")
    text = block.text
    addresses = ("ws://localhost:8081/ws", "ws://localhost:8082/ws")
    for address, running in zip(addresses, gateways, strict=True):
        assert address in text
        text = text.replace(address, running.url)
    return text


SAID: Final = [
    "alice is closed 1000",
    "alice is connecting",
    "alice is registered",
    "alice writes: Hello!",
    "to bob: routed true",
    "to carol: offline",
]
"""What the example prints, sorted: a message and its receipt may come in either order."""


@with_websocket
async def test_the_example_of_the_page_works_in_node(
    tmp_path: Path, gateways: tuple[Gateway, Gateway]
) -> None:
    """As it stands, with the library copied beside it."""
    shutil.copy(LIBRARY, tmp_path)
    script = tmp_path / "example.mjs"
    script.write_text(example(gateways), encoding="utf-8")
    said = (await ws_node(script)).splitlines()
    assert sorted(line.rstrip() for line in said) == SAID


@with_websocket
async def test_it_ignores_what_optional_features_say(
    tmp_path: Path, featured: tuple[Gateway, Gateway]
) -> None:
    """The same example on gateways that have them; and what was stored arrives as a message."""
    shutil.copy(LIBRARY, tmp_path)
    script = tmp_path / "example.mjs"
    script.write_text(example(featured), encoding="utf-8")
    said = (await ws_node(script)).splitlines()
    assert sorted(line.rstrip() for line in said) == SAID
    script.write_text(
        'import { Client } from "./wsdemo.js";\n'
        f"const dave = new Client('dave', {json.dumps(featured[1].url)}, {{ onMessage(message) {{"
        " console.log(JSON.stringify(message)); dave.close(); } }); await dave.start();\n",
        encoding="utf-8",
    )
    async with Client("alice", [featured[0].url]) as alice:
        receipt = await alice.send("dave", "stored", durable=True)
        assert receipt.status is Status.STORED
    message = json.loads(await ws_node(script))
    assert message == {"from": "alice", "content": "stored", "id": receipt.id}


@with_websocket
async def test_it_sends_durable_messages_that_wait_for_their_recipient(
    featured: tuple[Gateway, Gateway],
) -> None:
    """Under the same id only once; a new process gets nothing twice."""
    first, second = featured
    urls = json.dumps([first.url, second.url])
    script = (
        f"import {{ Client }} from {json.dumps(LIBRARY.as_uri())};\n"
        f"const alice = new Client('alice', {urls}); await alice.start();\n"
        "for (const id of ['a-1', 'a-2', 'a-1'])\n"
        "  console.log((await alice.send('bob', id, { durable: true, id })).status);\n"
        "await alice.close();\n"
        "let position = null, got = [];\n"
        "const store = { load: () => position, save: (now) => { position = now; } };\n"
        "async function read(many) {\n"
        "  let enough; const all = new Promise((resolve) => { enough = resolve; });\n"
        "  const heard = (what) => { got.push(what); if (got.length >= many) enough(); };\n"
        f"  const bob = new Client('bob', {urls}, {{ durable: true, position: store,\n"
        "    onMessage: ({ content }) => heard(content), onMissed: (count) => heard(count) });\n"
        "  await bob.start(); await all; await null; await bob.close();\n"
        "}\n"
        "await read(3); console.log(JSON.stringify(got));\n"
        "got = []; const carol = new Client('carol', " + urls + "); await carol.start();\n"
        "await carol.send('bob', 'later', { durable: true }); await carol.close();\n"
        "await read(1); console.log(JSON.stringify(got));\n"
    )
    said = (await ws_node("--input-type=module", "-e", script)).splitlines()
    assert said == ["stored", "stored", "duplicate", '[null,"a-1","a-2"]', '["later"]']


@with_chromium
async def test_a_page_that_is_reloaded_goes_on_where_it_was(
    tmp_path: Path, featured: tuple[Gateway, Gateway]
) -> None:
    """Its position is in the localStorage of the browser."""
    first, second = featured
    script = (
        'import { Client } from "./wsdemo.js";\n'
        f'globalThis.bob = new Client("bob", "{first.url}", {{ durable: true,\n'
        "  onMessage: ({ content }) => console.log(content), onMissed: console.log });\n"
        "await bob.start();"
    )
    async with (
        Client("alice", [second.url]) as alice,
        page(tmp_path, script) as open_page,
    ):
        await open_page.until("it knows of no history", "window.said?.length === 1", STEP_S)
        assert (await alice.send("bob", "one", durable=True)).status is Status.STORED
        saved = "(localStorage.getItem('wsdemo.position:bob') ?? '').includes('\"offset\":\"1-')"
        await open_page.until("its position is saved", saved, STEP_S)
        await open_page.value("bob.close() && 1")
        await open_page.until("it is closed", "bob.state === 'closed'", STEP_S)
        assert (await alice.send("bob", "two", durable=True)).status is Status.STORED
        await open_page.reload()
        told = await open_page.until("it goes on", "window.said?.length && window.said", STEP_S)
        assert told == ["two"]
        assert open_page.problems == []


@with_chromium
async def test_the_example_of_the_page_works_in_a_browser(
    tmp_path: Path, gateways: tuple[Gateway, Gateway]
) -> None:
    """As a module of a page of this machine; it asks nobody else for anything."""
    async with page(tmp_path, example(gateways)) as open_page:
        ended = f"window.done && said.length == {len(SAID)} && said"
        said = await open_page.until("the example ends", ended, STEP_S)
        assert sorted(line.rstrip() for line in said) == SAID
        assert open_page.problems == []
        assert open_page.requested_elsewhere() == []


@with_websocket
async def test_it_comes_back_from_a_drain_and_stays_away_after_4509_in_node(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """1012: back at the other gateway. 4509: only when it is asked to."""
    first, second = gateways
    drained = asyncio.create_task(_drain_when_registered(first))
    said = await ws_node(STORY, first.url, second.url)
    await drained
    assert said.splitlines() == TOLD


@with_chromium
async def test_it_comes_back_from_a_drain_and_stays_away_after_4509_in_a_browser(
    tmp_path: Path, gateways: tuple[Gateway, Gateway]
) -> None:
    """The same story, told by a page."""
    first, second = gateways
    shutil.copy(STORY, tmp_path)
    script = (
        'import { story } from "./story.mjs"; import { Client } from "./wsdemo.js";\n'
        f"await story(Client, {json.dumps([first.url, second.url])});"
    )
    drained = asyncio.create_task(_drain_when_registered(first))
    async with page(tmp_path, script) as open_page:
        said = await open_page.until("the story ends", "window.done && window.said", STEP_S)
        assert said == TOLD
        assert open_page.problems == []
    await drained


@with_chromium
async def test_a_page_that_is_visible_again_asks_at_once(
    tmp_path: Path, shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """It does not wait for the next heartbeat, nor for a timer."""
    timing = Timing(heartbeat_s=20.0)
    async with gateway(shared_server, keyspace, timing=timing) as running:
        script = (
            'import { Client } from "./wsdemo.js";\n'
            "const heard = []; globalThis.heard = heard;\n"
            "class Spied extends WebSocket {\n"
            "  send(text) { heard.push(JSON.parse(text).type); super.send(text); }\n"
            "}\n"
            f'globalThis.alice = new Client("alice", "{running.url}", {{ WebSocket: Spied }});\n'
            "await alice.start();"
        )
        async with page(tmp_path, script) as open_page:
            await open_page.until("alice is registered", "window.done", STEP_S)
            before = await open_page.value("heard.length")
            await open_page.value("dispatchEvent(new Event('online'))")
            assert await open_page.value(f"heard.slice({before})") == ["ping"]
            await open_page.value("document.dispatchEvent(new Event('visibilitychange'))")
            assert await open_page.value(f"heard.slice({before})") == ["ping", "ping"]
            await open_page.value("alice.close() && 1")
            await open_page.value("dispatchEvent(new Event('online'))")
            assert await open_page.value(f"heard.length - {before}") == 2


TOLD: Final = [
    "laptop: registered gateway-01",
    "laptop: registered gateway-02, 1012: true",
    "laptop: closed 4509; phone: registered gateway-02",
    "phone got: for the newer one",
    "laptop: registered gateway-02; phone: closed",
]


async def _drain_when_registered(first: Gateway) -> None:
    await until("laptop is at gateway-01", lambda: len(first.registry), STEP_S)
    await first.stop()


@contextlib.asynccontextmanager
async def page(folder: Path, script: str) -> AsyncIterator[Browser]:
    """Serve a page with this module in it, and open it; `window.said` is what it has printed."""
    shutil.copy(LIBRARY, folder)
    (folder / "main.js").write_text(
        "console.log = (...words) => window.said.push(words.join(' '));\n"
        f"{script}\nwindow.done = true;",
        encoding="utf-8",
    )
    (folder / "index.html").write_text(
        '<!doctype html><link rel="icon" href="data:,"><script>window.said = []</script>'
        '<script type="module" src="main.js"></script>',
        encoding="utf-8",
    )
    (folder / "home").mkdir()
    with served(folder) as url:
        async with Browser(folder / "home") as open_page:
            await open_page.open(url)
            yield open_page


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback, from a thread."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        extensions_map = {  # noqa: RUF012  # As the base class has it.
            **http.server.SimpleHTTPRequestHandler.extensions_map,
            ".mjs": "text/javascript",
        }

        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/index.html"
        finally:
            server.shutdown()
            thread.join()
