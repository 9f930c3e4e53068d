"""Do the names of keys and channels keep what belongs together on one server of a cluster?"""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsdemo.buckets import slots, tags
from wsdemo.inbox.devices import DEVICES_SEND
from wsdemo.inbox.store import SEND
from wsdemo.presence.devices import DEVICES_SCRIPTS
from wsdemo.presence.store import MINT, SCRIPTS
from wsdemo.redis.scripts import Script
from wsdemo.redis.slots import SLOTS, slot_of
from wsdemo.rooms.store import ROOM_SCRIPTS
from wsdemo.router import DEVICES_ROUTE, ROUTE, TRIAL
from wsdemo.settings import GatewaySettings, Keyspace, SettingsError

CLUSTER = Keyspace("p:", buckets=64)
SENDS = (SEND, DEVICES_SEND)
ALL_SCRIPTS = (*SCRIPTS, *DEVICES_SCRIPTS, *ROOM_SCRIPTS, ROUTE, DEVICES_ROUTE, TRIAL, *SENDS)
NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1)


def test_the_tags_are_those_that_running_clusters_have() -> None:
    """They are part of the data: with others, gateways would not find their users any more."""
    assert tags(4) == ("0.1", "1.3", "2.1", "3.3")
    found = {n: hashlib.sha1(" ".join(tags(n)).encode()).hexdigest()[:12] for n in (16, 64, 256)}
    assert found == {16: "3ea6b5dbcf3a", 64: "8b134219e1d6", 256: "5b253a9f85e9"}


@pytest.mark.parametrize("primaries", [1, 3, 5, 8, 12, 16])
def test_equal_ranges_of_slots_have_equal_numbers_of_buckets(primaries: int) -> None:
    """The fullest server has at most an eighth more than its share."""
    owners = [slot * primaries // SLOTS for slot in slots(64)]
    assert max(map(owners.count, range(primaries))) <= 1.125 * 64 / primaries


@given(user=NAMES, gateway_id=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True))
def test_all_that_a_user_has_is_in_one_slot(user: str, gateway_id: str) -> None:
    """Whatever the name contains, braces too; and it is that of the bucket."""
    bucket = CLUSTER.bucket(user)
    names = [
        CLUSTER.presence(user),
        CLUSTER.fence(user),
        CLUSTER.key("inboxid", user, "other", "{7}"),
        CLUSTER.channel("watch", user),
        CLUSTER.gateway_channel(gateway_id, bucket),
        CLUSTER.script_channels(bucket) + gateway_id,
        CLUSTER.start_of("presence", bucket) + user,
    ]
    assert {slot_of(name) for name in names} == {slots(64)[bucket]}
    assert CLUSTER.user_of(CLUSTER.presence(user)) == user


def test_a_single_redis_keeps_its_names() -> None:
    """Byte for byte those of the demo."""
    single = Keyspace("p:")
    assert single.presence("alice") == "p:presence:alice"
    assert single.key("inboxid", "alice", "bob", "7") == "p:inboxid:alice:bob:7"
    assert single.gateway_channels("g") == ["p:gateway:g"]
    assert single.script_channels(0) == "p:"
    assert (single.publish, single.bucket("alice")) == ("PUBLISH", 0)
    assert single.user_of("p:presence:{x}:alice") == "{x}:alice"


def test_users_spread_over_the_buckets() -> None:
    """The fullest of 64 has few more than its share."""
    found = [CLUSTER.bucket(f"user-{n}") for n in range(20_000)]
    assert max(map(found.count, range(64))) < 1.25 * 20_000 / 64


@pytest.mark.parametrize("script", ALL_SCRIPTS, ids=lambda script: script.name)
def test_in_a_cluster_every_script_publishes_on_sharded_channels(script: Script) -> None:
    """And the server checks that they are in the slot of its keys, by the first line."""
    sharded = script.at(CLUSTER)
    publishes = "'PUBLISH'" in script.text
    assert script.at(Keyspace()) is script
    assert "'PUBLISH'" not in sharded.text
    if script.in_time:
        assert sharded.text.count("'SPUBLISH'") == 1
        # Besides, there is the function itself.
        assert sharded.text.count("publish(") == script.text.count("'PUBLISH'") + 1
    else:
        assert sharded.text.count("'SPUBLISH'") == script.text.count("'PUBLISH'")
    assert not re.search(r"'gateway:'", sharded.text)
    if publishes:
        assert sharded.text.startswith("#!lua")
        assert sharded.sha != script.sha
    else:
        assert sharded is script
    assert sharded.at(CLUSTER) is sharded


def test_a_script_has_a_deadline_in_its_last_argument_if_it_carries_a_message() -> None:
    """In a cluster, the origin comes behind it."""
    carriers = {script for script in ALL_SCRIPTS if "{'expired'}" in script.text}
    assert len(carriers) == 6
    for script in ALL_SCRIPTS:
        assert script.in_time == (script in carriers), script.name


def test_a_full_server_routes_in_a_cluster_too() -> None:
    """The scripts that need no memory say so."""
    for script in (ROUTE, DEVICES_ROUTE):
        assert script.at(CLUSTER).text.startswith("#!lua flags=allow-oom\n")
    assert DEVICES_SEND.at(CLUSTER).text.startswith("#!lua\n")
    assert MINT.at(CLUSTER) is MINT


def test_the_number_of_buckets_comes_from_the_address() -> None:
    """It is the same for all gateways that are given the same address."""
    for address, buckets in (
        ("redis+cluster://a,b", 64),
        ("redis+cluster://a?buckets=256", 256),
        ("redis://a", 0),
    ):
        settings = GatewaySettings(gateway_id="g", redis_url=address)
        assert settings.keyspace == Keyspace(buckets=buckets)


def test_a_prefix_with_a_brace_is_refused_in_a_cluster() -> None:
    """It would be taken for the hash tag, and put all users on one server."""
    with pytest.raises(SettingsError, match="key prefix"):
        Keyspace("{x}:", buckets=64)
    Keyspace("{x}:")
