"""Listener: who may connect to the one port of the room, and which requests are answered?

Each connection is one request. Its head is read within a time and a length, and judged: the Host
header must be ours (against DNS rebinding), and a WebSocket must come from a page of ours (the
Origin header). Then the connection gets a reply, or becomes a feed or a relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final

from wsdemo import tasks
from wsdemo.lab.classroom.http import (
    END_OF_HEAD,
    HEAD_BYTES,
    BadRequest,
    HttpReply,
    HttpRequest,
    parse_head,
    refusal,
)

HEAD_S: Final = 5.0
"""A request head that is not whole by then ends the connection."""
CONNECTIONS: Final = 400
PER_ADDRESS: Final = 120
"""Students behind one address translator have one address."""
GOODBYE_S: Final = 1.0
"""How long the other end may take to read the last bytes."""
RESET: Final = struct.pack("ii", 1, 0)


class BrowserConnection:
    """A connection of a browser, after its request head was read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        peer = writer.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        """Of the other end; empty when it is gone already."""
        self.admitted = False
        """Whether it has shown a seat, the code or the teacher's cookie."""

    async def reply(self, reply: HttpReply, method: str = "GET") -> None:
        self.writer.write(reply.render(method))
        await self.writer.drain()

    def reset(self) -> None:
        """End it by a TCP reset: what was not sent is dropped, and a browser sees 1006."""
        reset(self.writer)

    async def finish(self) -> None:
        """Send what is left, and close when the other end has; within a time.

        A close with unread bytes would be a reset, and could destroy a reply that was not read.
        """
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self.writer.drain()
                if self.writer.can_write_eof():
                    self.writer.write_eof()
                while await self.reader.read(HEAD_BYTES):
                    pass
        self.writer.transport.abort()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by a TCP reset."""
    end = writer.get_extra_info("socket")
    if end is not None and not writer.transport.is_closing():
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


Answer = Callable[[HttpRequest, BrowserConnection], Awaitable[HttpReply | None]]


class RoomListener:
    """The one port of a room.

    Args:
        answer: makes a reply, or uses the connection until its end and returns None.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.hosts: set[str] = set()
        """What a Host header may say; anything else is another site that points here."""
        self.origins: set[str] = set()
        """Whose pages may open a WebSocket."""
        self.per_address = PER_ADDRESS
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts: Counter[str] = Counter()
        """How many connections each address has."""
        self.connections: dict[BrowserConnection, None] = {}
        """The oldest first."""
        self._stopped = False

    async def start(self, addresses: Sequence[str], port: int) -> int:
        """Listen on these addresses, at one port of all of them, and return it.

        Raises:
            OSError: it is not free, or no address of this machine. Nothing listens then.
        """
        try:
            for address in addresses:
                server = await asyncio.start_server(
                    self._connected, address, port, limit=HEAD_BYTES
                )
                self._servers.append(server)
                port = server.sockets[0].getsockname()[1]
        except OSError:
            await self.stop()
            raise
        return port

    async def stop(self) -> None:
        """Listen no more, and end all connections. Idempotent."""
        self._stopped = True
        for server in self._servers:
            server.close()
        await tasks.end(*self._tasks)

    # --- a connection ------------------------------------------------------------------------

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection in a task of our own: of one of its own, asyncio (before 3.12.1)
        reports a cancellation as a failure.
        """
        if self._stopped:
            writer.transport.abort()
            return
        connection = BrowserConnection(reader, writer)
        task = asyncio.create_task(self._serve(connection), name=f"room {connection.address}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: BrowserConnection) -> None:
        address = connection.address
        try:
            if self._has_place(address):
                self.connections[connection] = None
                self._counts[address] += 1
                await self._serve_request(connection, address)
            else:
                full = refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections")
                await connection.reply(full)
            await connection.finish()
        except (OSError, asyncio.IncompleteReadError):
            pass  # The browser is gone, or said nothing in time: TimeoutError is an OSError.
        finally:
            connection.writer.transport.abort()
            self._forget(connection)

    def _has_place(self, address: str) -> bool:
        """Say whether one more connection can be served.

        In a full room, somebody who is not admitted makes place, the oldest first, of the address
        that has most of them: whoever opens many connections takes the room from nobody else.
        """
        if self._counts[address] >= self.per_address:
            return self._make_place(address)
        if len(self.connections) >= CONNECTIONS:
            strangers = Counter(one.address for one in self.connections if not one.admitted)
            return bool(strangers) and self._make_place(strangers.most_common(1)[0][0])
        return True

    def _make_place(self, address: str) -> bool:
        for one in self.connections:
            if one.address == address and not one.admitted:
                one.reset()
                self._forget(one)
                return True
        return False

    def _forget(self, connection: BrowserConnection) -> None:
        """Count a connection no more. Idempotent."""
        if connection in self.connections:
            del self.connections[connection]
            self._counts[connection.address] -= 1
            if not self._counts[connection.address]:
                del self._counts[connection.address]

    async def _serve_request(self, connection: BrowserConnection, address: str) -> None:
        try:
            request = await self._read_request(connection, address)
            reply = await self._answer(request, connection)
        except asyncio.LimitOverrunError:
            reply = refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except BadRequest as problem:
            reply = refusal(problem.status)
        else:
            if reply is not None:
                await connection.reply(reply, request.method)
            return
        await connection.reply(reply)

    async def _read_request(self, connection: BrowserConnection, address: str) -> HttpRequest:
        async with asyncio.timeout(HEAD_S):
            head = await connection.reader.readuntil(END_OF_HEAD)
        request = parse_head(head, address)
        if request.host not in self.hosts:
            raise BadRequest(HTTPStatus.MISDIRECTED_REQUEST)
        if request.is_websocket and request.origin not in self.origins:
            raise BadRequest(HTTPStatus.FORBIDDEN)
        return request
