"""Are the phone and the laptop of a user both that user, on real gateways?"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.gateway.cluster import Raw, gateway
from tests.waiting import until
from wsdemo.features import RoomSettings, WatchSettings
from wsdemo.gateway.devices import DeviceRegistry
from wsdemo.gateway.server import Gateway
from wsdemo.presence import DevicePresence
from wsdemo.protocol import Code
from wsdemo.redis.server import BundledServer
from wsdemo.settings import GatewaySettings, Keyspace, SettingsError, Timing

pytestmark = pytest.mark.both_loops


def several(
    server: BundledServer, keyspace: Keyspace, gateway_id: str = "gateway-01", devices: int = 3
) -> contextlib.AbstractAsyncContextManager[Gateway]:
    """A gateway whose users may have several devices."""
    return gateway(server, keyspace, gateway_id, settings={"devices": devices})


@pytest.fixture
async def here(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    async with several(shared_server, keyspace) as running:
        yield running


@pytest.fixture
async def there(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    async with several(shared_server, keyspace, "gateway-02") as running:
        yield running


async def login(at: Gateway, user: str, device: Any = None) -> Raw:
    """Connect, and be this device of the user."""
    raw = await Raw.open(at)
    say(raw, type="register", userId=user, device=device)
    answer = await raw.answer()
    assert answer["type"] == "registered", answer
    if at.settings.devices > 1:
        assert answer["device"] == (device or "")
    return raw


def say(raw: Raw, **message: Any) -> None:
    raw.frame(json.dumps({k: v for k, v in message.items() if v is not None}).encode())


async def devices_of(at: Gateway, user: str) -> dict[str, str]:
    """Return what Redis says: device to gateway."""
    assert isinstance(at.presence, DevicePresence)
    return {entry.device: entry.gateway_id for entry in await at.presence.devices(user)}


async def heard(raw: Raw) -> str:
    """Return the content of the next message, which must be one."""
    answer = await raw.answer()
    assert answer["type"] == "message", answer
    return str(answer["content"])


async def test_a_message_reaches_the_phone_and_the_laptop_wherever_they_are(
    here: Gateway, there: Gateway
) -> None:
    """One beside its sender, one at another gateway; the sender is told once."""
    async with (
        await login(here, "alice", "phone") as phone,
        await login(there, "alice", "laptop") as laptop,
        await login(here, "bob") as bob,
        await login(there, "carol") as carol,
    ):
        assert await devices_of(here, "alice") == {"phone": "gateway-01", "laptop": "gateway-02"}
        for sender in (bob, carol):
            say(sender, type="message", to="alice", content="Hi", id="a-1")
            assert await sender.answer() == {"type": "ack", "id": "a-1", "status": "routed"}
            assert await heard(phone) == await heard(laptop) == "Hi"
        say(bob, type="ping")
        assert (await bob.answer())["type"] == "pong", "no second ack, no error"


async def test_two_devices_at_one_other_gateway_share_an_envelope(
    here: Gateway, there: Gateway
) -> None:
    """Each of them gets the message, and each only once."""
    async with (
        await login(there, "alice", "phone") as phone,
        await login(there, "alice") as unnamed,
        await login(here, "bob") as bob,
    ):
        for n in range(20):
            say(bob, type="message", to="alice", content=str(n))
        for device in (phone, unnamed):
            assert [await heard(device) for _ in range(20)] == [str(n) for n in range(20)]
        assert there.counters.messages_delivered == 40


async def test_a_newer_session_of_a_device_replaces_the_older_one_only(
    here: Gateway, there: Gateway
) -> None:
    """P8 for each device: here, and at another gateway."""
    async with (
        await login(here, "alice", "phone") as phone,
        await login(here, "alice", "laptop") as laptop,
        await login(there, "alice", "phone") as moved,
        await login(there, "bob") as bob,
    ):
        assert await phone.closed() == Code.REPLACED
        say(bob, type="message", to="alice", content="Hi", id="a-1")
        assert await heard(moved) == await heard(laptop) == "Hi"
        async with await login(there, "alice", "phone") as again:
            assert await moved.closed() == Code.REPLACED
            say(bob, type="message", to="alice", content="again")
            assert await heard(again) == await heard(laptop) == "again"


async def test_the_device_that_logged_in_first_has_to_go(here: Gateway, there: Gateway) -> None:
    """It is told, at its own gateway or at another one; no device comes back for it."""
    async with (
        await login(here, "alice", "a") as first,
        await login(there, "alice", "b") as second,
        await login(here, "alice", "c") as third,
        await login(there, "alice", "d") as fourth,
        await login(there, "alice", "e") as fifth,
    ):
        assert await first.closed() == Code.REPLACED
        assert await second.closed() == Code.REPLACED
        assert set(await devices_of(here, "alice")) == {"c", "d", "e"}
        evictions = there.stats()["counters"]
        assert (evictions["evictions_here"], evictions["evictions_elsewhere"]) == (1, 1)
        assert "wsdemo_evictions_total" in there._collector().page()
        for device in (third, fourth, fifth):
            say(device, type="ping")
            assert (await device.answer())["type"] == "pong"


async def test_the_other_device_gets_messages_when_one_leaves(
    here: Gateway, there: Gateway
) -> None:
    """And when both have left, the sender is told that the user is offline."""
    async with (
        await login(here, "alice", "phone") as phone,
        await login(there, "alice", "laptop") as laptop,
        await login(here, "bob") as bob,
    ):
        await laptop.leave()
        await until("the laptop has left", lambda: len(there.registry) == 0)

        async def one_left() -> bool:
            return set(await devices_of(here, "alice")) == {"phone"}

        await until("Redis knows", one_left)
        say(bob, type="message", to="alice", content="Hi", id="a-1")
        assert (await bob.answer())["status"] == "routed"
        assert await heard(phone) == "Hi"
        await phone.leave()
        await until("the phone has left", lambda: len(here.registry) == 1)

        async def all_gone() -> bool:
            return not await devices_of(here, "alice")

        await until("Redis knows", all_gone)
        say(bob, type="message", to="alice", content="Hi", id="a-2")
        assert (await bob.answer())["status"] == "offline"


async def test_an_echo_reaches_the_other_devices_of_the_sender(
    here: Gateway, there: Gateway
) -> None:
    """At the same gateway and at another one, but not the one that has sent it; it says to whom."""
    async with (
        await login(here, "alice", "phone") as phone,
        await login(here, "alice", "tablet") as tablet,
        await login(there, "alice", "laptop") as laptop,
        await login(here, "bob") as near,
        await login(there, "carol") as far,
    ):
        for to, recipient in (("bob", near), ("carol", far)):
            say(phone, type="message", to=to, content="Hi", id="a-1", echo=True)
            assert await phone.answer() == {"type": "ack", "id": "a-1", "status": "routed"}
            assert await heard(recipient) == "Hi"
            for other in (tablet, laptop):
                told = {"type": "message", "from": "alice", "to": to, "content": "Hi", "id": "a-1"}
                assert await other.answer() == told
        say(phone, type="message", to="nobody", content="Hi", id="a-2", echo=True)
        assert await phone.answer() == {"type": "ack", "id": "a-2", "status": "offline"}
        say(phone, type="message", to="bob", content="to bob alone")
        assert await heard(near) == "to bob alone"
        say(phone, type="message", to="alice", content="to myself", echo=True)
        for device in (phone, tablet, laptop):
            assert await device.answer() == {
                "type": "message",
                "from": "alice",
                "content": "to myself",
            }
        say(near, type="message", to="alice", content="last")
        for device in (phone, tablet, laptop):
            assert await heard(device) == "last", "nothing was echoed that was not routed"


async def test_an_echo_that_nobody_has_got_is_not_told(
    here: Gateway, there: Gateway, keyspace: Keyspace, redis_db: Any
) -> None:
    """The message has arrived; that is what the sender has asked about."""
    async with (
        await login(here, "alice", "phone") as phone,
        await login(here, "bob") as bob,
    ):
        key = keyspace.presence("alice")
        await redis_db.hset(key, "s:ghost", "gateway-02 gone 7 9999999999999 0 ")
        # As if the phone had gone in the middle: then no device at all is found.
        await redis_db.hdel(key, "s:phone", "gwId", "connId")
        say(phone, type="message", to="bob", content="Hi", id="a-1", echo=True)
        assert (await phone.answer())["status"] == "routed"
        assert await heard(bob) == "Hi"

        async def repaired() -> bool:
            return not await redis_db.hexists(key, "s:ghost")

        await until("the ghost is removed", repaired)
        assert there.counters.bounces_sent == 0


async def test_a_sender_may_go_on_for_ever(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Messages to devices that are here wait for Redis as well, and are counted off again."""
    async with (
        gateway(shared_server, keyspace, settings={"devices": 2}, in_flight=4) as one,
        await login(one, "alice", "phone") as phone,
        await login(one, "bob") as bob,
    ):
        for n in range(40):
            say(bob, type="message", to="alice", content=str(n), id=str(n), echo=True)
        assert [(await bob.answer())["id"] for n in range(40)] == [str(n) for n in range(40)]
        assert [await heard(phone) for _ in range(40)] == [str(n) for n in range(40)]
        await until(
            "nothing is on its way", lambda: all(one.in_flight == 0 for one in one.registry)
        )


