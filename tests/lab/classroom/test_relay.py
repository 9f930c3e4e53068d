"""Byte relay: does a student's browser see what it would see without a relay in between?

Most of these tests speak with a stand-in for a gateway, which does to its connection what a gateway
does in an accident; the others with real gateways.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from tests.lab.classroom.visitors import (
    close_code,
    closing,
    frame,
    hear,
    say,
    student,
    upgraded,
)
from tests.waiting import until
from wsdemo.lab import Lab
from wsdemo.lab.classroom import relay
from wsdemo.lab.classroom.http import HttpReply, HttpRequest, parse_head
from wsdemo.lab.classroom.listener import BrowserConnection, RoomListener
from wsdemo.lab.classroom.rate_limit import Throttle
from wsdemo.lab.classroom.relay import GatewayRelay
from wsdemo.lab.classroom.room import Classroom

pytestmark = pytest.mark.xdist_group("clock")

USER = "ann"
REGISTER = frame('{"type":"register","userId":"ann"}')
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
HELLO = b"\x81\x02hi"
PAGE = "http://127.0.0.1:1"


class StandIn:
    """A gateway's end of one connection, which a test controls."""

    def __init__(self) -> None:
        self.head: HttpRequest | None = None
        self.connected = asyncio.Event()
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = parse_head(await reader.readuntil(b"\r\n\r\n"))
        self.reader, self.writer = reader, writer
        self.connected.set()

    def reset(self) -> None:
        end = self.writer.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Bench:
    """A room's listener with nothing but a relay behind it, a stand-in, and a student's end."""

    def __init__(self, gateway: StandIn, listener: RoomListener, port: int) -> None:
        self.gateway = gateway
        self.listener = listener
        self.port = port
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def dial(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(
            f"GET /gw/x/ws HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nOrigin: {PAGE}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nCookie: a=b\r\n"
            "User-Agent: a browser\r\nX-Forwarded-For: 10.9.9.9\r\n\r\n".encode()
        )
        await asyncio.wait_for(self.gateway.connected.wait(), 5)

    async def accept(self) -> None:
        self.gateway.writer.write(ACCEPTED)
        assert await self.reader.readuntil(b"\r\n\r\n") == ACCEPTED


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    gateway = StandIn()
    server = await asyncio.start_server(gateway.take, "127.0.0.1", 0)
    gateway_port = server.sockets[0].getsockname()[1]

    async def answer(request: HttpRequest, connection: BrowserConnection) -> HttpReply | None:
        return await GatewayRelay(request, connection, USER, gateway_port).run()

    listener = RoomListener(answer)
    port = await listener.start(["127.0.0.1"], 0)
    listener.hosts, listener.origins = {f"127.0.0.1:{port}"}, {PAGE}
    bench = Bench(gateway, listener, port)
    await bench.dial()
    yield bench
    await listener.stop()
    server.close()
    for writer in (bench.writer, gateway.writer):
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), 10)


# --- the handshake ---------------------------------------------------------------------------


async def test_a_gateway_is_not_told_the_page_and_is_told_the_address(bench: Bench) -> None:
    """The room has judged the Origin; cookies are the room's; nobody forges an address."""
    await bench.accept()
    assert bench.gateway.head is not None
    assert bench.gateway.head.path == "/ws"
    assert dict(bench.gateway.head.headers) == {
        "host": bench.gateway.head.headers["host"],
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "user-agent": "a browser",
        "x-forwarded-for": "127.0.0.1",
    }


async def test_a_gateways_refusal_passes_with_its_words(bench: Bench) -> None:
    """Whole, and then the connection ends."""
    refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull"
    bench.gateway.writer.write(refusal)
    bench.gateway.writer.close()
    assert await rest_of(bench.reader) == refusal


