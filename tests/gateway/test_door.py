"""Does the door count by address, and believe only whom it should?"""

from __future__ import annotations

from typing import Any

import pytest

from wsdemo.gateway.door import Door, Visitor
from wsdemo.settings import LOCAL_ORIGINS, GatewaySettings, Limits, SettingsError

STRANGER, OTHER, PROXY = "198.51.100.7", "198.51.100.8", "203.0.113.1"


def door(limits: Limits | None = None, **settings: Any) -> Door:
    limits = limits or Limits(connections_per_ip=3, unregistered_per_ip=2)
    return Door(GatewaySettings(gateway_id="gateway-01", limits=limits, **settings))


def entered(entrance: Door, address: str) -> Visitor:
    visitor = entrance.enter(address)
    assert visitor is not None
    return visitor


def status(entrance: Door, visitor: Visitor | None) -> int | None:
    refusal = entrance.refusal(visitor, sockets=1)
    return None if refusal is None else refusal.status


def test_an_address_may_have_so_many_connections_on_which_nobody_registered() -> None:
    """One that registers or leaves makes room; another address is not concerned."""
    entrance = door()
    first, second = entered(entrance, STRANGER), entered(entrance, STRANGER)
    assert status(entrance, second) is None
    third = entered(entrance, STRANGER)
    assert status(entrance, third) == 429
    assert status(entrance, entered(entrance, OTHER)) is None
    third.leave()
    assert status(entrance, second) is None
    first.settle()
    first.settle()
    assert status(entrance, entered(entrance, STRANGER)) is None


def test_an_address_may_have_so_many_connections_in_all() -> None:
    """Registered or not; twice as many are not even answered."""
    entrance = door()
    visitors = []
    for _ in range(3):
        visitor = entered(entrance, STRANGER)
        visitor.settle()
        visitors.append(visitor)
    assert status(entrance, visitors[-1]) is None
    one_more = entered(entrance, STRANGER)
    assert status(entrance, one_more) == 429
    assert not entrance.is_overrun(one_more, sockets=4)
    crowd = [entered(entrance, STRANGER) for _ in range(3)]
    assert entrance.is_overrun(crowd[-1], sockets=7)
    for visitor in [*visitors, one_more, *crowd]:
        visitor.leave()
    assert not entrance.present and not entrance.unregistered


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", ""])
def test_this_machine_is_exempt_unless_told_otherwise(address: str) -> None:
    """A class, a laboratory and a benchmark come from one address."""
    assert door().enter(address) is None
    assert door(limit_loopback=True).enter(address or "127.0.0.1") is not None


def test_the_addresses_of_one_ipv6_network_count_as_one() -> None:
    """A customer has 2**64 of them."""
    entrance = door()
    for n in range(3):
        visitor = entered(entrance, f"2001:db8:0:1::{n}")
    assert status(entrance, visitor) == 429
    assert status(entrance, entered(entrance, "2001:db8:0:2::1")) is None
    mapped = entered(entrance, f"::ffff:{STRANGER}")
    assert mapped.address == entered(entrance, STRANGER).address


@pytest.mark.parametrize(
    ("forwarded", "counted"),
    [
        (STRANGER, STRANGER),
        (f"{OTHER}, {STRANGER}", STRANGER),
        (f"{STRANGER}, {PROXY}", STRANGER),
        (f"{STRANGER},{PROXY} , {PROXY}", STRANGER),
        ("2001:db8::7", "2001:db8::/64"),
        ("", None),
        ("unknown", None),
        (f"{STRANGER}, nonsense", None),
        ("127.0.0.1", None),
        (", ".join([STRANGER, *[PROXY] * 40]), None),
    ],
)
def test_behind_a_trusted_proxy_the_nearest_address_that_is_none_of_ours_counts(
    forwarded: str, counted: str | None
) -> None:
    """What a client writes into the header before the proxy adds to it, nobody believes."""
    entrance = door(trusted_proxies=("203.0.113.0/24",))
    assert entrance.enter(PROXY) is None
    visitor = entrance.recognise(None, PROXY, forwarded)
    assert (visitor and visitor.address) == counted
    assert entrance.recognise(visitor, PROXY, OTHER) is visitor or visitor is None


def test_a_proxy_on_this_machine_speaks_for_others() -> None:
    """Its clients are counted, although loopback is exempt."""
    entrance = door(trusted_proxies=("127.0.0.1",))
    assert entrance.enter("127.0.0.1") is None
    for _ in range(3):
        visitor = entrance.recognise(None, "127.0.0.1", STRANGER)
    assert status(entrance, visitor) == 429


def test_the_header_of_a_stranger_is_not_believed() -> None:
    """Whoever is not a trusted proxy speaks for itself only."""
    entrance = door(trusted_proxies=(PROXY,))
    visitor = entered(entrance, STRANGER)
    assert entrance.recognise(visitor, STRANGER, OTHER) is visitor
    assert visitor.address == STRANGER


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://localhost", True),
        ("http://localhost:8888", True),
        ("https://127.0.0.1:8443", True),
        ("http://[::1]:8888", True),
        ("http://localhost.evil.example", False),
        ("http://localhost:8888.evil.example", False),
        ("http://localhost:123456", False),
        ("http://evil.example/http://localhost", False),
        ("null", False),
        ("", False),
        ("ws://localhost", False),
    ],
)
def test_pages_of_this_machine_may_connect_and_no_others(origin: str | None, allowed: bool) -> None:
    """By default; a match is a match of the whole."""
    assert door().allows_origin(origin) is allowed


def test_an_allow_list_takes_the_place_of_the_default() -> None:
    """The dot of a host is a dot, and a port is that port."""
    entrance = door(origins=("https://chat.example.org",))
    assert entrance.allows_origin("https://chat.example.org")
    for origin in ("https://chatxexample.org", "https://chat.example.org:444", LOCAL_ORIGINS[0]):
        assert not entrance.allows_origin(origin)


@pytest.mark.parametrize(
    "wrong",
    [
        {"origins": ("localhost",)},
        {"origins": ("http://*.example.org",)},
        {"origins": ("http://a.example/path",)},
        {"trusted_proxies": ("nginx",)},
        {"trusted_proxies": ("10.0.0.0/99",)},
        {"keyfile": "key.pem"},
        {"auth_secret": b"short"},
    ],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    """Before anything is started, in words."""
    with pytest.raises(SettingsError):
        door(**wrong)


def test_a_secret_is_not_shown() -> None:
    """Settings may land in a log or in a cell."""
    settings = GatewaySettings(gateway_id="gateway-01", auth_secret=b"x" * 16 + b"SECRET" * 4)
    assert "SECRET" not in repr(settings)
