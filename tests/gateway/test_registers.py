"""Does each register end in one of two ways, and does a session last as long as it should?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.gateway.cluster import Gates, Raw, frame, gateway, over_wire
from tests.processes import http_get
from tests.waiting import until
from wsdemo.client import Client
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.session import Session, SessionState
from wsdemo.gateway.socket import Socket
from wsdemo.presence import Claim, RedisPresence, Release
from wsdemo.protocol import Direct
from wsdemo.redis.connection import CommandError
from wsdemo.redis.link import LinkTimeout
from wsdemo.redis.server import BundledServer
from wsdemo.rig.wire import Wire
from wsdemo.settings import ClientSettings, GatewaySettings, Keyspace, Timing

pytestmark = pytest.mark.both_loops

PING = frame(b'{"type":"ping"}')
REGISTER = frame(b'{"type":"register","userId":"mallory"}')
SOON_S = 5.0
"""Long before the TTL of an entry (90 s), and long enough for a busy machine."""


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> Gates:
    return Gates(monkeypatch)


@pytest.fixture
async def running(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    """A gateway with a single turn to register."""
    async with gateway(shared_server, keyspace, concurrent_registers=1) as running:
        yield running


@pytest.fixture
async def roomy(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    """A gateway with turns for everybody."""
    async with gateway(shared_server, keyspace) as running:
        yield running


def nothing_is_left(running: Gateway) -> bool:
    """No turn is taken, nobody waits, and no session is bound or expected."""
    services, registry = running._session_services, running.registry
    left = len(registry) + len(registry._by_conn)
    turns = services.settings.limits.concurrent_registers
    return services.backlog.admission._value == turns and not services.backlog.waiting and not left


async def is_gone(redis_db: Any, key: str) -> None:
    async def gone() -> bool:
        return not await redis_db.exists(key)

    await until(f"{key} is gone", gone, SOON_S)


def session_of(running: Gateway, user: str) -> Session:
    (session,) = [
        end._handler
        for end in running._sockets()
        if isinstance(end._handler, Session) and end._handler.user == user
    ]
    return session


# --- who is gone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "half-close", "goodbye"])
@pytest.mark.parametrize("where", ["mint", "register", "registered"])
async def test_a_client_that_leaves_while_it_registers_leaves_nothing(
    running: Gateway, redis_db: Any, keyspace: Keyspace, gates: Gates, where: str, how: str
) -> None:
    """Gone during mint: no register is sent. Gone during register: no entry here nor in Redis."""
    gates.where = where
    raw = await Raw.open(running)
    raw.writer.write(REGISTER)
    await gates.reached()
    session = session_of(running, "mallory")
    if how == "reset":
        raw.reset()
    elif how == "half-close":
        raw.half_close()
    else:
        raw.frame((1000).to_bytes(2, "big"), opcode=8)
    await until("it is seen to be gone", lambda: not session.socket.open)
    gates.open.set()
    await until("nothing is left", lambda: nothing_is_left(running), SOON_S)
    await is_gone(redis_db, keyspace.presence("mallory"))
    assert session.state is SessionState.ENDED
    if where == "mint":
        assert gates.passed == ["mint"]
    await raw.leave()


async def test_a_client_that_leaves_the_register_queue_frees_its_place(
    running: Gateway, gates: Gates
) -> None:
    """Those behind it move up, and nothing is asked of Redis for it."""
    await running._session_services.backlog.admission.acquire()
    async with await Raw.open(running) as mallory, await Raw.open(running) as bob:
        mallory.writer.write(REGISTER)
        await until("it waits", lambda: running._session_services.backlog.waiting == 1)
        session = session_of(running, "mallory")
        bob.frame(b'{"type":"register","userId":"bob"}')
        await until("bob waits behind it", lambda: running._session_services.backlog.waiting == 2)
        mallory.reset()
        await until(
            "only bob waits", lambda: running._session_services.backlog.waiting == 1, SOON_S / 5
        )
        assert session.state is SessionState.ENDED
        running._session_services.backlog.admission.release()
        assert (await bob.answer())["type"] == "registered"
        assert gates.passed == []
    await until("nothing is left", lambda: nothing_is_left(running))


async def test_a_client_that_leaves_when_its_register_slot_comes_frees_the_slot(
    running: Gateway, gates: Gates
) -> None:
    """The turn has been given to it, and it does not know yet."""
    await running._session_services.backlog.admission.acquire()
    async with await Raw.open(running) as mallory:
        mallory.writer.write(REGISTER)
        await until("it waits", lambda: running._session_services.backlog.waiting == 1)
        session = session_of(running, "mallory")
        running._session_services.backlog.admission.release()
        session.socket.abort()
        await until("nothing is left", lambda: nothing_is_left(running), SOON_S)
        assert gates.passed == []


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["mint", "register", "registered"])
@pytest.mark.parametrize("gone", [False, True], ids=["there", "gone"])
async def test_an_exception_in_a_register_frees_its_slot_and_releases_its_entry(
    running: Gateway, redis_db: Any, keyspace: Keyspace, gates: Gates, where: str, gone: bool
) -> None:
    """1011 for its client, a witness for us, and the next one registers."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    gates.where, gates.problem = where, ZeroDivisionError("a bug")
    async with await Raw.open(running) as mallory, await Raw.open(running) as bob:
        mallory.writer.write(REGISTER)
        await gates.reached()
        session = session_of(running, "mallory")
        bob.frame(b'{"type":"register","userId":"bob"}')
        if gone:
            mallory.reset()
            await until("it is seen to be gone", lambda: not session.socket.open)
        gates.open.set()
        if not gone:
            assert await mallory.closed() == 1011
        assert (await bob.answer())["type"] == "registered"
        await is_gone(redis_db, keyspace.presence("mallory"))
        assert session.state is SessionState.ENDED
        assert running.registry.by_conn(session.conn_id) is None
    await until("nothing is left", lambda: nothing_is_left(running))
    assert [type(context["exception"]) for context in seen] == [ZeroDivisionError]


