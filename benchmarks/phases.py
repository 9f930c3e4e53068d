"""Measurement: what is measured in each phase, and how is one number made of it?

Each round runs every phase on every system, one after the other, so that a slow minute of the
machine is a slow minute for all. A ratio is taken within a round; what is reported is the median
of the rounds' ratios. CPU is user and system time of the gateway processes, both together.
"""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.systems import Failed, LoadProcess, System

USERS = 200
CONTENT_BYTES = 64
IN_FLIGHT = 64
STORM = 500
STORM_AT_A_TIME = 64
SETTLE_S = 0.3
"""Pause after many users have left, so that the next system does not pay for their closing."""

Say = Callable[[str], None]
"""Takes the text of the progress line."""


@dataclass(frozen=True)
class BenchPhase:
    """One thing to measure: a name, what the load does, and the plan for it."""

    name: str
    action: str
    plan: Mapping[str, Any]


def message_phases(seconds: float) -> list[BenchPhase]:
    """Return the phases that send messages."""
    closed = {"in_flight": IN_FLIGHT, "size": CONTENT_BYTES, "seconds": seconds}
    opened = {"shape": "cross", "size": CONTENT_BYTES, "seconds": seconds}
    return [
        BenchPhase("saturation", "closed", {**closed, "shape": "cross"}),
        BenchPhase("1,000 a second", "open", {**opened, "rate": 1000}),
        BenchPhase("4,000 a second", "open", {**opened, "rate": 4000}),
        BenchPhase("same gateway", "closed", {**closed, "shape": "local"}),
        BenchPhase("hot user", "closed", {**closed, "shape": "hot"}),
    ]


STORM_PHASE = BenchPhase("registration storm", "connect", {})


@dataclass
class Measurement:
    """The measurements of one phase on one system in one round."""

    phase: str
    system: str
    round: int
    cost_us: float
    """CPU of the gateways per message or registration (µs)."""
    rate: float
    """Messages or registrations a second."""
    lost: int = 0
    latencies_us: list[int] = field(default_factory=list)

    def percentile_ms(self, share: float) -> float:
        """Return a latency percentile (nearest rank); NaN without latencies."""
        return percentile(self.latencies_us, share) / 1000


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which this share of them lies (nearest rank); NaN without values."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Bench:
    """The systems under test with their loads, and the samples so far."""

    def __init__(self, systems: Sequence[System], drivers: Mapping[str, LoadProcess]) -> None:
        self.systems = systems
        self.drivers = drivers
        self.samples: list[Measurement] = []

    def connect_all(self, users: int) -> None:
        for system in self.systems:
            self.drivers[system.name].do(
                "connect", ports=system.ports, count=users, prefix="u", at_a_time=STORM_AT_A_TIME
            )

    def run_round(self, number: int, phases: Sequence[BenchPhase], say: Say) -> None:
        """Run every phase on every system, interleaved; every other round backwards."""
        for phase in phases:
            for system in self.systems[:: 1 if number % 2 else -1]:
                say(f"round {number}: {phase.name}, {system.name}")
                self.samples.append(measure(phase, system, self.drivers[system.name], number))

    def run_storm(self, number: int, say: Say) -> None:
        """Let new users register on every system, as fast as they can, and leave again."""
        for system in self.systems[:: 1 if number % 2 else -1]:
            say(f"round {number}: {STORM_PHASE.name}, {system.name}")
            with LoadProcess(system.name) as driver:
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
            time.sleep(SETTLE_S)
            cost_us = 1e6 * used_s / STORM
            rate = STORM / result["seconds"]
            self.samples.append(Measurement(STORM_PHASE.name, system.name, number, cost_us, rate))

    # --- results -----------------------------------------------------------------------------

    def of(self, phase: str, system: str) -> list[Measurement]:
        return [s for s in self.samples if s.phase == phase and s.system == system]

    def median_cost_us(self, phase: str, system: str) -> float:
        return statistics.median(sample.cost_us for sample in self.of(phase, system))

    def median_rate(self, phase: str, system: str) -> float:
        return statistics.median(sample.rate for sample in self.of(phase, system))

    def ratio(self, phase: str, system: str, base: str) -> float:
        """Return the median over the rounds of the cost on `system` divided by that on `base`."""
        return statistics.median(self.ratios(phase, system, base))

    def ratios(self, phase: str, system: str, base: str) -> list[float]:
        """Return the ratio of each round."""
        by_round = {sample.round: sample.cost_us for sample in self.of(phase, base)}
        return [sample.cost_us / by_round[sample.round] for sample in self.of(phase, system)]

    def percentile_ms(self, phase: str, system: str, share: float) -> float:
        """Return the median over the rounds of a percentile: one bad moment spoils one round.

        It is that of one of the rounds, also of an even number: the one that is drawn.
        """
        return statistics.median_low(s.percentile_ms(share) for s in self.of(phase, system))


