"""The Stop button: an interrupt of the main thread, at a moment that a test names."""

from __future__ import annotations

import _thread
import contextlib
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

POLL_S = 0.01
DEADLINE_S = 30.0


@contextlib.contextmanager
def interrupted_at(name: str) -> Iterator[None]:
    """Interrupt what runs inside as soon as there is a thread of this name.

    Afterwards, all threads and processes that it has started must have ended.
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
    assert not set(threading.enumerate()) - threads
    assert not set(psutil.Process().children(recursive=True)) - processes
