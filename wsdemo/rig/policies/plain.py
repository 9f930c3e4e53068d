"""No compare-and-set: what does presence look like without any thought of races?

Register and refresh write, release deletes. It is for lesson 05, has the same four verbs as all
others, and must not be used in production.
"""

from __future__ import annotations

import asyncio

from wsdemo.presence import Claim, Refresh, Register, Registration, Release, Renewal
from wsdemo.redis.link import LINK_ERRORS
from wsdemo.rig.policies.unfenced import UnfencedPresence


class PlainPresence(UnfencedPresence):
    """No comparison anywhere: register and refresh write, release deletes. The last one wins."""

    async def register(self, claim: Claim) -> Registration:
        await self._write(claim)
        return Registration(Register.OK)

    async def _refresh(self, renewal: Renewal) -> Refresh | Exception:
        try:
            await self._write(renewal.claim)
        except LINK_ERRORS as problem:
            return problem
        return Refresh.OK

    async def release(self, claim: Claim) -> Release:
        removed = await self._link.call("DEL", self._keyspace.presence(claim.user))
        return Release.REMOVED if removed else Release.NO_ENTRY

    async def _write(self, claim: Claim) -> None:
        key, now = self._keyspace.presence(claim.user), int(self._wall_clock())
        entry = ("gwId", claim.gateway_id, "connId", claim.conn_id, "ts", now)
        await asyncio.gather(
            self._link.call("HSET", key, *entry), self._link.call("PEXPIRE", key, self._ttl_ms)
        )
