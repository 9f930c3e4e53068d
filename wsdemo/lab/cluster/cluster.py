"""Cluster: how do several real gateways, their users and a Redis live in one process?

`Cluster` is the asynchronous half of the laboratory: tests and scripts use it as it is, notebooks
through `wsdemo.lab.Lab`. Everything is real; what is special is only that it is all in one place,
on ports of the system's choice, at a faster clock, and recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self

import redis.asyncio as redis_client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from wsdemo.client import Client
from wsdemo.gateway.server import Gateway
from wsdemo.lab.cluster.crowd import Life, live
from wsdemo.lab.cluster.directors import HeldVerbs, Verb
from wsdemo.lab.cluster.entries import Entries
from wsdemo.lab.cluster.fleet import Fleet
from wsdemo.lab.cluster.holds import HeldVerb, Holds
from wsdemo.lab.cluster.hosts import GatewayHost
from wsdemo.lab.cluster.leaks import live_processes, open_sockets
from wsdemo.lab.cluster.lease_sampler import LeaseSampler
from wsdemo.lab.cluster.outage import Outage
from wsdemo.lab.cluster.population import AT_A_TIME, Population
from wsdemo.lab.cluster.wires import ClusterWires
from wsdemo.lab.errors import LabRefused, LabTimeout
from wsdemo.lab.progress import Count
from wsdemo.lab.trace.recorder import Recorder
from wsdemo.presence import Presence
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import find_server
from wsdemo.rig.clocks import WallClock
from wsdemo.rig.names import unknown
from wsdemo.rig.pages import http_get
from wsdemo.rig.policies import POLICIES, PRODUCT, policy_named
from wsdemo.rig.waiting import Condition, wait_until
from wsdemo.rig.wire import Bundle
from wsdemo.settings import ClientSettings, GatewaySettings, Keyspace, Limits, Timing

if TYPE_CHECKING:
    import pandas as pd

PAGE_TIMEOUT_S: Final = 5.0


class Cluster:
    """Gateways, users and Redis: `async with Cluster(gateways=3) as cluster`.

    Args:
        gateways: how many; they are called gateway-01, gateway-02, ...
        scale: how many times faster than in production time passes for heartbeats and leases.
        seed: of all randomness of the users.
        policy: the name of one of `wsdemo.rig.policies`.
        timing: production timings other than the product's, e.g. `Timing(heartbeat_s=20)`.
        clocks: gateway id -> by how many production seconds its wall clock is wrong.
        wires: put a wire between each gateway and Redis.
        freezable: gateways with a loop of their own, which can be frozen.
        redis: address of a Redis to use; by default the search of `wsdemo.redis.server`.

    Raises:
        LabRefused: an argument cannot work.
        ServerError: there is no Redis.
    """

    def __init__(
        self,
        gateways: int = 3,
        *,
        scale: float = 60.0,
        seed: int = 7,
        policy: str = PRODUCT,
        timing: Timing | None = None,
        clocks: Mapping[str, float] | None = None,
        wires: bool = False,
        freezable: Collection[str] = (),
        redis: str | None = None,
    ) -> None:
        if not isinstance(gateways, int) or not 1 <= gateways <= 20:
            raise LabRefused(f"a lab has 1 to 20 gateways, not {gateways!r}")
        if not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise LabRefused(f"scale is a number of times faster than production, not {scale!r}")
        if policy not in POLICIES:
            raise LabRefused(unknown("policy", policy, POLICIES))
        if isinstance(freezable, str):
            raise LabRefused(f"freezable is a list of gateways: [{freezable!r}]")
        self._wanted = [f"gateway-{n:02}" for n in range(1, gateways + 1)]
        for name in [*(clocks or {}), *freezable]:
            if name not in self._wanted:
                raise LabRefused(unknown("gateway", name, self._wanted))
        self.policy = policy
        self.seed = seed
        self.timing = (timing or Timing()).scaled(scale)
        # The pauses before a reconnect, asked for or chosen by the client, are scaled as well.
        self.limits = Limits(retry_after_s=Limits().retry_after_s / scale)
        self.client_settings = ClientSettings(
            backoff_base_s=ClientSettings().backoff_base_s / scale,
            backoff_cap_s=ClientSettings().backoff_cap_s / scale,
        )
        self.recorder = Recorder()
        self.keyspace = Keyspace(f"lab:{secrets.token_hex(4)}:")
        """Two laboratories on one server use different keys."""
        self.clocks = {
            name: WallClock(scale, (clocks or {}).get(name, 0.0)) for name in self._wanted
        }
        self.redis_source = ""
        self._wired = wires
        self._address = redis
        self._resources = contextlib.AsyncExitStack()
        self._entries: Entries | None = None
        self.redis_url = ""
        """Where Redis is, its password included; empty before the start."""
        self._outage: Outage | None = None
        self._sampler: LeaseSampler | None = None
        self.wires = ClusterWires(self.recorder, self._rng)
        self.population = Population(self.client_settings, self.recorder, self._rng)
        self._fleet = Fleet(self.recorder, self._settings, self._directed, self._cut_off, freezable)
        self._holds = Holds(self._fleet, self.recorder, self.timing.scale)
        self._ended_at = math.inf
        self._ports_of_wires: set[int] = set()
        self._keys_left: list[str] = []

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
        self.redis_source, self.redis_url = server.source, server.url
        self._outage = Outage(server, self.recorder)
        # Once more: the connection that it kept was to a Redis that was killed since then.
        again = Retry(NoBackoff(), 1)
        database = redis_client.Redis.from_url(server.url, decode_responses=True, retry=again)
        self._resources.push_async_callback(database.aclose)
        self._entries = Entries(database, self.keyspace)
        self._resources.push_async_callback(self._remove_keys)
        self._sampler = LeaseSampler(database, self.keyspace, self.recorder, self.timing.scale)
        self._resources.push_async_callback(self._sampler.stop)
        await asyncio.gather(*(self.start_gateway(name) for name in self._wanted))
        self._fleet.put_in_order(self._wanted)

    async def stop(self) -> None:
        """Disconnect the users, stop the gateways, then Redis. Idempotent."""
        self._ended_at = min(self._ended_at, time.monotonic())
        for name, host in self.hosts.items():
            await host.thaw()
            if name in self.directors:
                await host.on_its_loop(self.directors[name].let_go)
        self.wires.release()
        await self.population.stop()
        await asyncio.gather(*(host.stop() for host in self._fleet.take_all()))
        self._ports_of_wires |= await self.wires.stop()
        await self._resources.aclose()

    def at_stop(self, act: Callable[[], Awaitable[None]]) -> None:
        """Call something when the cluster stops: after the gateways, and before Redis."""
        self._resources.push_async_callback(act)

    def leaks(self) -> list[str]:
        """Return what is left after `stop`: keys, sockets of this process, gateway processes."""
        ports = self._fleet.ports | self._ports_of_wires
        return self._keys_left + open_sockets(ports) + live_processes(self._fleet.pids)

    async def _remove_keys(self) -> None:
        assert self._entries is not None
        self._keys_left += [f"key {key}" for key in await self._entries.remove_all()]

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    # --- gateways ----------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The gateways that the cluster was made with, and those that were added: up or down."""
        return list(self._wanted)

    @property
    def freezable(self) -> frozenset[str]:
        """The gateways that can be frozen: those with a loop of their own, and processes."""
        return self._fleet.freezable

    @property
    def hosts(self) -> dict[str, GatewayHost]:
        """Where each gateway lives, by its id."""
        return self._fleet.hosts

    @property
    def gateways(self) -> dict[str, Gateway]:
        """The gateways of this process, by their ids."""
        return self._fleet.gateways

    @property
    def urls(self) -> dict[str, str]:
        """Where users connect, by gateway."""
        return self._fleet.urls

    async def start_gateway(self, name: str) -> None:
        """Start a gateway: a further one, or one again that crashed or was drained.

        Raises:
            LabRefused: it is running.
        """
        await self._fleet.start(name)
        self._remember(name)

    async def start_process(self, name: str) -> None:
        """Start a gateway as a process of its own; the trace shows of it what its users see.

        Raises:
            LabRefused: it is running, or the lab's policy is not that of the product.
        """
        self._fleet.require_gone(name)
        if self.policy != PRODUCT:
            raise LabRefused(f"a real process has the product's presence, not {self.policy!r}")
        await self._fleet.start_process(name)
        self._remember(name)

    def _remember(self, name: str) -> None:
        if name not in self._wanted:
            self._wanted.append(name)

    async def _settings(self, name: str) -> GatewaySettings:
        url = self.redis_url
        if self._wired:
            url = await self.wires.to_redis(name, url)
        return GatewaySettings(
            gateway_id=name,
            port=0,
            redis_url=url,
            timing=self.timing,
            limits=self.limits,
            keyspace=self.keyspace,
        )

    def _directed(self, link: RedisLink, settings: GatewaySettings) -> Presence:
        name = settings.gateway_id
        clock = self.clocks.setdefault(name, WallClock(self.timing.scale))
        presence = policy_named(self.policy).make(link, settings.keyspace, settings.timing, clock)
        return self._holds.direct(name, presence)

    def _cut_off(self, name: str) -> None:
        self._holds.cut_off(name)

    def urls_of(self, user: str) -> dict[str, str]:
        """Return where a user finds each gateway: at the far end of her wires, if she has some."""
        wired = self.wires.urls_of(user, {host.port: name for name, host in self.hosts.items()})
        return self.urls if wired is None else wired

    def host(self, name: str) -> GatewayHost:
        """Return where a gateway lives."""
        return self._fleet.host(name)

    def gateway(self, name: str) -> Gateway:
        """Return a gateway of this process by its id."""
        return self._fleet.gateway(name)

    # --- faults ------------------------------------------------------------------------------

    async def crash(self, name: str) -> None:
        """End a gateway at once: SIGKILL for a process, the same for a task."""
        await self._fleet.crash(name)

    async def drain(self, name: str) -> None:
        """Stop a gateway as SIGTERM does: clients are told to go elsewhere, leases released."""
        await self._fleet.drain(name)

    async def freeze(self, name: str) -> None:
        """Stop the loop of a gateway in `freezable`, or a process by SIGSTOP."""
        await self._fleet.freeze(name)

    async def thaw(self, name: str) -> None:
        """Let a frozen gateway go on."""
        await self._fleet.thaw(name)

    @property
    def directors(self) -> dict[str, HeldVerbs]:
        """The director of each gateway, which can hold its verbs."""
        return self._holds.directors

    def director(self, gateway: str) -> HeldVerbs:
        """Return the director of a gateway, which can hold its verbs."""
        return self._holds.director(gateway)

    async def hold(self, user: str, at: str, verb: Verb = "release") -> None:
        """From now on, this verb of this user waits at this gateway before it starts."""
        await self._holds.hold(user, at, verb)

    async def let_go(self, user: str, at: str, verb: Verb = "release") -> None:
        """Release a held verb, and wait until Redis has answered it."""
        await self._holds.let_go(user, at, verb)

    async def stop_holding(self, user: str, at: str, verb: Verb = "release") -> None:
        """Hold a verb no longer; when it waits already, wait until Redis has answered it."""
        await self._holds.stop_holding(user, at, verb)

    @property
    def held(self) -> list[HeldVerb]:
        """What is held at the gateways that run, and what waits there."""
        return self._holds.held

    async def let_all_go(self) -> None:
        """Release everything that is held at any gateway, and hold nothing more."""
        await self._holds.let_all_go()

    def delay_cleanups(self, seconds: float) -> None:
        """From now on every gateway cleans up so many production seconds too late."""
        self._holds.delay_cleanups(seconds)

    def set_clock(self, name: str, error_s: float) -> None:
        """Set a gateway's wall clock wrong by so many production seconds."""
        self.gateway(name)
        self.clocks[name].error_s = error_s
        self.recorder.set_clock(name, error_s)

    def wire(self, one: str, other: str = "") -> Bundle:
        """Return the wire between a gateway and "redis", or that of a wired user.

        Raises:
            LabRefused: there is none.
        """
        return self.wires.bundle(one, other)

    @property
    def redis(self) -> Outage:
        """The faults of Redis itself."""
        if self._outage is None:
            raise LabRefused("the lab has no Redis: it was never started")
        return self._outage

    # --- users -------------------------------------------------------------------------------

    @property
    def users(self) -> Mapping[str, Client]:
        """The connected users, by their names."""
        return self.population.clients

    async def connect(
        self, user: str, to: str = "gateway-01", *, wired: bool = False, drop_pings: float = 0.0
    ) -> Client:
        """Connect a user to a gateway; its failover list goes on with the others.

        Args:
            wired: put a wire between the user and each gateway.
            drop_pings: the probability that a heartbeat gets lost.
        """
        self.population.require_new(user, drop_pings)
        self.host(to)
        names = [to, *(name for name in self.hosts if name != to)]
        if wired:
            ports = [self.host(name).port for name in names]
            urls = await self.wires.to_gateways(user, ports)
        else:
            urls = [self.urls[name] for name in names]
        return await self.population.connect(user, urls, drop_pings)

    def _rng(self, of: str) -> random.Random:
        """Return a generator for each name, which does not depend on the order of the calls."""
        return random.Random(zlib.crc32(f"{self.seed}:{of}".encode()))

    async def connect_many(self, users: int, count: Count | None = None) -> list[Client]:
        """Connect many users: user001, user002, ..., to the gateways in turn.

        Args:
            users: how many.
            count: told how many have arrived.
        """
        gateways = list(self.hosts)
        turn = asyncio.Semaphore(AT_A_TIME)

        async def come(number: int) -> Client:
            async with turn:
                client = await self.connect(f"user{number:03}", gateways[number % len(gateways)])
            if count is not None:
                count.done += 1
            return client

        return list(await asyncio.gather(*map(come, self.population.next_numbers(users))))

    async def live(
        self,
        seconds: float,
        *,
        talk_every_s: float | None = None,
        hop_every_s: float | None = None,
        users: Iterable[str] | None = None,
    ) -> Life:
        """Let users talk and move for so many production seconds; see `crowd.live`."""
        chosen = self.users if users is None else {name: self.users[name] for name in users}
        return await live(
            list(chosen.values()),
            self.urls,
            seconds=seconds,
            talk_every_s=talk_every_s,
            hop_every_s=hop_every_s,
            scale=self.timing.scale,
            seed=self.seed,
        )

    def drop_pings(self, user: str, probability: float = 0.0, *, following: int = 0) -> None:
        """From now on heartbeats of a user get lost: so many following ones, or each by chance."""
        self.population.drop_pings(user, probability, following)

    async def disconnect(self, user: str) -> None:
        """Close the connection of a user with a close frame.

        Raises:
            LabRefused: she is not connected.
        """
        if user not in self.users:
            raise LabRefused(unknown("user", user, self.users))
        await self.population.disconnect(user)

    async def vanish(self, user: str) -> None:
        """Simulate a closed laptop: no close frame, no FIN; nothing of a wired user arrives any
        more.

        Raises:
            LabRefused: she is not connected, or not wired.
        """
        if user not in self.users:
            raise LabRefused(unknown("user", user, self.users))
        self.population.vanish(user, self.wire(user))

    def watch(self, *users: str) -> None:
        """From now on, sample the entries of these users and what is left of their leases."""
        if self._sampler is None:
            raise LabRefused("the lab has no Redis: it was never started")
        self._sampler.add(users)

    # --- observation -------------------------------------------------------------------------

    async def page(self, gateway: str, path: str) -> str:
        """Fetch a page of a gateway over HTTP, as curl would."""
        _, body = await http_get(self.host(gateway).port, path, PAGE_TIMEOUT_S)
        return body

    async def stats(self, gateway: str) -> dict[str, Any]:
        """Return what `/stats` of a gateway says."""
        document: dict[str, Any] = json.loads(await self.page(gateway, "/stats"))
        return document

    async def record(self, user: str) -> dict[str, str]:
        """Return the entry of a user in Redis, as `HGETALL presence:{user}` does."""
        return (await self.records([user]))[user]

    async def records(self, users: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the entries of many users, asked in one go."""
        if self._entries is None:
            raise LabRefused("the lab has no Redis: it is closed, or was never started")
        return await self._entries.of(users)

    async def until(self, what: str, holds: Condition, timeout_s: float = 10.0) -> None:
        """Wait until a condition holds.

        Raises:
            LabTimeout: it did not, in time; the text says what was waited for.
        """
        try:
            await wait_until(what, holds, timeout_s)
        except TimeoutError as problem:
            raise LabTimeout(str(problem)) from None

    def trace(self) -> pd.DataFrame:
        """Return what happened so far; see `wsdemo.lab.trace.frames` for the columns.

        What the end of the cluster itself does to users and gateways is not part of it.
        """
        return self.recorder.trace(self._ended_at)
