"""Network faults: what if the connection between a gateway and Redis is slow, lossy or cut?"""

from __future__ import annotations

import asyncio
from typing import Final

from wsdemo.proof.chaos.cluster import listens
from wsdemo.proof.chaos.fault import (
    ALL_GATEWAYS,
    GATEWAY,
    ONE_SERVER,
    REDIS,
    FaultType,
    NotArranged,
    Scene,
    Steps,
    fault,
)
from wsdemo.proof.chaos.faults.arrange import ready
from wsdemo.rig.wire import Direction, Wire


@fault("subscriber half-open", 18, 49, lasts_s=1.0, touches=(GATEWAY,), needs=(REDIS,))
async def half_open_subscriber(scene: Scene) -> Steps:
    """Its connection looks alive and carries nothing. A kick that it misses is fault 49."""
    cluster, wire = scene.cluster, scene.cluster.wires[scene.gateway]
    await ready(scene)  # A gateway that is just subscribing, or cannot probe, loses no probe.
    silent = list(wire.strands(listens))
    if not silent:
        raise NotArranged("the gateway was subscribing just then")
    for strand in silent:
        strand.drop()
    for victim in cluster.users_of(scene.gateway)[:1]:
        elsewhere = [name for name in sorted(cluster.gateways) if name != scene.gateway]
        await victim.log_in_twice(scene.rng.choice(elsewhere))
    yield
    for strand in silent:
        strand.reset()  # TCP cannot continue after missing bytes.


@fault("replies of Redis lost", 19, lasts_s=1.2, touches=(GATEWAY,), at=ONE_SERVER)
async def replies_lost(scene: Scene) -> Steps:
    async for step in _lossy(scene.cluster.wires[scene.gateway], "down"):
        yield step


@fault("requests to Redis lost", 20, lasts_s=1.2, touches=(GATEWAY,))
async def requests_lost(scene: Scene) -> Steps:
    async for step in _lossy(scene.cluster.wires[scene.gateway], "up"):
        yield step


async def _lossy(wire: Wire, direction: Direction) -> Steps:
    wire.drop(direction)
    yield
    # TCP cannot continue after missing bytes.
    wire.reset()
    wire.release()


@fault("Redis 200 ms away, give or take 100", 21, lasts_s=1.2, touches=(GATEWAY,))
async def latency(scene: Scene) -> Steps:
    wire = scene.cluster.wires[scene.gateway]
    wire.delay(0.05, jitter_s=0.1)
    yield
    wire.release()


@fault("one byte at a time", 22, lasts_s=0.8, touches=(GATEWAY,))
async def slicing(scene: Scene) -> Steps:
    wire = scene.cluster.wires[scene.gateway]
    wire.slice(1)
    yield
    wire.release()


@fault("reset in the middle of a reply", 23, lasts_s=0.5, touches=(GATEWAY,))
async def reset_in_reply(scene: Scene) -> Steps:
    for strand in scene.cluster.wires[scene.gateway].strands():
        strand.reset_within(3, "down")
    yield


@fault("swizzle-clog", 53, lasts_s=0.3, touches=(ALL_GATEWAYS,), at=ONE_SERVER)
async def swizzle_clog(scene: Scene) -> Steps:
    """All connections to Redis are held, one by one, and released in another order."""
    wires = list(scene.cluster.wires.values())
    try:
        for wire in scene.rng.sample(wires, len(wires)):
            wire.hold()
            await asyncio.sleep(scene.rng.uniform(0.05, 0.3))
        yield
    finally:
        for wire in scene.rng.sample(wires, len(wires)):
            wire.release()
            await asyncio.sleep(scene.rng.uniform(0.05, 0.3))


FAULTS: Final[tuple[FaultType, ...]] = (
    half_open_subscriber,
    replies_lost,
    requests_lost,
    latency,
    slicing,
    reset_in_reply,
    swizzle_clog,
)
