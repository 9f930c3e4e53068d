"""Do the four scripts keep their promises, on a real server?

Named after the promises P1 to P8. What holds in any order, late and twice, is `test_machine.py`,
and the model checker's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from wsdemo.presence import Claim, RedisPresence, Refresh, Register, Release, Renewal
from wsdemo.redis.link import RedisLink
from wsdemo.redis.outcome import CommandError
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Limits, Timing

TIMING = Timing()


@pytest.fixture
async def presence(
    shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[RedisPresence]:
    link = RedisLink(shared_server.url, Limits(), lambda up: None)
    await link.start()
    yield RedisPresence(link, keyspace, TIMING)
    await link.stop()


async def session(presence: RedisPresence, conn: str, gateway: str, **more: Any) -> Claim:
    """A session of alice that has its token, and has not registered yet."""
    return Claim("alice", conn, gateway, await presence.mint("alice"), **more)


async def registered(presence: RedisPresence, conn: str, gateway: str, **more: Any) -> Claim:
    claim = await session(presence, conn, gateway, **more)
    assert (await presence.register(claim)).outcome is Register.OK
    return claim


async def refresh(presence: RedisPresence, claim: Claim, ttl_ms: int = 90_000) -> Refresh:
    (result,) = await presence.refresh([Renewal(claim, ttl_ms)])
    assert isinstance(result, Refresh)
    return result


async def owner(presence: RedisPresence) -> str | None:
    entry = await presence.lookup("alice")
    return entry.conn_id if entry else None


async def test_a_late_release_does_not_evict_the_newer_owner(presence: RedisPresence) -> None:
    """P1: a release removes the entry of its own session or nothing."""
    old = await registered(presence, "c1", "gateway-01")
    await registered(presence, "c2", "gateway-02")
    assert await presence.release(old) is Release.OTHER_OWNER
    assert await owner(presence) == "c2"


async def test_a_release_is_idempotent(presence: RedisPresence) -> None:
    """P1: the second one finds nothing, and says so."""
    claim = await registered(presence, "c1", "gateway-01")
    assert await presence.release(claim) is Release.REMOVED
    assert await presence.release(claim) is Release.NO_ENTRY
    assert await owner(presence) is None


async def test_a_late_refresh_does_not_bring_an_older_session_back(
    presence: RedisPresence,
) -> None:
    """P2: its gateway is told that it has been superseded."""
    old = await registered(presence, "c1", "gateway-01")
    new = await registered(presence, "c2", "gateway-02")
    assert await refresh(presence, old) is Refresh.SUPERSEDED
    assert await presence.release(new) is Release.REMOVED
    assert await refresh(presence, old) is Refresh.SUPERSEDED, "even when the newer one has gone"
    assert await owner(presence) is None


async def test_a_late_register_does_not_beat_a_newer_session(presence: RedisPresence) -> None:
    """P3: order is by token, that is by the order in which sessions began."""
    slow = await session(presence, "c1", "gateway-01")
    await registered(presence, "c2", "gateway-02")
    answer = await presence.register(slow)
    assert answer.outcome is Register.STALE
    assert answer.previous is not None and answer.previous.conn_id == "c2"
    assert await owner(presence) == "c2"


async def test_a_rejected_registrant_owns_nothing_and_cleans_up_nothing(
    presence: RedisPresence,
) -> None:
    """P4: its release changes nothing, and the winner's refresh goes on."""
    slow = await session(presence, "c1", "gateway-01")
    winner = await registered(presence, "c2", "gateway-02")
    await presence.register(slow)
    assert await presence.release(slow) is Release.OTHER_OWNER
    assert await refresh(presence, winner) is Refresh.OK


async def test_tokens_grow_even_when_redis_has_forgotten_them(
    presence: RedisPresence, redis_db: Any, keyspace: Keyspace
) -> None:
    """P5: the next token is larger than those from before a loss of data."""
    before = [await presence.mint("alice") for _ in range(5)]
    await redis_db.delete(keyspace.fence("alice"), keyspace.presence("alice"))
    after = [await presence.mint("alice") for _ in range(5)]
    assert [*before, *after] == sorted({*before, *after})


