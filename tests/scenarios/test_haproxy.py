"""What does a rolling restart behind HAProxy cost its users? Debian's, with the file we ship."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests import haproxy_config
from tests.processes import GatewayProcess, User, gateways, http_get
from tests.scenarios.test_nginx import free_port, listening
from tests.waiting import until
from wsdemo.client import Client
from wsdemo.redis.server import BundledServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed"),
]

UNTIL_TOLD = ("--drain-notice-s", "60")
"""Longer than any test: a second SIGTERM ends the notice when all has been seen."""


FAILURES = ("econ", "wretr", "wredis")
"""Given up, tried again at the same gateway, tried again at another one."""


class Balancer:
    """HAProxy in front of some gateways, which it calls gateway-01 and so on."""

    def __init__(self, port: int, stats: Path) -> None:
        self.port = port
        self.url = f"ws://127.0.0.1:{port}/ws"
        self._stats = stats

    async def says(self, gateway: str, what: str) -> str:
        """Return one value of what it knows of a gateway; `stot` is how many it has sent there."""
        return (await haproxy_config.ask(self._stats))[gateway][what]

    async def status(self, gateway: str, status: str) -> None:
        """Wait until it takes a gateway for UP or DOWN."""

        async def is_so() -> bool:
            return (await self.says(gateway, "status")).startswith(status)

        await until(f"HAProxy says that {gateway} is {status}", is_so, 30)

    async def failures(self) -> int:
        """Return how often it could not connect to a gateway, over all of them."""
        known = await haproxy_config.ask(self._stats)
        return sum(int(row[what] or 0) for row in known.values() for what in FAILURES)


@pytest.fixture
async def balanced(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Balancer, list[GatewayProcess]]]:
    """Three gateways, with the flags that a test asks for, and HAProxy in front of them."""
    config, stats = tmp_path / "haproxy.cfg", tmp_path / "stats"
    with BundledServer() as server:
        async with gateways(3, server.url, *getattr(request, "param", ())) as cluster:
            port = free_port()
            config.write_text(haproxy_config.render([one.port for one in cluster], port, stats))
            process = await asyncio.create_subprocess_exec(
                *haproxy_config.command(config), stdout=asyncio.subprocess.DEVNULL
            )
            try:
                await listening(port)
                balancer = Balancer(port, stats)
                for one in cluster:
                    await balancer.status(one.gateway_id, "UP")
                yield balancer, cluster
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()


async def newcomer(url: str, name: str) -> str:
    """Connect, register and leave; return the gateway, or "bye" if it asked to reconnect."""
    async with connect(url, proxy=None, compression=None) as socket:
        with contextlib.suppress(ConnectionClosed):  # A close frame may have been faster.
            await socket.send(json.dumps({"type": "register", "userId": name}))
        answer = json.loads(await socket.recv())
        if answer["type"] == "bye":
            await socket.wait_closed()
            assert (answer["code"], socket.close_code) == (1012, 1012)
            assert answer["retryAfterMs"] > 0
            return "bye"
        assert answer["type"] == "registered", answer
        return str(answer["gatewayId"])


async def is_elsewhere(client: Client, name: str) -> None:
    """Wait until a user is registered, and not with this gateway."""

    def is_so() -> bool:
        return client.state == "registered" and client.gateway_id != name

    await until(f"{client.user} is back, and not at {name}", is_so, 20)


async def test_leastconn_spreads_users_and_pages_are_forwarded(
    balanced: tuple[Balancer, list[GatewayProcess]],
) -> None:
    """Thirty users come through HAProxy, ten to each gateway, and reach one another."""
    balancer, cluster = balanced
    users = [await User.register(f"user-{n}", balancer.url) for n in range(30)]
    counts = [json.loads((await one.get("/stats"))[1])["connections"] for one in cluster]
    assert counts == [10, 10, 10]
    for sender, recipient in zip(users, users[1:] + users[:1], strict=True):
        assert await sender.send(recipient.name, f"from {sender.name}") == "routed"
        assert (await recipient.hear())["content"] == f"from {sender.name}"
    assert await http_get(balancer.port, "/health") == (200, "OK")
    assert (await http_get(balancer.port, "/ready"))[0] == 200
    assert (await http_get(balancer.port, "/metrics"))[0] == 404
    for user in users:
        await user.leave()


@pytest.mark.parametrize("balanced", [UNTIL_TOLD], indirect=True)
async def test_a_rolling_restart_with_notice_sends_nobody_to_a_draining_gateway(
    balanced: tuple[Balancer, list[GatewayProcess]],
) -> None:
    """Users stay until HAProxy knows of the drain; then each reconnects once, and registers
    elsewhere at the first attempt. No connection fails."""
    balancer, cluster = balanced
    clients = [Client(f"user-{n}", [balancer.url]) for n in range(6)]
    for client in clients:
        await client.start()
    moves = dict.fromkeys(clients, 0)
    for gateway in cluster:
        name = gateway.gateway_id
        here = [client for client in clients if client.gateway_id == name]
        gateway.signal(signal.SIGTERM)
        await balancer.status(name, "DOWN")
        sent = await balancer.says(name, "stot")
        came = {await newcomer(balancer.url, f"late-{n}") for n in range(12)}
        assert came <= {other.gateway_id for other in cluster} - {name}
        assert await balancer.says(name, "stot") == sent, "somebody was sent to it"
        for client in here:
            assert client.gateway_id == name
            assert (await client.send(client.user, "still here")).status == "routed"
        gateway.signal(signal.SIGTERM)  # All has been seen: the notice is over.
        assert await gateway.wait(20) == 0
        for client in here:
            moves[client] += 1
            await is_elsewhere(client, name)
        await gateway.start()
        await balancer.status(name, "UP")
    assert sum(moves.values()) >= 6, "not everybody had to move"
    assert [client.attempts for client in clients] == [1 + moves[client] for client in clients]
    assert await balancer.failures() == 0
    for client in clients:
        await client.close()


async def test_without_notice_haproxy_learns_of_a_drain_from_failed_connections(
    balanced: tuple[Balancer, list[GatewayProcess]],
) -> None:
    """The notice closes this gap: HAProxy sends users to a closed port, and has to try again.
    With the shipped file, users only notice that it takes longer."""
    balancer, cluster = balanced
    gone = cluster[0]
    gone.signal(signal.SIGTERM)
    down, n = asyncio.create_task(balancer.status(gone.gateway_id, "DOWN")), 0
    while not down.done():
        await newcomer(balancer.url, f"user-{n}")
        n += 1
    await down
    assert await balancer.failures() > 0
    assert await gone.wait(20) == 0
