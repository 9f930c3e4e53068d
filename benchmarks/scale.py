"""Scaling, `python -m benchmarks scale`: what do clusters and workers cost, beside one server?

Three parts, each in turns within one run:

* `deployments`: a message on one server, on clusters of Redis, and with two workers a gateway
* `script`: what Redis itself pays for it, sharded and by a classic PUBLISH, and for the deadline
* `workers`: what two workers behind one port carry, beside one process

With `--before PATH`, a checkout of older code is measured beside this one, on one server, with the
packages of this Python. Absolute figures belong to this machine, ratios carry over. Some seven
minutes, bounded. Exit code 1: one server costs more than before; 2: the measurement failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.deployments import (
    BASE,
    BEFORE,
    SATURATION,
    UNCHANGED,
    deployment_document,
    deployment_lines,
    deployments,
    measure_deployments,
)
from benchmarks.load import allow_many_files
from benchmarks.phases import Say
from benchmarks.route_script import measure_scripts, script_lines
from benchmarks.running import running
from benchmarks.workers import measure_workers
from wsdemo.command_line import Parser, new_directory, positive_float, positive_int

PARTS: Final = ("deployments", "script", "workers")
SPARE_FILES: Final = 400


@dataclass(frozen=True)
class ScaleExtent:
    """How much is measured."""

    rounds: int
    seconds: float
    """Of each phase."""
    users: int
    """Of the workers' part."""


NORMAL: Final = ScaleExtent(rounds=9, seconds=1.0, users=2_000)
SMOKE: Final = ScaleExtent(rounds=1, seconds=0.3, users=200)


@dataclass
class ScaleReport:
    """What is shown and what is kept."""

    lines: list[str]
    document: dict[str, Any]
    dearer: bool = False
    """Whether one server costs more than before, beyond the target."""


def measure_scale(
    parts: Sequence[str], extent: ScaleExtent, before: Path | None, say: Say
) -> ScaleReport:
    """Measure the parts that were asked for."""
    machine = {"python": platform.python_version(), "platform": platform.platform()}
    report = ScaleReport([], {"machine": machine, "extent": dataclasses.asdict(extent)})
    if "deployments" in parts:
        costs = measure_deployments(deployments(before), extent.rounds, extent.seconds, say)
        report.lines += ["## A message", "", *deployment_lines(costs), ""]
        report.document["deployments"] = deployment_document(costs)
        if before is not None:
            ratio = statistics.median(costs.ratios(SATURATION, BASE, BEFORE))
            report.dearer = ratio > UNCHANGED
    if "script" in parts:
        scripts = measure_scripts(extent.rounds, extent.seconds / 2, say)
        report.lines += ["## The route script", "", *script_lines(scripts), ""]
        report.document["script"] = scripts.samples
    if "workers" in parts:
        text = measure_workers(extent.rounds, 2 * extent.seconds, extent.users, say)
        report.lines += ["## Workers", "", text, ""]
    return report


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser("benchmarks scale", description=__doc__)
    add = parser.add_argument
    add("--only", choices=PARTS, action="append", help="this part; repeat it")
    add("--rounds", type=positive_int, help=f"of each part ({NORMAL.rounds})")
    add("--seconds", type=positive_float, help=f"a phase, 0.1 to 60 ({NORMAL.seconds:g})")
    add("--users", type=positive_int, help=f"of the workers' part ({NORMAL.users})")
    add("--before", type=Path, help="a checkout to compare one server with")
    add("--smoke", action="store_true", help="does it run?")
    add("--out", type=new_directory, default=Path("benchmarks/results"), help="(%(default)s)")
    arguments = parser.read(argv)
    if arguments.seconds is not None and not 0.1 <= arguments.seconds <= 60:
        parser.error("--seconds must be between 0.1 and 60")
    before = arguments.before
    if before is not None and not (before / "wsdemo" / "gateway").is_dir():
        parser.error(f"--before {before}: there is no wsdemo in it")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    arguments = arguments_of(argv)
    given = {name: getattr(arguments, name) for name in ("rounds", "seconds", "users")}
    base = SMOKE if arguments.smoke else NORMAL
    extent = dataclasses.replace(base, **{k: v for k, v in given.items() if v is not None})
    with running() as say:
        allow_many_files(extent.users + SPARE_FILES)
        arguments.out.mkdir(parents=True, exist_ok=True)
        report = measure_scale(arguments.only or PARTS, extent, arguments.before, say)
    content = json.dumps(report.document, indent=1)
    (arguments.out / "scale.json").write_text(content + "\n")
    sys.stdout.write("\n".join(report.lines).rstrip() + "\n")
    if report.dearer:
        sys.stderr.write(f"one server costs more than {UNCHANGED:g} times what it did before\n")
    return 1 if report.dearer else 0
