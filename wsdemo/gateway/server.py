"""Life cycle: how does a gateway start, serve and stop?

This is the composition root: only here, the parts are put together. It starts from the inside out
(Redis, subscription, then the listening sockets) and stops from the outside in (the listening
sockets, the clients, their presence in Redis, and the subscription last, so that messages which
were sent to us before are still received).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import secrets
import ssl
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from websockets.http11 import Request

from wsdemo.addresses import RedisAddress
from wsdemo.events import Emit, Kind
from wsdemo.features import RoomSettings
from wsdemo.gateway import auth
from wsdemo.gateway.access_control import AccessControl, Answer
from wsdemo.gateway.counters import Counters, loop_lag
from wsdemo.gateway.delivery import Delivery
from wsdemo.gateway.devices import DeviceDelivery, DeviceRegistry, DevicesFeature
from wsdemo.gateway.durable import Durable
from wsdemo.gateway.feature import Feature
from wsdemo.gateway.health import Health
from wsdemo.gateway.journal import GATEWAY_LOG, Journal, LoggingJournal
from wsdemo.gateway.listening import (
    Bind,
    BoundAddress,
    Listeners,
    bind,
    bind_address,
    is_everywhere,
    listen,
)
from wsdemo.gateway.observer import Observer
from wsdemo.gateway.outbox import Flusher
from wsdemo.gateway.proxy_acceptor import ProxyAcceptor
from wsdemo.gateway.rate import Rate
from wsdemo.gateway.registry import Registry, each
from wsdemo.gateway.rooms import Rooms
from wsdemo.gateway.session import Backlog, Session, SessionServices
from wsdemo.gateway.socket import Socket, SocketServices
from wsdemo.gateway.watching import CHANNEL, Watching
from wsdemo.presence import DevicePresence, Presence, RedisPresence
from wsdemo.presence.store import SCRIPTS
from wsdemo.protocol import Code
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.fitness import examine
from wsdemo.redis.interface import Link
from wsdemo.redis.link import LINK_ERRORS, RedisLink
from wsdemo.redis.outcome import CommandError, Cure, Outcome, Trouble
from wsdemo.redis.primary import primary_of
from wsdemo.router import ROUTE, TRIAL, Router, trial_of
from wsdemo.settings import ANY_ORIGIN, Address, GatewaySettings
from wsdemo.tasks import end

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from wsdemo.gateway.api.listener import ServerApi
    from wsdemo.gateway.prometheus import CountersCollector

_log = logging.getLogger(GATEWAY_LOG)

DRAIN_STEP_S: Final = 0.1
JSON_TYPE: Final = {"Content-Type": "application/json"}

PresenceFactory = Callable[[Link, GatewaySettings], Presence]


def _fenced(link: Link, settings: GatewaySettings) -> Presence:
    announces = settings.watch is not None
    keyspace, timing, devices = settings.keyspace, settings.timing, settings.devices
    if devices > 1:
        return DevicePresence(link, keyspace, timing, devices, announces=announces)
    return RedisPresence(link, keyspace, timing, announces=announces)


class TLSUnusable(Exception):
    """The certificate or its key cannot be used; the text says why, in one line."""


class Gateway:
    """A gateway in this process: `async with Gateway(settings) as gateway: ...`.

    Args:
        settings: everything it is told.
        presence: makes its presence from its link to Redis; the laboratory passes other policies.
        emit: takes an event for everything that happens; with None, no event is built.
        journal: writes the log lines of every message and user; a gateway process passes a
            cheaper one.
        clock: monotonic seconds.
        time_of_day: Unix seconds; asked about the end of tokens, and nothing else.
        new_id: makes the ids of connections and of this process, never the same twice.
        rng: source of all jitter.
        bind: opens the sockets to listen on; a service manager may have done so before.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        presence: PresenceFactory = _fenced,
        emit: Emit | None = None,
        journal: Journal | None = None,
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
        rng: random.Random | None = None,
        bind: Bind = bind,
    ) -> None:
        rng = rng or random.Random()
        self.settings = settings
        self.counters = Counters()
        several = settings.devices > 1
        self.registry: Registry[Session] = DeviceRegistry() if several else Registry()
        self.boot_id = new_id()
        """Tells this process from another one with the same gateway id."""
        self.port = settings.port
        """Where it listens, once started; the operating system's choice if 0 was asked for. Of
        several ports the first; 0 if there are only unix sockets."""
        self.replaced = asyncio.Event()
        """Set when another process has taken over this gateway's id; its owner must stop it."""
        self._observer = Observer(settings.gateway_id, clock, emit)
        self._journal = journal or LoggingJournal()
        self._clock = clock
        self._started_at = clock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = _expected_url(settings)
        """Where clients of this machine connect; before the start, as far as it is known."""
        self._bind = bind
        self._server: Listeners | None = None
        self._on_notice = False
        self._hurry = asyncio.Event()
        self._stopped: asyncio.Future[None] | None = None
        self._access = self._make_access()
        self._acceptor: ProxyAcceptor | None = None
        self._warnings: list[str] = []
        self._was_ready = False
        self._was_up = False
        self._socket_services: SocketServices | None = None
        self._resync_due: set[int] = set()
        """The buckets of the users whose leases have to be renewed."""
        self._resyncing: asyncio.Task[None] | None = None
        self._features: tuple[Feature, ...] = ()
        address = RedisAddress.parse(settings.redis_url)
        self._primary = primary_of(address, settings.limits, rng)
        self._link = self._make_link(rng)
        self.presence = presence(self._link, settings)
        self._router = self._router_class()(
            self._link,
            settings,
            self.boot_id,
            on_malformed=self._on_malformed,
            on_replaced=self._on_replaced,
            on_state=self._check_ready,
            on_gap=self._on_gap,
            emit=emit,
            rng=rng,
            primary=self._primary,
        )
        self._delivery = (DeviceDelivery if several else Delivery)(
            settings.gateway_id,
            self.registry,
            self.presence,
            self._router,
            self.counters,
            self._journal,
            self._spawn,
            self._observer,
            settings.limits.in_flight,
        )
        # Those that others of them build on come first.
        self._durable = self._make_durable(rng)
        self._rooms = self._make_rooms(settings.rooms, rng) if settings.rooms else None
        self._api = self._make_api() if settings.api is not None else None
        wanted: tuple[Feature | None, ...] = (
            self._make_devices(),
            self._durable,
            self._rooms,
            self._make_watching(rng),
            self._api,
        )
        self._features = tuple(feature for feature in wanted if feature is not None)
        self._session_services = SessionServices(
            settings=settings,
            registry=self.registry,
            presence=self.presence,
            delivery=self._delivery,
            counters=self.counters,
            journal=self._journal,
            observer=self._observer,
            spawn=self._spawn,
            clock=clock,
            time_of_day=time_of_day,
            new_id=new_id,
            rng=rng,
            backlog=Backlog(asyncio.Semaphore(settings.limits.concurrent_registers)),
            features=self._features,
            store=self._durable.store if self._durable else None,
        )
        self._lag = loop_lag()
        self._health = Health(self._session_services, self._lag)
        if settings.auth_secret is not None:
            auth.prepare()

    def _make_devices(self) -> DevicesFeature | None:
        if not isinstance(self._delivery, DeviceDelivery):
            return None
        return DevicesFeature(self._link, self.settings.keyspace, self._delivery.evictions)

    def _make_watching(self, rng: random.Random) -> Watching | None:
        settings = self.settings
        if settings.watch is None:
            return None
        return Watching(settings, self._link, self._router, self._clock, rng, self._rooms)

    def _make_access(self) -> AccessControl:
        return AccessControl(self.settings, self.counters)

    async def _bind_api(self, address: Address) -> BoundAddress:
        return await bind_address(address)

    def _make_link(self, rng: random.Random) -> Link:
        settings = self.settings
        scripts = [script.at(settings.keyspace) for script in (*SCRIPTS, ROUTE, TRIAL)]
        if settings.keyspace.buckets:
            # Imported here: most gateways have one Redis.
            from wsdemo.cluster_router import trials_of
            from wsdemo.redis.cluster_link import ClusterLink

            return ClusterLink(
                settings.redis_url,
                settings.limits,
                self._on_link_state,
                scripts,
                trials=trials_of(settings.keyspace),
                on_trouble=self._on_link_trouble,
                on_shard=self._on_shard,
                rng=rng,
            )
        return RedisLink(
            self._primary or settings.redis_url,
            settings.limits,
            self._on_link_state,
            scripts,
            trial=trial_of(settings.keyspace, *([CHANNEL] if settings.watch is not None else [])),
            on_trouble=self._on_link_trouble,
            rng=rng,
        )

    def _router_class(self) -> type[Router]:
        if not self.settings.keyspace.buckets:
            return Router
        from wsdemo.cluster_router import ClusterRouter

        return ClusterRouter

    def _make_durable(self, rng: random.Random) -> Durable | None:
        settings = self.settings
        if settings.inbox is None:
            return None
        durable = Durable(
            self._link,
            settings,
            settings.inbox,
            self.counters,
            self._observer,
            self._spawn,
            self._clock,
            rng,
        )
        self._router.on_hint = durable.hint
        return durable

    def _make_rooms(self, settings: RoomSettings, rng: random.Random) -> Rooms:
        return Rooms(
            self._link,
            self._router,
            self.settings,
            settings,
            self.counters,
            self.boot_id,
            spawn=self._spawn,
            clock=self._clock,
            rng=rng,
        )

    def _make_api(self) -> ServerApi:
        # Imported here: most gateways have none.
        from wsdemo.gateway.api.actions import Actions
        from wsdemo.gateway.api.listener import ServerApi

        settings = self.settings
        assert settings.api is not None
        actions = Actions(
            self._delivery,
            self._router,
            self._presence_for_api(),
            self.counters,
            settings.user_ids(),
            settings.limits.max_content_bytes,
            conn_id=f"{self.boot_id}-api",
            durable=self._durable,
            rooms=self._rooms,
        )
        return ServerApi(
            settings.api,
            actions,
            clock=self._clock,
            delay_s=settings.limits.auth_delay_s,
            spawn=self._spawn,
            bind=self._bind_api,
        )

    def _presence_for_api(self) -> RedisPresence:
        """Return what reads presence: a policy of the laboratory may only be able to write it."""
        settings = self.settings
        told = (self._link, settings.keyspace, settings.timing)
        if settings.devices > 1:
            return DevicePresence(*told, settings.devices)
        return RedisPresence(*told)

    @property
    def api_url(self) -> str:
        """Where the server API listens, once started; '' when there is none."""
        return self._api.url if self._api is not None else ""

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, subscribe, then listen.

        Raises:
            RedisUnavailable, DuplicateGateway, TLSUnusable, CannotListen: it did not start; nothing
                is left running. A cancellation leaves nothing either.
        """
        tls = _tls(self.settings)
        try:
            if self._primary is not None:
                self._primary.start()
            await self._link.start(self.settings.limits.redis_start_s)
            await self._examine_redis()
            await self._router.start(self._delivery.receive_direct, self._delivery.receive)
            await self._start_features()
            places = await self._listen(tls)
        except BaseException:
            for feature in self._features:
                await feature.stop()
            await self._leave_redis()
            raise
        for loop_of in (self._health.renew, self._health.scan, self._health.keep_alive):
            self._spawn(loop_of())
        self._check_ready()
        if ANY_ORIGIN in self.settings.origins:
            _log.warning(
                "[Gateway] %s lets pages of any origin connect (--origin '*'): any site that a "
                "user visits can speak in the user's name, unless tokens are asked for",
                self.settings.gateway_id,
            )
        if tls is None and not all(place.is_local for place in places):
            _log.warning(
                "[Gateway] %s is reachable from other machines without TLS: anybody on the network "
                "path can read and change messages (see --certfile)",
                self.settings.gateway_id,
            )
        told = ", ".join(place.told(_scheme(self.settings)) for place in places)
        _log.info("[Gateway] %s listens on %s", self.settings.gateway_id, told)

    async def _start_features(self) -> None:
        try:
            for feature in self._features:
                await feature.start()
        except LINK_ERRORS as problem:
            answered = isinstance(problem, CommandError)
            raise RedisUnavailable(str(problem), answered=answered) from None

    async def _listen(self, tls: ssl.SSLContext | None) -> Sequence[BoundAddress]:
        self._socket_services = services = self._make_socket_services(asyncio.get_running_loop())
        # Ports before files, whichever were asked for first: most can connect to the former only.
        bound = sorted(await self._bind(self.settings), key=lambda place: bool(place.path))
        self.port, self.url = bound[0].port, bound[0].url(_scheme(self.settings))
        factory, encryption = self._protocols(services, tls)
        timeout_s = self.settings.limits.handshake_timeout_s
        self._server = await listen(bound, factory, encryption, timeout_s)
        return bound

    async def _examine_redis(self) -> None:
        try:
            told = RedisAddress.parse(self.settings.redis_url).without_effect()
            self._warnings = [*told, *await self._examine()]
        except LINK_ERRORS as problem:
            answered = isinstance(problem, CommandError)
            raise RedisUnavailable(str(problem), answered=answered) from None
        for warning in self._warnings:
            _log.warning("[Gateway] Redis: %s", warning)

    async def _examine(self) -> list[str]:
        stores = self.settings.inbox is not None
        if isinstance(self._link, RedisLink):
            return await examine(self._link, stores=stores)
        from wsdemo.redis.cluster_fitness import examine_cluster
        from wsdemo.redis.cluster_link import ClusterLink

        assert isinstance(self._link, ClusterLink)
        return await examine_cluster(self._link, self.settings.keyspace, stores=stores)

    def _protocols(
        self, services: SocketServices, tls: ssl.SSLContext | None
    ) -> tuple[Callable[[], asyncio.BaseProtocol], ssl.SSLContext | None]:
        """Return what makes the protocol of a new connection, and how a listener encrypts."""
        if self.settings.proxy_protocol:
            # The PROXY header comes before TLS, so TLS begins when the header has been read.
            self._acceptor = self._acceptor or ProxyAcceptor(services, tls, self._spawn)
            return self._acceptor.protocol, None
        return lambda: Socket(services), tls

    def _make_socket_services(self, loop: asyncio.AbstractEventLoop) -> SocketServices:
        limits = self.settings.limits
        return SocketServices(
            loop=loop,
            clock=self._clock,
            limits=limits,
            counters=self.counters,
            flusher=Flusher(loop),
            fast_frames=self.settings.fast_frames,
            access=self._access,
            control_rate=Rate.of(limits.control_frames_per_s, limits.control_burst),
            answer=self._answer,
            welcome=self._welcome,
            sockets={},
            idle=asyncio.Event(),
            subprotocols=frozenset(self.settings.subprotocols),
        )

    def _welcome(self, socket: Socket) -> Session:
        """Make the session of a new connection; during the drain notice it is closed at once."""
        session = Session(socket, self._session_services)
        if self._on_notice:
            session.end(Code.RESTART, self._session_services.retry_after_ms())
        return session

    async def stop(self) -> None:
        """Drain and stop, within `limits.drain_s` and a little. Idempotent; waits for the end.

        First it is not ready: for `limits.drain_notice_s`, users are still served while balancers
        take note, and new clients are told to come back (1012). Then it listens no more, clients
        are told to reconnect elsewhere (1012, with jitter, in batches), their presence is released,
        and the subscription ends last.
        """
        if self._stopped is not None:
            await asyncio.shield(self._stopped)
            return
        self._stopped = asyncio.get_running_loop().create_future()
        try:
            await self._give_notice(self.settings.limits.drain_notice_s)
            await self._stop()
        finally:
            self._stopped.set_result(None)

    def hurry(self) -> bool:
        """Skip the drain notice, or what is left of it; say whether there was one to skip."""
        is_over = self._hurry.is_set() or self._access.draining
        self._hurry.set()
        return not is_over and self.settings.limits.drain_notice_s > 0

    async def _give_notice(self, notice_s: float) -> None:
        if self._server is None or not notice_s or self._hurry.is_set():
            return
        self._on_notice = True
        self._check_ready()
        _log.info(
            "[Gateway] %s drains: not ready any more, users stay for %g s",
            self.settings.gateway_id,
            notice_s,
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), notice_s)

    async def _stop(self) -> None:
        ends_at = self._clock() + self.settings.limits.drain_s
        self._access.draining = True
        self._check_ready()
        self._observer.gateway(Kind.DRAIN)
        if self._server is not None:
            self._server.close()
        if self._acceptor is not None:
            self._acceptor.close()
        await self._say_goodbye(ends_at)
        for feature in self._features:
            await feature.stop()
        await self._finish_tasks(ends_at)
        await self._leave_redis()
        self._observer.gateway(Kind.STOPPED)
        _log.info("[Gateway] %s stopped", self.settings.gateway_id)

    async def _leave_redis(self) -> None:
        await self._router.stop()
        await self._link.stop()
        if self._primary is not None:
            await self._primary.stop()

    async def _say_goodbye(self, ends_at: float) -> None:
        """Close all clients, batch by batch; abort those that do not close in time."""
        if self._socket_services is None:
            return
        sockets, limits = self._socket_services.sockets, self.settings.limits
        sessions = list(self.registry)
        for start in range(0, len(sessions), limits.drain_batch):
            if start:
                left_s = ends_at - self._clock() - limits.close_timeout_s
                await asyncio.sleep(max(0.0, min(DRAIN_STEP_S, left_s)))
            each(
                sessions[start : start + limits.drain_batch],
                lambda session: session.end(Code.RESTART, self._session_services.retry_after_ms()),
            )
        each(
            list(sockets),
            lambda socket: socket.close(Code.RESTART, self._session_services.retry_after_ms()),
        )
        hang_up_at = min(ends_at, self._clock() + limits.close_timeout_s)
        if sockets:
            idle = asyncio.ensure_future(self._socket_services.idle.wait())
            await asyncio.wait([idle], timeout=max(0.0, hang_up_at - self._clock()))
            idle.cancel()
        each(list(sockets), Socket.abort)

    async def _finish_tasks(self, ends_at: float) -> None:
        """Cancel the health loops, and wait for the releases within the time that is left."""
        loops = {task for task in self._tasks if task.get_name().startswith("Health.")}
        for task in loops:
            task.cancel()
        # Aborted sockets report their end in the next turn of the loop, and release then.
        await asyncio.sleep(0)
        others = self._tasks - loops
        if others:
            await asyncio.wait(others, timeout=max(0.5, ends_at - self._clock()))
        await end(*self._tasks)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    # --- state -------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether new users should be sent here."""
        return not self.unready_because()

    def unready_because(self) -> list[str]:
        """Return the reasons why not, in words; empty when ready."""
        reasons = {
            "draining": self._on_notice or self._access.draining,
            "not listening": self._server is None,
            "no connection to Redis": not self._link.open,
            "Redis refuses writes": self._link.open and not self._link.up,
            "subscription is down or deaf": not self._router.ready,
        }
        because = [reason for reason, holds in reasons.items() if holds]
        return [*because, *self._what_redis_says()] if because else []

    def _what_redis_says(self) -> list[str]:
        """Return the reasons that Redis, or the network, gives; each one once."""
        troubles = (self._link.trouble, self._router.trouble)
        said = [f"Redis: {trouble}" for trouble in troubles if trouble is not None]
        return list(dict.fromkeys(said))

    def _shards(self) -> dict[str, Any]:
        """Return which servers of a cluster cannot be heard; nothing when there is one Redis."""
        return {"deafShards": self._router.deaf_shards} if self.settings.keyspace.buckets else {}

    def stats(self) -> dict[str, Any]:
        """Return what `/stats` says. No user ids: it may be read by anybody."""
        self._take_counts()
        return {
            "gatewayId": self.settings.gateway_id,
            "connections": len(self.registry),
            "sockets": len(self._sockets()),
            "ready": self.ready,
            "reasons": self.unready_because(),
            **self._shards(),
            "warnings": self._warnings,
            "uptimeS": round(self._clock() - self._started_at, 3),
            "bootId": self.boot_id,
            "counters": self._counts(),
        }

    def _counts(self) -> dict[str, int]:
        counts = {name: getattr(self.counters, name) for name in Counters.__slots__}
        for feature in self._features:
            for counter in feature.labelled():
                for label_value, count in counter.counts.items():
                    counts[f"{counter.name}_{label_value}"] = count
        return counts

    def metrics(self) -> list[Metric]:
        """Return what `/metrics` says, family by family."""
        return list(self._collector().collect())

    def _collector(self) -> CountersCollector:
        from wsdemo.gateway.prometheus import CountersCollector

        self._take_counts()
        labelled = [counter for feature in self._features for counter in feature.labelled()]
        return CountersCollector(self.counters, self._gauges(), [self._lag], labelled)

    def _take_counts(self) -> None:
        """Take over what others have counted."""
        self.counters.messages_expired = self._link.expired
        self.counters.messages_passed_on = self._router.passed_on
        self.counters.log_lines_dropped = self._journal.dropped

    def _sockets(self) -> dict[Socket, None]:
        return self._socket_services.sockets if self._socket_services is not None else {}

    def _gauges(self) -> dict[str, tuple[str, Callable[[], float]]]:
        gauges = self._own_gauges()
        for feature in self._features:
            gauges.update(feature.gauges())
        return gauges

    def _own_gauges(self) -> dict[str, tuple[str, Callable[[], float]]]:
        return {
            "connections": ("Registered users", lambda: len(self.registry)),
            "sockets": ("Open connections", lambda: len(self._sockets())),
            "outbox_frames": (
                "Frames that wait for clients to read",
                lambda: sum(len(socket.outbox) for socket in self._sockets()),
            ),
            "admission_waiting": (
                "Registers that wait for their turn",
                lambda: self._session_services.backlog.waiting,
            ),
            "releases_owed": (
                "Ended sessions that Redis has not been told of",
                lambda: len(self._session_services.backlog.owed),
            ),
            "repairs": ("Stale entries that are being removed", lambda: self._delivery.repairs),
            "redis_pending": (
                "Commands whose answer from Redis is awaited",
                lambda: self._link.pending,
            ),
            "ready": ("Whether new users should be sent here", lambda: float(self.ready)),
            "uptime_seconds": ("Since start", lambda: self._clock() - self._started_at),
        }

    def _on_link_trouble(self, trouble: Trouble) -> None:
        """Log why Redis cannot be used, and end the subscription at a server that we leave."""
        if self._stopped is not None:
            return
        if self._server is None:
            wait_s = self.settings.limits.redis_start_s
            _log.warning("[Gateway] Redis says %s: waiting for it, %g s at most", trouble, wait_s)
            return
        what = "refuses writes" if self._link.open else "is away"
        _log.warning(
            "[Gateway] Redis %s (%s): sockets stay, new users are told to come back", what, trouble
        )
        if trouble.outcome.cure is Cure.DIAL and trouble.outcome is not Outcome.UNREACHABLE:
            self._router.leave(trouble)
        self._check_ready()

    def _on_link_state(self, up: bool) -> None:
        """Take note that Redis works, or no longer does. It may be called with True twice in a
        row: then Redis has refused writes for a moment, and those can be made up for now.
        """
        was_up, self._was_up = self._was_up, up
        if up != was_up:
            self._observer.gateway(Kind.REDIS_UP if up else Kind.REDIS_DOWN)
        if up and not was_up and self._server is not None and self._stopped is None:
            _log.info("[Gateway] Redis is back, after %.1f s", self._link.away_s)
        if up and (self._session_services.backlog.owed or (len(self.registry) and not was_up)):
            # What Redis knows of our users may be old, or nothing: renew it, at a limited rate.
            self._resync_soon()
        if up:
            self._router.link_is_back()
            for feature in self._features:
                feature.link_is_back()
        self._check_ready()

    def _on_shard(self, address: str, up: bool) -> None:
        """Take note that a server of a cluster works again, or no longer."""
        if up and self._server is not None and self._stopped is None:
            self._resync_soon(self._router.buckets_at(address))
        self._check_ready()

    def _resync_soon(self, buckets: Iterable[int] = (0,)) -> None:
        """Resync now, or again after the one that is under way: never two at a time.

        Args:
            buckets: of which users, in a cluster; without one, all are in bucket 0.
        """
        self._resync_due.update(buckets)
        if self._resyncing is None or self._resyncing.done():
            self._resyncing = self._spawn(self._resync())

    async def _resync(self) -> None:
        while self._resync_due:
            due, self._resync_due = self._resync_due, set()
            await self._health.resync(due)

    def _on_gap(self) -> None:
        for feature in self._features:
            feature.gap()

    def _check_ready(self) -> None:
        self.counters.subscription_gaps = self._router.gaps
        self.counters.probes_lost = self._router.probes_lost
        ready = self._server is not None and self.ready
        if ready != self._was_ready:
            self._was_ready = ready
            self._observer.gateway(Kind.READY if ready else Kind.UNREADY)

    def _on_replaced(self) -> None:
        """Ask the owner to stop; without a drain notice, because two gateways with one id must not
        serve side by side.
        """
        self.replaced.set()
        self.hurry()

    def _on_malformed(self) -> None:
        self.counters.malformed_envelopes += 1
        self._observer.gateway(Kind.MALFORMED)

    # --- tasks -------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task that this gateway owns; it ends before `stop` does."""
        task = asyncio.get_running_loop().create_task(work, name=getattr(work, "__qualname__", "?"))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def note_unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Count and log an error that no code has caught. This is the exception handler of an
        event loop that belongs to this gateway.
        """
        self.counters.unhandled_errors += 1
        loop.default_exception_handler(context)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            task.get_loop().call_exception_handler(
                {"message": f"{task.get_name()} failed", "exception": problem, "task": task}
            )

    # --- plain HTTP --------------------------------------------------------------------------

    def _answer(self, request: Request, path: str, socket: Socket) -> Answer | None:
        if path == "/ws":
            return self._refusal(request, socket)
        pages: dict[str, Callable[[], Answer]] = {
            "/health": self._page_health,
            "/ready": self._page_ready,
            "/stats": self._page_stats,
            "/metrics": self._page_metrics,
        }
        page = pages.get(path)
        if page is None:
            return Answer(404, "Not found.\n", {})
        if request.method not in {"GET", "HEAD"}:
            return Answer(405, "Method not allowed.\n", {"Allow": "GET, HEAD"})
        return page()

    def _refusal(self, request: Request, socket: Socket) -> Answer | None:
        socket.recognise(",".join(request.headers.get_all(self._access.forwarded_header)))
        refusal = self._access.refusal(socket.slot, len(self._sockets()))
        if refusal is not None and not self._access.draining:
            self.counters.connections_refused += 1
        return refusal

    def _page_health(self) -> Answer:
        return Answer(200, "OK", {})  # Exactly the demo's answer; /ready says more.

    def _page_ready(self) -> Answer:
        reasons = self.unready_because()
        body = {
            "ready": not reasons,
            "reasons": reasons,
            "gatewayId": self.settings.gateway_id,
            **self._shards(),
        }
        return Answer(503 if reasons else 200, json.dumps(body) + "\n", JSON_TYPE)

    def _page_stats(self) -> Answer:
        return Answer(200, json.dumps(self.stats()) + "\n", JSON_TYPE)

    def _page_metrics(self) -> Answer:
        from wsdemo.gateway.prometheus import CONTENT_TYPE

        return Answer(200, self._collector().page(), {"Content-Type": CONTENT_TYPE})


def _scheme(settings: GatewaySettings) -> str:
    return "wss" if settings.certfile else "ws"


def _expected_url(settings: GatewaySettings) -> str:
    where, scheme = settings.addresses[0], _scheme(settings)
    if where.path:
        return f"{scheme}+{where}:/ws"
    told = Address("localhost", where.port) if is_everywhere(where.host) else where
    return f"{scheme}://{told}/ws"


def _tls(settings: GatewaySettings) -> ssl.SSLContext | None:
    """Return how to encrypt; None when no certificate is given."""
    if not settings.certfile:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certfile, settings.keyfile or None, _no_passphrase)
    except (OSError, ValueError) as problem:  # An SSLError is an OSError.
        raise TLSUnusable(f"{settings.certfile}: {problem}") from None
    return context


def _no_passphrase() -> str:
    """Refuse a key with a passphrase: a prompt would wait for ever where there is no terminal."""
    raise ValueError("the key has a passphrase; only a key without one can be used")
