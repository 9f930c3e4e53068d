"""Does every command find its reply, or its documented absence, whatever becomes of the server?"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis.asyncio as redis_client

from tests.examples import rounds
from tests.redis_states import free_port
from tests.waiting import until
from wsdemo.presence.store import MINT
from wsdemo.redis.connection import (
    BACKOFF_CAP_S,
    BACKOFF_FIRST_S,
    Backoff,
    CommandError,
    RedisConnection,
    RedisUnavailable,
)
from wsdemo.redis.link import LinkBusy, LinkDown, LinkTimeout, RedisLink
from wsdemo.redis.scripts import Script
from wsdemo.redis.server import BundledServer
from wsdemo.redis.subscription import Subscription
from wsdemo.rig.wire import Wire
from wsdemo.router import trial_of
from wsdemo.settings import Keyspace, Limits

pytestmark = pytest.mark.both_loops
TIMEOUT_S = 2.0
"""What has to be answered is answered by then also on a machine that stalls."""


@pytest.fixture
def own_server() -> Iterator[BundledServer]:
    """A server that a test may kill."""
    with BundledServer() as server:
        yield server


@pytest.fixture
async def link(own_server: BundledServer) -> AsyncIterator[RedisLink]:
    limits = dataclasses.replace(Limits(), redis_timeout_s=TIMEOUT_S, redis_max_pending=1000)
    link = RedisLink(own_server.url, limits, lambda up: None, (MINT,))
    await link.start()
    yield link
    await link.stop()


async def test_replies_come_back_in_the_order_of_the_commands(link: RedisLink) -> None:
    """Five hundred in one turn of the loop."""
    replies = await asyncio.gather(*(link.call("ECHO", str(n)) for n in range(500)))
    assert replies == [str(n).encode() for n in range(500)]


async def test_an_error_reply_belongs_to_its_own_command_only(link: RedisLink) -> None:
    """The one before and the one after have theirs."""
    before: Any
    error: Any
    after: Any
    before, error, after = await asyncio.gather(
        link.call("ECHO", "a"),
        link.call("NOSUCHCOMMAND"),
        link.call("ECHO", "b"),
        return_exceptions=True,
    )
    assert (before, after) == (b"a", b"b")
    assert isinstance(error, CommandError)


async def test_a_script_that_the_server_forgot_is_sent_again_and_order_is_kept(
    link: RedisLink,
) -> None:
    """SCRIPT FLUSH between two turns: nobody notices."""
    await link.call("SCRIPT", "FLUSH")
    replies = await asyncio.gather(*(link.run(MINT, ["fence:x"], 60_000) for _ in range(50)))
    tokens = [int(reply) for reply in replies]
    assert tokens == sorted(set(tokens))


async def test_commands_after_a_forgotten_script_keep_their_order(
    link: RedisLink,
) -> None:
    """Also what is issued while the scripts of before are found to be forgotten, one by one."""
    push = Script("push", "return redis.call('RPUSH', KEYS[1], ARGV[1])")
    replies: list[Any] = []

    def issue_last(reply: Any) -> None:
        replies.append(reply)
        link.submit(replies.append, "RPUSH", "order", "last")

    link.submit_script(replies.append, push, ("order",), "first")
    link.submit(issue_last, "ECHO", "between")
    link.submit_script(replies.append, push, ("order",), "second")
    await until("each has its answer", lambda: len(replies) == 4)
    assert replies == [b"between", 1, 2, 3]
    assert await link.call("LRANGE", "order", 0, -1) == [b"first", b"second", b"last"]


async def test_every_command_to_a_dead_server_ends_with_an_error(
    link: RedisLink, own_server: BundledServer
) -> None:
    """What was under way is `LinkTimeout`; what comes later `LinkDown`; then it is back."""
    own_server.pause()
    under_way = asyncio.ensure_future(link.call("ECHO", "x"))
    await asyncio.sleep(0)
    own_server.kill()
    with pytest.raises(LinkTimeout):
        await under_way
    with pytest.raises(LinkDown):
        await link.call("ECHO", "x")
    own_server.restart(empty=True)
    await until("the link is up again", lambda: link.up)
    assert await link.call("ECHO", "back") == b"back"


async def test_a_frozen_server_costs_one_timeout(
    link: RedisLink, own_server: BundledServer
) -> None:
    """All that waits is unknown at once, and no late reply finds a wrong command."""
    own_server.pause()
    waiting = [asyncio.ensure_future(link.call("ECHO", str(n))) for n in range(10)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, LinkTimeout) for result in results)
    own_server.resume()
    await until("the link is up again", lambda: link.up)
    replies = await asyncio.gather(*(link.call("ECHO", f"new {n}") for n in range(10)))
    assert replies == [f"new {n}".encode() for n in range(10)]


@pytest.mark.slow
async def test_a_stall_of_our_own_loop_does_not_count_as_a_redis_timeout(
    link: RedisLink,
) -> None:
    """Not even its command has left; from now on it gets a moment."""
    replies: list[Any] = []
    link.submit(replies.append, "ECHO", "x")
    time.sleep(1.5 * TIMEOUT_S)
    await until("it has its answer", lambda: replies)
    assert (replies, link.timeouts, link.up) == ([b"x"], 0, True)


async def test_the_queue_for_a_stalled_server_is_bounded(
    link: RedisLink, own_server: BundledServer
) -> None:
    """The thousand and first command is refused as busy."""
    own_server.pause()
    replies: list[Any] = []
    for _ in range(1000):
        link.submit(replies.append, "ECHO", "x")
    with pytest.raises(LinkBusy):
        link.submit(replies.append, "ECHO", "one too many")
    await until("each has its answer", lambda: len(replies) == 1000)
    own_server.resume()


async def test_a_start_without_a_server_fails_with_one_line() -> None:
    """No retry for ever, no traceback of a library."""
    link = RedisLink("redis://127.0.0.1:1", Limits(), lambda up: None)
    with pytest.raises(RedisUnavailable) as problem:
        await link.start()
    assert "\n" not in str(problem.value)
    await link.stop()


async def test_a_renewed_subscription_is_reported_as_a_gap(own_server: BundledServer) -> None:
    """Messages may be missing between the two confirmations, and somebody should know."""
    heard: list[bytes] = []
    gaps: list[int] = []
    subscription = Subscription(
        own_server.url,
        Limits(),
        ["news"],
        lambda channel, data: heard.append(data),
        lambda: gaps.append(1),
        lambda up: None,
    )
    link = RedisLink(own_server.url, Limits(), lambda up: None)
    await subscription.start()
    await link.start()
    assert await link.call("PUBLISH", "news", "one") == 1
    await until("it is heard", lambda: heard == [b"one"])
    assert not gaps
    await link.call("CLIENT", "KILL", "TYPE", "pubsub")
    await until("the gap is reported", lambda: gaps)

    async def arrives() -> bool:
        return bool(await link.call("PUBLISH", "news", "two"))

    await until("it is subscribed again", arrives)
    await until("it is heard", lambda: heard[-1] == b"two")
    await subscription.stop()
    await link.stop()


# --- commands that wait behind a script which the server has forgotten ---------------------------


@pytest.fixture
async def patient(own_server: BundledServer) -> AsyncIterator[RedisLink]:
    """A link that waits as long as it takes."""
    limits = dataclasses.replace(Limits(), redis_timeout_s=60.0, redis_max_pending=1000)
    link = RedisLink(own_server.url, limits, lambda up: None, (MINT,))
    await link.start()
    yield link
    await link.stop()


async def held_back(link: RedisLink) -> list[asyncio.Future[Any]]:
    """Bring a link to where it holds commands back; they wait until the returned are answered.

    A script is missing, so what comes behind it has to wait; and it cannot be sent again before
    everything on the way has been answered, of which one waits for somebody to fill a list.
    """
    await link.call("SCRIPT", "FLUSH")
    script = link.start_script(MINT, ["fence:x"], 60_000)
    slow = asyncio.ensure_future(link.call("BLPOP", "list", "0"))
    await until("the script is missing", lambda: link._missing)
    assert not script.done() and not slow.done()
    return [script, slow]


async def test_held_commands_count_against_the_bound(
    patient: RedisLink, own_server: BundledServer
) -> None:
    """Otherwise a server that forgot a script would be owed more than there is room for."""
    script, slow = await held_back(patient)
    replies: list[Any] = []
    with pytest.raises(LinkBusy):
        for n in range(1001):
            patient.submit(replies.append, "ECHO", str(n))
    assert 990 < len(patient._held) <= 1000
    async with redis_client.Redis.from_url(own_server.url) as database:
        await database.lpush("list", "x")
    await asyncio.gather(script, slow)
    assert await patient.call("ECHO", "behind all") == b"behind all"
    assert replies == [str(n).encode() for n in range(len(replies))]
    assert len(replies) > 990


async def test_held_commands_are_answered_when_the_link_breaks(
    patient: RedisLink, own_server: BundledServer
) -> None:
    """Each once, as unknown; and none of them reaches the next connection."""
    waiting = await held_back(patient)
    replies: list[Any] = []
    for _ in range(10):
        patient.submit(replies.append, "INCR", "count")
    own_server.kill()
    await until("all are answered", lambda: len(replies) == 10)
    assert all(isinstance(reply, LinkTimeout) for reply in replies)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, LinkTimeout) for result in results)
    own_server.start()
    await until("the link is up again", lambda: patient.up)
    assert await patient.call("GET", "count") is None


# --- what a break takes with it, and what not ----------------------------------------------------


async def test_unsent_commands_do_not_reach_the_next_connection(link: RedisLink) -> None:
    """Its outcome was told as unknown: executed later, it would be a lie of another kind."""
    replies: list[Any] = []
    link.submit(replies.append, "INCR", "count")
    link.reset()  # In the same turn of the loop, so before the write.
    assert [type(reply) for reply in replies] == [LinkTimeout]
    await until("the link is up again", lambda: link.up)
    assert await link.call("GET", "count") is None


async def test_after_a_break_while_writing_was_paused_the_new_connection_writes(
    own_server: BundledServer,
) -> None:
    """A transport that is gone never says that it may be written to again."""
    # Patient: on a busy machine, thirty megabytes take longer than a usual timeout.
    patient = dataclasses.replace(Limits(), redis_timeout_s=20.0, redis_max_pending=1000)
    link = RedisLink(own_server.url, patient, lambda up: None)
    await link.start()
    own_server.pause()
    replies: list[Any] = []
    big = "x" * 1_000_000
    for _ in range(30):
        link.submit(replies.append, "ECHO", big)
        await asyncio.sleep(0)
    await until("writing is paused", lambda: link._write_paused)
    link.reset()
    assert len(replies) == 30
    own_server.resume()
    await until("the link is up again", lambda: link.up)
    assert await link.call("ECHO", "written") == b"written"
    await link.stop()


async def test_a_command_sent_during_the_break_gets_link_down(
    link: RedisLink,
) -> None:
    """Not queued for a connection that does not exist yet."""
    outcomes: list[Any] = []

    def again(reply: Any) -> None:
        outcomes.append(type(reply))
        try:
            link.submit(outcomes.append, "INCR", "count")
        except LinkDown:
            outcomes.append(LinkDown)

    link.submit(again, "ECHO", "x")
    link.reset()
    assert outcomes == [LinkTimeout, LinkDown]
    await until("the link is up again", lambda: link.up)
    assert await link.call("GET", "count") is None
    assert outcomes == [LinkTimeout, LinkDown]


async def test_a_write_that_the_transport_refuses_ends_the_connection_and_nothing_else(
    link: RedisLink,
) -> None:
    """A transport may be closed before we hear of it: uvloop's raises then."""
    transport = link._transport
    assert transport is not None
    command = asyncio.ensure_future(link.call("ECHO", "x"))
    await asyncio.sleep(0)
    transport.abort()
    other = asyncio.ensure_future(link.call("ECHO", "y"))
    results = await asyncio.gather(command, other, return_exceptions=True)
    assert all(isinstance(result, LinkTimeout | LinkDown) for result in results)
    await until("the link is up again", lambda: link.up)


