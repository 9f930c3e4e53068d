"""Cluster: how do several real gateways, their users and a Redis live in one process?

`Cluster` is the asynchronous half of the laboratory: tests and scripts use it as it is, notebooks
through `wsdemo.lab.Lab`. Everything is real; what is special is only that it is all in one place,
on ports of the system's choice, at a faster clock, and recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import random
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict

from wsdemo.addresses import Form, RedisAddress
from wsdemo.client import BackoffRule, Client, PositionStore
from wsdemo.features import (
    MAX_DEVICES,
    ApiSettings,
    InboxSettings,
    RoomSettings,
    WatchSettings,
)
from wsdemo.gateway.server import Gateway
from wsdemo.lab.cluster.backends import (
    Backend,
    keyspace_for,
    require_backend,
    require_trust,
    start_backend,
)
from wsdemo.lab.cluster.crowd import Life, live
from wsdemo.lab.cluster.directors import HeldVerbs, Verb
from wsdemo.lab.cluster.entries import Entries
from wsdemo.lab.cluster.fleet import Fleet
from wsdemo.lab.cluster.holds import HeldVerb, Holds
from wsdemo.lab.cluster.hosts import GatewayHost
from wsdemo.lab.cluster.leaks import live_processes, open_sockets
from wsdemo.lab.cluster.lease_sampler import LeaseSampler
from wsdemo.lab.cluster.outage import RedisFaults
from wsdemo.lab.cluster.population import AT_A_TIME, Population, label_of
from wsdemo.lab.cluster.wires import ClusterWires
from wsdemo.lab.errors import LabRefused, LabTimeout
from wsdemo.lab.progress import Count
from wsdemo.lab.trace.recorder import Recorder
from wsdemo.presence import Presence, RedisPresence
from wsdemo.presence.devices import DevicePresence
from wsdemo.redis.cluster_link import ClusterLink
from wsdemo.redis.interface import Link
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import ServerError
from wsdemo.rig.clocks import WallClock
from wsdemo.rig.names import unknown
from wsdemo.rig.pages import http_get
from wsdemo.rig.policies import POLICIES, PRODUCT, policy_named
from wsdemo.rig.policies.device_release import ScriptedRelease
from wsdemo.rig.waiting import Condition, wait_until
from wsdemo.rig.wire import Bundle
from wsdemo.settings import ClientSettings, GatewaySettings, Limits, Timing

if TYPE_CHECKING:
    import pandas as pd

PAGE_TIMEOUT_S: Final = 5.0


class _Features(TypedDict):
    """The optional features of every gateway, as the fields of its settings."""

    inbox: InboxSettings | None
    devices: int
    rooms: RoomSettings | None
    watch: WatchSettings | None
    api: ApiSettings | None


def _with_features(link: Link, settings: GatewaySettings) -> Presence:
    """Return the product's presence, as a gateway with these features has it."""
    keyspace, timing, devices = settings.keyspace, settings.timing, settings.devices
    announces = settings.watch is not None
    if devices > 1:
        return DevicePresence(link, keyspace, timing, devices, announces=announces)
    return RedisPresence(link, keyspace, timing, announces=announces)


def _scaled_rooms(settings: RoomSettings | None, scale: float) -> RoomSettings | None:
    """Let the beats of gateways and their leases pass as fast as everything else."""
    if settings is None:
        return None
    return dataclasses.replace(
        settings,
        room_beat_s=settings.room_beat_s / scale,
        room_lease_s=settings.room_lease_s / scale,
        room_repair_s=settings.room_repair_s / scale,
    )


def _scaled_watch(settings: WatchSettings | None, scale: float) -> WatchSettings | None:
    """The same for presence events."""
    if settings is None:
        return None
    return dataclasses.replace(
        settings,
        watch_grace_s=settings.watch_grace_s / scale,
        watch_reconcile_s=settings.watch_reconcile_s / scale,
    )


