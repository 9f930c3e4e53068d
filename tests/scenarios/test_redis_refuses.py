"""Redis outages: what do users experience while Redis answers, but refuses? Their sockets stay, new
clients are told to reconnect later, every ack is correct, and /ready says why. When Redis works
again all users are present again, whatever the reason was.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis.asyncio as redis_client
from websockets.asyncio.client import connect

from tests.gateway.cluster import gateway
from tests.processes import GatewayDied, GatewayProcess, User, http_get
from tests.redis_states import SLOW_TO_LOAD, STATES, load_quickly, many_keys, replica, unsaved
from tests.waiting import until
from wsdemo import Client
from wsdemo.gateway.server import Gateway
from wsdemo.protocol import Code, Status
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import BundledServer
from wsdemo.rig.wire import Wire
from wsdemo.settings import GatewaySettings, Keyspace, Limits, Timing

pytestmark = [pytest.mark.xdist_group("clock"), pytest.mark.both_loops, pytest.mark.timeout(90)]

FAST = Timing().scaled(60)
KEYSPACE = Keyspace("t:")
USERS = ("alice", "bob")


@contextlib.asynccontextmanager
async def two_gateways(*urls: str) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways on a clock on which a lease lasts 1.5 s."""
    limits = dataclasses.replace(Limits(), redis_timeout_s=1.0, redis_connect_timeout_s=1.0)
    first, second = (
        Gateway(
            GatewaySettings(
                gateway_id=f"gateway-0{n}",
                port=0,
                redis_url=urls[n % len(urls)],
                keyspace=KEYSPACE,
                timing=FAST,
                limits=limits,
            )
        )
        for n in (1, 2)
    )
    async with first, second:
        yield first, second


@contextlib.asynccontextmanager
async def two_users(first: Gateway, second: Gateway) -> AsyncIterator[tuple[Client, Client]]:
    """alice at the first, bob at the second."""
    async with (
        Client("alice", [first.url], timing=FAST) as alice,
        Client("bob", [second.url], timing=FAST) as bob,
    ):
        yield alice, bob


async def readiness(of: Gateway) -> tuple[int, str]:
    """What /ready says: the status and the reasons."""
    status, body = await http_get(of.port, "/ready")
    return status, "; ".join(json.loads(body)["reasons"])


async def register(of: Gateway, user: str) -> int | None:
    """Try to register; return how the connection ended, None when it is registered."""
    async with connect(of.url, proxy=None) as connection:
        await connection.send(json.dumps({"type": "register", "userId": user}))
        answer = json.loads(await asyncio.wait_for(connection.recv(), 10))
        if answer["type"] == "registered":
            return None
        assert answer["retryAfterMs"] > 0
        await asyncio.wait_for(connection.wait_closed(), 10)
        return connection.close_code


async def talk(alice: Client, seconds: float) -> set[Status | None]:
    """Let alice write to bob for a while; return what became of her messages."""
    ends_at = time.monotonic() + seconds
    statuses: set[Status | None] = set()
    while time.monotonic() < ends_at:
        statuses.add((await alice.send("bob", "x")).status)
        await asyncio.sleep(0.05)
    return statuses


async def are_present(database: Any, *clients: Client) -> bool:
    for client in clients:
        if await database.hget(KEYSPACE.presence(client.user), "connId") != client.conn_id:
            return False
    return True


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if number > 1 else [])
        for number, name in enumerate(STATES)
    ],
)
async def test_users_stay_connected_while_redis_refuses_writes(
    server: BundledServer, database: Any, name: str
) -> None:
    """For longer than a lease; nobody is dropped, nobody can register, and every ack is correct."""
    state, _, word = STATES[name]
    async with two_gateways(server.url) as (first, second), two_users(first, second) as users:
        alice, bob = users
        before = (alice.conn_id, bob.conn_id)
        assert (await alice.send("bob", "x")).status == "routed"
        async with state(server, database):
            for running in (first, second):
                await until("it is not ready", lambda: not running.ready)
                await until("it knows why", lambda: word in str(reasons(running)))
                status, because = await readiness(running)
                assert status == 503 and word in because
                assert word in str(running.stats()["reasons"])
            assert await register(first, "carol") == Code.TRY_LATER
            statuses = await talk(alice, 1.3 * FAST.presence_ttl_s)
            assert statuses <= ({"routed"} if name == "full" else {"routed", "busy"})
            assert not first.ready and not second.ready
        for running in (first, second):
            await until("it is ready again", lambda: running.ready)
            assert await readiness(running) == (200, "")
        assert await register(first, "carol") is None
        await until("all are present again", lambda: are_present(database, alice, bob))
        await until("messages arrive", lambda: _arrives(alice, bob))
        assert (alice.conn_id, bob.conn_id) == before


