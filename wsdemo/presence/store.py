"""Presence lease and fencing token: where in the cluster is user X, and who may say so?

The answer is a hash `presence:{user}` with a TTL: a lease. Four scripts change it, each in one
step on the server: mint, register, refresh, release. A session gets a fencing token from Redis
before its first write, and sends it with every later write; the script, not the gateway, decides
whether the write still counts. So a cleanup that comes too late, a refresh from a gateway that was
suspended, or a register that took a minute changes nothing that is newer than itself.

Tokens are ordered by Redis' clock. No gateway's clock is used (promises P1 to P8).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

from wsdemo.redis.interface import Link
from wsdemo.redis.scripts import Script
from wsdemo.settings import Keyspace, Timing

MINT = Script.read("wsdemo.presence", "mint")
REGISTER = Script.read("wsdemo.presence", "register")
REFRESH = Script.read("wsdemo.presence", "refresh")
RELEASE = Script.read("wsdemo.presence", "release")
SCRIPTS = (MINT, REGISTER, REFRESH, RELEASE)
UNKNOWN: Final = "unknown"
"""Why a session has ended, when its gateway does not know."""


class Register(StrEnum):
    """The outcome of a register."""

    OK = "ok"
    STALE = "stale"
    """A newer session exists, or this one has been released. It owns nothing."""


class Refresh(StrEnum):
    """The outcome of a refresh."""

    OK = "ok"
    SUPERSEDED = "superseded"
    """A newer session has registered: this one has to end."""
    CLOSED = "closed"
    """This session was released: the refresh came too late."""
    RECLAIMED = "reclaimed"
    """The entry had been lost, and is there again."""


class Release(StrEnum):
    """The outcome of a release: what was found."""

    REMOVED = "removed"
    """The entry was this session's own, and is gone."""
    OTHER_OWNER = "other owner"
    """The entry is another session's, and stays: the release came late."""
    NO_ENTRY = "no entry"
    """There was none: its lease had run out, or it was released before. Nobody was in danger."""

    @classmethod
    def of(cls, reply: int) -> Release:
        """Return what the answer of a release script means: 1, -1 or 0."""
        return {1: cls.REMOVED, -1: cls.OTHER_OWNER, 0: cls.NO_ENTRY}[reply]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a session sends with each write.

    `token` is 0 until it is minted. `inst` and `att` number the client's own attempts; they are ''
    and 0 when the client does not count them. `reason` says why the session has ended: it is for
    those who watch the user, and '' as long as nobody knows.
    """

    user: str
    conn_id: str
    gateway_id: str
    token: int = 0
    inst: str = ""
    att: int = 0
    reason: str = ""
    device: str = ""
    """Which of the user's devices it is (`presence.devices`)."""


class Renewal(NamedTuple):
    """A claim, and how long its lease may last from now (ms): TTL less the age of the last sign of
    life.
    """

    claim: Claim
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class Registration:
    """The outcome of a register. `previous` is the session that was found: with OK the one that
    was replaced (it has to be told), with STALE the one that stays. `evicted` are sessions of other
    devices that had to go for it, and have to be told as well.
    """

    outcome: Register
    previous: Claim | None = None
    evicted: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """What Redis knows about a user. `ts` is in Unix seconds; `ttl_ms` is the rest of the lease."""

    user: str
    gateway_id: str
    conn_id: str
    ts: int
    token: int
    ttl_ms: int


class SessionEntry(NamedTuple):
    """What Redis knows about one session of a user; `ttl_ms` is the rest of its lease."""

    gateway_id: str
    conn_id: str
    token: int
    ttl_ms: int
    device: str = ""


class Presence(Protocol):
    """The four verbs, as a gateway uses them; the laboratory brings other policies.

    Every method raises one of `wsdemo.redis.link.LINK_ERRORS` when Redis could not be asked or
    did not answer; after a `LinkTimeout` the command may have been executed.
    """

    async def mint(self, user: str) -> int:
        """Return a fencing token for a new session: larger than all before it."""
        ...

    async def register(self, claim: Claim) -> Registration:
        """Ask to become the owner of the user."""
        ...

    async def refresh(self, renewals: Sequence[Renewal]) -> Sequence[Refresh | Exception]:
        """Renew leases, all in one batch; one result each, in order. Never raises: any error of
        one lease is the result of that lease.
        """
        ...

    async def release(self, claim: Claim) -> Release:
        """End the session, and remove the entry if it is its own. Idempotent."""
        ...


