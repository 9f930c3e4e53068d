"""Laboratory: how does a notebook drive a cluster without a single `await`?

Gateways and users live on one event loop in a thread of its own; cells call plain methods, which
wait for the answer. A cell that computes for two seconds delays no gateway. The laboratory of the
kernel is closed when the next one is made, so a cell can be run again.
"""

from __future__ import annotations

import atexit
import html
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final, Self

import pandas as pd
import redis as redis_client

from wsdemo.client import Client
from wsdemo.client.connection import Receipt
from wsdemo.drawing.words import counted
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.cluster.crowd import Life
from wsdemo.lab.cluster.directors import Verb
from wsdemo.lab.handles import RedisHandle, User, WireHandle
from wsdemo.lab.log_tail import LogTail
from wsdemo.lab.loop import CALL_TIMEOUT_S, LabLoop, LoopKind, require_kind
from wsdemo.lab.plots import Plots
from wsdemo.lab.progress import Count
from wsdemo.lab.trace.shiviz import to_shiviz
from wsdemo.rig.waiting import POLL_S
from wsdemo.terminal import say

RECORD_TIMEOUT_S: Final = 5.0
NAMES: Final = 6
"""At most so many users are named; of more, only the number is given."""


class Lab:
    """A cluster for cells: `lab = Lab(gateways=3)`, at last `lab.close()`.

    Args:
        gateways: how many.
        loop: "thread", or "kernel" to let the gateways live on the loop that also runs the cells.
        options: those of `Cluster`.
    """

    _current: ClassVar[Lab | None] = None

    def __init__(self, gateways: int = 3, *, loop: LoopKind = "thread", **options: Any) -> None:
        require_kind(loop)
        if Lab._current is not None:
            Lab._current.close()
        self.cluster = Cluster(gateways, **options)
        self._loop = LabLoop(loop)
        self._log = LogTail()
        self._leaks: list[str] = []
        self.plot = Plots(self.trace, self.cluster.timing)
        self.redis = RedisHandle(self._loop, self.cluster)
        self.users: dict[str, User] = {}
        self._log.attach()
        try:
            self._loop.run(self.cluster.start())
        except BaseException:
            self._end()
            raise
        Lab._current = self
        atexit.register(self.close)

    # --- life --------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop users, gateways and Redis, and end the thread. Idempotent."""
        if self._loop.closed:
            return
        try:
            self._loop.run(self.cluster.stop())
            self._leaks = self._loop.run(self._loop.leaks())
        finally:
            self._end()
            atexit.unregister(self.close)
            if Lab._current is self:
                Lab._current = None

    def _end(self) -> None:
        self._log.detach()
        self._loop.close()

    def leaks(self) -> list[str]:
        """Return what a closed lab left behind: tasks, threads, sockets, keys, processes, and
        failures that nobody handled.
        """
        if not self._loop.closed:
            raise RuntimeError("close the lab first: until then, everything is in use")
        thread = ["thread lab"] if self._loop.alive else []
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
            self._loop.run(self.cluster.connect(user, to, wired=wired, drop_pings=drop_pings))
        )

    def connect_many(self, users: int) -> list[User]:
        """Connect many users: user001, user002, ..., to the gateways in turn.

        They all live in this process. Two cores are enough for some hundred users at sixty times
        the speed of production; for a thousand, use a slower clock: `Lab(scale=15)`.
        """
        if users < 1:
            raise ValueError(f"a crowd has at least one user, not {users}")
        count = Count("users connected", users)
        patience_s = CALL_TIMEOUT_S + users / 20
        clients = self._loop.run(self.cluster.connect_many(users, count), patience_s, count)
        return [self._met(client) for client in clients]

    def _met(self, client: Client) -> User:
        user = self.users[client.user] = User(self._loop, self.cluster, client, self._forget)
        return user

    def _forget(self, name: str) -> None:
        self.users.pop(name, None)

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
        self._loop.require_open()
        count = Count(f"seconds of {seconds:g}", round(seconds))
        began = time.monotonic()

        def pass_on() -> None:
            count.done = min(count.total, round((time.monotonic() - began) * self.scale))

        work = self.cluster.live(seconds, talk_every_s=talk_every_s, hop_every_s=hop_every_s)
        return self._loop.run(work, seconds / self.scale + CALL_TIMEOUT_S, count, pass_on)

    # --- accidents on purpose ----------------------------------------------------------------

    def crash(self, gateway: str) -> None:
        """End a gateway without clean-up: nothing is released, no close frame is sent."""
        self._loop.run(self.cluster.crash(gateway))

    def drain(self, gateway: str) -> None:
        """Stop a gateway as SIGTERM does: clients are told to go elsewhere."""
        self._loop.run(self.cluster.drain(gateway))

    def start_gateway(self, name: str) -> None:
        """Start a gateway that crashed or was drained, or one more."""
        self._loop.run(self.cluster.start_gateway(name))

    def start_process(self, name: str) -> None:
        """Start one more gateway as a process of its own."""
        self._loop.run(self.cluster.start_process(name))

    def freeze(self, gateway: str) -> None:
        """Stop the loop of a gateway in `freezable`, or a process by SIGSTOP."""
        self._loop.run(self.cluster.freeze(gateway))

    def thaw(self, gateway: str) -> None:
        """Let a frozen gateway go on."""
        self._loop.run(self.cluster.thaw(gateway))

    def set_clock(self, gateway: str, error_s: float) -> None:
        """Set the wall clock of a gateway wrong by so many production seconds."""
        self._loop.call(lambda: self.cluster.set_clock(gateway, error_s))

    def wire(self, one: str, other: str = "") -> WireHandle:
        """Return the wire between a gateway and "redis" (`Lab(wires=True)`), or of a wired user."""
        return WireHandle(self._loop, self.cluster.wire(one, other))

    def hold(self, user: str, at: str, verb: Verb = "release") -> None:
        """From now on, this verb of this user waits at this gateway: mint, register, refresh or
        release.
        """
        self._loop.run(self.cluster.hold(user, at, verb))

    def hold_cleanup(self, user: str, at: str) -> None:
        """From now on, the clean-up of this user at this gateway waits."""
        self.hold(user, at)

    def let_go(self, user: str, at: str, verb: Verb = "release") -> None:
        """Release a held verb, and wait until Redis has answered it."""
        self._loop.run(self.cluster.let_go(user, at, verb))

    def let_all_go(self) -> None:
        """Release everything that is held at any gateway, and hold nothing more."""
        self._loop.run(self.cluster.let_all_go())

    def delay_cleanups(self, seconds: float) -> None:
        """From now on every gateway cleans up so many production seconds too late."""
        self._loop.call(lambda: self.cluster.delay_cleanups(seconds))

    # --- looking -----------------------------------------------------------------------------

    @property
    def scale(self) -> float:
        """How many production seconds pass in a second."""
        return self.cluster.timing.scale

    def watch(self, *users: str) -> None:
        """From now on, sample the entries of these users and what is left of their leases."""
        self._loop.call(lambda: self.cluster.watch(*users))

    def where(self) -> pd.DataFrame:
        """Return, for each user, the gateway of its socket and the gateway that Redis names."""
        records = self._loop.run(self.cluster.records(self.users))
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

        It is read in the cell's thread, so gateways on the kernel's loop do not run meanwhile.
        """
        self._loop.require_open()
        options: dict[str, Any] = {"decode_responses": True, "socket_timeout": RECORD_TIMEOUT_S}
        with redis_client.Redis.from_url(self.cluster.redis_url, **options) as terminal:
            return dict(terminal.hgetall(self.cluster.keyspace.presence(user)))

    def health(self, gateway: str) -> str:
        """Fetch `/health` of a gateway."""
        return self._loop.run(self.cluster.page(gateway, "/health"))

    def stats(self, gateway: str) -> dict[str, Any]:
        """Fetch `/stats` of a gateway."""
        return self._loop.run(self.cluster.stats(gateway))

    def trace(self) -> pd.DataFrame:
        """Return everything that happened so far, one row for each arrow or moment."""
        return self.cluster.trace()

    def shiviz(self) -> str:
        """Return what happened so far as a log with vector clocks, as ShiViz reads it."""
        return to_shiviz(self.trace())

    def hops(self, receipt: Receipt) -> pd.DataFrame:
        """Return the way of one message: from, to, what, and when (µs after it was sent)."""
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

        # Evaluated in the cell's thread, so that the condition may use the laboratory like any
        # cell.
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_s:g} s: {what}")
            self._loop.pause(POLL_S)

    def let_pass(self, seconds: float) -> None:
        """Let so many production seconds pass, while the laboratory runs."""
        self._loop.require_open()
        self._loop.pause(seconds / self.scale)

    def log(self, lines: int = 20) -> None:
        """Print the last lines that the gateways logged."""
        say(self._log.text(lines))

    def __repr__(self) -> str:
        if self._loop.closed:
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
