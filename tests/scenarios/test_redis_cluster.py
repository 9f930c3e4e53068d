"""Do the promises hold on a cluster of Redis, while its servers fail and exchange slots?

Two real gateways on a real cluster of 3 primaries with a replica each. Pairs of users talk all the
while; `traffic` checks at the end of each test that every message has an answer, that what was told
to be routed was heard, once, and in order.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest

from tests.scenarios.cluster_traffic import Talker, Traffic, gateways, traffic
from tests.waiting import until
from wsdemo.buckets import slots
from wsdemo.gateway.server import Gateway
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.rig.pages import http_get as page
from wsdemo.settings import Keyspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SLOTS = slots(64)


@pytest.fixture(scope="module")
def cluster() -> Iterator[BundledCluster]:
    """One for the whole module: a start takes two seconds."""
    with BundledCluster(3, 1) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def healed(cluster: BundledCluster) -> Iterator[None]:
    """Each test leaves a cluster that works."""
    yield
    cluster.heal()


@pytest.fixture
async def two(cluster: BundledCluster, keyspace: Keyspace) -> AsyncIterator[list[Gateway]]:
    async with gateways(cluster.url, keyspace) as running:
        yield running


def slots_on(cluster: BundledCluster, number: int) -> list[int]:
    """The slots of buckets that a server has."""
    here = set(cluster.slots_of(number))
    return [slot for slot in SLOTS if slot in here]


def entries(cluster: BundledCluster, space: Keyspace, users: list[str]) -> dict[str, bool]:
    """Return who is there, and whether the entry agrees with its fence (P5)."""
    server = {slot: n for n in range(6) if is_primary(cluster, n) for slot in slots_on(cluster, n)}
    found = {}
    for user in users:
        number = server[SLOTS[space.bucket(user)]]
        entry, fence = (
            dict(zip(reply[::2], reply[1::2], strict=True))
            for reply in (
                cluster.call(number, "HGETALL", space.presence(user)),
                cluster.call(number, "HGETALL", space.fence(user)),
            )
        )
        if entry.get("gwId"):
            found[user] = entry["epoch"] == fence.get("top")
    return found


def is_primary(cluster: BundledCluster, number: int) -> bool:
    return cluster.servers[number].running and cluster.is_primary(number)


async def is_replica(cluster: BundledCluster, number: int) -> bool:
    """Say whether a server knows that another one has its slots."""
    return not await asyncio.to_thread(cluster.is_primary, number)


async def all_there(cluster: BundledCluster, two: list[Gateway], it: Traffic) -> None:
    """Wait until everybody has an entry; each agrees with its fence."""
    users = [one.name for one in (*it.senders, *it.readers)]
    space = two[0].settings.keyspace

    async def is_done() -> bool:
        found = await asyncio.to_thread(entries, cluster, space, users)
        assert all(found.values()), found
        return len(found) == len(users)

    await until("everybody has an entry", is_done, 15)


async def whole(two: list[Gateway]) -> None:
    for one in two:
        await until("it hears all", partial(hears_all, one), 15)


def hears_all(gateway: Gateway) -> bool:
    return not gateway._router.deaf_shards


async def test_users_of_all_buckets_reach_each_other(two: list[Gateway]) -> None:
    """Without a fault, each message is routed."""
    async with traffic(two, pairs=100, per_s=300) as it:
        await it.flows()
    assert set(it.told) == {"routed"}
    assert not it.closed
    for one in two:
        assert (one.counters.subscription_gaps, one.counters.probes_lost) == (0, 0)


async def test_a_newer_session_on_another_gateway_ends_the_older_one(two: list[Gateway]) -> None:
    """The kick comes by the channel of the user's bucket."""
    older, newer = Talker("alice"), Talker("alice")
    await older.open(two[0])
    await newer.open(two[1])
    await until("the older one is closed", lambda: older.closed)
    assert older.closed.startswith("4509")
    assert two[0].counters.kicks_received == 1
    await newer.close()
    await older.close()


async def test_slots_that_move_at_once_cost_no_message(
    cluster: BundledCluster, two: list[Gateway]
) -> None:
    """A third of the users change servers, and nobody is told that a message was not routed."""
    source = cluster.owner(SLOTS[0])
    target = next(n for n in range(6) if n != source and cluster.is_primary(n))
    moving = slots_on(cluster, source)
    async with traffic(two) as it:
        await it.flows()
        await asyncio.to_thread(cluster.move, moving, target)
        await it.flows()
        await whole(two)
        await all_there(cluster, two, it)
    assert it.told["routed"] > 0.97 * len(it.sent), it.told
    assert not it.closed
    assert [one._router.gaps for one in two] == [len(moving)] * 2
    await asyncio.to_thread(cluster.move, moving, source)


