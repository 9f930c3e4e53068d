"""Leases and heartbeats: which sessions are silent, and whose lease has to be renewed?

Each question has a pure answer (`stale`, `due`, `quiet`: sessions and a time in, sessions out)
and a loop that acts on it. A lease is renewed only after a sign of life: every user in Redis has
sent something within the TTL. When the gateway's own event loop stood still, no client is dropped
for that time. Any of the loops may be the first to run again, so each one checks how late it is.

An error in one round of a loop is reported and does not end the loop: without the loop, all users
would be forgotten one TTL later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final, Protocol, TypeVar

from wsdemo.events import Kind
from wsdemo.gateway.counters import Histogram
from wsdemo.gateway.registry import each
from wsdemo.gateway.session import Session, SessionServices, SessionState, release
from wsdemo.presence import Refresh, Renewal
from wsdemo.protocol import Code
from wsdemo.redis.connection import CommandError
from wsdemo.redis.link import LINK_ERRORS, may_work_later

_log = logging.getLogger("wsdemo.gateway")

RESYNC_STEP_S: Final = 0.05
"""How finely a resync is spread over time."""


class Alive(Protocol):
    """What the decisions need of a session. Times in seconds on one clock."""

    @property
    def last_life(self) -> float: ...


class Leased(Alive, Protocol):
    @property
    def last_refresh(self) -> float: ...
    @property
    def refresh_after(self) -> float: ...


class PingTimes(Protocol):
    @property
    def last_read(self) -> float: ...
    @property
    def pinged_at(self) -> float: ...


class HasSocket(Protocol):
    @property
    def socket(self) -> PingTimes: ...


A = TypeVar("A", bound=Alive)
L = TypeVar("L", bound=Leased)
W = TypeVar("W", bound=HasSocket)


def stale(sessions: Iterable[A], now: float, after_s: float) -> list[A]:
    """Return the sessions that have been silent for longer than `after_s`."""
    return [session for session in sessions if now - session.last_life > after_s]


def due(sessions: Iterable[L], now: float) -> list[L]:
    """Return the sessions with a sign of life since the last renewal, if that may be renewed."""
    return [
        session
        for session in sessions
        if session.last_life > session.last_refresh and now >= session.refresh_after
    ]


def quiet(
    sessions: Iterable[W], now: float, interval_s: float, timeout_s: float
) -> tuple[list[W], list[W]]:
    """Return the sessions to ping, silent for an interval, and those whose ping timed out."""
    to_ping, to_drop = [], []
    for session in sessions:
        socket = session.socket
        if socket.pinged_at:
            if now - socket.pinged_at > timeout_s:
                to_drop.append(session)
        elif now - socket.last_read > interval_s:
            to_ping.append(session)
    return to_ping, to_drop


class Health:
    """The loops of one gateway that check its sessions."""

    def __init__(self, services: SessionServices, loop_lag: Histogram) -> None:
        self._services = services
        self._loop_lag = loop_lag
        self._timing = services.settings.timing
        self._grace_until = 0.0
        self._stalled_until = 0.0

    async def _repeat(
        self, pause_s: Callable[[], float], work: Callable[[], Awaitable[None]]
    ) -> None:
        """Pause and work in turn, until cancelled."""
        while True:
            await self._sleep(pause_s())
            try:
                await work()
            except Exception as problem:
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a health loop failed, and goes on", "exception": problem}
                )

    async def _sleep(self, pause_s: float) -> None:
        """Sleep, and check whether that took longer than it should."""
        before = self._services.clock()
        await asyncio.sleep(pause_s)
        self._notice_stall(self._services.clock() - before - pause_s)

    # --- leases ------------------------------------------------------------------------------

    async def renew(self) -> None:
        """Each tick, renew the leases that are due, in one batch. Runs until cancelled."""
        tick_s = self._timing.tick_s
        await self._repeat(lambda: tick_s * self._services.rng.uniform(0.9, 1.1), self._renew_due)

    async def _renew_due(self) -> None:
        sessions = due(self._services.registry.sessions(), self._services.clock())
        if self._services.settings.auth_secret is not None:
            self._end_expired()
            sessions = [s for s in sessions if s.state is SessionState.REGISTERED]
        if sessions:
            await self._refresh(sessions)

    def _end_expired(self) -> None:
        """End the sessions whose token has expired, also those that are silent."""
        now = self._services.time_of_day()
        expired = [session for session in self._services.registry if session.expires_at <= now]
        self._services.counters.tokens_expired += len(expired)
        each(expired, lambda session: session.end(Code.AUTH))

    async def resync(self, buckets: Collection[int] | None = None) -> None:
        """Renew every lease, at a limited rate, and make up for missed releases. For when Redis
        is back, or this gateway is.

        Args:
            buckets: whose leases, in a cluster; None: those of all.
        """
        sessions = list(self._services.registry)
        keyspace = self._services.settings.keyspace
        if keyspace.buckets and buckets is not None:
            # All gateways want to do so at this moment, at one server.
            await asyncio.sleep(self._services.rng.uniform(0, self._timing.heartbeat_s / 3))
            sessions = [s for s in sessions if keyspace.bucket(s.user) in buckets]
        step = max(1, round(self._services.settings.limits.resync_per_s * RESYNC_STEP_S))
        for start in range(0, len(sessions), step):
            if start:
                await asyncio.sleep(RESYNC_STEP_S)
            batch = [
                s for s in sessions[start : start + step] if s.state is SessionState.REGISTERED
            ]
            await self._refresh(batch)
        await self._release_owed(step)

    async def _release_owed(self, step: int) -> None:
        """Release in Redis the sessions that ended here while it was away. A release that fails
        again is kept again.
        """
        services = self._services
        owed = list(services.backlog.owed.values())
        services.backlog.owed.clear()
        for start in range(0, len(owed), step):
            if start:
                await asyncio.sleep(RESYNC_STEP_S)
            await asyncio.wait(
                [services.spawn(release(services, claim)) for claim in owed[start : start + step]]
            )

    async def _refresh(self, sessions: Sequence[Session]) -> None:
        services, now = self._services, self._services.clock()
        ttl_s = self._timing.presence_ttl_s
        lives = [session.last_life for session in sessions]
        renewals = []
        for session in sessions:
            assert session.claim is not None
            # The lease begins at the sign of life, not when it is written.
            left_s = ttl_s - (now - session.last_life)
            renewals.append(Renewal(session.claim, max(1, round(1000 * left_s))))
        for feature in services.features:
            feature.refreshing(sessions)
        results = await services.presence.refresh(renewals)
        answers = zip(lives, renewals, results, strict=True)
        answer_of = dict(zip(sessions, answers, strict=True))
        each(sessions, lambda session: self._refreshed(session, *answer_of[session]))

    def _refreshed(
        self, session: Session, life: float, renewal: Renewal, result: Refresh | Exception
    ) -> None:
        if session.state is not SessionState.REGISTERED or session.claim is not renewal.claim:
            return  # It has ended, or registered again, before the answer came.
        counters = self._services.counters
        if isinstance(result, Exception):
            counters.refreshes_failed += 1
            self._not_refreshed(session, result)
            return
        match result:
            case Refresh.OK:
                counters.refreshes_ok += 1
            case Refresh.RECLAIMED:
                counters.refreshes_reclaimed += 1
            case Refresh.SUPERSEDED:
                counters.refreshes_superseded += 1
                session.end(Code.REPLACED)
            case Refresh.CLOSED:
                counters.refreshes_closed += 1
                session.end(Code.STALE)
        if result in (Refresh.OK, Refresh.RECLAIMED):
            session.last_refresh = life
            session.refresh_after = self._services.clock() + self._services.next_refresh_s()
            for feature in self._services.features:
                feature.refreshed(session)
        self._services.observer.refreshed(renewal.claim, result)

    def _not_refreshed(self, session: Session, problem: Exception) -> None:
        """Try again at the next tick. Sockets stay while Redis is away, or refuses all writes.

        But when Redis works and refuses this one user for a whole TTL, the lease has ended, and
        so does the session.
        """
        if not isinstance(problem, LINK_ERRORS):
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a lease could not be renewed", "exception": problem}
            )
        lost_s = self._services.clock() - session.last_refresh
        if not isinstance(problem, CommandError):
            return
        if may_work_later(problem):
            # Redis refuses everybody. When it no longer does, there is a resync.
            session.refresh_after = self._services.clock() + self._services.next_refresh_s()
        elif lost_s > self._timing.presence_ttl_s:
            _log.warning("[Health] %s could not be refreshed: %s", session.user, problem)
            session.end(Code.PRESENCE_LOST)

    # --- silence -----------------------------------------------------------------------------

    async def scan(self) -> None:
        """Each health check, drop the sessions past their idle timeout. Runs until cancelled."""
        await self._repeat(lambda: self._timing.health_check_s, self._drop_stale)

    async def _drop_stale(self) -> None:
        services = self._services
        while services.clock() < self._grace_until:
            await self._sleep(self._grace_until - services.clock())
        silent = stale(services.registry.sessions(), services.clock(), self._timing.idle_timeout_s)
        services.observer.gateway(Kind.SCAN)
        each(silent, self._drop)

    async def keep_alive(self) -> None:
        """Ping silent sockets, drop those that stay silent. Runs until cancelled."""
        step_s = min(self._timing.ws_ping_interval_s, self._timing.ws_ping_timeout_s) / 10
        await self._repeat(lambda: step_s, self._ping_or_drop)

    async def _ping_or_drop(self) -> None:
        now, timing = self._services.clock(), self._timing
        if now < self._grace_until:
            return
        to_ping, to_drop = quiet(
            self._services.registry.sessions(),
            now,
            timing.ws_ping_interval_s,
            timing.ws_ping_timeout_s,
        )
        each(to_ping, lambda session: session.socket.ping(now))
        each(to_drop, self._drop)

    def _drop(self, session: Session) -> None:
        services = self._services
        services.counters.heartbeat_timeouts += 1
        services.observer.heartbeat_timeout(session.user, session.conn_id)
        _log.info("[Health] %s has gone silent (%s)", session.user, session.conn_id)
        session.end(Code.HEARTBEAT_TIMEOUT)

    # --- stalls of our own event loop --------------------------------------------------------

    def _notice_stall(self, late_s: float) -> None:
        """Check whether the event loop stood still. What clients sent meanwhile is not read yet,
        so no client counts as silent for a while. After a stall of half a lease, other gateways
        may have taken over our users: renew all leases, which tells.
        """
        services, timing = self._services, self._timing
        self._loop_lag.observe(max(0.0, late_s))
        if late_s < timing.ws_ping_timeout_s / 4:
            return
        now = services.clock()
        if now - late_s < self._stalled_until:
            return  # Another loop ran first and has handled this stall.
        services.counters.stalls += 1
        self._stalled_until = now
        self._grace_until = now + timing.ws_ping_timeout_s
        for session in services.registry.sessions():
            session.socket.pinged_at = 0.0
        services.observer.stall(began_at=now - late_s)
        _log.warning("[Health] this gateway stood still for %.1f s", late_s)
        if late_s > timing.presence_ttl_s / 2:
            services.spawn(self.resync())
