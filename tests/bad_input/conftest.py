"""Fixtures: which gateway and which other client does every bad input meet?

The neighbour is connected before the bad input arrives. When the test is over it sends itself a
message, and this message and its ack must be the very next things that it hears: nobody's bad
input has closed its connection, and nothing was delivered to it that was not its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.examples import FRAME_PATHS
from tests.gateway.cluster import gateway
from tests.processes import User
from wsdemo.gateway.auth import mint_token
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

NEVER = 4e9
"""When the tokens of neighbours end (Unix seconds)."""

Start = Callable[..., Awaitable[Gateway]]


async def _register(name: str, gateway: Gateway) -> User:
    """Register, with a token where one is wanted."""
    user = User(name, await connect(gateway.url, proxy=None, compression=None))
    secret = gateway.settings.auth_secret
    token = mint_token(secret, name, NEVER) if secret is not None else ""
    await user.say(type="register", userId=name, token=token)
    assert (await user.hear())["type"] == "registered"
    return user


async def still_talks(neighbour: User) -> None:
    """The neighbour sends a message to itself and receives it, and nothing else."""
    await neighbour.say(type="message", to=neighbour.name, content="still here", id="n")
    message = {"type": "message", "from": neighbour.name, "content": "still here", "id": "n"}
    assert await neighbour.hear() == message
    assert await neighbour.hear() == {"type": "ack", "id": "n", "status": "routed"}


@pytest.fixture(params=FRAME_PATHS.values(), ids=[*FRAME_PATHS])
async def start(
    request: pytest.FixtureRequest, shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[Start]:
    """Start a gateway with these limits, and its neighbour: `await start(drain_s=1)`."""
    neighbours: list[User] = []
    async with contextlib.AsyncExitStack() as stack:

        async def begin(gateway_id: str = "gateway-01", **options: Any) -> Gateway:
            running = await stack.enter_async_context(
                gateway(shared_server, keyspace, gateway_id, fast_frames=request.param, **options)
            )
            neighbours.append(
                await stack.enter_async_context(
                    await _register(f"neighbour-{len(neighbours)}", running)
                )
            )
            return running

        yield begin
        assert neighbours, "a test without a gateway has shown nothing"
        for neighbour in neighbours:
            await still_talks(neighbour)


@pytest.fixture
async def one(start: Start) -> Gateway:
    """gateway-01, with the usual limits."""
    return await start()


def inputs(cases: dict[str, Any]) -> pytest.MarkDecorator:
    """Parametrize a test over the inputs of a row: name to what is said, or to (said, answer)."""
    return pytest.mark.parametrize("case", list(cases.values()), ids=list(cases))
