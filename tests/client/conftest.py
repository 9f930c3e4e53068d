"""Fixtures: which real gateways do the tests of the client share?"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from wsdemo import Gateway, GatewaySettings
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Limits


@pytest.fixture
async def gateways(
    shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways that share a Redis and send their clients back at once."""
    first, second = (
        Gateway(
            GatewaySettings(
                gateway_id=f"gateway-0{n}",
                port=0,
                redis_url=shared_server.url,
                keyspace=keyspace,
                limits=Limits(retry_after_s=0.05),
            )
        )
        for n in (1, 2)
    )
    async with first, second:
        yield first, second
