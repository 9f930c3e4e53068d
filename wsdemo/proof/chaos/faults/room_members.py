"""Room faults: what if a gateway dies with many members, or a join comes too late?"""

from __future__ import annotations

import asyncio
import json
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from wsdemo.proof.chaos.cluster import TIMING, ProcessCluster, commands
from wsdemo.proof.chaos.fault import (
    GATEWAY,
    REDIS,
    FaultType,
    NotArranged,
    Scene,
    Steps,
    fault,
)
from wsdemo.proof.chaos.faults.arrange import held, must_register, ready, until
from wsdemo.proof.chaos.faults.gateway_processes import given_up, kill_gateway
from wsdemo.proof.chaos.feature_users import ROOMS, FeatureUser

ROOM, SMALL_ROOM = ROOMS
GHOSTS: Final = 3
"""Members of the small room who never come back."""
MOVERS: Final = 8
"""So many members of a room are brought to the gateway that will be killed."""
COME_S: Final = 2.0
ROOM_FEATURE: Final = ("rooms",)


def _members(cluster: ProcessCluster, gateway: str = "") -> list[FeatureUser]:
    """Return the users who believe to be in the room, or those of them who are at a gateway."""
    users = cluster.users_of(gateway) if gateway else list(cluster.client_users.values())
    return [one for one in users if isinstance(one, FeatureUser) and _is_member(one)]


def _is_member(user: FeatureUser) -> bool:
    views = [application.views.get(ROOM) for application in user.applications()]
    return any(view is not None and view.members is not None for view in views)


async def _bring(scene: Scene, count: int) -> None:
    """Let members of the room move to the gateway of this scene."""
    members = _members(scene.cluster)
    movers = scene.rng.sample(members, min(count, len(members)))
    await asyncio.gather(*(user.move(scene.gateway) for user in movers))
    try:
        await until(lambda: _one_is_there(scene), "a member of the room", COME_S)
    except TimeoutError as problem:
        raise NotArranged(f"{problem} at {scene.gateway}") from None


async def _one_is_there(scene: Scene) -> bool:
    return bool(_members(scene.cluster, scene.gateway))


async def _join_for_good(ghost: ClientConnection) -> None:
    """Let a user join a room who will never leave it."""
    try:
        async with asyncio.timeout(COME_S):
            await ghost.send(json.dumps({"type": "join", "room": SMALL_ROOM, "id": "1"}))
            while json.loads(await ghost.recv())["type"] != "joined":
                pass
    except (TimeoutError, WebSocketException):
        raise NotArranged("a user could not join a room") from None


@fault(
    "gateway killed with a full room",
    *(122, 125),
    lasts_s=1.25 * TIMING.heartbeat_s,
    touches=(GATEWAY,),
    needs=(REDIS,),
    features=ROOM_FEATURE,
)
async def full_room(scene: Scene) -> Steps:
    """It has most members of a room, and stays away until the others have given it up. Some members
    never come back, so only a sweep takes them out of the list.
    """
    await ready(scene)
    await _bring(scene, MOVERS)
    ghosts = [await must_register(scene, f"ghost-{n}") for n in range(GHOSTS)]
    try:
        for ghost in ghosts:
            await _join_for_good(ghost)
        await kill_gateway(scene)
    finally:
        for ghost in ghosts:
            ghost.transport.abort()
    yield
    await scene.cluster.start_again(scene.gateway)


@fault("late join", 126, lasts_s=0.2, touches=(GATEWAY,), needs=(REDIS,), features=ROOM_FEATURE)
async def late_join(scene: Scene) -> Steps:
    """A join stays on the wire until its user has joined by a newer session, elsewhere."""
    cluster, wire = scene.cluster, scene.cluster.wires[scene.gateway]
    await ready(scene)
    await _bring(scene, 2)
    victims = _members(cluster, scene.gateway)[:2]
    clients = [(user, user.registered[0]) for user in victims]
    for user, client in clients:
        await user.leave_room(client, ROOM)
    old = list(wire.strands(commands))
    with held(old, "up"):
        for user, client in clients:
            user.join(client, ROOM)
        await until(lambda: given_up(wire, old), "a new connection to Redis")
        await ready(scene)
        for user, _ in clients:
            await user.vanish()
        try:
            await until(lambda: _one_is_back(victims), "a join by a newer session")
        except TimeoutError as problem:
            raise NotArranged(str(problem)) from None
        yield


async def _one_is_back(victims: list[FeatureUser]) -> bool:
    """Let users join again, who may have been told that it was not possible; say whether one is a
    member.
    """
    for user in victims:
        for client in user.registered:
            user.join(client, ROOM)
    return any(_is_member(user) for user in victims)


FAULTS: Final[tuple[FaultType, ...]] = (full_room, late_join)
