"""Who may come in?

Decided at the handshake, before anything is spent on a connection: not the pages of strangers (a
browser sends along whose page it shows), not more connections than there is room for, and not
more from one address than one address should need. Addresses of this machine are exempt, since a
laboratory or a class comes from one; behind a proxy, the address is what a *trusted* proxy says.
When it says nothing that can be read, the connection counts under the proxy's own address: what is
not understood never opens the door, and a line in the log says what to do.

Beyond twice as many connections as there may be, of an address or in all, the next is hung up on
without a word: so many that never ask for anything would otherwise cost as much as if they did.
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
"""One customer has at least so large a network of IPv6 addresses: they count as one."""
SPARE_SOCKETS: Final = 16
"""However few connections are wanted, so many more may come and ask for a page, or get a 503."""
COME_BACK: Final = {"Retry-After": "1"}
MAX_TOLD: Final = 100
"""Lines about proxies and what they send; what goes on is counted, not told again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A plain HTTP answer, for whoever came without asking for a WebSocket, or gets none."""

    status: int
    body: str
    headers: Mapping[str, str]


class AddressSlot:
    """One connection that counts against the limits of its address."""

    __slots__ = ("_access", "_registered", "address", "is_stand_in")

    def __init__(self, access: AccessControl, address: str) -> None:
        self._access = access
        self._registered = False
        self.address = address
        self.is_stand_in = False
        """It is a proxy's, which has announced that it does not know its client."""
        access.present[address] += 1
        access.unregistered[address] += 1

    def mark_registered(self) -> None:
        """Somebody has registered on this connection. Idempotent."""
        if not self._registered:
            self._registered = True
            _decrement(self._access.unregistered, self.address)

    def release(self) -> None:
        """The connection is gone. Called once."""
        self.mark_registered()
        _decrement(self._access.present, self.address)


class AccessControl:
    """The entrance of one gateway."""

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
        """The one header that a trusted proxy is believed."""
        self.header_name = self.forwarded_header.encode()
        self._told: set[tuple[str, str]] = set()
        self.origins: Sequence[re.Pattern[str]] = [origin_pattern(o) for o in settings.origins]
        self.present: Counter[str] = Counter()
        """Connections by address, exempt ones aside."""
        self.unregistered: Counter[str] = Counter()
        """Those among them on which nobody has registered yet."""
        self.draining = False

    # --- at the first packet -----------------------------------------------------------------

    def take_slot(self, peer: str) -> AddressSlot | None:
        """Take note of a connection from an address; None when it does not count against any.

        A proxy's own address does not: `recognise` will tell whose connection it is.
        """
        if self._is_exempt(peer) or self.is_proxy(peer):
            return None
        return AddressSlot(self, _counted(peer))

    def is_proxy(self, peer: str) -> bool:
        """Say whether what this peer ('' on a socket of this machine) says of others is true."""
        return self._is_trusted(_parse(peer))

    def is_overrun(self, slot: AddressSlot | None, sockets: int) -> bool:
        """Say whether there are so many connections, of this address or in all (`sockets`), that
        one more gets no answer.
        """
        limits = self._limits
        if sockets > 2 * limits.max_connections + SPARE_SOCKETS:
            return True
        return slot is not None and (self.present[slot.address] > 2 * limits.connections_per_ip)

    # --- at the handshake --------------------------------------------------------------------

    def recognise(self, slot: AddressSlot | None, peer: str, forwarded: str) -> AddressSlot | None:
        """Return whose connection it is, now that its headers are here; None when nobody's limit
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
        """Return whose connection it is that a trusted proxy has announced with a PROXY header;
        None when nobody's limit holds for it, or (it is a proxy's again) its headers will tell.

        Args:
            address: what the header says; '' when it says nothing. The headers of such a client
                are not believed: its proxy adds none.
            is_local: the proxy speaks for itself.
        """
        if not address:
            slot = AddressSlot(self, _counted(proxy))
            slot.is_stand_in = not is_local
            return slot
        if self.is_proxy(address) or (self._is_exempt(address) and self._is_exempt(proxy)):
            return None
        return AddressSlot(self, _counted(address))

    def not_announced(self, peer: str) -> None:
        """Take note that a connection began with a PROXY header, and that it may not."""
        if self.is_proxy(peer):
            self._counters.proxied_unexpected += 1
            advice = "start the gateway with --proxy-protocol"
        else:
            self._counters.proxied_untrusted += 1
            advice = f"name it with --trusted-proxy {peer or LOCAL_SOCKETS}, and --proxy-protocol"
        self._tell(
            peer,
            "PROXY",
            "begins with a header of the PROXY protocol, which is not expected of it, and is hung "
            f"up on: let it send none, or {advice}",
        )

    def _count_unrecognised(self, proxy: str, hop: Hop) -> None:
        """Take note that a proxy does not tell whose connection it is: it counts as the proxy's."""
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
        """Log it: once of each peer and kind, and not for ever."""
        if (peer, kind) not in self._told and len(self._told) < MAX_TOLD:
            self._told.add((peer, kind))
            _log.warning("[Gateway] %s %s", peer or LOCAL_SOCKETS, what)

    def allows_origin(self, origin: str | None, host: str) -> bool:
        """Say whether a page of this origin may connect; None is no page, and may.

        Args:
            host: what the client calls us, the Host header: our own pages may connect as well.
        """
        return (
            origin is None
            or any(pattern.fullmatch(origin) for pattern in self.origins)
            or is_own_page(origin, host)
        )

    def refusal(self, slot: AddressSlot | None, sockets: int) -> Answer | None:
        """Return the answer to a connection that there is no room for; None when there is."""
        limits = self._limits
        if self.draining:
            return Answer(503, "Draining.\n", COME_BACK)
        if sockets > limits.max_connections:
            return Answer(503, "Too many connections.\n", COME_BACK)
        if slot is None:
            return None
        if (
            self.present[slot.address] > limits.connections_per_ip
            or self.unregistered[slot.address] > limits.unregistered_per_ip
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
        """Say whether this is a trusted proxy; None is somebody on a socket of this machine."""
        if address is None:
            return self._trusts_local_sockets
        return bool(self._proxies) and _within(address, self._proxies)


_SAYS: Final = {
    Unrecognised.ABSENT: "is a trusted proxy and sends no {header}",
    Unrecognised.UNREADABLE: "is a trusted proxy and sends an unreadable {header} ({text!r})",
    Unrecognised.HIDDEN: "is a trusted proxy and hides the address of its client ({text!r})",
    Unrecognised.PROXIES: "is a trusted proxy, and so are too many hops of its {header}",
}
"""What is told of a proxy whose clients are not recognised."""


def _within(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address in network for network in networks)


def _counted(address: str) -> str:
    """Return what connections of an address are counted under."""
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, V6_PREFIX), strict=False))
    return str(parsed) if parsed is not None else LOCAL_SOCKETS


def _decrement(counter: Counter[str], key: str) -> None:
    """Count down, and forget what is down to nothing: addresses come and go for ever."""
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