def reasons(of: Gateway) -> list[str]:
    return of.unready_because()


@pytest.fixture
def slow_server() -> Iterator[BundledServer]:
    """A server that loads its data slowly, once it has some."""
    with BundledServer(settings=SLOW_TO_LOAD) as server:
        yield server


@pytest.mark.slow
async def test_users_are_present_again_when_a_restarted_redis_has_loaded_its_data(
    slow_server: BundledServer,
) -> None:
    """Their leases expired meanwhile. While it loads, messages are `busy` and registers get
    1013."""
    async with redis_client.Redis.from_url(slow_server.url) as database:
        await many_keys(database)
    async with (
        two_gateways(slow_server.url) as (first, second),
        two_users(first, second) as (alice, bob),
    ):
        before = (alice.conn_id, bob.conn_id)
        slow_server.restart(empty=False)
        await until("it is known", lambda: "LOADING" in str(reasons(first)))
        assert await talk(alice, 1.1 * FAST.presence_ttl_s) == {"busy"}
        assert await register(first, "carol") == Code.TRY_LATER
        status, because = await readiness(first)
        assert status == 503 and "LOADING" in because
        async with redis_client.Redis.from_url(slow_server.url, decode_responses=True) as database:
            await load_quickly(database)
            await until("ready again", lambda: first.ready and second.ready)
            await until("both are present", lambda: are_present(database, alice, bob))
            await until("messages arrive", lambda: _arrives(alice, bob))
        assert (alice.conn_id, bob.conn_id) == before


@pytest.mark.parametrize("asks", ["may ask for the role", "may not ask for the role"])
async def test_gateways_follow_their_address_to_the_new_primary(asks: str) -> None:
    """The old primary becomes a replica and closes no connection; both connections leave it."""
    with BundledServer(password="") as old, BundledServer(password="") as new:
        admins = [
            redis_client.Redis.from_url(server.url, decode_responses=True) for server in (old, new)
        ]
        for admin in admins:
            words = ["+@all"] if "may ask" in asks else ["+@all", "-role"]
            await admin.execute_command("ACL", "SETUSER", "g", "on", ">pw", "~*", "&*", *words)
        async with Wire("127.0.0.1", old.port) as wire:
            url = f"redis://g:pw@127.0.0.1:{wire.port}"
            async with (
                two_gateways(url) as (first, second),
                two_users(first, second) as (alice, bob),
            ):
                before = (alice.conn_id, bob.conn_id)
                wire.lead_to(new.port)
                await admins[0].replicaof("127.0.0.1", new.port)
                await until("present there", lambda: are_present(admins[1], alice, bob), 30)
                await until("ready there", lambda: first.ready and second.ready)
                assert await register(first, "carol") is None
                channel = KEYSPACE.gateway_channel("gateway-02")

                async def listens() -> bool:
                    listeners: list[Any] = await admins[1].pubsub_numsub(channel)
                    return bool(listeners[0][1] == 1)

                await until("the second listens there", listens)
                await until("messages arrive", lambda: _arrives(alice, bob), 30)
                assert (alice.conn_id, bob.conn_id) == before
                assert await admins[0].client_list(_type="pubsub") == []
        for admin in admins:
            await admin.aclose()


async def test_both_connections_leave_a_demoted_server_at_once(
    server: BundledServer, database: Any
) -> None:
    """The subscription does not wait for its probe to fail, which takes a minute here."""
    timing = dataclasses.replace(Timing(), probe_interval_s=60.0)
    with BundledServer() as new:
        password = server.url.partition("@")[0].rpartition(":")[2]
        async with redis_client.Redis.from_url(new.url, decode_responses=True) as elsewhere:
            await elsewhere.config_set("requirepass", password)
            async with Wire("127.0.0.1", server.port) as wire:
                url = server.url_by(wire.port)
                settings = GatewaySettings(
                    gateway_id="gateway-01",
                    port=0,
                    redis_url=url,
                    keyspace=KEYSPACE,
                    timing=timing,
                )
                async with Gateway(settings) as running:
                    wire.lead_to(new.port)
                    async with replica(server, database):
                        # A client registers: its refused command starts a check.
                        assert await register(running, "carol") == Code.TRY_LATER
                        channel = KEYSPACE.gateway_channel("gateway-01")

                        async def listens_there() -> bool:
                            return bool(await elsewhere.pubsub_numsub(channel) == [(channel, 1)])

                        await until("it listens there", listens_there)
                        await until("it is ready again", lambda: running.ready)
                        assert await register(running, "carol") is None


