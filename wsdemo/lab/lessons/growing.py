"""Resharding: what moves by itself when a cluster gets one more server, and what does a move cost?

For `Lab(redis="cluster")`, in lesson 11.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from wsdemo.buckets import bucket_of
from wsdemo.client import Client
from wsdemo.lab.lab import Lab
from wsdemo.protocol import Status

EVERY_S: Final = 0.02
"""Each recipient gets a message so often, in wall seconds."""
AROUND_S: Final = 0.3
"""So long before and after the move, too."""
TIMEOUT_S: Final = 60.0


class BucketMove(NamedTuple):
    """What users noticed of a move: the longest time without a message that arrived (ms)."""

    gap_ms: float
    """Of those whose buckets were moved, the one who waited longest."""
    others_ms: float
    """Of those whose buckets stayed."""
    told: Counter[str]
    """What senders were told."""
    seconds: float
    """How long the move took."""


def buckets_by_server(lab: Lab) -> list[int]:
    """Return how many buckets each server says that it has."""
    return [len(lab.redis.buckets_of(number)) for number in sorted(lab.redis.primaries)]


def take_from_each(lab: Lab, wanted: int) -> list[int]:
    """Choose so many buckets, one after the other from the servers that have some."""
    stores = [lab.redis.buckets_of(number) for number in sorted(lab.redis.primaries)]
    turns = itertools.zip_longest(*stores)
    chosen = [bucket for turn in turns for bucket in turn if bucket is not None]
    return sorted(chosen[:wanted])


def move_while_talking(lab: Lab, buckets: Sequence[int], to: int) -> BucketMove:
    """Move buckets while each user sends messages to the next one."""
    return lab.loop.run(_move(lab, frozenset(buckets), to), TIMEOUT_S)


async def _move(lab: Lab, buckets: frozenset[int], to: int) -> BucketMove:
    clients = list(lab.cluster.users.values())
    told: Counter[str] = Counter()
    heard: dict[str, list[float]] = {client.user: [] for client in clients}
    # Each has a sender of her own: a gateway takes the messages of one sender one by one.
    talks = [
        asyncio.create_task(_talk(sender, to.user, heard[to.user], told), name="talk")
        for sender, to in zip(clients, clients[1:] + clients[:1], strict=True)
    ]
    try:
        await asyncio.sleep(AROUND_S)
        began = time.monotonic()
        await lab.cluster.redis.move(buckets, to)
        seconds = time.monotonic() - began
        await asyncio.sleep(AROUND_S)
    finally:
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
    count = lab.cluster.keyspace.buckets
    moved = {user for user in heard if bucket_of(user.encode(), count) in buckets}
    gaps = {user: _longest_ms(times) for user, times in heard.items()}
    return BucketMove(
        max(gaps[user] for user in moved),
        max(gaps[user] for user in gaps.keys() - moved),
        told,
        seconds,
    )


async def _talk(sender: Client, to: str, heard: list[float], told: Counter[str]) -> None:
    while True:
        receipt = await sender.send(to, "hello")
        told[str(receipt.status)] += 1
        if receipt.status is Status.ROUTED:
            heard.append(time.monotonic())
        await asyncio.sleep(EVERY_S)


def _longest_ms(times: Sequence[float]) -> float:
    return 1000 * max((two - one for one, two in itertools.pairwise(times)), default=float("inf"))
