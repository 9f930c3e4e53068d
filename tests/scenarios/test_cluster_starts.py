"""Does a gateway refuse to start on a cluster that it cannot use, and say why in one line?"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.processes import GatewayProcess, User
from tests.scenarios.cluster_traffic import Talker, gateways
from tests.waiting import until
from wsdemo.features import InboxSettings, RoomSettings, WatchSettings
from wsdemo.gateway.server import Gateway
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.server import BundledServer
from wsdemo.router import DuplicateGateway
from wsdemo.settings import GatewaySettings, Keyspace, Limits, SettingsError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[BundledCluster]:
    """One for the whole module; its primaries have no replicas."""
    with BundledCluster(3, 0) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def healed(cluster: BundledCluster) -> Iterator[None]:
    """Each test leaves a cluster that works."""
    yield
    cluster.heal()


PATIENT: Final = Limits(redis_connect_timeout_s=2.0, redis_start_s=2.0)
"""So long a start waits for servers that are away, and no longer."""


def told(url: str, keyspace: Keyspace, **settings: object) -> Gateway:
    return Gateway(
        GatewaySettings(
            gateway_id="gateway-01",
            port=0,
            redis_url=url,
            keyspace=keyspace,
            limits=PATIENT,
            **settings,  # type: ignore[arg-type]
        )
    )


async def test_another_number_of_buckets_is_refused(
    cluster: BundledCluster, keyspace: Keyspace
) -> None:
    """Gateways with different numbers would not see each other's users, and nobody would know."""
    async with gateways(cluster.url, keyspace, 1):
        other = told(f"{cluster.url}?buckets=16", keyspace)
        with pytest.raises(RedisUnavailable, match=r"64 buckets, and not into 16: .*buckets=64"):
            await other.start()
    again = told(f"{cluster.url}?buckets=16", keyspace)
    with pytest.raises(RedisUnavailable, match="64 buckets"):
        await again.start()


