"""Reset: how does a learner get the original back, and keep what was written?

`make reset LESSON=04`: an edited notebook is kept under a new name. The learner's original has no
outputs, so it is simply built again. The original of a solution is the notebook as it was
committed, or otherwise one that is built and run again. The learner's notes on this lesson (the
prediction, and whether the check was passed) are forgotten with it.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import tempfile
from datetime import date
from pathlib import Path
from typing import Any, Final

from tools import lessons
from tools.notebook import build, comes_from, is_edited, read_if_any, text_of, write
from tools.notebook_runner import execute, take_timing
from wsdemo.lab.notes import NOTES_FILE, LearnersNotes

GIT_TIMEOUT_S: Final = 20.0


def reset(source: Path, today: date) -> list[str]:
    """Restore both copies of a lesson; return what was done, in words.

    An edited notebook is kept under a new name.

    Raises:
        RuntimeError: the lesson does not run here, so its original cannot be made.
    """
    done = []
    originals = {False: _text(build(source, solved=False))}
    if is_edited(source, solved=True):  # Otherwise it stays as it is.
        originals[True] = _committed(source) or _made_anew(source)
    for solved, original in originals.items():
        path = lessons.target(source, solved=solved)
        kept = _keep(path, today) if is_edited(source, solved=solved) else None
        write(path, original)
        name = path.relative_to(lessons.ROOT)
        if kept is not None:
            done.append(f"{name} is the original again; yours is {kept.relative_to(lessons.ROOT)}")
        else:
            done.append(f"{name} is the original again; nothing of yours was in it")
    number = source.stem.partition("-")[0]
    if LearnersNotes(lessons.ROOT / NOTES_FILE).forget(number):
        done.append(f"your prediction and your progress in lesson {number} are forgotten")
    return done


def _text(notebook: Any) -> bytes:
    return text_of(notebook).encode()


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


def _committed(source: Path) -> bytes | None:
    """Return a solution as it was committed; None without git, or if it is of another source."""
    path = lessons.target(source, solved=True)
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
        notebook = read_if_any(committed)
    if notebook is None:
        return None
    return shown if comes_from(notebook, source, True) else None


def _made_anew(source: Path) -> bytes:
    notebook = build(source, solved=True)
    problem = execute(notebook)
    if problem:
        raise RuntimeError(f"{source.stem} does not run here: {problem}")
    take_timing(notebook)
    return _text(notebook)
