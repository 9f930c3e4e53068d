"""Presence policies: does each serve one user, and what does compare-and-set by timestamps keep?

The claims about timestamps are those of the product's scripts, as far as timestamps can keep them;
the last ones are what they cannot keep. On a real server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.waiting import until
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.cluster.late_cleanup import late_cleanup
from wsdemo.presence import Claim, Refresh, Register, Release, Renewal
from wsdemo.redis.link import LinkDown, RedisLink
from wsdemo.redis.server import BundledServer
from wsdemo.rig.clocks import WallClock
from wsdemo.rig.policies import POLICIES, PRODUCT, policy_named
from wsdemo.rig.policies.timestamp import TimestampPresence
from wsdemo.settings import Keyspace, Limits, Timing

OLD = Claim("alice", "c1", "gateway-01")
NEW = Claim("alice", "c2", "gateway-02")


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


class Pair:
    """Two gateways' presence on one server, each with a clock of its own."""

    def __init__(self, link: RedisLink, keyspace: Keyspace) -> None:
        self.here, self.there = Clock(), Clock()
        self.one = TimestampPresence(link, keyspace, Timing(), self.here)
        self.two = TimestampPresence(link, keyspace, Timing(), self.there)

    def later(self, seconds: float) -> None:
        self.here.now += seconds
        self.there.now += seconds


@pytest.fixture
async def link(shared_server: BundledServer) -> AsyncIterator[RedisLink]:
    link = RedisLink(shared_server.url, Limits(), lambda up: None)
    await link.start()
    yield link
    await link.stop()


@pytest.fixture
def pair(link: RedisLink, keyspace: Keyspace) -> Pair:
    return Pair(link, keyspace)


@pytest.fixture
async def key(redis_db: Any, keyspace: Keyspace) -> AsyncIterator[str]:
    key = keyspace.presence("alice")
    yield key
    await redis_db.delete(key)


async def refreshed(presence: TimestampPresence, claim: Claim, ttl_ms: int = 90_000) -> Any:
    (result,) = await presence.refresh([Renewal(claim, ttl_ms)])
    return result


@pytest.mark.parametrize("name", POLICIES)
async def test_every_policy_serves_a_single_user(
    name: str, link: RedisLink, keyspace: Keyspace, redis_db: Any, key: str
) -> None:
    """Without a race they all do the same: she is registered, stays registered, and is released."""
    presence = policy_named(name).make(link, keyspace, Timing(), WallClock(1.0))
    claim = replace(OLD, token=await presence.mint("alice"))
    assert (await presence.register(claim)).outcome is Register.OK
    assert await redis_db.hget(key, "gwId") == "gateway-01"
    assert await presence.refresh([Renewal(claim, 90_000)]) == [Refresh.OK]
    assert await presence.release(claim) is Release.REMOVED
    assert not await redis_db.exists(key)


def test_the_policy_of_the_product_is_in_the_table() -> None:
    """A name that is not there is answered with those that are."""
    assert PRODUCT in POLICIES
    with pytest.raises(ValueError, match="there is no policy 'sead'; there are: plain, go-demo"):
        policy_named("sead")


async def test_the_later_registration_wins(pair: Pair, redis_db: Any, key: str) -> None:
    """The whole entry is its own, and has a lease."""
    assert (await pair.one.register(OLD)).outcome is Register.OK
    pair.later(1)
    assert (await pair.two.register(NEW)).outcome is Register.OK
    entry = await redis_db.hgetall(key)
    assert entry == {"gwId": "gateway-02", "connId": "c2", "ts": "1790000001.000000"}
    assert 0 < await redis_db.pttl(key) <= Timing().presence_ttl_ms


async def test_a_registration_with_an_older_timestamp_is_rejected(pair: Pair) -> None:
    """It changes nothing, and leaves nothing behind in the gateway."""
    await pair.two.register(NEW)
    pair.here.now -= 0.000_001
    assert (await pair.one.register(OLD)).outcome is Register.STALE
    assert await pair.one.release(OLD) is Release.NO_ENTRY
    assert not pair.one._heard


async def test_timestamps_have_microseconds(pair: Pair, redis_db: Any, key: str) -> None:
    """Two frames within one second are told apart, unlike in the demo."""
    await pair.two.register(NEW)
    pair.here.now -= 0.000_01
    assert await refreshed(pair.one, OLD) is Refresh.SUPERSEDED
    pair.here.now += 0.000_02
    assert await refreshed(pair.one, OLD) is Refresh.RECLAIMED
    assert await redis_db.hget(key, "gwId") == "gateway-01"


