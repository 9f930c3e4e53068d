"""Leases and heartbeats: does each frame renew a lease, and does a stall of the gateway drop no
client?
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.gateway.cluster import Raw, frame, gateway
from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.presence import RedisPresence, Refresh, Renewal
from wsdemo.redis.connection import CommandError
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Timing

pytestmark = [pytest.mark.xdist_group("clock"), pytest.mark.both_loops]

PING = frame(b'{"type":"ping"}')
PONG = {"type": "pong"}


@pytest.fixture
async def running(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    """A heartbeat a second, a TTL of three."""
    async with gateway(shared_server, keyspace, timing=Timing().scaled(30)) as running:
        yield running


async def test_a_frame_during_a_renewal_causes_another_renewal(
    running: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply covers what was known when the command was sent, and nothing later."""
    asked, answer = asyncio.Event(), asyncio.Event()
    honest = RedisPresence.refresh

    async def slow(
        self: RedisPresence, renewals: Sequence[Renewal]
    ) -> Sequence[Refresh | Exception]:
        results = await honest(self, renewals)
        asked.set()
        await answer.wait()
        return results

    monkeypatch.setattr(RedisPresence, "refresh", slow)
    async with await Raw.register(running, "alice") as alice:
        alice.writer.write(PING)
        assert await alice.answer() == PONG
        await asyncio.wait_for(asked.wait(), 10)
        alice.writer.write(PING)
        assert await alice.answer() == PONG
        session = running.registry.by_user("alice")
        assert session is not None
        life = session.last_life
        answer.set()
        await until("her lease is renewed", lambda: running.counters.refreshes_ok == 1)
        assert session.last_refresh < life
        await until("and once more", lambda: running.counters.refreshes_ok == 2)
        assert session.last_refresh == session.last_life == life
        assert running.counters.refreshes_reclaimed == 0


@pytest.mark.slow
@pytest.mark.parametrize("tick_s", [0.01, 0.3], ids=["renew first", "keep alive first"])
async def test_a_ping_from_before_a_stall_is_sent_again_before_a_client_is_dropped(
    shared_server: BundledServer, keyspace: Keyspace, tick_s: float
) -> None:
    """The event loop is blocked for longer than the pong timeout. Whichever health loop runs
    first afterwards, a client that has not answered is pinged once more."""
    timing = dataclasses.replace(Timing().scaled(50), tick_s=tick_s)
    async with (
        gateway(shared_server, keyspace, timing=timing) as running,
        await Raw.register(running, "alice") as alice,
    ):
        assert await alice.hear() == (9, b"")
        session = running.registry.by_user("alice")
        assert session is not None and session.socket.pinged_at
        session.last_life = running._clock()
        time.sleep(2.5 * timing.ws_ping_timeout_s)
        await until("it was noticed", lambda: running.counters.stalls)
        assert running.counters.stalls == 1, "one stall, whoever of us has seen it"
        assert await alice.hear() == (9, b""), "and no goodbye"
        alice.writer.write(PING)
        assert await alice.answer() == PONG
        assert running.counters.heartbeat_timeouts == 0
        assert running.registry.by_user("alice") is session


