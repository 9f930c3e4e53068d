"""Application: which records does what an application is given become?

Chaos and the simulation run the product's client, and each of their processes is an application of
one user. What a client hands to it (durable messages, gaps, rooms, the presence of others) is
translated here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from wsdemo.client import Item, Joined, Member, Message, Missed, PresenceChange
from wsdemo.proof.history import GapTold, Record, RoomHeard, Taken, WatchLooked, WatchTold

REFUSALS: Final = frozenset({"The room is full"})
"""What a gateway says when it does not let a client into a room again after a reconnect."""

MakeRecord = Callable[..., Any]
"""Makes a record now: its class, then its fields without the time."""


def durable_id(process: str, number: int) -> str:
    """Return the id of a durable message: whoever hears it can tell that it is not a plain one."""
    return f"d:{process}:{number}"


def room_id(process: str, number: int) -> str:
    """Return the id of a message in a room; it is not a plain one either."""
    return f"r:{process}:{number}"


def is_plain(msg_id: str) -> bool:
    """Say whether the client itself has made an id: only for plain messages it does."""
    return ":" not in msg_id


class RoomView:
    """Who is in a room, as one application is told."""

    def __init__(self) -> None:
        self.members: set[str] | None = None
        """None before the join is answered."""
        self._early: list[Member] = []

    def joined(self, joined: Joined) -> None:
        """Take the list; what the application has heard before it comes after it on the wire."""
        self.members = set(joined.members)
        for member in self._early:
            self.take(member)

    def take(self, member: Member) -> None:
        """Take note that somebody came or went."""
        if self.members is None:
            self._early.append(member)
        elif member.state == "join":
            self.members.add(member.user)
        else:
            self.members.discard(member.user)


class ObservedApplication:
    """The application of one process of a user.

    Args:
        user: whose it is, as the history calls it.
        process: its name, unique in the history.
        note: makes the records.
        is_online: says whether Redis has an entry of a user.
    """

    def __init__(
        self, user: str, process: str, note: MakeRecord, is_online: Callable[[str], bool]
    ) -> None:
        self.user, self.process = user, process
        self.views: dict[str, RoomView] = {}
        """The rooms that it is in, or wants to be in."""
        self.put_out: set[str] = set()
        """The rooms that it was in, until a gateway refused it: others had taken the place."""
        self.told_of: dict[str, str] = {}
        """The last state of each user that is watched."""
        self.watches = False
        """Whether its wish to watch was answered."""
        self._note = note
        self._is_online = is_online

    def take(self, item: Item) -> None:
        """Record what the application takes; a plain message is recorded where it arrives."""
        match item:
            case Message(room=room, id=str(msg_id)) if room:
                self._make(RoomHeard, room=room, id=msg_id)
            case Message(offset=offset, id=str(msg_id)) if offset:
                self._make(Taken, id=msg_id, offset=offset)
            case Missed(room=""):
                self._make(GapTold, count=item.count)
            case PresenceChange():
                self.told_of[item.user] = item.state
                self._note_watch(WatchTold, item.user, item.state)
            case Member():
                self._take_member(item)
            case _:
                pass

    def _take_member(self, item: Member) -> None:
        view = self.views.get(item.room)
        if view is None:
            return
        if item.user == self.user and item.state == "leave" and item.reason in REFUSALS:
            self.put_out.add(item.room)
            self.forget_room(item.room, view)
        else:
            view.take(item)

    def forget_room(self, room: str, view: RoomView) -> None:
        """Believe no more to be in a room, unless it was joined anew meanwhile."""
        if self.views.get(room) is view:
            del self.views[room]

    def look_at_watches(self) -> None:
        """Record what was told last of each user that is watched."""
        if self.watches:
            for of, state in sorted(self.told_of.items()):
                self._note_watch(WatchLooked, of, state)

    def _note_watch(self, record: type[Record], of: str, state: str) -> None:
        self._make(record, of=of, state=state, is_there=self._is_online(of))

    def _make(self, record: type[Record], **fields: Any) -> None:
        self._note(record, user=self.user, process=self.process, **fields)
