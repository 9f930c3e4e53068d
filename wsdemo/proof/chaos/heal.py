"""Heal: does everything become right after the faults, and is nothing left at the end?

After a heal, everything must be right within the bound X: every user is registered, and Redis names
that very session. Then comes a calm period, in which no fault is active and nobody moves. A message
between any two users is routed and arrives, each ping has its pong, and gateways have as many
sessions, sockets and descriptors as they should. At the end of a run all users leave, and nothing
may be left.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import psutil

from wsdemo.proof import history as h
from wsdemo.proof.chaos.bounds import (
    ALL_TAKEN_S,
    ALLOWANCE_S,
    CALM_S,
    COUNT_S,
    LAST_STORED_S,
    NO_NAME,
    NOTHING_LEFT_S,
    POLL_S,
    PROMISED_S,
)
from wsdemo.proof.chaos.cluster import ProcessCluster
from wsdemo.proof.chaos.device_log import ENTRY, device_name
from wsdemo.proof.chaos.feature_looks import features_right, look_at_features
from wsdemo.proof.chaos.nemesis import ProcessNemesis
from wsdemo.proof.chaos.result import ChaosResult
from wsdemo.proof.chaos.sampling import believers
from wsdemo.proof.chaos.users import ClientUser
from wsdemo.proof.history import Violation
from wsdemo.proof.promises import Promise


async def rest(cluster: ProcessCluster, nemesis: ProcessNemesis, result: ChaosResult) -> None:
    """Heal. Check that everything becomes right, and that it stays right for a while."""
    nemesis.healed()
    for name, gateway in cluster.gateways.items():
        if not gateway.running:
            text = f"{name} has ended by itself: {list(gateway.log)[-3:]}"
            cluster.complain(Violation("died", cluster.clock(), text))
    result.rests.append(await _settle(cluster))
    if not math.isnan(result.rests[-1]):
        result.pairs += await _stay_calm(cluster)


async def _settle(cluster: ProcessCluster) -> float:
    """Wait until everything is right, look at all users, and return how long it took (s)."""
    healed = cluster.clock()
    for user in cluster.client_users.values():
        user.roaming = False
    if cluster.backend is not None:
        cluster.backend.is_active = False
    deadline = healed + PROMISED_S + ALLOWANCE_S
    right_at = await _right(cluster, deadline, healed)
    # A look before X has passed proves nothing. What is right by then must stay right.
    await asyncio.sleep(max(0.0, healed + PROMISED_S - cluster.clock()))
    still_right_at = await _right(cluster, deadline, healed)
    if math.isnan(right_at + still_right_at):
        text = f"not everything was right {deadline - healed:g} s after the heal"
        cluster.complain(Violation(Promise.X, cluster.clock(), text))
    await _look(cluster)
    return right_at - healed


async def _right(cluster: ProcessCluster, deadline: float, stored_before: float) -> float:
    """Return when everything was right; NaN if it was not before the deadline."""
    while cluster.clock() < deadline:
        await _look_after(cluster)
        if await _all_right(cluster, stored_before):
            return cluster.clock()
        await asyncio.sleep(POLL_S)
    return float("nan")


async def _look_after(cluster: ProcessCluster) -> None:
    """Let users forget closed sessions. Bounded: a user who is registering holds its lock."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            users = cluster.client_users.values()
            await asyncio.gather(*(user.look_after_sessions() for user in users))


async def _entries(cluster: ProcessCluster) -> dict[str, str]:
    """Return the session in each entry in Redis, by user; `NO_NAME` if an entry has none."""
    if cluster.deployment.has_group:
        return {user: conn or NO_NAME for user, conn in (await cluster.entries()).items()}
    keys = await cluster.active_names()
    if cluster.mix.devices > 1:
        return await _entries_of_devices(cluster, keys)
    conns = await asyncio.gather(*(cluster.admin.hget(key, "connId") for key in keys))
    return {key.partition(":")[2]: conn or NO_NAME for key, conn in zip(keys, conns, strict=True)}


async def _entries_of_devices(cluster: ProcessCluster, keys: Sequence[str]) -> dict[str, str]:
    """Return the session in the entry of each device; a lease that has ended does not count."""
    seconds, microseconds = await cluster.admin.time()
    now_ms = 1000 * seconds + microseconds // 1000
    found = {}
    for key in keys:
        for field, text in (await cluster.admin.hgetall(key)).items():
            if field.startswith(ENTRY):
                _, conn, _, until_ms = text.split(" ")[:4]
                if int(until_ms) > now_ms:
                    user = key.partition(":")[2]
                    found[device_name(user, field.removeprefix(ENTRY))] = conn
    return found


async def _all_right(cluster: ProcessCluster, stored_before: float) -> bool:
    entries = await _entries(cluster)
    believed = {user.name: believers(user) for user in cluster.users}
    is_right = believed == {name: [conn] for name, conn in entries.items()}
    return is_right and await features_right(cluster, stored_before)


async def _look(cluster: ProcessCluster) -> None:
    entries = await _entries(cluster)
    for user in cluster.users:
        mine = believers(user)
        cluster.note(
            h.Looked(
                t=cluster.clock(),
                user=user.name,
                online=user.online,
                conn=mine[-1] if mine else "",
                believers=tuple(mine),
                owner=entries.pop(user.name, ""),
            )
        )
    for name, conn in entries.items():
        cluster.note(h.Looked(t=cluster.clock(), user=name, online=False, owner=conn))
    await look_at_features(cluster)


