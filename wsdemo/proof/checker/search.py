"""Search: is there any order of commands and faults in which the scripts break a promise?

The search is breadth first: all states after one move, then all after two moves, and so on. So the
first order that breaks an invariant is one of the shortest. Each state is checked once, however it
is reached, because it has everything on which the future depends.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from wsdemo.proof.checker.invariants import (
    NAMES,
    Invariant,
    Settled,
    Step,
    broken_at_end,
    broken_by_step,
)
from wsdemo.proof.checker.machine import Machine, Reply
from wsdemo.proof.checker.moves import Move, MoveKind, after, call_of, moves
from wsdemo.proof.checker.report import Counterexample, Result, expected, row
from wsdemo.proof.checker.states import (
    Clients,
    Clock,
    ModelPhase,
    ModelState,
    Scenario,
    Verb,
    canonical,
)
from wsdemo.redis.server import find_server

CHUNK: Final = 500
"""States between two checks of the deadline."""
ROUNDS: Final = 2
"""How often each session refreshes until everything must be right (P8)."""

Progress = Callable[[int, int], None]
"""Receives the number of states found so far, and of moves that led to them."""


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
        how: as in `check`, which also says what is raised.
    """
    counts = (sessions, refreshes, duplicates, expiries, losses, rollbacks)
    return check(Scenario(*counts, Clock(clock), Clients(clients)), scripts, **how)


