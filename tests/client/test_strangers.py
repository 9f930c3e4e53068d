"""Other servers: what does a client do with a server that is not a gateway, or that fails? Web
servers, proxies, redirects, certificates, addresses of several families; and peers that read
nothing, answer nothing, or are frozen.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.utils import accept_key

from tests.client.fakes import (
    FAST,
    Diary,
    fake_gateway,
    hear_nothing,
    tell,
    welcome,
)
from tests.waiting import until
from wsdemo import Gateway, GatewaySettings
from wsdemo.client import Client, ClientClosed, ConnectFailed, State, connection, receipts
from wsdemo.events import Kind
from wsdemo.protocol import Code, Status
from wsdemo.redis.server import BundledServer
from wsdemo.settings import ClientSettings, Keyspace, Timing

pytestmark = pytest.mark.both_loops

Answer = Callable[[ServerConnection, Request], Response | None]


@contextlib.asynccontextmanager
async def web_server(answer: Answer, **options: Any) -> AsyncIterator[str]:
    """A server that may answer with something else than a WebSocket; yields its URL."""

    async def behave(connection: ServerConnection) -> None:
        await welcome(connection)
        await hear_nothing(connection)

    async with serve(behave, "127.0.0.1", 0, process_request=answer, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"{'wss' if 'ssl' in options else 'ws'}://127.0.0.1:{port}/ws"


def page(status: int, **headers: str) -> Answer:
    """Answer with a page, always."""

    def answer(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(http.HTTPStatus.OK, "<html>Welcome!</html>")
        response.status_code = status
        response.headers.update(headers)
        return response

    return answer


# --- web servers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 400, 401, 403, 404, 410, 426, 501, 505])
async def test_a_plain_web_server_is_dialled_only_once(status: int) -> None:
    """The start fails at once, and says what kind of server it was."""
    async with web_server(page(status)) as url:
        client = Client("alice", [url])
        with pytest.raises(ConnectFailed, match=f"^alice: {url}: HTTP {status}$"):
            await client.start(30)
        assert client.attempts == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 599])
async def test_a_server_error_is_tried_again(status: int) -> None:
    """A proxy without a gateway behind it, an overloaded gateway: the error may be temporary."""
    asked = 0

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        nonlocal asked
        asked += 1
        return page(status)(connection, request) if asked <= 2 else None

    async with web_server(answer) as url, Client("alice", [url], settings=FAST) as alice:
        assert alice.attempts == 3


@pytest.mark.parametrize("advice", ["-1", "soon", "1e9", "inf", "9" * 400, "", "\xb2"])
async def test_malformed_retry_advice_is_ignored(advice: str) -> None:
    """`Retry-After` may also be a date, or nonsense."""
    asked = 0

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        nonlocal asked
        asked += 1
        return page(503, **{"Retry-After": advice})(connection, request) if asked == 1 else None

    async with web_server(answer) as url, Client("alice", [url], settings=FAST) as alice:
        assert alice.attempts == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_gets_no_token(status: int) -> None:
    """The error line says where the redirect would lead."""
    strangers = 0

    async def stranger(connection: ServerConnection, attempt: int) -> None:
        nonlocal strangers
        strangers = attempt
        await welcome(connection)

    async with fake_gateway(stranger) as elsewhere:
        async with web_server(page(status, Location=elsewhere)) as url:
            client = Client("alice", [url], token="secret")
            with pytest.raises(
                ConnectFailed, match=f"HTTP {status}, which would lead to {elsewhere}"
            ):
                await client.start(30)
            assert (client.attempts, strangers) == (1, 0)


async def test_an_address_without_a_path_is_refused_with_the_missing_path() -> None:
    """The usual mistake with a gateway's address."""
    async with web_server(page(404)) as url:
        with pytest.raises(ConnectFailed, match=r"HTTP 404 \(gateways are at /ws\)$"):
            await Client("alice", [url.removesuffix("/ws")]).start(30)


