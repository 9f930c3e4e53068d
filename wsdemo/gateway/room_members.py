"""Membership: what does a gateway know of a room, and of who is in it here?

Pure data. What is done with it stands in `rooms.py`, `room_lists.py` and `room_repair.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wsdemo.gateway.room_history import HistoryWish, RoomBacklog
from wsdemo.gateway.socket import Socket
from wsdemo.rooms.store import Boots, RoomEntry, RoomStay

if TYPE_CHECKING:
    from wsdemo.gateway.session import Session


@dataclass(slots=True, eq=False)
class Membership:
    """A session's stay in a room, from its join to its leave; or its watch of the room."""

    session: Session
    room: RoomHere
    stay: RoomStay
    wants_members: bool
    only_watches: bool = False
    """It is in no list, and hears no messages: only who comes and goes."""
    entered: bool = False
    """Whether Redis has accepted the join."""
    waiting: bool = False
    """Whether it is to be told who is there."""
    present: bool = False
    """Whether it has been told that it joined."""
    gone: bool = False
    wish: HistoryWish | None = None
    held: list[tuple[int, bytes]] | None = None
    """What it is to hear after the list: number in the history (or 0) and frame; None before the
    mark of its list."""


@dataclass(slots=True, eq=False)
class ListReading:
    """The reading of one list."""

    n: int
    waiting: list[Membership]
    expected: list[Membership]
    """Who must be in it: everybody whose join was accepted before."""
    whole: bool
    """Whether the members are read, and not only their number: that costs much in a large room."""
    anew: bool
    """Whether all members are to get the list: events may have been lost."""
    marked: bool = False
    later: list[bytes] = field(default_factory=list)
    """Who came and went after the list was read: told after it, to those who get it anew."""
    found: tuple[int, list[RoomEntry], Boots] | None = None
    backlogs: dict[Membership, RoomBacklog | None] = field(default_factory=dict)
    """What those who have asked for it hear of the history; None until it is here."""


@dataclass(slots=True, eq=False)
class RoomHere:
    """A room in which this gateway has members or watchers, or had some a moment ago."""

    name: str
    listening: asyncio.Future[None]
    members: dict[Session, Membership] = field(default_factory=dict)
    watchers: dict[Session, Membership] = field(default_factory=dict)
    sockets: dict[Socket, None] = field(default_factory=dict)
    """Of those who have been told that they joined."""
    curious: dict[Socket, None] = field(default_factory=dict)
    """Of those who want to know who comes and goes, and have been told who is there."""
    awaiting: list[Membership] = field(default_factory=list)
    """Who waits for a list."""
    look: ListReading | None = None
    compare: bool = False
    anew: bool = False
    linger: asyncio.TimerHandle | None = None

    @property
    def is_used(self) -> bool:
        """Whether there is anybody here to tell anything."""
        return bool(self.members or self.watchers)

    def place(self, session: Session) -> None:
        """Let a session hear from now on what it is to hear, and nothing else."""
        both = (self.members.get(session), self.watchers.get(session))
        ready = [one for one in both if one is not None and one.present and one.held is None]
        for sockets, wanted in (
            (self.sockets, any(not one.only_watches for one in ready)),
            (self.curious, any(one.wants_members for one in ready)),
        ):
            if wanted:
                sockets[session.socket] = None
            else:
                sockets.pop(session.socket, None)


@dataclass(slots=True, eq=False)
class RoomGuest:
    """What is known of a session that uses rooms."""

    rooms: dict[str, Membership] = field(default_factory=dict)
    watched: dict[str, Membership] = field(default_factory=dict)
    joins_paid: float = 0.0
    publishes_paid: float = 0.0
