"""Machine of the model checker: what must a subject say about itself to be searched?

A subject is a set of scripts: those of presence, of the inbox, of devices, of rooms. For each there
is a machine in `machines`: a start, the moves that are possible in a state, what a move leads to,
and the invariants that it may break. The search (`search`) knows nothing else. States, moves and
calls are values: equal ones are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

State = Hashable
"""Everything on which the future depends."""
Move = Hashable
"""One thing that may happen."""
Ask = Callable[[Any], Any]
"""Returns the reply of a script to a call; it runs on a server when it was not made before."""


class ScriptError(Exception):
    """A script cannot be checked; the text says which and why."""


class Invariant(NamedTuple):
    """Something that must hold, and the promises that are broken if it does not."""

    name: str
    promises: tuple[StrEnum, ...]
    says: str

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.promises)}): {self.says}"


class Step(NamedTuple):
    """What a move leads to."""

    state: Any
    said: tuple[tuple[str, str], ...]
    """Which script gave which answer."""
    broken: Sequence[Invariant]


class Ending(NamedTuple):
    """What is broken when from now on there are no faults, and everything is done to its end."""

    moves: Sequence[Any]
    broken: Sequence[Invariant]


class Row(Protocol):
    """One step of a counterexample."""

    def cells(self) -> dict[str, str]:
        """Return what a table shows of it, by column; its number is not part of it."""


class Runner(Protocol):
    """Runs scripts on a server, each call once."""

    @property
    def calls(self) -> int:
        """How many scripts have run."""

    def prepare(self, calls: Iterable[Any]) -> None:
        """Run the calls that were not made before, many at once."""

    def reply(self, call: Any) -> Any:
        """Return the reply to a call."""

    def close(self) -> None:
        """Remove what it has left on the server, and disconnect."""


class Subject(Protocol):
    """A machine, ready to be searched."""

    runner: Runner

    def start(self) -> Any:
        """Return the state before anything has happened."""

    def moves(self, state: Any) -> Iterable[Any]:
        """Return what may happen next."""

    def calls(self, state: Any, move: Any) -> Iterable[Any]:
        """Return the calls that a move is known to make, so that many can be made at once."""

    def step(self, state: Any, move: Any) -> Step:
        """Make a move."""

    def endings(self, state: Any) -> Iterable[Ending]:
        """Return how everything may end from here when no more faults happen."""

    def rows(self, moves: Sequence[Any]) -> tuple[Row, ...]:
        """Make these moves from the start, and describe each."""

    def expected(self) -> frozenset[tuple[str, str]]:
        """Return the answers that must occur, or the search would prove nothing."""


class World(Protocol):
    """A scenario: which machine, how large, and which faults may happen."""

    @property
    def machine(self) -> str:
        """The name of its machine."""

    def shipped(self) -> Mapping[str, str]:
        """Return the texts of the scripts that gateways use, by name."""

    def invariants(self) -> Sequence[Invariant]:
        """Return all that is checked."""

    def subject(self, url: str, scripts: Mapping[str, str]) -> Subject:
        """Return the machine of this scenario, on a server, with some scripts replaced."""
