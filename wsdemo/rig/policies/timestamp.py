"""Compare-and-set by timestamp: what is the best policy that relies on clocks?

Every verb compares before it writes, each in one script, and the newest timestamp wins. This is
what the Go demo begins with `register`, carried through to the end:

* register and refresh ask the same question: is there a newer timestamp than mine? If not,
  they write the whole entry, so there is never half a one;
* release removes the entry unless it is newer than the last sign of life that this gateway had
  of this very session.

A timestamp is Unix time with microseconds. Whole seconds, as in the demo, make two signs of life
within a second equal, and between equals the later *command* wins, which is what timestamps were
to prevent. Six decimals are also as many as Lua's numbers can tell apart at today's date.

Its weakness is in its first argument: the timestamps come from the gateways' own clocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from wsdemo.presence import Claim, Refresh, Register, Registration, Release, Renewal
from wsdemo.redis.interface import Link
from wsdemo.redis.link import LINK_ERRORS
from wsdemo.redis.scripts import Script
from wsdemo.rig.policies.unfenced import UnfencedPresence
from wsdemo.settings import Keyspace, Timing

WRITE: Final = Script(
    "timestamp-write",
    """
-- Is this the newest sign of life of the user? Then it is the entry. Returns the connId that the
-- entry had before ('' for none), or 0 if it is not.
-- KEYS  1 presence:{user}   ARGV  1 gwId  2 connId  3 ts  4 life of the presence, ms
local current = redis.call('HMGET', KEYS[1], 'ts', 'connId')
if current[1] and tonumber(current[1]) > tonumber(ARGV[3]) then
  return 0
end
redis.call('HSET', KEYS[1], 'gwId', ARGV[1], 'connId', ARGV[2], 'ts', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return current[2] or ''
""",
)

RELEASE: Final = Script(
    "timestamp-release",
    """
-- Is there no newer sign of life than the last one of this session? Then the entry goes.
-- KEYS  1 presence:{user}   ARGV  1 ts
local current = redis.call('HGET', KEYS[1], 'ts')
if current and tonumber(current) > tonumber(ARGV[1]) then
  return -1
end
return redis.call('DEL', KEYS[1])
""",
)


class TimestampPresence(UnfencedPresence):
    """Compare-and-set by the gateway's own clock, behind the four verbs."""

    def __init__(
        self,
        link: Link,
        keyspace: Keyspace,
        timing: Timing,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(link, keyspace, timing, wall_clock)
        self._heard: dict[str, str] = {}
        """The timestamp of the last frame of each session that is not released yet."""

    async def register(self, claim: Claim) -> Registration:
        heard = self._heard[claim.conn_id] = self._now()
        if await self._write(claim, heard, self._ttl_ms) is not None:
            return Registration(Register.OK)
        # Nobody releases a session that never took effect.
        del self._heard[claim.conn_id]
        return Registration(Register.STALE)

    async def _refresh(self, renewal: Renewal) -> Refresh | Exception:
        claim, heard = renewal.claim, self._now()
        if claim.conn_id in self._heard:
            self._heard[claim.conn_id] = heard
        try:
            before = await self._write(claim, heard, renewal.ttl_ms)
        except LINK_ERRORS as problem:
            return problem
        if before is None:
            return Refresh.SUPERSEDED
        return Refresh.OK if before == claim.conn_id else Refresh.RECLAIMED

    async def release(self, claim: Claim) -> Release:
        heard = self._heard.get(claim.conn_id)
        if heard is None:
            return Release.NO_ENTRY
        try:
            key = self._keyspace.presence(claim.user)
            reply = await self._link.run(RELEASE, [key], heard)
        finally:
            self._heard.pop(claim.conn_id, None)
        return Release.of(reply)

    def _now(self) -> str:
        return f"{self._wall_clock():.6f}"

    async def _write(self, claim: Claim, heard: str, ttl_ms: int) -> str | None:
        """Write the entry; return whose it was before, or None when a newer one stays."""
        key = self._keyspace.presence(claim.user)
        answer = await self._link.run(WRITE, [key], claim.gateway_id, claim.conn_id, heard, ttl_ms)
        return None if answer == 0 else answer.decode()
