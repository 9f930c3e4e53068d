"""Is a command with a deadline executed before it, or never, whatever the two clocks say?"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import redis.asyncio as redis_client
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import until
from wsdemo.redis.deadline import NO_DEADLINE, ServerClock
from wsdemo.redis.link import LinkTimeout, RedisLink
from wsdemo.redis.scripts import Script
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Limits

pytestmark = pytest.mark.both_loops

TIMEOUT_S: Final = 0.5
STALL_S: Final = 0.9
"""So long stands our own loop still: it is noticed, and the link stays up."""
APPEND: Final = Script(
    "append",
    """
    local now = redis.call('TIME')
    if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[2]) then return {'expired'} end
    return {'done', redis.call('RPUSH', KEYS[1], ARGV[1])}
    """,
)
"""A script that knows deadlines."""


class Appender:
    """Appends words to a list by scripts with a deadline."""

    def __init__(self, link: RedisLink, key: str) -> None:
        self.link, self.key = link, key
        self.outcomes: list[str] = []
        """What became of each, in order: `done`, or the name of an exception."""

    def append(self, word: str) -> None:
        """Send the script; its deadline begins now."""
        self.link.submit_in_time(self._hear, APPEND, [self.key], word)

    def _hear(self, reply: Any) -> None:
        told = self.link.in_time(reply)
        is_problem = isinstance(told, Exception)
        self.outcomes.append(type(told).__name__ if is_problem else told[0].decode())

    async def outcome_of(self, word: str) -> str:
        number = len(self.outcomes) + 1
        self.append(word)
        await until("it is answered", lambda: len(self.outcomes) >= number)
        return self.outcomes[-1]


@pytest.fixture
async def appender(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Appender]:
    limits = dataclasses.replace(Limits(), redis_timeout_s=TIMEOUT_S)
    link = RedisLink(shared_server.url, limits, scripts=(APPEND,))
    link.keep_deadlines()
    await link.start()
    yield Appender(link, keyspace.key("list", "words"))
    await link.call("DEL", keyspace.key("list", "words"))
    await link.stop()


def reply(time_s: float) -> list[bytes]:
    """What TIME answers at this time."""
    micros = round(1e6 * time_s)
    return [b"%d" % (micros // 1_000_000), b"%d" % (micros % 1_000_000)]


def until_s(clock: ServerClock, deadline: float) -> float:
    """A deadline of ours, as the server reads it."""
    return int(clock.argument(deadline).split(b"\r\n")[1]) / 1000


# --- clocks ------------------------------------------------------------------------------------


_WAY: Final = st.floats(0.001, 2)


@given(
    ahead=st.floats(-1e9, 1e9),
    rounds=st.lists(st.tuples(_WAY, _WAY, st.floats(0, 9)), min_size=1),
)
def test_a_deadline_is_never_late(ahead: float, rounds: list[tuple[float, float, float]]) -> None:
    """Whatever the ways to the server and back take; and it is early by the shortest of all at the
    most.
    """
    clock, now = ServerClock(), 2e9
    for there, back, pause in rounds:
        asked, heard = now, now + there + back
        clock.hear(asked, reply(asked + there + ahead), heard)
        now = heard + pause
    early = now + ahead - until_s(clock, now)
    assert -0.001 <= early <= min(there + back for there, back, _ in rounds) + 0.002


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_clock_that_was_set_is_believed_at_once(step_s: float) -> None:
    clock, start = ServerClock(), 1e9
    clock.hear(10.0, reply(start), 10.1)
    clock.hear(20.0, reply(start + 10 + step_s), 20.1)
    assert until_s(clock, 30.0) - (start + 20 + step_s) == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("nonsense", [None, b"1", [], [b"1"], [b"x", b"y"], LinkTimeout("lost")])
def test_what_is_no_time_changes_nothing(nonsense: Any) -> None:
    """Redis may refuse to tell it, or be away."""
    clock = ServerClock()
    clock.hear(0.0, nonsense, 1.0)
    assert clock.argument(5.0) == NO_DEADLINE
    clock.hear(10.0, reply(1000.0), 10.1)
    known = clock.argument(5.0)
    clock.hear(20.0, nonsense, 20.1)
    assert clock.argument(5.0) == known


def test_a_new_connection_forgets_the_clock_of_the_last() -> None:
    """It may go to another server."""
    clock = ServerClock()
    clock.hear(10.0, reply(1000.0), 10.1)
    clock.forget()
    assert not clock.known and clock.argument(5.0) == NO_DEADLINE


@pytest.mark.parametrize("time_s", [0.0, 1.0, 1e9, 9_999_999_999.0, 1e12])
def test_all_deadlines_are_equally_long(time_s: float) -> None:
    """So one may be put in the place of another."""
    clock = ServerClock()
    clock.hear(0.0, reply(time_s), 0.0)
    assert len(clock.argument(-5.0)) == len(clock.argument(5.0)) == len(NO_DEADLINE)


# --- commands ----------------------------------------------------------------------------------


async def test_a_command_in_time_is_executed(appender: Appender) -> None:
    assert await appender.outcome_of("one") == "done"
    assert appender.link.expired == 0


async def test_a_command_that_our_own_loop_has_kept_too_long_is_not_executed(
    appender: Appender,
) -> None:
    """It was sent before the loop stood still, and leaves after it (fault 182)."""
    appender.append("late")
    time.sleep(STALL_S)
    appender.append("next")
    await until("both are answered", lambda: len(appender.outcomes) == 2)
    assert appender.outcomes == ["LinkTimeout", "done"] and appender.link.expired == 1
    assert await appender.link.call("LRANGE", appender.key, 0, -1) == [b"next"]


async def test_a_clock_that_was_set_forward_costs_one_round_trip(appender: Appender) -> None:
    """What was sent by the old clock expires, and is told; then it is known (fault 181)."""
    link = appender.link
    ours = asyncio.get_running_loop().time()
    link._clock.forget()
    link._hear_time(ours, reply(time.time() - 3600))
    assert await appender.outcome_of("lost") == "LinkTimeout"
    await until("the clock was read anew", lambda: not link._asks_time)
    assert await appender.outcome_of("found") == "done"
    assert await link.call("LRANGE", appender.key, 0, -1) == [b"found"]


async def test_a_clock_that_was_set_back_is_noticed_by_the_next_check(appender: Appender) -> None:
    """Until then, a deadline is later than it should be (fault 181)."""
    link = appender.link
    ours = asyncio.get_running_loop().time()
    link._clock.forget()
    link._hear_time(ours, reply(time.time() + 3600))
    link.check()
    await until("the clock was read anew", lambda: not link._asks_time)
    assert until_s(link._clock, ours) <= time.time() + 1


async def test_a_forgotten_script_is_sent_again_with_its_deadline(appender: Appender) -> None:
    """SCRIPT FLUSH: the text goes out, with the same last argument."""
    await appender.link.call("SCRIPT", "FLUSH")
    assert await appender.outcome_of("one") == "done"
    await appender.link.call("SCRIPT", "FLUSH")
    appender.append("late")
    time.sleep(STALL_S)
    await until("both are answered", lambda: len(appender.outcomes) == 2)
    assert appender.outcomes == ["done", "LinkTimeout"]


async def test_without_the_clock_of_the_server_nothing_expires(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """A link that nobody has told to keep deadlines."""
    limits = dataclasses.replace(Limits(), redis_timeout_s=TIMEOUT_S)
    link = RedisLink(shared_server.url, limits, scripts=(APPEND,))
    await link.start()
    try:
        appender = Appender(link, keyspace.key("list", "words"))
        appender.append("late")
        time.sleep(STALL_S)
        await until("it is answered", lambda: appender.outcomes)
        assert appender.outcomes == ["done"]
        await link.call("DEL", appender.key)
    finally:
        await link.stop()


async def test_what_a_frozen_server_finds_in_its_sockets_is_not_executed(
    server: BundledServer, database: redis_client.Redis
) -> None:
    """Fault 180: it goes on after all deadlines, and executes nothing of what was given up."""
    limits = dataclasses.replace(Limits(), redis_timeout_s=TIMEOUT_S)
    link = RedisLink(server.url, limits, scripts=(APPEND,))
    link.keep_deadlines()
    await link.start()
    try:
        appender = Appender(link, "words")
        server.pause()
        for n in range(10):
            appender.append(str(n))
        await until("all are given up", lambda: len(appender.outcomes) == 10)
        over_at = asyncio.get_running_loop().time() + TIMEOUT_S
        await until("the deadlines are over", lambda: asyncio.get_running_loop().time() > over_at)
        server.resume()
        await until("the link is up again", lambda: link.up)
        assert await appender.outcome_of("last") == "done"
        assert set(appender.outcomes[:-1]) == {"LinkTimeout"}
        assert await link.call("LRANGE", "words", 0, -1) == [b"last"]
    finally:
        await link.stop()
