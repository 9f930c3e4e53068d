"""Does a gateway hear every shard of a cluster, whatever becomes of the servers?

All on a real cluster of 3 primaries with a replica each. The map of the cluster is asked here by a
plain client, so that only the ears are under test.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.asyncio as redis_client

from tests.waiting import until
from wsdemo.buckets import slots
from wsdemo.redis.cluster_ears import ClusterEars
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.slots import SlotMap, claims
from wsdemo.settings import Keyspace, Limits

pytestmark = pytest.mark.slow

KEYSPACE = Keyspace(buckets=16)
CHANNELS = KEYSPACE.gateway_channels("gateway-01")
SLOTS = slots(16)


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


class AskedMap:
    """The map of a cluster (`Shards`), as its servers tell it when they are asked."""

    def __init__(self, cluster: BundledCluster) -> None:
        self._cluster = cluster
        self._map = SlotMap()
        self._told: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_kept = True
        """Whether it is asked for at all."""
        for number in range(3):
            self._learn(number)

    def owner(self, slot: int) -> str:
        return self._map.owners[slot]

    def url_of(self, address: str) -> str:
        login = urlsplit(self._cluster.url).netloc.rpartition("@")[0]
        return f"redis://{login}@{address}"

    def on_map(self, told: Callable[[], None]) -> None:
        self._told.append(told)

    def moved(self, slot: int, address: str) -> None:
        if self._map.moved(slot, address):
            self._tell()

    def look_soon(self, address: str = "") -> None:
        if self.is_kept and len(self._tasks) < 4:
            task = asyncio.get_running_loop().create_task(self._look(address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def tell(self) -> None:
        """Say that it has changed."""
        self._tell()

    async def _look(self, address: str) -> None:
        await asyncio.sleep(0.02)
        numbers = range(len(self._cluster.servers))
        if address:
            numbers = range(*(slice(self._cluster.addresses.index(address), None)).indices(6))[:1]
        before = list(self._map.owners)
        for number in numbers:
            with contextlib.suppress(Exception):
                await asyncio.to_thread(self._learn, number)
        if before != self._map.owners:
            self._tell()

    def _learn(self, number: int) -> None:
        text = self._cluster.call(number, "CLUSTER", "NODES", timeout_s=0.5)
        self._map.learn(claims(text, self._cluster.addresses[number]))

    def _tell(self) -> None:
        for told in self._told:
            told()

    async def stop(self) -> None:
        self.is_kept = False
        if self._tasks:
            await asyncio.wait(self._tasks)


class Listening:
    """Ears, and what they have heard."""

    def __init__(self, cluster: BundledCluster, channels: list[str] = CHANNELS) -> None:
        self.map = AskedMap(cluster)
        self.heard: list[tuple[str, bytes]] = []
        self.gaps: list[str] = []
        self.ears = ClusterEars(
            self.map,
            Limits(),
            channels,
            KEYSPACE.broadcast_channel,
            lambda channel, data: self.heard.append((channel.decode(), data)),
            self.gaps.append,
        )

    def on(self, channel: str) -> list[bytes]:
        return [data for name, data in self.heard if name == channel]


@contextlib.asynccontextmanager
async def listening(cluster: BundledCluster) -> AsyncIterator[Listening]:
    it = Listening(cluster)
    await it.ears.start(5.0)
    try:
        yield it
    finally:
        await it.ears.stop()
        await it.map.stop()


@contextlib.asynccontextmanager
async def client(cluster: BundledCluster, number: int) -> AsyncIterator[Any]:
    login = urlsplit(cluster.url).password
    async with redis_client.Redis(
        host="127.0.0.1", port=cluster.ports[number], password=login
    ) as c:
        yield c


async def publish(cluster: BundledCluster, bucket: int, data: str) -> int:
    """Publish at the server that has a bucket; return how many were counted."""
    number = await asyncio.to_thread(cluster.owner, SLOTS[bucket])
    async with client(cluster, number) as c:
        return int(await c.execute_command("SPUBLISH", CHANNELS[bucket], data))


async def whole(it: Listening) -> None:
    await until("all is heard", lambda: not it.ears.deaf, 10)


async def test_each_bucket_is_heard_and_counted_once(cluster: BundledCluster) -> None:
    """On the server that has it."""
    async with listening(cluster) as it:
        assert [await publish(cluster, b, f"m{b}") for b in range(16)] == [1] * 16
        await until("all came", lambda: len(it.heard) == 16)
        assert sorted(it.heard) == sorted((CHANNELS[b], f"m{b}".encode()) for b in range(16))
        assert sorted(it.ears.ears) == sorted(cluster.addresses[:3])


async def test_a_broadcast_from_any_server_is_heard_once(cluster: BundledCluster) -> None:
    """The bus of the cluster carries it."""
    async with listening(cluster) as it:
        for number in range(6):
            async with client(cluster, number) as c:
                await c.publish(KEYSPACE.broadcast_channel, str(number))
        await until("all came", lambda: len(it.heard) >= 6)
        assert sorted(data for _, data in it.heard) == [b"%d" % n for n in range(6)]


async def test_broadcasts_move_to_another_ear_when_theirs_is_lost(cluster: BundledCluster) -> None:
    """Nobody else would notice."""
    async with listening(cluster) as it:
        first = it.ears._classic_at
        assert first is not None
        first.reset()
        await until("another hears", lambda: it.ears._classic_at not in (None, first))
        await until("it is confirmed", lambda: not any(e.asked for e in it.ears.ears.values()))
        async with client(cluster, 0) as c:
            await c.publish(KEYSPACE.broadcast_channel, "hello")
        await until("it came", lambda: it.on(KEYSPACE.broadcast_channel) == [b"hello"])


async def test_moved_buckets_are_heard_at_their_new_server_once_and_in_order(
    cluster: BundledCluster,
) -> None:
    """Whatever was counted has arrived; one gap for each bucket that moved."""
    async with listening(cluster) as it:
        source = cluster.owner(SLOTS[0])
        moving = [b for b in range(16) if cluster.owner(SLOTS[b]) == source]
        to = next(n for n in range(6) if n != source and cluster.is_primary(n))
        counted: list[bytes] = []
        moves = asyncio.create_task(asyncio.to_thread(cluster.move, [SLOTS[b] for b in moving], to))
        n = 0
        async with client(cluster, source) as a, client(cluster, to) as b:
            while not moves.done() or it.ears.deaf or n < 50:
                for c in (a, b):
                    with contextlib.suppress(redis_client.ResponseError):
                        if await c.execute_command("SPUBLISH", CHANNELS[moving[0]], str(n)):
                            counted.append(b"%d" % n)
                        break
                n += 1
                await asyncio.sleep(0)
        await moves
        await whole(it)
        assert await publish(cluster, moving[0], "last") == 1
        await until("the last came", lambda: it.on(CHANNELS[moving[0]])[-1:] == [b"last"])
        assert it.on(CHANNELS[moving[0]]) == [*counted, b"last"]
        assert Counter(it.gaps) == Counter(CHANNELS[b] for b in moving)
    await asyncio.to_thread(cluster.move, [SLOTS[b] for b in moving], source)


async def test_after_a_planned_failover_publishers_are_counted(cluster: BundledCluster) -> None:
    """The old primary, a replica now, would deliver as well, and count nobody."""
    async with listening(cluster) as it:
        primary = cluster.owner(SLOTS[0])
        replica = await asyncio.to_thread(cluster.fail_over, primary)
        await until("it listens there", lambda: cluster.addresses[replica] in it.ears.ears, 10)
        await whole(it)
        assert await publish(cluster, 0, "hello") == 1
        await until("it came", lambda: it.on(CHANNELS[0]) == [b"hello"])
        await until(
            "the old one is left", lambda: cluster.addresses[primary] not in it.ears.ears, 10
        )


async def test_a_killed_primary_costs_one_gap_for_each_of_its_buckets(
    cluster: BundledCluster,
) -> None:
    """The others are heard all the while."""
    async with listening(cluster) as it:
        primary = cluster.owner(SLOTS[0])
        its = [b for b in range(16) if cluster.owner(SLOTS[b]) == primary]
        others = [b for b in range(16) if b not in its]
        cluster.kill(primary)
        await until("it is missed", lambda: len(it.ears.deaf) == len(its))
        assert it.ears.up
        assert await publish(cluster, others[0], "there") == 1
        await whole(it)
        assert Counter(it.gaps) == Counter(CHANNELS[b] for b in its)
        assert await publish(cluster, its[0], "back") == 1


async def test_a_frozen_primary_is_hung_up_when_another_has_its_slots(
    cluster: BundledCluster,
) -> None:
    """What it executes when it wakes comes once at most, by the bus of the cluster. (That it comes
    late is what the deadline of a script is for.)
    """
    async with listening(cluster) as it:
        primary = cluster.owner(SLOTS[0])
        its = [b for b in range(16) if cluster.owner(SLOTS[b]) == primary]
        async with client(cluster, primary) as c:
            await c.ping()
            cluster.pause(primary)
            late = asyncio.create_task(c.execute_command("SPUBLISH", CHANNELS[its[0]], "late"))
            while not it.ears.given_up:
                await asyncio.sleep(0.05)
                it.map.look_soon()
            await whole(it)
            assert await publish(cluster, its[0], "new") == 1
            cluster.resume(primary)
            with contextlib.suppress(redis_client.RedisError):
                await late
        await until("the new one came", lambda: b"new" in it.on(CHANNELS[its[0]]))
        assert it.on(CHANNELS[its[0]]) in ([b"new"], [b"new", b"late"])


async def test_a_server_that_is_slow_and_has_its_slots_is_not_hung_up(
    cluster: BundledCluster,
) -> None:
    """What it has counted as heard would be lost with the connection."""
    async with listening(cluster) as it:
        primary = cluster.owner(SLOTS[0])
        ear = it.ears.ears[cluster.addresses[primary]]
        connection = ear.round
        cluster.pause(primary)
        extra = it.ears.add(KEYSPACE.channel("watch", owner_in(0)))
        await asyncio.sleep(0.8)  # Longer than LEAVE_S, shorter than the cluster's patience.
        cluster.resume(primary)
        await extra
        assert ear.round is connection
        assert not it.gaps


def owner_in(bucket: int) -> str:
    return next(f"u{n}" for n in range(1000) if KEYSPACE.bucket(f"u{n}") == bucket)


async def test_channels_come_and_go(cluster: BundledCluster) -> None:
    """One that was added is heard from its confirmation on, also after its server was lost."""
    async with listening(cluster) as it:
        channel = KEYSPACE.channel("room", owner_in(3))
        number = cluster.owner(SLOTS[3])
        await it.ears.add(channel)
        async with client(cluster, number) as c:
            assert await c.execute_command("SPUBLISH", channel, "1") == 1
            await until("the first came", lambda: it.on(channel) == [b"1"])
            it.ears.ears[cluster.addresses[number]].reset()
            await whole(it)
            await until("it is heard", lambda: channel.encode() in it.ears._at)
            assert await c.execute_command("SPUBLISH", channel, "2") == 1
            await until("both came", lambda: it.on(channel) == [b"1", b"2"])
            it.ears.remove(channel)
            await until("it is left", lambda: channel.encode() not in it.ears._at)
            assert await c.execute_command("SPUBLISH", channel, "3") == 0
            again = it.ears.add(channel)
            it.ears.remove(channel)
            assert again.cancelled()
            await it.ears.add(channel)
            assert await c.execute_command("SPUBLISH", channel, "4") == 1
            await until("it came", lambda: it.on(channel)[-1:] == [b"4"])


async def test_what_was_published_before_unsubscribing_arrives(cluster: BundledCluster) -> None:
    """A gateway that drains hears all that was counted."""
    async with listening(cluster) as it:
        for bucket in range(16):
            assert await publish(cluster, bucket, "x") == 1
        await it.ears.unsubscribe()
        assert len(it.heard) == 16
        assert [await publish(cluster, bucket, "y") for bucket in range(16)] == [0] * 16


async def test_a_cluster_of_which_most_cannot_be_heard_is_refused(
    cluster: BundledCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason, and nothing left running."""
    it = Listening(cluster)
    monkeypatch.setattr(it.map, "url_of", lambda address: f"redis://{address}")
    with pytest.raises(RedisUnavailable, match="16 of 16 buckets cannot be heard"):
        await it.ears.start(0.5)
    assert not it.ears.ears
    await it.map.stop()
