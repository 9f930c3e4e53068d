"""The Stop button: an interrupt of the main thread, at a moment that a test names."""

from __future__ import annotations

import _thread
import contextlib
import gc
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

POLL_S = 0.01
KILLED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""For tests that interrupt while gateways run: these are killed, and close nothing."""
DEADLINE_S = 30.0


@contextlib.contextmanager
def interrupted_at(name: str) -> Iterator[None]:
    """Interrupt what runs inside as soon as there is a thread of this name.

    Afterwards, all threads and processes that it has started must end.
    """
    processes = set(psutil.Process().children(recursive=True))
    threads = set(threading.enumerate())

    def press() -> None:
        ends_at = time.monotonic() + DEADLINE_S
        while time.monotonic() < ends_at:
            if any(one.name == name for one in threading.enumerate()):
                _thread.interrupt_main()
                return
            time.sleep(POLL_S)

    stop_button = threading.Thread(target=press)
    stop_button.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    stop_button.join()
    # A gateway that is killed leaves open sockets; Python 3.13 complains when it finds one.
    gc.collect()
    ends_at = time.monotonic() + DEADLINE_S
    while (left := _left(threads, processes)) and time.monotonic() < ends_at:
        time.sleep(POLL_S)
    assert not left, left


def _left(threads: set[threading.Thread], processes: set[psutil.Process]) -> list[str]:
    """Return what is there that was not there before."""
    started = set(psutil.Process().children(recursive=True)) - processes
    return [
        *(one.name for one in set(threading.enumerate()) - threads),
        *(str(one) for one in started),
    ]
