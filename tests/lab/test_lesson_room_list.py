"""Lesson 13: is the list of a room wrong and right as it says, and can its figure be read?"""

from __future__ import annotations

import pytest

from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped, words
from wsdemo.drawing.style import Picture
from wsdemo.features import RoomSettings
from wsdemo.lab import Lab
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.figures.room_list import room_list
from wsdemo.lab.lessons.room_list import (
    ListBySet,
    ListByStamp,
    RoomSample,
    gateway_dies,
    late_cleanup,
)

PEOPLE = frozenset(f"user{n}" for n in range(24))
GHOSTS = frozenset(f"ghost{n}" for n in range(6))


# --- the experiment ----------------------------------------------------------------------------


def test_a_set_keeps_the_users_of_a_dead_gateway_who_never_came_back() -> None:
    """The six who vanished; those who came back are listed by right."""
    with Lab(gateways=3, policy="room-by-set", scale=30) as lab:
        last = gateway_dies(lab, ListBySet(lab))[-1]
    assert len(last.there) == 24 and last.ghosts == {f"03-{n}" for n in range(6)}
    assert lab.leaks() == []


def test_the_products_list_is_wrong_after_a_death_and_right_within_a_lease_and_a_beat() -> None:
    """It shows the six ghosts at first: nothing of a crash reaches Redis."""
    with Lab(gateways=3, rooms=True, scale=15) as lab:
        samples = gateway_dies(lab, ListByStamp(lab))
    wrong = [one for one in samples if one.ghosts]
    assert any(len(one.ghosts) >= 6 for one in wrong)
    assert not samples[-1].ghosts and not samples[-1].missing
    rooms = RoomSettings()
    # A sample takes longer than its second on a machine that is busy: so these are the fewest.
    assert len(wrong) <= rooms.room_lease_s + rooms.room_beat_s + 5
    assert lab.leaks() == []


def test_a_late_clean_up_removes_a_user_from_the_set_although_presence_is_fenced() -> None:
    """The fence of presence does not protect the list beside it."""
    with Lab(gateways=2, wires=True, policy="room-by-set", scale=20) as lab:
        assert late_cleanup(lab, ListBySet(lab)) == frozenset()
        assert lab.record("alice")["gwId"] == "gateway-02"


def test_a_late_clean_up_changes_nothing_in_the_products_list() -> None:
    """Alice stays, by gateway-02."""
    with Lab(gateways=2, wires=True, rooms=True, scale=20) as lab:
        room = ListByStamp(lab)
        assert late_cleanup(lab, room) == {"alice"}
        assert room.entries()["alice"].split()[3] == "gateway-02"


def test_a_room_is_refused_where_there_are_none() -> None:
    """In words that say what to do."""
    with Lab(gateways=1, scale=20) as lab:
        with pytest.raises(LabRefused, match=r"Lab\(rooms=True\)"):
            lab.connect("alice").join("lobby")


# --- the figure --------------------------------------------------------------------------------


def run(listed: list[frozenset[str]]) -> list[RoomSample]:
    return [RoomSample(float(t), PEOPLE, names) for t, names in enumerate(listed)]


KEEPS = run([PEOPLE] * 5 + [PEOPLE | GHOSTS] * 35)
HEALS = run([PEOPLE] * 5 + [PEOPLE | GHOSTS] * 25 + [PEOPLE] * 10)
FORGETS = run([PEOPLE] * 5 + [PEOPLE - {"user1"} | GHOSTS] * 35)


def drawn() -> dict[str, Picture]:
    return {
        "two": room_list({"a set": KEEPS, "stamps": HEALS}, fault=(5, "it dies"), prediction=0),
        "three": room_list({"a set": KEEPS, "stamps": HEALS, "forgets": FORGETS}),
        "one": room_list({"right": run([PEOPLE] * 3)}, fault=(2, "nothing happens")),
    }


def test_every_text_of_the_room_list_can_be_read() -> None:
    """With a prediction and with a fault, also at the end of the axis."""
    assert_no_text_covers_another(figures := drawn())
    assert_no_text_is_clipped(figures)


def test_the_room_list_says_who_is_wrong_and_for_how_long() -> None:
    """In each panel, in its title and for those who cannot see it."""
    figures = drawn()
    told = words(figures["two"])
    assert {"a set: at the end 6 ghosts (you said 0)", "stamps: right again after 25 s"} <= told
    assert "forgets: at the end 6 ghosts and 1 missing" in words(figures["three"])
    assert "right: right all the time" in words(figures["one"])
    assert figures["two"].wsdemo_facts == {
        "worst": "a set",
        "ghosts": 6,
        "best": "stamps",
        "heals_s": 25,
    }
    assert "24 users there at the end, 30 listed" in figures["two"].wsdemo_alt


def test_a_room_list_of_nothing_is_an_error_with_a_reason() -> None:
    """No run, an empty run, or too many."""
    wrong: list[dict[str, list[RoomSample]]] = [{}, {"x": []}, {str(n): KEEPS for n in range(4)}]
    for runs in wrong:
        with pytest.raises(ValueError, match="draw 1 to 3 runs"):
            room_list(runs)
