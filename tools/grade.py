"""Grading: who has solved which exercise? `make grade DIR=handed-in`

Runs the check of every exercise in a folder of learners' notebooks, each in a sandbox with
deadlines, and prints a table: ok, wrong, not tried, or could not judge. The verdicts come from the
checks of this checkout, never from outputs or check cells of a notebook. A folder below DIR is a
learner (anna/04-the-late-cleanup.ipynb), or else the name of the file says it
(anna-04-the-late-cleanup.ipynb).
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.grade_inside import can_shield
from tools.grade_kernel import Sandbox, Stuck, sandbox
from tools.grade_reading import (
    Exercise,
    HandedIn,
    Lesson,
    handed_in,
    is_tried,
    known_lessons,
    needed,
)
from wsdemo.command_line import Parser
from wsdemo.terminal import never_refuse_text, say

PROGRAM: Final = "tools.grade"
OK, WRONG, NOT_TRIED, NOT_JUDGED = "ok", "wrong", "not tried", "could not judge"
BEST_FIRST: Final = (OK, WRONG, NOT_JUDGED, NOT_TRIED)
NOT_WRITTEN: Final = "It is not written yet."


@dataclass(frozen=True, slots=True)
class Grade:
    """What came of one exercise of one learner."""

    learner: str
    exercise: str
    verdict: str
    note: str = ""


def grade(
    work: HandedIn, known: dict[str, Lesson], *, cell_s: float, notebook_s: float
) -> list[Grade]:
    """Grade all exercises of a notebook. Whatever it does, there is a grade for each."""
    lesson = known.get(work.lesson)
    if lesson is None:
        return [Grade(work.learner, "?", NOT_JUDGED, f"{work.name}: {work.problem}")]
    grades = []
    for exercise in lesson.exercises:
        verdict, note = NOT_JUDGED, work.problem
        if not work.problem:
            verdict, note = _judged(lesson, exercise, work.cells, cell_s, notebook_s)
        grades.append(Grade(work.learner, exercise.name, verdict, note))
    return grades


def _judged(
    lesson: Lesson, exercise: Exercise, cells: Sequence[str], cell_s: float, notebook_s: float
) -> tuple[str, str]:
    if not is_tried(lesson, exercise, cells):
        return NOT_TRIED, ""
    errors: list[str] = []
    try:
        with sandbox(notebook_s) as kernel:
            for number, cell in needed(lesson, exercise, cells):
                _run(kernel, number, cell, cell_s, errors)
            asked = f"__import__('tools.grade_inside').grade_inside.judged({exercise.name!r}, "
            verdict, hint = kernel.value(f"{asked}{exercise.answer})", cell_s)
    except Stuck as problem:
        return NOT_JUDGED, "; ".join([*errors, str(problem)])
    if verdict == NOT_JUDGED and hint == NOT_WRITTEN:
        return NOT_TRIED, ""
    if verdict not in (OK, WRONG):
        return NOT_JUDGED, "; ".join([*errors, hint])
    return verdict, hint


def _run(kernel: Sandbox, number: int, cell: str, cell_s: float, errors: list[str]) -> None:
    """Run a cell; the next one may not need what failed in this one."""
    try:
        problem = kernel.run(cell, cell_s)
    except Stuck as stuck:
        raise Stuck(f"code cell {number}: {stuck}") from None
    if problem:
        errors.append(f"code cell {number}: {problem}")


def best(grades: Iterable[Grade]) -> dict[tuple[str, str], Grade]:
    """Return one grade for each learner and exercise: the best, when there are several files."""
    found: dict[tuple[str, str], Grade] = {}
    for one in grades:
        key = (one.learner, one.exercise)
        if key not in found or _rank(one) < _rank(found[key]):
            found[key] = one
    return found


def _rank(one: Grade) -> int:
    return BEST_FIRST.index(one.verdict)


def table(grades: dict[tuple[str, str], Grade]) -> str:
    """Return a row for each learner and a column for each exercise."""
    learners, exercises = (sorted({key[part] for key in grades}) for part in (0, 1))
    rows = [["learner", *exercises]]
    for learner in learners:
        found = [grades.get((learner, exercise)) for exercise in exercises]
        rows.append([_plain(learner), *(one.verdict if one else NOT_TRIED for one in found)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    notes = [
        f"{_plain(one.learner)}, {one.exercise}: {one.verdict}. {_plain(one.note)}"
        for one in grades.values()
        if one.note and one.verdict != OK
    ]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def write_csv(path: Path, grades: dict[tuple[str, str], Grade]) -> None:
    """Write a line for each learner and exercise."""
    learners, exercises = (sorted({key[part] for key in grades}) for part in (0, 1))
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["learner", "exercise", "verdict", "note"])
        for learner in learners:
            for exercise in exercises:
                one = grades.get((learner, exercise)) or Grade(
                    learner, exercise, NOT_TRIED, "nothing handed in"
                )
                lines.writerow(map(_no_formula, (learner, exercise, one.verdict, one.note)))


def _plain(text: str) -> str:
    """Return a text of a stranger in one line, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _no_formula(text: str) -> str:
    """Return a text that a spreadsheet does not take for a formula."""
    plain = _plain(text)
    return f"'{plain}" if plain.startswith(("=", "+", "-", "@")) else plain


# --- the command line ---------------------------------------------------------------------------


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = Parser(PROGRAM, description=__doc__)
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", default="", help="the folder with what was handed in"
    )
    parser.add_argument("--csv", metavar="FILE", help="where the table goes (DIR/grades.csv)")
    parser.add_argument(
        "--cell-seconds", type=_seconds, default=60.0, help="for each cell and check (60)"
    )
    parser.add_argument(
        "--notebook-seconds", type=_seconds, default=300.0, help="for a whole notebook (300)"
    )
    options = parser.read(argv)
    never_refuse_text()
    folder = Path(options.folder)
    if not options.folder.strip() or not folder.is_dir():
        parser.fail(f"{options.folder!r} is no folder. For example: make grade DIR=handed-in")
    known = known_lessons()
    handed = handed_in(folder, known)
    if not handed:
        parser.fail(f"there is no notebook in {options.folder!r}")
    if not can_shield():
        sys.stderr.write(
            f"{PROGRAM}: this system cannot keep a notebook from deleting your files (Linux with "
            "Landlock can): use a machine or an account that has none\n"
        )
    grades: list[Grade] = []
    for work in handed:
        sys.stderr.write(f"{_plain(work.name)} ...\n")
        grades += grade(
            work, known, cell_s=options.cell_seconds, notebook_s=options.notebook_seconds
        )
    path = Path(options.csv) if options.csv else folder / "grades.csv"
    found = best(grades)
    try:
        write_csv(path, found)
    except OSError as problem:
        say(table(found))
        parser.fail(f"the table cannot be written: {problem}")
    say(f"{table(found)}\n\nAlso in {path}")
    return 0 if any(one.verdict != NOT_JUDGED for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
