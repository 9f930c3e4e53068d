"""Is the list of lessons what the lessons say, and do tracks fit into the time that one has?"""

from __future__ import annotations

import pytest

from tools import lesson_index as index
from tools import lessons
from tools.lesson_index import BEGIN, END, TRACKS, Lesson, Track, planned


def lesson(number: str, read: int, exercise: int) -> Lesson:
    minutes = {"read": read, "run": 1, "exercise": exercise}
    return Lesson(f"{number}-about", f"{number} · About", minutes, "none", "L0 exact")


LESSONS = [lesson("00", 9, 10), lesson("01", 14, 25), lesson("02", 19, 30), lesson("03", 4, 5)]


def test_the_committed_page_agrees_with_the_lessons() -> None:
    """A change in a header changes the page."""
    assert lessons.index_page().read_text(encoding="utf-8") == lessons.indexed(), (
        "run `make notebooks`"
    )


def test_every_lesson_is_listed_once_with_its_minutes() -> None:
    """One row each, whose minutes are the sum of those in the header."""
    page = index.page(LESSONS)
    for found in LESSONS:
        row = f"| [{found.title}]({found.stem}.ipynb) | {found.whole} | none | L0 exact |"
        assert page.count(row) == 1


def test_a_level_is_listed_without_its_explanation() -> None:
    """The text after the colon in a header is not copied."""
    about = {
        "title": "t",
        "minutes": {"read": 1, "run": 1, "exercise": 1},
        "failure": "none",
        "level": "L1 directed: the order of events is exact",
    }
    assert Lesson.of("07-x", about).level == "L1 directed"
    assert Lesson.of("07-x", about).number == "07"


@pytest.mark.parametrize("track", TRACKS, ids=lambda track: track.name)
def test_a_track_fits_into_its_time(track: Track) -> None:
    """With the existing lessons."""
    found = [index.Lesson.of(source.stem, lessons.about(source)) for source in lessons.sources()]
    parts = planned(track, found)
    assert parts
    assert track.minutes is None or sum(part.minutes for part in parts) <= track.minutes
    assert [part.lesson.number for part in parts] == sorted(part.lesson.number for part in parts)


def test_the_most_important_lessons_are_placed_first_and_exercises_are_dropped_first() -> None:
    """02 takes 50 of 90 minutes, 01 its 40; of 03 the 10 minutes do not fit, nor its 5."""
    parts = planned(Track("", 90, ("02", "01", "03")), LESSONS)
    assert [(part.lesson.number, part.whole) for part in parts] == [("01", True), ("02", True)]
    parts = planned(Track("", 75, ("02", "01", "03")), LESSONS)
    assert [(p.lesson.number, p.whole) for p in parts] == [
        ("01", False),
        ("02", True),
        ("03", True),
    ]


def test_a_track_skips_lessons_that_are_not_written_yet() -> None:
    """Numbers of lessons to come are no error."""
    assert [p.lesson.number for p in planned(Track("", 99, ("09", "00")), LESSONS)] == ["00"]


def test_a_lecture_has_votes_and_no_exercises() -> None:
    """Reading, running and the vote are the parts of a lecture."""
    (part,) = planned(Track("", 20, ("00",), on_screen=True), LESSONS)
    assert part.minutes == 9 + 1 + index.VOTE_MINUTES and not part.whole
    assert planned(Track("", 17, ("00",), on_screen=True), LESSONS) == []


def test_self_study_contains_everything() -> None:
    """No limit, no choice."""
    assert [part.lesson for part in planned(Track("", None), LESSONS)] == LESSONS


def test_only_the_text_between_the_comments_is_replaced() -> None:
    """The rest of the teachers' page stays unchanged."""
    text = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    once = index.inserted(text, "new")
    assert once == f"above\n{BEGIN}\n\nnew\n\n{END}\nbelow\n"
    assert index.inserted(once, "new") == once


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_the_comments_is_refused(text: str) -> None:
    """Otherwise its text would be lost."""
    with pytest.raises(ValueError, match="the text needs one line"):
        index.inserted(text, "new")
