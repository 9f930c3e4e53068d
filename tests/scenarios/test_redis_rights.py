"""Which rights does a gateway need in Redis, and what does it say when one is missing?

The line that docs/operating.md shows is the one that is tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
import signal
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.processes import GatewayDied, GatewayProcess, User, gateways
from tests.waiting import until
from wsdemo import Client
from wsdemo.features import InboxSettings
from wsdemo.gateway.server import Gateway
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import BundledServer
from wsdemo.settings import GatewaySettings, Keyspace, Timing

pytestmark = [pytest.mark.xdist_group("clock"), pytest.mark.timeout(90)]

MANUAL: Final = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()


def documented() -> tuple[str, list[str]]:
    """The name of the user and its rules, as the manual has them."""
    (line,) = re.findall(r"^ACL SETUSER (.*)$", MANUAL, re.MULTILINE)
    name, *rules = line.split()
    return name, rules


USER, RULES = documented()
RIGHTS: Final = [rule for rule in RULES if rule[0] in "+~&"]
OPTIONAL: Final = ("+script|load", "+eval", "+unsubscribe")
"""What the manual says may be missing."""
ONLY_AT_THE_START: Final = (*OPTIONAL, "+subscribe", "+pubsub|numsub")
"""What a gateway that runs does not need as long as its connections last."""


async def allow(server: BundledServer, database: Any, rules: list[str]) -> str:
    """Set the user up with these rules; return the URL with which it comes."""
    await database.execute_command("ACL", "SETUSER", USER, "reset", *rules)
    return f"redis://{USER}:secret@127.0.0.1:{server.port}"


async def converse(first: str, second: str) -> None:
    """Two users at two gateways, both ways."""
    async with (
        await User.register("alice", first) as alice,
        await User.register("bob", second) as bob,
    ):
        assert await alice.send("bob", "hello") == "routed"
        assert (await bob.hear())["content"] == "hello"
        assert await bob.send("alice", "hello yourself") == "routed"
        assert (await alice.hear())["content"] == "hello yourself"
        assert await alice.send("nobody", "x") == "offline"


async def test_the_documented_rights_are_enough(server: BundledServer, database: Any) -> None:
    """For two gateways, a conversation, a move, leases that are renewed, and a drain; no more is
    asked for than that, and nothing is left behind.
    """
    url = await allow(server, database, RULES)
    await database.execute_command("ACL", "LOG", "RESET")
    fast = ("--heartbeat-s", "0.5", "--presence-ttl-s", "1.5", "--tick-s", "0.02")
    timing = Timing().scaled(60)
    async with gateways(2, url, "--key-prefix", "app1:", *fast) as (first, second):
        await converse(first.url, second.url)
        async with Client("carol", [first.url, second.url], timing=timing) as carol:
            entry = "app1:presence:carol"

            async def is_renewed() -> bool:
                counters = json.loads((await first.get("/stats"))[1])["counters"]
                return bool(counters["refreshes_ok"] >= 3)

            await until("her lease is renewed three times", is_renewed)
            first.signal(signal.SIGTERM)
            assert await first.wait(20) == 0
            await until("moved", lambda: carol.gateway_id == "gateway-02")
            assert await database.hget(entry, "gwId") == "gateway-02"
            second.signal(signal.SIGTERM)
            assert await second.wait(20) == 0
            assert await database.keys("app1:presence:*") == []
        assert not any("NOPERM" in line for line in (*first.log, *second.log))
    refused = {entry["object"] for entry in await database.acl_log()}
    assert refused <= {"role", "info", "config|get"}, "asked for what the manual does not name"


def documented_for(flag: str) -> list[str]:
    """The rights that the manual names for a flag."""
    (row,) = re.findall(rf"(?m)^\| `([^|]+)` \|[^|]*\(`{flag}`\)", MANUAL)
    return str(row).split()


@pytest.mark.both_loops
@pytest.mark.parametrize("devices", [1, 2])
async def test_the_documented_rights_are_enough_for_durable_messages(
    server: BundledServer, database: Any, devices: int
) -> None:
    """To store, to read, to trim and to forget. Whatever is missing is named when it starts."""
    rights = documented_for("--durable")
    rights += documented_for("--devices 2") if devices > 1 else []
    assert len(rights) > 8
    inbox = InboxSettings(inbox_messages=2, durable_window=1, ack_every_s=0.05)
    url = await allow(server, database, [*RULES, *rights])
    await database.execute_command("ACL", "LOG", "RESET")
    settings = GatewaySettings(
        gateway_id="gateway-01",
        port=0,
        redis_url=url,
        keyspace=Keyspace("app1:"),
        devices=devices,
        inbox=inbox,
    )
    async with Gateway(settings) as running:
        async with await User.register("alice", running.url) as alice:
            for n in range(4):
                await alice.say(type="message", to="bob", content="x", id=str(n), durable=True)
                assert (await alice.hear())["status"] == "stored"
            async with await User.register("bob", running.url) as bob:
                assert [(await bob.hear())["id"] for _ in range(2)] == ["2", "3"]
                session = running.registry.by_user("bob")
                assert session is not None
                await running._health._refresh([session])
        counts = running.stats()["counters"]
        assert counts["inbox_trimmed_messages"] == 2
        assert not counts["inbox_acks_failed"] and not counts["inbox_pages_failed"]
    refused = {entry["object"] for entry in await database.execute_command("ACL", "LOG")}
    assert refused <= {"role", "config|get"}, "they are of use, and not needed"
    for missing in rights:
        rules = [rule for rule in (*RULES, *rights) if rule != missing]
        problem = await refusal(await allow(server, database, rules), settings)
        if missing.endswith("inboxid:*"):
            continue  # No key of a message that there is not; noticed when one is sent.
        name = missing.removeprefix("+") if missing[0] == "+" else ""
        assert re.search(f"(?i)NOPERM.*{name}", problem), (missing, problem)


async def refusal(url: str, settings: GatewaySettings) -> str:
    """Return why a gateway does not start; '' when it does."""
    try:
        async with Gateway(dataclasses.replace(settings, redis_url=url)):
            return ""
    except RedisUnavailable as problem:
        return str(problem)


@pytest.mark.parametrize("missing", RIGHTS)
async def test_a_missing_right_ends_the_start_with_its_name_or_is_not_needed(
    server: BundledServer, database: Any, missing: str
) -> None:
    """A gateway is never ready while it refuses everybody."""
    url = await allow(server, database, [rule for rule in RULES if rule != missing])
    settings = [
        GatewaySettings(gateway_id=name, port=0, redis_url=url, keyspace=Keyspace("app1:"))
        for name in ("gateway-01", "gateway-02")
    ]
    first, second = (Gateway(each) for each in settings)
    if missing in OPTIONAL:
        async with first, second:
            assert first.ready and second.ready
            await converse(first.url, second.url)
            # A server may forget scripts at any time.
            await database.script_flush()
            await asyncio.gather(*(await_scripts(each) for each in (first, second)))
            await converse(first.url, second.url)
            async with asyncio.timeout(first.settings.limits.redis_timeout_s):
                await second.stop()  # Not later than with the right.
        return
    with pytest.raises(RedisUnavailable) as problem:
        await first.start()
    assert problem.value.answered
    word = {"~": "key", "&": "channel"}.get(missing[0], missing[1:].partition("|")[0])
    assert "NOPERM" in str(problem.value)
    assert word in str(problem.value).lower()


async def await_scripts(of: Gateway) -> None:
    """Wait until a gateway works although its scripts were forgotten."""
    link = of._link
    assert isinstance(link, RedisLink)
    link.check()
    await until("it has asked", lambda: not link._trying)
    await until("it is ready", lambda: of.ready)


@pytest.mark.parametrize("missing", ["+eval +evalsha +script|load", "+hset", "&app1:gateway:*"])
@pytest.mark.slow
async def test_a_process_without_a_right_ends_with_one_line_and_code_2(
    server: BundledServer, database: Any, missing: str
) -> None:
    """No traceback, no password, no advice to start another server."""
    url = await allow(server, database, [rule for rule in RULES if rule not in missing.split()])
    process = GatewayProcess("gateway-01", url, "--key-prefix", "app1:")
    with pytest.raises(GatewayDied) as problem:
        await process.start()
    lines = str(problem.value).strip().splitlines()
    assert "NOPERM" in lines[-1] and "cannot be used" in lines[-1]
    assert "secret" not in str(problem.value)
    assert "Start one" not in str(problem.value)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [right for right in RIGHTS if right not in ONLY_AT_THE_START])
async def test_a_right_lost_later_makes_the_gateway_not_ready_with_the_reason(
    server: BundledServer, database: Any, lost: str
) -> None:
    """Noticed at the latest when the right is needed; ready again when it is granted."""
    url = await allow(server, database, RULES)
    settings = GatewaySettings(
        gateway_id="gateway-01",
        port=0,
        redis_url=url,
        keyspace=Keyspace("app1:"),
        timing=Timing().scaled(60),
    )
    async with Gateway(settings) as running:
        await database.execute_command("ACL", "SETUSER", USER, "reset", *without(lost))

        async def is_noticed() -> bool:
            if running.ready:
                # One client registers, and another one leaves.
                await _visit(running.url)
            return "NOPERM" in str(running.unready_because())

        await until("it is noticed", is_noticed, every_s=0.05)
        await database.execute_command("ACL", "SETUSER", USER, "reset", *RULES)
        await until("it is ready again", lambda: running.ready)
        async with await User.register("alice", running.url):
            pass


def without(right: str) -> list[str]:
    return [rule for rule in RULES if rule != right]


async def _visit(url: str) -> None:
    with contextlib.suppress(ConnectionClosed):
        async with connect(url, proxy=None) as connection:
            await connection.send('{"type":"register","userId":"carol"}')
            await asyncio.wait_for(connection.recv(), 10)
            await connection.send('{"type":"message","to":"dave","content":"x"}')
            await asyncio.wait_for(connection.recv(), 10)
