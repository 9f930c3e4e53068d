"""Output: how do lines reach stdout when its reader is slow, has gone, or never was there?

A thread writes to stdout. So a slow reader delays the prompt, but not the connection, whose
heartbeats go on. When the reader has gone for good, the client ends; when a disk is full, it does
not, since there may be room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import queue
import select
import sys
import threading
from collections.abc import Callable
from typing import Final, TextIO

from wsdemo.streams import complain
from wsdemo.terminal import encodable, printable

ROOM: Final = 100
"""So many lines may wait for a slow reader; beyond it, `room` waits."""
MOST: Final = 1000
"""Beyond so many, lines that cannot wait (news of the connection) are dropped and counted."""
GONE: Final = frozenset({errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.EBADF})
"""Errors after which there is no reader any more."""


class Output:
    """Lines on their way to stdout. Belongs to the loop in which it was made.

    Args:
        on_gone: called, once, when there is no reader any more.
    """

    def __init__(self, on_gone: Callable[[], None]) -> None:
        self.through: TextIO | None = None
        """Used in place of stdout while a half-typed line must not be mixed with others."""
        self.lost = 0
        """Lines that were not written."""
        self._on_gone = on_gone
        self.is_gone = False
        """There is no reader any more."""
        self._told_lost = 0
        self._loop = asyncio.get_running_loop()
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._descriptor = _descriptor_of(sys.stdout)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._waiting = 0
        self._moved = asyncio.Event()
        # A daemon thread: the exit does not wait for a reader that has stopped. It writes to the
        # descriptor: the lock of sys.stdout, held by a waiting thread, is fatal at exit.
        threading.Thread(target=self._write_all, name="stdout", daemon=True).start()

    def say(self, text: str) -> None:
        """Queue a line; what could control a terminal is escaped. Never raises."""
        line = encodable(printable(text), self._encoding)
        if self.through is not None:
            self.through.write(f"{line}\n")
        elif self._waiting >= MOST:
            self.lost += 1
        else:
            self._waiting += 1
            self._lines.put(f"{line}\n".encode(self._encoding))

    async def room(self) -> None:
        """Wait while many lines are queued."""
        await self._at_most(ROOM)

    async def written(self) -> None:
        """Wait until every line is written, or lost."""
        await self._at_most(0)

    async def _at_most(self, lines: int) -> None:
        while self._waiting > lines and not self.is_gone:
            self._moved.clear()
            await self._moved.wait()

    # --- in the loop, told by the thread ------------------------------------------------------

    def _took(self, problem: OSError | None) -> None:
        """Count a line that was written, or lost with an error."""
        self._waiting -= 1
        self._moved.set()
        if problem is None:
            if self._told_lost:
                # Said only now, since it could not have been read before.
                complain(f"wsdemo.client: writing again; {self.lost} lines are lost")
                self._told_lost = 0
            return
        self.lost += 1
        if problem.errno in GONE:
            if not self.is_gone:
                self.is_gone = True
                self._on_gone()
        elif not self._told_lost:
            self._told_lost = 1
            complain(f"wsdemo.client: cannot write: {problem.strerror}; lines are lost")

    # --- in the thread ------------------------------------------------------------------------

    def _write_all(self) -> None:
        while True:
            problem = None
            try:
                self._write(self._lines.get())
            except OSError as found:
                problem = found
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody wants to know.
                self._loop.call_soon_threadsafe(self._took, problem)

    def _write(self, data: bytes) -> None:
        if self._descriptor is None:
            # There is none, as under pythonw; or an object has replaced it.
            if sys.stdout is not None:
                sys.stdout.write(data.decode(self._encoding))
                sys.stdout.flush()
            return
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # Another process has set O_NONBLOCK on it; we may wait.
                select.select([], [self._descriptor], [])


def _descriptor_of(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None
