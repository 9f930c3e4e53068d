"""Fake inbox: a gateway with one user's stored messages, in memory, for tests of the client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.server import ServerConnection

from tests.client.fakes import fake_gateway, tell
from tests.waiting import until


class FakeInbox:
    """Stores, resumes and takes acknowledgements as a gateway does.

    `rows` are what is not acknowledged. A test may change everything between two connections, and
    `resumed_with` replaces the answer of the next one.
    """

    def __init__(self, epoch: str = "b1.r1") -> None:
        self.epoch = epoch
        self.rows: list[tuple[str, str]] = []
        self.last = "0-0"
        self.resumes: list[dict[str, str]] = []
        self.acks: list[tuple[str, str]] = []
        self.said: list[dict[str, Any]] = []
        """All else that the client said."""
        self.resumed_with: dict[str, Any] | None = None
        self.is_durable = True
        self.on_message = "stored"
        """The answer to a message; '' for none."""
        self.connection: ServerConnection | None = None

    def store(self, text: str, mark: int = 7) -> str:
        """Store a message, and return its offset."""
        self.last = f"{int(self.last.partition('-')[0]) + 1}-{mark}"
        self.rows.append((self.last, text))
        return self.last

    async def say(self, offset: str, text: str) -> None:
        assert self.connection is not None
        await tell(self.connection, type="message", offset=offset, content=text, **{"from": "ann"})

    async def say_resumed(self, *, recovered: bool, offset: str, **more: Any) -> None:
        assert self.connection is not None
        document = {"epoch": self.epoch, "offset": offset, "last": self.last} | more
        await tell(self.connection, type="resumed", recovered=recovered, **document)

    async def behave(self, connection: ServerConnection, attempt: int) -> None:
        hello = json.loads(await connection.recv())
        self.connection = connection
        more = {"durable": True} if self.is_durable else {}
        await tell(connection, type="registered", gatewayId="fake", heartbeatMs=30_000, **more)
        if "resume" in hello:
            self.resumes.append(hello["resume"])
            await self._resume(hello["resume"])
        async for text in connection:
            await self._hear(connection, json.loads(text))

    async def _resume(self, resume: dict[str, str]) -> None:
        recovered = resume["epoch"] == self.epoch
        since = resume["offset"] if recovered else "0-0"
        answer: dict[str, Any] = {"recovered": recovered, "offset": since}
        if self.resumed_with is not None:
            answer, self.resumed_with = self.resumed_with, None
        await self.say_resumed(**answer)
        for offset, text in self.rows:
            if number(offset) > number(answer["offset"]):
                await self.say(offset, text)

    async def _hear(self, connection: ServerConnection, said: dict[str, Any]) -> None:
        if said["type"] == "ack":
            self.acks.append((said["epoch"], said["offset"]))
            if said["epoch"] == self.epoch:
                self.rows = [row for row in self.rows if number(row[0]) > number(said["offset"])]
        elif said["type"] != "ping":
            self.said.append(said)
            if said["type"] == "message" and self.on_message:
                await tell(connection, type="ack", id=said["id"], status=self.on_message)

    async def acked(self, offset: str) -> None:
        """Wait until everything up to here is acknowledged."""
        await until(f"an ack of {offset}", lambda: (self.epoch, offset) in self.acks)


def number(offset: str) -> int:
    return int(offset.partition("-")[0])


@contextlib.asynccontextmanager
async def serving(inbox: FakeInbox) -> AsyncIterator[str]:
    """Serve it; yields the URL."""
    async with fake_gateway(inbox.behave) as url, asyncio.timeout(30):
        yield url