async def test_slots_that_move_key_by_key_are_told_of(
    cluster: BundledCluster, two: list[Gateway]
) -> None:
    """L14: a message for a user who has moved already, before the slot has, is `unreachable`."""
    source = cluster.owner(SLOTS[0])
    target = next(n for n in range(6) if n != source and cluster.is_primary(n))
    moving = slots_on(cluster, source)[:6]
    async with traffic(two) as it:
        await it.flows()
        await asyncio.to_thread(cluster.move, moving, target, atomic=False)
        await it.flows()
        await whole(two)
        await all_there(cluster, two, it)
    assert it.told["routed"] > 0.9 * len(it.sent), it.told
    assert not it.closed
    await asyncio.to_thread(cluster.move, moving, source)


async def test_a_planned_failover_costs_few_messages(
    cluster: BundledCluster, two: list[Gateway]
) -> None:
    """Those of a moment, and each of them is told."""
    async with traffic(two) as it:
        await it.flows()
        await asyncio.to_thread(cluster.fail_over, cluster.owner(SLOTS[0]))
        await it.flows()
        await whole(two)
        await all_there(cluster, two, it)
    assert it.told["routed"] > 0.9 * len(it.sent), it.told
    assert not it.closed


async def test_a_killed_primary_is_away_for_its_own_users_only(
    cluster: BundledCluster, two: list[Gateway]
) -> None:
    """L13: they are told `busy` until the replica has taken over; nobody is disconnected."""
    primary = cluster.owner(SLOTS[0])
    here = set(slots_on(cluster, primary))
    async with traffic(two) as it:
        await it.flows()
        cluster.kill(primary)
        await until("its users are told", lambda: it.told["busy"] > 0)
        assert all(one.ready for one in two)
        await it.flows()
        await whole(two)
        await all_there(cluster, two, it)
    assert not it.closed
    assert it.told["busy"] > 0
    others = {
        it.readers[it.sent[msg_id][0]].name
        for msg_id, status in it.acks.items()
        if status != "routed"
    }
    space = two[0].settings.keyspace
    assert {SLOTS[space.bucket(name)] for name in others} <= here, it.told


async def test_a_frozen_primary_is_replaced_and_nobody_is_disconnected(
    cluster: BundledCluster, two: list[Gateway]
) -> None:
    """What was under way to it is `unknown`."""
    primary = cluster.owner(SLOTS[0])
    async with traffic(two) as it:
        await it.flows()
        cluster.pause(primary)
        await it.flows()
        cluster.resume(primary)
        await until("it is a replica", partial(is_replica, cluster, primary))
        await it.flows()
        await whole(two)
        await all_there(cluster, two, it)
    assert not it.closed
    assert it.told["unknown"] > 0
    assert it.told["routed"] > 0.5 * len(it.sent), it.told


async def test_one_dead_shard_is_listed_and_leaves_the_gateway_ready(
    cluster: BundledCluster, two: list[Gateway]
) -> None:
    """With its replica dead as well. A login of one of its users is told to come back."""
    primary = cluster.owner(SLOTS[0])
    address = cluster.addresses[primary]
    (replica,) = cluster.replicas_of(primary)
    cluster.kill(replica)
    cluster.kill(primary)
    await until("it is known", lambda: two[0]._router.deaf_shards == [address])
    status, body = await page(two[0].port, "/ready")
    assert (status, json.loads(body)["deafShards"]) == (200, [address])
    space = two[0].settings.keyspace
    buckets = two[0]._router.buckets_at(address)
    user = next(f"u{n}" for n in range(200) if space.bucket(f"u{n}") in buckets)
    here = next(f"u{n}" for n in range(200) if space.bucket(f"u{n}") not in buckets)
    sender = Talker(here)
    await sender.open(two[0])
    nobody = next(f"v{n}" for n in range(200) if space.bucket(f"v{n}") not in buckets)
    await sender.send(type="message", to=nobody, content="", id="1")
    await sender.send(type="message", to=user, content="", id="2")
    await until("both are answered", lambda: len(sender.acks) == 2)
    assert sender.acks == {"1": "offline", "2": "busy"}
    await sender.close()
    unlucky = Talker(user)
    await unlucky.open(two[0])
    await until("it is told to come back", lambda: unlucky.closed.startswith("1013"))
    cluster.revive(primary)
    cluster.revive(replica)
    await until("it is heard", lambda: not two[0]._router.deaf_shards, 20)

    async def can_log_in() -> bool:
        lucky = Talker(user)
        first = await lucky.open(two[0])
        await lucky.close()
        return bool(first["type"] == "registered")

    await until("its users can log in", can_log_in, 20, every_s=0.2)
