"""Gateway skeleton: what is left of a gateway when its five decisions are taken out?

Extend `GatewaySkeleton` and write `register`, `refresh`, `release`, `route` and `drain`. Everything
else is given, in the plain API of websockets and redis-py: sockets, the messages of the protocol,
the subscription, the heartbeat. `check("yours", MyGateway)` then tries to break it, in five levels.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio
from redis.exceptions import RedisError
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

NO_ANSWER: Final = (RedisError, TimeoutError, OSError)
"""What is raised when Redis does not answer in time, or not at all."""
AGAIN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class SkeletonSettings:
    """What a gateway is told. Durations are in seconds."""

    id: str
    redis_url: str
    heartbeat_s: float
    ttl_s: float
    redis_timeout_s: float


@dataclass(slots=True, eq=False)
class SkeletonSession:
    """One user on one socket. `token` is free for your own use."""

    user: str
    conn_id: str
    socket: ServerConnection
    token: int = 0


class GatewaySkeleton:
    """A gateway without its decisions. `self.redis` is a `redis.asyncio.Redis` without any deadline
    of its own; `self.sessions` says who is connected here.
    """

    def __init__(self, settings: SkeletonSettings) -> None:
        self.settings = settings
        self.id = settings.id
        self.port = 0
        self.draining = False
        self.sessions: dict[str, SkeletonSession] = {}
        self._marks: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # --- the five decisions ----------------------------------------------------------------------

    async def register(self, session: SkeletonSession) -> bool:
        """Say in Redis that this session is where its user is. Return False to refuse it."""
        raise NotImplementedError

    async def refresh(self, session: SkeletonSession) -> bool:
        """Called in each heartbeat, for each session. Return False when the user has a newer
        session somewhere else: then this one is closed."""
        raise NotImplementedError

    async def release(self, session: SkeletonSession) -> None:
        """The session has ended. It may be long ago: the user may be elsewhere by now."""
        raise NotImplementedError

    async def route(self, to: str, envelope: dict[str, Any]) -> str:
        """Hand on a message. Return "routed", "offline" or "unreachable". `self.deliver(to,
        envelope)` gives it to a user of this gateway; the gateway NAME reads JSON from the channel
        "gateway:NAME"."""
        raise NotImplementedError

    async def drain(self) -> None:
        """The gateway will stop. No new session comes any more; `self.sessions` has those that are
        still here. `await self.caught_up()` returns when all that was published to this gateway
        until now is delivered. After `drain` nobody reads the channel."""
        raise NotImplementedError

    # --- given -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen to Redis and to clients, on a port of the system's choice."""
        self.redis = redis.asyncio.Redis.from_url(
            self.settings.redis_url,
            decode_responses=True,
            socket_timeout=None,
            socket_connect_timeout=None,
        )
        self._channel = self.redis.pubsub(ignore_subscribe_messages=False)
        await self._channel.subscribe(f"gateway:{self.id}")
        await self._channel.get_message(timeout=self.settings.redis_timeout_s)
        self.server = await serve(self._handle, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        self._tasks = [asyncio.create_task(self._hear()), asyncio.create_task(self._beat())]

    async def stop(self) -> None:
        """Drain, then end everything."""
        self.draining = True
        await self.drain()
        for task in self._tasks:
            task.cancel()
        self.server.close(code=1012)
        await self.server.wait_closed()
        await self._channel.aclose()
        await self.redis.aclose()

    async def deliver(self, to: str, envelope: dict[str, Any]) -> bool:
        """Write a message to a user of this gateway; return False when there is none."""
        session = self.sessions.get(to)
        if session is None:
            return False
        fields = {name: envelope[name] for name in ("from", "content", "id") if name in envelope}
        return await self.say(session.socket, type="message", **fields)

    async def caught_up(self) -> None:
        """Publish a mark to the own channel, and return when it has come back."""
        mark = secrets.token_hex(8)
        self._marks[mark] = asyncio.Event()
        await self.redis.publish(f"gateway:{self.id}", json.dumps({"mark": mark}))
        await self._marks[mark].wait()
        del self._marks[mark]

    async def say(self, socket: ServerConnection, **message: Any) -> bool:
        """Write one message; return False when the socket is closed."""
        with contextlib.suppress(ConnectionClosed):
            await socket.send(json.dumps(message))
            return True
        return False

    async def _handle(self, socket: ServerConnection) -> None:
        """Read the messages of one client until it is gone."""
        session: SkeletonSession | None = None
        try:
            async for text in socket:
                try:
                    message = json.loads(text)
                    kind = message["type"]
                except (ValueError, KeyError, TypeError):
                    await self.say(socket, type="error", error="Invalid message format")
                    continue
                if kind == "register" and session is None and not self.draining:
                    session = await self._register(socket, str(message.get("userId", "")))
                elif kind == "ping":
                    await self.say(socket, type="pong")
                elif kind == "message" and session is None:
                    await self.say(socket, type="error", error="Not registered")
                elif kind == "message":
                    await self._send(session, message)
                else:
                    await self.say(socket, type="error", error="Unknown message type")
        except ConnectionClosed:
            pass
        finally:
            if session is not None:
                if self.sessions.get(session.user) is session:
                    del self.sessions[session.user]
                with contextlib.suppress(*NO_ANSWER):
                    await self.release(session)

    async def _register(self, socket: ServerConnection, user: str) -> SkeletonSession | None:
        session = SkeletonSession(user, f"{self.id}:{secrets.token_hex(4)}", socket)
        accepted = False
        with contextlib.suppress(*NO_ANSWER):
            accepted = await self.register(session)
        if not accepted:
            await self.say(socket, type="error", error="Registration failed")
            await socket.close(1013)
            return session
        older, self.sessions[user] = self.sessions.get(user), session
        if older is not None:
            self._tasks.append(asyncio.create_task(older.socket.close(4509)))
        await self.say(socket, type="registered", gatewayId=self.id, connId=session.conn_id)
        return session

    async def _send(self, session: SkeletonSession | None, message: dict[str, Any]) -> None:
        assert session is not None
        status, number = "unknown", message.get("id")
        envelope = {"from": session.user, "content": message.get("content", ""), "by": self.id}
        envelope |= {"to": message.get("to", "")} | ({"id": number} if number else {})
        with contextlib.suppress(*NO_ANSWER):
            status = await self.route(envelope["to"], envelope)
        await self._answer(session.socket, status, number)

    async def _answer(self, socket: ServerConnection, status: str, number: Any) -> None:
        if number:
            await self.say(socket, type="ack", id=number, status=status)
        elif status != "routed":
            text = "User not found" if status == "offline" else "Failed to send message"
            await self.say(socket, type="error", error=text, code=status)

    async def _hear(self) -> None:
        """Deliver what other gateways publish. Who is not here any more: back to the sender."""
        while True:
            try:
                heard = await self._channel.get_message(timeout=1.0)
                if heard is not None and heard["type"] == "message":
                    await self._heard(json.loads(heard["data"]))
            except NO_ANSWER:
                await asyncio.sleep(AGAIN_S)

    async def _heard(self, envelope: dict[str, Any]) -> None:
        if "mark" in envelope:
            if envelope["mark"] in self._marks:
                self._marks[envelope["mark"]].set()
        elif "bounced" in envelope:
            if sender := self.sessions.get(envelope["from"]):
                await self._answer(sender.socket, "unreachable", envelope.get("id"))
        elif not await self.deliver(envelope["to"], envelope):
            back = json.dumps(envelope | {"bounced": True})
            await self.redis.publish(f"gateway:{envelope['by']}", back)

    async def _beat(self) -> None:
        """Refresh all sessions in each heartbeat."""
        while not self.draining:
            await asyncio.sleep(self.settings.heartbeat_s)
            await asyncio.gather(*(self._refresh(one) for one in [*self.sessions.values()]))

    async def _refresh(self, session: SkeletonSession) -> None:
        with contextlib.suppress(*NO_ANSWER):
            if not self.draining and not await self.refresh(session):
                await session.socket.close(4010)
