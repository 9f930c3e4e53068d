"""Fault injection for a learner's gateway: how is code of which nothing is known run and broken?

Three gateways of the learner's class, each on an event loop in a thread of its own, so that a
loop without an end stops no one else. A real server, and TCP relays between everything. Each wait
has a deadline. What is judged is what clients see; nothing is known of the keys in Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import itertools
import json
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeVar

from redis.exceptions import RedisError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from wsdemo.lab.pace import free_core, pace
from wsdemo.lab.trial import mistake_in, reader_place, stop_thread
from wsdemo.lab.yours import GatewaySkeleton, SkeletonSession, SkeletonSettings
from wsdemo.redis.server import BundledServer
from wsdemo.rig.waiting import wait_until
from wsdemo.rig.wire import Strand, Wire

T = TypeVar("T")

HOLES: Final = ("register", "refresh", "release", "route", "drain")
NAMES: Final = ("gateway-01", "gateway-02", "gateway-03")
HOST: Final = "127.0.0.1"
BUSY_S: Final = 2.0
"""A loop that runs nothing else for so long is blocked."""
END_S: Final = 1.0
MEND: Final = "Mend this first."
"""The hint for what is wrong with the code itself: a slower clock would not help."""


class LevelFailed(Exception):
    """A gateway does not pass a level; the text says what was seen, `hint` what to think about."""

    def __init__(self, seen: str, hint: str) -> None:
        super().__init__(seen)
        self.hint = hint


class HoleFailed(OSError):
    """A hole raised something; it is noted, and the rest of the gateway goes on."""


class HoleCall(NamedTuple):
    """A call of one of the five methods, until it returned or raised."""

    name: str
    user: str
    outcome: str


class TrialPace(NamedTuple):
    """Durations of a trial (s). A machine that is busy gets longer ones."""

    heartbeat_s: float

    @property
    def ttl_s(self) -> float:
        return 3 * self.heartbeat_s

    @property
    def redis_timeout_s(self) -> float:
        return 1.5 * self.heartbeat_s

    @property
    def patience_s(self) -> float:
        return 5 * self.heartbeat_s


QUICK: Final = TrialPace(0.4)
SLOW: Final = TrialPace(1.2)


def pace_now() -> TrialPace:
    """Return the pace that this machine can afford now; say so when it is a slow one."""
    pace()
    return TrialPace(min(QUICK.heartbeat_s / free_core(), SLOW.heartbeat_s))


class LearnersThread:
    """An event loop in a thread, for one gateway of the learner's."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        # What a task of the learner's raises is noted where it is called; nothing is printed.
        self.loop.set_exception_handler(lambda loop, context: None)
        self.loop.run_forever()
        if tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=END_S))
        self.loop.close()

    async def run(self, work: Awaitable[T], timeout_s: float) -> T:
        """Run something on the loop of this thread, from another loop.

        Raises:
            TimeoutError: it took too long.
        """

        has_begun = False

        async def working() -> T:
            nonlocal has_begun
            has_begun = True
            return await work

        begins = working()
        future = asyncio.run_coroutine_threadsafe(begins, self.loop)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
        finally:
            if not has_begun:  # The loop was ended before.
                begins.close()
                if inspect.iscoroutine(work):
                    work.close()

    async def is_blocked(self) -> bool:
        """Say whether the loop runs nothing: one of its functions does not come back."""
        ran = threading.Event()
        self.loop.call_soon_threadsafe(ran.set)
        return not await asyncio.to_thread(ran.wait, BUSY_S)

    def place(self) -> str:
        """Return the learner's line in which the thread is now."""
        return reader_place(sys._current_frames().get(self._thread.ident or 0))

    def end(self) -> None:
        """End the loop; interrupt a function that does not come back."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(2 * END_S)
        stop_thread(self._thread)


class RunningGateway:
    """One gateway of the learner's, with its relays to Redis and to clients."""

    def __init__(
        self, name: str, gateway: GatewaySkeleton, to_redis: Wire, world: TrialWorld
    ) -> None:
        self.name = name
        self.gateway = gateway
        self.to_redis = to_redis
        self.clients = Wire(HOST, 0)
        self.thread = LearnersThread(name)
        self.calls: list[HoleCall] = []
        """The calls that have ended."""
        self.begun: list[tuple[str, str]] = []
        """The calls that have begun: method and user."""
        self.held: dict[str, threading.Event] = {}
        self._world = world
        for hole in HOLES:
            setattr(gateway, hole, self._observed(hole, getattr(gateway, hole)))

    def hold(self, hole: str) -> None:
        """Let calls of a method wait before they begin, until `let_go`."""
        self.held[hole] = threading.Event()

    def let_go(self, hole: str) -> None:
        """Let the calls go on that were held."""
        self.held.pop(hole).set()

    async def start(self) -> None:
        try:
            await self._world.in_time(self, self.gateway.start(), "start")
        except RedisError as problem:
            raise LevelFailed(f"{self.name} did not start: {problem}.", MEND) from None
        self.clients = await Wire(HOST, self.gateway.port).start()

    async def kill(self) -> None:
        """End it as SIGKILL does: nothing that it does reaches anybody any more."""
        await self.to_redis.stop()
        await self.clients.stop()
        await asyncio.to_thread(self.thread.end)

    def has_ended(self, hole: str, user: str) -> bool:
        return any((call.name, call.user) == (hole, user) for call in self.calls)

    def _observed(self, hole: str, method: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        async def called(*args: Any) -> Any:
            user = _user_of(args)
            if waits := self.held.get(hole):
                while not waits.is_set():  # noqa: ASYNC110 - it is set in another thread.
                    await asyncio.sleep(0.005)
            self.begun.append((hole, user))
            done = self._world.arrow(self.name, hole, user)
            try:
                value = method(*args)
                value = (await value) if inspect.isawaitable(value) else value
            except (RedisError, TimeoutError, OSError) as problem:
                self._ended(hole, user, type(problem).__name__, done)
                raise
            except Exception as problem:
                self._world.problems.append((hole, problem))
                self._ended(hole, user, type(problem).__name__, done)
                raise HoleFailed(str(problem)) from problem
            self._ended(hole, user, str(value), done)
            return value

        return functools.wraps(method)(called)

    def _ended(self, hole: str, user: str, outcome: str, done: Callable[[str], None]) -> None:
        done(outcome)
        self.calls.append(HoleCall(hole, user, outcome))


def _user_of(args: tuple[Any, ...]) -> str:
    if args and isinstance(args[0], SkeletonSession):
        return args[0].user
    return str(args[0]) if args else ""


class TrialUser:
    """A user who says what the judge wants, and keeps what is heard."""

    def __init__(self, name: str, at: RunningGateway, world: TrialWorld) -> None:
        self.name = name
        self.at = at
        self.heard: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self._world = world
        self._numbers = itertools.count(1)
        self.last_id = ""
        """That of the newest message which this user has sent."""
        self._socket: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def texts(self) -> list[str]:
        """The contents of all messages that have arrived."""
        return [one["content"] for one in self.heard if one.get("type") == "message"]

    async def dial(self) -> None:
        """Open the socket."""
        address = f"ws://{HOST}:{self.at.clients.port}"
        self._socket = await connect(address, ping_interval=None, close_timeout=END_S)
        self._reading = asyncio.create_task(self._read(self._socket))

    async def say(self, **message: Any) -> None:
        assert self._socket is not None
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send(json.dumps(message))

    async def hears(self, timeout_s: float = 0.0, **fields: Any) -> dict[str, Any] | None:
        """Wait for a message with these fields; None when it does not come."""

        def there() -> dict[str, Any] | None:
            return next((one for one in self.heard if fields.items() <= one.items()), None)

        with contextlib.suppress(TimeoutError):
            patience_s = timeout_s or self._world.pace.patience_s
            found: dict[str, Any] = await wait_until("a message", there, patience_s)
            return found
        return None

    async def register(self) -> dict[str, Any] | None:
        """Dial and register; return the answer."""
        await self.dial()
        self._world.moment(self.name, self.at.name, "register", self.name)
        await self.say(type="register", userId=self.name)
        return await self.hears(type="registered")

    async def send(self, to: str, text: str, timeout_s: float = 0.0) -> str:
        """Send a message; return the status of its ack, "" when there is none."""
        number = self.last_id = f"{self.name}-{next(self._numbers)}"
        self._world.moment(self.name, self.at.name, "message", to)
        await self.say(type="message", to=to, content=text, id=number)
        ack = await self.hears(timeout_s, type="ack", id=number)
        return "" if ack is None else str(ack.get("status", ""))

    async def gets(self, text: str, timeout_s: float = 0.0) -> bool:
        """Wait until a text has arrived, and say whether it has."""
        return await self.hears(timeout_s, type="message", content=text) is not None

    async def leave(self) -> None:
        """Close the socket properly, or what is left of it."""
        if self._socket is not None:
            if self.close_code is None:
                self._world.moment(self.name, self.at.name, "leave", self.name)
            with contextlib.suppress(OSError, ConnectionClosed):
                await self._socket.close()
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=END_S)

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed, ValueError):
            async for text in socket:
                message = json.loads(text)
                if message.get("type") == "message":
                    self._world.moment(self.at.name, self.name, "deliver", self.name)
                self.heard.append(message)
        self.close_code = socket.close_code


