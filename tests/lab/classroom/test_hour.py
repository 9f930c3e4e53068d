"""The hour of docs/teaching.md: does each part show a class what the page says that it shows?

Scripted students take the seats of people, on loopback, at a faster clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.pages import PAGES
from wsdemo.lab import Lab
from wsdemo.lab.classroom.invited import InvitedStudent
from wsdemo.lab.classroom.room import Classroom
from wsdemo.lab.lessons import QUESTIONS

SCALE = 30.0


@pytest.fixture
def room(request: pytest.FixtureRequest) -> Iterator[Classroom]:
    """The room of the page; the parameter is the policy, when it is not the default."""
    policy = getattr(request, "param", "fenced")
    with Lab(gateways=3, scale=SCALE, policy=policy, freezable=["gateway-03"]) as lab:
        yield lab.classroom()
    assert lab.leaks() == []


def events(room: Classroom, kind: str) -> list[dict[str, Any]]:
    told = [event for batch in room.batches() for event in batch.get("e", ())]
    return [event for event in told if event["k"] == kind]


def all_back(room: Classroom, students: list[InvitedStudent]) -> None:
    room.lab.wait_until("all are back", lambda: all(one.gateway for one in students), 20)


def test_at_one_gateway_redis_is_not_asked(room: Classroom) -> None:
    """Minute 6: the board shows two ways of a message."""
    ada, _, _, _ = room.invite(4)
    assert ada.send("dana", "hello") == ada.send("bjorn", "hello") == "routed"
    room.lab.wait_until("the board shows both", lambda: len(events(room, "msg")) == 2)
    assert [event["s"] for event in events(room, "msg")] == ["local", "routed"]


def test_a_started_gateway_stays_empty(room: Classroom) -> None:
    """Minute 21: those who lost gateway-02 stay where they are."""
    students = room.invite(6)
    room.lab.crash("gateway-02")
    all_back(room, students)
    assert {one.name: one.closed[-1].code for one in students if one.closed} == {
        "bjorn": 1006,
        "edsger": 1006,
    }
    room.lab.start_gateway("gateway-02")
    room.lab.let_pass(30)
    assert room.lab.stats("gateway-02")["connections"] == 0


def late_cleanup(room: Classroom) -> str:
    """Hold a student's clean-up, let the student move, let go; return what a neighbour is told."""
    ada, bjorn = room.invite(2)
    lab = room.lab
    lab.hold_cleanup("ada", at="gateway-01")
    ada.move("gateway-03")
    lab.let_go("ada", at="gateway-01")
    return bjorn.send("ada", "Are you there?")


@pytest.mark.parametrize("room", ["go-demo"], indirect=True)
def test_with_the_demos_policy_a_late_cleanup_makes_a_student_unreachable(room: Classroom) -> None:
    """Minute 30."""
    assert late_cleanup(room) == "offline"


def test_with_the_default_policy_the_board_shows_a_refusal(room: Classroom) -> None:
    """Minute 30, again."""
    assert late_cleanup(room) == "routed"
    room.lab.wait_until("the board shows it", lambda: bool(events(room, "rej")))
    (refusal,) = events(room, "rej")
    assert (refusal["u"], refusal["r"]) == ("ada", "other owner")


def test_students_of_a_frozen_gateway_find_out_and_its_writes_are_refused(room: Classroom) -> None:
    """Minute 40: nobody tells them."""
    students = room.invite(3)
    frozen = students[2]
    room.lab.freeze("gateway-03")
    room.lab.wait_until("they are elsewhere", lambda: frozen.gateway[-2:] in ("01", "02"), 20)
    assert [one.code for one in frozen.closed] == [1006]
    room.lab.thaw("gateway-03")
    room.lab.wait_until("it is refused", lambda: bool(events(room, "rej")), 20)
    assert {event["u"] for event in events(room, "rej")} == {"chidi"}


def listed_again(lab: Lab, one: InvitedStudent) -> None:
    lab.wait_until(one.name, lambda: lab.record(one.name).get("gwId") == one.gateway, 20)


def test_heartbeats_fill_an_empty_redis(room: Classroom) -> None:
    """Minute 40: the entries come back, and nobody reconnects."""
    students = room.invite(3)
    lab = room.lab
    lab.redis.stop()
    lab.redis.restart(empty=True)
    for one in students:
        listed_again(lab, one)
    assert all(one.closed == [] for one in students)


def test_the_page_says_how_each_prediction_is_asked_and_revealed() -> None:
    """All questions, once each, with an answer that is one of the options."""
    text = PAGES["docs/teaching.md"]
    rows = re.findall(
        r"^\| \d\d\w* \| (.*room\.ask.*) \| (.*room\.reveal.*) \|$", text, re.MULTILINE
    )
    asked = [name for row, _ in rows for name in re.findall(r'room\.ask\("(\w+)"\)', row)]
    assert sorted(asked) == sorted(QUESTIONS)
    revealed = [said for _, row in rows for said in re.findall(r"room\.reveal\((.+?)\)`", row)]
    for name, said in zip(asked, revealed, strict=True):
        options = [str(option) for option in QUESTIONS[name].options]
        assert said == "ratio" or said.strip('"') in options, f"{name}: {said}"