def _scaled_backoff(rule: BackoffRule | None, scale: float) -> BackoffRule | None:
    """Let the pauses of a rule pass as fast as everything else."""
    if rule is None:
        return None
    return lambda attempt, rng: rule(attempt, rng) / scale


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
        redis: address of a Redis to use, or "cluster" or "sentinel" for one of several servers; by
            default the search of `wsdemo.redis.server`.
        replicas: how many each primary of a Redis of several servers has.
        inbox, rooms, watch: the optional features of all gateways; None: they do not have it.
        devices: how many devices one user may have.
        release_device: a Lua script that decides what the release of a device removes, instead of
            the product's (`wsdemo.rig.policies.device_release`).
        api: serve the server API at a port of its own; `api_key` is its key.
        backoff: how long clients wait before an attempt to connect again, when it is not the
            product's rule (production seconds).

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
        replicas: int | None = None,
        inbox: InboxSettings | None = None,
        devices: int = 1,
        release_device: str = "",
        rooms: RoomSettings | None = None,
        watch: WatchSettings | None = None,
        api: bool = False,
        backoff: BackoffRule | None = None,
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
        if not isinstance(devices, int) or not 1 <= devices <= MAX_DEVICES:
            raise LabRefused(f"a user has 1 to {MAX_DEVICES} devices, not {devices!r}")
        for name in [*(clocks or {}), *freezable]:
            if name not in self._wanted:
                raise LabRefused(unknown("gateway", name, self._wanted))
        if release_device and devices == 1:
            raise LabRefused("only a user with several devices has such a release: devices=2")
        require_backend(redis, replicas, wires, policy != PRODUCT)
        require_trust(redis, inbox, rooms)
        self._release_device = release_device
        self.policy = policy
        self.seed = seed
        self._features: _Features = {
            "inbox": inbox,
            "devices": devices,
            "rooms": _scaled_rooms(rooms, scale),
            "watch": _scaled_watch(watch, scale),
            "api": None,
        }
        self.api_key = secrets.token_hex(32) if api else ""
        """What a backend has to know; '' where there is no server API."""
        if api:
            self._features["api"] = ApiSettings(api_key=self.api_key.encode())
        self.timing = (timing or Timing()).scaled(scale)
        # The pauses before a reconnect, asked for or chosen by the client, are scaled as well.
        self.limits = Limits(retry_after_s=Limits().retry_after_s / scale)
        self.client_settings = ClientSettings(
            backoff_base_s=ClientSettings().backoff_base_s / scale,
            backoff_cap_s=ClientSettings().backoff_cap_s / scale,
        )
        self.recorder = Recorder()
        self.keyspace = keyspace_for(redis, f"lab:{secrets.token_hex(4)}:")
        """Two laboratories on one server use different keys."""
        self.clocks = {
            name: WallClock(scale, (clocks or {}).get(name, 0.0)) for name in self._wanted
        }
        self.redis_source = ""
        self._wired = wires
        self._address = redis
        self._replicas = replicas
        self._resources = contextlib.AsyncExitStack()
        self._entries: Entries | None = None
        self.redis_url = ""
        """Where Redis is, its password included; empty before the start."""
        self._faults: RedisFaults | None = None
        self._sampler: LeaseSampler | None = None
        self.wires = ClusterWires(self.recorder, self._rng)
        self.population = Population(
            self.client_settings, self.recorder, self._rng, _scaled_backoff(backoff, scale)
        )
        self._fleet = Fleet(self.recorder, self._settings, self._directed, self._cut_off, freezable)
        self._holds = Holds(self._fleet, self.recorder, self.timing.scale)
        self._links: dict[str, Link] = {}
        """Of each gateway of this process: its way to Redis."""
        self._ending: set[asyncio.Task[None]] = set()
        self._ended_at = math.inf
        self._ports_of_wires: set[int] = set()
        self._keys_left: list[str] = []
        self._redis_pids: set[int] = set()

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
        backend = await self._started_backend()
        self._resources.push_async_callback(asyncio.to_thread, backend.stop)
        self.redis_source, self.redis_url = backend.source, backend.url
        self._faults, self._entries = backend.faults, backend.entries
        self._resources.push_async_callback(self._entries.aclose)
        self._resources.push_async_callback(self._remove_keys)
        self._sampler = LeaseSampler(self._entries, self.recorder, self.timing.scale)
        self._resources.push_async_callback(self._sampler.stop)
        await asyncio.gather(*(self.start_gateway(name) for name in self._wanted))
        self._fleet.put_in_order(self._wanted)

    async def _started_backend(self) -> Backend:
        """Start Redis. A thread cannot be interrupted: what it has started meanwhile is stopped."""
        arguments = (self._address, self._replicas, self.keyspace, self.recorder)
        starting = asyncio.ensure_future(asyncio.to_thread(start_backend, *arguments))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(ServerError):
                (await starting).stop()  # In no thread: the loop may be about to end.
            raise

    async def stop(self) -> None:
        """Disconnect the users, stop the gateways, then Redis. Idempotent."""
        self._ended_at = min(self._ended_at, time.monotonic())
        if self._faults is not None:
            self._faults.wake()
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
        """Return what is left after `stop`: keys, sockets of this process, and processes."""
        ports = self._fleet.ports | self._ports_of_wires
        return (
            self._keys_left
            + open_sockets(ports)
            + live_processes(self._fleet.pids | self._redis_pids)
        )

    async def _remove_keys(self) -> None:
        assert self._entries is not None
        assert self._faults is not None
        self._redis_pids |= self._faults.pids()
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
            LabRefused: it is running, the policy is not that of the product, or the lab has an
                optional feature.
        """
        self._fleet.require_gone(name)
        if self.policy != PRODUCT:
            raise LabRefused(f"a real process has the product's presence, not {self.policy!r}")
        if self._has_features:
            raise LabRefused("a real process has no optional feature: make a lab without them")
        await self._fleet.start_process(name)
        self._remember(name)

    @property
    def has_several_servers(self) -> bool:
        """Whether its Redis is a cluster, or a primary that sentinels name."""
        return RedisAddress.parse(self.redis_url).form is not Form.SERVER

    @property
    def has_inboxes(self) -> bool:
        """Whether the gateways keep messages for users who are away."""
        return self._features["inbox"] is not None

    @property
    def has_rooms(self) -> bool:
        """Whether users may join rooms."""
        return self._features["rooms"] is not None

    @property
    def most_devices(self) -> int:
        """How many devices one user may have."""
        return self._features["devices"]

    @property
    def _has_features(self) -> bool:
        optional = self._features
        return optional["devices"] > 1 or any(
            optional[name] is not None for name in ("inbox", "rooms", "watch", "api")
        )

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
            **self._features,
        )

    def _directed(self, link: Link, settings: GatewaySettings) -> Presence:
        name = settings.gateway_id
        self._links[name] = link
        clock = self.clocks.setdefault(name, WallClock(self.timing.scale))
        presence = policy_named(self.policy).make(link, settings.keyspace, settings.timing, clock)
        if self.policy == PRODUCT:
            presence = _with_features(link, settings)
        if self._release_device:
            keyspace, devices = settings.keyspace, self.most_devices
            presence = ScriptedRelease(
                link, keyspace, settings.timing, devices, self._release_device
            )
        return self._holds.direct(name, presence)

    def _cut_off(self, name: str) -> None:
        """Let nothing of a crashed gateway reach Redis. It runs on the loop of that gateway."""
        self._holds.cut_off(name)
        link = self._links[name]
        if isinstance(link, ClusterLink):
            for node in link.all_nodes():
                node.reset()
        elif isinstance(link, RedisLink):
            link.reset()
        # At once, so that it does not connect again while the gateway ends.
        ending = asyncio.create_task(link.stop(), name=f"{name} loses Redis")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

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
    def redis(self) -> RedisFaults:
        """The faults of Redis itself."""
        if self._faults is None:
            raise LabRefused("the lab has no Redis: it was never started")
        return self._faults

    # --- users -------------------------------------------------------------------------------

    @property
    def users(self) -> Mapping[str, Client]:
        """The connected users, by their names; a device as `user/device`."""
        return self.population.clients

    async def connect(
        self,
        user: str,
        to: str = "gateway-01",
        *,
        wired: bool = False,
        drop_pings: float = 0.0,
        device: str = "",
        durable: bool = False,
        position: PositionStore | None = None,
    ) -> Client:
        """Connect a user to a gateway; its failover list goes on with the others.

        Args:
            device: which device of the user it is. In the lab it is called `user/device`.
            wired: put a wire between the user and each gateway.
            drop_pings: the probability that a heartbeat gets lost.
            durable: the user reads the inbox; the gateways need the feature.
            position: where a durable user keeps how far the inbox has been read.
        """
        label = label_of(user, device)
        self.population.require_new(label, drop_pings)
        self.host(to)
        names = [to, *(name for name in self.hosts if name != to)]
        if wired:
            ports = [self.host(name).port for name in names]
            urls = await self.wires.to_gateways(label, ports)
        else:
            urls = [self.urls[name] for name in names]
        return await self.population.connect(
            user, urls, drop_pings, device=device, durable=durable, position=position
        )

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
        """Return the entry of a user in Redis, as `HGETALL presence:{user}` does.

        Raises:
            LabTimeout: in a cluster, the server that has it does not answer.
        """
        entries = await self.records([user])
        if user not in entries:
            raise LabTimeout(f"the server that has {user}'s entry does not answer")
        return entries[user]

    async def records(self, users: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the entries of many users, asked in one go. In a cluster, those are left out whose
        server does not answer.
        """
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