async def test_an_address_of_the_wrong_form_is_refused_with_the_right_one(
    cluster: BundledCluster, shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Of a cluster that is taken for one server, and the other way round."""
    plain = cluster.url.replace("redis+cluster://", "redis://").split(",")[0]
    with pytest.raises(RedisUnavailable, match=r"redis\+cluster://"):
        await told(plain, keyspace).start()
    wrong = shared_server.url.replace("redis://", "redis+cluster://").partition("/0")[0]
    with pytest.raises(RedisUnavailable, match="redis://"):
        await told(wrong, keyspace).start()


async def test_a_second_gateway_with_the_same_id_is_refused_and_may_take_over(
    cluster: BundledCluster, keyspace: Keyspace
) -> None:
    """As on one Redis."""
    async with gateways(cluster.url, keyspace, 1) as (first,):
        second = told(cluster.url, keyspace)
        with pytest.raises(DuplicateGateway):
            await second.start()
        async with told(cluster.url, keyspace, takeover=True) as third:
            await until("the first is told", first.replaced.is_set)
            assert third.ready


async def test_warnings_name_the_primary_and_what_is_wrong_with_it(
    cluster: BundledCluster, keyspace: Keyspace
) -> None:
    """A cluster that stops when one shard is away; primaries without replicas; eviction."""
    cluster.call(1, "CONFIG", "SET", "cluster-require-full-coverage", "yes")
    cluster.call(2, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        async with gateways(cluster.url, keyspace, 1) as (one,):
            warnings = one.stats()["warnings"]
    finally:
        cluster.call(1, "CONFIG", "SET", "cluster-require-full-coverage", "no")
        cluster.call(2, "CONFIG", "SET", "maxmemory-policy", "noeviction")
    where = cluster.addresses
    text = "\n".join(warnings)
    assert f"{where[1]}: cluster-require-full-coverage is yes" in text
    assert f"{where[2]}: maxmemory-policy is allkeys-lru" in text
    assert [line for line in warnings if "has no replica" in line] != []
    assert len(warnings) == 5


@pytest.mark.parametrize("away", [0, 1, 2])
async def test_it_starts_while_one_of_three_shards_is_away(
    cluster: BundledCluster, keyspace: Keyspace, away: int
) -> None:
    """The others have users, too; it hears the third when that is back."""
    cluster.kill(away)
    async with gateways(cluster.url, keyspace, 1, limits=PATIENT) as (one,):
        assert one.ready
        assert one._router.deaf_shards == [cluster.addresses[away]]
        cluster.revive(away)
        await until("it hears all", lambda: not one._router.deaf_shards, 20)


@pytest.mark.parametrize("away", [0, 1, 2])
async def test_a_second_gateway_with_the_same_id_is_refused_whichever_shard_is_away(
    cluster: BundledCluster, keyspace: Keyspace, away: int
) -> None:
    """Each server is asked who listens there; a takeover reaches the first one as well."""
    cluster.kill(away)
    async with gateways(cluster.url, keyspace, 1, limits=PATIENT) as (first,):
        with pytest.raises(DuplicateGateway):
            await told(cluster.url, keyspace).start()
        async with told(cluster.url, keyspace, takeover=True) as second:
            await until("the first is told", first.replaced.is_set)
            assert second.ready


@pytest.mark.parametrize("away", [0, 1, 2])
async def test_another_number_of_buckets_is_refused_whichever_shard_is_away_or_came_back_empty(
    cluster: BundledCluster, keyspace: Keyspace, away: int
) -> None:
    """The number is written down on every primary, so it does not depend on one of them."""
    async with gateways(cluster.url, keyspace, 1):
        pass
    cluster.kill(away)
    other = told(f"{cluster.url}?buckets=16", keyspace)
    with pytest.raises(RedisUnavailable, match="64 buckets"):
        await other.start()
    cluster.revive(away)
    again = told(f"{cluster.url}?buckets=16", keyspace)
    with pytest.raises(RedisUnavailable, match="64 buckets"):
        await again.start()


async def test_with_full_coverage_a_dead_shard_stops_all_and_disconnects_nobody(
    cluster: BundledCluster, keyspace: Keyspace
) -> None:
    """Commands fail for want of a shard, and not because Redis refuses a user."""
    for number in range(3):
        cluster.call(number, "CONFIG", "SET", "cluster-require-full-coverage", "yes")
    try:
        async with gateways(cluster.url, keyspace, 1) as (one,):
            users = [Talker(f"u{n}") for n in range(12)]
            for user in users:
                await user.open(one)
            cluster.kill(2)
            await until("refreshes fail", lambda: one.counters.refreshes_failed > 30, 30)
            assert not [user.closed for user in users if user.closed]
            for number in range(2):
                cluster.call(number, "CONFIG", "SET", "cluster-require-full-coverage", "no")
            cluster.revive(2)
            before = one.counters.refreshes_ok + one.counters.refreshes_reclaimed
            await until(
                "leases are renewed",
                lambda: one.counters.refreshes_ok + one.counters.refreshes_reclaimed > before + 12,
                30,
            )
            for user in users:
                assert not user.closed
                await user.close()
    finally:
        for number in range(3):
            if cluster.servers[number].running:
                cluster.call(number, "CONFIG", "SET", "cluster-require-full-coverage", "no")


async def test_workers_say_together_which_shards_they_cannot_hear(
    cluster: BundledCluster, keyspace: Keyspace
) -> None:
    """Two processes behind one port (fault 202): whichever is asked; users of the others talk."""
    flags = ("--workers", "2", "--key-prefix", keyspace.prefix, "--probe-interval-s", "1")
    async with GatewayProcess("gateway-01", cluster.url, *flags) as whole:

        async def deaf() -> tuple[bool, list[str]]:
            pages = [json.loads((await whole.get("/ready"))[1]) for _ in range(4)]
            assert all("deafShards" in page for page in pages)
            return all(page["ready"] for page in pages), pages[-1]["deafShards"]

        async def is_deaf_to(addresses: list[str]) -> bool:
            return await deaf() == (True, addresses)

        await until("both hear all", lambda: is_deaf_to([]), 20)
        cluster.kill(2)
        await until("the shard is listed", lambda: is_deaf_to(cluster.addresses[2:]), 20)
        space = Keyspace(keyspace.prefix, buckets=64)
        here = [f"u{n}" for n in range(50) if space.bucket(f"u{n}") < 64 // 3][:4]
        users = [await User.register(name, whole.url) for name in here]
        for recipient, sender in itertools.pairwise(users):
            assert await sender.send(recipient.name, "hello") == "routed"
        cluster.revive(2)
        await until("both hear all again", lambda: is_deaf_to([]), 20)
        for user in users:
            await user.leave()


def test_what_a_cluster_cannot_keep_is_refused() -> None:
    """The run id of one server says nothing when slots move between servers."""
    address = "redis+cluster://localhost"
    with pytest.raises(SettingsError, match=r"--durable .* needs --trust-redis"):
        GatewaySettings(gateway_id="g", redis_url=address, inbox=InboxSettings())
    rooms = RoomSettings(room_history=10)
    with pytest.raises(SettingsError, match=r"--room-history .* needs --trust-redis"):
        GatewaySettings(gateway_id="g", redis_url=address, rooms=rooms)
    GatewaySettings(gateway_id="g", redis_url=address, watch=WatchSettings())


def rights() -> list[str]:
    """What docs/operating.md says that a gateway needs: on one Redis, and besides in a cluster."""
    page = Path("docs/operating.md").read_text(encoding="utf-8")
    single = re.search(r"^ACL SETUSER wsdemo (.*)$", page, re.MULTILINE)
    besides = re.search(r"^(~app1:wsdemo:.*)$", page, re.MULTILINE)
    assert single and besides
    return [*single[1].split(), *besides[1].split()]


async def test_the_rights_that_the_manual_names_are_enough(cluster: BundledCluster) -> None:
    """On every server: users log in, and reach each other through two gateways."""
    for number in range(3):
        cluster.call(number, "ACL", "SETUSER", "wsdemo", *rights())
    try:
        url = re.sub(r"//.*@", "//wsdemo:secret@", cluster.url)
        async with gateways(url, Keyspace("app1:")) as (one, two):
            users = [(Talker(f"a{n}"), Talker(f"b{n}")) for n in range(8)]
            for a, b in users:
                await a.open(one)
                await b.open(two)
                await a.send(type="message", to=b.name, content="hello", id="1")
                await until("it came", partial(has_heard, b))
            assert one.ready and not one._router.deaf_shards
            for pair in users:
                for user in pair:
                    await user.close()
    finally:
        for number in range(3):
            cluster.call(number, "ACL", "DELUSER", "wsdemo")


FEATURES = {
    "inbox": InboxSettings(trust_redis=True),
    "rooms": RoomSettings(room_history=10, trust_redis=True),
    "watch": WatchSettings(watch_grace_s=0.1),
}


@pytest.mark.parametrize("devices", [1, 2])
async def test_durable_messages_rooms_and_watching_work_on_a_cluster(
    cluster: BundledCluster, keyspace: Keyspace, devices: int
) -> None:
    """For users and rooms of all shards, over two gateways."""
    async with gateways(cluster.url, keyspace, 2, devices=devices, **FEATURES) as (one, two):
        pairs = [(Talker(f"a{n}"), Talker(f"b{n}")) for n in range(12)]
        for n, (a, b) in enumerate(pairs):
            await talk(a, b, one, two, f"room{n}")


async def talk(a: Talker, b: Talker, one: Gateway, two: Gateway, room: str) -> None:
    """Use each feature once."""
    await a.open(one)
    await a.send(type="watch", users=[b.name])
    await a.send(type="message", to=b.name, content="kept", id="1", durable=True)
    await until("it is stored", lambda: a.acks.get("1") == "stored")
    await b.open(two)
    await until("it came", lambda: [frame["content"] for frame in b.got] == ["kept"])
    await a.send(type="message", to=b.name, content="now", id="2")
    await until("the plain one came", lambda: len(b.got) == 2)
    for user in (a, b):
        await user.send(type="join", room=room, id="j")
        await until("it is in", partial(told_of, user, "joined"))
    await b.send(type="publish", room=room, content="hello", id="3")
    await until("the room heard", lambda: told_of(a, "room", "hello"))
    await until("it is seen", lambda: told_of(a, "online"))
    await b.close()
    await until("its leaving is seen", lambda: told_of(a, "offline", "bye"))
    await a.close()


def told_of(user: Talker, *words: str) -> bool:
    return any(all(word in str(frame) for word in words) for frame in user.frames)


def has_heard(user: Talker) -> bool:
    return bool(user.got)