@pytest.mark.slow
async def test_a_client_that_sends_soon_after_a_stall_is_not_dropped(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """The event loop is blocked for longer than its idle timeout, and checks for silent clients
    at once."""
    timing = dataclasses.replace(Timing().scaled(50), tick_s=0.3)
    async with (
        gateway(shared_server, keyspace, timing=timing) as running,
        await Raw.register(running, "alice") as alice,
    ):
        session = running.registry.by_user("alice")
        assert session is not None
        # Its timer is one of the first that are due when the loop goes on.
        running._spawn(running._health.scan())
        await asyncio.sleep(0)
        time.sleep(1.5 * timing.idle_timeout_s)
        goes_on_at = running._clock()
        await until("it was noticed", lambda: running.counters.stalls)
        soon = goes_on_at + timing.ws_ping_timeout_s / 4
        await until("all loops have had a turn", lambda: running._clock() > soon)
        alice.writer.write(PING)
        assert await alice.answer() == PONG
        later = goes_on_at + 2 * timing.ws_ping_timeout_s
        await until("the grace is over", lambda: running._clock() > later)
        assert running.counters.heartbeat_timeouts == 0
        assert running.registry.by_user("alice") is session


@pytest.mark.slow
@pytest.mark.parametrize("share_of_ttl", [0.4, 0.7])
async def test_after_a_stall_of_half_a_ttl_all_leases_are_refreshed_at_once(
    shared_server: BundledServer, keyspace: Keyspace, share_of_ttl: float
) -> None:
    """Another gateway may have taken over the users. A shorter stall is noticed, and refreshes
    nothing."""
    timing = Timing().scaled(50)
    async with (
        gateway(shared_server, keyspace, timing=timing) as running,
        await Raw.register(running, "alice"),
    ):
        await asyncio.sleep(0)
        time.sleep(share_of_ttl * timing.presence_ttl_s)
        await until("it is noticed", lambda: running.counters.stalls == 1)
        if share_of_ttl > 0.5:
            await until("presence was asked", lambda: running.counters.refreshes_ok == 1)
        else:
            names = [task.get_name() for task in running._tasks]
            assert "Health.resync" not in names
            assert running.counters.refreshes_ok == 0


class Refusing:
    """Makes Redis refuse renewals: for its own state (out of memory), or for that of the entry."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, words: str = "OOM not allowed") -> None:
        self.left = 0
        honest = RedisPresence.refresh

        async def refresh(
            presence: RedisPresence, renewals: Sequence[Renewal]
        ) -> Sequence[Refresh | Exception]:
            if not self.left:
                return await honest(presence, renewals)
            self.left -= 1
            return [CommandError(words) for _ in renewals]

        monkeypatch.setattr(RedisPresence, "refresh", refresh)


async def test_a_single_refused_renewal_ends_no_session(
    running: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, and the client notices nothing."""
    redis = Refusing(monkeypatch)
    redis.left = 1
    async with await Raw.register(running, "alice") as alice:
        counters = running.counters

        async def renewed() -> bool:
            alice.writer.write(PING)
            assert await alice.answer() == PONG
            return bool(counters.refreshes_ok)

        await until("her lease is renewed", renewed)
        assert (counters.refreshes_failed, redis.left) == (1, 0)


@pytest.mark.slow
async def test_a_client_whose_renewals_are_refused_for_a_ttl_is_closed_with_4012(
    shared_server: BundledServer, keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4012, and not before: until then the entry may still be there."""
    redis = Refusing(monkeypatch, "WRONGTYPE Operation against a key of another kind")
    redis.left = 10**9
    timing = Timing().scaled(100)
    async with (
        gateway(shared_server, keyspace, timing=timing) as running,
        await Raw.register(running, "alice") as alice,
    ):
        session = running.registry.by_user("alice")
        assert session is not None
        registered_at = session.last_refresh

        def over() -> bool:
            alice.writer.write(PING)
            return running.registry.by_user("alice") is None

        await until("she is told", over)
        assert running._clock() - registered_at > timing.presence_ttl_s
        assert await alice.closed() == 4012


async def test_a_lease_counts_from_the_last_frame_of_the_client(
    running: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """A client that was silent for two seconds gets a lease that is two seconds shorter."""
    async with await Raw.register(running, "alice"):
        session = running.registry.by_user("alice")
        assert session is not None
        session.last_life = running._clock() - 2.0
        await running._health._refresh([session])
        left_ms = await redis_db.pttl(keyspace.presence("alice"))
        whole_ms = running.settings.timing.presence_ttl_ms
        assert 0 < left_ms <= whole_ms - 2_000, (left_ms, whole_ms)


async def test_a_session_that_is_closed_in_redis_is_closed_with_4010(
    running: Gateway,
) -> None:
    """4010: there is no other session that took its place."""
    async with await Raw.register(running, "alice") as alice:
        session = running.registry.by_user("alice")
        assert session is not None and session.claim is not None
        await running.presence.release(session.claim)
        await running._health._refresh([session])
        assert await alice.closed() == 4010
        assert running.counters.refreshes_closed == 1


async def test_a_reply_for_a_session_that_has_ended_is_ignored(
    running: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session has been released by then, so Redis says that it is closed. This is expected."""
    asked, answer = asyncio.Event(), asyncio.Event()
    honest = RedisPresence.refresh

    async def slow(
        self: RedisPresence, renewals: Sequence[Renewal]
    ) -> Sequence[Refresh | Exception]:
        asked.set()
        await answer.wait()
        return await honest(self, renewals)

    async with await Raw.register(running, "alice") as alice:
        session = running.registry.by_user("alice")
        assert session is not None
        monkeypatch.setattr(RedisPresence, "refresh", slow)
        round_of = asyncio.create_task(running._health._refresh([session]))
        await asked.wait()
        await alice.leave()
        await until("her entry is released", lambda: running.counters.releases_removed == 1)
        answer.set()
        await round_of
        assert running.counters.refreshes_closed == 0


async def test_a_resync_skips_users_who_have_left(
    shared_server: BundledServer, keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes time for many users, and some of them leave meanwhile."""
    asked: list[str] = []
    held = asyncio.Event()
    honest = RedisPresence.refresh

    async def slow(
        self: RedisPresence, renewals: Sequence[Renewal]
    ) -> Sequence[Refresh | Exception]:
        asked.extend(renewal.claim.user for renewal in renewals)
        await held.wait()
        return await honest(self, renewals)

    async with (
        gateway(shared_server, keyspace, resync_per_s=1.0) as running,
        await Raw.register(running, "alice"),
        await Raw.register(running, "bob") as bob,
    ):
        monkeypatch.setattr(RedisPresence, "refresh", slow)
        resync = asyncio.create_task(running._health.resync())
        await until("the first of them is asked for", lambda: asked == ["alice"])
        await bob.leave()
        await until("he is gone", lambda: running.counters.releases_removed == 1)
        held.set()
        await resync
        assert asked == ["alice"]


async def test_resyncs_run_one_at_a_time_and_none_is_lost(
    running: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Redis comes back again during a resync, another resync follows."""
    rounds = under_way = most = 0
    held = asyncio.Event()

    async def slow(
        self: RedisPresence, renewals: Sequence[Renewal]
    ) -> Sequence[Refresh | Exception]:
        nonlocal rounds, under_way, most
        rounds, under_way = rounds + 1, under_way + 1
        most = max(most, under_way)
        await held.wait()
        under_way -= 1
        return [Refresh.OK for _ in renewals]

    async with await Raw.register(running, "alice"):
        monkeypatch.setattr(RedisPresence, "refresh", slow)
        running._resync_soon()
        await until("it has begun", lambda: rounds == 1)
        running._resync_soon()
        running._resync_soon()
        await asyncio.sleep(0)
        assert running._resyncing is not None
        held.set()
        await running._resyncing
        assert (rounds, most) == (2, 1)
