"""WebSocket frames: where does one end in a stream of bytes, and is it one that a page sends?

A relay passes on a student's frames only as a whole, each after a look at it (`StudentFrames`). Of
a gateway's frames it needs to know only where they end (`FrameEnds`): a close frame of our own must
not stand in the middle of another one. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from websockets.frames import Opcode

FRAME_BYTES: Final = 2 * 1024
"""A student's page sends 200 characters at most."""
CONTROL_BYTES: Final = 125
KNOWN: Final = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE, Opcode.PING, Opcode.PONG})
REASON_BYTES: Final = 120


class FrameRefused(Exception):
    """A frame that no student's page sends; the connection ends with this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class StudentFrame(NamedTuple):
    """A whole frame: what it is, what it says, and its bytes as they came."""

    opcode: int
    payload: bytes
    raw: bytes


class StudentFrames:
    """Cuts the bytes of a student's browser into whole frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[StudentFrame]:
        """Yield the frames that are whole now; keep the rest for the next time.

        Raises:
            FrameRefused: the next frame is none of a page. Those before it have been yielded.
        """
        received, at = self._rest + data, 0
        try:
            while (frame := _frame_at(received, at)) is not None:
                at += len(frame.raw)
                yield frame
        finally:
            self._rest = received[at:]


def _frame_at(data: bytes, at: int) -> StudentFrame | None:
    """Return the frame that begins here; None while it is not whole."""
    if len(data) < at + 2:
        return None
    first, second = data[at], data[at + 1]
    opcode, size = first & 0x0F, second & 0x7F
    _require_usual(first, second)
    begin = at + 2
    if size == 126:
        if len(data) < at + 4:
            return None
        (size,) = struct.unpack_from("!H", data, at + 2)
        begin = at + 4
    if size > FRAME_BYTES:
        raise FrameRefused(1009, "a message has at most 2 KiB")
    end = begin + 4 + size
    if len(data) < end:
        return None
    payload = _unmasked(data[begin + 4 : end], data[begin : begin + 4])
    return StudentFrame(opcode, payload, data[at:end])


def _require_usual(first: int, second: int) -> None:
    """Look at the first two bytes of a frame.

    Raises:
        FrameRefused: no page sends such a frame.
    """
    opcode, size = first & 0x0F, second & 0x7F
    if not second & 0x80 or first & 0x70:
        raise FrameRefused(1002, "not a frame of a browser")
    if opcode == Opcode.CONT or not first & 0x80:
        raise FrameRefused(1009, "a message comes in one piece")
    if opcode not in KNOWN or (opcode & 0x08 and size > CONTROL_BYTES):
        raise FrameRefused(1002, "not a frame of a browser")
    if size == 127:
        raise FrameRefused(1009, "a message has at most 2 KiB")


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


class FrameEnds:
    """Follows the frames of a gateway, which are not masked."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._payload_left = 0

    def feed(self, data: bytes) -> None:
        """Take what is passed on."""
        at = 0
        while at < len(data):
            if self._payload_left:
                step = min(self._payload_left, len(data) - at)
                self._payload_left -= step
                at += step
                continue
            self._head.append(data[at])
            at += 1
            if len(self._head) == _head_bytes(self._head):
                self._payload_left = _payload_bytes(self._head)
                self._head.clear()

    @property
    def is_between_frames(self) -> bool:
        """Whether all that was passed on is whole frames."""
        return not self._head and not self._payload_left


def _head_bytes(head: bytearray) -> int:
    if len(head) < 2:
        return 2
    return {126: 4, 127: 10}.get(head[1] & 0x7F, 2)


def _payload_bytes(head: bytearray) -> int:
    size = head[1] & 0x7F
    return size if size < 126 else int.from_bytes(head[2:], "big")


def close_frame(code: int, reason: str) -> bytes:
    """Return a close frame of a server."""
    body = struct.pack("!H", code) + reason.encode()[:REASON_BYTES]
    return bytes([0x80 | Opcode.CLOSE, len(body)]) + body
