"""Group of Redis servers: which of them has which users now, and what is in them?

For runs on a cluster, and for runs with sentinels. Every method is synchronous and asks the
servers, so the run calls it in a thread.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.exceptions import RedisError

from wsdemo.addresses import Form, RedisAddress
from wsdemo.proof.chaos.deployment import Deployment
from wsdemo.redis.sentinel_server import BundledSentinel
from wsdemo.redis.server import BundledServer, ServerError, client_options
from wsdemo.redis.slots import SLOTS, ClusterMember, members, slot_of
from wsdemo.rig.split_cluster import SplitCluster
from wsdemo.settings import Keyspace

PRIMARIES: Final = 3
NODE_TIMEOUT_S: Final = 1.0
DOWN_AFTER_S: Final = 1.0
UNREACHABLE: Final = (ServerError, RedisError, OSError)
"""What a call raises when a server is away, or refuses it."""
CALL_S: Final = 1.0
MARKERS: Final = "wsdemo:{"
"""What the keys begin with in which a cluster keeps the number of its buckets."""
_ENTRIES: Final = """
local found = {}
for _, key in ipairs(redis.call('KEYS', 'presence:*')) do
  table.insert(found, key)
  table.insert(found, redis.call('HGET', key, 'connId') or '')
end
return found
"""
_WITHOUT_TTL: Final = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  if redis.call('PTTL', key) == -1 then table.insert(found, key) end
end
return found
"""


@dataclass(frozen=True, slots=True)
class BucketClaim:
    """What a server says that it has, and since when: the claim with the higher epoch counts."""

    epoch: int
    buckets: frozenset[int]


class RedisGroup(ABC):
    """Several servers that are one Redis. A server has a number, and keeps it."""

    keyspace = Keyspace()
    """The names of keys; known after the start."""

    @abstractmethod
    def start(self) -> object:
        """Start all servers."""

    @abstractmethod
    def stop(self) -> None:
        """Stop all servers. Idempotent."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The address for gateways."""

    @property
    @abstractmethod
    def servers(self) -> Sequence[BundledServer]:
        """All servers with data."""

    @property
    def processes(self) -> Sequence[BundledServer]:
        """All servers, also those without data."""
        return self.servers

    @property
    def relay_ports(self) -> Sequence[int]:
        """Where gateways find the servers, if it is not at the servers themselves."""
        return ()

    @abstractmethod
    def call(self, number: int, *words: str | int) -> Any:
        """Send one command to one server; return its reply, as text."""

    @abstractmethod
    def primaries(self) -> list[int]:
        """Return the servers that have users."""

    @abstractmethod
    def claim(self, number: int) -> BucketClaim | None:
        """Return what a server has; None when it has nothing."""

    @abstractmethod
    def heal(self) -> None:
        """Bring every server back, and wait until all work together."""

    # --- what is in it -----------------------------------------------------------------------

    def user_of(self, key: str) -> str:
        """Return whose presence a key is."""
        user = key.removeprefix(self.keyspace.presences)
        return user.partition("}:")[2] if self.keyspace.buckets else user

    def bucket_of(self, key: str) -> int:
        """Return the bucket of a key; 0 where there are no buckets. Its hash tag decides."""
        return slot_of(key) * self.keyspace.buckets // SLOTS

    def entries(self) -> dict[str, str]:
        """Return the session in each presence entry, by user; '' when an entry has none."""
        found: dict[str, str] = {}
        for number in self.primaries():
            flat = self.call(number, "EVAL", _ENTRIES, 0)
            found |= {
                self.user_of(key): conn for key, conn in zip(flat[::2], flat[1::2], strict=True)
            }
        return found

    def keys_without_ttl(self) -> list[str]:
        """Return the keys that live for ever; in a cluster, all but the number of buckets."""
        found = [
            key for number in self.primaries() for key in self.call(number, "EVAL", _WITHOUT_TTL, 0)
        ]
        return [key for key in found if not key.startswith(MARKERS)]

    def channels(self) -> list[str]:
        """Return the channels of gateways to which somebody listens."""
        asked = (("CHANNELS", "gateway:*"), ("SHARDCHANNELS", "gateway:*"))
        return [
            str(channel)
            for number in range(len(self.servers))
            for words in asked
            for channel in self.call(number, "PUBSUB", *words)
        ]

    def errors(self) -> dict[str, Counter[str]]:
        """Return how many errors of which kind each server has told, by the id of its run."""
        found = {}
        for number in range(len(self.servers)):
            with contextlib.suppress(*UNREACHABLE):
                run = _fields(self.call(number, "INFO", "server"))["run_id"]
                told = _fields(self.call(number, "INFO", "errorstats"))
                found[run] = Counter(
                    {
                        f"redis_{name.removeprefix('errorstat_').lower()}": int(
                            value.rpartition("=")[2]
                        )
                        for name, value in told.items()
                    }
                )
        return found

    def pids(self) -> list[int]:
        """Return the processes that run."""
        found = []
        for server in self.processes:
            with contextlib.suppress(ServerError):
                found.append(server.pid)
        return found


