"""How does a line reach whoever reads it, when that is slow, gone, or never was there?

A thread writes to stdout. A reader that takes its time then holds up the conversation at the
prompt and not the connection, on which heartbeats go on. A reader that is gone for good is a
reason to leave; a disk that is full is not, since it may have room again.
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
"""Lines that may wait for a slow reader before whoever can wait, waits."""
MOST: Final = 1000
"""Beyond this many, what cannot wait (news of the connection) is dropped and counted."""
GONE: Final = frozenset({errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.EBADF})
"""Errors after which nobody will read any more."""


class Output:
    """Lines on their way to stdout. Belongs to the loop in which it was made.

    Args:
        on_gone: called, once, when nobody reads any more.
    """

    def __init__(self, on_gone: Callable[[], None]) -> None:
        self.through: TextIO | None = None
        """Stands in for stdout while a half-typed line must be kept apart from the others."""
        self.lost = 0
        """Lines that were not written."""
        self._on_gone = on_gone
        self._is_gone = False
        self._told_lost = 0
        self._loop = asyncio.get_running_loop()
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._descriptor = _descriptor_of(sys.stdout)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._waiting = 0
        self._moved = asyncio.Event()
        # A daemon: whoever leaves does not wait for a reader that reads no more. It writes below
        # sys.stdout, whose lock, held by a thread that waits, is fatal at exit.
        threading.Thread(target=self._write_all, name="stdout", daemon=True).start()

    def say(self, text: str) -> None:
        """Put a line on its way; what it might do to a terminal is escaped. Never raises."""
        line = encodable(printable(text), self._encoding)
        if self.through is not None:
            self.through.write(f"{line}\n")
        elif self._waiting >= MOST:
            self.lost += 1
        else:
            self._waiting += 1
            self._lines.put(f"{line}\n".encode(self._encoding))

    async def room(self) -> None:
        """Wait while many lines wait to be read."""
        await self._at_most(ROOM)

    async def written(self) -> None:
        """Wait until every line was written, or lost."""
        await self._at_most(0)

    async def _at_most(self, lines: int) -> None:
        while self._waiting > lines and not self._is_gone:
            self._moved.clear()
            await self._moved.wait()

    # --- in the loop, told by the thread ------------------------------------------------------

    def _took(self, problem: OSError | None) -> None:
        """A line was written, or not."""
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
            if not self._is_gone:
                self._is_gone = True
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
            # There is none, as under pythonw; or somebody has replaced it by an object.
            if sys.stdout is not None:
                sys.stdout.write(data.decode(self._encoding))
                sys.stdout.flush()
            return
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # Whoever gave it to us does not want to block; we may.
                select.select([], [self._descriptor], [])


def _descriptor_of(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None
