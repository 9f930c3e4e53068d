"""Output without blocking: how does text leave a process, when nobody may read it?

A pipe that is full, a terminal that was stopped, a disk that hangs: a write to any of them may
block for ever. O_NONBLOCK does not help: files on disks ignore it, and it belongs to the open file,
which other processes share. So a thread writes, and only this thread waits. Everybody else puts
lines into a bounded queue and goes on. Lines that do not fit are counted, and a note with their
number stands where they are missing.

The thread collects lines: while they keep coming, it wakes up once in `COLLECT_S` and writes all
that have come. A line that is written very often may be queued as its parts: then the thread makes
it, too, many in one go. That costs less than to make each line when its moment comes.
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
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, Final, Self, cast

COLLECT_S: Final = 0.1
"""How long lines are collected before they are written together."""
BOUND_CHARS: Final = 1 << 20
"""How many characters of lines may wait."""
RESERVE_CHARS: Final = 1 << 18
"""Room beyond the bound for lines of which there are few; half of it for warnings only."""
PARTS_CHARS: Final = 64
"""As so many characters the parts of a line count; no line that is made of parts is shorter."""
BATCH_LINES: Final = 1_000
"""Lines that are joined at a time: the thread holds the GIL meanwhile."""
PIPE_BYTES: Final = 4096
"""What a pipe takes atomically (PIPE_BUF on Linux): lines of several writers are not mixed."""
FILE_BYTES: Final = 1 << 16
LAST_WORDS_S: Final = 1.0
"""How long the exit of a process waits until its last lines are written."""

Parts = tuple[Any, ...]
"""What a line will be made of."""
Item = str | Parts | int | threading.Event
"""What waits: a line, its parts, the number of lines that are missing here, or an event that is set
when all before it is written."""

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
        bound_chars: how many characters may wait.
    """

    def __init__(
        self,
        descriptor: int,
        note: Callable[[int], str] = dropped_note,
        encoding: str = "utf-8",
        bound_chars: int = BOUND_CHARS,
    ) -> None:
        self.problem: OSError | None = None
        """Why the last write failed; None when it did not."""
        self._descriptor = descriptor
        self._note = note
        self._encoding = encoding
        self._bound = bound_chars
        self._piece = _piece_of(descriptor)
        # What waits, in order. Both ends of a deque are thread-safe: a line needs no lock.
        self._queue: deque[Item] = deque()
        # Each is written by one side only. Two threads that add at the same time may lose a few
        # characters of the sum, which is corrected whenever the thread goes to sleep.
        self._put = self._taken = 0
        self._limit = bound_chars // 2
        """Up to it, a line is queued without a lock; out of reach while lines are missing."""
        self._gap = 0
        """Lines that are missing behind the last one in the queue."""
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
        """Characters that wait to be written."""
        return self._put - self._taken

    @property
    def stuck(self) -> bool:
        """Whether nothing was written since a `flush` began that took too long, or ever will be."""
        return self._moved == self._stuck_at or not self._thread.is_alive()

    # --- any thread --------------------------------------------------------------------------

    def add(self, line: str) -> None:
        """Write a line, given without its newline, within `COLLECT_S`, if the reader reads."""
        if self._put - self._taken > self._limit:
            self._add_if_room(line, self._bound)
            self._hurry()  # It is half full: the thread does not collect any longer.
            return
        self._put += len(line)
        self._queue.append(line)
        # After the line is there: the thread looks again after it has said that it sleeps.
        if self._asleep:
            self._bell.ring()

    def add_now(self, line: str, important: bool = False) -> None:
        """Write a line at once, after those before it, if the reader reads.

        For lines of which there are few: there is room for them when `add` has none.
        """
        self._add_if_room(line, self._bound + RESERVE_CHARS // (1 if important else 2))
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
            self._queue.append(done)
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

    def _add_if_room(self, line: str, limit: int) -> None:
        with self._lock:
            if self._put - self._taken > limit:
                lines = line.count("\n") + 1
                self._gap += lines
                self._refused += lines
                self._limit = _NO_ROOM
                return
            self._tell_gap()
            self._put += len(line)
            self._queue.append(line)
            if self._asleep:
                self._bell.ring()

    def _tell_gap(self) -> None:
        """Mark the place where lines are missing. The lock is held."""
        if self._gap:
            gap, self._gap = self._gap, 0
            self._limit = self._bound // 2
            self._queue.append(gap)

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
            is_busy = bool(self._queue)
            self._drain()
            while closing and self._queue:
                self._drain()
            if closing:
                return

    def _sleep(self) -> None:
        """Wait, without polling, until there is something to write."""
        if self._queue or self._closing:
            return
        self._taken = self._put
        self._asleep = True
        if not self._queue and not self._closing:
            self._bell.wait()
        self._asleep = False

    def _drain(self) -> None:
        """Write what waits now. What comes meanwhile is collected: to write each line as it comes
        would take the GIL from the event loop at each write.
        """
        left = len(self._queue)
        while left:
            size = min(left, BATCH_LINES)
            left -= size
            self._write_items([self._queue.popleft() for _ in range(size)])
        with self._lock:
            self._tell_gap()
        self._write_lines([], 0)

    def _write_items(self, items: list[Item]) -> None:
        """Write lines, and heed what stands between them."""
        lines: list[str] = []
        waited = 0
        for kind, run in groupby(items, type):
            if issubclass(kind, tuple):
                made = self._lines_of(cast(Iterator[Parts], run))
                lines += made
                waited += PARTS_CHARS * len(made)
            elif issubclass(kind, str):
                ready = cast(list[str], list(run))
                lines += ready
                waited += sum(map(len, ready))
            else:
                self._write_lines(lines, waited)
                lines, waited = [], 0
                self._heed(cast(Iterator[int | threading.Event], run))
        self._write_lines(lines, waited)

    def _lines_of(self, parts: Iterable[Parts]) -> list[str]:
        """Make a line of each of these parts; a subclass that queues parts says how."""
        raise NotImplementedError

    def _heed(self, marks: Iterable[int | threading.Event]) -> None:
        for mark in marks:
            if isinstance(mark, int):
                self._untold += mark
            else:
                self._write_lines([], 0)
                mark.set()

    def _write_lines(self, lines: list[str], waited: int) -> None:
        """Write lines, and before them how many are missing. They waited as so many characters."""
        note = self._note(self._untold) + "\n" if self._untold else ""
        if not lines and not note:
            return
        text = "\n".join([*lines, ""])
        # After a write that failed within a line, the next line begins on a new one.
        head = ("\n" if self._torn else "") + note
        head_bytes = head.encode(self._encoding, "backslashreplace")
        data = head_bytes + text.encode(self._encoding, "backslashreplace")
        written = self._write(data)
        if written >= len(head_bytes):
            self._untold = 0
        if written:
            self._torn = not data.endswith(b"\n", 0, written)
        lost = data.count(b"\n", max(written, len(head_bytes)))
        self._lost += lost
        self._untold += lost
        self._taken += waited

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
