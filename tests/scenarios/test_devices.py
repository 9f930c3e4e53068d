"""Several devices on gateway processes: one is killed, and the number of devices is changed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from functools import partial
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.processes import GatewayProcess, User, gateways
from tests.waiting import until
from wsdemo.redis.server import BundledServer

pytestmark = [pytest.mark.xdist_group("clock"), pytest.mark.timeout(90)]

# Thirty times faster than production: a heartbeat a second, a lease of three.
FAST = (
    *("--heartbeat-s", "1", "--presence-ttl-s", "3", "--idle-timeout-s", "60"),
    *("--health-check-s", "2", "--tick-s", "0.05", "--probe-interval-s", "0.25"),
)


async def login(url: str, device: str, user: str = "alice") -> User:
    connection = await connect(url, proxy=None, ping_interval=None, compression=None)
    logged_in = User(user, connection)
    await logged_in.say(type="register", userId=user, device=device)
    assert (await logged_in.hear())["type"] == "registered"
    return logged_in


def _has(heard: list[str], wanted: set[str]) -> bool:
    return wanted <= set(heard)


@contextlib.asynccontextmanager
async def alive(*users: User) -> Any:
    """These users send heartbeats, and what they hear is kept in `heard`."""
    heard: dict[User, list[str]] = {user: [] for user in users}

    async def beat(user: User) -> None:
        while True:
            await user.say(type="ping")
            await asyncio.sleep(0.2)

    async def listen(user: User) -> None:
        while True:
            told = await user.hear(60)
            if told["type"] == "message":
                heard[user].append(told["content"])

    tasks = [asyncio.create_task(act(user)) for user in users for act in (beat, listen)]
    try:
        yield heard
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_other_device_is_reached_when_a_gateway_is_killed(
    server: BundledServer, database: Any
) -> None:
    """Also from that moment on, and its phone comes back elsewhere beside it."""
    async with gateways(3, server.url, "--devices", "2", *FAST) as (first, second, third):
        phone = await login(first.url, "phone")
        laptop = await login(second.url, "laptop")
        carol = await User.register("carol", third.url)
        async with alive(laptop) as heard:
            first.signal(signal.SIGKILL)
            await first.wait(10)
            assert await carol.send("alice", "one", "1") == "routed"
            again = await login(third.url, "phone")
            assert await carol.send("alice", "two", "2") == "routed"
            assert (await again.hear())["content"] == "two"
            await until("the laptop heard both", lambda: heard[laptop] == ["one", "two"])
        for user in (phone, laptop, again, carol):
            await user.leave()


@pytest.mark.parametrize("before, after", [("1", "2"), ("2", "1")], ids=["up", "down"])
async def test_a_rolling_change_loses_no_user(
    server: BundledServer, database: Any, before: str, after: str
) -> None:
    """One gateway has been restarted with another `--devices`, the other one has not yet: who logs
    in last is reached from both. In the end all have the same, and devices are as they should be.
    """
    old = GatewayProcess("gateway-01", server.url, "--devices", before, *FAST)
    new = GatewayProcess("gateway-02", server.url, "--devices", after, *FAST)
    async with old, new:
        senders = [await User.register(f"from-{n}", at.url) for n, at in enumerate((old, new))]
        users: list[User] = []
        async with contextlib.AsyncExitStack() as stack:
            for n, at in enumerate((old, new, old, new)):
                users.append(await login(at.url, ("phone", "laptop")[n % 2]))
                heard = await stack.enter_async_context(alive(users[-1]))
                if n:  # Until it is told, it is still a session of the user at its own gateway.
                    replaced = users[-2].connection
                    await asyncio.wait_for(replaced.wait_closed(), 10)
                    assert replaced.close_code == 4509
                for sender in senders:
                    told = f"{n} from {sender.name}"
                    assert await sender.send("alice", told, told) == "routed"
                told_all = {f"{n} from {sender.name}" for sender in senders}
                mine = heard[users[-1]]
                await until("the newest session hears both", partial(_has, mine, told_all))
        await old.stop()
        renewed = GatewayProcess("gateway-01", server.url, "--devices", after, *FAST)
        async with renewed:
            phone = await login(renewed.url, "phone")
            laptop = await login(new.url, "laptop")
            await senders[1].say(type="message", to="alice", content="at last")
            assert (await laptop.hear())["content"] == "at last"
            if after == "2":
                assert (await phone.hear())["content"] == "at last"
            else:
                assert (await phone.closed())[0] == 4509
            for user in (*users, *senders, phone, laptop):
                await user.leave()