async def test_a_404_from_a_known_gateway_is_tried_again() -> None:
    """A proxy answers so while its gateways restart: the address stays in the list."""
    diary, down = Diary(), False

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        return page(404)(connection, request) if down else None

    async with (
        web_server(answer) as url,
        Client("alice", [url], settings=FAST, emit=diary) as alice,
    ):
        down = True
        alice.abort()
        await until("it was asked again", lambda: diary.count[Kind.WS_FAIL] >= 2)
        down = False
        await until("it is back", lambda: diary.count[Kind.REGISTERED] == 2)


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\0" * 100, b"HTTP/1.1 101\r\n\r\n"]
)
async def test_a_server_of_another_protocol_is_reported_in_one_line(garbage: bytes) -> None:
    """A wrong port; it is tried until the start times out."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = Client("alice", [f"ws://127.0.0.1:{port}/ws"], settings=FAST)
        with pytest.raises(ConnectFailed) as failed:
            await client.start(0.3)
        assert "\n" not in str(failed.value) and f":{port}/ws: " in str(failed.value)


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "ws://localhost:0/ws",
        "ws://localhost:99999/ws",
        f"ws://{'a' * 64}.example/ws",
        "ws://a..b/ws",
        "ws://[::1/ws",
        "ws://user@localhost/ws",
        "ws://localhost/ws#part",
        "",
    ],
)
def test_an_impossible_address_is_refused_at_once(url: str) -> None:
    """Also in `move`; not at the first dial, where it would be tried for ever."""
    with pytest.raises(ValueError, match="is not a WebSocket URL"):
        Client("alice", [url])
    with pytest.raises(ValueError, match="is not a WebSocket URL"):
        asyncio.run(Client("alice", ["ws://localhost/ws"]).move(url))


def test_a_user_id_with_a_surrogate_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        Client("half \ud83d", ["ws://localhost/ws"])


async def test_a_password_in_an_address_is_not_reported() -> None:
    """Not in the reason of a failure, nor where the address itself is the mistake."""
    client = Client("alice", ["ws://me:s3cr3t@127.0.0.1:1/ws"], settings=FAST)
    with pytest.raises(ConnectFailed) as failed:
        await client.start(0.1)
    assert "s3cr3t" not in str(failed.value) and "127.0.0.1:1" in str(failed.value)
    for url in ("http://me:s3cr3t@localhost/ws", "ws://me:s3cr3t@[::1/ws"):
        with pytest.raises(ValueError, match="is not") as mistake:
            Client("alice", [url])
        assert "s3cr3t" not in str(mistake.value)


async def test_a_refused_connection_is_reported_in_two_words() -> None:
    """And for a name with several addresses not once for each of them."""
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(ConnectFailed, match=f"ws://{host}:1/ws: Connection refused"):
            await Client("alice", [f"ws://{host}:1/ws"], settings=FAST).start(0.3)


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
async def test_a_gateway_is_reached_over_ipv6(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    settings = GatewaySettings(
        gateway_id="gateway-01",
        host="::1",
        port=0,
        redis_url=shared_server.url,
        keyspace=keyspace,
    )
    async with Gateway(settings) as gateway:
        async with Client("alice", [f"ws://[::1]:{gateway.port}/ws"]) as alice:
            assert (await alice.send("alice", "hi")).status is Status.ROUTED


@contextlib.contextmanager
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that answers nothing: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        hole.bind(("127.0.0.3", 0))
        hole.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        yield hole.getsockname()


@pytest.mark.asyncio(loop_factories=["asyncio"])  # uvloop tries addresses one after another.
async def test_a_silent_address_does_not_hide_one_that_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name with a broken route and a good one: connected within the timeout of one dial."""
    async with web_server(lambda connection, request: None) as url:
        port = int(url.split(":")[2].partition("/")[0])
        with black_hole() as hole:
            addresses = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", hole),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]

            async def look_up(host: str, *args: Any, **kwargs: Any) -> Any:
                assert host == "gateway.example"
                return addresses

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
            async with Client("alice", [f"ws://gateway.example:{port}/ws"]) as alice:
                assert alice.attempts == 1