async def _stay_calm(cluster: ProcessCluster) -> int:
    """Let each user write to each user, and count; return the number of messages."""
    if cluster.backend is not None:
        await cluster.backend.quiet()
    begin = cluster.clock()
    cluster.note(h.Calm(t=begin, begins=True))

    async def write_to_all(user: ClientUser) -> None:
        for name in _all_for(cluster, user):
            for client in user.registered[:1]:
                await user.say(client, name)

    if cluster.backend is not None:
        await cluster.backend.speak_to_all()
    await asyncio.gather(*(write_to_all(user) for user in cluster.client_users.values()))
    await asyncio.sleep(max(0.0, begin + CALM_S - cluster.clock()))
    await _count(cluster)
    cluster.note(h.Calm(t=cluster.clock(), begins=False))
    return sum(len(_all_for(cluster, user)) for user in cluster.client_users.values())


def _all_for(cluster: ProcessCluster, user: ClientUser) -> list[str]:
    """Return to whom a user writes in a calm: to all; a device not to its own user."""
    return [name for name in cluster.accounts if name != user.account or not user.device]


async def _count(cluster: ProcessCluster, *busy: str) -> None:
    """Count what gateways have, until it is what it should be, or the time for that is over.

    Args:
        busy: gauges that must be zero as well when nobody sends anything.
    """
    deadline = cluster.clock() + COUNT_S
    for name in cluster.gateways:
        while True:
            found = await _counts(cluster, name, (*IDLE_GAUGES, *busy))
            if not h.counted([*cluster.history, *found]) or cluster.clock() > deadline:
                break
            await asyncio.sleep(POLL_S)
        for one in found:
            cluster.note(one)


IDLE_GAUGES: Final = ("outbox_frames", "admission_waiting", "releases_owed", "repairs")
"""Gauges of waiting work. They are zero when nothing is wrong."""


async def _counts(cluster: ProcessCluster, name: str, idle: Sequence[str]) -> list[h.Counted]:
    gateway = cluster.gateways[name]
    try:
        async with cluster.asking[name]:
            page = (await gateway.get("/metrics"))[1]
            open_ones = cluster.descriptors(gateway)
    except (OSError, ValueError, TimeoutError, psutil.Error) as problem:
        text = f"{name} could not be counted: {problem!r}"
        cluster.complain(Violation("counted", cluster.clock(), text))
        return []
    gauges = {
        words[0].removeprefix("wsdemo_"): round(float(words[1]))
        for line in page.splitlines()
        if not line.startswith("#") and len(words := line.split()) == 2 and "{" not in line
    }
    t = cluster.clock()
    told = {"sessions": gauges["connections"]}
    if cluster.deployment.workers == 1:
        # The connection of this request is one of the sockets. Several workers add up what each of
        # them has said a moment ago, when there was another request.
        told |= {
            "sockets": gauges["sockets"] - 1,
            "descriptors": open_ones - cluster.idle_descriptors,
        }
    return [
        *(h.Counted(t=t, gateway=name, what=one, count=count) for one, count in told.items()),
        *(h.Counted(t=t, gateway=name, what=one, count=gauges[one], wanted=0) for one in idle),
    ]


async def _in_time(cluster: ProcessCluster, limit_s: float, look: Callable[[], Any]) -> Any:
    """Look until nothing is found, or the time is over; return what is still found."""
    deadline = cluster.clock() + limit_s
    while cluster.clock() < deadline:
        found = look()
        if inspect.isawaitable(found):
            found = await found
        if not found:
            break
        await asyncio.sleep(POLL_S)
    return found


# --- the end of a run ------------------------------------------------------------------------


async def leave(cluster: ProcessCluster) -> None:
    """Let all users leave, stop the gateways, and check that nothing is left."""
    await _keys_have_ttl(cluster)
    if cluster.mix.durable:
        await _all_taken(cluster)
    await cluster.stop_users()
    await _nothing_left(cluster, "keys left", cluster.active_names)
    await _count(cluster, "redis_pending")
    await asyncio.gather(*(cluster.drain(name) for name in cluster.gateways))
    await _nothing_left(cluster, "channels left", lambda: _channels(cluster))
    await _nothing_left(cluster, "processes left", _processes)


async def _channels(cluster: ProcessCluster) -> list[str]:
    if cluster.deployment.has_group:
        return await asyncio.to_thread(cluster.group.channels)
    found: list[str] = await cluster.admin.pubsub_channels("gateway:*")
    return found


async def _all_taken(cluster: ProcessCluster) -> None:
    """Let users say nothing more, and wait until each has what was stored for it."""
    await asyncio.gather(*(user.hush() for user in cluster.client_users.values()))
    await asyncio.sleep(LAST_STORED_S)
    # What is left then is named by the check of the history.
    await _in_time(cluster, ALL_TAKEN_S, lambda: cluster.untaken.since(math.inf))


async def _keys_have_ttl(cluster: ProcessCluster) -> None:
    """Check that no key lives for ever."""
    for key in await _without_ttl(cluster):
        text = f"{key} has no TTL"
        cluster.complain(Violation(Promise.P4, cluster.clock(), text))


async def _without_ttl(cluster: ProcessCluster) -> list[str]:
    if cluster.deployment.has_group:
        return await asyncio.to_thread(cluster.group.keys_without_ttl)
    keys = [key async for key in cluster.admin.scan_iter("*")]
    return [key for key in keys if await cluster.admin.pttl(key) == -1]


async def _nothing_left(cluster: ProcessCluster, what: str, look: Callable[[], Any]) -> None:
    left = await _in_time(cluster, NOTHING_LEFT_S, look)
    cluster.seen[what] += len(left)
    if left:
        cluster.complain(Violation("nothing left", cluster.clock(), f"{what}: {left}"))


def _processes() -> list[str]:
    children = psutil.Process().children(recursive=True)
    lines = [" ".join(child.cmdline()) for child in children if child.status() != "zombie"]
    return [line for line in lines if "wsdemo.gateway" in line]
