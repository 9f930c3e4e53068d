"""Latency, loss and back-pressure: what happens to bytes in one direction of a connection?

They arrive late but in order, or not at all. A pipe can be delayed, held and released, or lost. A
lost pipe stays lost for this connection, because TCP never delivers what comes after a gap.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Literal

from wsdemo.proof.simulate.hosts import NO_HOST
from wsdemo.proof.simulate.loop import TICK_S, VirtualTimeLoop

if TYPE_CHECKING:
    from wsdemo.proof.simulate.connection import SimulatedTransport

Direction = Literal["up", "down"]
"""up: from the host that dialled to the other one. down: back."""

BOTH: Final[tuple[Direction, Direction]] = ("up", "down")
LATENCY_S: Final = 0.0002
JITTER_S: Final = 0.0006


class Segment(Enum):
    """What travels beside bytes: the control segments of TCP."""

    SYN = auto()
    ACCEPTED = auto()
    REFUSED = auto()
    EOF = auto()
    RESET = auto()


@dataclass(slots=True)
class Conditions:
    """How one direction treats what is sent. Durations in seconds."""

    held: bool = False
    lost: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0


class Pipe:
    """One direction of one connection."""

    def __init__(self, loop: VirtualTimeLoop, rng: random.Random, conditions: Conditions) -> None:
        self._loop = loop
        self._rng = rng
        self._conditions = replace(conditions)
        self._queue: deque[tuple[float, bytes | Segment]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._last_due = 0.0
        self.in_flight = 0
        """Bytes that were sent, and not yet taken by the reader."""
        self.sender: SimulatedTransport
        self.reader: SimulatedTransport

    def carry(self, what: bytes | Segment) -> None:
        """Send something. Lost bytes stay in flight for ever: the sender does not know better."""
        if isinstance(what, bytes):
            self.in_flight += len(what)
        conditions = self._conditions
        if conditions.lost:
            return
        jitter_s = (JITTER_S + conditions.jitter_s) * self._rng.random()
        late_s = LATENCY_S + conditions.delay_s + jitter_s
        # Jitter must not let later bytes overtake earlier ones.
        self._last_due = max(self._last_due, self._loop.time() + late_s)
        self._queue.append((self._last_due, what))
        self._arm()

    def taken(self, size: int) -> None:
        """The reader has taken so many bytes."""
        self.in_flight -= size
        self.sender.room_made()

    def hold(self) -> None:
        """Keep what is on the way, and everything after it, until `heal`."""
        self._conditions.held = True

    def lose(self) -> None:
        """Lose what is on the way, and everything after it."""
        self._conditions.lost = True
        self._queue.clear()

    def delay(self, delay_s: float, jitter_s: float) -> None:
        """Let what is sent from now on arrive later."""
        self._conditions.delay_s, self._conditions.jitter_s = delay_s, jitter_s

    def heal(self) -> None:
        """Release what was held, and delay nothing any more. What was lost stays lost."""
        self._conditions.held = False
        self.delay(0.0, 0.0)
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._queue and not self._conditions.held:
            self._timer = self._loop.call_at(self._queue[0][0], self._arrive, context=NO_HOST)

    def _arrive(self) -> None:
        self._timer = None
        now = self._loop.time() + TICK_S
        while self._queue and self._queue[0][0] <= now and not self._conditions.held:
            self.reader.arrive(self._queue.popleft()[1])
        self._arm()
