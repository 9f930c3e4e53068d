"""Shard faults: what if a server of a cluster dies, freezes, is replaced, or gives users away?"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from wsdemo.proof.chaos.cluster import ProcessCluster
from wsdemo.proof.chaos.deployment import DeploymentKind
from wsdemo.proof.chaos.fault import REDIS, FaultType, NotArranged, Scene, Steps, fault
from wsdemo.proof.chaos.group_witness import GroupWitness
from wsdemo.proof.chaos.redis_group import NODE_TIMEOUT_S, ClusterGroup
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.server import ServerError
from wsdemo.redis.slots import SLOTS

CLUSTER: Final = (DeploymentKind.CLUSTER,)
FROZEN_S: Final = NODE_TIMEOUT_S + 3.0
"""Longer than a failover takes: the server wakes up as a primary that was replaced."""
ALONE_S: Final = 3.0
"""Longer than a gateway waits for an answer, and than a message may be late."""
LATE: Final = 0.5
"""In what part of the minorities that which was held arrives in the end."""
LEAST_BUCKETS: Final = 8
"""A primary with fewer gives none away."""


def shards(cluster: ProcessCluster) -> ClusterGroup:
    """Return the servers of a run on a cluster."""
    assert isinstance(cluster.group, ClusterGroup)
    return cluster.group


def watcher(cluster: ProcessCluster) -> GroupWitness:
    """Return the witness of a run on several servers."""
    assert isinstance(cluster.witness, GroupWitness)
    return cluster.witness


async def _primary(scene: Scene) -> int:
    """Choose one of the primaries."""
    try:
        return scene.rng.choice(await asyncio.to_thread(shards(scene.cluster).primaries))
    except ServerError as problem:
        raise NotArranged(str(problem)) from None


async def _replaced(cluster: BundledCluster, number: int) -> None:
    """Wait until its replica has taken the place of a primary that does not answer."""
    count = len(cluster.servers)
    others = [other for other in range(count) if other != number]

    def is_replaced() -> bool:
        with contextlib.suppress(ServerError):
            return sum(map(cluster.is_primary, others)) == count // 2
        return False

    await asyncio.to_thread(cluster.until, f"server {number} is replaced", is_replaced)


@fault("shard killed", 185, lasts_s=1.0, touches=(REDIS,), at=CLUSTER)
async def shard_killed(scene: Scene) -> Steps:
    """A primary is killed. Its replica takes over, and it comes back as the replica of that one."""
    cluster, number = shards(scene.cluster).cluster, await _primary(scene)
    await asyncio.to_thread(cluster.kill, number)
    try:
        await _replaced(cluster, number)
        yield
    finally:
        await asyncio.to_thread(cluster.heal)


@fault("shard frozen", 186, lasts_s=FROZEN_S, touches=(REDIS,), at=CLUSTER)
async def shard_frozen(scene: Scene) -> Steps:
    """A primary is stopped, replaced, and goes on with what waits in its sockets."""
    cluster, number = shards(scene.cluster).cluster, await _primary(scene)
    await asyncio.to_thread(cluster.pause, number)
    try:
        yield
    finally:
        await asyncio.to_thread(cluster.heal)


@fault("shard frozen with its replica", 187, lasts_s=ALONE_S, touches=(REDIS,), at=CLUSTER)
async def shard_frozen_with_replica(scene: Scene) -> Steps:
    """Nobody can take its place. When it goes on, gateways still hear it."""
    cluster, number = shards(scene.cluster).cluster, await _primary(scene)
    for one in (*await asyncio.to_thread(cluster.replicas_of, number), number):
        await asyncio.to_thread(cluster.pause, one)
    try:
        yield
    finally:
        await asyncio.to_thread(cluster.heal)


@fault("shard in a minority", 212, lasts_s=1.0, touches=(REDIS,), at=CLUSTER)
async def shard_in_minority(scene: Scene) -> Steps:
    """A primary is cut off from all other servers, and gateways still reach it. When it has been
    replaced, what it had sent to its replica arrives after all, or is lost.
    """
    cluster, number = shards(scene.cluster).cluster, await _primary(scene)
    late = scene.rng.random() < LATE
    watcher(scene.cluster).will_be_alone(number)
    await asyncio.to_thread(cluster.isolate, number)
    try:
        await _replaced(cluster, number)
        yield
    finally:
        await asyncio.to_thread(cluster.rejoin, late=late)
        await asyncio.to_thread(cluster.heal)


@fault("shard failed over", 188, lasts_s=0.5, touches=(REDIS,), at=CLUSTER)
async def shard_failed_over(scene: Scene) -> Steps:
    """A replica takes the place of its primary, as planned. No write may be lost."""
    group, number = shards(scene.cluster), await _primary(scene)
    with watcher(scene.cluster).planned():
        replica = await asyncio.to_thread(group.cluster.fail_over, number)
        await watcher(scene.cluster).look(replica)
    yield
    await asyncio.to_thread(group.heal)


@fault("buckets moved", 189, lasts_s=0.5, touches=(REDIS,), at=CLUSTER)
async def buckets_moved(scene: Scene) -> Steps:
    """A primary gives half of its buckets to another one. No write may be lost."""
    group, source = shards(scene.cluster), await _primary(scene)
    claim = await asyncio.to_thread(group.claim, source)
    others = [n for n in await asyncio.to_thread(group.primaries) if n != source]
    if claim is None or len(claim.buckets) < LEAST_BUCKETS:
        raise NotArranged("that primary has few buckets")
    moved = scene.rng.sample(sorted(claim.buckets), len(claim.buckets) // 2)
    target, count = scene.rng.choice(others), group.keyspace.buckets
    slots = [slot for b in moved for slot in range(b * SLOTS // count, (b + 1) * SLOTS // count)]
    with watcher(scene.cluster).planned():
        await asyncio.to_thread(group.cluster.move, slots, target)
        await watcher(scene.cluster).look(target)
    yield
    await asyncio.to_thread(group.heal)


@fault("ears of a shard cut", 190, lasts_s=0.5, touches=(REDIS,), at=CLUSTER)
async def ears_cut(scene: Scene) -> Steps:
    """A server ends the connections on which gateways hear the messages for its users."""
    group, number = shards(scene.cluster), await _primary(scene)
    await asyncio.to_thread(group.call, number, "CLIENT", "KILL", "TYPE", "pubsub")
    yield


@fault("links of a shard cut", 191, lasts_s=0.5, touches=(REDIS,), at=CLUSTER)
async def links_cut(scene: Scene) -> Steps:
    """A server ends the connections on which gateways send commands about its users."""
    group, number = shards(scene.cluster), await _primary(scene)
    told = await asyncio.to_thread(group.call, number, "CLIENT", "LIST", "TYPE", "normal")
    for line in told.splitlines():
        client = dict(word.split("=", 1) for word in line.split(" ") if "=" in word)
        if client["cmd"] in {"evalsha", "eval"}:
            await asyncio.to_thread(group.call, number, "CLIENT", "KILL", "ID", client["id"])
    yield


FAULTS: Final[tuple[FaultType, ...]] = (
    shard_killed,
    shard_frozen,
    shard_frozen_with_replica,
    shard_in_minority,
    shard_failed_over,
    buckets_moved,
    ears_cut,
    links_cut,
)
