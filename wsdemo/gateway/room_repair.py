"""Repair: how does the list of a room become the truth again, after whatever went wrong?

A gateway says again and again that it lives, and sweeps out the members of those that do not (R4).
It makes up for leaves that may not have reached Redis. And it compares what Redis says of its own
members with what it knows (R5).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from wsdemo.features import RoomSettings
from wsdemo.gateway.counters import LabelledCounter
from wsdemo.gateway.journal import GATEWAY_LOG
from wsdemo.gateway.room_members import ListReading, Membership, RoomHere
from wsdemo.redis.link import LINK_ERRORS
from wsdemo.rooms.store import (
    Boots,
    Join,
    LeaveReason,
    RoomEntry,
    RoomStay,
    RoomStore,
    boots_of,
    join_of,
)
from wsdemo.tasks import end

_log = logging.getLogger(GATEWAY_LOG)

MAX_OWED_LEAVES: Final = 10_000
"""Leaves that are kept while Redis is away; entries beyond this number are put right by repair."""
REPAIR_BATCH: Final = 50
"""So many rooms are compared at a time."""
REPAIR_PAUSE_S: Final = 0.1


class RoomRepair:
    """Keeps the lists of one gateway's rooms right.

    Args:
        rooms: those in which this gateway has members, or had some a moment ago.
        seq: counts what this gateway says of its members.
        resync_per_s: joins that are said again.
        look: reads the list of a room.
        on_full: what to do with a member whose place others have taken.
    """

    def __init__(
        self,
        store: RoomStore,
        rooms: Mapping[str, RoomHere],
        seq: Iterator[int],
        settings: RoomSettings,
        resync_per_s: float,
        *,
        look: Callable[[RoomHere], None],
        on_full: Callable[[Membership], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        rng: random.Random,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._seq = seq
        self._settings = settings
        self._resync_per_s = resync_per_s
        self._look = look
        self._on_full = on_full
        self._spawn = spawn
        self._rng = rng
        self._owed: dict[tuple[str, str], tuple[RoomStay, LeaveReason]] = {}
        """Leaves that may not have reached Redis."""
        self._swept: frozenset[str] = frozenset()
        """The lapsed gateway processes of which the rooms here have been swept."""
        self._beating: list[asyncio.Task[None]] = []
        self.sweeps = LabelledCounter(
            "room_sweeps",
            "Entries of rooms that were put right: of lost gateways, missing, or wrong",
            "kind",
            ["lapsed", "missing", "wrong"],
        )

    # --- life ----------------------------------------------------------------------------------

    @property
    def is_beating(self) -> bool:
        """Whether it has been started, and not stopped."""
        return bool(self._beating)

    def start(self) -> None:
        start, settings = asyncio.get_running_loop().create_task, self._settings
        self._beating = [
            start(self._repeat(settings.room_beat_s, self._beat), name="Rooms.beat"),
            start(self._repeat(settings.room_repair_s, self._repair), name="Rooms.fix"),
        ]

    async def stop(self) -> None:
        beating, self._beating = self._beating, []
        await end(*beating)

    def link_is_back(self) -> None:
        """Look at once what has to be put right."""
        self._spawn(self._quietly(self._come_back()))

    # --- leaves --------------------------------------------------------------------------------

    def say_left(self, stay: RoomStay, reason: LeaveReason) -> None:
        """Say that a member has left; if it does not reach Redis, say it again later."""
        try:
            self._store.leave(stay, reason).add_done_callback(partial(self._left, stay, reason))
        except LINK_ERRORS:
            self._owe(stay, reason)

    def _left(self, stay: RoomStay, reason: LeaveReason, reply: asyncio.Future[Any]) -> None:
        if not reply.cancelled() and reply.exception() is not None:
            self._owe(stay, reason)

    def _owe(self, stay: RoomStay, reason: LeaveReason) -> None:
        """Keep a leave that may not have reached Redis. To say it twice does no harm."""
        owner = (stay.room, stay.member)
        known = self._owed.get(owner)
        if known is not None and known[0].stamp > stay.stamp:
            return
        if known is not None or len(self._owed) < MAX_OWED_LEAVES:
            self._owed[owner] = stay, reason

    # --- comparing -----------------------------------------------------------------------------

    def wrong(self, room: RoomHere, entries: list[RoomEntry]) -> set[RoomEntry]:
        """Return the entries which say that this process has a member that it does not have."""
        ours = {membership.stay.conn_id for membership in room.members.values()}
        return {e for e in entries if e.boot == self._store.boot and e.conn_id not in ours}

    def put_right(
        self, room: RoomHere, look: ListReading, boots: Boots, wrong: set[RoomEntry]
    ) -> None:
        """Compare a list with what is true (R5): of this process it knows, of others whether they
        live.
        """
        assert look.found is not None
        _, entries, _ = look.found
        stamps = {entry.member: (entry.token, entry.seq) for entry in entries}
        dead = {entry.boot for entry in entries} - boots.live - {self._store.boot}
        try:
            for membership in look.expected:
                stay = membership.stay
                if not membership.gone and stamps.get(stay.member, (-1, -1)) < stay.stamp:
                    self.sweeps.counts["missing"] += 1
                    self._say_again(membership)
            for entry in wrong:
                self.sweeps.counts["wrong"] += 1
                stay = RoomStay(
                    room.name, entry.member, entry.token, next(self._seq), entry.conn_id
                )
                self.say_left(stay, LeaveReason.REPAIRED)
            if dead:
                self._sweep(room.name, dead)
        except LINK_ERRORS:
            pass  # The next comparison finds it again.

    def _say_again(self, membership: Membership) -> None:
        """Say a join again, with its old stamp: whatever is newer stays."""
        self._store.join(membership.stay).add_done_callback(partial(self._said, membership))

    def _said(self, membership: Membership, reply: asyncio.Future[Any]) -> None:
        if reply.cancelled() or reply.exception() is not None or membership.gone:
            return
        outcome = join_of(reply.result())
        if outcome is Join.JOINED:
            # It was lost, and others perhaps as well. Who has left since then has left without an
            # event, so the next list is told to all.
            membership.room.anew = True
        if outcome is Join.FULL:
            # Others have come while this gateway was given up.
            self._on_full(membership)

    def _sweep(self, room: str, boots: Iterable[str]) -> None:
        self._store.sweep(room, boots).add_done_callback(self._count_swept)

    def _count_swept(self, reply: asyncio.Future[Any]) -> None:
        if not reply.cancelled() and reply.exception() is None:
            self.sweeps.counts["lapsed"] += int(reply.result())

    async def _beat(self) -> None:
        """Say that this process lives; sweep those that do not; make up for what is owed."""
        boots = boots_of(await self._store.beat())
        owed, self._owed = self._owed, {}
        for stay, reason in owed.values():
            self.say_left(stay, reason)
        fresh = boots.lapsed - self._swept
        if fresh:
            for name in list(self._rooms):
                self._sweep(name, fresh)
        self._swept = boots.lapsed
        if boots.was_given_up:
            # Beside the beats: it may take longer than a lease.
            self._spawn(self._quietly(self._say_all_again()))

    async def _say_all_again(self) -> None:
        """Say all joins again, at a limited rate: others may have swept them."""
        members = [m for room in self._rooms.values() for m in room.members.values() if m.entered]
        step = max(1, round(self._resync_per_s * REPAIR_PAUSE_S))
        for start in range(0, len(members), step):
            if start:
                await asyncio.sleep(REPAIR_PAUSE_S)
            for membership in members[start : start + step]:
                if not membership.gone:
                    self._say_again(membership)
        await asyncio.sleep(REPAIR_PAUSE_S)
        for room in [room for room in self._rooms.values() if room.anew]:
            self._look(room)

    async def _repair(self) -> None:
        """Compare all lists with what is true, some rooms at a time."""
        rooms = list(self._rooms.values())
        for start in range(0, len(rooms), REPAIR_BATCH):
            if start:
                await asyncio.sleep(REPAIR_PAUSE_S)
            for room in rooms[start : start + REPAIR_BATCH]:
                room.compare = True
                self._look(room)

    async def _come_back(self) -> None:
        """Redis was away: it may have lost something, and this process may have been given up."""
        await self._beat()
        await self._repair()

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that is repeated anyway when Redis cannot be asked now."""
        try:
            await work
        except LINK_ERRORS as problem:
            _log.debug("[Rooms] Redis could not be asked: %s", problem)

    async def _repeat(self, pause_s: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Pause and work in turn, until cancelled."""
        while True:
            await asyncio.sleep(pause_s * self._rng.uniform(0.9, 1.0))
            try:
                await self._quietly(work())
            except Exception as problem:
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a loop of the rooms failed, and goes on", "exception": problem}
                )
