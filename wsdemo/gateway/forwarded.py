"""Client address behind a proxy: whose connection is it that a proxy forwards?

A proxy appends the address of its client to a header, after what the client itself may have
written there. So the text is read from its end: the nearest address that is not a trusted proxy's
decides; what stands before it may be forged. A text that cannot be read is never guessed at: the
result says why it cannot.

Proxies write addresses in many ways: with a port, in brackets, in quotes, with a zone, as IPv4
within IPv6. All of these are read. Pure: no I/O.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_HOPS: Final = 16
"""How many proxies in a row are looked at, beginning with the nearest."""
MAX_PARTS: Final = 64
"""How many parts between commas are looked at; the rest is not even split."""
MAX_ELEMENT_CHARS: Final = 1024
MAX_NAME_CHARS: Final = 128
"""Enough for an address with its port, zone and brackets."""

_OBFUSCATED: Final = re.compile(r"_[A-Za-z0-9._-]+")  # RFC 7239, section 6.3
_PORT: Final = rf"(?::(?:\d{{0,5}}|{_OBFUSCATED.pattern}))?"
_BRACKETS: Final = re.compile(rf"\[([^\[\]]*)\]{_PORT}")
_WITH_PORT: Final = re.compile(r"(.+):\d{1,5}")
_V4: Final = re.compile(rf"([\d.]+){_PORT}")
_ZONE: Final = re.compile(r"%[A-Za-z0-9._~%-]{1,64}$")
_LOCAL_SOCKET: Final = "unix:"
"""What nginx calls a client that came over a socket of its machine."""

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR: Final = re.compile(
    # Values with a colon or brackets should be in quotes; not every proxy knows.
    rf'[ \t]*(?:({_TOKEN})[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^\s;,="\\]+)[ \t]*)?(?:;|$)'
)


class Header(StrEnum):
    """The headers that a proxy may write the address into."""

    X_FORWARDED_FOR = "x-forwarded-for"
    FORWARDED = "forwarded"
    X_REAL_IP = "x-real-ip"


class Unrecognised(StrEnum):
    """Why the client's address is not known."""

    ABSENT = "absent"
    UNREADABLE = "unreadable"
    HIDDEN = "hidden"
    """The proxy does not know, or does not tell: `unknown`, or a name that it made up."""
    PROXIES = "proxies"
    """More trusted proxies in a row than are looked at."""


class Hop(NamedTuple):
    """The hop that decides: its address, or why it has none; and how it was written."""

    address: IPAddress | None
    why: Unrecognised | None
    text: str
    is_local: bool = False
    """It came over a socket of the proxy's machine."""


def parse_address(text: str) -> IPAddress | None:
    """Return the address that a text is; IPv4 within IPv6 as IPv4, and without its zone."""
    bare = _ZONE.sub("", text) if ":" in text else text
    try:
        parsed = ipaddress.ip_address(bare)
    except ValueError:
        return None
    if "%" in bare:
        return None  # Python takes anything at all for a zone.
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def deciding_hop(text: str, header: Header, is_proxy: Callable[[IPAddress | None], bool]) -> Hop:
    """Return the nearest hop that is no trusted proxy; when all are, the farthest.

    Never raises, and never looks behind a hop that it cannot read.

    Args:
        text: the header's lines, joined with commas; '' without one.
        is_proxy: tells of an address whether it is a trusted proxy's, and of None whether one that
            comes over a socket of this machine is.
    """
    if header is Header.X_REAL_IP and "," in text:
        # It names one address. Of two, one may be forged.
        return Hop(None, Unrecognised.UNREADABLE, text)
    farthest = Hop(None, Unrecognised.ABSENT, "")
    for seen, element in enumerate(_from_the_end(text)):
        if seen == MAX_HOPS:
            return Hop(None, Unrecognised.PROXIES, element)
        hop = _hop(element, header)
        if not ((hop.address is not None or hop.is_local) and is_proxy(hop.address)):
            return hop
        farthest = hop
    return farthest


def _from_the_end(text: str) -> Iterator[str]:
    """Yield the elements of a list, the last one first. Empty ones are none (RFC 9110, 5.6.1).

    A comma in quotes separates nothing. Quotes are counted from the end, so that an odd one in what
    a client wrote does not swallow what a proxy has added.
    """
    parts = text.rsplit(",", MAX_PARTS)
    element = ""
    for part in reversed(parts):
        element = f"{part},{element}" if element else part
        if len(element) <= MAX_ELEMENT_CHARS and _quotes(element) % 2:
            continue
        if element := element.strip(" \t"):
            yield element
        element = ""
    if element := element.strip(" \t"):
        yield element


def _quotes(element: str) -> int:
    return re.sub(r"\\.", "", element).count('"') if '"' in element else 0


def _for_of(element: str) -> str:
    """Return the value of `for` in an element of Forwarded; '' when it cannot be read."""
    value, at = "", 0
    while at < len(element):
        pair = _PAIR.match(element, at)
        if pair is None or pair.end() == at:
            return ""
        at = pair.end()
        if pair[1] is not None and pair[1].lower() == "for":
            if value:
                return ""  # Only one of them can be true.
            value = pair[2]
    return value


def _hop(element: str, header: Header) -> Hop:
    """Read an element: the name of a hop, or, of Forwarded, the pairs of which one has it."""
    if len(element) > MAX_ELEMENT_CHARS:
        return Hop(None, Unrecognised.UNREADABLE, element)
    name = _for_of(element) if header is Header.FORWARDED else element
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = name[1:-1].strip(" \t")
    if name.lower() == "unknown" or name == _LOCAL_SOCKET or _OBFUSCATED.match(name):
        return Hop(None, Unrecognised.HIDDEN, element, name == _LOCAL_SOCKET)
    address = _read_address(name)
    return Hop(address, None if address is not None else Unrecognised.UNREADABLE, element)


def _read_address(name: str) -> IPAddress | None:
    """Read an address that may stand in brackets and have a port."""
    if len(name) > MAX_NAME_CHARS:
        return None
    if found := _BRACKETS.fullmatch(name) or _V4.fullmatch(name):
        return parse_address(found[1])
    address = parse_address(name)
    if address is None and (found := _WITH_PORT.fullmatch(name)):
        # Five digits, or a ninth group: what no address of IPv6 has at its end, but a port.
        address = parse_address(found[1])
    return address
