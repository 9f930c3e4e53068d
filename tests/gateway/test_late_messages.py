"""Is a message that was told `unknown` executed in time, or never?

A Redis that was frozen finds in its sockets what gateways have given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import pytest

from tests.gateway.cluster import Raw, gateway
from tests.waiting import until
from wsdemo.features import InboxSettings, RoomSettings
from wsdemo.gateway.server import Gateway
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

pytestmark = pytest.mark.both_loops

TIMEOUT_S: Final = 0.5
FORMS: Final[Mapping[str, Mapping[str, Any]]] = {
    "plain": {},
    "devices": {"devices": 2},
    "durable": {"inbox": InboxSettings(trust_redis=True)},
    "durable, devices": {"inbox": InboxSettings(trust_redis=True), "devices": 2},
    "room": {"rooms": RoomSettings()},
    "room with a history": {"rooms": RoomSettings(room_history=100, trust_redis=True)},
}
"""All the ways to send a message, by what the gateways are told."""


class Sender:
    """Alice, who sends messages to bob in one of these ways."""

    def __init__(self, form: str, raw: Raw) -> None:
        self._raw = raw
        self._way: dict[str, Any] = {"type": "message", "to": "bob"}
        if form.startswith("durable"):
            self._way["durable"] = True
        elif form.startswith("room"):
            self._way = {"type": "publish", "room": "lobby"}

    def say(self, msg_id: str) -> None:
        document = {**self._way, "content": msg_id, "id": msg_id}
        self._raw.frame(json.dumps(document).encode())

    async def told(self) -> tuple[str, str]:
        """Return the next answer: an id and its status."""
        while (answer := await self._raw.answer())["type"] != "ack":
            assert answer["type"] in ("message", "member"), answer
        return answer["id"], answer["status"]

    async def send(self, msg_id: str) -> str:
        self.say(msg_id)
        told, status = await self.told()
        assert told == msg_id
        return status


async def contents(raw: Raw, last: str) -> list[str]:
    """Return what messages say, up to the last one."""
    heard: list[str] = []
    while heard[-1:] != [last]:
        answer = await raw.answer()
        if answer["type"] == "message":
            heard.append(answer["content"])
    return heard


async def entered(running: Gateway, user: str, form: str) -> Raw:
    raw = await Raw.register(running, user)
    if form.startswith("room"):
        raw.frame(b'{"type":"join","room":"lobby"}')
        while (await raw.answer())["type"] != "joined":
            pass
    return raw


@contextlib.asynccontextmanager
async def alice_and_bob(
    server: BundledServer, keyspace: Keyspace, form: str
) -> AsyncIterator[tuple[Gateway, Sender, Raw]]:
    """Two users at two gateways; bob hears what alice sends."""
    told: dict[str, Any] = {"settings": FORMS[form], "redis_timeout_s": TIMEOUT_S}
    async with (
        gateway(server, keyspace, "gateway-01", **told) as here,
        gateway(server, keyspace, "gateway-02", **told) as there,
        await entered(here, "alice", form) as alice,
        await entered(there, "bob", form) as bob,
    ):
        yield here, Sender(form, alice), bob


@pytest.mark.parametrize("form", FORMS)
async def test_a_message_that_was_told_unknown_does_not_arrive_late(
    server: BundledServer, keyspace: Keyspace, form: str
) -> None:
    """Redis is frozen until all deadlines are over. What lies in its sockets is executed then, and
    none of it arrives (fault 180).
    """
    loop = asyncio.get_running_loop()
    accepted = {"routed", "stored"}
    async with alice_and_bob(server, keyspace, form) as (here, sender, bob):
        assert await sender.send("first") in accepted
        server.pause()
        for n in range(20):
            sender.say(f"frozen {n}")
        assert {await sender.told() for _ in range(20)} == {
            (f"frozen {n}", "unknown") for n in range(20)
        }
        over_at = loop.time() + TIMEOUT_S  # They were sent before this moment.
        await until("all deadlines are over", lambda: loop.time() > over_at)
        server.resume()
        await until("the gateways are back", lambda: here._link.up and here._router.ready)
        assert await until("it hears again", lambda: _accepted(sender, accepted))
        assert await contents(bob, "last") == ["first", "last"]


async def _at(due: float) -> None:
    loop = asyncio.get_running_loop()
    await until("it is time for the next", lambda: loop.time() >= due, every_s=0.001)


async def _accepted(sender: Sender, accepted: set[str]) -> bool:
    return await sender.send("last") in accepted


@pytest.mark.parametrize("form", FORMS)
async def test_what_is_still_in_time_arrives_in_order_or_never(
    server: BundledServer, keyspace: Keyspace, form: str
) -> None:
    """Redis goes on when some deadlines are over and others are not (fault 180). Messages that were
    sent a little later than the first one were given up with it, and may still be in time.
    """
    async with alice_and_bob(server, keyspace, form) as (here, sender, bob):
        server.pause()
        started = asyncio.get_running_loop().time()
        for n in range(10, 30):
            await _at(started + (n - 10) * TIMEOUT_S / 25)
            sender.say(str(n))
        assert len([await sender.told() for _ in range(20)]) == 20
        server.resume()
        await until("the gateways are back", lambda: here._link.up and here._router.ready)
        assert await until("it hears again", lambda: _accepted(sender, {"routed", "stored"}))
        *early, _ = await contents(bob, "last")
        assert early == sorted(set(early))


@pytest.mark.parametrize("form", FORMS)
async def test_a_message_that_came_too_late_is_unknown_and_may_be_sent_again(
    shared_server: BundledServer, keyspace: Keyspace, form: str
) -> None:
    """The clock of Redis was set forward (fault 181): the message does not arrive; said again with
    the same id, it arrives once. By then, the clock was read anew.
    """
    accepted = {"routed", "stored"}
    async with alice_and_bob(shared_server, keyspace, form) as (here, sender, bob):
        link = here._link
        assert isinstance(link, RedisLink)
        now = asyncio.get_running_loop().time()
        link._clock.forget()
        link._hear_time(now, [b"1000000000", b"0"])
        assert await sender.send("again") == "unknown"
        await until("the clock was read anew", lambda: not link._asks_time)
        assert here.stats()["counters"]["messages_expired"] == 1
        assert await sender.send("again") in accepted
        assert await sender.send("last") in accepted
        assert await contents(bob, "last") == ["again", "last"]


async def test_an_echo_that_came_too_late_leads_to_a_look_at_the_clock(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Nobody is told, because the message was routed; but all that follows would be too late."""
    async with alice_and_bob(shared_server, keyspace, "devices") as (here, sender, _):
        async with await Raw.register(here, "carol"):
            link = here._link
            assert isinstance(link, RedisLink)
            link._clock.forget()
            link._hear_time(asyncio.get_running_loop().time(), [b"1000000000", b"0"])
            sender._way["to"] = "carol"
            assert await sender.send("first") == "routed"
            await until("the clock was read anew", lambda: link.expired and not link._asks_time)
            sender._way["to"] = "bob"
            assert await sender.send("last") == "routed"
