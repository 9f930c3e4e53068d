"""Rooms and watched users: what must be asked for again after a reconnect?

A room and a watch belong to a session, so a new session has none. The client remembers what the
application wants, and asks for it after each register. What changed meanwhile was told to nobody:
the client compares the new list with the last one, and tells the application the difference.

Pure: it is told what came, and answers what to say and what to tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from wsdemo.client.items import Item, Member, Message, Missed, PresenceChange, WatchEnded
from wsdemo.client.positions import is_epoch, is_offset, number_of

AWAY: Final = "unknown"
"""The reason of a change that only a new list has shown."""
REMEMBERED: Final = 256
"""So many of the last messages of a room are recognised when they come again."""
UNKNOWN: Final = "unknown"
"""The state of a user whom we cannot watch any more."""
TAKEN_BACK: Final = "taken_back"
"""Our own code: the application has taken a request back by another one, before its answer."""
RETRYABLE: Final = frozenset({"rate_limited", "unavailable"})
"""Codes of refusals after which it makes sense to ask again."""
ANONYMOUS: Final = frozenset({"unknown_type", "invalid"})
"""Codes of errors that name neither a room nor an id. What but a request of ours could it be?"""


@dataclass(frozen=True, slots=True)
class Joined:
    """The members of a room at the moment when we joined it, or began to watch it."""

    members: tuple[str, ...]
    count: int


class RequestRefused(Exception):
    """A gateway refused what we asked for; the text is its answer, `code` the short word for it."""

    def __init__(self, error: str, code: str = "") -> None:
        super().__init__(error or code or "refused")
        self.code = code


@dataclass(slots=True, eq=False)
class Request:
    """Something that we asked a gateway for, until it is answered."""

    document: Mapping[str, Any]
    """With an `id`, which an error names."""
    answer: asyncio.Future[Any]
    open_users: set[str] = field(default_factory=set)
    """The users whose state is not told yet, for a watch."""

    @property
    def id(self) -> str:
        return str(self.document["id"])

    @property
    def room(self) -> str:
        """The room that it is about; '' for users."""
        return _room_of(self.document)


@dataclass(slots=True, eq=False)
class RoomHistory:
    """What we have heard of a room that keeps its last messages."""

    most: int
    """How many earlier messages we have asked for."""
    epoch: str = ""
    """Of the history; '' while nothing has ever been said."""
    last: str = ""
    """The offset of the last message; '' before there is one."""
    known: dict[str, None] = field(default_factory=dict)

    def wish(self) -> dict[str, Any]:
        """Return what a join says: all after the last message, or as many as at first."""
        here = {"epoch": self.epoch, "offset": self.last} if self.epoch and self.last else {}
        return {"history": self.most, **here}

    def joined(self, room: str, document: Mapping[str, Any]) -> list[Item]:
        """Note where the history goes on; return the gap, if there is one."""
        if is_epoch(epoch := document.get("epoch")):
            self.epoch = epoch
        if document.get("recovered") is not False:
            return []
        self.last = ""
        return [Missed(None, room)]

    def heard(self, message: Message) -> list[Item]:
        """Return what the application gets: the message, after a gap if there is one, or nothing
        when it has had it.
        """
        offset = message.offset
        if offset in self.known:
            return []
        before, self.last = self.last, offset
        self.known[offset] = None
        if len(self.known) > REMEMBERED:
            del self.known[next(iter(self.known))]
        lost = number_of(offset) - number_of(before) - 1 if before else 0
        return [Missed(lost, message.room), message] if lost > 0 else [message]


class Wishes:
    """What the application wants: rooms to be in, rooms to watch, and users to watch."""

    def __init__(self) -> None:
        self._rooms: dict[str, set[str] | None] = {}
        """The members that the application knows of; None before there is a list."""
        self._entered: dict[str, asyncio.Event] = {}
        """Set while we are in the room, on the connection that there is now."""
        self._histories: dict[str, RoomHistory] = {}
        """Of the rooms that were joined with a wish for earlier messages."""
        self._watched_rooms: dict[str, set[str] | None] = {}
        """The same of rooms that are watched. A room may be watched by one of its members."""
        self._watched: dict[str, str] = {}
        """The last state that was told; '' before there is one."""
        self._requests: dict[str, Request] = {}

    # --- what the application wants ------------------------------------------------------------

    def want_room(self, room: str, history: int = 0) -> bool:
        """Want to be in a room; say whether that is new."""
        is_new = room not in self._rooms
        if history and room not in self._histories:
            self._histories[room] = RoomHistory(history)
        if is_new:
            self._rooms[room] = None
            self._entered[room] = asyncio.Event()
        return is_new

    def want_no_room(self, room: str) -> None:
        self._histories.pop(room, None)
        if room in self._rooms:
            del self._rooms[room]
            self._entered.pop(room).set()  # Who waits for it is to hear that we are not in it.
            self._take_back("join", room)

    def entered(self, room: str) -> asyncio.Event | None:
        """Return what is set while we are in a room; None for a room that we do not want."""
        return self._entered.get(room)

    def want_to_watch(self, room: str) -> bool:
        """Want to watch a room; say whether that is new."""
        is_new = room not in self._watched_rooms
        self._watched_rooms.setdefault(room, None)
        return is_new

    def want_not_to_watch(self, room: str) -> None:
        self._watched_rooms.pop(room, None)
        self._take_back("watch", room)

    def want_users(self, users: Iterable[str]) -> list[str]:
        """Want to watch users; return those that are new."""
        new = [user for user in users if user not in self._watched]
        self._watched.update(dict.fromkeys(new, ""))
        return new

    def want_no_users(self, users: Iterable[str]) -> None:
        for user in users:
            self._watched.pop(user, None)

    def again(self) -> list[dict[str, Any]]:
        """Return what is to be asked for after a register: all that we have had before. What was
        never answered is still asked for by whoever waits for it.
        """
        had = [room for room, members in self._rooms.items() if members is not None]
        asked = [{"type": "join", "room": room, **self._history_of(room)} for room in had]
        seen = [room for room, members in self._watched_rooms.items() if members is not None]
        asked += [watch_of(room) for room in seen]
        users = [user for user, state in self._watched.items() if state]
        return [*asked, {"type": "watch", "users": users}] if users else asked

    def wants(self, document: Mapping[str, Any]) -> bool:
        """Return whether the application still wants what this asks for. It may have left a room,
        or watch no more, before there was a connection to ask by.
        """
        if document["type"] == "join":
            return document["room"] in self._rooms
        if document["type"] != "watch":
            return True
        if room := _room_of(document):
            return room in self._watched_rooms
        return any(user in self._watched for user in document["users"])

    def _take_back(self, kind: str, room: str) -> None:
        """Whoever waits to be in a room, or to watch it, waits no longer: nobody will answer."""
        for request in self._requests.values():
            if request.document["type"] == kind and request.room == room:
                _fail(request, taken_back())

    def _history_of(self, room: str) -> dict[str, Any]:
        history = self._histories.get(room)
        return history.wish() if history is not None else {}

    def give_up(self, document: Mapping[str, Any], user: str, why: str) -> list[Item]:
        """Want it no more, because a gateway refuses it now; return what the application is told.

        Args:
            user: who we are.
        """
        if document["type"] == "join":
            self.want_no_room(document["room"])
            return [Member(document["room"], user, "leave", why)]
        if room := _room_of(document):
            self.want_not_to_watch(room)
            return [WatchEnded(room, why)]
        self.want_no_users(document["users"])
        return [PresenceChange(one, UNKNOWN, why) for one in document["users"]]

    # --- requests ------------------------------------------------------------------------------

    def open(self, document: Mapping[str, Any]) -> Request:
        """Expect the answer to a request that is about to be sent."""
        users = set(document.get("users", ()))
        request = Request(document, asyncio.get_running_loop().create_future(), users)
        self._requests[request.id] = request
        return request

    def close(self, request: Request) -> None:
        self._requests.pop(request.id, None)

    def refused(self, document: Mapping[str, Any]) -> bool:
        """Answer the request that an error names; say whether there is one."""
        error, code = str(document.get("error", "")), str(document.get("code", ""))
        refusal = RequestRefused(error, code)
        named = list(self._named(document, is_anonymous=code in ANONYMOUS))
        for request in named:
            _fail(request, refusal)
        return bool(named)

    def put_out(self, document: Mapping[str, Any], user: str) -> Item | None:
        """Note that a gateway has taken us out of a room unasked: Redis had lost us, and others
        have taken the place. Return what the application is told; None if it is another error.

        Args:
            user: who we are.
        """
        room, code = str(document.get("room")), document.get("code")
        is_asked = document.get("id") is not None
        if is_asked or code != "full" or self._rooms.get(room) is None:
            return None
        self.want_no_room(room)
        return Member(room, user, "leave", str(document.get("error", "")))

    def _named(self, document: Mapping[str, Any], is_anonymous: bool) -> Iterator[Request]:
        """Yield the requests that an error is about: those with its id, or of its room."""
        room, msg_id = document.get("room"), document.get("id")
        for request in self._requests.values():
            if msg_id is not None:
                matches = request.id == msg_id
            elif room is not None:
                matches = request.room == room
            else:
                matches = is_anonymous
            if matches and not request.answer.done():
                yield request

    def lost(self) -> None:
        """Open requests get no answer any more, and we are in no room: the connection is lost."""
        for entered in self._entered.values():
            entered.clear()
        for request in self._requests.values():
            _fail(request, ConnectionError("the connection broke"))

    def _answer(self, kind: str, room: str, value: object) -> None:
        for request in self._requests.values():
            said = request.document
            if said["type"] == kind and request.room == room and not request.answer.done():
                request.answer.set_result(value)

    # --- from the gateway ----------------------------------------------------------------------

    def joined(self, document: Mapping[str, Any]) -> list[Item]:
        """Note that we have joined a room; return what has changed since the last list of it."""
        room = str(document.get("room"))
        self._answer("join", room, _list_in(document))
        if (entered := self._entered.get(room)) is not None:
            entered.set()
        history = self._histories.get(room)
        gap = history.joined(room, document) if history is not None else []
        return [*self._listed(document, self._rooms), *gap]

    def heard(self, message: Message) -> list[Item]:
        """Return what the application gets for a message of a room."""
        history = self._histories.get(message.room)
        if history is None or not is_offset(message.offset):
            return [message]
        return history.heard(message)

    def members(self, document: Mapping[str, Any]) -> list[Item]:
        """Note the list of a room, which also answers a watch; return what has changed since the
        last one.
        """
        self._answer("watch", str(document.get("room")), _list_in(document))
        return self._listed(document, self._watched_rooms)

    def _listed(
        self, document: Mapping[str, Any], answered: dict[str, set[str] | None]
    ) -> list[Item]:
        """Note the list of a room; return what has changed since the last one.

        Args:
            answered: the rooms that the list may be the first of.
        """
        room, now = str(document.get("room")), set(_texts(document.get("members")))
        known = [mine for mine in (self._rooms, self._watched_rooms) if room in mine]
        before = next((had for mine in known if (had := mine[room]) is not None), None)
        for mine in known:
            if mine is answered or mine[room] is not None:
                mine[room] = set(now)
        if before is None:
            return []  # There was no list before, or we do not want it any more.
        gone: list[Item] = [Member(room, user, "leave", AWAY) for user in sorted(before - now)]
        return gone + [Member(room, user, "join", AWAY) for user in sorted(now - before)]

    def left(self, document: Mapping[str, Any]) -> None:
        """Note that a gateway has taken us out of a room, as we asked."""
        self._answer("leave", str(document.get("room")), None)

    def member(self, document: Mapping[str, Any]) -> Item | None:
        """Note that somebody joined or left; return it when it is about a room of ours."""
        room, user = str(document.get("room")), str(document.get("user"))
        known = [mine[room] for mine in (self._rooms, self._watched_rooms) if room in mine]
        if not known:
            return None
        state = str(document.get("state"))
        for members in known:
            if members is not None:
                (members.add if state == "join" else members.discard)(user)
        return Member(room, user, state, str(document.get("reason", "")))

    def presence(self, document: Mapping[str, Any]) -> Item | None:
        """Note the state of a user; return it when we watch it and the state is a new one."""
        user, state = str(document.get("user")), str(document.get("state"))
        for request in self._requests.values():
            request.open_users.discard(user)
            is_watch = request.document["type"] == "watch" and not request.room
            if is_watch and not request.open_users:
                self._finish_watch(request)
        if user not in self._watched or self._watched[user] == state:
            return None
        self._watched[user] = state
        at = document.get("at")
        at_ms = at if type(at) is int else 0
        return PresenceChange(user, state, str(document.get("reason", "")), at_ms)

    @staticmethod
    def _finish_watch(request: Request) -> None:
        if not request.answer.done():
            request.answer.set_result(None)


def _fail(request: Request, problem: Exception) -> None:
    if not request.answer.done():
        request.answer.set_exception(problem)
        request.answer.exception()  # It is reported by whoever waits; nobody may.


def taken_back() -> RequestRefused:
    """Return the error of a request that the application has taken back by another one."""
    return RequestRefused("it was taken back meanwhile", TAKEN_BACK)


def is_taken_back(problem: BaseException) -> bool:
    """Return whether a request failed because the application has taken it back. Then it may have
    been made anew already: nothing is left to do.
    """
    return isinstance(problem, RequestRefused) and problem.code == TAKEN_BACK


def watch_of(room: str) -> dict[str, Any]:
    """Return the request to watch a room."""
    return {"type": "watch", "rooms": [room]}


def _room_of(document: Mapping[str, Any]) -> str:
    """Return the room that a request of ours is about; '' for users."""
    (room,) = document.get("rooms", [document.get("room", "")])
    return str(room)


def _list_in(document: Mapping[str, Any]) -> Joined:
    members, count = _texts(document.get("members")), document.get("count")
    return Joined(members, count if type(count) is int else len(members))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()
