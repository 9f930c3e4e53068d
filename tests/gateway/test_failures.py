"""Unexpected exceptions: when code of one connection raises, which connections suffer?

Each test breaks one of several connections, then does what concerns all of them in one go. The
broken one is hung up on, counted and logged once; the others have what is theirs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.gateway.cluster import Raw, frame, gateway
from tests.waiting import until
from wsdemo.gateway.outbox import Outbox
from wsdemo.gateway.registry import each
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.session import Session
from wsdemo.gateway.socket import Socket
from wsdemo.presence import Refresh, Renewal
from wsdemo.presence.store import _refreshed
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Timing

pytestmark = pytest.mark.both_loops

NAMES = ["alice", "mallory", "bob"]
"""In the order in which they register, so that mallory stands between the others."""
PING = frame(b'{"type":"ping"}')
PONG = {"type": "pong"}


class Broken:
    """A transport of which one method raises, as uvloop's do when their handle is closed."""

    def __init__(self, transport: Any, method: str) -> None:
        self._transport = transport
        self._method = method

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            return self._raise
        return getattr(self._transport, name)

    def _raise(self, *args: Any) -> None:
        raise RuntimeError("unable to perform operation; the handler is closed")


class Room:
    """A gateway with three users."""

    def __init__(self, running: Gateway, users: dict[str, Raw]) -> None:
        self.running = running
        self.users = users
        session = running.registry.by_user("mallory")
        assert session is not None
        self.broken = session

    def break_writes(self) -> None:
        end: Any = self.broken.socket
        end._transport = end.outbox._transport = Broken(end._transport, "write")

    async def others_hear(self, expected: dict[str, Any]) -> None:
        for name in ("alice", "bob"):
            while (answer := await self.users[name].answer())["type"] == "ack":
                pass  # What became of a message to mallory may be told twice.
            assert expected.items() <= answer.items(), answer

    async def others_go_on(self) -> None:
        for name in ("alice", "bob"):
            self.users[name].writer.write(PING)
        await self.others_hear(PONG)


@pytest.fixture
async def room(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Room]:
    async with gateway(shared_server, keyspace) as running:
        users = {name: await Raw.register(running, name) for name in NAMES}
        yield Room(running, users)
        for raw in users.values():
            await raw.leave()


