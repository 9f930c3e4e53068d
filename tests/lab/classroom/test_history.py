"""Bounded history: does a board that comes late end in the right state, whatever was dropped?"""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tests.lab.classroom.replay import NO_NODE, NODE, Replayed, replay, replay_by_model
from wsdemo.lab.classroom.history import History, encoded
from wsdemo.lab.classroom.state import AWAY_KEPT, BoardState

GATEWAYS = ["gateway-01", "gateway-02"]
USERS = ["ann", "ben", "user001"]
CONNECTIONS = ["c1", "c2", "c3", "c4"]

gateway = st.sampled_from(GATEWAYS)
user = st.sampled_from(USERS)
connection = st.sampled_from(CONNECTIONS)
session = {"u": user, "g": gateway, "c": connection}


def kind(*names: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return events of these kinds."""
    return st.fixed_dictionaries({"k": st.sampled_from(names), **fields})


events = st.one_of(
    kind("ready", "unready", "drain", "stopped", "crash", "stall", g=gateway),
    kind("freeze", "thaw", g=st.sampled_from([*GATEWAYS, "redis"])),
    kind("redis_down", "redis_up", "beliefs_unknown", "beliefs_known"),
    kind("set", x=st.just(99.0), **session),
    kind("set", x=st.just(99.0), **session),
    kind("reclaim", "close", "del", "silent", **session),
    kind("rej", r=st.sampled_from(["other owner", "no entry"]), **session),
    kind("msg", u=user, v=user, g=gateway, h=gateway, s=st.just("routed")),
    kind("seat", u=st.just("ann"), n=st.sampled_from(["Ann", "Änn"])),
    kind("ask", q=st.sampled_from(["who?", "why?"]), o=st.just(["a", "b"])),
    kind("vote", n=st.integers(0, 3)),
    kind("reveal", a=st.just("a"), n=st.just({"a": 1})),
    kind("saw", u=user, c=st.just(1006), s=st.just(0.5)),
    kind("of a newer lab"),
)
entry = st.tuples(user, st.sampled_from([*GATEWAYS, ""]), connection, st.just(99.0)).map(
    lambda row: [*row[:2], row[2] if row[1] else "", row[3] if row[1] else 0.0]
)
held = st.lists(st.tuples(user, gateway, st.just("release"), st.integers(0, 1)).map(list))
bodies = st.lists(
    st.tuples(st.lists(events, max_size=3), st.lists(entry, max_size=2), st.none() | held),
    min_size=1,
    max_size=25,
)


def batches(bodies: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return batches a tenth of a second apart."""
    made = []
    for number, (happened, rows, held) in enumerate(bodies):
        t = round(number / 10, 1)
        batch = {"type": "batch", "t": t, "n": number, "e": [{**e, "t": t} for e in happened]}
        batch["b"] = rows
        made.append(batch if held is None else {**batch, "held": held})
    return made


def kept(made: list[dict[str, Any]], limit_bytes: int) -> list[str]:
    """Return what a board hears that comes after these batches."""
    history = History(limit_bytes)
    for batch in made:
        history.add(encoded(batch))
    return history.texts()


@given(bodies, st.integers(1, 4_000))
@examples(200)
def test_what_is_kept_leads_to_the_same_state_as_everything(
    bodies: list[tuple[Any, ...]], limit_bytes: int
) -> None:
    """Wherever the cut falls."""
    made = batches(bodies)
    assert replay(kept(made, limit_bytes)) == replay([encoded(batch) for batch in made])


@given(bodies)
@examples(200)
def test_the_state_of_the_feed_is_that_of_a_replay(bodies: list[tuple[Any, ...]]) -> None:
    """The feed compares what Redis answers with it."""
    state, made = BoardState(), batches(bodies)
    for batch in made:
        state.apply(batch)
    told = replay([encoded(batch) for batch in made])
    entries = {user: (gateway, conn) for user, (gateway, conn, _) in state.entries.items()}
    assert (state.gateways, state.connections, entries) == (
        told.gateways,
        told.sockets,
        told.entries,
    )
    assert (state.redis, state.held, state.messages) == (told.redis, told.held, told.messages)


@pytest.mark.skipif(NODE is None, reason=NO_NODE)
def test_the_model_of_the_browser_agrees() -> None:
    """On everything, and on what is kept. While Redis cannot be asked, a board may or may not
    remember what it was told, so each of these runs ends with an empty Redis that was started.
    """
    everything: list[list[str]] = []
    cut: list[list[str]] = []

    @given(bodies, st.integers(1, 1_500))
    @examples(40, shrinks=False)
    def make(bodies: list[tuple[Any, ...]], limit_bytes: int) -> None:
        made = batches(bodies)
        ends = [{"k": kind, "t": 99.0} for kind in ("redis_up", "beliefs_known")]
        made.append({"type": "batch", "t": 99.0, "n": 1, "e": ends})
        everything.append([encoded(batch) for batch in made])
        cut.append(kept(made, limit_bytes))

    make()
    replayed = [replay(texts) for texts in everything]
    assert replay_by_model(everything) == replayed
    assert replay_by_model(cut) == replayed


def test_the_limit_holds_and_the_latest_batches_are_kept_as_they_are() -> None:
    """All but the first text are batches as they were sent."""
    texts = [encoded({"type": "batch", "t": n / 10, "n": n}) for n in range(1_000)]
    history = History(limit_bytes=5_000)
    for text in texts:
        history.add(text)
        assert history.bytes <= 5_000
    first, *rest = history.texts()
    assert rest == texts[-len(rest) :]
    assert sum(map(len, rest)) == history.bytes > 4_900
    cut = json.loads(first)
    assert cut["e"][0]["k"] == "cut" and all(event["again"] for event in cut["e"])
    assert cut["t"] == json.loads(texts[-len(rest) - 1])["t"]


def test_nothing_is_cut_before_the_limit() -> None:
    """A class of an hour has its first minute."""
    texts = [encoded({"type": "batch", "t": n / 10, "n": n}) for n in range(10)]
    history = History()
    for text in texts:
        history.add(text)
    assert history.texts() == texts


def test_a_run_that_is_saved_while_it_goes_on_has_no_gap() -> None:
    """A cell reads in its own thread."""
    history = History(limit_bytes=3_000)
    over = threading.Event()

    def go_on() -> None:
        for number in range(20_000):
            history.add(encoded({"type": "batch", "t": float(number), "n": number}))
        over.set()

    thread = threading.Thread(target=go_on)
    thread.start()
    reads = 0
    while not over.is_set():
        numbers = [json.loads(text)["n"] for text in history.texts()]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
        reads += 1
    thread.join()
    assert reads > 1


def test_who_is_away_longest_is_forgotten() -> None:
    """Students and simulated users come and go; the state does not grow with them."""
    state = BoardState()
    for number in range(5 * AWAY_KEPT):
        name, conn = f"u{number}", f"c{number}"
        came = {"u": name, "g": "gateway-01", "c": conn}
        seat = {"k": "seat", "u": name, "n": name.upper()}
        for event in (seat, {"k": "set", "x": 1.0, **came}, {"k": "del", **came}):
            state.apply_event(event)
        if number != 7:
            state.apply_event({"k": "close", **came})
    told: Replayed = replay([encoded(state.snapshot())])
    assert AWAY_KEPT <= len(told.students) <= 2 * AWAY_KEPT + 1
    assert told.sockets == {"c7": ("u7", "gateway-01")}
    assert {"u7", f"u{5 * AWAY_KEPT - 1}"} <= told.students.keys() and "u8" not in told.students
