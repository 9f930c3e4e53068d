"""Lost connections: what does the loss of one cost the others?

A client that resets its connection, or ends its half of it, at any moment of a session: it is
forgotten, by this gateway and by Redis, nothing of it is left, and its neighbour has not noticed.
The gateway's log and the exception handler of its loop stay silent meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.examples import rounds
from tests.gateway.cluster import Gates, Raw, frame, gateway, request
from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.session import Session
from wsdemo.gateway.socket import NOTHING_YET, Socket
from wsdemo.protocol import Code
from wsdemo.redis.link import LinkTimeout
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

pytestmark = pytest.mark.both_loops

SOON_S: Final = 10.0
"""Within this a neighbour has its answer also on a busy machine; without a fault it takes 1 ms."""
REGISTER: Final = frame(b'{"type":"register","userId":"mallory"}')
PING: Final = frame(b'{"type":"ping"}')


def message(to: str, content: str = "x", msg_id: str | None = None) -> bytes:
    ids = {} if msg_id is None else {"id": msg_id}
    return frame(json.dumps({"type": "message", "to": to, "content": content} | ids).encode())


@pytest.fixture(autouse=True)
def a_silent_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A lost client causes no warning, neither in our log nor from the event loop."""
    yield
    loud = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno >= logging.WARNING and "register of mallory" not in record.getMessage()
    ]
    assert not loud


# --- what was seen -------------------------------------------------------------------------------


async def test_a_reset_before_its_ack_does_not_stop_the_acks_of_others(
    server: BundledServer, database: Any, keyspace: Keyspace
) -> None:
    """Redis pauses, two clients write, one resets: the other has its ack and its pong."""
    async with (
        gateway(server, keyspace) as running,
        await Raw.register(running, "alice") as alice,
        await Raw.register(running, "bob") as bob,
    ):
        await database.execute_command("CLIENT", "PAUSE", 300, "ALL")
        alice.writer.write(message("nobody", msg_id="a"))
        await until("hers is on its way", lambda: running.counters.messages_received == 1)
        bob.writer.write(message("nobody", msg_id="b"))
        await until("his is on its way", lambda: running.counters.messages_received == 2)
        alice.reset()
        assert await bob.answer(SOON_S) == {"type": "ack", "id": "b", "status": "offline"}
        bob.writer.write(PING)
        assert await bob.answer(SOON_S) == {"type": "pong"}
        assert running.registry.by_user("alice") is None
        assert running.counters.connection_failures == 0, "a reset is no failure of ours"