def _fields(text: str) -> dict[str, str]:
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, colon, value in lines if colon}


class ClusterGroup(RedisGroup):
    """Three primaries with a replica each, in a network that can be split."""

    def __init__(self, password: str) -> None:
        self.cluster = SplitCluster(PRIMARIES, 1, password=password, node_timeout_s=NODE_TIMEOUT_S)

    def start(self) -> object:
        self.cluster.start()
        self.keyspace = Keyspace(buckets=RedisAddress.parse(self.cluster.url).buckets)
        return self

    def stop(self) -> None:
        self.cluster.stop()

    @property
    def url(self) -> str:
        return self.cluster.url

    @property
    def servers(self) -> Sequence[BundledServer]:
        return self.cluster.servers

    @property
    def relay_ports(self) -> Sequence[int]:
        return self.cluster.ports

    def call(self, number: int, *words: str | int) -> Any:
        return self.cluster.call(number, *words, timeout_s=CALL_S)

    def primaries(self) -> list[int]:
        """Return the servers that have slots, as the first says that knows of three of them."""
        for number in range(len(self.servers)):
            with contextlib.suppress(ServerError):
                found = {m.address for m in self._members(number) if m.is_primary and m.ranges}
                if len(found) == PRIMARIES:
                    return sorted(map(self.cluster.addresses.index, found))
        raise ServerError("no server knows of all primaries")

    def _members(self, number: int) -> list[ClusterMember]:
        text = self.call(number, "CLUSTER", "NODES")
        return list(members(text, self.cluster.addresses[number]))

    def claim(self, number: int) -> BucketClaim | None:
        myself = next(m for m in self._members(number) if "myself" in m.flags)
        if not myself.is_primary or not myself.ranges:
            return None
        has = frozenset(
            bucket
            for bucket in range(self.keyspace.buckets)
            if any(first <= self.slot(bucket) <= last for first, last in myself.ranges)
        )
        return BucketClaim(myself.epoch, has)

    def slot(self, bucket: int) -> int:
        """Return the slot in which the keys of a bucket are."""
        return slot_of(self.keyspace.start_of("presence", bucket))

    def heal(self) -> None:
        self.cluster.heal()


class SentinelGroup(RedisGroup):
    """A primary, its replica and three sentinels."""

    def __init__(self, password: str) -> None:
        self.trio = BundledSentinel(down_after_s=DOWN_AFTER_S, password=password)
        self._claims = 0

    def start(self) -> object:
        return self.trio.start()

    def stop(self) -> None:
        self.trio.stop()

    @property
    def url(self) -> str:
        return self.trio.url

    @property
    def servers(self) -> Sequence[BundledServer]:
        return self.trio.servers

    @property
    def processes(self) -> Sequence[BundledServer]:
        return [*self.trio.servers, *self.trio.sentinels]

    def call(self, number: int, *words: str | int) -> Any:
        url = self.servers[number].url
        with redis.Redis.from_url(url, **client_options(CALL_S)) as client:
            connection = client.connection_pool.get_connection()
            connection.send_command(*words)
            return _text(connection.read_response())

    def primaries(self) -> list[int]:
        return [self.trio.servers.index(self.trio.primary)]

    def claim(self, number: int) -> BucketClaim | None:
        """Return what a server has: everything, if it is the primary that the sentinels name.

        A server that says so first counts as well when no other one is a primary: the sentinels
        name it a moment later.
        """
        if self.call(number, "ROLE")[0] != "master":
            return None
        if number not in self.primaries() and self._another_works(number):
            return None
        # There is one primary at a time, so a later claim is always a newer one.
        self._claims += 1
        return BucketClaim(self._claims, frozenset({0}))

    def _another_works(self, number: int) -> bool:
        for other, server in enumerate(self.servers):
            with contextlib.suppress(*UNREACHABLE):
                if other != number and server.running and self.call(other, "ROLE")[0] == "master":
                    return True
        return False

    def heal(self) -> None:
        self.trio.heal()


def _text(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return reply.decode()
    return [_text(one) for one in reply] if isinstance(reply, list) else reply


def group_of(deployment: Deployment, password: str) -> RedisGroup | None:
    """Return the servers of a deployment; None when it is one server."""
    if deployment.form is Form.CLUSTER:
        return ClusterGroup(password)
    return SentinelGroup(password) if deployment.form is Form.SENTINEL else None