async def test_a_gateway_that_does_not_answer_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen one takes connections, and says nothing."""
    monkeypatch.setattr(relay, "HANDSHAKE_S", 0.2)
    await bench.listener.stop()  # The one that was dialled with the usual patience.
    with contextlib.suppress(OSError):
        await rest_of(bench.reader)
    bench.gateway.connected.clear()
    listener = RoomListener(bench.listener._answer)
    bench.port = await listener.start(["127.0.0.1"], 0)
    listener.hosts, listener.origins = {f"127.0.0.1:{bench.port}"}, {PAGE}
    await bench.dial()
    with pytest.raises(ConnectionError):
        await rest_of(bench.reader)
    await listener.stop()


# --- the end ---------------------------------------------------------------------------------


async def test_a_gateway_that_ends_without_a_close_frame_gives_none(bench: Bench) -> None:
    """A browser calls that 1006. Bytes before it arrive."""
    await bench.accept()
    bench.gateway.writer.write(HELLO)
    bench.gateway.writer.close()
    assert await rest_of(bench.reader) == HELLO


async def test_a_reset_of_the_gateway_is_a_reset_for_the_student(bench: Bench) -> None:
    """And nothing that looks like an orderly end."""
    await bench.accept()
    bench.gateway.reset()
    with pytest.raises(ConnectionResetError):
        await rest_of(bench.reader)


async def test_a_reset_of_the_student_is_a_reset_for_the_gateway(bench: Bench) -> None:
    """A gateway tells a break from a goodbye."""
    await bench.accept()
    bench.writer.write(REGISTER)
    assert await bench.gateway.reader.readexactly(len(REGISTER)) == REGISTER
    end = bench.writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    bench.writer.transport.abort()
    with pytest.raises(ConnectionResetError):
        await rest_of(bench.gateway.reader)


async def test_when_both_ends_break_at_once_both_failures_are_taken_note_of(bench: Bench) -> None:
    """A failure of a task that nobody asks for is reported as one that nobody handled."""
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: unhandled.append(what))
    await bench.accept()
    bench.writer.write(REGISTER)
    assert await bench.gateway.reader.readexactly(len(REGISTER)) == REGISTER
    end = bench.writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    bench.writer.transport.abort()
    bench.gateway.reset()
    await until("the relay has ended", lambda: not bench.listener.connections)
    await asyncio.sleep(0)  # The task of the connection ends a turn later.
    gc.collect()
    assert unhandled == []


async def test_a_student_who_says_no_more_still_hears(bench: Bench) -> None:
    """TCP has two directions; one may end before the other."""
    await bench.accept()
    bench.writer.write(REGISTER)
    bench.writer.write_eof()
    assert await rest_of(bench.gateway.reader) == REGISTER
    bench.gateway.writer.write(HELLO)
    bench.gateway.writer.close()
    assert await rest_of(bench.reader) == HELLO


async def test_a_gateway_that_says_no_more_still_hears(bench: Bench) -> None:
    """The other way round."""
    await bench.accept()
    bench.gateway.writer.write(HELLO)
    bench.gateway.writer.write_eof()
    assert await rest_of(bench.reader) == HELLO
    bench.writer.write(REGISTER)
    bench.writer.write_eof()
    assert await rest_of(bench.gateway.reader) == REGISTER


async def test_half_a_connection_does_not_stay_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A direction that goes on alone has a deadline."""
    monkeypatch.setattr(relay, "HALF_CLOSED_S", 0.2)
    await bench.accept()
    bench.writer.write_eof()
    assert await rest_of(bench.gateway.reader) == b""
    assert await rest_of(bench.reader) == b""
    await nothing_is_left(bench)


async def nothing_is_left(bench: Bench) -> None:
    await until("no connection is left", lambda: not bench.listener.connections)


async def test_a_refusal_does_not_stand_in_the_middle_of_a_frame(bench: Bench) -> None:
    """Between two frames a student is told why; within one, the connection is reset."""
    await bench.accept()
    bench.gateway.writer.write(HELLO + b"\x81\x05hal")  # Two more bytes are to come.
    assert await bench.reader.readexactly(len(HELLO) + 5)
    bench.writer.write(frame(b"\0", opcode=2))
    with pytest.raises(ConnectionResetError):
        await rest_of(bench.reader)


async def test_a_refusal_between_two_frames_says_why(bench: Bench) -> None:
    """Behind everything that the gateway has said."""
    await bench.accept()
    bench.gateway.writer.write(HELLO)
    assert await bench.reader.readexactly(len(HELLO)) == HELLO
    bench.writer.write(frame(b"\0", opcode=2))
    assert close_code(await rest_of(bench.reader)) == 1003


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(frame('{"type":"ping"}'), 4001, id="message-before-register"),
        pytest.param(frame('{"type":"register","userId":"bob"}'), 4513, id="another-name"),
        pytest.param(frame(b"\0", opcode=2), 1003, id="binary"),
        pytest.param(frame("{", fin=False), 1009, id="in-pieces"),
        pytest.param(frame("{}", masked=False), 1002, id="unmasked"),
    ],
)
async def test_nothing_of_a_refused_frame_reaches_the_gateway(
    bench: Bench, data: bytes, code: int
) -> None:
    """The room says with which code, and the gateway sees a connection that ends."""
    await bench.accept()
    bench.writer.write(data)
    assert close_code(await rest_of(bench.reader)) == code
    assert await rest_of(bench.gateway.reader) == b""


# --- back-pressure ---------------------------------------------------------------------------

KERNEL = 64 * 1024 * 1024
"""More than the buffers of two connections and of the relay together."""


