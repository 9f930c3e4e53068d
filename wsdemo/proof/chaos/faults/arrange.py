"""How does a fault arrange what it needs, and see what it does to others?

With clients of its own: bare connections, and guests. A guest is a user whom only the fault knows.
She keeps her heartbeat, asks and waits for answers, each with a bound, and so can tell whether
a promise was kept to her while the fault was active.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, Self

from redis.exceptions import RedisError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from wsdemo.proof.chaos.nemesis import NotArranged, Scene
from wsdemo.proof.chaos.users import MARK
from wsdemo.proof.chaos.world import LIMITS, TIMING, World
from wsdemo.rig.wire import Direction, Strand

Steps = AsyncIterator[None]

CALL_S: Final = 10.0
"""The longest wait for one thing that a fault needs done."""
ANSWER_S: Final = LIMITS.redis_timeout_s + 1.0
"""Within so long a message with an id is answered, whatever Redis does."""
PONG_S: Final = 1.0
READY_S: Final = 1.0


class BrokenPromise(Exception):
    """Something was not as it has to be while a fault was active; the text says what."""


# --- waiting -----------------------------------------------------------------------------------


async def until(
    condition: Callable[[], Awaitable[Any]], what: str, limit_s: float = CALL_S
) -> None:
    """Wait until something is so; a Redis that is away says nothing about it.

    Raises:
        TimeoutError: it did not come to that; the text says to what.
    """
    try:
        async with asyncio.timeout(limit_s):
            while True:
                with contextlib.suppress(RedisError):
                    if await condition():
                        return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise TimeoutError(f"{what}: not within {limit_s:g} s") from None


async def ready(scene: Scene, limit_s: float = CALL_S) -> None:
    """Wait until a gateway has got over what was done to it or to Redis before.

    Raises:
        TimeoutError: it did not; the text has the reasons that it gives.
    """
    said = "nothing"

    async def is_ready() -> bool:
        nonlocal said
        status, said = await page(scene, "/ready")
        return status == 200

    try:
        await until(is_ready, f"{scene.gateway} ready", limit_s)
    except TimeoutError as problem:
        raise TimeoutError(f"{problem}; it says {said}") from None


async def page(scene: Scene, path: str) -> tuple[int, str]:
    """Fetch a page of the gateway; status 0 when it does not answer."""
    try:
        return await scene.world.gateways[scene.gateway].get(path, READY_S)
    except (OSError, TimeoutError, ValueError) as problem:
        return 0, f"{type(problem).__name__} {problem}"


async def answers(world: World) -> None:
    """Wait until Redis answers, and the witness sees it do so."""
    await until(world.admin.ping, "an answer of Redis")
    async with asyncio.timeout(CALL_S):
        await world.witness.watching.wait()


@contextlib.contextmanager
def held(strands: list[Strand], direction: Direction) -> Iterator[None]:
    """Hold one direction of connections, and let go whatever happens meanwhile."""
    for strand in strands:
        strand.hold(direction)
    try:
        yield
    finally:
        for strand in strands:
            strand.release(direction)


# --- bare connections --------------------------------------------------------------------------


async def dial(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and say nothing."""
    async with asyncio.timeout(CALL_S):
        return await asyncio.open_connection("127.0.0.1", port)


async def say_register(
    url: str, user: str, *, small_buffer: bool = False
) -> ClientConnection | None:
    """Connect and say who we are, without waiting for an answer; None if nobody is there."""
    extra: dict[str, Any] = {"sock": _narrow(url)} if small_buffer else {}
    try:
        async with asyncio.timeout(CALL_S):
            connection = await connect(
                url, ping_interval=None, compression=None, close_timeout=0.3, proxy=None, **extra
            )
            await connection.send(json.dumps({"type": "register", "userId": user}))
            return connection
    except (OSError, TimeoutError, WebSocketException):
        return None


def _narrow(url: str) -> socket.socket:
    """Return a connected socket with a small receive buffer."""
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    end.settimeout(CALL_S)
    end.connect(("127.0.0.1", int(url.split(":")[2].partition("/")[0])))
    end.setblocking(False)
    return end


