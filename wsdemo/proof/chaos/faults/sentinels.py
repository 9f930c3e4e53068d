"""Sentinel faults: what if the primary dies, freezes or is replaced, or a sentinel is away?"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from redis.exceptions import RedisError

from wsdemo.proof.chaos.cluster import ProcessCluster
from wsdemo.proof.chaos.deployment import DeploymentKind
from wsdemo.proof.chaos.fault import REDIS, FaultType, NotArranged, Scene, Steps, fault
from wsdemo.proof.chaos.faults.shards import ALONE_S, watcher
from wsdemo.proof.chaos.redis_group import SentinelGroup
from wsdemo.redis.sentinel_server import BundledSentinel, HandOver
from wsdemo.redis.server import ServerError

SENTINEL: Final = (DeploymentKind.SENTINEL,)


def trio(cluster: ProcessCluster) -> BundledSentinel:
    """Return the servers of a run with sentinels."""
    assert isinstance(cluster.group, SentinelGroup)
    return cluster.group.trio


@fault("primary killed", 192, lasts_s=0.5, touches=(REDIS,), at=SENTINEL)
async def primary_killed(scene: Scene) -> Steps:
    """Its replica takes over, and it comes back as the replica of that one."""
    servers = trio(scene.cluster)
    try:
        old = await asyncio.to_thread(servers.kill)
        await asyncio.to_thread(servers.until_replaced, old)
        yield
    finally:
        await asyncio.to_thread(servers.heal)


@fault("primary frozen", 193, lasts_s=0.5, touches=(REDIS,), at=SENTINEL)
async def primary_frozen(scene: Scene) -> Steps:
    """It is stopped, replaced, and goes on with what waits in its sockets."""
    servers = trio(scene.cluster)
    try:
        old = await asyncio.to_thread(servers.pause)
        await asyncio.to_thread(servers.until_replaced, old)
        yield
    finally:
        await asyncio.to_thread(servers.heal)


@fault("primary frozen with its replica", 194, lasts_s=ALONE_S, touches=(REDIS,), at=SENTINEL)
async def primary_frozen_with_replica(scene: Scene) -> Steps:
    """Nobody can take its place."""
    servers = trio(scene.cluster)
    try:
        for server in servers.servers:
            await asyncio.to_thread(server.pause)
        yield
    finally:
        await asyncio.to_thread(servers.heal)


@fault("primary replaced, coordinated", 195, lasts_s=0.5, touches=(REDIS,), at=SENTINEL)
async def primary_replaced(scene: Scene) -> Steps:
    """A planned failover in which both servers take part. No write may be lost."""
    with watcher(scene.cluster).planned():
        await _fail_over(scene, HandOver.COORDINATED)
    yield
    await asyncio.to_thread(trio(scene.cluster).heal)


@fault("primary replaced, plainly", 196, lasts_s=0.5, touches=(REDIS,), at=SENTINEL)
async def primary_replaced_plainly(scene: Scene) -> Steps:
    """A planned failover in which the old primary takes writes until it is told."""
    await _fail_over(scene, HandOver.PLAIN)
    yield
    await asyncio.to_thread(trio(scene.cluster).heal)


async def _fail_over(scene: Scene, how: HandOver) -> None:
    try:
        await asyncio.to_thread(trio(scene.cluster).fail_over, how)
    except ServerError as problem:
        raise NotArranged(str(problem)) from None
    await watcher(scene.cluster).look((await asyncio.to_thread(scene.cluster.group.primaries))[0])


@fault("sentinel killed", 197, lasts_s=1.0, touches=(REDIS,), at=SENTINEL)
async def sentinel_killed(scene: Scene) -> Steps:
    """Nobody notices: two others are left."""
    servers = trio(scene.cluster)
    scene.rng.choice(servers.sentinels).kill()
    try:
        yield
    finally:
        with contextlib.suppress(RedisError):
            await asyncio.to_thread(servers.heal)


FAULTS: Final[tuple[FaultType, ...]] = (
    primary_killed,
    primary_frozen,
    primary_frozen_with_replica,
    primary_replaced,
    primary_replaced_plainly,
    sentinel_killed,
)