# --- certificates --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_a_private_certificate_authority_is_trusted_when_configured(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """Otherwise the start fails at once with one line; another gateway in the list is used
    instead."""
    pem = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(pem)
    tls = ssl.create_default_context(cafile=pem)
    async with web_server(lambda connection, request: None, ssl=_tls(authority)) as url:
        async with Client("alice", [url], tls=tls) as alice:
            assert alice.attempts == 1
        client = Client("alice", [url])
        with pytest.raises(ConnectFailed, match=f"^alice: {url}: .*local issuer certificate$"):
            await client.start(30)
        assert client.attempts == 1
        async with web_server(lambda connection, request: None) as plain:
            async with Client("alice", [url, plain], settings=FAST) as alice:
                assert alice.gateway == plain


@pytest.mark.slow
async def test_a_mismatch_of_tls_and_plain_text_is_reported_in_one_line(
    authority: trustme.CA,
) -> None:
    async with (
        web_server(lambda connection, request: None) as plain,
        web_server(lambda connection, request: None, ssl=_tls(authority)) as secure,
    ):
        for url in (plain.replace("ws:", "wss:"), secure.replace("wss:", "ws:")):
            with pytest.raises(ConnectFailed) as failed:
                await Client("alice", [url], settings=FAST).start(0.5)
            assert "\n" not in str(failed.value)


# --- peers that do not do their part -------------------------------------------------------------


@contextlib.asynccontextmanager
async def deaf_gateway() -> AsyncIterator[str]:
    """A gateway that reads nothing after the register, on its first connection; yields its URL."""
    hold = asyncio.Event()

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection, heartbeat_ms=100 if attempt == 1 else 30_000)
        if attempt > 1:
            await hear_nothing(connection)
            return
        connection.transport.pause_reading()
        await hold.wait()

    async with fake_gateway(behave) as url:
        try:
            yield url
        finally:
            hold.set()


async def fill(client: Client) -> list[asyncio.Task[Any]]:
    """Say so much to a gateway that reads nothing that nothing more can be written."""
    sends = []
    for _ in range(100):
        sends.append(asyncio.create_task(client.send("bob", "x" * 200_000)))
        await asyncio.sleep(0)
    assert client._connection is not None
    held = client._connection
    await until("it is full", lambda: held.transport.get_write_buffer_size() > 100_000)
    return sends


async def test_a_gateway_that_does_not_read_is_given_up() -> None:
    """The client does not block, although a heartbeat cannot even be written."""
    diary, is_full = Diary(), False
    settings = ClientSettings(
        backoff_base_s=0.01, pong_within_at_least_s=0.3, ack_timeout_s=60, close_timeout_s=0.1
    )
    async with (
        deaf_gateway() as url,
        Client("alice", [url], settings=settings, emit=diary, should_ping=lambda: is_full) as alice,
    ):
        sends = await fill(alice)
        is_full = True
        await until("it is elsewhere", lambda: diary.count[Kind.REGISTERED] == 2)
        receipts = await asyncio.gather(*sends)
        assert {receipt.status for receipt in receipts} == {Status.UNKNOWN}


async def test_close_and_move_are_bounded_when_the_gateway_does_not_answer() -> None:
    """Whatever the other side does."""
    settings = ClientSettings(ack_timeout_s=60, close_timeout_s=0.1)
    async with deaf_gateway() as url:
        alice = Client("alice", [url], settings=settings, should_ping=lambda: False)
        await alice.start()
        sends = await fill(alice)
        async with asyncio.timeout(5):
            await alice.close()
        assert {(await send).status for send in sends} == {Status.UNKNOWN}


async def test_an_unanswered_close_ends_after_close_timeout_s() -> None:
    """The connection is then cut."""
    hold = asyncio.Event()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line for line in head.splitlines() if line.startswith("Sec-WebSocket-Key"))
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key.split()[1]).encode() + b"\r\n\r\n"
        )
        text = json.dumps({"type": "registered", "gatewayId": "mute"}).encode()
        writer.write(bytes([0x81, len(text)]) + text)
        await hold.wait()
        writer.close()

    server = await asyncio.start_server(behave, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        settings = ClientSettings(close_timeout_s=0.1)
        alice = Client("alice", [f"ws://127.0.0.1:{port}/ws"], settings=settings)
        await alice.start()
        async with asyncio.timeout(5):
            await alice.close()
        hold.set()


@pytest.mark.slow
async def test_after_a_stall_the_client_pings_again_before_it_gives_up() -> None:
    """The pong arrived during the stall and has not been read: a stall is no reason to
    disconnect."""
    diary, asked = Diary(), 0

    async def behave(connection: ServerConnection, attempt: int) -> None:
        nonlocal asked
        await welcome(connection, heartbeat_ms=100)
        async for text in connection:
            asked += json.loads(text)["type"] == "ping"
            if asked > 1:
                await tell(connection, type="pong")

    def emit(event: Any) -> None:
        diary(event)
        if event.kind is Kind.PING and diary.count[Kind.PING] == 1:
            asyncio.get_running_loop().call_later(0.05, time.sleep, 1.6)

    settings = ClientSettings(pong_within_at_least_s=0.5)
    async with (
        fake_gateway(behave) as url,
        Client("alice", [url], settings=settings, emit=emit) as alice,
    ):
        await until("it is answered", lambda: diary.count[Kind.PONG] >= 2)
        assert alice.attempts == 1 and diary.count[Kind.WS_CLOSE] == 0


async def test_after_system_sleep_the_client_pings_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Timers stop while a laptop sleeps. The wall clock shows it, long before the next
    heartbeat."""
    monkeypatch.setattr(connection, "LOOK_UP_S", 0.05)
    diary, slept_s = Diary(), 0.0

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection, heartbeat_ms=3_600_000)
        await hear_nothing(connection)

    def time_of_day() -> float:
        return time.monotonic() + slept_s

    async with (
        fake_gateway(behave) as url,
        Client("alice", [url], time_of_day=time_of_day, emit=diary),
    ):
        await asyncio.sleep(0.2)
        assert diary.count[Kind.PING] == 0
        slept_s = 3600.0
        await until("it asks", lambda: diary.count[Kind.PING] == 1)