async def _arrives(alice: Client, bob: Client) -> bool:
    if (await alice.send("bob", "hello")).status != "routed":
        return False
    return (await asyncio.wait_for(bob.receive(), 10)).content == "hello"


async def test_a_user_who_leaves_while_redis_refuses_writes_is_offline_afterwards(
    server: BundledServer, database: Any
) -> None:
    """Her entry does not wait for its TTL, which is a minute and a half."""
    key = KEYSPACE.presence("alice")
    async with gateway(server, KEYSPACE) as running:
        alice = await User.register("alice", running.url)
        assert await database.exists(key)
        async with unsaved(server, database):
            # The release is the first thing that this quiet gateway asks for.
            await alice.leave()
            await until("her release was refused", lambda: running.counters.releases_failed)
            assert await database.exists(key)
            await until("it is not ready", lambda: not running.ready)
        await until("she is gone", lambda: _is_absent(database, key))


async def _is_absent(database: Any, key: str) -> bool:
    return not await database.exists(key)


@pytest.mark.slow
async def test_only_a_user_whose_own_refresh_is_refused_is_closed_with_4012(
    server: BundledServer, database: Any
) -> None:
    """A foreign value is in the place of her entry: 4012 for her, nothing for him."""
    async with (
        gateway(server, KEYSPACE, timing=FAST) as running,
        await User.register("alice", running.url) as alice,
        Client("bob", [running.url], timing=FAST) as bob,
    ):
        before = bob.conn_id
        await database.set(KEYSPACE.presence("alice"), "text")
        goodbye = asyncio.create_task(alice.closed(), name="goodbye")
        while not goodbye.done():
            with contextlib.suppress(Exception):
                await alice.say(type="ping")
            await asyncio.wait([goodbye], timeout=0.1)
        assert (await goodbye)[0] == Code.PRESENCE_LOST
        assert bob.conn_id == before
        assert running.ready
        await database.delete(KEYSPACE.presence("alice"))


async def test_the_log_has_one_line_for_the_reason_and_one_for_the_duration(
    server: BundledServer, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """In Redis' words; not once for each attempt."""
    caplog.set_level(logging.INFO, "wsdemo")
    async with gateway(server, KEYSPACE, timing=FAST) as running:
        link = running._link
        assert isinstance(link, RedisLink)
        async with replica(server, database):
            await until("it is not ready", lambda: not running.ready)
            await until("it has tried often", lambda: link._backoff._size_s > 0.4)
        await until("it is ready again", lambda: running.ready)
    said = [record.getMessage() for record in caplog.records]
    (away,) = [line for line in said if "Redis is away" in line]
    assert "READONLY You can't write against a read only replica" in away
    (back,) = [line for line in said if "Redis is back, after" in line]
    assert said.index(away) < said.index(back)
    assert not [line for line in said if "hears nothing" in line and "READONLY" not in line]


async def test_a_gateway_that_starts_too_early_waits_and_logs_the_reason(
    server: BundledServer, database: Any
) -> None:
    """A failover that ends in time lets it start."""
    async with replica(server, database):
        process = GatewayProcess("gateway-01", server.url, "--redis-start-s", "30")
        starting = asyncio.create_task(process.start(), name="starting")
        await until("it says so", lambda: "READONLY" in "".join(process.log), 20)
        assert not starting.done()
    async with asyncio.timeout(30):
        await starting
    async with await User.register("alice", process.url):
        pass
    await process.stop()


@pytest.mark.slow
async def test_a_start_that_times_out_ends_with_the_reason(
    server: BundledServer, database: Any
) -> None:
    """Exit code 2; the last line says what Redis said."""
    async with unsaved(server, database):
        with pytest.raises(GatewayDied) as problem:
            async with GatewayProcess("gateway-01", server.url, "--redis-start-s", "0.3"):
                pass
    lines = str(problem.value).strip().splitlines()
    assert "cannot be used: MISCONF" in lines[-1]
    assert "Traceback" not in str(problem.value)
