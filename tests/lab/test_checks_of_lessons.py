"""Checks of lessons 01, 02, 03 and 07: do they accept correct answers, and name the mistakes of
wrong ones?
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.examples import seeds
from wsdemo.lab import check
from wsdemo.lab.lessons import CHECKS, QUESTIONS
from wsdemo.lab.lessons.cost import judge_route
from wsdemo.lab.lessons.deaths import judge_next_gateway
from wsdemo.lab.lessons.lease import judge_choose_ttl
from wsdemo.lab.lessons.maps import judge_cleanup

SEEDS = seeds(5)
Mutants = dict[str, tuple[Callable[..., Any], str]]


# --- 01 --------------------------------------------------------------------------------------


def route(presence: dict[str, str], me: str) -> tuple[str, str | None]:
    gateway = presence.get("gwId")
    if not gateway:
        return ("offline", None)
    return ("local", None) if gateway == me else ("publish", f"gateway:{gateway}")


def cached() -> Callable[[dict[str, str], str], Any]:
    """Accepts every client with the first answer."""
    seen: list[Any] = []

    def answer(presence: dict[str, str], me: str) -> Any:
        seen.append(route(presence, me))
        return seen[0]

    return answer


ROUTES: Mutants = {
    "publishes to itself": (
        lambda p, me: ("publish", f"gateway:{p['gwId']}") if p.get("gwId") else ("offline", None),
        "Nobody else has to hear of it",
    ),
    "publishes to its own channel": (
        lambda p, me: route(p, me) if p.get("gwId") in (None, me) else ("publish", f"gateway:{me}"),
        "which channel does *that one* listen",
    ),
    "believes that everybody is there": (
        lambda p, me: ("local", None) if p.get("gwId", me) == me else route(p, me),
        "no record at all",
    ),
    "takes half a record for a whole one": (
        lambda p, me: route(p, me) if p.get("gwId") or not p else ("publish", "gateway:None"),
        "Half a record",
    ),
    "compares beginnings": (
        lambda p, me: ("local", None) if p.get("gwId", "").startswith(me) else route(p, me),
        "begin alike",
    ),
    "answers with a word": (lambda p, me: route(p, me)[0], "Return two things"),
    "answers from memory": (cached(), "The recipient sits"),
}


# --- 02 --------------------------------------------------------------------------------------


def choose_ttl(heartbeat: float, loss: float, at_most: float) -> float:
    misses = 1
    while 3600 / heartbeat * (1 - loss) * loss ** (misses + 1) > at_most:
        misses += 1
    return heartbeat * (misses + 1.5)


TTLS: Mutants = {
    "always ninety seconds": (lambda h, loss, m: 90, "same TTL for every"),
    "three heartbeats": (lambda h, loss, m: 3 * h, "false alarms an hour"),
    "an hour": (lambda h, loss, m: 3600 + h, "dead are listed"),
    "a little more than one": (lambda h, loss, m: 1.5 * h, "one single loss"),
    "just too short": (
        lambda h, loss, m: choose_ttl(h, loss, m) - 0.5 * h,
        "due at its very end comes too late",
    ),
    "for ever": (lambda h, loss, m: math.inf, "never ends"),
    "a text": (lambda h, loss, m: "90 s", "positive number"),
}


# --- 03 --------------------------------------------------------------------------------------

Maps = dict[str, str]


def cleanup(conn: str, user_to_conn: Maps, conn_to_user: Maps) -> None:
    user = conn_to_user.pop(conn, None)
    if user is not None and user_to_conn.get(user) == conn:
        del user_to_conn[user]


def by_user(conn: str, user_to_conn: Maps, conn_to_user: Maps) -> None:
    user = conn_to_user.pop(conn, None)
    user_to_conn.pop(user or "", None)


def forgets_one_map(conn: str, user_to_conn: Maps, conn_to_user: Maps) -> None:
    user = conn_to_user.get(conn)
    if user is not None and user_to_conn.get(user) == conn:
        del user_to_conn[user]


def forgets_the_other(conn: str, user_to_conn: Maps, conn_to_user: Maps) -> None:
    conn_to_user.pop(conn, None)


def not_twice(conn: str, user_to_conn: Maps, conn_to_user: Maps) -> None:
    user = conn_to_user.pop(conn)
    if user_to_conn.get(user) == conn:
        del user_to_conn[user]


def clears(conn: str, user_to_conn: Maps, conn_to_user: Maps) -> None:
    cleanup(conn, user_to_conn, conn_to_user)
    if len(user_to_conn) > 1:
        user_to_conn.popitem()


CLEANUPS: Mutants = {
    "removes by user": (by_user, "Whose place in the map was it?"),
    "leaves the connection": (forgets_one_map, "still listed among the connections"),
    "leaves the user": (forgets_the_other, "still listed as being here"),
    "is not idempotent": (not_twice, "a second time for the same connection"),
    "removes somebody else": (clears, ""),
}


# --- 07 --------------------------------------------------------------------------------------

History = list[tuple[str, str]]


def next_gateway(history: History, gateways: list[str]) -> str:
    latest = dict.fromkeys(gateways, (False, -1))
    for turn, (name, outcome) in enumerate(history):
        latest[name] = (outcome == "failed", turn)
    return min(gateways, key=lambda name: latest[name])


def never_again(history: History, gateways: list[str]) -> str:
    failed = {name for name, outcome in history if outcome == "failed"}
    return next(name for name in gateways if name not in failed)


def tidies(history: History, gateways: list[str]) -> str:
    choice = next_gateway(history, gateways)
    history.clear()
    return choice


def other_than_last(history: History, gateways: list[str]) -> str:
    return next(name for name in gateways if not history or name != history[-1][0])


def last_again(history: History, gateways: list[str]) -> str:
    return history[-1][0] if history else gateways[0]


def after_the_last(history: History, gateways: list[str]) -> str:
    return gateways[(gateways.index(history[-1][0]) + 1) % len(gateways)]


def two_in_turn(history: History, gateways: list[str]) -> str:
    latest = dict(history)
    fresh = [name for name in gateways if latest.get(name) != "failed"]
    return fresh[0] if fresh else other_than_last(history, gateways)


NEXTS: Mutants = {
    "asks the same again": (last_again, "just failed is asked again at once"),
    "needs a past": (
        lambda h, g: next_gateway(h, g) if h[-1] else "",
        "has no past yet, it raised IndexError",
    ),
    "walks in a circle": (after_the_last, ""),
    "knows two when all have failed": (two_in_turn, "whose turn is it?"),
    "always the first": (lambda h, g: g[0], "asked again at once"),
    "goes back and forth": (other_than_last, "asked before one that did not"),
    "never forgives": (never_again, "long ago a reason not to ask"),
    "invents one": (lambda h, g: "gateway-99", "none of the gateways"),
    "changes the history": (tidies, "do not change them"),
}

LESSONS: dict[str, tuple[Any, Any, Mutants]] = {
    "01": (judge_route, route, ROUTES),
    "02": (judge_choose_ttl, choose_ttl, TTLS),
    "03": (judge_cleanup, cleanup, CLEANUPS),
    "07": (judge_next_gateway, next_gateway, NEXTS),
}
CASES = [(lesson, name) for lesson, (_, _, mutants) in LESSONS.items() for name in mutants]


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_correct_answer_is_accepted_on_every_seed(lesson: str) -> None:
    """Whatever situations are drawn; and also through `check`."""
    judge, right, _ = LESSONS[lesson]
    for seed in SEEDS:
        judgement = judge(right, seed=seed)
        assert judgement.ok, judgement.hint
    assert check(f"ex{lesson}", right)


@pytest.mark.parametrize(("lesson", "name"), CASES)
def test_a_named_misunderstanding_gets_its_hint_on_every_seed(lesson: str, name: str) -> None:
    """No wrong answer passes by chance, and the hint is about what is wrong."""
    judge, _, mutants = LESSONS[lesson]
    wrong, words = mutants[name]
    for seed in SEEDS:
        judgement = judge(wrong, seed=seed)
        assert not judgement.ok
        assert words in judgement.hint


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_stub_is_reported_as_not_written_yet(lesson: str) -> None:
    """And an answer that is not a function cannot be judged."""

    def stub(*_: Any) -> Any:
        raise NotImplementedError

    assert check(f"ex{lesson}", stub).verdict == "could not judge"
    assert "must be a function" in check(f"ex{lesson}", 7).hint


def test_every_question_has_a_check_and_tempting_options() -> None:
    """At least three options, each with something to say about it."""
    assert {e[2:] for e in CHECKS} <= {q[1:] for q in QUESTIONS}
    for question in QUESTIONS.values():
        assert len(question.options) >= 3
        assert all(len(words) > 20 for words in question.options.values())
