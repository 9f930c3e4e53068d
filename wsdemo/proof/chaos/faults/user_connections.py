"""Client faults: what if users are slow, flood the gateway, move or log in twice?

Clients that end abruptly are in `aborted_clients`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Final

from websockets.exceptions import WebSocketException

from wsdemo.proof.chaos.cluster import TIMING, listens
from wsdemo.proof.chaos.fault import ANYWHERE, GATEWAY, REDIS, USERS, FaultType, Scene, Steps, fault
from wsdemo.proof.chaos.faults.arrange import (
    CALL_S,
    begin_registers,
    held,
    must_register,
    ready,
    say_register,
)
from wsdemo.proof.chaos.users import MARK

FLOOD: Final = 40_000
"""Pings of a flood: 5 MB with their payloads."""


@fault(
    "client half-open",
    35,
    lasts_s=3.2 * TIMING.heartbeat_s,
    touches=(USERS,),
    needs=(GATEWAY,),
    at=ANYWHERE,
)
async def client_half_open(scene: Scene) -> Steps:
    """One user whose network loses everything, and one who is connected and does nothing."""
    victim = scene.rng.choice(list(scene.cluster.client_users.values()))
    silent = await must_register(scene, "silent")
    silent.transport.pause_reading()
    for wire in victim.routes.wires.values():
        for strand in wire.strands():
            strand.drop()
    yield
    for wire in victim.routes.wires.values():
        wire.reset()
        wire.release()
    silent.transport.abort()


@fault("slow consumer", 36, lasts_s=1.5, needs=(GATEWAY, REDIS))
async def slow_consumer(scene: Scene) -> Steps:
    """A user registers and never reads, and another one sends it three megabytes."""
    await ready(scene)
    slow = await must_register(scene, "slow-reader", small_buffer=True)
    writer = await must_register(scene, "fast-writer")
    slow.transport.pause_reading()
    text = json.dumps({"type": "message", "to": "slow-reader", "content": MARK * 480})
    with contextlib.suppress(WebSocketException, TimeoutError):
        async with asyncio.timeout(CALL_S):
            for _ in range(400):
                await writer.send(text)
    yield
    for connection in (slow, writer):
        connection.transport.abort()


@fault("ping flood, unread", 37, lasts_s=1.0, needs=(GATEWAY,))
async def ping_flood(scene: Scene) -> Steps:
    flooder = await must_register(scene, "flooder")
    transport = flooder.transport
    transport.pause_reading()
    # A masked ping frame with a payload of 120 bytes, its mask zero.
    frame = bytes([0x89, 0x80 | 120, 0, 0, 0, 0]) + b"x" * 120
    for _ in range(FLOOD // 400):
        if transport.is_closing():
            break
        transport.write(frame * 400)
        await asyncio.sleep(0.005)
    yield
    transport.abort()


@fault("reconnect storm", 38, lasts_s=0.6, touches=(USERS,), at=ANYWHERE)
async def reconnect_storm(scene: Scene) -> Steps:
    for user in scene.cluster.users:
        for wire in user.routes.wires.values():
            wire.reset()
    yield


@fault("two logins at once, two gateways", 43, lasts_s=0.5, touches=(USERS,), at=ANYWHERE)
async def two_logins(scene: Scene) -> Steps:
    victim = scene.rng.choice(list(scene.cluster.client_users.values()))
    await victim.log_in_twice(*scene.rng.sample(sorted(scene.cluster.gateways), 2))
    yield


@fault("two logins at once, one gateway", 44, lasts_s=0.5, touches=(USERS,), at=ANYWHERE)
async def two_logins_on_one(scene: Scene) -> Steps:
    victim = scene.rng.choice(list(scene.cluster.client_users.values()))
    await victim.log_in_twice(scene.gateway, scene.gateway)
    yield


@fault("flapping", 45, lasts_s=0.2, touches=(USERS,), at=ANYWHERE)
async def flapping(scene: Scene) -> Steps:
    urls = [gateway.url for gateway in scene.cluster.gateways.values()]
    for _ in range(25):
        connection = await say_register(scene.rng.choice(urls), "flapper")
        if connection is not None:
            connection.transport.abort()
    yield


@fault("socket closes during register", 48, lasts_s=0.3, touches=(GATEWAY,))
async def gone_while_registering(scene: Scene) -> Steps:
    with held(list(scene.cluster.wires[scene.gateway].strands()), "down"):
        for connection in await begin_registers(scene, "brief", 5):
            connection.transport.abort()
        yield


@fault("moved while a message was under way", 50, lasts_s=0.3, touches=(GATEWAY,), needs=(REDIS,))
async def moved_meanwhile(scene: Scene) -> Steps:
    """What was published for a user waits on the wire while that user moves. It must come back
    (bounce) or be lost, and must not go to anybody else.
    """
    cluster, rng = scene.cluster, scene.rng
    await ready(scene)
    elsewhere = [name for name in sorted(cluster.gateways) if name != scene.gateway]
    senders = [user for name in elsewhere for user in cluster.users_of(name)]
    with held(list(cluster.wires[scene.gateway].strands(listens)), "down"):
        for victim in cluster.users_of(scene.gateway)[:2]:
            for sender in rng.sample(senders, min(2, len(senders))):
                for client in sender.registered[:1]:
                    await sender.say(client, victim.account)
            await victim.move(rng.choice(elsewhere))
        yield


FAULTS: Final[tuple[FaultType, ...]] = (
    client_half_open,
    slow_consumer,
    ping_flood,
    reconnect_storm,
    two_logins,
    two_logins_on_one,
    flapping,
    gone_while_registering,
    moved_meanwhile,
)
