"""Do the judges of lessons 03 and 07 tell right from wrong, whatever they draw?"""

from __future__ import annotations

import re
from typing import Any

import pytest

from wsdemo.lab import check
from wsdemo.lab.lessons import QUESTIONS, deaths, maps
from wsdemo.settings import Timing

SEEDS = range(5)
Map = dict[str, str]


# --- lesson 03: two maps -----------------------------------------------------------------------


def by_identity(conn: str, user_to_conn: Map, conn_to_user: Map) -> None:
    user = conn_to_user.pop(conn, None)
    if user is not None and user_to_conn.get(user) == conn:
        del user_to_conn[user]


def by_search(conn: str, user_to_conn: Map, conn_to_user: Map) -> None:
    conn_to_user.pop(conn, None)
    for user in [user for user, current in user_to_conn.items() if current == conn]:
        del user_to_conn[user]


def takes_the_newer(conn: str, user_to_conn: Map, conn_to_user: Map) -> None:
    user_to_conn.pop(conn_to_user.pop(conn, ""), None)


def takes_the_newer_and_trips(conn: str, user_to_conn: Map, conn_to_user: Map) -> None:
    del user_to_conn[conn_to_user.pop(conn)]


def clears_everything(conn: str, user_to_conn: Map, conn_to_user: Map) -> None:
    user_to_conn.clear()
    conn_to_user.clear()


def forgets_users(conn: str, user_to_conn: Map, conn_to_user: Map) -> None:
    conn_to_user.pop(conn, None)


def forgets_connections(conn: str, user_to_conn: Map, conn_to_user: Map) -> None:
    user = conn_to_user.get(conn, "")
    if user_to_conn.get(user) == conn:
        del user_to_conn[user]


def leaves_old_ones(conn: str, user_to_conn: Map, conn_to_user: Map) -> None:
    user = conn_to_user.get(conn, "")
    if user_to_conn.get(user) == conn:
        del user_to_conn[user], conn_to_user[conn]


def trips_over_a_stranger(conn: str, user_to_conn: Map, conn_to_user: Map) -> None:
    user = conn_to_user.pop(conn)
    if user_to_conn.get(user) == conn:
        del user_to_conn[user]


def trips_always(conn: str, user_to_conn: Map, conn_to_user: Map) -> None:
    by_identity(conn, user_to_conn, conn_to_user)
    if len(conn_to_user) == 1:
        raise ZeroDivisionError


