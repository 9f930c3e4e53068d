"""What does a page need that a library does not: an origin, a subprotocol, a place for a token?

Foreign clients say it: what a browser insists on, they insist on too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import websocket
from tornado.websocket import websocket_connect
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.examples import FRAME_PATHS
from tests.gateway.cluster import USUAL, Raw, gateway, request
from tests.processes import GatewayProcess
from wsdemo.gateway.auth import mint_token
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

SECRET = b"a secret of more than thirty-two bytes"
LATER = time.time() + 3_600
PROTOCOL = "Sec-WebSocket-Protocol"

Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture(params=FRAME_PATHS.values(), ids=[*FRAME_PATHS])
async def start(
    request: pytest.FixtureRequest, shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[Start]:
    """Start a gateway with these settings: `await start(origins=("*",))`."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(**settings: Any) -> Gateway:
            return await stack.enter_async_context(
                gateway(shared_server, keyspace, fast_frames=request.param, settings=settings)
            )

        yield begin


async def answer(running: Gateway, said: bytes) -> tuple[int, bytes]:
    """Return the status and the head of the answer to a handshake."""
    async with await Raw.connect(running) as raw:
        raw.writer.write(said)
        head = await raw.head()
        return int(head.split()[1]), head


async def chosen(running: Gateway, *offers: str) -> str | None:
    """Return the subprotocol that is chosen for a client which offers these, a line each."""
    lines = "".join(f"{PROTOCOL}: {offer}\r\n" for offer in offers).encode("latin-1")
    status, head = await answer(running, request()[:-2] + lines + b"\r\n")
    if status != 101:
        return str(status)
    (line,) = [ln for ln in head.split(b"\r\n") if ln.lower().startswith(b"sec-websocket-p")] or [
        b""
    ]
    return line.partition(b": ")[2].decode() or None


@pytest.mark.parametrize(
    ("offers", "choice"),
    [
        (["wsdemo.v1"], "wsdemo.v1"),
        (["bearer.a.b.c, wsdemo.v1"], "wsdemo.v1"),
        (["wsdemo.v1,bearer.a.b.c"], "wsdemo.v1"),
        (["mqtt , wsdemo.v1"], "wsdemo.v1"),
        (["mqtt", "wsdemo.v1"], "wsdemo.v1"),
        (["chat, wsdemo.v1"], "chat"),
        (["wsdemo.v1, chat"], "wsdemo.v1"),
        (["chat, chat"], "chat"),
        (["chat,,wsdemo.v1"], "chat"),
        ([",chat,"], "chat"),
        (["WSDEMO.V1"], None),
        (["mqtt, graphql-ws"], None),
        (["mqtt, mqtt"], None),
        (["bearer.a.b.c"], None),
        (["bearer."], None),
        (["wsdemo.v1.x, xwsdemo.v1"], None),
        ([""], "400"),
        ([","], "400"),
        ([" , "], "400"),
        (["a b"], "400"),
        (["chat;q=1"], "400"),
        (["chat/2"], "400"),
        (['"chat"'], "400"),
        (["ch\xe9t"], "400"),
        (["chat", ""], "400"),
    ],
    ids=str,
)
async def test_the_first_known_subprotocol_is_chosen(
    start: Start, offers: list[str], choice: str | None
) -> None:
    """None if none is known, which is allowed; 400 for an invalid list. A token is never chosen."""
    running = await start(subprotocols=("chat",))
    assert await chosen(running, *offers) == choice


async def test_a_client_without_subprotocols_gets_none_chosen(start: Start) -> None:
    """A client that did not offer any has to refuse a choice."""
    assert await chosen(await start(subprotocols=("chat",))) is None


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://gw.example:8080", "gw.example:8080", 101),
        ("https://GW.example", "gw.example", 101),
        ("https://gw.example", "gw.example:443", 101),
        ("http://[2001:db8::1]", "[2001:db8::1]:80", 101),
        ("http://localhost:3000", "gw.example", 101),
        ("http://gw.example", "gw.example:8080", 403),
        ("http://evil.example", "gw.example", 403),
        ("http://gw.example.evil.example", "gw.example", 403),
        ("capacitor://gw.example", "gw.example", 403),
        ("null", "null", 403),
        ("", "", 403),
    ],
)
async def test_only_pages_with_an_allowed_origin_may_connect(
    start: Start, origin: str, host: str, status: int
) -> None:
    """A page from the host and port that it connects to is allowed as well, with the defaults
    kept."""
    running = await start()
    said = request(USUAL | {"Host": host, "Origin": origin})
    assert (await answer(running, said))[0] == status
    # By the general way in any case: the query is not of the common kind.
    said = request(USUAL | {"Host": host, "Origin": origin}, "GET /ws?x HTTP/1.1")
    assert (await answer(running, said))[0] == status
    if host:
        # The host in the target counts, not the Host header.
        said = request(USUAL | {"Origin": origin}, f"GET http://{host}/ws HTTP/1.1")
        assert (await answer(running, said))[0] == status


