"""Model checker: `python -m wsdemo.proof.checker` plays the shipped scripts in every order."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from wsdemo.command_line import Parser, fail, new_file
from wsdemo.proof.checker.machines import MACHINES
from wsdemo.proof.checker.report import Result
from wsdemo.proof.checker.search import check
from wsdemo.proof.checker.subject import ScriptError, World
from wsdemo.redis.server import ServerError
from wsdemo.terminal import never_refuse_text

PROGRAM: Final = "wsdemo.proof.checker"
REPORT_S: Final = 1.0
"""Between two updates of the progress line."""
DEADLINE_S: Final = 900.0
"""For one scenario."""
MAX_STATES: Final = 3_000_000
WIDTH: Final = 74


class _ProgressLine:
    """The progress: one line that changes on a terminal, and nothing elsewhere."""

    def __init__(self, scenario: World) -> None:
        self._scenario = scenario
        self._shown_at = time.monotonic()

    def __call__(self, states: int, steps: int) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._shown_at >= REPORT_S:
            self._shown_at = now
            self._write(f"{self._scenario}: {states:,} states, {steps:,} steps")

    def clear(self) -> None:
        if sys.stderr.isatty():
            self._write("")

    def _write(self, text: str) -> None:
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        PROGRAM,
        description="Play the shipped scripts in every order of commands and faults.",
    )
    parser.add_argument(
        "--machine", choices=list(MACHINES), action="append", help="only this subject (repeatable)"
    )
    parser.add_argument(
        "--deep", action="store_true", help="larger worlds, and more faults: takes minutes"
    )
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the results there too")
    return parser.read(words)


def _scenarios(options: argparse.Namespace) -> Iterator[World]:
    for name in options.machine or MACHINES:
        yield from MACHINES[name].deep if options.deep else MACHINES[name].everyday


def _checked(scenario: World) -> Result:
    line = _ProgressLine(scenario)
    try:
        return check(scenario, deadline_s=DEADLINE_S, max_states=MAX_STATES, progress=line)
    finally:
        line.clear()


def _row(result: Result) -> str:
    counts = f"{result.states:>9,} {result.steps:>10,} {result.calls:>6,} {result.seconds:>8.1f}"
    return f"{result.scenario!s:<{WIDTH}} {counts}  {result.verdict()}"


def _as_json(result: Result) -> dict[str, Any]:
    outcomes = sorted(result.outcomes.items())
    return {
        "machine": result.scenario.machine,
        "scenario": str(result.scenario),
        "states": result.states,
        "steps": result.steps,
        "calls": result.calls,
        "seconds": round(result.seconds, 2),
        "outcomes": {f"{verb} {outcome}": count for (verb, outcome), count in outcomes},
        "missing": sorted(f"{verb} {outcome}" for verb, outcome in result.missing),
        "violations": {name: str(found) for name, found in result.violations.items()},
        "stopped": result.stopped,
        "ok": result.ok,
    }


def main(words: Sequence[str] | None = None) -> int:
    options = _arguments(words)
    never_refuse_text()
    results = []
    print(f"{'scenario':<{WIDTH}} {'states':>9} {'steps':>10} {'calls':>6} {'seconds':>8}  verdict")
    try:
        for scenario in _scenarios(options):
            results.append(_checked(scenario))
            print(_row(results[-1]), flush=True)
    except ServerError as problem:
        fail(PROGRAM, str(problem))
    except ScriptError as problem:
        print(problem, file=sys.stderr)
        return 1
    for result in results:
        for found in result.violations.values():
            print(f"\n{result.scenario}\n{found}")
    if options.json is not None:
        options.json.write_text(json.dumps([_as_json(r) for r in results], indent=2) + "\n")
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
