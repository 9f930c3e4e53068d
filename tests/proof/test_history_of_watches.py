"""History checks of presence events: does each find what violates it, and nothing else?"""

from __future__ import annotations

import pytest

from wsdemo.proof.history import (
    Fault,
    Owner,
    Phase,
    Record,
    Registered,
    WatchLooked,
    WatchTold,
    from_jsonl,
    to_jsonl,
    watches,
)

LOGIN = Registered(t=0, user="alice", phase=Phase.OK, conn="a1")


def told(t: float, state: str, process: str = "p1", *, is_there: bool | None = None) -> Record:
    is_there = state == "online" if is_there is None else is_there
    return WatchTold(t=t, user="alice", process=process, of="bob", state=state, is_there=is_there)


def looked(state: str, *, is_there: bool) -> Record:
    return WatchLooked(t=9, user="alice", process="p1", of="bob", state=state, is_there=is_there)


def owner(t: float, conn: str) -> Record:
    return Owner(t=t, user="bob", conn=conn)


def fault(t: float) -> list[Record]:
    return [Fault(t=t, name="cut", begins=True), Fault(t=t + 1, name="cut", begins=False)]


HERE = [LOGIN, owner(0, "b1"), told(1, "online")]

HISTORIES: list[tuple[str, list[Record], list[str]]] = [
    ("there, and told", [looked("online", is_there=True)], []),
    ("away, and told", [looked("offline", is_there=False)], []),
    ("there, and not told", [looked("offline", is_there=True)], ["W1"]),
    ("away, and not told", [looked("online", is_there=False)], ["W1"]),
    ("there, and nothing told", [looked("", is_there=True)], ["W1"]),
    ("comes and goes", [*HERE, owner(100, ""), told(105, "offline"), told(106, "online")], []),
    ("online twice", [*HERE, told(2, "online")], ["W2"]),
    ("online, told to two", [*HERE, told(2, "online", "p2")], []),
    ("offline too soon", [*HERE, owner(100, ""), told(101, "offline")], ["W3"]),
    ("offline, and there", [*HERE, told(100, "offline", is_there=True)], ["W3"]),
    ("a lease that ended", [*HERE, told(100, "offline")], []),
    ("soon, near a fault", [*HERE, *fault(98), owner(100, ""), told(101, "offline")], []),
    ("soon, far from a fault", [*HERE, *fault(9), owner(100, ""), told(101, "offline")], ["W3"]),
    ("the first state", [LOGIN, owner(99, ""), told(100, "offline")], []),
    (
        "to a new session",
        [
            *HERE,
            owner(100, ""),
            Registered(t=101, user="alice", phase=Phase.OK),
            told(102, "offline"),
        ],
        [],
    ),
]


@pytest.mark.parametrize(
    ("history", "expected"), [row[1:] for row in HISTORIES], ids=[row[0] for row in HISTORIES]
)
def test_what_watchers_are_told(history: list[Record], expected: list[str]) -> None:
    """W1 to W3, in histories of a few records."""
    assert [violation.claim for violation in watches(history)] == expected


def test_records_of_watches_are_written_and_read() -> None:
    """As JSON lines."""
    history = [record for _, history, _ in HISTORIES for record in history]
    assert from_jsonl(to_jsonl(history)) == history


def test_a_session_may_take_a_while_to_ask() -> None:
    """W3: what a session asks for is told as it is, and it may ask later than a grace."""
    again = Registered(t=99, user="alice", phase=Phase.OK, conn="a2")
    history = [*HERE, again, owner(100, ""), told(100.5, "offline")]
    assert [one.claim for one in watches(history, grace_s=1.0)] == ["W3"]
    assert watches(history, grace_s=1.0, login_s=2.0) == []
