"""Lesson index: which lessons are there, and which of them fit into a given time?

The list of lessons and the tracks of `notebooks/README.md`, from what the lessons say about
themselves. `make notebooks` writes them between two comments of that file; all around is written
by hand. Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

BEGIN: Final = "<!-- made by `make notebooks` from the headers in src/ -->"
END: Final = "<!-- until here -->"
VOTE_MINUTES: Final = 8
"""Minutes for a vote on a prediction in front of an audience, with its discussion."""


class Lesson(NamedTuple):
    """What a lesson says about itself."""

    stem: str
    title: str
    minutes: Mapping[str, int]
    failure: str
    level: str

    @classmethod
    def of(cls, stem: str, about: Mapping[str, Any]) -> Self:
        """Read what the index needs from the header of a source."""
        level = about["level"].partition(":")[0]
        return cls(stem, about["title"], about["minutes"], about["failure"], level)

    @property
    def number(self) -> str:
        return self.stem.partition("-")[0]

    @property
    def whole(self) -> int:
        """Minutes with everything."""
        return sum(self.minutes.values())

    @property
    def shown(self) -> int:
        """Minutes without the exercise."""
        return self.whole - self.minutes["exercise"]


class Track(NamedTuple):
    """A plan for a given time: these lessons first, as many as fit; no numbers: all there are."""

    name: str
    minutes: int | None
    first: tuple[str, ...] = ()
    on_screen: bool = False
    """Shown and voted on, without exercises."""


TRACKS: Final = (
    Track("a lecture of 50 minutes", 50, ("04", "00", "05", "07"), on_screen=True),
    Track("a lab of 90 minutes", 90, ("04", "00", "05", "06")),
    Track("half a day", 210, ("04", "00", "05", "02", "07", "09", "01")),
    Track("a full day", 390, ("04", "00", "05", "02", "07", "09", "08", "11", "01", "13", "06")),
    Track("an interview to prepare for", 180, ("04", "12", "06", "08")),
    Track("self-study", None),
)


class Part(NamedTuple):
    """A lesson in a track."""

    lesson: Lesson
    minutes: int
    whole: bool


def planned(track: Track, lessons: Sequence[Lesson]) -> list[Part]:
    """Return what fits into a track, in the order of the lessons.

    The lessons that matter most for it are placed first. One that does not fit any more is placed
    without its exercise, if that fits.
    """
    known = {lesson.number: lesson for lesson in lessons}
    wanted = [known[n] for n in track.first if n in known] if track.first else list(lessons)
    left: float = float("inf") if track.minutes is None else track.minutes
    parts: list[Part] = []
    for lesson in wanted:
        whole = Part(lesson, lesson.whole, True)
        shown = Part(lesson, lesson.shown, False)
        voted = Part(lesson, lesson.shown + VOTE_MINUTES, False)
        choices = [voted] if track.on_screen else [whole, shown]
        chosen = next((part for part in choices if part.minutes <= left), None)
        if chosen is not None:
            parts.append(chosen)
            left -= chosen.minutes
    return sorted(parts, key=lambda part: part.lesson.number)


def page(lessons: Sequence[Lesson]) -> str:
    """Return the list of lessons and the tracks, in Markdown."""
    rows = [
        f"| [{lesson.title}]({lesson.stem}.ipynb) | {lesson.whole} | {lesson.failure} "
        f"| {lesson.level} |"
        for lesson in lessons
    ]
    head = ["| lesson | minutes | failure injected | level |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, "", tracks(lessons)])


def tracks(lessons: Sequence[Lesson]) -> str:
    """Return the table of tracks, in Markdown."""
    head = ["| you have | lessons | minutes |", "|---|---|---|"]
    return "\n".join([*head, *(_row(track, planned(track, lessons)) for track in TRACKS)])


def _row(track: Track, parts: Sequence[Part]) -> str:
    how, names = "", [part.lesson.number for part in parts]
    if track.on_screen:
        how = f"on a screen, {VOTE_MINUTES} minutes for each vote, no exercises: "
    else:
        names = [
            name if part.whole else f"{name} without its exercise"
            for name, part in zip(names, parts, strict=True)
        ]
    minutes = sum(part.minutes for part in parts)
    return f"| {track.name} | {how}{', '.join(names)} | {_time(minutes)} |"


def _time(minutes: int) -> str:
    """Return minutes, also in hours where that is easier to read."""
    hours, rest = divmod(minutes, 60)
    return f"{minutes} ({hours} h {rest:02} min)" if hours > 1 else str(minutes)


def inserted(text: str, made: str) -> str:
    """Return a text with what stands between the two comments replaced.

    Raises:
        ValueError: the comments are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the text needs one line {BEGIN!r} and, below it, one line {END!r}")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"
