"""Are watchers told who comes and goes, and why: on real gateways, whatever happens between them?

`W1` to `W3` are the promises of docs/guarantees.md.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.gateway.cluster import Raw, frame, gateway
from tests.processes import User
from tests.waiting import until
from wsdemo.features import WatchSettings
from wsdemo.gateway.auth import mint_token
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.session import Session
from wsdemo.protocol import Code
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Timing

SECRET = b"a secret for the tests, 32 bytes or more"
AT_ONCE = 0.02
"""A grace for tests in which nobody comes back."""
SELDOM = 1_000.0
"""Readings for tests in which an event alone must be enough, and graces that do not end."""


def settings(grace_s: float = AT_ONCE, reconcile_s: float = SELDOM, **more: Any) -> dict[str, Any]:
    return {"watch": WatchSettings(watch_grace_s=grace_s, watch_reconcile_s=reconcile_s, **more)}


class Cluster:
    """Gateways with `--watch` on one server."""

    def __init__(self, server: BundledServer, keyspace: Keyspace) -> None:
        self._server, self._keyspace = server, keyspace
        self._stack = contextlib.AsyncExitStack()

    async def start(
        self, gateway_id: str = "gateway-01", told: dict[str, Any] | None = None, **more: Any
    ) -> Gateway:
        """Start one; `told` are its settings."""
        if told is None:
            told = settings()
        one = gateway(self._server, self._keyspace, gateway_id, settings=told, **more)
        return await self._stack.enter_async_context(one)

    async def user(self, name: str, where: Gateway) -> User:
        """Register a user, who leaves when the test ends."""
        return await self._stack.enter_async_context(await User.register(name, where.url))

    async def close(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def cluster(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Cluster]:
    made = Cluster(shared_server, keyspace)
    yield made
    await made.close()


@pytest.fixture
async def lonely(server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Cluster]:
    """A cluster on a server of its own, which may be emptied."""
    made = Cluster(server, keyspace)
    yield made
    await made.close()


async def watch(watcher: User, *users: str) -> list[tuple[str, str]]:
    """Watch users; return state and reason of each snapshot."""
    await watcher.say(type="watch", users=list(users))
    snapshots = [await watcher.hear() for _ in users]
    assert {one["user"] for one in snapshots} == set(users)
    assert all(one["type"] == "presence" for one in snapshots)
    return [(one["state"], one["reason"]) for one in snapshots]


async def told(watcher: User, user: str = "bob", timeout_s: float = 10.0) -> tuple[str, str]:
    """Return state and reason of the next thing that a watcher is told."""
    heard = await watcher.hear(timeout_s)
    assert (heard["type"], heard["user"]) == ("presence", user), heard
    return heard["state"], heard["reason"]


async def hears_nothing(watcher: User) -> None:
    """Nothing was written for this user: the pong is the next thing."""
    await watcher.say(type="ping")
    assert await watcher.hear() == {"type": "pong"}


# --- who is told what ----------------------------------------------------------------------------


async def test_a_watcher_gets_a_snapshot_and_is_then_told_of_logins_and_goodbyes(
    cluster: Cluster,
) -> None:
    """W1: across gateways, with the time of Redis."""
    one, two = await cluster.start(), await cluster.start("gateway-02")
    alice = await cluster.user("alice", one)
    before_ms = time.time() * 1000
    assert await watch(alice, "bob") == [("offline", "unknown")]
    bob = await cluster.user("bob", two)
    heard = await alice.hear()
    assert (heard["state"], heard["reason"]) == ("online", "login")
    assert before_ms - 1000 < heard["at"] < time.time() * 1000 + 1000
    await bob.leave()
    assert await told(alice) == ("offline", "bye")


async def test_the_snapshot_of_a_user_who_is_there_says_online(cluster: Cluster) -> None:
    """Also for a second watcher, who is told what the first one was."""
    one = await cluster.start()
    alice, carol = await cluster.user("alice", one), await cluster.user("carol", one)
    await cluster.user("bob", one)
    assert await watch(alice, "bob") == [("online", "unknown")]
    assert await watch(carol, "bob") == [("online", "unknown")]


async def test_a_connection_that_is_lost_is_told_as_lost(cluster: Cluster) -> None:
    """A reset of TCP, without a close frame."""
    one = await cluster.start()
    alice, bob = await cluster.user("alice", one), await Raw.register(one, "bob")
    assert await watch(alice, "bob") == [("online", "unknown")]
    bob.reset()
    assert await told(alice) == ("offline", "lost")


async def test_a_client_that_breaks_rules_is_told_without_its_rule(cluster: Cluster) -> None:
    """What bob did wrong is no business of alice."""
    one = await cluster.start()
    alice, bob = await cluster.user("alice", one), await cluster.user("bob", one)
    await watch(alice, "bob")
    await bob.connection.send(b"binary")
    assert (await bob.closed())[0] == 1003
    assert await told(alice) == ("offline", "unknown")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (frame(b"\x03\xe8", opcode=8), "bye"),
        (frame(b"\x03\xe9", opcode=8), "bye"),
        (frame(opcode=8), "bye"),
        (frame(b"\xff"), "unknown"),
        (frame(length=100_000), "unknown"),
        (frame(b"x", rsv=1), "unknown"),
        (frame(b"", opcode=9) * 40, "unknown"),
        (b"", "lost"),
    ],
    ids=["1000", "1001", "no code", "no UTF-8", "too big", "no frame", "too much", "end of file"],
)
async def test_the_reason_is_a_goodbye_a_loss_or_nobodys_business(
    cluster: Cluster, said: bytes, reason: str
) -> None:
    """What bob sent last, before he hung up."""
    one = await cluster.start()
    alice, bob = await cluster.user("alice", one), await Raw.register(one, "bob")
    await watch(alice, "bob")
    bob.writer.write(said)
    if not said:
        bob.half_close()
    await bob.rest()
    assert await told(alice) == ("offline", reason)
    await bob.leave()


async def test_a_user_who_is_silent_is_told_as_lost(cluster: Cluster) -> None:
    """4009 for bob, whose gateway is fast to notice."""
    one = await cluster.start()
    two = await cluster.start("gateway-02", timing=Timing().scaled(300))
    alice, bob = await cluster.user("alice", one), await cluster.user("bob", two)
    await watch(alice, "bob")
    assert (await bob.closed())[0] == 4009
    assert await told(alice) == ("offline", "lost")


async def test_the_users_of_a_gateway_that_stops_are_told_as_drained(cluster: Cluster) -> None:
    """1012 for bob, who does not come back."""
    one, two = await cluster.start(), await cluster.start("gateway-02")
    alice = await cluster.user("alice", one)
    await cluster.user("bob", two)
    assert await watch(alice, "bob") == [("online", "unknown")]
    await two.stop()
    assert await told(alice) == ("offline", "drained")


# --- what nobody is told (W2, W3) ----------------------------------------------------------------


async def test_a_user_who_moves_within_the_grace_was_never_gone(cluster: Cluster) -> None:
    """W3: nothing at all is told; and the last goodbye is."""
    one, two = await cluster.start(told=settings(grace_s=SELDOM)), await cluster.start("gateway-02")
    alice, bob = await cluster.user("alice", one), await cluster.user("bob", one)
    await watch(alice, "bob")
    await bob.leave()
    await until("her absence is noted", lambda: _absences(one) == 1)
    await cluster.user("bob", two)
    await until("he is back", lambda: _absences(one) == 0)
    await hears_nothing(alice)


async def test_a_newer_session_in_place_of_an_older_one_is_nothing_new(cluster: Cluster) -> None:
    """W2: online stays online, and the end of the older session is not an end of the user."""
    one, two = await cluster.start(), await cluster.start("gateway-02")
    alice = await cluster.user("alice", one)
    await watch(alice, "bob")
    old = await cluster.user("bob", one)
    assert await told(alice) == ("online", "login")
    new = await cluster.user("bob", two)
    assert (await old.closed())[0] == 4509
    await hears_nothing(alice)
    await new.leave()
    assert await told(alice) == ("offline", "bye")


async def test_who_unwatches_is_told_nothing_more_and_the_gateway_unsubscribes(
    cluster: Cluster, redis_db: Any, keyspace: Keyspace
) -> None:
    """The last watcher of a user ends the subscription, by `unwatch` or by leaving."""
    one = await cluster.start()
    alice, carol = await cluster.user("alice", one), await cluster.user("carol", one)
    channel = keyspace.channel("watch", "bob")

    async def listeners() -> int:
        return int((await redis_db.pubsub_numsub(channel))[0][1])

    await watch(alice, "bob")
    await watch(carol, "bob")
    assert await listeners() == 1, "one subscription for both"
    await alice.say(type="unwatch", users=["bob"])
    await hears_nothing(alice)
    await cluster.user("bob", one)
    assert await told(carol) == ("online", "login")
    await hears_nothing(alice)
    assert await listeners() == 1
    await carol.leave()

    async def nobody() -> bool:
        return not await listeners()

    await until("nobody listens", nobody)
    assert one._features[-1].gauges()["watched_users"][1]() == 0


# --- accidents (W1) ------------------------------------------------------------------------------


async def test_the_users_of_a_gateway_that_died_are_found_by_a_reading(
    cluster: Cluster, redis_db: Any, keyspace: Keyspace
) -> None:
    """Their leases end without a word: `expired`, within the time between two readings."""
    one = await cluster.start(told=settings(reconcile_s=0.2))
    alice = await cluster.user("alice", one)
    entry = {"gwId": "gateway-99", "connId": "c", "ts": "1", "epoch": "1"}
    await redis_db.hset(keyspace.presence("bob"), mapping=entry)
    assert await watch(alice, "bob") == [("online", "unknown")]
    await redis_db.pexpire(keyspace.presence("bob"), 1)
    assert await told(alice) == ("offline", "expired")


async def test_users_of_a_gateway_without_the_feature_are_found_by_a_reading(
    cluster: Cluster,
) -> None:
    """Their logins and goodbyes are published by nobody."""
    one, two = await cluster.start(told=settings(reconcile_s=0.2)), await cluster.start("gw-02", {})
    alice = await cluster.user("alice", one)
    assert await watch(alice, "bob") == [("offline", "unknown")]
    bob = await cluster.user("bob", two)
    assert await told(alice) == ("online", "unknown")
    await bob.leave()
    assert await told(alice) == ("offline", "expired")


async def test_events_that_were_missed_are_made_up_for_when_the_subscription_is_back(
    lonely: Cluster, database: Any, keyspace: Keyspace
) -> None:
    """The server kills it, and bob comes meanwhile: the reading after the gap finds him."""
    one = await lonely.start()
    alice = await lonely.user("alice", one)
    assert await watch(alice, "bob") == [("offline", "unknown")]
    entry = {"gwId": "gateway-99", "connId": "c", "ts": "1", "epoch": "1"}
    await database.hset(keyspace.presence("bob"), mapping=entry)
    assert await database.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1
    assert await told(alice) == ("online", "unknown")
    await until("it listens again", lambda: one.ready)
    await database.delete(keyspace.presence("bob"))
    await lonely.user("bob", one)
    await hears_nothing(alice)


async def test_after_redis_has_lost_its_data_a_live_user_was_never_gone(
    lonely: Cluster, database: Any
) -> None:
    """Her session puts the entry back within the grace: nothing is told."""
    one = await lonely.start(told=settings(grace_s=SELDOM, reconcile_s=0.1))
    alice, bob = await lonely.user("alice", one), await lonely.user("bob", one)
    await watch(alice, "bob")
    await database.flushall()
    await until("her absence is noted", lambda: _absences(one) == 1)
    for session in one.registry:
        session.refresh_after = 0.0
    await bob.say(type="ping")
    assert await bob.hear() == {"type": "pong"}
    await until("he is back", lambda: _absences(one) == 0)
    await hears_nothing(alice)


async def test_a_reclaimed_entry_is_told_to_who_was_told_of_the_loss(
    lonely: Cluster, database: Any
) -> None:
    """Offline when the grace has ended, and online when the next refresh puts the entry back."""
    one = await lonely.start(told=settings(reconcile_s=0.1))
    alice, bob = await lonely.user("alice", one), await lonely.user("bob", one)
    await watch(alice, "bob")
    await database.flushall()
    assert await told(alice) == ("offline", "expired")
    for session in one.registry:
        session.refresh_after = 0.0
    await bob.say(type="ping")
    assert await told(alice) == ("online", "reclaimed")


async def test_a_snapshot_waits_for_redis_and_comes_when_it_is_back(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reading that fails is made up for when the link is back."""
    one = await cluster.start()
    alice = await cluster.user("alice", one)
    watching: Any = one._features[-1]
    with monkeypatch.context() as broken:
        broken.setattr(one._link, "open", False)
        await alice.say(type="watch", users=["bob"])
        await until("the reading failed", lambda: watching._reads.counts["failed"] == 1)
    await hears_nothing(alice)
    watching.link_is_back()
    assert await told(alice) == ("offline", "unknown")


