"""Which fault comes when?

A seed decides: those that are due in its run first (half of the catalogue, so that two seeds in a
row have all of it), then the others, then round after round all of them, each time in a new order.
Two lanes run beside each other, so at most two faults overlap, and those that would spoil each
other do not: each fault says what it touches and what it needs untouched.

A fault that could not be arranged, because what it needs did not come about in time, has shown
nothing. It says so (`NotArranged`), is counted, and tried again a few times; that is something
else than a promise that was broken while it was active.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from wsdemo.proof.chaos.world import GATEWAYS, World
from wsdemo.proof.history import REDIS, USERS, Happened, Healed, Violation
from wsdemo.proof.history import Fault as FaultRecord

OVERLAP: Final = 2
PAUSE_S: Final = 0.3
"""The longest pause of a lane between two faults."""
GRACE_S: Final = 30.0
HEAL_S: Final = 25.0
"""How long beginning and healing a fault may take together, before the run gives up."""

TRIES: Final = 3
"""How often a fault may fail to be arranged in one run."""

GATEWAY: Final = "gateway"
"""One gateway, of the nemesis' choice."""
ALL_GATEWAYS: Final = "all gateways"

__all__ = ["ALL_GATEWAYS", "FAULTS", "GATEWAY", "REDIS", "USERS", "Fault", "Nemesis", "Scene"]

NOT_ARRANGED: Final = "not arranged: "
"""Before the name of a fault that could not be arranged, in a history."""

Doing = Callable[["Scene"], AsyncIterator[None]]


class NotArranged(Exception):
    """What a fault needs did not come about; the text says what, and nothing has been shown.

    Args:
        for_good: this machine can never do it.
    """

    def __init__(self, what: str, *, for_good: bool = False) -> None:
        super().__init__(what)
        self.for_good = for_good


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
    catalogue (guarantees, section 4; from 78 on, section 5; from 101 on, found since).
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
    not_arranged: str = ""
    """Why it could not be arranged; '' when it was."""
    for_good: bool = False


def due(seed: int) -> list[Fault]:
    """Return the faults that a run of this seed must have: every other one."""
    return FAULTS[seed % 2 :: 2]


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
    _first: list[Fault] = field(default_factory=list)
    _round: deque[Fault] = field(default_factory=deque)
    _failures: Counter[str] = field(default_factory=Counter)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def rage(
        self, first: Sequence[Fault], until_s: float, enough: Callable[[], bool] = lambda: True
    ) -> None:
        """Inject faults until a time on the world's clock, and heal them all.

        Those of `first` come first, all of them even if that takes longer; and when it was not
        `enough`, there is more of everything, for `GRACE_S` at most.
        """
        others = [fault for fault in FAULTS if fault not in first]
        self._first = list(first)
        self._round = deque(
            [*self.rng.sample(self._first, len(first)), *self.rng.sample(others, len(others))]
        )

        def over() -> bool:
            late_s = self.world.clock() - until_s
            return not self._first and late_s > 0 and (enough() or late_s > GRACE_S)

        async with asyncio.TaskGroup() as lanes:
            for _ in range(OVERLAP):
                lanes.create_task(self._lane(over), name="lane of the nemesis")

    @property
    def counts(self) -> Counter[str]:
        """How often each fault was injected, and could be arranged."""
        return Counter(one.fault.name for one in self.injections if not one.not_arranged)

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
                    if fault in self._first:
                        self._first.remove(fault)
                    if not self._round:
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
        where = tuple(sorted(_places(fault, gateway)[0]))
        world.note(FaultRecord(t=world.clock(), name=fault.name, begins=True, where=where))
        try:
            async with asyncio.timeout(HEAL_S + fault.lasts_s), fault.does(scene):
                await asyncio.sleep(fault.lasts_s)
        except NotArranged as problem:
            self._could_not_be_arranged(injection, problem)
        except Exception as problem:
            # A fault that cannot be healed is a finding; the others go on.
            said = str(problem) or f"it took longer than {HEAL_S + fault.lasts_s:g} s"
            text = f"{fault.name}, at {gateway}: {type(problem).__name__}: {said}"
            world.complain(Violation("heal", world.clock(), text))
            await self._mend(fault, gateway)
        finally:
            injection.healed = world.clock()
            self.active.remove(injection)
            end = FaultRecord(t=world.clock(), name=fault.name, begins=False, where=where)
            world.note(end)
            self._ended.set()

    async def _mend(self, fault: Fault, gateway: str) -> None:
        """Let what one fault has left broken not be the undoing of those that follow."""
        process = self.world.gateways.get(gateway)
        if GATEWAY in fault.touches and process is not None and not process.running:
            # That it does not start is a complaint of its own.
            with contextlib.suppress(Exception):
                await self.world.start_again(gateway)

    def _could_not_be_arranged(self, injection: Injection, problem: NotArranged) -> None:
        """Take note of it; it comes again soon, unless it has failed too often."""
        fault = injection.fault
        injection.not_arranged, injection.for_good = str(problem), problem.for_good
        self._failures[fault.name] += 1
        self.world.note(Happened(t=self.world.clock(), name=f"{NOT_ARRANGED}{fault.name}"))
        if not problem.for_good and self._failures[fault.name] < TRIES:
            self._first.append(fault)
            self._round.append(fault)

    def healed(self) -> None:
        """Take note that nothing is broken any more."""
        self.world.note(Healed(t=self.world.clock()))
