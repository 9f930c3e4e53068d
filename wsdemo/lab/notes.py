"""Learner's notes: what has this learner predicted, and which checks are passed?

In a live notebook they are kept in a file beside it, so a restarted kernel and the kernel of
another lesson know them. In a script, a test or a build they live only in memory. A file that
cannot be read or written is no reason to stop a lesson: then the notes live in memory too.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

NOTES_FILE: Final = ".wsdemo-notes.json"
MAX_BYTES: Final = 100_000


class LearnersNotes:
    """The predictions and the passed exercises of a learner; without a path, in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._said: dict[str, object] = {}
        self._passed: set[str] = set()

    def said(self, question: str) -> Any:
        """Return the prediction; None when there is none."""
        self._read()
        return self._said.get(question)

    def say(self, question: str, answer: object) -> None:
        """Write down a prediction."""
        self._read()
        self._said[question] = answer
        self._write()

    def has_passed(self, exercise: str) -> bool:
        """Say whether the check of an exercise has accepted an answer."""
        self._read()
        return exercise in self._passed

    def passed(self, exercise: str) -> None:
        """Write down that a check was passed. A wrong answer later does not take it back."""
        self._read()
        if exercise not in self._passed:
            self._passed.add(exercise)
            self._write()

    def forget(self, lesson: str) -> bool:
        """Remove what was noted for a lesson (04); say whether there was anything."""
        self._read()
        known = self._said.pop(f"q{lesson}", None) is not None or f"ex{lesson}" in self._passed
        self._passed.discard(f"ex{lesson}")
        if known:
            self._write()
        return known

    def _read(self) -> None:
        """Take what the file says: another kernel may have written since."""
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                told = json.loads(file.read(MAX_BYTES))
            said, passed = dict(told["said"]), {str(name) for name in told["passed"]}
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return
        self._said, self._passed = said, passed

    def _write(self) -> None:
        """Write the file in one step: after an interruption there is the old one or the new one."""
        if self._path is None:
            return
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        text = json.dumps({"said": self._said, "passed": sorted(self._passed)})
        try:
            new.write_text(text, encoding="utf-8")
            new.replace(self._path)
        except OSError:
            # From now on in memory: an old file must not take back what was said just now.
            self._path = None
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)


def here() -> Path | None:
    """Return where the notes of this notebook are: beside it, where Jupyter starts its kernel."""
    if not _here:
        with contextlib.suppress(OSError):  # The folder was removed.
            _here.append(Path.cwd() / NOTES_FILE)
    return _here[0] if _here else None


_here: Final[list[Path]] = []
"""Found once: a lesson may change the working directory."""


@dataclass(frozen=True, slots=True)
class Progress:
    """For each lesson: was something predicted, and is its check passed?"""

    rows: tuple[tuple[str, bool, bool], ...]

    @classmethod
    def of(cls, notes: LearnersNotes, questions: Iterable[str], exercises: Iterable[str]) -> Self:
        """Look up the notes of all lessons; the q04 and the ex04 are those of lesson 04."""
        asked = {name.removeprefix("q") for name in questions}
        lessons = sorted(asked | {name.removeprefix("ex") for name in exercises})
        return cls(
            tuple(
                (number, notes.said(f"q{number}") is not None, notes.has_passed(f"ex{number}"))
                for number in lessons
            )
        )

    def __repr__(self) -> str:
        return "\n".join(["lesson  predicted  check passed", *map(_line, self.rows), self._sum()])

    def _sum(self) -> str:
        return f"{sum(passed for *_, passed in self.rows)} of {len(self.rows)} checks passed"

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{html.escape(number)}</td><td>{_mark(said)}</td><td>{_mark(passed)}</td></tr>"
            for number, said, passed in self.rows
        )
        head = "<tr><th>lesson</th><th>predicted</th><th>check passed</th></tr>"
        return f"<table>{head}{cells}</table><p>{self._sum()}</p>"


def _mark(done: bool) -> str:
    return "\N{HEAVY CHECK MARK}" if done else "not yet"


def _line(row: tuple[str, bool, bool]) -> str:
    number, said, passed = row
    return f"{number:<6}  {_mark(said):<9}  {_mark(passed)}"
