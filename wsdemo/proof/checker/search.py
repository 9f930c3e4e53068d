"""Search: is there any order of commands and faults in which the scripts break a promise?

The search is breadth first: all states after one move, then all after two moves, and so on. So the
first order that breaks an invariant is one of the shortest. Each state is checked once, however it
is reached, because it has everything on which the future depends.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from wsdemo.proof.checker.report import Counterexample, Result
from wsdemo.proof.checker.subject import Invariant, ScriptError, Subject, World
from wsdemo.redis.server import find_server

CHUNK: Final = 500
"""States between two checks of the deadline."""

Progress = Callable[[int, int], None]
"""Receives the number of states found so far, and of moves that led to them."""


def check(
    scenario: World,
    scripts: Mapping[str, str] | None = None,
    *,
    until: str = "",
    max_states: int = 500_000,
    deadline_s: float = 300.0,
    redis: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Play the scripts of a machine in every order of a scenario.

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
    names = [invariant.name for invariant in scenario.invariants()]
    if until not in ("", "any", *names):
        raise ValueError(f"there is no invariant {until!r}; there are: {', '.join(names)}")
    shipped = scenario.shipped()
    unknown = sorted(set(scripts or {}) - set(shipped))
    if unknown:
        raise ScriptError(f"there is no script {unknown[0]!r}; there are: {', '.join(shipped)}")
    with find_server(redis) as server:
        subject = scenario.subject(server.url, scripts or {})
        try:
            search = _Search(subject, scenario, progress or (lambda states, steps: None))
            return search.run(until, max_states, deadline_s)
        finally:
            subject.runner.close()


class _Found(NamedTuple):
    """The move by which a state was found first."""

    parent: Any
    move: Any


@dataclass(slots=True)
class _Search:
    """One search, and what it has found so far."""

    subject: Subject
    scenario: World
    progress: Progress
    found: dict[Any, _Found | None] = field(default_factory=dict)
    steps: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: dict[Invariant, Counterexample] = field(default_factory=dict)

    def run(self, until: str, max_states: int, deadline_s: float) -> Result:
        began = time.monotonic()
        start = self.subject.start()
        self.found[start] = None
        layer, stopped = [start], ""
        while layer and not stopped:
            upcoming: list[Any] = []
            for chunk in _chunks(layer):
                self._end(chunk)
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
            calls=self.subject.runner.calls,
            seconds=time.monotonic() - began,
            outcomes=self.outcomes,
            violations={i.name: found for i, found in self.violations.items()},
            missing=self.subject.expected() - set(self.outcomes),
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

    def _expand(self, states: Sequence[Any]) -> list[Any]:
        """Make every move from these states; return the states that are new."""
        planned = [(state, move) for state in states for move in self.subject.moves(state)]
        self.subject.runner.prepare(
            call for state, move in planned for call in self.subject.calls(state, move)
        )
        fresh = []
        for state, move in planned:
            step = self.subject.step(state, move)
            self.steps += 1
            self.outcomes.update(step.said)
            self._note(step.broken, state, [move])
            if step.state not in self.found:
                self.found[step.state] = _Found(state, move)
                fresh.append(step.state)
        return fresh

    def _end(self, states: Sequence[Any]) -> None:
        """Check what follows from these states when only good things happen."""
        for state in states:
            for ending in self.subject.endings(state):
                self._note(ending.broken, state, ending.moves, len(ending.moves))

    def _note(
        self, broken: Sequence[Invariant], state: Any, moves: Sequence[Any], endless: int = 0
    ) -> None:
        for invariant in broken:
            if invariant not in self.violations:
                rows = self.subject.rows([*self._path(state), *moves])
                self.violations[invariant] = Counterexample(invariant, rows, endless)

    def _path(self, state: Any) -> list[Any]:
        """Return the moves by which a state was reached first: a shortest path."""
        path: list[Any] = []
        while (found := self.found[state]) is not None:
            path.append(found.move)
            state = found.parent
        return path[::-1]


def _chunks(states: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(states), CHUNK):
        yield states[first : first + CHUNK]