CLEANUPS = {
    takes_the_newer: maps.Fault.LOST_NEWER,
    takes_the_newer_and_trips: maps.Fault.LOST_NEWER,
    clears_everything: maps.Fault.LOST_OTHER,
    forgets_users: maps.Fault.STILL_REACHABLE,
    forgets_connections: maps.Fault.STILL_LISTED,
    leaves_old_ones: maps.Fault.OLD_STILL_LISTED,
    trips_over_a_stranger: maps.Fault.UNKNOWN,
    trips_always: maps.Fault.RAISED,
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("right", [by_identity, by_search])
def test_a_clean_up_by_identity_is_accepted(right: Any, seed: int) -> None:
    """Whatever users and connections come and go, and however the reader has written it."""
    assert maps.judge_seeded(right, seed).ok


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("wrong", CLEANUPS, ids=lambda wrong: wrong.__name__)
def test_a_wrong_clean_up_gets_its_own_hint(wrong: Any, seed: int) -> None:
    """Each named misunderstanding is refused with its words, and with a short story."""
    verdict = maps.judge_seeded(wrong, seed)
    assert not verdict.ok
    hint, _, story = verdict.hint.partition(" What had happened: ")
    wanted = re.escape(maps.HINTS[CLEANUPS[wrong]]).replace(r"\{problem\}", r"\w+")
    assert re.fullmatch(wanted, hint)
    assert 1 <= len(story.split("; ")) <= 6
    assert "pop" not in verdict.hint and "==" not in verdict.hint


def test_the_story_of_a_lost_user_is_the_shortest_there_is() -> None:
    """She registers twice, and the first connection closes."""
    hint = maps.judge_seeded(takes_the_newer, seed=1).hint
    story = hint.partition("What had happened: ")[2]
    assert story.count(" registers on ") == 2 and story.count(" closes") == 1


def test_ex03_judges_from_a_cell() -> None:
    """Right, wrong, a stub, and no function."""

    def stub(conn: str, user_to_conn: Map, conn_to_user: Map) -> None:
        raise NotImplementedError

    assert check("ex03", by_identity)
    assert check("ex03", stub).verdict == "could not judge"
    assert check("ex03", takes_the_newer).verdict == "wrong"
    assert "must be a function, not dict" in check("ex03", {}).hint


def test_the_ping_really_comes_first() -> None:
    """What q03 says holds for the product's timings, in the worst case."""
    timing = Timing()
    pinged_s = timing.ws_ping_interval_s + timing.ws_ping_timeout_s
    # The entry counts from her last heartbeat, at most one interval before the lid closed; the
    # ping from her last byte. Both loops look a few seconds late at most.
    slack_s = 2 * min(timing.ws_ping_interval_s, timing.ws_ping_timeout_s) / 10
    assert pinged_s + slack_s < timing.presence_ttl_s - timing.heartbeat_s
    assert timing.presence_ttl_s <= timing.idle_timeout_s, "the demo's TTL precedes its scan"


# --- lesson 07: where to go --------------------------------------------------------------------

History = deaths.History


def least_recently_dialled(history: History, gateways: list[str]) -> str:
    dialled = [name for name, _ in history]
    return min(
        gateways, key=lambda name: dialled[::-1].index(name) * -1 if name in dialled else -99
    )


def in_turn(history: History, gateways: list[str]) -> str:
    if not history:
        return gateways[0]
    return gateways[(gateways.index(history[-1][0]) + 1) % len(gateways)]


def stays_at_home(history: History, gateways: list[str]) -> str:
    good = [name for name, result in history if result == "ok"]
    return good[-1] if good else gateways[0]


def ignores_history(history: History, gateways: list[str]) -> str:
    return gateways[0]


def alternates(history: History, gateways: list[str]) -> str:
    home = stays_at_home(history, gateways)
    other = next(name for name in gateways if name != home)
    return home if history and history[-1][0] == other else other


def bears_a_grudge(history: History, gateways: list[str]) -> str:
    failed = {name for name, result in history if result == "failed"}
    return next((name for name in gateways if name not in failed), gateways[0])


def home_first(history: History, gateways: list[str]) -> str:
    if history and history[-1][1] == "ok":
        return history[-1][0]
    return in_turn(history, gateways)


def never_asks_again(history: History, gateways: list[str]) -> str:
    now = deaths._failures_of_now(history)
    return next((name for name in gateways if name not in now), gateways[-1])


def gives_up(history: History, gateways: list[str]) -> Any:
    now = deaths._failures_of_now(history)
    return next((name for name in gateways if name not in now), None)


def has_no_more(history: History, gateways: list[str]) -> str:
    now = deaths._failures_of_now(history)
    return [name for name in gateways if name not in now][0]  # noqa: RUF015


def needs_a_past(history: History, gateways: list[str]) -> str:
    return least_recently_dialled(history, gateways) if history[-1] else ""


def invents(history: History, gateways: list[str]) -> str:
    return f"gateway-{len(history) + 1:02}" if history else "gateway-05"


WRONG_CLIENTS = {
    stays_at_home: "while others had not been tried once",
    ignores_history: "depend on the history at all",
    alternates: "in turn with another dead one",
    bears_a_grudge: "How long is a failure worth remembering?",
    home_first: "had just broken",
    never_asks_again: "one of them comes back",
    gives_up: "returned None",
    has_no_more: "When every gateway had failed it raised IndexError",
    needs_a_past: "With an empty history it raised IndexError",
    invents: "which is not one of the gateways",
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("right", [least_recently_dialled, in_turn])
def test_a_client_that_asks_everybody_is_accepted(right: Any, seed: int) -> None:
    """With room to spare, so that nobody fails by bad luck."""
    verdict = deaths.judge_seeded(right, seed)
    assert verdict.ok, verdict.hint


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("wrong", WRONG_CLIENTS, ids=lambda wrong: wrong.__name__)
def test_a_wrong_client_gets_its_own_hint(wrong: Any, seed: int) -> None:
    """Each named misunderstanding is refused, every time, with words of its own."""
    verdict = deaths.judge_seeded(wrong, seed)
    assert not verdict.ok
    assert WRONG_CLIENTS[wrong] in verdict.hint
    assert [words for words in WRONG_CLIENTS.values() if words in verdict.hint] == [
        WRONG_CLIENTS[wrong]
    ]


def test_the_model_is_the_same_for_the_same_seed() -> None:
    """Luck is drawn from the seed alone."""
    first, second = (deaths.judge_seeded(in_turn, 3) for _ in range(2))
    assert first == second


def test_ex07_judges_from_a_cell() -> None:
    """Right, wrong, a stub, and no function."""

    def stub(history: History, gateways: list[str]) -> str:
        raise NotImplementedError

    assert check("ex07", in_turn)
    assert check("ex07", gives_up).verdict == "wrong"
    assert check("ex07", stub).verdict == "could not judge"
    assert "must be a function, not str" in check("ex07", "gateway-02").hint


# --- the questions -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["q03", "q07"])
def test_every_option_has_words_of_its_own(name: str) -> None:
    """Each wrong option is a misconception with an answer."""
    options = QUESTIONS[name].options
    assert len(options) >= 4
    assert len(set(options.values())) == len(options)
    assert all(len(words) > 40 for words in options.values())
