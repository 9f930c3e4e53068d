"""Does each limit hold by itself, when no other one could do its work?

Every test sets the limits beside the one in question so high that they cannot be what ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.cluster import USUAL, Raw, frame, gateway, request
from tests.waiting import until
from wsdemo.gateway.access_control import SPARE_SOCKETS
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.socket import TCP_USER_TIMEOUT, Socket
from wsdemo.presence import RedisPresence
from wsdemo.redis.server import BundledServer
from wsdemo.router import Router
from wsdemo.settings import GatewaySettings, Keyspace, Limits

pytestmark = pytest.mark.both_loops

ENDLESS = {"messages_per_s": 1e6, "message_burst": 10**6, "write_high_water_bytes": 4_096}
NO_OUTBOX_LIMIT = {"outbox_messages": 10**9, "outbox_bytes": 10**12}
PING = b'{"type":"ping"}'


def message(to: str, content: str = "x") -> bytes:
    return frame(json.dumps({"type": "message", "to": to, "content": content}).encode())


def socket_of(running: Gateway, user: str) -> Socket:
    session = running.registry.by_user(user)
    assert session is not None
    return session.socket


def is_read(end: Socket) -> bool:
    """Whether its gateway takes bytes from it."""
    return end._transport.is_reading()


def test_the_default_limits_are_the_documented_ones() -> None:
    """The limits and their defaults are a part of what a gateway promises."""
    limits = Limits()
    assert GatewaySettings(gateway_id="gateway-01").host == "127.0.0.1"
    promised = {
        "handshake_timeout_s": 5,
        "register_deadline_s": 5,
        "max_frame_bytes": 65_536,
        "max_message_bytes": 65_536,
        "max_content_bytes": 16_384,
        "max_user_id_chars": 64,
        "messages_per_s": 1_000,
        "message_burst": 2_000,
        "control_frames_per_s": 10,
        "outbox_messages": 256,
        "outbox_bytes": 1_048_576,
        "write_deadline_s": 10,
        "write_hard_cap_bytes": 1_048_576,
        "tcp_user_timeout_s": 20,
        "max_connections": 10_000,
        "connections_per_ip": 50,
        "unregistered_per_ip": 5,
        "concurrent_registers": 200,
        "register_queue_s": 2,
    }
    assert {name: getattr(limits, name) for name in promised} == promised


# --- who does not read ---------------------------------------------------------------------------


async def _write_to_a_deaf_one(running: Gateway, content: str) -> None:
    """Write to a user that reads nothing, until it is dropped."""
    async with (
        await Raw.register(running, "deaf") as deaf,
        await Raw.register(running, "alice") as alice,
    ):
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        batch = message("deaf", content) * 20

        async def write_on() -> bool:
            if running.registry.by_user("deaf") is None:
                return True
            alice.writer.write(batch)
            await alice.writer.drain()
            return False

        await until("it is dropped", write_on, timeout_s=20.0, every_s=0)


@pytest.mark.parametrize(
    "bound", [{"outbox_messages": 64}, {"outbox_bytes": 262_144}], ids=["messages", "bytes"]
)
async def test_the_outbox_is_bounded_in_frames_and_in_bytes(
    shared_server: BundledServer, keyspace: Keyspace, bound: dict[str, int]
) -> None:
    """Without any deadline."""
    limits: dict[str, Any] = ENDLESS | NO_OUTBOX_LIMIT | bound
    async with gateway(shared_server, keyspace, write_deadline_s=1e4, **limits) as running:
        await _write_to_a_deaf_one(running, "x" * 15_000)
        assert running.counters.outbox_overflows == 1


async def test_a_client_that_reads_nothing_is_disconnected_at_the_write_deadline(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Although its outbox does not overflow."""
    limits: dict[str, Any] = ENDLESS | NO_OUTBOX_LIMIT
    async with gateway(shared_server, keyspace, write_deadline_s=0.2, **limits) as running:
        await _write_to_a_deaf_one(running, "x" * 1_000)
        assert running.counters.slow_consumers == 1
        assert running.counters.outbox_overflows == 0


