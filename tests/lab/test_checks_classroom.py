"""Check of lesson 14: does it accept correct answers, and name the mistakes of wrong ones?"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.examples import seeds
from wsdemo.lab import check
from wsdemo.lab.lessons import QUESTIONS
from wsdemo.lab.lessons.classroom import (
    SUBJECTS,
    BeliefGap,
    Moment,
    Replay,
    classes,
    gaps_of,
    judge_belief_gap,
    moments_of,
)

SEEDS = seeds(5)


def belief_gap(
    moments: list[Moment],
    end: float,
    *,
    crashes: bool = True,
    by_connection: bool = True,
    releases: bool = True,
    names_nobody: bool = True,
    until_end: bool = True,
    where: bool = True,
    unknown: bool = True,
    missing: bool = False,
) -> dict[str, float]:
    """A learner's answer, and with one option changed the answer of one who forgot something."""
    at: dict[str, tuple[str, str]] = {}
    says: dict[str, str] = {}
    gaps: dict[str, float] = {}
    before = 0.0
    last = [Moment(end, "end")] if until_end else []
    for moment in [*moments, *last]:
        t, kind, user, gateway, connection = moment
        wrong = {
            name
            for name, place in says.items()
            if (place or missing)
            and ((name, place) not in at.values() if where else name not in dict(at.values()))
        }
        for name in wrong:
            gaps[name] = gaps.get(name, 0.0) + t - before
        before = t
        if kind == "registered":
            at[connection if by_connection else user] = (user, gateway)
            says[user] = gateway
        elif kind == "closed":
            at.pop(connection if by_connection else user, None)
        elif kind == "gone" and crashes:
            at = {c: place for c, place in at.items() if place[1] != gateway}
        elif kind == "released" and releases:
            says.pop(user, None)
        elif kind == "says":
            if gateway or missing:
                says[user] = gateway
            elif names_nobody:
                says.pop(user, None)
        elif kind == "unknown" and unknown:
            says.clear()
    return gaps


def forgetting(**options: bool) -> BeliefGap:
    return lambda moments, end: belief_gap(moments, end, **options)


def overwrites(moments: list[Moment], end: float) -> dict[str, float]:
    """Keeps only the latest gap of each user."""
    replay = Replay()
    since: dict[str, float] = {}
    gaps: dict[str, float] = {}
    for moment in [*moments, Moment(end, "unknown")]:
        replay.take(moment)
        wrong = set(replay.wrong())
        for user in since.keys() - wrong:
            gaps[user] = moment.t - since.pop(user)
        for user in wrong:
            since.setdefault(user, moment.t)
    return gaps


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "waits for a close of each": (forgetting(crashes=False), "went with it"),
    "looks connections up by user": (forgetting(by_connection=False), "came back to the same"),
    "does not know of releases": (forgetting(releases=False), "after a release"),
    "believes a lease for ever": (forgetting(names_nobody=False), "A lease ran out"),
    "stops at the last moment": (forgetting(until_end=False), "Until when do you count"),
    "asks only whether she is there": (forgetting(where=False), "not where Redis said"),
    "counts while nobody knows": (forgetting(unknown=False), "could not be asked"),
    "counts whom Redis does not name": (forgetting(missing=True), "A lease ran out"),
    "keeps the latest gap": (overwrites, "add up"),
    "returns a sum": (lambda moments, end: sum(gaps_of(moments, end).values()), "a dict"),
    "fails": (lambda moments, end: {}[end], "It raised KeyError"),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_check_accepts_a_right_answer(seed: int) -> None:
    """Written in another way than the check's own."""
    assert judge_belief_gap(belief_gap, seed).ok
    assert judge_belief_gap(gaps_of, seed).ok


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_answer_is_refused_with_the_hint_that_names_it(name: str, seed: int) -> None:
    """With the case in which it is wrong, and without the right number."""
    answer, hint = WRONG[name]
    judgement = judge_belief_gap(answer, seed)
    assert not judgement.ok
    assert hint in judgement.hint, judgement.hint
    assert "the end" in str(judgement.evidence)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_subject_has_a_hint_of_its_own(seed: int) -> None:
    """As many hints as subjects, and one for the classes in which everything happens."""
    made = classes(random.Random(seed))
    assert len({one.hint for one in made}) == len(SUBJECTS) + 1
    assert all(one.moments == sorted(one.moments, key=lambda m: m.t) for one in made)
    assert any(gaps_of(one.moments, one.end) for one in made[len(SUBJECTS) :])


def test_an_exercise_that_is_not_written_yet_is_not_judged() -> None:
    """The stub of the learner's copy."""

    def stub(moments: list[Moment], end: float) -> dict[str, float]:
        raise NotImplementedError

    assert check("ex14", stub).verdict == "could not judge"
    assert check("ex14", 3).verdict == "could not judge"
    assert check("ex14", belief_gap).verdict == "ok"


def test_an_answer_cannot_change_what_it_is_given() -> None:
    """A learner who empties the list is compared with all of it."""

    def emptied(moments: list[Moment], end: float) -> dict[str, float]:
        gaps = gaps_of(moments, end)
        moments.clear()
        return gaps

    assert judge_belief_gap(emptied, 1).ok


def test_moments_are_what_boards_are_told_in_order() -> None:
    """Answers of Redis have the time of their batch; what is no connection or entry is left out."""
    batches = [
        {
            "type": "batch",
            "t": 2.0,
            "e": [
                {"k": "set", "u": "ada", "g": "gateway-01", "c": "c1", "t": 1.0, "x": 4},
                {"k": "vote", "n": 1, "t": 1.1},
                {"k": "crash", "g": "gateway-01", "t": 1.5},
            ],
        },
        {"type": "batch", "t": 3.0, "b": [["ada", "", "", 0.0]]},
    ]
    assert moments_of(batches) == [
        Moment(1.0, "registered", "ada", "gateway-01", "c1"),
        Moment(1.5, "gone", "", "gateway-01", ""),
        Moment(3.0, "says", "ada", "", ""),
    ]
    assert gaps_of(moments_of(batches), 5.0) == {"ada": 1.5}


def test_the_question_names_the_code_that_never_travels() -> None:
    """The options are close codes."""
    assert 1006 in QUESTIONS["q14"].options
