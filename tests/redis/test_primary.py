"""Primary: is it found, whatever the sentinels do, and does every connection follow it?

The sentinels here are scripted: each one says what its test wants, and nothing else. What real ones
do is tried in `tests/scenarios/test_sentinel.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import time
from collections.abc import AsyncIterator
from typing import Any

import hiredis
import pytest
import redis.asyncio as redis_client

from tests.waiting import until
from wsdemo.addresses import HostPort, RedisAddress
from wsdemo.gateway.server import Gateway
from wsdemo.redis import primary as module
from wsdemo.redis.connection import GIVEN_UP, RedisConnection, RedisUnavailable
from wsdemo.redis.interface import Link
from wsdemo.redis.link import RedisLink
from wsdemo.redis.outcome import Outcome, Refused
from wsdemo.redis.primary import Primary
from wsdemo.redis.server import BundledServer
from wsdemo.redis.subscription import Subscription
from wsdemo.settings import GatewaySettings, Limits, Timing

pytestmark = pytest.mark.timeout(60)

QUICK = dataclasses.replace(Limits(), redis_timeout_s=1.0, redis_connect_timeout_s=1.0)


class FakeSentinel:
    """A sentinel that says what it is told to."""

    def __init__(self, place: HostPort, epoch: int = 1) -> None:
        self.place = place
        self.epoch = epoch
        self.flags = "master"
        self.answers = True
        """Whether it answers at all; otherwise it is frozen."""
        self.error = ""
        """What it says in place of an answer."""
        self.port = 0
        self.listeners: set[asyncio.StreamWriter] = set()
        self.connections = 0
        self.pings = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> FakeSentinel:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def says(self, channel: str, text: str) -> None:
        """Publish something."""
        for writer in self.listeners:
            writer.write(bulks("message", channel, text))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        parser = hiredis.Reader(notEnoughData=StopIteration)
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                parser.feed(data)
                while (words := parser.gets()) is not StopIteration:
                    if self.answers:
                        writer.write(self._answer([word.decode() for word in words], writer))
        self._writers.discard(writer)
        self.listeners.discard(writer)
        writer.close()

    def _answer(self, words: list[str], writer: asyncio.StreamWriter) -> bytes:
        if self.error:
            return b"-%b\r\n" % self.error.encode()
        match [words[0].upper(), *words[1:]]:
            case ["ROLE"]:
                return b"*2\r\n$8\r\nsentinel\r\n*0\r\n"
            case ["SUBSCRIBE", channel]:
                self.listeners.add(writer)
                return b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (
                    len(channel),
                    channel.encode(),
                )
            case ["PING"]:
                self.pings += 1
                return bulks("pong", "")
            case ["SENTINEL", "MASTER", "mymaster"]:
                return self._state()
            case ["SENTINEL", "MASTER", _]:
                return b"-ERR No such master with that name\r\n"
            case _:
                return b"+OK\r\n"

    def _state(self) -> bytes:
        state = {
            "name": "mymaster",
            "ip": self.place.host,
            "port": self.place.port,
            "flags": self.flags,
            "config-epoch": self.epoch,
            "num-other-sentinels": 2,
        }
        return bulks(*(str(part) for item in state.items() for part in item))


def bulks(*texts: str) -> bytes:
    parts = [b"$%d\r\n%b\r\n" % (len(text.encode()), text.encode()) for text in texts]
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


OLD, NEW = HostPort("127.0.0.1", 7001), HostPort("127.0.0.1", 7002)


@contextlib.asynccontextmanager
async def sentinels(*places: HostPort) -> AsyncIterator[list[FakeSentinel]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FakeSentinel(place)) for place in places]


def primary_at(found: list[FakeSentinel], service: str = "mymaster", login: str = "") -> Primary:
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in found)
    return Primary(RedisAddress.parse(f"redis+sentinel://{login}{hosts}/{service}"), QUICK)


# --- asking ------------------------------------------------------------------------------------


async def test_the_answer_of_the_newest_configuration_counts() -> None:
    """A sentinel that was cut off still names the old primary."""
    async with sentinels(OLD, NEW, OLD) as found:
        found[1].epoch = 2
        assert await primary_at(found, login="me:pw@").url() == "redis://me:pw@127.0.0.1:7002"


async def test_a_sentinel_that_is_frozen_or_gone_delays_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All are asked at once, and one answer is enough."""
    monkeypatch.setattr(
        module, "ASK_S", 30.0
    )  # A busy machine is no reason to be slower than that.
    async with sentinels(OLD, OLD, OLD) as found:
        found[0].answers = False
        await found[1].__aexit__()
        began = time.monotonic()
        assert await primary_at(found).url() == "redis://127.0.0.1:7001"
        assert time.monotonic() - began < module.ASK_S


