"""Forwarded headers: is the address of the client found behind its proxies, and no other one?"""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsdemo.gateway.forwarded import (
    MAX_HOPS,
    Header,
    IPAddress,
    Unrecognised,
    deciding_hop,
    parse_address,
)

PROXIES = ipaddress.ip_network("203.0.113.0/24"), ipaddress.ip_network("2001:db8:ffff::/48")
CLIENT, CLIENT_6, PROXY = "198.51.100.7", "2001:db8::1", "203.0.113.1"
XFF, FORWARDED, REAL_IP = Header.X_FORWARDED_FOR, Header.FORWARDED, Header.X_REAL_IP


def is_proxy(address: IPAddress | None) -> bool:
    """Sockets of this machine are trusted as well: it is the more dangerous setting."""
    return address is None or any(address in network for network in PROXIES)


def found(text: str, header: Header = XFF) -> str | Unrecognised:
    hop = deciding_hop(text, header, is_proxy)
    assert (hop.address is None) == (hop.why is not None)
    return hop.why if hop.why is not None else str(hop.address)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (CLIENT, CLIENT),
        (f"{CLIENT}:51234", CLIENT),
        (f"{CLIENT}:", CLIENT),
        (f"{CLIENT}:_port", CLIENT),
        (f"[{CLIENT}]:80", CLIENT),
        (f'"{CLIENT}"', CLIENT),
        (f'"{CLIENT}:80"', CLIENT),
        (f" \t{CLIENT}\t ", CLIENT),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"[::ffff:{CLIENT}]:80", CLIENT),
        ("::FFFF:c633:6407", CLIENT),
        (f"::ffff:{CLIENT}:80", CLIENT),
        (CLIENT_6, CLIENT_6),
        ("2001:0DB8:0:0:0:0:0:1", CLIENT_6),
        (f"[{CLIENT_6}]", CLIENT_6),
        (f"[{CLIENT_6}]:443", CLIENT_6),
        (f'"[{CLIENT_6}]:443"', CLIENT_6),
        (f"{CLIENT_6}:51234", CLIENT_6),
        ("2001:db8:1:2:3:4:5:6:443", "2001:db8:1:2:3:4:5:6"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0.1]:443", "fe80::1"),
        (f"{CLIENT}, ", CLIENT),
        (f",{CLIENT},,\t,", CLIENT),
        (f"192.0.2.1,{CLIENT}", CLIENT),
        (f"192.0.2.1, {CLIENT}:80, {PROXY}:443, [2001:db8:ffff::2]:1", CLIENT),
        (f"nonsense, {CLIENT}", CLIENT),
        (f'", {CLIENT}', CLIENT),
        (f"{CLIENT}, unix:", CLIENT),
        (f"{PROXY}, 203.0.113.2", PROXY),
        (", ".join([CLIENT, *[PROXY] * (MAX_HOPS - 1)]), CLIENT),
    ],
)
def test_an_address_is_read_in_every_form_that_proxies_write(text: str, address: str) -> None:
    """With ports, brackets, quotes, zones, white space, and as IPv4 within IPv6."""
    assert found(text) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "absent"),
        (" , ,", "absent"),
        ("unknown", "hidden"),
        ("Unknown", "hidden"),
        ('"_hidden"', "hidden"),
        ("_hidden:_port", "hidden"),
        ("unix:", "hidden"),
        (f"{CLIENT}, unknown", "hidden"),
        (f"{CLIENT}, _x", "hidden"),
        ("localhost", "unreadable"),
        ("198.51.100", "unreadable"),
        ("198.51.100.256", "unreadable"),
        ("198.051.100.007", "unreadable"),
        ("0x7f.1", "unreadable"),
        ("3325256711", "unreadable"),
        (f"{CLIENT}:http", "unreadable"),
        (f"{CLIENT}:123456", "unreadable"),
        (f"{CLIENT}%eth0", "unreadable"),
        ('fe80::1%eth0"', "unreadable"),
        ("fe80::1%a b", "unreadable"),
        ("fe80::1%", "unreadable"),
        (f"{CLIENT} 192.0.2.1", "unreadable"),
        (f"{CLIENT}/24", "unreadable"),
        (f"{CLIENT};", "unreadable"),
        (f"for={CLIENT}", "unreadable"),
        (f"[{CLIENT_6}", "unreadable"),
        (f"{CLIENT_6}]", "unreadable"),
        (f"[{CLIENT_6}]443", "unreadable"),
        (f"[[{CLIENT_6}]]", "unreadable"),
        (f"'{CLIENT}'", "unreadable"),
        (f'"{CLIENT}', "unreadable"),
        (f"{CLIENT}, \u0661\u0669\u0668.51.100.7", "unreadable"),
        ("[]", "unreadable"),
        ("[]:80", "unreadable"),
        (":", "unreadable"),
        (f"{CLIENT}, nonsense, {PROXY}", "unreadable"),
        ("x" * 100_000, "unreadable"),
        (", ".join([CLIENT, *[PROXY] * MAX_HOPS]), "proxies"),
        (", ".join([CLIENT, *[PROXY] * 10_000]), "proxies"),
    ],
    ids=lambda value: value[:40],
)
def test_an_invalid_address_ends_the_search(text: str, why: str) -> None:
    """What stands before it may have been written by a client."""
    assert found(text) == why


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"for={CLIENT}", CLIENT),
        (f"For = {CLIENT} ;proto=http; by={PROXY}", CLIENT),
        (f'proto=https;for="{CLIENT}:47011"', CLIENT),
        (f'for="[{CLIENT_6}]:47011"', CLIENT_6),
        (f"for=[{CLIENT_6}]:47011", CLIENT_6),
        (f"for=192.0.2.1, for={CLIENT};host=x, for={PROXY}", CLIENT),
        (f'for={CLIENT};host="a,b"', CLIENT),
        (f'for={CLIENT};host="a;for=192.0.2.1"', CLIENT),
        (f'for={CLIENT};host="a\\",for=192.0.2.1;x=\\""', CLIENT),
        (f'for=192.0.2.1;x=", for={CLIENT}', CLIENT),
        (f'for={CLIENT}, for="unix:"', CLIENT),
        (f";;for={CLIENT};;", CLIENT),
        ("", "absent"),
        ("for=unknown", "hidden"),
        ('for="_gazonk"', "hidden"),
        (f"for={CLIENT}, for=_SEVKISEK", "hidden"),
        (f"by={CLIENT}", "unreadable"),
        (CLIENT, "unreadable"),
        ("for=", "unreadable"),
        (f"for={CLIENT}, for=", "unreadable"),
        (f"for={CLIENT};for=192.0.2.1", "unreadable"),
        (f"for={CLIENT} 192.0.2.1", "unreadable"),
        (f"xfor={CLIENT}", "unreadable"),
        (f'for="{CLIENT}', "unreadable"),
        (f'for={CLIENT};host="', "unreadable"),
    ],
)
def test_the_forwarded_header_is_read_as_in_rfc_7239(text: str, expected: str) -> None:
    """And a little more: brackets without quotes. One `for` in an element, and only there."""
    assert found(text, FORWARDED) == expected


