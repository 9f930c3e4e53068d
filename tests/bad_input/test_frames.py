"""Rows 21 to 36: whose frames are not frames?

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
async def test_row_21_frames_of_clients_are_masked(one: Gateway, case: bytes) -> None:
    """1002."""
    assert await goodbye(one, case) == 1002


@inputs(
    {f"{rsv:03b} of opcode {op}": frame(b"", opcode=op, rsv=rsv) for rsv in (1, 2, 4, 7)
     for op in (1, 9)}
    | {"in a fragment": frame(b"a", fin=False) + frame(b"b", opcode=0, rsv=4)}
)  # fmt: skip
async def test_row_22_reserved_bits_are_zero(one: Gateway, case: bytes) -> None:
    """1002."""
    assert await goodbye(one, case) == 1002


@inputs({f"opcode {op}": frame(b"x", opcode=op) for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)})
async def test_row_23_reserved_opcodes_mean_nothing(one: Gateway, case: bytes) -> None:
    """1002."""
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
async def test_row_24_a_message_is_finished_before_the_next(one: Gateway, case: bytes) -> None:
    """1002."""
    assert await goodbye(one, case) == 1002


@inputs(
    {f"{name} in fragments": frame(b"x", opcode=op, fin=False) for name, op in
     (("ping", 9), ("pong", 10), ("close", 8))}
    | {f"{name} of 126 bytes": frame(b"\x03\xe8" + b"x" * 124, opcode=op) for name, op in
       (("ping", 9), ("pong", 10), ("close", 8))}
    | {"a ping of 60,000 bytes": frame(b"x" * 60_000, opcode=9)}
)  # fmt: skip
async def test_row_25_control_frames_are_short_and_whole(one: Gateway, case: bytes) -> None:
    """1002."""
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
async def test_row_26_text_is_utf8(one: Gateway, case: bytes) -> None:
    """1007."""
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
async def test_row_27_a_character_may_be_split_over_fragments(one: Gateway, case: bytes) -> None:
    """UTF-8 is a matter of the message, not of its fragments."""
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
async def test_row_28_a_message_has_an_end(one: Gateway, case: bytes) -> None:
    """1009, as soon as it is known, which is before any of its bytes has been kept."""
    assert await goodbye(one, case) == 1009


@inputs(
    {
        "5,000 empty ones": frame(b"", fin=False) + frame(b"", opcode=0, fin=False) * 5_000,
        "300 of one byte": in_pieces(b" " * 300, 1),
        "300 with pings between": frame(b" ", fin=False)
        + (frame(b"", opcode=9) + frame(b" ", opcode=0, fin=False) * 30) * 10,
    }
)
async def test_row_29_a_message_has_not_too_many_fragments(one: Gateway, case: bytes) -> None:
    """1009, although the bytes are few."""
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
async def test_row_30_nothing_is_unpacked(one: Gateway, case: bytes) -> None:
    """1002: compression is off, so a bomb is a frame with a reserved bit, and costs nothing.

    The table's 1009 is the answer of a server that unpacks up to its limit.
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
async def test_row_31_a_goodbye_has_a_code_that_means_something(
    one: Gateway, case: tuple[bytes, int]
) -> None:
    """1002, or 1007 for its reason."""
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
async def test_row_32_what_is_said_behind_a_goodbye_is_not_heard(one: Gateway, case: bytes) -> None:
    """The answer is the goodbye that was said, once; a ping before it still counts."""
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
async def test_row_33_a_length_may_be_longer_than_it_must(one: Gateway, case: bytes) -> None:
    """RFC 6455 wants the shortest form; the library is generous, and nothing hangs on it."""
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
async def test_row_34_who_hangs_up_amid_a_frame_is_forgotten(one: Gateway, case: bytes) -> None:
    """No goodbye for it, no session, no socket, and no entry in Redis."""
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
async def test_row_35_only_text_is_understood(one: Gateway, case: bytes) -> None:
    """1003."""
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
async def test_row_36_control_frames_have_a_rate_of_their_own(
    start: Start, case: bytes, reads: bool
) -> None:
    """Closed with 4008; who does not read the goodbye is hung up on."""
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