async def test_a_lost_entry_is_reclaimed_by_the_live_session(
    presence: RedisPresence, redis_db: Any, keyspace: Keyspace
) -> None:
    """P6: an emptied Redis gets its users back from their refreshes."""
    claim = await registered(presence, "c1", "gateway-01")
    await redis_db.delete(keyspace.fence("alice"), keyspace.presence("alice"))
    assert await refresh(presence, claim) is Refresh.RECLAIMED
    assert await owner(presence) == "c1"


async def test_after_a_loss_the_newest_session_wins_in_any_order(
    presence: RedisPresence, redis_db: Any, keyspace: Keyspace
) -> None:
    """P6, P8: one owner within one round of refreshes."""
    old = await registered(presence, "c1", "gateway-01")
    new = await registered(presence, "c2", "gateway-02")
    for order in itertools.permutations((old, new)):
        await redis_db.delete(keyspace.fence("alice"), keyspace.presence("alice"))
        for claim in order:
            await refresh(presence, claim)
        assert await owner(presence) == "c2"
        assert await refresh(presence, old) is Refresh.SUPERSEDED


async def test_late_commands_of_a_released_session_do_not_restore_it(
    presence: RedisPresence,
) -> None:
    """P7: a register or a refresh that was under way gets the answer that the session is closed."""
    claim = await session(presence, "c1", "gateway-01")
    await presence.release(claim)
    assert (await presence.register(claim)).outcome is Register.STALE
    other = await registered(presence, "c2", "gateway-01")
    await presence.release(other)
    assert await refresh(presence, other) is Refresh.CLOSED
    assert await owner(presence) is None


async def test_a_register_returns_the_session_that_it_replaced(presence: RedisPresence) -> None:
    """P8: gateway, connection and token of the session that lost its place."""
    old = await registered(presence, "c1", "gateway-01")
    new = await session(presence, "c2", "gateway-02")
    answer = await presence.register(new)
    assert answer.previous == replace(old, inst="", att=0)


async def test_an_earlier_attempt_of_one_client_loses_to_its_later_one(
    presence: RedisPresence,
) -> None:
    """A client that dialled again has given up its first attempt, whichever arrives first."""
    await registered(presence, "c2", "gateway-02", inst="i", att=2)
    first = await session(presence, "c1", "gateway-01", inst="i", att=1)
    assert (await presence.register(first)).outcome is Register.STALE
    assert await owner(presence) == "c2"


async def test_an_entry_is_a_lease_with_the_demo_s_fields_first(
    presence: RedisPresence, redis_db: Any, keyspace: Keyspace
) -> None:
    """gwId, connId, ts in Unix seconds of the Redis clock; TTL by PEXPIRE."""
    await registered(presence, "c1", "gateway-01")
    key = keyspace.presence("alice")
    entry = await redis_db.hgetall(key)
    assert list(entry)[:3] == ["gwId", "connId", "ts"]
    assert abs(int(entry["ts"]) - (await redis_db.time())[0]) <= 1
    assert 0 < await redis_db.pttl(key) <= TIMING.presence_ttl_ms
    assert await redis_db.pttl(keyspace.fence("alice")) > TIMING.presence_ttl_ms


async def test_a_refresh_sets_the_given_lease(
    presence: RedisPresence, redis_db: Any, keyspace: Keyspace
) -> None:
    """The lease counts from the last frame of the client, which may be a while ago."""
    claim = await registered(presence, "c1", "gateway-01")
    await refresh(presence, claim, ttl_ms=5_000)
    assert 0 < await redis_db.pttl(keyspace.presence("alice")) <= 5_000


async def test_an_entry_expires_without_a_refresh(
    shared_server: BundledServer, keyspace: Keyspace, presence: RedisPresence, redis_db: Any
) -> None:
    """A gateway that dies leaves no entry behind for longer than the TTL."""
    claim = await registered(presence, "c1", "gateway-01")
    await refresh(presence, claim, ttl_ms=1)
    from tests.waiting import until

    async def gone() -> bool:
        return await presence.lookup("alice") is None

    await until("the lease has run out", gone)


