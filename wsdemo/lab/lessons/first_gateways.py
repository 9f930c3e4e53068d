"""Check-then-act: what do the first gateways look like that come to mind? Both lose users."""

from __future__ import annotations

import json
from typing import Any

from wsdemo.lab.yours import GatewaySkeleton, SkeletonSession


class TutorialGateway(GatewaySkeleton):
    """What a tutorial would write: a key with a lease for each user, and Pub/Sub."""

    async def register(self, session: SkeletonSession) -> bool:
        entry = f"{self.id} {session.conn_id}"
        await self.redis.set(f"user:{session.user}", entry, px=int(1000 * self.settings.ttl_s))
        return True

    async def refresh(self, session: SkeletonSession) -> bool:
        return await self.register(session)

    async def release(self, session: SkeletonSession) -> None:
        await self.redis.delete(f"user:{session.user}")

    async def route(self, to: str, envelope: dict[str, Any]) -> str:
        if await self.deliver(to, envelope):
            return "routed"
        entry = await self.redis.get(f"user:{to}")
        if entry is None:
            return "offline"
        gateway, _ = str(entry).split()
        heard = await self.redis.publish(f"gateway:{gateway}", json.dumps(envelope))
        return "routed" if heard else "unreachable"

    async def drain(self) -> None:
        for session in list(self.sessions.values()):
            await session.socket.close(1012)


class CarefulGateway(TutorialGateway):
    """The same, but a release looks first whose entry it is."""

    async def release(self, session: SkeletonSession) -> None:
        entry = await self.redis.get(f"user:{session.user}")
        if entry == f"{self.id} {session.conn_id}":
            await self.redis.delete(f"user:{session.user}")
