"""Channels that come and go: does a subscription say truly what it hears?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import redis.asyncio as redis_client

from tests.waiting import until
from wsdemo.redis.outcome import CommandError, Trouble
from wsdemo.redis.server import BundledServer
from wsdemo.redis.subscription import Subscription
from wsdemo.rig.wire import Wire
from wsdemo.settings import Keyspace, Limits

pytestmark = pytest.mark.both_loops

FEW_RIGHTS = ("on", ">pw", "resetchannels", "+@pubsub", "+role")


@dataclass
class Heard:
    """A subscription over a wire, and all that it has told."""

    subscription: Subscription
    wire: Wire
    database: redis_client.Redis
    base: str
    messages: list[tuple[str, str]] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    def channel(self, name: str) -> str:
        return f"{self.base}:{name}"

    async def publish(self, name: str, text: str) -> int:
        """Return how many have been sent it."""
        return int(await self.database.publish(self.channel(name), text))

    async def listeners(self, name: str) -> int:
        ((_, count),) = await self.database.pubsub_numsub(self.channel(name))
        return int(count)

    async def hears(self, name: str) -> bool:
        """Whether the server counts us for this channel, and what is published there arrives."""
        if not await self.publish(name, "?"):
            return False
        await until("it has arrived", lambda: (self.channel(name), "?") in self.messages)
        self.messages.clear()
        return True


@contextlib.asynccontextmanager
async def listening(server: BundledServer, base: str, user: str = "") -> AsyncIterator[Heard]:
    async with (
        Wire("127.0.0.1", server.port) as wire,
        redis_client.Redis.from_url(server.url, decode_responses=True) as database,
    ):
        if user:
            rules = (*FEW_RIGHTS, f"&{base}:base", f"&{base}:open*")
            await database.execute_command("ACL", "SETUSER", user, *rules)
        by_wire = server.url_by(wire.port)
        subscription = Subscription(
            f"redis://{user}:pw@127.0.0.1:{wire.port}" if user else by_wire,
            Limits(),
            [f"{base}:base"],
            lambda channel, data: heard.messages.append((channel.decode(), data.decode())),
            on_gap=lambda: heard.gaps.append(subscription.rounds),
            on_trouble=lambda trouble: heard.troubles.append(trouble),
        )
        heard = Heard(subscription, wire, database, base)
        await subscription.start()
        try:
            yield heard
        finally:
            await subscription.stop()
            if user:
                await database.execute_command("ACL", "DELUSER", user)


@pytest.fixture
async def heard(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Heard]:
    async with listening(shared_server, keyspace.prefix) as made:
        yield made


async def test_an_added_channel_is_heard_from_its_confirmation_on(heard: Heard) -> None:
    confirmed = heard.subscription.add(heard.channel("room"))
    assert not confirmed.done(), "nobody has said so yet"
    await confirmed
    assert await heard.publish("room", "hello") == 1
    await until("it arrives", lambda: heard.messages == [(heard.channel("room"), "hello")])


async def test_a_channel_that_is_added_twice_is_confirmed_once(heard: Heard) -> None:
    """While the first is under way both wait for it; later there is nothing to wait for."""
    first = heard.subscription.add(heard.channel("room"))
    assert heard.subscription.add(heard.channel("room")) is first
    await first
    assert heard.subscription.add(heard.channel("room")).done()


async def test_a_removed_channel_is_heard_no_more(heard: Heard) -> None:
    await heard.subscription.add(heard.channel("room"))
    heard.subscription.remove(heard.channel("room"))
    await heard.subscription.add(heard.channel("other"))  # Its answer comes after the other one's.
    assert await heard.publish("room", "?") == 0
    assert await heard.hears("other") and await heard.hears("base")


async def test_the_removal_of_a_channel_that_was_never_added_is_not_sent(heard: Heard) -> None:
    heard.subscription.remove(heard.channel("base"))
    heard.subscription.remove(heard.channel("room"))
    await heard.subscription.add(heard.channel("other"))
    assert await heard.hears("base")


async def test_who_waits_for_a_channel_that_is_removed_is_cancelled(heard: Heard) -> None:
    waiting = heard.subscription.add(heard.channel("room"))
    heard.subscription.remove(heard.channel("room"))
    assert waiting.cancelled()


async def test_the_confirmation_before_a_removal_is_not_taken_for_the_one_after_it(
    heard: Heard,
) -> None:
    """The answers to the first two commands are held on the wire; only the third one counts."""
    heard.wire.hold("down")
    heard.subscription.add(heard.channel("room"))

    async def is_subscribed() -> bool:
        return await heard.listeners("room") == 1

    await until("the server has subscribed us", is_subscribed)
    heard.subscription.remove(heard.channel("room"))
    await until("and has unsubscribed us", lambda: _not(is_subscribed))
    heard.wire.hold("up")
    heard.wire.release("down")
    again = heard.subscription.add(heard.channel("room"))
    await until("both answers have come", lambda: len(heard.subscription._asked) == 1)
    assert not again.done(), "the server has not heard of the second subscription"
    heard.wire.release("up")
    await asyncio.wait_for(again, 10)
    assert await heard.hears("room")


async def _not(condition: object) -> bool:
    return not await condition()  # type: ignore[operator]


async def test_added_channels_are_heard_again_when_the_connection_is_renewed(heard: Heard) -> None:
    """The gap is told when all of them are confirmed: whoever reads anew then misses nothing. They
    are so many that the answers come in several pieces.
    """
    names = [f"{n}-{'x' * 50}" for n in range(2000)]
    await asyncio.gather(*(heard.subscription.add(heard.channel(name)) for name in names))
    heard.subscription.remove(heard.channel(names[1]))
    confirmed: list[dict[str, bool]] = []
    heard.subscription._on_gap = lambda: confirmed.append(dict(heard.subscription._more))
    heard.wire.cut()
    await until("the gap is told", lambda: confirmed)
    assert confirmed == [{heard.channel(name): True for name in names if name != names[1]}]
    assert (
        await heard.hears(names[0]) and await heard.hears(names[-1]) and await heard.hears("base")
    )
    assert await heard.publish(names[1], "?") == 0


async def test_a_channel_added_while_there_is_no_connection_is_confirmed_by_the_next_one(
    heard: Heard,
) -> None:
    await heard.subscription.add(heard.channel("before"))
    heard.subscription.reset()
    fresh = heard.subscription.add(heard.channel("fresh"))
    before = heard.subscription.add(heard.channel("before"))
    gone = heard.subscription.add(heard.channel("gone"))
    heard.subscription.remove(heard.channel("gone"))
    assert not fresh.done() and not before.done(), "nothing is heard now"
    await asyncio.wait_for(asyncio.gather(fresh, before), 10)
    assert gone.cancelled()
    assert await heard.hears("fresh") and await heard.hears("before")
    assert await heard.publish("gone", "?") == 0


async def test_a_channel_added_during_the_greeting_is_confirmed(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer comes after those to the greeting, and one channel is asked for in both."""
    await heard.subscription.add(heard.channel("one"))
    added: list[asyncio.Future[None]] = []
    greet = heard.subscription._greet

    async def greet_and_add() -> Trouble | None:
        greeting = asyncio.ensure_future(greet())
        await asyncio.sleep(0)  # One turn of the loop: it has asked, and has no answer yet.
        assert heard.subscription._due == 1
        added.append(heard.subscription.add(heard.channel("two")))
        heard.subscription.remove(heard.channel("one"))
        added.append(heard.subscription.add(heard.channel("one")))
        return await greeting

    monkeypatch.setattr(Subscription, "_greet", lambda self: greet_and_add())
    heard.subscription.reset()
    await until("they are added", lambda: len(added) == 2)
    await asyncio.wait_for(asyncio.gather(*added), 10)
    await until("the gap is told", lambda: heard.gaps == [2])
    assert await heard.hears("one") and await heard.hears("two") and await heard.hears("base")