@dataclass(eq=False)
class Device:
    user: str
    device: str
    conn_id: str


def test_the_registry_has_one_session_for_each_device() -> None:
    """The end of an older one changes nothing, and nobody is found who has left."""
    registry = DeviceRegistry[Device]()
    phone, laptop = Device("alice", "phone", "c1"), Device("alice", "laptop", "c2")
    newer, bob = Device("alice", "phone", "c3"), Device("bob", "phone", "c4")
    for one in (phone, laptop, bob):
        assert registry.bind(one) is None
    assert registry.bind(laptop) is None, "once is enough"
    registry.expect(newer)
    assert registry.by_conn("c3") is newer and newer not in registry.all_of("alice")
    assert registry.bind(newer) is phone
    assert registry.by_conn("c1") is None
    assert not registry.remove(phone)
    assert list(registry.all_of("alice")) == [laptop, newer]
    assert registry.by_user("alice") is newer
    assert set(registry) == set(registry.sessions()) == {laptop, newer, bob}
    assert len(registry) == 3
    assert registry.remove(newer) and not registry.remove(newer)
    assert registry.by_user("alice") is laptop
    assert registry.remove(laptop)
    assert registry.by_user("alice") is None and list(registry.all_of("alice")) == []
    assert list(registry) == [bob]


