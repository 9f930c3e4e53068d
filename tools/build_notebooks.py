"""How does one source become the learner's notebook and the solved one? `make notebooks`

A lesson is a `py:percent` file in notebooks/src. Cells tagged `exercise` are the learner's, cells
tagged `solution` replace them in the solved copy. Both copies are executed, cell by cell, and kept
with their outputs and with the fingerprint of the source they came from. A copy whose source has
not changed is executed, to see that it still runs, but not rewritten.

What a learner has written is never overwritten. Each notebook carries the fingerprint of its own
cells as they were built; when its cells are others now, somebody has worked in it, and it is left
alone and named. (Outputs, counts and metadata do not matter: whoever only runs a notebook has
written nothing.) `make reset LESSON=04` keeps such a notebook under another name, and restores
the original: as it was committed, or else built and run anew.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from tools import lesson_index as index
from wsdemo.command_line import Parser, fail
from wsdemo.lab.progress import HEADLESS
from wsdemo.terminal import never_refuse_text

ROOT: Final = Path(__file__).parents[1] / "notebooks"
INDEX: Final = ROOT / "README.md"
CELL_TIMEOUT_S: Final = 60
MAX_CELL_S: Final = 30.0
"""Three times the budget of a cell: a machine that is busy with something else is no failure."""
MAX_BYTES: Final = 400_000
KERNEL: Final = {
    "display_name": "Python 3 (ipykernel)",
    "language": "python",
    "name": "python3",
}
REFUSED: Final = "\N{HEAVY BALLOT X} <b>"
"""What a check shows that finds an answer wrong."""
PUBLISHED: Final = {"04-the-late-cleanup": {1: "late-cleanup.png"}}
"""Figures of lessons, by number, that the README shows as well."""
PROGRAM: Final = "tools.build_notebooks"
EDITED: Final = "left alone: it has been edited"
GIT_TIMEOUT_S: Final = 20.0
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_KEPT_TAGS: Final = ("exercise", "solution", "slide")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one copy of a lesson."""

    lesson: str
    seconds: float
    cells: int
    figures: int
    verdict: str
    slowest_s: float = 0.0
    """Of all cells."""


def lessons() -> list[Path]:
    """Return the sources, in order."""
    return sorted((ROOT / "src").glob("[0-9]*.py"))


def build(source: Path, *, solved: bool) -> Any:
    """Return the notebook of a source, not executed."""
    notebook = _parse(source)
    dropped = "exercise" if solved else "solution"
    cells = [c for c in notebook.cells if dropped not in c.metadata.get("tags", [])]
    notebook.cells = [_markdown(_header(source, solved)), *cells]
    for number, cell in enumerate(notebook.cells):
        # Stable ids: a rebuilt notebook differs only where its source does.
        cell["id"] = hashlib.sha256(f"{source.stem}:{solved}:{number}".encode()).hexdigest()[:12]
        tags = [tag for tag in cell.metadata.get("tags", []) if tag in _KEPT_TAGS]
        slides = cell.metadata.get("slideshow")
        cell.metadata.clear()
        if tags:
            cell.metadata["tags"] = tags
        if slides:
            cell.metadata["slideshow"] = slides
    stamp = {
        "source": source.name,
        "source_sha": fingerprint(source),
        "cells_sha": cells_fingerprint(notebook),
    }
    notebook.metadata.clear()
    notebook.metadata.update(kernelspec=KERNEL, language_info={"name": "python"}, wsdemo=stamp)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def about(source: Path) -> Any:
    """Return what the header of a source says about the lesson."""
    told = _parse(source).metadata.get("wsdemo")
    if not told:
        raise ValueError(f"{source.name} has no `wsdemo` block in its header")
    return told


def _parse(source: Path) -> Any:
    return jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")


def indexed() -> str:
    """Return the page for teachers with the list of lessons brought up to date."""
    found = [index.Lesson.of(source.stem, about(source)) for source in lessons()]
    return index.inserted(INDEX.read_text(encoding="utf-8"), index.page(found))


def fingerprint(source: Path) -> str:
    """Return what tells one state of a source from another."""
    return hashlib.sha256(source.read_bytes()).hexdigest()[:16]


