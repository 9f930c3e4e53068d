"""Client: does it stay connected, and are its receipts true?

Against real gateways in this process where that is possible, and against a gateway that behaves
badly on purpose where it is not.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import random
import time
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from tests.client.fakes import (
    FAST,
    NOBODY,
    Ceilings,
    Diary,
    fake_gateway,
    hear_nothing,
    tell,
    until_offline,
    welcome,
)
from tests.waiting import until
from wsdemo import Gateway
from wsdemo.client import Client, ClientClosed, ConnectFailed, Message, State
from wsdemo.events import Event, Kind
from wsdemo.protocol import CLOSE_POLICIES, Code, Status
from wsdemo.settings import ClientSettings, Keyspace, Timing

# --- messages --------------------------------------------------------------------------------


async def test_a_message_arrives_with_its_receipt(gateways: tuple[Gateway, Gateway]) -> None:
    """The receipt says routed and how long it took; the message, from whom and with which id."""
    first, second = gateways
    async with Client("alice", [first.url]) as alice, Client("bob", [second.url]) as bob:
        assert (alice.state, alice.gateway_id) == (State.REGISTERED, "gateway-01")
        assert alice.conn_id and alice.attempts == 1
        receipt = await alice.send("bob", "Grüße, \U0001f44b\n\x00")
        assert (receipt.status, receipt.to, receipt.error) == (Status.ROUTED, "bob", "")
        assert 0 < receipt.latency_s < 5
        message = await bob.receive(5)
        assert message == Message("alice", "Grüße, \U0001f44b\n\x00", receipt.id)


async def test_messages_of_one_sender_arrive_in_their_order(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """Sent without waiting for one another, across gateways, none is lost or overtaken."""
    first, second = gateways
    async with Client("alice", [first.url]) as alice, Client("bob", [second.url]) as bob:
        receipts = await asyncio.gather(*(alice.send("bob", str(n)) for n in range(200)))
        assert {receipt.status for receipt in receipts} == {Status.ROUTED}
        assert [(await bob.receive(5)).content for _ in range(200)] == [str(n) for n in range(200)]


async def test_iteration_yields_messages_and_ends_with_the_client(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """`async for` gets what is there even after the close, then ends; closed_because says why."""
    async with Client("alice", [gateways[0].url]) as alice:
        bob = Client("bob", [gateways[1].url])
        await bob.start()
        heard: list[str] = []

        async def listen() -> None:
            async for message in bob:
                heard.append(message.content)

        listener = asyncio.create_task(listen())
        for word in ("one", "two"):
            await alice.send("bob", word)
        await until("both are heard", lambda: len(heard) == 2)
        await bob.close()
        await asyncio.wait_for(listener, 5)
        assert (heard, bob.closed_because) == (["one", "two"], "closed by us")


async def test_a_message_to_nobody_is_offline(gateways: tuple[Gateway, Gateway]) -> None:
    """A user who never registered, and one who has left, are both offline; there is no
    exception."""
    async with Client("alice", [gateways[0].url]) as alice:
        async with Client("bob", [gateways[1].url]):
            assert (await alice.send("bob", "?")).status is Status.ROUTED
        # Bob's gateway answers his close frame before it releases his presence.
        await until_offline("bob", alice)
        for name in ("bob", "nobody"):
            receipt = await alice.send(name, "?")
            assert receipt.status is Status.OFFLINE and not math.isnan(receipt.latency_s)


@pytest.mark.parametrize(
    ("to", "content", "status", "error"),
    [
        ("bob", "x" * 20_000, Status.REFUSED, "Message too large"),
        ("", "?", Status.REFUSED, "Recipient is required"),
        ("not a name", "?", Status.OFFLINE, ""),
        ("bob", "half a pair: \ud83d", Status.REFUSED, "Invalid message format"),
    ],
    ids=["too large", "no recipient", "impossible name", "lone surrogate"],
)
async def test_a_message_that_breaks_a_rule_is_refused_with_the_reason(
    gateways: tuple[Gateway, Gateway], to: str, content: str, status: Status, error: str
) -> None:
    """The receipt carries the words; the connection stays."""
    async with Client("alice", [gateways[0].url]) as alice:
        receipt = await alice.send(to, content)
        assert (receipt.status, receipt.error) == (status, error)
        assert (await alice.send("alice", "still here")).status is Status.ROUTED
        assert (alice.state, alice.attempts) == (State.REGISTERED, 1)


async def test_receive_stops_waiting_at_its_timeout(gateways: tuple[Gateway, Gateway]) -> None:
    """TimeoutError, and the next receive works."""
    async with Client("alice", [gateways[0].url]) as alice:
        with pytest.raises(TimeoutError):
            await alice.receive(0.01)
        await alice.send("alice", "note to self")
        assert (await alice.receive(5)).content == "note to self"


async def test_a_full_inbox_holds_the_gateway_back_and_loses_nothing(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """Beyond `inbox` messages nothing is read until somebody takes one."""
    diary = Diary()
    small = ClientSettings(inbox=3)
    async with (
        Client("alice", [gateways[0].url]) as alice,
        Client("bob", [gateways[1].url], settings=small, emit=diary) as bob,
    ):
        for n in range(20):
            await alice.send("bob", str(n))
        await until("the inbox is full", lambda: diary.count[Kind.ARRIVE] >= 3)
        assert diary.count[Kind.ARRIVE] == 3
        assert [(await bob.receive(5)).content for _ in range(20)] == [str(n) for n in range(20)]


async def test_a_routed_message_that_comes_back_corrects_its_receipt() -> None:
    """A second answer changes the status, and leaves the latency of the first one."""
    come_back = asyncio.Event()

    async def behave(connection: ServerConnection, _: int) -> None:
        await welcome(connection)
        sent = json.loads(await connection.recv())
        await tell(connection, type="ack", id=sent["id"], status="routed")
        await come_back.wait()
        await tell(connection, type="ack", id=sent["id"], status="unreachable")
        await hear_nothing(connection)

    quiet: dict[str, Any] = {"should_ping": lambda: False}
    async with fake_gateway(behave) as url, Client("alice", [url], **quiet) as alice:
        receipt = await alice.send("bob", "?")
        latency_s = receipt.latency_s
        assert receipt.status is Status.ROUTED
        come_back.set()
        await until("the correction", lambda: receipt.status is Status.UNREACHABLE)
        assert receipt.latency_s == latency_s


async def test_a_message_without_an_answer_is_unknown() -> None:
    """Gateways of the Go demo never acknowledge: after ack_timeout_s the status is unknown."""

    async def behave(connection: ServerConnection, _: int) -> None:
        await welcome(connection)
        await hear_nothing(connection)

    impatient = ClientSettings(ack_timeout_s=0.05)
    async with fake_gateway(behave) as url, Client("alice", [url], settings=impatient) as alice:
        receipt = await alice.send("bob", "?")
        assert (receipt.status, receipt.error) == (Status.UNKNOWN, "no answer in time")


async def test_a_message_whose_connection_breaks_is_unknown_and_not_sent_again() -> None:
    """At most once: the next connection carries no copy of what may have arrived."""
    heard: list[str] = []

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        async for text in connection:
            heard.append(json.loads(text).get("content", ""))
            if attempt == 1:
                connection.transport.abort()
            else:
                await tell(connection, type="ack", id=json.loads(text)["id"], status="routed")

    quiet: dict[str, Any] = {"settings": FAST, "should_ping": lambda: False}
    async with fake_gateway(behave) as url, Client("alice", [url], **quiet) as alice:
        receipt = await alice.send("bob", "once")
        assert (receipt.status, receipt.error) == (Status.UNKNOWN, "the connection broke")
        assert (await alice.send("bob", "later")).status is Status.ROUTED
        assert heard == ["once", "later"]


async def test_a_message_sent_between_two_connections_waits_for_the_next_one(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """While reconnecting, send waits until registered instead of failing."""
    sends: list[asyncio.Task[Any]] = []

    def on_event(event: Event) -> None:
        if event.kind is Kind.WS_CLOSE:
            assert alice.state is State.RECONNECTING
            sends.append(asyncio.create_task(alice.send("bob", "I am back")))

    alice = Client("alice", [gateways[0].url], settings=FAST, emit=on_event)
    async with alice, Client("bob", [gateways[1].url]) as bob:
        alice.abort()
        assert (await bob.receive(5)).content == "I am back"
        assert [(await task).status for task in sends] == [Status.ROUTED]


# --- reconnecting ----------------------------------------------------------------------------


async def test_when_a_gateway_stops_its_user_is_reached_on_the_next_one(
    gateways: tuple[Gateway, Gateway], redis_db: Any, keyspace: Keyspace
) -> None:
    """The failover list says where; presence and messages follow."""
    first, second = gateways
    async with (
        Client("alice", [first.url, second.url], settings=FAST) as alice,
        Client("carol", [second.url]) as carol,
    ):
        await first.stop()
        await until("alice is elsewhere", lambda: alice.gateway_id == "gateway-02")
        assert (alice.state, alice.gateway) == (State.REGISTERED, second.url)
        assert await redis_db.hget(keyspace.presence("alice"), "gwId") == "gateway-02"
        assert (await carol.send("alice", "Are you still there?")).status is Status.ROUTED
        assert (await alice.receive(5)).content == "Are you still there?"


async def test_a_start_skips_unreachable_gateways(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """Nobody listens at the first address, the second does not know the path: the third is used."""
    elsewhere = gateways[0].url.replace("/ws", "/elsewhere")
    async with Client("alice", [NOBODY, elsewhere, gateways[1].url], settings=FAST) as alice:
        assert alice.gateway_id == "gateway-02"


async def test_a_cut_connection_is_replaced(gateways: tuple[Gateway, Gateway]) -> None:
    """Also without a close frame, the same user is registered again, in a new session."""
    diary = Diary()
    async with Client("alice", [gateways[0].url], settings=FAST, emit=diary) as alice:
        before = alice.conn_id
        alice.abort()
        await until("registered again", lambda: diary.count[Kind.REGISTERED] == 2)
        assert alice.conn_id != before and alice.attempts == 2
        assert diary.kinds(Kind.REGISTERED, Kind.WS_CLOSE) == [
            Kind.REGISTERED,
            Kind.WS_CLOSE,
            Kind.REGISTERED,
        ]


async def test_a_client_replaced_by_a_newer_session_does_not_reconnect(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """4509 is final at the first attempt; otherwise two logins would replace each other for
    ever."""
    first, second = gateways
    async with Client("alice", [first.url, second.url], settings=FAST) as old:
        async with Client("alice", [second.url]) as new:
            await until("the old one is told", lambda: old.state is State.CLOSED)
            assert old.closed_because.startswith("closed with 4509")
            with pytest.raises(ClientClosed, match="4509"):
                await old.receive(5)
            receipt = await old.send("bob", "?")
            assert receipt.status is Status.BUSY and "4509" in receipt.error
            assert (await new.send("alice", "mine")).status is Status.ROUTED
            assert (await new.receive(5)).content == "mine"
        assert old.attempts == 1
        assert "alice" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_after_a_move_while_reconnecting_a_final_close_code_is_final(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """The move had no connection to close. Once the client is registered the move is over, and 4509
    is final again."""
    moves: list[asyncio.Task[None]] = []

    def on_event(event: Event) -> None:
        if event.kind is Kind.WS_CLOSE and not moves:
            moves.append(asyncio.create_task(alice.move(gateways[1].url)))

    alice = Client("alice", [gateways[0].url], settings=FAST, emit=on_event)
    async with alice:
        alice.abort()
        await until("the move has begun", lambda: moves)
        await moves[0]
        assert alice.gateway_id == "gateway-02"
        async with Client("alice", [gateways[0].url]):
            await until("the old one is told", lambda: alice.state is State.CLOSED)
        assert alice.attempts == 2


async def test_a_move_while_dialling_overrides_the_dial(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """The client ends up at the address of the move, not at the one it was dialling."""
    let_in = asyncio.Event()

    async def slow(connection: ServerConnection, request: Any) -> None:
        await let_in.wait()

    async def never(connection: ServerConnection) -> None:
        await welcome(connection)
        await hear_nothing(connection)

    async with serve(never, "127.0.0.1", 0, process_request=slow, close_timeout=0.2) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with Client("alice", [gateways[0].url], settings=FAST) as alice:
            lost = asyncio.create_task(alice.move(f"ws://127.0.0.1:{port}/ws"))
            await until("the dial is under way", lambda: alice.attempts == 2)
            move = asyncio.create_task(alice.move(gateways[1].url))
            await until("the move has begun", lambda: alice.gateway == gateways[1].url)
            let_in.set()
            await asyncio.gather(lost, move)
            assert alice.gateway_id == "gateway-02"


async def test_a_move_changes_the_gateway_at_once(
    gateways: tuple[Gateway, Gateway], redis_db: Any, keyspace: Keyspace
) -> None:
    """When move returns, the new gateway is the one in Redis, and heads the list."""
    first, second = gateways
    async with Client("alice", [first.url]) as alice:
        await alice.move(second.url)
        assert (alice.gateway_id, alice.gateway) == ("gateway-02", second.url)
        assert await redis_db.hget(keyspace.presence("alice"), "gwId") == "gateway-02"
        assert (await alice.send("alice", "here")).status is Status.ROUTED


@pytest.mark.parametrize("code", [*CLOSE_POLICIES, 3000, 4400, 4999, None])
async def test_the_close_code_decides_whether_to_come_back(code: int | None) -> None:
    """Every code of the table, some that are not in it, and no code at all (a cut connection)."""

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        if attempt > 1:
            await hear_nothing(connection)
        elif code is None:
            connection.transport.abort()
        else:
            await connection.close(code, "because")

    policy = CLOSE_POLICIES.get(code or 0)
    returns = policy.reconnect if policy else code != 4999
    diary = Diary()
    async with fake_gateway(behave) as url, Client("a", [url], settings=FAST, emit=diary) as alice:
        if returns:
            await until("registered again", lambda: diary.count[Kind.REGISTERED] == 2)
        else:
            await until("closed for good", lambda: alice.state is State.CLOSED)
            assert alice.closed_because == f"closed with {int(code or 0)} because"
            assert alice.attempts == 1


async def test_only_registered_resets_the_reconnect_pause() -> None:
    """Pauses grow while gateways accept the connection and close it again. They shrink once
    registered."""
    rng = Ceilings()
    settings = ClientSettings(backoff_base_s=0.1, backoff_cap_s=1.0)

    async def behave(connection: ServerConnection, attempt: int) -> None:
        if attempt == 5:
            await welcome(connection)
            connection.transport.abort()
        elif attempt == 7:
            await welcome(connection)
            await hear_nothing(connection)
        else:
            await connection.close(Code.TRY_LATER)

    async with (
        fake_gateway(behave) as url,
        Client("alice", [url], settings=settings, rng=rng) as alice,
    ):
        await until("the seventh attempt", lambda: alice.attempts == 7)
        grown = [0.2, 0.4, 0.8, 1.0]
        assert rng.asked == pytest.approx([*grown, 0.1, 0.2])


async def test_a_rule_of_the_application_says_how_long_to_wait() -> None:
    """It is asked with the number of the attempt, which begins anew once registered; what the
    gateway asks for comes on top.
    """
    asked: list[int] = []

    def rule(attempt: int, _: random.Random) -> float:
        asked.append(attempt)
        return 0.01

    async def behave(connection: ServerConnection, attempt: int) -> None:
        if attempt in (1, 4):
            await welcome(connection)
            connection.transport.abort()
        elif attempt == 6:
            await welcome(connection)
            await hear_nothing(connection)
        else:
            await connection.close(Code.TRY_LATER)

    async with (
        fake_gateway(behave) as url,
        Client("alice", [url], backoff=rule) as alice,
    ):
        await until("the sixth attempt", lambda: alice.attempts == 6)
        assert asked == [1, 2, 3, 1, 2]
        assert alice._pause_s(0, 3.0) == pytest.approx(3.01)


def test_the_reconnect_pause_has_a_bound_after_any_number_of_failures() -> None:
    """Also after a night of them, when a power of two would be too large for a float."""
    alice = Client("alice", ["ws://127.0.0.1:9/ws"])
    assert all(0 <= alice._pause_s(failures, None) <= 5 for failures in (0, 10, 5_000))


async def test_the_reconnect_pause_is_at_least_the_gateways_advice() -> None:
    """retryAfterMs in the reason of a close is a minimum, whatever the random pause is."""
    dialled_at: list[float] = []

    async def behave(connection: ServerConnection, attempt: int) -> None:
        dialled_at.append(time.monotonic())
        if attempt == 1:
            await connection.close(Code.TRY_LATER, "try again later; retryAfterMs=200")
        else:
            await welcome(connection)
            await hear_nothing(connection)

    async with fake_gateway(behave) as url, Client("alice", [url], rng=Ceilings()):
        assert dialled_at[1] - dialled_at[0] >= 0.2


@pytest.mark.slow
async def test_the_reconnect_pause_is_at_least_the_retry_after_of_a_refusal() -> None:
    """An overloaded gateway answers 503 before there is a WebSocket; its advice counts as well."""
    dialled_at: list[float] = []

    def refuse_once(connection: ServerConnection, request: Request) -> Response | None:
        dialled_at.append(time.monotonic())
        if len(dialled_at) > 1:
            return None
        response = connection.respond(503, "full")
        response.headers["Retry-After"] = "1"
        return response

    async def behave(connection: ServerConnection) -> None:
        await welcome(connection)
        await hear_nothing(connection)

    async with serve(behave, "127.0.0.1", 0, process_request=refuse_once) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with Client("alice", [f"ws://127.0.0.1:{port}/ws"], rng=Ceilings()):
            assert dialled_at[1] - dialled_at[0] >= 1


async def test_each_register_carries_the_number_of_its_attempt() -> None:
    """All carry one instance, so that a gateway can tell a late attempt from a newer one."""
    hellos: list[dict[str, Any]] = []

    async def behave(connection: ServerConnection, attempt: int) -> None:
        hellos.append(await welcome(connection))
        if attempt < 3:
            connection.transport.abort()
        else:
            await hear_nothing(connection)

    async with fake_gateway(behave) as url, Client("alice", [url], settings=FAST, token="secret"):
        await until("three registers", lambda: len(hellos) == 3)
    assert [hello["att"] for hello in hellos] == [1, 2, 3]
    assert {(hello["userId"], hello["token"]) for hello in hellos} == {("alice", "secret")}
    assert len({hello["inst"] for hello in hellos}) == 1


# --- heartbeats ------------------------------------------------------------------------------


async def test_a_heartbeat_without_answer_ends_a_half_open_connection() -> None:
    """Bytes go out, nothing comes back. After one and a half intervals the client dials
    elsewhere."""
    diary = Diary()
    impatient = dataclasses.replace(FAST, pong_within_at_least_s=0.01)

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection, heartbeat_ms=200 if attempt == 1 else 30_000)
        await hear_nothing(connection)

    async with (
        fake_gateway(behave) as url,
        Client("alice", [url], settings=impatient, emit=diary) as alice,
    ):
        await until("registered again", lambda: diary.count[Kind.REGISTERED] == 2)
        assert alice.attempts == 2
    upto = diary.kinds(Kind.PING, Kind.WS_CLOSE)
    assert upto[:2] == [Kind.PING, Kind.WS_CLOSE]


async def test_a_pong_timeout_longer_than_the_interval_still_expires() -> None:
    """It counts from the first heartbeat that has no answer."""
    diary = Diary()
    settings = dataclasses.replace(FAST, pong_within_at_least_s=0.3)

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection, heartbeat_ms=50 if attempt == 1 else 30_000)
        await hear_nothing(connection)

    async with (
        fake_gateway(behave) as url,
        Client("alice", [url], settings=settings, emit=diary) as alice,
    ):
        await until("registered again", lambda: diary.count[Kind.REGISTERED] == 2)
        assert alice.attempts == 2
        assert diary.count[Kind.PING] > 1


@pytest.mark.slow
async def test_a_pong_resets_the_pong_timeout() -> None:
    """A connection whose heartbeats are answered lives for longer than the timeout."""
    diary = Diary()

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection, heartbeat_ms=300)
        async for _ in connection:
            await tell(connection, type="pong")

    async with fake_gateway(behave) as url, Client("alice", [url], emit=diary) as alice:
        await until("some answers", lambda: diary.count[Kind.PONG] == 6)
        assert alice.attempts == 1


@pytest.mark.slow
async def test_an_unanswered_heartbeat_does_not_count_on_the_next_connection() -> None:
    """An old heartbeat gets no answer on the new connection. The pong timeout is a part of the
    interval."""

    class Beats(Ceilings):
        def random(self) -> float:
            return moments.pop(0)

    moments, diary = [0.0, 0.02], Diary()
    settings = dataclasses.replace(FAST, pong_within_heartbeats=0.05)

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection, heartbeat_ms=20_000)
        async for _ in connection:
            if attempt == 2:
                await tell(connection, type="pong")

    async with (
        fake_gateway(behave) as url,
        Client("alice", [url], settings=settings, rng=Beats(), emit=diary) as alice,
    ):
        await until("an answered heartbeat", lambda: diary.count[Kind.PONG])
        assert alice.attempts == 2


def test_with_production_timings_a_frozen_gateway_is_noticed_within_45_s() -> None:
    """One heartbeat and the wait for its answer. With scaled timings, the wait has a lower
    limit."""
    settings = ClientSettings()
    assert 30.0 + settings.pong_within_s(Timing().heartbeat_s) == 45.0
    assert settings.pong_within_s(Timing().scaled(60).heartbeat_s) == 1.0


async def test_answered_heartbeats_keep_a_connection(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """A real gateway answers each; the client's own timing comes before the gateway's wish."""
    diary = Diary()
    often = Timing().scaled(1500)
    async with Client("alice", [gateways[0].url], timing=often, emit=diary) as alice:
        await until("ten pongs", lambda: diary.count[Kind.PONG] >= 10)
        assert (alice.state, alice.attempts) == (State.REGISTERED, 1)


async def test_a_client_that_does_not_ping_expects_no_pong() -> None:
    """When the laboratory drops heartbeats, the gateway has to notice it, not the client."""
    asked = 0

    def should_ping() -> bool:
        nonlocal asked
        asked += 1
        return False

    async def behave(connection: ServerConnection, _: int) -> None:
        await welcome(connection, heartbeat_ms=5)
        assert [text async for text in connection] == []

    async with (
        fake_gateway(behave) as url,
        Client("alice", [url], should_ping=should_ping) as alice,
    ):
        await until("it was asked often", lambda: asked >= 5)
        assert (alice.state, alice.attempts) == (State.REGISTERED, 1)


# --- beginning and end -----------------------------------------------------------------------


async def test_a_start_where_nobody_listens_fails_with_one_line() -> None:
    """ConnectFailed names user, address and patience; nothing is left running."""
    client = Client("alice", [NOBODY], settings=FAST)
    with pytest.raises(ConnectFailed, match=r"^alice: .*ws://127\.0\.0\.1:1/ws.* \(within 0.2 s\)"):
        await client.start(0.2)
    assert client.state is State.CLOSED and client.attempts > 1


async def test_a_start_where_nobody_answers_fails_in_time() -> None:
    """An open socket without `registered` does not count; register_timeout_s ends each attempt."""

    async def behave(connection: ServerConnection, _: int) -> None:
        await hear_nothing(connection)

    impatient = ClientSettings(register_timeout_s=0.05, backoff_base_s=0.01)
    async with fake_gateway(behave) as url:
        client = Client("alice", [url], settings=impatient)
        with pytest.raises(ConnectFailed, match="no answer to register"):
            await client.start(1.5)
        assert client.attempts > 1


async def test_a_start_timeout_during_the_first_dial_says_that_nobody_answered() -> None:
    """Nothing has failed yet, so there is no other reason to report."""

    async def behave(connection: ServerConnection, _: int) -> None:
        await hear_nothing(connection)

    async with fake_gateway(behave) as url:
        with pytest.raises(ConnectFailed, match=r"no gateway answered \(within 0.1 s\)"):
            await Client("alice", [url]).start(0.1)


async def test_a_start_with_a_final_refusal_fails_at_once(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """A reserved name and an unknown path: no second attempt, no waiting for the deadline."""
    url = gateways[0].url
    for client, why in (
        (Client("gateway-01", [url]), "closed with 4513"),
        (Client("alice", [url.replace("/ws", "/elsewhere")]), "HTTP 404"),
    ):
        with pytest.raises(ConnectFailed, match=why):
            await client.start(30)
        assert client.attempts == 1


@pytest.mark.parametrize(
    "gateways_given",
    [[], ["localhost:8080"], ["http://localhost/ws"], ["ws://"], ["ws://h:http/ws"]],
)
def test_an_address_that_cannot_work_is_refused_at_once(gateways_given: list[str]) -> None:
    """ValueError at construction, before anything is dialled."""
    with pytest.raises(ValueError, match=r"gateway|WebSocket URL"):
        Client("alice", gateways_given)


async def test_closing_is_idempotent_and_leaves_no_presence(
    gateways: tuple[Gateway, Gateway], redis_db: Any, keyspace: Keyspace
) -> None:
    """Twice, at the same time, or before the start: it is closed, and Redis has forgotten it."""
    never_started = Client("nobody", [gateways[0].url])
    await never_started.close()
    assert never_started.state is State.CLOSED
    alice = Client("alice", [gateways[0].url])
    await alice.start()
    key = keyspace.presence("alice")
    assert await redis_db.exists(key)
    await asyncio.gather(alice.close(), alice.close())
    await alice.close()
    assert (alice.state, alice.closed_because) == (State.CLOSED, "closed by us")
    assert (await alice.send("bob", "?")).status is Status.BUSY
    with pytest.raises(ClientClosed, match="closed by us"):
        await alice.receive(5)

    async def gone() -> bool:
        return not await redis_db.exists(key)

    await until("the presence is gone", gone)


async def test_closing_ends_pending_receive_and_send(gateways: tuple[Gateway, Gateway]) -> None:
    """A receive ends with ClientClosed, a send without an answer with unknown."""

    async def behave(connection: ServerConnection, _: int) -> None:
        await welcome(connection)
        await hear_nothing(connection)

    async with fake_gateway(behave) as url:
        alice = Client("alice", [url])
        await alice.start()
        receiving = asyncio.create_task(alice.receive())
        sending = asyncio.create_task(alice.send("bob", "?"))
        await until("the message is out", lambda: alice._receipts.pending)
        await alice.close()
        with pytest.raises(ClientClosed):
            await receiving
        assert (await sending).status is Status.UNKNOWN


async def test_a_gateway_that_refuses_for_good_is_skipped(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """Three in the list, the first answers 404: the second is dialled, not the third."""
    one, two = (gateway.url for gateway in gateways)
    async with Client("alice", [one.replace("/ws", "/elsewhere"), two, one]) as alice:
        assert (alice.gateway, alice.attempts) == (two, 2)


async def test_an_exception_in_a_listener_closes_the_client_and_ends_receive(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """`receive` without a deadline does not wait for a closed client."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

    def emit(event: Event) -> None:
        if event.kind is Kind.PONG:
            raise ZeroDivisionError("the listener's own mistake")

    timing = Timing().scaled(300)
    async with Client("alice", [gateways[0].url], timing=timing, emit=emit) as alice:
        async with asyncio.timeout(10):
            with pytest.raises(ClientClosed, match="ZeroDivisionError"):
                await alice.receive()
    assert failures[0]["message"] == "client alice failed"
