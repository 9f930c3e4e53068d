"""Presence events: what do watchers hear of processes that are killed and drained, of users who
move, and of whatever else happens in a random order?
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from itertools import pairwise
from typing import Any

import pytest

from tests.gateway.cluster import Raw, gateway
from tests.processes import User, gateways
from tests.scenarios.test_cluster import FAST, keep_alive
from tests.scenarios.test_redis_rights import RULES, allow
from tests.waiting import until
from wsdemo import Client
from wsdemo.client.connection import State
from wsdemo.features import WatchSettings
from wsdemo.gateway.server import Gateway
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.server import BundledServer
from wsdemo.settings import GatewaySettings, Keyspace

pytestmark = [pytest.mark.xdist_group("clock"), pytest.mark.timeout(120)]

WATCH = (*FAST, "--watch", "--watch-reconcile-s", "0.5")
CHANNELS = "&app1:watch:*"
"""The right that the manual names for presence events."""


async def next_event(watcher: User) -> tuple[str, str]:
    """Return state and reason of the next event; pongs are skipped."""
    while (heard := await watcher.hear(60))["type"] != "presence":
        assert heard["type"] == "pong", heard
    return heard["state"], heard["reason"]


async def test_the_users_of_a_killed_gateway_are_told_as_expired(server: BundledServer) -> None:
    """W1: nobody is left who could say anything; her lease ends, and a reading finds it."""
    async with gateways(2, server.url, *WATCH, "--watch-grace-s", "0.1") as (first, second):
        async with await User.register("alice", first.url) as alice:
            beats = asyncio.ensure_future(keep_alive(alice))
            async with await User.register("bob", second.url):
                await alice.say(type="watch", users=["bob"])
                assert await next_event(alice) == ("online", "unknown")
                second.signal(signal.SIGKILL)
                assert await next_event(alice) == ("offline", "expired")
            beats.cancel()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_client_that_moves_when_its_gateway_ends_was_never_gone(
    server: BundledServer, number: signal.Signals
) -> None:
    """W3: killed or drained, bob is at the other gateway within the grace; nothing is told but his
    goodbye in the end.
    """
    # A machine that has other work needs longer for the move: then the grace was too short to say
    # anything, and the next one is longer.
    for grace_s in (2.0, 8.0, 32.0):
        if await _moves_within(grace_s, server, number):
            return
    pytest.fail("no move took less than the grace")


async def _moves_within(grace_s: float, server: BundledServer, number: signal.Signals) -> bool:
    """End the gateway of bob, and see what alice is told. Return False if he needed longer than the
    grace for his move, so that nothing is promised.
    """
    # A drained client waits for as long as its gateway asks it to, and then connects.
    flags = (*("--watch", "--watch-reconcile-s", "0.5"), "--retry-after-s", "0.2")
    async with gateways(2, server.url, *flags, "--watch-grace-s", str(grace_s)) as (first, second):
        async with await User.register("alice", first.url) as alice:
            async with Client("bob", [second.url, first.url]) as bob:
                await alice.say(type="watch", users=["bob"])
                assert await next_event(alice) == ("online", "unknown")
                began = time.monotonic()
                second.signal(number)

                def has_moved() -> bool:
                    # Redis knows it earlier; who leaves before he knows it says no goodbye.
                    return bob.state is State.REGISTERED and bob.gateway_id == "gateway-01"

                await until("he has moved", has_moved, 60)
                if time.monotonic() - began >= grace_s:
                    return False
            assert await next_event(alice) == ("offline", "bye")
    return True


async def test_a_gateway_without_the_right_to_publish_events_does_not_start(
    server: BundledServer, database: Any
) -> None:
    """With it, it starts and tells; without `--watch`, the right is not needed."""
    url = await allow(server, database, RULES)

    def told(watch: WatchSettings | None) -> GatewaySettings:
        return GatewaySettings(
            gateway_id="gateway-01",
            port=0,
            redis_url=url,
            keyspace=Keyspace("app1:"),
            watch=watch,
        )

    async with Gateway(told(None)) as plain:
        assert plain.ready
    with pytest.raises(RedisUnavailable, match="NOPERM"):
        await Gateway(told(WatchSettings())).start()
    await database.execute_command("ACL", "SETUSER", "wsdemo", CHANNELS)
    async with Gateway(told(WatchSettings())) as running:
        async with (
            await User.register("alice", running.url) as alice,
            await User.register("bob", running.url),
        ):
            await alice.say(type="watch", users=["bob"])
            assert await next_event(alice) == ("online", "unknown")


# --- in a random order ---------------------------------------------------------------------------

USERS = ("bob", "carol", "dave")


class World:
    """Two gateways with `--watch`, one without, users who come and go, and one who watches them."""

    def __init__(self, gateways: list[Gateway], database: Any, keyspace: Keyspace) -> None:
        self.gateways, self.database, self.keyspace = gateways, database, keyspace
        self.users: dict[str, Raw] = {}
        self.told: dict[str, list[str]] = {user: [] for user in USERS}

    async def act(self, rng: random.Random) -> None:
        user = rng.choice(USERS)
        acts = ["come"] * 6 + ["leave", "reset"] * 3 + ["flush", "cut", "lose"]
        await getattr(self, rng.choice(acts))(user, rng)

    async def come(self, user: str, rng: random.Random) -> None:
        before, self.users[user] = (
            self.users.get(user),
            await Raw.register(rng.choice(self.gateways), user),
        )
        if before is not None:
            await before.leave()

    async def leave(self, user: str, rng: random.Random) -> None:
        if user in self.users:
            raw = self.users.pop(user)
            raw.frame(b"\x03\xe8", opcode=8)
            await raw.leave()

    async def reset(self, user: str, rng: random.Random) -> None:
        if user in self.users:
            self.users.pop(user).reset()

    async def flush(self, user: str, rng: random.Random) -> None:
        """Redis loses all its data, and the next refreshes put it back."""
        await self.database.flushall()
        for one in self.gateways:
            await one._health.resync()

    async def cut(self, user: str, rng: random.Random) -> None:
        """All subscriptions are cut, and events are lost."""
        await self.database.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    async def lose(self, user: str, rng: random.Random) -> None:
        """One entry is lost, and is back with a later refresh."""
        await self.database.delete(self.keyspace.presence(user))
        if rng.random() < 0.5:
            await asyncio.sleep(0.05)
        for one in self.gateways:
            await one._health.resync()

    async def listen(self, watcher: User) -> None:
        """Note what the watcher is told. Runs until cancelled."""
        while True:
            heard = await watcher.hear(60)
            self.told[heard["user"]].append(heard["state"])

    async def agrees(self) -> bool:
        """Whether the last state told of each user is what Redis says."""
        for user in USERS:
            there = await self.database.exists(self.keyspace.presence(user))
            if self.told[user][-1:] != ["online" if there else "offline"]:
                return False
        return True


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_the_last_state_told_becomes_the_right_one(
    server: BundledServer, database: Any, keyspace: Keyspace, seed: int
) -> None:
    """W1 and W2: after every few accidents, in a random order."""
    rng = random.Random(seed)
    watch = {"watch": WatchSettings(watch_grace_s=0.02, watch_reconcile_s=0.2)}
    async with contextlib.AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(gateway(server, keyspace, name, settings=settings))
            for name, settings in (("gw-01", watch), ("gw-02", watch), ("gw-03", {}))
        ]
        alice = await stack.enter_async_context(await User.register("alice", running[0].url))
        world = World(running, database, keyspace)
        listening = asyncio.ensure_future(world.listen(alice))
        await alice.say(type="watch", users=list(USERS))
        for _ in range(6):
            for _ in range(rng.randint(1, 8)):
                await world.act(rng)
            await until("what was told is right", world.agrees, every_s=0.02)
        listening.cancel()
        for raw in world.users.values():
            await raw.leave()
    assert sum(map(len, world.told.values())) > 2 * len(USERS), "hardly anything happened"
    for states in world.told.values():
        assert all(one != other for one, other in pairwise(states)), states
