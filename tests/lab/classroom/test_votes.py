"""Votes: what does a class predict, when may it change its mind, and how is the answer shown?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.lab.classroom.visitors import hear, say, student
from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped, words
from wsdemo.lab.classroom.room import Classroom
from wsdemo.lab.classroom.votes import Poll, VoteCount, poll_of
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.figures.votes import votes
from wsdemo.lab.lessons import QUESTIONS

pytestmark = pytest.mark.xdist_group("clock")

OPTIONS = {"one": "why one", "two": "why two", "three": ""}


# --- asking ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_of_the_lessons_can_be_asked(room: Classroom, name: str) -> None:
    """With its text and its options as they are predicted in the notebook."""
    room.ask(name)
    with student(room, "Ann") as ann:
        question = hear(ann.feed, "class")["question"]
    assert question["text"] == QUESTIONS[name].text
    assert question["options"] == [str(option) for option in QUESTIONS[name].options]
    assert question["answer"] is None


def test_an_own_question_has_its_own_options(room: Classroom) -> None:
    """With the reason why each is tempting, or as a list."""
    room.ask("mine", "How many?", OPTIONS)
    assert room.reveal("two") == {"one": 0, "two": 0, "three": 0}
    room.ask("mine", "How many?", ["1", "2"])
    assert room.reveal(2) == {"1": 0, "2": 0}


@pytest.mark.parametrize(
    ("name", "text", "options", "why"),
    [
        ("q4", "", None, "there is no question 'q4'"),
        ("mine", "How many?", None, "a question needs options to choose from"),
        ("mine", "How many?", {}, "a question needs options to choose from"),
        ("mine", "How many?", "ab", "a question needs options to choose from"),
        ("mine", "", OPTIONS, "a question is a text of 1 to 400 characters"),
        ("mine", "x" * 401, OPTIONS, "a question is a text of 1 to 400 characters"),
        ("mine", "How many?", ["1"], "a question has 2 to 8 different options"),
        ("mine", "How many?", ["1"] * 5, "a question has 2 to 8 different options"),
        ("mine", "How many?", list("123456789"), "a question has 2 to 8 different options"),
        ("mine", "How many?", ["x" * 81, "y"], "of 1 to 80 characters"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_in_words(
    name: str, text: str, options: Sequence[str] | None, why: str
) -> None:
    """Before any phone shows it."""
    with pytest.raises(LabRefused, match=why):
        poll_of(name, text, options)


def test_an_answer_without_a_question_is_refused(room: Classroom) -> None:
    """A cell was run too early."""
    room._poll = None
    with pytest.raises(LabRefused, match="nothing was asked yet"):
        room.reveal("nothing")


# --- voting ----------------------------------------------------------------------------------


def test_a_vote_may_be_changed_until_the_answer_is_shown() -> None:
    """After that it counts as it was; what is no option counts never."""
    poll = Poll("q", "How many?", OPTIONS)
    assert poll.vote("ann", "one")
    assert poll.vote("ann", "two")
    assert not poll.vote("ann", "nine")
    assert poll.count() == {"one": 0, "two": 1, "three": 0}
    poll.measured = "one"
    assert not poll.vote("ann", "one")
    assert poll.votes == {"ann": "two"}


def test_the_same_vote_again_is_no_news() -> None:
    """It is not told again: a recording does not grow by it."""
    poll = Poll("q", "How many?", OPTIONS)
    assert [poll.vote("ann", option) for option in ("one", "one", "two", "two")] == [
        *(True, False),
        *(True, False),
    ]
    assert poll.votes == {"ann": "two"}


def test_why_an_option_is_tempting_is_told_with_the_answer() -> None:
    """Before that, it would give the answer away."""
    poll = Poll("q", "How many?", OPTIONS)
    assert "why one" not in str(poll.document())
    poll.measured = "two"
    assert poll.document()["options"] == OPTIONS
    assert poll.document()["tally"] == {"one": 0, "two": 0, "three": 0}


def test_votes_of_students_are_counted_and_shown_to_all(room: Classroom) -> None:
    """Votes on an earlier question do not count for a later one."""
    with student(room, "Ann") as ann, student(room, "Bob") as bob:
        room.ask("first", "First?", OPTIONS)
        old = asked(ann, "First?")
        room.ask("q04")
        new = asked(ann, poll_of("q04").text)
        for who, question, option in (
            (ann, old, "one"),
            (ann, new, "both"),
            (ann, new, "nothing"),
            (bob, new, "gateway-02"),
            (bob, new, "no option"),
        ):
            say(who.feed, type="vote", q=question, o=option)
        say(bob.feed, type="vote", q=new)
        say(bob.feed, type="vote", q=[], o={})
        expected = {ann.user: "nothing", bob.user: "gateway-02"}
        room.lab.wait_until("both have voted", lambda: room.votes == expected)
        count = room.reveal("nothing")
        assert count == {"gateway-01": 0, "gateway-02": 1, "nothing": 1, "both": 0}
        # The room is shared: what is heard first may be an answer of an earlier test.
        shown: dict[str, Any] = {}
        while shown.get("id") != new or shown["answer"] is None:
            shown = hear(bob.feed, "class").get("question") or {}
        assert shown["tally"] == dict(count)


def asked(who: object, text: str) -> str:
    """Wait until a student is asked this, and return the id of the question."""
    feed = who.feed  # type: ignore[attr-defined]
    while True:
        question = hear(feed, "class").get("question")
        if question is not None and question["answer"] is None and question["text"] == text:
            return str(question["id"])


# --- the answer ------------------------------------------------------------------------------


def test_a_count_is_a_mapping_and_a_text() -> None:
    """Bars of characters for a terminal."""
    count = VoteCount("How many?", {"one": 1, "two": 4}, "two")
    assert dict(count) == count == {"one": 1, "two": 4}
    lines = repr(count).splitlines()
    assert lines[0] == "How many?"
    assert lines[1].count("█") * 4 == lines[2].count("█")
    assert lines[2].endswith("4 ← measured")
    assert lines[3] == "Measured: two"


def test_a_cell_shows_the_histogram_beside_the_measured_value() -> None:
    """With an alt text; nobody's vote is words only."""
    shown = VoteCount("How <many>?", {"one": 1, "two": 4}, "two")._repr_html_()
    assert "<figure" in shown
    assert "one: 1, two: 4. Measured: two." in shown
    assert "How &lt;many&gt;?" in shown
    nobody = VoteCount("How <many>?", {"one": 0, "two": 0}, "two")._repr_html_()
    assert nobody.startswith("<pre>How &lt;many&gt;?")


LONG = {f"an option whose text does not end for a very long time, number {n}": n for n in range(8)}
FIGURES = {
    "usual": lambda: votes("Where is she?", {"a": 3, "b": 9, "c": 0}, "b"),
    "no option": lambda: votes("How many times?", {"1": 3, "2": 9}, "3.7"),
    "long": lambda: votes("Why? " * 80, LONG, next(iter(LONG))),
    "odd": lambda: votes("$x_{1}$?", {"$x$": 1, "{y}": 2}, "{y}"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_of_the_histogram_covers_another_or_is_clipped(name: str) -> None:
    """Also of long options, and of those that look like formulas."""
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert_no_text_covers_another({name: figure})
    assert_no_text_is_clipped({name: figure})


def test_the_title_of_the_histogram_has_the_measured_numbers() -> None:
    """How many were right, or that nobody could be."""
    assert "9 of 12 said what was measured: b" in words(FIGURES["usual"]())
    assert "Measured: 3.7, which was no option; 12 voted" in words(FIGURES["no option"]())
    with pytest.raises(ValueError, match="nobody has voted"):
        votes("?", {"a": 0}, "a")
