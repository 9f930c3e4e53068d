"""Progress: how far is the long work? One line that is overwritten, or nothing in a script."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

LEAST_S: Final = 0.25
"""Not more than four updates a second."""
HEADLESS: Final = "WSDEMO_HEADLESS"
"""Set (to anything) where no person watches: the line would stay in the outputs."""


@dataclass(slots=True)
class Count:
    """How much of the work is done; written by the work, read by the progress line."""

    what: str
    total: int
    done: int = 0


class ProgressLine:
    """Shows a count in the cell while it is a context: `with ProgressLine(count) as line`."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._handle: Any = None
        self._shown_at = time.monotonic()
        self._watched = watched()

    def show(self) -> None:
        """Update the line, if the last update was long enough ago."""
        now = time.monotonic()
        if not self._watched or now - self._shown_at < LEAST_S:
            return
        self._shown_at = now
        self._write(f"{self._count.what}: {self._count.done:,} of {self._count.total:,}")

    def _write(self, text: str) -> None:
        from IPython.display import display

        words = {"text/plain": text}
        if self._handle is None:
            self._handle = display(words, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(words, raw=True)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._handle is not None:
            self._write("")


@contextmanager
def sign_of_life(text: str, module: str) -> Iterator[None]:
    """Show a text in a live notebook while a module is loaded, and remove it then; nothing when it
    has been loaded before.
    """
    if module in sys.modules or not watched():
        yield
        return
    from IPython.display import display

    handle = display({"text/plain": text}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        handle.update({"text/plain": ""}, raw=True)


def headless() -> bool:
    """Say whether outputs are kept for readers without a kernel, as when lessons are built."""
    return HEADLESS in os.environ


def watched() -> bool:
    """Say whether a person uses a live kernel."""
    if headless():
        return False
    # In a kernel it has been loaded; elsewhere, loading it would take longer than all the rest.
    ipython = sys.modules.get("IPython.core.getipython")
    shell: Any = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")
