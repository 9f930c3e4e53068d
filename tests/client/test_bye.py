"""Bye: does a client understand an end without a close code, when a `bye` announced it? Proxies and
some servers lose the code of a close, and a reset has none. A gateway sends it in a `bye` frame
before.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from tests.client.fakes import (
    FAST,
    Ceilings,
    Diary,
    fake_gateway,
    hear_nothing,
    tell,
    welcome,
)
from tests.waiting import until
from wsdemo.client import Client, State
from wsdemo.events import Kind
from wsdemo.protocol import Code

pytestmark = pytest.mark.both_loops


def reset(connection: ServerConnection) -> None:
    """End with an RST."""
    endpoint: socket.socket = connection.transport.get_extra_info("socket")
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.transport.abort()


def hang_up(connection: ServerConnection) -> None:
    """End with a FIN, and no close frame."""
    connection.transport.close()


def protocol_error(connection: ServerConnection) -> None:
    """What a library makes of a code that it does not know."""
    connection.transport.write(b"\x88\x02" + Code.PROTOCOL_ERROR.to_bytes(2))
    connection.transport.close()


def no_status(connection: ServerConnection) -> None:
    """A close frame with nothing in it (1005)."""
    connection.transport.write(b"\x88\x00")
    connection.transport.close()


def nonsense(connection: ServerConnection) -> None:
    """A frame that our own side must answer with 1002."""
    connection.transport.write(b"\xff\x00")


End = Callable[[ServerConnection], None]
UNCLEAR: list[End] = [reset, hang_up, protocol_error, no_status, nonsense]


class Gateway:
    """Says `bye` and ends in some way, once; then stays."""

    def __init__(self, end: End, *byes: dict[str, Any], registers: bool = True) -> None:
        self.said = asyncio.Event()
        self.understood = asyncio.Event()
        self.ended_at = self.dialled_at = 0.0
        self._end, self._byes, self._registers = end, byes, registers

    async def __call__(self, connection: ServerConnection, attempt: int) -> None:
        loop = asyncio.get_running_loop()
        if attempt > 1:
            self.dialled_at = loop.time()
            await welcome(connection)
            await hear_nothing(connection)
            return
        if self._registers:
            await welcome(connection)
        else:
            await connection.recv()
        for bye in self._byes:
            await tell(connection, **bye)
        self.said.set()
        await self.understood.wait()  # A reset could overtake what was said before it.
        self.ended_at = loop.time()
        self._end(connection)
        await connection.wait_closed()


def bye(code: Any = 1012, after_ms: Any = None) -> dict[str, Any]:
    document = {"type": "bye", "code": code}
    return document if after_ms is None else {**document, "retryAfterMs": after_ms}


async def said(gateway: Gateway, alice: Client) -> None:
    """Wait until the client has read it, then let the gateway end the connection."""
    await gateway.said.wait()
    await until("it is heard", lambda: alice._bye is not None)
    gateway.understood.set()


@pytest.mark.parametrize("end", UNCLEAR)
async def test_an_end_without_close_frame_is_treated_as_the_bye_announced(end: End) -> None:
    """The client reconnects, and not before `retryAfterMs`; the reason is reported as if the close
    frame had come."""
    gateway, diary = Gateway(end, bye(1012, 300)), Diary()
    async with (
        fake_gateway(gateway) as url,
        Client("alice", [url], rng=Ceilings(), emit=diary) as alice,
    ):
        await said(gateway, alice)
        await until("it is back", lambda: diary.count[Kind.REGISTERED] == 2)
        assert gateway.dialled_at - gateway.ended_at >= 0.299
        (closed,) = (event for event in diary.events if event.kind is Kind.WS_CLOSE)
        assert closed.reason == "closed with 1012 service restart"
        assert closed.close_code == Code.RESTART


@pytest.mark.parametrize("end", UNCLEAR)
async def test_a_bye_with_4509_stops_reconnecting(end: End) -> None:
    """A session that was replaced does not come back because its connection was reset."""
    gateway = Gateway(end, bye(4509))
    async with fake_gateway(gateway) as url, Client("alice", [url], settings=FAST) as alice:
        await said(gateway, alice)
        await until("it is closed", lambda: alice.state is State.CLOSED)
        assert alice.closed_because == "closed with 4509 replaced by a newer session"
        assert alice.close_code == Code.REPLACED
        assert alice.attempts == 1


async def test_a_received_close_code_overrides_the_bye() -> None:
    """1000 after a bye of 1012 is final; the advice of the bye counts if the close code allows a
    reconnect."""

    def normal(connection: ServerConnection) -> None:
        connection.transport.write(b"\x88\x02" + Code.NORMAL.to_bytes(2))

    gateway = Gateway(normal, bye(1012))
    async with fake_gateway(gateway) as url, Client("alice", [url], settings=FAST) as alice:
        await said(gateway, alice)
        await until("it is closed", lambda: alice.state is State.CLOSED)
        assert alice.closed_because == "closed with 1000"

    def going_away(connection: ServerConnection) -> None:
        connection.transport.write(b"\x88\x02" + Code.GOING_AWAY.to_bytes(2))

    gateway = Gateway(going_away, bye(1012, 200))
    async with fake_gateway(gateway) as url, Client("alice", [url], rng=Ceilings()) as alice:
        await said(gateway, alice)
        await until("it is back", lambda: alice.attempts == 2)
        await until("it is taken", lambda: gateway.dialled_at)
        assert gateway.dialled_at - gateway.ended_at >= 0.199


async def test_the_last_bye_counts_and_only_for_its_own_connection() -> None:
    """A later bye replaces an earlier one; the next connection does not remember any of them."""
    gateway, diary = Gateway(reset, bye(1012, 60_000), bye(1012, 10)), Diary()
    async with (
        fake_gateway(gateway) as url,
        Client("alice", [url], settings=FAST, emit=diary) as alice,
    ):
        await gateway.said.wait()
        await until("both are heard", lambda: alice._bye == (1012, 0.01))
        gateway.understood.set()
        await until("it is back", lambda: diary.count[Kind.REGISTERED] == 2)
        assert alice._bye is None


async def test_a_bye_before_registered_is_accepted() -> None:
    """A gateway that drains may send it to a client that has just connected."""
    gateway = Gateway(reset, bye(4513), registers=False)
    async with fake_gateway(gateway) as url:
        alice = Client("alice", [url], settings=FAST)
        starting = asyncio.create_task(alice.start())
        await said(gateway, alice)
        with pytest.raises(Exception, match="closed with 4513 this user id is not allowed"):
            await starting
        assert alice.attempts == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "bye"},
        bye("1012"),
        bye(True),
        bye(None),
        bye(1012.5),
        bye(10**30),
        bye(-1),
        bye([]),
    ],
)
async def test_an_invalid_bye_is_ignored(odd: dict[str, Any]) -> None:
    """The end then means the same as without a bye: reconnect."""
    gateway, diary = Gateway(reset, odd, {"type": "pong"}), Diary()
    async with (
        fake_gateway(gateway) as url,
        Client("alice", [url], settings=FAST, emit=diary) as alice,
    ):
        await until("what follows is heard", lambda: diary.count[Kind.PONG])
        assert alice._bye is None
        gateway.understood.set()
        await until("it is back", lambda: diary.count[Kind.REGISTERED] == 2)
        (closed,) = (event for event in diary.events if event.kind is Kind.WS_CLOSE)
        assert closed.reason == "closed with 1006"
        assert closed.close_code == 1006


@pytest.mark.parametrize("after_ms", [-5, "soon", 1.5, True, 10**12])
async def test_invalid_retry_advice_in_a_bye_is_ignored(after_ms: Any) -> None:
    """The code of the bye counts all the same."""
    gateway, diary = Gateway(reset, bye(1012, after_ms)), Diary()
    async with (
        fake_gateway(gateway) as url,
        Client("alice", [url], settings=FAST, emit=diary) as alice,
    ):
        await said(gateway, alice)
        assert alice._bye == (1012, None)
        await until("it is back", lambda: diary.count[Kind.REGISTERED] == 2)