async def test_a_gateway_for_one_device_does_not_look_at_the_name(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """And what it says and writes is what it always did."""
    async with gateway(shared_server, keyspace) as one:
        async with (
            await login(one, "alice", "a b") as first,
            await login(one, "alice", 7) as second,
        ):
            assert await first.closed() == Code.REPLACED
            fields = await redis_db.hkeys(keyspace.presence("alice"))
            assert set(fields) == {"gwId", "connId", "ts", "epoch", "inst", "att"}
            say(second, type="message", to="alice", content="Hi", echo=True)
            assert await heard(second) == "Hi"


async def test_a_copy_for_a_session_that_is_gone_is_repaired_and_told_when_it_was_the_last(
    here: Gateway, there: Gateway, keyspace: Keyspace, redis_db: Any
) -> None:
    """With one device left the sender hears nothing of it; with none it hears `unreachable`."""
    async with (
        await login(here, "bob") as bob,
        await login(there, "alice", "laptop") as laptop,
    ):
        key = keyspace.presence("alice")
        await redis_db.hset(key, "s:ghost", "gateway-02 gone 7 9999999999999 0 ")
        say(bob, type="message", to="alice", content="Hi", id="a-1")
        assert (await bob.answer())["status"] == "routed"
        assert await heard(laptop) == "Hi"

        async def repaired() -> bool:
            return not await redis_db.hexists(key, "s:ghost")

        await until("the ghost is removed", repaired)
        assert there.counters.bounces_sent == 0
        await laptop.leave()

        async def offline() -> bool:
            return not await redis_db.exists(key)

        await until("the laptop has left", offline)
        await redis_db.hset(key, "s:ghost", "gateway-02 gone 7 9999999999999 0 ")
        say(bob, type="message", to="alice", content="Hi", id="a-2")
        assert [(await bob.answer())["status"] for _ in range(2)] == ["routed", "unreachable"]


async def test_all_devices_come_back_after_redis_has_forgotten_them(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """P6 for each device: by their refreshes, within the number that is allowed."""
    timing = Timing().scaled(30)
    settings = {"devices": 2}
    async with (
        gateway(shared_server, keyspace, timing=timing, settings=settings) as here,
        gateway(shared_server, keyspace, "gateway-02", timing=timing, settings=settings) as there,
        await login(here, "alice", "phone") as phone,
        await login(there, "alice", "laptop") as laptop,
    ):
        await redis_db.delete(keyspace.presence("alice"), keyspace.fence("alice"))

        async def back() -> bool:
            for device in (phone, laptop):
                say(device, type="ping")
            return set(await devices_of(here, "alice")) == {"phone", "laptop"}

        await until("both are back", back)
        assert here.counters.refreshes_reclaimed + there.counters.refreshes_reclaimed == 2


async def test_watchers_and_rooms_see_a_user_until_the_last_device_has_gone(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """The optional features together: presence of the user, and each device as a member."""
    settings = {"devices": 2, "watch": WatchSettings(watch_grace_s=0.01), "rooms": RoomSettings()}
    async with (
        gateway(shared_server, keyspace, settings=settings) as here,
        gateway(shared_server, keyspace, "gateway-02", settings=settings) as there,
        await login(here, "bob") as bob,
    ):
        say(bob, type="watch", users=["alice"])
        assert (await bob.answer())["state"] == "offline"
        phone, laptop = await login(here, "alice", "phone"), await login(there, "alice", "laptop")
        assert (await bob.answer())["state"] == "online"
        for device in (phone, laptop):
            say(device, type="join", room="lobby")
            joined = await device.answer()
            assert joined["type"] == "joined", joined
        await phone.leave()
        await until("the phone has left", lambda: len(here.registry) == 1)
        say(bob, type="message", to="alice", content="Hi", id="b-1")
        assert (await bob.answer())["status"] == "routed", "alice is still there: nothing is told"
        while (await laptop.answer())["type"] != "message":
            pass  # If it left before it had the message, bob would be told that as well.
        await laptop.leave()
        assert (await bob.answer())["state"] == "offline"


async def test_local_devices_are_reached_while_redis_is_away(
    server: BundledServer, keyspace: Keyspace
) -> None:
    """The others are not, and the sender is told that the message was routed: one has it."""
    async with (
        several(server, keyspace) as one,
        await login(one, "alice", "phone") as phone,
        await login(one, "alice", "laptop") as laptop,
        await login(one, "bob") as bob,
    ):
        server.kill()
        await until("the link is down", lambda: not one.ready)
        say(bob, type="message", to="alice", content="Hi", id="a-1")
        assert (await bob.answer())["status"] == "routed"
        assert await heard(phone) == await heard(laptop) == "Hi"


def test_the_number_of_devices_has_a_range() -> None:
    for devices in (0, 9):
        with pytest.raises(SettingsError, match="devices"):
            GatewaySettings(gateway_id="gateway-01", devices=devices)
