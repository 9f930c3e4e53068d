"""Progress and exit codes: how does a run show that it works, and how does it end when it cannot?

One progress line; one line that says why, and exit code 2; before that, all processes are ended.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from benchmarks.systems import Failed
from wsdemo.redis.server import ServerError


class Progress:
    """One line on stderr, written at most four times a second; none if stderr is no terminal."""

    def __init__(self) -> None:
        self._last = 0.0
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._last > 0.25:
            self._last = now
            line = f"\r\033[K{now - self._started:4.0f} s  {text}"
            sys.stderr.write(line)
            sys.stderr.flush()

    def done(self) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")


@contextlib.contextmanager
def running() -> Iterator[Progress]:
    """Provide a progress line, and turn the end of a run into one line and an exit code.

    2 is a measurement that failed, 130 and 143 are the usual ones of SIGINT and SIGTERM.
    """
    say = Progress()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        yield say
    except (Failed, ServerError, OSError) as problem:
        say.done()
        sys.stderr.write(f"benchmarks: {problem}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        say.done()
        sys.stderr.write("benchmarks: interrupted\n")
        sys.exit(130)
    finally:
        say.done()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Exit by an exception, so that every `with` ends what it has started."""
    sys.exit(128 + number)
