"""Watched rooms in the client: is the application told who comes and goes, without being there?

On real gateways; where an answer has to be chosen, against a gateway that says what the test says.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.server import ServerConnection

from tests.client.fakes import FAST, fake_gateway, tell, welcome
from tests.waiting import until
from wsdemo import Gateway, GatewaySettings
from wsdemo.client import Client, Joined, Member, Message, RequestRefused, WatchEnded
from wsdemo.features import RoomSettings, WatchSettings
from wsdemo.redis.server import BundledServer
from wsdemo.settings import ClientSettings, Keyspace, Limits

BOB_JOINS = Member("lobby", "bob", "join")


@pytest.fixture
async def watching(
    shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways with rooms and presence events."""
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(Gateway(_settings(n, shared_server, keyspace)))
            for n in (1, 2)
        ]
        yield first, second


def _settings(n: int, server: BundledServer, keyspace: Keyspace) -> GatewaySettings:
    return GatewaySettings(
        gateway_id=f"gateway-0{n}",
        port=0,
        redis_url=server.url,
        keyspace=keyspace,
        limits=Limits(retry_after_s=0.05),
        rooms=RoomSettings(room_repair_s=0.5),
        watch=WatchSettings(watch_grace_s=0.2),
    )


async def test_who_watches_a_room_is_told_who_comes_and_goes_and_hears_no_message(
    watching: tuple[Gateway, Gateway],
) -> None:
    """And is in no list; after `unwatch_room` nothing more is told."""
    first, second = watching
    async with (
        Client("alice", [first.url], settings=FAST) as alice,
        Client("bob", [second.url], settings=FAST) as bob,
    ):
        assert await alice.watch_room("lobby") == Joined((), 0)
        assert await bob.join("lobby") == Joined(("bob",), 1)
        assert await alice.next_item(5) == BOB_JOINS
        await bob.publish("lobby", "does anybody hear me?")
        await bob.leave("lobby")
        assert await alice.next_item(5) == Member("lobby", "bob", "leave", "left")
        await alice.unwatch_room("lobby")
        assert await alice.watch_room("other") == Joined((), 0)  # The gateway has read both.
        await bob.join("lobby")
        await bob.send("alice", "the end")
        message = await alice.next_item(5)
        assert isinstance(message, Message) and message.content == "the end"


async def test_after_a_reconnect_a_room_is_watched_again(
    watching: tuple[Gateway, Gateway],
) -> None:
    """What has changed meanwhile is told, and what has not is not told again."""
    first, second = watching
    async with (
        Client("alice", [first.url, second.url], settings=FAST) as alice,
        Client("bob", [second.url], settings=FAST) as bob,
        Client("carol", [second.url], settings=FAST) as carol,
    ):
        await carol.join("lobby")
        assert await alice.watch_room("lobby") == Joined(("carol",), 1)
        alice.abort()
        await until("she is back", lambda: alice.attempts == 2 and alice.state == "registered")
        await bob.join("lobby")
        joined = await alice.next_item(5)
        assert isinstance(joined, Member) and (joined.user, joined.state) == ("bob", "join")
        await bob.leave("lobby")
        left = await alice.next_item(5)
        assert isinstance(left, Member) and (left.user, left.state) == ("bob", "leave")


async def test_a_member_who_also_watches_is_told_once(
    watching: tuple[Gateway, Gateway],
) -> None:
    """And goes on watching when she has left."""
    first, second = watching
    async with (
        Client("alice", [first.url], settings=FAST) as alice,
        Client("bob", [second.url], settings=FAST) as bob,
    ):
        await alice.watch_room("lobby")
        assert await alice.join("lobby") == Joined(("alice",), 1)
        await bob.join("lobby")
        items = [await alice.next_item(5)]
        while items[-1] != BOB_JOINS:
            items.append(await alice.next_item(5))
        assert items in ([BOB_JOINS], [Member("lobby", "alice", "join"), BOB_JOINS])
        await alice.leave("lobby")
        await bob.leave("lobby")
        while (item := await alice.next_item(5)) != Member("lobby", "bob", "leave", "left"):
            assert isinstance(item, Member) and item.user == "alice"


async def test_a_room_that_may_not_be_watched_is_refused(gateways: tuple[Gateway, Gateway]) -> None:
    """By a gateway without rooms as well; nothing waits for an answer that cannot come."""
    async with Client("alice", [gateways[0].url]) as alice:
        with pytest.raises(RequestRefused):
            await alice.watch_room("lobby")
        assert alice._wishes.again() == []


