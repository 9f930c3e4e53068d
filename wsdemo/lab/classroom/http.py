"""HTTP: which request heads are accepted, and what does a reply look like?

Only browsers of a class come here, so only what they send is read: GET or HEAD, HTTP/1.1, no body,
each header once. Everything else is refused with a status that says why. Pure: bytes in, bytes out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

HEAD_BYTES: Final = 8 * 1024
"""A request head is not longer than this, and a page's own are a tenth of it."""
QUERY_FIELDS: Final = 8
END_OF_HEAD: Final = b"\r\n\r\n"

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t -~]*")
_TARGET: Final = re.compile(r"/[!-~]*")
_TEXT: Final = "text/plain; charset=utf-8"

SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
"""With every reply. Addresses of this room have secrets in them: no referrer, no cache."""


class BadRequest(Exception):
    """A request that gets no page; `status` says why."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request: its path, its query, its headers by lower-case name, and its bytes."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    head: bytes
    address: str
    """Of the other end of the connection; a proxy's, if there is one."""

    @property
    def host(self) -> str:
        return self.headers.get("host", "").lower()

    @property
    def origin(self) -> str:
        """Whose page asks; empty when the browser does not say."""
        return self.headers.get("origin", "").lower()

    @property
    def is_websocket(self) -> bool:
        return self.method == "GET" and self.headers.get("upgrade", "").lower() == "websocket"

    def cookie(self, name: str) -> str:
        """Return the value of a cookie; empty when there is none of this name."""
        for part in self.headers.get("cookie", "").split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                return value
        return ""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What a request gets."""

    status: HTTPStatus
    body: bytes = b""
    content_type: str = _TEXT
    headers: Mapping[str, str] = field(default_factory=dict)

    def render(self, method: str = "GET") -> bytes:
        """Return the bytes; to a HEAD, without the body."""
        headers = {
            "Content-Type": self.content_type,
            "Content-Length": str(len(self.body)),
            "Connection": "close",
            **SECURITY_HEADERS,
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join(lines).encode() + END_OF_HEAD
        return head if method == "HEAD" else head + self.body


def refusal(status: HTTPStatus, text: str = "") -> HttpReply:
    """Return a reply that says in words why there is no page."""
    return HttpReply(status, f"{text or status.phrase}.\n".encode())


def parse_head(head: bytes, address: str = "") -> HttpRequest:
    """Read a request head, with the empty line at its end.

    Raises:
        BadRequest: no browser sends this.
    """
    lines = _text(head.removesuffix(END_OF_HEAD)).split("\r\n")
    method, target = _request_line(lines[0])
    headers = _headers(lines[1:])
    if method not in {"GET", "HEAD"}:
        raise BadRequest(HTTPStatus.METHOD_NOT_ALLOWED)
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise BadRequest(HTTPStatus.BAD_REQUEST)
    path, _, query = target.partition("?")
    return HttpRequest(method, path, _query(query), headers, head, address)


def _text(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise BadRequest(HTTPStatus.BAD_REQUEST) from None


def _request_line(line: str) -> tuple[str, str]:
    method, _, rest = line.partition(" ")
    target, _, version = rest.partition(" ")
    if version != "HTTP/1.1" or not _NAME.fullmatch(method) or not _TARGET.fullmatch(target):
        raise BadRequest(HTTPStatus.BAD_REQUEST)
    return method, target


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        key = name.lower()
        # The same header twice: somebody wants two readers to disagree about it.
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or key in headers:
            raise BadRequest(HTTPStatus.BAD_REQUEST)
        headers[key] = value.strip()
    return headers


def _query(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS)
    except ValueError:
        raise BadRequest(HTTPStatus.BAD_REQUEST) from None
    query = dict(pairs)
    if len(query) != len(pairs):
        raise BadRequest(HTTPStatus.BAD_REQUEST)
    return query
