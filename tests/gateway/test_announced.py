"""PROXY protocol: does a connection count as the client's that the proxy announces? Plain and over
TLS, on each loop. The proxy is 127.0.0.1; a client from 127.0.0.2 is not trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.gateway.cluster import USUAL, Raw, frame, gateway, request
from tests.gateway.test_proxy_header import BAD, CLIENT, GOOD, block
from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

pytestmark = pytest.mark.both_loops

V1, V2 = GOOD["v1, IPv4"][0], GOOD["v2, IPv4"][0]
LOCAL, UNKNOWN = GOOD["v2, local"][0], GOOD["v1, unknown"][0]
HELLO = request()
STRANGER = "127.0.0.2"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(
    request: pytest.FixtureRequest, authority: trustme.CA, tmp_path: Path
) -> tuple[dict[str, Any], ssl.SSLContext | None]:
    """The TLS settings of a gateway, and the TLS context of its client."""
    if not request.param:
        return {}, None
    path = tmp_path / "gateway.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return {"certfile": str(path)}, context


Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start(
    shared_server: BundledServer, keyspace: Keyspace, tls: tuple[dict[str, Any], Any]
) -> AsyncIterator[Start]:
    """Start a gateway that expects a PROXY header on each connection from 127.0.0.1."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(**limits: Any) -> Gateway:
            settings = {"proxy_protocol": True, "trusted_proxies": ("127.0.0.1",)} | tls[0]
            return await stack.enter_async_context(
                gateway(
                    shared_server,
                    keyspace,
                    settings=settings,
                    **{"register_deadline_s": 60, **limits},
                )
            )

        yield begin


async def connect(running: Gateway, peer: str = "127.0.0.1") -> Raw:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, local_addr=(peer, 0))
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Raw(reader, writer)


Open = Callable[..., Awaitable[Raw]]