@pytest.mark.parametrize("where", ["mint", "register", "registered"])
async def test_a_cancelled_register_is_released_and_its_client_closed_with_1013(
    running: Gateway, redis_db: Any, keyspace: Keyspace, gates: Gates, where: str
) -> None:
    """1013: it may come again, to this gateway or another one."""
    gates.where = where
    async with await Raw.open(running) as mallory:
        mallory.writer.write(REGISTER)
        await gates.reached()
        session = session_of(running, "mallory")
        (task,) = [task for task in running._tasks if "_settle_register" in task.get_name()]
        task.cancel()
        assert await mallory.closed() == 1013
        assert session.state is SessionState.ENDED
        await until("nothing is left", lambda: nothing_is_left(running), SOON_S)
        await is_gone(redis_db, keyspace.presence("mallory"))


@pytest.mark.parametrize("where", ["mint", "registered"])
async def test_a_register_without_a_reply_ends_also_when_its_client_has_reset(
    running: Gateway, redis_db: Any, keyspace: Keyspace, gates: Gates, where: str
) -> None:
    """There is nobody to be told to come back, and the session is over all the same."""
    gates.where, gates.problem = where, LinkTimeout("no answer")
    async with await Raw.open(running) as mallory:
        mallory.writer.write(REGISTER)
        await gates.reached()
        session = session_of(running, "mallory")
        mallory.reset()
        await until("it is seen to be gone", lambda: not running._sockets())
        gates.open.set()
        await until("it has ended", lambda: nothing_is_left(running), SOON_S)
        assert session.state is SessionState.ENDED
        await is_gone(redis_db, keyspace.presence("mallory"))


