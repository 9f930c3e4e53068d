"""Failover: what do users experience while the primary of a Redis is replaced by its replica?

alice sends numbered messages to bob, at another gateway, and new users come, while it happens. In
every case the same has to hold afterwards: what was told as `routed` was heard (but for L12, at the
very moment of the fault), nothing was heard twice, and the order among what was `routed` is that of
sending. Nobody was disconnected. Every user who was told to be registered is present at the new
primary: kept, or registered again by the resync that follows a new connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis.asyncio as redis_client

from tests.processes import GatewayProcess, User
from tests.waiting import until
from wsdemo import Client
from wsdemo.addresses import RedisAddress
from wsdemo.gateway.server import Gateway
from wsdemo.protocol import Status
from wsdemo.redis.primary import SwitchWatch
from wsdemo.redis.sentinel_server import BundledSentinel, HandOver
from wsdemo.settings import GatewaySettings, Keyspace, Limits, Timing

pytestmark = [pytest.mark.xdist_group("clock"), pytest.mark.timeout(120)]

FAST: Final = dataclasses.replace(Timing().scaled(10), probe_interval_s=2.0)
"""A lease lasts 9 s, longer than any of the outages here. A probe has time to be heard, also on a
busy machine: a subscription that is given up by mistake loses what is on its way."""
AT_THE_CUT: Final = 3
"""How many messages may be lost at the moment when the old primary stops: it has answered the
sender, and has not written to the subscriber yet (L12)."""
KEYSPACE: Final = Keyspace("t:")
SEND_EVERY_S: Final = 0.005
COME_EVERY_S: Final = 0.05
MANY: Final = 20
"""After so many messages in a row we say that they flow."""


@pytest.fixture(scope="module")
def trio() -> Iterator[BundledSentinel]:
    """One primary, one replica, three sentinels, for all tests of this module."""
    with BundledSentinel() as running:
        yield running


@pytest.fixture
def healed(trio: BundledSentinel) -> Iterator[BundledSentinel]:
    """The same, with everybody in sync, and no keys of the test before."""
    trio.heal()
    trio.call(trio.primary, "FLUSHALL")
    yield trio
    trio.heal()


@contextlib.asynccontextmanager
async def two_gateways(url: str) -> AsyncIterator[tuple[Gateway, Gateway]]:
    limits = dataclasses.replace(Limits(), redis_timeout_s=1.0, redis_connect_timeout_s=1.0)
    first, second = (
        Gateway(
            GatewaySettings(
                gateway_id=f"gateway-0{n}",
                port=0,
                redis_url=url,
                keyspace=KEYSPACE,
                timing=FAST,
                limits=limits,
            )
        )
        for n in (1, 2)
    )
    async with first, second:
        yield first, second


def documented_rules() -> list[str]:
    """The rules of a user at the sentinels, as the manual has them."""
    manual = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    (line,) = re.findall(r"ACL SETUSER watcher (.*)$", manual, re.MULTILINE)
    return [rule for rule in line.split() if rule[0] != ">"]


class Traffic:
    """Messages from alice to bob, and users who come, from the start to `end`."""

    def __init__(self, first: Gateway, second: Gateway) -> None:
        self._urls = (first.url, second.url)
        self.gateways = (first, second)
        self.alice = Client("alice", [first.url], timing=FAST)
        self.bob = Client("bob", [second.url], timing=FAST)
        self.users = [self.alice, self.bob]
        """All who were told to be registered."""
        self.sessions: dict[str, str] = {}
        """Their connections at that time."""
        self.statuses: dict[int, Status | None] = {}
        self.heard: list[int] = []
        self._stack = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    async def __aenter__(self) -> Traffic:
        for user in (self.alice, self.bob):
            await self._enter(user)
        for work in (self._listen(), self._talk(), self._come()):
            self._spawn(work)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)

    async def _enter(self, user: Client) -> None:
        await self._stack.enter_async_context(user)
        self.sessions[user.user] = user.conn_id

    async def _listen(self) -> None:
        async for message in self.bob:
            self.heard.append(int(message.content))

    async def _talk(self) -> None:
        n = 0
        while not self._over.is_set():
            n += 1
            self._spawn(self._send(n))
            await asyncio.sleep(SEND_EVERY_S)

    async def _send(self, n: int) -> None:
        self.statuses[n] = None
        receipt = await self.alice.send("bob", str(n))
        self.statuses[n] = receipt.status

    async def _come(self) -> None:
        n = 0
        while not self._over.is_set():
            n += 1
            self._spawn(self._register(Client(f"u{n}", [self._urls[n % 2]], timing=FAST)))
            await asyncio.sleep(COME_EVERY_S)

    async def _register(self, user: Client) -> None:
        await self._enter(user)
        self.users.append(user)

    async def end(self) -> None:
        """End the traffic, and wait until each message has a final answer."""
        self._over.set()
        await until("every message is answered", lambda: None not in self.statuses.values(), 30)
        last = max(n for n, status in self.statuses.items() if status == "routed")
        await until("the last that was routed is heard", lambda: last in self.heard)

    async def until_it_flows(self) -> None:
        """Wait until both gateways are ready, and new messages are routed."""
        await until("both are ready", lambda: all(one.ready for one in self.gateways), 30)
        n = max(self.statuses)
        await until(
            "messages are routed again",
            lambda: sum(s == "routed" for k, s in list(self.statuses.items()) if k > n) > MANY,
            30,
        )

    def verdict(self) -> dict[str, int]:
        """Check what must hold of every message; return how often each status was told."""
        times = Counter(self.heard)
        routed = [n for n, status in self.statuses.items() if status == "routed"]
        cut_off = min((n for n, status in self.statuses.items() if status != "routed"), default=0)
        lost = [n for n in routed if not times[n] and not cut_off - AT_THE_CUT <= n < cut_off]
        # A subscription that is cut once more, after the first time, costs as much again.
        more_cuts = max(0, self.gateways[1].counters.subscription_gaps - 1)
        assert len(lost) <= AT_THE_CUT * more_cuts, f"{lost}; the first not routed is {cut_off}"
        assert [n for n, count in times.items() if count > 1] == [], "heard twice"
        in_order = [n for n in self.heard if self.statuses[n] == "routed"]
        assert in_order == sorted(in_order), "out of order"
        kinds = Counter(str(status) for status in self.statuses.values())
        assert set(kinds) <= {"routed", "busy", "unknown", "unreachable"}
        return dict(kinds)

    async def all_are_present(self, trio: BundledSentinel) -> None:
        """Wait until each user is registered at the primary, in the session that was told."""
        # The bound leaves time for one round of refreshes, and a check under load.
        async with redis_client.Redis.from_url(trio.primary.url, decode_responses=True) as asker:

            async def nobody_is_missing() -> bool:
                for user in list(self.users):
                    if await asker.hget(KEYSPACE.presence(user.user), "connId") != user.conn_id:
                        return False
                return True

            await until("all users are present", nobody_is_missing, 20)
        assert {user.user: user.conn_id for user in self.users} == {
            user.user: self.sessions[user.user] for user in self.users
        }, "somebody was disconnected"


async def until_it_has_begun(traffic: Traffic) -> None:
    await until("messages are heard", lambda: len(traffic.heard) > 50, 30)


async def after(trio: BundledSentinel, traffic: Traffic) -> dict[str, int]:
    """Wait until all is well again, and check everything."""
    await traffic.until_it_flows()
    await traffic.end()
    await traffic.all_are_present(trio)
    return traffic.verdict()


@pytest.mark.both_loops
async def test_gateways_follow_when_the_primary_is_killed(healed: BundledSentinel) -> None:
    """While there is no primary, messages are `busy`, and nobody is disconnected."""
    async with two_gateways(healed.url) as gateways, Traffic(*gateways) as traffic:
        await until_it_has_begun(traffic)
        old = await asyncio.to_thread(healed.kill)
        await asyncio.to_thread(healed.until_replaced, old)
        told = await after(healed, traffic)
        assert told["busy"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("hears", [True, False], ids=["sentinels heard", "sentinels not heard"])
async def test_gateways_follow_when_the_primary_is_frozen(
    healed: BundledSentinel, hears: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections stay, and the sentinels say that there is a successor. Without a word of
    theirs, commands without an answer and probes that nobody hears lead there as well. When it
    wakes, it may carry out what was told as `unknown`, and nothing else.
    """
    if not hears:
        monkeypatch.setattr(SwitchWatch, "start_soon", lambda self: None)
    async with two_gateways(healed.url) as gateways, Traffic(*gateways) as traffic:
        await until_it_has_begun(traffic)
        old = await asyncio.to_thread(healed.pause)
        await asyncio.to_thread(healed.until_replaced, old)
        await traffic.until_it_flows()
        await asyncio.to_thread(old.resume)
        told = await after(healed, traffic)
        assert told["unknown"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("how", HandOver)
async def test_gateways_follow_a_planned_failover(healed: BundledSentinel, how: HandOver) -> None:
    """The old primary lives, and becomes a replica. Registers that a plain failover loses are made
    up for by the resync. The others lose none, unless sentinels on a slow machine have replaced the
    new primary as well.
    """
    async with two_gateways(healed.url) as gateways, Traffic(*gateways) as traffic:
        await until_it_has_begun(traffic)
        before = switches(healed)
        await asyncio.to_thread(healed.fail_over, how)
        await after(healed, traffic)
        if how is not HandOver.PLAIN and switches(healed) == before + len(healed.sentinels):
            assert [one.counters.refreshes_reclaimed for one in gateways] == [0, 0]


@pytest.mark.slow
async def test_workers_follow_when_the_primary_is_killed(healed: BundledSentinel) -> None:
    """Two processes behind one port (fault 203): each of them follows, and users stay."""
    flags = ("--workers", "2", "--key-prefix", KEYSPACE.prefix, "--probe-interval-s", "2")
    async with GatewayProcess("gateway-01", healed.url, *flags) as whole:

        async def is_ready() -> bool:
            return all([(await whole.get("/ready"))[0] == 200 for _ in range(4)])

        await until("both workers are ready", is_ready, 20)
        users = [await User.register(f"w{n}", whole.url) for n in range(12)]
        old = await asyncio.to_thread(healed.kill)
        await asyncio.to_thread(healed.until_replaced, old)
        await until("both workers are ready again", is_ready, 20)
        for recipient, sender in itertools.pairwise(users):
            assert await sender.send(recipient.name, "hello") == "routed"
        for user in users:
            await user.leave()


def switches(trio: BundledSentinel) -> int:
    """Return how often a sentinel has told of a new primary."""
    return sum(one.log_tail(10_000).count("+switch-master") for one in trio.sentinels)


async def test_the_documented_rights_at_the_sentinels_are_enough(healed: BundledSentinel) -> None:
    """To ask who the primary is, and to hear that it is another one."""
    for sentinel in healed.sentinels:
        healed.call(sentinel, "ACL", "SETUSER", "watcher", "reset", ">pw", *documented_rules())
    address = RedisAddress.parse(healed.url)
    login = (("sentinel_username", "watcher"), ("sentinel_password", "pw"))
    url = dataclasses.replace(address, options=login).url
    settings = GatewaySettings(gateway_id="g", port=0, redis_url=url, keyspace=KEYSPACE)
    async with Gateway(settings) as running:
        assert running.ready and running._primary is not None
        watches = running._primary._watches
        await until("all sentinels are heard", lambda: all(watch.up for watch in watches))
    for sentinel in healed.sentinels:
        refused = {bytes(entry[7]) for entry in healed.call(sentinel, "ACL", "LOG")}
        assert refused <= {b"role"}
        healed.call(sentinel, "ACL", "DELUSER", "watcher")
