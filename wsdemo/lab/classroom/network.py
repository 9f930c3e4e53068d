"""Addresses: at which ones does a room listen, and how do browsers name it?"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import psutil

from wsdemo.lab.errors import LabRefused

LOOPBACK: Final = "127.0.0.1"
LAN: Final = "lan"
VIRTUAL: Final = ("docker", "br-", "veth", "virbr")
"""Interfaces of networks that end in this machine."""
ELSEWHERE: Final = ("192.0.2.1", 9)
"""An address that is set apart for examples."""


class PublicUrl(NamedTuple):
    """Where a proxy shows the room."""

    url: str
    host: str
    origin: str

    @classmethod
    def of(cls, url: str) -> PublicUrl | None:
        """Take an address apart; None for an empty one.

        Raises:
            LabRefused: it is none of a page.
        """
        if not isinstance(url, str):
            raise LabRefused(f"public_url is a text, not {url!r:.80}")
        if not url:
            return None
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname)
            usable = usable and not (parts.query or parts.fragment or parts.username)
            usable = usable and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise LabRefused(
                "public_url is where a proxy shows this room, such as "
                f'"https://hub.example/user/ann/proxy/8090/", not {url!r:.80}'
            )
        host = parts.netloc.lower()
        return cls(url.rstrip("/"), host, f"{parts.scheme}://{host}")


def address_of(host: str) -> str:
    """Return the address that `host` means: "lan" is this machine's own in its network.

    Raises:
        LabRefused: it is no address, or one that listens everywhere.
    """
    if host == LAN:
        return lan_address()
    if host in ("localhost", LOOPBACK):
        return LOOPBACK
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise LabRefused(
            f'host is "127.0.0.1" (this machine only), "lan", or an address of this machine, '
            f"not {host!r:.80}"
        ) from None
    if address.is_unspecified:
        raise LabRefused(
            f'{host} would listen in every network of this machine: name one address, or "lan"'
        )
    return str(address)


def lan_address() -> str:
    """Return this machine's address in its network; loopback when there is none."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(ELSEWHERE)  # Nothing is sent: it only asks which way out there is.
        address = str(probe.getsockname()[0])
        if not address.startswith("127."):
            return address
    for name, ends in psutil.net_if_addrs().items():
        if not name.startswith(VIRTUAL):
            for end in ends:
                if end.family == socket.AF_INET and not end.address.startswith("127."):
                    return str(end.address)
    return LOOPBACK


def host_headers(address: str, port: int) -> set[str]:
    """Return how a browser may name an address and a port in its Host header."""
    name = f"[{address}]" if ":" in address else address
    # A browser leaves the usual port out.
    return {f"{name}:{port}"} | ({name} if port == 80 else set())
