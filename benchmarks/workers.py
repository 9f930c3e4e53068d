"""Workers: what do two of them behind one port carry, beside one process?

A machine with two cores cannot show it by the clock: the load and Redis need cores too. So it is
computed from CPU time. A process that uses c seconds of CPU for each message of the whole can
carry 1/c messages a second on a core of its own, and the busiest worker is the first one without
room. Both systems are measured in turns, at the same rate of messages for each worker: at a lower
one, fewer messages share a write, and each costs more.

It matters who writes to whom. Between users of two gateways every message crosses, with workers and
without. Among the users of one gateway a message stays in the process, and asks nothing of Redis;
with two workers, half of those cross.

It says too how evenly the kernel spreads users, at first and after the
restart of a worker, and what memory a worker adds.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.phases import CONTENT_BYTES, Say
from benchmarks.systems import Failed, LoadProcess, System, cpu_s_of, wsdemo

RATE = 2_500
"""Messages a second for each worker."""
START_S = 20.0
TARGET = 1.7


@dataclass
class Workers(System):
    """Gateways, each a parent and its workers, or one process, which is its own only worker."""

    workers: int = 1

    def pids(self) -> list[int]:
        """Return the processes that serve users."""
        found = []
        for process in self.processes:
            children = [child.pid for child in psutil.Process(process.pid).children()]
            found += children or [process.pid]
        return found

    def stats(self) -> list[dict[str, Any]]:
        """Return what `/stats` says of each worker."""
        found: list[dict[str, Any]] = []
        for port in self.ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=10) as page:
                document = json.load(page)
                found += document.get("workers", [document])
        return found

    def settle(self, users: int) -> list[int]:
        """Wait until all workers are there and count so many users; return those of each."""
        gives_up_at = time.monotonic() + START_S
        while time.monotonic() < gives_up_at:
            with contextlib.suppress(OSError):
                found = [one["connections"] for one in self.stats()]
                if len(found) == self.workers * self.gateways and sum(found) == users:
                    return found
            time.sleep(0.1)
        raise Failed(f"{self.name}: {users} users were not counted within {START_S:g} s")


def several(workers: int, gateways: int) -> Workers:
    """Return a system of one port or two."""
    flags = ("--workers", str(workers)) if workers > 1 else ()
    name = "1 process" if workers == 1 else f"{workers} workers"
    return Workers(name, wsdemo(*flags, *_room()).command, gateways=gateways, workers=workers)


def _room() -> tuple[str, ...]:
    return ("--messages-per-s", "10000", "--message-burst", "20000")


@dataclass(frozen=True)
class Round:
    """What one phase of messages cost: CPU of each worker, in microseconds a message."""

    cost_us: list[float]

    @property
    def capacity(self) -> float:
        """Messages a second at which the busiest worker has no room left on its core."""
        return 1e6 / max(self.cost_us)


def measure_round(system: Workers, driver: LoadProcess, seconds: float) -> Round:
    """Let users talk for a while."""
    system.check()
    before = {pid: cpu_s_of(pid) for pid in system.pids()}
    result = driver.do(
        "open",
        shape="cross",
        rate=RATE * system.workers * system.gateways,
        size=CONTENT_BYTES,
        seconds=seconds,
    )
    if not result["delivered"] or result["lost"]:
        raise Failed(f"{system.name}: {result['delivered']} messages arrived, {result['lost']} not")
    used = [cpu_s_of(pid) - before_s for pid, before_s in before.items()]
    return Round([1e6 * used_s / result["delivered"] for used_s in used])


@dataclass(frozen=True)
class Spread:
    """How evenly users are spread: those of the fullest worker over the mean."""

    first: float
    after_restart: float


def spread(counts: Sequence[int]) -> float:
    """Return fullest / mean."""
    return max(counts) / statistics.mean(counts)


def measure_spread(system: Workers, users: int) -> Spread:
    """Restart one worker, and let as many users come back as it had."""
    first = system.settle(users)
    victim = system.stats()[0]
    os.kill(victim["pid"], signal.SIGKILL)
    left = users - victim["connections"]
    system.settle(left)
    plan = {"ports": system.ports, "prefix": "v", "at_a_time": 50}
    with LoadProcess("those who come back") as others:
        others.do("connect", count=victim["connections"], **plan)
        return Spread(spread(first), spread(system.settle(users)))


def own_memory(system: Workers) -> list[float]:
    """Return the memory that is each worker's own, in MiB."""
    return [psutil.Process(pid).memory_full_info().uss / 2**20 for pid in system.pids()]


@dataclass(frozen=True)
class Comparison:
    """One process a gateway beside two workers a gateway, round by round."""

    title: str
    one: list[Round]
    two: list[Round]

    @property
    def ratios(self) -> list[float]:
        """How many times the messages of one process two workers carry."""
        return [two.capacity / one.capacity for one, two in zip(self.one, self.two, strict=True)]

    def lines(self) -> list[str]:
        """Return the rows of the table."""
        ratios = self.ratios
        shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        return [
            f"| {self.title} | {_cost(self.one)} | {_cost(self.two)} | {shown} |",
        ]


def _cost(rounds: Sequence[Round]) -> str:
    return f"{statistics.median(sum(one.cost_us) for one in rounds):.1f} us"


class Extra:
    """What is told of the workers of one port, beside the messages."""

    def __init__(self, memory: Sequence[float], spreads: Spread, users: int) -> None:
        self.lines = [
            f"{users:,} users on 2 workers, fullest / mean: {spreads.first:.3f}; after a restart "
            f"of one, when its users are back: {spreads.after_restart:.3f}",
            f"memory of its own, before any user: {', '.join(f'{mib:.1f}' for mib in memory)} MiB",
        ]


def compare(
    title: str, gateways: int, rounds: int, seconds: float, users: int, say: Say
) -> tuple[Comparison, Extra | None]:
    """Measure both systems in turns; for one gateway, spread and memory of its workers as well."""
    with contextlib.ExitStack() as stack:
        systems = [stack.enter_context(several(workers, gateways)) for workers in (1, 2)]
        for system in systems:
            system.settle(0)
        memory = own_memory(systems[1])
        drivers = [stack.enter_context(LoadProcess(system.name)) for system in systems]
        for system, driver in zip(systems, drivers, strict=True):
            say(f"connecting {users:,} users to {system.name}")
            driver.do("connect", ports=system.ports, count=users, prefix="u", at_a_time=50)
        found: list[list[Round]] = [[], []]
        for number in range(rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                say(f"{title}, round {number + 1} of {rounds}: {systems[which].name}")
                found[which].append(measure_round(systems[which], drivers[which], seconds))
        comparison = Comparison(title, *found)
        if gateways > 1:
            return comparison, None
        say("restarting a worker")
        return comparison, Extra(memory, measure_spread(systems[1], users), users)


def measure_workers(rounds: int, seconds: float, users: int, say: Say) -> str:
    """Measure all of it; return the report."""
    extent = (rounds, seconds, users, say)
    across, _ = compare("to users of another gateway", 2, *extent)
    within, extra = compare("to users of the same gateway", 1, *extent)
    lines = [
        "| messages | CPU of 1 process each | of 2 workers each | 2 workers carry, times |",
        "|---|---|---|---|",
        *across.lines(),
        *within.lines(),
        "",
        f"CPU of all gateways together, per message; target: {TARGET:g} times",
    ]
    return "\n".join([*lines, *(extra.lines if extra else ())])