@pytest.mark.skipif(TCP_USER_TIMEOUT is None, reason="only Linux has it")
async def test_the_kernel_is_given_a_timeout_for_unacknowledged_data(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """The socket option is set; the kernel itself ends the connection after that time."""
    async with (
        gateway(shared_server, keyspace, tcp_user_timeout_s=7.0) as running,
        await Raw.register(running, "alice"),
    ):
        end = socket_of(running, "alice")._transport.get_extra_info("socket")
        assert end.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == 7_000


# --- who waits for Redis -------------------------------------------------------------------------


@pytest.fixture
def slow_mint(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """No register gets on until this is set."""
    gate = asyncio.Event()
    honest = RedisPresence.mint

    async def mint(self: RedisPresence, user: str) -> int:
        await gate.wait()
        return await honest(self, user)

    monkeypatch.setattr(RedisPresence, "mint", mint)
    return gate


async def test_a_client_that_waits_too_long_in_the_register_queue_is_closed_with_1013(
    shared_server: BundledServer, keyspace: Keyspace, slow_mint: asyncio.Event
) -> None:
    """1013 with `retryAfterMs`, while the one before it still registers, and succeeds."""
    limits: dict[str, Any] = {"concurrent_registers": 1, "register_queue_s": 0.05}
    async with (
        gateway(shared_server, keyspace, **limits) as running,
        await Raw.open(running) as first,
        await Raw.open(running) as second,
    ):
        first.frame(b'{"type":"register","userId":"alice"}')
        await until("she has her turn", running._session_services.backlog.admission.locked)
        second.frame(b'{"type":"register","userId":"bob"}')
        answer = await second.answer()
        assert (answer["code"], answer["retryAfterMs"] > 0) == ("unavailable", True)
        bye = {"type": "bye", "code": 1013, "retryAfterMs": answer["retryAfterMs"]}
        assert await second.answer() == bye
        opcode, payload = await second.hear()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 1013)
        assert b"retryAfterMs=" in payload
        assert running.counters.registers_shed == 1
        slow_mint.set()
        assert (await first.answer())["type"] == "registered"


async def test_reading_is_paused_while_a_client_registers(
    shared_server: BundledServer, keyspace: Keyspace, slow_mint: asyncio.Event
) -> None:
    """And nothing is lost: each frame is answered after the register."""
    async with (
        gateway(shared_server, keyspace, held_frames=8) as running,
        await Raw.open(running) as raw,
    ):
        (end,) = running._sockets()
        raw.frame(b'{"type":"register","userId":"alice"}')
        raw.writer.write(frame(PING) * 7)
        await until("they have arrived", lambda: len(end._handler._held or ()) == 7)  # type: ignore[union-attr]
        assert is_read(end)
        raw.frame(PING)
        await until("it is read no further", lambda: not is_read(end))
        raw.frame(PING)
        slow_mint.set()
        assert (await raw.answer())["type"] == "registered"
        assert [await raw.answer() for _ in range(9)] == [{"type": "pong"}] * 9


async def test_reading_is_paused_while_too_many_messages_wait_for_redis(
    shared_server: BundledServer, keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until half of them have been answered."""
    answers: list[Callable[[Any], None]] = []
    monkeypatch.setattr(Router, "route", lambda _self, _to, _head, done: answers.append(done))
    async with (
        gateway(shared_server, keyspace, in_flight=8) as running,
        await Raw.register(running, "alice") as alice,
    ):
        end = socket_of(running, "alice")
        alice.writer.write(message("bob") * 7)
        await until("they are on their way", lambda: len(answers) == 7)
        assert is_read(end)
        alice.writer.write(message("bob"))
        await until("she is read no further", lambda: not is_read(end))
        for answered in answers[:3]:
            answered([b"offline"])
        assert not is_read(end)
        for answered in answers[3:]:
            answered([b"offline"])
        assert is_read(end)


# --- who comes in --------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "general"])
async def test_behind_a_trusted_proxy_each_client_has_its_own_limit(
    shared_server: BundledServer, keyspace: Keyspace, fast: bool
) -> None:
    """A header that the client wrote itself does not give it another limit."""
    settings = {"trusted_proxies": ("127.0.0.1",)}
    async with (
        gateway(
            shared_server, keyspace, fast_frames=fast, settings=settings, unregistered_per_ip=1
        ) as running,
        contextlib.AsyncExitStack() as stack,
    ):

        async def status(forwarded: str) -> int:
            raw = await stack.enter_async_context(await Raw.connect(running))
            raw.writer.write(request(USUAL | {"X-Forwarded-For": forwarded}))
            return int((await raw.head()).split()[1])

        assert await status("198.51.100.7") == 101
        assert await status("198.51.100.7") == 429
        assert await status("203.0.113.9, 198.51.100.7") == 429
        assert await status("198.51.100.8") == 101


NOT_READ = ("", "unknown", "_hidden", "198.51.100.7:http", "nonsense", "198.51.100.7, x")


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "general"])
@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
async def test_no_spelling_of_an_address_evades_the_limit(
    shared_server: BundledServer, keyspace: Keyspace, fast: bool, header: str
) -> None:
    """The port does not matter; an address that is missing or cannot be read counts as the
    proxy. Only the configured header is used, on one line or several."""
    settings = {"trusted_proxies": ("127.0.0.1",), "forwarded_header": header}
    elsewhere = "x-real-ip" if header != "x-real-ip" else "x-forwarded-for"
    async with (
        gateway(
            *(shared_server, keyspace),
            fast_frames=fast,
            settings=settings,
            unregistered_per_ip=3,
            register_deadline_s=60,
        ) as running,
        contextlib.AsyncExitStack() as stack,
    ):

        async def status(*said: str) -> int:
            raw = await stack.enter_async_context(await Raw.connect(running))
            lines = [f"{header}: {line}" for line in said]
            lines.append(f"{elsewhere}: 192.0.2.{len(running._sockets())}")
            raw.writer.write(request()[:-2] + "\r\n".join([*lines, "", ""]).encode())
            return int((await raw.head()).split()[1])

        for name in ("198.51.100.7", "[2001:db8::7]"):
            for port in range(3):
                hop = f'for="{name}:{port}"' if header == "forwarded" else f"{name}:5000{port}"
                assert await status(hop) == 101
            assert await status(hop.replace(":2", ":3")) == 429
            if header != "x-real-ip":
                assert await status("192.0.2.1", hop) == 429
        assert [await status(said) for said in NOT_READ] == [101] * 3 + [429] * 3
        assert await status() == 429
        counters = running.counters
        assert (counters.unrecognised_absent, counters.unrecognised_hidden) in {(2, 2), (2, 0)}


@pytest.mark.slow
@pytest.mark.both_loops
async def test_clients_of_a_proxy_on_a_unix_socket_have_their_own_limits(
    shared_server: BundledServer, keyspace: Keyspace, tmp_path: Path
) -> None:
    """The peer has no address; a header that cannot be read counts as the socket."""
    settings = {"trusted_proxies": ("unix",)}
    async with (
        gateway(
            *(shared_server, keyspace),
            settings=settings,
            unregistered_per_ip=1,
            register_deadline_s=60,
        ) as running,
        contextlib.AsyncExitStack() as stack,
    ):
        services = running._socket_services
        assert services is not None
        path = str(tmp_path / "gateway.sock")
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: Socket(services), path)

        async def status(forwarded: str) -> int:
            raw = await stack.enter_async_context(Raw(*await asyncio.open_unix_connection(path)))
            raw.writer.write(request(USUAL | {"X-Forwarded-For": forwarded}))
            return int((await raw.head()).split()[1])

        try:
            assert await status("198.51.100.7:1") == 101
            assert await status("198.51.100.7:2, unix:") == 429
            assert await status("unknown") == 101
            assert await status("nonsense") == 429
            present = running._access.present
            await until("they are gone", lambda: present == {"198.51.100.7": 1, "unix": 1})
        finally:
            server.close()


@pytest.fixture
async def crowd() -> AsyncIterator[list[Raw]]:
    """Connections, closed at the end."""
    connections: list[Raw] = []
    yield connections
    for raw in connections:
        await raw.leave()


@pytest.mark.slow
async def test_connections_before_the_handshake_are_bounded(
    shared_server: BundledServer, keyspace: Keyspace, crowd: list[Raw]
) -> None:
    """Also from addresses that are exempt: far beyond the limit, the next one is closed."""
    most = 2 + SPARE_SOCKETS
    async with gateway(shared_server, keyspace, max_connections=1) as running:
        for _ in range(most):
            crowd.append(await Raw.connect(running))
        await until("all are in", lambda: running.stats()["sockets"] == most)
        crowd.append(await Raw.connect(running))
        with contextlib.suppress(ConnectionResetError):
            assert await crowd[-1].rest(2.0) == b""
        assert running.counters.connections_refused == 1


async def test_pages_name_no_user(shared_server: BundledServer, keyspace: Keyspace) -> None:
    """/stats and /metrics may be read by anybody."""
    async with (
        gateway(shared_server, keyspace) as running,
        await Raw.register(running, "somebody.special") as raw,
    ):
        raw.writer.write(message("nobody.special"))
        assert (await raw.answer())["error"] == "User not found"
        for page in ("/health", "/ready", "/stats", "/metrics"):
            async with await Raw.connect(running) as reader:
                reader.writer.write(f"GET {page} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                said = await reader.rest()
            assert b" 200 " in said.splitlines()[0] and b"special" not in said, page
