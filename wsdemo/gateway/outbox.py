"""Back-pressure: what happens to messages for a client that reads slowly?

Frames for one connection are collected during a turn of the event loop and leave in one write.
While the transport is full they wait here, in order, up to a bound. A client that takes no bytes
for a whole write deadline, or for which too much is waiting, is given up. No other client waits.

All that is written to a connection is written here, and no method raises: the caller often acts
for another client, which must not pay for the error. (On uvloop a write to a lost connection
raises, unlike on asyncio's own loop; on both, a write after the end raises.)
"""

from __future__ import annotations

import array
import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Final

try:
    import fcntl
    import termios
except ImportError:  # pragma: no cover - not on Windows
    _UNCONFIRMED = None
else:
    _UNCONFIRMED = termios.TIOCOUTQ

from wsdemo.settings import Limits

FLUSH_AT: Final = 64
"""When so many frames are collected in one turn, they are written before its end."""
LOOKS: Final = 10
"""How often within the write deadline we check whether a slow client has taken bytes."""


class Stuck(StrEnum):
    """Why a slow client was given up."""

    DEADLINE = "no byte taken within the write deadline"
    OVERFLOW = "outbox overflow"


class Flusher:
    """Ends each turn of the loop by writing what the outboxes have collected in it."""

    __slots__ = ("dirty", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.dirty: list[Outbox] = []
        """Outboxes that have collected something. The first one of a turn calls for `flush`."""

    def flush(self) -> None:
        """Write what they have collected."""
        dirty, self.dirty = self.dirty, []
        for outbox in dirty:
            try:
                outbox.flush()
            except Exception as problem:  # Whatever it is: the other outboxes are flushed.
                outbox.fail(problem)


class Outbox:
    """The frames on their way to one connection.

    Args:
        transport: where they go.
        on_stuck: called once, when the client is given up; not after `close`.
        on_failure: called on an unexpected error of a write; it must abort the connection.
    """

    __slots__ = (
        "_bytes",
        "_deadline",
        "_ended",
        "_flusher",
        "_frames",
        "_left",
        "_limits",
        "_looks",
        "_on_failure",
        "_on_stuck",
        "_transport",
        "on_room",
        "paused",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        flusher: Flusher,
        limits: Limits,
        on_stuck: Callable[[Stuck], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._transport = transport
        self._flusher = flusher
        self._limits = limits
        self._on_stuck: Callable[[Stuck], None] | None = on_stuck
        self._on_failure = on_failure
        self._frames: list[bytes] = []
        self._bytes = 0
        self._ended = False
        self._deadline: asyncio.TimerHandle | None = None
        self._left = self._looks = 0
        self.paused = False
        """Whether the transport is full."""
        self.on_room: Callable[[], None] | None = None
        """Called when the transport has room again, for who reads no more while it is full."""

    def __len__(self) -> int:
        return len(self._frames)

    def send(self, frame: bytes) -> None:
        """Send a frame after all those before it, or give the client up."""
        frames = self._frames
        if self.paused:
            self._bytes += len(frame)
            limits = self._limits
            if len(frames) >= limits.outbox_messages or self._bytes > limits.outbox_bytes:
                self._give_up(Stuck.OVERFLOW)
                return
        elif not frames:
            flusher = self._flusher
            if not flusher.dirty:
                flusher.loop.call_soon(flusher.flush)
            flusher.dirty.append(self)
        frames.append(frame)
        if len(frames) >= FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Write what has been collected, unless the transport is full."""
        frames, transport = self._frames, self._transport
        if not frames or self.paused:
            return
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        frames.clear()
        self._bytes = 0
        if self._ended or transport.is_closing():
            return
        try:
            transport.write(data)
        except Exception as problem:
            self._on_failure(problem)

    def write(self, data: bytes) -> None:
        """Write at once, before the frames that wait here; nothing after the end."""
        if self._ended or self._transport.is_closing():
            return
        if self.paused:
            self._left += len(data)
        try:
            self._transport.write(data)
        except Exception as problem:
            self._on_failure(problem)

    def write_eof(self) -> None:
        """End our direction of the connection; end both where that is not possible (TLS)."""
        transport = self._transport
        if self._ended or transport.is_closing():
            return
        self._ended = True
        try:
            if transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()  # TLS closes both ways at once.
        except OSError:
            transport.abort()  # It was reset; the kernel knew before the loop.
        except Exception as problem:
            self._on_failure(problem)

    def fail(self, problem: Exception) -> None:
        """Report an error to the owner of this outbox."""
        self._on_failure(problem)

    def pause(self) -> None:
        """Hold frames back, because the transport is full, and start the deadline."""
        self.paused = True
        self._stop_deadline()
        if self._on_stuck is not None:
            self._left = self._not_taken()
            self._look_again(LOOKS)

    def resume(self) -> None:
        """Write again, because the transport has room."""
        self.paused = False
        self._stop_deadline()
        self.flush()
        if self.on_room is not None and not self.paused:
            try:
                self.on_room()
            except Exception as problem:
                self._on_failure(problem)

    def close(self) -> None:
        """Drop the frames that wait, and the deadline. Idempotent."""
        self._stop_deadline()
        self._on_stuck = self.on_room = None
        self._frames.clear()
        self._bytes = 0

    # --- the write deadline ------------------------------------------------------------------

    def _look_again(self, looks: int) -> None:
        """Check so many times more whether the client takes bytes, before it is given up."""
        self._looks = looks
        self._deadline = asyncio.get_running_loop().call_later(
            self._limits.write_deadline_s / LOOKS, self._look
        )

    def _look(self) -> None:
        left, self._left = self._left, self._not_taken()
        if self._left < left:
            # It has taken something since the last look. We do not know when, so we count from
            # that look: a client that takes nothing is gone at the deadline, and not later.
            self._look_again(LOOKS - 1)
        elif self._looks > 1:
            self._look_again(self._looks - 1)
        else:
            self._give_up(Stuck.DEADLINE)

    def _not_taken(self) -> int:
        """Return how many bytes the client has still to take, here and in the kernel.

        The transport hears from the kernel only when a large part of its buffer is free, which may
        be megabytes: a client on a slow line would seem to take nothing for a long time.
        """
        transport = self._transport
        left = transport.get_write_buffer_size()
        end = transport.get_extra_info("socket")
        if end is not None and _UNCONFIRMED is not None:
            unconfirmed = array.array("i", [0])
            try:
                fcntl.ioctl(end.fileno(), _UNCONFIRMED, unconfirmed)
            except (OSError, ValueError):
                return left  # No TCP, or gone.
            left += unconfirmed[0]
        return left

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self, why: Stuck) -> None:
        on_stuck = self._on_stuck
        self.close()
        if on_stuck is not None:
            on_stuck(why)
