"""Lesson 05b: does its check accept every right invariant, and name the step that a wrong one
misjudges?
"""

from __future__ import annotations

from typing import Any

import pytest

from wsdemo.lab import check
from wsdemo.lab.lessons.invariants import STEPS, Invariant


def right(verb: str, session: str, before: str | None, after: str | None) -> bool:
    return verb != "release" or before in (None, session) or after == before


WRONG: dict[str, tuple[Any, str]] = {
    "sees nothing": (lambda *_: True, "breaks the promise"),
    "sees only deletions": (
        lambda verb, session, before, after: (
            verb != "release" or before in (None, session) or after is not None
        ),
        "breaks the promise",
    ),
    "forbids every release": (
        lambda verb, session, before, after: verb != "release" or before == after,
        "Its own entry",
    ),
    "is about all verbs": (
        lambda verb, session, before, after: before in (None, session) or after == before,
        "The promise is about releases",
    ),
    "nothing may appear": (
        lambda verb, session, before, after: (
            verb != "release" or before == session or after == before
        ),
        "There was no entry",
    ),
    "turned round": (lambda *step: not right(*step), "breaks the promise"),
    "says nothing": (lambda *_: None, "not True or False"),
    "raises": (lambda verb, session, before, after: after[0] == "s", "It raised TypeError"),
}


def test_a_correct_invariant_is_accepted() -> None:
    """Of all steps that there can be, also those of broken scripts."""
    assert len(STEPS) == 54 and sum(not step.holds for step in STEPS) == 4
    assert check("ex05b", right)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_invariant_is_shown_the_step_that_it_misjudges(name: str) -> None:
    """With a hint about what the promise says."""
    function, words = WRONG[name]
    verdict = check("ex05b", function)
    assert verdict.verdict == "wrong" and words in verdict.hint
    assert "calls" in str(verdict.evidence)


def test_what_is_not_written_yet_is_not_judged() -> None:
    """The stub of the lesson, and what is no function."""

    def stub(*_: Any) -> bool:
        raise NotImplementedError

    holds: Invariant = stub
    assert "not written yet" in check("ex05b", holds).hint
    assert "must be a function, not str" in check("ex05b", "P1").hint
