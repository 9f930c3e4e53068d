"""Is a PROXY header read as its specification has it, and not a byte further?"""

from __future__ import annotations

import itertools
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsdemo.gateway.proxy_header import (
    MAX_BLOCK_BYTES,
    SIGNATURE,
    BadHeader,
    ProxyHeader,
    looks_like_one,
    missing,
    read,
)

CLIENT, CLIENT_6 = "203.0.113.7", "2001:db8::7"


def block(
    command: int = 1, family: int = 1, transport: int = 1, body: bytes | None = None,
    version: int = 2, length: int | None = None,
) -> bytes:  # fmt: skip
    """Return a header of version 2; from a client of the family, with its port, if no `body`."""
    if body is None:
        ends = {
            0: b"",
            1: socket.inet_pton(socket.AF_INET, CLIENT) + bytes([10, 0, 0, 1]),
            2: socket.inet_pton(socket.AF_INET6, CLIENT_6) + bytes(16),
            3: b"/run/a.sock".ljust(108, b"\0") * 2,
        }[family]
        body = ends + (struct.pack("!HH", 51234, 443) if family in (1, 2) else b"")
    size = len(body) if length is None else length
    return (
        SIGNATURE
        + struct.pack("!BBH", version << 4 | command, family << 4 | transport, size)
        + body
    )


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


IPV4 = block()[16:]
GOOD = {
    "v1, IPv4": (
        f"PROXY TCP4 {CLIENT} 10.0.0.1 51234 443\r\n".encode(),
        ProxyHeader(CLIENT, False),
    ),
    "v1, IPv6": (
        f"PROXY TCP6 {CLIENT_6} ::1 51234 443\r\n".encode(),
        ProxyHeader(CLIENT_6, False),
    ),
    "v1, the shortest IPv6": (b"PROXY TCP6 :: :: 1 1\r\n", ProxyHeader("::", False)),
    "v1, the longest": (
        b"PROXY TCP6 " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2)
        + b" 65535 65535\r\n",
        ProxyHeader("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", False),
    ),
    "v1, unknown": (b"PROXY UNKNOWN\r\n", ProxyHeader("", False)),
    "v1, unknown with more": (
        b"PROXY UNKNOWN " + b" ".join([b"ffff:f...f:ffff"] * 2) + b" 65535 65535\r\n",
        ProxyHeader("", False),
    ),
    "v2, IPv4": (block(), ProxyHeader(CLIENT, False)),
    "v2, IPv6": (block(family=2), ProxyHeader(CLIENT_6, False)),
    "v2, Unix": (block(family=3), ProxyHeader("", False)),
    "v2, unspecified": (block(family=0, transport=0), ProxyHeader("", False)),
    "v2, local": (block(command=0, family=0, transport=0), ProxyHeader("", True)),
    "v2, local with an address": (block(command=0), ProxyHeader("", True)),
    "v2, local of an odd family": (block(command=0, family=1, body=b"x"), ProxyHeader("", True)),
    "v2, datagrams": (block(transport=2), ProxyHeader(CLIENT, False)),
    "v2 with TLVs": (
        block(body=IPV4 + tlv(0xEA, b"vpce-1") + tlv(0x04, bytes(40)) + tlv(0x20, b"x" * 300)),
        ProxyHeader(CLIENT, False),
    ),
    "v2 with TLVs that are none": (block(body=IPV4 + b"\xff" * 7), ProxyHeader(CLIENT, False)),
    "v2, the longest": (block(body=IPV4 + bytes(MAX_BLOCK_BYTES - 12)), ProxyHeader(CLIENT, False)),
}  # fmt: skip
BAD = {
    "HTTP": b"GET /ws HTTP/1.1\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303"),
    "v1 in small letters": b"proxy tcp4 1.1.1.1 1.1.1.1 1 1\r\n",
    "v1 of another protocol": b"PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n",
    "v1 without a protocol": b"PROXY \r\n  ",
    "v1 with four fields": b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
    "v1 with seven fields": b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
    "v1 with two spaces": b"PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n",
    "v1 with IPv6 for IPv4": b"PROXY TCP4 ::1 ::1 1 1\r\n",
    "v1 with IPv4 for IPv6": b"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
    "v1 with a name": b"PROXY TCP4 localhost 1.1.1.1 1 1\r\n",
    "v1 with a bad second address": b"PROXY TCP4 1.1.1.1 1.1.1.300 1 1\r\n",
    "v1 with a port too high": b"PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n",
    "v1 with a negative port": b"PROXY TCP4 1.1.1.1 1.1.1.1 -1 1\r\n",
    "v1 with digits of another script": "PROXY TCP4 1.1.1.1 1.1.1.1 \u0661 1\r\n".encode(),
    "v1 with a bare line feed": b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n ",
    "v1 with a carriage return in it": b"PROXY TCP4 1.1.1.1\r1.1.1.1 1 1\r\n",
    "v1 too long": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "v1 without an end": b"PROXY TCP4 " + b"1" * 200,
    "v2 of version 1": block(version=1),
    "v2 of version 3": block(version=3),
    "v2 with another command": block(command=2),
    "v2 with another family": block(family=4, body=IPV4),
    "v2 with another transport": block(transport=3),
    "v2 with half an IPv4": block(body=IPV4[:-1]),
    "v2 with half an IPv6": block(family=2, body=bytes(35)),
    "v2 with half a path": block(family=3, body=bytes(215)),
    "v2 without addresses": block(body=b""),
    "v2 too long": block(length=MAX_BLOCK_BYTES + 1),
    "v2, the longest that there is": block(length=65_535),
    "a wrong signature": SIGNATURE[:-1] + b"\r" + block()[12:],
}  # fmt: skip


