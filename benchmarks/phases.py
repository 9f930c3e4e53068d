"""What is measured, phase by phase, and how a number is made of it.

Each round runs every phase on every system, one after the other, so that a slow minute of the
machine is a slow minute for all. A ratio is taken within a round; what is reported is the median
of the rounds' ratios. CPU is user and system time of the gateway processes, both together.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.systems import Driver, System

USERS = 200
CONTENT_BYTES = 64
IN_FLIGHT = 64
STORM = 500
STORM_AT_A_TIME = 64


@dataclass(frozen=True)
class Phase:
    """One thing to measure: a name, what the load does, and the plan for it."""

    name: str
    action: str
    plan: Mapping[str, Any]


def message_phases(seconds: float) -> list[Phase]:
    """Return the phases that send messages."""
    closed = {"in_flight": IN_FLIGHT, "size": CONTENT_BYTES, "seconds": seconds}
    opened = {"shape": "cross", "size": CONTENT_BYTES, "seconds": seconds}
    return [
        Phase("saturation", "closed", {**closed, "shape": "cross"}),
        Phase("1,000 a second", "open", {**opened, "rate": 1000}),
        Phase("4,000 a second", "open", {**opened, "rate": 4000}),
        Phase("same gateway", "closed", {**closed, "shape": "local"}),
        Phase("hot user", "closed", {**closed, "shape": "hot"}),
    ]


STORM_PHASE = Phase("registration storm", "connect", {})


@dataclass
class Sample:
    """What one phase came to on one system in one round."""

    phase: str
    system: str
    round: int
    cost_us: float
    """CPU of the gateways per message or registration (µs)."""
    rate: float
    """Messages or registrations a second."""
    lost: int = 0
    latencies_us: list[int] = field(default_factory=list)

    def percentile_us(self, share: float) -> float:
        """Return a latency percentile (nearest rank); NaN without latencies."""
        if not self.latencies_us:
            return float("nan")
        return self.latencies_us[
            min(len(self.latencies_us) - 1, int(share * len(self.latencies_us)))
        ]


class Bench:
    """The systems under test with their loads, and the samples so far."""

    def __init__(self, systems: Sequence[System], drivers: Mapping[str, Driver]) -> None:
        self.systems = systems
        self.drivers = drivers
        self.samples: list[Sample] = []

    def connect_all(self, users: int) -> None:
        for system in self.systems:
            self.drivers[system.name].do(
                "connect", ports=system.ports, count=users, prefix="u", at_a_time=STORM_AT_A_TIME
            )

    def run_round(self, number: int, phases: Sequence[Phase], say: Callable[[str], None]) -> None:
        """Run every phase on every system, interleaved."""
        for phase in phases:
            for system in self.systems:
                say(f"round {number}: {phase.name}, {system.name}")
                self.samples.append(self._measure(phase, system, number))

    def _measure(self, phase: Phase, system: System, number: int) -> Sample:
        before_s = system.cpu_s()
        result = self.drivers[system.name].do(phase.action, **phase.plan)
        used_s = system.cpu_s() - before_s
        delivered = max(1, result["delivered"])
        return Sample(
            phase.name,
            system.name,
            number,
            1e6 * used_s / delivered,
            result["in_time"] / result["seconds"],
            result["lost"],
            result["latencies_us"],
        )

    def run_storm(self, number: int, say: Callable[[str], None]) -> None:
        """Let new users register on every system, as fast as they can, and leave again."""
        for system in self.systems:
            say(f"round {number}: {STORM_PHASE.name}, {system.name}")
            with Driver() as driver:
                before_s = system.cpu_s()
                result = driver.do(
                    "connect",
                    ports=system.ports,
                    count=STORM,
                    prefix=f"s{number}-",
                    at_a_time=STORM_AT_A_TIME,
                )
                used_s = system.cpu_s() - before_s
                driver.do("disconnect")
            cost_us = 1e6 * used_s / STORM
            rate = STORM / result["seconds"]
            self.samples.append(Sample(STORM_PHASE.name, system.name, number, cost_us, rate))

    # --- results -----------------------------------------------------------------------------

    def of(self, phase: str, system: str) -> list[Sample]:
        return [s for s in self.samples if s.phase == phase and s.system == system]

    def median_cost_us(self, phase: str, system: str) -> float:
        return statistics.median(sample.cost_us for sample in self.of(phase, system))

    def ratio(self, phase: str, system: str, base: str) -> float:
        """Return the median over the rounds of the cost on `system` divided by that on `base`."""
        pairs = zip(self.of(phase, system), self.of(phase, base), strict=True)
        return statistics.median(ours.cost_us / theirs.cost_us for ours, theirs in pairs)


@dataclass(frozen=True)
class Idle:
    """What idle users cost."""

    system: str
    connections: int
    bytes_each: float
    heartbeat_cpu_share: float
    """Of one core, with every user sending a heartbeat each 30 s."""
    cost_us: float
    """CPU a message at saturation, among so many idle users."""


def measure_idle(
    system: System, connections: int, seconds: float, heartbeat_s: float = 30.0
) -> Idle:
    """Connect many users to fresh gateways; weigh them, let them live, and talk among them."""
    with system, Driver() as driver:
        driver.do("connect", ports=system.ports, count=USERS, prefix="u", at_a_time=64)
        driver.do("closed", shape="cross", in_flight=64, size=64, seconds=1)
        driver.do("disconnect")
        empty = system.memory_bytes()
        driver.do("connect", ports=system.ports, count=connections, prefix="u", at_a_time=64)
        each = (system.memory_bytes() - empty) / connections
        before_s = system.cpu_s()
        beat = driver.do("beat", seconds=seconds, heartbeat_s=heartbeat_s)
        share = (system.cpu_s() - before_s) / beat["seconds"]
        before_s = system.cpu_s()
        result = driver.do("closed", shape="cross", in_flight=64, size=64, seconds=2)
        cost_us = 1e6 * (system.cpu_s() - before_s) / max(1, result["delivered"])
        driver.do("disconnect")
    return Idle(system.name, connections, each, share, cost_us)
