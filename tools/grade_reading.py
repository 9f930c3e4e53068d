"""Grading plan: what did a learner hand in, and which of its cells have to run?

Whose notebook it is, which lesson it is of, and which cells define the answer. A cell of the lesson
that the answer does not need (a run, a figure) is not executed: a class of thirty would take hours.
Everything here is pure but for `handed_in`, which reads files and executes nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nbformat

from tools import lessons
from tools.notebook import build

MAX_BYTES: Final = 20_000_000
"""A notebook with more than that is not opened."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """An exercise of a lesson: its name in `check`, and the expression that is its answer."""

    name: str
    answer: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """A lesson as the learner got it."""

    stem: str
    cells: tuple[str, ...]
    exercises: tuple[Exercise, ...]


@dataclass(frozen=True, slots=True)
class HandedIn:
    """A file of a learner, with what it contains, or why that cannot be said."""

    learner: str
    lesson: str
    """The stem; "" when it cannot be told."""
    name: str
    cells: tuple[str, ...] = ()
    problem: str = ""


def known_lessons() -> dict[str, Lesson]:
    """Return all lessons with an exercise, by their stems."""
    found = {}
    for source in lessons.sources():
        cells = tuple(_code(build(source, solved=False)))
        if exercises := tuple(_exercises(cells)):
            found[source.stem] = Lesson(source.stem, cells, exercises)
    return found


def _code(notebook: Any) -> Iterator[str]:
    return (cell.source for cell in notebook.cells if cell.cell_type == "code")


def _exercises(cells: Iterable[str]) -> Iterator[Exercise]:
    """Find the calls of `check("ex04", ANSWER)`."""
    for cell in cells:
        tree = _parsed(cell)
        for call in ast.walk(tree) if tree else ():
            match call:
                case ast.Call(
                    func=ast.Name("check"), args=[ast.Constant(value=str() as name), answer]
                ):
                    yield Exercise(name, ast.unparse(answer))


def handed_in(folder: Path, known: Iterable[str]) -> list[HandedIn]:
    """Read all notebooks of a folder, in the order of their names; links are not followed."""
    paths = sorted(path for path in folder.rglob("*.ipynb") if _belongs(path, folder))
    return [_read(path, path.relative_to(folder), tuple(known)) for path in paths]


def _belongs(path: Path, folder: Path) -> bool:
    inside = path.relative_to(folder)
    links = [folder / parent for parent in inside.parents] + [path]
    hidden = any(part.startswith(".") for part in inside.parts)
    return not hidden and path.is_file() and not any(p.is_symlink() for p in links if p != folder)


def _read(path: Path, inside: Path, known: Sequence[str]) -> HandedIn:
    by_name = next((stem for stem in known if stem in path.stem), "") or _by_number(path, known)
    learner = _learner(inside, by_name)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"the file has more than {MAX_BYTES:,} bytes")
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        cells = tuple(str(cell) for cell in _code(notebook))
        stamp = notebook.metadata.get("wsdemo")
        source = str(stamp.get("source", "")) if isinstance(stamp, dict) else ""
    except Exception as broken:  # The library raises many kinds.
        why = str(broken).splitlines()[0][:100] if str(broken).strip() else "it is empty"
        return HandedIn(learner, by_name, str(inside), problem=f"this is no notebook: {why}")
    lesson = source.removesuffix(".py") if source.removesuffix(".py") in known else by_name
    problem = "" if lesson else "it is none of the lessons"
    return HandedIn(learner, lesson, str(inside), cells, problem)


def _by_number(path: Path, known: Sequence[str]) -> str:
    """Find 04 in `anna_04.ipynb`."""
    numbers = set(re.findall(r"(?<![0-9])[0-9]{2}(?![0-9])", path.stem))
    found = [stem for stem in known if stem.partition("-")[0] in numbers]
    return found[0] if len(found) == 1 else ""


def _learner(inside: Path, lesson: str) -> str:
    """Return whose file it is: its folder says it, or what its name has besides the lesson's."""
    if len(inside.parts) > 1:
        return inside.parts[0]
    rest = re.sub(r"-my-copy-[0-9-]+$", "", inside.stem)
    for word in (lesson, lesson.partition("-")[0]):
        if word and word in rest:
            rest = rest.replace(word, "", 1)
            break
    return rest.strip(" -_.") or inside.stem


def is_tried(given: Lesson, exercise: Exercise, cells: Iterable[str]) -> bool:
    """Say whether any cell that the lesson did not bring defines a name of the answer."""
    names = _uses(_parsed(exercise.answer))
    return any(names & _binds(cell) for cell in _own(given, cells))


def needed(given: Lesson, exercise: Exercise, cells: Sequence[str]) -> list[tuple[int, str]]:
    """Return the cells, with their numbers from 1, that define the answer, in their order.

    All that the learner has written counts, and of the lesson's own cells those that define what is
    used there. The lesson's calls of `check` do not count: the grader asks by itself.
    """
    own = set(_own(given, cells))
    wanted = _uses(_parsed(exercise.answer))
    chosen: set[int] = set()
    for number in range(len(cells) - 1, -1, -1):
        cell = cells[number]
        if cell in own or (_binds(cell) & wanted and not _asks(cell)):
            chosen.add(number)
            wanted |= _uses(_parsed(cell))
    return [(number + 1, cells[number]) for number in sorted(chosen)]


def _own(given: Lesson, cells: Iterable[str]) -> list[str]:
    """Return what the lesson did not bring. A comment or an empty line is no change."""
    brought = {_meaning(cell) for cell in given.cells}
    return [cell for cell in cells if cell.strip() and _meaning(cell) not in brought]


def _meaning(cell: str) -> str:
    tree = _parsed(cell)
    return ast.dump(tree) if tree else cell.strip()


def _parsed(cell: str) -> ast.Module | None:
    try:
        return ast.parse(cell)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _asks(cell: str) -> bool:
    return "check(" in cell


def _uses(tree: ast.AST | None) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} if tree else set()


def _binds(cell: str) -> set[str]:
    """Return the names that a cell may define; for one that is no plain Python, all its words."""
    tree = _parsed(cell)
    if tree is None:
        return set(re.findall(r"\w+", cell))
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.ClassDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found.add(other or name.partition(".")[0])
    return found
