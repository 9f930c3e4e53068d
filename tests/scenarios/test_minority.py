"""Do the promises hold when a primary is cut off from its cluster, and gateways still reach it?

It is alone, and does not know it yet: it takes what gateways send, until it has missed the others
for the node timeout. What it confirms meanwhile is lost when its replica has taken its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.scenarios.cluster_traffic import Talker, gateways, traffic
from tests.scenarios.test_redis_cluster import all_there, entries, slots_on, whole
from tests.waiting import until
from wsdemo.buckets import slots
from wsdemo.rig.split_cluster import SplitCluster
from wsdemo.settings import Keyspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SLOTS = slots(64)


@pytest.fixture(scope="module")
def cluster() -> Iterator[SplitCluster]:
    """One for the whole module: a start takes two seconds."""
    with SplitCluster(3, 1) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def healed(cluster: SplitCluster) -> Iterator[None]:
    """Each test leaves a cluster that works."""
    yield
    cluster.heal()


async def test_users_of_a_minority_primary_are_served_told_and_registered_again(
    cluster: SplitCluster, keyspace: Keyspace
) -> None:
    """Told is heard, at most once; nobody is disconnected; a lost register is made up for (P5)."""
    async with gateways(cluster.url, keyspace) as two:
        space = two[0].settings.keyspace
        old = cluster.owner(SLOTS[0])
        (replica,) = await asyncio.to_thread(cluster.replicas_of, old)
        here = set(slots_on(cluster, old))
        names = [n for n in map("late-{}".format, range(99)) if SLOTS[space.bucket(n)] in here]
        late = [Talker(name) for name in names[:5]]
        async with traffic(two) as it:
            await it.flows()
            await asyncio.to_thread(cluster.isolate, old)
            # They are registered where nobody else will ever hear of them.
            firsts = [await one.open(two[0]) for one in late]
            assert [first["type"] for first in firsts] == ["registered"] * len(late)

            async def is_promoted() -> bool:
                return await asyncio.to_thread(cluster.is_primary, replica)

            await until("its replica is promoted", is_promoted, 20)
            assert await asyncio.to_thread(cluster.is_primary, old)
            # The gateways follow the new primary while the old one still calls itself one.
            await it.flows()
            await asyncio.to_thread(cluster.rejoin)
            await it.flows()
            await whole(two)
            await asyncio.to_thread(cluster.heal)
            await all_there(cluster, two, it)

            async def are_back() -> bool:
                found = await asyncio.to_thread(entries, cluster, space, names[:5])
                assert all(found.values()), found
                return len(found) == len(late)

            await until("lost registers are made up for", are_back, 15)
        assert not it.closed
        assert not any(one.closed for one in late)
        assert it.told["routed"] > 0.8 * len(it.sent), it.told
        for one in late:
            await one.close()


async def test_what_the_bus_delivers_late_is_not_heard_a_second_time(
    cluster: SplitCluster, keyspace: Keyspace
) -> None:
    """A primary sends each message to its replica, too. That may arrive after the replica has been
    promoted, and gateways listen there: they drop it.
    """
    async with gateways(cluster.url, keyspace) as two:
        old = cluster.owner(SLOTS[0])
        (replica,) = await asyncio.to_thread(cluster.replicas_of, old)
        async with traffic(two) as it:
            await it.flows()
            await asyncio.to_thread(cluster.isolate, old)

            async def is_promoted() -> bool:
                return await asyncio.to_thread(cluster.is_primary, replica)

            await until("its replica is promoted", is_promoted, 20)
            await it.flows()
            await whole(two)

            def passed_on() -> int:
                return int(two[1].stats()["counters"]["messages_passed_on"])

            assert passed_on() == 0
            await asyncio.to_thread(cluster.rejoin, late=True)
            await until("what was held arrives", passed_on)
            await it.flows()
            await asyncio.to_thread(cluster.heal)
            await all_there(cluster, two, it)
        assert not it.closed
