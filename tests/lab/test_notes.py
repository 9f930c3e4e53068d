"""Learner's notes: are they kept, and can a bad file or a bad disk do no harm?"""

from __future__ import annotations

from pathlib import Path

import pytest

from wsdemo.lab.notes import NOTES_FILE, LearnersNotes


def test_two_kernels_see_what_the_other_has_noted(tmp_path: Path) -> None:
    """One file; what is written last for a question counts."""
    one, other = (LearnersNotes(tmp_path / NOTES_FILE) for _ in range(2))
    one.say("q00", 5)
    other.say("q04", "both")
    one.passed("ex04")
    other.say("q00", "depends")
    assert [one.said("q00"), one.said("q04"), one.said("q01")] == ["depends", "both", None]
    assert other.has_passed("ex04") and not other.has_passed("ex00")
    assert [path.name for path in tmp_path.iterdir()] == [NOTES_FILE]


def test_forgetting_a_lesson_leaves_the_others(tmp_path: Path) -> None:
    """And it says whether anything was there."""
    notes = LearnersNotes(tmp_path / NOTES_FILE)
    assert not notes.forget("04") and not list(tmp_path.iterdir())
    for number in ("00", "04"):
        notes.say(f"q{number}", 1)
        notes.passed(f"ex{number}")
    assert notes.forget("04") and not notes.forget("04")
    again = LearnersNotes(tmp_path / NOTES_FILE)
    assert again.said("q04") is None and not again.has_passed("ex04")
    assert again.said("q00") == 1 and again.has_passed("ex00")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"said": 1, "passed": 2}',
        b"[" * 99_999,
        b'{"said":{}}',
    ],
)
def test_a_file_that_is_none_of_ours_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    """A lesson goes on with it, and the next note replaces it."""
    path = tmp_path / NOTES_FILE
    path.write_bytes(content)
    notes = LearnersNotes(path)
    assert notes.said("q00") is None and not notes.has_passed("ex00")
    notes.say("q00", 5)
    assert LearnersNotes(path).said("q00") == 5


def test_a_disk_that_cannot_be_written_loses_nothing_in_this_kernel(tmp_path: Path) -> None:
    """The notes live in memory then."""
    notes = LearnersNotes(tmp_path / "no such folder" / NOTES_FILE)
    notes.say("q00", 5)
    notes.passed("ex00")
    assert notes.said("q00") == 5 and notes.has_passed("ex00")