async def test_many_leases_are_renewed_in_one_batch_in_order(presence: RedisPresence) -> None:
    """One result for each, and the one of a superseded session among them."""
    claims = []
    for n in range(100):
        claim = Claim(f"user{n}", f"c{n}", "gateway-01", await presence.mint(f"user{n}"))
        await presence.register(claim)
        claims.append(claim)
    newer = Claim("user7", "d7", "gateway-02", await presence.mint("user7"))
    await presence.register(newer)
    results = await presence.refresh([Renewal(claim, 90_000) for claim in claims])
    assert [n for n, r in enumerate(results) if r is not Refresh.OK] == [7]
    assert results[7] is Refresh.SUPERSEDED


async def test_scan_lists_every_online_user_once(presence: RedisPresence) -> None:
    """And nobody of another prefix."""
    for n in range(1200):
        await presence.register(Claim(f"u{n}", f"c{n}", "gateway-01", n + 1))
    listed = [user async for user in presence.online()]
    assert sorted(listed) == sorted(f"u{n}" for n in range(1200))


async def test_glob_characters_in_a_prefix_are_matched_literally(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """The users of prefix `a*:` are not all users of prefixes that begin with an a."""
    async with contextlib.AsyncExitStack() as kept:
        link = RedisLink(shared_server.url, Limits())
        await link.start()
        kept.push_async_callback(link.stop)
        for prefix, user in (("a*:", "alice"), ("ab:", "bob"), ("[x]:", "carol"), ("x:", "dave")):
            claim = Claim(user, "c1", "gateway-01", 1)
            here = RedisPresence(link, Keyspace(keyspace.prefix + prefix), TIMING)
            await here.register(claim)
            assert [user async for user in here.online()] == [claim.user]


async def test_an_incomplete_entry_means_offline(
    presence: RedisPresence, keyspace: Keyspace, redis_db: Any
) -> None:
    """A session without a gateway cannot be reached, nor a gateway without a session."""
    for field in ("gwId", "connId"):
        await redis_db.delete(keyspace.presence("alice"))
        await redis_db.hset(keyspace.presence("alice"), field, "gateway-01")
        assert await presence.lookup("alice") is None


async def test_a_failed_renewal_does_not_stop_the_other_renewals(
    presence: RedisPresence, keyspace: Keyspace, redis_db: Any
) -> None:
    """A foreign value stands in place of its entry."""
    await redis_db.set(keyspace.presence("alice"), "foreign")
    claims = [Claim(user, "c1", "gateway-01", 1) for user in ("bob", "alice", "carol")]
    results = await presence.refresh([Renewal(claim, 90_000) for claim in claims])
    assert results[::2] == [Refresh.RECLAIMED, Refresh.RECLAIMED]
    assert isinstance(results[1], CommandError)


async def test_every_command_renews_the_ttl_of_the_fence(
    presence: RedisPresence, keyspace: Keyspace, redis_db: Any
) -> None:
    """P3: mint, register, refresh and release each set it to an hour, not to the TTL of the
    lease."""

    async def left_s() -> float:
        return float(await redis_db.pttl(keyspace.fence("alice"))) / 1000

    async def shorten() -> None:
        await redis_db.pexpire(keyspace.fence("alice"), 1_000_000)

    fresh_s = TIMING.fence_ttl_s - 60
    claim = await session(presence, "c1", "gateway-01")
    assert fresh_s < await left_s() <= TIMING.fence_ttl_s, "after mint"
    await shorten()
    await presence.register(claim)
    assert fresh_s < await left_s() <= TIMING.fence_ttl_s, "after register"
    await shorten()
    assert await refresh(presence, claim) is Refresh.OK
    assert fresh_s < await left_s() <= TIMING.fence_ttl_s, "after refresh"
    await redis_db.delete(keyspace.presence("alice"))
    await shorten()
    assert await refresh(presence, claim) is Refresh.RECLAIMED
    assert fresh_s < await left_s() <= TIMING.fence_ttl_s, "after reclaiming"
    await shorten()
    assert await presence.release(claim) is Release.REMOVED
    assert fresh_s < await left_s() <= TIMING.fence_ttl_s, "after release"
    await shorten()
    assert await presence.release(claim) is Release.NO_ENTRY
    assert fresh_s < await left_s() <= TIMING.fence_ttl_s, "after another release"


# --- presence events -----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def announcing(
    server: BundledServer, keyspace: Keyspace, redis_db: Any, *, announces: bool
) -> AsyncIterator[tuple[RedisPresence, Callable[[], Awaitable[list[dict[str, Any]]]]]]:
    """A presence, and what has been published for those who watch alice since it was last asked."""
    link = RedisLink(server.url, Limits(), lambda up: None)
    await link.start()
    channel = keyspace.channel("watch", "alice")
    async with redis_db.pubsub(ignore_subscribe_messages=True) as heard:
        await heard.subscribe(channel, f"{channel}:end")

        async def published() -> list[dict[str, Any]]:
            await redis_db.publish(f"{channel}:end", "")
            events: list[dict[str, Any]] = []
            async with asyncio.timeout(10):
                async for message in heard.listen():
                    if message["channel"] != channel:
                        return events
                    events.append(json.loads(message["data"]))
            raise AssertionError("the subscription has ended")

        yield RedisPresence(link, keyspace, TIMING, announces=announces), published
    await link.stop()