# --- limits and permission -----------------------------------------------------------------------


async def test_one_user_more_than_the_limit_is_refused_and_changes_nothing(
    cluster: Cluster,
) -> None:
    """At once, or one after the other."""
    one = await cluster.start()
    alice = await cluster.user("alice", one)
    many = [f"user-{n}" for n in range(101)]
    refused = {"type": "error", "error": "Too many watched users", "code": "too_many_watched"}
    await alice.say(type="watch", users=many, id="7")
    assert await alice.hear() == {**refused, "id": "7"}
    assert len(await watch(alice, *many[:100])) == 100
    await alice.say(type="watch", users=["bob"])
    assert await alice.hear() == refused
    await alice.say(type="unwatch", users=many[:1])
    assert await watch(alice, "bob") == [("offline", "unknown")]


async def test_a_session_that_ends_while_it_is_told_leaves_no_watch(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each snapshot may be the one for which a slow client has no room left (4011)."""
    one = await cluster.start()
    alice, carol = await cluster.user("alice", one), await cluster.user("carol", one)
    await watch(carol, "bob", "dave")
    slow = one.registry.by_user("alice")
    send = Session.send

    def send_or_end(session: Session, payload: bytes) -> None:
        if session is slow:
            session.end(Code.SLOW_CONSUMER)
        else:
            send(session, payload)

    monkeypatch.setattr(Session, "send", send_or_end)
    await alice.say(type="watch", users=["bob", "dave", "erin"])
    assert (await alice.closed())[0] == 4011
    await carol.say(type="unwatch", users=["bob", "dave"])
    await hears_nothing(carol)
    assert one._features[-1].gauges()["watched_users"][1]() == 0


async def test_who_asks_to_watch_too_often_is_refused(cluster: Cluster) -> None:
    """Each user who is named counts; other messages have a rate of their own."""
    slow = settings(watched_users=3, watch_burst=3, watches_per_s=0.001)
    one = await cluster.start(told=slow)
    alice = await cluster.user("alice", one)
    assert len(await watch(alice, "a", "b")) == 2
    await alice.say(type="watch", users=["a", "b"])
    assert (await alice.hear())["code"] == "rate_limited"
    assert await watch(alice, "a") == [("offline", "unknown")]


async def test_a_token_says_whom_its_user_may_watch(cluster: Cluster) -> None:
    """By patterns. Whether there is such a user makes no difference, and a token without the claim
    permits nobody.
    """
    one = await cluster.start(told={**settings(), "auth_secret": SECRET})

    async def register(user: str, **claims: Any) -> Raw:
        raw = await Raw.open(one)
        raw.frame(json.dumps(_register(user, **claims)).encode())
        answer = await raw.answer()
        assert (answer["type"], answer["watch"]) == ("registered", True)
        return raw

    forbidden = {"type": "error", "error": "Not allowed", "code": "forbidden"}
    async with await register("alice", watch=["team-*", "bob"]) as alice:
        async with await register("team-1") as other:
            alice.frame(b'{"type":"watch","users":["team-1","bob"]}')
            heard = [await alice.answer(), await alice.answer()]
            assert {(one["user"], one["state"]) for one in heard} == {
                ("team-1", "online"),
                ("bob", "offline"),
            }
            for users in (["carol"], ["bob", "alice"], ["no such name!"]):
                alice.frame(json.dumps({"type": "watch", "users": users}).encode())
                assert await alice.answer() == forbidden
            other.frame(b'{"type":"watch","users":["team-1"]}')
            assert await other.answer() == forbidden
            # Another token on the same connection permits less.
            alice.frame(json.dumps(_register("alice", watch=["bob"])).encode())
            assert (await alice.answer())["type"] == "registered"
        alice.frame(b'{"type":"ping"}')
        assert await alice.answer() == {"type": "pong"}
        assert list(one._features[-1]._watched) == ["bob"]  # type: ignore[attr-defined]


def _register(user: str, **claims: Any) -> dict[str, Any]:
    import jwt

    token = mint_token(SECRET, user, time.time() + 60)
    if claims:
        known = jwt.decode(token, SECRET, algorithms=["HS256"])
        token = jwt.encode({**known, **claims}, SECRET, algorithm="HS256")
    return {"type": "register", "userId": user, "token": token}


async def test_a_gateway_without_the_feature_knows_no_watch(cluster: Cluster) -> None:
    """Unknown message type, as before; and its registers say nothing about it."""
    one = await cluster.start(told={})
    async with await Raw.open(one) as raw:
        raw.frame(b'{"type":"register","userId":"alice"}')
        assert "watch" not in await raw.answer()
        raw.frame(b'{"type":"watch","users":["bob"]}')
        assert (await raw.answer())["code"] == "unknown_type"


async def test_what_watchers_were_told_is_counted(cluster: Cluster) -> None:
    """By state, and readings by what was found."""
    one = await cluster.start()
    alice = await cluster.user("alice", one)
    await watch(alice, "bob")
    bob = await cluster.user("bob", one)
    await told(alice)
    counts = one.stats()["counters"]
    assert (counts["watch_events_offline"], counts["watch_events_online"]) == (1, 1)
    assert counts["watch_reads_offline"] == 1
    await bob.leave()
    await told(alice)
    counts = one.stats()["counters"]
    assert (counts["watch_events_offline"], counts["watch_reads_offline"]) == (2, 2)


def _absences(one: Gateway) -> int:
    """How many watched users seem to be gone."""
    watching = one._features[-1]
    watched: Any = watching
    return sum(one.known.absence is not None for one in watched._watched.values())


async def test_the_end_of_a_gateway_leaves_no_timer(cluster: Cluster) -> None:
    """An absence that is under way ends with it."""
    one = await cluster.start(told=settings(grace_s=SELDOM))
    alice, bob = await cluster.user("alice", one), await cluster.user("bob", one)
    await watch(alice, "bob")
    await bob.leave()
    await until("her absence is noted", lambda: _absences(one) == 1)
    watching: Any = one._features[-1]
    timer = watching._watched["bob"].timer
    await one.stop()
    assert timer.cancelled()
    assert not watching._watched and not watching._watchers


async def test_events_of_nobody_that_is_watched_cost_no_subscription(
    cluster: Cluster, redis_db: Any, keyspace: Keyspace
) -> None:
    """Whatever is published on a channel of watchers and is no event is ignored."""
    one = await cluster.start()
    alice = await cluster.user("alice", one)
    await watch(alice, "bob")
    channel = keyspace.channel("watch", "bob")
    for junk in ("", "{}", "[1]", '{"state":"gone"}', "\xff", "1" * 1_000_000):
        assert await redis_db.publish(channel, junk) == 1
    await cluster.user("bob", one)
    assert await told(alice) == ("online", "login")


# --- several devices -----------------------------------------------------------------------------


async def test_a_user_with_several_devices_is_gone_when_the_last_one_is(cluster: Cluster) -> None:
    """In whichever order they came: the token of the last one is not the highest."""
    several = {**settings(), "devices": 3}
    one, two = await cluster.start(told=several), await cluster.start("gateway-02", several)
    alice = await cluster.user("alice", one)
    assert await watch(alice, "bob") == [("offline", "unknown")]
    phone = await _device(one, "bob", "phone")
    assert await told(alice) == ("online", "login")
    laptop = await _device(two, "bob", "laptop")
    laptop.frame(b"\x03\xe8", opcode=8)
    await laptop.leave()
    await until("the laptop has left", lambda: two.counters.releases_removed == 1)
    await hears_nothing(alice)
    phone.frame(b"\x03\xe8", opcode=8)
    await phone.leave()
    assert await told(alice) == ("offline", "bye")


async def test_a_device_that_is_one_too_many_takes_no_user_offline(cluster: Cluster) -> None:
    """The others stay. The last one to leave says why the user has gone."""
    several = {**settings(), "devices": 2}
    one = await cluster.start(told=several)
    alice = await cluster.user("alice", one)
    await watch(alice, "bob")
    phones = [await _device(one, "bob", f"phone-{n}") for n in range(3)]
    assert await told(alice) == ("online", "login")
    assert await phones[0].closed() == 4509
    await hears_nothing(alice)
    for phone in phones:
        phone.reset()
    assert await told(alice) == ("offline", "lost")


async def _device(where: Gateway, user: str, device: str) -> Raw:
    raw = await Raw.open(where)
    raw.frame(json.dumps({"type": "register", "userId": user, "device": device}).encode())
    assert (await raw.answer())["type"] == "registered"
    return raw
