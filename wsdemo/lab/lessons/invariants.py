"""Lesson 05b: how many states are there, and which steps break a promise?"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from wsdemo.lab.lessons.question import Judgement, NotJudged, Question

QUESTION: Final = Question(
    "Two sessions of one user register, refresh and release in every order; one command may arrive "
    "twice, and an entry may expire once. How many different states are there?",
    {
        45: "Those are the orders of one story. Here accidents come in between, and both sessions "
        "may do everything.",
        1300: "Many orders lead to the same state, and from there on they are one.",
        100000: "So many orders, and more. Most of them lead to states that were seen before.",
        "without end": "Time goes on, but little is remembered: tokens are only compared, so the "
        "checker may number them anew.",
    },
)

VERBS: Final = ("register", "refresh", "release")
SESSIONS: Final = ("s1", "s2")
OWNERS: Final = (None, *SESSIONS)

Invariant = Callable[[str, str, str | None, str | None], Any]


class _Step(NamedTuple):
    verb: str
    session: str
    before: str | None
    after: str | None

    @property
    def holds(self) -> bool:
        """P1: a release leaves another session's entry alone."""
        others = self.before not in (None, self.session)
        return not (self.verb == "release" and others) or self.after == self.before

    def __str__(self) -> str:
        names = [f"the entry of {who}" if who else "no entry" for who in (self.before, self.after)]
        return f"{self.session} calls {self.verb}; before: {names[0]}, after: {names[1]}"


STEPS: Final = tuple(_Step(*step) for step in itertools.product(VERBS, SESSIONS, OWNERS, OWNERS))
"""Every step that there can be, also those of broken scripts."""


def judge_invariant(holds: Invariant) -> Judgement:
    """Ask the reader's function about every step that there can be."""
    if not callable(holds):
        raise NotJudged(f"It must be a function, not {type(holds).__name__}.")
    for step in sorted(STEPS, key=_plainest_first):
        try:
            said = holds(step.verb, step.session, step.before, step.after)
        except NotImplementedError:
            raise
        except Exception as problem:
            return Judgement(False, f"It raised {type(problem).__name__}: {problem}", str(step))
        if not isinstance(said, bool):
            return Judgement(False, f"It answered {said!r}, not True or False.", str(step))
        if said != step.holds:
            return Judgement(False, _hint(step), str(step))
    return Judgement(True, f"{len(STEPS)} steps, and it finds all that break the promise.")


def _plainest_first(step: _Step) -> tuple[bool, bool, bool]:
    return step.holds, step.verb != "release", step.before != step.session


def _hint(step: _Step) -> str:
    if not step.holds:
        return "This step breaks the promise, and the function says that all is well."
    if step.verb != "release":
        return (
            f"The promise is about releases. What a {step.verb} may do is said by other promises."
        )
    if step.before == step.session:
        return "Its own entry a session may release: then it is gone."
    if step.before is None:
        return "There was no entry, so nothing of another session was touched."
    return "The other session's entry is still there: this is what the promise asks for."
