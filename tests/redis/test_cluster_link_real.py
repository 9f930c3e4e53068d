"""Does the link keep its word on a real cluster: order, at most once, and an honest outcome?"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.examples import rounds
from tests.redis_states import free_port
from tests.waiting import until
from wsdemo.redis.cluster_link import ClusterLink
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.link import LINK_ERRORS, LinkDown, LinkTimeout
from wsdemo.redis.scripts import Script
from wsdemo.redis.server import BundledServer
from wsdemo.redis.slots import slot_of
from wsdemo.settings import Limits

APPEND = Script("append", "#!lua\nreturn redis.call('RPUSH', KEYS[1], ARGV[1])")
LIMITS = Limits(redis_timeout_s=2.0)
TAG = "{45.23}"
SLOT = slot_of(TAG)
WINDOW = 500
"""So many commands are under way at a time."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[BundledCluster]:
    """Three primaries with a replica each, for the whole module: a start takes two seconds."""
    with BundledCluster(3, 1) as cluster:
        yield cluster


@pytest.fixture
async def link(cluster: BundledCluster) -> AsyncIterator[ClusterLink]:
    """A link to it; afterwards the cluster is healed."""
    link = ClusterLink(cluster.url, LIMITS, scripts=[APPEND])
    await link.start()
    yield link
    await link.stop()
    await asyncio.to_thread(cluster.heal)


class Traffic:
    """Many numbered commands for the keys of one slot, as fast as they are answered."""

    def __init__(self, link: ClusterLink, name: str) -> None:
        self.keys = [f"order:{TAG}:{name}:{n}" for n in range(4)]
        self.told: dict[int, Any] = {}
        self._link = link
        self._sent = 0
        self._ends = False
        self._task = asyncio.create_task(self._run())

    @property
    def done(self) -> set[int]:
        return {number for number, reply in self.told.items() if isinstance(reply, int)}

    @property
    def failures(self) -> Counter[str]:
        return Counter(type(r).__name__ for r in self.told.values() if not isinstance(r, int))

    async def _run(self) -> None:
        while not self._ends:
            for _ in range(min(7, WINDOW - (self._sent - len(self.told)))):
                self._push()
            await asyncio.sleep(0.001)

    def _push(self) -> None:
        number = self._sent
        self._sent += 1

        def take(reply: Any) -> None:
            assert number not in self.told, "two outcomes"
            self.told[number] = reply

        try:
            self._link.submit_script(take, APPEND, [self.keys[number % 4]], number)
        except LINK_ERRORS as problem:
            take(problem)

    async def goes_on(self) -> None:
        """Wait until some more are done."""
        before = len(self.done)
        await until("commands are executed", lambda: len(self.done) > before + 200)

    async def end(self) -> None:
        """Send no more, and wait for every outcome."""
        self._ends = True
        await self._task
        await until("each has its outcome", lambda: len(self.told) == self._sent)

    async def judge(self, *, kept: bool = True) -> None:
        """Executed at most once, in order among those that are done; and none without being told.

        Args:
            kept: whether no write may have been lost, as in a move or a planned failover.
        """
        executed: Counter[int] = Counter()
        for key in self.keys:
            row = [int(word) for word in await self._link.call("LRANGE", key, 0, -1)]
            executed.update(row)
            in_order = [number for number in row if number in self.done]
            assert in_order == sorted(in_order)
        assert all(times == 1 for times in executed.values())
        if kept:
            assert self.done <= set(executed)
        for number in set(executed) - self.done:
            assert isinstance(self.told[number], LinkTimeout), self.told[number]


@pytest.mark.parametrize("atomic", [None, False], ids=["as the server can", "key by key"])
async def test_a_slot_that_moves_under_load_loses_repeats_and_disorders_nothing(
    cluster: BundledCluster, link: ClusterLink, atomic: bool | None
) -> None:
    """To and fro, with hundreds of commands under way all the time."""
    traffic = Traffic(link, f"move {atomic}")
    for _ in range(rounds(8, fast=3)):
        source = await asyncio.to_thread(cluster.owner, SLOT)
        others = [n for n in range(6) if n != source and cluster.is_primary(n)]
        await traffic.goes_on()
        await asyncio.to_thread(cluster.move, [SLOT], others[0], atomic=atomic)
    await traffic.end()
    assert traffic.failures == {}
    assert link.lanes.refusals["MOVED"] > 0
    assert link.owner(SLOT) == cluster.addresses[others[0]]
    await traffic.judge()


async def test_a_planned_failover_loses_nothing_that_was_told_done(
    cluster: BundledCluster, link: ClusterLink
) -> None:
    """What is under way at the end may be told `LinkDown`, or unknown."""
    traffic = Traffic(link, "failover")
    await traffic.goes_on()
    primary = await asyncio.to_thread(cluster.owner, SLOT)
    replica = await asyncio.to_thread(cluster.fail_over, primary)
    await traffic.goes_on()
    await traffic.end()
    assert link.owner(SLOT) == cluster.addresses[replica]
    await traffic.judge()


