"""Row of a counterexample: how is one step of the presence scripts shown?

Tokens are numbered by their size, and the smallest is 1, because their real values do not matter.
Everything here is pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wsdemo.proof.checker.machines.presence.machine import OUTCOMES
from wsdemo.proof.checker.machines.presence.moves import FAR_BEHIND_US, Move, MoveKind
from wsdemo.proof.checker.machines.presence.states import (
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

NOBODY: Final = "-"

_FAULTS: Final = {
    MoveKind.EXPIRE: "the entry expires",
    MoveKind.LOSE: "everything is lost",
    MoveKind.REPLICATE: "a replica gets this far",
    MoveKind.FAIL_OVER: "the replica takes over",
}


@dataclass(frozen=True, slots=True)
class PresenceRow:
    """One step of a counterexample, and the data of Redis after it."""

    who: str
    what: str
    answer: str
    token: int
    """Of the session; 0 when it has none."""
    memory: Memory

    def renamed(self, renaming: Renaming) -> PresenceRow:
        """Return the row with renamed tokens."""
        token = renaming.get(self.token, self.token)
        return PresenceRow(self.who, self.what, self.answer, token, renamed(self.memory, renaming))

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


def row(
    before: ModelState, move: Move, outcome: str, after: ModelState, scenario: Scenario
) -> PresenceRow:
    """Return a move as a row of the table."""
    if move.session < 0:
        return PresenceRow("redis", _FAULTS[move.kind], "", 0, after.memory)
    actor = scenario.cast[move.session]
    token = after.sessions[move.session].token
    answer = "" if outcome == "token" else outcome
    who = f"{actor.conn_id} at {actor.gateway_id}"
    return PresenceRow(who, _what(before, move), answer, token, after.memory)


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