def cells_fingerprint(notebook: Any) -> str:
    """Return what tells the cells of a notebook, as somebody wrote them, from other ones.

    Kind, text and pasted pictures, in their order; not what an editor or a kernel adds.
    """
    cells = [(cell.cell_type, cell.source, cell.get("attachments", {})) for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()[:16]


def _markdown(text: str) -> Any:
    return nbformat.v4.new_markdown_cell(text)  # type: ignore[no-untyped-call]


def read(path: Path) -> Any:
    """Return a notebook from a file."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def _text_of(notebook: Any) -> str:
    return str(nbformat.writes(notebook)) + "\n"  # type: ignore[no-untyped-call]


def _header(source: Path, solved: bool) -> str:
    told = about(source)
    minutes = told["minutes"]
    total = sum(minutes.values())
    able = "\n".join(f"* {part.strip()}" for part in told["able"].split(";"))
    other = f"{source.stem}.ipynb"
    link = f"[the lesson](../{other})" if solved else f"[the solution](solutions/{other})"
    title = told["title"] + (" (solved)" if solved else "")
    return (
        f"# {title}\n\n**{told['question']}**\n\nYou will be able to\n\n{able}\n\n"
        f"| minutes | needs | failure injected | level |\n|---|---|---|---|\n"
        f"| {total} (read {minutes['read']}, run {minutes['run']}, exercise "
        f"{minutes['exercise']}) | {told['needs']} | {told['failure']} | {told['level']} |\n\n"
        f"{link}"
    )


def target(source: Path, *, solved: bool) -> Path:
    """Return where the copy of a source lives."""
    return (ROOT / "solutions" if solved else ROOT) / f"{source.stem}.ipynb"


def execute(notebook: Any) -> str:
    """Run all cells in place, in a new kernel; return what went wrong, or nothing."""
    client = NotebookClient(
        notebook, timeout=CELL_TIMEOUT_S, kernel_name="python3", record_timing=True
    )
    try:
        # Nobody watches: no line of progress and no buttons may stay in the outputs.
        client.execute(cwd=str(ROOT), env={**os.environ, HEADLESS: "1"})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as problem:
        lines = _COLOUR.sub("", str(problem)).strip().splitlines()
        told = [line.strip() for line in lines if line.startswith("---->")] + lines[-1:]
        return " | ".join(told) or type(problem).__name__
    return ""


def take_timing(notebook: Any) -> float:
    """Remove the times from an executed notebook; return that of the slowest cell (s)."""
    slowest_s = 0.0
    for cell in notebook.cells:
        times = cell.metadata.pop("execution", {})
        if "shell.execute_reply" in times and "iopub.execute_input" in times:
            began, ended = (
                datetime.fromisoformat(times[name])
                for name in ("iopub.execute_input", "shell.execute_reply")
            )
            slowest_s = max(slowest_s, (ended - began).total_seconds())
    return slowest_s


def figures(notebook: Any) -> int:
    """Return how many figures the outputs hold."""
    return sum(html.count("<figure") for html in html_outputs(notebook))


def pictures(notebook: Any) -> list[bytes]:
    """Return the figures that the outputs hold, as PNG."""
    found = [re.findall(r'src="data:image/png;base64,([^"]+)"', h) for h in html_outputs(notebook)]
    return [base64.b64decode(data) for several in found for data in several]


def publish(source: Path, notebook: Any) -> None:
    """Write the figures of a learner's notebook that are shown elsewhere."""
    for number, name in PUBLISHED.get(source.stem, {}).items():
        path = ROOT / "figures" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pictures(notebook)[number - 1])


