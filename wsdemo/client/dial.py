"""How is a gateway reached, and why was it not?

The address is the user's: no proxy of the environment is asked, and nobody may send us on.
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
"""Answers of a gateway, or of a proxy before it, that may be another one soon."""
NEXT_ADDRESS_S: Final = 0.25
"""After this long a second address of the same name is tried as well (RFC 8305, section 5)."""


class _Connect(connect):
    """Connects where it was told to: our token goes to whoever takes us."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def dial(
    url: str, settings: ClientSettings, tls: ssl.SSLContext | None, max_frame_bytes: int
) -> ClientConnection:
    """Open a WebSocket.

    Raises:
        InvalidStatus: somebody answered, but not with a WebSocket.
        OSError, TimeoutError, WebSocketException, ValueError: nobody did, or not in HTTP.
    """
    where, options = parse_uri(url), dict[str, Any]()
    if where.secure and tls is not None:
        options["ssl"] = tls
    if _is_name(where.host) and isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        # An address that answers nothing must not keep us from one that does. uvloop cannot.
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
        ValueError: nobody could be reached there.
    """
    try:
        parts = parse_uri(url)
        parts.host.encode("idna")  # As whoever looks the name up will do.
        if urlsplit(url).port == 0:
            raise ValueError("port 0")
        if any(char.isspace() or not char.isprintable() for char in url):
            raise ValueError("not a URL")
    except (InvalidURI, ValueError):
        what = f"{redacted(url)!r} is not a WebSocket URL (ws://host:port/ws)"
        raise ValueError(f"{what}; {ENCODE}" if "@" in url else what) from None
    return parts


def answered(url: str, problem: InvalidStatus) -> str:
    """Say what somebody answered in place of a WebSocket."""
    response = problem.response
    text = f"HTTP {response.status_code}"
    if 300 <= response.status_code < 400:
        where = without_secrets(response.headers.get("Location", "nowhere"))
        return f"{text}, which would lead to {where}"
    if response.status_code == 404 and parse_uri(url).path in ("", "/"):
        return f"{text} (gateways are at /ws)"
    return text


def why_not(problem: BaseException) -> str:
    """Say in one line what went wrong, in the system's few words where it has some."""
    text = without_secrets(" ".join(str(problem).split()))
    # A name may have several addresses, and each of them its own error; mostly it is the same.
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