async def test_clients_beside_many_resets_get_every_message_and_every_pong(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Twenty on two gateways write and ping all the time; a hundred others reset with answers
    under way. What was `routed` arrives, each ping has its pong, and nobody is closed.
    """
    names = [f"user-{n}" for n in range(20)]
    async with contextlib.AsyncExitStack() as stack:
        both = [
            await stack.enter_async_context(gateway(shared_server, keyspace, f"gateway-{n}"))
            for n in range(2)
        ]
        talkers = [
            _Talker(await stack.enter_async_context(await Raw.register(both[n % 2], name)))
            for n, name in enumerate(names)
        ]
        over = asyncio.Event()
        writers = [
            asyncio.create_task(talker.write(names[(n + 1) % len(names)], over))
            for n, talker in enumerate(talkers)
        ]
        readers = [asyncio.create_task(talker.read()) for talker in talkers]
        try:
            for n in range(rounds(100)):
                await _reset_with_answers_under_way(both[n % 2], random.Random(n), names)
            over.set()
            await asyncio.gather(*writers)
            for n, talker in enumerate(talkers):
                assert talker.pongs == talker.pings > 0
                await until(
                    f"{names[n]} has heard all that was routed to it",
                    lambda: talkers[n - 1].routed <= talkers[n].heard,
                )
            assert not any(reader.done() for reader in readers), "nobody was closed"
        finally:
            for task in (*writers, *readers):
                task.cancel()
            await asyncio.gather(*writers, *readers, return_exceptions=True)
        assert all(each.counters.connection_failures == 0 for each in both)


@dataclass
class _Talker:
    """A user that sends one message and one ping at a time, and waits for both answers."""

    raw: Raw
    pings: int = 0
    pongs: int = 0
    routed: set[str] = field(default_factory=set)
    heard: set[str] = field(default_factory=set)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, to: str, over: asyncio.Event) -> None:
        n = 0
        while not over.is_set():
            n += 1
            self.pings += 1
            self.answered.clear()
            self.raw.writer.write(message(to, str(n), msg_id=str(n)) + PING)
            async with asyncio.timeout(SOON_S):
                await self.answered.wait()
            await asyncio.sleep(0.01)  # A steady pace, and time for the resets.

    async def read(self) -> None:
        acked = 0
        while True:
            answer = await self.raw.answer(60.0)
            match answer["type"]:
                case "pong":
                    self.pongs += 1
                case "message" if answer["from"].startswith("user-"):
                    self.heard.add(answer["content"])
                case "ack":
                    acked += 1
                    if answer["status"] == "routed":
                        self.routed.add(answer["id"])
            if self.pongs == self.pings == acked:
                self.answered.set()


async def _reset_with_answers_under_way(
    running: Gateway, rng: random.Random, names: list[str]
) -> None:
    """Register, write to a few of them, and reset some turns of the loop later."""
    raw = await Raw.register(running, f"mallory-{rng.random()}")
    raw.writer.write(b"".join(message(to, msg_id=to) for to in rng.sample(names, 5)))
    for _ in range(rng.randrange(6)):
        await asyncio.sleep(0)
    raw.reset()


# --- any moment ----------------------------------------------------------------------------------


@dataclass
class Scene:
    """Two gateways, a neighbour on each, and mallory to come to the first one."""

    running: Gateway
    bob: Raw
    carol: Raw
    gates: Gates
    redis: Any

    async def pause_redis(self) -> None:
        """Pause Redis so long that an answer is still due when the connection is lost."""
        await self.redis.execute_command("CLIENT", "PAUSE", 200, "ALL")

    @property
    def end(self) -> Socket:
        """mallory's connection, as the gateway sees it."""
        bobs = self.running.registry.by_user("bob")
        assert bobs is not None
        (end,) = self.running._sockets().keys() - {bobs.socket}
        return end

    @property
    def session(self) -> Session:
        session = self.end._handler
        assert isinstance(session, Session)
        return session

    async def at(self, where: str, also: bytes = b"") -> Raw:
        """Return mallory, whose register is held."""
        self.gates.where = where
        raw = await Raw.open(self.running)
        raw.writer.write(REGISTER + also)
        await self.gates.reached()
        return raw


async def connected(scene: Scene) -> Raw:
    raw = await Raw.connect(scene.running)
    await until("it is in", lambda: len(scene.running._sockets()) == 2)
    return raw


async def within_the_handshake(scene: Scene) -> Raw:
    raw = await connected(scene)
    raw.writer.write(request()[:50])
    await until("half a request is there", lambda: scene.end._ws is not NOTHING_YET)
    return raw


async def shaken_hands(scene: Scene) -> Raw:
    return await Raw.open(scene.running)


async def waiting_for_its_turn(scene: Scene) -> Raw:
    """Her register waits: the only place for a register at a time is taken."""
    await scene.running._session_services.backlog.admission.acquire()
    raw = await Raw.open(scene.running)
    raw.writer.write(REGISTER)
    await until("it waits", lambda: scene.running._session_services.backlog.waiting == 1)
    return raw


async def minting(scene: Scene) -> Raw:
    return await scene.at("mint")


async def registering(scene: Scene) -> Raw:
    return await scene.at("register")


async def registered_and_not_told(scene: Scene) -> Raw:
    return await scene.at("registered")


async def registering_in_vain(scene: Scene) -> Raw:
    """Her register takes effect in Redis, and its answer never comes."""
    scene.gates.problem = LinkTimeout("no answer")
    return await scene.at("registered")


async def minting_in_vain(scene: Scene) -> Raw:
    scene.gates.problem = LinkTimeout("no answer")
    return await scene.at("mint")


async def with_held_frames(scene: Scene) -> Raw:
    """She sent so many frames behind her register that reading is paused."""
    raw = await scene.at("register", also=PING * 8)
    await until("it is read no further", lambda: scene.end._reading_paused)
    return raw


async def registered(scene: Scene) -> Raw:
    return await Raw.register(scene.running, "mallory")


async def within_a_frame(scene: Scene) -> Raw:
    raw = await registered(scene)
    raw.writer.write(PING[:5])
    await until("half of it is there", lambda: not scene.end._at_boundary)
    return raw


async def within_a_message(scene: Scene) -> Raw:
    raw = await registered(scene)
    raw.frame(b'{"type":', fin=False)
    await until("half of it is there", lambda: scene.end._fragments)
    return raw


async def with_an_ack_under_way(scene: Scene) -> Raw:
    raw = await registered(scene)
    await scene.pause_redis()
    raw.writer.write(message("carol", msg_id="1"))
    await until("it is on its way", lambda: scene.running.counters.messages_received)
    return raw


async def read_no_further(scene: Scene) -> Raw:
    """Reading is paused because her messages wait for Redis."""
    raw = await registered(scene)
    await scene.pause_redis()
    raw.writer.write(message("carol", msg_id="1") * 8)
    await until("it is read no further", lambda: scene.end._reading_paused)
    return raw


async def not_reading(scene: Scene) -> Raw:
    """Her transport is full, so her outbox fills."""
    raw = await registered(scene)
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def waits() -> bool:
        scene.bob.writer.write(message("mallory", "x" * 15_000) * 4)
        return len(scene.end.outbox) > 0

    await until("messages wait for it", waits)
    return raw


async def told_goodbye(scene: Scene) -> Raw:
    """The gateway closed her with 4502, and she does not answer the close frame."""
    raw = await registered(scene)
    scene.session.end(Code.MALFORMED)
    assert await raw.closed() == Code.MALFORMED
    return raw


async def saying_goodbye(scene: Scene) -> Raw:
    """The gateway has answered her close frame, and waits for the end of the connection."""
    raw = await registered(scene)
    raw.frame((1000).to_bytes(2, "big"), opcode=8)
    assert await raw.closed() == 1000
    return raw


MOMENTS: Final[list[Callable[[Scene], Awaitable[Raw]]]] = [
    connected,
    within_the_handshake,
    shaken_hands,
    waiting_for_its_turn,
    minting,
    registering,
    registered_and_not_told,
    minting_in_vain,
    registering_in_vain,
    with_held_frames,
    registered,
    within_a_frame,
    within_a_message,
    with_an_ack_under_way,
    read_no_further,
    not_reading,
    told_goodbye,
    saying_goodbye,
]


@pytest.fixture
async def scene(
    server: BundledServer, database: Any, keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    limits: dict[str, Any] = {
        "held_frames": 8,
        "in_flight": 8,
        "register_queue_s": 60.0,
        "concurrent_registers": 1,
        "write_high_water_bytes": 4_096,
        "outbox_messages": 10**6,
        "outbox_bytes": 10**9,
        "close_timeout_s": 60.0,
        "messages_per_s": 1e6,
        "message_burst": 10**6,
    }
    gates = Gates(monkeypatch)
    async with (
        gateway(server, keyspace, settings={"limit_loopback": True}, **limits) as running,
        gateway(server, keyspace, "gateway-02") as other,
        await Raw.register(running, "bob") as bob,
        await Raw.register(other, "carol") as carol,
    ):
        await database.ping()  # Or its connection would be one more than before.
        yield Scene(running, bob, carol, gates, database)
        gates.open.set()


def state_of(running: Gateway) -> dict[str, Any]:
    """Count every resource that a session holds and must release."""
    services, access = running._session_services, running._access
    return {
        "sockets": len(running._sockets()),
        "users": [session.user for session in running.registry],
        "connections": len(running.registry._by_conn),
        "waiting": services.backlog.waiting,
        "turns": services.backlog.admission._value,
        "owed": len(services.backlog.owed),
        "present": dict(access.present),
        "unregistered": dict(access.unregistered),
        "outboxes": sum(len(end.outbox) for end in running._sockets()),
        "in flight": sum(session.in_flight for session in running.registry),
        "repairs": len(running._delivery._repairing),
        "tasks": sorted(task.get_name() for task in running._tasks),
        "descriptors": descriptors(),
    }


def descriptors() -> int:
    """How many files and connections this process has open; 0 where that cannot be counted."""
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


async def lose(raw: Raw, how: str) -> None:
    """Lose mallory's connection."""
    if how == "reset":
        raw.reset()
    else:
        raw.half_close()


@pytest.mark.parametrize("how", ["reset", pytest.param("half-close", marks=pytest.mark.slow)])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
async def test_a_connection_lost_at_any_step_leaves_nothing_and_affects_nobody(
    scene: Scene, keyspace: Keyspace, moment: Callable[[Scene], Awaitable[Raw]], how: str
) -> None:
    """Counts of every kind are what they were, its entry is gone, its neighbour has its answers."""
    running, bob = scene.running, scene.bob
    before = state_of(running)
    raw = await moment(scene)
    outbox = scene.end.outbox
    await lose(raw, how)
    # Its neighbour is answered at once, while mallory's fate is still open.
    bob.writer.write(PING)
    while (answer := await bob.answer(SOON_S)) != {"type": "pong"}:
        assert answer["type"] == "error", "an answer to what he wrote to mallory"
    scene.gates.open.set()
    if moment is waiting_for_its_turn:
        await until("nobody waits", lambda: running._session_services.backlog.waiting == 0)
        running._session_services.backlog.admission.release()
    if how == "half-close":
        raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await raw.rest()
    await raw.leave()

    async def forgotten() -> bool:
        return state_of(running) == before and not await scene.redis.exists(
            keyspace.presence("mallory")
        )

    try:
        await until("nothing of it is left", forgotten)
    except pytest.fail.Exception:
        assert state_of(running) == before
        raise
    assert outbox._deadline is None, "no timer is left"
    del outbox
    if scene.gates.problem is not None:
        scene.gates.problem.__traceback__ = None  # The captured log would keep all that it knows.
    gc.collect()
    alive = sum(type(each) is Socket for each in gc.get_objects())
    assert alive == 2, "bob's and carol's; the lost one is not kept by anything"
    bob.writer.write(message("carol", "still here", msg_id="1"))
    assert await bob.answer(SOON_S) == {"type": "ack", "id": "1", "status": "routed"}
    while (await scene.carol.answer(SOON_S))["content"] != "still here":
        pass
    assert running.counters.connection_failures == running.counters.slow_consumers == 0
