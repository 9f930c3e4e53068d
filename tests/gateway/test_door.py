"""Access control: does it count by address, and trust only the configured proxies?"""

from __future__ import annotations

from typing import Any

import pytest

from wsdemo.gateway.access_control import MAX_TOLD, AccessControl, AddressSlot
from wsdemo.gateway.counters import Counters
from wsdemo.settings import LOCAL_ORIGINS, GatewaySettings, Limits, SettingsError

APPS = (
    "https://app.example",
    "capacitor://localhost",
    "ionic://localhost",
    "file://",
    "null",
    "vscode-webview://abc",
    "chrome-extension://abcdef",
    "moz-extension://1-2-3",
    "app://.",
)
STRANGER, OTHER, PROXY = "198.51.100.7", "198.51.100.8", "203.0.113.1"


def access(limits: Limits | None = None, **settings: Any) -> AccessControl:
    limits = limits or Limits(connections_per_ip=3, unregistered_per_ip=2)
    return AccessControl(GatewaySettings(gateway_id="gateway-01", limits=limits, **settings))


def entered(control: AccessControl, address: str) -> AddressSlot:
    slot = control.take_slot(address)
    assert slot is not None
    return slot


def status(control: AccessControl, slot: AddressSlot | None) -> int | None:
    refusal = control.refusal(slot, sockets=1)
    return None if refusal is None else refusal.status


def test_unregistered_connections_of_one_address_are_bounded() -> None:
    """A connection that registers or closes makes room; other addresses are not affected."""
    control = access()
    first, second = entered(control, STRANGER), entered(control, STRANGER)
    assert status(control, second) is None
    third = entered(control, STRANGER)
    assert status(control, third) == 429
    assert status(control, entered(control, OTHER)) is None
    third.release()
    assert status(control, second) is None
    first.mark_registered()
    first.mark_registered()
    assert status(control, entered(control, STRANGER)) is None


def test_connections_of_one_address_are_bounded() -> None:
    """Registered or not; beyond twice the limit they are closed without an answer."""
    control = access()
    visitors = []
    for _ in range(3):
        slot = entered(control, STRANGER)
        slot.mark_registered()
        visitors.append(slot)
    assert status(control, visitors[-1]) is None
    one_more = entered(control, STRANGER)
    assert status(control, one_more) == 429
    assert not control.is_overrun(one_more, sockets=4)
    crowd = [entered(control, STRANGER) for _ in range(3)]
    assert control.is_overrun(crowd[-1], sockets=7)
    for slot in [*visitors, one_more, *crowd]:
        slot.release()
    assert not control.present and not control.unregistered


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", ""])
def test_loopback_is_exempt_unless_configured_otherwise(address: str) -> None:
    """A class, a laboratory and a benchmark come from one address."""
    assert access().take_slot(address) is None
    assert access(limit_loopback=True).take_slot(address or "127.0.0.1") is not None


def test_the_addresses_of_one_ipv6_network_count_as_one() -> None:
    """One customer has 2**64 of them."""
    control = access()
    for n in range(3):
        slot = entered(control, f"2001:db8:0:1::{n}")
    assert status(control, slot) == 429
    assert status(control, entered(control, "2001:db8:0:2::1")) is None
    mapped = entered(control, f"::ffff:{STRANGER}")
    assert mapped.address == entered(control, STRANGER).address


@pytest.mark.parametrize(
    ("forwarded", "counted"),
    [
        (STRANGER, STRANGER),
        (f"{OTHER}, {STRANGER}", STRANGER),
        (f"{STRANGER}, {PROXY}", STRANGER),
        (f"{STRANGER},{PROXY} , {PROXY}", STRANGER),
        ("2001:db8::7", "2001:db8::/64"),
        ("[2001:db8::7]:443", "2001:db8::/64"),
        (f"{STRANGER}:51234", STRANGER),
        (f"{STRANGER},", STRANGER),
        ("", PROXY),
        ("unknown", PROXY),
        (f"{STRANGER}, nonsense", PROXY),
        ("127.0.0.1", "127.0.0.1"),
        (", ".join([STRANGER, *[PROXY] * 10_000]), PROXY),
        (PROXY, PROXY),
    ],
    ids=lambda value: str(value)[:40],
)
def test_behind_trusted_proxies_the_nearest_untrusted_address_counts(
    forwarded: str, counted: str | None
) -> None:
    """What a client wrote into the header before the proxy is not believed; what cannot be read
    counts as the proxy's own address."""
    control = access(trusted_proxies=("203.0.113.0/24",))
    assert control.take_slot(PROXY) is None
    slot = control.recognise(None, PROXY, forwarded)
    assert slot is not None and slot.address == counted
    assert control.recognise(slot, PROXY, OTHER) is slot


