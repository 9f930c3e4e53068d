"""Check-then-act: what is the first fix for a late clean-up that comes to mind?

To look first whose entry it is, and to delete it if it is ours. Between the two commands, others
write. For lesson 05, behind the four verbs like all others. Nobody should use it.
"""

from __future__ import annotations

from wsdemo.presence import Claim
from wsdemo.rig.policies.go_demo import SeedPresence


class CheckThenDeletePresence(SeedPresence):
    """The demo's presence, whose release looks before it deletes, in two commands."""

    async def release(self, claim: Claim) -> bool:
        key = self._keyspace.presence(claim.user)
        if await self._link.call("HGET", key, "connId") != claim.conn_id.encode():
            return False
        return bool(await self._link.call("DEL", key))
