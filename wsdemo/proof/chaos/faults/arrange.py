"""Fault set-up: how does a fault reach its precondition?

With waits that have a deadline, and with bare connections: what the real client never does, these
can do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from redis.exceptions import RedisError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from wsdemo.proof.chaos.cluster import LIMITS, ProcessCluster
from wsdemo.proof.chaos.fault import NotArranged, Scene
from wsdemo.rig.waiting import wait_until
from wsdemo.rig.wire import Direction, Strand

CALL_S: Final = 10.0
"""The longest wait for one thing that a fault needs done."""
READY_S: Final = 1.0


class BrokenPromise(Exception):
    """A promise was broken while a fault was active; the text says which."""


# --- waiting -----------------------------------------------------------------------------------


async def until(
    condition: Callable[[], Awaitable[Any]], what: str, limit_s: float = CALL_S
) -> None:
    """Wait until a condition holds; a Redis that is not reachable means "not yet".

    Raises:
        TimeoutError: it did not hold in time; the text says what was waited for.
    """
    await wait_until(what, condition, limit_s, ignoring=(RedisError,))


async def ready(scene: Scene, limit_s: float = CALL_S) -> None:
    """Wait until a gateway has recovered from earlier faults, its own or those of Redis.

    Raises:
        TimeoutError: it has not; the text has the reasons that it gives.
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
        return await scene.cluster.gateways[scene.gateway].get(path, READY_S)
    except (OSError, TimeoutError, ValueError) as problem:
        return 0, f"{type(problem).__name__} {problem}"


async def answers(cluster: ProcessCluster) -> None:
    """Wait until Redis answers, and the witness sees it do so."""
    await until(cluster.admin.ping, "an answer of Redis")
    async with asyncio.timeout(CALL_S):
        await cluster.witness.watching.wait()


@contextlib.contextmanager
def held(strands: list[Strand], direction: Direction) -> Iterator[None]:
    """Hold one direction of connections, and release it whatever happens."""
    for strand in strands:
        strand.hold(direction)
    try:
        yield
    finally:
        for strand in strands:
            strand.release(direction)


# --- bare connections --------------------------------------------------------------------------


async def dial(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and send nothing."""
    async with asyncio.timeout(CALL_S):
        return await asyncio.open_connection("127.0.0.1", port)


async def say_register(
    url: str, user: str, *, small_buffer: bool = False
) -> ClientConnection | None:
    """Connect and send a register, without waiting for an answer; None if nobody listens."""
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
    """Connect and register; None if that is not possible now."""
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
    """Connect and register with the gateway of this scene; try again when told to do so.

    Raises:
        NotArranged: it was not possible: another fault may be active there, or at Redis.
    """
    url = scene.cluster.gateways[scene.gateway].url
    deadline = scene.cluster.clock() + CALL_S
    while scene.cluster.clock() < deadline:
        connection = await registered(url, user, small_buffer=small_buffer)
        if connection is not None:
            return connection
        await asyncio.sleep(LIMITS.retry_after_s)
    raise NotArranged(f"{user} could not register with {scene.gateway}")


async def begin_registers(scene: Scene, name: str, count: int) -> list[ClientConnection]:
    """Send the registers of several users of this name, and wait for no answer."""
    url = scene.cluster.gateways[scene.gateway].url
    begun = await asyncio.gather(*(say_register(url, f"{name}-{n}") for n in range(count)))
    return [connection for connection in begun if connection is not None]


def reset(transport: Any) -> None:
    """End a connection at once with RST, as a killed process or a lost phone does."""
    end = transport.get_extra_info("socket")
    if end is not None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
