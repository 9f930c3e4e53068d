"""History checks of rooms: does each find what violates it, and nothing else?"""

from __future__ import annotations

import pytest

from wsdemo.proof.history import (
    Calm,
    Forgotten,
    Record,
    RoomHeard,
    RoomLooked,
    RoomRegister,
    RoomSaid,
    from_jsonl,
    rooms,
    to_jsonl,
)


def register(t: float, state: str, token: int = 0, seq: int = 0, verb: str = "") -> Record:
    return RoomRegister(t=t, room="den", member="bob", state=state, token=token, seq=seq, verb=verb)


def looked(t: float, listed: str, **told: str) -> Record:
    """One letter stands for one user."""
    lists = {user: tuple(names) for user, names in told.items()}
    return RoomLooked(t=t, room="den", listed=tuple(listed), told=lists)


def said(t: float, msg_id: str = "m1") -> Record:
    return RoomSaid(t=t, user="a", room="den", id=msg_id)


def heard(t: float, user: str, *, process: str = "p", room: str = "den") -> Record:
    return RoomHeard(t=t, user=user, process=process + user, room=room, id="m1")


QUIET, LOUD = Calm(t=1, begins=True), Calm(t=9, begins=False)
BOTH = looked(0, "ab", a="ab", b="ab")

HISTORIES: list[tuple[str, list[Record], list[str]]] = [
    (
        "in, out and in again",
        [register(1, "in", 5, 1), register(2, "out", 5, 2), register(3, "in", 5, 3)],
        [],
    ),
    ("a newer session", [register(1, "in", 5, 9), register(2, "in", 6, 1)], []),
    ("an older session", [register(1, "in", 6, 1), register(2, "in", 5, 9)], ["R1"]),
    ("an older clean-up", [register(1, "in", 6, 1), register(2, "out", 5, 9)], ["R1"]),
    ("back by an older join", [register(1, "out", 5, 2), register(2, "in", 5, 1)], ["R2"]),
    (
        "swept, and said again",
        [register(1, "in", 5, 1), register(2, ""), register(3, "in", 5, 1)],
        [],
    ),
    (
        "swept, noted just below its join, and said again",
        [register(1, "in", 5, 2), register(2, "out", 5, 1, "sweep"), register(3, "in", 5, 2)],
        [],
    ),
    (
        "swept while nobody observed Redis",
        [register(1, "in", 5, 2), register(2, "out", 5, 1, "unseen")],
        [],
    ),
    (
        "swept, noted too far below its join",
        [register(1, "in", 5, 3), register(2, "out", 5, 1, "sweep")],
        ["R1"],
    ),
    (
        "a leave is no sweep",
        [register(1, "in", 5, 2), register(2, "out", 5, 1, "leave")],
        ["R1"],
    ),
    ("back after a loss", [register(1, "out", 5, 2), Forgotten(t=2), register(3, "in", 5, 1)], []),
    (
        "back, another was lost",
        [register(1, "out", 5, 2), Forgotten(t=2, user="x"), register(3, "in", 5, 1)],
        ["R2"],
    ),
    ("the list is right", [BOTH], []),
    ("a ghost", [looked(0, "abz", a="abz", b="abz")], ["R4"]),
    ("one is missing", [looked(0, "a", a="a", b="a")], ["R4"]),
    ("one was told of too many", [looked(0, "ab", a="abz", b="ab")], ["R3"]),
    ("one was told of too few", [looked(0, "ab", a="a", b="ab")], ["R3"]),
    ("heard by all", [BOTH, QUIET, said(2), heard(3, "a"), heard(3, "b"), LOUD], []),
    ("not heard by one", [BOTH, QUIET, said(2), heard(3, "a"), LOUD], ["room"]),
    ("not heard yet", [BOTH, QUIET, said(8.5), heard(8.6, "a"), LOUD], []),
    ("not heard under faults", [BOTH, said(0.5), heard(0.6, "a"), QUIET, LOUD], []),
    ("heard twice", [said(1), heard(2, "b"), heard(3, "b")], ["room"]),
    ("heard by two processes", [said(1), heard(2, "b"), heard(3, "b", process="q")], []),
    ("said by nobody", [heard(2, "b")], ["room"]),
    ("heard in another room", [said(1), heard(2, "b", room="attic")], ["room"]),
]


@pytest.mark.parametrize(
    ("history", "expected"), [row[1:] for row in HISTORIES], ids=[row[0] for row in HISTORIES]
)
def test_what_happens_in_rooms(history: list[Record], expected: list[str]) -> None:
    """R1 to R4 and delivery, in histories of a few records."""
    assert [violation.claim for violation in rooms(history)] == expected


def test_records_of_rooms_are_written_and_read() -> None:
    """As JSON lines."""
    history = [record for _, history, _ in HISTORIES for record in history]
    assert from_jsonl(to_jsonl(history)) == history