async def test_a_late_refresh_is_superseded_and_writes_nothing(
    pair: Pair, redis_db: Any, key: str
) -> None:
    """The newer entry keeps its lease, too."""
    await pair.one.register(OLD)
    pair.there.now += 1
    await pair.two.register(NEW)
    assert await refreshed(pair.one, OLD, ttl_ms=600_000) is Refresh.SUPERSEDED
    assert await redis_db.hget(key, "connId") == "c2"
    assert await redis_db.pttl(key) <= Timing().presence_ttl_ms


async def test_a_refresh_sets_the_given_lease(pair: Pair, redis_db: Any, key: str) -> None:
    """A lease counts from the last frame of the client, not from the moment when it is written."""
    await pair.one.register(OLD)
    pair.later(30)
    assert await refreshed(pair.one, OLD, ttl_ms=60_000) is Refresh.OK
    assert 59_000 < await redis_db.pttl(key) <= 60_000


async def test_a_refresh_of_a_lost_entry_writes_a_complete_one(
    pair: Pair, redis_db: Any, key: str
) -> None:
    """Never half an entry, as in the demo."""
    await pair.one.register(OLD)
    await redis_db.delete(key)
    assert await refreshed(pair.one, OLD) is Refresh.RECLAIMED
    assert set(await redis_db.hgetall(key)) == {"gwId", "connId", "ts"}


async def test_a_late_release_removes_nothing(pair: Pair, redis_db: Any, key: str) -> None:
    """The newer entry has a later timestamp than the last frame at the old gateway."""
    await pair.one.register(OLD)
    pair.later(1)
    await pair.two.register(NEW)
    pair.later(60)
    assert await pair.one.release(OLD) is Release.OTHER_OWNER
    assert await redis_db.hget(key, "connId") == "c2"


async def test_a_release_removes_its_own_entry_also_after_refreshes(
    pair: Pair, redis_db: Any, key: str
) -> None:
    """A second release is not an error, and nothing is stored about a session that has ended."""
    await pair.one.register(OLD)
    pair.later(30)
    await refreshed(pair.one, OLD)
    assert await pair.one.release(OLD) is Release.REMOVED
    assert await pair.one.release(OLD) is Release.NO_ENTRY
    assert not await redis_db.exists(key)
    assert not pair.one._heard


async def test_without_redis_each_renewal_gets_the_error(keyspace: Keyspace) -> None:
    """A refresh raises nothing; the other verbs do."""
    link = RedisLink("redis://127.0.0.1:1", Limits(), lambda up: None)
    presence = TimestampPresence(link, keyspace, Timing())
    assert isinstance(await refreshed(presence, OLD), LinkDown)
    with pytest.raises(LinkDown):
        await presence.register(OLD)


async def test_a_slow_clock_rejects_the_newer_registration(
    pair: Pair, redis_db: Any, key: str
) -> None:
    """The weakness of timestamps: gateway-02 is 10 s behind, and alice cannot register there."""
    pair.there.now -= 10
    await pair.one.register(OLD)
    pair.later(9)
    assert (await pair.two.register(NEW)).outcome is Register.STALE
    assert await redis_db.hget(key, "gwId") == "gateway-01"


async def test_a_slow_clock_lets_a_late_release_take_a_live_user_offline(
    pair: Pair, redis_db: Any, key: str
) -> None:
    """The new entry looks older than the last heartbeat at the old gateway."""
    pair.there.now -= 10
    await pair.one.register(OLD)
    pair.later(30)
    await pair.two.register(NEW)
    await refreshed(pair.one, OLD)
    assert await redis_db.hget(key, "gwId") == "gateway-01"
    assert await pair.one.release(OLD) is Release.REMOVED
    assert not await redis_db.exists(key)


async def test_in_a_lab_with_this_policy_the_late_cleanup_changes_nothing() -> None:
    """The same director, the same steps as in lesson 04; both clocks are right."""
    entries = [entry async for _, entry, _ in late_cleanup("timestamp")]
    assert entries[1]["gwId"] == entries[2]["gwId"] == "gateway-02"


async def test_in_a_lab_a_gateway_with_a_slow_clock_rejects_a_live_user() -> None:
    """The clock skew of a lab reaches the policy: while the old entry stands, no newer session
    registers."""
    async with Cluster(gateways=2, policy="timestamp", clocks={"gateway-02": -3600.0}) as cluster:
        alice = await cluster.connect("alice", to="gateway-01")
        await cluster.hold("alice", at="gateway-01")
        moving = asyncio.create_task(alice.move(cluster.urls["gateway-02"]))
        turned_away = cluster.gateway("gateway-02").counters
        await until("gateway-02 has turned her away", lambda: turned_away.registers_stale >= 1)
        assert (await cluster.record("alice"))["gwId"] == "gateway-01"
        await moving  # She tries the other gateway next, whose clock is right.
        assert alice.gateway_id == "gateway-01"