@pytest.fixture
async def arrive(tls: tuple[Any, ssl.SSLContext | None]) -> AsyncIterator[Open]:
    """Connect, say a header in these pieces, then begin with TLS if that is spoken."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(running: Gateway, *header: bytes, peer: str = "127.0.0.1") -> Raw:
            raw = await stack.enter_async_context(await connect(running, peer))
            for part in header:
                raw.writer.write(part)
                await raw.writer.drain()
                await asyncio.sleep(0)
            if tls[1] is not None:
                await raw.writer.start_tls(tls[1], server_hostname="127.0.0.1")
            return raw

        yield begin


async def status(raw: Raw, **headers: str) -> int:
    raw.writer.write(request(USUAL | headers))
    return int((await raw.head()).split()[1])


def counted(running: Gateway) -> dict[str, int]:
    return dict(running._access.present)


def waiting(running: Gateway) -> int:
    assert running._acceptor is not None
    return len(running._acceptor.waiting)


@pytest.mark.slow
@pytest.mark.parametrize("header", [V1, V2, GOOD["v2 with TLVs"][0]], ids=["v1", "v2", "TLVs"])
async def test_the_limits_apply_to_the_client_that_the_header_names(
    start: Start, arrive: Open, header: bytes
) -> None:
    """And the connection behind the header is a session like any other."""
    running = await start(unregistered_per_ip=1)
    raw = await arrive(running, header)
    assert await status(raw) == 101
    assert counted(running) == {CLIENT: 1}
    assert await status(await arrive(running, header)) == 429
    assert await status(await arrive(running, GOOD["v2, IPv6"][0])) == 101
    raw.frame(b'{"type":"register","userId":"alice"}')
    assert (await raw.answer())["type"] == "registered"
    raw.frame(b'{"type":"message","to":"alice","content":"me"}')
    assert (await raw.answer())["content"] == "me"
    assert running.counters.proxied_accepted == 3
    await raw.leave()
    await until("she is gone", lambda: counted(running).get(CLIENT, 0) == 0)


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_a_header_may_come_byte_by_byte(start: Start, arrive: Open, header: bytes) -> None:
    """Or cut at any place, and nothing of what follows is lost."""
    running = await start(unregistered_per_ip=100)
    raw = await arrive(running, *(bytes([byte]) for byte in header))
    assert await status(raw) == 101
    for cut in range(1, len(header), 5):
        assert await status(await arrive(running, header[:cut], header[cut:])) == 101
    await until(
        "all are in", lambda: counted(running) == {CLIENT: 1 + len(range(1, len(header), 5))}
    )


async def test_header_and_handshake_may_come_in_one_packet(
    start: Start, tls: tuple[Any, Any]
) -> None:
    """Header, handshake and register; or header and the first bytes of TLS."""
    running = await start()
    register = frame(b'{"type":"register","userId":"alice"}')
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    async with await connect(running) as raw:
        if tls[1] is None:
            raw.writer.write(V2 + HELLO + register)
            await raw.head()
            assert (await raw.answer())["type"] == "registered"
            return
        end = tls[1].wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        said, heard, has_spoken = V2, b"", False
        while b"registered" not in heard:
            with contextlib.suppress(ssl.SSLWantReadError):
                if not has_spoken:
                    end.do_handshake()
                    # The end of its handshake, and all that it has to say, in one packet.
                    end.write(HELLO + register)
                    has_spoken = True
                while True:  # A record at a time.
                    heard += end.read(65_536)
            raw.writer.write(said + outgoing.read())
            said = b""
            if b"registered" not in heard:
                data = await asyncio.wait_for(raw.reader.read(65_536), 10)
                assert data, "it has hung up"
                incoming.write(data)


async def test_a_header_without_a_client_address_counts_as_the_proxy(
    start: Start, arrive: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """The proxy may open pages. An HTTP header that came with it was written by the unknown
    client."""
    running = await start(unregistered_per_ip=1)
    for header in (LOCAL, UNKNOWN):
        raw = await arrive(running, header)
        raw.writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in (await raw.head()).splitlines()[0]
        await raw.leave()
        await until("it is gone", lambda: not counted(running))
    assert running.counters.proxied_local == 1
    assert not [line for line in caplog.messages if "PROXY" in line]
    first = await arrive(running, UNKNOWN)
    assert await status(first, **{"X-Forwarded-For": "198.51.100.7"}) == 101
    assert counted(running) == {"127.0.0.1": 1}
    second = await arrive(running, GOOD["v2, Unix"][0])
    assert await status(second, **{"X-Forwarded-For": "198.51.100.8"}) == 429
    assert running.counters.unrecognised_hidden == 2
    assert sum("hides the address" in line for line in caplog.messages) == 1


async def test_the_forwarded_header_of_an_announced_trusted_proxy_is_used(
    start: Start, arrive: Open
) -> None:
    """The announced address is that of a trusted proxy: then X-Forwarded-For names the client."""
    running = await start()
    header = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\n"
    raw = await arrive(running, header)
    assert await status(raw, **{"X-Forwarded-For": "198.51.100.7:80"}) == 101
    assert counted(running) == {"198.51.100.7": 1}
    raw = await arrive(running, V2)
    assert await status(raw, **{"X-Forwarded-For": "198.51.100.8"}) == 101
    assert counted(running) == {"198.51.100.7": 1, CLIENT: 1}, "a client is not believed"


@pytest.mark.parametrize(
    "name",
    ["HTTP", "TLS", "v1 with a name", "v1 without an end", "v2 with half an IPv4", "v2 too long"],
)
async def test_a_proxy_without_a_valid_header_is_disconnected(
    start: Start, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """It gets no answer at all. Each case is counted; the first is logged."""
    running = await start()
    for _ in range(2):
        async with await connect(running) as raw:
            raw.writer.write(BAD[name] + bytes(200))
            with contextlib.suppress(ConnectionError):
                assert await raw.rest() == b""
    assert running.counters.proxied_malformed == 2
    assert running.counters.proxied_accepted == 0
    assert sum("PROXY header" in line for line in caplog.messages) == 1
    assert not waiting(running)


async def test_a_proxy_header_from_an_untrusted_address_is_disconnected(
    start: Start, arrive: Open, caplog: pytest.LogCaptureFixture, tls: tuple[Any, Any]
) -> None:
    """Such a client, for example a monitor, is served without a header."""
    running = await start()
    assert await status(await arrive(running, peer=STRANGER)) == 101
    for header in (V1, V2, V1):
        async with await connect(running, STRANGER) as raw:
            raw.writer.write(header + HELLO)
            with contextlib.suppress(ConnectionError):
                assert b"HTTP" not in await raw.rest()
    assert not counted(running)
    if tls[1] is None:  # TLS only sees a malformed handshake.
        assert running.counters.proxied_untrusted == 3
        (line,) = [line for line in caplog.messages if "PROXY" in line]
        assert STRANGER in line and "--trusted-proxy 127.0.0.2" in line


@pytest.mark.parametrize("said", [b"", V1[:20], V2[:16], V2], ids=["nothing", "v1", "v2", "whole"])
async def test_the_proxy_header_and_the_handshake_each_have_a_deadline(
    start: Start, said: bytes
) -> None:
    """The header has the time of a handshake, and what comes behind it has it again."""
    running = await start(handshake_timeout_s=0.1)
    async with await connect(running) as raw:
        raw.writer.write(said)
        with contextlib.suppress(ConnectionError):
            assert await raw.rest() == b""
    await until("nobody waits", lambda: not waiting(running) and not running.stats()["sockets"])
    await until("no task", lambda: not [t for t in running._tasks if "encrypt" in t.get_name()])


@pytest.mark.parametrize("said", [b"", V1[:20], V2, V2 + b"\x16\x03\x01"])
@pytest.mark.parametrize("how", ["reset", "end"])
async def test_a_client_that_leaves_at_any_moment_leaves_nothing_behind(
    start: Start, said: bytes, how: str
) -> None:
    """By a reset or politely, before, within and behind the header."""
    running = await start()
    for _ in range(5):
        raw = await connect(running)
        if said:
            raw.writer.write(said)
            await raw.writer.drain()
        if how == "reset":
            end = raw.writer.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await raw.leave()
    await until("nobody waits", lambda: not waiting(running) and not running.stats()["sockets"])
    await until("no task", lambda: not [t for t in running._tasks if "encrypt" in t.get_name()])
    assert not counted(running) and not running._access.unregistered


@pytest.mark.slow
async def test_a_gateway_stops_although_a_proxy_header_is_missing(
    start: Start, tls: tuple[Any, Any]
) -> None:
    """The connection is closed, before its header and before its TLS."""
    running = await start()
    first, second = await connect(running), await connect(running)
    second.writer.write(V2)
    expected = 2 if tls[1] is not None else 1
    await until("both are in", lambda: running.counters.proxied_accepted == 1)
    await until("they wait", lambda: waiting(running) == expected)
    async with asyncio.timeout(5):
        await running.stop()
    assert not waiting(running)
    for raw in (first, second):
        with contextlib.suppress(ConnectionError):
            await raw.rest()
        await raw.leave()


async def test_connections_without_a_header_are_bounded(start: Start) -> None:
    """Beyond twice the maximum of connections, the next one is closed."""
    running = await start(max_connections=1)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(18):
            await stack.enter_async_context(await connect(running))
        await until("all wait", lambda: waiting(running) == 18)
        raw = await stack.enter_async_context(await connect(running))
        with contextlib.suppress(ConnectionError):
            assert await raw.rest() == b""
        assert running.counters.connections_refused == 1


@pytest.mark.slow
async def test_the_deadline_of_a_header_ends_when_the_header_is_read(
    start: Start, arrive: Open
) -> None:
    """A connection lives on after the time in which its header had to come."""
    running = await start(handshake_timeout_s=2)
    raw = await arrive(running, V1)
    assert await status(raw) == 101
    async with asyncio.timeout(20), await connect(running) as silent:
        # It came later and says nothing: when its time is over, that of the first one is over too.
        with contextlib.suppress(ConnectionError):
            await silent.rest()
    malformed = running.counters.proxied_malformed
    raw.frame(b'{"type":"register","userId":"alice"}')
    assert (await raw.answer())["type"] == "registered"
    assert running.counters.proxied_malformed == malformed <= 1


async def test_tls_does_not_begin_on_a_lost_connection(
    start: Start, tls: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a task would wait for a handshake that never ends."""
    if tls[1] is None:
        pytest.skip("without TLS, nothing is started")
    running, begun = await start(handshake_timeout_s=60), list[Any]()
    acceptor = running._acceptor
    assert acceptor is not None
    monkeypatch.setattr(acceptor, "spawn", begun.append)
    async with await connect(running) as raw:
        raw.writer.write(V1)
        await until("its header is read", lambda: begun)
        acceptor.close()
        await until("it is lost", lambda: not acceptor.waiting)
        async with asyncio.timeout(10):
            await begun[0]


