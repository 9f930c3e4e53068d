"""Dialling: how is a gateway reached, and why was it not?

Only the given address is used: no proxy from the environment, and no redirect.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.uri import WebSocketURI, parse_uri

from wsdemo.addresses import ENCODE, redacted, without_secrets
from wsdemo.settings import ClientSettings

RETRYABLE_HTTP: Final = frozenset({408, 425, 429, *range(500, 600)}) - {501, 505}
"""HTTP answers of a gateway, or of a proxy before it, after which a retry makes sense."""
NEXT_ADDRESS_S: Final = 0.25
"""After this long a second address of the same name is tried as well (RFC 8305, section 5)."""


class _Connect(connect):
    """Follows no redirect: it would send our token somewhere else."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def dial(
    url: str, settings: ClientSettings, tls: ssl.SSLContext | None, max_frame_bytes: int
) -> ClientConnection:
    """Open a WebSocket.

    Raises:
        InvalidStatus: the answer is HTTP, but no WebSocket.
        OSError, TimeoutError, WebSocketException, ValueError: no answer, or one that is no HTTP.
    """
    where, options = parse_uri(url), dict[str, Any]()
    if where.secure and tls is not None:
        options["ssl"] = tls
    if _is_name(where.host) and isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        # A dead address must not keep us from a live one of the same name. Not on uvloop.
        options["happy_eyeballs_delay"] = NEXT_ADDRESS_S
    return await _Connect(
        url,
        open_timeout=settings.connect_timeout_s,
        close_timeout=settings.close_timeout_s,
        ping_interval=None,  # The heartbeat is the client's; the library answers the gateway's.
        max_size=max_frame_bytes,
        max_queue=16,
        compression=None,
        proxy=None,
        **options,
    )


def parsed(url: str) -> WebSocketURI:
    """Return the parts of an address.

    Raises:
        ValueError: it is no valid address.
    """
    try:
        parts = parse_uri(url)
        parts.host.encode("idna")  # As the resolver will do.
        if urlsplit(url).port == 0:
            raise ValueError("port 0")
        if any(char.isspace() or not char.isprintable() for char in url):
            raise ValueError("not a URL")
    except (InvalidURI, ValueError):
        what = f"{redacted(url)!r} is not a WebSocket URL (ws://host:port/ws)"
        raise ValueError(f"{what}; {ENCODE}" if "@" in url else what) from None
    return parts


def answered(url: str, problem: InvalidStatus) -> str:
    """Return the HTTP answer that came in place of a WebSocket, in words."""
    response = problem.response
    text = f"HTTP {response.status_code}"
    if 300 <= response.status_code < 400:
        where = without_secrets(response.headers.get("Location", "nowhere"))
        return f"{text}, which would lead to {where}"
    if response.status_code == 404 and parse_uri(url).path in ("", "/"):
        return f"{text} (gateways are at /ws)"
    return text


def why_not(problem: BaseException) -> str:
    """Return what went wrong in one line, in the operating system's words where there are some."""
    text = without_secrets(" ".join(str(problem).split()))
    # Each address of a name has an error of its own; mostly they are the same.
    numbers = {int(number) for number in re.findall(r"\[Errno (\d+)\] Connect", text)}
    if isinstance(problem, OSError) and len(numbers) == 1:
        return os.strerror(numbers.pop())
    return text or type(problem).__name__


def _is_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    return False
