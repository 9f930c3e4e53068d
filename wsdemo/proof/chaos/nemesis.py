"""Nemesis: which fault comes when, and at which gateway?

A seed decides. First come the faults that are due in its run: half of the catalogue, so that two
consecutive seeds have all of it. Then come the others, and after that all of them, round after
round, each round in a new order. There are two lanes, so at most two faults are active at the same
time. Two faults that would disturb each other are never active together: each fault says what it
touches, and what no other fault may touch meanwhile.

If a fault cannot be arranged, because its precondition is not reached in time, it has shown
nothing. It raises `NotArranged`, is counted, and is tried again a few times. This is not a broken
promise.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from wsdemo.proof.chaos.cluster import GATEWAYS, ProcessCluster
from wsdemo.proof.chaos.deployment import USUAL, Deployment
from wsdemo.proof.chaos.fault import (
    ALL_GATEWAYS,
    GATEWAY,
    HEAL_S,
    FaultType,
    NotArranged,
    Scene,
)
from wsdemo.proof.chaos.faults import FAULTS
from wsdemo.proof.history import Fault, Happened, Healed, Violation
from wsdemo.proof.mix import PLAIN_MIX, FeatureMix

OVERLAP: Final = 2
"""How many faults may be active at the same time."""
PAUSE_S: Final = 0.3
"""The longest pause of a lane between two faults."""
GRACE_S: Final = 30.0
"""How much longer a run may take, to see everything that it should."""
TRIES: Final = 3
"""How often a fault may fail to be arranged in one run."""
NOT_ARRANGED: Final = "not arranged: "
"""Before the name of a fault that could not be arranged, in a history."""


@dataclass(slots=True)
class InjectedFault:
    """A fault that was injected: when it began, and when it was healed (s)."""

    fault: FaultType
    gateway: str
    began: float
    healed: float = float("nan")
    not_arranged: str = ""
    """Why it could not be arranged; '' if it was."""
    for_good: bool = False


def faults_of(mix: FeatureMix, deployment: Deployment = USUAL) -> list[FaultType]:
    """Return all faults that gateways with these features can have, in the order of seeds."""
    return [one for one in FAULTS if one.fits(mix, deployment)]


def due(seed: int, mix: FeatureMix = PLAIN_MIX, deployment: Deployment = USUAL) -> list[FaultType]:
    """Return the faults that a run of this seed must have: every second one."""
    return faults_of(mix, deployment)[seed % 2 :: 2]


def _places(fault: FaultType, gateway: str) -> tuple[set[str], set[str]]:
    """Return the places that a fault touches, and those that no other fault may touch."""
    mine = {GATEWAY: {gateway}, ALL_GATEWAYS: set(GATEWAYS)}
    touched = {place for one in fault.touches for place in mine.get(one, {one})}
    needed = {place for one in fault.needs for place in mine.get(one, {one})}
    return touched, touched | needed


@dataclass(slots=True)
class ProcessNemesis:
    """Injects faults into a cluster of processes.

    Args:
        rng: decides which fault comes, where, and how long the pauses are.
    """

    cluster: ProcessCluster
    rng: random.Random
    injections: list[InjectedFault] = field(default_factory=list)
    active: list[InjectedFault] = field(default_factory=list)
    _first: list[FaultType] = field(default_factory=list)
    _round: deque[FaultType] = field(default_factory=deque)
    _failures: Counter[str] = field(default_factory=Counter)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def inject_until(
        self, first: Sequence[FaultType], until_s: float, enough: Callable[[], bool] = lambda: True
    ) -> None:
        """Inject faults until a time on the clock of the cluster, and heal all of them.

        Those of `first` come first, and all of them come even if that takes longer. If the run has
        not seen `enough` by then, it goes on for at most `GRACE_S`.
        """
        everything = faults_of(self.cluster.mix, self.cluster.deployment)
        others = [fault for fault in everything if fault not in first]
        self._first = list(first)
        self._round = deque(
            [*self.rng.sample(self._first, len(first)), *self.rng.sample(others, len(others))]
        )

        def over() -> bool:
            late_s = self.cluster.clock() - until_s
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

    def _choose(self) -> tuple[FaultType, str] | None:
        """Return the next fault that may be active together with the others, and its gateway."""
        for fault in self._round:
            for gateway in self.rng.sample(GATEWAYS, len(GATEWAYS)):
                if self._fits(fault, gateway):
                    self._round.remove(fault)
                    if fault in self._first:
                        self._first.remove(fault)
                    if not self._round:
                        everything = faults_of(self.cluster.mix, self.cluster.deployment)
                        self._round.extend(self.rng.sample(everything, len(everything)))
                    return fault, gateway
        return None

    def _fits(self, fault: FaultType, gateway: str) -> bool:
        touched, needed = _places(fault, gateway)
        for other in self.active:
            others_touched, others_needed = _places(other.fault, other.gateway)
            if touched & others_needed or needed & others_touched or fault is other.fault:
                return False
        return True

    async def _inject(self, fault: FaultType, gateway: str) -> None:
        cluster = self.cluster
        seed = f"{cluster.seed}:{fault.name}:{len(self.injections)}"
        scene = Scene(cluster, random.Random(seed), gateway)
        injection = InjectedFault(fault, gateway, cluster.clock())
        self.injections.append(injection)
        self.active.append(injection)
        where = tuple(sorted(_places(fault, gateway)[0]))
        cluster.note(Fault(t=cluster.clock(), name=fault.name, begins=True, where=where))
        try:
            async with asyncio.timeout(HEAL_S + fault.lasts_s), fault.does(scene):
                await asyncio.sleep(fault.lasts_s)
        except NotArranged as problem:
            self._could_not_be_arranged(injection, problem)
        except Exception as problem:
            # A fault that cannot be healed is a finding. The run goes on.
            said = str(problem) or f"it took longer than {HEAL_S + fault.lasts_s:g} s"
            text = f"{fault.name}, at {gateway}: {type(problem).__name__}: {said}"
            cluster.complain(Violation("heal", cluster.clock(), text))
            await self._mend(fault, gateway)
        finally:
            injection.healed = cluster.clock()
            self.active.remove(injection)
            end = Fault(t=cluster.clock(), name=fault.name, begins=False, where=where)
            cluster.note(end)
            self._ended.set()

    async def _mend(self, fault: FaultType, gateway: str) -> None:
        """Repair what a failed fault has left broken, for the sake of those that follow."""
        process = self.cluster.gateways.get(gateway)
        if GATEWAY in fault.touches and process is not None and not process.running:
            # If it does not start, that is a complaint of its own.
            with contextlib.suppress(Exception):
                await self.cluster.start_again(gateway)

    def _could_not_be_arranged(self, injection: InjectedFault, problem: NotArranged) -> None:
        """Record it. The fault is tried again soon, unless it has failed too often."""
        fault = injection.fault
        injection.not_arranged, injection.for_good = str(problem), problem.for_good
        self._failures[fault.name] += 1
        self.cluster.note(Happened(t=self.cluster.clock(), name=f"{NOT_ARRANGED}{fault.name}"))
        if not problem.for_good and self._failures[fault.name] < TRIES:
            self._first.append(fault)
            self._round.append(fault)

    def healed(self) -> None:
        """Record that no fault is active any more."""
        self.cluster.note(Healed(t=self.cluster.clock()))
