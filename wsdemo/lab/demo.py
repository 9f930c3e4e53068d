"""Demo: what do the gateways do, shown in a terminal? `make demo`

Scenario 1: a message across gateways. Scenario 2: a gateway crashes. Then the late clean-up, under
the Go demo's policy and under ours. Every printed line describes what has just happened on running
servers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from wsdemo.command_line import Parser, fail
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.cluster.late_cleanup import late_cleanup
from wsdemo.redis.server import ServerError
from wsdemo.terminal import printable, say

PROGRAM = "wsdemo.lab.demo"


async def one_message() -> None:
    """Show scenario 1 and 2 on three gateways."""
    async with Cluster(gateways=3) as cluster:
        say(f"Redis: {cluster.redis_source}")
        alice = await cluster.connect("alice", to="gateway-01")
        bob = await cluster.connect("bob", to="gateway-02")
        carol = await cluster.connect("carol", to="gateway-03")
        for user in (alice, bob, carol):
            say(f"  {user.user} is at {user.gateway_id}")
        say("\nScenario 1: a message across gateways")
        receipt = await alice.send("bob", "Hello from Alice!")
        message = await bob.receive(5)
        say(f"  bob reads: {message.sender}: {printable(message.content)}")
        trace = cluster.trace()
        way = trace[(trace["msg_id"] == receipt.id) & (trace["peer"] != "")]
        for hop in way.itertuples():
            micros = (hop.t_recv - hop.t) * 1e6
            say(f"    {hop.lane:>10} -> {hop.peer:<10} {hop.kind:<8} {micros:5.0f} µs")
        say("\nScenario 2: gateway-01 goes, and alice comes back elsewhere")
        await cluster.gateway("gateway-01").stop()

        async def elsewhere() -> bool:
            return (await cluster.record("alice")).get("gwId", "gateway-01") != "gateway-01"

        await cluster.until("alice is registered elsewhere", elsewhere, 20)
        say(f"  Redis says that alice is at {(await cluster.record('alice'))['gwId']}")
        receipt = await carol.send("alice", "Are you still there?")
        message = await alice.receive(5)
        say(f"  alice reads: {message.sender}: {printable(message.content)}")


async def the_race(policy: str, name: str) -> bool:
    """Show the late clean-up under a policy; return whether alice still has an entry at its end."""
    say(f"\nThe late clean-up, {name}")
    entry: dict[str, str] = {}
    async for step, entry, _ in late_cleanup(policy):
        say(f"  {step + ':':<34} presence:alice = {entry.get('gwId', '(nothing)')}")
    kept = entry.get("gwId") == "gateway-02"
    say("  She is at gateway-02, and Redis knows it." if kept else "  She is online, and lost.")
    return kept


async def tell() -> int:
    await one_message()
    lost = not await the_race("go-demo", "as the Go demo does it (unconditional DEL)")
    kept = await the_race("fenced", "with scripts that compare the owner")
    return 0 if lost and kept else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    Parser(PROGRAM, description=__doc__).read(argv)
    try:
        return asyncio.run(tell())
    except ServerError as problem:
        fail(PROGRAM, str(problem))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
