"""Who may come in?

Decided at the handshake, before anything is spent on a connection: not the pages of strangers (a
browser sends along whose page it shows), not more connections than there is room for, and not
more from one address than one address should need. Addresses of this machine are exempt, since a
laboratory or a class comes from one; behind a proxy, the address is what a *trusted* proxy says.

Beyond twice as many connections as there may be, of an address or in all, the next is hung up on
without a word: so many that never ask for anything would otherwise cost as much as if they did.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wsdemo.settings import GatewaySettings, origin_pattern

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_HOPS: Final = 16
"""Addresses of an X-Forwarded-For header that are looked at, from the nearest on."""
V6_PREFIX: Final = 64
"""One customer has at least so large a network of IPv6 addresses: they count as one."""
SPARE_SOCKETS: Final = 16
"""However few connections are wanted, so many more may come and ask for a page, or get a 503."""
COME_BACK: Final = {"Retry-After": "1"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A plain HTTP answer, for whoever came without asking for a WebSocket, or gets none."""

    status: int
    body: str
    headers: Mapping[str, str]


class Visitor:
    """One connection that counts against the limits of its address."""

    __slots__ = ("_door", "_registered", "address")

    def __init__(self, door: Door, address: str) -> None:
        self._door = door
        self._registered = False
        self.address = address
        door.present[address] += 1
        door.unregistered[address] += 1

    def settle(self) -> None:
        """Somebody has registered on this connection. Idempotent."""
        if not self._registered:
            self._registered = True
            _decrement(self._door.unregistered, self.address)

    def leave(self) -> None:
        """The connection is gone. Called once."""
        self.settle()
        _decrement(self._door.present, self.address)


class Door:
    """The entrance of one gateway."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._limits = settings.limits
        self._limit_loopback = settings.limit_loopback
        self._proxies = [ipaddress.ip_network(n, strict=False) for n in settings.trusted_proxies]
        self.origins: Sequence[re.Pattern[str]] = [origin_pattern(o) for o in settings.origins]
        self.present: Counter[str] = Counter()
        """Connections by address, exempt ones aside."""
        self.unregistered: Counter[str] = Counter()
        """Those among them on which nobody has registered yet."""
        self.draining = False

    # --- at the first packet -----------------------------------------------------------------

    def enter(self, peer: str) -> Visitor | None:
        """Take note of a connection from an address; None when it does not count against any.

        A proxy's own address does not: `recognise` will tell whose connection it is.
        """
        if self._is_exempt(peer) or self._is_proxy(_parse(peer)):
            return None
        return Visitor(self, _counted(peer))

    def is_overrun(self, visitor: Visitor | None, sockets: int) -> bool:
        """Say whether there are so many connections, of this address or in all (`sockets`), that
        one more gets no answer.
        """
        limits = self._limits
        if sockets > 2 * limits.max_connections + SPARE_SOCKETS:
            return True
        return visitor is not None and (
            self.present[visitor.address] > 2 * limits.connections_per_ip
        )

    # --- at the handshake --------------------------------------------------------------------

    def recognise(self, visitor: Visitor | None, peer: str, forwarded: str) -> Visitor | None:
        """Return whose connection it is, now that its headers are here (`forwarded` is the
        X-Forwarded-For, '' without one). Only a trusted proxy is believed.
        """
        if visitor is not None or not self._is_proxy(_parse(peer)):
            return visitor
        client = self._client_behind(forwarded)
        if client is None or self._is_exempt(client):
            return None
        return Visitor(self, _counted(client))

    def allows_origin(self, origin: str | None) -> bool:
        """Say whether a page of this origin may connect; None is no page, and may."""
        return origin is None or any(pattern.fullmatch(origin) for pattern in self.origins)

    def refusal(self, visitor: Visitor | None, sockets: int) -> Answer | None:
        """Return the answer to a connection that there is no room for; None when there is."""
        limits = self._limits
        if self.draining:
            return Answer(503, "Draining.\n", COME_BACK)
        if sockets > limits.max_connections:
            return Answer(503, "Too many connections.\n", COME_BACK)
        if visitor is None:
            return None
        if (
            self.present[visitor.address] > limits.connections_per_ip
            or self.unregistered[visitor.address] > limits.unregistered_per_ip
        ):
            return Answer(429, "Too many connections from this address.\n", COME_BACK)
        return None

    # --- addresses ---------------------------------------------------------------------------

    def _is_exempt(self, address: str) -> bool:
        if self._limit_loopback:
            return False
        parsed = _parse(address)
        return parsed is None or parsed.is_loopback  # No address: a socket of this machine.

    def _is_proxy(self, address: IPAddress | None) -> bool:
        return bool(self._proxies) and address is not None and _within(address, self._proxies)

    def _client_behind(self, forwarded: str) -> str | None:
        """Return the nearest address that is not a trusted proxy's.

        Each proxy adds the address that it saw at the end; what stands before the last one that
        we trust, anybody may have written.
        """
        hops = forwarded.split(",")[-MAX_HOPS:]
        for hop in reversed(hops):
            address = _parse(hop.strip())
            if address is None:
                return None
            if not _within(address, self._proxies):
                return str(address)
        return None


def _parse(address: str) -> IPAddress | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def _within(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address in network for network in networks)


def _counted(address: str) -> str:
    """Return what connections of an address are counted under."""
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, V6_PREFIX), strict=False))
    return str(parsed)


def _decrement(counter: Counter[str], key: str) -> None:
    """Count down, and forget what is down to nothing: addresses come and go for ever."""
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