def measure(phase: BenchPhase, system: System, driver: LoadProcess, number: int) -> Measurement:
    """Run one phase of messages on one system.

    Raises:
        Failed: a gateway ended, users were thrown out, or nothing arrived.
    """
    before_s = system.cpu_s()
    result = driver.do(phase.action, **phase.plan)
    used_s = system.cpu_s() - before_s
    if result["cut"]:
        raise Failed(f"{phase.name}, {system.name}: {result['cut']} users were thrown out")
    if not result["delivered"]:
        raise Failed(f"{phase.name}, {system.name}: no message arrived")
    return Measurement(
        phase.name,
        system.name,
        number,
        1e6 * used_s / result["delivered"],
        result["in_time"] / result["seconds"],
        result["lost"],
        result["latencies_us"],
    )


# --- idle users ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Idle:
    """What idle users cost."""

    system: str
    connections: int
    bytes_each: float
    heartbeat_cpu_share: float
    """Of one core, both gateways together, with every user sending a heartbeat each 30 s."""
    refreshes: int | None
    """Leases renewed meanwhile, where the system tells: the share would mean little without."""


@dataclass(frozen=True)
class Growth:
    """What a message at saturation costs among few users and among many, in turns."""

    system: str
    few: int
    many: int
    few_us: float
    many_us: float
    ratio: float
    """Many to few; the median of the rounds' ratios."""
    ratio_of_messages: float
    """The same without the cost of the heartbeats of the many: `Idle.heartbeat_cpu_share`."""
    ratios: list[float]
    """Of each round."""


def weigh(system: System, driver: LoadProcess, connections: int) -> float:
    """Connect so many users, who stay; return the memory that each takes (bytes).

    The first half are not measured: memory that a process takes once, or had freed after its first
    messages and now uses again, does not belong to a user.
    """
    plan = {"ports": system.ports, "prefix": "u", "at_a_time": STORM_AT_A_TIME}
    half = connections // 2
    driver.do("connect", count=half, **plan)
    driver.do("closed", shape="cross", in_flight=IN_FLIGHT, size=CONTENT_BYTES, seconds=0.5)
    before = system.memory_bytes()
    driver.do("connect", count=connections - half, first=half, **plan)
    return (system.memory_bytes() - before) / (connections - half)


def measure_idle(
    systems: Sequence[System],
    drivers: Mapping[str, LoadProcess],
    connections: int,
    seconds: float,
    say: Say,
) -> list[Idle]:
    """Connect many users to fresh gateways, measure their memory, and let them send heartbeats for
    a while. All systems run at the same time: nearly all of it is waiting, and CPU is counted by
    process.
    """
    weights = {}
    for system in systems:
        say(f"{connections:,} idle users on {system.name}")
        weights[system.name] = weigh(system, drivers[system.name], connections)
    say(f"{connections:,} idle users, {seconds:g} s of heartbeats")
    before = {system.name: (system.cpu_s(), refreshes(system)) for system in systems}
    for system in systems:
        drivers[system.name].start("live", seconds=seconds)
    result = []
    for system in systems:
        lived = drivers[system.name].result(seconds + 30)
        before_s, before_count = before[system.name]
        share = (system.cpu_s() - before_s) / lived["seconds"]
        count = refreshes(system)
        renewed = None if count is None or before_count is None else count - before_count
        result.append(Idle(system.name, connections, weights[system.name], share, renewed))
    return result


def refreshes(system: System) -> int | None:
    """Return how many leases its gateways have renewed so far; None when they do not count them."""
    return counted(system, "refreshes_ok")


def counted(system: System, name: str) -> int | None:
    """Return a counter of `/stats`, of all gateways together; None when they have no such page."""
    total = 0
    for port in system.ports:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=10) as page:
                total += json.load(page)["counters"][name]
        except OSError:
            return None
    return total


def measure_growth(
    few: tuple[System, LoadProcess, int],
    many: tuple[System, LoadProcess, int],
    living: float,
    rounds: int,
    seconds: float,
    say: Say,
) -> Growth:
    """Let as many users talk on a system with few users as on one with many; compare the cost.

    Each of the two is a system, its load, and how many users that has connected. `living` is the
    share of a core that the many cost without any message.
    """
    phase = message_phases(seconds)[0]
    samples: tuple[list[Measurement], list[Measurement]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            system, driver, users = (few, many)[which]
            say(f"a message among {users:,} users, round {number + 1}")
            samples[which].append(measure(phase, system, driver, number))
    pairs = list(zip(*samples, strict=True))
    ratios = [b.cost_us / a.cost_us for a, b in pairs]
    return Growth(
        few[0].name,
        few[2],
        many[2],
        statistics.median(a.cost_us for a, _ in pairs),
        statistics.median(b.cost_us for _, b in pairs),
        statistics.median(ratios),
        statistics.median((b.cost_us - 1e6 * living / b.rate) / a.cost_us for a, b in pairs),
        ratios,
    )
