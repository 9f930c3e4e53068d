"""Benchmark, `python -m benchmarks`: what does a message cost, beside the plain port, in one run?

Ours as people start it, with a log line for every message, in a file; the plain port, which logs
none; and "quiet", which is ours with `--log-level warning`.

Some six minutes, bounded; progress on stderr, the table on stdout, details and pictures in
a directory. Ratios carry over to other machines, absolute figures do not. Exit code 1: a message or
a register costs as much as in the plain port (at saturation: half as much), or more; 2: the
measurement failed, and one line says why.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import attack, report, scale
from benchmarks.floors import pubsub
from benchmarks.load import allow_many_files
from benchmarks.phases import (
    CONTENT_BYTES,
    IN_FLIGHT,
    USERS,
    Bench,
    Growth,
    Idle,
    Say,
    measure_growth,
    measure_idle,
    message_phases,
)
from benchmarks.report import Results
from benchmarks.running import running
from benchmarks.steps import count_steps
from benchmarks.systems import Failed, LoadProcess, System, echo, plain, quiet, wsdemo
from wsdemo.command_line import Parser, new_directory, positive_float, positive_int
from wsdemo.gateway.__main__ import loop_factory
from wsdemo.redis.server import BundledServer

SPARE_FILES = 200
"""Open files of a process that are not its users."""


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    rounds: int
    seconds: float
    """Of each phase."""
    idle_users: int
    idle_seconds: float
    growth_rounds: int
    attack_rounds: int
    attack_seconds: float
    floor_messages: int
    floor_seconds: float


NORMAL = Extent(
    rounds=5,
    seconds=2.0,
    idle_users=5_000,
    idle_seconds=30.0,
    growth_rounds=11,
    attack_rounds=3,
    attack_seconds=2.0,
    floor_messages=30_000,
    floor_seconds=2.0,
)
SMOKE = Extent(
    rounds=1,
    seconds=0.7,
    idle_users=300,
    idle_seconds=1.0,
    growth_rounds=1,
    attack_rounds=1,
    attack_seconds=0.5,
    floor_messages=3_000,
    floor_seconds=0.5,
)
BIG_IDLE_USERS = 20_000


def floors(extent: Extent, say: Say) -> dict[str, float]:
    """Measure the two floors."""
    say("floor: publish and subscribe")
    with BundledServer() as server:
        heard = asyncio.run(
            pubsub(server.url, extent.floor_messages, IN_FLIGHT, size=CONTENT_BYTES)
        )
    say("floor: echo")
    with echo() as system, LoadProcess("the floor") as driver:
        driver.do("connect", ports=system.ports, count=USERS, prefix="u", at_a_time=IN_FLIGHT)
        before_s = system.cpu_s()
        result = driver.do(
            "closed",
            shape="cross",
            in_flight=IN_FLIGHT,
            size=CONTENT_BYTES,
            seconds=extent.floor_seconds,
        )
        used_s = system.cpu_s() - before_s
    if not result["delivered"]:
        raise Failed("floor, echo: nothing came back")
    return {
        "PUBLISH and hear it": heard["cpu_us"],
        "WebSocket echo": 1e6 * used_s / result["delivered"],
    }


def run(
    makers: Sequence[Callable[[], System]], extent: Extent, say: Say
) -> tuple[Bench, list[Idle], Growth]:
    """Measure the systems side by side; the first is ours, whose growth is looked at too."""
    with contextlib.ExitStack() as stack:
        bench = _start([make() for make in makers], stack, say)
        bench.connect_all(USERS)
        for number in range(1, extent.rounds + 1):
            bench.run_round(number, message_phases(extent.seconds), say)
            bench.run_storm(number, say)
        full = _start([make() for make in makers], stack, say)
        idle = measure_idle(full.systems, full.drivers, extent.idle_users, extent.idle_seconds, say)
        growth = measure_growth(
            (bench.systems[0], bench.drivers[bench.systems[0].name], USERS),
            (full.systems[0], full.drivers[full.systems[0].name], extent.idle_users),
            idle[0].heartbeat_cpu_share,
            extent.growth_rounds,
            extent.seconds,
            say,
        )
    return bench, idle, growth


def _start(systems: Sequence[System], stack: contextlib.ExitStack, say: Say) -> Bench:
    """Start the systems and a load for each; the stack ends them."""
    for system in systems:
        say(f"starting {system.name}")
        stack.enter_context(system)
    return Bench(
        systems, {system.name: stack.enter_context(LoadProcess(system.name)) for system in systems}
    )


def ours(idle_users: int, make: Callable[..., System] = wsdemo) -> System:
    """Return ours, with room for the idle users.

    The hundred senders of the hot user may be faster than the usual limit of messages, on a fast
    machine: it is there, and counts, but is set out of reach.
    """
    room = ("--max-connections", str(max(10_000, idle_users)))
    return make(*room, "--messages-per-s", "10000", "--message-burst", "20000")


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser("benchmarks", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=positive_int, help=f"of all phases ({NORMAL.rounds})")
    add("--seconds", type=positive_float, help=f"a phase, 0.1 to 60 ({NORMAL.seconds:g})")
    add("--idle", type=positive_int, help=f"idle users ({NORMAL.idle_users})")
    add("--big", action="store_true", help=f"{BIG_IDLE_USERS} idle users, some minutes more")
    add("--smoke", action="store_true", help="20 s: does it run, is it cheaper?")
    add(
        "--out",
        type=new_directory,
        default=Path("benchmarks/results"),
        help="directory (%(default)s)",
    )
    arguments = parser.read(argv)
    if arguments.seconds is not None and not 0.1 <= arguments.seconds <= 60:
        parser.error("--seconds must be between 0.1 and 60")
    if arguments.idle is not None and arguments.idle <= USERS:
        parser.error(f"--idle must be more than {USERS}")
    return arguments


def extent_of(arguments: argparse.Namespace) -> Extent:
    """Return how much the command line asks for."""
    base = SMOKE if arguments.smoke else NORMAL
    given = {"rounds": arguments.rounds, "seconds": arguments.seconds, "idle_users": arguments.idle}
    if arguments.big:
        given["idle_users"] = BIG_IDLE_USERS
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "scale":
        return scale.main(argv[1:])
    arguments = arguments_of(argv)
    extent = extent_of(arguments)
    with running() as say:
        allow_many_files(max(extent.idle_users, USERS) + SPARE_FILES)
        arguments.out.mkdir(parents=True, exist_ok=True)
        floor = floors(extent, say)
        makers = (
            lambda: ours(extent.idle_users),
            plain,
            lambda: ours(extent.idle_users, quiet),
        )
        bench, idle, growth = run(makers, extent, say)
        attacks = attack.measure_attacks(extent.attack_rounds, extent.attack_seconds, say)
        say("drawing")
        say("counting steps")
        results = Results(bench, idle, growth, floor, attacks, count_steps(loop_factory()))
        report.write(arguments.out, results)
    print(report.table(results))
    print(f"details and pictures: {arguments.out}/")
    too_dear = results.too_dear()
    if too_dear:
        print(f"too dear, beside the plain port: {', '.join(too_dear)}", file=sys.stderr)
    return 1 if too_dear else 0


if __name__ == "__main__":
    sys.exit(main())
