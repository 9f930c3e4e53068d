"""PROXY protocol: for which client has a proxy opened this connection?

The header comes before the first byte of the client, in version 1 (a line of text) or 2 (binary),
as HAProxy's specification says. What follows it belongs to another reader, for example TLS, so we
must not read too far: `missing` says how many bytes are certainly still part of the header. Pure:
no I/O.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""What version 2 begins with; no request, and no handshake of TLS, does."""
WORD: Final = b"PROXY "
"""What version 1 begins with."""

_FIXED_BYTES: Final = 16
"""Of a header of version 2: signature, version and command, family, length."""
_SHORTEST_BYTES: Final = 15
"""A header of version 1, `PROXY UNKNOWN`; one of version 2 is longer."""
_MAX_LINE_BYTES: Final = 107
MAX_BLOCK_BYTES: Final = 16 * 1024
"""What may follow the fixed part of version 2. The specification allows 64 KiB; proxies send some
hundred bytes, or a certificate."""

_LINE: Final = re.compile(rb"PROXY TCP([46]) (\S+) (\S+) (\d{1,5}) (\d{1,5})\r\n")
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")
_LOCAL, _PROXY = 0, 1
_ADDRESS_BYTES: Final = {0: 0, 1: 12, 2: 36, 3: 216}
"""Both ends and their ports, by family: none, IPv4, IPv6, Unix."""


class BadHeader(Exception):
    """This is no header of the PROXY protocol. The text says why."""


class ProxyHeader(NamedTuple):
    """What a PROXY header says."""

    address: str
    """The client's; '' when the proxy does not know it, or when the connection is its own."""
    is_local: bool
    """The connection is the proxy's own: a health check."""


def looks_like_one(data: bytes) -> bool:
    """Say whether bytes begin like a header of either version."""
    return data.startswith((WORD, SIGNATURE))


def missing(data: bytes) -> int:
    """Return how many bytes certainly follow in this header; 0 when it is whole.

    Raises:
        BadHeader: it is none.
    """
    if SIGNATURE.startswith(data[: len(SIGNATURE)]):
        return _missing_of_block(data)
    if not WORD.startswith(data[: len(WORD)]):
        raise BadHeader("it does not begin like one")
    return _missing_of_line(data)


def _missing_of_line(data: bytes) -> int:
    if data.endswith(b"\r\n"):
        return 0
    if b"\n" in data or b"\r" in data[:-1]:
        raise BadHeader("a line end within the line")
    if len(data) >= _MAX_LINE_BYTES:
        raise BadHeader(f"a line of more than {_MAX_LINE_BYTES} bytes")
    if len(data) < _SHORTEST_BYTES:
        return _SHORTEST_BYTES - len(data)
    if data.endswith(b"\r"):
        return 1
    # Each field that has not begun takes a space and a character, and the line its end.
    fields = max(0, 5 - data.count(b" ")) if data.startswith(b"PROXY TCP") else 0
    return 2 * fields + data.endswith(b" ") + 2


def _missing_of_block(data: bytes) -> int:
    if len(data) < _SHORTEST_BYTES:
        return _SHORTEST_BYTES - len(data)
    if len(data) < _FIXED_BYTES:
        return _FIXED_BYTES - len(data)
    if data[12] >> 4 != 2:
        raise BadHeader(f"version {data[12] >> 4}")
    length = int.from_bytes(data[14:16], "big")
    if length > MAX_BLOCK_BYTES:
        raise BadHeader(f"{length} bytes, more than {MAX_BLOCK_BYTES}")
    return max(0, _FIXED_BYTES + length - len(data))


def read(data: bytes) -> ProxyHeader:
    """Return what a whole header says.

    Raises:
        BadHeader: it contradicts the specification.
    """
    return _read_block(data) if data.startswith(SIGNATURE) else _read_line(data)


def _read_line(data: bytes) -> ProxyHeader:
    if _UNKNOWN.fullmatch(data):
        return ProxyHeader("", False)
    found = _LINE.fullmatch(data)
    if found is None:
        raise BadHeader("a line that is malformed")
    kind = ipaddress.IPv4Address if found[1] == b"4" else ipaddress.IPv6Address
    try:
        source, _ = (kind(found[n].decode("ascii")) for n in (2, 3))
    except ValueError:
        raise BadHeader("an address that is none") from None
    if max(int(found[4]), int(found[5])) > 65535:
        raise BadHeader("a port that is none")
    return ProxyHeader(str(source), False)


def _read_block(data: bytes) -> ProxyHeader:
    """Read a header of version 2. What stands behind the addresses (TLVs) is nobody's business."""
    command, family, transport = data[12] & 0x0F, data[13] >> 4, data[13] & 0x0F
    if command == _LOCAL:
        return ProxyHeader("", True)
    if command != _PROXY:
        raise BadHeader(f"command {command}")
    if family not in _ADDRESS_BYTES or transport > 2:
        raise BadHeader(f"family {family}, transport {transport}")
    if len(data) - _FIXED_BYTES < _ADDRESS_BYTES[family]:
        raise BadHeader("addresses that are cut off")
    if family == 1:
        return ProxyHeader(str(ipaddress.IPv4Address(data[16:20])), False)
    if family == 2:
        return ProxyHeader(str(ipaddress.IPv6Address(data[16:32])), False)
    return ProxyHeader("", False)