def test_a_forwarded_loopback_address_is_exempt_only_behind_a_local_proxy() -> None:
    """ "127.0.0.1" means the machine of the proxy that reports it."""
    control = access(trusted_proxies=("127.0.0.1", PROXY, "unix"))
    for peer in ("127.0.0.1", "::ffff:127.0.0.1", ""):
        assert control.recognise(None, peer, "127.0.0.1") is None
    assert control.recognise(None, PROXY, "127.0.0.1") is not None


@pytest.mark.parametrize("peer", ["127.0.0.1", PROXY, ""], ids=["here", "elsewhere", "socket"])
@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("", "absent"),
        ("unknown", "hidden"),
        ("_hidden", "hidden"),
        (f"{STRANGER}:x", "unreadable"),
        (f"{STRANGER}, '{OTHER}'", "unreadable"),
        (", ".join([STRANGER, *[PROXY] * 17]), "proxies"),
    ],
    ids=["absent", "unknown", "obfuscated", "a bad port", "bad quotes", "a long chain"],
)
def test_a_proxy_whose_clients_cannot_be_identified_counts_as_one_address(
    peer: str, said: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The limits hold, exempt or not; a counter and one log line report it, with advice."""
    counters = Counters()
    settings = GatewaySettings(
        gateway_id="gateway-01",
        trusted_proxies=("127.0.0.1", PROXY, "unix"),
        limits=Limits(connections_per_ip=3, unregistered_per_ip=2),
    )
    control = AccessControl(settings, counters)
    assert control.take_slot(peer) is None
    visitors = [control.recognise(None, peer, said) for _ in range(3)]
    assert status(control, visitors[-1]) == 429
    assert getattr(counters, f"unrecognised_{why}") == 3
    (line,) = caplog.messages
    assert (peer or "unix") in line and "--forwarded-header" in line
    for slot in visitors:
        assert slot is not None and slot.address == (peer or "unix")
        slot.release()
    assert not control.present and not control.unregistered


def test_log_lines_about_proxies_are_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One for each kind and proxy, up to a limit; what is quoted is short, and on one line."""
    control = access(trusted_proxies=("10.0.0.0/8",))
    for n in range(1_000):
        for said in ("", "unknown", "x\n\x1b[31m" * 500):
            for _ in range(2):
                assert control.recognise(None, f"10.0.{n // 250}.{n % 250}", said) is not None
    assert len(caplog.messages) == MAX_TOLD
    for line in caplog.messages:
        assert len(line) < 700 and line.isprintable()


def test_only_the_configured_forwarded_header_is_read() -> None:
    """A client could write the others itself. The setting says which one the proxy writes."""
    for name, said in (
        ("x-forwarded-for", f"{STRANGER}:80"),
        ("forwarded", f'for={OTHER}, for="{STRANGER}:80";proto=https'),
        ("x-real-ip", STRANGER),
    ):
        control = access(trusted_proxies=(PROXY,), forwarded_header=name)
        assert control.header_name == name.encode()
        slot = control.recognise(None, PROXY, said)
        assert slot is not None and slot.address == STRANGER


def test_a_proxy_on_a_socket_of_this_machine_is_trusted_by_name() -> None:
    """`unix`; without it, its header is ignored, and it is exempt like this machine."""
    control = access(trusted_proxies=("unix",))
    assert control.take_slot("") is None
    slot = control.recognise(None, "", f"{OTHER}, {STRANGER}, unix:")
    assert slot is not None and slot.address == STRANGER
    assert access(trusted_proxies=(PROXY,)).recognise(None, "", STRANGER) is None
    slot = access(trusted_proxies=(PROXY,)).recognise(None, PROXY, f"{STRANGER}, unix:")
    assert slot is not None and slot.address == PROXY


@pytest.mark.parametrize(
    ("proxy", "address", "is_local", "counted"),
    [
        (PROXY, STRANGER, False, STRANGER),
        (PROXY, "2001:db8::7", False, "2001:db8::/64"),
        (PROXY, "", True, PROXY),
        (PROXY, "", False, PROXY),
        (PROXY, "127.0.0.2", False, "127.0.0.2"),
        ("", "", False, "unix"),
        ("127.0.0.1", "", True, "127.0.0.1"),
        ("127.0.0.1", "127.0.0.2", False, None),
        ("127.0.0.1", PROXY, False, None),
    ],
)
def test_a_client_announced_by_a_proxy_header_counts_as_a_direct_one(
    proxy: str, address: str, is_local: bool, counted: str | None
) -> None:
    """A proxy that announces nobody counts as one address; behind a second proxy, HTTP headers
    decide."""
    control = access(trusted_proxies=(PROXY, "127.0.0.1", "unix"))
    slot = control.announced(proxy, address, is_local)
    assert (slot and slot.address) == counted


def test_clients_of_a_proxy_on_loopback_are_counted() -> None:
    """Although loopback is exempt."""
    control = access(trusted_proxies=("127.0.0.1",))
    assert control.take_slot("127.0.0.1") is None
    for _ in range(3):
        slot = control.recognise(None, "127.0.0.1", STRANGER)
    assert status(control, slot) == 429


def test_the_forwarded_header_of_an_untrusted_client_is_ignored() -> None:
    """A client that is not a trusted proxy counts under its own address."""
    control = access(trusted_proxies=(PROXY,))
    slot = entered(control, STRANGER)
    assert control.recognise(slot, STRANGER, OTHER) is slot
    assert slot.address == STRANGER


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
def test_by_default_only_origins_of_this_machine_may_connect(
    origin: str | None, allowed: bool
) -> None:
    """The whole origin has to match."""
    assert access().allows_origin(origin, "gateway.example") is allowed


def test_an_allow_list_replaces_the_default_origins() -> None:
    """The dot of a host name is only a dot, and a port has to be equal."""
    control = access(origins=("https://chat.example.org",))
    assert control.allows_origin("https://chat.example.org", "x")
    for origin in ("https://chatxexample.org", "https://chat.example.org:444", LOCAL_ORIGINS[0]):
        assert not control.allows_origin(origin, "x")


@pytest.mark.parametrize(
    ("allowed", "origin", "lets_in"),
    [
        *((origin, origin, True) for origin in APPS),
        *((origin, origin.upper(), True) for origin in APPS),
        *((origin, f"{origin}.evil.example", False) for origin in APPS),
        ("https://app.example:*", "https://app.example", True),
        ("https://app.example:*", "https://app.example:8443", True),
        ("https://app.example:*", "http://app.example:8443", False),
        ("https://app.example", "https://app.example:443", True),
        ("https://app.example:443", "https://app.example", True),
        ("https://app.example:80", "https://app.example", False),
        ("http://app.example", "http://app.example:443", False),
        ("ionic://localhost", "ionic://localhost:80", False),
        ("ionic://localhost", "capacitor://localhost", False),
        ("https://kiosk.example", "https://\u212aiosk.example", False),
        ("file://", "file:///etc/passwd", False),
        ("null", "", False),
        ("*", "null", True),
        ("*", "", True),
        ("*", "https://evil.example\n", True),
    ],
)
def test_origins_of_apps_and_extensions_are_allowed_by_name(
    allowed: str, origin: str, lets_in: bool
) -> None:
    """Of any scheme, case-insensitive, with or without a default port; * allows everybody."""
    assert access(origins=(allowed,)).allows_origin(origin, "gateway.example") is lets_in


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://gw.example:8080", "gw.example:8080", True),
        ("https://GW.example", "gw.Example", True),
        ("http://gw.example", "gw.example:80", True),
        ("http://gw.example:80", "gw.example", True),
        ("https://gw.example", "gw.example:443", True),
        ("https://gw.example", "gw.example:", True),
        ("http://[2001:db8::1]:8080", "[2001:DB8::1]:8080", True),
        ("http://gw.example", "gw.example:8080", False),
        ("http://gw.example:8080", "gw.example", False),
        ("https://gw.example", "gw.example:80", False),
        ("http://gw.example", "gw.example:443", False),
        ("http://gw.example.evil.example", "gw.example", False),
        ("http://user@gw.example", "gw.example", False),
        ("http://gw.example/", "gw.example", False),
        ("capacitor://gw.example", "gw.example", False),
        ("null", "null", False),
        ("http://", "", False),
        ("", "", False),
        ("http://gw.example", "gw.example, evil.example", False),
        ("http://\u212aw.example", "kw.example", False),
    ],
)
def test_an_origin_equal_to_the_host_header_is_allowed(origin: str, host: str, own: bool) -> None:
    """Host and port of the origin are those of the Host header; the allow list does not matter."""
    assert access(origins=("https://other.example",)).allows_origin(origin, host) is own


@pytest.mark.parametrize(
    "wrong",
    [
        {"origins": ("localhost",)},
        {"origins": ("http://*.example.org",)},
        {"origins": ("http://a.example/path",)},
        {"origins": ("http://",)},
        {"origins": ("null://x y",)},
        {"origins": ("",)},
        {"subprotocols": ("a b",)},
        {"subprotocols": ("",)},
        {"subprotocols": ("bearer.x",)},
        {"forwarded_header": "x-client-ip"},
        {"proxy_protocol": True},
        {"trusted_proxies": ("nginx",)},
        {"trusted_proxies": ("10.0.0.0/99",)},
        {"keyfile": "key.pem"},
        {"auth_secret": b"short"},
    ],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    """Before anything is started, with a reason."""
    with pytest.raises(SettingsError):
        access(**wrong)


def test_the_repr_of_settings_hides_the_secret() -> None:
    """Settings may be written to a log or shown in a cell."""
    settings = GatewaySettings(gateway_id="gateway-01", auth_secret=b"x" * 16 + b"SECRET" * 4)
    assert "SECRET" not in repr(settings)
