"""Scripted students: do they take part as a phone would, and leave nothing behind?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from wsdemo.lab import Lab
from wsdemo.lab.classroom.room import Classroom
from wsdemo.lab.errors import LabClosed, LabRefused, LabTimeout
from wsdemo.lab.lessons import QUESTIONS
from wsdemo.lab.lessons.classroom import gaps_of, moments_of

SCALE = 30.0


@pytest.fixture
def room() -> Iterator[Classroom]:
    """A room whose lab must leave nothing behind, its scripted students included."""
    with Lab(gateways=3, scale=SCALE) as lab:
        yield lab.classroom()
    assert lab.leaks() == []


def test_they_take_seats_and_start_at_the_gateways_in_turn(room: Classroom) -> None:
    """By the port of the room, as pages do."""
    students = room.invite(4)
    assert [one.name for one in students] == room.students == ["ada", "bjorn", "chidi", "dana"]
    where = [one.gateway for one in students]
    assert where == ["gateway-01", "gateway-02", "gateway-03", "gateway-01"]
    assert room.lab.record("bjorn")["gwId"] == "gateway-02"
    assert repr(students[1]) == "<Student bjorn at gateway-02>"


def test_more_of_them_can_be_invited_later(room: Classroom) -> None:
    """They get the next names."""
    room.invite(2)
    (third,) = room.invite(1)
    assert third.name == "chidi" and len(room.students) == 3


def test_they_write_to_each_other(room: Classroom) -> None:
    """And are told what their gateway says of it."""
    ada, bjorn = room.invite(2)
    assert ada.send("bjorn", "hello") == "routed"
    room.lab.wait_until("it has arrived", lambda: bjorn.received == [("ada", "hello")])
    assert ada.send("nobody-of-this-name", "hello") == "offline"


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_of_the_lessons_can_be_asked(room: Classroom, question: str) -> None:
    """Everybody votes; what was measured stands beside the votes, an option or not."""
    students = room.invite(3)
    room.ask(question)
    wait_for_all_votes(room, len(students))
    options = [str(option) for option in QUESTIONS[question].options]
    assert set(room.votes.values()) <= set(options)
    counted = room.reveal(options[-1])
    assert list(counted) == options and sum(counted.values()) == len(students)
    assert counted.measured == options[-1]
    assert "<figure" in counted._repr_html_()


def test_a_vote_can_be_changed_until_the_answer_is_shown(room: Classroom) -> None:
    """A question of the teacher's own."""
    (ada,) = room.invite(1)
    with pytest.raises(LabRefused, match="nothing was asked"):
        ada.vote("yes")
    room.ask("mine", "Is it so?", {"yes": "", "no": ""})
    wait_for_all_votes(room, 1)
    for option in ("yes", "no"):
        ada.vote(option)
        wait_for_votes(room, {"ada": option})
    assert room.reveal("no") == {"yes": 0, "no": 1}


def test_votes_by_chance_depend_on_the_seed_alone() -> None:
    """A lesson that is run again shows the same."""
    cast = []
    for _ in range(2):
        with Lab(gateways=1, scale=SCALE, seed=3) as lab:
            room = lab.classroom()
            room.invite(5)
            room.ask("q14")
            wait_for_all_votes(room, 5)
            cast.append(room.votes)
    assert cast[0] == cast[1]


def test_after_a_crash_they_come_back_and_say_1006(room: Classroom) -> None:
    """And the board is told what they saw."""
    students = room.invite(3)
    room.lab.crash("gateway-02")
    room.lab.wait_until("all are back", lambda: all(one.gateway for one in students))
    ada, bjorn, chidi = students
    assert [one.code for one in bjorn.closed] == [1006] and bjorn.closed[0].away_s > 0
    assert ada.closed == chidi.closed == []
    room.lab.wait_until("the board was told", lambda: ("bjorn", 1006) in saw(room))


def test_after_a_drain_they_come_back_when_they_are_asked_to(room: Classroom) -> None:
    """1012 goes with advice."""
    students = room.invite(3)
    room.lab.drain("gateway-03")
    room.lab.wait_until("all are back", lambda: all(one.gateway for one in students))
    assert [one.code for one in students[2].closed] == [1012]