# --- against a gateway that says what the test says ------------------------------------------


async def test_a_list_after_a_gap_is_told_as_the_difference() -> None:
    """On the same connection, or on the next one."""

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        async for text in connection:
            said = json.loads(text)
            if said["type"] == "watch":
                assert said["rooms"] == ["lobby"]
                listed = ["bob"] if attempt == 1 else ["dave"]
                await tell(connection, type="members", room="lobby", members=listed, count=1)
            elif said["type"] == "message" and said["content"] == "gap":
                await tell(connection, type="members", room="lobby", members=["carol"], count=1)
            elif said["type"] == "message":
                connection.transport.abort()

    async with fake_gateway(behave) as url, Client("alice", [url], settings=FAST) as alice:
        assert await alice.watch_room("lobby") == Joined(("bob",), 1)
        await alice.send("bob", "gap", timeout_s=0.05)
        assert [await alice.next_item(5) for _ in range(2)] == [
            Member("lobby", "bob", "leave", "unknown"),
            Member("lobby", "carol", "join", "unknown"),
        ]
        await alice.send("bob", "the end of this connection")
        assert [await alice.next_item(5) for _ in range(2)] == [
            Member("lobby", "carol", "leave", "unknown"),
            Member("lobby", "dave", "join", "unknown"),
        ]


async def test_a_list_counts_for_the_watch_and_for_the_membership() -> None:
    """After a reconnect there are two lists, and what the first one has told is not told again."""

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        listed = ["alice", "bob"] if attempt == 1 else ["alice", "carol"]
        async for text in connection:
            said = json.loads(text)
            if said["type"] in ("watch", "join"):
                kind = "members" if said["type"] == "watch" else "joined"
                await tell(connection, type=kind, room="lobby", members=listed, count=2)
            elif said["type"] == "message" and said["content"] == "gap":
                members = ["alice", "carol"]
                await tell(connection, type="members", room="lobby", members=members, count=2)
            elif said["type"] == "message" and attempt == 1:
                connection.transport.abort()
            elif said["type"] == "message":
                await tell(connection, type="message", **{"from": "bob"}, content="the end")

    async with fake_gateway(behave) as url, Client("alice", [url], settings=FAST) as alice:
        await alice.watch_room("lobby")
        await alice.join("lobby")
        await alice.send("bob", "gap", timeout_s=0.05)
        assert [await alice.next_item(5) for _ in range(2)] == [
            Member("lobby", "bob", "leave", "unknown"),
            Member("lobby", "carol", "join", "unknown"),
        ]
        await alice.send("bob", "the end of this connection")
        await until("she is back", lambda: alice.attempts == 2 and alice.state == "registered")
        await until("both are answered", lambda: not alice._wishes._requests)
        await alice.send("bob", "still here?", timeout_s=0.05)
        assert await alice.next_item(5) == Message("bob", "the end")


async def test_a_watch_that_is_refused_after_a_reconnect_is_told() -> None:
    """And not asked for again. A change of presence is no answer to it."""

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        async for text in connection:
            said = json.loads(text)
            if said["type"] == "watch" and attempt == 1:
                await tell(connection, type="presence", user="bob", state="online")
                await tell(connection, type="members", room="lobby", members=["bob"], count=1)
            elif said["type"] == "watch":
                what = {"error": "no", "code": "forbidden", "room": "lobby"}
                await tell(connection, type="error", **what)
            elif said["type"] == "message":
                connection.transport.abort()

    async with fake_gateway(behave) as url, Client("alice", [url], settings=FAST) as alice:
        assert await alice.watch_room("lobby") == Joined(("bob",), 1)
        await alice.send("bob", "the end of this connection")
        assert await alice.next_item(5) == WatchEnded("lobby", "no")
        assert alice._wishes.again() == []


async def test_a_watch_without_an_answer_is_given_up() -> None:
    """The gateway is told that we do not want it any more."""
    heard: list[str] = []

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        async for text in connection:
            heard.append(json.loads(text)["type"])

    settings = ClientSettings(ack_timeout_s=0.1)
    async with fake_gateway(behave) as url, Client("alice", [url], settings=settings) as alice:
        with pytest.raises(TimeoutError):
            await alice.watch_room("lobby")
        await until("it is told", lambda: heard[-1:] == ["unwatch"])
        assert [what for what in heard if what != "ping"] == ["watch", "unwatch"]
        assert alice._wishes.again() == [] and not alice._wishes._requests
