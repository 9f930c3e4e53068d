"""What would the Autobahn suite find? Its groups 1 to 7, 9 and 10, as raw frames of our own.

That suite wants an echo server. Here texts are JSON, so an echo is the answer to a ping of ours, or
a message that a user sends to itself; binary frames are refused (1003), and nothing is compressed,
so groups 12 and 13 have nothing to find. Where RFC 6455 leaves a choice, this is ours: a text that
is not UTF-8 is found when it ends, not before (1007), and a frame longer than it has to be encoded
is read (bad input 33).

Each case is said in one packet, and again in small ones. What must come is all that may come: a
case that leaves the connection open ends with a message to oneself, which must come next. Pongs may
overtake texts, so each kind has an order of its own.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from tests.bad_input.conftest import Start
from tests.bad_input.test_frames import close, in_pieces
from tests.examples import rounds
from tests.gateway.cluster import Raw, frame
from tests.waiting import until
from wsdemo.gateway.server import Gateway

pytestmark = [pytest.mark.slow, pytest.mark.both_loops, pytest.mark.timeout(120)]

Frames = list[tuple[int, bytes]]
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
OURS = b'{"type":"ping"}'
ANSWER = (TEXT, b'{"type":"pong"}')
LONGEST = 65_536


class Case(NamedTuple):
    """What a client sends, what it receives, and the code with which it is closed, if any."""

    said: bytes
    told: Frames
    code: int | None = None
    pieces: Sequence[int] = (0, 1)
    """Sizes of packets (bytes) in which it is tried; 0 is one packet for all."""


def padded(size: int) -> bytes:
    """Return a ping of ours with so many bytes: white space around JSON means nothing."""
    return OURS + b" " * (size - len(OURS))


def ping(payload: bytes = b"") -> bytes:
    return frame(payload, opcode=PING)


def invalid() -> tuple[int, bytes]:
    return TEXT, b'{"type":"error","error":"Invalid message format","code":"invalid"}'


def content(text: bytes) -> bytes:
    """Return a message to oneself with this content, as raw bytes of its JSON string."""
    return b'{"type":"message","to":"mallory","content":"%b"}' % text


def echoed(text: bytes) -> tuple[int, bytes]:
    return TEXT, b'{"type":"message","from":"mallory","content":"%b"}' % text


END = content(b"the end"), echoed(b"the end")


async def hear_all(raw: Raw, case: Case, size: int) -> tuple[Frames, int | None]:
    """Say it in packets of this size; return what came, and the close code if there was one."""
    for at in range(0, len(case.said), size or len(case.said)):
        raw.writer.write(case.said[at : at + size] if size else case.said)
        with contextlib.suppress(ConnectionError):
            await raw.writer.drain()
    if case.code is None:
        raw.writer.write(frame(END[0]))
    heard: Frames = []
    while True:
        opcode, payload = await raw.hear()
        if (opcode, payload) == END[1]:
            return heard, None
        if opcode == CLOSE:
            with contextlib.suppress(ConnectionError):
                raw.writer.write_eof()
                assert await raw.rest() == b"", "a close is the last word"
            return heard, int.from_bytes(payload[:2], "big") if payload else 1005
        heard.append((opcode, payload))


def by_kind(frames: Frames) -> Frames:
    """Texts first, then pongs, each in their order."""
    return sorted(frames, key=lambda frame: frame[0])


async def check(gateway: Gateway, cases: dict[str, Case]) -> None:
    """Try all cases of a group, and tell of all that are wrong."""
    wrong: list[Any] = []
    tries = [(name, case, size) for name, case in cases.items() for size in case.pieces]
    for name, case, size in tries:
        async with await Raw.register(gateway, "mallory") as raw:
            heard, code = await hear_all(raw, case, size)
            if (by_kind(heard), code) != (by_kind(case.told), case.code):
                wrong.append((name, size, heard, code))
        await until("the user is gone", lambda: gateway.registry.by_user("mallory") is None)
    assert not wrong


SIZES = (len(OURS), 125, 126, 127, 128, 1_000, 65_535, LONGEST)


async def test_group_1_texts_of_every_length_are_accepted_and_binary_is_refused(
    start: Start,
) -> None:
    """At each edge of the three ways to write a length, and in packets of 997 bytes."""
    cases = {
        f"text of {size}": Case(frame(padded(size)), [ANSWER], pieces=(0, 997)) for size in SIZES
    }
    cases |= {
        f"binary of {size}": Case(frame(b"\xfe" * size, opcode=2), [], 1003, (0, 997))
        for size in (0, *SIZES)
    }
    cases["an empty text"] = Case(frame(b""), [invalid()])
    cases["one byte too long"] = Case(frame(padded(LONGEST + 1)), [], 1009, (0, 997))
    await check(await start(), cases)


async def test_group_2_every_ping_has_its_pong(start: Start) -> None:
    """With its own payload; an unsolicited pong has no answer."""
    payloads = (b"", b"Hello, world!", bytes([0, 255, 254, 253, 252, 251, 0, 255]), b"\xfe" * 125)
    cases = {f"ping {n}": Case(ping(data), [(PONG, data)]) for n, data in enumerate(payloads)}
    cases |= {
        f"pong {n}": Case(frame(data, opcode=PONG), []) for n, data in enumerate(payloads[:2])
    }
    cases["a ping of 126 bytes"] = Case(ping(b"\xfe" * 126), [], 1002)
    cases["a pong, then a ping"] = Case(
        frame(b"unsolicited", opcode=PONG) + ping(b"payload"), [(PONG, b"payload")]
    )
    ten = [b"payload-%d" % n for n in range(10)]
    cases["ten pings"] = Case(b"".join(map(ping, ten)), [(PONG, data) for data in ten])
    await check(await start(), cases)


async def test_group_3_reserved_bits_end_the_connection_but_not_what_came_before(
    start: Start,
) -> None:
    """1002, on frames of every kind."""
    good = frame(OURS)
    cases = {
        f"bits {rsv} of opcode {op}": Case(
            good + frame(data, opcode=op, rsv=rsv) + ping(), [ANSWER], 1002
        )
        for rsv in range(1, 8)
        for op, data in ((1, OURS), (2, b"\0"), (8, b"\x03\xe8"), (9, b""), (10, b""))
    }
    await check(await start(), cases)


async def test_group_4_reserved_opcodes_end_the_connection_but_not_what_came_before(
    start: Start,
) -> None:
    """1002, with a payload and without."""
    cases = {
        f"opcode {op} of {len(data)} bytes": Case(
            frame(OURS) + frame(data, opcode=op) + ping(), [ANSWER], 1002
        )
        for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        for data in (b"", b"reserved opcode")
    }
    await check(await start(), cases)


def part(data: bytes, first: bool = False, last: bool = False) -> bytes:
    """Return a fragment."""
    return frame(data, opcode=TEXT if first else 0, fin=last)


HALVES = OURS[:7], OURS[7:]


async def test_group_5_fragments_are_put_together_and_control_frames_come_between(
    start: Start,
) -> None:
    """A continuation without a first fragment, or a new message within another one, ends the
    connection with 1002.
    """
    a, b = HALVES
    first, last = part(a, first=True), part(b, last=True)
    nothing = [("a rest", part(b"rest", last=True)), ("a middle", part(b"middle"))]
    cases = {
        "a ping in two": Case(frame(b"a", opcode=9, fin=False) + part(b"b", last=True), [], 1002),
        "a pong in two": Case(frame(b"a", opcode=10, fin=False) + part(b"b", last=True), [], 1002),
        "a text in two": Case(first + last, [ANSWER]),
        "a ping between": Case(first + ping(b"x") + last, [(PONG, b"x"), ANSWER]),
        "a pong between": Case(first + frame(b"x", opcode=10) + last, [ANSWER]),
        "two texts that begin": Case(first + part(b, first=True), [], 1002),
        "a text within a text": Case(first + frame(OURS), [], 1002),
        "a binary within a text": Case(first + frame(b"x", opcode=2), [], 1002),
        "five with pings between": Case(
            part(OURS[:3], first=True)
            + part(OURS[3:6])
            + ping(b"one")
            + part(OURS[6:9])
            + part(b"")
            + ping(b"two")
            + part(OURS[9:], last=True),
            [(PONG, b"one"), (PONG, b"two"), ANSWER],
        ),
        "one after another": Case((first + last) * 3 + frame(OURS), [ANSWER] * 4),
    }
    for name, stray in nothing:
        cases |= {
            f"{name} of nothing, then a text": Case(stray + frame(OURS), [], 1002),
            f"{name} behind a whole text": Case(first + last + stray + frame(OURS), [ANSWER], 1002),
            f"{name}, twice": Case((stray + frame(OURS)) * 2, [], 1002),
        }
    await check(await start(), cases)


VALID = {
    "Greek": "κόσμε",
    "many scripts": "Hello-µ@ßöäüàá-UTF-8!! 日本語 עברית 🎉",
    "first of each length": "\x7f\x80\u0800\U00010000",
    "last of each length": "\x7f\u07ff\uffff\U0010ffff",
    "beside the surrogates": "\ud7ff\ue000\ufffd",
    "nobody's characters": "".join(
        chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF)
    ),
    "specials": "\ufff9\ufffa\ufffb\ufffc\ufffd\ufdd0\ufdef",
}
CUT = "κόσμε".encode()
INVALID = {
    **{f"Greek, cut after {n}": CUT[:n] for n in range(1, len(CUT)) if n % 2},
    "within Greek": CUT + b"\xed\xa0\x80" + b"edited",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "six bytes": b"\xfc\x84\x80\x80\x80\x80",
    "last of four bytes": b"\xf7\xbf\xbf\xbf",
    "last of five bytes": b"\xfb\xbf\xbf\xbf\xbf",
    "last of six bytes": b"\xfd\xbf\xbf\xbf\xbf\xbf",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    **{f"{n} continuations": bytes([0x80, 0xBF] * n)[:n] for n in range(1, 8)},
    "every continuation": bytes(range(0x80, 0xC0)),
    "starts of two": b" ".join(bytes([n]) for n in range(0xC0, 0xE0)) + b" ",
    "starts of three": b" ".join(bytes([n]) for n in range(0xE0, 0xF0)) + b" ",
    "starts of four": b" ".join(bytes([n]) for n in range(0xF0, 0xF8)) + b" ",
    "starts of five and six": b"\xf8 \xf9 \xfa \xfb \xfc \xfd ",
    **{
        f"the last byte of {data!r} is missing": data
        for data in (b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xdf",
                     b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfb\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf")
    },
    "all of them together": b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf",
    "impossible bytes": b"\xfe\xfe\xff\xff",
    **{f"overlong {data!r}": data for data in (b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf")},
    **{f"longest overlong {data!r}": data for data in (b"\xc1\xbf", b"\xe0\x9f\xbf",
                                                      b"\xf0\x8f\xbf\xbf")},
    **{f"overlong NUL {data!r}": data for data in (b"\xc0\x80", b"\xe0\x80\x80",
                                                   b"\xf0\x80\x80\x80")},
    **{f"half a pair {n:x}": chr(n).encode("utf-8", "surrogatepass")
       for n in (0xD800, 0xDB7F, 0xDB80, 0xDBFF, 0xDC00, 0xDF80, 0xDFFF)},
    "a pair": "\ud800\udc00".encode("utf-8", "surrogatepass"),
    "the last pair": "\udbff\udfff".encode("utf-8", "surrogatepass"),
}  # fmt: skip


async def test_group_6_valid_utf8_is_passed_on_unchanged(start: Start) -> None:
    """Every length and every edge, in one frame and in frames of a byte."""
    cases = {
        f"{name}, {form}": Case(said(content(text.encode())), [echoed(text.encode())], pieces=(0,))
        for name, text in VALID.items()
        for form, said in (("whole", frame), ("a byte each", lambda data: in_pieces(data, 1)))
    }
    cases["nothing, in three fragments"] = Case(
        part(b"", first=True) + part(b"") + part(b"", last=True), [invalid()]
    )
    cases["empty fragments around"] = Case(
        part(b"", first=True) + part(OURS) + part(b"", last=True), [ANSWER]
    )
    cases["a character of two frames"] = Case(
        part(content("κ".encode())[:-3], first=True)
        + part(content("κ".encode())[-3:], last=True),
        [echoed("κ".encode())],
    )  # fmt: skip
    await check(await start(), cases)


async def test_group_6_invalid_utf8_ends_the_connection(start: Start) -> None:
    """1007, when the message is whole: what came before is answered, what comes behind is not."""
    cases = {
        f"{name}, {form}": Case(
            frame(OURS) + said(content(data)) + frame(OURS), [ANSWER], 1007, pieces=(0,)
        )
        for name, data in INVALID.items()
        for form, said in (("whole", frame), ("a byte each", lambda data: in_pieces(data, 1)))
    }
    cases["found when it ends"] = Case(
        part(b"\xff", first=True) + ping(b"x") + part(b"", last=True), [(PONG, b"x")], 1007
    )
    await check(await start(), cases)


GOOD_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014,
              3000, 3999, 4000, 4999)  # fmt: skip
BAD_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)


async def test_group_7_a_close_frame_is_answered_with_its_own_code(start: Start) -> None:
    """Also between the fragments of a message; 1002 for a code that means nothing."""
    begun = part(b"a", first=True)
    cases = {
        "behind a message": Case(frame(OURS) + close(1000), [ANSWER], 1000),
        "twice": Case(close(1000) * 2, [], 1000),
        "before a ping": Case(close(1000) + ping(b"x"), [], 1000),
        "before a text": Case(close(1000) + frame(OURS), [], 1000),
        "between fragments": Case(begun + close(1000) + part(b"b", last=True), [], 1000),
        "between fragments, its own code": Case(begun + part(b"") + close(4321, b"why"), [], 4321),
        "between fragments, without a code": Case(begun + frame(b"", opcode=8), [], 1005),
        "between fragments, meaningless": Case(begun + close(1005), [], 1002),
        "between fragments, of one byte": Case(begun + frame(b"\3", opcode=8), [], 1002),
        "behind a long text": Case(frame(padded(LONGEST)) + close(1001), [ANSWER], 1001, (0, 997)),
        "without a code": Case(frame(b"", opcode=8), [], 1005),
        "of one byte": Case(frame(b"a", opcode=8), [], 1002),
        "with a reason": Case(close(1000, b"Hello World!"), [], 1000),
        "with a long reason": Case(close(1000, b"*" * 123), [], 1000),
        "with too long a reason": Case(close(1000, b"*" * 124), [], 1002),
        "with a reason that is not UTF-8": Case(close(1000, CUT + b"\xed\xa0\x80"), [], 1007),
        **{f"code {code}": Case(close(code), [], code) for code in GOOD_CODES},
        **{f"code {code} with a reason": Case(close(code, b"x"), [], code) for code in GOOD_CODES},
        **{f"bad code {code}": Case(close(code), [], 1002) for code in BAD_CODES},
        **{f"bad code {code} with a reason": Case(close(code, b"x"), [], 1002)
           for code in BAD_CODES},
    }  # fmt: skip
    await check(await start(), cases)


async def test_groups_9_and_10_the_longest_message_is_accepted_in_any_fragments(
    start: Start,
) -> None:
    """In frames of many sizes, and in packets of many sizes; in too many frames it does not."""
    cases = {
        f"frames of {size}": Case(in_pieces(padded(LONGEST), size), [ANSWER], pieces=(0, 1_300))
        for size in (256, 1_024, 1_300, 4_096, 16_384, 65_535)
    }
    cases["frames of 64"] = Case(in_pieces(padded(LONGEST), 64), [], 1009, (0, 1_300))
    cases |= {
        f"packets of {size}": Case(frame(padded(LONGEST)), [ANSWER], pieces=(size,))
        for size in (64, 128, 256, 512, 1_024, 2_048)
    }
    await check(await start(), cases)


@pytest.mark.parametrize("size", [len(OURS), 64, 256, 1_024, 4_096])
async def test_group_9_a_thousand_round_trips_lose_nothing(start: Start, size: int) -> None:
    """One by one, and all in one go."""
    gateway, count = await start(), rounds(500)
    async with await Raw.register(gateway, "mallory") as raw:
        said = frame(padded(size))
        for _ in range(count):
            raw.writer.write(said)
            assert await raw.hear() == ANSWER
        raw.writer.write(said * count)
        for _ in range(count):
            assert await raw.hear() == ANSWER


def test_the_expected_answers_are_valid_json() -> None:
    """Otherwise the expected bytes might be wrong."""
    assert json.loads(invalid()[1])["code"] == "invalid"
    assert json.loads(echoed("é".encode())[1])["content"] == "é"
