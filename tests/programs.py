"""Programs: what does one print when it runs within the process of the tests?

A process of its own costs most of a second; a call of `main` costs milliseconds.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def all_that_is_written() -> Iterator[io.StringIO]:
    """Collect stdout, stderr and the log; leave logging as it was."""
    root, written = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    try:
        with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
            yield written
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def said_by(program: Callable[[list[str]], int | None], *arguments: str) -> str:
    """Run a program to its end, which must be exit code 2 with one line; return this line."""
    with all_that_is_written() as written:
        try:
            code = program(list(arguments))
        except SystemExit as ended:
            code = ended.code  # type: ignore[assignment]
    said = written.getvalue()
    assert code == 2, said
    assert len(said.splitlines()) == 1, said
    return said
