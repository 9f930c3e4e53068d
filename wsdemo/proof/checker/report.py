"""Counterexample: how is an order of steps that breaks a promise shown?

It is a table of steps. Tokens are numbered by their size, and the smallest is 1, because their real
values do not matter. The result of a whole search is here as well. Everything here is pure.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wsdemo.proof.checker.invariants import Invariant
from wsdemo.proof.checker.machine import OUTCOMES
from wsdemo.proof.checker.moves import FAR_BEHIND_US, Move, MoveKind
from wsdemo.proof.checker.states import (
    TOKEN_BASE,
    TOKEN_STEP,
    Field,
    Memory,
    ModelState,
    Renaming,
    Scenario,
    Verb,
    renamed,
    tokens_of,
)

if TYPE_CHECKING:
    import pandas as pd

NOBODY: Final = "-"

_FAULTS: Final = {
    MoveKind.EXPIRE: "the entry expires",
    MoveKind.LOSE: "everything is lost",
    MoveKind.REPLICATE: "a replica gets this far",
    MoveKind.FAIL_OVER: "the replica takes over",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One step of a counterexample, and the data of Redis after it."""

    who: str
    what: str
    answer: str
    token: int
    """Of the session; 0 when it has none."""
    memory: Memory

    def renamed(self, renaming: Renaming) -> Row:
        """Return the row with renamed tokens."""
        token = renaming.get(self.token, self.token)
        return Row(self.who, self.what, self.answer, token, renamed(self.memory, renaming))

    def cells(self) -> dict[str, str]:
        """Return the row of the table, without its number."""
        fence = ", ".join(f"{name} {_short(value)}" for name, value in self.memory.fence)
        return {
            "who": self.who,
            "what": self.what,
            "answer": self.answer or NOBODY,
            "owner after": self.memory.owner or ("half an entry" if self.memory.entry else NOBODY),
            "token": _short(self.token) if self.token else NOBODY,
            "fence": fence or NOBODY,
        }


def _short(value: Field) -> str:
    """Return a field for a reader: tokens by their numbers."""
    if isinstance(value, tuple):
        return f"{_short(value[0])} ({value[1]})"
    return str((value - TOKEN_BASE) // TOKEN_STEP) if isinstance(value, int) else value


def row(before: ModelState, move: Move, outcome: str, after: ModelState, scenario: Scenario) -> Row:
    """Return a move as a row of the table."""
    if move.session < 0:
        return Row("redis", _FAULTS[move.kind], "", 0, after.memory)
    actor = scenario.cast[move.session]
    token = after.sessions[move.session].token
    answer = "" if outcome == "token" else outcome
    who = f"{actor.conn_id} at {actor.gateway_id}"
    return Row(who, _what(before, move), answer, token, after.memory)


def _what(before: ModelState, move: Move) -> str:
    match move.kind:
        case MoveKind.CRASH:
            return "its gateway dies"
        case MoveKind.GIVE_UP:
            return "gives up, its register is under way"
        case MoveKind.UNANSWERED:
            return "register, the answer gets lost"
        case MoveKind.LATE:
            return f"a late {move.verb}"
        case _:
            return f"{move.verb}{_clock(before, move)}"


def _clock(before: ModelState, move: Move) -> str:
    if move.clock_us is None:
        return ""
    tokens = tokens_of(before)
    if move.clock_us in tokens:
        return f", the clock stands at token {tokens.index(move.clock_us) + 1} of {len(tokens)}"
    return ", the clock is far behind" if move.clock_us == FAR_BEHIND_US else ", the clock is ahead"


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
        """Return a row for each step: who, what, answer, owner after, token, fence."""

        import pandas as pd

        cells = [{"step": n, **one.cells()} for n, one in enumerate(self.rows, 1)]
        for one in cells[len(self) :]:
            one["what"] = f"{one['what']}, nothing else happens"
        columns = ["step", "who", "what", "answer", "owner after", "token", "fence"]
        return pd.DataFrame(cells, columns=columns).set_index("step")

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

    scenario: Scenario
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


def expected(scenario: Scenario) -> frozenset[tuple[str, str]]:
    """Return the answers that must occur, or a search of this scenario proves nothing."""
    never = set()
    if scenario.sessions < 2:
        never |= {("register", "stale"), ("refresh", "superseded")}
        never |= {("release", "0"), ("release", "-1")}
    if not scenario.refreshes:
        never |= {("refresh", outcome) for outcome in OUTCOMES[Verb.REFRESH]}
    if not scenario.duplicates:
        never |= {("refresh", "closed")}
    if not (scenario.expiries or scenario.losses or scenario.rollbacks):
        never |= {("refresh", "reclaimed")}
    possible = {(v.value, str(outcome)) for v, some in OUTCOMES.items() for outcome in some}
    return frozenset(possible - never)
