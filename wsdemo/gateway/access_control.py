"""Access control: who may connect?

Decided at the handshake, before a connection costs much. Three things are checked: the origin of
the page (a browser sends it along), how many connections there are in all, and how many there are
from one address. Addresses of this machine are exempt, because a laboratory or a class uses one.
Behind a proxy, the address is what a *trusted* proxy says. When what it says cannot be read, the
connection counts under the proxy's own address: an unreadable header never lifts a limit, and a
line in the log says what to do.

With more than twice the allowed connections, of one address or in all, a new one is aborted without
an answer: connections that never send a request would otherwise cost as much as those that do.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wsdemo.gateway.counters import Counters
from wsdemo.gateway.forwarded import Header, Hop, IPAddress, Unrecognised, deciding_hop
from wsdemo.gateway.forwarded import parse_address as _parse
from wsdemo.gateway.handshake import is_own_page
from wsdemo.settings import LOCAL_SOCKETS, GatewaySettings, origin_pattern

_log = logging.getLogger("wsdemo.gateway")

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
V6_PREFIX: Final = 64
"""IPv6 addresses of one /64 network count as one: one customer has at least such a network."""
SPARE_SOCKETS: Final = 16
"""So many connections more than allowed may ask for a page, or get a 503, even when few are."""
COME_BACK: Final = {"Retry-After": "1"}
MAX_TOLD: Final = 100
"""Log lines about proxies and what they send; after that they are only counted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A plain HTTP answer: to a request that asks for no WebSocket, or does not get one."""

    status: int
    body: str
    headers: Mapping[str, str]


class AddressCounts(Counter[str]):
    """How many connections of this process there are, by address."""

    def up(self, address: str) -> None:
        """Count one more."""
        self[address] += 1

    def down(self, address: str) -> None:
        """Count one less, and remove an address at zero: new ones come for ever."""
        self[address] -= 1
        if self[address] <= 0:
            del self[address]

    def of(self, address: str) -> int:
        """Return the count that is compared with a limit."""
        return self[address]


class AddressSlot:
    """The slot of one connection: it counts against the limits of its address."""

    __slots__ = ("_access", "_registered", "address", "is_stand_in")

    def __init__(self, access: AccessControl, address: str) -> None:
        self._access = access
        self._registered = False
        self.address = address
        self.is_stand_in = False
        """The address is a proxy's that has said in a PROXY header that it knows no client."""
        access.present.up(address)
        access.unregistered.up(address)

    def mark_registered(self) -> None:
        """Take note that a user has registered on this connection. Idempotent."""
        if not self._registered:
            self._registered = True
            self._access.unregistered.down(self.address)

    def release(self) -> None:
        """Give the slot back, because the connection is gone. Called once."""
        self.mark_registered()
        self._access.present.down(self.address)