async def test_a_question_that_is_given_up_leaves_no_failure_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All sentinels refuse in the same moment: no exception is reported as lost."""

    async def give_up(asked: list[asyncio.Task[Any]]) -> None:
        await asyncio.wait(asked)
        raise TimeoutError

    monkeypatch.setattr(module, "_collect", give_up)
    primary = Primary(RedisAddress.parse("redis+sentinel://127.0.0.1:1,127.0.0.1:2/s"), QUICK)
    with pytest.raises(TimeoutError):
        await primary.url()
    gc.collect()


@pytest.mark.parametrize(
    ("flags", "error", "service", "outcome"),
    [
        ("master,s_down,o_down", "", "mymaster", Outcome.MASTERDOWN),
        ("slave", "", "mymaster", Outcome.MASTERDOWN),
        ("master", "", "another", Outcome.NO_SERVICE),
        ("master", "NOAUTH Authentication required.", "mymaster", Outcome.NOAUTH),
        ("master", "LOADING it loads", "mymaster", Outcome.LOADING),
    ],
)
async def test_the_reason_why_there_is_no_primary_is_told(
    flags: str, error: str, service: str, outcome: Outcome
) -> None:
    """By a sentinel that answers, rather than by one that is gone."""
    async with sentinels(OLD, OLD) as found:
        await found[0].__aexit__()
        found[1].flags, found[1].error = flags, error
        with pytest.raises(Refused, match=f"sentinel at 127.0.0.1:{found[1].port}") as problem:
            await primary_at(found, service).url()
        assert problem.value.trouble.outcome is outcome


async def test_a_start_without_any_sentinel_fails_and_says_so() -> None:
    """After the patience that a start has with a primary that has no successor yet."""
    async with sentinels(OLD) as found:
        await found[0].__aexit__()
        link = RedisLink(primary_at(found), QUICK)
        with pytest.raises(RedisUnavailable, match=r"sentinel at .*refused"):
            await link.start(patience_s=0.2)


# --- following ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def followed(
    found: list[FakeSentinel],
) -> AsyncIterator[tuple[Primary, RedisLink, Subscription]]:
    """A link and a subscription that follow the primary, whose pauses would be a minute."""
    primary = primary_at(found)
    link = RedisLink(primary, QUICK)
    subscription = Subscription(primary, QUICK, ["c"], lambda channel, data: None)
    connections: tuple[RedisConnection, ...] = (link, subscription)
    for connection in connections:
        connection._backoff.next_s = lambda: 60.0  # type: ignore[method-assign]
    primary.start()
    try:
        for connection in connections:
            await connection.start()
        yield primary, link, subscription
    finally:
        for connection in connections:
            await connection.stop()
        await primary.stop()
    assert primary._followers == []


def place_of(server: BundledServer) -> HostPort:
    return HostPort("127.0.0.1", server.port)


async def listens_at(server: BundledServer, link: RedisLink) -> bool:
    return bool((await link.call("PUBSUB", "NUMSUB", "c"))[1])


@pytest.fixture
def other() -> Any:
    """One more server, without a password."""
    with BundledServer(password="") as running:
        yield running


@pytest.fixture
def first() -> Any:
    """A server without a password."""
    with BundledServer(password="") as running:
        yield running


async def port_of(link: Link) -> int:
    reply = await link.call("CONFIG", "GET", "port")
    return int(reply[1])


async def test_what_one_sentinel_says_makes_both_connections_move_at_once(
    first: BundledServer, other: BundledServer
) -> None:
    """Although the old server lives, and the pause before a reconnect would be a minute."""
    async with sentinels(*[place_of(first)] * 2) as found, followed(found) as (_, link, ear):
        assert await port_of(link) == first.port
        await until("both are heard", lambda: all(one.listeners for one in found))
        for sentinel in found:
            sentinel.place = place_of(other)
        found[1].says("+switch-master", f"mymaster 127.0.0.1 1 127.0.0.1 {other.port}")
        await until("both have moved", lambda: link.up and ear.up and ear.rounds == 2)
        assert await port_of(link) == other.port
        await until("it listens there", lambda: listens_at(other, link))


async def test_a_connection_that_waits_connects_without_a_pause(
    first: BundledServer, other: BundledServer
) -> None:
    """When the primary was lost and a sentinel says that it has a successor."""
    async with sentinels(place_of(first)) as found, followed(found) as (_, link, ear):
        await until("it is heard", lambda: found[0].listeners)
        first.kill()
        await until("both are down", lambda: not link.up and not ear.up)
        found[0].place = place_of(other)
        found[0].says("+switch-master", f"mymaster 127.0.0.1 1 127.0.0.1 {other.port}")
        await until("both are up", lambda: link.up and ear.up)
        assert await port_of(link) == other.port


async def test_a_doubt_moves_only_what_is_at_another_server(
    first: BundledServer, other: BundledServer
) -> None:
    """As when a probe was published where nobody listens."""
    async with sentinels(place_of(first)) as found, followed(found) as (primary, link, ear):
        primary.doubt()
        asked = found[0].connections
        await until("it was asked", lambda: found[0].connections > asked)
        await primary.url()  # So the answer to the question before has come as well.
        assert link.up and ear.rounds == 1
        found[0].place = place_of(other)
        primary.doubt()
        await until("both have moved", lambda: link.up and ear.up and ear.rounds == 2)
        assert await port_of(link) == other.port


async def test_a_link_that_was_left_behind_is_found_by_the_probe(
    first: BundledServer, other: BundledServer
) -> None:
    """The old server lives, calls itself primary, and no sentinel says a word. But nobody listens
    there.
    """
    timing = dataclasses.replace(Timing(), probe_interval_s=0.1)
    async with sentinels(place_of(first)) as found:
        url = f"redis+sentinel://127.0.0.1:{found[0].port}/mymaster"
        settings = GatewaySettings(gateway_id="g", port=0, redis_url=url, timing=timing)
        async with Gateway(settings) as gateway:
            found[0].place = place_of(other)
            ear = gateway._router._subscription
            ear.reset(GIVEN_UP)
            await until("it is found", lambda: gateway._router.probes_lost)

            async def has_moved() -> bool:
                return gateway.ready and await port_of(gateway._link) == other.port

            await until("the link has followed", has_moved)
            assert ear.rounds == 2, "the subscription was at the right server, and stays"


async def test_a_start_waits_for_the_successor_of_a_primary_that_is_gone(
    first: BundledServer, other: BundledServer
) -> None:
    """The sentinels name the old one until they have agreed that it is down."""
    async with sentinels(place_of(first)) as found:
        first.stop()
        link = RedisLink(primary_at(found), QUICK)
        starting = asyncio.create_task(link.start(patience_s=10.0))
        await until("it was asked", lambda: found[0].connections > 1)
        found[0].place = place_of(other)
        await starting
        assert await port_of(link) == other.port
        await link.stop()


async def test_a_server_that_is_no_primary_is_left_whatever_a_sentinel_says(
    first: BundledServer, other: BundledServer
) -> None:
    """A sentinel may name the old primary for a moment; ROLE tells."""
    async with redis_client.Redis.from_url(first.url) as database:
        await database.replicaof("127.0.0.1", other.port)
    async with sentinels(place_of(first)) as found:
        link = RedisLink(primary_at(found), QUICK)
        with pytest.raises(RedisUnavailable, match="READONLY this server is a replica"):
            await link.start(patience_s=0.2)


async def test_a_switch_that_nobody_heard_is_found_when_the_sentinel_is_heard_again(
    first: BundledServer, other: BundledServer
) -> None:
    """The only sentinel was cut off while the primary changed."""
    async with sentinels(place_of(first)) as found, followed(found) as (_, link, ear):
        await until("it is heard", lambda: found[0].listeners)
        found[0].place = place_of(other)
        found[0].hang_up()
        await until("both have moved", lambda: link.up and ear.up and ear.rounds == 2)
        assert await port_of(link) == other.port


async def test_a_sentinel_that_falls_silent_is_connected_to_anew(
    first: BundledServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection to it that leads nowhere would be deaf for ever."""
    monkeypatch.setattr(module, "BEAT_S", 0.05)
    async with sentinels(place_of(first)) as found, followed(found) as (primary, link, _):
        await until("it is heard", lambda: found[0].listeners)
        watch = primary._watches[0]
        await until("it has answered", lambda: found[0].pings > 3)
        assert watch.up and watch.rounds == 1
        found[0].answers = False
        await until("it is given up", lambda: not watch.up)
        found[0].answers = True
        await until("it is heard again", lambda: watch.up)
        assert link.up
