"""Check-then-act: what is the first fix for a late clean-up that comes to mind?

It reads first whose entry it is, and deletes it if it is its own. Between the two commands, others
may write. It is for lesson 05, has the same four verbs as all others, and must not be used in
production.
"""

from __future__ import annotations

from wsdemo.presence import Claim, Release
from wsdemo.rig.policies.go_demo import GoDemoPresence


class CheckThenDeletePresence(GoDemoPresence):
    """The demo's presence, whose release reads before it deletes, in two commands."""

    async def release(self, claim: Claim) -> Release:
        key = self._keyspace.presence(claim.user)
        owner = await self._link.call("HGET", key, "connId")
        if owner != claim.conn_id.encode():
            return Release.NO_ENTRY if owner is None else Release.OTHER_OWNER
        removed = await self._link.call("DEL", key)
        return Release.REMOVED if removed else Release.NO_ENTRY
