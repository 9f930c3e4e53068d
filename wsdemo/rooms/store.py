"""Last-writer-wins register: who is in a room, and whose word about it counts?

`room:{name}` keeps one register for each member, and the higher stamp (token of the session, seq)
wins. The token is the one that orders the sessions of a user in presence; the seq is counted by the
session's gateway. So a clean-up or a join that comes too late changes nothing that is newer.

Members have no leases. Each gateway process has one, in `boots`: when it lapses, its members are
swept out of each room (R4). All times are those of Redis.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, Final, NamedTuple

from wsdemo.features import RoomSettings
from wsdemo.redis.interface import Link
from wsdemo.redis.outcome import CommandError
from wsdemo.redis.run import ask_run, require_run
from wsdemo.redis.scripts import Script
from wsdemo.settings import Keyspace

JOIN = Script.read("wsdemo.rooms", "room_join")
LEAVE = Script.read("wsdemo.rooms", "room_leave")
SWEEP = Script.read("wsdemo.rooms", "room_sweep")
LIST = Script.read("wsdemo.rooms", "room_list")
BOOTS = Script.read("wsdemo.rooms", "boots")
PUBLISH = Script.read("wsdemo.rooms", "room_publish", in_time=True)
SAY = Script.read("wsdemo.rooms", "room_say", in_time=True)
LOG = Script.read("wsdemo.rooms", "room_log")
ROOM_SCRIPTS = (JOIN, LEAVE, SWEEP, LIST, BOOTS, PUBLISH, SAY, LOG)

NO_ROOM: Final = "__nowhere__"
"""No real room, and no real user, can be called this."""
LAST_SEQ: Final = 2**53
"""The seq of a leave when the session ends: no join of this session is newer."""


class Join(StrEnum):
    """The outcome of a join."""

    JOINED = "joined"
    MOVED = "moved"
    """The member was there by another session, or by an older join of this one."""
    SAME = "same"
    STALE = "stale"
    """The member came or went by something newer."""
    FULL = "full"


class LeaveReason(StrEnum):
    """Why a member has left a room."""

    LEFT = "left"
    BYE = "bye"
    """The session has ended: the client said goodbye."""
    LOST = "lost"
    DRAINED = "drained"
    REPLACED = "replaced"
    EVICTED = "evicted"
    """These as well, and their words are those of presence events."""
    ENDED = "ended"
    """The session has ended, for another reason."""
    REPAIRED = "repaired"
    """The entry was wrong: its gateway knows nothing of the member."""


_ENDS: Final = frozenset(
    {LeaveReason.BYE, LeaveReason.LOST, LeaveReason.DRAINED, LeaveReason.REPLACED}
    | {LeaveReason.EVICTED}
)


def end_of(reason: str) -> LeaveReason:
    """Return why a session has left its rooms that ended for this reason (`Claim.reason`)."""
    return LeaveReason(reason) if reason in _ENDS else LeaveReason.ENDED


class RoomStay(NamedTuple):
    """A session's stay in a room, as its gateway says it to Redis. `seq` is 1 or more."""

    room: str
    member: str
    token: int
    seq: int
    conn_id: str

    @property
    def stamp(self) -> tuple[int, int]:
        """What orders all that is said about a member: the higher one wins."""
        return self.token, self.seq


class RoomEntry(NamedTuple):
    """What Redis says about a member who is in a room."""

    member: str
    token: int
    seq: int
    gateway_id: str
    boot: str
    conn_id: str

    @property
    def user(self) -> str:
        return user_of(self.member)


class Boots(NamedTuple):
    """The gateway processes that there are, and those that have lapsed."""

    was_given_up: bool
    """Whether the one that asks had lapsed: others may have swept its members."""
    lapsed: frozenset[str]
    live: frozenset[str]


def member_of(user: str, device: str = "") -> str:
    """Return what a member is called in a room. A user's devices come and go one by one, so each
    is a member of its own; no user id has a space.
    """
    return f"{user} {device}" if device else user


def user_of(member: str) -> str:
    """Return the user that a member is."""
    return member.partition(" ")[0]