async def test_a_killed_primary_is_told_and_its_replica_is_found(
    cluster: BundledCluster, link: ClusterLink
) -> None:
    """The other shards do not notice."""
    traffic = Traffic(link, "kill")
    await traffic.goes_on()
    primary = await asyncio.to_thread(cluster.owner, SLOT)
    others = [slot for slot in range(0, 16384, 100) if link.owner(slot) != link.owner(SLOT)]
    cluster.kill(primary)
    await until("it is told", lambda: traffic.failures["LinkDown"])
    assert link.up and not link.up_at(SLOT)
    assert link.down_shards == [cluster.addresses[primary]]
    assert link.trouble is not None and cluster.addresses[primary] in str(link.trouble)
    assert isinstance(await link.call_at(others[0], "PING"), bytes)
    await traffic.goes_on()
    await traffic.end()
    assert link.up_at(SLOT) and link.trouble is None
    await traffic.judge(kept=False)  # A replica may not have what its primary confirmed last.


async def test_a_frozen_primary_is_left_for_its_replica(
    cluster: BundledCluster, link: ClusterLink
) -> None:
    """What was under way is unknown; what comes later is executed by the replica."""
    traffic = Traffic(link, "pause")
    await traffic.goes_on()
    primary = await asyncio.to_thread(cluster.owner, SLOT)
    cluster.pause(primary)
    await until("it is told", lambda: traffic.failures["LinkTimeout"])
    await traffic.goes_on()
    cluster.resume(primary)
    await traffic.end()
    await traffic.judge(kept=False)


async def test_a_scan_sees_the_keys_of_all_primaries_once(link: ClusterLink) -> None:
    """One cursor goes over all of them."""
    names = {f"scanned:{n}" for n in range(300)}
    for name in sorted(names):
        await link.call("SET", name, "x")
    seen: list[str] = []
    cursor, steps = "0", 0
    while steps == 0 or cursor != "0":
        told, keys = await link.call("SCAN", cursor, "MATCH", "scanned:*", "COUNT", 50)
        cursor, steps = told.decode(), steps + 1
        seen += [key.decode() for key in keys]
    assert set(seen) == names
    assert steps > 3
    assert (await link.call("SCAN", 7777 * 1024 + 1023))[0] == b"0"


async def test_a_forgotten_script_is_sent_again_in_a_cluster_too(
    cluster: BundledCluster, link: ClusterLink
) -> None:
    """The rule of the link to one server."""
    primary = await asyncio.to_thread(cluster.owner, SLOT)
    await link.call_at(SLOT, "SCRIPT", "FLUSH")
    replies = await asyncio.gather(*(link.run(APPEND, [f"forgotten:{TAG}"], n) for n in range(20)))
    assert replies == list(range(1, 21))
    assert await asyncio.to_thread(cluster.owner, SLOT) == primary


async def test_commands_without_a_key_are_answered_by_any_server(link: ClusterLink) -> None:
    """And what is asked first is asked at each connection."""
    assert await link.call("PING") == b"PONG"
    assert b"redis_version" in await link.call("INFO", "server")
    assert isinstance(await link.call("PUBLISH", "channel", "x"), int)
    link.check()


async def test_a_link_starts_while_a_primary_is_away_and_finds_it_later(
    cluster: BundledCluster,
) -> None:
    """The other shards are served meanwhile; `on_shard` says when it is there."""
    shards: list[tuple[str, bool]] = []
    primary = await asyncio.to_thread(cluster.owner, SLOT)
    address = cluster.addresses[primary]
    cluster.pause(primary)
    limits = dataclasses.replace(LIMITS, redis_connect_timeout_s=0.3)
    link = ClusterLink(cluster.url, limits, on_shard=lambda *news: shards.append(news))
    try:
        await link.start(1.0)
        assert link.up and not link.up_at(SLOT)
        with pytest.raises(LinkDown):
            await link.call("GET", f"x:{TAG}")
        cluster.resume(primary)
        await until("it is there", lambda: link.up_at(SLOT))
        assert (link.owner(SLOT), True) in shards or (address, True) in shards
        await link.call("GET", f"x:{TAG}")
    finally:
        await link.stop()
        await asyncio.to_thread(cluster.heal)


async def test_a_server_that_is_no_cluster_is_refused_in_one_line(
    shared_server: BundledServer,
) -> None:
    """With the address to use instead."""
    url = shared_server.url.replace("redis://", "redis+cluster://").removesuffix("/0")
    with pytest.raises(RedisUnavailable, match="no cluster: its address begins with redis://"):
        await ClusterLink(url, LIMITS).start()


async def test_without_any_server_the_start_fails_in_one_line() -> None:
    """Nothing is left running."""
    link = ClusterLink(f"redis+cluster://127.0.0.1:{free_port()}", LIMITS)
    with pytest.raises(RedisUnavailable) as problem:
        await link.start()
    assert len(str(problem.value).splitlines()) == 1
    assert not link.open and link.trouble is not None
