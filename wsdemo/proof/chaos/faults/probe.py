"""Probe user: does a user that a fault does not touch still get what is promised?

Only the fault knows this user. It sends heartbeats, and it waits for answers with a bound. So it
sees whether a promise was kept while the fault was active.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable
from typing import Any, Final, Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from wsdemo.proof.chaos.cluster import LIMITS, TIMING
from wsdemo.proof.chaos.fault import NotArranged, Scene
from wsdemo.proof.chaos.faults.arrange import BrokenPromise, registered
from wsdemo.proof.chaos.users import MARK
from wsdemo.tasks import end

ANSWER_S: Final = LIMITS.redis_timeout_s + 1.0
"""A message with an id is answered within this time, whatever Redis does."""
PONG_S: Final = 1.0


class ProbeUser:
    """A user that belongs to a fault: `async with ProbeUser(scene, "neighbour") as neighbour`.

    Args:
        gateway: where it registers; by default the gateway of the scene.
        small_buffer: with a receive buffer of a few kilobytes.

    Raises:
        NotArranged: it could not register.
    """

    _numbers = itertools.count(1)

    def __init__(
        self, scene: Scene, user: str, gateway: str = "", *, small_buffer: bool = False
    ) -> None:
        # A new name, so that there is no fence and no session of an earlier user.
        self.user = f"{user}-{next(self._numbers)}"
        self.received: list[str] = []
        """The ids of the messages that it received, in order."""
        self._gateway = scene.cluster.gateways[gateway or scene.gateway]
        self._small_buffer = small_buffer
        self._connection: ClientConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._statuses: dict[str, str] = {}
        self._pongs = self._pings = 0
        self._changed = asyncio.Event()
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        self._connection = await registered(
            self._gateway.url, self.user, small_buffer=self._small_buffer
        )
        if self._connection is None:
            raise NotArranged(f"{self.user} could not register with {self._gateway.gateway_id}")
        for work in (self._read, self._beat):
            self._tasks.append(asyncio.create_task(work(), name=self.user))
        self._tasks[0].add_done_callback(lambda task: self._changed.set())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await end(*self._tasks)
        if self._connection is not None:
            self._connection.transport.abort()

    @property
    def connection(self) -> ClientConnection:
        assert self._connection is not None
        return self._connection

    @property
    def here(self) -> bool:
        """Whether its connection still exists."""
        return not self._tasks[0].done()

    async def ask(self, *tos: str) -> list[str]:
        """Send a message with an id to each of these users; return the answer to each.

        Raises:
            BrokenPromise: one of them was not answered in time, or the connection ended.
        """
        ids = await self.write(*tos)
        return await self.answered(ids)

    async def write(self, *tos: str) -> list[str]:
        """Send a message with an id to each of these users; return the ids."""
        ids = [f"{self.user}-{next(self._ids)}" for _ in tos]
        with contextlib.suppress(ConnectionClosed):
            for msg_id, to in zip(ids, tos, strict=True):
                document = {"type": "message", "to": to, "content": MARK, "id": msg_id}
                await self.connection.send(json.dumps(document))
        return ids

    async def answered(self, ids: list[str], within_s: float = ANSWER_S) -> list[str]:
        """Return the answers to these messages.

        Raises:
            BrokenPromise: one of them was not answered in time, or the connection ended.
        """
        await self._until(
            lambda: all(msg_id in self._statuses for msg_id in ids), "its answers", within_s
        )
        return [self._statuses[msg_id] for msg_id in ids]

    async def pong(self, within_s: float = PONG_S) -> None:
        """Send a ping and wait for its pong.

        Raises:
            BrokenPromise: it did not come in time, or the connection ended.
        """
        await self._ping()
        wanted = self._pings
        await self._until(lambda: self._pongs >= wanted, "a pong", within_s)

    async def got(self, count: int, within_s: float) -> None:
        """Wait until it has received so many messages.

        Raises:
            BrokenPromise: it has not received them in time, or the connection ended.
        """
        await self._until(lambda: len(self.received) >= count, f"{count} messages", within_s)

    async def _until(self, condition: Callable[[], bool], what: str, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not condition() and self.here:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            text = f"{self.user} waited {within_s:g} s for {what}, in vain"
            raise BrokenPromise(text) from None
        if not condition():
            code = self.connection.close_code
            raise BrokenPromise(f"{self.user} waited for {what}, and was told {code}")

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._take(json.loads(await self.connection.recv()))
                self._changed.set()

    def _take(self, answer: dict[str, Any]) -> None:
        match answer.get("type"):
            case "message":
                self.received.append(str(answer.get("id")))
            case "pong":
                self._pongs += 1
            case "ack":
                self._statuses[str(answer.get("id"))] = str(answer.get("status"))
            case _:
                pass

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(TIMING.heartbeat_s)
            # The pong of this ping must not be taken for one that somebody waits for.
            if self._pongs >= self._pings:
                await self._ping()

    async def _ping(self) -> None:
        self._pings += 1
        with contextlib.suppress(ConnectionClosed):
            await self.connection.send('{"type":"ping"}')