async def test_a_student_who_does_not_read_makes_the_gateway_wait(bench: Bench) -> None:
    """Nothing piles up in the relay, and all of it arrives later, in order."""
    await bench.accept()
    pauses_reading(bench.reader)
    message = b"\x82\x7e\x10\x00" + b"x" * 4096
    wrote = 0
    with contextlib.suppress(TimeoutError):
        while wrote < KERNEL:
            bench.gateway.writer.write(message)
            async with asyncio.timeout(0.5):
                await bench.gateway.writer.drain()
            wrote += len(message)
    assert 0 < wrote < KERNEL
    (connection,) = bench.listener.connections
    assert connection.writer.transport.get_write_buffer_size() < 256 * 1024
    bench.gateway.writer.close()
    resumes_reading(bench.reader)
    assert len(await rest_of(bench.reader)) >= wrote


async def test_a_student_who_never_reads_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is reset, and that of the gateway with it."""
    monkeypatch.setattr(relay, "STALLED_S", 0.3)
    await bench.accept()
    pauses_reading(bench.reader)
    with pytest.raises(ConnectionError):
        while True:
            bench.gateway.writer.write(b"\x82\x7e\x10\x00" + b"x" * 4096)
            await asyncio.wait_for(bench.gateway.writer.drain(), 10)
    await nothing_is_left(bench)


async def test_a_gateway_that_does_not_read_makes_the_student_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any rate: the network itself makes the browser wait."""
    monkeypatch.setattr(Throttle, "delay_s", lambda self: 0.0)
    await bench.accept()
    pauses_reading(bench.gateway.reader)
    bench.writer.write(REGISTER)
    wrote = 0
    with contextlib.suppress(TimeoutError):
        while wrote < KERNEL:
            bench.writer.write(frame("y" * 2000))
            async with asyncio.timeout(0.5):
                await bench.writer.drain()
            wrote += 2000
    assert 0 < wrote < KERNEL
    resumes_reading(bench.gateway.reader)
    bench.writer.write_eof()
    assert len(await rest_of(bench.gateway.reader)) >= wrote


def pauses_reading(reader: asyncio.StreamReader) -> None:
    reader._transport.pause_reading()  # type: ignore[attr-defined]


def resumes_reading(reader: asyncio.StreamReader) -> None:
    reader._transport.resume_reading()  # type: ignore[attr-defined]


# --- real gateways ---------------------------------------------------------------------------


def test_a_drains_close_code_and_its_advice_arrive(room: Classroom) -> None:
    """1012, and after how many milliseconds to come back."""
    with student(room, "Ann") as ann, ann.at("gateway-02") as gateway:
        room.lab.drain("gateway-02")
        code, reason = closing(gateway)
    assert code == 1012
    assert "retryAfterMs=" in reason
    room.lab.start_gateway("gateway-02")


def test_a_crash_has_no_close_code(room: Classroom) -> None:
    """A browser calls it 1006; and the gateway that was started again is found."""
    with student(room, "Ann") as ann:
        with ann.at("gateway-02") as gateway:
            room.lab.crash("gateway-02")
            assert closing(gateway)[0] == 1006
        room.lab.start_gateway("gateway-02")
        with ann.at("gateway-02") as gateway:
            say(gateway, type="ping")
            hear(gateway, "pong")


def test_a_second_page_of_a_student_replaces_the_first(room: Classroom) -> None:
    """4509, from the gateway itself."""
    with student(room, "Ann") as ann, ann.at("gateway-01") as first:
        with ann.at("gateway-02"):
            assert closing(first)[0] == 4509


def test_receipts_and_messages_pass_between_students(room: Classroom) -> None:
    """Across two gateways, and to nobody."""
    with student(room, "Ann") as ann, student(room, "Bob") as bob:
        with ann.at("gateway-01") as one, bob.at("gateway-02") as other:
            say(one, type="message", to=bob.user, content="hello", id="1")
            assert hear(one, "ack")["status"] == "routed"
            assert hear(other, "message")["content"] == "hello"
            say(one, type="message", to="nobody-of-this-name", content="?", id="2")
            assert hear(one, "ack")["status"] == "offline"


def test_a_silent_phone_is_dropped_by_the_gateway_and_not_kept_alive_by_the_relay() -> None:
    """The relay answers no ping: without one from the page itself, the lease ends."""
    with Lab(gateways=1, scale=60) as lab:
        room = lab.classroom()
        with student(room, "Ann") as ann, upgraded(room, ann.path("gateway-01")) as g:
            g.sendall(frame(json.dumps({"type": "register", "userId": ann.user})))
            lab.wait_until("Redis knows her", lambda: lab.record(ann.user) != {})
            lab.wait_until("Redis has forgotten her", lambda: lab.record(ann.user) == {})
    assert lab.leaks() == []
