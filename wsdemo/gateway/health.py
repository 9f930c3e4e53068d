"""Who has gone silent, and whose lease is due?

Each question has a pure answer (`stale`, `due`, `quiet`: sessions and a time in, sessions out)
and a loop that acts on it. Leases are renewed on evidence of life only: whoever is in Redis has
been heard of within the TTL. A gateway that finds that its own loop stood still blames itself
first, and nobody is dropped for a silence in which it was not listening.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeVar

from wsdemo.events import Event, Kind
from wsdemo.gateway.session import Desk, Session, State, next_refresh_s, release
from wsdemo.presence import Refresh, Renewal
from wsdemo.protocol import Code
from wsdemo.redis.connection import CommandError
from wsdemo.redis.link import may_work_later

_log = logging.getLogger("wsdemo.gateway")

RESYNC_STEP_S: Final = 0.05
"""How finely a resync is spread over time."""


class Alive(Protocol):
    """What the decisions look at. Times in seconds on one clock."""

    @property
    def last_life(self) -> float: ...


class Leased(Alive, Protocol):
    @property
    def last_refresh(self) -> float: ...
    @property
    def refresh_after(self) -> float: ...


class Wire(Protocol):
    @property
    def last_read(self) -> float: ...
    @property
    def pinged_at(self) -> float: ...


class Wired(Protocol):
    @property
    def socket(self) -> Wire: ...


A = TypeVar("A", bound=Alive)
L = TypeVar("L", bound=Leased)
W = TypeVar("W", bound=Wired)


def stale(sessions: Iterable[A], now: float, after_s: float) -> list[A]:
    """Return the sessions of which nothing was heard for longer than `after_s`."""
    return [session for session in sessions if now - session.last_life > after_s]


def due(sessions: Iterable[L], now: float) -> list[L]:
    """Return the sessions that showed life since their lease was renewed, if not just now."""
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
        wire = session.socket
        if wire.pinged_at:
            if now - wire.pinged_at > timeout_s:
                to_drop.append(session)
        elif now - wire.last_read > interval_s:
            to_ping.append(session)
    return to_ping, to_drop


class Health:
    """The loops of one gateway that watch over its sessions."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._timing = desk.settings.timing
        self._grace_until = 0.0

    # --- leases ------------------------------------------------------------------------------

    async def renew(self) -> None:
        """Each tick, renew the leases that are due, in one batch. Runs until cancelled."""
        tick_s = self._timing.tick_s
        while True:
            pause_s = tick_s * random.uniform(0.9, 1.1)
            before = self._desk.clock()
            await asyncio.sleep(pause_s)
            self._notice_stall(self._desk.clock() - before - pause_s)
            sessions = due(self._desk.registry.sessions(), self._desk.clock())
            if self._desk.settings.auth_secret is not None:
                self._end_expired()
                sessions = [s for s in sessions if s.state is State.REGISTERED]
            if sessions:
                await self._refresh(sessions)

    def _end_expired(self) -> None:
        """Tell those whose token has ended, also if they have been silent since."""
        now = self._desk.time_of_day()
        for session in self._desk.registry:
            if session.expires_at <= now:
                self._desk.counters.tokens_expired += 1
                session.end(Code.AUTH)

    async def resync(self) -> None:
        """Renew every lease, paced, and release what is owed: Redis is back, or this gateway."""
        sessions = list(self._desk.registry)
        step = max(1, round(self._desk.settings.limits.resync_per_s * RESYNC_STEP_S))
        for start in range(0, len(sessions), step):
            if start:
                await asyncio.sleep(RESYNC_STEP_S)
            batch = [s for s in sessions[start : start + step] if s.state is State.REGISTERED]
            await self._refresh(batch)
        await self._release_owed(step)

    async def _release_owed(self, step: int) -> None:
        """End in Redis what has ended here while it was away. What fails again is owed again."""
        desk = self._desk
        owed = list(desk.owed.values())
        desk.owed.clear()
        for start in range(0, len(owed), step):
            if start:
                await asyncio.sleep(RESYNC_STEP_S)
            await asyncio.gather(*(release(desk, claim) for claim in owed[start : start + step]))

    async def _refresh(self, sessions: Sequence[Session]) -> None:
        desk, now = self._desk, self._desk.clock()
        ttl_s = self._timing.presence_ttl_s
        lives = [session.last_life for session in sessions]
        renewals = []
        for session in sessions:
            assert session.claim is not None
            # The lease counts from the sign of life, not from the moment it is written.
            left_s = ttl_s - (now - session.last_life)
            renewals.append(Renewal(session.claim, max(1, round(1000 * left_s))))
        results = await desk.presence.refresh(renewals)
        for session, life, renewal, result in zip(sessions, lives, renewals, results, strict=True):
            # The session may have ended, or registered again, while Redis was asked.
            if session.state is State.REGISTERED and session.claim is renewal.claim:
                self._refreshed(session, life, result)

    def _refreshed(self, session: Session, life: float, result: Refresh | Exception) -> None:
        counters = self._desk.counters
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
            heartbeat_s = self._timing.heartbeat_s
            session.refresh_after = self._desk.clock() + next_refresh_s(heartbeat_s)
        if self._desk.emit is not None:
            self._emit(session, result)

    def _not_refreshed(self, session: Session, problem: Exception) -> None:
        """Try again at the next tick; while Redis is away, or refuses everybody, sockets stay.

        But when Redis works and keeps refusing this one user for a whole TTL, then the user is
        not present any more, and is told.
        """
        lost_s = self._desk.clock() - session.last_refresh
        if not isinstance(problem, CommandError):
            return
        if may_work_later(problem):
            # Redis refuses everybody. When it no longer does, there is a resync.
            pause_s = next_refresh_s(self._timing.heartbeat_s)
            session.refresh_after = self._desk.clock() + pause_s
        elif lost_s > self._timing.presence_ttl_s:
            _log.warning("[Health] %s could not be refreshed: %s", session.user, problem)
            session.end(Code.PRESENCE_LOST)

    def _emit(self, session: Session, result: Refresh) -> None:
        emit, claim = self._desk.emit, session.claim
        assert emit is not None and claim is not None
        kept = result in (Refresh.OK, Refresh.RECLAIMED)
        emit(
            Event(
                Kind.PRESENCE_REFRESH if kept else Kind.PRESENCE_REJECT,
                self._desk.clock(),
                claim.gateway_id,
                user=claim.user,
                gateway=claim.gateway_id,
                conn_id=claim.conn_id,
                ok=kept,
                reason=result.value,
                token=claim.token,
            )
        )

    # --- silence -----------------------------------------------------------------------------

    async def scan(self) -> None:
        """Each health check, drop the sessions past their idle timeout. Runs until cancelled."""
        desk = self._desk
        while True:
            await asyncio.sleep(self._timing.health_check_s)
            await asyncio.sleep(max(0.0, self._grace_until - desk.clock()))
            silent = stale(desk.registry.sessions(), desk.clock(), self._timing.idle_timeout_s)
            if desk.emit is not None:
                gateway_id = desk.settings.gateway_id
                desk.emit(Event(Kind.SCAN, desk.clock(), gateway_id, gateway=gateway_id))
            for session in silent:
                self._drop(session)

    async def keep_alive(self) -> None:
        """Ping silent sockets, drop those that stay silent. Runs until cancelled."""
        timing = self._timing
        step_s = min(timing.ws_ping_interval_s, timing.ws_ping_timeout_s) / 10
        while True:
            await asyncio.sleep(step_s)
            now = self._desk.clock()
            if now < self._grace_until:
                continue
            to_ping, to_drop = quiet(
                self._desk.registry.sessions(),
                now,
                timing.ws_ping_interval_s,
                timing.ws_ping_timeout_s,
            )
            for session in to_ping:
                session.socket.ping(now)
            for session in to_drop:
                self._drop(session)

    def _drop(self, session: Session) -> None:
        desk = self._desk
        desk.counters.heartbeat_timeouts += 1
        if desk.emit is not None:
            gateway_id = desk.settings.gateway_id
            desk.emit(
                Event(
                    Kind.CLEANUP,
                    desk.clock(),
                    gateway_id,
                    user=session.user,
                    gateway=gateway_id,
                    conn_id=session.conn_id,
                    reason="heartbeat timeout",
                )
            )
        _log.info("[Health] %s has gone silent (%s)", session.user, session.conn_id)
        session.end(Code.HEARTBEAT_TIMEOUT)

    # --- ourselves ---------------------------------------------------------------------------

    def _notice_stall(self, late_s: float) -> None:
        """The loop stood still. What clients said meanwhile is still to be read, so nobody is
        called silent for a while; and after a sleep as long as half a lease, others may have
        taken over our users: ask before serving on.
        """
        desk, timing = self._desk, self._timing
        desk.loop_lag.observe(max(0.0, late_s))
        if late_s < timing.ws_ping_timeout_s / 4:
            return
        desk.counters.stalls += 1
        now = desk.clock()
        self._grace_until = now + timing.ws_ping_timeout_s
        for session in desk.registry.sessions():
            session.socket.pinged_at = 0.0
        if desk.emit is not None:
            gateway_id = desk.settings.gateway_id
            desk.emit(Event(Kind.STALL, now, gateway_id, gateway=gateway_id, t_start=now - late_s))
        _log.warning("[Health] this gateway stood still for %.1f s", late_s)
        if late_s > timing.presence_ttl_s / 2:
            desk.spawn(self.resync())
