"""Polling of entries: is Redis asked little, and about everybody?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.waiting import until
from wsdemo.lab.classroom import sampler as samplers
from wsdemo.lab.classroom.sampler import NEVER_S, EntrySample, EntrySampler
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace


async def answer(sampler: EntrySampler) -> EntrySample:
    """Return the next answer."""
    sample: EntrySample = await until("an answer", sampler.poll)
    return sample


@pytest.fixture
def clock() -> list[float]:
    """The time of a sampler: half a second later at each look, so that it always asks again."""
    return [0.0]


def made(url: str, keyspace: Keyspace, clock: list[float]) -> EntrySampler:
    """Return a sampler on that clock."""

    def now() -> float:
        clock[0] += samplers.SAMPLE_S
        return clock[0]

    return EntrySampler(url, keyspace, now)


async def test_one_command_asks_about_all_users(
    server: BundledServer, database: Any, keyspace: Keyspace, clock: list[float]
) -> None:
    """Whoever has an entry, has none, or has something there that is no entry at all."""
    await database.hset(keyspace.presence("ann"), mapping={"gwId": "g", "connId": "c"})
    await database.pexpire(keyspace.presence("ann"), 60_000)
    await database.hset(keyspace.presence("ben"), mapping={"gwId": "g", "connId": b"\xff"})
    await database.set(keyspace.presence("eve"), "no hash")
    sampler = made(server.url, keyspace, clock)
    for user in ("ann", "ben", "eve", "nobody", *(f"user{n:03}" for n in range(300))):
        sampler.add(user)
    sample = await answer(sampler)
    await sampler.stop()
    assert sample.entries is not None and len(sample.entries) == 304
    gateway, conn, ends = sample.entries["ann"]
    assert (gateway, conn) == ("g", "c") and 59 < ends - sample.asked_at < 62
    assert sample.entries["ben"][2] == NEVER_S, "an entry without a lease has no end"
    assert sample.entries["eve"] == sample.entries["nobody"] == ("", "", 0.0)
    calls = (await database.info("commandstats"))["cmdstat_eval"]["calls"]
    assert calls <= 2, "a second question may have been asked meanwhile"


async def test_of_too_many_each_has_a_turn(
    server: BundledServer,
    keyspace: Keyspace,
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """People each time; a crowd of any size is asked for in parts."""
    monkeypatch.setattr(samplers, "SAMPLED", 10)
    sampler = made(server.url, keyspace, clock)
    crowd = [f"user{n:03}" for n in range(25)]
    for user in ("ann", "ben", *crowd):
        sampler.add(user)
    asked: list[list[str]] = []
    for _ in range(4):
        sample = await answer(sampler)
        assert sample.entries is not None and len(sample.entries) == 10
        asked.append(list(sample.entries))
    await sampler.stop()
    assert all({"ann", "ben"} <= set(users) for users in asked)
    assert {user for users in asked for user in users} == {"ann", "ben", *crowd}


async def test_an_answer_from_before_an_outage_does_not_count(
    server: BundledServer, keyspace: Keyspace, clock: list[float]
) -> None:
    """Redis may have answered just before it stopped."""
    sampler = made(server.url, keyspace, clock)
    sampler.add("ann")
    assert sampler.poll() is None
    sampler.outage()
    assert (await answer(sampler)).entries is None
    assert (await answer(sampler)).entries is not None
    await sampler.stop()


async def test_an_outage_between_an_answer_and_the_look_at_it_counts_too(
    server: BundledServer, keyspace: Keyspace, clock: list[float]
) -> None:
    """What Redis said before it stopped is no longer so."""
    sampler = made(server.url, keyspace, clock)
    sampler.add("ann")
    assert sampler.poll() is None
    await until("Redis has answered", lambda: sampler._asking and sampler._asking.done())
    sampler.outage()
    assert (await answer(sampler)).entries is None
    await sampler.stop()


async def test_a_server_that_is_not_there_is_no_error(
    server: BundledServer, keyspace: Keyspace, clock: list[float]
) -> None:
    """The answer says that there is none; nothing is left of the question."""
    sampler = made(server.url, keyspace, clock)
    sampler.add("ann")
    assert (await answer(sampler)).entries is not None
    server.stop()
    assert (await answer(sampler)).entries is None
    assert sampler.poll() is None
    await sampler.stop()
    await sampler.stop()
