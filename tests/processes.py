"""Processes: how does a test run gateways as processes, and users who speak with them?"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from wsdemo.rig.pages import http_get
from wsdemo.rig.process import GatewayDied, GatewayProcess, gateways

__all__ = ["GatewayDied", "GatewayProcess", "User", "gateways", "http_get"]


class User:
    """A user who sends exactly what the test says: no reconnect, no heartbeat."""

    def __init__(self, name: str, connection: ClientConnection) -> None:
        self.name = name
        self.connection = connection

    @classmethod
    async def register(cls, name: str, url: str) -> User:
        connection = await connect(url, proxy=None, ping_interval=None, compression=None)
        user = cls(name, connection)
        await user.say(type="register", userId=name)
        answer = await user.hear()
        assert answer["type"] == "registered", answer
        return user

    async def say(self, **document: Any) -> None:
        await self.connection.send(json.dumps(document))

    async def hear(self, timeout_s: float = 10.0) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s):
            document: dict[str, Any] = json.loads(await self.connection.recv())
            return document

    async def send(self, to: str, content: str, msg_id: str = "1") -> str:
        """Send a message and return the status of its ack."""
        await self.say(type="message", to=to, content=content, id=msg_id)
        answer = await self.hear()
        assert answer["type"] == "ack" and answer["id"] == msg_id, answer
        return str(answer["status"])

    async def closed(self, timeout_s: float = 15.0) -> tuple[int | None, str]:
        """Wait until the gateway hangs up; return its code and reason."""
        async with asyncio.timeout(timeout_s):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.connection.recv()
        return self.connection.close_code, self.connection.close_reason or ""

    async def leave(self) -> None:
        await self.connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.leave()
