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


@with_node
async def test_it_keeps_the_rules_in_virtual_time() -> None:
    """Each rule by itself, with a gateway that the test plays."""
    assert await node_tests("test_wsdemo.mjs") >= 20


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