def html_outputs(notebook: Any) -> Iterator[str]:
    """Iterate over the HTML in the outputs of a notebook."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield "".join(output.get("data", {}).get("text/html", ""))


def sources(notebook: Any) -> list[tuple[str, str, str]]:
    """Return id, kind and text of each cell: what a rebuild must reproduce."""
    return [(cell["id"], cell.cell_type, cell.source) for cell in notebook.cells]


def _read_if_any(path: Path) -> Any | None:
    """Return a notebook; None when there is none, or what is there is none any more."""
    try:
        notebook = read(path)
        cells_fingerprint(notebook)
    except Exception:  # Whatever the library trips over: half a file, the marks of a merge, ...
        return None
    return notebook


def _stamp(notebook: Any) -> dict[str, Any]:
    stamp = notebook.metadata.get("wsdemo")
    return stamp if isinstance(stamp, dict) else {}


def is_edited(source: Path, *, solved: bool) -> bool:
    """Say whether a copy holds something that no build has put there, and that must not be lost.

    A file that cannot be read as a notebook does: nobody knows what is in it.
    """
    path = target(source, solved=solved)
    if not path.exists():
        return False
    notebook = _read_if_any(path)
    if notebook is None:
        return True
    cells = cells_fingerprint(notebook)
    if cells == cells_fingerprint(build(source, solved=solved)):
        return False
    return bool(_stamp(notebook).get("cells_sha") != cells)


def is_fresh(source: Path, *, solved: bool) -> bool:
    """Say whether the committed copy is what this source gives, executed with it."""
    committed = _read_if_any(target(source, solved=solved))
    return committed is not None and _comes_from(committed, source, solved)


def _comes_from(committed: Any, source: Path, solved: bool) -> bool:
    wanted = build(source, solved=solved)
    return _stamp(committed) == _stamp(wanted) and sources(committed) == sources(wanted)


def make(source: Path, *, solved: bool, rewrite: bool) -> Result:
    """Build and run one copy; write it when its source has changed, or when told to.

    One that somebody has edited is not written, whatever was told.
    """
    notebook = build(source, solved=solved)
    started = time.monotonic()
    problem = execute(notebook)
    seconds = time.monotonic() - started
    slowest_s = take_timing(notebook)
    name = f"solutions/{source.stem}" if solved else source.stem
    verdict = problem or "ok"
    text = _text_of(notebook)
    if not problem and slowest_s > MAX_CELL_S:
        verdict = f"too slow: a cell took {slowest_s:.1f} s"
    elif not problem and solved and REFUSED in text:
        verdict = "its own check refuses the solution"
    elif not problem and len(text) > MAX_BYTES:
        verdict = f"too big: {len(text):,} bytes"
    elif not problem and is_edited(source, solved=solved):
        verdict = EDITED
    elif not problem and (rewrite or not is_fresh(source, solved=solved)):
        _write(target(source, solved=solved), text.encode())
        if not solved:
            publish(source, notebook)
        verdict = "ok, written"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return Result(name, seconds, len(code), figures(notebook), verdict, slowest_s)


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step: whoever breaks this off has the old one or the new one."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_bytes(content)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


# --- back to the original -----------------------------------------------------------------------


def reset(source: Path, today: date) -> list[str]:
    """Restore both copies of a lesson; return what was done, in words.

    What somebody has written is kept under another name, which nothing had before.

    Raises:
        RuntimeError: the lesson does not run here, so its original cannot be made.
    """
    done = []
    for solved in (False, True):
        path = target(source, solved=solved)
        edited = is_edited(source, solved=solved)
        if solved and not edited:
            continue  # It was not asked for, and nothing is wrong with it.
        original = _committed(source, solved=solved) or _made_anew(source, solved=solved)
        kept = _keep(path, today) if edited else None
        _write(path, original)
        name = path.relative_to(ROOT)
        if kept is not None:
            done.append(f"{name} is the original again; yours is {kept.relative_to(ROOT)}")
        else:
            done.append(f"{name} is the original again; nothing of yours was in it")
    return done


def _keep(path: Path, today: date) -> Path:
    """Copy a file to a name that is free, and return it."""
    content = path.read_bytes()
    for number in itertools.count(1):
        again = f"-{number}" if number > 1 else ""
        copy = path.with_name(f"{path.stem}-my-copy-{today.isoformat()}{again}{path.suffix}")
        with contextlib.suppress(FileExistsError), copy.open("xb") as file:
            file.write(content)
            return copy
    raise AssertionError("numbers do not end")


def _committed(source: Path, *, solved: bool) -> bytes | None:
    """Return a copy as it was committed; None without git, or when it is of another source."""
    path = target(source, solved=solved)
    try:
        shown: bytes = subprocess.run(
            ["git", "show", f"HEAD:./{path.name}"],
            cwd=path.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    with tempfile.TemporaryDirectory() as folder:
        committed = Path(folder, path.name)
        committed.write_bytes(shown)
        notebook = _read_if_any(committed)
    if notebook is None:
        return None
    return shown if _comes_from(notebook, source, solved) else None


def _made_anew(source: Path, *, solved: bool) -> bytes:
    notebook = build(source, solved=solved)
    problem = execute(notebook)
    if problem:
        raise RuntimeError(f"{source.stem} does not run here: {problem}")
    take_timing(notebook)
    return _text_of(notebook).encode()


def _lesson_of(name: str) -> Path:
    """Return the source that is meant: 04, 4, or how the name of a lesson begins."""
    wanted = Path(name.strip()).name.removesuffix(".ipynb")
    if wanted.isdecimal():
        wanted = wanted.zfill(2)
    found = [source for source in lessons() if source.stem.startswith(wanted or "\n")]
    if len(found) != 1:
        known = ", ".join(source.stem.partition("-")[0] for source in lessons())
        told = f"there is no lesson {name[:40]!r}; there are" if wanted else "say which lesson"
        fail(PROGRAM, f"{told}: {known}. For example: make reset LESSON=04")
    return found[0]


def _reset(name: str) -> int:
    source = _lesson_of(name)
    try:
        done = reset(source, date.today())
    except (OSError, RuntimeError) as problem:
        fail(PROGRAM, str(problem))
    print("\n".join(done))  # noqa: T201
    return 0


# --- the command line ---------------------------------------------------------------------------


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
    chosen = [s for s in lessons() if s.stem.startswith(tuple(options.lesson) or "")]
    if not chosen:
        parser.error(f"no lesson begins with {' or '.join(options.lesson)}")
    return _make_all(chosen, rewrite=options.rewrite)


def _make_all(chosen: Sequence[Path], *, rewrite: bool) -> int:
    failed = False
    edited = []
    INDEX.write_text(indexed(), encoding="utf-8")
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
