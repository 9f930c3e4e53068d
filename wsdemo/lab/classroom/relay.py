"""Byte relay: how does a student's browser reach a gateway through the one port of the room?

Bytes pass as they are, so pings, close codes and broken connections are the gateway's own. A relay
of messages would answer the gateway's pings for a phone that sleeps, and would turn a break (1006)
into a clean close. What the relay adds: a student speaks only as itself, and not too fast. Who is
too fast is read later, so TCP makes its browser wait. Either end that does not read makes the other
one wait, and nothing piles up here.
"""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from typing import Final

from websockets.frames import Opcode

from wsdemo import tasks
from wsdemo.lab.classroom.documents import json_object
from wsdemo.lab.classroom.frames import (
    FrameEnds,
    FrameRefused,
    StudentFrame,
    StudentFrames,
    close_frame,
)
from wsdemo.lab.classroom.http import END_OF_HEAD, HttpReply, HttpRequest, refusal
from wsdemo.lab.classroom.listener import BrowserConnection, reset
from wsdemo.lab.classroom.rate_limit import Throttle

LOOPBACK: Final = "127.0.0.1"
CHUNK: Final = 16 * 1024
DIAL_S: Final = 2.0
HANDSHAKE_S: Final = 10.0
"""A frozen gateway does not answer. Pages have a shorter deadline of their own."""
STALLED_S: Final = 30.0
"""An end that reads nothing for so long is given up."""
HALF_CLOSED_S: Final = 5.0
"""How long one direction may go on after the other has ended."""
MESSAGES_PER_S: Final = 4.0
BURST: Final = 12
PASSED_ON: Final = ("sec-websocket-key", "sec-websocket-version", "user-agent")
"""Not the Origin: the listener has judged it, and a gateway admits who sends none."""


class GatewayRelay:
    """One student's connection to a gateway.

    Args:
        user: the user id of the student's seat.
        port: where the gateway listens now. After a restart it may be another one.
    """

    def __init__(
        self, request: HttpRequest, connection: BrowserConnection, user: str, port: int
    ) -> None:
        self._request = request
        self._student = connection
        self._user = user
        self._port = port
        self._ends = FrameEnds()
        self._registered = False
        self._throttle = Throttle(MESSAGES_PER_S, BURST)

    async def run(self) -> HttpReply | None:
        """Pass bytes on until the end; return a reply when there is no gateway."""
        try:
            async with asyncio.timeout(DIAL_S):
                reader, writer = await asyncio.open_connection(LOOPBACK, self._port, limit=CHUNK)
        except OSError:  # TimeoutError is one.
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Nobody listens there")
        for end in (self._student.writer, writer):
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            writer.write(self._handshake())
            if await self._pass_handshake(reader):
                await self._pass_on(reader, writer)
        finally:
            writer.transport.abort()
        return None

    # --- the handshake -----------------------------------------------------------------------

    def _handshake(self) -> bytes:
        headers = self._request.headers
        lines = [
            "GET /ws HTTP/1.1",
            f"Host: {LOOPBACK}:{self._port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            *(f"{name}: {headers[name]}" for name in PASSED_ON if name in headers),
            f"X-Forwarded-For: {self._request.address}",
        ]
        return "\r\n".join(lines).encode() + END_OF_HEAD

    async def _pass_handshake(self, reader: asyncio.StreamReader) -> bool:
        """Pass on how the gateway answers; say whether it is a WebSocket now."""
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                head = await reader.readuntil(END_OF_HEAD)
                self._student.writer.write(head)
                if head.startswith(b"HTTP/1.1 101 "):
                    return True
                while data := await reader.read(CHUNK):  # A refusal, with its words.
                    self._student.writer.write(data)
                    await self._student.writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self._student.reset()
        return False

    # --- both directions ---------------------------------------------------------------------

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up = asyncio.create_task(self._pass_up(writer), name=f"relay up {self._user}")
        down = asyncio.create_task(self._pass_down(reader), name=f"relay down {self._user}")
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if _ended_well(up) and _ended_well(down):
                # One side has said its last word; the other may still have some on the way.
                await asyncio.wait({up, down}, timeout=HALF_CLOSED_S)
        finally:
            await tasks.end(up, down)
            # Both are asked, also when the room is closed meanwhile: asyncio reports a failure
            # that nobody has asked for.
            problems = _problem(up), _problem(down)
        problem = problems[0] or problems[1]
        if isinstance(problem, FrameRefused) and self._ends.is_between_frames:
            self._student.writer.write(close_frame(problem.code, problem.reason))
        elif problem is not None:
            # A break of one end is a break of the other, and nothing cleaner.
            self._student.reset()
            reset(writer)

    async def _pass_up(self, writer: asyncio.StreamWriter) -> None:
        frames = StudentFrames()
        while data := await self._student.reader.read(CHUNK):
            for frame in frames.feed(data):
                self._require_own(frame)
                if frame.opcode != Opcode.CLOSE:
                    await self._throttle.take()
                writer.write(frame.raw)
                await _drained(writer)
        writer.write_eof()

    async def _pass_down(self, reader: asyncio.StreamReader) -> None:
        student = self._student.writer
        while data := await reader.read(CHUNK):
            self._ends.feed(data)
            student.write(data)
            await _drained(student)
        student.write_eof()

    def _require_own(self, frame: StudentFrame) -> None:
        """Refuse what no page of this student sends.

        Raises:
            FrameRefused: binary, a message before `register`, or somebody else's name.
        """
        if frame.opcode == Opcode.BINARY:
            raise FrameRefused(1003, "only text")
        if frame.opcode != Opcode.TEXT:
            return
        document = json_object(frame.payload)
        if document is not None and document.get("type") == "register":
            if document.get("userId") != self._user:
                raise FrameRefused(4513, "this seat is somebody else's")
            self._registered = True
        elif not self._registered:
            raise FrameRefused(4001, "register first")


async def _drained(writer: asyncio.StreamWriter) -> None:
    """Wait until the other end has read enough.

    Raises:
        TimeoutError: it reads nothing.
    """
    async with asyncio.timeout(STALLED_S):
        await writer.drain()


def _problem(task: asyncio.Task[None]) -> BaseException | None:
    return None if task.cancelled() or not task.done() else task.exception()


def _ended_well(task: asyncio.Task[None]) -> bool:
    return _problem(task) is None