async def test_the_register_queue_is_empty_after_its_timeouts(
    shared_server: BundledServer, keyspace: Keyspace, gates: Gates
) -> None:
    """The gauge of those who wait for their turn is back at 0."""
    limits: dict[str, Any] = {"concurrent_registers": 1, "register_queue_s": 0.05}
    async with gateway(shared_server, keyspace, **limits) as running:
        await running._session_services.backlog.admission.acquire()
        async with contextlib.AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(await Raw.open(running)) for _ in range(3)]
            for n, raw in enumerate(crowd):
                raw.frame(json.dumps({"type": "register", "userId": f"user-{n}"}).encode())
            assert [await raw.closed() for raw in crowd] == [1013] * 3
        assert running.counters.registers_shed == 3
        assert "wsdemo_admission_waiting 0.0" in (await http_get(running.port, "/metrics"))[1]
        running._session_services.backlog.admission.release()
        assert nothing_is_left(running)


async def test_frames_kept_during_a_register_are_bounded(roomy: Gateway, gates: Gates) -> None:
    """However much comes, no more of it is kept than one read of the transport brings."""
    gates.where = "mint"
    async with await Raw.open(roomy) as mallory, await Raw.register(roomy, "bob") as bob:
        mallory.writer.write(REGISTER)
        await gates.reached()
        session = session_of(roomy, "mallory")
        flood = PING * 200_000
        mallory.writer.write(flood)
        await until("it is read no further", lambda: not session.socket._transport.is_reading())
        bob.writer.write(PING)
        assert await bob.answer() == {"type": "pong"}
        kept = len(session._held or ()) * len(PING)
        assert 0 < kept <= 512 * 1024 < len(flood)
        mallory.reset()
        gates.open.set()
    await until("nothing is left", lambda: nothing_is_left(roomy))


async def test_deliveries_before_registered_wait_for_it_up_to_a_bound(
    shared_server: BundledServer, keyspace: Keyspace, gates: Gates
) -> None:
    """Redis knows the session, its client does not: in order behind `registered`, and no more of
    it than a client may leave unread.
    """
    gates.where = "registered"
    async with (
        gateway(shared_server, keyspace, outbox_messages=3) as running,
        await Raw.open(running) as mallory,
        await Raw.register(running, "bob") as bob,
    ):
        mallory.writer.write(REGISTER)
        await gates.reached()
        claim = session_of(running, "mallory").claim
        assert claim is not None
        for n in range(5):
            direct = Direct(
                sender="bob",
                to="mallory",
                content=msgspec.Raw(b'"%d"' % n),
                toConn=claim.conn_id,
            )
            running._delivery.receive_direct(direct)
        gates.open.set()
        assert (await mallory.answer())["type"] == "registered"
        assert [(await mallory.answer())["content"] for _ in range(3)] == ["0", "1", "2"]
        mallory.writer.write(PING)
        assert await mallory.answer() == {"type": "pong"}
        bob.writer.write(PING)
        assert await bob.answer() == {"type": "pong"}


