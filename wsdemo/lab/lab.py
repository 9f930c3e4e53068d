"""How does a notebook drive a cluster without a single `await`?

Gateways and users live on one event loop in a thread of its own; cells call plain methods, which
wait for the answer. A cell that computes for two seconds delays nobody. The lab of the kernel is
closed when the next one is made, so a cell can be run again.
"""

from __future__ import annotations

import asyncio
import atexit
import html
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, TypeVar

import redis as redis_client

from wsdemo.client import Client
from wsdemo.client.connection import Message, Receipt, State
from wsdemo.drawing.style import Picture
from wsdemo.drawing.words import counted
from wsdemo.lab.cluster.cluster import POLL_S, Cluster
from wsdemo.lab.cluster.crowd import Life
from wsdemo.lab.cluster.directors import Verb
from wsdemo.lab.drivers import Driver, KernelDriver, ThreadDriver
from wsdemo.lab.plots import (
    availability,
    detection,
    latency,
    ledger,
    ribbons,
    sawtooth,
    skew_map,
    spacetime,
    stages,
    steps,
)
from wsdemo.lab.progress import Count, ProgressLine
from wsdemo.lab.trace.journeys import moves
from wsdemo.lab.trace.shiviz import to_shiviz
from wsdemo.rig.wire import Bundle, Direction
from wsdemo.terminal import printable, say

if TYPE_CHECKING:
    import pandas as pd

CALL_TIMEOUT_S: Final = 30.0
"""No cell waits longer for the lab than this, unless it asked for something longer."""
RECORD_TIMEOUT_S: Final = 5.0
LOG_LINES: Final = 500
NAMES: Final = 6
"""Users who are named; of more, it is said how many there are."""

T = TypeVar("T")


