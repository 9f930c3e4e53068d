"""Do the phone and the laptop of a user both get every durable message, on real gateways?

D1 to D8 for each device (docs/guarantees.md). What the scripts decide is in `tests/inbox`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from tests.gateway.cluster import Raw, gateway
from tests.gateway.test_durable import say, send
from tests.waiting import until
from wsdemo.features import InboxSettings
from wsdemo.gateway.durable import InboxReader
from wsdemo.gateway.server import Gateway
from wsdemo.inbox.devices import SEEN_STEP
from wsdemo.protocol import Code
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

pytestmark = pytest.mark.both_loops

Start = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture
def start(shared_server: BundledServer, keyspace: Keyspace) -> Start:
    """Starts gateways that store messages for users with two devices; `inbox` has the flags."""

    @asynccontextmanager
    async def starting(gateway_id: str = "gateway-01", **inbox: Any) -> AsyncIterator[Gateway]:
        settings = {"devices": 2, "inbox": InboxSettings(**{"ack_every_s": 0.05} | inbox)}
        async with gateway(shared_server, keyspace, gateway_id, settings=settings) as running:
            yield running

    return starting


async def login(running: Gateway, device: str, resume: Any = None) -> Raw:
    """Be this device of bob, which has read so far; None: knows nothing of inboxes."""
    raw = await Raw.open(running)
    hello = {"type": "register", "userId": "bob", "device": device}
    say(raw, hello if resume is None else hello | {"resume": resume})
    answer = await raw.answer()
    assert (answer["type"], answer["durable"], answer["device"]) == ("registered", True, device)
    return raw


async def resumed(raw: Raw) -> str:
    """Take what a client is told first, confirm it; return the epoch."""
    answer = await raw.answer()
    assert answer["type"] == "resumed", answer
    acknowledge(raw, answer["epoch"], answer["offset"])
    return str(answer["epoch"])


def acknowledge(raw: Raw, epoch: str, offset: str) -> None:
    say(raw, {"type": "ack", "epoch": epoch, "offset": offset})


async def words(raw: Raw, count: int) -> list[str]:
    return [str((await raw.answer())["content"]) for _ in range(count)]


def reader_of(running: Gateway, device: str) -> InboxReader:
    durable = running._durable
    assert durable is not None
    return next(one for one in durable._readers.values() if one.session.device == device)


@pytest.mark.parametrize("sender_at", [1, 2])
async def test_a_stored_message_reaches_all_devices_at_once(start: Start, sender_at: int) -> None:
    """D6: the gateway that stores it tells its own sessions itself, the others by Redis."""
    async with start("gateway-01") as one, start("gateway-02") as two:
        async with (
            await login(one, "phone", {}) as phone,
            await login(two, "laptop", {}) as laptop,
            await Raw.register((one, two)[sender_at - 1], "alice") as alice,
        ):
            for device in (phone, laptop):
                await resumed(device)
            for n in range(5):
                assert await send(alice, "bob", str(n), f"a-{n}") == "stored"
                assert [*await words(phone, 1), *await words(laptop, 1)] == [str(n), str(n)]


async def test_two_devices_at_the_gateway_of_the_sender_are_told_both(start: Start) -> None:
    async with (
        start() as running,
        await login(running, "phone", {}) as phone,
        await login(running, "", {}) as unnamed,
        await Raw.register(running, "alice") as alice,
    ):
        for device in (phone, unnamed):
            await resumed(device)
        assert await send(alice, "bob", "Hi", "a-1") == "stored"
        assert [*await words(phone, 1), *await words(unnamed, 1)] == ["Hi", "Hi"]


async def test_what_one_device_has_acknowledged_waits_for_the_other(
    start: Start, redis_db: Any, keyspace: Keyspace
) -> None:
    """D2 for each device: the phone was away; it goes on where it was. Then nothing is kept."""
    async with start("gateway-01") as one, start("gateway-02") as two:
        async with (
            await login(one, "laptop", {}) as laptop,
            await Raw.register(one, "alice") as alice,
        ):
            epoch = await resumed(laptop)
            async with await login(one, "phone", {}) as phone:
                await resumed(phone)
                acks = one._durable.counted.acks.counts if one._durable else {}
                await until("all three have confirmed", lambda: acks["taken"] == 3)
            await until("the phone has gone", lambda: len(one.registry.all_of("bob")) == 1)
            for n in range(3):
                assert await send(alice, "bob", str(n), f"a-{n}") == "stored"
                offset = (await laptop.answer())["offset"]
            acknowledge(laptop, epoch, offset)
            await until("the laptop's word is taken", lambda: acks["taken"] == 4)
            async with await login(two, "phone", {}) as phone:
                answer = await phone.answer()
                assert (answer["recovered"], answer["epoch"]) == (True, epoch)
                assert await words(phone, 3) == ["0", "1", "2"]
                acknowledge(phone, epoch, offset)

                async def nothing_left() -> bool:
                    return not int(await redis_db.xlen(keyspace.key("inbox", "bob")))

                await until("nothing is kept of them", nothing_left)


async def test_devices_that_know_nothing_of_inboxes_get_their_messages_too(start: Start) -> None:
    """D8: each of them, as plain messages, once."""
    async with start() as running, await Raw.register(running, "alice") as alice:
        async with await login(running, "phone") as phone, await login(running, "laptop") as laptop:
            for n in range(3):
                assert await send(alice, "bob", str(n), f"a-{n}") == "stored"
            for device in (phone, laptop):
                assert await words(device, 3) == ["0", "1", "2"]
            pumps = [reader_of(running, name).pump for name in ("phone", "laptop")]
            await until("all is acknowledged", lambda: not any(pump.to_ack for pump in pumps))
        await until("they have gone", lambda: not running.registry.all_of("bob"))
        assert await send(alice, "bob", "3", "a-3") == "stored"
        async with await login(running, "phone") as phone:
            assert await words(phone, 1) == ["3"]


async def test_a_replaced_session_of_a_device_ends_when_it_reads(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its acknowledgement is refused. The other device goes on, although it is older."""
    async with start("gateway-01") as one, start("gateway-02") as two:
        monkeypatch.setattr(two._delivery, "kick", lambda *lost: None)
        assert one._durable is not None
        acks = one._durable.counted.acks.counts
        async with (
            await login(one, "laptop", {}) as laptop,
            await login(one, "phone", {}) as old,
            await Raw.register(one, "alice") as alice,
        ):
            epoch = await resumed(laptop)
            await resumed(old)
            assert await send(alice, "bob", "Hi", "a-1") == "stored"
            offset = (await old.answer())["offset"]
            assert await words(laptop, 1) == ["Hi"]
            async with await login(two, "phone", {}) as new:
                await resumed(new)
                assert (await new.answer())["offset"] == offset
                acknowledge(old, epoch, offset)
                await until("the old one's word was refused", lambda: acks["refused"] == 1)
                one._durable.gap()
                assert await old.closed() == Code.REPLACED
                assert await send(alice, "bob", "Ho", "a-2") == "stored"
                assert [*await words(laptop, 1), *await words(new, 1)] == ["Ho", "Ho"]