def test_only_a_single_address_in_x_real_ip_is_used() -> None:
    """Of two, it is not known who wrote which."""
    assert found(f"{CLIENT}:80", REAL_IP) == CLIENT
    assert found("", REAL_IP) == "absent"
    assert found(f"{CLIENT},192.0.2.1", REAL_IP) == "unreadable"


ADDRESSES = st.ip_addresses().map(str) | st.sampled_from(
    [CLIENT, CLIENT_6, PROXY, "127.0.0.1", "::1", "fe80::1%eth0", f"::ffff:{CLIENT}"]
)
PIECES = ADDRESSES | st.sampled_from(
    ['"', "[", "]", ":80", ":", ",", ", ", ";", "for=", "For=", "=", "\\", "unknown", "_x", "unix:",
     " ", "\t", "host=", "%", "%eth0", ".", "0", "ffff"]
) | st.text(max_size=4)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=24).map("".join)


def behind_the_last_stranger(text: str, address: str) -> bool:
    """Say whether the text contains this address, in one of its last hops."""
    wanted = ipaddress.ip_address(address)
    words = re.split(r'[,;="\[\] \t]+', text)
    shorter = (word.rsplit(":", 1)[0] for word in words if ":" in word)
    return any(parse_address(word) == wanted for word in (*words, *shorter))


@given(text=TEXTS, header=st.sampled_from(Header))
@example('for="\\', FORWARDED)
@example("%" * 5_000 + ":", XFF)
def test_any_header_text_raises_nothing_and_a_found_address_stands_in_it(
    text: str, header: Header
) -> None:
    """It raises nothing, and makes nothing up."""
    answer = found(text, header)
    if not isinstance(answer, Unrecognised):
        assert behind_the_last_stranger(text, answer)


@given(forged=TEXTS, client=st.ip_addresses(), trusted=st.integers(0, MAX_HOPS - 1))
def test_text_written_by_the_client_does_not_change_the_address_that_proxies_report(
    forged: str, client: ipaddress.IPv4Address | ipaddress.IPv6Address, trusted: int
) -> None:
    """The address that the outermost trusted proxy saw decides, after any text at all."""
    if is_proxy(parse_address(str(client))):
        return
    seen = [str(client), *[PROXY] * trusted]
    expected = str(parse_address(str(client)))
    assert found(", ".join([forged, *seen])) == expected
    elements = [f'for="[{hop}]:1"' if ":" in hop else f"for={hop}" for hop in seen]
    assert found(", ".join([forged, *elements]), FORWARDED) == expected


@pytest.mark.parametrize("header", Header)
@pytest.mark.parametrize(
    "text",
    ["," * 10**6, '",' * 10**5, f"{PROXY}," * 10**5, '"' * 10**5, "\\" * 10**5, "for=" * 10**5,
     ";" * 10**6, "1" * 10**5, ":" * 10**5, "[" * 10**5, "%" * 10**5 + ":", " ," * 10**5],
    ids=lambda text: text[:6],
)  # fmt: skip
def test_only_the_end_of_a_long_header_is_parsed(header: Header, text: str) -> None:
    """The length that is parsed has a bound, so a text of any size is judged by its end."""
    assert found(text, header) == found(text[-100_000:], header)
