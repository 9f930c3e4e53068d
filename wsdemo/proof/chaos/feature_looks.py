"""Looks at features: is what users believe of inboxes, rooms and each other what Redis says?"""

from __future__ import annotations

from collections import defaultdict

from wsdemo.proof.chaos.cluster import ProcessCluster
from wsdemo.proof.chaos.feature_users import ROOMS, FeatureUser
from wsdemo.proof.history import RoomLooked


def feature_users(cluster: ProcessCluster) -> list[FeatureUser]:
    """Return the users who use features."""
    return [one for one in cluster.client_users.values() if isinstance(one, FeatureUser)]


async def features_right(cluster: ProcessCluster, stored_before: float) -> bool:
    """Say whether everybody has what was stored before some time, and is right about all rooms and
    all watched users.
    """
    if cluster.untaken.since(stored_before):
        return False
    for user in feature_users(cluster):
        for application in user.applications():
            told = application.told_of.items()
            if any((state == "online") is not cluster.is_online(of) for of, state in told):
                return False
    looks = await room_looks(cluster)
    return all(set(look.listed) == set(look.told) and _all_agree(look) for look in looks)


def _all_agree(look: RoomLooked) -> bool:
    return all(set(told) == set(look.listed) for told in look.told.values())


async def look_at_features(cluster: ProcessCluster) -> None:
    """Record who is in which room, and what watchers were told last."""
    for user in feature_users(cluster):
        for application in user.applications():
            application.look_at_watches()
    for look in await room_looks(cluster):
        cluster.note(look)


async def room_looks(cluster: ProcessCluster) -> list[RoomLooked]:
    """Return who is in each room, as Redis says and as applications believe."""
    if not cluster.mix.rooms:
        return []
    registers = [await cluster.admin.hgetall(f"room:{room}") for room in ROOMS]
    told: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for user in feature_users(cluster):
        for application in user.applications():
            for room, view in application.views.items():
                if view.members is not None:
                    told[room][user.name] = tuple(sorted(view.members))
    return [
        RoomLooked(t=cluster.clock(), room=room, listed=_listed(register), told=told[room])
        for room, register in zip(ROOMS, registers, strict=True)
    ]


def _listed(register: dict[str, str]) -> tuple[str, ...]:
    return tuple(sorted(member for member, text in register.items() if text.startswith("in ")))
