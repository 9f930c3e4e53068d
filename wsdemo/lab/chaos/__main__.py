"""python -m wsdemo.lab.chaos: break real processes at random, and check every promise.

Exit code 0 when everything was allowed and everything wanted happened, 1 when not, and the seed
is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from wsdemo.lab.chaos import report
from wsdemo.lab.chaos.run import run

OUT = Path("chaos-report")
SHOWN = 10


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = argparse.ArgumentParser(
        prog="python -m wsdemo.lab.chaos",
        description="Three gateways, a Redis, two dozen users, and everything that can go wrong.",
    )
    add = result.add_argument
    add("--seconds", type=float, default=60.0, help="about how long (%(default)g)")
    add("--seed", type=int, default=None, help="of all decisions (chosen, and printed)")
    add("--out", type=Path, default=OUT, help="where the report goes (%(default)s)")
    add("--json", type=Path, default=None, help="where its numbers go as well")
    return result


def progress() -> Callable[[str], None]:
    """Return what shows the progress: a line that is overwritten; where nobody watches, few."""
    if sys.stderr.isatty():
        return lambda line: print(f"\r{line:.118}\x1b[K", end="", file=sys.stderr, flush=True)
    calls = 0

    def now_and_then(line: str) -> None:
        nonlocal calls
        if calls % 40 == 0:  # They come four times a second: every ten seconds.
            print(line, file=sys.stderr, flush=True)
        calls += 1

    return now_and_then


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    arguments = parser().parse_args(argv)
    seed = random.randrange(10_000) if arguments.seed is None else arguments.seed
    outcome = asyncio.run(run(arguments.seconds, seed, progress()))
    if sys.stderr.isatty():
        print(file=sys.stderr)
    page = report.write(outcome, arguments.out)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.summary(outcome), indent=1) + "\n")
    print(report.verdict(outcome))
    for violation in outcome.violations[:SHOWN]:
        print(violation)
    print(f"report: {page}")
    return 0 if outcome.green else 1


if __name__ == "__main__":
    sys.exit(main())
