"""Are settings that cannot work refused, with the numbers?"""

from __future__ import annotations

import pytest
from redis.asyncio.connection import parse_url

from wsdemo.addresses import RedisAddress
from wsdemo.features import InboxSettings
from wsdemo.settings import (
    GatewaySettings,
    Keyspace,
    Limits,
    SettingsError,
    Timing,
    redacted,
    redis_url,
    valid_user_id,
)


def test_the_default_timings_are_those_of_the_go_demo() -> None:
    """30 / 90 / 60."""
    timing = Timing()
    assert (timing.heartbeat_s, timing.presence_ttl_s, timing.health_check_s) == (30, 90, 60)


@pytest.mark.parametrize(
    ("change", "numbers"),
    [
        ({"heartbeat_s": 45.0}, ["45", "90"]),
        ({"idle_timeout_s": 30.0}, ["30"]),
        ({"idle_timeout_s": 100.0}, ["100", "60", "160", "150"]),
        ({"tick_s": 16.0}, ["16", "30"]),
        ({"fence_ttl_s": 100.0}, ["100", "90"]),
        ({"heartbeat_s": 0.0}, ["0.0"]),
        ({"heartbeat_s": float("nan")}, ["nan"]),
        ({"presence_ttl_s": float("inf")}, ["inf"]),
    ],
)
def test_timings_that_contradict_each_other_are_refused_with_their_numbers(
    change: dict[str, float], numbers: list[str]
) -> None:
    """A gateway that could not keep its promises does not start."""
    with pytest.raises(SettingsError) as problem:
        Timing(**change)
    for number in numbers:
        assert number in str(problem.value)


@pytest.mark.parametrize("k", [0.5, 1, 60, 300])
def test_scaled_timings_keep_their_relations_and_the_ttl_of_the_fence(k: float) -> None:
    """The scaled clock has the same ratios, faster."""
    timing = Timing().scaled(k)
    assert timing.heartbeat_s * k == pytest.approx(30)
    assert timing.presence_ttl_s / timing.heartbeat_s == pytest.approx(3)
    assert timing.fence_ttl_s == Timing().fence_ttl_s
    assert timing.scale == k


@pytest.mark.parametrize("k", [0, -1, float("nan"), float("inf")])
def test_an_invalid_time_scale_is_refused(k: float) -> None:
    """Time cannot stop, or run backwards."""
    with pytest.raises(SettingsError):
        Timing().scaled(k)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("localhost", "redis://localhost:6379"),
        ("localhost:7000", "redis://localhost:7000"),
        ("redis://:pw@host:1/2", "redis://:pw@host:1/2"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_an_address_becomes_a_url(address: str, url: str) -> None:
    """As people write it."""
    assert redis_url(address) == url


@pytest.mark.parametrize("address", ["", "host:port", "host:0", "host:65536", "http://x", "a b:1"])
def test_an_invalid_address_is_refused(address: str) -> None:
    """Before any connection."""
    with pytest.raises(SettingsError):
        redis_url(address)


def test_a_url_is_printed_without_its_password() -> None:
    """Logs are read by many."""
    assert redacted("redis://me:s3cret@host:1") == "redis://me:***@host:1"
    assert redacted("redis://host:1") == "redis://host:1"


@pytest.mark.parametrize("name", ["alice", "a.b-c_d@e", "7", "x" * 64])
def test_names_that_are_allowed(name: str) -> None:
    """Letters, digits, and what addresses need."""
    assert valid_user_id(name)


@pytest.mark.parametrize(
    "name", ["", "x" * 65, "a b", "a:b", "a*", "é", "a\n", "gateway-01", "__probe__", "a\x00"]
)
def test_names_that_are_not_allowed(name: str) -> None:
    """They would become part of a key or of a pattern, or be mistaken for something else."""
    assert not valid_user_id(name)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "broadcast", "x" * 65])
def test_a_gateway_id_must_be_usable_in_a_channel_name(name: str) -> None:
    """`gateway:broadcast` belongs to all gateways."""
    with pytest.raises(SettingsError):
        GatewaySettings(gateway_id=name)


