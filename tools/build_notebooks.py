"""Build: how does one source become the learner's notebook and the solved one? `make notebooks`

Both copies of a lesson are executed, cell by cell. The solved one is kept with its outputs, and the
learner's without: nobody may see an answer before the question. A copy whose source has not changed
is executed, to see that it still runs, but not rewritten. What a learner has written is never
overwritten: such a notebook is left alone and named, and `make reset LESSON=04` keeps it under
another name and restores the original.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

from tools import lessons
from tools.notebook import build, figures, is_edited, is_fresh, pictures, text_of, write
from tools.notebook_reset import reset
from tools.notebook_runner import execute, take_timing
from wsdemo.command_line import Parser, fail
from wsdemo.terminal import never_refuse_text, say

MAX_CELL_S: Final = 30.0
"""Three times the budget of a cell. On a busy machine a lesson takes longer, and says so."""
MAX_BYTES: Final = 400_000
REFUSED: Final = "\N{HEAVY BALLOT X} <b>"
"""The text of a check that refuses an answer."""
WAITING: Final = "could not judge. It is not written yet"
"""The text of a check whose exercise is still open."""
PUBLISHED: Final = {"04-the-late-cleanup": {1: "late-cleanup.png"}}
"""Figures of lessons, by number, that the README shows as well."""
PROGRAM: Final = "tools.build_notebooks"
EDITED: Final = "left alone: it has been edited"
BUSY: Final = "This machine is busy"
"""What a lesson says that could not run at full speed."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of building one copy of a lesson."""

    lesson: str
    seconds: float
    cells: int
    figures: int
    verdict: str
    slowest_s: float = 0.0
    """Of all cells."""


def make(source: Path, *, solved: bool, rewrite: bool) -> Result:
    """Build and run one copy; write it when its source has changed, or when told to.

    A copy that was edited is never written.
    """
    notebook = build(source, solved=solved)
    started = time.monotonic()
    problem = execute(notebook)
    seconds = time.monotonic() - started
    slowest_s = take_timing(notebook)
    name = f"solutions/{source.stem}" if solved else source.stem
    verdict = _verdict(source, notebook, problem, slowest_s, solved=solved)
    if verdict == "ok" and (rewrite or not is_fresh(source, solved=solved)):
        kept = notebook if solved else build(source, solved=False)
        write(lessons.target(source, solved=solved), text_of(kept).encode())
        if solved:
            publish(source, notebook)
        verdict = "ok, written"
        if solved and BUSY in text_of(notebook):
            verdict += ", but the machine was busy, and its outputs say so"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return Result(name, seconds, len(code), figures(notebook), verdict, slowest_s)


def _verdict(source: Path, notebook: Any, problem: str, slowest_s: float, *, solved: bool) -> str:
    """Say what is wrong with an executed copy, or "ok"."""
    if problem:
        return problem
    text = text_of(notebook)
    if slowest_s > MAX_CELL_S and BUSY not in text:
        return f"too slow: a cell took {slowest_s:.1f} s"
    if solved and REFUSED in text:
        return "its own check refuses the solution"
    if not solved and 'check(\\"ex' in text and WAITING not in text:
        return "its check does not wait for the learner"
    if solved and len(text) > MAX_BYTES:
        return f"too big: {len(text):,} bytes"
    return EDITED if is_edited(source, solved=solved) else "ok"


def publish(source: Path, notebook: Any) -> None:
    """Write the figures of a solved notebook that are shown elsewhere."""
    for number, name in PUBLISHED.get(source.stem, {}).items():
        path = lessons.ROOT / "figures" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pictures(notebook)[number - 1])


# --- the command line ---------------------------------------------------------------------------


def _lesson_of(name: str) -> Path:
    """Return the source that is meant: 04, 4, or how the name of a lesson begins."""
    found = lessons.named(name)
    if len(found) != 1:
        known = ", ".join(source.stem.partition("-")[0] for source in lessons.sources())
        told = (
            f"there is no lesson {name[:40]!r}; there are" if name.strip() else "say which lesson"
        )
        fail(PROGRAM, f"{told}: {known}. For example: make reset LESSON=04")
    return found[0]


def _reset(name: str) -> int:
    source = _lesson_of(name)
    try:
        done = reset(source, date.today())
    except (OSError, RuntimeError) as problem:
        fail(PROGRAM, str(problem))
    say("\n".join(done))
    return 0


def _tell_of_edited(names: Sequence[str]) -> None:
    numbers = list(dict.fromkeys(Path(name).name.partition("-")[0] for name in names))
    resets = ", ".join(f"make reset LESSON={number}" for number in numbers)
    sys.stderr.write(
        f"{PROGRAM}: not overwritten, because somebody has worked in them: {', '.join(names)}. "
        f"To keep a copy and have the original back: {resets}\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = Parser(PROGRAM, description=__doc__)
    parser.add_argument("--rewrite", action="store_true", help="keep the new outputs in any case")
    parser.add_argument(
        "--reset", metavar="LESSON", help="keep a copy of this notebook, and restore the original"
    )
    parser.add_argument("lesson", nargs="*", help="only these, by how their names begin: 07")
    options = parser.read(argv)
    never_refuse_text()
    if options.reset is not None:
        return _reset(options.reset)
    chosen = [s for s in lessons.sources() if s.stem.startswith(tuple(options.lesson) or "")]
    if not chosen:
        parser.error(f"no lesson begins with {' or '.join(options.lesson)}")
    return _make_all(chosen, rewrite=options.rewrite)


def _make_all(chosen: Sequence[Path], *, rewrite: bool) -> int:
    failed = False
    edited = []
    lessons.index_page().write_text(lessons.indexed(), encoding="utf-8")
    print(f"{'lesson':<32} {'seconds':>8} {'slowest':>8} {'cells':>6} {'figures':>8}  verdict")  # noqa: T201
    for source in chosen:
        for solved in (False, True):
            result = make(source, solved=solved, rewrite=rewrite)
            failed = failed or not result.verdict.startswith("ok")
            if result.verdict == EDITED:
                edited.append(f"{result.lesson}.ipynb")
            print(  # noqa: T201
                f"{result.lesson:<32} {result.seconds:>8.1f} {result.slowest_s:>8.1f} "
                f"{result.cells:>6} "
                f"{result.figures:>8}  {result.verdict}",
                flush=True,
            )
    if edited:
        _tell_of_edited(edited)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
