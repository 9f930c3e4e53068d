"""Lessons: where are their sources, what do they say about themselves, and where are their copies?

A lesson is a `py:percent` file in notebooks/src. Its copies are two notebooks: the learner's, and
the solved one in notebooks/solutions.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import jupytext

from tools import lesson_index

ROOT: Final = Path(__file__).parents[1] / "notebooks"


def sources() -> list[Path]:
    """Return the sources, in order."""
    return sorted((ROOT / "src").glob("[0-9]*.py"))


def parse(source: Path) -> Any:
    """Return the cells of a source, as a notebook."""
    return jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")


def about(source: Path) -> Any:
    """Return what the header of a source says about the lesson."""
    told = parse(source).metadata.get("wsdemo")
    if not told:
        raise ValueError(f"{source.name} has no `wsdemo` block in its header")
    return told


def fingerprint(source: Path) -> str:
    """Return a fingerprint of the state of a source."""
    return hashlib.sha256(source.read_bytes()).hexdigest()[:16]


def target(source: Path, *, solved: bool) -> Path:
    """Return the path of the copy of a source."""
    return (ROOT / "solutions" if solved else ROOT) / f"{source.stem}.ipynb"


def indexed() -> str:
    """Return the page for teachers with the list of lessons brought up to date."""
    found = [lesson_index.Lesson.of(source.stem, about(source)) for source in sources()]
    return lesson_index.inserted(index_page().read_text(encoding="utf-8"), lesson_index.page(found))


def index_page() -> Path:
    """Return where the list of lessons is."""
    return ROOT / "README.md"


def named(name: str) -> list[Path]:
    """Return the matching sources: by 04, 4, 05b, or the beginning of a lesson's name."""
    wanted = Path(name.strip()).name.removesuffix(".ipynb")
    if wanted.isdecimal():
        wanted = wanted.zfill(2)
    # 00 is lesson 00, and not 00b as well.
    exact = [source for source in sources() if source.stem.partition("-")[0] == wanted]
    return exact or [source for source in sources() if wanted and source.stem.startswith(wanted)]
