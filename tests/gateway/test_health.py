"""Are leases renewed for signs of life, and is a silence of our own no reason to drop anybody?"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.gateway.cluster import Raw, frame, gateway
from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.presence import RedisPresence, Refresh, Renewal
from wsdemo.redis.connection import CommandError
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Timing

pytestmark = pytest.mark.both_loops

PING = frame(b'{"type":"ping"}')
PONG = {"type": "pong"}


@pytest.fixture
async def running(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    """A heartbeat a second, a TTL of three."""
    async with gateway(shared_server, keyspace, timing=Timing().scaled(30)) as running:
        yield running


async def test_a_sign_of_life_while_a_lease_is_renewed_renews_it_again(
    running: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer covers what was known when it was asked for, and nothing later."""
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


@pytest.mark.parametrize("tick_s", [0.01, 0.3], ids=["renew first", "keep alive first"])
async def test_a_ping_from_before_a_stall_is_sent_again_before_anybody_is_dropped(
    shared_server: BundledServer, keyspace: Keyspace, tick_s: float
) -> None:
    """The loop is blocked for longer than its patience with a pong; whichever loop of health comes
    first afterwards, who has not answered yet is asked once more.
    """
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


async def test_who_speaks_soon_after_a_stall_was_not_silent(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """The loop is blocked for longer than its idle timeout, and looks for the silent at once."""
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


@pytest.mark.parametrize("share_of_ttl", [0.4, 0.7])
async def test_after_a_stall_of_half_a_ttl_presence_is_asked_at_once(
    shared_server: BundledServer, keyspace: Keyspace, share_of_ttl: float
) -> None:
    """Another gateway may have taken over; nobody has to say anything first. A shorter stall is
    noticed, and asks nothing.
    """
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


async def test_a_single_refusal_of_a_renewal_ends_no_session(
    running: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, and nobody has noticed."""
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


async def test_who_is_refused_for_a_whole_ttl_is_told_so(
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
