"""WebSocket frames: how does a client read and write them at a very low cost?

Just enough of RFC 6455 for a load whose own cost must be small: a fixed handshake, text frames that
are masked with zeros, and a parser of what a server sends. The users of a load and the connections
of an attacker both build on `FrameClient`.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
REGISTERED = b'"registered"'
"""What the answer to a successful register contains."""
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
"""First bytes of frames."""
UPGRADED = "101"
"""Status of the answer to a handshake that succeeded."""


def frame(text: bytes) -> bytes:
    """Return a text frame as a client sends it, masked with zeros (which changes nothing)."""
    size = len(text)
    if size < 126:
        return b"\x81" + bytes([0x80 | size]) + b"\0\0\0\0" + text
    return b"\x81\xfe" + struct.pack("!H", size) + b"\0\0\0\0" + text


def pong(payload: bytes) -> bytes:
    """Return the answer to a ping."""
    return bytes([PONG, 0x80 | len(payload)]) + b"\0\0\0\0" + payload


def register(name: str) -> bytes:
    """Return the frame that registers a user."""
    return frame(b'{"type":"register","userId":"%b"}' % name.encode())


def parse_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return the whole frames in `data`, each as its first byte and its payload, and the rest.

    A server's frames are not masked, and none here is 64 KiB long.
    """
    frames = []
    at, size = 0, len(data)
    while size - at >= 2:
        length, begins = data[at + 1], at + 2
        if length == 126:
            length, begins = int.from_bytes(data[at + 2 : at + 4]), at + 4
        if size < begins + length or size < begins:
            break
        frames.append((data[at], data[begins : begins + length]))
        at = begins + length
    return frames, data[at:]


class FrameClient(asyncio.Protocol):
    """A client's side of one WebSocket. A subclass says what it does with what arrives."""

    def __init__(self) -> None:
        self.transport: Any = None
        self._tail = b""
        self._upgraded = False

    def _answered(self, status: str) -> None:
        """Take the status of the answer to the handshake (HTTP)."""
        raise NotImplementedError

    def _take(self, first: int, payload: bytes) -> None:
        """Take one frame: its first byte, its payload."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        if not self._upgraded:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._tail = head
                return
            self._upgraded = True
            self._answered(head.split(b" ", 2)[1].decode())
        frames, self._tail = parse_frames(data)
        for first, payload in frames:
            self._take(first, payload)
