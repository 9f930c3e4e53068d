"""Silent network faults: what does a gateway do when its link to Redis fails without an error?"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.gateway.cluster import gateway
from tests.processes import User, http_get
from tests.waiting import until
from wsdemo.events import Event, Kind
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.rig.wire import Strand, Wire
from wsdemo.settings import GatewaySettings, Keyspace, Limits, Timing

pytestmark = pytest.mark.both_loops

FAST = Timing().scaled(10)


@pytest.fixture
async def wire(shared_server: BundledServer) -> AsyncIterator[Wire]:
    async with Wire("127.0.0.1", shared_server.port) as wire:
        yield wire


@pytest.fixture
def url(shared_server: BundledServer, wire: Wire) -> str:
    """The URL of the same server, through the TCP relay."""
    return shared_server.url_by(wire.port)


def listens(strand: Strand) -> bool:
    return b"SUBSCRIBE" in strand.said.upper()


@pytest.mark.slow
async def test_a_silent_subscription_is_found_within_two_intervals_and_rebuilt(
    wire: Wire, url: str, keyspace: Keyspace, redis_db: Any
) -> None:
    """The subscription stays open but silent: /ready is red until something arrives again."""
    events: list[Event] = []
    settings = GatewaySettings(
        gateway_id="gateway-01", port=0, redis_url=url, keyspace=keyspace, timing=FAST
    )
    async with Gateway(settings, emit=events.append) as running:
        async with await User.register("alice", running.url) as alice:
            (subscription,) = wire.strands(listens)
            subscription.drop("down")
            began = time.monotonic()
            await until("it is not ready", lambda: not running.ready)
            assert (await http_get(running.port, "/ready"))[0] == 503
            found = next(event for event in events if event.kind is Kind.PROBE_LOST)
            assert found.t - began <= 2.5 * FAST.probe_interval_s
            await until("it is ready again", lambda: running.ready)
            assert running.stats()["counters"]["subscription_gaps"] == 1
            message = '{"type":"direct","from":"bob","to":"alice","content":"again"}'
            assert await redis_db.publish(keyspace.gateway_channel("gateway-01"), message) == 1
            assert (await alice.hear())["content"] == "again"


async def test_while_redis_does_not_reply_sockets_stay_and_registers_get_1013(
    wire: Wire, url: str, keyspace: Keyspace, shared_server: BundledServer
) -> None:
    """A half-open link to Redis gives timeouts, and 1013 for registers; no session ends."""
    limits = dataclasses.replace(Limits(), redis_timeout_s=1.0)
    settings = GatewaySettings(
        gateway_id="gateway-01", port=0, redis_url=url, keyspace=keyspace, limits=limits
    )
    async with Gateway(settings) as running:
        async with await User.register("alice", running.url) as alice:
            for strand in wire.strands():
                strand.hold()
            newcomer = None
            from websockets.asyncio.client import connect

            async with connect(running.url, proxy=None) as socket:
                await socket.send('{"type":"register","userId":"bob"}')
                await socket.wait_closed()
                newcomer = socket.close_code
            assert newcomer == 1013
            await alice.say(type="ping")
            assert await alice.hear() == {"type": "pong"}
            for strand in wire.strands():
                strand.release()
            await until("it is ready again", lambda: running.ready, 20)
            async with await User.register("bob", running.url) as bob:
                assert await bob.send("alice", "back") == "routed"
                assert (await alice.hear())["content"] == "back"


async def test_after_a_cut_link_to_redis_every_user_is_still_present(
    wire: Wire, url: str, keyspace: Keyspace, shared_server: BundledServer, redis_db: Any
) -> None:
    """All connections to Redis are reset: no user loses a connection or a presence entry."""
    settings = GatewaySettings(gateway_id="gateway-01", port=0, redis_url=url, keyspace=keyspace)
    async with (
        Gateway(settings) as running,
        gateway(shared_server, keyspace, "gateway-02") as other,
    ):
        async with (
            await User.register("alice", running.url) as alice,
            await User.register("bob", other.url) as bob,
        ):
            for strand in wire.strands():
                strand.cut()
            await until("the link is noticed as gone", lambda: not running.ready)
            await until("it is ready again", lambda: running.ready, 20)
            assert await bob.send("alice", "still there?") == "routed"
            assert (await alice.hear())["content"] == "still there?"
            assert await redis_db.hget(keyspace.presence("alice"), "gwId") == "gateway-01"


async def test_p7_a_register_of_unknown_outcome_is_released_when_redis_is_back(
    wire: Wire, url: str, keyspace: Keyspace, redis_db: Any
) -> None:
    """A register lies on a wire until its connection is given up; the release that follows has
    no connection yet, and must not be forgotten: the late register then finds it, and is stale."""
    settings = GatewaySettings(
        gateway_id="gateway-01",
        port=0,
        redis_url=url,
        keyspace=keyspace,
        limits=Limits(redis_timeout_s=1.0),
    )
    async with Gateway(settings) as running:
        (old,) = wire.strands(lambda strand: not listens(strand))
        old.hold("down")
        connection = await connect(running.url, proxy=None, compression=None)
        await connection.send('{"type":"register","userId":"alice"}')
        fence, presence = keyspace.fence("alice"), keyspace.presence("alice")
        await until("a token is minted", lambda: redis_db.exists(fence))
        old.hold("up")
        old.release("down")
        await until("the register has failed", lambda: running.counters.registers_failed)
        await until("the release is there", lambda: redis_db.hget(fence, "floor"), 5.0)
        assert running.counters.releases_failed == 1
        assert not await redis_db.exists(presence)
        old.release("up")
        await until("the old connection is gone", lambda: old not in wire.strands())
        assert await redis_db.hget(fence, "top") is None, "the register took effect after all"
        assert not await redis_db.exists(presence)
        await connection.close()


async def test_a_user_who_leaves_while_redis_is_away_is_offline_when_it_is_back(
    wire: Wire, url: str, keyspace: Keyspace, redis_db: Any
) -> None:
    """Her entry is removed before its TTL ends; a user who moved meanwhile keeps hers."""
    settings = GatewaySettings(gateway_id="gateway-01", port=0, redis_url=url, keyspace=keyspace)
    async with Gateway(settings) as running:
        alice = await User.register("alice", running.url)
        bob = await User.register("bob", running.url)
        wire.hold("up")  # Nobody comes through, and no new connection is greeted.
        wire.cut()
        await until("Redis is away", lambda: not running.ready)
        await alice.leave()
        await bob.leave()
        await until("both have left", lambda: running.counters.releases_failed == 2)
        await redis_db.hset(keyspace.presence("bob"), mapping={"connId": "elsewhere"})
        wire.release()
        await until("she is gone", lambda: _gone(redis_db, keyspace.presence("alice")))
        await until("all is said", lambda: running.counters.releases_other_owner == 1)
        assert await redis_db.hget(keyspace.presence("bob"), "connId") == "elsewhere"


async def _gone(redis_db: Any, key: str) -> bool:
    return not await redis_db.exists(key)
