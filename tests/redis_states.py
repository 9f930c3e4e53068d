"""A real Redis in each state in which it answers and refuses, for as long as a test likes.

Each state is entered on the way into the block and left on the way out of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import redis.asyncio as redis_client

from tests.waiting import until
from wsdemo.redis.outcome import Outcome
from wsdemo.redis.server import BundledServer

State = Callable[[BundledServer, Any], AbstractAsyncContextManager[None]]
"""Makes the state: gets the server, and a client with all rights."""


@contextlib.asynccontextmanager
async def replica(server: BundledServer, database: Any) -> AsyncIterator[None]:
    """A primary that became a replica of a missing server; its clients stay connected."""
    await database.replicaof("127.0.0.1", free_port())
    try:
        yield
    finally:
        await database.replicaof("NO", "ONE")


@contextlib.asynccontextmanager
async def orphan(server: BundledServer, database: Any) -> AsyncIterator[None]:
    """A replica without its primary that does not show old data."""
    await database.config_set("replica-serve-stale-data", "no")
    async with replica(server, database):
        yield


@contextlib.asynccontextmanager
async def writable_replica(server: BundledServer, database: Any) -> AsyncIterator[None]:
    """A replica that takes writes, which are lost at the next synchronisation."""
    await database.config_set("replica-read-only", "no")
    async with replica(server, database):
        yield


@contextlib.asynccontextmanager
async def unsaved(server: BundledServer, database: Any) -> AsyncIterator[None]:
    """A server that could not save its data, and refuses writes since."""
    await database.config_set("save", "3600 1")
    (server.directory / "dump.rdb").mkdir()

    async def has_failed() -> bool:
        info = await database.info("persistence")
        if info["rdb_last_bgsave_status"] == "err":
            return True
        with contextlib.suppress(redis_client.ResponseError):  # One may be under way.
            await database.bgsave()
        return False

    await until("a save has failed", has_failed)
    try:
        yield
    finally:
        await database.config_set("save", "")
        (server.directory / "dump.rdb").rmdir()


@contextlib.asynccontextmanager
async def full(server: BundledServer, database: Any) -> AsyncIterator[None]:
    """A server without memory for another key."""
    await database.config_set("maxmemory", "1")
    try:
        yield
    finally:
        await database.config_set("maxmemory", "0")


@contextlib.asynccontextmanager
async def lonely(server: BundledServer, database: Any) -> AsyncIterator[None]:
    """A primary that wants a replica before it takes writes."""
    await database.config_set("min-replicas-to-write", "1")
    try:
        yield
    finally:
        await database.config_set("min-replicas-to-write", "0")


@contextlib.asynccontextmanager
async def busy(server: BundledServer, database: Any) -> AsyncIterator[None]:
    """A server that is busy with a script of another client."""
    await database.config_set("busy-reply-threshold", "10")
    hold = redis_client.Redis.from_url(server.url)
    forever: Any = hold.eval("while true do end", 0)
    runs: asyncio.Task[Any] = asyncio.create_task(forever, name="somebody's script")

    async def refuses() -> bool:
        try:
            await database.get("x")
        except redis_client.ResponseError as problem:
            return str(problem).startswith("BUSY")
        return False

    await until("it is busy", refuses)
    try:
        yield
    finally:
        await database.script_kill()
        with contextlib.suppress(redis_client.ResponseError):
            await runs
        await hold.aclose()


STATES: Final[Mapping[str, tuple[State, Outcome, str]]] = {
    "a primary that became a replica": (replica, Outcome.READONLY, "READONLY"),
    "a replica without its primary": (orphan, Outcome.READONLY, "READONLY"),
    "a replica that takes writes": (writable_replica, Outcome.READONLY, "replica"),
    "unable to save": (unsaved, Outcome.MISCONF, "MISCONF"),
    "full": (full, Outcome.OOM, "OOM"),
    "without enough replicas": (lonely, Outcome.NOREPLICAS, "NOREPLICAS"),
    "busy with a script": (busy, Outcome.BUSY, "BUSY"),
}
"""State, how the link classifies it, and a word of Redis' error."""

SLOW_TO_LOAD: Final = {
    "key-load-delay": "1000",  # Microseconds a key.
    "loading-process-events-interval-bytes": "1024",
}
"""Settings with which a server takes long to load some thousand keys, until it is told not to.
"""


async def many_keys(database: Any) -> None:
    """Store so many keys that a server with `SLOW_TO_LOAD` takes long to load them."""
    pipeline = database.pipeline(transaction=False)
    for n in range(20_000):
        pipeline.set(f"ballast:{n}", "x" * 16)
    await pipeline.execute()


async def load_quickly(database: Any) -> None:
    """Let a server that is loading its data be done with it."""
    await database.config_set("key-load-delay", "0")


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
