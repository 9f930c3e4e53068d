"""The Go demo: what does its presence do, to the letter?

The demo says that its compare-and-set keeps a late clean-up from removing a newer session. Its
code compares on one of three verbs only:

* register is a script that refuses a registration with an older timestamp: whole seconds of the
  gateway's own clock;
* refresh writes the timestamp and the TTL, whoever owns the entry now, and whether or not there is
one, so it can make half an entry that names no gateway;
* release deletes the entry, whoever owns it.

It is written here against the same four verbs as the product's presence, so both run on the same
gateway under the same director. One thing differs from the demo: TTLs are set in milliseconds,
because the teaching clock needs leases shorter than a second.
"""

from __future__ import annotations

import asyncio
from typing import Final

from wsdemo.presence import Claim, Refresh, Register, Registration, Release, Renewal
from wsdemo.redis.link import LINK_ERRORS
from wsdemo.redis.scripts import Script
from wsdemo.rig.policies.unfenced import UnfencedPresence

REGISTER: Final = Script(
    "go-demo-register",
    """
local current = redis.call('HGET', KEYS[1], 'ts')
if current and tonumber(current) > tonumber(ARGV[3]) then
  return 0
end
redis.call('HSET', KEYS[1], 'gwId', ARGV[1], 'connId', ARGV[2], 'ts', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
""",
)


class GoDemoPresence(UnfencedPresence):
    """The Go demo's presence, bug for bug, behind the four verbs."""

    async def register(self, claim: Claim) -> Registration:
        reply = await self._link.run(
            REGISTER,
            [self._keyspace.presence(claim.user)],
            claim.gateway_id,
            claim.conn_id,
            int(self._wall_clock()),
            self._ttl_ms,
        )
        # The demo does not read the entry that it replaces, so it tells no older session.
        return Registration(Register.OK if reply else Register.STALE)

    async def _refresh(self, renewal: Renewal) -> Refresh | Exception:
        key = self._keyspace.presence(renewal.claim.user)
        try:
            await asyncio.gather(
                self._link.call("HSET", key, "ts", int(self._wall_clock())),
                self._link.call("PEXPIRE", key, self._ttl_ms),
            )
        except LINK_ERRORS as problem:
            return problem
        return Refresh.OK

    async def release(self, claim: Claim) -> Release:
        removed = await self._link.call("DEL", self._keyspace.presence(claim.user))
        return Release.REMOVED if removed else Release.NO_ENTRY
