"""Reverse proxy: a room under a path of another server, as a hub shows it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

PREFIX: Final = "/class"


@contextlib.asynccontextmanager
async def prefix_proxy(upstream: list[int]) -> AsyncIterator[int]:
    """Take `/class` away from each path, and pass everything else on as it is; yield the port.

    Args:
        upstream: the port of the room, when there is one.
    """
    open_ends: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ends.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            up, down = await asyncio.open_connection("127.0.0.1", upstream[0])
            down.write(head.replace(b" " + PREFIX.encode(), b" ", 1))
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass(reader, down))
                both.create_task(_pass(up, writer))
        writer.close()
        open_ends.discard(task)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            for task in list(open_ends):
                task.cancel()
            await asyncio.gather(*open_ends, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
