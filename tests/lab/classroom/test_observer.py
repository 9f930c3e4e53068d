"""Observer stream: is what a board hears what docs/observer.md and the schema say?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.lab.classroom.replay import replay
from tests.pages import PAGES, tables_of
from wsdemo.lab import Lab
from wsdemo.lab.classroom.bundle import STATIC
from wsdemo.lab.classroom.room import Classroom
from wsdemo.lab.classroom.state import BoardState

pytestmark = pytest.mark.xdist_group("clock")

SCHEMA = json.loads((STATIC / "observer.schema.json").read_text(encoding="utf-8"))
JUDGE = Draft202012Validator(SCHEMA)
HELD = '"held":[["ann","gateway-01","release",0]]'
EXPECTED = {
    *("ready", "drain", "stopped", "crash", "freeze", "thaw", "fault", "redis_down", "redis_up"),
    *("beliefs_unknown", "beliefs_known", "set", "close", "del", "rej", "reclaim", "msg"),
    *("seat", "ask", "vote", "reveal", "saw"),
}


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    """A class in which nearly everything has happened."""
    with Lab(gateways=3, scale=30, freezable=["gateway-03"]) as lab:
        room = lab.classroom()
        with websocket(room, "/desk") as desk:
            take_part(room, desk)
            happen(lab, room)
            # Each is told a tick after it has happened, and what Redis says is asked for later.
            lab.wait_until("everything is told", lambda: kinds_left(room) == set(), 20)
            lab.wait_until("all is known again", lambda: room.feed.known, 20)
            yield room


def websocket(room: Classroom, path: str) -> ClientConnection:
    """Connect as a page of the room does."""
    url = f"127.0.0.1:{room.port}"
    return connect(f"ws://{url}{path}", origin=Origin(f"http://{url}"), proxy=None)


def take_part(room: Classroom, desk: ClientConnection) -> None:
    """Let a student take a seat, answer a question, and tell what the page has seen."""
    desk.send(json.dumps({"type": "join", "code": room.seats.code, "name": "Zoë"}))
    room.ask("mine", "Who forgets first?", {"Redis": "it has a clock", "the gateway": "it is near"})
    question = None
    while question is None:
        question = json.loads(desk.recv(10)).get("question")
    desk.send(json.dumps({"type": "vote", "q": question["id"], "o": "Redis"}))
    desk.send(json.dumps({"type": "saw", "code": 1006, "away": 0.5}))
    room.lab.wait_until("the vote is there", lambda: bool(room.votes))
    room.reveal("Redis")


def heard(room: Classroom) -> str:
    """Return all that a board has heard."""
    return "".join(room.feed.history)


def kinds_left(room: Classroom) -> set[str]:
    """Return which kinds of events a board has not heard yet."""
    return EXPECTED - {event["k"] for event in events(room)}


def happen(lab: Lab, room: Classroom) -> None:
    """Let nearly everything happen that a board can show."""
    ann, ben = lab.connect("ann"), lab.connect("ben", "gateway-02")
    assert ann.send("ben", "hello").status == "routed"
    lab.connect("carol").disconnect()
    assert ann.send("nobody", "hello").status == "offline"
    lab.hold_cleanup("ann", at="gateway-01")
    lab.wait_until("the hold is told", lambda: HELD in heard(room))
    ann.move("gateway-02")
    ann.send("ben", "we are neighbours")
    lab.let_go("ann", at="gateway-01")
    lab.drain("gateway-01")
    lab.start_gateway("gateway-01")
    lab.crash("gateway-02")
    lab.start_gateway("gateway-02")
    lab.freeze("gateway-03")
    lab.thaw("gateway-03")
    lab.redis.stop()
    lab.redis.restart()
    lab.delay_cleanups(0)
    for user in (ann, ben):
        lab.wait_until(f"{user.name} is back", lambda user=user: bool(user.gateway), 20)  # type: ignore[misc]


def events(room: Classroom) -> list[dict[str, Any]]:
    """Return all events so far."""
    return [event for text in room.feed.history for event in json.loads(text).get("e", ())]


def test_all_that_a_board_hears_is_in_the_schema(room: Classroom) -> None:
    """Hello, the past, live, and the answer to a button that is not for viewers."""
    types = []
    with websocket(room, f"/feed?k={room.seats.code}") as board:
        board.send(json.dumps({"type": "do", "what": "crash", "g": "gateway-01"}))
        while "failed" not in types:
            document = json.loads(board.recv(10))
            JUDGE.validate(document)
            types.append(document["type"])
    assert types[0] == "hello" and {"batch", "live"} <= set(types)
    assert kinds_left(room) == set()
    assert "other owner" in {event.get("r") for event in events(room)}
    assert HELD in heard(room)


def test_what_a_board_hears_after_a_cut_is_in_the_schema_too(room: Classroom) -> None:
    """The batch that stands for what was dropped leads to the same state."""
    state = BoardState()
    history = room.feed.history
    for text in history:
        state.apply(json.loads(text))
    snapshot = state.snapshot()
    JUDGE.validate(snapshot)
    assert replay([json.dumps(snapshot)]) == replay(history)


@pytest.mark.parametrize(
    "wrong",
    [
        {"t": 1},
        {"type": "batch"},
        {"type": "batch", "t": 1, "e": [{"t": 1, "k": "msg", "u": "ann"}]},
        {"type": "batch", "t": 1, "e": [{"t": 1, "k": "rej", "u": "a", "g": "g", "c": "c"}]},
        {"type": "batch", "t": 1, "b": [["ann", "gateway-01", "c"]]},
        {"type": "batch", "t": 1, "held": [["ann", "gateway-01", "fly", 1]]},
        {"type": "hello", "v": 2},
        {"type": "failed", "what": "crash"},
    ],
)
def test_the_schema_refuses_what_a_board_could_not_draw(wrong: dict[str, Any]) -> None:
    """Something must be able to fail."""
    assert not JUDGE.is_valid(wrong)


@pytest.mark.parametrize(
    "unknown",
    [
        {"type": "of a newer lab", "x": 1},
        {"type": "batch", "t": 1, "new": True, "e": [{"t": 1, "k": "new", "x": 3}]},
        {"type": "live", "since": 3},
    ],
)
def test_what_is_unknown_is_allowed_and_changes_nothing(unknown: dict[str, Any]) -> None:
    """An old page meets a newer lab."""
    assert JUDGE.is_valid(unknown)
    if unknown["type"] == "batch":
        state = BoardState()
        state.apply(unknown)
        assert replay([json.dumps(unknown)]) == replay([json.dumps(BoardState().snapshot())])


def test_the_page_names_every_kind_of_event_and_no_other() -> None:
    """docs/observer.md is the same list as what the translator, the feed and the room send."""
    told: set[str] = set()
    for header, rows in tables_of(PAGES["docs/observer.md"]):
        if header[0] == "`k`":
            told |= {kind for row in rows for kind in re.findall(r"`(\w+)`", row[0])}
    sent: set[str] = set()
    for path in (STATIC.parent).glob("*.py"):
        source = path.read_text(encoding="utf-8")
        sent |= set(re.findall(r'"k": "(\w+)"', source))
        sent |= set(re.findall(r'(?:_gateway|_of_session|note|_beliefs)\(\s*"(\w+)"', source))
    assert sent == told


def test_the_page_names_every_button(room: Classroom) -> None:
    """As the room understands it."""
    _, _, text = PAGES["docs/observer.md"].partition("## What a board may say")
    _, _, buttons = text.partition("`what` is one of")
    assert set(re.findall(r"`(\w+)`", buttons.partition(";")[0])) == set(room.controls._acts)
