"""Fitness of a cluster: can these servers be used, and do all gateways divide the users alike?

Each primary is examined as a single Redis is. Besides: a cluster in which one server that is away
stops all others is worse than a single Redis, and a primary without a replica takes its part of the
users with it.

The number of buckets is a part of the data. Gateways with different numbers would not see each
other's users, and nobody would be told. So the first gateway writes the number down, and a gateway
with another one does not start. It is written down on all primaries: one that is away, or that came
back without its data, must neither stop a gateway from starting nor make it miss the number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wsdemo.buckets import tags
from wsdemo.redis.cluster_link import ClusterLink, answers
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.fitness import examine
from wsdemo.redis.link import RedisLink
from wsdemo.redis.outcome import CommandError
from wsdemo.redis.scripts import Script
from wsdemo.redis.slots import members
from wsdemo.settings import Keyspace

AGREE: Final = Script(
    "agree",
    "redis.call('HSETNX', KEYS[1], 'buckets', ARGV[1])\n"
    "return redis.call('HGET', KEYS[1], 'buckets')",
)
"""Says how many buckets there are; the first word counts."""
COPIES: Final = 16
"""How often the number is written down: once in each sixteenth of the slots."""
FULL_COVERAGE: Final = "cluster-require-full-coverage"


async def examine_cluster(
    link: ClusterLink, keyspace: Keyspace, *, stores: bool = False
) -> list[str]:
    """Return warnings about the primaries of a cluster, by their addresses; usually none.

    Args:
        stores: whether messages are kept in it, too.

    Raises:
        RedisUnavailable: one is too old, or needs a password; or other gateways have divided the
            users into another number of buckets.
        LinkDown, LinkBusy, LinkTimeout: one could not be asked.
    """
    await agree_on_buckets(link, keyspace)
    nodes = {address: link.node_at(address) for address in link.primaries}
    warnings: list[str] = []
    for address, node in nodes.items():
        if not node.up:
            warnings.append(f"{address} is away, with its part of the users")
            continue
        told = [*await examine(node, stores=stores), *await _coverage(node)]
        warnings += [f"{address}: {warning}" for warning in told]
    return [*dict.fromkeys(warnings), *await _replicas(nodes)]


async def _coverage(node: RedisLink) -> list[str]:
    try:
        reply = await node.call("CONFIG", "GET", FULL_COVERAGE)
    except CommandError:
        return []  # A managed server does not show its settings.
    if len(reply) != 2 or reply[1] != b"yes":
        return []
    return [f"{FULL_COVERAGE} is yes: one primary that is away stops all others (set no)"]


async def _replicas(nodes: Mapping[str, RedisLink]) -> list[str]:
    """Return a warning for each primary without a replica."""
    asked = next((address for address, node in nodes.items() if node.up), "")
    if not asked:
        return []
    try:
        text = (await nodes[asked].call("CLUSTER", "NODES")).decode(errors="replace")
    except CommandError:
        return []
    known = list(members(text, asked))
    followed = {member.primary for member in known if not member.lost}
    return [
        f"{member.address} has no replica: when it is away, so is its part of the users"
        for member in known
        if member.is_primary and member.ranges and member.id not in followed
    ]


async def agree_on_buckets(link: ClusterLink, keyspace: Keyspace) -> None:
    """Check that all gateways divide the users into the same number of buckets.

    Primaries that are away are not asked.

    Raises:
        RedisUnavailable: another number is in use.
        LINK_ERRORS: Redis could not be asked.
    """
    told = await answers(
        link.run(AGREE, [f"{keyspace.prefix}wsdemo:{{{tag}}}"], keyspace.buckets)
        for tag in tags(COPIES)
    )
    for number in sorted({int(number) for number in told} - {keyspace.buckets}):
        raise RedisUnavailable(
            f"its users are divided into {number} buckets, and not into {keyspace.buckets}: "
            f"give all gateways the same address (?buckets={number})",
            answered=True,
        )