class RedisPresence:
    """Presence as four fenced scripts on one Redis.

    Args:
        announces: publish each change of an entry for those who watch its user, in the step that
            makes the change.
    """

    def __init__(
        self, link: Link, keyspace: Keyspace, timing: Timing, *, announces: bool = False
    ) -> None:
        self._link = link
        self._keyspace = keyspace
        self._announces = announces
        self._ttl_ms = timing.presence_ttl_ms
        self._fence_ttl_ms = timing.fence_ttl_ms

    async def mint(self, user: str) -> int:
        return int(await self._link.run(MINT, [self._keyspace.fence(user)], self._fence_ttl_ms))

    async def register(self, claim: Claim) -> Registration:
        script = REGISTER.at(self._keyspace)
        reply = await self._link.run(script, self._keys(claim), *self._write(claim, self._ttl_ms))
        outcome, gateway_id, conn_id, token = (_text(item) for item in reply)
        previous = Claim(claim.user, conn_id, gateway_id, int(token)) if conn_id else None
        return Registration(Register(outcome), previous)

    async def refresh(self, renewals: Sequence[Renewal]) -> Sequence[Refresh | Exception]:
        futures = [self._start_refresh(claim, ttl_ms) for claim, ttl_ms in renewals]
        replies = await asyncio.gather(*futures, return_exceptions=True)
        return [_refreshed(reply) for reply in replies]

    def _start_refresh(self, claim: Claim, ttl_ms: int) -> asyncio.Future[Any]:
        try:
            return self._submit_refresh(claim, ttl_ms)
        except Exception as problem:  # Not sent; whatever it is, it is the result of this lease.
            refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            refused.set_exception(problem)
            return refused

    def _submit_refresh(self, claim: Claim, ttl_ms: int) -> asyncio.Future[Any]:
        script = REFRESH.at(self._keyspace)
        return self._link.start_script(script, self._keys(claim), *self._write(claim, ttl_ms))

    async def release(self, claim: Claim) -> Release:
        told = (*self._channel(claim), claim.reason or UNKNOWN) if self._announces else ()
        script = RELEASE.at(self._keyspace)
        reply = await self._link.run(
            script, self._keys(claim), claim.conn_id, claim.token, self._fence_ttl_ms, *told
        )
        return Release.of(reply)

    # --- looking -----------------------------------------------------------------------------

    async def lookup(self, user: str) -> Entry | None:
        """Return what Redis knows about a user; None when offline or malformed."""
        key = self._keyspace.presence(user)
        fields, ttl_ms = await asyncio.gather(
            self._link.call("HMGET", key, "gwId", "connId", "ts", "epoch"),
            self._link.call("PTTL", key),
        )
        gateway_id, conn_id, ts, token = (_text(item) for item in fields)
        if not gateway_id or not conn_id:
            return None
        return Entry(user, gateway_id, conn_id, _number(ts), _number(token), int(ttl_ms))

    async def sessions(self, user: str) -> Sequence[SessionEntry]:
        """Return what Redis knows about the sessions of a user; none when offline or malformed."""
        entry = await self.lookup(user)
        if entry is None:
            return ()
        return (SessionEntry(entry.gateway_id, entry.conn_id, entry.token, max(0, entry.ttl_ms)),)

    async def online(self) -> AsyncIterator[str]:
        """Iterate over the users with an entry. It uses SCAN, so a large keyspace does not block
        the server; a user who comes or goes meanwhile may or may not be seen.
        """
        cursor, seen = "0", set[str]()
        while True:
            cursor, users = await self.scan(cursor, 500)
            for user in users:
                if user not in seen:
                    seen.add(user)
                    yield user
            if cursor == "0":
                return

    async def scan(self, cursor: str, count: int) -> tuple[str, list[str]]:
        """Return the next cursor ("0" at the end) and the users of one step of SCAN, which looks at
        some `count` keys. The first cursor is "0".
        """
        pattern = f"{_escape(self._keyspace.presences)}*"
        told, keys = await self._link.call("SCAN", cursor, "MATCH", pattern, "COUNT", count)
        return _text(told), [self._keyspace.user_of(_text(key)) for key in keys]

    # --- arguments ---------------------------------------------------------------------------

    def _keys(self, claim: Claim) -> list[str]:
        return [self._keyspace.presence(claim.user), self._keyspace.fence(claim.user)]

    def _write(self, claim: Claim, ttl_ms: int) -> tuple[str | int, ...]:
        return (
            claim.conn_id,
            claim.gateway_id,
            claim.token,
            ttl_ms,
            self._fence_ttl_ms,
            claim.inst,
            claim.att,
            *self._channel(claim),
        )

    def _channel(self, claim: Claim) -> tuple[str, ...]:
        """Return where those who watch the user listen; nothing when nobody is to be told."""
        return (self._keyspace.channel("watch", claim.user),) if self._announces else ()


def _refreshed(reply: Any) -> Refresh | Exception:
    if isinstance(reply, Exception):
        return reply
    if isinstance(reply, BaseException):
        raise reply  # A cancellation is no result.
    try:
        return Refresh(_text(reply[0]))
    except (ValueError, TypeError, LookupError, AttributeError) as problem:
        return problem  # Our script does not reply like this; the other leases are not affected.


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode(errors="replace")


def _number(text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return 0


def _escape(text: str) -> str:
    """Escape what SCAN's MATCH would take for a pattern."""
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in text)
