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
from typing import Any, NamedTuple, Protocol

from wsdemo.redis.link import RedisLink
from wsdemo.redis.scripts import Script
from wsdemo.settings import Keyspace, Timing

MINT = Script.read("wsdemo.presence", "mint")
REGISTER = Script.read("wsdemo.presence", "register")
REFRESH = Script.read("wsdemo.presence", "refresh")
RELEASE = Script.read("wsdemo.presence", "release")
SCRIPTS = (MINT, REGISTER, REFRESH, RELEASE)


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
    and 0 when the client does not count them.
    """

    user: str
    conn_id: str
    gateway_id: str
    token: int = 0
    inst: str = ""
    att: int = 0


class Renewal(NamedTuple):
    """A claim, and how long its lease may last from now (ms): TTL less the age of the last sign of
    life.
    """

    claim: Claim
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class Registration:
    """The outcome of a register. `previous` is the session that was found: with OK the one that
    was replaced (it has to be told), with STALE the one that stays.
    """

    outcome: Register
    previous: Claim | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What Redis knows about a user. `ts` is in Unix seconds; `ttl_ms` is the rest of the lease."""

    user: str
    gateway_id: str
    conn_id: str
    ts: int
    token: int
    ttl_ms: int


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
    """Presence as four fenced scripts on one Redis."""

    def __init__(self, link: RedisLink, keyspace: Keyspace, timing: Timing) -> None:
        self._link = link
        self._keyspace = keyspace
        self._ttl_ms = timing.presence_ttl_ms
        self._fence_ttl_ms = timing.fence_ttl_ms

    async def mint(self, user: str) -> int:
        return int(await self._link.run(MINT, [self._keyspace.fence(user)], self._fence_ttl_ms))

    async def register(self, claim: Claim) -> Registration:
        reply = await self._link.run(REGISTER, self._keys(claim), *self._write(claim, self._ttl_ms))
        outcome, gateway_id, conn_id, token = (_text(item) for item in reply)
        previous = Claim(claim.user, conn_id, gateway_id, int(token)) if conn_id else None
        return Registration(Register(outcome), previous)

    async def refresh(self, renewals: Sequence[Renewal]) -> Sequence[Refresh | Exception]:
        futures = [self._start_refresh(claim, ttl_ms) for claim, ttl_ms in renewals]
        replies = await asyncio.gather(*futures, return_exceptions=True)
        return [_refreshed(reply) for reply in replies]

    def _start_refresh(self, claim: Claim, ttl_ms: int) -> asyncio.Future[Any]:
        try:
            return self._link.start_script(REFRESH, self._keys(claim), *self._write(claim, ttl_ms))
        except Exception as problem:  # Not sent; whatever it is, it is the result of this lease.
            refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            refused.set_exception(problem)
            return refused

    async def release(self, claim: Claim) -> Release:
        reply = await self._link.run(
            RELEASE, self._keys(claim), claim.conn_id, claim.token, self._fence_ttl_ms
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

    async def online(self) -> AsyncIterator[str]:
        """Iterate over the users with an entry. It uses SCAN, so a large keyspace does not block
        the server; a user who comes or goes meanwhile may or may not be seen.
        """
        prefix = self._keyspace.presence("")
        pattern = f"{_escape(prefix)}*"
        cursor, seen = b"0", set[str]()
        while True:
            cursor, keys = await self._link.call("SCAN", cursor, "MATCH", pattern, "COUNT", 500)
            for key in keys:
                user = _text(key)[len(prefix) :]
                if user not in seen:
                    seen.add(user)
                    yield user
            if cursor == b"0":
                return

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
        )


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