async def test_unexpected_headers_are_counted_and_logged_once(
    shared_server: BundledServer, keyspace: Keyspace, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the flag: what has arrived, from whom, and what to do about it."""
    settings = {"trusted_proxies": ("127.0.0.1",)}
    async with gateway(shared_server, keyspace, settings=settings) as running:
        for header in (V1, V2, block(family=2)):
            async with await connect(running) as raw:
                raw.writer.write(header + HELLO)
                with contextlib.suppress(ConnectionError):
                    assert await raw.rest() == b""
        assert running.counters.proxied_unexpected == 3
        (line,) = [line for line in caplog.messages if "PROXY" in line]
        assert "127.0.0.1" in line and "--proxy-protocol" in line


HAPROXY = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend users
    bind 127.0.0.1:{port}
    default_backend gateways
backend gateways
    option httpchk GET /health
    server one 127.0.0.1:{gateway} source 127.0.0.1 {send} check inter 100ms
"""


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed")
@pytest.mark.parametrize("send", ["send-proxy check-send-proxy", "send-proxy-v2 check-send-proxy"])
async def test_haproxy_announces_its_clients(
    shared_server: BundledServer, keyspace: Keyspace, tmp_path: Path, send: str
) -> None:
    """The real one, in either version, with its health checks."""
    settings = {
        "proxy_protocol": True,
        "trusted_proxies": ("127.0.0.1",),
        "limit_loopback": True,
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with gateway(shared_server, keyspace, settings=settings) as running:
        config = tmp_path / "haproxy.cfg"
        config.write_text(HAPROXY.format(port=port, gateway=running.port, send=send))
        process = await asyncio.create_subprocess_exec(
            *("haproxy", "-db", "-f", str(config)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:

            async def served() -> Raw | None:
                raw = None
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", port, local_addr=("127.0.0.7", 0)
                    )
                    raw = Raw(reader, writer)
                    raw.writer.write(HELLO)
                    await raw.head()
                    return raw
                if raw is not None:
                    await raw.leave()
                return None

            raw = await until("HAProxy serves", served)
            assert counted(running).get("127.0.0.7") == 1
            raw.frame(b'{"type":"register","userId":"alice"}')
            assert (await raw.answer())["type"] == "registered"
            checks = running.counters.proxied_local + running.counters.proxied_accepted
            await until(
                "it looks after us",
                lambda: running.counters.proxied_local + running.counters.proxied_accepted > checks,
            )
            assert running.counters.proxied_local or "v2" not in send
            assert running.counters.proxied_malformed == 0
            assert running.counters.unrecognised_hidden == 0, "a health check is no user"
            await raw.leave()
        finally:
            process.terminate()
            await process.wait()
