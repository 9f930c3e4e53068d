"""Late clean-up: what does each step of the race of lesson 04 do, under a given policy?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from wsdemo.lab.cluster.cluster import Cluster

STEP_TIMEOUT_S: Final = 5.0


async def late_cleanup(policy: str) -> AsyncIterator[tuple[str, dict[str, str], Cluster]]:
    """Play the late clean-up under a policy; yield each step, alice's entry after it, the lab.

    alice is at gateway-01; her connection breaks; the clean-up of gateway-01 is held; she registers
    with gateway-02; only then the clean-up is released.
    """
    async with Cluster(gateways=2, policy=policy) as cluster:
        alice = await cluster.connect("alice", to="gateway-01")
        yield "alice registers with gateway-01", await cluster.record("alice"), cluster
        director = cluster.directors["gateway-01"]
        director.hold("alice")
        await alice.move(cluster.gateway("gateway-02").url)
        yield "she moves to gateway-02", await cluster.record("alice"), cluster
        director.let_go("alice")
        await asyncio.wait_for(director.done("alice"), STEP_TIMEOUT_S)
        yield "the late clean-up of gateway-01", await cluster.record("alice"), cluster
