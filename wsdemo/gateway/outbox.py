"""How fast may we speak to a slow reader?

Frames for one connection are collected during a turn of the event loop and leave in one write.
While the transport is full they wait here, in order, up to a bound; a reader that takes no bytes
for a whole write deadline, or lets the bound overflow, is given up. Nobody else ever waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from wsdemo.settings import Limits

FLUSH_AT: Final = 64
"""Frames of one turn that are written at once rather than kept for the end of the turn."""


class Stuck(StrEnum):
    """Why a reader was given up."""

    DEADLINE = "no byte taken within the write deadline"
    OVERFLOW = "outbox overflow"


class Flusher:
    """Ends each turn of the loop by writing what the outboxes have collected in it."""

    __slots__ = ("_dirty", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._dirty: list[Outbox] = []

    def add(self, outbox: Outbox) -> None:
        if not self._dirty:
            self._loop.call_soon(self._flush)
        self._dirty.append(outbox)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for outbox in dirty:
            outbox.flush()


class Outbox:
    """The frames on their way to one connection.

    Args:
        transport: where they go.
        on_stuck: called once, when the reader is given up.
    """

    __slots__ = (
        "_bytes",
        "_deadline",
        "_flusher",
        "_frames",
        "_limits",
        "_on_stuck",
        "_transport",
        "paused",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        flusher: Flusher,
        limits: Limits,
        on_stuck: Callable[[Stuck], None],
    ) -> None:
        self._transport = transport
        self._flusher = flusher
        self._limits = limits
        self._on_stuck: Callable[[Stuck], None] | None = on_stuck
        self._frames: list[bytes] = []
        self._bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self.paused = False
        """Whether the transport is full."""

    def __len__(self) -> int:
        return len(self._frames)

    def send(self, frame: bytes) -> None:
        """Send a frame after all those before it, or give the reader up."""
        frames = self._frames
        if self.paused:
            self._bytes += len(frame)
            limits = self._limits
            if len(frames) >= limits.outbox_messages or self._bytes > limits.outbox_bytes:
                self._give_up(Stuck.OVERFLOW)
                return
        elif not frames:
            self._flusher.add(self)
        frames.append(frame)
        if len(frames) >= FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Write what has been collected, unless the transport is full."""
        frames = self._frames
        if frames and not self.paused:
            data = frames[0] if len(frames) == 1 else b"".join(frames)
            frames.clear()
            self._bytes = 0
            self._transport.write(data)

    def pause(self) -> None:
        """The transport is full: hold frames back, and start the deadline."""
        self.paused = True
        self._deadline = asyncio.get_running_loop().call_later(
            self._limits.write_deadline_s, self._give_up, Stuck.DEADLINE
        )

    def resume(self) -> None:
        """The transport has room again."""
        self.paused = False
        self._stop_deadline()
        self.flush()

    def close(self) -> None:
        """Forget what is left. Idempotent."""
        self._stop_deadline()
        self._on_stuck = None
        self._frames.clear()
        self._bytes = 0

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self, why: Stuck) -> None:
        on_stuck = self._on_stuck
        self.close()
        if on_stuck is not None:
            on_stuck(why)
