"""What changes behind a load balancer? Debian's nginx, with the configuration that is shipped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests import nginx_config
from tests.processes import GatewayProcess, User, gateways, http_get
from tests.waiting import until
from wsdemo.redis.server import BundledServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(90),
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed"),
]


def free_port() -> int:
    """Return a free port below those that systems hand out by themselves: nobody is given it before
    it is bound.
    """
    for port in random.sample(range(15_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@pytest.fixture
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[list[GatewayProcess]]:
    """Three gateways, with the flags that a test asks for."""
    with BundledServer() as server:
        async with gateways(3, server.url, *getattr(request, "param", ())) as processes:
            yield processes


@pytest.fixture
async def balancer(cluster: list[GatewayProcess], tmp_path: Path) -> AsyncIterator[int]:
    """nginx in front of the three; yields its port."""
    port = free_port()
    config = tmp_path / "nginx.conf"
    config.write_text(nginx_config.render([gateway.port for gateway in cluster], port, tmp_path))
    process = await asyncio.create_subprocess_exec(*nginx_config.command(config))
    try:
        await listening(port)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def listening(port: int) -> None:
    """Wait until a process accepts connections on a port of loopback."""
    async with asyncio.timeout(15):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def test_least_conn_spreads_users_and_messages_reach_all(
    cluster: list[GatewayProcess], balancer: int
) -> None:
    """Thirty users come through nginx, ten to each gateway, and reach one another."""
    url = f"ws://127.0.0.1:{balancer}/ws"
    users = [await User.register(f"user-{n}", url) for n in range(30)]
    counts = []
    for gateway in cluster:
        _, body = await http_get(gateway.port, "/stats")
        counts.append(json.loads(body)["connections"])
    assert counts == [10, 10, 10]
    for sender, recipient in zip(users, users[1:] + users[:1], strict=True):
        assert await sender.send(recipient.name, f"from {sender.name}") == "routed"
        assert (await recipient.hear())["content"] == f"from {sender.name}"
    for user in users:
        await user.leave()


async def test_pages_are_forwarded_and_a_dead_gateway_is_skipped(
    cluster: list[GatewayProcess], balancer: int
) -> None:
    """/health, /ready and /stats answer; with one gateway killed, new clients go to the others."""
    assert await http_get(balancer, "/health") == (200, "OK")
    assert (await http_get(balancer, "/ready"))[0] == 200
    assert "gatewayId" in (await http_get(balancer, "/stats"))[1]
    assert (await http_get(balancer, "/metrics"))[0] == 404
    assert (await http_get(balancer, "/api/presence"))[0] == 404
    await cluster[0].stop()
    url = f"ws://127.0.0.1:{balancer}/ws"
    users = [await User.register(f"user-{n}", url) for n in range(6)]
    for user in users:
        await user.leave()


@pytest.mark.parametrize("cluster", [("--drain-notice-s", "300")], indirect=True)
async def test_nginx_sends_users_to_a_gateway_on_notice_and_none_to_a_closed_port(
    cluster: list[GatewayProcess], balancer: int
) -> None:
    """nginx does not ask /ready. During a notice some new clients are told to reconnect, users
    stay; after the notice, the next gateway gets all new clients."""
    url = f"ws://127.0.0.1:{balancer}/ws"
    gone = cluster[0]
    # Equally many on each: the next one goes to any of them.
    users = [await User.register(f"user-{n}", url) for n in range(3)]
    gone.signal(signal.SIGTERM)

    async def told() -> bool:
        async with connect(url, proxy=None, compression=None) as newcomer:
            with contextlib.suppress(ConnectionClosed):  # A close frame may have been faster.
                await newcomer.send('{"type":"register","userId":"late"}')
            return bool(json.loads(await newcomer.recv())["type"] == "bye")

    await until("nginx sends somebody to the gateway on notice", told)
    for user in users:
        await user.say(type="ping")
        assert await user.hear() == {"type": "pong"}
    gone.signal(signal.SIGTERM)
    assert await gone.wait(20) == 0
    assert sorted([user.connection.state.name == "OPEN" for user in users]) == [False, True, True]
    for _ in range(6):
        assert not await told()
    for user in users:
        await user.leave()
