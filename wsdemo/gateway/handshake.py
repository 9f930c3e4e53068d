"""Is this the handshake that nearly every client sends, and what is the answer?

Browsers and libraries ask for a WebSocket in one packet with a handful of headers. That common
request is answered here in a few microseconds. Whatever is not plainly of the common kind, valid
or not, is left to the general parser of websockets, which knows all the rest; a test holds the
answers of both together, byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple

from websockets.http11 import MAX_NUM_HEADERS

FIRST_LINE: Final = b"GET /ws HTTP/1.1"
MAX_BYTES: Final = 2048
GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3

_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[ -~]*[!-~])?)?")
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
_NOT_USUAL: Final = frozenset({b"content-length", b"transfer-encoding", b"sec-websocket-protocol"})
"""Headers that the general parser reads and may refuse."""

_date: tuple[int, str] = (0, "")


class Usual(NamedTuple):
    """A common handshake."""

    key: bytes
    end: int
    """Where it ends."""
    origin: str | None
    """Whose page asks; None when it is no page."""
    forwarded: str
    """What a proxy says of the client's address; '' without one."""


def usual_request(data: bytes) -> Usual | None:
    """Return the common handshake at the head of `data`, or None.

    None says nothing about the request but that the general parser has to judge it.
    """
    end = data.find(b"\r\n\r\n", 0, MAX_BYTES)
    if end < 0 or not data.startswith(FIRST_LINE):
        return None
    first, *lines = data[:end].split(b"\r\n")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        headers[found[1].lower()] = found[2] or b""
    key = headers.get(b"sec-websocket-key", b"")
    is_usual = (
        first == FIRST_LINE
        and len(headers) == len(lines) <= MAX_NUM_HEADERS
        and headers.get(b"upgrade", b"").lower() == b"websocket"
        and headers.get(b"connection", b"").lower() in {b"upgrade", b"keep-alive, upgrade"}
        and headers.get(b"sec-websocket-version") == b"13"
        and _KEY.fullmatch(key) is not None
        and not _NOT_USUAL & headers.keys()
    )
    if not is_usual:
        return None
    origin = headers.get(b"origin")
    forwarded = headers.get(b"x-forwarded-for", b"")
    return Usual(key, end + 4, None if origin is None else origin.decode(), forwarded.decode())


def acceptance(key: bytes) -> bytes:
    """Return the answer that makes the connection a WebSocket."""
    accept = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest()).decode()
    return (
        f"HTTP/1.1 101 Switching Protocols\r\nDate: {_today()}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode()


def refusal(status: int, body: str, headers: Mapping[str, str]) -> bytes:
    """Return the answer to a usual handshake that gets no WebSocket: plain text, and goodbye."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {_today()}\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\n{more}\r\n{body}"
    ).encode()


def _today() -> str:
    """Return the date as HTTP writes it; made once a second."""
    global _date
    now = int(time.time())
    if now != _date[0]:
        _date = (now, formatdate(now, usegmt=True))
    return _date[1]
