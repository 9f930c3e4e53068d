"""What does a gateway do with a client that reads slowly, now and then, or not at all?"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from tests.gateway.cluster import Raw, frame, gateway, request
from tests.waiting import until
from wsdemo.gateway.outbox import _UNCONFIRMED
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.socket import OVER, Socket, text_frame
from wsdemo.protocol import Code
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

pytestmark = pytest.mark.both_loops

LIMITS: Final[dict[str, Any]] = {
    "messages_per_s": 1e6,
    "message_burst": 10**6,
    "control_frames_per_s": 1e6,
    "control_burst": 10**6,
    "write_high_water_bytes": 4_096,
    "outbox_messages": 10**6,
    "outbox_bytes": 10**9,
    "write_deadline_s": 1e4,
}
"""None of them is what ends a connection, unless a test says so."""
ONE_READ: Final = 256 * 1024
"""Bytes that a transport hands over at once; what is said in answer to them is not much longer."""
CONTENT: Final = "x" * 10_000


def message(content: str) -> bytes:
    return frame(json.dumps({"type": "message", "to": "mallory", "content": content}).encode())


async def with_a_small_window(running: Gateway, send_buffer: int | None = 8_192) -> Raw:
    """Return mallory, for whom neither her kernel nor her reader keep much that she did not ask
    for, and ours keeps no more than `send_buffer` (None: as much as it likes, which is a lot).
    """
    end = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
    end.setblocking(False)
    await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", running.port))
    raw = Raw(*await asyncio.open_connection(sock=end, limit=4_096))
    raw.writer.write(request())
    await raw.head()
    raw.frame(b'{"type":"register","userId":"mallory"}')
    assert (await raw.answer())["type"] == "registered"
    if send_buffer is not None:
        socket_of(running).set_send_buffer(send_buffer)
    return raw


class _End:
    """mallory's connection, as the gateway sees it."""

    def __init__(self, end: Socket) -> None:
        self.end = end
        self.outbox = end.outbox

    def set_send_buffer(self, size: int) -> None:
        self.end._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, size
        )

    @property
    def unread(self) -> int:
        return self.end._transport.get_write_buffer_size()


def socket_of(running: Gateway) -> _End:
    session = running.registry.by_user("mallory")
    assert session is not None
    return _End(session.socket)


async def fill(bob: Raw, end: _End) -> int:
    """Write to mallory until messages wait for it; return how many were written."""
    for n in itertools.count(1):
        bob.writer.write(message(f"{n} {CONTENT}"))
        await bob.writer.drain()
        await asyncio.sleep(0)
        if end.outbox.paused and len(end.outbox) > 3:
            return n
    raise AssertionError


