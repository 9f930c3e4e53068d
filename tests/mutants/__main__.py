"""`python -m tests.mutants`: try all mutants of the product, and say which survive.

Exit code 1 when more than a twentieth survive, or when a mutant could not be tried.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.mutants.catalogue import MUTANTS
from tests.mutants.run import Verdict, attempt, lives

WANTED: Final = 0.95
"""The share of mutants that have to be killed."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[""], help="mutants whose name or file has one of these texts"
    )
    parser.add_argument("--workers", type=int, default=2, help="so many at a time (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    arguments = parser.parse_args(words)
    mutants = [one for one in MUTANTS if any(text in str(one) for text in arguments.only)]
    if not mutants:
        print(f"no mutant is called {' or '.join(arguments.only)}", file=sys.stderr)
        return 2
    print(f"{len(mutants)} mutants; first the tests without a mistake ...", flush=True)
    if problem := lives(test for mutant in mutants for test in mutant.tests):
        print(f"{problem}\nThe tests fail without a mistake: no verdict.", file=sys.stderr)
        return 1
    results = []
    for result in attempt(mutants, arguments.workers):
        results.append(result)
        print(
            f"{result.verdict:10} {result.took_s:5.1f} s  {result.mutant}  {result.by}", flush=True
        )
    killed = sum(result.killed for result in results)
    broken = [result for result in results if result.verdict is Verdict.BROKEN]
    survivors = [str(result.mutant) for result in results if result.verdict is Verdict.SURVIVED]
    print(f"\n{killed} of {len(results)} killed")
    for name in survivors:
        print(f"survives: {name}")
    if arguments.json is not None:
        numbers = {"mutants": len(results), "killed": killed, "survivors": survivors}
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return int(bool(broken) or killed < WANTED * len(results))


if __name__ == "__main__":
    sys.exit(main())
