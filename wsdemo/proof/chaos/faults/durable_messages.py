"""Inbox faults: what if hints are lost, data are rolled back, or an application is slow or killed?

The users who are touched here read their inboxes, so the history says whether each durable message
was taken, or a gap was told.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from wsdemo.proof.chaos.cluster import INBOX_MESSAGES, WINDOW, ProcessCluster, listens
from wsdemo.proof.chaos.fault import (
    GATEWAY,
    REDIS,
    USERS,
    FaultType,
    NotArranged,
    Scene,
    Steps,
    fault,
)
from wsdemo.proof.chaos.faults.arrange import answers, ready
from wsdemo.proof.chaos.feature_users import FeatureUser

DURABLE: Final = ("durable",)
SENDERS: Final = 5
STORED_S: Final = 4.0
"""How long a burst of durable messages may take."""
TAKEN_S: Final = 2.0
MORE: Final = 20
"""How many messages more than an inbox and a window hold."""


def readers(cluster: ProcessCluster, gateway: str = "") -> list[FeatureUser]:
    """Return the users who read their inbox, or those of them who are at a gateway now."""
    users = cluster.users_of(gateway) if gateway else list(cluster.client_users.values())
    return [one for one in users if isinstance(one, FeatureUser) and one.registered]


async def _send_to(scene: Scene, victim: FeatureUser, count: int) -> None:
    """Let others send durable messages to a user; each waits until its message is stored."""
    others = [one for one in readers(scene.cluster) if one.account != victim.account]
    senders = scene.rng.sample(others, min(SENDERS, len(others)))

    async def send(sender: FeatureUser, n: int) -> None:
        for _ in range(n):
            for client in sender.registered[:1]:
                await sender.store(client, victim.account)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STORED_S):
            each = -(-count // max(1, len(senders)))
            await asyncio.gather(*(send(sender, each) for sender in senders))


@fault(
    "hints lost, messages stored",
    *(119, 123),
    lasts_s=0.2,
    touches=(GATEWAY,),
    needs=(REDIS,),
    features=DURABLE,
)
async def hints_lost(scene: Scene) -> Steps:
    """A subscription is half-open while messages are stored for its users. Then it breaks."""
    await ready(scene)
    victims = readers(scene.cluster, scene.gateway)[:2]
    silent = list(scene.cluster.wires[scene.gateway].strands(listens))
    if not silent or not victims:
        raise NotArranged("nobody hears anything at this gateway")
    for strand in silent:
        strand.drop()
    try:
        for victim in victims:
            await _send_to(scene, victim, SENDERS)
        yield
    finally:
        for strand in silent:
            strand.reset()  # TCP cannot continue after missing bytes.


@fault(
    "Redis killed, an older copy comes back", 117, lasts_s=0.5, touches=(REDIS,), features=DURABLE
)
async def rolled_back(scene: Scene) -> Steps:
    """As after a failover to a replica that lacks the last second of confirmed writes."""
    cluster = scene.cluster
    older = await asyncio.to_thread(cluster.server.copy)
    await asyncio.sleep(scene.rng.uniform(0.3, 1.0))
    cluster.witness.data_will_be_lost()
    await asyncio.to_thread(cluster.server.kill, copy=older)
    yield
    await asyncio.to_thread(cluster.server.start)
    await answers(cluster)


@fault(
    "slow application, its inbox full",
    *(120, 124),
    lasts_s=0.5,
    touches=(USERS,),
    needs=(REDIS,),
    features=DURABLE,
)
async def slow_application(scene: Scene) -> Steps:
    """An application takes nothing. More is stored for it than its window and its inbox hold."""
    found = readers(scene.cluster)
    if not found:
        raise NotArranged("nobody reads an inbox now")
    victim = scene.rng.choice(found)
    victim.is_slow = True
    try:
        await _send_to(scene, victim, INBOX_MESSAGES + WINDOW + MORE)
        yield
    finally:
        victim.is_slow = False


@fault(
    "client killed before its ack",
    121,
    lasts_s=0.3,
    touches=(USERS,),
    needs=(REDIS,),
    features=DURABLE,
)
async def killed_before_ack(scene: Scene) -> Steps:
    """A process is killed when its application has messages that nobody has acknowledged."""
    found = readers(scene.cluster)
    if not found:
        raise NotArranged("nobody reads an inbox now")
    victim = scene.rng.choice(found)
    client = victim.registered[0]
    process = victim.process_of(client)
    process.taken.clear()
    sending = asyncio.create_task(_send_to(scene, victim, SENDERS), name="durable messages")
    try:
        async with asyncio.timeout(TAKEN_S):
            await process.taken.wait()
    except TimeoutError:
        raise NotArranged(f"{victim.name} took nothing") from None
    else:
        await victim.kill(client)
    finally:
        await asyncio.wait([sending])
    yield


FAULTS: Final[tuple[FaultType, ...]] = (
    hints_lost,
    rolled_back,
    slow_application,
    killed_before_ack,
)
