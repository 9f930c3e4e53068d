"""WebSocket handshake: is this the request that nearly every client sends, and what is the answer?

Browsers and libraries ask for a WebSocket in one packet with a few headers. This common request is
answered here in a few microseconds. Any other request, valid or not, is left to the general parser
of websockets; a test compares the answers of both, byte for byte. Below stands what both must read
alike, or what the library does not know of HTTP: hosts, targets, and offered subprotocols.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Collection, Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_subprotocol, parse_upgrade
from websockets.http11 import MAX_NUM_HEADERS, Request

from wsdemo.settings import BEARER, FORWARDED_HEADERS, SUBPROTOCOL

FIRST_LINE: Final = b"GET /ws HTTP/1.1"
MAX_BYTES: Final = 2048
GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3

_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[ -~]*[!-~])?)?")
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
_NOT_USUAL: Final = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that the general parser reads and may refuse."""
_FORWARDED_FOR: Final = FORWARDED_HEADERS[0].encode()
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_OFFERS: Final = re.compile(rf"{_TOKEN}(?:,[ ]?{_TOKEN})*")
_HOST: Final = r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])"
HOST: Final = re.compile(rf"({_HOST})(:[0-9]{{0,5}})?")
"""What a Host header may be, name and port. Empty is allowed (RFC 9110, section 7.2)."""
_PAGE: Final = re.compile(rf"(https?)://({_HOST})(:[0-9]{{1,5}})?", re.IGNORECASE | re.ASCII)
_ABSOLUTE: Final = re.compile(r"(?:https?|wss?)://([^/?#]*)([/?].*)?", re.IGNORECASE | re.ASCII)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

_date: tuple[int, str] = (0, "")


class Usual(NamedTuple):
    """A common handshake."""

    key: bytes
    end: int
    """Where it ends."""
    origin: str | None
    """Whose page asks; None when it is no page."""
    host: str
    forwarded: str
    """What a proxy says of the client's address; '' without one."""
    offers: Sequence[str]
    """Subprotocols."""


def usual_request(data: bytes, forwarded_header: bytes = _FORWARDED_FOR) -> Usual | None:
    """Return the common handshake at the head of `data`, or None.

    None says nothing about the request but that the general parser has to judge it.

    Args:
        forwarded_header: the name, in small letters, of the header that proxies are believed.
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
    host = headers.get(b"host", b" ").decode()  # A space is no host; '' would be one.
    offered = headers.get(b"sec-websocket-protocol")
    is_usual = (
        first == FIRST_LINE
        and HOST.fullmatch(host) is not None
        and (offered is None or _OFFERS.fullmatch(offered.decode()) is not None)
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
    return Usual(
        key,
        end + 4,
        None if origin is None else origin.decode(),
        host,
        headers.get(forwarded_header, b"").decode(),
        () if offered is None else offered.decode().replace(" ", "").split(","),
    )


def acceptance(key: bytes, subprotocol: str = "") -> bytes:
    """Return the answer that makes the connection a WebSocket; '' is no subprotocol."""
    accept = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest()).decode()
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        f"HTTP/1.1 101 Switching Protocols\r\nDate: {_today()}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{chosen}\r\n"
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


# --- what both ways read --------------------------------------------------------------------------


def offers_in(headers: Headers) -> Sequence[str] | None:
    """Return the subprotocols that a request offers; None when the list is malformed."""
    try:
        lines = headers.get_all("Sec-WebSocket-Protocol")
        return [str(offer) for line in lines for offer in parse_subprotocol(line)]
    except InvalidHeaderFormat:
        return None


def chosen_of(offers: Sequence[str], known: Collection[str]) -> str:
    """Return the first offer that is known; '' when none is, which RFC 6455 allows."""
    return next((offer for offer in offers if offer == SUBPROTOCOL or offer in known), "")


def token_of(offers: Sequence[str]) -> str:
    """Return the token among the offers, '' when there is none. It is nobody's business."""
    tokens = (offer.removeprefix(BEARER) for offer in offers if offer.startswith(BEARER))
    return next(tokens, "")


def is_own_page(origin: str, host: str) -> bool:
    """Say whether the page of an Origin header was served from where the Host header points to.

    Any name will do: what a browser calls us is what its user's network says.
    """
    page, here = _PAGE.fullmatch(origin), HOST.fullmatch(host)
    if page is None or here is None or not page[2]:
        return False
    default = _DEFAULT_PORTS[page[1].lower()]
    port = here[2] if here[2] not in {None, ":"} else default
    return page[2].lower() == here[1].lower() and (page[3] or default) == port


class Target(NamedTuple):
    """The path and the host that a request asks for."""

    path: str
    """Without the query."""
    host: str


def target_of(request: Request) -> Target | None:
    """Return what a request asks for; None when that is malformed (RFC 9112, section 3.2).

    A target that is a whole URL names the host itself, as clients of proxies write it. A Host
    header has to be there all the same, once; only HTTP/1.0 knew none.
    """
    hosts = request.headers.get_all("Host")
    if not hosts and request.protocol == "HTTP/1.0":
        hosts = [""]
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
        return None
    absolute = _ABSOLUTE.fullmatch(request.path)
    if absolute is None:
        return Target(request.path.partition("?")[0], hosts[0])
    if not absolute[1] or not HOST.fullmatch(absolute[1]):
        return None
    path = (absolute[2] or "").partition("?")[0]
    return Target(path or "/", absolute[1])


def choose_upgrade(headers: Headers) -> None:
    """Where WebSocket is one of several protocols that are offered, let it be the only one.

    A client may offer what it likes, in order of preference; the library takes no list.
    """
    try:
        offered = [name for line in headers.get_all("Upgrade") for name in parse_upgrade(line)]
    except InvalidHeaderFormat:
        return
    if len(offered) > 1 and any(name.lower() == "websocket" for name in offered):
        del headers["Upgrade"]
        headers["Upgrade"] = "websocket"
