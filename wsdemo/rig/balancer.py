"""Load balancer: at which of several gateways does a new connection end?

A TCP balancer on loopback, such as nginx or HAProxy is one: it accepts a connection, picks a
gateway by its rule, and passes bytes in both directions. It decides once for each connection, and
never again: that is its nature, and what lesson 11 is about. A gateway that does not accept is
skipped; one that accepts and then fails is not noticed, unless the balancer asks for `/ready`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NamedTuple, Self

from wsdemo.rig.names import unknown
from wsdemo.rig.pages import http_get
from wsdemo.tasks import end

HIGH_WATER: Final = 256 * 1024
"""Bytes that wait for a slow end; beyond it, the other end is not read."""
READY_S: Final = 1.0
"""How long a gateway may take to answer `/ready`."""

Counts = Mapping[str, int]
"""How many connections each gateway has."""
Rule = Callable[[Counts, random.Random], str]
"""Picks one of the gateways, of which there is at least one."""


# --- the rules ---------------------------------------------------------------------------------


def least_connections(counts: Counts, rng: random.Random) -> str:
    """The gateway with the fewest connections; of several, the first."""
    return min(counts, key=lambda name: (counts[name], name))


def at_random(counts: Counts, rng: random.Random) -> str:
    """Any of them."""
    return rng.choice(sorted(counts))


def power_of_two(counts: Counts, rng: random.Random) -> str:
    """Two of them at random, and of these the one with fewer connections."""
    two = rng.sample(sorted(counts), min(2, len(counts)))
    return min(two, key=lambda name: counts[name])


def round_robin() -> Rule:
    """One after the other. It remembers whose turn it is, so each balancer needs its own."""
    turn = itertools.count()

    def next_one(counts: Counts, rng: random.Random) -> str:
        return sorted(counts)[next(turn) % len(counts)]

    return next_one


RULES: Final[Mapping[str, Callable[[], Rule]]] = {
    "round robin": round_robin,
    "random": lambda: at_random,
    "least connections": lambda: least_connections,
    "power of two": lambda: power_of_two,
}


# --- the balancer ------------------------------------------------------------------------------


class Load(NamedTuple):
    """How many connections each gateway had, from this moment on."""

    t: float
    """Monotonic seconds."""
    counts: dict[str, int]

    @property
    def imbalance(self) -> float:
        """The fullest gateway, by the mean of all; 1 when there is nobody."""
        return imbalance(self.counts)


def imbalance(counts: Counts) -> float:
    """Return max / mean of the counts; 1 when there is nobody."""
    total = sum(counts.values())
    return max(counts.values()) * len(counts) / total if total else 1.0


class _End(asyncio.Protocol):
    """One end of a connection through the balancer. What it reads, the other end writes."""

    def __init__(self) -> None:
        self.other: _End | None = None
        self.transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(HIGH_WATER)
        transport.pause_reading()  # Until there is another end.
        self.transport = transport

    def join(self, other: _End) -> None:
        """Pass on what comes, in both directions."""
        self.other, other.other = other, self
        for one in (self, other):
            one.resume_reading()

    def data_received(self, data: bytes) -> None:
        there = None if self.other is None else self.other.transport
        if there is not None and not there.is_closing():
            there.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.resume_reading()

    def resume_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, problem: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def close(self) -> None:
        """Write what is left, and end."""
        if self.transport is not None:
            self.transport.close()


class Balancer:
    """A balancer on loopback: `async with Balancer(ports) as balancer`, then dial `balancer.port`.

    Args:
        ports: of the gateways, by their names.
        rule: one of `RULES`, by its name.
        seed: of its randomness.
        check_every_s: how often every gateway is asked for `/ready`; None for never. One that does
            not say 200 gets no new connections.
    """

    def __init__(
        self,
        ports: Mapping[str, int],
        *,
        rule: str = "least connections",
        seed: int = 7,
        check_every_s: float | None = None,
    ) -> None:
        self._ports = dict(ports)
        self._rng = random.Random(seed)
        self._rule: Rule = least_connections
        self.follow(rule)
        self._check_every_s = check_every_s
        self._unready: set[str] = set()
        self._open = dict.fromkeys(ports, 0)
        self._known: dict[str, int] | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.picked: list[str] = []
        """Where each connection went, in order."""
        self.history: list[Load] = [Load(time.monotonic(), dict(self._open))]
        """Every change of the numbers of connections."""

    # --- what a lesson says ----------------------------------------------------------------------

    @property
    def counts(self) -> dict[str, int]:
        """How many connections each gateway has through this balancer now."""
        return dict(self._open)

    def follow(self, rule: str) -> None:
        """Pick by this rule from now on.

        Raises:
            ValueError: there is no such rule.
        """
        if rule not in RULES:
            raise ValueError(unknown("rule", rule, RULES))
        self._rule = RULES[rule]()

    def add(self, name: str, port: int) -> None:
        """Let new connections go to one more gateway."""
        self._ports[name] = port
        self._open.setdefault(name, 0)
        self._note()

    def remove(self, name: str) -> None:
        """Send no new connections to a gateway; those that are open stay."""
        self._ports.pop(name, None)

    def hear(self) -> None:
        """Learn how many connections there are, and go by these numbers until `hear` is called
        again: as a balancer does that is told from time to time.
        """
        self._known = dict(self._open)

    def see(self) -> None:
        """Go by the present numbers of connections, as a balancer does that is alone."""
        self._known = None

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Listen on a port of the system's choice."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        if self._check_every_s is not None:
            self._keep(self._check(self._check_every_s))
            await self._check_all()
        return self

    async def stop(self) -> None:
        """Cut everything and stop listening. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await end(*self._tasks)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    # --- one connection ----------------------------------------------------------------------

    def _accept(self) -> _End:
        near = _End()
        self._keep(self._carry(near))
        return near

    async def _carry(self, near: _End) -> None:
        """Try one gateway after the other, as the rule says, until one accepts."""
        left = dict(self._ports)
        try:
            while left:
                name = self._pick(left)
                self.picked.append(name)
                # Counted before it is connected: others are picked for meanwhile.
                self._count(name, 1)
                try:
                    if await self._serve(near, left.pop(name)):
                        return
                finally:
                    self._count(name, -1)
        finally:
            near.close()

    @staticmethod
    async def _serve(near: _End, port: int) -> bool:
        """Pass bytes on until one end closes; return False when the gateway does not accept."""
        loop = asyncio.get_running_loop()
        try:
            _, far = await loop.create_connection(_End, "127.0.0.1", port)
        except OSError:
            return False
        try:
            near.join(far)
            await asyncio.wait([near.closed, far.closed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            far.close()
        return True

    def _pick(self, left: Mapping[str, int]) -> str:
        counts = self._open if self._known is None else self._known
        ready = [name for name in left if name not in self._unready] or list(left)
        return self._rule({name: counts.get(name, 0) for name in ready}, self._rng)

    def _count(self, name: str, change: int) -> None:
        self._open[name] += change
        self._note()

    def _note(self) -> None:
        self.history.append(Load(time.monotonic(), dict(self._open)))

    # --- health ------------------------------------------------------------------------------

    async def _check(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self._check_all()

    async def _check_all(self) -> None:
        names = list(self._ports)
        answers = await asyncio.gather(*map(self._is_ready, names))
        self._unready = {name for name, ready in zip(names, answers, strict=True) if not ready}

    async def _is_ready(self, name: str) -> bool:
        try:
            status, _ = await http_get(self._ports[name], "/ready", READY_S)
        except (OSError, TimeoutError, ValueError):
            return False
        return status == 200

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="balancer")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
