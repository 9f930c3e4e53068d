"""Mutants: what do a sound gateway and five gateways with one mistake each look like?

Lesson 16 asks a learner to find the mistakes from outside. Whoever reads on, sees the answers.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from wsdemo.lab.yours import GatewaySkeleton, SkeletonSession

REGISTER: Final = """
if tonumber(redis.call('GET', KEYS[2]) or 0) > tonumber(ARGV[3]) then return {0, '', ''} end
local before = redis.call('HMGET', KEYS[1], 'gateway', 'conn')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'gateway', ARGV[1], 'conn', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], ARGV[3], 'EX', 3600)
return {1, before[1] or '', before[2] or ''}
"""
REFRESH: Final = f"""
if redis.call('HGET', KEYS[1], 'conn') == ARGV[2] then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return {{1, '', ''}}
end
{REGISTER}
"""
RELEASE: Final = """
if redis.call('HGET', KEYS[1], 'conn') == ARGV[2] then redis.call('DEL', KEYS[1]) end
return 1
"""
ROUTE: Final = """
local gateway = redis.call('HGET', KEYS[1], 'gateway')
if not gateway then return 'offline' end
local heard = redis.call('PUBLISH', 'gateway:' .. gateway, ARGV[1])
return heard > 0 and 'routed' or 'unreachable'
"""
REPLACED: Final = 4509


class SoundGateway(GatewaySkeleton):
    """A gateway whose five decisions are right. A session that was replaced is told at once."""

    async def register(self, session: SkeletonSession) -> bool:
        async with asyncio.timeout(self.settings.redis_timeout_s):
            session.token = await self.redis.incr(f"token:{session.user}")
        accepted, gateway, conn_id = await self.write(REGISTER, session)
        if conn_id:
            await self.tell(gateway, {"kick": conn_id, "user": session.user})
        return bool(accepted)

    async def refresh(self, session: SkeletonSession) -> bool:
        accepted, _, _ = await self.write(REFRESH, session)
        return bool(accepted)

    async def release(self, session: SkeletonSession) -> None:
        keys = [f"presence:{session.user}"]
        await self.ask(RELEASE, keys, self.id, session.conn_id)

    async def route(self, to: str, envelope: dict[str, Any]) -> str:
        if await self.deliver(to, envelope):
            return "routed"
        return str(await self.ask(ROUTE, [f"presence:{to}"], json.dumps(envelope)))

    async def drain(self) -> None:
        here = list(self.sessions.values())
        await asyncio.gather(*(self.release(session) for session in here), return_exceptions=True)
        async with asyncio.timeout(self.settings.ttl_s):
            await self.caught_up()
        await asyncio.gather(*(session.socket.close(1012) for session in here))

    async def write(self, script: str, session: SkeletonSession) -> Any:
        """Run a script that says who owns a user now."""
        keys = [f"presence:{session.user}", f"newest:{session.user}"]
        ttl_ms = int(1000 * self.settings.ttl_s)
        return await self.ask(script, keys, self.id, session.conn_id, session.token, ttl_ms)

    async def ask(self, script: str, keys: list[str], *args: Any) -> Any:
        """Run a script, with a deadline."""
        async with asyncio.timeout(self.settings.redis_timeout_s):
            return await self.redis.eval(script, len(keys), *keys, *args)

    async def tell(self, gateway: str, envelope: dict[str, Any]) -> None:
        """Publish something to another gateway, with a deadline."""
        async with asyncio.timeout(self.settings.redis_timeout_s):
            await self.redis.publish(f"gateway:{gateway}", json.dumps(envelope))

    async def _heard(self, envelope: dict[str, Any]) -> None:
        if "kick" in envelope:
            await self.kicked(envelope["user"], envelope["kick"])
        else:
            await super()._heard(envelope)

    async def kicked(self, user: str, conn_id: str) -> None:
        """End a session that a newer one has replaced, if it is the one that is meant."""
        session = self.sessions.get(user)
        if session is not None and session.conn_id == conn_id:
            self._tasks.append(asyncio.create_task(session.socket.close(REPLACED)))


class GatewayA(SoundGateway):
    """A lost bounce: what cannot be delivered is dropped, and its sender believes it routed."""

    async def _heard(self, envelope: dict[str, Any]) -> None:
        if "content" in envelope and "bounced" not in envelope:
            await self.deliver(envelope["to"], envelope)
        else:
            await super()._heard(envelope)


class GatewayB(SoundGateway):
    """A kick without a fence: it ends whatever session of the user is here now."""

    async def kicked(self, user: str, conn_id: str) -> None:
        session = self.sessions.get(user)
        await super().kicked(user, session.conn_id if session is not None else conn_id)


class GatewayC(SoundGateway):
    """A drain that forgets: what is on the way to it when it closes is lost."""

    async def caught_up(self) -> None:
        """Wait for nothing."""


class GatewayD(SoundGateway):
    """A release that knows gateways and no sessions."""

    async def release(self, session: SkeletonSession) -> None:
        script = RELEASE.replace("'conn') == ARGV[2]", "'gateway') == ARGV[1]")
        await self.ask(script, [f"presence:{session.user}"], self.id, session.conn_id)


class GatewayE(SoundGateway):
    """A refresh that makes a lease longer, and never puts back one that has run out."""

    async def refresh(self, session: SkeletonSession) -> bool:
        await self.write(REFRESH.partition("\nend")[0] + "\nend\nreturn {1, '', ''}", session)
        async with asyncio.timeout(self.settings.redis_timeout_s):
            owner: Any = await self.redis.hget(f"presence:{session.user}", "conn")
        return owner in (None, session.conn_id)


SEEDED: Final = {"A": GatewayA, "B": GatewayB, "C": GatewayC, "D": GatewayD, "E": GatewayE}
"""The five, by the names that learners see."""
