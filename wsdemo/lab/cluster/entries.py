"""Presence entries: what does Redis hold about users, and how is it removed at the end?

They are read on connections of their own, not through the gateways. The database may belong to
somebody else, so only keys with this cluster's prefix are touched. In a cluster of Redis, each
entry is read from the server that has it now; where that server does not answer, its users are left
out of the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import redis.asyncio as redis_client
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from wsdemo.addresses import RedisAddress
from wsdemo.redis.slots import SlotClaim, claims, slot_of
from wsdemo.settings import Keyspace

T = TypeVar("T")
NAMED_S: Final = 15.0
"""Wall seconds: for so long, a failover may leave a group without a primary."""
AGAIN_S: Final = 0.1
GONE = (redis_client.ConnectionError, redis_client.TimeoutError, OSError)
"""How a server fails that has been killed, or frozen."""


class LeaseNow(NamedTuple):
    """What is left of a lease, and of whom; 0 where there is no entry."""

    user: str
    gateway: str
    conn_id: str
    left_ms: float


class Entries(Protocol):
    """The keys of one laboratory on its Redis."""

    async def of(self, users: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the entries of users, as `HGETALL presence:{user}` does, asked in one go."""
        ...

    async def leases(self, users: Iterable[str]) -> list[LeaseNow]:
        """Return what is left of the leases of users, asked in one go."""
        ...

    async def remove_all(self) -> list[str]:
        """Remove what this laboratory wrote; return the keys that were written after that."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class OneServerEntries:
    """The keys of a laboratory on one server, or on the primary that sentinels name."""

    def __init__(self, database: redis_client.Redis, keyspace: Keyspace) -> None:
        self._database = database
        self._keyspace = keyspace

    async def of(self, users: Iterable[str]) -> dict[str, dict[str, str]]:
        names = list(users)
        return await once_named(lambda: entries_at(self._database, self._keyspace, names))

    async def leases(self, users: Iterable[str]) -> list[LeaseNow]:
        names = list(users)
        return await once_named(lambda: leases_at(self._database, self._keyspace, names))

    async def remove_all(self) -> list[str]:
        return await remove_at(self._database, self._keyspace.prefix)

    async def aclose(self) -> None:
        await self._database.aclose()


async def once_named(ask: Callable[[], Awaitable[T]], within_s: float = NAMED_S) -> T:
    """Ask the primary. While a failover goes on, sentinels name none: then ask again.

    Raises:
        MasterNotFoundError: they have named none for so long.
    """
    ends_at = time.monotonic() + within_s
    while True:
        try:
            return await ask()
        except MasterNotFoundError:
            if time.monotonic() > ends_at:
                raise
        await asyncio.sleep(AGAIN_S)


class ClusterEntries:
    """The keys of a laboratory on all servers of a cluster.

    Args:
        url: names each server.
        answer_s: how long one may take to answer.
    """

    def __init__(self, url: str, keyspace: Keyspace, answer_s: float) -> None:
        address = RedisAddress.parse(url)
        self._keyspace = keyspace
        self._said: dict[str, list[SlotClaim]] = {}
        """What each server said last about who has which slots."""
        self._servers = {
            str(seed): redis_client.Redis.from_url(
                address.server_at(seed).url,
                decode_responses=True,
                socket_timeout=answer_s,
                socket_connect_timeout=answer_s,
                retry=Retry(NoBackoff(), 1),
            )
            for seed in address.seeds
        }

    async def of(self, users: Iterable[str]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for part in await self._from_each(entries_at, users):
            found |= part
        return found

    async def leases(self, users: Iterable[str]) -> list[LeaseNow]:
        return [lease for part in await self._from_each(leases_at, users) for lease in part]

    async def _from_each(self, ask: Any, users: Iterable[str]) -> list[Any]:
        """Ask each server about its own users; leave out those that do not answer."""
        await self._look_around()
        theirs: dict[str, list[str]] = defaultdict(list)
        for user in users:
            theirs[self._owner(slot_of(self._keyspace.presence(user)))].append(user)
        asked = [
            ask(self._servers[owner], self._keyspace, names)
            for owner, names in theirs.items()
            if owner in self._servers
        ]
        return _answers(await asyncio.gather(*asked, return_exceptions=True))

    async def _look_around(self) -> None:
        """Ask each server who has which slots. Of those that do not answer, the last word stays."""
        asked = [_nodes(one) for one in self._servers.values()]
        told = await asyncio.gather(*asked, return_exceptions=True)
        for place, text in zip(self._servers, told, strict=True):
            if isinstance(text, str):
                self._said[place] = claims(text, place)

    def _owner(self, slot: int) -> str:
        """Return the address of the server that has a slot: the newest configuration counts. (A
        whole map of slots would cost the loop milliseconds, in which no gateway runs.)
        """
        said = [
            (claim.epoch, claim.address)
            for view in self._said.values()
            for claim in view
            if any(first <= slot <= last for first, last in claim.ranges)
        ]
        return max(said, default=(0, ""))[1]

    async def remove_all(self) -> list[str]:
        await self._look_around()
        owners = {claim.address for view in self._said.values() for claim in view}
        asked = [
            remove_at(one, self._keyspace.prefix)
            for place, one in self._servers.items()
            if place in owners
        ]
        parts = _answers(await asyncio.gather(*asked, return_exceptions=True))
        return [key for part in parts for key in part]

    async def aclose(self) -> None:
        await asyncio.gather(*(one.aclose() for one in self._servers.values()))


async def _nodes(server: redis_client.Redis) -> str:
    # Without a parser: the library turns this reply into a dictionary of its own.
    connection = await server.connection_pool.get_connection()
    try:
        await connection.send_command("CLUSTER", "NODES")
        return str(await connection.read_response())
    finally:
        await server.connection_pool.release(connection)


def _answers(told: Sequence[Any]) -> list[Any]:
    """Return the answers of the servers that gave one.

    Raises:
        BaseException: what failed was no server.
    """
    for answer in told:
        if isinstance(answer, BaseException) and not isinstance(answer, (RedisError, OSError)):
            raise answer
    return [answer for answer in told if not isinstance(answer, BaseException)]


async def entries_at(
    server: redis_client.Redis, keyspace: Keyspace, users: list[str]
) -> dict[str, dict[str, str]]:
    """Return the entries of users from one server."""
    pipeline = server.pipeline(transaction=False)
    for user in users:
        pipeline.hgetall(keyspace.presence(user))
    return dict(zip(users, await pipeline.execute(), strict=True))


async def leases_at(
    server: redis_client.Redis, keyspace: Keyspace, users: list[str]
) -> list[LeaseNow]:
    """Return what is left of the leases of users, from one server."""
    pipeline = server.pipeline(transaction=False)
    for user in users:
        key = keyspace.presence(user)
        pipeline.hmget(key, ["gwId", "connId"])
        pipeline.pttl(key)
    answers = await pipeline.execute()
    return [
        LeaseNow(user, gateway or "", conn_id or "", max(0.0, left_ms))
        for user, (gateway, conn_id), left_ms in zip(
            users, answers[::2], answers[1::2], strict=True
        )
    ]


async def remove_at(server: redis_client.Redis, prefix: str) -> list[str]:
    """Remove the keys with a prefix from one server; return those that were written after that."""
    pattern = f"{prefix}*"
    try:
        if keys := [key async for key in server.scan_iter(pattern)]:
            # One by one: in a cluster, keys of one command must have one slot.
            pipeline = server.pipeline(transaction=False)
            for key in keys:
                pipeline.delete(key)
            await pipeline.execute()
        # These keys were written by a gateway that should have ended before.
        late = [key async for key in server.scan_iter(pattern)]
    except GONE:
        return []  # A Redis that the laboratory has killed has no data.
    return [key.removeprefix(prefix) for key in late]