def fed(data: bytes, most: int = 1 << 20) -> tuple[ProxyHeader, bytes]:
    """Read a header from a stream as a connection does: what it says, and what is left.

    `most` is how many bytes the stream has ready at once.
    """
    said, rest = b"", data
    while more := missing(said):
        assert rest, "it waits for more than there is"
        take = min(more, most)
        said, rest = said + rest[:take], rest[take:]
    return read(said), rest


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("most", [1, 2, 7, 1 << 20])
def test_a_header_is_read_to_its_last_byte_and_no_further(name: str, most: int) -> None:
    """In pieces of any size; what follows it is TLS', or HTTP's, from its first byte on."""
    data, announced = GOOD[name]
    assert looks_like_one(data)
    for rest in (b"", b"\r\n", b"GET /ws HTTP/1.1\r\n", b"\x16\x03\x01", data):
        assert fed(data + rest, most) == (announced, rest)


@pytest.mark.parametrize("name", GOOD)
def test_an_incomplete_proxy_header_is_waited_for(name: str) -> None:
    """Whatever is missing, at least one more byte is requested, and none beyond its end."""
    data, _ = GOOD[name]
    for cut in range(len(data)):
        assert 0 < missing(data[:cut]) <= len(data) - cut


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("most", [1, 1 << 20])
def test_a_malformed_proxy_header_is_refused(name: str, most: int) -> None:
    """As soon as that is certain; never is it waited for without an end."""
    with pytest.raises(BadHeader):
        fed(BAD[name] + bytes(200), most)


@given(
    data=st.binary(max_size=64)
    | st.builds(bytes.__add__, st.sampled_from([SIGNATURE, b"PROXY ", b"PROXY TCP4 "]),
                st.binary(max_size=64))
    | st.builds(lambda data, at, byte: data[:at] + bytes([byte]) + data[at + 1 :],
                st.sampled_from([good for good, _ in GOOD.values() if len(good) < 300]),
                st.integers(0, 120), st.integers(0, 255))
)  # fmt: skip
def test_any_bytes_are_a_header_or_malformed_or_incomplete(data: bytes) -> None:
    """No other error is raised, and each byte makes progress."""
    try:
        for cut in itertools.count():
            if cut > len(data):
                return
            if not missing(data[:cut]):
                read(data[:cut])
                return
    except BadHeader:
        return
