"""Fan-out: how does a message for a room reach its members, and how do they know who is there?

Two truths are kept apart. *Delivery* needs no list: a gateway listens to a room while it has
members there, and hands on what it hears to the sockets in its own map. *The list* is in Redis, and
is put right there (`room_lists.py`, `room_repair.py`, `wsdemo.rooms.store`).

A join has a fixed order: the subscription is confirmed, then the join is executed, then the list is
read with a mark among the events, then `joined` is sent. What comes after the mark waits for that,
so what a client hears after `joined` always follows from the list in it.

A message is encoded once for all members of this gateway. A member that reads slowly has an outbox
of its own, as everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from wsdemo.features import RoomSettings
from wsdemo.gateway.counters import Counters, LabelledCounter
from wsdemo.gateway.feature import Feature, Gauges, Verb
from wsdemo.gateway.journal import GATEWAY_LOG
from wsdemo.gateway.permissions import permits
from wsdemo.gateway.rate import Rate
from wsdemo.gateway.registry import each
from wsdemo.gateway.room_history import HistoryWish, history_wish, number_of
from wsdemo.gateway.room_lists import RoomLists
from wsdemo.gateway.room_members import Membership, RoomGuest, RoomHere
from wsdemo.gateway.room_repair import RoomRepair
from wsdemo.gateway.socket import text_frame
from wsdemo.protocol import MAX_ID_CHARS, ProtocolError, Say, Status, ack_text
from wsdemo.redis.interface import Link
from wsdemo.redis.link import LINK_ERRORS, LinkBusy, LinkDown, LinkTimeout
from wsdemo.redis.outcome import CommandError
from wsdemo.rooms.events import (
    BadRoomEvent,
    MemberEvent,
    RoomEvent,
    RoomMark,
    RoomMessage,
    decode_room_event,
    room_message_text,
)
from wsdemo.rooms.store import (
    LAST_SEQ,
    ROOM_SCRIPTS,
    Join,
    LeaveReason,
    RoomStay,
    RoomStore,
    end_of,
    join_of,
    listeners_of,
    member_of,
)
from wsdemo.router import Router
from wsdemo.settings import GatewaySettings

if TYPE_CHECKING:
    from wsdemo.gateway.session import Session

_log = logging.getLogger(GATEWAY_LOG)
_encode: Final = msgspec.json.encode
Document = Mapping[str, Any]

CLOSING_S: Final = 1.0
"""How long the end of this process may take to reach Redis."""

_ERRORS: Final = {
    "forbidden": "You may not enter this room",
    "full": "The room is full",
    "too_many_rooms": "You are in too many rooms",
    "not_member": "You are not in this room",
    "rate_limited": Say.RATE_LIMITED.value,
    "unavailable": "Rooms are not available now",
}


class Rooms(Feature):
    """The rooms of one gateway.

    Args:
        boot_id: tells this process from another one with the same gateway id.
    """

    scripts = ROOM_SCRIPTS

    def __init__(
        self,
        link: Link,
        router: Router,
        settings: GatewaySettings,
        rooms: RoomSettings,
        counters: Counters,
        boot_id: str,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        link.load(script.at(settings.keyspace) for script in self.scripts)
        self._router = router
        self._rooms_settings = rooms
        self._limits = settings.limits
        self._counters = counters
        self._spawn = spawn
        self._clock = clock
        self._may_be_called = settings.user_ids().may_register
        boot = f"{settings.gateway_id}.{boot_id}"
        keep_ms = settings.timing.fence_ttl_ms
        self._store = RoomStore(link, settings.keyspace, rooms, keep_ms, settings.gateway_id, boot)
        self._join_rate = Rate.of(rooms.joins_per_s, rooms.join_burst)
        self._publish_rate = Rate.of(rooms.publishes_per_s, rooms.publish_burst)
        self._rooms: dict[str, RoomHere] = {}
        self._guests: dict[Session, RoomGuest] = {}
        self._seq = itertools.count(1)
        self._repair = RoomRepair(
            self._store,
            self._rooms,
            self._seq,
            rooms,
            settings.limits.resync_per_s,
            look=self._look,
            on_full=self._lose_place,
            spawn=spawn,
            rng=rng,
        )
        self._lists = RoomLists(
            self._store,
            self._repair,
            settings.limits.outbox_messages,
            spawn,
            self._not_entered,
        )
        self._published = LabelledCounter(
            "room_publishes",
            "Messages that were published in rooms, by outcome",
            "status",
            [s.value for s in (Status.ROUTED, Status.UNREACHABLE, Status.BUSY, Status.UNKNOWN)],
        )

    # --- what a gateway asks -------------------------------------------------------------------

    def verbs(self) -> Mapping[str, Verb]:
        return {"join": self._join, "leave": self._leave, "publish": self._publish}

    def welcome(self, session: Session) -> Mapping[str, Any]:
        """Say that there are rooms here. When a session has shown another token, it ceases to watch
        the rooms that that one does not permit.
        """
        guest = self._guests.get(session)
        for name, watch in list(guest.watched.items()) if guest is not None else ():
            if not permits(session.claims, "rooms", name):
                self._forget(watch)
        return {"rooms": True}

    def leaving(self, session: Session) -> None:
        guest = self._guests.pop(session, None)
        if guest is None:
            return
        reason = end_of(session.claim.reason if session.claim is not None else "")
        for membership in list(guest.rooms.values()):
            self._depart(membership, LAST_SEQ, reason)
        for watch in list(guest.watched.values()):
            self._forget(watch)

    def labelled(self) -> Sequence[LabelledCounter]:
        return (self._published, self._repair.sweeps)

    def gauges(self) -> Gauges:
        return {
            "rooms": (
                "Rooms in which users of this gateway are",
                lambda: sum(bool(room.members) for room in self._rooms.values()),
            ),
            "room_members": (
                "Users of this gateway in rooms, once for each room",
                lambda: sum(len(room.members) for room in self._rooms.values()),
            ),
            "room_watchers": (
                "Users of this gateway who watch rooms, once for each room",
                lambda: sum(len(room.watchers) for room in self._rooms.values()),
            ),
        }

    async def start(self) -> None:
        await self._store.beat()
        await self._store.try_out()
        self._repair.start()

    async def stop(self) -> None:
        was_beating = self._repair.is_beating
        await self._repair.stop()
        for room in self._rooms.values():
            if room.linger is not None:
                room.linger.cancel()
                room.linger = None
        if was_beating:
            # After all leaves that were sent. If it fails, the lease of this process lapses.
            with contextlib.suppress(*LINK_ERRORS, TimeoutError):
                async with asyncio.timeout(CLOSING_S):
                    await self._store.end()

    def link_is_back(self) -> None:
        self._repair.link_is_back()

    def gap(self) -> None:
        for room in self._rooms.values():
            self._lists.begin_anew(room)

    # --- verbs ---------------------------------------------------------------------------------

    def _join(self, session: Session, document: dict[str, Any]) -> None:
        name = self._name_in(document)
        wants_members = document.get("members", True)
        if type(wants_members) is not bool:
            raise ProtocolError(Say.INVALID)
        wish = history_wish(document, max(1, self._rooms_settings.room_history))
        if not self._rooms_settings.room_history:
            wish = None
        guest = self._guest(session)
        problem = self._objection(session, guest, guest.rooms, name)
        if problem:
            self._refuse(session, problem, name)
            return
        known = guest.rooms.get(name)
        if known is not None:
            self._join_again(known, wants_members, wish)
            return
        room = self._enter_map(name)
        stay = self._stay(session, name)
        membership = Membership(session, room, stay, wants_members, wish=wish)
        guest.rooms[name] = room.members[session] = membership
        self._spawn(self._enter(membership))

    def _objection(
        self, session: Session, guest: RoomGuest, within: Mapping[str, Membership], name: str
    ) -> str:
        """Return why a session may not join or watch a room now; '' when it may.

        Args:
            within: the rooms that it has joined, or those that it watches.
        """
        if not permits(session.claims, "rooms", name):
            return "forbidden"
        if not self._pay_for_join(guest):
            return "rate_limited"
        most = self._rooms_settings.rooms_per_session
        if name not in within and len(within) >= most:
            return "too_many_rooms"
        return ""

    def _join_again(
        self, membership: Membership, wants_members: bool, wish: HistoryWish | None
    ) -> None:
        """Answer who is in the room already; who waits for an answer gets one."""
        membership.wants_members, membership.wish = wants_members, wish
        if membership.present and not membership.waiting:
            self._lists.ask(membership)

    def _leave(self, session: Session, document: dict[str, Any]) -> None:
        name = self._name_in(document)
        guest = self._guest(session)
        membership = guest.rooms.get(name)
        if membership is None:
            self._refuse(session, "not_member", name)
        elif not self._pay_for_join(guest):
            self._refuse(session, "rate_limited", name)
        else:
            self._depart(membership, next(self._seq), LeaveReason.LEFT)
            session.send(_encode({"type": "left", "room": name}))

    def _publish(self, session: Session, document: dict[str, Any]) -> None:
        msg_id = _id_in(document)
        name = self._name_in(document, msg_id)
        content = document.get("content", "")
        if not isinstance(content, str):
            raise ProtocolError(Say.INVALID, msg_id)
        if len(content.encode()) > self._limits.max_content_bytes:
            raise ProtocolError(Say.TOO_LARGE, msg_id)
        guest = self._guest(session)
        membership = guest.rooms.get(name)
        if membership is None or not membership.present:
            self._refuse(session, "not_member", name, msg_id)
            return
        paid = self._publish_rate.take(guest.publishes_paid, self._clock())
        if paid is None:
            self._counters.rate_limited += 1
            self._not_published(session, name, msg_id, Status.BUSY, "rate_limited")
            return
        guest.publishes_paid = paid
        self._send_out(session, name, msg_id, content)

    def _send_out(self, session: Session, name: str, msg_id: str | None, content: str) -> None:
        text = room_message_text(name, session.user, content, msg_id)
        try:
            self._store.say(name, text, partial(self._sent_out, session, name, msg_id))
        except (LinkDown, LinkBusy):
            self._not_published(session, name, msg_id, Status.BUSY, "unavailable")
            return
        session.in_flight += 1
        if session.in_flight >= self._limits.in_flight:
            session.pause()

    def _sent_out(self, session: Session, name: str, msg_id: str | None, reply: Any) -> None:
        session.in_flight -= 1
        if session.in_flight == self._limits.in_flight // 2:
            session.resume()
        status = _status_of(reply)
        if status is not Status.ROUTED:
            self._not_published(session, name, msg_id, status, status.value)
            return
        self._published.counts[status.value] += 1
        if msg_id is not None:
            session.send(ack_text(msg_id, status))

    def _not_published(
        self, session: Session, name: str, msg_id: str | None, status: Status, code: str
    ) -> None:
        self._published.counts[status.value] += 1
        if msg_id is not None:
            session.send(ack_text(msg_id, status))
        else:
            self._refuse(session, code, name)

    # --- watching a room -----------------------------------------------------------------------

    def watch(self, session: Session, document: Document) -> None:
        """Tell a session who comes into these rooms, and who goes, although it is in none of them.

        Raises:
            ProtocolError: a name is wrong; then nothing is watched.
        """
        names, msg_id = self._names_in(document)
        for name in names:
            guest = self._guest(session)
            problem = self._objection(session, guest, guest.watched, name)
            if problem:
                self._refuse(session, problem, name, msg_id)
            elif name not in guest.watched:
                self._begin_watch(session, guest, name)
            elif not (known := guest.watched[name]).waiting and known.present:
                self._lists.ask(known)
            if session not in self._guests:
                return  # It has ended: it did not read, and there was no room for an answer.

    def unwatch(self, session: Session, document: Document) -> None:
        """Tell a session of these rooms no more.

        Raises:
            ProtocolError: a name is wrong.
        """
        names, _ = self._names_in(document)
        guest = self._guests.get(session)
        for watch in [guest.watched[n] for n in names if n in guest.watched] if guest else ():
            self._forget(watch)

    def _begin_watch(self, session: Session, guest: RoomGuest, name: str) -> None:
        room = self._enter_map(name)
        stay = self._stay(session, name)
        watch = Membership(session, room, stay, wants_members=True, only_watches=True)
        guest.watched[name] = room.watchers[session] = watch
        self._spawn(self._start_watch(watch))

    async def _start_watch(self, watch: Membership) -> None:
        try:
            await asyncio.shield(watch.room.listening)
        except LINK_ERRORS as problem:
            self._not_entered(watch, problem)
            return
        if not watch.gone:
            self._lists.ask(watch)

    def _names_in(self, document: Document) -> tuple[list[str], str | None]:
        """Return the rooms that a message names, each once, and its id."""
        names, msg_id = document.get("rooms"), _id_in(document)
        if not isinstance(names, list):
            raise ProtocolError(Say.INVALID, msg_id)
        if not 0 < len(names) <= self._rooms_settings.rooms_per_session:
            raise ProtocolError(Say.INVALID, msg_id)  # Each of them has an answer of its own.
        if not all(isinstance(name, str) and self._may_be_called(name) for name in names):
            raise ProtocolError(Say.INVALID, msg_id)
        return list(dict.fromkeys(names)), msg_id

    # --- for the server API --------------------------------------------------------------------

    async def members(self, name: str) -> list[str]:
        """Return the users who are in a room, in order; none in a room that nobody can have.

        Raises:
            LINK_ERRORS: Redis could not be asked.
        """
        return sorted(await self._store.look(name)) if self._may_be_called(name) else []

    async def publish_from(
        self, sender: str, name: str, msg_id: str | None, content: str
    ) -> Status:
        """Send a message to a room for somebody who is no session. It is `UNREACHABLE` when
        no gateway has members of it.
        """
        status = Status.UNREACHABLE
        if self._may_be_called(name):
            text = room_message_text(name, sender, content, msg_id)
            heard: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

            def hear(reply: Any) -> None:
                if not heard.done():  # Whoever waits may have been cancelled.
                    heard.set_result(reply)

            try:
                self._store.say(name, text, hear)
                status = _status_of(await heard)
            except LINK_ERRORS as problem:
                status = _status_of(problem)
        self._published.counts[status.value] += 1
        return status

    # --- helpers of the verbs ------------------------------------------------------------------

    def _name_in(self, document: Document, msg_id: str | None = None) -> str:
        name = document.get("room")
        if not isinstance(name, str) or not self._may_be_called(name):
            raise ProtocolError(Say.INVALID, msg_id)
        return name

    def _guest(self, session: Session) -> RoomGuest:
        guest = self._guests.get(session)
        if guest is None:
            guest = self._guests[session] = RoomGuest()
        return guest

    def _pay_for_join(self, guest: RoomGuest) -> bool:
        paid = self._join_rate.take(guest.joins_paid, self._clock())
        if paid is None:
            self._counters.rate_limited += 1
            return False
        guest.joins_paid = paid
        return True

    def _refuse(self, session: Session, code: str, room: str, msg_id: str | None = None) -> None:
        error = {"type": "error", "error": _ERRORS.get(code, Say.SEND_FAILED.value), "code": code}
        session.send(_encode({**error, "room": room, **({"id": msg_id} if msg_id else {})}))

    def _stay(self, session: Session, room: str) -> RoomStay:
        claim = session.claim
        assert claim is not None
        member = member_of(claim.user, claim.device)
        return RoomStay(room, member, claim.token, next(self._seq), claim.conn_id)

    def _enter_map(self, name: str) -> RoomHere:
        """Return a room, to which this gateway listens from now on."""
        listening = self._router.listen(self._store.channel(name), partial(self._take, name))
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = RoomHere(name, listening)
        room.listening = listening
        if room.linger is not None:
            room.linger.cancel()
            room.linger = None
        return room

    # --- a join --------------------------------------------------------------------------------

    async def _enter(self, membership: Membership) -> None:
        room = membership.room
        try:
            await asyncio.shield(room.listening)
            if membership.gone:
                return
            outcome = join_of(await self._store.join(membership.stay))
        except LINK_ERRORS as problem:
            self._not_entered(membership, problem)
            return
        if membership.gone:
            return
        if outcome in (Join.FULL, Join.STALE):
            self._forget(membership)
            self._refuse(membership.session, _code_of(outcome), room.name)
            return
        membership.entered = True
        self._lists.ask(membership)

    def _not_entered(self, membership: Membership, problem: Exception) -> None:
        """Tell a client that it has not joined, and take the join back: it may be executed."""
        room = membership.room
        if isinstance(problem, CommandError):
            _log.warning("[Rooms] a join failed: %s", problem)
        if membership.gone:
            return
        if membership.only_watches:
            self._forget(membership)
        else:
            self._depart(membership, next(self._seq), LeaveReason.LEFT)
        self._refuse(membership.session, "unavailable", room.name)

    def _look(self, room: RoomHere) -> None:
        self._lists.look(room)

    # --- a leave -------------------------------------------------------------------------------

    def _depart(self, membership: Membership, seq: int, reason: LeaveReason) -> None:
        self._forget(membership)
        self._repair.say_left(membership.stay._replace(seq=seq), reason)

    def _forget(self, membership: Membership) -> None:
        """Take a session out of the maps; nothing that is published reaches it any more, but what
        it hears as a watcher of the room, or as a member.
        """
        room, session = membership.room, membership.session
        membership.gone = True
        here = room.watchers if membership.only_watches else room.members
        here.pop(session, None)
        room.place(session)
        guest = self._guests.get(session)
        if guest is not None:
            (guest.watched if membership.only_watches else guest.rooms).pop(room.name, None)
        if not room.is_used and room.linger is None and self._repair.is_beating:
            loop = asyncio.get_running_loop()
            linger_s = self._rooms_settings.room_linger_s
            room.linger = loop.call_later(linger_s, self._close, room)

    def _lose_place(self, membership: Membership) -> None:
        """Tell a client that others have taken its place in a full room."""
        self._forget(membership)
        self._refuse(membership.session, "full", membership.room.name)

    def _close(self, room: RoomHere) -> None:
        """Listen no more to a room without members and watchers."""
        if room.is_used or self._rooms.get(room.name) is not room:
            return
        del self._rooms[room.name]
        if room.linger is not None:
            room.linger.cancel()
        self._router.unlisten(self._store.channel(room.name))

    # --- what is published -----------------------------------------------------------------------

    def _take(self, name: str, data: bytes) -> None:
        """Hand on what was published for a room. It must not raise: that would end the
        subscription of all users.
        """
        room = self._rooms.get(name)
        if room is None:
            return
        try:
            self._hand_on(room, decode_room_event(data), data)
        except BadRoomEvent:
            self._counters.malformed_envelopes += 1
        except Exception as problem:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "an event of a room was lost", "exception": problem}
            )

    def _hand_on(self, room: RoomHere, event: RoomEvent, data: bytes) -> None:
        if type(event) is RoomMark:
            self._lists.take_mark(room, event)
            return
        frame = text_frame(data)
        sockets = room.curious if type(event) is MemberEvent else room.sockets
        if type(event) is RoomMessage:
            self._counters.messages_delivered += len(sockets)
        if type(event) is not MemberEvent or not self._lists.put_off(room, frame):
            # A copy: a slow member whose outbox is full leaves the room within this loop.
            each(list(sockets), lambda socket: socket.send_frame(frame))
        if room.look is not None and room.look.marked:
            number = number_of(event.offset) if type(event) is RoomMessage else 0
            self._lists.hold(room.look, number, frame, type(event) is MemberEvent)


def _id_in(document: Document) -> str | None:
    msg_id = document.get("id")
    if msg_id is None or (isinstance(msg_id, str) and 0 < len(msg_id) <= MAX_ID_CHARS):
        return msg_id
    raise ProtocolError(Say.INVALID)


def _status_of(reply: Any) -> Status:
    """Return what the reply to a PUBLISH says about the message."""
    if isinstance(reply, LinkTimeout):
        return Status.UNKNOWN
    if isinstance(reply, Exception):
        return Status.BUSY
    # This gateway itself listens, or ought to.
    return Status.ROUTED if listeners_of(reply) else Status.UNREACHABLE


def _code_of(outcome: Join) -> str:
    return "full" if outcome is Join.FULL else "unavailable"
