"""Cluster: what do users experience with real gateway processes? Each test is a scenario of the
README or a promise of its list, with processes that are killed, frozen and drained.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.processes import GatewayDied, GatewayProcess, User, gateways
from wsdemo.redis.server import BundledServer

pytestmark = [pytest.mark.xdist_group("clock"), pytest.mark.timeout(90)]

# Thirty times faster than production: a heartbeat a second, a lease of three.
FAST = (
    *("--heartbeat-s", "1", "--presence-ttl-s", "3", "--idle-timeout-s", "60"),
    *("--health-check-s", "2", "--tick-s", "0.05", "--probe-interval-s", "0.25"),
)
HEARTBEAT_S = 1.0


async def until(what: str, condition: Callable[[], Awaitable[Any]], timeout_s: float = 20.0) -> Any:
    """Wait until an asynchronous condition holds, and return its value."""
    value: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            while not (value := await condition()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {timeout_s:g} s: {what}")
    return value


async def owner(database: Any, user: str) -> str | None:
    entry: str | None = await database.hget(f"presence:{user}", "gwId")
    return entry


async def keep_alive(user: User, every_s: float = HEARTBEAT_S / 3) -> None:
    """Send heartbeats until cancelled."""
    while True:
        await user.say(type="ping")
        await asyncio.sleep(every_s)


async def test_a_message_crosses_from_one_gateway_to_another(server: BundledServer) -> None:
    """Scenario 1: alice on gateway-01 reaches bob on gateway-02, and the log says how."""
    async with gateways(2, server.url) as (first, second):
        alice = await User.register("alice", first.url)
        bob = await User.register("bob", second.url)
        assert await alice.send("bob", "Hello from Alice!") == "routed"
        message = await bob.hear()
        assert (message["from"], message["content"]) == ("alice", "Hello from Alice!")
        routed = "[Router] Routed message from alice to bob via gateway gateway-02"
        await until("the log line", lambda: _logged(first, routed))
        assert await alice.send("nobody", "?", "2") == "offline"
        await alice.leave()
        await bob.leave()


async def _logged(process: GatewayProcess, text: str) -> bool:
    return any(text in line for line in process.log)


@pytest.mark.slow
async def test_a_user_of_a_killed_gateway_is_reached_on_the_next_one(
    server: BundledServer, database: Any
) -> None:
    """Scenario 2: gateway-01 is killed; until alice is back, the acks of her senders say so."""
    async with gateways(3, server.url) as (first, second, third):
        alice = await User.register("alice", first.url)
        carol = await User.register("carol", third.url)
        first.signal(signal.SIGKILL)
        await first.wait(10)
        await alice.closed()
        assert await owner(database, "alice") == "gateway-01", "nobody cleaned up"
        assert await carol.send("alice", "Are you there?", "1") == "unreachable"
        async with await User.register("alice", second.url) as alice:
            assert await owner(database, "alice") == "gateway-02"
            assert await carol.send("alice", "Are you still there?", "2") == "routed"
            assert (await alice.hear())["content"] == "Are you still there?"
        await carol.leave()


async def test_p1_p2_p3_a_frozen_gateway_that_resumes_changes_no_newer_entry(
    server: BundledServer, database: Any
) -> None:
    """gateway-01 is stopped, alice moves to gateway-02, gateway-01 resumes: her entry stays,
    messages reach her, and her old connection is closed as replaced."""
    async with gateways(3, server.url, *FAST) as (first, second, third):
        old_alice = await User.register("alice", first.url)
        carol = await User.register("carol", third.url)
        await old_alice.say(type="ping")  # Evidence of life: gateway-01 will want to refresh.
        first.signal(signal.SIGSTOP)
        alice = await User.register("alice", second.url)
        beats = asyncio.create_task(keep_alive(alice))
        carol_beats = asyncio.create_task(keep_alive(carol))
        # Longer than the lease of the frozen gateway: it wakes up as a zombie.
        await until("the old lease has run out", lambda: _ran_out(database, 3.5))
        first.signal(signal.SIGCONT)
        code, _ = await old_alice.closed()
        assert code == 4509
        assert await owner(database, "alice") == "gateway-02"
        await until("gateway-01 is ready again", lambda: _is_ready(first))
        assert await owner(database, "alice") == "gateway-02"
        for task in (beats, carol_beats):
            task.cancel()
        await _reach(carol, alice, "still you?")
        await alice.leave()
        await carol.leave()


async def _ran_out(database: Any, after_s: float) -> bool:
    """A condition on the server's own clock: this much time has passed since the first call."""
    seconds, micros = await database.time()
    now = seconds + micros / 1e6
    started = await database.get("test:clock")
    if started is None:
        await database.set("test:clock", now, px=60_000)
        return False
    return bool(now - float(started) > after_s)


async def _is_ready(process: GatewayProcess) -> bool:
    status, _ = await process.get("/ready")
    return status == 200