async def registered(url: str, user: str, *, small_buffer: bool = False) -> ClientConnection | None:
    """Connect and register; None if that cannot be had just now."""
    connection = await say_register(url, user, small_buffer=small_buffer)
    if connection is None:
        return None
    try:
        async with asyncio.timeout(CALL_S):
            if json.loads(await connection.recv())["type"] == "registered":
                return connection
    except (TimeoutError, WebSocketException):
        pass
    connection.transport.abort()
    return None


async def must_register(scene: Scene, user: str, *, small_buffer: bool = False) -> ClientConnection:
    """Connect and register with the gateway of this scene; again, when told to come back.

    Raises:
        NotArranged: that could not be had: something else may be wrong with it, or with Redis.
    """
    url = scene.world.gateways[scene.gateway].url
    deadline = scene.world.clock() + CALL_S
    while scene.world.clock() < deadline:
        connection = await registered(url, user, small_buffer=small_buffer)
        if connection is not None:
            return connection
        await asyncio.sleep(LIMITS.retry_after_s)
    raise NotArranged(f"{user} could not register with {scene.gateway}")


async def begin_registers(scene: Scene, name: str, count: int) -> list[ClientConnection]:
    """Say register as several users of this name, and wait for no answer."""
    url = scene.world.gateways[scene.gateway].url
    begun = await asyncio.gather(*(say_register(url, f"{name}-{n}") for n in range(count)))
    return [connection for connection in begun if connection is not None]


def reset(transport: Any) -> None:
    """End a connection as a killed process or a lost phone does: with RST, and at once."""
    end = transport.get_extra_info("socket")
    if end is not None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


# --- guests ------------------------------------------------------------------------------------


class Guest:
    """A user of the fault's own: `async with Guest(scene, "neighbour-1") as neighbour`.

    Args:
        gateway: where she registers; by default the one that the fault is about.
        small_buffer: with a receive buffer of a few kilobytes.

    Raises:
        NotArranged: she could not register.
    """

    _numbers = itertools.count(1)

    def __init__(
        self, scene: Scene, user: str, gateway: str = "", *, small_buffer: bool = False
    ) -> None:
        # A name that nobody had before: no fence and no session of an earlier time.
        self.user = f"{user}-{next(self._numbers)}"
        self.received: list[str] = []
        """The ids of the messages that she was sent, in order."""
        self._gateway = scene.world.gateways[gateway or scene.gateway]
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._connection is not None:
            self._connection.transport.abort()

    @property
    def connection(self) -> ClientConnection:
        assert self._connection is not None
        return self._connection

    @property
    def here(self) -> bool:
        """Whether her connection is still there."""
        return not self._tasks[0].done()

    async def ask(self, *tos: str) -> list[str]:
        """Write to each of them, with ids; return what the gateway says of each message.

        Raises:
            BrokenPromise: one of them was not answered in time, or the connection ended.
        """
        ids = await self.write(*tos)
        return await self.answered(ids)

    async def write(self, *tos: str) -> list[str]:
        """Write to each of them, and return the ids."""
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
            lambda: all(msg_id in self._statuses for msg_id in ids), "her answers", within_s
        )
        return [self._statuses[msg_id] for msg_id in ids]

    async def pong(self, within_s: float = PONG_S) -> None:
        """Ask for a pong.

        Raises:
            BrokenPromise: it did not come in time, or the connection ended.
        """
        await self._ping()
        wanted = self._pings
        await self._until(lambda: self._pongs >= wanted, "a pong", within_s)

    async def got(self, count: int, within_s: float) -> None:
        """Wait until she has been given so many messages.

        Raises:
            BrokenPromise: that did not come true in time, or the connection ended.
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
            # The answer to another ping must not pass for one that is waited for.
            if self._pongs >= self._pings:
                await self._ping()

    async def _ping(self) -> None:
        self._pings += 1
        with contextlib.suppress(ConnectionClosed):
            await self.connection.send('{"type":"ping"}')
