"""Mutants: would the model checker notice a wrong script?

A mutant is a shipped script with one mistake that somebody might make, or might overlook in a
review. The checker has to find each of them, with the invariant and in the scenario that it names.
If a mutant survives, the checker is too weak. The mutants of each machine are beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from wsdemo.proof.checker.report import Result
from wsdemo.proof.checker.search import check
from wsdemo.proof.checker.subject import World


class MutantError(Exception):
    """The piece that a mutant replaces is not in the script exactly once any more."""


class Change(NamedTuple):
    """A piece of the text of a script, which is there exactly once, and its replacement."""

    script: str
    piece: str
    replacement: str = ""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake.

    Args:
        breaks: the invariant that must find it.
        scenario: what must happen so that it is found.
    """

    name: str
    breaks: str
    changes: tuple[Change, ...]
    scenario: World

    def scripts(self) -> dict[str, str]:
        """Return the texts of the scripts that it changes.

        Raises:
            MutantError: it does not fit the shipped scripts.
        """
        texts: dict[str, str] = {}
        shipped = self.scenario.shipped()
        for change in self.changes:
            text = texts.get(change.script, shipped[change.script])
            if text.count(change.piece) != 1:
                raise MutantError(
                    f"{self.name}: {change.script}.lua has this {text.count(change.piece)} times, "
                    f"not once: {change.piece!r}"
                )
            texts[change.script] = text.replace(change.piece, change.replacement)
        return texts

    def check(self, redis: str | None = None) -> Result:
        """Search for a shortest order that shows it; `redis` and errors as in `checker.check`."""
        return check(self.scenario, self.scripts(), until=self.breaks, redis=redis)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A change that makes no difference, and why."""

    name: str
    why: str
    change: Change
    scenario: World

    def scripts(self) -> Mapping[str, str]:
        """Return the text of the script that it changes."""
        return Mutant(self.name, "", (self.change,), self.scenario).scripts()

    def __str__(self) -> str:
        return self.name
