"""Late clean-up: does the Go demo's presence lose a live user in a race in which the fenced one
does not?

One director, one sequence of steps, two policies. If the copy of the demo did not lose alice, the
kit's claim about it would be wrong; if the fenced one did, the product would be wrong.
"""

from __future__ import annotations

import asyncio

import pytest

from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.cluster.directors import HeldVerbs
from wsdemo.lab.cluster.late_cleanup import late_cleanup

pytestmark = pytest.mark.xdist_group("clock")


async def entries(policy: str) -> list[dict[str, str]]:
    return [entry async for _, entry, _ in late_cleanup(policy)]


async def test_the_demo_s_late_cleanup_takes_a_live_user_offline() -> None:
    """Under the Go demo's rules, gateway-01's late DEL removes the entry of gateway-02."""
    before, moved, after = await entries("go-demo")
    assert before["gwId"] == "gateway-01"
    assert moved["gwId"] == "gateway-02"
    assert after == {}


async def test_the_fenced_presence_survives_the_same_late_cleanup() -> None:
    """Under the product's scripts, the same late clean-up changes nothing."""
    before, moved, after = await entries("fenced")
    assert before["gwId"] == "gateway-01"
    assert moved["gwId"] == after["gwId"] == "gateway-02"
    assert moved["connId"] == after["connId"]


@pytest.mark.parametrize(("policy", "reached"), [("go-demo", False), ("fenced", True)])
async def test_after_a_late_cleanup_messages_reach_the_user_only_when_fenced(
    policy: str, reached: bool
) -> None:
    """The acks of senders follow from the entry."""
    async for step, _, cluster in late_cleanup(policy):
        if step.startswith("the late"):
            bob = await cluster.connect("bob", to="gateway-01")
            receipt = await bob.send("alice", "Are you there?")
            assert (receipt.status == "routed") is reached
            assert cluster.users["alice"].gateway_id == "gateway-02"


async def test_the_demo_s_next_refresh_makes_half_an_entry_without_a_gateway() -> None:
    """HSET ts after the DEL makes an entry without a gateway: the user is listed, but cannot be
    reached."""
    async for step, _, cluster in late_cleanup("go-demo"):
        if step.startswith("the late"):

            async def half(cluster: Cluster = cluster) -> bool:
                return set(await cluster.record("alice")) == {"ts"}

            await cluster.until("a refresh has raised half an entry", half)
            bob = await cluster.connect("bob", to="gateway-01")
            assert (await bob.send("alice", "hello")).status == "offline"


async def test_a_held_release_waits_until_it_is_released() -> None:
    """The director forces the race: the entry stays for as long as the release is held."""
    async with Cluster(gateways=1) as cluster:
        director: HeldVerbs = cluster.directors["gateway-01"]
        await cluster.connect("alice", to="gateway-01")
        director.hold("alice")
        await cluster.disconnect("alice")

        async def waits() -> bool:
            return director.waiting("alice") == 1

        await cluster.until("the release waits", waits)
        assert (await cluster.record("alice"))["gwId"] == "gateway-01"
        director.let_go("alice")
        await asyncio.wait_for(director.done("alice"), 5)
        assert await cluster.record("alice") == {}