async def test_messages_sent_during_a_register_count_against_the_pending_limit(
    shared_server: BundledServer,
    keyspace: Keyspace,
    gates: Gates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has more messages on their way than it may is not read on because it has registered."""
    gates.where = "mint"
    resumed: list[int] = []
    honest = Socket.resume_reading
    async with (
        gateway(shared_server, keyspace, in_flight=4, held_frames=8) as running,
        await Raw.open(running) as mallory,
    ):
        mallory.writer.write(REGISTER)
        await gates.reached()
        session = session_of(running, "mallory")

        def noted(socket: Socket) -> None:
            resumed.append(session.in_flight)
            honest(socket)

        monkeypatch.setattr(Socket, "resume_reading", noted)
        for n in range(8):
            text = {"type": "message", "to": "nobody", "content": "x", "id": str(n)}
            mallory.frame(json.dumps(text).encode())
        await until("all is held", lambda: len(session._held or ()) == 8)
        gates.open.set()
        assert (await mallory.answer())["type"] == "registered"
        acks = [await mallory.answer() for _ in range(8)]
        assert [ack["id"] for ack in acks] == [str(n) for n in range(8)]
        assert resumed == [2], "at half of what may be under way, and not before"
        mallory.writer.write(PING)
        assert await mallory.answer() == {"type": "pong"}


async def test_a_register_overtaken_by_a_newer_session_is_closed_with_4010(
    roomy: Gateway, gates: Gates
) -> None:
    """4010: another session of the user got a later token, and registered before it."""
    gates.where = "register"
    async with await Raw.open(roomy) as older:
        older.writer.write(REGISTER)
        await gates.reached()
        stale = session_of(roomy, "mallory")
        gates.where = ""
        async with await Raw.register(roomy, "mallory") as newer:
            gates.open.set()
            assert await older.closed() == 4010
            assert roomy.counters.registers_stale == 1
            assert stale.state is SessionState.ENDED
            assert roomy.registry.by_conn(stale.conn_id) is None
            services = roomy._session_services
            turns = services.settings.limits.concurrent_registers
            await until(
                "its turn is given back", lambda: services.backlog.admission._value == turns
            )
            assert roomy.counters.releases_no_entry == 0, "it had nothing to release"
            newer.writer.write(PING)
            assert await newer.answer() == {"type": "pong"}


async def test_the_client_of_an_overtaken_register_comes_back(roomy: Gateway, gates: Gates) -> None:
    """And is the latest then."""
    gates.where = "register"
    settings = ClientSettings(backoff_base_s=0.01, backoff_cap_s=0.05)
    client = Client("mallory", [roomy.url], settings=settings)
    starting = asyncio.create_task(client.start())
    await gates.reached()
    gates.where = ""
    async with await Raw.register(roomy, "mallory") as newer:
        gates.open.set()
        assert await newer.closed() == 4509
    await starting
    assert roomy.counters.registers_stale == 1
    await client.close()


# --- how long it lasts ---------------------------------------------------------------------------


async def test_a_client_that_only_sends_messages_keeps_its_lease(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """A message is as good a sign of life as a ping: for much longer than the TTL."""
    timing = Timing().scaled(100)
    async with (
        gateway(shared_server, keyspace, timing=timing) as running,
        await Raw.register(running, "alice") as alice,
    ):

        async def renewed() -> bool:
            alice.frame(b'{"type":"message","to":"alice","content":"x"}')
            assert (await alice.answer())["content"] == "x"
            assert await redis_db.exists(keyspace.presence("alice"))
            return running.counters.refreshes_ok >= 6

        await until("her lease has been renewed often enough", renewed, every_s=0.02)
        assert running.counters.refreshes_reclaimed == 0, "it never lapsed"


@pytest.mark.slow
async def test_two_bursts_with_a_pause_between_them_are_not_closed(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Patience is with who is above its rate all the time; a calm begins it anew."""
    limits: dict[str, Any] = {
        "messages_per_s": 100.0,
        "message_burst": 10,
        "rate_patience_s": 0.2,
    }
    async with (
        gateway(shared_server, keyspace, **limits) as running,
        await Raw.register(running, "alice") as alice,
    ):
        session = session_of(running, "alice")
        for _ in range(3):
            enough = running.counters.rate_limited + 10
            alice.writer.write(PING * 30)
            await until("that was too much", lambda: running.counters.rate_limited > enough)
            excess = session._excess
            assert excess is not None

            def calm(since: float = excess.since) -> bool:
                now = running._clock()
                patient = now - since > 2 * limits["rate_patience_s"]
                return patient and now > session._paid_until

            await until("it has been calm for longer than the patience", calm)
        alice.frame(b'{"type":"message","to":"alice","content":"still here"}')
        while (answer := await alice.answer())["type"] != "message":
            assert answer["type"] in {"pong", "error"}
        assert answer["content"] == "still here"


async def test_a_release_without_a_reply_is_sent_again_when_redis_is_back(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """It was lost on its way; they are gone long before their TTL, one after the other."""
    async with Wire("127.0.0.1", shared_server.port) as wire:
        # One release at a time.
        settings = over_wire(wire, shared_server, keyspace, redis_timeout_s=1.0, resync_per_s=20.0)
        async with Gateway(settings) as running:
            names = ["alice", "bob", "carol"]
            users = [await Raw.register(running, name) for name in names]
            for strand in wire.strands():
                strand.drop("up")
            for raw in users:
                await raw.leave()
            await until("they have no answer", lambda: running.counters.releases_failed == 3)
            for name in names:
                await is_gone(redis_db, keyspace.presence(name))
            # Redis has forgotten a user before its answer is here.
            await until("each is counted", lambda: running.counters.releases_removed == 3)
            await until("nothing is owed", lambda: not running._session_services.backlog.owed)


async def test_a_release_that_redis_refused_for_a_moment_is_sent_again(
    running: Gateway, redis_db: Any, keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the moment was too short to be called an outage: the link says that it works."""
    honest = RedisPresence.release
    refusals = [CommandError("OOM command not allowed")]

    async def release(presence: RedisPresence, claim: Claim) -> Release:
        if refusals:
            raise refusals.pop()
        return await honest(presence, claim)

    monkeypatch.setattr(RedisPresence, "release", release)
    async with await Raw.register(running, "alice"):
        pass
    await until("it is owed", lambda: running._session_services.backlog.owed)
    assert await redis_db.exists(keyspace.presence("alice"))
    running._on_link_state(True)
    await is_gone(redis_db, keyspace.presence("alice"))
    await until("nothing is owed", lambda: not running._session_services.backlog.owed)


async def test_a_release_says_whether_it_met_another_session_or_no_entry(
    running: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """A lease that ran out is no rescue, so the two are counted apart."""
    key = keyspace.presence("alice")
    async with await Raw.register(running, "alice"):
        await redis_db.delete(key)
    counters = running.counters
    await until("it found none", lambda: counters.releases_no_entry == 1)
    assert counters.releases_other_owner == 0
    async with await Raw.register(running, "alice"):
        await redis_db.hset(key, "connId", "another")
    await until("it found another's", lambda: counters.releases_other_owner == 1)
    assert counters.releases_no_entry == 1 and counters.releases_removed == 0
    assert await redis_db.hget(key, "connId") == "another"
    await redis_db.delete(key)


# --- what nobody caught --------------------------------------------------------------------------


async def test_an_uncaught_exception_is_counted_and_logged_with_its_traceback(
    shared_server: BundledServer,
    keyspace: Keyspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In a gateway as a process runs it: /metrics tells of it, and the log has the whole of it."""
    from wsdemo.gateway.__main__ import serve
    from wsdemo.gateway.journal import LoggingJournal

    loop = asyncio.get_running_loop()
    ports: list[Gateway] = []
    start = Gateway.start

    async def noted(self: Gateway) -> None:
        await start(self)
        ports.append(self)

    monkeypatch.setattr(Gateway, "start", noted)
    settings = GatewaySettings(
        gateway_id="gateway-01", port=0, redis_url=shared_server.url, keyspace=keyspace
    )
    serving = asyncio.create_task(serve(settings, LoggingJournal()))
    try:
        await until("it runs", lambda: ports)
        (running,) = ports
        await until("it can be told to stop", lambda: running.ready)

        def broken() -> None:
            raise ZeroDivisionError("a bug of ours")

        loop.call_soon(broken)

        async def counted() -> bool:
            _, page = await http_get(running.port, "/metrics")
            return "wsdemo_unhandled_errors_total 1.0" in page

        await until("it is counted", counted)
        assert "ZeroDivisionError: a bug of ours" in caplog.text and "Traceback" in caplog.text
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def test_a_gateway_forgets_tasks_that_have_ended(roomy: Gateway) -> None:
    """Each register and each release is a task; a gateway that kept them would grow for ever."""
    async with await Raw.register(roomy, "alice"):
        pass
    await until("she is gone", lambda: not len(roomy.registry))
    await until("only tasks that run are kept", lambda: not any(t.done() for t in roomy._tasks))