async def test_each_change_of_an_entry_is_published_with_its_token_and_reason(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """W1: a login, a move, an entry that is put back, and an end; the times are those of Redis."""
    async with announcing(shared_server, keyspace, redis_db, announces=True) as (presence, said):
        first = await registered(presence, "c1", "gateway-01")
        second = await registered(presence, "c2", "gateway-02")
        assert await refresh(presence, second) is Refresh.OK
        await redis_db.delete(keyspace.presence("alice"))
        assert await refresh(presence, second) is Refresh.RECLAIMED
        assert await presence.release(replace(second, reason="bye")) is Release.REMOVED
        seconds, _ = await redis_db.time()
        events = await said()
    assert [(one["state"], one["reason"], one["token"]) for one in events] == [
        ("online", "login", first.token),
        ("online", "moved", second.token),
        ("online", "reclaimed", second.token),
        ("offline", "bye", second.token),
    ]
    assert all(abs(one["at"] / 1000 - seconds) < 60 for one in events)
    assert [one["at"] for one in events] == sorted(one["at"] for one in events)


async def test_what_changes_no_entry_is_not_published(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """A late register, refresh or release of a session that is not the owner any more."""
    async with announcing(shared_server, keyspace, redis_db, announces=True) as (presence, said):
        old = await registered(presence, "c1", "gateway-01")
        await registered(presence, "c2", "gateway-02")
        assert len(await said()) == 2
        assert (await presence.register(old)).outcome is Register.STALE
        assert await refresh(presence, old) is Refresh.SUPERSEDED
        assert await presence.release(old) is Release.OTHER_OWNER
        assert await said() == []


async def test_a_session_whose_lease_has_ended_is_published_when_it_is_released(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """The end of its lease was told by nobody. Without a reason it is `unknown`."""
    async with announcing(shared_server, keyspace, redis_db, announces=True) as (presence, said):
        claim = await registered(presence, "c1", "gateway-01")
        await redis_db.delete(keyspace.presence("alice"))
        assert await presence.release(claim) is Release.NO_ENTRY
        events = await said()
    assert [(one["state"], one["reason"]) for one in events] == [
        ("online", "login"),
        ("offline", "unknown"),
    ]


async def test_nothing_is_published_where_nobody_may_watch(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """Without `--watch`, the scripts do what they did."""
    async with announcing(shared_server, keyspace, redis_db, announces=False) as (presence, said):
        claim = await registered(presence, "c1", "gateway-01")
        await redis_db.delete(keyspace.presence("alice"))
        assert await refresh(presence, claim) is Refresh.RECLAIMED
        assert await presence.release(claim) is Release.REMOVED
        assert await said() == []
