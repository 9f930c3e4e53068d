"""Does every command find its reply, or its documented absence, whatever becomes of the server?"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.waiting import until
from wsdemo.presence.store import MINT
from wsdemo.redis.connection import CommandError, RedisUnavailable
from wsdemo.redis.link import LinkBusy, LinkDown, LinkTimeout, RedisLink
from wsdemo.redis.server import BundledServer
from wsdemo.redis.subscription import Subscription
from wsdemo.settings import Limits


@pytest.fixture
def own_server() -> Iterator[BundledServer]:
    """A server that a test may kill."""
    with BundledServer() as server:
        yield server


@pytest.fixture
async def link(own_server: BundledServer) -> AsyncIterator[RedisLink]:
    limits = dataclasses.replace(Limits(), redis_timeout_s=0.5, redis_max_pending=1000)
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


async def test_a_command_to_a_dead_server_is_refused_or_unknown_never_silent(
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


async def test_a_server_that_stands_still_costs_one_timeout(
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


async def test_what_waits_for_a_stalled_server_is_bounded(
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


async def test_starting_without_a_server_says_so_in_one_line() -> None:
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
