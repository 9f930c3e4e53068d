"""Feed: is what a board is told true, and does it say so when nothing can be known?"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.lab.classroom.replay import NO_NODE, NODE, Replayed, replay, replay_by_model
from tests.waiting import until
from wsdemo.client.connection import State
from wsdemo.events import Event, Kind
from wsdemo.lab.classroom.feed import EVENTS_PER_TICK, MESSAGES_PER_TICK, Feed
from wsdemo.lab.classroom.sampler import EntrySample, EntrySampler
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.cluster.outage import Outage

pytestmark = pytest.mark.xdist_group("clock")


@asynccontextmanager
async def feeding(cluster: Cluster) -> AsyncIterator[Feed]:
    """Follow a cluster with a feed."""
    feed = Feed(cluster)
    feed.start()
    try:
        yield feed
    finally:
        await feed.stop()


def kinds(feed: Feed) -> list[str]:
    """Return the kinds of all events so far."""
    return [event["k"] for text in feed.history for event in json.loads(text).get("e", ())]


def seen(feed: Feed, kind: str) -> Callable[[], bool]:
    """Return whether such an event was told."""
    return lambda: kind in kinds(feed)


def registered(cluster: Cluster) -> dict[str, tuple[str, str]]:
    """Return connection -> user and gateway, as the registries of the gateways have it."""
    return {
        session.conn_id: (session.user, name)
        for name, gateway in cluster.gateways.items()
        for session in gateway.registry
        if session.user
    }


async def owners(cluster: Cluster) -> dict[str, tuple[str, str]]:
    """Return user -> gateway and connection, as Redis has it."""
    try:
        records = await cluster.records(cluster.users)
    except RedisError:  # A connection of before an outage; the next one is a new one.
        return {"nobody": ("can", "be asked")}
    return {user: (r["gwId"], r["connId"]) for user, r in records.items() if r}


async def agreed(cluster: Cluster, feed: Feed) -> Replayed:
    """Wait until a board that hears everything shows what is so; return what it shows."""

    async def agrees() -> Replayed | None:
        told = replay(feed.history)
        users = cluster.users.items()
        connected = {client.conn_id: (user, client.gateway_id) for user, client in users}
        there = told.sockets == registered(cluster) == connected
        there = there and told.entries == await owners(cluster)
        up = {name for name, status in told.gateways.items() if status == "up"}
        there = there and up == set(cluster.hosts) and told.held == []
        settled = all(client.state is State.REGISTERED for client in cluster.users.values())
        return told if there and settled and feed.known else None

    told: Replayed = await until("the board shows what is so", agrees, 20.0, every_s=0.1)
    return told


# --- Redis is away -------------------------------------------------------------------------------


async def test_a_frozen_redis_is_said_at_once_and_nothing_is_known() -> None:
    """And the board goes on meanwhile: batches come, as before."""
    async with Cluster(gateways=1, scale=6) as cluster, feeding(cluster) as feed:
        await cluster.connect("ann")
        await until("ann's lease is known", lambda: feed.belief("ann")[2] > 0)
        heard: list[str] = []
        feed.listen(heard.append)
        await cluster.redis.freeze()
        await until("it is said", seen(feed, "beliefs_unknown"))
        assert not feed.known and feed.belief("ann") == ("", "", 0.0)
        so_far = len(heard)
        await until("ten more batches", lambda: len(heard) >= so_far + 10)
        assert not feed.known
        assert replay(feed.history).entries == {}
        await cluster.redis.thaw()
        await until("it answers again", seen(feed, "beliefs_known"))
        await until("ann is known", lambda: feed.belief("ann")[0] == "gateway-01")
        assert kinds(feed).count("beliefs_unknown") == kinds(feed).count("beliefs_known") == 1


async def test_a_killed_redis_is_said_and_what_it_forgot_is_not_shown() -> None:
    """It comes back empty: an entry is shown again when a gateway has written it again."""
    async with Cluster(gateways=1, scale=6) as cluster, feeding(cluster) as feed:
        await cluster.connect("ann")
        await until("ann's lease is known", lambda: feed.belief("ann")[2] > 0)
        await cluster.redis.stop()
        await until("it is said", seen(feed, "beliefs_unknown"))
        assert replay(feed.history)[2:4] == ({}, "down")
        await cluster.redis.restart()
        await until("it answers again", seen(feed, "beliefs_known"))
        told = await agreed(cluster, feed)
        assert told.redis == "up" and told.entries["ann"][0] == "gateway-01"
        assert "reclaim" in kinds(feed)


async def test_a_redis_that_nobody_has_announced_to_be_away_is_noticed() -> None:
    """The samples fail: nobody but Redis says whether it can be asked."""
    async with Cluster(gateways=1, scale=6) as cluster, feeding(cluster) as feed:
        await cluster.connect("ann")
        await until("ann's lease is known", lambda: feed.belief("ann")[2] > 0)
        outage = cluster.redis
        assert isinstance(outage, Outage)
        server = outage._own()
        server.pause()  # Not by the laboratory, which would note it.
        await until("it is noticed", lambda: not feed.known)
        server.resume()
        await until("it is back", lambda: feed.known and feed.belief("ann")[2] > 0)


async def test_an_entry_that_nobody_writes_is_corrected_by_what_redis_says() -> None:
    """An event of a gateway that stood still may tell of an entry that is long gone."""
    async with Cluster(gateways=1, scale=6) as cluster, feeding(cluster) as feed:
        ann = await cluster.connect("ann")
        await until("ann's lease is known", lambda: feed.belief("ann")[2] > 0)
        late = {"user": "ann", "gateway": "gateway-07", "conn_id": "of long ago"}
        cluster.recorder.note(Kind.PRESENCE_SET, "gateway-07", **late)
        await until("it is told", lambda: feed.belief("ann")[0] == "gateway-07")
        await until("it is corrected", lambda: feed.belief("ann")[0] == "gateway-01")
        assert feed.belief("ann")[1] == ann.conn_id


class Answers(EntrySampler):
    """Answers what a test wants."""

    entries: dict[str, tuple[str, str, float]] | None = None

    def poll(self) -> EntrySample | None:
        asked_at, self.asked_at = self.asked_at, self._now()
        return None if self.entries is None else EntrySample(asked_at, self.entries)


async def test_an_answer_that_may_be_older_than_an_event_does_not_undo_it() -> None:
    """Redis was asked before ann registered, and answered after: the next answer counts."""
    cluster = Cluster(gateways=2)
    feed = Feed(cluster)
    sampler = Answers("redis://127.0.0.1:1", cluster.keyspace, lambda: feed.now)
    old, new = ("gateway-01", "c1", 99.0), ("gateway-02", "c2", 99.0)
    session = {"user": "ann", "gateway": "gateway-02", "conn_id": "c2"}
    cluster.recorder.note(Kind.PRESENCE_SET, "gateway-02", **session)
    feed._tick(sampler)
    assert feed.belief("ann")[:2] == new[:2]
    cluster.recorder.note(Kind.PRESENCE_REFRESH, "gateway-02", **session)
    sampler.entries = {"ann": old}
    feed._tick(sampler)
    assert feed.belief("ann")[:2] == new[:2]
    feed._tick(sampler)
    assert feed.belief("ann") == old, "nothing has happened since this question"
    await sampler.stop()


async def test_an_answer_does_not_overtake_the_register_that_it_knows_of() -> None:
    """Redis has the entry already, and the event is still on its way through the gateway: a board
    would show an entry of somebody who is nowhere, and call it wrong.
    """
    async with Cluster(gateways=1, scale=6) as cluster:
        feed = Feed(cluster)
        sampler = EntrySampler(cluster.redis_url, cluster.keyspace, lambda: feed.now)
        session = {"user": "ann", "gateway": "gateway-01", "conn_id": "c1"}
        async with Redis.from_url(cluster.redis_url) as database:
            entry: dict[Any, Any] = {"gwId": "gateway-01", "connId": "c1"}
            await database.hset(cluster.keyspace.presence("ann"), mapping=entry)
        sampler.add("ann")
        feed._tick(sampler)
        await until("Redis has answered", lambda: sampler._asking and sampler._asking.done())
        feed._tick(sampler)
        assert feed.belief("ann") == ("", "", 0.0)
        cluster.recorder.note(Kind.PRESENCE_SET, "gateway-01", **session)
        feed._tick(sampler)
        await sampler.stop()
        first = next(text for text in feed.history if "ann" in text)
        assert "set" in {event["k"] for event in json.loads(first)["e"]}


async def test_what_happened_just_before_the_end_is_recorded() -> None:
    """The last tick is the end itself: notes of the class room and events of gateways."""
    async with Cluster(gateways=1) as cluster:
        async with feeding(cluster) as feed:
            await until("it ticks", lambda: feed.history)
            feed.note("reveal", a="2", n={})
            session = {"user": "ann", "gateway": "gateway-01", "conn_id": "c1"}
            cluster.recorder.note(Kind.PRESENCE_SET, "gateway-01", **session)
        assert {"reveal", "set"} <= set(kinds(feed))


async def test_leases_end_when_redis_says_so() -> None:
    """A user who vanishes: her row goes, although no gateway has said anything."""
    async with Cluster(gateways=1, scale=30) as cluster, feeding(cluster) as feed:
        await cluster.connect("ann", wired=True)
        await until("ann's lease is known", lambda: feed.belief("ann")[2] > 0)
        ends = feed.belief("ann")[2]
        assert 0 < ends - feed.now <= cluster.timing.presence_ttl_s
        await cluster.hold("ann", "gateway-01", "release")
        await cluster.vanish("ann")
        await until("the lease has ended", lambda: feed.belief("ann") == ("", "", 0.0))
        assert "del" not in kinds(feed)


# --- agreement -----------------------------------------------------------------------------------


async def crash_and_start(cluster: Cluster, rng: random.Random) -> None:
    """Crash a gateway, and start it again."""
    name = rng.choice(["gateway-01", "gateway-02"])
    await cluster.crash(name)
    await cluster.start_gateway(name)


async def drain_and_start(cluster: Cluster, rng: random.Random) -> None:
    """Drain a gateway, and start it again."""
    await cluster.drain("gateway-02")
    await cluster.start_gateway("gateway-02")


async def freeze_and_thaw(cluster: Cluster, rng: random.Random) -> None:
    """Freeze a gateway for a moment, in which its users write and move."""
    await cluster.freeze("gateway-03")
    await cluster.live(3, talk_every_s=2, hop_every_s=3, users=["ann", "ben"])
    await cluster.thaw("gateway-03")


async def hold_and_let_go(cluster: Cluster, rng: random.Random) -> None:
    """Let the clean-up of a move come too late."""
    ann = cluster.users["ann"]
    names = [name for name in cluster.hosts if name != ann.gateway_id]
    at = ann.gateway_id
    await cluster.hold("ann", at)
    await ann.move(cluster.urls[rng.choice(names)])
    await cluster.let_go("ann", at)


async def kill_redis(cluster: Cluster, rng: random.Random) -> None:
    """Kill Redis, and start it again, empty."""
    await cluster.redis.stop()
    await cluster.redis.restart()


async def freeze_redis(cluster: Cluster, rng: random.Random) -> None:
    """Freeze Redis for a moment."""
    await cluster.redis.freeze()
    await asyncio.sleep(0.3)  # The length of the fault.
    await cluster.redis.thaw()


async def restart_redis(cluster: Cluster, rng: random.Random) -> None:
    """Restart a Redis that runs."""
    await cluster.redis.restart()


FAULTS = [
    crash_and_start,
    drain_and_start,
    freeze_and_thaw,
    hold_and_let_go,
    kill_redis,
    freeze_redis,
    restart_redis,
]


@pytest.mark.timeout(180)
async def test_a_replay_agrees_with_registries_and_redis_after_every_fault() -> None:
    """Users write and move, and after each fault of a random order a board that hears all from
    the beginning shows the same as the gateways' registries and Redis; so does the model of the
    browser.
    """
    rng = random.Random(15)
    order = rng.sample(FAULTS, len(FAULTS))
    checkpoints: list[tuple[list[str], Replayed]] = []
    async with Cluster(gateways=3, scale=30, seed=15, freezable=["gateway-03"]) as cluster:
        async with feeding(cluster) as feed:
            for name in ("ann", "ben"):
                await cluster.connect(name)
            await cluster.connect_many(12)
            for fault in order:
                await cluster.live(20, talk_every_s=5, hop_every_s=10)
                await fault(cluster, rng)
                told = await agreed(cluster, feed)
                checkpoints.append((feed.history, told))
    if NODE is not None:
        replayed = replay_by_model([texts for texts, _ in checkpoints])
        assert replayed == [told for _, told in checkpoints]


@pytest.mark.skipif(NODE is None, reason=NO_NODE)
def test_node_is_there_for_the_model_of_the_browser() -> None:
    """Said by a skip of its own, so that the test above does not hide it."""


# --- limits --------------------------------------------------------------------------------------


async def test_a_late_feed_reads_the_past_in_parts_and_in_order() -> None:
    """Nobody waits for a class room that is opened after an hour; what is shown has its time."""
    async with Cluster(gateways=1) as cluster:
        before = len(cluster.recorder.events)
        cluster.recorder.started_at -= 60  # As if the lab had lived for a minute.
        t = cluster.recorder.started_at
        for number in range(2 * EVENTS_PER_TICK):
            who = {"user": f"u{number % 50}", "conn_id": f"c{number % 50}"}
            session: dict[str, Any] = {"gateway": "gateway-01", **who}
            happened = Event(Kind.PRESENCE_SET, t + number / 1_000, "gateway-01", **session)
            cluster.recorder.emit(happened)
        async with feeding(cluster) as feed:
            first: list[Any] = feed.listen(lambda _: None)
            assert first == []
            await until("it has read all", lambda: feed._mark >= before + 2 * EVENTS_PER_TICK)
            times = [json.loads(text)["t"] for text in feed.history]
            assert times == sorted(times) and len(times) > 50
            assert kinds(feed).count("set") == 2 * EVENTS_PER_TICK


async def test_a_tick_shows_few_messages_and_says_how_many_it_left_out() -> None:
    """The number of all messages is right."""
    async with Cluster(gateways=1) as cluster, feeding(cluster) as feed:
        ann = await cluster.connect("ann")
        await cluster.connect("ben")
        await asyncio.gather(*(ann.send("ben", "hello") for _ in range(100)))
        await until("all are counted", lambda: replay(feed.history).messages == 100)
        batches = [json.loads(text) for text in feed.history]
        shown = [sum(e["k"] == "msg" for e in batch.get("e", ())) for batch in batches]
        skipped = sum(batch.get("skipped", 0) for batch in batches)
        assert max(shown) <= MESSAGES_PER_TICK
        assert sum(shown) + skipped == 100 and skipped > 0


async def test_who_has_left_is_asked_for_no_more() -> None:
    """The question to Redis does not grow with all users that there have ever been."""
    async with Cluster(gateways=1) as cluster, feeding(cluster) as feed:
        sampler = feed._sampler
        assert sampler is not None
        await cluster.connect_many(20)
        await until("all are asked for", lambda: len(sampler.users) == 20)
        for name in list(cluster.users):
            await cluster.disconnect(name)
        await until("nobody is", lambda: sampler.users == [])


async def test_a_listener_that_fails_hears_no_more_and_the_others_do() -> None:
    """The failure is reported; the feed goes on."""
    loop = asyncio.get_running_loop()
    handler, problems = loop.get_exception_handler(), list[Any]()
    async with Cluster(gateways=1) as cluster:
        loop.set_exception_handler(lambda _, context: problems.append(context["exception"]))
        try:
            heard: list[str] = []

            def fails(_: str) -> None:
                raise ValueError("this board is broken")

            async with feeding(cluster) as feed:
                feed.listen(fails)
                feed.listen(heard.append)
                await until("three batches", lambda: len(heard) >= 3)
        finally:
            loop.set_exception_handler(handler)
    assert [str(problem) for problem in problems] == ["this board is broken"]


async def test_a_note_stands_between_the_events_of_its_time() -> None:
    """What the teacher pressed comes before what it has caused."""
    cluster = Cluster(gateways=2)
    feed = Feed(cluster)
    sampler = Answers("redis://127.0.0.1:1", cluster.keyspace, lambda: feed.now)
    ready, crash = Event(Kind.READY, 1, "gateway-01"), Event(Kind.CRASH, 3, "gateway-01")
    for event in (ready, crash):
        t = cluster.recorder.started_at + event.t
        cluster.recorder.emit(replace(event, t=t))
    feed._notes = [{"k": "act", "t": 2.0, "w": "crash"}, {"k": "vote", "t": 4.0, "n": 1}]
    feed._tick(sampler)
    assert kinds(feed) == ["ready", "act", "crash", "vote"]
    await sampler.stop()


async def test_no_content_of_a_message_is_in_a_batch() -> None:
    """Only who wrote to whom."""
    async with Cluster(gateways=2) as cluster, feeding(cluster) as feed:
        ann = await cluster.connect("ann")
        await cluster.connect("ben", "gateway-02")
        await ann.send("ben", "xyzzy")
        await until("it is shown", seen(feed, "msg"))
        assert "xyzzy" not in "".join(feed.history)
