"""History checks of a backend: does each find what violates it?"""

from __future__ import annotations

import pytest

from wsdemo.proof.history import (
    Bounds,
    Closed,
    Disconnected,
    Fault,
    Happened,
    ObservationGap,
    Owner,
    Phase,
    PresenceTold,
    Record,
    Registered,
    Sent,
    answers,
    backends,
    closes,
)

BOUNDS = Bounds(answer_s=1, arrive_s=1, pong_s=1, settle_s=5, aftermath_s=5, register_s=1)
END = Happened(t=30, name="end")
BOB: list[Record] = [
    Owner(t=1, user="bob", conn="c1", gateway="g1", token=1),
    Registered(t=1, user="bob", phase=Phase.OK, conn="c1", gateway="g1"),
]
CUT: list[Record] = [
    Fault(t=9, name="cut", begins=True, where=("g1",)),
    Fault(t=10, name="cut", begins=False, where=("g1",)),
]
ELSEWHERE: list[Record] = [
    Fault(t=9, name="cut", begins=True, where=("g2",)),
    Fault(t=10, name="cut", begins=False, where=("g2",)),
]


def told(*conns: str, user: str = "bob") -> Record:
    return PresenceTold(t=10.1, since=10, user=user, conns=conns)


def ended(*conns: str, phase: Phase = Phase.OK, user: str = "bob") -> Record:
    return Disconnected(t=10, user=user, phase=phase, id=1, code=4515, conns=conns)


def closed(t: float, code: int = 4515) -> Record:
    return Closed(t=t, user="bob", conn="c1", code=code)


HISTORIES: list[tuple[str, list[Record], int]] = [
    ("the owner is named", [*BOB, told("c1"), END], 0),
    ("who never owned is named", [*BOB, told("c1", "c2"), END], 1),
    ("who owned before is named", [*BOB, Owner(t=5, user="bob"), told("c1"), END], 1),
    ("while nobody observed Redis", [ObservationGap(t=9, for_s=2), told("c1"), END], 0),
    ("who is online is not named", [*BOB, told(), END], 1),
    ("who is online is not named, in a fault", [*BOB, *CUT, told(), END], 0),
    ("who is online is not named, a fault is elsewhere", [*BOB, *ELSEWHERE, told(), END], 1),
    ("who has gone is not named", [*BOB, closed(9, 1000), told(), END], 0),
    ("kicked, and ends", [*BOB, ended("c1"), closed(10.5), END], 0),
    ("kicked, and goes on", [*BOB, ended("c1"), END], 1),
    ("kicked, and goes on in a fault", [*BOB, *CUT, ended("c1"), END], 0),
    ("a session of somebody else is kicked", [*BOB, ended("c1", user="dave"), closed(11), END], 1),
]


@pytest.mark.parametrize(("history", "count"), [row[1:] for row in HISTORIES])
def test_answers_about_sessions_are_what_redis_said(history: list[Record], count: int) -> None:
    """And what was called kicked ends."""
    found = backends(history, BOUNDS)
    assert [violation.claim for violation in found] == ["A1"] * count, found


@pytest.mark.parametrize(
    ("reason", "code", "count"),
    [
        (ended("c1"), 4515, 0),
        (ended("c1"), 1012, 1),
        (ended("c2"), 4515, 1),
        (ended(phase=Phase.UNKNOWN), 4515, 0),
        (ended(phase=Phase.UNKNOWN, user="dave"), 4515, 1),
        (ended(phase=Phase.FAIL), 4515, 1),
    ],
)
def test_a_backend_explains_only_the_ends_that_it_wanted(
    reason: Record, code: int, count: int
) -> None:
    """By their session and their close code; where it had no answer, by their user."""
    history = [*BOB, reason, closed(10.5, code), END]
    assert len(closes(history, BOUNDS, {})) == count


@pytest.mark.parametrize(("faults", "count"), [(CUT, 0), (ELSEWHERE, 1)])
def test_a_message_of_a_backend_without_an_answer_needs_a_fault_at_the_gateway_that_it_asked(
    faults: list[Record], count: int
) -> None:
    """A backend has no session, so the record says which gateway was asked."""
    left = Sent(
        t=10, user="@app", phase=Phase.INVOKE, id="app-1", to="bob", conn="api-1", gateway="g1"
    )
    assert len(answers([*BOB, *faults, left, END], BOUNDS)) == count
