"""Redis backend: which Redis does a laboratory have, and who starts and stops it?

One server (the lab's own, or one that is named), a cluster of three primaries, or a primary with a
replica and three sentinels. `start_backend` starts what is wanted; the rest of the lab sees only a
`Backend`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from wsdemo.addresses import BUCKETS, Form, RedisAddress, SettingsError
from wsdemo.features import InboxSettings, RoomSettings
from wsdemo.lab.cluster.entries import ClusterEntries, Entries, OneServerEntries
from wsdemo.lab.cluster.many_servers import ClusterFaults, SentinelFaults
from wsdemo.lab.cluster.outage import Outage, RedisFaults
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.trace.recorder import Recorder
from wsdemo.redis.clients import lasting_database_of
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.sentinel_server import BundledSentinel
from wsdemo.redis.server import find_server
from wsdemo.settings import Keyspace

CLUSTER: Final = "cluster"
SENTINEL: Final = "sentinel"
SEVERAL: Final = (CLUSTER, SENTINEL)
"""What `Lab(redis=...)` takes besides an address: a Redis of several servers of the lab's own."""
PRIMARIES: Final = 3
MAX_REPLICAS: Final = 2
SCALE: Final = 15.0
"""Such a lab is at most so many times faster than production. Servers here count another one as
down after a second; that is then the 15 s of a usual cluster, and less than a lease."""
ANSWER_S: Final = 1.0
"""How long a server may take to answer the lab's own questions, where others may take over."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A Redis that runs."""

    url: str
    """Where gateways find it, password included."""
    source: str
    """What it is, for people."""
    faults: RedisFaults
    entries: Entries
    stop: Callable[[], None]


def require_backend(redis: str | None, replicas: int | None, wires: bool, policy: bool) -> None:
    """Refuse a Redis that a lab cannot have.

    Args:
        replicas: how many each primary has; None: as usual.
        wires: whether gateways reach it through wires.
        policy: whether presence is written by another rule than the product's.

    Raises:
        LabRefused: it cannot.
    """
    if redis in SEVERAL:
        _require_several(str(redis), replicas)
        if wires:
            raise LabRefused(
                "its servers tell gateways their own addresses, which lead past any wire: a lab "
                f"with redis={redis!r} has no wires to Redis, but lab.redis.pause(1)"
            )
        if policy:
            raise LabRefused(f"with redis={redis!r}, presence is always the product's own")
        return
    if replicas is not None:
        raise LabRefused('replicas are for Lab(redis="cluster") and Lab(redis="sentinel")')
    if redis is not None and _is_cluster(redis):
        raise LabRefused(
            'a lab has no cluster but its own: make it with Lab(redis="cluster"), which starts one'
        )


def require_trust(
    redis: str | None, inbox: InboxSettings | None, rooms: RoomSettings | None
) -> None:
    """Refuse what a cluster keeps without the word of the reader that its servers lose nothing.

    Raises:
        LabRefused: that word is missing.
    """
    if redis != CLUSTER:
        return
    if inbox is not None and not inbox.trust_redis:
        raise LabRefused(
            "inboxes in a cluster need the word that its servers lose nothing: "
            'Lab(redis="cluster", durable=InboxSettings(trust_redis=True))'
        )
    if rooms is not None and rooms.room_history and not rooms.trust_redis:
        raise LabRefused(
            "the history of rooms in a cluster needs the word that its servers lose nothing: "
            "RoomSettings(trust_redis=True)"
        )


def _require_several(kind: str, replicas: int | None) -> None:
    least = 1 if kind == SENTINEL else 0
    if replicas is not None and (
        type(replicas) is not int or not least <= replicas <= MAX_REPLICAS
    ):
        raise LabRefused(
            f"a primary has {least} to {MAX_REPLICAS} replicas here, not {replicas!r:.80}"
        )


def _is_cluster(address: str) -> bool:
    try:
        return RedisAddress.parse(address).form is Form.CLUSTER
    except SettingsError:
        return False  # Whoever uses it says what is wrong with it.


def start_backend(
    redis: str | None, replicas: int | None, keyspace: Keyspace, recorder: Recorder
) -> Backend:
    """Start the Redis that is wanted, or find it.

    Args:
        redis: "cluster", "sentinel", or an address; None: the search of `find_server`.
        keyspace: with the buckets of this Redis.

    Raises:
        ServerError: it cannot be started, or is not there. Nothing is left running.
    """
    if redis == CLUSTER:
        return _cluster(replicas or 0, keyspace, recorder)
    if redis == SENTINEL:
        return _sentinel(1 if replicas is None else replicas, keyspace, recorder)
    server = find_server(redis)
    # Once more: the connection that it kept was to a Redis that was killed since then.
    again = Retry(NoBackoff(), 1)
    database = lasting_database_of(server.url, decode_responses=True, retry=again)
    entries = OneServerEntries(database, keyspace)
    return Backend(server.url, server.source, Outage(server, recorder), entries, server.stop)


def _cluster(replicas: int, keyspace: Keyspace, recorder: Recorder) -> Backend:
    cluster = BundledCluster(PRIMARIES, replicas).start()
    each = f" with {replicas} replica{'s' * (replicas > 1)} each" if replicas else ""
    source = f"a cluster of {PRIMARIES} primaries{each} ({cluster.binary}), started here"
    faults = ClusterFaults(cluster, keyspace, recorder)
    entries = ClusterEntries(cluster.url, keyspace, ANSWER_S)
    return Backend(cluster.url, source, faults, entries, cluster.stop)


def _sentinel(replicas: int, keyspace: Keyspace, recorder: Recorder) -> Backend:
    trio = BundledSentinel(replicas).start()
    source = (
        f"a primary with {replicas} replica{'s' * (replicas > 1)} and 3 sentinels "
        f"({trio.servers[0].binary}), started here"
    )
    database = lasting_database_of(
        trio.url,
        decode_responses=True,
        retry=Retry(NoBackoff(), 1),
        socket_timeout=ANSWER_S,
        socket_connect_timeout=ANSWER_S,
    )
    entries = OneServerEntries(database, keyspace)
    return Backend(trio.url, source, SentinelFaults(trio, recorder), entries, trio.stop)


def keyspace_for(redis: str | None, prefix: str) -> Keyspace:
    """Return the names of keys in the Redis that is wanted: a cluster's have hash tags."""
    return Keyspace(prefix, buckets=BUCKETS if redis == CLUSTER else 0)
