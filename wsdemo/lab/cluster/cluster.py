"""How do several real gateways, their users and a Redis live in one process?

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
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self

import psutil
import redis.asyncio as redis_client

from wsdemo.addresses import RedisAddress
from wsdemo.client import Client
from wsdemo.events import Event, Kind
from wsdemo.gateway.server import Gateway
from wsdemo.lab.cluster.crowd import Heartbeats, Life, live
from wsdemo.lab.cluster.directors import HeldVerbs, Verb
from wsdemo.lab.cluster.hosts import Ear, Host, Mortal, OwnLoop, Process, SharedLoop
from wsdemo.lab.cluster.outage import Outage
from wsdemo.lab.cluster.watch import Watch
from wsdemo.lab.progress import Count
from wsdemo.lab.trace.frames import REDIS
from wsdemo.lab.trace.recorder import Recorder
from wsdemo.presence import Presence
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import find_server
from wsdemo.rig.clocks import WallClock
from wsdemo.rig.policies import PRODUCT, policy_named
from wsdemo.rig.wire import Bundle, Wire
from wsdemo.settings import ClientSettings, GatewaySettings, Keyspace, Limits, Timing

if TYPE_CHECKING:
    import pandas as pd

PAGE_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.005
AT_A_TIME: Final = 100
"""Users of a crowd who connect at the same time."""


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
        ValueError: an argument cannot work.
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
        if not 1 <= gateways <= 20:
            raise ValueError(f"a lab has 1 to 20 gateways, not {gateways}")
        policy_named(policy)
        self._wanted = [f"gateway-{n:02}" for n in range(1, gateways + 1)]
        for name in [*(clocks or {}), *freezable]:
            if name not in self._wanted:
                raise ValueError(f"there is no {name!r}; there are: {', '.join(self._wanted)}")
        self.policy = policy
        self.seed = seed
        self.timing = (timing or Timing()).scaled(scale)
        # How long clients are asked to wait, and wait by themselves, is pace as well.
        self.limits = Limits(retry_after_s=Limits().retry_after_s / scale)
        self.client_settings = ClientSettings(
            backoff_base_s=ClientSettings().backoff_base_s / scale,
            backoff_cap_s=ClientSettings().backoff_cap_s / scale,
        )
        self.recorder = Recorder()
        self.keyspace = Keyspace(f"lab:{secrets.token_hex(4)}:")
        """Two labs on one server do not meet."""
        self.hosts: dict[str, Host] = {}
        self.users: dict[str, Client] = {}
        self.directors: dict[str, HeldVerbs] = {}
        """Of each gateway: who holds its verbs."""
        self.clocks = {
            name: WallClock(scale, (clocks or {}).get(name, 0.0)) for name in self._wanted
        }
        self.redis_source = ""
        self._wired = wires
        self._freezable = frozenset(freezable)
        self._address = redis
        self._resources = contextlib.AsyncExitStack()
        self._database: redis_client.Redis | None = None
        self.redis_url = ""
        """Where Redis is, its password included; empty before the start."""
        self._outage: Outage | None = None
        self._watch: Watch | None = None
        self._wires: dict[tuple[str, str], list[Wire]] = {}
        self._mortals: dict[str, Mortal] = {}
        self._ears: dict[str, Ear] = {}
        self._heartbeats: dict[str, Heartbeats] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._crowd = 0
        self._ended_at = math.inf
        self._ports: set[int] = set()
        self._pids: set[int] = set()
        self._left: list[str] = []

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
        self._database = redis_client.Redis.from_url(server.url, decode_responses=True)
        self._resources.push_async_callback(self._forget_keys)
        self._watch = Watch(self._database, self.keyspace, self.recorder, self.timing.scale)
        self._resources.push_async_callback(self._watch.stop)
        await asyncio.gather(*(self.start_gateway(name) for name in self._wanted))
        self.hosts = {name: self.hosts[name] for name in self._wanted}

    async def stop(self) -> None:
        """Let users say goodbye, stop the gateways, then Redis. Idempotent."""
        self._ended_at = min(self._ended_at, time.monotonic())
        for name, host in self.hosts.items():
            await host.thaw()
            if name in self.directors:
                await host.on_its_loop(self.directors[name].let_go)
        for wires in self._wires.values():
            for wire in wires:
                wire.release()
        users, self.users = list(self.users.values()), {}
        await asyncio.gather(*(user.close() for user in users))
        if self._leaving:
            await asyncio.wait(self._leaving)
        hosts, self.hosts = list(self.hosts.values()), {}
        await asyncio.gather(*(host.stop() for host in hosts))
        self._ports |= {wire.port for wires in self._wires.values() for wire in wires}
        wired, self._wires = [wire for wires in self._wires.values() for wire in wires], {}
        await asyncio.gather(*(wire.stop() for wire in wired))
        await self._resources.aclose()

    def leaks(self) -> list[str]:
        """Return what is left after `stop`: keys, sockets of this process, gateway processes."""
        own = psutil.Process()
        sockets = [
            f"socket {end.laddr.port}"
            for end in own.net_connections("tcp")
            if end.status in (psutil.CONN_LISTEN, psutil.CONN_ESTABLISHED)
            and self._ports & {side.port for side in (end.laddr, end.raddr) if side}
        ]
        alive = [f"process {pid}" for pid in self._pids if psutil.pid_exists(pid)]
        return self._left + sockets + alive

    async def _forget_keys(self) -> None:
        """Remove what this lab wrote, and nothing else: the server may be somebody's own."""
        assert self._database is not None
        pattern = f"{self.keyspace.prefix}*"
        try:
            keys = [key async for key in self._database.scan_iter(pattern)]
            if keys:
                await self._database.delete(*keys)
            # Whatever is there now was written by somebody who should have been gone.
            late = [key async for key in self._database.scan_iter(pattern)]
            self._left += [f"key {key.removeprefix(self.keyspace.prefix)}" for key in late]
        except (redis_client.ConnectionError, redis_client.TimeoutError):
            pass  # A Redis that the lab has killed remembers nothing.
        await self._database.aclose()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    # --- gateways ----------------------------------------------------------------------------

    @property
    def gateways(self) -> dict[str, Gateway]:
        """The gateways of this process, by their ids."""
        return {name: h.gateway for name, h in self.hosts.items() if h.gateway is not None}

    @property
    def urls(self) -> dict[str, str]:
        """Where users connect, by gateway."""
        return {name: host.url for name, host in self.hosts.items()}

    async def start_gateway(self, name: str) -> None:
        """Start a gateway: a further one, or one again that crashed or was drained.

        Raises:
            ValueError: it is running.
        """
        self._require_gone(name)
        settings = await self._settings(name)

        def make() -> SharedLoop:
            ear = Ear(self.recorder.emit)
            gateway = Gateway(settings, presence=self._directed, emit=ear)
            return SharedLoop(gateway, ear, lambda: self._die(name))

        host = OwnLoop(name, make) if name in self._freezable else make()
        await host.start()
        self.hosts[name] = host
        self._ports.add(host.port)

    async def start_process(self, name: str) -> None:
        """Start a gateway as a process of its own; the record knows of it what users see.

        Raises:
            ValueError: it is running, or the lab's policy is not that of the product.
        """
        self._require_gone(name)
        if self.policy != PRODUCT:
            raise ValueError(f"a real process has the product's presence, not {self.policy!r}")
        process = Process(await self._settings(name))
        await process.start()
        self.hosts[name] = process
        self._ports.add(process.port)
        self._pids.add(process.pid)

    def _require_gone(self, name: str) -> None:
        if name in self.hosts:
            raise ValueError(f"{name} is running: crash or drain it first")

    async def _settings(self, name: str) -> GatewaySettings:
        url = self.redis_url
        if self._wired:
            url = await self._by_wire(name, url)
        return GatewaySettings(
            gateway_id=name,
            port=0,
            redis_url=url,
            timing=self.timing,
            limits=self.limits,
            keyspace=self.keyspace,
        )

    async def _by_wire(self, name: str, url: str) -> str:
        """Return an address under which Redis is found at the far end of a wire."""
        address = RedisAddress.parse(url)
        if address.scheme != "redis":
            raise ValueError(f"no wire leads to a Redis at a {address.scheme}:// address")
        known = self._wires.get((name, REDIS))
        if known is None:
            wire = Wire(address.host, address.port, self._rng(f"{name} wire"))
            known = self._wires[name, REDIS] = [await wire.start()]
        return dataclasses.replace(address, host="127.0.0.1", port=known[0].port).url

    def _directed(self, link: RedisLink, settings: GatewaySettings) -> Presence:
        name = settings.gateway_id
        clock = self.clocks.setdefault(name, WallClock(self.timing.scale))
        presence = policy_named(self.policy).make(link, settings.keyspace, settings.timing, clock)
        mortal = self._mortals[name] = Mortal(presence)
        director = self.directors[name] = HeldVerbs(mortal)
        return director

    def _die(self, name: str) -> None:
        self._mortals[name].dead = True
        self.directors[name].let_go()

    def urls_of(self, user: str) -> dict[str, str]:
        """Return where a user finds each gateway: at the far end of her wires, if she has some."""
        if (user, "") not in self._wires:
            return self.urls
        ports = {host.port: name for name, host in self.hosts.items()}
        wires = {ports[w.target_port]: w for w in self._wires[user, ""] if w.target_port in ports}
        return {name: f"ws://127.0.0.1:{wire.port}/ws" for name, wire in wires.items()}

    def host(self, name: str) -> Host:
        """Return where a gateway lives."""
        if name not in self.hosts:
            known = ", ".join(self.hosts) or "none: the lab is closed"
            raise ValueError(f"there is no gateway {name!r}; there are: {known}")
        return self.hosts[name]

    def gateway(self, name: str) -> Gateway:
        """Return a gateway of this process by its id."""
        gateway = self.host(name).gateway
        if gateway is None:
            raise ValueError(f"{name} is a process of its own: nobody here can look into it")
        return gateway

    # --- accidents on purpose ----------------------------------------------------------------

    async def crash(self, name: str) -> None:
        """End a gateway without last words: SIGKILL for a process, the same for a task."""
        host = self.host(name)
        self.recorder.note(Kind.CRASH, name, gateway=name)
        del self.hosts[name]
        await host.crash()

    async def drain(self, name: str) -> None:
        """Stop a gateway as SIGTERM does: clients are told to go elsewhere, leases released."""
        host = self.host(name)
        if host.gateway is None:
            self.recorder.note(Kind.DRAIN, name, gateway=name)
        del self.hosts[name]
        await host.stop()

    async def freeze(self, name: str) -> None:
        """Stop the loop of a gateway in `freezable`, or a process by SIGSTOP."""
        await self.host(name).freeze()
        self.recorder.note(Kind.FREEZE, name, gateway=name)

    async def thaw(self, name: str) -> None:
        """Let a frozen gateway go on."""
        self.recorder.note(Kind.THAW, name, gateway=name)
        await self.host(name).thaw()

    async def hold(self, user: str, at: str, verb: Verb = "release") -> None:
        """From now on, this verb of this user waits at this gateway before it starts."""
        director = self.director(at)
        await self.host(at).on_its_loop(lambda: director.hold(user, verb))

    async def let_go(self, user: str, at: str, verb: Verb = "release") -> None:
        """Let a verb go on that was held, and wait until Redis has answered it."""
        director, what = self.director(at), f"{verb} of {user}"
        await self.until(f"a {what} waits", lambda: _now(director.waiting(user, verb) > 0))
        await self.host(at).on_its_loop(lambda: director.let_go(user, verb))
        await self.until(f"the {what} is done", lambda: _now(director.is_done(user, verb)))

    async def let_all_go(self) -> None:
        """Let everything go on that is held at any gateway, and hold nothing more."""
        for name, director in self.directors.items():
            if name in self.hosts:
                await self.hosts[name].on_its_loop(director.let_go)

    def delay_cleanups(self, seconds: float) -> None:
        """From now on every gateway cleans up so many production seconds too late."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"{seconds!r} is not a number of production seconds")
        for name, director in self.directors.items():
            director.late_s = seconds / self.timing.scale
            self.recorder.note(Kind.FAULT, name, reason=f"cleans up {seconds:g} s too late")

    def director(self, gateway: str) -> HeldVerbs:
        """Return who holds the verbs of a gateway."""
        self.gateway(gateway)
        return self.directors[gateway]

    def set_clock(self, name: str, error_s: float) -> None:
        """Set a gateway's wall clock wrong by so many production seconds."""
        self.gateway(name)
        self.clocks[name].error_s = error_s
        self.recorder.note(Kind.FAULT, name, gateway=name, reason=f"clock {error_s:+g} s")

    def wire(self, one: str, other: str = "") -> Bundle:
        """Return the wire between a gateway and "redis", or that of a wired user.

        Raises:
            ValueError: there is none.
        """
        known = self._wires.get((one, other)) or self._wires.get((other, one))
        if not known:
            how = "Lab(wires=True)" if REDIS in (one, other) else f'connect("{one}", wired=True)'
            raise ValueError(f"there is no wire at {one!r}: it takes {how}")
        lane = other if one == REDIS else one
        return Bundle(known, lambda what: self.recorder.note(Kind.FAULT, lane, reason=what))

    @property
    def redis(self) -> Outage:
        """The accidents of Redis itself."""
        if self._outage is None:
            raise ValueError("the lab has no Redis: it was never started")
        return self._outage

    # --- users -------------------------------------------------------------------------------

    async def connect(
        self, user: str, to: str = "gateway-01", *, wired: bool = False, drop_pings: float = 0.0
    ) -> Client:
        """Connect a user to a gateway; its failover list goes on with the others.

        Args:
            wired: put a wire between the user and each gateway.
            drop_pings: the probability that a heartbeat gets lost.
        """
        if user in self.users:
            raise ValueError(f"{user} is here already, at {self.users[user].gateway_id}")
        if not 0 <= drop_pings <= 1:
            raise ValueError(f"drop_pings is a probability, not {drop_pings!r}")
        self.host(to)
        names = [to, *(name for name in self.hosts if name != to)]
        urls = await self._wired_urls(user, names) if wired else [self.urls[n] for n in names]
        ear = self._ears[user] = Ear(self.recorder.emit)
        heartbeats = Heartbeats(user, self._rng(f"{user} heartbeats"), ear, time.monotonic)
        heartbeats.loss = drop_pings
        self._heartbeats[user] = heartbeats
        client = Client(
            user,
            urls,
            settings=self.client_settings,
            emit=ear,
            rng=self._rng(user),
            should_ping=heartbeats,
        )
        self.users[user] = client
        try:
            await client.start()
        except BaseException:
            self.users.pop(user, None)
            raise
        return client

    def _rng(self, of: str) -> random.Random:
        """Return randomness of its own for each, whatever the order in which they come."""
        return random.Random(zlib.crc32(f"{self.seed}:{of}".encode()))

    async def _wired_urls(self, user: str, names: list[str]) -> list[str]:
        wires = []
        for name in names:
            host = self.host(name)
            wires.append(await Wire("127.0.0.1", host.port, self._rng(f"{user} wire")).start())
        for wire in self._wires.pop((user, ""), []):
            await wire.stop()
        self._wires[user, ""] = wires
        return [f"ws://127.0.0.1:{wire.port}/ws" for wire in wires]

    async def connect_many(self, users: int, count: Count | None = None) -> list[Client]:
        """Connect a crowd: user001, user002, ..., in turn to each gateway.

        Args:
            users: how many.
            count: told how many have arrived.
        """
        names = list(self.hosts)
        turn = asyncio.Semaphore(AT_A_TIME)

        async def come(number: int) -> Client:
            async with turn:
                client = await self.connect(f"user{number:03}", names[number % len(names)])
            if count is not None:
                count.done += 1
            return client

        first, self._crowd = self._crowd + 1, self._crowd + users
        return list(await asyncio.gather(*(come(first + n) for n in range(users))))

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
        if not 0 <= probability <= 1 or following < 0:
            raise ValueError("a probability lies between 0 and 1, and a count is not negative")
        heartbeats = self._heartbeats[user]
        heartbeats.loss, heartbeats.lose_next = probability, following

    async def disconnect(self, user: str) -> None:
        """The user says goodbye."""
        await self.users.pop(user).close()

    async def vanish(self, user: str) -> None:
        """The lid closes: no goodbye, no FIN, and nothing is heard of a wired user any more.

        Raises:
            ValueError: she is not here, or not wired.
        """
        if user not in self.users:
            raise ValueError(f"{user} is not here")
        wire = self.wire(user)
        client = self.users.pop(user)
        self._ears[user].close()
        wire.drop()
        self.recorder.emit(
            Event(
                Kind.WS_CLOSE,
                time.monotonic(),
                user,
                user=user,
                gateway=client.gateway_id,
                conn_id=client.conn_id,
                reason="vanished",
            )
        )
        # The client's own goodbye goes into the void as well.
        task = asyncio.create_task(client.close(), name=f"{user} vanishes")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def watch(self, *users: str) -> None:
        """From now on, sample what Redis says about these users, and how long it will."""
        if self._watch is None:
            raise ValueError("the lab has no Redis: it was never started")
        self._watch.add(users)

    # --- looking -----------------------------------------------------------------------------

    async def page(self, gateway: str, path: str) -> str:
        """Fetch a page of a gateway over HTTP, as curl would."""
        port = self.host(gateway).port
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
        return (await self.records([user]))[user]

    async def records(self, users: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the entries of many users, asked in one go."""
        if self._database is None:
            raise ValueError("the lab has no Redis: it is closed, or was never started")
        names = list(users)
        pipeline = self._database.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(self.keyspace.presence(name))
        return dict(zip(names, await pipeline.execute(), strict=True))

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
        """Return what happened so far; see `wsdemo.lab.trace.frames` for the columns.

        What the end of the cluster itself does to users and gateways is not part of it.
        """
        return self.recorder.trace(self._ended_at)


async def _now(holds: bool) -> bool:
    """Let `until` ask a question that needs no waiting."""
    return holds


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