def test_a_locked_phone_is_forgotten_by_redis_and_then_by_its_gateway(room: Classroom) -> None:
    """Its socket looks alive; when it wakes, it sees 4009 and comes back."""
    ada, bjorn = room.invite(2)
    bjorn.lock()
    assert bjorn.send("ada", "I sleep") == "busy"
    with pytest.raises(LabRefused, match="locked"):
        bjorn.move("gateway-01")
    lab = room.lab
    lab.wait_until("Redis forgets", lambda: not lab.record("bjorn"), 120 / SCALE + 10)
    assert lab.stats("gateway-02")["connections"] == 1
    lab.wait_until(
        "its gateway forgets", lambda: lab.stats("gateway-02")["connections"] == 0, 200 / SCALE + 10
    )
    bjorn.unlock()
    lab.wait_until("it is back", lambda: len(bjorn.closed) == 1 and bjorn.gateway != "")
    assert [one.code for one in bjorn.closed] == [4009] and ada.closed == []
    lab.wait_until("it is listed", lambda: lab.record("bjorn").get("gwId") == bjorn.gateway)


def test_they_move_to_another_gateway(room: Classroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move is no accident: no page says that it saw one."""
    (ada,) = room.invite(1)
    ada.move("gateway-03")
    assert ada.gateway == "gateway-03" and ada.closed == []
    with pytest.raises(LabRefused, match="gateway-99"):
        ada.move("gateway-99")
    room.lab.crash("gateway-01")
    monkeypatch.setattr("wsdemo.lab.classroom.scripted.SETTLED_S", 0.3)
    with pytest.raises(LabTimeout, match="registered at gateway-01"):
        ada.move("gateway-01")


def test_who_leaves_is_gone(room: Classroom) -> None:
    """From the gateway, and then from Redis."""
    (ada,) = room.invite(1)
    ada.leave()
    ada.leave()
    room.lab.wait_until("it is forgotten", lambda: not room.lab.record("ada"))
    assert ada.gateway == "" and ada.send("ada", "hello") == "busy"


@pytest.mark.parametrize("count", [0, -1, 61, 2.5, True, "six"])
def test_a_class_is_a_number_of_students(room: Classroom, count: int) -> None:
    """Refused with words."""
    with pytest.raises(LabRefused, match="a number of students"):
        room.invite(count)


def test_when_there_are_not_enough_seats_none_stays() -> None:
    """The text is what a student would read."""
    with Lab(gateways=1, scale=SCALE) as lab:
        room = lab.classroom(seats=2)
        with pytest.raises(LabRefused, match="all 2 seats are taken"):
            room.invite(3)
        lab.wait_until("they are gone", lambda: lab.stats("gateway-01")["connections"] == 0)
    assert lab.leaks() == []


def test_they_leave_when_the_room_is_closed_and_the_lab_goes_on(room: Classroom) -> None:
    """Even while one of them waits for a gateway."""
    students = room.invite(3)
    room.lab.crash("gateway-01")
    room.close()
    assert all(one.gateway == "" for one in students)
    with pytest.raises(LabRefused, match="closed"):
        room.invite(1)
    room.lab.connect("alice", to="gateway-02")


def test_after_the_end_of_the_lab_a_student_says_that_it_is_closed() -> None:
    """As all handles do; what boards were told can still be read."""
    with Lab(gateways=1, scale=SCALE) as lab:
        room = lab.classroom()
        (ada,) = room.invite(1)
        lab.wait_until("it is told", lambda: "set" in kinds(room))
    with pytest.raises(LabClosed):
        ada.send("bjorn", "hello")
    assert "set" in kinds(room)


def test_the_answer_of_lesson_14_agrees_with_what_happened(room: Classroom) -> None:
    """On a real class: Redis is wrong about whoever slept during a crash, until the lease ends."""
    ada, bjorn = room.invite(2)
    lab = room.lab
    bjorn.lock()
    lab.crash("gateway-02")
    lab.wait_until("Redis forgets", lambda: not lab.record("bjorn"), 120 / SCALE + 10)
    lab.wait_until("the board knows", lambda: any(row == "" for row in said(room, "bjorn")))
    gaps = gaps_of(moments_of(room.batches()), room.batches()[-1]["t"])
    assert set(gaps) == {"bjorn"}
    assert ada.closed == [] and gaps["bjorn"] > 0


def events(room: Classroom) -> list[dict[str, Any]]:
    return [event for batch in room.batches() for event in batch.get("e", ())]


def kinds(room: Classroom) -> set[str]:
    return {event["k"] for event in events(room)}


def saw(room: Classroom) -> list[tuple[str, int]]:
    return [(event["u"], event["c"]) for event in events(room) if event["k"] == "saw"]


def wait_for_votes(room: Classroom, votes: dict[str, str]) -> None:
    room.lab.wait_until(f"the votes are {votes}", lambda: room.votes == votes)


def wait_for_all_votes(room: Classroom, count: int) -> None:
    room.lab.wait_until("all have voted", lambda: len(room.votes) == count)


def said(room: Classroom, user: str) -> list[str]:
    """Which gateways Redis has named for a user, in order."""
    return [row[1] for batch in room.batches() for row in batch.get("b", ()) if row[0] == user]