# --- dialling ------------------------------------------------------------------------------------


def test_pauses_between_attempts_grow_to_a_cap_and_differ() -> None:
    """All gateways lost the same server at the same moment, and must not come back in step."""
    one, other = Backoff(), Backoff()
    pauses = [(one.next_s(), other.next_s()) for _ in range(20)]
    assert all(a != b for a, b in pauses)
    for n, pair in enumerate(pauses):
        size_s = min(BACKOFF_FIRST_S * 2**n, BACKOFF_CAP_S)
        assert all(size_s / 4 <= pause_s <= size_s for pause_s in pair)
    one.reset()
    assert one.next_s() <= BACKOFF_FIRST_S


def test_pauses_follow_from_a_given_source_of_randomness() -> None:
    """The same seed has the same pauses, so a simulation can be repeated."""
    one, other = Backoff(random.Random(1)), Backoff(random.Random(1))
    assert [one.next_s() for _ in range(9)] == [other.next_s() for _ in range(9)]


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@contextlib.asynccontextmanager
async def endpoint(talk: Talk) -> AsyncIterator[tuple[str, list[float]]]:
    """Something at a port that is no Redis; the list grows by the time of each connection."""
    times: list[float] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        times.append(asyncio.get_running_loop().time())
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await talk(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", times
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.slow
async def test_a_refusing_server_is_dialled_with_growing_pauses(
    own_server: BundledServer,
) -> None:
    """The pauses are those of the back-off, from the first attempt to the last."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with endpoint(hang_up) as (url, times):
        async with Wire("127.0.0.1", own_server.port) as wire:
            by_wire = own_server.url_by(wire.port)
            link = RedisLink(by_wire, Limits(), lambda up: None)
            await link.start()
            wire.lead_to(int(url.rpartition(":")[2]))
            wire.cut()
            await until("six attempts", lambda: len(times) == 6)
            pauses = [after - before for before, after in itertools.pairwise(times)]
            # The fifth pause is at least a quarter of 0.8 s; without growth all were below 0.05 s.
            assert pauses[-1] >= 0.8 / 4
            assert not link.up
            wire.lead_to(own_server.port)
            await until("the link is up again", lambda: link.up)
            await link.stop()


MASTER = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"


@pytest.mark.parametrize("last_words", [MASTER + b"garbage\r\n", MASTER[:-1]])
async def test_a_connection_that_breaks_during_its_set_up_is_not_up(last_words: bytes) -> None:
    """Also when all answers have come, and the end before anybody could look at them."""

    async def greet_and_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(last_words)
        await writer.drain()

    states: list[bool] = []
    async with endpoint(greet_and_go) as (url, _):
        link = RedisLink(url, Limits(), states.append)
        with pytest.raises(RedisUnavailable):
            await link.start()
        assert not link.up and not link.open
        assert states == []
        with pytest.raises(LinkDown):
            await link.call("ECHO", "x")
        await link.stop()


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak Redis"),
        (b"-no upstream host\r\n-no upstream host\r\n", "no upstream host"),
        (b"+OK\r\n+OK\r\n", "is no Redis"),
        (b"-ERR unknown command\r\n-ERR unsupported command\r\n", "unsupported command"),
        (b"", r"closed the connection|reset by peer"),
    ],
)
async def test_a_server_that_is_not_redis_is_refused_and_quoted(says: bytes, reason: str) -> None:
    """Another program at the port, or a proxy without a server behind it: in one line."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(says)
        await writer.drain()
        if not says:
            return
        await reader.read()

    async with endpoint(speak) as (url, _):
        link = RedisLink(url, Limits(), lambda up: None, trial=trial_of(Keyspace("t:")))
        with pytest.raises(RedisUnavailable, match=reason) as problem:
            await link.start()
        assert "\n" not in str(problem.value)
        await link.stop()


async def test_an_unexpected_reply_ends_the_connection(link: RedisLink) -> None:
    """A goodbye of a proxy is the reply to nothing: it ends the connection, with its words."""
    troubles: list[Any] = []
    link._on_trouble = troubles.append
    link.data_received(b"-ERR idle for too long\r\n")
    assert not link.up
    assert "idle for too long" in troubles[0].words
    await until("the link is up again", lambda: link.up)


# --- listening -----------------------------------------------------------------------------------


async def test_a_subscription_is_up_only_when_all_its_channels_are_confirmed() -> None:
    """Between the two confirmations, half of what is said would be missed."""
    second = asyncio.Event()

    async def confirm(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(MASTER)
        writer.write(b"*3\r\n$9\r\nsubscribe\r\n$3\r\none\r\n:1\r\n")
        await second.wait()
        writer.write(b"*3\r\n$9\r\nsubscribe\r\n$3\r\ntwo\r\n:2\r\n")
        await reader.read()

    states: list[bool] = []
    async with endpoint(confirm) as (url, _):
        subscription = Subscription(
            url, Limits(), ["one", "two"], lambda *said: None, on_state=states.append
        )
        starting = asyncio.create_task(subscription.start(), name="starting")
        await until("one is confirmed", lambda: subscription._waiting == {b"two"})
        assert not subscription.up and not starting.done()
        assert subscription.rounds == 0
        second.set()
        await starting
        assert subscription.up and states == [True]
        await subscription.stop()


async def test_messages_published_before_unsubscribing_are_received(
    own_server: BundledServer,
) -> None:
    """Whoever sent it was told that somebody listens. The wire brings it late, and in order."""
    heard: list[bytes] = []
    async with Wire("127.0.0.1", own_server.port) as wire:
        by_wire = own_server.url_by(wire.port)
        subscription = Subscription(
            by_wire, Limits(), ["news"], lambda channel, data: heard.append(data)
        )
        link = RedisLink(own_server.url, Limits(), lambda up: None)
        await subscription.start()
        await link.start()
        wire.hold("down")
        assert await link.call("PUBLISH", "news", "one") == 1
        leaving = asyncio.create_task(subscription.unsubscribe(), name="leaving")

        async def has_left() -> bool:
            return bool(await link.call("PUBSUB", "NUMSUB", "news") == [b"news", 0])

        await until("the server knows that it has left", has_left)
        assert not leaving.done()
        wire.release("down")
        await asyncio.wait_for(leaving, 10)
        await subscription.stop()
        assert heard == [b"one"]
        await link.stop()


async def test_a_gateway_without_the_right_to_unsubscribe_still_stops(
    own_server: BundledServer,
) -> None:
    """At once, and not after a timeout."""
    link = RedisLink(own_server.url, Limits(), lambda up: None)
    await link.start()
    rules = ("on", ">pw", "allchannels", "+subscribe", "+role")
    await link.call("ACL", "SETUSER", "some", *rules)
    subscription = Subscription(
        f"redis://some:pw@127.0.0.1:{own_server.port}",
        dataclasses.replace(Limits(), redis_timeout_s=60.0),
        ["news"],
        lambda channel, data: None,
    )
    await subscription.start()
    await asyncio.wait_for(subscription.unsubscribe(), 20)
    await subscription.stop()
    await link.stop()


@pytest.mark.slow
async def test_a_reason_is_logged_once_for_each_outage(
    link: RedisLink, own_server: BundledServer
) -> None:
    """However many attempts there were."""
    troubles: list[Any] = []
    link._on_trouble = troubles.append
    for _ in range(2):
        troubles.clear()
        own_server.kill()
        await until("it is away", lambda: not link.up)
        await until("nobody is there", lambda: any("refused" in t.words for t in troubles))
        await until("it has tried again", lambda: link._backoff._size_s > 8 * BACKOFF_FIRST_S)
        assert len(troubles) == len(set(troubles))
        assert sum("refused" in trouble.words for trouble in troubles) == 1
        own_server.start()
        await until("the link is up again", lambda: link.up)
        assert link.trouble is None


async def test_changing_error_texts_do_not_fill_the_log() -> None:
    """Some reasons are told, then no more; what is known is always the last."""
    count = 0

    async def complain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        await reader.read(1)
        writer.write(2 * (b"-no upstream host, %d\r\n" % count))
        await writer.drain()

    troubles: list[Any] = []
    async with endpoint(complain) as (url, _):
        trial = trial_of(Keyspace("t:"))
        connection = RedisLink(
            url, Limits(), lambda up: None, trial=trial, on_trouble=troubles.append
        )
        connection._backoff.next_s = lambda: 0.001  # type: ignore[method-assign]
        starting = asyncio.create_task(connection.start(60.0), name="starting")
        await until("many attempts", lambda: count > 50)
        assert len(troubles) <= 16
        assert connection.trouble is not None and connection.trouble not in troubles
        starting.cancel()
        await asyncio.wait([starting])
        await connection.stop()


async def test_a_start_fails_at_once_when_nobody_listens() -> None:
    """Patience is for those who are there."""
    link = RedisLink(f"redis://127.0.0.1:{free_port()}", Limits(), lambda up: None)
    with pytest.raises(RedisUnavailable) as problem:
        await asyncio.wait_for(link.start(60.0), 20)
    assert not problem.value.answered
    assert isinstance(link, RedisConnection) and not link.open


@pytest.mark.both_loops
async def test_a_deadline_that_is_less_than_a_clock_tick_away_is_still_a_deadline(
    own_server: BundledServer, link: RedisLink
) -> None:
    """The timer of a command may be set when it is as good as due; the commands behind it have
    theirs all the same.
    """
    own_server.pause()
    try:
        call = asyncio.create_task(link.call("PING"))
        await until("it is on its way", lambda: link._pending)
        assert link._timer is not None
        link._timer.cancel()
        link._arm(asyncio.get_running_loop().time())
        with pytest.raises(LinkTimeout):
            await asyncio.wait_for(call, 10)
    finally:
        own_server.resume()


@pytest.mark.parametrize("steps", range(0, 40, 40 // rounds(40, fast=8)))
async def test_stop_ends_a_reconnect_at_any_step(own_server: BundledServer, steps: int) -> None:
    """Also where the library that dials swallows the cancellation: it may be told twice."""
    connections = [
        RedisLink(own_server.url, Limits(), lambda up: None, (MINT,)),
        Subscription(own_server.url, Limits(), ("a", "b"), lambda channel, message: None),
    ]
    for connection in connections:
        connection._backoff.next_s = lambda: 0.0  # type: ignore[method-assign]
        await connection.start()
        connection.reset()
        for _ in range(steps):
            await asyncio.sleep(0)
        await asyncio.wait_for(connection.stop(), 10)
        assert not connection.open and connection._transport is None


async def test_what_is_asked_first_is_answered_before_anything_else_may_be_asked(
    own_server: BundledServer,
) -> None:
    """On each new connection; and a refusal is an answer."""
    heard: list[Any] = []
    when: list[int] = []
    link = RedisLink(own_server.url, Limits(), lambda up: when.append(len(heard)))
    link.ask_first(heard.append, "INFO", "server")
    link.ask_first(heard.append, "NONSENSE")
    link.load([MINT])
    await link.start()
    assert b"run_id:" in heard[0] and isinstance(heard[1], CommandError)
    assert (await link.call("SCRIPT", "EXISTS", MINT.sha)) == [1]
    link.reset()
    await until("there is a new connection", lambda: link.up)
    assert when == [2, 2, 4], "up, down, and up again"
    assert heard[2].split(b"run_id:")[1][:40] == heard[0].split(b"run_id:")[1][:40]
    await link.stop()
