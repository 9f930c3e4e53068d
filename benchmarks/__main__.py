"""python -m benchmarks: what does a message cost, beside the plain port, in this very run?

A few minutes, bounded; progress on stderr, the table on stdout, details and pictures in a
directory. Ratios carry over to other machines, absolute figures do not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from pathlib import Path

from benchmarks import report
from benchmarks.floors import pubsub
from benchmarks.load import allow_many_files
from benchmarks.phases import USERS, Bench, Idle, measure_idle, message_phases
from benchmarks.systems import Driver, System, echo, plain, wsdemo
from wsdemo.redis.server import BundledServer

OURS, BASE = "wsdemo", "plain port"


class Progress:
    """One line on stderr, rewritten at most four times a second; silent when nobody looks."""

    def __init__(self) -> None:
        self._last = 0.0
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._last > 0.25:
            self._last = now
            print(f"\r\033[K{now - self._started:4.0f} s  {text}", end="", file=sys.stderr)

    def done(self) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)


def floors(say: Progress) -> dict[str, float]:
    """Measure the two floors."""
    say("floor: publish and subscribe")
    with BundledServer() as server:
        publish_us = asyncio.run(pubsub(server.url, 30_000, 64, 64))["cpu_us"]
    say("floor: echo")
    with echo() as system, Driver() as driver:
        driver.do("connect", ports=system.ports, count=USERS, prefix="u", at_a_time=64)
        before_s = system.cpu_s()
        result = driver.do("closed", shape="cross", in_flight=64, size=64, seconds=2)
        echo_us = 1e6 * (system.cpu_s() - before_s) / max(1, result["delivered"])
    return {"PUBLISH and hear it": publish_us, "WebSocket echo": echo_us}


def run(rounds: int, seconds: float, idle_users: int, say: Progress) -> tuple[Bench, list[Idle]]:
    """Measure both systems."""
    systems: list[System] = [wsdemo(), plain()]
    with contextlib.ExitStack() as stack:
        for system in systems:
            say(f"starting {system.name}")
            stack.enter_context(system)
        drivers = {system.name: stack.enter_context(Driver()) for system in systems}
        bench = Bench(systems, drivers)
        bench.connect_all(USERS)
        for number in range(1, rounds + 1):
            bench.run_round(number, message_phases(seconds), say)
            bench.run_storm(number, say)
    idle = []
    for make in (wsdemo, plain) if idle_users else ():
        system = make()
        say(f"{idle_users:,} idle users on {system.name}")
        idle.append(measure_idle(system, idle_users, seconds=10.0))
    return bench, idle


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.0, help="a phase (%(default)s)")
    parser.add_argument("--idle", type=int, default=5_000, help="idle users (%(default)s)")
    parser.add_argument("--big", action="store_true", help="20,000 idle users")
    parser.add_argument("--smoke", action="store_true", help="20 s: does it run, is it cheaper?")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    allow_many_files()
    say = Progress()
    if arguments.smoke:
        bench, idle = run(1, 1.0, 0, say)
        floor: dict[str, float] = {}
    else:
        floor = floors(say)
        idle_users = 20_000 if arguments.big else arguments.idle
        bench, idle = run(arguments.rounds, arguments.seconds, idle_users, say)
    say.done()
    print(report.table(bench, OURS, BASE, idle, floor))
    content = report.document(bench, OURS, BASE, idle, floor)
    report.write(arguments.out, content, report.figures(bench, OURS, BASE, idle))
    print(f"details and pictures: {arguments.out}/")
    dearer = [phase for phase, ratio in content["ratios"].items() if ratio >= 1]
    if dearer:
        print(f"dearer than the plain port: {', '.join(dearer)}", file=sys.stderr)
    return 1 if dearer else 0


if __name__ == "__main__":
    sys.exit(main())
