"""Checks of lessons 01 to 03, 07 to 10 and 13: do they accept right answers, and name the mistakes
of wrong ones?
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.examples import seeds
from wsdemo.lab import check
from wsdemo.lab.lessons import CHECKS, QUESTIONS
from wsdemo.lab.lessons.cost import judge_route
from wsdemo.lab.lessons.deaths import judge_next_gateway
from wsdemo.lab.lessons.gap import Entry, Place, judge_read_on
from wsdemo.lab.lessons.herd import judge_backoff
from wsdemo.lab.lessons.lease import judge_choose_ttl
from wsdemo.lab.lessons.maps import judge_cleanup
from wsdemo.lab.lessons.redis_away import ReadinessState, judge_readiness
from wsdemo.lab.lessons.room_list import Word, judge_newer

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

# --- 09 --------------------------------------------------------------------------------------

ReadAnswer = tuple[str, list[str]]


def read_on(place: Place, before: Place, entries: list[Entry]) -> ReadAnswer:
    places = [before, *((number, mark) for number, mark, _ in entries)]
    texts = [text for _, _, text in entries]
    return ("recovered", texts[places.index(place) :]) if place in places else ("reset", texts)


def by_number(place: Place, before: Place, entries: list[Entry]) -> ReadAnswer:
    """Right but for the marks."""
    numbers = [before[0], *(number for number, _, _ in entries)]
    texts = [text for _, _, text in entries]
    if place[0] in numbers:
        return "recovered", texts[numbers.index(place[0]) :]
    return "reset", texts


def believes_what_is_ahead(place: Place, before: Place, entries: list[Entry]) -> ReadAnswer:
    ahead = place[0] > max([before[0], *(number for number, _, _ in entries)])
    return ("recovered", []) if ahead else read_on(place, before, entries)


def believes_what_is_old(place: Place, before: Place, entries: list[Entry]) -> ReadAnswer:
    answer, texts = read_on(place, before, entries)
    return ("recovered" if place[0] < before[0] else answer, texts)


def knows_no_before(place: Place, before: Place, entries: list[Entry]) -> ReadAnswer:
    return read_on(place, (-1, ""), entries)


def repeats(place: Place, before: Place, entries: list[Entry]) -> ReadAnswer:
    answer, texts = read_on(place, before, entries)
    had = [text for number, mark, text in entries if (number, mark) == place]
    return answer, [*had, *texts] if answer == "recovered" else texts


def is_stingy(place: Place, before: Place, entries: list[Entry]) -> ReadAnswer:
    answer, texts = read_on(place, before, entries)
    return answer, texts if answer == "recovered" else texts[-1:]


READS: Mutants = {
    "compares numbers only": (by_number, "another message has it"),
    "trusts a position beyond the end": (believes_what_is_ahead, "beyond its end"),
    "trusts a position that was removed": (believes_what_is_old, "Messages between were removed"),
    "knows nothing before the oldest": (knows_no_before, "exactly before the oldest"),
    "gives the last message again": (repeats, "a message again that he has"),
    "gives only the newest after a reset": (is_stingy, "everything that is left"),
    "always says reset": (lambda p, b, e: ("reset", [t for _, _, t in e]), "it is `recovered`"),
    "answers with a list": (lambda p, b, e: [t for _, _, t in e], "Return two things"),
    "empties the inbox": (lambda p, b, e: (e.clear(), ("reset", []))[1], "only read it"),
}

# --- 10 --------------------------------------------------------------------------------------


def is_live(state: ReadinessState) -> bool:
    return state.stood_still_s < 60


def serves_most(state: ReadinessState) -> bool:
    return 2 * state.primaries.count("takes writes") > len(state.primaries)


def readiness(state: ReadinessState) -> tuple[bool, bool]:
    ready = not state.draining and state.hears and serves_most(state)
    return is_live(state), is_live(state) and ready


def whatever_it_is_asked(state: ReadinessState) -> tuple[bool, bool]:
    """Right as well: nobody asks whether a process is ready that is about to be killed."""
    return is_live(state), not state.draining and state.hears and serves_most(state)


def all_primaries(state: ReadinessState) -> tuple[bool, bool]:
    ready = not state.draining and state.hears and set(state.primaries) == {"takes writes"}
    return is_live(state), ready


def any_primary(state: ReadinessState) -> tuple[bool, bool]:
    ready = not state.draining and state.hears and "takes writes" in state.primaries
    return is_live(state), ready


def answering_primaries(state: ReadinessState) -> tuple[bool, bool]:
    """PING is all that it asks."""
    answering = [one for one in state.primaries if one != "silent"]
    ready = 2 * len(answering) > len(state.primaries)
    return is_live(state), ready and not state.draining and state.hears


OUTAGES: Mutants = {
    "one answer for both": (lambda s: (readiness(s)[1],) * 2, "the gateway is not live"),
    "always ready": (lambda s: (is_live(s), True), "No newcomer can register"),
    "never dead": (lambda s: (True, readiness(s)[1]), "Nothing but a restart helps"),
    "asks whether Redis answers": (answering_primaries, "takes no write"),
    "wants all primaries": (all_primaries, "the balancer has none left"),
    "is content with one primary": (any_primary, "Half of all newcomers or more"),
    "forgets the subscription": (
        lambda s: (is_live(s), not s.draining and serves_most(s)),
        "hears nothing from Redis",
    ),
    "forgets the drain": (lambda s: (is_live(s), s.hears and serves_most(s)), "told to stop"),
    "is dead while it drains": (
        lambda s: (is_live(s) and not s.draining, readiness(s)[1]),
        "killed before its users are told",
    ),
    "wants users": (lambda s: (is_live(s), readiness(s)[1] and s.users > 0), "never get a user"),
    "answers with one word": (lambda s: readiness(s)[1], "Return two truth values"),
    "divides by the users": (lambda s: (is_live(s), 1 / s.users > 0), "raised ZeroDivisionError"),
}

# --- 13 --------------------------------------------------------------------------------------


def newer(kept: Word | None, word: Word) -> Word | None:
    return word if kept is None or word[1:] > kept[1:] else kept


def by_token_only(kept: Word | None, word: Word) -> Word | None:
    return word if kept is None or word[1] >= kept[1] else kept


def by_seq_only(kept: Word | None, word: Word) -> Word | None:
    return word if kept is None or word[2] > kept[2] else kept


def keeps_the_first(kept: Word | None, word: Word) -> Word | None:
    """Of a session: its later words are ignored."""
    return word if kept is None or word[1] > kept[1] else kept


def removes_who_left(kept: Word | None, word: Word) -> Word | None:
    said = newer(kept, word)
    return None if said is not None and said[0] == "out" else said


def guards_joins_only(kept: Word | None, word: Word) -> Word | None:
    """As the demo of lesson 04: a leave compares nothing."""
    return word if word[0] == "out" else newer(kept, word)


def guards_leaves_only(kept: Word | None, word: Word) -> Word | None:
    return word if word[0] == "in" else newer(kept, word)


STAMPS: Mutants = {
    "looks at the token only": (by_token_only, "Within one session a word came late"),
    "looks at seq only": (by_seq_only, "new session was not believed"),
    "believes the first word of a session": (keeps_the_first, "same session was ignored"),
    "removes who has left": (removes_who_left, "After a leave nothing was kept"),
    "compares when somebody joins only": (guards_joins_only, "A late clean-up"),
    "compares when somebody leaves only": (guards_leaves_only, "A late join"),
    "does not think of the first word": (
        lambda kept, word: word if word[1:] > kept[1:] else kept,
        "Nothing is kept yet",
    ),
    "answers with the state": (lambda kept, word: word[0], "one of the two"),
}


# --- 08 --------------------------------------------------------------------------------------


def backoff(attempt: int, rng: random.Random) -> float:
    return rng.uniform(0, min(10.0, 2.0 ** min(attempt, 4)))


BACKOFFS: Mutants = {
    "has no jitter": (lambda n, rng: min(10.0, 2.0 ** min(n, 4)), "wait equally long"),
    "has a generator of its own": (
        lambda n, rng: backoff(n, random.Random(7)),
        "wait equally long",
    ),
    "has a little jitter": (
        lambda n, rng: min(10.0, 2.0 ** min(n, 4)) * rng.uniform(0.9, 1.1),
        "The random part is small",
    ),
    "is too aggressive": (lambda n, rng: rng.uniform(0, 0.5), "however often it is asked"),
    "does not wait": (lambda n, rng: round(0.4 * rng.random()), "Nobody waits at all"),
    "lets all come within a second": (
        lambda n, rng: rng.uniform(0, min(10.0, 2.0 ** (min(n, 6) - 1))),
        "Over how many seconds does the first pause spread them?",
    ),
    "grows without a bound": (
        lambda n, rng: rng.uniform(0, 2.0 ** min(n, 30)),
        "What bounds them?",
    ),
    "ignores the attempt": (lambda n, rng: rng.uniform(0, 5), "differs after a fifth failure"),
    "is slow for one user alone": (lambda n, rng: rng.uniform(0, 16), "Begin with a short pause"),
    "is too patient": (lambda n, rng: rng.uniform(0, 60), "too long for a crowd"),
    "overflows": (lambda n, rng: rng.uniform(0, min(10, 2.0**n)), "away for a night"),
    "looks into the past": (lambda n, rng: -backoff(n, rng), "not negative"),
    "answers with a text": (lambda n, rng: "1 s", "Return a number of seconds"),
}

LESSONS: dict[str, tuple[Any, Any, Mutants]] = {
    "01": (judge_route, route, ROUTES),
    "02": (judge_choose_ttl, choose_ttl, TTLS),
    "03": (judge_cleanup, cleanup, CLEANUPS),
    "07": (judge_next_gateway, next_gateway, NEXTS),
    "08": (judge_backoff, backoff, BACKOFFS),
    "09": (judge_read_on, read_on, READS),
    "10": (judge_readiness, readiness, OUTAGES),
    "13": (judge_newer, newer, STAMPS),
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


def test_a_process_that_is_about_to_be_killed_may_say_either_that_it_is_ready() -> None:
    """Alternative right answers of lesson 10."""
    assert all(judge_readiness(whatever_it_is_asked, seed=seed).ok for seed in SEEDS)


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
