"""python -m wsdemo.proof.chaos: break real processes at random, and check every promise.

Exit code 0 when everything was allowed and everything wanted happened, 1 when not, and the seed
is printed. SIGINT and SIGTERM end the run early, and every process of it: exit code 130 or 143.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from wsdemo.command_line import Parser, fail, new_directory, new_file, positive_float, whole_number
from wsdemo.proof.chaos import report
from wsdemo.proof.chaos.deployment import USUAL, Deployment, add_deployment
from wsdemo.proof.chaos.result import ChaosResult
from wsdemo.proof.chaos.run import run
from wsdemo.proof.mix import PLAIN_MIX, FeatureMix, add_features
from wsdemo.redis.server import ServerError
from wsdemo.terminal import never_refuse_text

PROGRAM = "wsdemo.proof.chaos"
OUT = Path("chaos-report")
SHOWN = 10


def parser() -> Parser:
    """Return the command line."""
    result = Parser(
        PROGRAM,
        description=(
            "Three gateways, a Redis, two dozen users, and everything that can go wrong. Without "
            "--plain and without a feature, the seed chooses which features there are."
        ),
    )
    add = result.add_argument
    add("--seconds", type=positive_float, default=60.0, help="about how long (%(default)g)")
    add("--seed", type=whole_number, default=None, help="of all decisions (chosen, and printed)")
    add("--out", type=new_directory, default=OUT, help="where the report goes (%(default)s)")
    add("--plain", action="store_true", help="no optional feature")
    add_deployment(result)
    add_features(result)
    add("--json", type=new_file, default=None, help="where its numbers go as well")
    return result


MIXES: Final = (
    PLAIN_MIX,
    FeatureMix(durable=True, rooms=True, watch=True),
    FeatureMix(devices=2),
)
"""What the seed chooses among. Two seeds in a row, an even one and the next, have the same mix: so
together they have all of its faults."""


def mix_of(arguments: argparse.Namespace, seed: int) -> FeatureMix:
    """Return the features that were asked for; or, when nothing was, those that the seed chooses.

    Raises:
        ValueError: what was asked for does not go together.
    """
    asked = FeatureMix.of(arguments)
    if asked.devices not in (1, 2):
        raise ValueError("users have one device here, or two")
    if asked != PLAIN_MIX and arguments.plain:
        raise ValueError("--plain means no optional feature")
    if not Deployment.of(arguments).is_usual:
        if asked != PLAIN_MIX:
            raise ValueError("--redis and --workers go with no optional feature")
        return PLAIN_MIX
    return asked if arguments.plain or asked != PLAIN_MIX else MIXES[seed // 2 % len(MIXES)]


def progress() -> Callable[[str], None]:
    """Return what shows the progress: on a terminal one line that changes, else few lines."""
    if sys.stderr.isatty():
        return lambda line: print(f"\r{line:.118}\x1b[K", end="", file=sys.stderr, flush=True)
    calls = 0

    def now_and_then(line: str) -> None:
        nonlocal calls
        if calls % 40 == 0:  # There are four calls per second, so this is every ten seconds.
            print(line, file=sys.stderr, flush=True)
        calls += 1

    return now_and_then


class Interrupted(Exception):
    """This signal has ended the run."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


async def run_until_told(
    seconds: float, seed: int, mix: FeatureMix, deployment: Deployment = USUAL
) -> ChaosResult:
    """Run once. A signal cancels the run, which ends every process that it has started.

    A second signal changes nothing: the clean-up has its own bound, and must be completed.

    Raises:
        Interrupted: a signal came; everything has been cleaned up.
    """
    work = run(seconds, seed, progress(), mix=mix, deployment=deployment)
    running = asyncio.create_task(work, name="chaos")
    told: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        if not told:
            running.cancel()
        told.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        return await running
    except BaseException:  # After a cancellation, other errors are of no interest.
        if told:
            raise Interrupted(told[0]) from None
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    command_line = parser()
    arguments = command_line.read(argv)
    never_refuse_text()
    seed = random.randrange(10_000) if arguments.seed is None else arguments.seed
    try:
        mix, deployment = mix_of(arguments, seed), Deployment.of(arguments)
    except ValueError as problem:
        command_line.error(str(problem))
    try:
        result = asyncio.run(run_until_told(arguments.seconds, seed, mix, deployment))
    except Interrupted as interrupted:
        print(f"\nended by {interrupted}, and nothing is left of it (seed {seed})", file=sys.stderr)
        return 128 + interrupted.number
    except ServerError as problem:
        fail(PROGRAM, str(problem))
    if sys.stderr.isatty():
        print(file=sys.stderr)
    page = report.write(result, arguments.out)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.summary(result), indent=1) + "\n")
    print(report.verdict(result))
    for violation in result.violations[:SHOWN]:
        print(violation)
    print(f"report: {page}")
    return 0 if result.green else 1


if __name__ == "__main__":
    sys.exit(main())