# --- a long life ---------------------------------------------------------------------------------


async def test_the_memory_of_sent_messages_is_bounded(
    gateways: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand receipts can still be corrected, whatever their outcome; none is pending."""
    monkeypatch.setattr(receipts, "RECENT", 50)
    async with Client("alice", [gateways[0].url]) as alice:
        for _ in range(3):
            await asyncio.gather(*(alice.send("nobody", "?") for _ in range(50)))
            await alice.send("alice", "!")
            await alice.receive(5)
        assert len(alice._receipts.recent) == 50 and not alice._receipts.pending
        last = await alice.send("nobody", "?")
        assert last.id in alice._receipts.recent and len(alice._receipts.recent) == 50


async def test_a_message_without_a_connection_is_busy(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """`busy`, and not `unknown`: it cannot arrive any more."""
    settings = ClientSettings(ack_timeout_s=0.2, backoff_base_s=60, backoff_cap_s=60)
    async with Client("alice", [gateways[0].url], settings=settings) as alice:
        alice.abort()
        await until("it is lost", lambda: alice.state is State.RECONNECTING)
        receipt = await alice.send("bob", "?")
        assert (receipt.status, receipt.error) == (Status.BUSY, "not connected")


async def test_a_cancelled_send_leaves_nothing_pending(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """At any moment; what has been sent already arrives."""
    async with Client("alice", [gateways[0].url]) as alice:
        for turns in range(12):
            sending = asyncio.create_task(alice.send("nobody", "?"))
            for _ in range(turns):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait([sending])
            assert not alice._receipts.pending
        assert (await alice.send("alice", "!")).status is Status.ROUTED
        assert alice.attempts == 1


async def test_a_move_ends_the_reconnect_pause(gateways: tuple[Gateway, Gateway]) -> None:
    """A client that was told to come back in an hour, and is then moved, moves at once."""

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        await connection.close(Code.RESTART, "later; retryAfterMs=3600000")

    async with fake_gateway(behave) as url, Client("alice", [url]) as alice:
        await until("it waits", lambda: alice.state is State.RECONNECTING)
        await alice.move(gateways[1].url, 5)
        assert alice.gateway_id == "gateway-02"


async def test_a_start_survives_a_connection_lost_right_after_registered(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """Registered and lost in the same moment: the next attempt counts."""
    diary = Diary()

    def emit(event: Any) -> None:
        diary(event)
        if event.kind is Kind.REGISTERED and diary.count[Kind.REGISTERED] == 1:
            asyncio.get_running_loop().call_soon(alice.abort)

    alice = Client("alice", [gateways[0].url], settings=FAST, emit=emit)
    async with alice:
        await until("it is back", lambda: diary.count[Kind.REGISTERED] == 2)
        assert (await alice.send("alice", "!")).status is Status.ROUTED


async def test_a_registration_lost_before_the_waiter_runs_is_not_reported() -> None:
    """Registered and lost before the waiting task got its turn: it goes on waiting."""
    alice = Client("alice", ["ws://localhost/ws"])
    waiting = asyncio.create_task(alice._wait_registered())
    for turns in range(1, 5):
        for _ in range(5):
            await asyncio.sleep(0)
        alice._registered.set()
        for _ in range(turns if turns < 3 else 0):
            await asyncio.sleep(0)
        alice._registered.clear()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    alice._registered.set()
    await asyncio.wait_for(waiting, 5)
    alice._registered.clear()
    waiting = asyncio.create_task(alice._wait_registered())
    alice._finish("over")
    with pytest.raises(ClientClosed, match="over"):
        await waiting


async def test_a_client_closed_with_4010_reconnects(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """4010: its register came too late, after a newer attempt of its own at another gateway."""
    first, second = gateways
    closed: list[str] = []

    def emit(event: Any) -> None:
        if event.kind is Kind.WS_FAIL:
            closed.append(event.reason)

    alice = Client("alice", [first.url], settings=FAST, emit=emit)
    newer = Client("alice", [second.url])
    newer._instance, newer.attempts = alice._instance, 2
    async with newer, alice:
        assert closed and all(why.startswith("closed with 4010") for why in closed)
        assert alice.attempts > 1
        assert (await alice.send("alice", "mine")).status is Status.ROUTED


# --- endings -------------------------------------------------------------------------------------


async def test_cancelling_the_clients_task_ends_pending_receive_and_send(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """Somebody cancels all tasks of the loop: `receive` ends, and so does `send`."""
    async with Client("alice", [gateways[0].url]) as alice:
        receiving = asyncio.create_task(alice.receive())
        await asyncio.sleep(0)
        (keeper,) = (task for task in asyncio.all_tasks() if task.get_name() == "alice")
        keeper.cancel()
        with pytest.raises(Exception, match="cancelled"):
            await asyncio.wait_for(receiving, 5)
        assert (await alice.send("bob", "?")).status is Status.BUSY
        assert alice.state is State.CLOSED


@pytest.mark.parametrize(
    "kind",
    [Kind.WS_OPEN, Kind.REGISTERED, Kind.PING, Kind.PONG, Kind.ARRIVE, Kind.ACK, Kind.WS_CLOSE],
)
async def test_an_exception_in_a_listener_closes_the_client_and_leaves_nothing(
    kind: Kind, gateways: tuple[Gateway, Gateway]
) -> None:
    """At any event. Every waiting call gets the exception, and the connection is closed."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

    def emit(event: Any) -> None:
        if event.kind is kind:
            raise ZeroDivisionError("the listener's own mistake")

    async def live() -> None:
        async with Client(
            "alice", [gateways[0].url], timing=Timing().scaled(300), settings=FAST, emit=emit
        ) as alice:
            if kind is Kind.WS_CLOSE:
                alice.abort()
            receiving = asyncio.create_task(alice.receive())
            sending = asyncio.create_task(alice.send("alice", "?"))
            while kind is Kind.ACK and not receiving.done():
                await receiving
                receiving = asyncio.create_task(alice.receive())
            await sending
            await receiving
            await alice.receive()

    async with asyncio.timeout(20):
        with pytest.raises(Exception, match=r"ZeroDivisionError|own mistake"):
            await live()
    assert [failure["message"] for failure in failures] == ["client alice failed"]
    await until("the gateway is empty", lambda: not len(gateways[0].registry))


async def test_a_cancelled_close_still_closes() -> None:
    """Cancelled during the close handshake: no task and no connection is left."""
    settings = ClientSettings(ack_timeout_s=60, close_timeout_s=60)
    async with deaf_gateway() as url:
        alice = Client("alice", [url], settings=settings, should_ping=lambda: False)
        await alice.start()
        sends = await fill(alice)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await alice.close()
        await until("it is closed", lambda: alice.state is State.CLOSED)
        assert {(await send).status for send in sends} == {Status.UNKNOWN}


async def test_a_client_can_be_started_only_once(gateways: tuple[Gateway, Gateway]) -> None:
    """A second start would be a second session of the same user, which ends the first."""
    async with Client("alice", [gateways[0].url]) as alice:
        with pytest.raises(RuntimeError, match="started already"):
            await alice.start()
        assert (await alice.send("alice", "!")).status is Status.ROUTED


async def test_after_a_reconnect_closed_because_is_the_last_close(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """And not the end of an earlier connection."""
    diary = Diary()
    async with Client("alice", [gateways[0].url], settings=FAST, emit=diary) as alice:
        alice.abort()
        await until("it is back", lambda: diary.count[Kind.REGISTERED] == 2)
    assert alice.closed_because == "closed by us"
