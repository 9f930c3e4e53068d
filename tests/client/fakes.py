"""Fake gateways: with what does a client speak in a test, and what did it observe?"""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.waiting import until
from wsdemo.client import Client
from wsdemo.events import Event, Kind
from wsdemo.protocol import Status
from wsdemo.settings import ClientSettings

FAST = ClientSettings(backoff_base_s=0.01, backoff_cap_s=0.05)
NOBODY = "ws://127.0.0.1:1/ws"
"""An address where nobody listens."""


class Diary:
    """What a client observed."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.count: Counter[Kind] = Counter()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.count[event.kind] += 1

    def kinds(self, *kinds: Kind) -> list[Kind]:
        return [event.kind for event in self.events if event.kind in kinds]


class Ceilings(random.Random):
    """Not random: remembers the upper bounds of the pauses, and returns the lower ones."""

    def __init__(self) -> None:
        super().__init__(0)
        self.asked: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.asked.append(b)
        return a


Behave = Callable[[ServerConnection, int], Awaitable[None]]
"""What a fake gateway does with a connection; the number counts connections from 1."""


@contextlib.asynccontextmanager
async def fake_gateway(behave: Behave) -> AsyncIterator[str]:
    """A WebSocket server that behaves as the test says; yields its URL."""
    seen = 0

    async def handle(connection: ServerConnection) -> None:
        nonlocal seen
        seen += 1
        with contextlib.suppress(ConnectionClosed):
            await behave(connection, seen)

    async with serve(handle, "127.0.0.1", 0, ping_interval=None, close_timeout=0.2) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws"


async def welcome(connection: ServerConnection, heartbeat_ms: int = 30_000) -> dict[str, Any]:
    """Take a register and answer it; return what it said."""
    hello: dict[str, Any] = json.loads(await connection.recv())
    assert hello["type"] == "register"
    await tell(connection, type="registered", gatewayId="fake", heartbeatMs=heartbeat_ms)
    return hello


async def tell(connection: ServerConnection, **document: Any) -> None:
    await connection.send(json.dumps(document))


async def hear_nothing(connection: ServerConnection) -> None:
    """Read and ignore everything, like a host that has lost the state of the connection."""
    async for _ in connection:
        pass


async def until_offline(user: str, sender: Client) -> None:
    """Wait until a user is not reachable: her gateway got a close frame, or saw the connection
    end."""

    async def gone() -> bool:
        return (await sender.send(user, "gone?")).status is Status.OFFLINE

    await until(f"{user} is offline", gone)
