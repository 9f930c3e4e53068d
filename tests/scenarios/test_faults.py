"""Faults: what do users notice when something breaks at one precise moment?

Here are the faults of docs/faults.md that need their moment, or a wrongly configured server. Faults
that may happen at any time are tried by the simulation and by chaos.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.gateway.cluster import gateway
from tests.processes import GatewayProcess, User, gateways
from tests.waiting import until
from wsdemo import Client
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.session import Session
from wsdemo.protocol import Code
from wsdemo.redis.connection import CommandError, RedisUnavailable
from wsdemo.redis.fitness import examine
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import BundledServer
from wsdemo.rig.wire import Wire
from wsdemo.settings import GatewaySettings, Keyspace, Limits, Timing

pytestmark = [pytest.mark.xdist_group("clock"), pytest.mark.timeout(90)]


# --- a gateway dies at a precise moment ----------------------------------------------------------


@pytest.mark.slow
async def test_a_gateway_that_dies_between_mint_and_register_leaves_only_a_fence(
    server: BundledServer, database: Any
) -> None:
    """No entry; and the user can register at another gateway at once (fault 7)."""
    async with Wire("127.0.0.1", server.port) as wire:
        by_wire = server.url_by(wire.port)
        async with (
            GatewayProcess("gateway-01", by_wire) as first,
            GatewayProcess("gateway-02", server.url) as second,
            connect(first.url, proxy=None) as connection,
        ):
            wire.drop("down")  # Redis executes the mint, and its reply is lost.
            await connection.send('{"type":"register","userId":"alice"}')
            minted = await until("minted", lambda: database.hget("fence:alice", "mint"))
            first.signal(signal.SIGKILL)
            await first.wait(10)
            assert await database.hgetall("presence:alice") == {}
            async with await User.register("alice", second.url):
                entry = await database.hgetall("presence:alice")
                assert entry["gwId"] == "gateway-02"
                assert int(entry["epoch"]) > int(minted)


async def test_a_register_at_the_next_gateway_supersedes_one_without_an_answer(
    server: BundledServer, database: Any
) -> None:
    """The client has no answer and tries the next gateway; one entry is left, with that gateway
    (fault 8).
    """
    async with (
        gateways(2, server.url) as (first, second),
        Wire("127.0.0.1", first.port) as wire,
    ):
        client = Client("alice", [f"ws://127.0.0.1:{wire.port}/ws", second.url])
        wire.hold("down")  # From the handshake on: the client must get that far.
        starting = asyncio.create_task(client.start(30), name="starting")
        await until("the handshake waits", lambda: any(True for _ in wire.strands()))
        wire.release("down")
        await until("registered at the first", lambda: database.hget("presence:alice", "gwId"))
        first.signal(signal.SIGKILL)
        await starting
        await until("it lives at the second", lambda: client.gateway_id == "gateway-02")
        owner = await database.hgetall("presence:alice")
        assert (owner["gwId"], owner["connId"]) == ("gateway-02", client.conn_id)
        await client.close()


async def test_an_exception_in_one_session_ends_that_session_only(
    shared_server: BundledServer,
    keyspace: Keyspace,
    monkeypatch: pytest.MonkeyPatch,
    redis_db: Any,
) -> None:
    """1011, its entry is deleted, other sessions are not affected, and the exception is reported
    (fault 11)."""
    witnessed: list[BaseException] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: witnessed.append(context["exception"]))
    honest = Session.on_text

    def buggy(self: Session, data: bytes) -> None:
        if b"trigger" in data:
            raise ZeroDivisionError("a bug")
        honest(self, data)

    monkeypatch.setattr(Session, "on_text", buggy)
    async with (
        gateway(shared_server, keyspace) as running,
        await User.register("alice", running.url) as alice,
        await User.register("bob", running.url) as bob,
    ):
        await alice.say(type="trigger")
        assert (await alice.closed())[0] == Code.INTERNAL
        await until("her entry is gone", lambda: _is_absent(redis_db, keyspace.presence("alice")))
        await bob.say(type="ping")
        assert await bob.hear() == {"type": "pong"}
    assert [type(problem) for problem in witnessed] == [ZeroDivisionError]


async def _is_absent(database: Any, key: str) -> bool:
    return not await database.exists(key)


@pytest.mark.slow
async def test_a_stalled_event_loop_drops_nobody(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """It stalls for longer than a client may be silent, while pings wait unread. The stall is
    counted (fault 6).
    """
    timing = Timing().scaled(60)
    async with gateway(shared_server, keyspace, timing=timing) as running:
        async with Client("alice", [running.url], timing=timing) as alice:
            connection = alice.conn_id
            time.sleep(2 * timing.ws_ping_timeout_s + timing.idle_timeout_s / 3)
            await until("the stall was noticed", lambda: running.counters.stalls)
            refreshed = running.counters.refreshes_ok
            await until("life goes on", lambda: running.counters.refreshes_ok > refreshed)
            assert (alice.conn_id, alice.state) == (connection, "registered")
        assert running.counters.heartbeat_timeouts == 0
        lags = next(f for f in running.metrics() if f.name == "wsdemo_loop_lag_seconds")
        assert any(s.labels.get("le") == "+Inf" and s.value > 0 for s in lags.samples)


# --- Redis is not as it should be ----------------------------------------------------------------


@pytest.mark.slow
async def test_a_redis_that_requires_a_password_is_one_line_and_exit_code_2(
    server: BundledServer,
) -> None:
    """Within seconds, and the line does not contain the password (fault 54)."""
    url = f"redis://:wrong@127.0.0.1:{server.port}/0"
    for address in (url, f"redis://127.0.0.1:{server.port}/0"):
        code, err = await _start(address)
        assert (code, err.count("\n")) == (2, 1), err
        assert "wrong@" not in err and server.url not in err


async def test_a_redis_that_is_too_old_is_refused_at_the_start(
    shared_server: BundledServer,
) -> None:
    """Otherwise its scripts would fail one by one. 7.0 is new enough (fault 54)."""
    version = b"6.2.14"

    class Old(RedisLink):
        async def call(self, *args: Any) -> Any:
            if args == ("INFO", "server"):
                return b"# Server\r\nredis_version:%b\r\n" % version
            return await super().call(*args)

    link = Old(shared_server.url, Limits())
    await link.start()
    with pytest.raises(RedisUnavailable, match=r"6\.2 is too old; 7\.0"):
        await examine(link)
    version = b"7.0.0"
    assert await examine(link) == []
    await link.stop()


async def test_a_redis_that_forbids_info_and_config_is_accepted(
    shared_server: BundledServer,
) -> None:
    """Managed servers forbid CONFIG, and some INFO."""

    class Silent(RedisLink):
        async def call(self, *args: Any) -> Any:
            raise CommandError("NOPERM this user has no permissions to run the command")

    link = Silent(shared_server.url, Limits())
    await link.start()
    assert await examine(link) == []
    await link.stop()


async def test_a_redis_that_may_evict_keys_causes_a_warning(
    server: BundledServer, database: Any
) -> None:
    """In the log and in /stats; a user whose entry was evicted has it back after the next refresh
    (fault 28).
    """
    await database.config_set("maxmemory-policy", "allkeys-lru")
    timing = Timing().scaled(60)
    settings = GatewaySettings(gateway_id="gateway-01", port=0, redis_url=server.url, timing=timing)
    async with Gateway(settings) as running:
        (warning,) = running.stats()["warnings"]
        assert "allkeys-lru" in warning
        async with Client("alice", [running.url], timing=timing) as alice:
            await database.delete("presence:alice", "fence:alice")
            await until("reclaimed", lambda: running.counters.refreshes_reclaimed)
            assert await database.hget("presence:alice", "connId") == alice.conn_id


async def test_a_foreign_value_in_place_of_an_entry_is_reported_and_survived(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """This user gets an error and 1013; others can register, and so can she once it is deleted
    (fault 32).
    """
    await redis_db.set(keyspace.presence("alice"), "text")
    async with gateway(shared_server, keyspace) as running:
        async with connect(running.url, proxy=None) as connection:
            await connection.send('{"type":"register","userId":"alice"}')
            assert "Registration failed" in str(await asyncio.wait_for(connection.recv(), 10))
            await asyncio.wait_for(connection.wait_closed(), 10)
            assert connection.close_code == Code.TRY_LATER
        async with await User.register("bob", running.url):
            await redis_db.delete(keyspace.presence("alice"))
            async with await User.register("alice", running.url):
                assert running.counters.registers_ok == 2


async def _start(redis_url: str) -> tuple[int | None, str]:
    """Start a gateway that is not to start; return its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "wsdemo.gateway", "--id", "gateway-01", "--port", "0", "--redis", redis_url),
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, err.decode()