class AccessControl:
    """The access rules of one gateway, and who is connected by address."""

    def __init__(self, settings: GatewaySettings, counters: Counters | None = None) -> None:
        self._limits = settings.limits
        self._limit_loopback = settings.limit_loopback
        self._counters = counters if counters is not None else Counters()
        self._trusts_local_sockets = LOCAL_SOCKETS in settings.trusted_proxies
        self._proxies = [
            ipaddress.ip_network(proxy, strict=False)
            for proxy in settings.trusted_proxies
            if proxy != LOCAL_SOCKETS
        ]
        self.forwarded_header = Header(settings.forwarded_header)
        """The one header of a trusted proxy that is read."""
        self.header_name = self.forwarded_header.encode()
        self._told: set[tuple[str, str]] = set()
        self.origins: Sequence[re.Pattern[str]] = [origin_pattern(o) for o in settings.origins]
        self.present = AddressCounts()
        """Connections by address, without the exempt ones."""
        self.unregistered = AddressCounts()
        """Those among them on which nobody has registered yet."""
        self.draining = False

    # --- at the first packet -----------------------------------------------------------------

    def take_slot(self, peer: str) -> AddressSlot | None:
        """Return the slot of a new connection; None when no limit holds for its address.

        None for a proxy's own address as well: `recognise` will tell whose connection it is.
        """
        if self._is_exempt(peer) or self.is_proxy(peer):
            return None
        return AddressSlot(self, _counted(peer))

    def is_proxy(self, peer: str) -> bool:
        """Say whether this peer ('' on a unix socket) is a trusted proxy."""
        return self._is_trusted(_parse(peer))

    def is_overrun(self, slot: AddressSlot | None, sockets: int) -> bool:
        """Say whether there are so many connections, of this address or in all (`sockets`), that
        a new one is aborted without an answer.
        """
        limits = self._limits
        if sockets > 2 * limits.max_connections + SPARE_SOCKETS:
            return True
        return slot is not None and (self.present.of(slot.address) > 2 * limits.connections_per_ip)

    # --- at the handshake --------------------------------------------------------------------

    def recognise(self, slot: AddressSlot | None, peer: str, forwarded: str) -> AddressSlot | None:
        """Return the slot of a connection, now that its headers are known; None when no limit
        holds for it. Only a trusted proxy is believed.

        Args:
            forwarded: what `forwarded_header` says, its lines joined with commas; '' without one.
        """
        if slot is not None and slot.is_stand_in:
            slot.is_stand_in = False
            self._count_unrecognised(peer, Hop(None, Unrecognised.HIDDEN, "PROXY UNKNOWN"))
        if slot is not None or not self.is_proxy(peer):
            return slot
        hop = deciding_hop(forwarded, self.forwarded_header, self._is_trusted)
        if hop.why is not None:
            self._count_unrecognised(peer, hop)
            return AddressSlot(self, _counted(peer))
        client = str(hop.address)
        if self._is_exempt(client) and self._is_exempt(peer):
            return None  # Of this machine both. "127.0.0.1" of another one is not.
        return AddressSlot(self, _counted(client))

    def announced(self, proxy: str, address: str, is_local: bool) -> AddressSlot | None:
        """Return the slot of a connection for which a trusted proxy has sent a PROXY header; None
        when no limit holds for it, or when the client is a proxy itself, whose headers will tell.

        Args:
            address: what the PROXY header says; '' when it says nothing. HTTP headers of such a
                client are not believed: its proxy adds none.
            is_local: the connection is the proxy's own (a health check).
        """
        if not address:
            slot = AddressSlot(self, _counted(proxy))
            slot.is_stand_in = not is_local
            return slot
        if self.is_proxy(address) or (self._is_exempt(address) and self._is_exempt(proxy)):
            return None
        return AddressSlot(self, _counted(address))

    def not_announced(self, peer: str) -> None:
        """Count and log a connection that began with a PROXY header although none is expected."""
        if self.is_proxy(peer):
            self._counters.proxied_unexpected += 1
            advice = "start the gateway with --proxy-protocol"
        else:
            self._counters.proxied_untrusted += 1
            advice = f"name it with --trusted-proxy {peer or LOCAL_SOCKETS}, and --proxy-protocol"
        self._tell(
            peer,
            "PROXY",
            "begins with a header of the PROXY protocol, which is not expected of it, and its "
            f"connection is closed: let it send none, or {advice}",
        )

    def _count_unrecognised(self, proxy: str, hop: Hop) -> None:
        """Count and log that a proxy does not name its client; the connection counts as its own."""
        why, limits = hop.why, self._limits
        assert why is not None
        name = f"unrecognised_{why}"
        setattr(self._counters, name, getattr(self._counters, name) + 1)
        self._tell(
            proxy,
            why,
            _SAYS[why].format(header=self.forwarded_header.title(), text=hop.text[-64:])
            + f": such users count as one address, with {limits.connections_per_ip} connections "
            f"at most, {limits.unregistered_per_ip} of them without a register. Let the proxy "
            "add the address of its client, or name the header that it sends with "
            "--forwarded-header (a PROXY header: --proxy-protocol)",
        )

    def _tell(self, peer: str, kind: str, what: str) -> None:
        """Log it once for each peer and kind, and at most `MAX_TOLD` times."""
        if (peer, kind) not in self._told and len(self._told) < MAX_TOLD:
            self._told.add((peer, kind))
            _log.warning("[Gateway] %s %s", peer or LOCAL_SOCKETS, what)

    def allows_origin(self, origin: str | None, host: str) -> bool:
        """Say whether a page of this origin may connect. Requests without Origin (non-browsers)
        are allowed.

        Args:
            host: the Host header of the request: pages of our own host may connect as well.
        """
        return (
            origin is None
            or any(pattern.fullmatch(origin) for pattern in self.origins)
            or is_own_page(origin, host)
        )

    def refusal(self, slot: AddressSlot | None, sockets: int) -> Answer | None:
        """Return the answer that refuses a connection; None when there is room for it."""
        limits = self._limits
        if self.draining:
            return Answer(503, "Draining.\n", COME_BACK)
        if sockets > limits.max_connections:
            return Answer(503, "Too many connections.\n", COME_BACK)
        if slot is None:
            return None
        if (
            self.present.of(slot.address) > limits.connections_per_ip
            or self.unregistered.of(slot.address) > limits.unregistered_per_ip
        ):
            return Answer(429, "Too many connections from this address.\n", COME_BACK)
        return None

    # --- addresses ---------------------------------------------------------------------------

    def _is_exempt(self, address: str) -> bool:
        if self._limit_loopback:
            return False
        parsed = _parse(address)
        return parsed is None or parsed.is_loopback  # No address: a socket of this machine.

    def _is_trusted(self, address: IPAddress | None) -> bool:
        """Say whether this is a trusted proxy; None stands for a peer on a unix socket."""
        if address is None:
            return self._trusts_local_sockets
        return bool(self._proxies) and _within(address, self._proxies)


_SAYS: Final = {
    Unrecognised.ABSENT: "is a trusted proxy and sends no {header}",
    Unrecognised.UNREADABLE: "is a trusted proxy and sends an unreadable {header} ({text!r})",
    Unrecognised.HIDDEN: "is a trusted proxy and hides the address of its client ({text!r})",
    Unrecognised.PROXIES: "is a trusted proxy, and so are too many hops of its {header}",
}
"""What is logged about a proxy whose clients cannot be told apart."""


def _within(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address in network for network in networks)


def _counted(address: str) -> str:
    """Return the key under which connections of an address are counted."""
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, V6_PREFIX), strict=False))
    return str(parsed) if parsed is not None else LOCAL_SOCKETS