async def _reach(sender: User, recipient: User, content: str) -> None:
    """Send, and receive it at the other end; both may still have pongs before it."""
    await sender.say(type="message", to=recipient.name, content=content)
    while (message := await recipient.hear())["type"] != "message":
        assert message["type"] == "pong", message
    assert (message["from"], message["content"]) == (sender.name, content)


async def test_a_drain_leaves_no_stale_entry_and_tells_every_client_when_to_come_back(
    server: BundledServer, database: Any
) -> None:
    """SIGTERM: close code 1012 with advice, presence released, exit code 0, within ten seconds."""
    async with gateways(2, server.url) as (first, second):
        users = [await User.register(f"user-{n}", first.url) for n in range(20)]
        stuck = await _a_client_that_never_reads(first, "stuck")
        other = await User.register("other", second.url)
        first.signal(signal.SIGTERM)
        closed = await asyncio.gather(*(user.closed() for user in users))
        assert {code for code, _ in closed} == {1012}
        advice = [int(re.findall(r"retryAfterMs=(\d+)", reason)[0]) for _, reason in closed]
        assert len(set(advice)) > 1, "all were told to come back at the same moment"
        assert await first.wait(10) == 0
        left = [key async for key in database.scan_iter("presence:*")]
        assert left == ["presence:other"]
        assert await database.pubsub_channels("gateway:gateway-01") == []
        await other.leave()
        stuck.close()


async def _a_client_that_never_reads(process: GatewayProcess, name: str) -> asyncio.StreamWriter:
    """Register, and then leave everything unread in the kernel, its buffer tiny."""
    user = await User.register(name, process.url)
    transport = user.connection.transport
    transport.pause_reading()
    return transport  # type: ignore[return-value]


async def test_a_redis_that_comes_back_empty_has_one_owner_per_user_within_a_refresh(
    server: BundledServer, database: Any
) -> None:
    """P8: sockets stay, every session registers itself again, and of two sessions of one user
    one wins."""
    async with gateways(2, server.url, *FAST) as (first, second):
        users = [
            await User.register(f"user-{n}", gateway.url)
            for n, gateway in enumerate((first, second) * 5)
        ]
        server.kill()
        for gateway in (first, second):
            await until("the gateway has noticed", lambda: _is_unready(gateway))
        server.restart(empty=True)
        for gateway in (first, second):
            await until("the gateway is ready again", lambda: _is_ready(gateway))
        await until("all are back", lambda: _all_present(database, users), 10 * HEARTBEAT_S)
        for n, user in enumerate(users):
            assert await owner(database, user.name) == f"gateway-{n % 2 + 1:02}"
            assert user.connection.close_code is None, "a socket was lost"
        sender, recipient = users[0], users[1]
        assert await sender.send(recipient.name, "after the flood") == "routed"
        assert (await recipient.hear())["content"] == "after the flood"
        for user in users:
            await user.leave()


async def _is_unready(process: GatewayProcess) -> bool:
    return not await _is_ready(process)


async def _all_present(database: Any, users: list[User]) -> bool:
    present = [user for user in users if await owner(database, user.name)]
    return len(present) == len(users)


async def test_while_redis_is_away_registers_get_1013_with_advice(
    server: BundledServer,
) -> None:
    """Existing sockets stay and get correct acks; a register gets 1013 with `retryAfterMs`."""
    async with gateways(1, server.url, *FAST) as (gateway,):
        alice = await User.register("alice", gateway.url)
        server.kill()
        await until("the gateway has noticed", lambda: _is_unready(gateway))
        assert await alice.send("bob", "?") == "busy"
        with pytest.raises(AssertionError, match="retryAfterMs"):
            await User.register("bob", gateway.url)
        await alice.say(type="ping")
        assert (await alice.hear())["type"] == "pong"
        await alice.leave()


@pytest.mark.slow
async def test_a_second_gateway_of_the_same_name_refuses_to_start(server: BundledServer) -> None:
    """One line on stderr, exit code 2, and the first one does not notice."""
    async with gateways(1, server.url) as (first,):
        second = GatewayProcess("gateway-01", server.url)
        with pytest.raises(GatewayDied, match="another gateway is running as 'gateway-01'"):
            await second.start()
        assert await second.wait(10) == 2
        await second.stop()
        assert len(second.log) == 1, second.log
        assert await _is_ready(first)


@pytest.mark.slow
async def test_a_takeover_stops_the_gateway_that_it_replaces(server: BundledServer) -> None:
    """--takeover: the old process drains and ends; the new one answers under the same name."""
    async with gateways(1, server.url) as (first,):
        alice = await User.register("alice", first.url)
        async with GatewayProcess("gateway-01", server.url, "--takeover") as second:
            code, _ = await alice.closed()
            assert code == 1012
            assert await first.wait(10) == 0
            async with await User.register("alice", second.url) as alice:
                await _reach(alice, alice, "hello, me")
