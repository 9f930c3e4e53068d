"""Bad input: how many inputs are tried for each row of the list? (python -m tests.bad_input)

pytest's own collection counts them, so the number is that of what runs.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROW = re.compile(r"\(bad input(?: (\d+)|, not in the list)\)")


class Rows:
    """A pytest plugin that notes which inputs are collected for which row of the list."""

    def __init__(self) -> None:
        self.inputs: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self.tests = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if not isinstance(item, pytest.Function):
                continue
            found = ROW.search(item.function.__doc__ or "")
            if found is None:
                continue
            self.tests += 1
            # One input with the fast paths and without them is one input.
            name = re.sub(r"(^|-)(fast|general)(?=-|$)", "", item.callspec.id, count=1)
            ours = item.originalname.removeprefix("test_").replace("_", " ")
            group = f"bad input {int(found[1]):2}" if found[1] else ours
            self.inputs[group].add((item.originalname, name))


def count() -> Rows:
    """Collect the tests of this folder, and run none."""
    rows = Rows()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = pytest.main(
            ["--collect-only", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent)],
            plugins=[rows],
        )
    if code != pytest.ExitCode.OK:
        raise SystemExit(said.getvalue())
    return rows


def main() -> None:
    """Print the table, and the sum as its last line; with --json, the sum alone."""
    rows = count()
    total = sum(map(len, rows.inputs.values()))
    if sys.argv[1:] == ["--json"]:
        print(json.dumps({"inputs": total, "rows": len(rows.inputs), "tests": rows.tests}))
        return
    for group, inputs in sorted(rows.inputs.items()):
        print(f"{group}: {len(inputs):3} inputs")
    print(f"{total} bad inputs in {len(rows.inputs)} groups, {rows.tests} tests")


if __name__ == "__main__":
    main()
