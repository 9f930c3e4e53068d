"""Command line, `python -m wsdemo.proof.simulate`: many clusters with many faults, in seconds.

Exit code 1 when anything was violated, and the last lines say how to repeat exactly that run; or
when some fault, or some outcome of a script, has never occurred in `MANY` seeds or more.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from wsdemo.command_line import Parser, new_file, positive_float, positive_int, whole_number
from wsdemo.proof.history import to_jsonl
from wsdemo.proof.mix import add_features
from wsdemo.proof.simulate.offer import Offer
from wsdemo.proof.simulate.run import Report, report_of, simulate, simulate_many
from wsdemo.terminal import never_refuse_text

SHOWN: int = 3
"""Violations of a failed seed that are printed."""
MANY: int = 100
"""In so many seeds, every fault and every outcome of a script must have occurred."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    never_refuse_text()
    minutes = options.minutes if options.hours is None else 60.0 * options.hours
    offer = options.offer
    if options.seed is not None:
        report = _one(options.seed, minutes, offer, options.json)
    else:
        report = _many(range(1, options.seeds + 1), minutes, offer, options.processes)
        if options.json:
            options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    print(table(report))
    _print_failures(report, minutes)
    missing = report.missing if report.seeds >= MANY else []
    for text in missing:
        print(f"not proved: {text}")
    return 1 if report.failures or missing else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("wsdemo.proof.simulate", description=__doc__)
    parser.add_argument("--seeds", type=positive_int, default=20, help="how many: 1, 2, ... (20)")
    parser.add_argument("--seed", type=whole_number, help="this one only")
    parser.add_argument("--minutes", type=positive_float, default=10.0, help="virtual, each (10)")
    parser.add_argument("--hours", type=positive_float, help="virtual, each, instead of --minutes")
    add_features(parser)
    parser.add_argument("--processes", type=positive_int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--json", type=new_file, help="write the report there; with --seed, the history as JSONL"
    )
    options = parser.read(arguments)
    try:
        options.offer = Offer.of(options)
    except ValueError as problem:
        parser.error(str(problem))
    return options


def _one(seed: int, minutes: float, offer: Offer, file: Path | None) -> Report:
    run = simulate(seed, minutes, offer=offer)
    if file is not None:
        file.write_text(to_jsonl(run.history))
    return report_of(run)


def _many(seeds: Sequence[int], minutes: float, offer: Offer, processes: int) -> Report:
    report = Report()
    for report in simulate_many(seeds, minutes, processes=processes, offer=offer):
        if sys.stderr.isatty():
            line = f"\r{report.seeds}/{len(seeds)} seeds, {report.virtual_h:.1f} virtual hours"
            print(f"{line}, {len(report.failures)} failed", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return report


def table(report: Report) -> str:
    """Return a report as lines of text."""
    failed = sum(len(texts) for texts in report.failures.values())
    rows = [
        ("seeds", f"{report.seeds:,}"),
        ("virtual time", f"{report.virtual_h:.1f} h in {report.wall_s:.0f} s"),
        ("records", f"{report.records:,}"),
        ("faults", _counts(report.faults)),
        ("scripts", _counts(report.outcomes)),
        ("messages", _counts(report.sent)),
        ("delivered", f"{report.delivered:,}"),
        ("lost in faults", _counts(report.lost["in faults"])),
        ("lost in calm", _counts(report.lost["in calm"])),
        ("violations", f"{failed:,} in {len(report.failures):,} seeds"),
    ]
    return "\n".join(f"{name:<15} {value}" for name, value in rows)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common()) or "none"


def _print_failures(report: Report, minutes: float) -> None:
    for seed, texts in sorted(report.failures.items()):
        print(f"\nseed {seed}: {len(texts)} violation{'s' * (len(texts) > 1)}")
        for text in texts[:SHOWN]:
            print(f"  {text}")
        print(f"  again: {_again(seed, minutes, report.offer)}")


def _again(seed: int, minutes: float, offer: Offer) -> str:
    """Return the command that repeats a run."""
    command = f"python -m wsdemo.proof.simulate --seed {seed} --minutes {minutes:g}"
    return " ".join([command, *offer.words])


if __name__ == "__main__":
    sys.exit(main())
