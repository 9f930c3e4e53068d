"""Items: what comes to an application, and in which order?

Everything that a gateway sends to the application goes through one queue, so that a gap is found
exactly where it is. A durable message stands in it beside its position: the position counts as
reached when the application asks for the next item.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from wsdemo.client.positions import Position


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was received."""

    sender: str
    content: str
    id: str | None = None
    room: str = ""
    """The room that it was published in; '' for a message to us alone."""
    offset: str = ""
    """Its place in our inbox; '' for a message that is not durable."""
    to: str = ""
    """Its recipient, when another device of ours has sent it (an echo); '' otherwise."""


@dataclass(frozen=True, slots=True)
class Missed:
    """Messages before this point may be lost, or nobody can know that none is.

    It is also the first item of a user whose inbox was never read before.
    """

    count: int | None = None
    """How many are lost; None when that is not known."""
    room: str = ""
    """The room whose messages they are, when it was joined with `history`; '' for our own."""


@dataclass(frozen=True, slots=True)
class Member:
    """A user joined a room that we are in, or watch, or left it."""

    room: str
    user: str
    state: str
    """`join` or `leave`."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """A user that we watch came online, or went offline."""

    user: str
    state: str
    """`online` or `offline`; `unknown` when we may not watch it any more."""
    reason: str = ""
    at_ms: int = 0
    """When that happened, by the clock of Redis (Unix milliseconds); 0 when it is not known."""


@dataclass(frozen=True, slots=True)
class WatchEnded:
    """A room is not watched any more: after a reconnect, the gateway did not allow it."""

    room: str
    reason: str


Item = Message | Missed | Member | PresenceChange | WatchEnded


class MessagesMissed(Exception):
    """Messages before this point may be lost; `receive` raises it once for each gap."""

    def __init__(self, count: int | None) -> None:
        how_many = "an unknown number of" if count is None else str(count)
        super().__init__(f"{how_many} durable messages may be missing")
        self.count = count


class Arrived(NamedTuple):
    """An item on its way to the application."""

    item: Item | None
    """None for a repeated message, of which only the position counts."""
    position: Position | None = None
    """Where the application is in its inbox when it has finished with this item."""


class ItemQueue:
    """Items that the application has not taken yet. Belongs to one event loop.

    Args:
        most: when it holds so many, it is full.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: deque[Arrived] = deque()
        self._came = asyncio.Event()
        self._has_room = asyncio.Event()
        self._closed = False

    @property
    def full(self) -> bool:
        return len(self._items) >= self._most

    async def room(self) -> None:
        """Wait while it is full: the application does not take what it has, so nothing more is
        read (back-pressure on the gateway).
        """
        while self.full:
            self._has_room.clear()
            await self._has_room.wait()

    def put(self, arrived: Arrived) -> None:
        """Add an item. Call `room` first."""
        self._items.append(arrived)
        self._came.set()

    async def get(self) -> Arrived | None:
        """Remove the oldest item and return it; None when it is closed and empty."""
        while not self._items:
            if self._closed:
                return None
            self._came.clear()
            await self._came.wait()
        self._has_room.set()
        return self._items.popleft()

    def close(self) -> None:
        """No item will be added any more; what is in it can still be taken."""
        self._closed = True
        self._came.set()