@pytest.mark.parametrize(
    "app", ["capacitor://localhost", "file://", "null", "vscode-webview://abc", "*"]
)
async def test_the_origin_of_an_app_connects_only_when_allowed(start: Start, app: str) -> None:
    """Two origins are refused for everybody."""
    running = await start(origins=(app,))
    origin = "https://any.example" if app == "*" else app
    said = request(USUAL | {"Origin": origin})
    assert (await answer(running, said))[0] == 101
    other = 101 if app == "*" else 403
    assert (await answer(running, request(USUAL | {"Origin": "ionic://localhost"})))[0] == other
    twice = request(USUAL)[:-2] + f"Origin: {origin}\r\n".encode() * 2 + b"\r\n"
    assert (await answer(running, twice))[0] == 400


@pytest.mark.parametrize("origins", [("*",), ("null",)], ids=["any", "one"])
async def test_a_gateway_that_allows_any_origin_warns_at_its_start(
    start: Start, caplog: pytest.LogCaptureFixture, origins: tuple[str, ...]
) -> None:
    """Once."""
    await start(origins=origins)
    assert sum("any origin" in line for line in caplog.messages) == (origins == ("*",))


# --- a token among the offers ---------------------------------------------------------------------


def register(user: str, **more: str) -> bytes:
    return json.dumps({"type": "register", "userId": user, **more}).encode()


GOOD = mint_token(SECRET, "alice", LATER)


async def offered(running: Gateway, offer: str) -> Raw:
    raw = await Raw.connect(running)
    raw.writer.write(request(USUAL | {PROTOCOL: offer}))
    assert b" 101 " in (await raw.head()).splitlines()[0]
    return raw


async def outcome(raw: Raw, said: bytes) -> str | int:
    """Return the type of the answer, or the code of the close."""
    raw.frame(said)
    opcode, payload = await raw.hear()
    return int.from_bytes(payload[:2], "big") if opcode == 8 else str(json.loads(payload)["type"])


@pytest.mark.parametrize(
    ("offer", "own", "expected"),
    [
        (f"wsdemo.v1, bearer.{GOOD}", None, "registered"),
        (f"bearer.{GOOD}, wsdemo.v1", "", "registered"),
        (f"bearer.{GOOD}", None, "registered"),
        (f"wsdemo.v1, bearer.{GOOD}", "x", 4504),
        ("wsdemo.v1, bearer.x", GOOD, "registered"),
        ("wsdemo.v1, bearer.x", None, 4504),
        (f"wsdemo.v1, bearer.x, bearer.{GOOD}", None, 4504),
        (f"wsdemo.v1, {GOOD}", None, 4504),
        (f"wsdemo.v1, Bearer.{GOOD}", None, 4504),
        ("wsdemo.v1", None, 4504),
        (f"bearer.{mint_token(SECRET, 'bob', LATER)}", None, 4504),
        (f"bearer.{mint_token(SECRET, 'alice', 1_000)}", None, 4504),
    ],
    ids=["with ours", "own is empty", "alone", "own is bad", "own is good", "bad", "the first",
         "without a name", "in capitals", "none", "another's", "ended"],
)  # fmt: skip
async def test_a_register_without_a_token_uses_the_one_in_the_subprotocols(
    start: Start, offer: str, own: str | None, expected: str | int
) -> None:
    """A token in the register comes first, valid or not; all bad tokens get one answer."""
    async with await offered(await start(auth_secret=SECRET), offer) as raw:
        assert await outcome(raw, register("alice", **({} if own is None else {"token": own}))) == (
            expected
        )


async def test_a_second_register_needs_no_second_token(start: Start) -> None:
    """The offered token is still valid, for its own user."""
    async with await offered(await start(auth_secret=SECRET), f"wsdemo.v1, bearer.{GOOD}") as raw:
        assert await outcome(raw, register("alice")) == "registered"
        assert await outcome(raw, register("alice")) == "registered"


