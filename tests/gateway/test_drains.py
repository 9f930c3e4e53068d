"""Drain: what happens to clients, messages and entries while a gateway drains?"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from tests.gateway.cluster import USUAL, Gates, Raw, frame, gateway, request
from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.router import DuplicateGateway
from wsdemo.settings import Keyspace

pytestmark = pytest.mark.both_loops

PATIENT: dict[str, Any] = {"drain_s": 50.0, "close_timeout_s": 40.0}
"""Longer than any test: what ends sooner does so for its own reason."""


async def test_a_drain_ends_at_once_when_the_last_client_has_left(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """It does not wait for the time that clients would have had."""
    async with gateway(shared_server, keyspace, **PATIENT) as running:
        async with await Raw.open(running):
            pass  # An empty moment before the drain must not shorten it.
        await until("nobody is there", lambda: not running._sockets())
        users = [await Raw.register(running, name) for name in ("alice", "bob")]
        users.append(await Raw.open(running))
        stopping = asyncio.create_task(running.stop())
        for left, raw in zip((3, 2, 1), users, strict=True):
            assert await raw.closed() == 1012
            await until("who left is gone", lambda: len(running._sockets()) == left)
            assert not stopping.done(), "there is somebody left"
            await raw.leave()
        await asyncio.wait_for(stopping, 10)


@pytest.mark.parametrize("how", ["reset", "half-close", "silence"])
async def test_a_connection_lost_during_a_drain_leaves_nothing(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any, gates: Gates, how: str
) -> None:
    """A user, one whose register is under way, one that has not registered, one before its
    handshake: their entries are removed, and nothing is left."""
    limits = PATIENT if how != "silence" else PATIENT | {"close_timeout_s": 0.2}
    settings = {"limit_loopback": True}
    async with gateway(shared_server, keyspace, settings=settings, **limits) as running:
        gates.where = "registered"
        crowd = [
            await Raw.register(running, "alice"),
            await Raw.open(running),
            await Raw.open(running),
            await Raw.connect(running),
        ]
        crowd[1].frame(b'{"type":"register","userId":"mallory"}')
        await gates.reached()
        await until("all are in", lambda: len(running._sockets()) == 4)
        ends = list(running._sockets())
        stopping = asyncio.create_task(running.stop())
        for raw in crowd[:3]:
            assert await raw.closed() == 1012
        for raw in crowd:
            if how == "reset":
                raw.reset()
            elif how == "half-close":
                raw.half_close()
        await until("all are gone", lambda: not running._sockets())
        gates.open.set()
        await asyncio.wait_for(stopping, 10)
        for raw in crowd:
            await raw.leave()
        for user in ("alice", "mallory"):
            assert not await redis_db.exists(keyspace.presence(user)), user
        assert (
            not running._tasks and not running._access.present and not running._access.unregistered
        )
        assert all(end._timer is None and end.outbox._deadline is None for end in ends)
        admission = running._session_services.backlog.admission
        assert admission._value == running.settings.limits.concurrent_registers
        assert not len(running.registry) and not running.registry._by_conn


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> Gates:
    return Gates(monkeypatch)


async def test_a_register_under_way_at_the_end_of_a_drain_is_released(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any, gates: Gates
) -> None:
    """Redis has executed it, its reply does not come, and the gateway does not wait for ever."""
    limits: dict[str, Any] = {"drain_s": 0.1, "close_timeout_s": 0.05}
    gates.where = "registered"
    async with gateway(shared_server, keyspace, **limits) as running:
        async with await Raw.open(running) as mallory:
            mallory.frame(b'{"type":"register","userId":"mallory"}')
            await gates.reached()
            assert await redis_db.exists(keyspace.presence("mallory"))
            await asyncio.wait_for(running.stop(), 10)
            assert not await redis_db.exists(keyspace.presence("mallory"))


async def test_a_message_for_a_draining_gateway_is_delivered_or_unreachable(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """A user who has not been closed yet receives it; for one who has left, the sender gets
    `unreachable`."""
    limits = PATIENT | {"drain_batch": 1}
    async with (
        gateway(shared_server, keyspace, **limits) as running,
        gateway(shared_server, keyspace, "gateway-02") as other,
        await Raw.register(other, "carol") as carol,
        contextlib.AsyncExitStack() as stack,
    ):
        crowd = {
            name: await stack.enter_async_context(await Raw.register(running, name))
            for name in ("alice", "bob", "dave", "eve")
        }

        async def say(to: str) -> dict[str, Any]:
            text = {"type": "message", "to": to, "content": f"for {to}", "id": to}
            carol.frame(json.dumps(text).encode())
            return await carol.answer()

        stopping = asyncio.create_task(running.stop())
        assert await crowd["alice"].closed() == 1012
        # Published for alice just before her entry went.
        entry = {"gwId": "gateway-01", "connId": "gone", "ts": "1", "epoch": "1"}
        await redis_db.hset(keyspace.presence("alice"), mapping=entry)
        assert await say("alice") == {"type": "ack", "id": "alice", "status": "routed"}
        assert await carol.answer() == {"type": "ack", "id": "alice", "status": "unreachable"}
        for name in ("bob", "dave", "eve"):
            await _reaches_or_comes_back(crowd[name], carol, name, await say(name))
        for raw in crowd.values():
            await raw.leave()
        await asyncio.wait_for(stopping, 10)


async def _reaches_or_comes_back(raw: Raw, sender: Raw, name: str, told: dict[str, Any]) -> None:
    """`routed` means that it is received before the close frame, unless `unreachable` follows."""
    assert told["status"] in {"routed", "offline"}, told
    opcode, said = await raw.hear()
    heard = opcode == 1 and json.loads(said)["content"] == f"for {name}"
    if told["status"] == "routed" and not heard:
        assert await sender.answer() == {"type": "ack", "id": name, "status": "unreachable"}


# --- what is counted by address ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["goodbye", "reset", "half-close"])
async def test_a_client_that_registers_and_leaves_is_subtracted_once_from_the_unregistered(
    shared_server: BundledServer, keyspace: Keyspace, how: str
) -> None:
    """With others of the same address: one has registered, one has not yet."""
    settings = {"trusted_proxies": ("127.0.0.1",)}
    async with gateway(shared_server, keyspace, settings=settings) as running:
        access, address = running._access, "198.51.100.7"

        async def come() -> Raw:
            raw = await Raw.connect(running)
            raw.writer.write(request(USUAL | {"X-Forwarded-For": address}))
            assert b" 101 " in await raw.head()
            return raw

        async def be(raw: Raw, user: str) -> None:
            raw.writer.write(frame(json.dumps({"type": "register", "userId": user}).encode()))
            assert (await raw.answer())["type"] == "registered"

        bob, alice, silent = await come(), await come(), await come()
        assert (access.present[address], access.unregistered[address]) == (3, 3)
        await be(bob, "bob")
        await be(alice, "alice")
        assert (access.present[address], access.unregistered[address]) == (3, 1)
        await be(alice, "alice")
        assert access.unregistered[address] == 1, "once, however often she says it"
        if how == "reset":
            alice.reset()
        elif how == "half-close":
            alice.half_close()
        else:
            alice.frame((1000).to_bytes(2, "big"), opcode=8)
        await until(
            "she is gone",
            lambda: running._socket_services and len(running._socket_services.sockets) == 2,
        )
        assert (access.present[address], access.unregistered[address]) == (2, 1)
        silent.reset()
        await until("so is the silent one", lambda: len(running._sockets()) == 1)
        assert (access.present[address], access.unregistered[address]) == (1, 0)
        for raw in (bob, alice, silent):
            await raw.leave()
        await until("nobody is there", lambda: not access.present and not access.unregistered)


async def test_a_second_stop_waits_for_the_end_of_the_first(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """When it returns, nothing is left."""
    async with gateway(shared_server, keyspace, **PATIENT) as running:
        async with await Raw.register(running, "alice") as alice:
            first = asyncio.create_task(running.stop())
            assert await alice.closed() == 1012
            second = asyncio.create_task(running.stop())
            await asyncio.sleep(0)
            assert not first.done() and not second.done()
        await asyncio.wait_for(second, 10)
        assert not running._tasks and not running._link.open


async def test_a_failed_start_leaves_nothing(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Neither the subscription nor the link, which are created before the failure is known."""
    async with gateway(shared_server, keyspace) as running:
        second = Gateway(running.settings)
        with pytest.raises(DuplicateGateway):
            await second.start()
        assert not second._link.open and not second._tasks
        assert running.ready