async def is_hung_up_on(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    """mallory's connection is closed, counted once and logged once."""
    assert await room.users["mallory"].closed() == 1006
    await until("it is gone", lambda: room.running.registry.by_user("mallory") is None)
    assert room.running.counters.connection_failures == 1
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1 and errors[0].exc_info, errors


def broadcast(room: Room, redis: Any, keyspace: Keyspace) -> Awaitable[Any]:
    envelope = json.dumps({"from": "x", "to": "", "content": "hello", "type": "broadcast"})
    result: Awaitable[Any] = redis.publish(keyspace.broadcast_channel, envelope)
    return result


async def test_a_failed_write_does_not_stop_the_other_writes_of_its_turn(
    room: Room, redis_db: Any, keyspace: Keyspace, caplog: pytest.LogCaptureFixture
) -> None:
    """A message for everybody is written at the end of a turn, to one after the other."""
    room.break_writes()
    await broadcast(room, redis_db, keyspace)
    await room.others_hear({"content": "hello"})
    await is_hung_up_on(room, caplog)
    await broadcast(room, redis_db, keyspace)
    await room.others_hear({"content": "hello"})
    assert room.running.counters.connection_failures == 1, "once, and not for each frame"


async def test_a_failed_flush_does_not_stop_the_flushes_after_it(
    room: Room,
    redis_db: Any,
    keyspace: Keyspace,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same when the outbox raises instead of the transport."""
    flush, broken = Outbox.flush, room.broken.socket.outbox

    def fails(outbox: Outbox) -> None:
        if outbox is broken:
            raise ZeroDivisionError("a bug")
        flush(outbox)

    monkeypatch.setattr(Outbox, "flush", fails)
    await broadcast(room, redis_db, keyspace)
    await room.others_hear({"content": "hello"})
    await is_hung_up_on(room, caplog)


async def test_a_failed_answer_ends_its_own_connection_only(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """A pong is written at once, not at the end of a loop turn: it fails where its ping is read."""
    room.break_writes()
    room.users["mallory"].frame(b"hello", opcode=9)
    await is_hung_up_on(room, caplog)
    await room.others_go_on()


async def test_a_broadcast_reaches_all_but_the_client_that_fails(
    room: Room,
    redis_db: Any,
    keyspace: Keyspace,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same when the session raises, before anything is written."""
    deliver = Session.deliver

    def fails(session: Session, payload: bytes) -> None:
        if session is room.broken:
            raise ZeroDivisionError("a bug")
        deliver(session, payload)

    monkeypatch.setattr(Session, "deliver", fails)
    await broadcast(room, redis_db, keyspace)
    await room.others_hear({"content": "hello"})
    await is_hung_up_on(room, caplog)


@pytest.mark.parametrize("count", [1, 70], ids=["one", "more than are kept for the end of a turn"])
async def test_an_error_of_the_recipient_does_not_end_the_sender(
    room: Room, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """The message is lost with its recipient; the sender has its acks, and goes on."""
    room.break_writes()
    text = b'{"type":"message","to":"mallory","content":"x","id":"1"}'
    room.users["alice"].writer.write(frame(text) * count)
    for _ in range(count):
        assert (await room.users["alice"].answer())["type"] == "ack"
    await is_hung_up_on(room, caplog)
    await room.others_go_on()


@pytest.mark.parametrize("who", ["recipient", "sender"])
async def test_an_error_in_one_session_does_not_end_another(
    room: Room, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """The same when sending raises, for the recipient of a message and for its sender."""
    send, broken = Socket.send, room.broken.socket

    def fails(end: Socket, payload: bytes) -> None:
        if end is broken:
            raise ZeroDivisionError("a bug")
        send(end, payload)

    monkeypatch.setattr(Socket, "send", fails)
    if who == "recipient":
        room.users["alice"].frame(b'{"type":"message","to":"mallory","content":"x","id":"1"}')
        answer = await room.users["alice"].answer()
        assert answer == {"type": "ack", "id": "1", "status": "routed"}
    else:
        room.users["mallory"].frame(b'{"type":"message","to":"nobody","content":"x","id":"1"}')
    await is_hung_up_on(room, caplog)
    await room.others_go_on()


@pytest.mark.parametrize("broken", ["write", "close"])
async def test_a_new_login_succeeds_although_the_old_connection_fails(
    room: Room, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The replaced session cannot be told, since writing to it fails."""
    if broken == "write":
        room.break_writes()
    else:
        close, victim = Socket.close, room.broken.socket

        def fails(end: Socket, *args: Any) -> None:
            if end is victim:
                raise ZeroDivisionError("a bug")
            close(end, *args)

        monkeypatch.setattr(Socket, "close", fails)
    async with await Raw.register(room.running, "mallory") as newer:
        newer.writer.write(PING)
        assert await newer.answer() == PONG
        assert await room.users["mallory"].closed() == 1006
        assert room.running.counters.connection_failures == 1
    await room.others_go_on()


async def test_the_subscription_goes_on_after_a_message_that_failed(
    room: Room, redis_db: Any, keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception while a message is handled is reported, and the subscription goes on."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    delivery: Any = room.running._delivery
    monkeypatch.setattr(delivery, "_bounce", lambda _envelope: 1 / 0)
    channel = keyspace.gateway_channel(room.running.settings.gateway_id)
    envelope = {"from": "x", "to": "nobody", "content": "lost", "type": "direct"}
    await redis_db.publish(channel, json.dumps(envelope))
    await broadcast(room, redis_db, keyspace)
    await room.others_hear({"content": "hello"})
    assert [type(context["exception"]) for context in seen] == [ZeroDivisionError]
    assert room.running.counters.subscription_gaps == 0


@pytest.mark.parametrize("broken", ["end", "write", "close"])
async def test_a_drain_closes_all_connections_although_one_fails(
    shared_server: BundledServer,
    keyspace: Keyspace,
    redis_db: Any,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
) -> None:
    """All get 1012 and their entries are removed, also that of the one that could not be told."""
    async with gateway(shared_server, keyspace) as running:
        room = Room(running, {name: await Raw.register(running, name) for name in NAMES})
        if broken == "write":
            room.break_writes()
        else:
            kind: Any = Session if broken == "end" else Socket
            victim: Any = room.broken if broken == "end" else room.broken.socket
            honest = getattr(kind, broken)

            def fails(self: Any, *args: Any, **more: Any) -> None:
                if self is victim:
                    raise ZeroDivisionError("a bug")
                honest(self, *args, **more)

            monkeypatch.setattr(kind, broken, fails)
        stopping = asyncio.create_task(running.stop())
        for name in ("alice", "bob"):
            assert await room.users[name].closed() == 1012
        for raw in room.users.values():
            await raw.leave()
        await stopping
        assert running.counters.connection_failures == 1
        for name in NAMES:
            assert not await redis_db.exists(keyspace.presence(name))


# --- the loops of health -------------------------------------------------------------------------


def health_of(running: Gateway) -> Any:
    return running._health


async def _scan(room: Room) -> None:
    for session in room.running.registry:
        session.last_life -= 1e3
    await health_of(room.running)._drop_stale()


async def _ping(room: Room) -> None:
    for session in room.running.registry:
        session.socket.last_read -= 1e3
    await health_of(room.running)._ping_or_drop()


async def _drop(room: Room) -> None:
    for session in room.running.registry:
        session.socket.pinged_at = time.monotonic() - 1e3
    await health_of(room.running)._ping_or_drop()


async def _end_expired(room: Room) -> None:
    for session in room.running.registry:
        session.expires_at = 0.0
    health_of(room.running)._end_expired()


@pytest.mark.parametrize(
    ("round_of", "code"),
    [(_scan, 4009), (_drop, 4009), (_end_expired, 4504)],
    ids=["scan", "keep alive", "expired"],
)
async def test_a_health_check_ends_all_silent_sessions_although_one_fails(
    room: Room,
    monkeypatch: pytest.MonkeyPatch,
    round_of: Callable[[Room], Awaitable[None]],
    code: int,
) -> None:
    """Though one of them fails."""
    end = Session.end

    def fails(session: Session, *args: Any) -> None:
        if session is room.broken:
            raise ZeroDivisionError("a bug")
        end(session, *args)

    monkeypatch.setattr(Session, "end", fails)
    await round_of(room)
    for name in ("alice", "bob"):
        assert await room.users[name].closed() == code
    assert await room.users["mallory"].closed() == 1006
    assert room.running.counters.connection_failures == 1


async def test_a_round_of_pings_reaches_all_clients_but_the_one_that_fails(
    room: Room, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though one of them fails."""
    ping = Socket.ping

    def fails(end: Socket, now: float) -> None:
        if end is room.broken.socket:
            raise ZeroDivisionError("a bug")
        ping(end, now)

    monkeypatch.setattr(Socket, "ping", fails)
    await _ping(room)
    for name in ("alice", "bob"):
        assert await room.users[name].hear() == (9, b"")
    await is_hung_up_on(room, caplog)


async def test_a_failed_renewal_does_not_stop_the_other_renewals(
    room: Room, monkeypatch: pytest.MonkeyPatch, redis_db: Any, keyspace: Keyspace
) -> None:
    """A refresh that cannot be sent, or whose answer cannot be read, closes nobody."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    presence: Any = room.running.presence
    start = presence._link.start_script

    def fails(script: Any, keys: list[str], *args: Any) -> Any:
        if keys[0].endswith("mallory"):
            raise ZeroDivisionError("a bug")
        return start(script, keys, *args)

    monkeypatch.setattr(presence._link, "start_script", fails)
    await health_of(room.running)._refresh(list(room.running.registry))
    counters = room.running.counters
    assert (counters.refreshes_ok, counters.refreshes_failed) == (2, 1)
    assert len(seen) == 1
    await room.others_go_on()
    room.users["mallory"].writer.write(PING)
    assert await room.users["mallory"].answer() == PONG


async def test_the_replies_to_a_batch_of_renewals_are_handled_one_by_one(
    room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that raises is disconnected; the leases of the others count as renewed."""
    health = health_of(room.running)
    refreshed = health._refreshed

    def fails(session: Session, *args: Any) -> None:
        if session is room.broken:
            raise ZeroDivisionError("a bug")
        refreshed(session, *args)

    monkeypatch.setattr(health, "_refreshed", fails)
    await health._refresh(list(room.running.registry))
    assert room.running.counters.refreshes_ok == 2
    await is_hung_up_on(room, caplog)


async def test_the_health_loop_goes_on_after_a_failed_round(
    shared_server: BundledServer, keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The health scan goes on after an exception; else all leases would end one TTL later."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    async with gateway(shared_server, keyspace, timing=Timing().scaled(100)) as running:
        presence: Any = running.presence
        refresh, calls = presence.refresh, 0

        async def fails_once(renewals: list[Renewal]) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ZeroDivisionError("a bug")
            return await refresh(renewals)

        monkeypatch.setattr(presence, "refresh", fails_once)
        async with await Raw.register(running, "alice") as alice:

            async def renewed() -> bool:
                alice.writer.write(PING)
                assert await alice.answer() == PONG
                return running.counters.refreshes_ok > 1

            await until("her lease is renewed", renewed)
    assert [type(context["exception"]) for context in seen] == [ZeroDivisionError]


# --- the parts -----------------------------------------------------------------------------------


def test_each_calls_the_function_for_all_although_one_fails() -> None:
    """The caller whose request failed gets the exception."""

    class One:
        def __init__(self, n: int) -> None:
            self.n = n
            self.failed: Exception | None = None

        def fail(self, problem: Exception) -> None:
            self.failed = problem

    ones = [One(n) for n in range(-1, 2)]
    done = []
    each(ones, lambda one: done.append(1 // one.n))
    assert done == [-1, 1]
    assert [type(one.failed) for one in ones] == [type(None), ZeroDivisionError, type(None)]


@pytest.mark.parametrize("reply", [[b"sideways"], None, [], 7, [[]]])
def test_an_unknown_reply_of_a_script_is_the_result_of_its_own_lease(reply: Any) -> None:
    """One bad answer raises for its own request, not for the whole batch."""
    assert isinstance(_refreshed(reply), Exception)
    assert _refreshed([b"ok"]) is Refresh.OK