@pytest.fixture
async def running(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    async with gateway(shared_server, keyspace, **LIMITS) as running:
        yield running


async def test_a_client_that_reads_nothing_is_gone_by_the_write_deadline(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Not before, not much later, and also when more and more is written to it."""
    limits = LIMITS | {"write_deadline_s": 0.4}
    async with (
        gateway(shared_server, keyspace, **limits) as running,
        await with_a_small_window(running) as mallory,
        await Raw.register(running, "bob") as bob,
    ):
        clock = asyncio.get_running_loop().time
        end = socket_of(running)
        began = clock()
        await fill(bob, end)

        def gone() -> bool:
            bob.writer.write(message("more"))
            return running.registry.by_user("mallory") is None

        await until("it is gone", gone, timeout_s=3.0)
        assert clock() - began > 0.35
        assert running.counters.slow_consumers == 1
        assert await mallory.closed() == 1006, "a goodbye would have joined what is not read"


@pytest.mark.slow
@pytest.mark.parametrize("send_buffer", [8_192, None], ids=["small buffer", "large buffer"])
async def test_a_slow_but_steady_reader_outlives_the_write_deadline(
    shared_server: BundledServer, keyspace: Keyspace, send_buffer: int | None
) -> None:
    """It takes a little all the time, and for all of it several times as long. With a large buffer
    in the kernel, the transport does not notice that for longer than the deadline.
    """
    limits = LIMITS | {"write_deadline_s": 0.4}
    async with (
        gateway(shared_server, keyspace, **limits) as running,
        await with_a_small_window(running, send_buffer) as mallory,
        await Raw.register(running, "bob") as bob,
    ):
        clock, end = asyncio.get_running_loop().time, socket_of(running)
        written = await fill(bob, end) + 100
        for n in range(written - 100, written):
            bob.writer.write(message(f"{n + 1} {CONTENT}"))
        await until("all waits for it", lambda: running.counters.messages_received == written)
        began, n = clock(), 0
        while clock() - began < 3 * limits["write_deadline_s"]:
            n += 1
            assert (await mallory.answer())["content"].startswith(f"{n} ")
            await asyncio.sleep(0.04)  # This is how slowly it reads.
        assert end.outbox.paused and n < written, "it was slow enough"
        assert running.counters.slow_consumers == 0


async def test_a_client_that_falls_behind_and_catches_up_is_not_closed(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """What waits for it is bounded; what has ever waited for it, in sum, is not."""
    limits = LIMITS | {"outbox_bytes": 100_000, "outbox_messages": 50}
    async with (
        gateway(shared_server, keyspace, **limits) as running,
        await with_a_small_window(running) as mallory,
        await Raw.register(running, "bob") as bob,
    ):
        end, waited = socket_of(running), 0
        for _ in range(20):
            count = await fill(bob, end)
            waited += len(end.outbox)
            await until("all is there", lambda: bob.writer.transport.get_write_buffer_size() == 0)
            for n in range(1, count + 1):
                assert (await mallory.answer())["content"] == f"{n} {CONTENT}"
            await until("it has caught up", lambda: not end.outbox.paused)
        assert waited * len(CONTENT) > 2 * limits["outbox_bytes"]
        assert waited > limits["outbox_messages"]
        assert running.counters.slow_consumers == 0


async def test_a_met_write_deadline_is_cancelled(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Who has caught up has no timer running, nor has one that is gone."""
    limits = LIMITS | {"write_deadline_s": 30.0}
    async with (
        gateway(shared_server, keyspace, **limits) as running,
        await with_a_small_window(running) as mallory,
        await Raw.register(running, "bob") as bob,
    ):
        end = socket_of(running)
        for _ in range(await fill(bob, end)):
            await mallory.answer()
        await until("it has caught up", lambda: not end.outbox.paused)
        assert end.outbox._deadline is None
        await fill(bob, end)
        assert end.outbox._deadline is not None
        mallory.reset()
        await until("it is gone", lambda: running.registry.by_user("mallory") is None)
        assert end.outbox._deadline is end.end._timer is None
        # Whatever still comes of this transport or of a sender is too late for it.
        end.end.pause_writing()
        assert end.outbox._deadline is None
        end.end.send(b"{}")
        end.end.ping(1.0)
        end.end.close(Code.RESTART)
        end.end.deadline(0.0, lambda: pytest.fail("a timer of a connection that is gone"))
        end.end.resume_writing()
        end.end.pause_reading()
        end.end.resume_reading()
        for _ in range(2):
            end.end.data_received(request() + message("late"))
            end.end.eof_received()
            end.end.abort()
        assert end.outbox._deadline is end.end._timer is None
        assert len(end.outbox) == 0 and running.counters.slow_consumers == 0
        assert OVER.parser_exc is None and not OVER.events, "all lost connections share it"


async def test_nothing_is_written_to_a_lost_connection(
    running: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop knows that it is lost, and tells us in its next turn: until then writers are many,
    and neither raise nor make a noise.
    """
    async with await with_a_small_window(running):
        end = socket_of(running)
        end.end._transport.abort()
        for _ in range(20):
            end.end.send(b"{}")
            end.outbox.flush()
            end.outbox.write(b"a reply")
        end.end.ping(1.0)
        end.end.pause_reading()
        end.end.resume_reading()
        end.end.close(Code.RESTART)
        await until("it is gone", lambda: not running._sockets())
    assert running.counters.connection_failures == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_nothing_is_written_after_the_close_frame(running: Gateway) -> None:
    """The goodbyes are said, our half is closed, and its client takes its time to hang up."""
    async with await with_a_small_window(running) as mallory:
        end = socket_of(running)
        mallory.frame((1000).to_bytes(2, "big"), opcode=8)
        assert await mallory.closed() == 1000
        assert await mallory.rest() == b""
        end.outbox.write(b"late")
        end.outbox.write_eof()
        end.end.send(b"late")
        end.end.close(Code.RESTART)
    await until("it is gone", lambda: not running._sockets())
    assert running.counters.connection_failures == 0


async def test_unread_pongs_are_bounded(shared_server: BundledServer, keyspace: Keyspace) -> None:
    """Pongs bypass the outbox, and meet the hard cap: what is kept is little more than that."""
    limits = LIMITS | {"write_hard_cap_bytes": 200_000}
    async with (
        gateway(shared_server, keyspace, **limits) as running,
        await with_a_small_window(running) as mallory,
    ):
        end, most = socket_of(running), 0
        pings = frame(b"p" * 125, opcode=9) * 100

        def dropped() -> bool:
            nonlocal most
            most = max(most, end.unread)
            mallory.writer.write(pings)
            return running.registry.by_user("mallory") is None

        await until("it is dropped", dropped, every_s=0)
        assert running.counters.slow_consumers == 1
        assert 4_096 < most <= limits["write_hard_cap_bytes"] + ONE_READ
        assert await mallory.closed() == 1006


@pytest.mark.parametrize("count", [256, 257])
async def test_a_message_may_have_256_fragments_and_no_more(running: Gateway, count: int) -> None:
    """1009 for one more, as soon as it is there."""
    async with await Raw.open(running) as raw:
        pieces = [b'{"type":', *[b" "] * (count - 2), b'"ping"}']
        for n, piece in enumerate(pieces):
            last = n == count - 1
            raw.frame(piece, opcode=0 if n else 1, fin=last and count == 256)
        if count == 256:
            assert await raw.answer() == {"type": "pong"}
        else:
            assert await raw.closed() == 1009


async def test_bytes_in_the_kernels_buffer_count_as_not_taken(running: Gateway) -> None:
    """A transport hears late of what a slow reader takes; the kernel knows it."""
    if _UNCONFIRMED is None:
        pytest.skip("this system does not tell")
    async with (
        await with_a_small_window(running),
        await Raw.register(running, "bob") as bob,
    ):
        end = socket_of(running)
        await fill(bob, end)
        assert end.outbox._not_taken() > end.unread > 0


@pytest.mark.parametrize("length", [0, 125, 126, 65_535, 65_536, 70_000])
async def test_a_text_of_any_length_is_written_as_a_frame(length: int) -> None:
    """Its length takes as many bytes as it needs."""
    assert text_frame(b"x" * length) == frame(b"x" * length, mask=False)


async def test_a_client_that_does_not_answer_a_close_is_cut_off(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """After the time that there is for it, and answered no pings in between."""
    async with (
        gateway(shared_server, keyspace, **LIMITS | {"close_timeout_s": 0.3}) as running,
        await Raw.register(running, "mallory") as mallory,
    ):
        end = socket_of(running).end
        end.close(Code.REPLACED)
        assert await mallory.closed() == Code.REPLACED
        mallory.frame(opcode=9)
        with contextlib.suppress(ConnectionError):  # The gateway hangs up with a reset.
            assert await mallory.rest() == b"", "nothing behind the last word"
        await until("it is gone", lambda: not running._sockets())


async def test_reading_is_not_resumed_on_a_lost_connection(running: Gateway) -> None:
    """The answer of Redis that would let it be read comes too late; on uvloop that would raise."""
    async with await Raw.register(running, "mallory"):
        end = socket_of(running).end
        end.pause_reading()
        end.abort()
        await until("it is gone", lambda: not running._sockets())
        end.resume_reading()
        end.pause_reading()
        end.resume_reading()


async def test_no_write_deadline_is_set_for_a_lost_connection(running: Gateway) -> None:
    """Nobody would take it back."""
    async with await Raw.register(running, "mallory"):
        end = socket_of(running).end
        end.abort()
        end.deadline(1e4, lambda: None)
        assert end._timer is None


async def test_nothing_of_a_fragmented_message_is_kept_after_it(running: Gateway) -> None:
    """Neither its text, nor that there was one: what follows takes the short way again."""
    async with await Raw.register(running, "mallory") as mallory:
        end = socket_of(running).end
        mallory.frame(b'{"type":', fin=False)
        mallory.frame(b'"ping"}', opcode=0)
        assert await mallory.answer() == {"type": "pong"}
        await until("the frame is read to its end", lambda: end._at_boundary)
        assert end._fragments is None


async def test_a_payload_that_looks_like_a_frame_is_payload(running: Gateway) -> None:
    """Wherever a frame is cut, what follows is the rest of it, byte for byte."""
    inner_key, outer_key = b"\x80" * 4, b"\xc0" * 4
    masked = bytes(byte ^ 0x80 for byte in b'{"type":"ping"}')
    inner = bytes([0x81, 0x80 | len(masked)]) + inner_key + masked
    head, tail = b'{"type":"message","to":"mallory","content":"', b'"}'
    text = head + bytes(byte ^ 0xC0 for byte in inner) + tail
    assert text.isascii()
    whole = bytes([0x81, 0x80 | len(text)]) + outer_key + bytes(byte ^ 0xC0 for byte in text)
    cut = whole.index(inner)
    async with await Raw.register(running, "mallory") as mallory:
        end = socket_of(running).end
        before = end.last_read
        mallory.writer.write(whole[:cut])
        await until("the first part is read", lambda: end.last_read > before)
        mallory.writer.write(whole[cut:])
        answer = await mallory.answer()
        assert answer["type"] == "message"
        assert answer["content"].encode() == text[len(head) : -len(tail)]


async def test_a_message_between_the_fragments_of_another_is_refused(running: Gateway) -> None:
    """Also when it comes alone, as a whole short frame (RFC 6455, section 5.4): 1002."""
    async with await Raw.register(running, "mallory") as mallory:
        end = socket_of(running).end
        mallory.frame(b'{"type":', fin=False)
        await until("the fragment is read", lambda: end._fragments is not None)
        mallory.frame(b'{"type":"ping"}')
        assert await mallory.closed() == 1002
