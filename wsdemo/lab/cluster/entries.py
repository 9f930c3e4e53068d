"""Presence entries: what does Redis hold about users, and how is it removed at the end?

They are read on a connection of its own, not through the gateways. The database may belong to
somebody else, so only keys with this cluster's prefix are touched.
"""

from __future__ import annotations

from collections.abc import Iterable

import redis.asyncio as redis_client

from wsdemo.settings import Keyspace


class Entries:
    """The keys of one cluster on its Redis."""

    def __init__(self, database: redis_client.Redis, keyspace: Keyspace) -> None:
        self._database = database
        self._keyspace = keyspace

    async def of(self, users: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the entries of users, as `HGETALL presence:{user}` does, asked in one go."""
        names = list(users)
        pipeline = self._database.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(self._keyspace.presence(name))
        return dict(zip(names, await pipeline.execute(), strict=True))

    async def remove_all(self) -> list[str]:
        """Remove what this cluster wrote; return the keys that were written after that."""
        pattern = f"{self._keyspace.prefix}*"
        try:
            keys = [key async for key in self._database.scan_iter(pattern)]
            if keys:
                await self._database.delete(*keys)
            # These keys were written by a gateway that should have ended before.
            late = [key async for key in self._database.scan_iter(pattern)]
        except (redis_client.ConnectionError, redis_client.TimeoutError):
            return []  # A Redis that the laboratory has killed has no data.
        return [key.removeprefix(self._keyspace.prefix) for key in late]