def check(
    scenario: Scenario,
    scripts: Mapping[str, str] | None = None,
    *,
    until: str = "",
    max_states: int = 500_000,
    deadline_s: float = 300.0,
    redis: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Play the presence scripts in every order of a scenario.

    Args:
        scripts: texts that replace the shipped ones, by name. What they do may depend on their
            keys and arguments only, not on chance, and not on the time (except in `mint`).
        until: stop when this invariant is broken, or any if this is "any".
        max_states: stop after so many, and say so.
        deadline_s: stop after so long, and say so.
        redis: address of a Redis to use; by default the search of `wsdemo.redis.server`.
        progress: is told how far it is, now and then.

    Raises:
        ScriptError: a script has no such name, does not compile, fails, or answers nonsense.
        ValueError: a number is out of bounds, or there is no such invariant.
        ServerError: there is no Redis.
    """
    if until not in ("", "any", *NAMES):
        raise ValueError(f"there is no invariant {until!r}; there are: {', '.join(NAMES)}")
    with find_server(redis) as server:
        machine = Machine(server.url, scripts or {}, scenario.cast, scenario.clock)
        try:
            search = _Search(machine, scenario, progress or (lambda states, steps: None))
            return search.run(until, max_states, deadline_s)
        finally:
            machine.close()


class _Found(NamedTuple):
    """The move by which a state was found first."""

    parent: ModelState | None
    move: Move | None


@dataclass(slots=True)
class _Search:
    """One search, and what it has found so far."""

    machine: Machine
    scenario: Scenario
    progress: Progress
    found: dict[ModelState, _Found] = field(default_factory=dict)
    steps: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: dict[Invariant, Counterexample] = field(default_factory=dict)
    settled: set[tuple[object, ...]] = field(default_factory=set)

    def run(self, until: str, max_states: int, deadline_s: float) -> Result:
        began = time.monotonic()
        start = self.scenario.start()
        self.found[start] = _Found(None, None)
        layer, stopped = [start], ""
        while layer and not stopped:
            upcoming: list[ModelState] = []
            for chunk in _chunks(layer):
                self._settle(chunk)
                upcoming += self._expand(chunk)
                self.progress(len(self.found), self.steps)
                stopped = self._why_stop(until, max_states, began + deadline_s)
                if stopped:
                    break
            layer = upcoming
        return Result(
            scenario=self.scenario,
            states=len(self.found),
            steps=self.steps,
            calls=self.machine.calls,
            seconds=time.monotonic() - began,
            outcomes=self.outcomes,
            violations={i.name: found for i, found in self.violations.items()},
            missing=expected(self.scenario) - set(self.outcomes),
            stopped=stopped,
        )

    def _why_stop(self, until: str, max_states: int, deadline: float) -> str:
        broken = {invariant.name for invariant in self.violations}
        if until in broken or (until == "any" and broken):
            return "at a violation, as asked"
        if len(self.found) > max_states:
            return f"after {max_states:,} states"
        if time.monotonic() > deadline:
            return "at the deadline"
        return ""

    # --- one step further ----------------------------------------------------------------------

    def _expand(self, states: Sequence[ModelState]) -> list[ModelState]:
        """Make every move from these states; return the states that are new."""
        planned = [(s, move, call_of(s, move)) for s in states for move in moves(s, self.scenario)]
        self.machine.prepare(call for _, _, call in planned if call is not None)
        fresh = []
        for state, move, call in planned:
            reply = None if call is None else self.machine.reply(call)
            following = after(state, move, reply, self.scenario)
            self.steps += 1
            if reply is not None:
                self._look_at(Step(state, move, reply, following, self.scenario))
            following, _ = canonical(following)
            if following not in self.found:
                self.found[following] = _Found(state, move)
                fresh.append(following)
        return fresh

    def _look_at(self, step: Step) -> None:
        if step.move.verb is not None:
            self.outcomes[step.move.verb.value, step.reply.outcome] += 1
        for invariant in broken_by_step(step):
            if invariant not in self.violations:
                path = [*self._path(step.before), step.move]
                self.violations[invariant] = self._told(invariant, path)

    # --- two rounds of refreshes ---------------------------------------------------------------

    def _settle(self, states: Sequence[ModelState]) -> None:
        """Check the states that follow when only refreshes happen, in any order."""
        for state in states:
            up = [n for n, session in enumerate(state.sessions) if session.phase is ModelPhase.UP]
            # The faults that may still happen, and what was sent, make no difference here.
            who = tuple((s.phase is ModelPhase.UP, s.token, s.has_owned) for s in state.sessions)
            if not up or (state.memory, who) in self.settled:
                continue
            self.settled.add((state.memory, who))
            for order in itertools.permutations(up):
                self._look_at_end(self._settled(state, order))

    def _settled(self, state: ModelState, order: Sequence[int]) -> Settled:
        refreshes, now = [], state
        for number in (*order,) * ROUNDS:
            if now.sessions[number].phase is ModelPhase.UP:
                refreshes.append(move := Move(MoveKind.SEND, number, Verb.REFRESH))
                now = after(now, move, self._reply(now, move), self.scenario)
        return Settled(state, tuple(refreshes), now, self.scenario)

    def _look_at_end(self, end: Settled) -> None:
        for invariant in broken_at_end(end):
            if invariant not in self.violations:
                path = self._path(end.before)
                self.violations[invariant] = self._told(invariant, path, end.refreshes)

    # --- counterexamples ----------------------------------------------------------------------

    def _reply(self, state: ModelState, move: Move) -> Reply | None:
        call = call_of(state, move)
        return None if call is None else self.machine.reply(call)

    def _path(self, state: ModelState) -> list[Move]:
        """Return the moves by which a state was reached first: a shortest path."""
        path: list[Move] = []
        found = self.found[state]
        while found.parent is not None and found.move is not None:
            path.append(found.move)
            found = self.found[found.parent]
        return path[::-1]

    def _told(
        self, invariant: Invariant, path: Sequence[Move], refreshes: Sequence[Move] = ()
    ) -> Counterexample:
        """Play a path once more, and write a row for each step."""
        state, rows = self.scenario.start(), []
        for move in (*path, *refreshes):
            reply = self._reply(state, move)
            following = after(state, move, reply, self.scenario)
            outcome = reply.outcome if reply else ""
            rows.append(row(state, move, outcome, following, self.scenario))
            state, renaming = canonical(following)
            # A token that is minted later may be smaller: earlier rows are renamed with it.
            rows = [one.renamed(renaming) for one in rows]
        return Counterexample(invariant, tuple(rows), len(refreshes))


def _chunks(states: Sequence[ModelState]) -> Iterator[Sequence[ModelState]]:
    for first in range(0, len(states), CHUNK):
        yield states[first : first + CHUNK]
