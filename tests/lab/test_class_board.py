"""Picture of a class's board: does it show connections beside what Redis says, at one moment?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.readable import assert_no_text_covers_another, words
from wsdemo.lab import Lab
from wsdemo.lab.plots import class_board
from wsdemo.lab.progress import HEADLESS

TTL_S = 15.0


def event(kind: str, t: float, **fields: Any) -> dict[str, Any]:
    return {"k": kind, "t": t, **fields}


def seated(t: float, user: str, gateway: str) -> list[dict[str, Any]]:
    """A student who joins and registers."""
    return [
        event("seat", t, u=user, n=user.title()),
        event("set", t, u=user, g=gateway, c=f"c-{user}", x=t + TTL_S),
    ]


def a_class() -> list[dict[str, Any]]:
    """gateway-02 crashes at 5 s under bjorn, who is back at 7 s, and edsger, who is not."""
    ready = [event("ready", 0.1, g=f"gateway-0{n}") for n in (1, 2, 3)]
    joined = [
        *seated(1.0, "ada", "gateway-01"),
        *seated(1.2, "bjorn", "gateway-02"),
        *seated(1.4, "edsger", "gateway-02"),
    ]
    back = event("set", 7.0, u="bjorn", g="gateway-03", c="c-2", x=22.0, p="gateway-02")
    return [
        {"type": "batch", "t": 1.5, "e": [*ready, *joined]},
        {"type": "batch", "t": 5.1, "e": [event("crash", 5.0, g="gateway-02")]},
        {"type": "batch", "t": 7.1, "e": [back]},
        {"type": "batch", "t": 12.0, "b": [["ada", "gateway-01", "c-ada", 25.0]]},
        {"type": "batch", "t": 17.0, "b": [["edsger", "", "", 0.0]]},
    ]


@pytest.mark.parametrize(
    ("options", "wrong", "nowhere"),
    [
        ({"at": 4.0}, "nobody", 0),
        ({"after_s": 1.0}, "bjorn and edsger", 2),
        ({"at": 8.0}, "edsger", 1),
        ({"at": 16.9}, "nobody", 1),  # His lease ended at 16.4 s; boards are told at 17.
        ({}, "nobody", 1),
    ],
)
def test_it_shows_whom_redis_places_where_they_are_not(
    options: dict[str, float], wrong: str, nowhere: int
) -> None:
    """At any moment: the numbers are facts for the title."""
    facts = class_board(a_class(), ttl_s=TTL_S, **options).wsdemo_facts  # type: ignore[arg-type]
    assert facts["wrong_users"] == wrong and facts["nowhere"] == nowhere
    assert facts["users"] == 3 or options == {"at": 4.0}


def test_the_latest_fault_has_a_name_and_a_time() -> None:
    """`after_s` counts from it."""
    facts = class_board(a_class(), after_s=1.0).wsdemo_facts
    assert facts["fault"] == "crash of gateway-02" and facts["after_s"] == 1
    assert class_board(a_class(), at=2.0).wsdemo_facts["fault"] == "beginning"


def test_a_ghost_is_marked_in_words_and_not_only_in_colour() -> None:
    """With a question mark, and among those who are connected to nobody."""
    picture = class_board(a_class(), at=8.0, ttl_s=TTL_S)
    shown = words(picture)
    assert "gateway-02 ?" in shown and "crashed" in shown
    assert "connected to nobody: edsger" in shown
    assert "gateway-03 ?" not in shown
    assert "edsger at gateway-02" in picture.wsdemo_alt
    assert "gateway-03 (up) has bjorn" in picture.wsdemo_alt


def test_while_redis_cannot_be_asked_nothing_is_drawn_as_known() -> None:
    """It says so instead."""
    batches = [*a_class(), {"type": "batch", "t": 18.0, "e": [event("beliefs_unknown", 17.5)]}]
    picture = class_board(batches)
    assert "nothing: it cannot be asked" in words(picture)
    assert picture.wsdemo_facts["wrong"] == 0


@pytest.mark.parametrize("students", [1, 30, 60])
@pytest.mark.parametrize("gateways", [1, 3, 5])
def test_no_text_covers_another(students: int, gateways: int) -> None:
    """With a class of any size: of too many, it is said how many more there are."""
    names = [f"gateway-0{n + 1}" for n in range(gateways)]
    ready = [event("ready", 0.1, g=name) for name in names]
    joined = [
        one for n in range(students) for one in seated(1.0, f"student-{n:02}", names[n % gateways])
    ]
    crash = event("crash", 2.0, g=names[0])
    picture = class_board([{"type": "batch", "t": 3.0, "e": [*ready, *joined, crash]}])
    assert_no_text_covers_another({"board": picture})
    if students > 30:
        assert any(text.startswith("and ") and text.endswith(" more") for text in words(picture))


def test_the_picture_of_a_crash_can_be_read() -> None:
    """The one of lesson 14."""
    picture = class_board(a_class(), after_s=1, title="{after_s} s after the {fault}")
    assert_no_text_covers_another({"board": picture})
    assert len(picture.wsdemo_alt) >= 40


def test_there_must_be_something_to_draw() -> None:
    """Said in words."""
    with pytest.raises(ValueError, match="nothing was recorded"):
        class_board([])
    with pytest.raises(ValueError, match="there was none"):
        class_board(a_class()[:1], after_s=1)


@pytest.mark.parametrize("with_room", [False, True])
def test_the_board_of_a_cell_is_a_picture_where_outputs_are_kept(
    monkeypatch: pytest.MonkeyPatch, with_room: bool
) -> None:
    """A widget without a kernel is an empty box."""
    monkeypatch.setenv(HEADLESS, "1")
    with Lab(gateways=2, scale=30) as lab:
        if with_room:
            lab.classroom()
        lab.connect("alice", to="gateway-02")
        lab.let_pass(10)
        picture = lab.board()
        assert "gateway-02 (up) has alice" in picture.wsdemo_alt
    assert lab.leaks() == []
