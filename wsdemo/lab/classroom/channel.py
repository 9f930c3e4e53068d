"""Feed: how do JSON documents travel between the room and a page, over a WebSocket of the room?

The protocol itself is the sans-I/O half of `websockets`; here bytes are read and written. A page
that does not read is not waited for: beyond a limit its connection is reset, and it comes back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from wsdemo.lab.classroom.documents import json_object
from wsdemo.lab.classroom.http import HEAD_BYTES, HttpRequest
from wsdemo.lab.classroom.listener import BrowserConnection
from wsdemo.lab.classroom.rate_limit import Throttle

MESSAGE_BYTES: Final = 4 * 1024
"""A longer message to the room closes the feed (1009)."""
UNREAD_BYTES: Final = 8 * 1024 * 1024
"""A page that has so much unread is hung up on; it comes back and gets it all again."""
PING_S: Final = 20.0
"""A page that was silent for so long is asked; when it is silent as long again, it is gone."""
READ_S: Final = 30.0
"""How long a page may take to read a part of the history."""
CONTROL: Final = frozenset({Opcode.CLOSE, Opcode.PING, Opcode.PONG})


class FeedChannel:
    """A WebSocket on a connection whose request head has been read."""

    def __init__(self, request: HttpRequest, connection: BrowserConnection) -> None:
        self._request = request
        self._connection = connection
        self._protocol = ServerProtocol(max_size=MESSAGE_BYTES)
        self._accepted = False

    def accept(self) -> bool:
        """Answer the handshake; say whether it is a WebSocket now."""
        self._protocol.receive_data(self._request.head)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                response = self._protocol.accept(event)
                self._protocol.send_response(response)
                self._accepted = response.status_code == 101
        self._flush()
        return self._accepted

    @property
    def is_open(self) -> bool:
        return (
            self._accepted
            and self._protocol.state is State.OPEN
            and not self._connection.writer.transport.is_closing()
        )

    @property
    def unread_bytes(self) -> int:
        """How much waits in this process; what waits in the two kernels is not known."""
        return self._connection.writer.transport.get_write_buffer_size()

    def send(self, text: str) -> None:
        """Send a text now; reset the connection of a page that reads too little."""
        if not self.is_open:
            return
        if self.unread_bytes > UNREAD_BYTES:
            self._connection.reset()
            return
        self._protocol.send_text(text.encode())
        self._flush()

    def tell(self, document: Mapping[str, Any]) -> None:
        """Send a document."""
        self.send(json.dumps(document, separators=(",", ":")))

    async def send_slowly(self, texts: Iterable[str]) -> None:
        """Send many texts, as fast as the page reads them.

        Raises:
            TimeoutError: it did not read in time.
        """
        for text in texts:
            self.send(text)
            async with asyncio.timeout(READ_S):
                await self._connection.writer.drain()

    def admit(self) -> None:
        """Somebody who may be here: keep the connection when the room is full."""
        self._connection.admitted = True

    def reset(self) -> None:
        """Hang up on a page that does not read."""
        self._connection.reset()

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame; `receive` returns then."""
        if self.is_open:
            self._protocol.send_close(code, reason)
            self._flush()

    async def receive(
        self, take: Callable[[dict[str, Any]], None], throttle: Callable[[], Throttle]
    ) -> None:
        """Take each document that the page sends, until the end; read no faster than allowed.

        Args:
            throttle: returns what slows the page down. It may change with what the page says.
        """
        was_asked = False
        try:
            while self.is_open:
                try:
                    async with asyncio.timeout(PING_S):
                        data = await self._connection.reader.read(HEAD_BYTES)
                except TimeoutError:
                    if was_asked:
                        self._connection.reset()
                        return
                    was_asked = True
                    self._protocol.send_ping(b"")
                    self._flush()
                    continue
                was_asked = False
                if not data:
                    return
                self._protocol.receive_data(data)
                self._flush()
                for event in self._protocol.events_received():
                    if isinstance(event, Frame):
                        # Pings too: each is answered, and a flood of them would stop the loop.
                        await throttle().take()
                        if event.opcode not in CONTROL:
                            self._take_frame(event, take)
        except WebSocketException:
            pass  # A ping after the close frame: there is nobody to tell any more.

    def _take_frame(self, frame: Frame, take: Callable[[dict[str, Any]], None]) -> None:
        whole_text = frame.opcode is Opcode.TEXT and frame.fin
        document = json_object(bytes(frame.data)) if whole_text else None
        if document is None:
            self.close(1003, "only JSON objects are understood")
        elif self.is_open:
            take(document)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data and not self._connection.writer.transport.is_closing():
                self._connection.writer.write(data)
