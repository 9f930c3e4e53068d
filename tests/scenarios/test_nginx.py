"""What changes behind a load balancer? Debian's nginx, with the configuration that is shipped."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import nginx_config
from tests.processes import GatewayProcess, User, gateways, http_get
from wsdemo.redis.server import BundledServer

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
async def cluster() -> AsyncIterator[list[GatewayProcess]]:
    with BundledServer() as server:
        async with gateways(3, server.url) as processes:
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
    """Wait until somebody accepts connections on a port of loopback."""
    async with asyncio.timeout(15):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def test_least_conn_spreads_users_and_messages_cross(
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


async def test_pages_are_forwarded_and_a_dead_gateway_is_passed_over(
    cluster: list[GatewayProcess], balancer: int
) -> None:
    """/health, /ready and /stats answer; with one gateway gone, newcomers go to the others."""
    assert await http_get(balancer, "/health") == (200, "OK")
    assert (await http_get(balancer, "/ready"))[0] == 200
    assert "gatewayId" in (await http_get(balancer, "/stats"))[1]
    assert (await http_get(balancer, "/metrics"))[0] == 404
    await cluster[0].stop()
    url = f"ws://127.0.0.1:{balancer}/ws"
    users = [await User.register(f"user-{n}", url) for n in range(6)]
    for user in users:
        await user.leave()
