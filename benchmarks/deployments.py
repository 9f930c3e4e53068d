"""Deployments: what does a message cost on a cluster of Redis, or with workers, beside one server?

Every system has two gateways, and all of them run at once. One measurement follows the other, in
turns, every other round backwards; a ratio is taken within a round. The CPU is that of the
processes themselves; the load does not count. What processes use while nobody talks is measured as
well, on all systems at once, and told beside the cost of a message. It is not taken off.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.features import middle_half
from benchmarks.phases import CONTENT_BYTES, IN_FLIGHT, USERS, Say
from benchmarks.systems import Failed, LoadProcess, System, cpu_s_of, quiet
from benchmarks.workers import Workers

FREE: Final = ("--messages-per-s", "1000000", "--message-burst", "1000000")
"""The limit of messages is there, and counts, but is set out of reach."""
BASE: Final = "one server"
BEFORE: Final = "one server, the code before"
CLUSTERS: Final = {
    "cluster of 1": (1, 0),
    "cluster of 3": (3, 0),
    "cluster of 3 + 3 replicas": (3, 1),
}
TWO_WORKERS: Final = "one server, 2 workers a gateway"
SATURATION: Final = "64 in flight"
RATE: Final = 2_000
STEADY: Final = "2,000 a second"
UNCHANGED: Final = 1.02
"""The most that one server may cost, as a multiple of what it cost before."""


@dataclass(frozen=True)
class MessageCost:
    """One measurement: CPU of each process, in microseconds for each message that arrived."""

    gateways_us: list[float]
    primaries_us: list[float]
    replicas_us: list[float]
    per_s: float
    """Messages that arrived in a second."""

    @property
    def parts(self) -> dict[str, float]:
        """Return the sums."""
        gateways, primaries = sum(self.gateways_us), sum(self.primaries_us)
        replicas = sum(self.replicas_us)
        return {
            "gateways": gateways,
            "primaries": primaries,
            "replicas": replicas,
            "servers": primaries + replicas,
            "all": gateways + primaries + replicas,
        }


@dataclass
class DeploymentCosts:
    """All measurements: by phase and system, one of each round."""

    samples: dict[str, dict[str, list[MessageCost]]] = field(default_factory=dict)
    rest: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """Of each system: shares of a core that gateways and servers use while nobody talks."""

    def ratios(self, phase: str, name: str, base: str = BASE, part: str = "all") -> list[float]:
        """Return the ratio of each round."""
        of = self.samples[phase]
        pairs = zip(of[name], of[base], strict=True)
        return [mine.parts[part] / other.parts[part] for mine, other in pairs]

    def median(self, phase: str, name: str, part: str) -> float:
        """Return the median of a sum, in microseconds."""
        return statistics.median(cost.parts[part] for cost in self.samples[phase][name])


def deployments(before: Path | None) -> list[System]:
    """Return the systems to compare, not started yet; the first is the one server."""
    found = [_quiet(BASE)]
    if before is not None:
        found.append(_quiet(BEFORE, checkout=before))
    for name, (primaries, replicas) in CLUSTERS.items():
        found.append(_quiet(name, primaries=primaries, replicas=replicas))
    flags = ("--workers", "2")
    found.append(Workers(TWO_WORKERS, quiet(*FREE, *flags).command, workers=2))
    return found


def _quiet(
    name: str, primaries: int = 0, replicas: int = 0, checkout: Path | None = None
) -> System:
    command = quiet(*FREE).command
    return System(name, command, primaries=primaries, replicas=replicas, checkout=checkout)


def measure_deployments(
    systems: Sequence[System], rounds: int, seconds: float, say: Say
) -> DeploymentCosts:
    """Start the systems, let their users talk, and measure in turns."""
    costs = DeploymentCosts()
    # A round may begin with the last one: the order of the table is that of the systems.
    names = [system.name for system in systems]
    with contextlib.ExitStack() as stack:
        loads = [_start(system, stack, say) for system in systems]
        phases: list[tuple[str, str, dict[str, Any]]] = [
            (SATURATION, "closed", {"in_flight": IN_FLIGHT}),
            (STEADY, "open", {"rate": RATE}),
        ]
        for number in range(rounds):
            order = list(zip(systems, loads, strict=True))[:: 1 if number % 2 else -1]
            for phase, action, plan in phases:
                of = costs.samples.setdefault(phase, {name: [] for name in names})
                for system, load in order:
                    say(f"round {number + 1} of {rounds}: {phase}, {system.name}")
                    cost = _talk(system, load, action, {**plan, "seconds": seconds})
                    of[system.name].append(cost)
            say(f"round {number + 1} of {rounds}: nobody talks")
            for name, shares in _rest(systems, seconds).items():
                costs.rest.setdefault(name, []).append(shares)
    return costs


def _start(system: System, stack: contextlib.ExitStack, say: Say) -> LoadProcess:
    say(f"starting {system.name}")
    stack.enter_context(system)
    if isinstance(system, Workers):
        system.settle(0)
    load = stack.enter_context(LoadProcess(system.name))
    load.do("connect", ports=system.ports, count=USERS, prefix="u", at_a_time=IN_FLIGHT)
    return load


def _pids(system: System) -> tuple[list[int], list[int], list[int]]:
    """Return the processes: those that serve users, primaries, replicas."""
    mine = system.pids() if isinstance(system, Workers) else [p.pid for p in system.processes]
    servers, primaries = system.redis_pids(), system.primaries or 1
    return mine, servers[:primaries], servers[primaries:]


def _metered(system: System) -> Callable[[], list[list[float]]]:
    """Return what tells the CPU seconds of each process since now."""
    system.check()
    groups = _pids(system)
    before = [[cpu_s_of(pid) for pid in group] for group in groups]

    def used() -> list[list[float]]:
        system.check()
        return [
            [cpu_s_of(pid) - then for pid, then in zip(group, thens, strict=True)]
            for group, thens in zip(groups, before, strict=True)
        ]

    return used


def _talk(system: System, load: LoadProcess, action: str, plan: dict[str, Any]) -> MessageCost:
    used = _metered(system)
    result = load.do(action, shape="cross", size=CONTENT_BYTES, **plan)
    gateways, primaries, replicas = used()
    count = result["delivered"]
    if result["cut"] or result["lost"] or not count:
        what = {key: result[key] for key in ("cut", "lost", "delivered")}
        raise Failed(f"{action} on {system.name}: {what}")
    each_us = [[1e6 * s / count for s in group] for group in (gateways, primaries, replicas)]
    return MessageCost(each_us[0], each_us[1], each_us[2], result["in_time"] / result["seconds"])


def _rest(systems: Sequence[System], seconds: float) -> dict[str, dict[str, float]]:
    meters = {system.name: _metered(system) for system in systems}
    started = time.monotonic()
    time.sleep(seconds)
    found = {}
    for name, used in meters.items():
        gateways, *servers = used()
        lasted = time.monotonic() - started
        found[name] = {
            "gateways": sum(gateways) / lasted,
            "servers": sum(map(sum, servers)) / lasted,
        }
    return found


# --- what is shown -------------------------------------------------------------------------------


def deployment_lines(costs: DeploymentCosts) -> list[str]:
    """Return the tables, one for each phase."""
    lines = []
    for phase, of in costs.samples.items():
        lines += [
            f"**{phase}**, CPU of a message in µs by median; ratios to one server, middle half",
            "",
            "| system | gateways | primaries | replicas | gateways, times | servers, times "
            "| all, times | messages/s | one core for each process carries |",
            "|---|---|---|---|---|---|---|---|---|",
            *(_line(costs, phase, name) for name in of),
            "",
        ]
    lines += ["| nobody talks | gateways, % of a core | servers |", "|---|---|---|"]
    for name, shares in costs.rest.items():
        gateways, servers = (
            100 * statistics.median(one[part] for one in shares) for part in ("gateways", "servers")
        )
        lines.append(f"| {name} | {gateways:.2f} | {servers:.2f} |")
    if BEFORE in costs.samples.get(SATURATION, {}):
        lines += ["", *before_lines(costs)]
    return lines


def _line(costs: DeploymentCosts, phase: str, name: str) -> str:
    samples = costs.samples[phase][name]
    sums = [costs.median(phase, name, part) for part in ("gateways", "primaries", "replicas")]
    ratios = [
        shown(costs.ratios(phase, name, part=part)) for part in ("gateways", "servers", "all")
    ]
    busiest = statistics.median(
        max(*one.gateways_us, *one.primaries_us, *one.replicas_us) for one in samples
    )
    per_s = statistics.median(one.per_s for one in samples)
    cells = [name, *(f"{us:.1f}" for us in sums), *ratios, f"{per_s:,.0f}", f"{1e6 / busiest:,.0f}"]
    return f"| {' | '.join(cells)} |"


def before_lines(costs: DeploymentCosts) -> list[str]:
    """Return how many times the cost of before one server has now."""
    return [
        f"one server, now / before, {phase}: {shown(costs.ratios(phase, BASE, BEFORE))}; "
        f"target: at most {UNCHANGED:g}"
        for phase in costs.samples
    ]


def shown(ratios: Sequence[float]) -> str:
    """Return the median, with the middle half."""
    low, high = middle_half(ratios)
    return f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"


def deployment_document(costs: DeploymentCosts) -> dict[str, Any]:
    """Return everything that was measured."""
    return {
        "samples": {
            phase: {name: [asdict(one) for one in samples] for name, samples in of.items()}
            for phase, of in costs.samples.items()
        },
        "rest": costs.rest,
    }
