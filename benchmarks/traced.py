"""Allocations: how much memory does Python itself give to each idle user of a gateway?

`python -m benchmarks.traced` runs one gateway in a process of its own, and counts what Python has
allocated (tracemalloc). It takes plans as `benchmarks.load` does. Counting costs time, so nothing
else is measured on such a gateway.
"""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

from benchmarks.load import run_worker
from wsdemo.features import InboxSettings
from wsdemo.gateway.server import Gateway
from wsdemo.settings import GatewaySettings


class TracedGateway:
    """One gateway whose allocations are counted."""

    def __init__(self) -> None:
        self._gateway: Gateway | None = None

    async def begin(self, redis: str, durable: bool) -> Any:
        """Start the gateway; return its port."""
        tracemalloc.start()
        inbox = InboxSettings() if durable else None
        settings = GatewaySettings(gateway_id="traced", port=0, redis_url=redis, inbox=inbox)
        self._gateway = Gateway(settings)
        await self._gateway.start()
        return {"port": self._gateway.port}

    async def weigh(self) -> Any:
        """Return how many bytes are allocated now."""
        gc.collect()
        return {"bytes": tracemalloc.get_traced_memory()[0]}

    async def end(self) -> Any:
        """Stop the gateway."""
        if self._gateway is not None:
            await self._gateway.stop()
        tracemalloc.stop()
        return {}


if __name__ == "__main__":
    run_worker(TracedGateway)
