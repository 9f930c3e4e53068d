"""WebSocket frames: how does a gateway refuse malformed ones? (bad input 21 to 36)

Each is said by a registered user; the connection ends with the code that says why, and its user
is gone from the gateway at once, so that nobody is sent to a dead connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib

import pytest

from tests.bad_input.conftest import Start, inputs
from tests.gateway.cluster import Raw, frame
from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.presence import RedisPresence

pytestmark = pytest.mark.both_loops

PING = b'{"type":"ping"}'


def close(code: int, reason: bytes = b"") -> bytes:
    """Return a close frame."""
    return frame(code.to_bytes(2, "big") + reason, opcode=8)


async def goodbye(gateway: Gateway, said: bytes) -> int:
    """A registered user says it; return the code that the gateway closes with.

    The gateway hangs up as well, and forgets the user.
    """
    async with await Raw.register(gateway, "mallory") as raw:
        raw.writer.write(said)
        code = await raw.closed()
        with contextlib.suppress(ConnectionError):
            raw.writer.write_eof()
            assert await raw.rest() == b"", "a close is the last word"
    await until("the user is gone", lambda: gateway.registry.by_user("mallory") is None)
    return code


@inputs(
    {
        "a ping of ours": frame(PING, mask=False),
        "nothing": frame(b"", mask=False),
        "a WebSocket ping": frame(b"", opcode=9, mask=False),
        "a goodbye": frame(b"", opcode=8, mask=False),
        "a long frame": frame(b"x" * 300, mask=False),
        "behind a good one": frame(PING) + frame(PING, mask=False),
    }
)
async def test_an_unmasked_frame_is_closed_with_1002(one: Gateway, case: bytes) -> None:
    """Clients must mask their frames (bad input 21)."""
    assert await goodbye(one, case) == 1002


@inputs(
    {f"{rsv:03b} of opcode {op}": frame(b"", opcode=op, rsv=rsv) for rsv in (1, 2, 4, 7)
     for op in (1, 9)}
    | {"in a fragment": frame(b"a", fin=False) + frame(b"b", opcode=0, rsv=4)}
)  # fmt: skip
async def test_a_reserved_bit_is_closed_with_1002(one: Gateway, case: bytes) -> None:
    """No extension was agreed on, so RSV1 to RSV3 must be 0 (bad input 22)."""
    assert await goodbye(one, case) == 1002


@inputs({f"opcode {op}": frame(b"x", opcode=op) for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)})
async def test_a_reserved_opcode_is_closed_with_1002(one: Gateway, case: bytes) -> None:
    """Opcodes 3 to 7 and 11 to 15 have no meaning (bad input 23)."""
    assert await goodbye(one, case) == 1002


@inputs(
    {
        "rest without a start": frame(b"rest", opcode=0),
        "rest that goes on": frame(b"rest", opcode=0, fin=False),
        "rest behind a whole one": frame(PING) + frame(b"rest", opcode=0),
        "text within a text": frame(b"a", fin=False) + frame(PING),
        "start within a text": frame(b"a", fin=False) + frame(b"b", fin=False),
    }
)
async def test_a_fragment_out_of_order_is_closed_with_1002(one: Gateway, case: bytes) -> None:
    """A message must end before the next one begins, and a continuation must continue something
    (bad input 24).
    """
    assert await goodbye(one, case) == 1002


@inputs(
    {f"{name} in fragments": frame(b"x", opcode=op, fin=False) for name, op in
     (("ping", 9), ("pong", 10), ("close", 8))}
    | {f"{name} of 126 bytes": frame(b"\x03\xe8" + b"x" * 124, opcode=op) for name, op in
       (("ping", 9), ("pong", 10), ("close", 8))}
    | {"a ping of 60,000 bytes": frame(b"x" * 60_000, opcode=9)}
)  # fmt: skip
async def test_a_long_or_fragmented_control_frame_is_closed_with_1002(
    one: Gateway, case: bytes
) -> None:
    """A control frame is one frame of at most 125 bytes (bad input 25)."""
    assert await goodbye(one, case) == 1002


NOT_UTF8 = {
    "a stray byte": b"\x80",
    "0xFF": b"\xff\xfe",
    "cut short": b"\xe2\x82",
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL": b"\xe0\x80\x80",
    "a surrogate": b"\xed\xa0\x80",
    "a pair of surrogates (CESU-8)": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "Latin-1": "é".encode("latin-1"),
    "UTF-16": PING.decode().encode("utf-16"),
}


def within_content(data: bytes) -> bytes:
    return b'{"type":"message","to":"bob","content":"%b"}' % data


@inputs(
    {f"{name}, alone": frame(data) for name, data in NOT_UTF8.items()}
    | {f"{name}, as content": frame(within_content(data)) for name, data in NOT_UTF8.items()}
    | {"in the second fragment": frame(b'{"x":"', fin=False) + frame(b"\xff", opcode=0)}
    | {"in a long frame": frame(b"x" * 200 + b"\xff")}
)
async def test_text_that_is_not_utf8_is_closed_with_1007(one: Gateway, case: bytes) -> None:
    """RFC 6455 wants valid UTF-8 in text frames (bad input 26)."""
    assert await goodbye(one, case) == 1007


def in_pieces(data: bytes, size: int) -> bytes:
    """Return a message in fragments of this many bytes."""
    parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    return b"".join(
        frame(part, opcode=0 if n else 1, fin=n == len(parts) - 1) for n, part in enumerate(parts)
    )


FINE = json.dumps(
    {"type": "message", "to": "mallory", "content": "é日本🎉"}, ensure_ascii=False
).encode()


@inputs({f"{size} bytes each": in_pieces(FINE, size) for size in (1, 2, 3, 7, 40)})
async def test_a_character_split_over_fragments_is_accepted(one: Gateway, case: bytes) -> None:
    """The whole message must be UTF-8, not each of its fragments (bad input 27)."""
    async with await Raw.register(one, "mallory") as raw:
        raw.writer.write(case)
        assert (await raw.answer())["content"] == "é日本🎉"


@inputs(
    {
        "65,537 bytes": frame(b"x" * 65_537),
        "a declared length of 65,537": frame(b"", length=65_537),
        "a declared length of 2^63-1": frame(b"", length=2**63 - 1),
        "the highest bit set": frame(b"", length=2**63),
        "all bits set": frame(b"", length=2**64 - 1),
        "80 KB in 2,000 fragments": in_pieces(b"x" * 80_000, 40),
        "80 KB in two fragments": in_pieces(b"x" * 80_000, 40_000),
        "binary of 65,537": frame(b"x" * 65_537, opcode=2),
    }
)
async def test_a_too_large_message_is_closed_with_1009(one: Gateway, case: bytes) -> None:
    """As soon as its length is known, before any of its bytes is kept (bad input 28)."""
    assert await goodbye(one, case) == 1009


@inputs(
    {
        "5,000 empty ones": frame(b"", fin=False) + frame(b"", opcode=0, fin=False) * 5_000,
        "300 of one byte": in_pieces(b" " * 300, 1),
        "300 with pings between": frame(b" ", fin=False)
        + (frame(b"", opcode=9) + frame(b" ", opcode=0, fin=False) * 30) * 10,
    }
)
async def test_too_many_fragments_are_closed_with_1009(one: Gateway, case: bytes) -> None:
    """Even when their bytes are few (bad input 29)."""
    assert await goodbye(one, case) == 1009


def deflated(data: bytes) -> bytes:
    """Compress as permessage-deflate does."""
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH)[:-4]


@inputs(
    {
        "50 MB in 48 KB": frame(deflated(b"x" * 50_000_000), rsv=4),
        "a ping": frame(deflated(PING), rsv=4),
        "in fragments": frame(deflated(b"x" * 10_000), rsv=4, fin=False) + frame(b"", opcode=0),
    }
)
async def test_a_compressed_frame_is_closed_with_1002(one: Gateway, case: bytes) -> None:
    """No compression was agreed on, so a zip bomb is a frame with a reserved bit: it costs nothing
    (bad input 30). A server that does decompress would answer with 1009 at its limit.
    """
    assert await goodbye(one, case) == 1002


@inputs(
    {
        "one byte": (frame(b"\x03", opcode=8), 1002),
        **{f"code {code}": (close(code), 1002) for code in (0, 999, 1004, 1005, 1006, 2999, 5000)},
        "a reason of 124 bytes": (close(1000, b"x" * 124), 1002),
        "a reason that is not UTF-8": (close(1000, b"\xff"), 1007),
    }
)
async def test_an_invalid_close_frame_is_closed_with_1002_or_1007(
    one: Gateway, case: tuple[bytes, int]
) -> None:
    """1002 for its code or its length, 1007 for a reason that is not UTF-8 (bad input 31)."""
    said, code = case
    assert await goodbye(one, said) == code


MESSAGE = b'{"type":"message","to":"mallory","content":"x"}'


@inputs(
    {
        "a message": frame(MESSAGE),
        "half of one": frame(MESSAGE)[:-5],
        "a ping": frame(b"", opcode=9),
        "another goodbye": close(1000),
        "junk": b"\xff" * 1_000,
        "a register": frame(b'{"type":"register","userId":"mallory"}'),
    }
)
async def test_frames_after_a_close_frame_are_ignored(one: Gateway, case: bytes) -> None:
    """The close frame is answered once; a ping before it is still answered (bad input 32)."""
    before = one.counters.messages_received
    assert await goodbye(one, frame(PING) + close(1000) + case) == 1000
    assert one.counters.messages_received == before


@inputs(
    {
        "two bytes for a short length": frame(MESSAGE, width=2),
        "eight bytes for a short length": frame(MESSAGE, width=8),
        "eight bytes for a middle length": frame(MESSAGE[:-2] + b" " * 200 + b'"}', width=8),
    }
)
async def test_a_length_in_a_longer_form_than_needed_is_accepted(one: Gateway, case: bytes) -> None:
    """RFC 6455 wants the shortest form; the library accepts the others, and nothing depends on it
    (bad input 33).
    """
    async with await Raw.register(one, "mallory") as raw:
        raw.writer.write(case)
        assert (await raw.answer())["type"] == "message"


@inputs(
    {
        "nothing": b"",
        "one byte": frame(PING)[:1],
        "a head without a mask": frame(PING)[:2],
        "half of a mask": frame(PING)[:4],
        "all but one byte": frame(PING)[:-1],
        "a long frame's length": frame(b"x" * 70_000)[:6],
        "a fragment": frame(b"a", fin=False),
        "a ping, cut": frame(b"abc", opcode=9)[:-1],
        "a goodbye, cut": close(1000, b"bye")[:-1],
    }
)
async def test_a_connection_lost_within_a_frame_leaves_nothing_behind(
    one: Gateway, case: bytes
) -> None:
    """No close frame, no session, no socket, and no entry in Redis (bad input 34)."""
    async with await Raw.register(one, "mallory") as raw:
        raw.writer.write(case)
        raw.writer.write_eof()
        assert await raw.rest() == b""
    await until("no session", lambda: one.registry.by_user("mallory") is None)
    await until("no socket", lambda: one.stats()["sockets"] == 1)

    async def gone() -> bool:
        assert isinstance(one.presence, RedisPresence)
        return await one.presence.lookup("mallory") is None

    await until("no entry", gone)


@inputs(
    {
        "bytes": frame(b"\0\1", opcode=2),
        "nothing": frame(b"", opcode=2),
        "valid JSON": frame(PING, opcode=2),
        "valid JSON in UTF-16": frame(PING.decode().encode("utf-16"), opcode=2),
        "a first fragment": frame(b"", opcode=2, fin=False),
        "a long one": frame(b"x" * 60_000, opcode=2),
    }
)
async def test_a_binary_message_is_closed_with_1003(one: Gateway, case: bytes) -> None:
    """The protocol has text messages only (bad input 35)."""
    assert await goodbye(one, case) == 1003


@inputs(
    {
        "pings": frame(b"", opcode=9),
        "pongs": frame(b"", opcode=10),
        "long pings": frame(b"x" * 125, opcode=9),
        "both": frame(b"", opcode=9) + frame(b"", opcode=10),
        "between the fragments of a message": frame(b"", fin=False)
        + frame(b"", opcode=9)
        + frame(b"", opcode=0),
    }
)
@pytest.mark.parametrize("reads", [True, False], ids=["who reads", "who does not read"])
async def test_a_flood_of_control_frames_is_closed_with_4008(
    start: Start, case: bytes, reads: bool
) -> None:
    """They have a rate limit of their own; a client that does not read the close frame is cut off
    (bad input 36).
    """
    gateway = await start(close_timeout_s=0.2, max_malformed=10_000)
    async with await Raw.register(gateway, "mallory") as raw:
        if not reads:
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        raw.writer.write(case * 2_000)
        if reads:
            assert await raw.closed() == 4008
        await until("it is gone", lambda: gateway.stats()["sockets"] == 1)
    assert gateway.counters.rate_limited >= 1


async def test_pongs_that_nobody_reads_do_not_pile_up(start: Start) -> None:
    """Where the rate allows any number, the hard cap on what waits to be written ends it."""
    gateway = await start(
        write_hard_cap_bytes=65_536 * 2, control_frames_per_s=1e9, control_burst=10**9
    )
    async with await Raw.register(gateway, "flood") as flood:
        flood.writer.transport.pause_reading()  # type: ignore[attr-defined]
        pings = frame(b"x" * 120, opcode=9) * 500
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(400):
                flood.writer.write(pings)
                await asyncio.wait_for(flood.writer.drain(), 10)
                if gateway.registry.by_user("flood") is None:
                    break
        await until("it is gone", lambda: gateway.registry.by_user("flood") is None)
    assert gateway.counters.slow_consumers == 1
