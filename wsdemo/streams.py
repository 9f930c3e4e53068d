"""Output without blocking: how does text leave a process, when nobody may read it?

A pipe that is full, a terminal that was stopped, a disk that hangs: a write to any of them may
block for ever. O_NONBLOCK does not help: files on disks ignore it, and it belongs to the open file,
which other processes share. So a thread writes, and only this thread waits. Everybody else adds
lines to a bounded buffer and goes on. Lines that do not fit are counted, and a note with their
number stands where they are missing.

The thread collects lines: while they keep coming, it wakes up once in `COLLECT_S` and writes all
that have come. They wait as the bytes that will be written, one after the other: as objects of
their own they would have to be made, taken and freed, and by two threads on two cores.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import signal
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Self

COLLECT_S: Final = 0.1
"""How long lines are collected before they are written together."""
BOUND_BYTES: Final = 1 << 21
"""How many bytes of lines may wait."""
RESERVE_BYTES: Final = 1 << 19
"""Room beyond the bound for lines of which there are few; half of it for warnings only."""
BATCH_BYTES: Final = 1 << 16
"""So much, to the end of a line, is taken at a time, and lost at a time when it cannot be written.
"""
PIPE_BYTES: Final = 4096
"""What a pipe takes atomically (PIPE_BUF on Linux): lines of several writers are not mixed."""
FILE_BYTES: Final = 1 << 16
LAST_WORDS_S: Final = 1.0
"""How long the exit of a process waits until its last lines are written."""

_NO_ROOM: Final = -(1 << 62)


def dropped_note(lines: int) -> str:
    """Return the note in the place of lines that are missing."""
    return f"[Log] {lines} lines were dropped here: they could not be written in time"


class LineWriter:
    """Writes lines to a descriptor from a thread of its own. No method but `flush` ever waits.

    Args:
        descriptor: where it writes to; it is not closed at the end.
        note: makes the line that says how many lines are missing.
        encoding: of the output; characters that it does not have are escaped.
        bound_bytes: how many bytes may wait.
    """

    def __init__(
        self,
        descriptor: int,
        note: Callable[[int], str] = dropped_note,
        encoding: str = "utf-8",
        bound_bytes: int = BOUND_BYTES,
    ) -> None:
        self.problem: OSError | None = None
        """Why the last write failed; None when it did not."""
        self._descriptor = descriptor
        self._note = note
        self._encoding = encoding
        self._bound = bound_bytes
        self._piece = _piece_of(descriptor)
        # What waits, in whole lines. It is always the same object, and every change of it is one
        # step, so that a line needs no lock: all add at its end, and the thread deletes at its
        # beginning. Nobody may look at it through a memoryview, or it could not grow meanwhile.
        self._text = bytearray()
        self._gone = 0
        """How many bytes stood before `_text`."""
        # What stands between lines: where, counted from the very first byte, and the number of
        # lines that are missing there, or an event that is set when all before it is written.
        self._marks: deque[tuple[int, int | threading.Event]] = deque()
        self._limit = bound_bytes // 2
        """Up to it, a line is added without a lock; out of reach while lines are missing."""
        self._gap = 0
        """Lines that are missing behind the last one that waits."""
        self._refused = self._lost = 0
        # Re-entrant: a finaliser may run, and log, between any two steps, also while the lock is
        # held.
        self._lock = threading.RLock()
        self._bell = _Bell()
        self._asleep = self._hurried = self._closing = False
        # Only the thread writes these.
        self._untold = 0
        self._torn = False
        self._moved = 0
        """Grows whenever a write has ended or failed."""
        self._stuck_at: int | None = None
        self._thread = threading.Thread(target=self._run, name="line writer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not, and will not be, written."""
        return self._refused + self._lost

    @property
    def waiting(self) -> int:
        """Bytes that wait to be written."""
        return len(self._text)

    @property
    def stuck(self) -> bool:
        """Whether nothing was written since a `flush` began that took too long, or ever will be."""
        return self._moved == self._stuck_at or not self._thread.is_alive()

    # --- any thread --------------------------------------------------------------------------

    def add(self, line: str) -> None:
        """Write a line, given without its newline, within `COLLECT_S`, if the reader reads."""
        if len(self._text) > self._limit:
            self._add_if_room(line, self._bound)
            self._hurry()  # It is half full: the thread does not collect any longer.
            return
        self._text += self._encoded(line)
        # After the line is there: the thread looks again after it has said that it sleeps.
        if self._asleep:
            self._bell.ring()

    def add_now(self, line: str, important: bool = False) -> None:
        """Write a line at once, after those before it, if the reader reads.

        For lines of which there are few: there is room for them when `add` has none.
        """
        self._add_if_room(line, self._bound + RESERVE_BYTES // (1 if important else 2))
        self._hurry()

    def flush(self, timeout_s: float = LAST_WORDS_S) -> bool:
        """Wait until all lines before it are written or lost; say whether that came in time.

        After a flush in vain, the next ones do not wait until something is written again.
        """
        before = self._moved
        if self.stuck:
            return False
        done = threading.Event()
        with self._lock:
            self._tell_gap()
            self._marks.append((self._end, done))
        self._hurry()
        if done.wait(timeout_s):
            return True
        if self._moved == before:
            self._stuck_at = before
        return False

    def close(self, timeout_s: float = LAST_WORDS_S) -> bool:
        """Flush, and end the thread; say whether that came in time. Idempotent.

        A thread that hangs in a write is left behind: it does not keep the process.
        """
        self._closing = True
        self._hurry()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _hurry(self) -> None:
        self._hurried = True
        self._bell.ring()

    def _encoded(self, line: str) -> bytes:
        return f"{line}\n".encode(self._encoding, "backslashreplace")

    @property
    def _end(self) -> int:
        """Where the next byte will stand. The lock is held."""
        return self._gone + len(self._text)

    def _add_if_room(self, line: str, limit: int) -> None:
        with self._lock:
            if len(self._text) > limit:
                lines = line.count("\n") + 1
                self._gap += lines
                self._refused += lines
                self._limit = _NO_ROOM
                return
            self._tell_gap()
            self._text += self._encoded(line)
            if self._asleep:
                self._bell.ring()

    def _tell_gap(self) -> None:
        """Mark the place where lines are missing. The lock is held."""
        if self._gap:
            gap, self._gap = self._gap, 0
            self._limit = self._bound // 2
            self._marks.append((self._end, gap))

    # --- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        # This thread takes no signals: one for writing to a terminal from the background (SIGTTOU)
        # would stop the whole process.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        is_busy = False
        while True:
            # While lines keep coming, a timeout wakes the thread: to be woken by the first line of
            # each round would cost two more switches of threads.
            if not is_busy:
                self._sleep()
            if not self._hurried:
                self._bell.wait(COLLECT_S)
            self._hurried = False
            closing = self._closing
            is_busy = self._has_work
            self._drain()
            while closing and self._has_work:
                self._drain()
            if closing:
                return

    def _sleep(self) -> None:
        """Wait, without polling, until there is something to write."""
        self._asleep = True
        if not self._has_work and not self._closing:
            self._bell.wait()
        self._asleep = False

    @property
    def _has_work(self) -> bool:
        return bool(self._text or self._marks)

    def _drain(self) -> None:
        """Write what waits now. What comes meanwhile is collected: to write each line as it comes
        would take the GIL from the event loop at each write.
        """
        with self._lock:
            end = self._end
            marks = [self._marks.popleft() for _ in range(len(self._marks))]
        for at, mark in marks:
            self._write_until(at)
            if isinstance(mark, int):
                self._untold += mark
            else:
                self._write_lines(b"")
                mark.set()
        self._write_until(end)
        with self._lock:
            self._tell_gap()
        self._write_lines(b"")

    def _write_until(self, end: int) -> None:
        """Write what stands before this position, which is the end of a line."""
        while (size := end - self._gone) > 0:
            if size > BATCH_BYTES:
                size = self._text.index(b"\n", BATCH_BYTES - 1, size) + 1
            self._write_lines(self._text[:size])
            with self._lock:
                del self._text[:size]
                self._gone += size

    def _write_lines(self, lines: bytes | bytearray) -> None:
        """Write lines; before them, how many are missing."""
        # After a write that failed within a line, the next line begins on a new one.
        head = self._encoded(self._note(self._untold)) if self._untold else b""
        if not lines and not head:
            return
        if self._torn:
            head = b"\n" + head
        data = head + lines
        written = self._write(data)
        if written >= len(head):
            self._untold = 0
        if written:
            self._torn = not data.endswith(b"\n", 0, written)
        lost = data.count(b"\n", max(written, len(head)))
        self._lost += lost
        self._untold += lost

    def _write(self, data: bytes) -> int:
        """Write it, however long it takes; return how much was written before a failure."""
        view, at = memoryview(data), 0
        while at < len(data):
            end = at + self._piece
            if end < len(data):
                end = data.rfind(b"\n", at, end) + 1 or end
            try:
                taken = os.write(self._descriptor, view[at:end])
            except BlockingIOError:
                # Another process that shares it has set O_NONBLOCK: wait all the same.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError as problem:
                self.problem = problem
                self._moved += 1
                break
            else:
                self.problem = None
                self._moved += taken
                at += taken
        return at


class _Bell:
    """Wakes one thread; two rings before it wakes are one. Ringing is atomic."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # It rings already.
            self._lock.release()

    def wait(self, timeout_s: float = -1) -> None:
        self._lock.acquire(timeout=timeout_s)


def _piece_of(descriptor: int) -> int:
    """Return how many bytes are written at a time."""
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        is_file = False
    return FILE_BYTES if is_file else PIPE_BYTES


class LineHandler(logging.Handler):
    """Hands records of the logging module to a writer."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception as problem:  # A wrong log call is logged, and does not raise.
            text = f"[Log] {record.name} logs {record.msg!r} with other arguments: {problem!r}"
        self._writer.add_now(text, important=record.levelno >= logging.WARNING)

    def flush(self, timeout_s: float = LAST_WORDS_S) -> None:
        """Wait a moment for the last lines; `logging.shutdown` does so, too."""
        self._writer.flush(timeout_s)


# --- standard streams ------------------------------------------------------------------------


def open_standard_streams() -> None:
    """Put /dev/null wherever a standard stream is closed. The first thing that a program does.

    Otherwise the next file, socket or event loop that is opened gets the number: writes to "stderr"
    go into it, and libuv aborts, because it never expects a descriptor of its own to be 0, 1 or 2.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest free number, which is this one; child processes inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="backslashreplace")


def say(text: str) -> OSError | None:
    """Print a line to stdout now; return why that was not possible."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as problem:
        # Python would flush once more at exit, and fail there: the rest goes to /dev/null.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        return problem
    return None


def complain(line: str) -> None:
    """Print a line to stderr; wait a moment, at most, and never fail."""
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # An object has replaced it.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stderr.write(f"{line}\n")
        return
    writer = LineWriter(descriptor)
    writer.add_now(line, important=True)
    writer.close()
