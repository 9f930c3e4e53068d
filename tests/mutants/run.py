"""How is a mutant tried?

On a copy of the repository in a folder of its own: the mistake is put in, the tests that have to
notice are run until the first one fails, and the file is put back. First the same tests are run
on the copy without a mistake, since a test that fails anyway kills nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

from tests.mutants.mutant import ROOT, Mutant

PATIENCE_S: Final = 240.0
"""A run of tests that takes longer has been stopped by the mistake, which is noticed as well."""
NO_TESTS: Final = 5
"""pytest's exit code when nothing was collected."""
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Verdict(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    HUNG = "killed (the tests did not end)"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN (the tests could not run)"


class Result(NamedTuple):
    """`by` is the first test that failed; `took_s` the wall-clock time."""

    mutant: Mutant
    verdict: Verdict
    by: str
    took_s: float

    @property
    def killed(self) -> bool:
        return self.verdict in {Verdict.KILLED, Verdict.HUNG}


def _files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).exists()]


@contextmanager
def copy() -> Iterator[Path]:
    """Copy what belongs to the repository to a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="wsdemo-mutants-") as folder:
        for name in _files():
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        yield Path(folder)


def _pytest(folder: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """Run tests in a copy until one fails; return the exit code (None: no end) and the output.

    The copy comes first on the path, before the editable installation of the checkout.
    """
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    with tempfile.TemporaryFile() as out:
        running = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,  # No pipe: what the tests have left behind would hold it open.
            stderr=subprocess.STDOUT,
            start_new_session=True,  # So that what the tests have started can be ended with them.
        )
        try:
            code = running.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):  # Nothing is left, as it should be.
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        out.seek(0)
        return code, out.read().decode(errors="replace")


def lives(tests: Iterable[str]) -> str:
    """Run tests on the code without a mistake; return what fails, '' when nothing does."""
    with copy() as folder:
        code, said = _pytest(folder, sorted(set(tests)))
    return "" if code == 0 else said[-4000:] or "the tests did not end"


def _try(mutant: Mutant, folder: Path) -> Result:
    started = time.monotonic()
    target = folder / "wsdemo" / mutant.file
    target.write_text(mutant.text(), encoding="utf-8")
    try:
        code, said = _pytest(folder, mutant.tests)
    finally:
        shutil.copy2(ROOT / "wsdemo" / mutant.file, target)
    took_s = time.monotonic() - started
    failed = _FAILED.search(said)
    by = failed[1] if failed else ""
    if code is None:
        return Result(mutant, Verdict.HUNG, by, took_s)
    if code == 0:
        return Result(mutant, Verdict.SURVIVED, by, took_s)
    if code == NO_TESTS or not failed or "::" not in by:
        return Result(mutant, Verdict.BROKEN, said[-500:], took_s)
    return Result(mutant, Verdict.KILLED, by, took_s)


def attempt(mutants: Sequence[Mutant], workers: int) -> Iterator[Result]:
    """Try mutants, so many at a time; yield the results as they come."""
    folders: SimpleQueue[Path] = SimpleQueue()

    def job(mutant: Mutant) -> Result:
        folder = folders.get()
        try:
            return _try(mutant, folder)
        finally:
            folders.put(folder)

    with ExitStack() as kept:
        for _ in range(workers):
            folders.put(kept.enter_context(copy()))
        pool = ThreadPoolExecutor(workers)
        kept.callback(pool.shutdown, cancel_futures=True)
        for done in as_completed([pool.submit(job, mutant) for mutant in mutants]):
            yield done.result()
