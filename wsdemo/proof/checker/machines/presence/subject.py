"""Machine of presence: what do its moves lead to, and what may each of them break?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from wsdemo.proof.checker.machines.presence.invariants import (
    PresenceStep,
    Settled,
    broken_at_end,
    broken_by_step,
)
from wsdemo.proof.checker.machines.presence.machine import Call, Machine, Reply
from wsdemo.proof.checker.machines.presence.moves import Move, MoveKind, after, call_of, moves
from wsdemo.proof.checker.machines.presence.rows import PresenceRow, expected, row
from wsdemo.proof.checker.machines.presence.states import (
    Clients,
    Clock,
    ModelPhase,
    ModelState,
    Scenario,
    Verb,
    canonical,
)
from wsdemo.proof.checker.report import Result
from wsdemo.proof.checker.search import check
from wsdemo.proof.checker.subject import Ending, Step

ROUNDS: Final = 2
"""How often each session refreshes until everything must be right (P8)."""


def check_presence(
    scripts: Mapping[str, str] | None = None,
    *,
    sessions: int = 2,
    refreshes: int = 1,
    duplicates: int = 1,
    expiries: int = 1,
    losses: int = 0,
    rollbacks: int = 0,
    clock: str = "true",
    clients: str = "silent",
    **how: Any,
) -> Result:
    """Play the presence scripts in every order of commands and faults.

    Args:
        scripts: texts that replace the shipped ones: `{"release": "..."}`.
        sessions, refreshes, duplicates, expiries, losses, rollbacks, clients: see `Scenario`.
        clock: `true`, or `free`: at each mint it may have stood still, or gone back or ahead.
        how: as in `search.check`, which also says what is raised.
    """
    counts = (sessions, refreshes, duplicates, expiries, losses, rollbacks)
    return check(Scenario(*counts, Clock(clock), Clients(clients)), scripts, **how)


class PresenceSubject:
    """The four scripts, with the sessions and the faults of a scenario."""

    def __init__(self, url: str, scripts: Mapping[str, str], scenario: Scenario) -> None:
        self.runner: Any = Machine(url, scripts, scenario.cast, scenario.clock)
        self._scenario = scenario
        self._settled: set[tuple[object, ...]] = set()

    def start(self) -> ModelState:
        return self._scenario.start()

    def moves(self, state: ModelState) -> Iterator[Move]:
        return moves(state, self._scenario)

    def calls(self, state: ModelState, move: Move) -> Iterator[Call]:
        call = call_of(state, move)
        if call is not None:
            yield call

    def expected(self) -> frozenset[tuple[str, str]]:
        return expected(self._scenario)

    def step(self, state: ModelState, move: Move) -> Step:
        reply = self._reply(state, move)
        following = after(state, move, reply, self._scenario)
        if reply is None or move.verb is None:
            return Step(canonical(following)[0], (), ())
        step = PresenceStep(state, move, reply, following, self._scenario)
        said = ((move.verb.value, reply.outcome),)
        return Step(canonical(following)[0], said, broken_by_step(step))

    def endings(self, state: ModelState) -> Iterator[Ending]:
        """Let only refreshes happen, two rounds of them, in any order."""
        up = [n for n, session in enumerate(state.sessions) if session.phase is ModelPhase.UP]
        # The faults that may still happen, and what was sent, make no difference here.
        who = tuple((s.phase is ModelPhase.UP, s.token, s.has_owned) for s in state.sessions)
        if not up or (state.memory, who) in self._settled:
            return
        self._settled.add((state.memory, who))
        for order in itertools.permutations(up):
            end = self._refreshed(state, order)
            yield Ending(end.refreshes, broken_at_end(end))

    def rows(self, moves: Sequence[Move]) -> tuple[PresenceRow, ...]:
        state, rows = self.start(), []
        for move in moves:
            reply = self._reply(state, move)
            following = after(state, move, reply, self._scenario)
            outcome = reply.outcome if reply else ""
            rows.append(row(state, move, outcome, following, self._scenario))
            state, renaming = canonical(following)
            # A token that is minted later may be smaller: earlier rows are renamed with it.
            rows = [one.renamed(renaming) for one in rows]
        return tuple(rows)

    def _refreshed(self, state: ModelState, order: Sequence[int]) -> Settled:
        refreshes, now = [], state
        for number in (*order,) * ROUNDS:
            if now.sessions[number].phase is ModelPhase.UP:
                refreshes.append(move := Move(MoveKind.SEND, number, Verb.REFRESH))
                now = after(now, move, self._reply(now, move), self._scenario)
        return Settled(state, tuple(refreshes), now, self._scenario)

    def _reply(self, state: ModelState, move: Move) -> Reply | None:
        call = call_of(state, move)
        return None if call is None else self.runner.reply(call)