async def test_a_durable_message_has_no_echo(start: Start) -> None:
    """It is stored; the other devices of its sender hear nothing of it."""
    async with (
        start() as running,
        await login(running, "phone", {}) as phone,
        await login(running, "laptop", {}) as laptop,
    ):
        for device in (phone, laptop):
            await resumed(device)
        more = {"durable": True, "echo": True}
        say(phone, {"type": "message", "to": "alice", "content": "Hi", "id": "b-1", **more})
        assert await phone.answer() == {"type": "ack", "id": "b-1", "status": "stored"}
        assert await send(laptop, "bob", "to all of mine", "b-2") == "stored"
        assert [*await words(phone, 1), *await words(laptop, 1)] == ["to all of mine"] * 2


async def test_a_device_that_is_connected_says_so_in_time(start: Start) -> None:
    """Its messages are held for the retention, from when it was last here."""
    async with start(retention_s=1000.0) as running, await login(running, "phone", {}) as phone:
        await resumed(phone)
        durable, reader = running._durable, reader_of(running, "phone")
        assert durable is not None
        pages = durable.counted.pages.counts
        for age_s, reads in ((SEEN_STEP * 1000 - 10, 0), (SEEN_STEP * 1000 + 10, 1)):
            before, reader.read_at = sum(pages.values()), durable._clock() - age_s
            session = reader.session
            durable._hear_last(reader, reader.pump.sent)
            await until("it was asked", lambda: not reader.pump._reading)
            assert sum(pages.values()) - before == reads, session


async def test_bad_devices_and_positions_are_still_refused(start: Start) -> None:
    """Each feature checks its own field of a register."""
    async with start() as running, await Raw.open(running) as raw:
        for fields in ({"device": "x y"}, {"resume": 1}, {"device": "phone", "resume": []}):
            raw.frame(json.dumps({"type": "register", "userId": "bob", **fields}).encode())
            assert (await raw.answer())["error"] == "Invalid message format"