async def test_a_token_is_neither_repeated_nor_logged(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Not as a choice, not in a refusal, not at any level of any log."""
    caplog.set_level(logging.DEBUG)
    running = await start(auth_secret=SECRET)
    for offer in (
        f"bearer.{GOOD}, wsdemo.v1",
        f"bearer.{GOOD} x",
        f"bearer.{GOOD};x",
        f'bearer.{GOOD}"',
    ):
        async with await Raw.connect(running) as raw:
            raw.writer.write(request(USUAL | {PROTOCOL: offer}))
            said = await raw.head()
            if b" 101 " not in said:
                assert b" 400 " in said
                said += await raw.rest()
            assert GOOD.encode() not in said
    for method in ("POST", "HEAD"):
        said = request(USUAL | {PROTOCOL: f"bearer.{GOOD}"}, f"{method} /ws HTTP/1.1")
        async with await Raw.connect(running) as raw:
            raw.writer.write(said)
            assert GOOD.encode() not in await raw.rest()
    mine = [record for record in caplog.records if record.name.startswith("wsdemo")]
    assert mine and not [r for r in mine if GOOD in r.getMessage()]


# --- clients that others have written -------------------------------------------------------------

OFFERS = ["wsdemo.v1", f"bearer.{GOOD}"]


async def test_the_websockets_library_gets_its_subprotocol(start: Start) -> None:
    """And needs no token in its register."""
    running = await start(auth_secret=SECRET)
    async with connect(running.url, proxy=None, subprotocols=[*map(Subprotocol, OFFERS)]) as alice:
        assert alice.subprotocol == "wsdemo.v1"
        await alice.send(register("alice").decode())
        assert json.loads(await alice.recv())["type"] == "registered"


async def test_websocket_client_gets_its_subprotocol(start: Start) -> None:
    """It would raise when none was chosen that it had offered."""
    running = await start(auth_secret=SECRET)

    def talk() -> tuple[str | None, str]:
        alice = websocket.create_connection(running.url, subprotocols=OFFERS, timeout=10)
        try:
            alice.send(register("alice").decode())
            return alice.getsubprotocol(), json.loads(alice.recv())["type"]
        finally:
            alice.close()

    assert await asyncio.to_thread(talk) == ("wsdemo.v1", "registered")


async def test_tornado_gets_its_subprotocol(start: Start) -> None:
    """Its client asks for compression too, and does without."""
    running = await start(auth_secret=SECRET)
    alice = await websocket_connect(running.url, subprotocols=OFFERS, compression_options={})
    try:
        assert alice.selected_subprotocol == "wsdemo.v1"
        await alice.write_message(register("alice"), binary=False)
        assert json.loads(await alice.read_message() or "")["type"] == "registered"
    finally:
        alice.close()
        while await alice.read_message() is not None:
            pass


NODE = """
const socket = new WebSocket(process.argv[1], ["wsdemo.v1", "bearer." + process.argv[2]]);
socket.onopen = () => socket.send('{"type":"register","userId":"alice"}');
socket.onerror = (event) => console.log("error", event.message);
socket.onmessage = (event) => {
  console.log(socket.protocol, JSON.parse(event.data).type);
  socket.close(1000);
};
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
async def test_node_gets_its_subprotocol(start: Start) -> None:
    """Its built-in client is a browser's, and fails a connection for which none was chosen."""
    running = await start(auth_secret=SECRET)
    process = await asyncio.create_subprocess_exec(
        *("node", "--experimental-websocket", "-e", NODE, running.url, GOOD),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            said, problem = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if b"bad option" in problem:
        pytest.skip("this Node has no client built in")
    assert said.decode().split() == ["wsdemo.v1", "registered"], problem


async def test_all_flags_about_browsers_reach_the_gateway(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """A process with all of them: an app, a subprotocol, a header of a proxy on this machine."""
    flags = ["--key-prefix", keyspace.prefix, "--origin", "capacitor://localhost",
             "--origin", "null", "--subprotocol", "chat", "--subprotocol", "chat.v2",
             "--trusted-proxy", "127.0.0.1", "--trusted-proxy", "unix",
             "--forwarded-header", "forwarded", "--unregistered-per-ip", "1",
             "--register-deadline-s", "60"]  # fmt: skip
    async with GatewayProcess("gateway-01", shared_server.url, *flags) as process:
        headers = USUAL | {"Origin": "capacitor://localhost", PROTOCOL: "chat.v2"}

        async def ask(**more: str) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
            raw = Raw(reader, writer)
            raws.append(raw)
            raw.writer.write(request(headers | {k.replace("_", "-"): v for k, v in more.items()}))
            return await raw.head()

        raws: list[Raw] = []
        try:
            head = await ask(Forwarded='for="198.51.100.7:80"', X_Forwarded_For="192.0.2.1")
            assert b" 101 " in head and b"Sec-WebSocket-Protocol: chat.v2\r\n" in head
            assert b" 429 " in await ask(Forwarded="for=198.51.100.7", X_Forwarded_For="192.0.2.2")
            assert b" 101 " in await ask(Forwarded="for=198.51.100.8")
        finally:
            for raw in raws:
                await raw.leave()
