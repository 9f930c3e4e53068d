"""Visitors of a class room: browsers without a browser, down to the bytes."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from wsdemo.lab.classroom.room import Classroom

PATIENCE_S = 10.0


def origin(room: Classroom) -> str:
    return f"http://127.0.0.1:{room.port}"


@contextlib.contextmanager
def websocket(room: Classroom, path: str, **options: Any) -> Iterator[ClientConnection]:
    """A WebSocket from a page of the room."""
    # A client of the library whose queue is full does not hear a close frame.
    options = {"origin": origin(room), "max_queue": None, "close_timeout": 1.0, **options}
    with connect(f"ws://127.0.0.1:{room.port}{path}", proxy=None, **options) as opened:
        yield opened


def hear(opened: ClientConnection, kind: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
    """Return the next document of this type."""
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        document: dict[str, Any] = json.loads(opened.recv(left_s))
        if document.get("type") == kind:
            return document
    raise AssertionError(f"no {kind} within {timeout_s:g} s")


def say(opened: ClientConnection, **document: Any) -> None:
    opened.send(json.dumps(document))


def closing(opened: ClientConnection, timeout_s: float = PATIENCE_S) -> tuple[int, str]:
    """Read until the connection ends; return code and reason, 1006 without a close frame."""
    try:
        while True:
            opened.recv(timeout_s)
    except ConnectionClosed as closed:
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


class Student:
    """Somebody who has joined, with the page's feed open."""

    def __init__(self, room: Classroom, feed: ClientConnection, seated: dict[str, Any]) -> None:
        self._room = room
        self.feed = feed
        self.user = str(seated["user"])
        self.secret = str(seated["seat"])
        self.seated = seated

    def path(self, gateway: str) -> str:
        return f"/gw/{gateway}/ws?seat={self.secret}"

    @contextlib.contextmanager
    def at(self, gateway: str = "gateway-01") -> Iterator[ClientConnection]:
        """Registered at a gateway."""
        with websocket(self._room, self.path(gateway)) as opened:
            say(opened, type="register", userId=self.user)
            hear(opened, "registered")
            yield opened


@contextlib.contextmanager
def student(room: Classroom, name: str = "Zoë", code: str = "") -> Iterator[Student]:
    """Join the class; the seat is left again at the end."""
    with websocket(room, "/desk") as feed:
        say(feed, type="join", code=code or room.code, name=name)
        seated = hear(feed, "seated")
        yield Student(room, feed, seated)


@contextlib.contextmanager
def teacher(room: Classroom) -> Iterator[ClientConnection]:
    """The teacher's board, all of the past read."""
    cookie = redeem(room)
    with websocket(room, "/feed", additional_headers={"Cookie": cookie}) as board:
        assert hear(board, "hello")["role"] == "teacher"
        hear(board, "live")
        yield board


def redeem(room: Classroom) -> str:
    """Follow the teacher's link, and return the cookie."""
    path = room.board_url().partition(f":{room.port}")[2]
    answer = fetch(room, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{room.port}\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 303 "), answer
    (line,) = (one for one in answer.decode().split("\r\n") if one.startswith("Set-Cookie: "))
    return line.removeprefix("Set-Cookie: ").partition(";")[0]


def press(board: ClientConnection, what: str, **on: Any) -> dict[str, Any]:
    """Press a button, and return its answer."""
    say(board, type="do", what=what, **on)
    while True:
        document: dict[str, Any] = json.loads(board.recv(PATIENCE_S))
        if document["type"] in ("done", "failed"):
            return document


def dial(room: Classroom, from_address: str = "") -> socket.socket:
    """A plain connection."""
    source = (from_address, 0) if from_address else None
    return socket.create_connection(("127.0.0.1", room.port), PATIENCE_S, source)


def read_all(end: socket.socket, timeout_s: float = PATIENCE_S) -> bytes:
    """Read until the other side has ended the connection."""
    end.settimeout(timeout_s)
    parts = []
    while part := end.recv(65536):
        parts.append(part)
    return b"".join(parts)


def fetch(room: Classroom, head: str | bytes) -> bytes:
    """Send these bytes, and return the whole answer."""
    data = head.encode("latin-1") if isinstance(head, str) else head
    with dial(room) as end:
        end.sendall(data.replace(b"{host}", f"127.0.0.1:{room.port}".encode()))
        return read_all(end)


def handshake(room: Classroom, path: str, *, page: str | None = None) -> bytes:
    """Return the request of a browser for a WebSocket.

    Args:
        page: the Origin; that of the room by default, none when empty.
    """
    page = origin(room) if page is None else page
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{room.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        *([f"Origin: {page}"] if page else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def frame(payload: str | bytes, opcode: int = 1, *, fin: bool = True, masked: bool = True) -> bytes:
    """Return a frame of a browser, or of nobody's browser."""
    data = payload.encode() if isinstance(payload, str) else payload
    mask = b"\x01\x02\x03\x04" if masked else b""
    if masked:
        data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
    flag = 0x80 if masked else 0
    if len(data) < 126:
        size = bytes([flag | len(data)])
    elif len(data) < 65536:
        size = bytes([flag | 126]) + struct.pack("!H", len(data))
    else:
        size = bytes([flag | 127]) + struct.pack("!Q", len(data))
    return bytes([(0x80 if fin else 0) | opcode]) + size + mask + data


def upgraded(room: Classroom, path: str, **options: Any) -> socket.socket:
    """A plain connection on which the handshake is over."""
    end = dial(room, **options)
    end.sendall(handshake(room, path))
    head = b""
    while b"\r\n\r\n" not in head:
        part = end.recv(1)
        assert part, head
        head += part
    assert head.startswith(b"HTTP/1.1 101 "), head
    return end


def close_code(data: bytes) -> int:
    """Return the code of the close frame at the end of what a server sent; 1006 without one."""
    at = 0
    while at + 2 <= len(data):
        opcode, size, begin = data[at] & 0x0F, data[at + 1] & 0x7F, at + 2
        if size == 126:
            size, begin = struct.unpack_from("!H", data, at + 2)[0], at + 4
        if opcode == 8:
            return int(struct.unpack_from("!H", data, begin)[0]) if size else 1005
        at = begin + size
    return 1006
