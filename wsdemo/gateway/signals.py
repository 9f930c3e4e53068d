"""Signals: who has told this process to stop, and how often?

SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal was closed) ask for a drain. When SIGTERM or
SIGINT comes again, the second one skips the rest of the drain notice, if there is one, and the next
one ends the process at once. A SIGHUP never shortens the drain: terminals and service managers
send it in addition to another signal.

Before there is anything to drain, a signal ends the process with code 0 at once. After the drain
it is ignored, since the process ends in any case. In a container, as process 1, this needs a
handler of our own: there the kernel discards signals without one. So this module is imported
before all others, and imports almost nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

TYPE_CHECKING = False  # What type checkers take for true; `typing` itself takes long to import.
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Final

HANG_UP: Final[int | None] = getattr(signal, "SIGHUP", None)
END_S: Final = 1.0
"""How long the interpreter may take to shut down."""
ONE_REQUEST_S: Final = 0.02
"""Signals within this time are one request: timeout(1) signals a process and its group."""


def numbers() -> list[int]:
    """Return the signals that ask us to stop; not SIGHUP where nohup(1) wants it ignored."""
    found = [int(signal.SIGTERM), int(signal.SIGINT)]
    if HANG_UP is not None and signal.getsignal(HANG_UP) is not signal.SIG_IGN:
        found.append(HANG_UP)
    return found


def leave_at_once() -> None:
    """From now on, a signal ends the process with code 0: there is nothing to drain."""
    for number in numbers():
        signal.signal(number, _leave)


def take_back() -> None:
    """Give signals Python's usual handlers again."""
    for number in numbers():
        ctrl_c = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if ctrl_c else signal.SIG_DFL)


def end_soon(problem: BaseException | None) -> None:
    """End the process after `END_S`, with the exit code that it would have anyway, if it still
    runs then: a name lookup cannot be cancelled, and the interpreter waits for it. When a traceback
    is still to be printed, nothing is cut short.
    """
    if problem is None or isinstance(problem, SystemExit):
        import threading

        code = problem.code if problem is not None and isinstance(problem.code, int) else 0
        timer = threading.Timer(END_S, os._exit, (code,))
        timer.daemon = True
        timer.start()


def _leave(number: int, frame: FrameType | None) -> None:
    # Not by an exception, which would come up in the middle of any import.
    os._exit(0)


class Requests:
    """The requests to stop that arrive while a gateway runs.

    Args:
        on_first: called at the first one.
        hurry: called at each later one; returns whether there was a wait to cut short. When
            there was not, the process ends at once, with code 1.
        end: ends the process with a code.
    """

    def __init__(
        self,
        on_first: Callable[[], None],
        hurry: Callable[[], bool],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._on_first = on_first
        self._hurry = hurry
        self._end = end
        self._last = float("-inf")
        self.asked = False
        """Whether a stop was requested."""

    @contextlib.contextmanager
    def heard_on(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Handle signals on this loop, which runs in the main thread. Afterwards signals are
        ignored: the process is about to end with its own exit code. (Python removes its handlers
        while the interpreter ends, and a late signal would change the exit code.)
        """
        heard = numbers()
        for number in heard:
            loop.add_signal_handler(number, self.hear, number)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)  # Or the loop would do so when it is closed.
                signal.signal(number, signal.SIG_IGN)

    def hear(self, number: int) -> None:
        """Handle one signal."""
        now, last = time.monotonic(), self._last
        if self.asked and (number == HANG_UP or now - last < ONE_REQUEST_S):
            return
        self._last = now
        if not self.asked:
            self.ask()
        else:
            self.ask_again()

    def ask(self) -> None:
        """Request a stop, if that has not happened yet."""
        if not self.asked:
            self.asked = True
            self._on_first()

    def ask_again(self) -> None:
        """Request a stop once more."""
        if not self._hurry():
            self._end(1)  # Requested again: do not drain any longer.