class Lab:
    """A cluster for cells: `lab = Lab(gateways=3)`, at last `lab.close()`.

    Args:
        gateways: how many.
        loop: "thread", or "kernel" to let the gateways live on the loop that also runs the cells.
        options: those of `Cluster`.
    """

    _current: ClassVar[Lab | None] = None

    def __init__(
        self, gateways: int = 3, *, loop: Literal["thread", "kernel"] = "thread", **options: Any
    ) -> None:
        if loop not in ("thread", "kernel"):
            raise ValueError(f'loop is "thread" or "kernel", not {loop!r}')
        if Lab._current is not None:
            Lab._current.close()
        cluster = Cluster(gateways, **options)
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._handler = _Ring(self._log)
        self._problems: list[str] = []
        self._driver: Driver = ThreadDriver() if loop == "thread" else KernelDriver()
        self._heard_before = self._driver.loop.get_exception_handler()
        self._driver.loop.set_exception_handler(
            lambda _, context: self._problems.append(str(context.get("message")))
        )
        self._closed = False
        self._leaks: list[str] = []
        self.cluster = cluster
        self.plot = Plots(self)
        self.redis = LabRedis(self)
        self.users: dict[str, User] = {}
        logger = logging.getLogger("wsdemo")
        logger.addHandler(self._handler)
        self._level = logger.level
        logger.setLevel(logging.INFO)
        try:
            self._run(cluster.start())
        except BaseException:
            self._end()
            raise
        Lab._current = self
        atexit.register(self.close)

    def _run(
        self,
        work: Coroutine[Any, Any, T],
        timeout_s: float = CALL_TIMEOUT_S,
        count: Count | None = None,
    ) -> T:
        """Run something on the lab's loop and wait for it; Interrupt cancels it there."""
        if self._closed:
            work.close()
            self._require_open()
        with ProgressLine(count or Count("", 0)) as line:
            return self._driver.run(
                work, timeout_s, line.show if count is not None else lambda: None
            )

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("this lab is closed: make a new one with Lab()")

    def _do(self, act: Callable[[], T]) -> T:
        """Call something on the lab's loop: most of its parts are not thread-safe."""

        async def turn() -> T:
            return act()

        return self._run(turn())

    # --- life --------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop users, gateways and Redis, and end the thread. Idempotent."""
        if self._closed:
            return
        try:
            self._run(self.cluster.stop())
            self._leaks = self._run(self._look_for_leaks())
        finally:
            self._end()
            atexit.unregister(self.close)
            if Lab._current is self:
                Lab._current = None

    def _end(self) -> None:
        self._closed = True
        logger = logging.getLogger("wsdemo")
        logger.removeHandler(self._handler)
        logger.setLevel(self._level)
        self._driver.loop.set_exception_handler(self._heard_before)
        self._driver.close()

    async def _look_for_leaks(self) -> list[str]:
        if isinstance(self._driver, KernelDriver):
            return [f"unhandled: {problem}" for problem in self._problems]
        this = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not this]
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        left = [f"task {task.get_name()}" for task in tasks if not task.done()]
        return left + [f"unhandled: {problem}" for problem in self._problems]

    def leaks(self) -> list[str]:
        """Return what a closed lab left behind: tasks, threads, sockets, keys, processes, and
        failures that nobody handled.
        """
        if not self._closed:
            raise RuntimeError("close the lab first: until then, everything is in use")
        thread = ["thread lab"] if self._driver.alive else []
        return self._leaks + self.cluster.leaks() + thread

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- users and what they do --------------------------------------------------------------

    def connect(
        self, user: str, to: str = "gateway-01", *, wired: bool = False, drop_pings: float = 0.0
    ) -> User:
        """Connect a user to a gateway.

        Args:
            wired: put a wire between the user and each gateway: `lab.wire(user)`.
            drop_pings: the probability that a heartbeat gets lost.
        """
        return self._met(
            self._run(self.cluster.connect(user, to, wired=wired, drop_pings=drop_pings))
        )

    def connect_many(self, users: int) -> list[User]:
        """Connect a crowd: user001, user002, ..., in turn to each gateway.

        They all live in this process. Two cores carry some hundred users at sixty times the speed
        of production; for a thousand, slow the clock down: `Lab(scale=15)`.
        """
        if users < 1:
            raise ValueError(f"a crowd has at least one user, not {users}")
        count = Count("users connected", users)
        patience_s = CALL_TIMEOUT_S + users / 20
        clients = self._run(self.cluster.connect_many(users, count), patience_s, count)
        return [self._met(client) for client in clients]

    def _met(self, client: Client) -> User:
        user = self.users[client.user] = User(self, client)
        return user

    def live(
        self,
        seconds: float,
        *,
        talk_every_s: float | None = None,
        hop_every_s: float | None = None,
    ) -> Life:
        """Let all users talk to each other and move between gateways for a while; seeded.

        Args:
            seconds: for how long, in production seconds.
            talk_every_s, hop_every_s: mean production seconds between two of a user's messages
                or moves; None for never.
        """
        self._require_open()
        work = self.cluster.live(seconds, talk_every_s=talk_every_s, hop_every_s=hop_every_s)
        wall_s = seconds / self.scale
        count = Count(f"seconds of {seconds:g}", round(seconds))
        began = time.monotonic()

        with ProgressLine(count) as line:

            def passed() -> None:
                count.done = min(count.total, round((time.monotonic() - began) * self.scale))
                line.show()

            return self._driver.run(work, wall_s + CALL_TIMEOUT_S, passed)

    # --- accidents on purpose ----------------------------------------------------------------

    def crash(self, gateway: str) -> None:
        """End a gateway without last words: nothing is released, nobody is told."""
        self._run(self.cluster.crash(gateway))

    def drain(self, gateway: str) -> None:
        """Stop a gateway as SIGTERM does: clients are told to go elsewhere."""
        self._run(self.cluster.drain(gateway))

    def start_gateway(self, name: str) -> None:
        """Start a gateway that crashed or was drained, or one more."""
        self._run(self.cluster.start_gateway(name))

    def start_process(self, name: str) -> None:
        """Start one more gateway as a process of its own."""
        self._run(self.cluster.start_process(name))

    def freeze(self, gateway: str) -> None:
        """Stop the loop of a gateway in `freezable`, or a process by SIGSTOP."""
        self._run(self.cluster.freeze(gateway))

    def thaw(self, gateway: str) -> None:
        """Let a frozen gateway go on."""
        self._run(self.cluster.thaw(gateway))

    def set_clock(self, gateway: str, error_s: float) -> None:
        """Set the wall clock of a gateway wrong by so many production seconds."""
        self._do(lambda: self.cluster.set_clock(gateway, error_s))

    def wire(self, one: str, other: str = "") -> LabWire:
        """Return the wire between a gateway and "redis" (`Lab(wires=True)`), or of a wired user."""
        return LabWire(self, self.cluster.wire(one, other))

    def hold(self, user: str, at: str, verb: Verb = "release") -> None:
        """From now on, this verb of this user waits at this gateway: mint, register, refresh or
        release.
        """
        self._run(self.cluster.hold(user, at, verb))

    def hold_cleanup(self, user: str, at: str) -> None:
        """From now on, the clean-up of this user at this gateway waits."""
        self.hold(user, at)

    def let_go(self, user: str, at: str, verb: Verb = "release") -> None:
        """Let a verb go on that was held, and wait until Redis has answered it."""
        self._run(self.cluster.let_go(user, at, verb))

    def let_all_go(self) -> None:
        """Let everything go on that is held at any gateway, and hold nothing more."""
        self._run(self.cluster.let_all_go())

    def delay_cleanups(self, seconds: float) -> None:
        """From now on every gateway cleans up so many production seconds too late."""
        self._do(lambda: self.cluster.delay_cleanups(seconds))

    # --- looking -----------------------------------------------------------------------------

    @property
    def scale(self) -> float:
        """How many production seconds pass in a second."""
        return self.cluster.timing.scale

    def watch(self, *users: str) -> None:
        """From now on, sample what Redis says about these users, and how long it will."""
        self._do(lambda: self.cluster.watch(*users))

    def where(self) -> pd.DataFrame:
        """Return, for each user, the gateway of its socket and the gateway that Redis names."""

        import pandas as pd

        records = self._run(self.cluster.records(self.users))
        return pd.DataFrame(
            [
                {
                    "user": name,
                    "socket": user.gateway,
                    "Redis says": records[name].get("gwId", "(nobody)"),
                }
                for name, user in self.users.items()
            ],
            columns=["user", "socket", "Redis says"],
        ).set_index("user")

    def record(self, user: str) -> dict[str, str]:
        """Return what Redis stores about a user: `HGETALL presence:{user}`; empty when offline.

        It is asked as from another terminal: gateways that stand still get no turn by that.
        """
        self._require_open()
        options: dict[str, Any] = {"decode_responses": True, "socket_timeout": RECORD_TIMEOUT_S}
        with redis_client.Redis.from_url(self.cluster.redis_url, **options) as terminal:
            return dict(terminal.hgetall(self.cluster.keyspace.presence(user)))

    def health(self, gateway: str) -> str:
        """Fetch `/health` of a gateway."""
        return self._run(self.cluster.page(gateway, "/health"))

    def stats(self, gateway: str) -> dict[str, Any]:
        """Fetch `/stats` of a gateway."""
        return self._run(self.cluster.stats(gateway))

    def trace(self) -> pd.DataFrame:
        """Return everything that happened so far, one row for each arrow or moment."""
        return self.cluster.trace()

    def shiviz(self) -> str:
        """Return what happened so far as a log with vector clocks, as ShiViz reads it."""
        return to_shiviz(self.trace())

    def hops(self, receipt: Receipt) -> pd.DataFrame:
        """Return the way of one message: from, to, what, and when (µs after it was sent)."""

        import pandas as pd

        trace = self.trace()
        way = trace[(trace["msg_id"] == receipt.id) & (trace["peer"] != "")]
        start = way["t"].min()
        return pd.DataFrame(
            {
                "from": way["lane"],
                "to": way["peer"],
                "what": way["kind"],
                "left after (µs)": ((way["t"] - start) * 1e6).round().astype(int),
                "arrived after (µs)": [
                    "never" if t != t else f"{(t - start) * 1e6:.0f}" for t in way["t_recv"]
                ],
                "answer": way["reason"],
            }
        ).reset_index(drop=True)

    def wait_until(self, what: str, holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait until a condition holds.

        Raises:
            TimeoutError: it did not, in time; the text says what was waited for.
        """

        # Asked in the cell's thread, so that the condition may use the lab like any cell.
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_s:g} s: {what}")
            self._driver.pause(POLL_S)

    def let_pass(self, seconds: float) -> None:
        """Let so many production seconds pass, and the lab live meanwhile."""
        self._require_open()
        self._driver.pause(seconds / self.scale)

    def log(self, lines: int = 20) -> None:
        """Print the last lines that the gateways logged."""
        told = "\n".join(list(self._log)[-lines:])
        say("\n".join(printable(line) for line in told.split("\n")))

    def __repr__(self) -> str:
        if self._closed:
            return "<Lab: closed>"
        names = ", ".join(f"{name} at {user.gateway}" for name, user in self.users.items())
        who = names if len(self.users) <= NAMES else f"{len(self.users):,}"
        return (
            f"<Lab: {counted(len(self.cluster.hosts), 'gateway')}, {self.cluster.policy} presence, "
            f"{self.scale:g}x faster than production; users: {who or 'none'}; "
            f"Redis: {self.cluster.redis_source}>"
        )

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"


class User:
    """A user in a cell."""

    def __init__(self, lab: Lab, client: Client) -> None:
        self._lab = lab
        self._client = client

    @property
    def name(self) -> str:
        return self._client.user

    @property
    def gateway(self) -> str:
        """The gateway that this user's socket is connected to; empty when to none."""
        return self._client.gateway_id if self._client.state is State.REGISTERED else ""

    def send(self, to: str, content: str) -> Receipt:
        """Send a message; the receipt says what became of it."""
        return self._lab._run(self._client.send(to, content))

    def receive(self, timeout_s: float = 5.0) -> Message:
        """Return the next message.

        Raises:
            TimeoutError: none came in time.
        """
        return self._lab._run(self._client.receive(timeout_s), timeout_s + 5)

    def move(self, to: str) -> None:
        """Leave for another gateway."""
        self._lab._run(self._client.move(self._lab.cluster.urls_of(self.name)[to]))

    def lose_heartbeats(self, probability: float = 0.0, *, following: int = 0) -> None:
        """From now on heartbeats get lost: so many following ones, or each by chance."""
        self._lab._do(
            lambda: self._lab.cluster.drop_pings(self.name, probability, following=following)
        )

    def vanish(self) -> None:
        """The lid closes: no goodbye, no FIN, nothing is heard any more. It takes a wired user."""
        self._lab._run(self._lab.cluster.vanish(self.name))
        self._lab.users.pop(self.name, None)

    def disconnect(self) -> None:
        """Say goodbye."""
        self._lab.users.pop(self.name, None)
        self._lab._run(self._lab.cluster.disconnect(self.name))

    def __repr__(self) -> str:
        return f"<User {self.name} at {self.gateway or 'no gateway'}>"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"


class LabWire:
    """A wire in a cell. Directions: "up" is from whoever dialled, "down" is back; both if none."""

    def __init__(self, lab: Lab, bundle: Bundle) -> None:
        self._lab = lab
        self._bundle = bundle

    def hold(self, *directions: Direction) -> None:
        """Keep what comes from now on, in order, until `release`."""
        self._lab._do(lambda: self._bundle.hold(*directions))

    def release(self, *directions: Direction) -> None:
        """Let go what was held, and everything after it; drop nothing and delay nothing more."""
        self._lab._do(lambda: self._bundle.release(*directions))

    def drop(self, *directions: Direction) -> None:
        """Lose what comes from now on, while the connection looks alive."""
        self._lab._do(lambda: self._bundle.drop(*directions))

    def delay(self, seconds: float, *directions: Direction, jitter_s: float = 0.0) -> None:
        """Let everything from now on arrive this much later (wall seconds), and up to `jitter_s`
        more, in order.
        """
        self._lab._do(lambda: self._bundle.delay(seconds, *directions, jitter_s=jitter_s))

    def cut(self) -> None:
        """End all connections at once, without a goodbye; new ones pass."""
        self._lab._do(self._bundle.cut)

    def reset(self) -> None:
        """End all connections with a TCP reset; new ones pass."""
        self._lab._do(self._bundle.reset)


class LabRedis:
    """The accidents of a lab's Redis, in a cell."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def stop(self) -> None:
        """Kill it: connections break, nobody answers, everything is forgotten."""
        self._lab._run(self._lab.cluster.redis.stop())

    def restart(self, *, empty: bool = True) -> None:
        """Start it again at the same address, empty unless told otherwise."""
        self._lab._run(self._lab.cluster.redis.restart(empty=empty))

    def freeze(self) -> None:
        """Stop its process: connections stay, and nothing is answered."""
        self._lab._run(self._lab.cluster.redis.freeze())

    def thaw(self) -> None:
        """Let it go on."""
        self._lab._run(self._lab.cluster.redis.thaw())


class Plots:
    """The figures of a lab, drawn from its trace: `lab.plot.spacetime(receipt)`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def spacetime(self, receipt: Receipt, **options: Any) -> Picture:
        """Draw the way of one message."""
        return spacetime(self._lab.trace(), msg_id=receipt.id, **options)

    def story(self, *users: str, **options: Any) -> Picture:
        """Draw everything that happened to these users, refreshes aside."""
        return spacetime(self._lab.trace(), users=users, **options)

    def ribbons(self, *users: str, **options: Any) -> Picture:
        """Draw where these users were (or those about whom Redis was wrong longest), and where
        Redis said that they were.
        """
        return ribbons(self._lab.trace(), users or None, **self._clock(), **options)

    def sawtooth(self, *users: str, **options: Any) -> Picture:
        """Draw what was left of the leases of watched users."""
        return sawtooth(self._lab.trace(), users, **self._clock(), **options)

    def availability(self, *users: str, **options: Any) -> Picture:
        """Draw when each user was served, and the curve of their outages."""
        return availability(self._lab.trace(), users or None, **self._clock(), **options)

    def ledger(self, **options: Any) -> Picture:
        """Draw what presence accepted and rejected, and whom that saved or lost."""
        return ledger(self._lab.trace(), **self._clock(), **options)

    def detection(self, **options: Any) -> Picture:
        """Draw how long users who vanished were believed in, and the rule that acted."""
        timing, scale = self._lab.cluster.timing, self._lab.scale
        ping_s, pong_s = timing.ws_ping_interval_s, timing.ws_ping_timeout_s
        # Whichever doubts first: the ping that stays unanswered, or the scan for silence.
        if ping_s + pong_s < timing.idle_timeout_s:
            silence_s = (ping_s + pong_s, min(ping_s, timing.heartbeat_s), min(ping_s, pong_s) / 5)
        else:
            silence_s = (timing.idle_timeout_s, timing.heartbeat_s, timing.health_check_s)
        names = ("timeout_s", "heartbeat_s", "scan_s")
        rule: dict[str, Any] = {k: s * scale for k, s in zip(names, silence_s, strict=True)}
        return detection(self._lab.trace(), scale=scale, **{**rule, **options})

    def latency(self, **options: Any) -> Picture:
        """Draw how long messages took, within one gateway and across two."""
        return latency(self._lab.trace(), **options)

    def stages(self, **options: Any) -> Picture:
        """Draw on which part of their way messages spent their time."""
        return stages(self._lab.trace(), **options)

    def skew_map(self, **options: Any) -> Picture:
        """Draw which moves were refused because of a clock."""
        return skew_map(moves(self._lab.trace(), self._lab.scale), **options)

    def _clock(self) -> dict[str, Any]:
        timing = self._lab.cluster.timing
        return {"scale": timing.scale, "ttl_s": timing.presence_ttl_s * timing.scale}

    def steps(self, receipt: Receipt, **options: Any) -> Picture:
        """Draw what each table held before, during and after one message."""
        return steps(self._lab.trace(), receipt.id, **options)


class _Ring(logging.Handler):
    """Keeps log lines: printed from another thread, they would land in the wrong cell."""

    def __init__(self, lines: deque[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())
