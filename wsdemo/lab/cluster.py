"""How do several real gateways, their users and a Redis live in one process?

`Cluster` is the asynchronous half of the laboratory: tests and scripts use it as it is, notebooks
through `wsdemo.lab.Lab`. Everything is real; what is special is only that it is all in one place,
on ports of the system's choice, at a faster clock, and recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Self

import pandas as pd
import redis.asyncio as redis_client

from wsdemo.client import Client
from wsdemo.gateway.server import Gateway
from wsdemo.lab.directors import HeldReleases
from wsdemo.lab.naive import SeedPresence
from wsdemo.lab.recorder import Recorder
from wsdemo.presence import Presence, RedisPresence
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import find_server
from wsdemo.settings import GatewaySettings, Keyspace, Timing

POLICIES: Final[dict[str, Callable[[RedisLink, Keyspace, Timing], Presence]]] = {
    "fenced": RedisPresence,
    "seed": SeedPresence,
}
"""Rules of presence that a lab can run under: the product's, and the Go demo's."""

PAGE_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.005


class Cluster:
    """Gateways, users and Redis: `async with Cluster(gateways=3) as cluster`.

    Args:
        gateways: how many; they are called gateway-01, gateway-02, ...
        scale: how many times faster than in production time passes for heartbeats and leases.
        seed: of all randomness of the users.
        policy: a key of `POLICIES`.
        redis: address of a Redis to use; by default the search of `wsdemo.redis.server`.

    Raises:
        ValueError: an argument cannot work.
        ServerError: there is no Redis.
    """

    def __init__(
        self,
        gateways: int = 3,
        *,
        scale: float = 60.0,
        seed: int = 7,
        policy: str = "fenced",
        redis: str | None = None,
    ) -> None:
        if not 1 <= gateways <= 20:
            raise ValueError(f"a lab has 1 to 20 gateways, not {gateways}")
        if policy not in POLICIES:
            raise ValueError(f"there is no policy {policy!r}; choose one of {', '.join(POLICIES)}")
        self.policy = policy
        self.seed = seed
        self.timing = Timing().scaled(scale)
        self.recorder = Recorder()
        self.keyspace = Keyspace(f"lab:{secrets.token_hex(4)}:")
        """Two labs on one server do not meet."""
        self.gateways: dict[str, Gateway] = {}
        self.users: dict[str, Client] = {}
        self.directors: dict[str, HeldReleases] = {}
        """Of each gateway: who holds its releases."""
        self.redis_source = ""
        self._wanted = [f"gateway-{n:02}" for n in range(1, gateways + 1)]
        self._address = redis
        self._resources = contextlib.AsyncExitStack()
        self._database: redis_client.Redis | None = None

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Start Redis and the gateways. When it fails, nothing is left running."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def _start(self) -> None:
        server = await asyncio.to_thread(find_server, self._address)
        self._resources.push_async_callback(asyncio.to_thread, server.stop)
        self.redis_source = server.source
        self._database = redis_client.Redis.from_url(server.url, decode_responses=True)
        self._resources.push_async_callback(self._forget_keys)
        await asyncio.gather(*(self._start_gateway(name, server.url) for name in self._wanted))
        self.gateways = {name: self.gateways[name] for name in self._wanted}

    async def _start_gateway(self, name: str, url: str) -> None:
        settings = GatewaySettings(
            gateway_id=name,
            port=0,
            redis_url=url,
            timing=self.timing,
            keyspace=self.keyspace,
        )
        gateway = Gateway(settings, presence=self._directed, emit=self.recorder.emit)
        await gateway.start()
        self.gateways[name] = gateway

    def _directed(self, link: RedisLink, settings: GatewaySettings) -> Presence:
        presence = POLICIES[self.policy](link, settings.keyspace, settings.timing)
        director = self.directors[settings.gateway_id] = HeldReleases(presence)
        return director

    async def stop(self) -> None:
        """Let users say goodbye, stop the gateways, then Redis. Idempotent."""
        for director in self.directors.values():
            director.let_go()
        users, self.users = list(self.users.values()), {}
        await asyncio.gather(*(user.close() for user in users))
        gateways, self.gateways = list(self.gateways.values()), {}
        await asyncio.gather(*(gateway.stop() for gateway in gateways))
        await self._resources.aclose()

    async def _forget_keys(self) -> None:
        """Remove what this lab wrote, and nothing else: the server may be somebody's own."""
        assert self._database is not None
        keys = [key async for key in self._database.scan_iter(f"{self.keyspace.prefix}*")]
        if keys:
            await self._database.delete(*keys)
        await self._database.aclose()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    # --- users -------------------------------------------------------------------------------

    async def connect(self, user: str, to: str = "gateway-01") -> Client:
        """Connect a user to a gateway; its failover list goes on with the others."""
        if user in self.users:
            raise ValueError(f"{user} is here already, at {self.users[user].gateway_id}")
        first = self.gateway(to)
        urls = [first.url, *(g.url for g in self.gateways.values() if g is not first)]
        # Every user has randomness of its own, whatever the order in which they come.
        rng = random.Random(zlib.crc32(f"{self.seed}:{user}".encode()))
        client = Client(user, urls, emit=self.recorder.emit, rng=rng)
        self.users[user] = client
        try:
            await client.start()
        except BaseException:
            self.users.pop(user, None)
            raise
        return client

    async def disconnect(self, user: str) -> None:
        """The user says goodbye."""
        await self.users.pop(user).close()

    def gateway(self, name: str) -> Gateway:
        """Return a gateway by its id."""
        if name not in self.gateways:
            known = ", ".join(self.gateways) or "none: the lab is closed"
            raise ValueError(f"there is no gateway {name!r}; there are: {known}")
        return self.gateways[name]

    # --- looking -----------------------------------------------------------------------------

    async def page(self, gateway: str, path: str) -> str:
        """Fetch a page of a gateway over HTTP, as curl would."""
        port = self.gateway(gateway).port
        async with asyncio.timeout(PAGE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
                )
                _, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        return body.decode()

    async def stats(self, gateway: str) -> dict[str, Any]:
        """Return what `/stats` of a gateway says."""
        document: dict[str, Any] = json.loads(await self.page(gateway, "/stats"))
        return document

    async def record(self, user: str) -> dict[str, str]:
        """Return the entry of a user in Redis, as `HGETALL presence:{user}` does."""
        if self._database is None:
            raise ValueError("the lab has no Redis: it is closed, or was never started")
        entry = await self._database.hgetall(self.keyspace.presence(user))
        return {str(name): str(value) for name, value in entry.items()}

    async def until(
        self, what: str, holds: Callable[[], Awaitable[bool]], timeout_s: float = 10.0
    ) -> None:
        """Wait until a condition holds.

        Raises:
            TimeoutError: it did not, in time; the text says what was waited for.
        """
        try:
            async with asyncio.timeout(timeout_s):
                # Redis tells nobody when a key goes: it has to be asked.
                while not await holds():  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}") from None

    def trace(self) -> pd.DataFrame:
        """Return what happened so far; see `wsdemo.lab.plots.frames` for the columns."""
        return self.recorder.trace()


async def late_cleanup(policy: str) -> AsyncIterator[tuple[str, dict[str, str], Cluster]]:
    """Play the late clean-up under a policy; yield each step, alice's entry after it, the lab.

    alice is at gateway-01; her link breaks; the clean-up of gateway-01 is held; she registers with
    gateway-02; only then the clean-up goes on.
    """
    async with Cluster(gateways=2, policy=policy) as cluster:
        alice = await cluster.connect("alice", to="gateway-01")
        yield "alice registers with gateway-01", await cluster.record("alice"), cluster
        director = cluster.directors["gateway-01"]
        director.hold("alice")
        await alice.move(cluster.gateway("gateway-02").url)
        yield "she moves to gateway-02", await cluster.record("alice"), cluster
        director.let_go("alice")
        await asyncio.wait_for(director.done("alice"), 5.0)
        yield "the late clean-up of gateway-01", await cluster.record("alice"), cluster