class TrialWorld:
    """Gateways of a class, users and a Redis: `async with TrialWorld.of(kind, server, pace)`."""

    def __init__(self, pace: TrialPace) -> None:
        self.pace = pace
        self.gateways: dict[str, RunningGateway] = {}
        self.users: list[TrialUser] = []
        self.problems: list[tuple[str, Exception]] = []
        """What the five methods raised, although Redis answered."""
        self.rows: list[dict[str, Any]] = []
        """What travelled, as rows of a trace; a time is the number of an event."""
        self._events = itertools.count(1)
        self.activity = 0
        """It grows with everything that happens, but for the heartbeats."""

    @classmethod
    @contextlib.asynccontextmanager
    async def of(
        cls, kind: Callable[..., GatewaySkeleton], server: BundledServer, pace: TrialPace
    ) -> AsyncIterator[TrialWorld]:
        """Make all of it, for `start`; end all of it."""
        world = cls(pace)
        try:
            for name in NAMES:
                wire = await Wire(HOST, server.port).start()
                told = SkeletonSettings(
                    name,
                    server.url_by(wire.port),
                    pace.heartbeat_s,
                    pace.ttl_s,
                    pace.redis_timeout_s,
                )
                world.gateways[name] = RunningGateway(name, kind(told), wire, world)
            yield world
        finally:
            await world.end()

    async def start(self) -> None:
        """Start the gateways.

        Raises:
            LevelFailed: one of them did not start.
        """
        for one in self.gateways.values():
            await one.start()

    async def end(self) -> None:
        """End users, gateways, threads and relays."""
        for one in self.gateways.values():
            one.to_redis.release()
            for hole in list(one.held):
                one.let_go(hole)
            await one.kill()
        for user in self.users:
            await user.leave()

    async def user(self, name: str, number: int, hint: str = "") -> TrialUser:
        """Let a user register at gateway number 1, 2 or 3.

        Raises:
            LevelFailed: there was no answer.
        """
        user = TrialUser(name, self.gateways[NAMES[number - 1]], self)
        self.users.append(user)
        if await user.register() is None:
            seen = f"{name} sent `register` to {user.at.name} and was never told `registered`."
            raise LevelFailed(seen, hint or "`register` has to return True when it is done.")
        return user

    async def in_time(self, at: RunningGateway, work: Awaitable[Any], what: str) -> Any:
        """Run something of the learner's gateway, with a deadline.

        Raises:
            LevelFailed: it did not come to an end.
        """
        try:
            return await at.thread.run(work, self.pace.patience_s + BUSY_S)
        except TimeoutError:
            seen = f"{at.name}: `{what}` did not come to an end."
            raise LevelFailed(seen, "Is there a wait in it without a deadline?") from None

    async def fault_of_code(self) -> LevelFailed | NotImplementedError | None:
        """Return what is wrong with the code itself, whatever the level wants."""
        for hole, problem in self.problems:
            if isinstance(problem, NotImplementedError):
                return NotImplementedError(hole)
            return LevelFailed(f"Your `{hole}` {mistake_in(problem)}", MEND)
        for one in self.gateways.values():
            if one.thread.loop.is_running() and await one.thread.is_blocked():
                where = one.thread.place()
                return LevelFailed(
                    f"{one.name} is blocked: a method does not come back"
                    + (f", it was in {where}." if where else "."),
                    f"A loop without an end, or a wait without `await`, stops all of it. {MEND}",
                )
        return None

    def each_wire(self) -> list[Wire]:
        return [one.to_redis for one in self.gateways.values()]

    # --- what the figure is made of --------------------------------------------------------------

    def new_part(self) -> None:
        """Forget what happened before: it does not matter for what comes."""
        self.rows.clear()

    def arrow(self, gateway: str, hole: str, user: str) -> Callable[[str], None]:
        """Note that a method begins; return what notes its end."""
        row = {"t": next(self._events), "lane": gateway, "gateway": gateway, "user": user}
        row |= {"peer": "redis", "kind": KINDS.get(hole, hole), "ok": True, "reason": ""}

        self.activity += hole != "refresh"

        def done(outcome: str) -> None:
            self.activity += hole != "refresh"
            row["t_recv"] = next(self._events)
            if hole == "route":
                row.update(ok=outcome == "routed", reason=outcome)
            elif outcome not in ("True", "None"):
                row.update(reason=outcome)

        if hole in KINDS:
            self.rows.append(row)
        return done

    def moment(self, lane: str, peer: str, kind: str, user: str) -> None:
        """Note something that travels at once."""
        self.activity += 1
        gateway = lane if lane in NAMES else peer
        row = {"t": next(self._events), "t_recv": next(self._events), "lane": lane, "peer": peer}
        self.rows.append(row | {"kind": kind, "user": user, "gateway": gateway, "ok": True})


KINDS: Final = {
    "register": "presence_set",
    "refresh": "presence_refresh",
    "release": "presence_del",
    "route": "route",
}


def subscribes(strand: Strand) -> bool:
    """Say whether a connection to Redis is the one of the subscription."""
    return b"SUBSCRIBE" in strand.said.upper()