def test_keys_of_two_prefixes_are_never_equal() -> None:
    """Two laboratories may share one server."""
    one, two = Keyspace("a:"), Keyspace("b:")
    assert one.presence("x") != two.presence("x")
    assert Keyspace().presence("x") == "presence:x"
    assert Keyspace().broadcast_channel == "gateway:broadcast"


def test_channels_of_two_databases_are_never_equal() -> None:
    """Pub/Sub ignores databases, so the name begins with the number, with any prefix; database 0
    keeps the names of the demo."""
    assert Keyspace("a:").gateway_channel("g") == "a:gateway:g"
    assert Keyspace("a:", 2).gateway_channel("g") == "db2:a:gateway:g"
    assert Keyspace("", 2).broadcast_channel == "db2:gateway:broadcast"
    assert Keyspace("", 2).presence("x") == "presence:x"
    spaces = [Keyspace(prefix, db) for prefix in ("", "a:", "adb2:", "db:", "x") for db in range(3)]
    assert len({space.gateway_channel("g") for space in spaces}) == len(spaces)


@pytest.mark.parametrize("prefix", ["db2:", "db0:staging:", "db-1:"])
def test_a_prefix_that_looks_like_a_database_is_refused(prefix: str) -> None:
    """Otherwise staging could receive messages of production."""
    with pytest.raises(SettingsError, match="must not begin with db and a number"):
        Keyspace(prefix)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379",
        "redis://localhost:6379/",
        "redis://localhost:6379/0",
        "redis://localhost:6379/3",
        "rediss://user:p%40ss%2F9@redis:6379/4",
        "redis://localhost:6379?db=5",
        "redis://localhost:6379/?socket_timeout=3",
        "redis://[::1]:6379/8",
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=9",
        "unix:///run/6?password=x",
    ],
)
def test_the_database_of_a_gateway_is_the_one_that_its_redis_url_selects(url: str) -> None:
    """As the library reads the URL, which sends the SELECT."""
    selected = parse_url(url).get("db", 0)
    assert RedisAddress.parse(url).number == selected
    assert GatewaySettings(gateway_id="g", redis_url=url).keyspace.db == selected
    told = GatewaySettings(gateway_id="g", redis_url=url, keyspace=Keyspace("p:", 77))
    assert told.keyspace == Keyspace("p:", selected)


def test_ttls_for_redis_are_in_milliseconds() -> None:
    """As PEXPIRE wants them."""
    assert (Timing().presence_ttl_ms, Timing().fence_ttl_ms) == (90_000, 3_600_000)


def test_the_notice_may_be_0_but_no_other_drain_time() -> None:
    """0 is right for gateways without a load balancer; a negative value is a mistake."""
    assert Limits().drain_notice_s == 0
    for value in (-1.0, float("inf"), float("nan")):
        with pytest.raises(SettingsError, match="drain_notice_s must be"):
            Limits(drain_notice_s=value)


@pytest.mark.parametrize(
    ("change", "numbers"),
    [
        ({"durable_window": 1000}, ["1000"]),
        ({"inbox_messages": 256}, ["256"]),
        ({"dedup_s": 100_000.0}, ["86400", "100000"]),
        ({"retention_s": 500.0}, ["500", "600"]),
        ({"ack_every_s": 0.0}, ["0.0"]),
        ({"page_bytes": 0}, ["0"]),
    ],
)
def test_inboxes_that_cannot_work_are_refused_with_their_numbers(
    change: dict[str, float], numbers: list[str]
) -> None:
    with pytest.raises(SettingsError) as problem:
        InboxSettings(**change)  # type: ignore[arg-type]
    for number in numbers:
        assert number in str(problem.value)


def test_an_id_is_remembered_for_longer_than_a_sender_goes_on() -> None:
    """Or a message that is repeated after long waits would be stored twice (D4)."""
    shortest_s = 10 * Limits().redis_timeout_s + 60
    with pytest.raises(SettingsError, match=rf"dedup_s .* \({shortest_s:g}\)"):
        GatewaySettings(gateway_id="gateway-01", inbox=InboxSettings(dedup_s=shortest_s - 1))
    GatewaySettings(gateway_id="gateway-01", inbox=InboxSettings(dedup_s=shortest_s))
