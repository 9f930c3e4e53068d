"""HTTP pages: what does a gateway answer to requests without a WebSocket?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.cluster import Raw, gateway
from tests.processes import User, http_get
from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

pytestmark = pytest.mark.both_loops

PAGES = ["/health", "/ready", "/stats", "/metrics"]


@pytest.fixture
async def one(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    """gateway-01."""
    async with gateway(shared_server, keyspace) as running:
        yield running


async def ask(port: int, request: str) -> tuple[int, dict[str, str], bytes]:
    """Send a request as it is; return the status, the headers and the body."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request.encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


async def samples(running: Gateway) -> dict[str, float]:
    """What /metrics shows: `name` or `name{value of its one label}` to value."""
    status, text = await http_get(running.port, "/metrics")
    assert status == 200
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            label = "".join(sample.labels.values())
            found[f"{sample.name}{{{label}}}" if label else sample.name] = sample.value
    return found


@pytest.mark.parametrize("page", PAGES)
async def test_head_answers_like_get_without_the_body(one: Gateway, page: str) -> None:
    """Same status and type; no byte after the headers."""
    got = await ask(one.port, f"GET {page} HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await ask(one.port, f"HEAD {page} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert got[0] == head[0] == 200
    assert got[1]["content-type"] == head[1]["content-type"]
    assert got[2] and not head[2]


@pytest.mark.parametrize("path", ["/", "/nothing", "/health/", "/Health", "/ws/", "/stats/x"])
async def test_an_unknown_path_is_404(one: Gateway, path: str) -> None:
    """Also for similar paths; and the path is not repeated in the answer."""
    status, _, body = await ask(one.port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, body) == (404, b"Not found.\n")


async def test_an_upgrade_at_another_path_than_ws_is_404(one: Gateway) -> None:
    """A WebSocket at the wrong path gets the plain 404."""
    status, _, _ = await ask(
        one.port,
        "GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
    assert status == 404
    assert one.counters.connections_accepted == 0


@pytest.mark.parametrize("page", PAGES)
async def test_a_query_string_does_not_change_a_page(one: Gateway, page: str) -> None:
    """Monitors often add one."""
    assert (await http_get(one.port, f"{page}?x=1&y=/ws"))[0] == 200


@pytest.mark.parametrize("page", ["/ready", "/stats"])
async def test_json_pages_have_the_content_type_of_json(one: Gateway, page: str) -> None:
    """One Content-Type header, and a body that is valid JSON."""
    status, headers, body = await ask(one.port, f"GET {page} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)
    assert json.loads(body)["gatewayId"] == "gateway-01"


async def test_stats_count_users_sockets_and_messages(one: Gateway) -> None:
    """A socket without a user counts as a socket; every counter is listed."""
    async with await User.register("alice", one.url) as alice, await Raw.open(one):
        await alice.say(type="message", to="alice", content="me")
        assert (await alice.hear())["content"] == "me"
        stats = json.loads((await http_get(one.port, "/stats"))[1])
    assert (stats["connections"], stats["ready"]) == (1, True)
    assert stats["sockets"] == 3, "alice, the unregistered one, and who asks"
    assert stats["bootId"] == one.boot_id
    assert stats["uptimeS"] >= 0
    counters = stats["counters"]
    assert counters["connections_accepted"] == 2
    assert counters["registers_ok"] == 1
    assert counters["messages_received"] == counters["routes_local"] == 1


async def test_metrics_agree_with_stats(one: Gateway) -> None:
    """Each counter of the one is a sample of the other, with the same value."""
    async with await User.register("alice", one.url) as alice:
        await alice.say(type="message", to="alice", content="me")
        assert (await alice.hear())["content"] == "me"
        assert await alice.send("nobody", "x", "2") == "offline"
        shown = await samples(one)
        counters: dict[str, int] = one.stats()["counters"]
    for name, value in counters.items():
        stem, _, label = name.partition("_")
        keys = (f"wsdemo_{name}_total", f"wsdemo_{stem}_total{{{label}}}")
        assert value in [shown[key] for key in keys if key in shown], name
    assert shown["wsdemo_connections"] == 1
    assert shown["wsdemo_ready"] == 1


async def test_two_gateways_in_one_process_count_separately(
    one: Gateway, shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """A user who registers at one is not counted at the other."""
    async with (
        gateway(shared_server, keyspace, "gateway-02") as two,
        await User.register("alice", one.url),
    ):
        assert (await samples(one))["wsdemo_registers_total{ok}"] == 1
        assert (await samples(two))["wsdemo_registers_total{ok}"] == 0


async def test_without_redis_a_gateway_is_alive_and_not_ready(keyspace: Keyspace) -> None:
    """/health stays OK; /ready says 503 and why; sockets stay; the gauge follows."""
    with BundledServer() as server:
        async with gateway(server, keyspace) as running:
            async with await User.register("alice", running.url) as alice:
                server.stop()

                async def unready() -> Any:
                    status, body = await http_get(running.port, "/ready")
                    return status == 503 and json.loads(body)

                document = await until("it is not ready", unready)
                assert document["ready"] is False
                assert "no connection to Redis" in document["reasons"]
                assert await http_get(running.port, "/health") == (200, "OK")
                assert (await samples(running))["wsdemo_ready"] == 0
                await alice.say(type="ping")
                assert await alice.hear() == {"type": "pong"}


async def test_a_full_gateway_refuses_sockets_and_still_shows_its_pages(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """503 with a Retry-After for a WebSocket; pages are still served."""
    async with (
        gateway(shared_server, keyspace, max_connections=1) as running,
        await Raw.open(running),
    ):
        status, headers, _ = await ask(
            running.port,
            "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        assert status == 503
        assert headers["retry-after"] == "1"
        assert running.counters.connections_refused == 1
        for page in PAGES:
            assert (await http_get(running.port, page))[0] == 200


async def test_a_page_leaves_no_socket_behind(one: Gateway) -> None:
    """Requested fifty times at once; then nothing is open, and nothing was counted as a client."""
    await asyncio.gather(*(http_get(one.port, PAGES[n % 4]) for n in range(50)))
    await until("no socket", lambda: one.stats()["sockets"] == 0)
    assert one.counters.connections_accepted == 0