class RoomStore:
    """The rooms in Redis, as one gateway process sees and changes them.

    Every method sends its command before it returns, so commands are executed in the order of the
    calls.

    Raises:
        LinkDown, LinkBusy: of each method: nothing was sent.

    Args:
        keep_ms: how long it is remembered who left; older commands than that do not come.
        boot: names this gateway process among all that there have ever been.
    """

    def __init__(
        self,
        link: Link,
        keyspace: Keyspace,
        settings: RoomSettings,
        keep_ms: int,
        gateway_id: str,
        boot: str,
    ) -> None:
        self._link = link
        self._keyspace = keyspace
        self._most = settings.room_members
        self._history = settings.room_history
        self._run: str | None = ""
        """The run of the server, as far as it says something about the history."""
        self._refusal: CommandError | None = None
        self._lease_ms = max(1, round(1000 * settings.room_lease_s))
        self._keep_ms = keep_ms
        self._gateway_id = gateway_id
        self.boot = boot
        if settings.room_history and not settings.trust_redis:
            ask_run(link, self._hear_run)

    def _hear_run(self, run: str | None, refusal: CommandError | None) -> None:
        self._run, self._refusal = run, refusal

    def channel(self, room: str) -> str:
        """Return the channel of a room."""
        return self._keyspace.channel("room", room)

    def join(self, stay: RoomStay) -> asyncio.Future[Any]:
        """Enter a room, or say again that the member is there; `join_of` reads the reply."""
        return self._link.start_script(
            JOIN.at(self._keyspace),
            self._keys(stay.room),
            stay.member,
            stay.token,
            stay.seq,
            self._gateway_id,
            self.boot,
            stay.conn_id,
            self._most,
            self._keep_ms,
            self.channel(stay.room),
            stay.room,
        )

    def leave(self, stay: RoomStay, reason: LeaveReason) -> asyncio.Future[Any]:
        """Leave a room. The seq must be greater than that of the join."""
        return self._link.start_script(
            LEAVE.at(self._keyspace),
            self._keys(stay.room),
            stay.member,
            stay.token,
            stay.seq,
            reason.value,
            self._keep_ms,
            self.channel(stay.room),
            stay.room,
        )

    def sweep(self, room: str, boots: Iterable[str]) -> asyncio.Future[Any]:
        """Remove those whose gateway process is gone; the reply is how many they were."""
        script, keys, channel = SWEEP.at(self._keyspace), self._keys(room), self.channel(room)
        return self._link.start_script(script, keys, channel, room, self._keep_ms, *sorted(boots))

    def read(self, room: str, mark: bytes, with_members: bool = True) -> asyncio.Future[Any]:
        """Read who is there, or only how many, and publish a mark in the same step; `listing_of`
        reads the reply.
        """
        script, more = LIST.at(self._keyspace), (self._keep_ms, int(with_members))
        return self._link.start_script(script, self._keys(room), self.channel(room), mark, *more)

    def say(self, room: str, text: bytes, on_reply: Callable[[Any], None]) -> None:
        """Publish a message for a room, and put it into the history if there is one;
        `listeners_of` reads the reply. It is a `LinkTimeout` when the message came too late.
        """
        hear, keys = partial(self._hear_said, on_reply), self._keys(room)[:1]
        if not self._history:
            script = PUBLISH.at(self._keyspace)
            self._link.submit_in_time(hear, script, keys, text, self.channel(room))
            return
        mark, birth = secrets.randbits(60), secrets.token_hex(8)
        more = (mark, birth, self._history, 2 * self._keep_ms, self.channel(room))
        script = SAY.at(self._keyspace)
        self._link.submit_in_time(hear, script, self._log_keys(room), text[:-1], *more)

    def _hear_said(self, on_reply: Callable[[Any], None], reply: Any) -> None:
        on_reply(self._link.in_time(reply))

    def read_log(self, room: str, epoch: str, offset: str, most: int) -> asyncio.Future[Any]:
        """Read what was said after an offset, or lately."""
        position = (epoch, offset)
        run = require_run(self._run)
        return self._link.start_script(LOG, self._log_keys(room), *position, most, run)

    async def look(self, room: str) -> set[str]:
        """Return the users who are in a room. Nobody is told that somebody has looked.

        Raises:
            LINK_ERRORS: Redis could not be asked.
        """
        reply = await self._link.call("HGETALL", self._keys(room)[0])
        # Read after the list: every process that has entered somebody has beaten before.
        live = boots_of(await self.look_at_boots()).live | {self.boot}
        pairs = zip(reply[::2], reply[1::2], strict=True)
        there = [pair for pair in pairs if pair[1].startswith(b"in ")]
        entries = _entries([word for pair in there for word in pair])
        return {entry.user for entry in entries if entry.boot in live}

    def beat(self) -> asyncio.Future[Any]:
        """Say that this process lives; `boots_of` reads the reply."""
        return self._boots(self.boot, self._lease_ms)

    def look_at_boots(self) -> asyncio.Future[Any]:
        """Only look which processes live; `boots_of` reads the reply."""
        return self._boots("", 0)

    def end(self) -> asyncio.Future[Any]:
        """Say that this process ends: whoever is still in a room by it is not there any more."""
        return self._boots(self.boot, 0)

    async def try_out(self) -> None:
        """Join and leave a room that nobody can have, to see that Redis permits it.

        Raises:
            LINK_ERRORS: it does not, or could not be asked.
        """
        room = f"{NO_ROOM}.{self.boot}"
        stay = RoomStay(room, NO_ROOM, 0, 1, "-")
        await self.join(stay)
        await self.read(room, b"")
        await self.sweep(room, [self.boot])
        await self.leave(stay._replace(seq=2), LeaveReason.LEFT)
        # By this, a join forgets who left long ago.
        await self._link.call("HDEL", self._keys(room)[0], NO_ROOM)
        await self._link.call("DEL", *self._keys(room))
        if self._history:
            await self._try_history(room)

    async def _try_history(self, room: str) -> None:
        if self._refusal is not None:
            raise self._refusal
        said: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.say(room, b"{}", said.set_result)
        if isinstance(reply := await said, Exception):
            raise reply
        _, epoch, last, *_ = await self.read_log(room, "-", "0-0", 1)
        await self.read_log(room, epoch.decode(), last.decode(), 1)
        await self._link.call("DEL", *self._log_keys(room))

    def _boots(self, boot: str, life_ms: int) -> asyncio.Future[Any]:
        return self._link.start_script(BOOTS, [self._keyspace.boots], boot, life_ms, self._keep_ms)

    def _keys(self, room: str) -> list[str]:
        return [self._keyspace.key("room", room), self._keyspace.key("roomout", room)]

    def _log_keys(self, room: str) -> list[str]:
        return [self._keyspace.key("roomlog", room), self._keyspace.key("roomlogmeta", room)]


def join_of(reply: Sequence[Any]) -> Join:
    """Read the reply to a join."""
    return Join(reply[0].decode())


def listing_of(reply: Sequence[Any]) -> tuple[int, list[RoomEntry]]:
    """Read the reply to a list: how many there are, and who. What is no entry of ours is left
    out.
    """
    count, *rows = reply
    return int(count), list(_entries(rows))


def _entries(rows: Sequence[bytes]) -> Iterator[RoomEntry]:
    for member, register in zip(rows[::2], rows[1::2], strict=True):
        try:
            _, token, seq, gateway_id, boot, conn_id = register.decode().split(" ")
            yield RoomEntry(member.decode(), int(token), int(seq), gateway_id, boot, conn_id)
        except ValueError:
            continue


def listeners_of(reply: Any) -> int:
    """Read the reply to a message: how many gateways listened."""
    return int(reply[0])


def boots_of(reply: Sequence[Any]) -> Boots:
    """Read the reply to a beat."""
    state, lapsed, live = reply
    return Boots(
        state == b"lapsed",
        frozenset(boot.decode() for boot in lapsed),
        frozenset(boot.decode() for boot in live),
    )
