"""Counterexample: how is an order of steps that breaks a promise shown?

It is a table of steps; what a step shows is the machine's own. The result of a whole search is here
as well. Everything here is pure.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsdemo.proof.checker.subject import Invariant, Row, World

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A shortest order of steps that breaks an invariant."""

    invariant: Invariant
    rows: tuple[Row, ...]
    refreshes: int = 0
    """How many of the last rows are the refreshes after which everything should be right."""

    def __len__(self) -> int:
        """How many steps it takes, without those refreshes."""
        return len(self.rows) - self.refreshes

    def table(self) -> pd.DataFrame:
        """Return a row for each step: who, what, answer, and what else the machine shows."""
        import pandas as pd

        cells = [{"step": n, **one.cells()} for n, one in enumerate(self.rows, 1)]
        for one in cells[len(self) :]:
            one["what"] = f"{one['what']}, nothing else happens"
        return pd.DataFrame(cells, columns=["step"] if not cells else None).set_index("step")

    def __str__(self) -> str:
        return f"{self.invariant} is broken in {len(self)} steps\n{self.table().to_string()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        words = html.escape(str(self.invariant))
        return f"<p><b>{words}</b> is broken in {len(self)} steps</p>{self.table().to_html()}"


@dataclass(frozen=True)
class Result:
    """What a search found.

    Args:
        states: how many different states were found.
        steps: moves that led to them.
        calls: how many scripts ran on the server; no call is made twice.
        outcomes: how often each script gave each answer.
        violations: a shortest counterexample for each invariant that is broken, by its name.
        missing: answers that should have occurred in this scenario, and did not.
        stopped: why the search ended early; empty when it did not.
    """

    scenario: World
    states: int
    steps: int
    calls: int
    seconds: float
    outcomes: Counter[tuple[str, str]]
    violations: Mapping[str, Counterexample]
    missing: frozenset[tuple[str, str]]
    stopped: str = ""

    @property
    def complete(self) -> bool:
        """Whether every state was checked."""
        return not self.stopped

    @property
    def ok(self) -> bool:
        """Whether everything was checked, nothing is broken, and every answer occurred."""
        return self.complete and not self.violations and not self.missing

    @property
    def shortest(self) -> Counterexample | None:
        """The shortest of all counterexamples; None when there is none."""
        return min(self.violations.values(), key=len, default=None)

    def table(self) -> pd.DataFrame:
        """Return the steps of the shortest counterexample; no rows when there is none."""
        if self.shortest is None:
            return Counterexample(Invariant("", (), ""), ()).table()
        return self.shortest.table()

    def verdict(self) -> str:
        """Return the result in a few words."""
        said = []
        if self.violations:
            said.append(f"broken: {', '.join(self.violations)}")
        if self.missing:
            missing = ", ".join(sorted(f"{verb} {outcome}" for verb, outcome in self.missing))
            said.append(f"never seen: {missing}")
        if self.stopped:
            said.append(f"stopped {self.stopped}")
        return "; ".join(said) or "ok"

    def in_short(self) -> str:
        """Return the result in one line."""
        return (
            f"{self.scenario}: {self.states:,} states, {self.steps:,} steps, {self.calls:,} "
            f"script calls, {self.seconds:.1f} s: {self.verdict()}"
        )

    def __str__(self) -> str:
        return self.in_short() + (f"\n{self.shortest}" if self.shortest else "")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        mark = "✔" if self.ok else "✘" if self.violations else "?"
        shown = self.shortest._repr_html_() if self.shortest else ""
        return f"<p>{mark} {html.escape(self.in_short())}</p>{shown}"