async def test_who_waits_for_a_channel_is_cancelled_when_the_subscription_ends(
    heard: Heard,
) -> None:
    heard.subscription.reset()
    waiting = heard.subscription.add(heard.channel("room"))
    await heard.subscription.stop()
    assert waiting.cancelled()


async def test_a_refused_channel_fails_and_takes_no_other_with_it(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """The right to one channel is missing: also not when the connection is renewed."""
    async with listening(shared_server, keyspace.prefix, user="few-rights") as heard:
        open_one = heard.subscription.add(heard.channel("open"))
        secret = heard.subscription.add(heard.channel("secret"))
        open_two = heard.subscription.add(heard.channel("open-2"))
        with pytest.raises(CommandError, match="NOPERM"):
            await asyncio.wait_for(secret, 10)
        await asyncio.wait_for(asyncio.gather(open_one, open_two), 10)
        heard.subscription.reset()
        await until("it is up again", lambda: heard.subscription.rounds == 2)
        heard.subscription.reset()
        secret = heard.subscription.add(heard.channel("secret"))
        with pytest.raises(CommandError, match="NOPERM"):
            await asyncio.wait_for(secret, 10)
        await until("it is up again", lambda: heard.subscription.up)
        assert await heard.hears("open") and await heard.hears("open-2")


async def test_a_subscription_that_may_no_longer_hear_what_it_heard_is_not_up(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Somebody relies on that channel, so the gateway must not call itself ready."""
    async with listening(shared_server, keyspace.prefix, user="fewer-rights") as heard:
        await heard.subscription.add(heard.channel("open"))
        rules = ("resetchannels", f"&{heard.channel('base')}")
        await heard.database.execute_command("ACL", "SETUSER", "fewer-rights", *rules)
        heard.subscription.reset()  # (Redis may have hung up before.)
        await until("it says why", lambda: any("NOPERM" in t.words for t in heard.troubles))
        assert not heard.subscription.up


async def test_a_subscription_with_added_channels_leaves_when_all_are_given_back(
    heard: Heard,
) -> None:
    await heard.subscription.add(heard.channel("room"))
    heard.subscription.remove(heard.channel("room"))
    heard.subscription.add(heard.channel("other"))
    await asyncio.wait_for(heard.subscription.unsubscribe(), 10)
    assert await heard.listeners("base") == await heard.listeners("other") == 0
