"""Clients: how do tools, lessons and checks send a command to whatever Redis an address names?

Gateways have a link of their own (`wsdemo.redis.link`). Everybody else uses redis-py's client, and
gets it here. For sentinels, the client finds the primary: `database_of` once, `lasting_database_of`
on each new connection.
"""

from __future__ import annotations

from typing import Any, Final

import redis
import redis.asyncio as async_redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from wsdemo.addresses import Form, HostPort, RedisAddress, SettingsError

ASK_S: Final = 0.5
"""How long a sentinel may take to answer."""


class LastingDatabase(async_redis.Redis):
    """A client of the primary that sentinels name, on each new connection."""

    asked: AsyncSentinel

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        for one in self.asked.sentinels:
            await one.aclose()


def database_of(url: str, **options: Any) -> redis.Redis:
    """Return a client of the server that an address leads to now.

    Args:
        options: as redis-py's client takes them.

    Raises:
        SettingsError: the address cannot be read, or is that of a cluster.
        RedisError: the sentinels do not know the primary.
    """
    return redis.Redis.from_url(server_of(RedisAddress.parse(url)).effective().url, **options)


def lasting_database_of(url: str, **options: Any) -> async_redis.Redis:
    """Return a client, for asyncio, of the server that an address leads to at any time.

    Raises:
        SettingsError: the address cannot be read, or is that of a cluster.
    """
    address = _of_servers(RedisAddress.parse(url).effective())
    if address.form is Form.SERVER:
        return async_redis.Redis.from_url(address.url, **options)
    sentinel = AsyncSentinel(
        address.seeds,
        sentinel_kwargs=_asking(address, AsyncRetry(NoBackoff(), 0)),
        **_options(address.server_at(address.seeds[0])),
    )
    client: LastingDatabase = sentinel.master_for(
        address.service, redis_class=LastingDatabase, **options
    )
    client.asked = sentinel
    return client


def server_of(address: RedisAddress) -> RedisAddress:
    """Return the address of the server that an address leads to now: for sentinels, the primary.

    Raises:
        SettingsError: it is the address of a cluster.
        RedisError: the sentinels do not know.
    """
    if _of_servers(address).form is Form.SERVER:
        return address
    sentinel = Sentinel(
        address.seeds, sentinel_kwargs=_asking(address.effective(), Retry(NoBackoff(), 0))
    )
    try:
        host, port = sentinel.discover_master(address.service)
    except MasterNotFoundError:
        # The library's text shows its own objects.
        unheard = f"no sentinel at {address.hosts} names a primary of {address.service!r}"
        raise MasterNotFoundError(unheard) from None
    finally:
        for asked in sentinel.sentinels:
            asked.close()
    return address.server_at(HostPort(str(host), int(port)))


def _of_servers(address: RedisAddress) -> RedisAddress:
    if address.form is Form.CLUSTER:
        raise SettingsError("an address of a cluster cannot be used here")
    return address


def _asking(address: RedisAddress, retry: Retry | AsyncRetry) -> dict[str, Any]:
    """Return how to ask a sentinel: once, because there are others."""
    patience = {
        "socket_timeout": ASK_S,
        "socket_connect_timeout": ASK_S,
        "protocol": 2,
        "retry": retry,
    }
    return {**_options(address.sentinel_at(address.seeds[0])), **patience}


def _options(address: RedisAddress) -> dict[str, Any]:
    """Return what an address says besides host and port, as a client takes it."""
    options: dict[str, Any] = dict(parse_url(address.url))
    for name in ("host", "port"):
        options.pop(name, None)
    if options.pop("connection_class", None) is not None:
        options["ssl"] = True
    return options
