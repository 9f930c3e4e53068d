"""Which fault comes when?

A seed decides: round after round, each of them all faults in a new order. Two lanes run beside
each other, so at most two faults overlap, and those that would spoil each other do not: each fault
says what it touches and what it needs untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from wsdemo.lab.chaos.world import GATEWAYS, World
from wsdemo.lab.history import Fault as FaultRecord
from wsdemo.lab.history import Healed, Violation

OVERLAP: Final = 2
PAUSE_S: Final = 0.3
"""The longest pause of a lane between two faults."""
GRACE_S: Final = 30.0
HEAL_S: Final = 25.0
"""How long beginning and healing a fault may take together, before the run gives up."""

REDIS: Final = "redis"
GATEWAY: Final = "gateway"
"""One gateway, of the nemesis' choice."""
ALL_GATEWAYS: Final = "all gateways"
USERS: Final = "users"

Doing = Callable[["Scene"], AsyncIterator[None]]


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault is done to."""

    world: World
    rng: random.Random
    gateway: str
    """The gateway that it touches; one that nobody else touches, if it touches none."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong for a while.

    `does` begins it up to its `yield`, and heals it behind that; `rows` are those of the fault
    catalogue (guarantees, section 4; from 78 on, section 5).
    """

    name: str
    rows: tuple[int, ...]
    does: Callable[[Scene], contextlib.AbstractAsyncContextManager[None]]
    lasts_s: float
    touches: frozenset[str]
    needs: frozenset[str]


FAULTS: Final[list[Fault]] = []
"""All of them, in the order of the catalogue; filled by `faults.py`."""


def fault(
    name: str,
    *rows: int,
    lasts_s: float = 1.0,
    touches: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
) -> Callable[[Doing], Doing]:
    """Make an entry of the catalogue out of a function that begins, yields, and heals."""

    def enter(does: Doing) -> Doing:
        begun = contextlib.asynccontextmanager(does)
        FAULTS.append(Fault(name, rows, begun, lasts_s, frozenset(touches), frozenset(needs)))
        return does

    return enter


@dataclass(slots=True)
class Injection:
    """One fault that was injected: when it began, when it was healed (s)."""

    fault: Fault
    gateway: str
    began: float
    healed: float = float("nan")


def _places(fault: Fault, gateway: str) -> tuple[set[str], set[str]]:
    """Return what a fault touches, and what it must have for itself, with gateways by name."""
    mine = {GATEWAY: {gateway}, ALL_GATEWAYS: set(GATEWAYS)}
    touched = {place for one in fault.touches for place in mine.get(one, {one})}
    needed = {place for one in fault.needs for place in mine.get(one, {one})}
    return touched, touched | needed


@dataclass(slots=True)
class Nemesis:
    """Injects faults into a world until told to stop.

    Args:
        rng: of which fault, where, and how long the pauses are.
    """

    world: World
    rng: random.Random
    injections: list[Injection] = field(default_factory=list)
    active: list[Injection] = field(default_factory=list)
    _round: deque[Fault] = field(default_factory=deque)
    _first_round: bool = True
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, until_s: float, enough: Callable[[], bool]) -> None:
        """Inject faults until a time on the world's clock, and heal them all.

        The first round is finished even if that takes longer; and when it was not `enough`, there
        is more of it, for `GRACE_S` at most.
        """
        self._round = deque(self.rng.sample(FAULTS, len(FAULTS)))
        self._first_round = True

        def over() -> bool:
            late_s = self.world.clock() - until_s
            return not self._first_round and late_s > 0 and (enough() or late_s > GRACE_S)

        async with asyncio.TaskGroup() as lanes:
            for _ in range(OVERLAP):
                lanes.create_task(self._lane(over), name="lane of the nemesis")

    @property
    def counts(self) -> Counter[str]:
        """How often each fault was injected."""
        return Counter(one.fault.name for one in self.injections)

    async def _lane(self, over: Callable[[], bool]) -> None:
        while not over():
            choice = self._choose()
            if choice is None:
                self._ended.clear()
                await self._ended.wait()
                continue
            fault, gateway = choice
            await self._inject(fault, gateway)
            await asyncio.sleep(self.rng.uniform(0, PAUSE_S))

    def _choose(self) -> tuple[Fault, str] | None:
        """Return the next fault that goes with those that are active, and its gateway."""
        for fault in self._round:
            for gateway in self.rng.sample(GATEWAYS, len(GATEWAYS)):
                if self._fits(fault, gateway):
                    self._round.remove(fault)
                    if not self._round:
                        self._first_round = False
                        self._round.extend(self.rng.sample(FAULTS, len(FAULTS)))
                    return fault, gateway
        return None

    def _fits(self, fault: Fault, gateway: str) -> bool:
        touched, needed = _places(fault, gateway)
        for other in self.active:
            others_touched, others_needed = _places(other.fault, other.gateway)
            if touched & others_needed or needed & others_touched or fault is other.fault:
                return False
        return True

    async def _inject(self, fault: Fault, gateway: str) -> None:
        world = self.world
        seed = f"{world.seed}:{fault.name}:{len(self.injections)}"
        scene = Scene(world, random.Random(seed), gateway)
        injection = Injection(fault, gateway, world.clock())
        self.injections.append(injection)
        self.active.append(injection)
        world.note(FaultRecord(t=world.clock(), name=fault.name, begins=True))
        try:
            async with asyncio.timeout(HEAL_S + fault.lasts_s), fault.does(scene):
                await asyncio.sleep(fault.lasts_s)
        except Exception as problem:
            # A fault that cannot be healed is a finding; the others go on.
            text = f"{fault.name}, at {gateway}: {type(problem).__name__}: {problem}"
            world.complain(Violation("heal", world.clock(), text))
        finally:
            injection.healed = world.clock()
            self.active.remove(injection)
            world.note(FaultRecord(t=world.clock(), name=fault.name, begins=False))
            self._ended.set()

    def healed(self) -> None:
        """Take note that nothing is broken any more."""
        self.world.note(Healed(t=self.world.clock()))
