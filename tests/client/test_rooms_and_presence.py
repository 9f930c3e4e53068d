"""Rooms, presence and devices in the client: are they as the application wants, after a reconnect
too?

On real gateways; where an answer has to be chosen, against a gateway that says what the test says.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from tests.client.fakes import FAST, fake_gateway, hear_nothing, tell, welcome
from tests.client.test_prompt import Piped
from tests.waiting import until
from wsdemo import Gateway, GatewaySettings
from wsdemo.client import (
    Client,
    Item,
    Joined,
    Member,
    Message,
    Missed,
    PresenceChange,
    RequestRefused,
)
from wsdemo.features import InboxSettings, RoomSettings, WatchSettings
from wsdemo.protocol import Status
from wsdemo.redis.server import BundledServer
from wsdemo.settings import ClientSettings, Keyspace, Limits


@pytest.fixture
async def everything(
    shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways with durable messages, rooms and presence events."""
    first, second = (_gateway(n, shared_server, keyspace, inbox=InboxSettings()) for n in (1, 2))
    async with first, second:
        yield first, second


@pytest.fixture
async def devices(
    shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways with two devices for each user, rooms and presence events."""
    first, second = (_gateway(n, shared_server, keyspace, devices=2) for n in (1, 2))
    async with first, second:
        yield first, second


def _gateway(n: int, server: BundledServer, keyspace: Keyspace, **features: Any) -> Gateway:
    return Gateway(
        GatewaySettings(
            gateway_id=f"gateway-0{n}",
            port=0,
            redis_url=server.url,
            keyspace=keyspace,
            limits=Limits(retry_after_s=0.05),
            rooms=RoomSettings(room_members=3, room_history=50),
            watch=WatchSettings(watch_grace_s=0.2),
            **features,
        )
    )


def client_of(user: str, gateway: Gateway, **options: Any) -> Client:
    return Client(user, [gateway.url], settings=FAST, **options)


async def item_of(client: Client, kind: type[Item]) -> Item:
    """Return the next item of a kind."""
    async with asyncio.timeout(10):
        while not isinstance(item := await client.next_item(), kind):
            pass
        return item


# --- rooms -----------------------------------------------------------------------------------


async def test_a_room_brings_its_messages_and_says_who_comes_and_goes(
    everything: tuple[Gateway, Gateway],
) -> None:
    """On whichever gateway the members are."""
    first, second = everything
    async with client_of("alice", first) as alice, client_of("bob", second) as bob:
        assert await alice.join("lobby") == Joined(("alice",), 1)
        assert await bob.join("lobby") == Joined(("alice", "bob"), 2)
        assert await alice.next_item(5) == Member("lobby", "bob", "join")
        receipt = await bob.publish("lobby", "hello, all")
        assert (receipt.status, receipt.to) == (Status.ROUTED, "lobby")
        message = await item_of(alice, Message)
        assert isinstance(message, Message)
        assert dataclasses.replace(message, offset="") == Message(
            "bob", "hello, all", receipt.id, room="lobby"
        )
        await bob.leave("lobby")
        gone = await item_of(alice, Member)
        assert isinstance(gone, Member) and (gone.user, gone.state) == ("bob", "leave")


async def test_receive_skips_members_and_changes_of_presence(
    everything: tuple[Gateway, Gateway],
) -> None:
    """It returns messages, as it always did."""
    first, second = everything
    async with client_of("alice", first) as alice, client_of("bob", second) as bob:
        await alice.join("lobby")
        await alice.watch(["bob", "carol"])
        await bob.join("lobby")
        await bob.send("alice", "hi")
        assert (await alice.receive(5)).content == "hi"


async def test_after_a_reconnect_rooms_are_joined_and_users_watched_again(
    everything: tuple[Gateway, Gateway],
) -> None:
    """What changed meanwhile is told, and what did not change is not told again."""
    first, second = everything
    async with (
        Client("alice", [first.url, second.url], settings=FAST) as alice,
        client_of("bob", second) as bob,
    ):
        await bob.join("lobby")
        assert await alice.join("lobby") == Joined(("alice", "bob"), 2)
        await alice.watch(["bob"])
        online = await item_of(alice, PresenceChange)
        assert isinstance(online, PresenceChange)
        assert (online.user, online.state) == ("bob", "online")
        alice.abort()
        await until("she is back", lambda: alice.attempts == 2 and alice.state == "registered")
        # It waits until she is in the room again; what is said before that, she does not hear.
        assert (await alice.publish("lobby", "I am back")).status is Status.ROUTED
        assert (await bob.publish("lobby", "welcome")).status is Status.ROUTED
        for content in ("I am back", "welcome"):
            message = await item_of(alice, Message)
            assert isinstance(message, Message) and message.content == content
        await bob.close()
        changes: dict[type[Item], Item] = {}
        async with asyncio.timeout(10):
            while len(changes) < 2:
                item = await alice.next_item()
                if not isinstance(item, Message):
                    changes[type(item)] = item
        member, presence = changes[Member], changes[PresenceChange]
        assert isinstance(member, Member) and isinstance(presence, PresenceChange)
        assert (member.user, member.state) == ("bob", "leave")
        assert (presence.user, presence.state) == ("bob", "offline")


async def test_what_is_said_in_a_room_during_a_reconnect_is_heard_after_it(
    everything: tuple[Gateway, Gateway],
) -> None:
    """Once each, in order, where the room keeps history and we have asked for some."""
    first, second = everything
    many = 30
    async with (
        Client("alice", [first.url, second.url], settings=FAST) as alice,
        client_of("bob", second) as bob,
    ):
        await bob.join("lobby")
        await bob.publish("lobby", "before")
        await alice.join("lobby", history=1)

        async def talk() -> None:
            for n in range(many):
                assert (await bob.publish("lobby", str(n))).status is Status.ROUTED
                if n % 10 == 5:
                    alice.abort()

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(talk())
            heard = [(await alice.receive()).content for _ in range(1 + many)]
        assert heard == ["before", *map(str, range(many))]


async def test_a_refusal_is_an_exception_with_its_code(
    everything: tuple[Gateway, Gateway],
) -> None:
    """Also of a request that names no room of the gateway."""
    first, _ = everything
    async with client_of("alice", first) as alice:
        with pytest.raises(RequestRefused) as problem:
            await alice.join("no room")
        assert problem.value.code == "invalid"
        with pytest.raises(RequestRefused):
            await alice.watch(["no user"])
        await alice.leave("lobby")
        receipt = await alice.publish("lobby", "hi")
        assert receipt.status is Status.REFUSED
        others = [client_of(name, first) for name in ("a", "b", "c")]
        for other in others:
            await other.start()
            await other.join("full")
        with pytest.raises(RequestRefused, match="full"):
            await alice.join("full")
        for other in others:
            await other.close()


async def test_a_gateway_without_rooms_refuses_at_once(gateways: tuple[Gateway, Gateway]) -> None:
    """In its words; nothing waits for an answer that cannot come."""
    async with Client("alice", [gateways[0].url]) as alice:
        for ask in (alice.join("lobby"), alice.leave("lobby"), alice.watch(["bob"])):
            with pytest.raises(RequestRefused, match="Unknown message type") as problem:
                await ask
            assert problem.value.code == "unknown_type"


# --- against a gateway that says what the test says ------------------------------------------


async def test_a_list_after_a_reconnect_is_told_as_the_difference() -> None:
    """Events add up to the list, whoever came or went while nobody told us."""

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        members = ["alice", "bob", "carol"] if attempt == 1 else ["alice", "carol", "dave"]
        async for text in connection:
            said = json.loads(text)
            if said["type"] == "join":
                await tell(connection, type="joined", room="lobby", members=members, count=3)
            elif said["type"] == "message" and attempt == 1:
                connection.transport.abort()

    async with (
        fake_gateway(behave) as url,
        Client("alice", [url], settings=FAST) as alice,
    ):
        assert await alice.join("lobby") == Joined(("alice", "bob", "carol"), 3)
        await alice.send("bob", "the end of this connection")
        assert [await alice.next_item(5) for _ in range(2)] == [
            Member("lobby", "bob", "leave", "unknown"),
            Member("lobby", "dave", "join", "unknown"),
        ]


async def test_a_refused_rejoin_is_tried_again_or_told() -> None:
    """Again where that makes sense; otherwise the application is told that we are out."""
    joins: list[int] = []

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        async for text in connection:
            said = json.loads(text)
            if said["type"] == "message" and attempt == 1:
                connection.transport.abort()
            if said["type"] == "watch":
                what = {"error": "no", "code": "forbidden"}
                if attempt == 1:
                    await tell(connection, type="presence", user="bob", state="online", at=1)
                else:
                    await tell(connection, type="error", id=said["id"], **what)
            elif said["type"] == "join":
                joins.append(attempt)
                code = {2: "unavailable", 3: "full"}.get(len(joins))
                if code is None:
                    await tell(connection, type="joined", room="lobby", members=["bob"], count=1)
                else:
                    await tell(connection, type="error", error="no", code=code, room="lobby")

    async with (
        fake_gateway(behave) as url,
        Client("alice", [url], settings=FAST) as alice,
    ):
        await alice.join("lobby")
        await alice.watch(["bob"])
        assert await alice.next_item(5) == PresenceChange("bob", "online", at_ms=1)
        await alice.send("bob", "the end of this connection")
        assert await alice.next_item(10) == Member("lobby", "alice", "leave", "no")
        assert await alice.next_item(10) == PresenceChange("bob", "unknown", "no")
        assert joins == [1, 2, 2]
        assert alice._wishes.again() == []


async def test_a_publish_after_a_reconnect_waits_for_the_room() -> None:
    """Before the client is in the room again, it would be refused."""
    order: list[str] = []

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        async for text in connection:
            said = json.loads(text)
            order.append(said["type"])
            if said["type"] == ("join" if attempt == 1 else "hello"):
                await tell(connection, type="joined", room="lobby", members=[], count=0)
            elif said["type"] == "publish":
                await tell(connection, type="ack", id=said["id"], status="routed")
            elif said["type"] == "message" and attempt == 1:
                connection.transport.abort()

    async with fake_gateway(behave) as url, Client("alice", [url], settings=FAST) as alice:
        await alice.join("lobby")
        await alice.send("bob", "the end of this connection")
        await until("it is joined again", lambda: order.count("join") == 2)
        publish = asyncio.create_task(alice.publish("lobby", "hi"))
        for _ in range(10):
            await asyncio.sleep(0)
        await alice._say({"type": "hello"})
        assert (await publish).status is Status.ROUTED
        assert [what for what in order if what != "ping"] == [
            "join", "message", "join", "hello", "publish",
        ]  # fmt: skip


async def test_a_room_with_history_goes_on_after_the_last_message_or_tells_of_a_gap() -> None:
    """After a reconnect; what comes again is dropped, and a hole in the numbers is a gap."""
    joins: list[dict[str, Any]] = []
    plan: list[tuple[dict[str, Any], list[str]]] = [
        ({"epoch": "e1"}, ["4-7", "5-7"]),
        ({"epoch": "e1", "recovered": True}, ["5-7", "6-7", "9-7"]),
        ({"epoch": "e2", "recovered": False}, ["1-8"]),
    ]

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        async for text in connection:
            said = json.loads(text)
            if said["type"] == "join":
                joins.append({name: said[name] for name in said if name not in ("id", "type")})
                more, offsets = plan[attempt - 1]
                listed = {"room": "lobby", "members": ["alice"], "count": 1}
                await tell(connection, type="joined", **listed, **more)
                for offset in offsets:
                    told = {"from": "bob", "room": "lobby", "offset": offset}
                    await tell(connection, type="message", content=offset, **told)
            elif said["type"] == "message":
                connection.transport.abort()

    async def heard(count: int) -> list[Any]:
        items = [await alice.next_item(5) for _ in range(count)]
        return [item.content if isinstance(item, Message) else item for item in items]

    async with fake_gateway(behave) as url, Client("alice", [url], settings=FAST) as alice:
        await alice.join("lobby", history=2)
        assert await heard(2) == ["4-7", "5-7"]
        await alice.send("bob", "the end of this connection")
        assert await heard(3) == ["6-7", Missed(2, "lobby"), "9-7"]
        await alice.send("bob", "the end of this connection")
        assert await heard(2) == [Missed(None, "lobby"), "1-8"]
        assert joins == [
            {"room": "lobby", "history": 2},
            {"room": "lobby", "history": 2, "epoch": "e1", "offset": "5-7"},
            {"room": "lobby", "history": 2, "epoch": "e1", "offset": "9-7"},
        ]


async def test_a_state_is_told_once_however_often_it_is_said() -> None:
    """And nothing of users whom we do not watch (any more)."""

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        async for text in connection:
            if json.loads(text)["type"] != "watch":
                continue
            for user, state in (
                ("bob", "online"), ("carol", "online"), ("bob", "online"), ("bob", "offline"),
            ):  # fmt: skip
                await tell(connection, type="presence", user=user, state=state, reason="x", at=1)

    async with fake_gateway(behave) as url, Client("alice", [url]) as alice:
        await alice.watch(["bob", "bob"])
        assert [await alice.next_item(5) for _ in range(2)] == [
            PresenceChange("bob", "online", "x", 1),
            PresenceChange("bob", "offline", "x", 1),
        ]


async def test_a_join_without_an_answer_is_given_up() -> None:
    """The gateway is told that we do not want it any more, if it should have joined us."""
    heard: list[str] = []

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        async for text in connection:
            heard.append(json.loads(text)["type"])

    settings = ClientSettings(ack_timeout_s=0.1)
    async with fake_gateway(behave) as url, Client("alice", [url], settings=settings) as alice:
        with pytest.raises(TimeoutError):
            await alice.join("lobby")
        with pytest.raises(TimeoutError):
            await alice.watch(["bob"])
        await until("it is told", lambda: heard[-1:] == ["unwatch"])
        assert [what for what in heard if what != "ping"] == ["join", "leave", "watch", "unwatch"]
        assert alice._wishes.again() == [] and not alice._wishes._requests


@pytest.mark.parametrize("state", ["unanswered", "not connected"])
async def test_a_join_ends_when_the_room_is_left_before_its_answer(state: str) -> None:
    """It is asked for no more, on no connection. What is joined after that stands."""
    heard: list[str] = []
    left = asyncio.Event()

    async def behave(connection: ServerConnection, attempt: int) -> None:
        if attempt > 1:
            await left.wait()
        await welcome(connection)
        async for text in connection:
            kind = json.loads(text)["type"]
            heard.append(kind)
            if kind == "leave":
                await tell(connection, type="left", room="lobby")
            elif left.is_set():
                await tell(connection, type="joined", room="lobby", members=["alice"], count=1)
            elif state == "not connected":
                connection.transport.abort()

    async with fake_gateway(behave) as url, Client("alice", [url], settings=FAST) as alice:
        first = asyncio.create_task(alice.join("lobby", timeout_s=30.0))
        attempts = 1 if state == "unanswered" else 2
        await until("it was asked for", lambda: heard and alice.attempts == attempts)
        leaving = asyncio.create_task(alice.leave("lobby", timeout_s=30.0))
        await until("it is not wanted", lambda: alice._wishes.entered("lobby") is None)
        left.set()
        if state == "unanswered":  # Otherwise both joins are asked for, which is as good.
            assert await alice.join("lobby", timeout_s=30.0) == Joined(("alice",), 1)
        with pytest.raises(RequestRefused, match="taken back") as refused:
            await first
        assert refused.value.code == "taken_back"
        await leaving
        if state == "not connected":
            assert await alice.join("lobby", timeout_s=30.0) == Joined(("alice",), 1)
        kinds = [kind for kind in heard if kind != "ping"]
        assert kinds == ["join", "leave", "join"], "nothing leaves what was joined after it"
        assert alice._wishes.entered("lobby") is not None


async def test_who_is_put_out_of_a_room_unasked_is_told_so() -> None:
    """Others have taken the place, after Redis had lost it. The room is not joined again."""
    heard: list[str] = []

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        if attempt == 2:
            await tell(connection, type="message", content="end", **{"from": "ann"})
        async for text in connection:
            heard.append(json.loads(text)["type"])
            if heard[-1] == "join":
                await tell(connection, type="joined", room="lobby", members=["alice"], count=1)
                full = {"error": "The room is full", "code": "full"}
                await tell(connection, type="error", room="den", **full)
                await tell(connection, type="error", room="lobby", **full)
            elif heard[-1] == "unwatch":
                connection.transport.abort()

    async with fake_gateway(behave) as url, Client("alice", [url], settings=FAST) as alice:
        await alice.join("lobby")
        assert await alice.next_item() == Member("lobby", "alice", "leave", "The room is full")
        await alice.unwatch(["bob"])
        item = await alice.next_item()
        assert isinstance(item, Message)
        assert item.content == "end"
        assert [kind for kind in heard if kind != "ping"] == ["join", "unwatch"]


async def test_a_request_goes_on_with_the_next_connection() -> None:
    """Until its timeout."""

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        await connection.recv()
        if attempt == 1:
            connection.transport.abort()
        else:
            await tell(connection, type="joined", room="lobby", members=[], count=0)
            await hear_nothing(connection)

    async with (
        fake_gateway(behave) as url,
        Client("alice", [url], settings=FAST) as alice,
    ):
        assert await alice.join("lobby") == Joined((), 0)
        assert alice.attempts == 2


@pytest.mark.parametrize(
    "document",
    [
        {"type": "joined"},
        {"type": "joined", "room": 7, "members": "x", "count": "y"},
        {"type": "members", "room": "lobby", "members": [1, None]},
        {"type": "member", "room": ["lobby"]},
        {"type": "presence", "user": None, "state": {}, "at": "now"},
        {"type": "left"},
        {"type": "error", "code": "full", "room": 7},
        {"type": "error", "code": ["unknown_type"], "id": {}},
    ],
)
async def test_an_event_that_breaks_the_protocol_is_ignored(document: dict[str, Any]) -> None:
    """Nobody asked for it."""

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        await tell(connection, **document)
        await tell(connection, type="message", content="end", **{"from": "ann"})
        await hear_nothing(connection)

    async with fake_gateway(behave) as url, Client("alice", [url]) as alice:
        assert await alice.next_item(5) == Message("ann", "end")


# --- devices ---------------------------------------------------------------------------------


async def test_two_devices_of_a_user_both_get_her_messages(
    devices: tuple[Gateway, Gateway],
) -> None:
    """Neither replaces the other."""
    first, second = devices
    async with (
        client_of("alice", first, device="phone") as phone,
        client_of("alice", second, device="laptop") as laptop,
        client_of("bob", first) as bob,
    ):
        assert (await bob.send("alice", "hi")).status is Status.ROUTED
        for alice in (phone, laptop):
            assert (await alice.receive(5)).content == "hi"
            assert alice.attempts == 1


async def test_an_echo_goes_to_the_other_devices_of_its_sender(
    devices: tuple[Gateway, Gateway],
) -> None:
    """It says to whom it went."""
    first, second = devices
    async with (
        client_of("alice", first, device="phone") as phone,
        client_of("alice", second, device="laptop") as laptop,
        client_of("bob", first) as bob,
    ):
        receipt = await phone.send("bob", "hi", echo=True)
        assert await bob.receive(5) == Message("alice", "hi", receipt.id)
        assert await laptop.receive(5) == Message("alice", "hi", receipt.id, to="bob")


@pytest.mark.parametrize("device", ["my phone", "x" * 17, "é"])
async def test_a_device_needs_a_valid_name(device: str) -> None:
    """A gateway would refuse each register."""
    with pytest.raises(ValueError, match="is not the name of a device"):
        Client("alice", ["ws://localhost/ws"], device=device)


# --- everything at once ----------------------------------------------------------------------


async def test_durable_messages_rooms_and_presence_share_one_stream(
    everything: tuple[Gateway, Gateway],
) -> None:
    """In the order in which it comes."""
    first, second = everything
    async with (
        client_of("bob", first, durable=True) as bob,
        client_of("alice", second) as alice,
    ):
        assert await bob.next_item(5) == Missed(None)
        await bob.join("lobby")
        await bob.watch(["alice"])
        await alice.join("lobby")
        assert (await alice.send("bob", "stored", durable=True)).status is Status.STORED
        await alice.publish("lobby", "to all")
        kinds: list[type[Item]] = []
        async with asyncio.timeout(10):
            while len(kinds) < 4:
                kinds.append(type(await bob.next_item()))
        assert sorted(kind.__name__ for kind in kinds) == [
            "Member", "Message", "Message", "PresenceChange",
        ]  # fmt: skip


async def test_the_prompt_joins_publishes_and_watches(
    devices: tuple[Gateway, Gateway],
) -> None:
    """With and without a slash; mistakes are answered."""
    url = devices[0].url
    flags = ("-gateway", url, "--device", "desk")
    async with Piped("-user", "alice", *flags) as alice, Piped("-user", "bob", *flags) as bob:
        alice.type("join lobby")
        await alice.prints("[Client] joined lobby; there are 1: alice")
        bob.type("/join lobby")
        await bob.prints("[Client] joined lobby; there are 2: alice, bob")
        await alice.prints("[lobby] bob joined")
        bob.type("publish lobby  hello, all")
        await alice.prints("[lobby] bob: hello, all")
        await bob.prints("[Client] sent to lobby")
        alice.type("watch bob")
        await alice.prints("[Presence] bob is online")
        for line in ("join", "join a b", "publish lobby", "watch", "unwatch bob", "leave lobby"):
            alice.type(line)
        await alice.prints("[Client] left lobby")
        for usage in ("join <room>", "publish <room> <message>", "watch <user> ..."):
            assert f"usage: {usage}" in alice.output
        alice.type("join {lobby}")
        await alice.prints("[Client] join {lobby}: Invalid message format")
        alice.type("quit")
        assert await alice.ended() == 0
