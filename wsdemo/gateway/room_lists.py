"""List of members: what is a client told about who is in a room, and what was said before?

A list is read with a mark among the events of its room. Who waits for it hears what comes after the
mark when it has been told the list: so the two always fit together. There is one reading at a time
for each room, and all who have come meanwhile share the next one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from wsdemo.gateway.registry import each
from wsdemo.gateway.room_history import RoomBacklog, backlog_of, number_of
from wsdemo.gateway.room_members import ListReading, Membership, RoomHere
from wsdemo.gateway.room_repair import RoomRepair
from wsdemo.gateway.socket import Socket, text_frame
from wsdemo.redis.link import LINK_ERRORS
from wsdemo.rooms.events import RoomMark, mark_text
from wsdemo.rooms.store import RoomStore, boots_of, listing_of

_encode: Final = msgspec.json.encode


class RoomLists:
    """The lists of the rooms of one gateway.

    Args:
        most_held: frames that are kept for one who waits for a list.
        on_failure: what to do with a member that cannot be told who is there.
    """

    def __init__(
        self,
        store: RoomStore,
        repair: RoomRepair,
        most_held: int,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        on_failure: Callable[[Membership, Exception], None],
    ) -> None:
        self._store = store
        self._repair = repair
        self._most_held = most_held
        self._spawn = spawn
        self._on_failure = on_failure
        self._numbers = itertools.count(1)

    def ask(self, membership: Membership) -> None:
        """Tell a member who is there, when a list is read."""
        membership.waiting = True
        membership.room.awaiting.append(membership)
        self.look(membership.room)

    def look(self, room: RoomHere) -> None:
        """Read the list, if somebody waits for it. There is one reading at a time: all who have
        come meanwhile share the next one.
        """
        if room.look is not None or not (room.awaiting or room.compare or room.anew):
            return
        curious = any(membership.wants_members for membership in room.awaiting)
        whole = curious or room.compare or room.anew
        entered = [m for m in room.members.values() if m.entered] if whole else []
        look = ListReading(next(self._numbers), room.awaiting, entered, whole, room.anew)
        room.awaiting, room.compare, room.anew = [], False, False
        if not room.is_used:
            return
        asked: list[asyncio.Future[Any]] = []
        try:
            mark = mark_text(self._store.boot, look.n)
            asked.append(self._store.read(room.name, mark, whole))
            # Read after the list: every process that has entered somebody has beaten before.
            asked.append(self._store.look_at_boots())
            # What was said between the list and this is in both, and is told once.
            for m in look.waiting:
                if m.wish is not None:
                    look.backlogs[m] = None
                    wish = (m.wish.epoch, m.wish.offset, m.wish.most)
                    asked.append(self._store.read_log(room.name, *wish))
        except LINK_ERRORS as problem:
            for reply in asked:
                reply.add_done_callback(_ignore)
            self._not_listed(look, problem)
            room.anew = look.anew
            return
        room.look = look
        self._spawn(self._hear_list(room, look, asked))

    async def _hear_list(
        self, room: RoomHere, look: ListReading, asked: Sequence[asyncio.Future[Any]]
    ) -> None:
        try:
            listing, live, *backlogs = await asyncio.gather(*asked)
        except LINK_ERRORS as problem:
            if room.look is look:
                room.look = None
                self._not_listed(look, problem)
                self.look(room)
                # Not before: what Redis refuses is asked again at the next comparison, not at once.
                room.anew = room.anew or look.anew
            return
        if room.look is not look:
            return  # There was a gap: they wait for another one.
        look.backlogs = dict(zip(look.backlogs, map(backlog_of, backlogs), strict=True))
        look.found = *listing_of(listing), boots_of(live)
        if look.marked:
            self._conclude(room, look)

    def _not_listed(self, look: ListReading, problem: Exception) -> None:
        for membership in look.waiting:
            if not membership.gone:
                self._on_failure(membership, problem)

    def _conclude(self, room: RoomHere, look: ListReading) -> None:
        """Tell who waits for the list, when the list and its mark are both here."""
        assert look.found is not None
        room.look = None
        count, entries, boots = look.found
        wrong = self._repair.wrong(room, entries)
        live = boots.live | {self._store.boot}
        names = sorted({e.user for e in entries if e.boot in live and e not in wrong})
        count = len(names) if look.whole else count
        if look.anew:
            frame = text_frame(_list_text("members", room.name, names, count))
            for told in (frame, *look.later):
                each(list(room.curious), partial(_send_frame, told))
        self._welcome_all(room, look, names, count)
        self._repair.put_right(room, look, boots, wrong)
        self.look(room)

    def _welcome_all(self, room: RoomHere, look: ListReading, names: list[str], count: int) -> None:
        frames = {
            (kind, with_names): text_frame(
                _list_text(kind, room.name, names if with_names else None, count)
            )
            for kind, with_names in {(_kind_of(one), one.wants_members) for one in look.waiting}
        }
        for membership in look.waiting:
            if membership.gone:
                continue
            backlog = look.backlogs.get(membership)
            if backlog is None:
                frame = frames[_kind_of(membership), membership.wants_members]
                membership.session.socket.send_frame(frame)
            else:
                self._tell_backlog(membership, backlog, names, count)
            membership.waiting = False
            self._present(membership, 0 if backlog is None else number_of(backlog.last))

    def _tell_backlog(
        self, membership: Membership, backlog: RoomBacklog, names: list[str], count: int
    ) -> None:
        more: dict[str, Any] = {"epoch": backlog.epoch, "offset": backlog.last}
        assert membership.wish is not None
        if membership.wish.has_position:
            more["recovered"] = backlog.recovered
        shown = names if membership.wants_members else None
        session = membership.session
        session.send(_list_text("joined", membership.room.name, shown, count, more))
        for text in backlog.messages:
            session.send(text)

    def _present(self, membership: Membership, heard: int) -> None:
        """Hand on what was held, but for what was in the history (`heard`); from now on the member
        hears all at once.
        """
        session = membership.session
        held, membership.held = membership.held, None
        for number, frame in held or ():
            if not 0 < number <= heard:
                session.socket.send_frame(frame)
        membership.present = True
        membership.room.place(session)

    def begin_anew(self, room: RoomHere) -> None:
        """Read the list anew, for all members: events may have been lost."""
        look, room.look = room.look, None
        if look is not None:
            room.awaiting[:0] = look.waiting
            for membership in look.waiting:
                if membership.present and membership.held is not None:
                    self._present(membership, 0)
                membership.held = None
        room.anew = True
        self.look(room)

    # --- events --------------------------------------------------------------------------------

    def put_off(self, room: RoomHere, frame: bytes) -> bool:
        """Keep who has come or gone until the list that was read before is told to all: it would
        take the change back. Return False if no such list is on its way.
        """
        look = room.look
        if look is None or not (look.anew and look.marked):
            return False
        if len(look.later) < self._most_held:
            look.later.append(frame)
        else:
            room.anew = True
        return True

    def hold(self, look: ListReading, number: int, frame: bytes, is_member_event: bool) -> None:
        """Keep a frame for those who have not been told yet who is there."""
        for membership in look.waiting:
            held = membership.held
            if held is None or len(held) >= self._most_held:
                continue
            if membership.wants_members if is_member_event else not membership.only_watches:
                held.append((number, frame))

    def take_mark(self, room: RoomHere, mark: RoomMark) -> None:
        """Take note of where among the events the list was read."""
        look = room.look
        if look is None or mark.boot != self._store.boot or mark.n != look.n:
            return
        look.marked = True
        for membership in look.waiting:
            if not membership.gone:
                membership.held = []
                room.place(membership.session)
        if look.found is not None:
            self._conclude(room, look)


def _send_frame(frame: bytes, socket: Socket) -> None:
    socket.send_frame(frame)


def _kind_of(membership: Membership) -> str:
    return "members" if membership.only_watches else "joined"


def _list_text(
    kind: str,
    room: str,
    names: list[str] | None,
    count: int,
    more: Mapping[str, Any] | None = None,
) -> bytes:
    members = {} if names is None else {"members": names}
    return _encode({"type": kind, "room": room, **members, "count": count, **(more or {})})


def _ignore(reply: asyncio.Future[Any]) -> None:
    """Retrieve a reply that nobody waits for any more: its error is no news."""
    if not reply.cancelled():
        reply.exception()
