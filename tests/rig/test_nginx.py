"""nginx of the laboratory: does it start, reload and end, by the rule of the shipped file?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.nginx_config import SHIPPED
from wsdemo.rig import nginx
from wsdemo.rig.nginx import CONFIG, Nginx, NginxFailed

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not nginx.installed(), reason="nginx is not installed"),
]


@pytest.fixture
async def two() -> AsyncIterator[dict[str, int]]:
    """Two servers that say their names to whoever asks."""

    async def serve(name: str) -> asyncio.Server:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + name.encode())
            writer.close()

        return await asyncio.start_server(answer, "127.0.0.1", 0)

    servers = {name: await serve(name) for name in ("one", "two")}
    yield {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
    for server in servers.values():
        server.close()


async def fetch(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    body = (await reader.read()).rpartition(b"\r\n\r\n")[2]
    writer.close()
    return body.decode()


async def test_nginx_leads_to_a_gateway_and_after_a_reload_to_another_one(
    two: dict[str, int],
) -> None:
    """At the same port; and when it ends, its files are gone."""
    server = await asyncio.to_thread(Nginx([two["one"]]).start)
    try:
        assert await fetch(server.port) == "one"
        await asyncio.to_thread(server.reload, [two["two"]])
        assert await fetch(server.port) == "two"
        folder = server._folder
    finally:
        server.stop()
        server.stop()
    assert isinstance(folder, Path) and not folder.exists()
    with pytest.raises(OSError):
        await fetch(server.port)


def test_nginx_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own words, and nothing is left."""
    monkeypatch.setattr(nginx, "CONFIG", CONFIG.replace("least_conn;", "most_conn;"))
    server = Nginx([1])
    with pytest.raises(NginxFailed, match="nginx has not started"):
        server.start()
    assert server._process is None and server._folder is None


def test_the_rule_of_the_laboratory_is_that_of_the_shipped_configuration() -> None:
    """The same zone, and the same choice."""
    for line in ("zone gateways 64k;", "least_conn;", "proxy_pass http://gateways;"):
        assert line in CONFIG and line in SHIPPED.read_text()
