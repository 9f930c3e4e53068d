"""Is there any input at all that a gateway does not know how to answer?

Hypothesis looks for one: texts, frames, handshakes and envelopes, mutated and cut anywhere. The
runs of the suite are bounded and always the same; `WSDEMO_TESTS=deep` looks twenty times longer,
with other inputs each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import re
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest
import redis.asyncio as redis_client
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.bad_input.offline import Offline, cut
from tests.bad_input.test_fields import CONTENTS, FORBIDDEN, said
from tests.bad_input.test_redis_side import NOT_FOR_US, NOT_OURS
from tests.examples import FRAME_PATHS, examples, rounds
from tests.gateway.cluster import USUAL, Raw, frame, gateway, request
from tests.processes import User
from wsdemo.gateway.outbox import Outbox
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.session import Session
from wsdemo.gateway.socket import Socket
from wsdemo.protocol import BadEnvelope, Code, Say, Status, decode_envelope
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

pytestmark = pytest.mark.timeout(120)


# --- without a network: the short ways and the long one, byte for byte ----------------------------


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that Hypothesis' examples run in, one after another; it must not complain."""
    problems: list[Any] = []
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        loop.problems = problems  # type: ignore[attr-defined]
        yield loop
    assert not problems


def run(loop: asyncio.AbstractEventLoop, work: Awaitable[Any]) -> Any:
    """Run an example. It fails when the loop's exception handler was called."""
    problems: list[Any] = loop.problems  # type: ignore[attr-defined]
    value = loop.run_until_complete(work)
    found = list(problems)
    problems.clear()
    assert not found, found
    return value


TEXTS = st.sampled_from(
    [
        said(type="register", userId="mallory"),
        said(type="register", userId="eve"),
        said(type="register", userId="a b"),
        said(type="ping"),
        said(type="message", to="mallory", content="x"),
        said(type="message", to="mallory", content="x", id="1"),
        said(type="message", to="nobody", content="x", id="2"),
        said(type="message", to="mallory", content="é" * 300),
        b"nonsense",
        b"\xff",
        b"",
    ]
)
GOOD_FRAMES = st.lists(TEXTS.filter(lambda text: text != b"\xff").map(frame), max_size=12)
ANY_FRAMES = st.lists(
    st.builds(
        frame,
        TEXTS | st.binary(max_size=140),
        opcode=st.sampled_from([1, 1, 1, 1, 0, 2, 8, 9, 10, 3, 15]),
        fin=st.sampled_from([True, True, True, False]),
        rsv=st.sampled_from([0, 0, 0, 0, 0, 0, 4, 1]),
        mask=st.sampled_from([True, True, True, True, True, False]),
        width=st.sampled_from([0, 0, 0, 2, 8]),
        length=st.sampled_from([None] * 8 + [0, 1, 5, 125, 126, 65_537, 2**63, 2**64 - 1]),
    )
    | st.builds(
        lambda code, reason: frame(code.to_bytes(2, "big") + reason, opcode=8),
        st.sampled_from([0, 999, 1000, 1001, 1005, 3000, 4999]),
        st.binary(max_size=4),
    )
    | st.binary(max_size=12),
    max_size=12,
)
PLACES = st.lists(st.integers(0, 4_000), max_size=8)
HELLO = request()
REGISTERED = HELLO + frame(said(type="register", userId="mallory"))


async def both_ways(chunks: list[bytes], **limits: Any) -> tuple[bytes, bytes]:
    """Return what a client receives with the fast paths and without."""
    fast, general = Offline(True, **limits), Offline(False, **limits)
    return undated(await fast.converse(chunks)), undated(await general.converse(chunks))


def undated(answer: bytes) -> bytes:
    return re.sub(rb"Date: [^\r]+\r\n", b"Date\r\n", answer)


@examples(1_500)
@given(frames=ANY_FRAMES, places=PLACES, start=st.sampled_from([HELLO, REGISTERED]))
@example([frame(b"", opcode=9), frame(b"hi")], [], HELLO)
@example([frame(said(type="ping")) * 200 + frame(opcode=9) * 30], [500], REGISTERED)
@example([frame(b"a", fin=False), frame(b"x", opcode=9), frame(b"b", opcode=0)], [], REGISTERED)
@example([frame(said(type="ping")), frame(b"", mask=False)], [], REGISTERED)
@example([frame(said(type="register", userId="a b")), frame(length=65_537)], [], HELLO)
def test_any_frames_get_the_same_answer_with_and_without_the_fast_path(
    loop: asyncio.AbstractEventLoop, frames: list[bytes], places: list[int], start: bytes
) -> None:
    """Frames of any opcode, flags, mask and length, true or not, in any pieces."""
    chunks = cut(start + b"".join(frames), places)
    fast, general = run(loop, both_ways(chunks))
    assert fast == general
    assert fast.startswith(b"HTTP/1.1 101 ") or not b"".join(chunks).startswith(HELLO)


@examples(800)
@given(frames=GOOD_FRAMES, places=st.lists(st.integers(0, 20_000), max_size=30))
def test_valid_frames_get_the_same_answer_in_any_pieces(
    loop: asyncio.AbstractEventLoop, frames: list[bytes], places: list[int]
) -> None:
    """In one packet or in thirty, with the fast path and without."""
    data = REGISTERED + b"".join(frames)

    async def compare() -> None:
        (whole, _), pieces = await both_ways([data]), await both_ways(cut(data, places))
        assert pieces == (whole, whole)

    run(loop, compare())


def mutated(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    """Change some bytes or lines of a request."""
    for kind, place, piece in edits:
        at = place % (len(data) + 1)
        if kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "replace":
            data = data[:at] + piece + data[at + len(piece) :]
        elif kind == "delete":
            data = data[:at] + data[at + max(1, len(piece)) :]
        else:
            lines = data.split(b"\r\n")
            line = lines[place % len(lines)]
            lines.insert(place % len(lines), line.swapcase() if kind == "twice" else piece)
            data = b"\r\n".join(lines)
    return data


LINES = st.sampled_from(
    [
        *(b"Origin: http://localhost", b"Origin: http://evil.example", b"Origin:", b"Host: x"),
        *(b"Sec-WebSocket-Protocol: a, b", b"Sec-WebSocket-Protocol: ,;", b"Cookie: a=b"),
        *(b"Sec-WebSocket-Protocol: bearer.a.b,wsdemo.v1", b"Sec-WebSocket-Protocol: wsdemo.v1,,a"),
        *(b"Origin: http://localhost:8080", b"Origin: https://localhost:8080", b"Host: localhost"),
        *(b"Host: a b", b"Upgrade: websocket, h2c", b"Expect: 100-continue"),
        *(b"Sec-WebSocket-Extensions: permessage-deflate", b"Content-Length: 0", b"X: \xff"),
        *(b"X-Forwarded-For: 198.51.100.7, nonsense", b"Transfer-Encoding: chunked", b" folded"),
        *(b"Connection: keep-alive, Upgrade", b"Upgrade: h2c", b"Sec-WebSocket-Version: 8"),
    ]
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "delete", "twice", "line", "line"]),
        st.integers(0, 400),
        LINES
        | st.binary(max_size=3)
        | st.sampled_from([b"\r\n", b"\n", b"\r\n\r\n", b": ", b"?", b" ", b"\0"]),
    ),
    max_size=4,
)
REQUESTS = st.sampled_from(
    [
        HELLO,
        request(USUAL | {"Connection": "keep-alive, Upgrade", "Origin": "http://localhost:8888"}),
        request(USUAL, "GET /ws?x=1 HTTP/1.1"),
        request({"Host": "x"}, "GET /health HTTP/1.1"),
        request({"Host": "x"}, "HEAD /ready HTTP/1.0"),
        request(USUAL | {"Sec-WebSocket-Protocol": "wsdemo.v1, bearer.a.b.c"}),
        request(USUAL | {"Host": "gw.example", "Origin": "https://gw.example:443"}),
        request(USUAL, "GET http://localhost:8080/ws HTTP/1.1"),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + HELLO,
    ]
)


@examples(2_500)
@given(base=REQUESTS, edits=EDITS, frames=ANY_FRAMES, places=PLACES)
@example(request(USUAL | {f"X{n}": "" for n in range(129 - len(USUAL))}), [], [], [])
@example(request(USUAL | {"Sec-WebSocket-Protocol": ",;"}), [], [], [])
@example(request(USUAL, "GET /ws?x HTTP/1.1"), [], [frame(b"", opcode=9)], [])
@example(request({"Host": "x"}, "GET /health HTTP/1.1"), [], [b"GET /health HTTP/1.1\r\n\r\n"], [])
def test_any_handshake_gets_the_same_answer_with_and_without_the_fast_path(
    loop: asyncio.AbstractEventLoop,
    base: bytes,
    edits: list[tuple[str, int, bytes]],
    frames: list[bytes],
    places: list[int],
) -> None:
    """Mutated, with frames behind it, in any pieces; and the answer is one of HTTP's, or none."""
    chunks = cut(mutated(base, edits) + b"".join(frames), places)
    fast, general = run(loop, both_ways(chunks))
    assert fast == general
    assert re.match(rb"HTTP/1\.1 (101|200|400|403|404|405|414|426|431|503|505) |<end>|$", fast)


# --- over real sockets ----------------------------------------------------------------------------

NUMBERS = st.sampled_from(["0", "-0", "1e999", "NaN", "-Infinity", "9" * 5_000, "1e-400", "0x1"])
STRINGS = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(
    [
        "\ud800",
        "\udc00\ud800",
        "mallory",
        "neighbour",
        "message",
        "ping",
        *list(CONTENTS.values())[:8],
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRINGS, inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["type", "userId", "to", "content", "id", "token", "inst", "att", "from", ""]
)
KINDS = st.sampled_from(["register", "ping", "message", "pong", "ack", "direct", "kick"])
NAMES = st.sampled_from(["mallory", "neighbour", "nobody", *FORBIDDEN.values()])


def written(document: Any) -> bytes:
    """Write as JSON, half of a character included."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


DOCUMENTS = st.one_of(
    VALUES.map(written),
    st.dictionaries(KEYS, VALUES, max_size=6).map(written),
    st.builds(lambda kind, more: written({"type": kind} | more), KINDS,
              st.dictionaries(KEYS, VALUES | NAMES, max_size=5)),
    st.builds(lambda to, content, more: written({"type": "message", "to": to, "content": content}
              | more), NAMES, STRINGS, st.dictionaries(KEYS, VALUES, max_size=2)),
    st.builds(lambda number: b'{"type":"ping","x":%b}' % number.encode(), NUMBERS),
    st.builds(lambda piece, times: (piece * times)[:65_000],
              st.sampled_from([b"[", b'{"a":', b"[]", b'"', b"\\", b" ", b"x", b"\xff", b"{}"]),
              st.sampled_from([1, 40, 1_000, 65_000])),
    st.builds(lambda text, edits: mutated(text, edits), TEXTS, EDITS),
    st.binary(max_size=80),
)  # fmt: skip

ERRORS = {say.value for say in Say}
STATUSES = {status.value for status in Status}
CLOSES = {Code.NOT_UTF8, Code.MALFORMED, Code.OTHER_USER, Code.USER_FORBIDDEN}


def check_documented(answer: dict[str, Any]) -> None:
    """Fail when a gateway says what is in no table."""
    match answer:
        case {"type": "error", "error": text, "code": str(), **more}:
            assert text in ERRORS and more.keys() <= {"id", "retryAfterMs"}
        case {"type": "ack", "id": str(msg_id), "status": status, **more}:
            assert status in STATUSES and not more and 0 < len(msg_id) <= 64
        case {"type": "registered", "gatewayId": "gateway-01", "connId": str(), **more}:
            assert more.keys() == {"content", "heartbeatMs"}
        case {"type": "message", "from": sender, "content": str(), **more}:
            assert sender == "mallory" and more.keys() <= {"id"}
        case {"type": "pong", **more}:
            assert not more
        case _:
            pytest.fail(f"in no table: {answer}")


class Stage:
    """A running gateway, and another client that must not be affected."""

    def __init__(self, running: Gateway, neighbour: User, publisher: Any, channel: str) -> None:
        self.running, self.neighbour = running, neighbour
        self.publisher, self.channel = publisher, channel

    async def hear_out(self, raw: Raw) -> list[dict[str, Any]]:
        """Return what mallory receives until its own last message comes back, or a close."""
        raw.frame(said(type="message", to="mallory", content="", id="the end"))
        heard: list[dict[str, Any]] = []
        while True:
            opcode, payload = await raw.hear()
            if opcode == 8:
                heard.append({"close": int.from_bytes(payload[:2], "big")})
                return heard
            answer = json.loads(payload)
            if answer.get("id") == "the end":
                if answer["type"] == "ack":
                    return heard
                continue
            heard.append(answer)

    async def check_neighbour(self) -> None:
        """It receives mallory's message, if that was a valid one, and then its own."""
        await self.neighbour.say(type="message", to="neighbour", content="", id="mine")
        while (heard := await self.neighbour.hear()).get("type") == "message":
            if heard["from"] == "neighbour":
                assert heard["id"] == "mine"
            else:
                assert heard["from"] == "mallory"
        assert heard == {"type": "ack", "id": "mine", "status": "routed"}


@pytest.fixture(params=FRAME_PATHS.values(), ids=[*FRAME_PATHS])
def stage(
    request: pytest.FixtureRequest,
    loop: asyncio.AbstractEventLoop,
    shared_server: BundledServer,
    keyspace: Keyspace,
) -> Iterator[Stage]:
    stack = contextlib.AsyncExitStack()

    async def open_it() -> Stage:
        running = await stack.enter_async_context(
            gateway(shared_server, keyspace, fast_frames=request.param, messages_per_s=1e6)
        )
        neighbour = await stack.enter_async_context(await User.register("neighbour", running.url))
        publisher = redis_client.Redis.from_url(shared_server.url)
        stack.push_async_callback(publisher.aclose)
        return Stage(running, neighbour, publisher, keyspace.gateway_channel("gateway-01"))

    yield run(loop, open_it())
    run(loop, stack.aclose())


@examples(350)
@given(text=DOCUMENTS, opcode=st.sampled_from([1, 1, 1, 1, 2]))
def test_any_json_gets_a_documented_answer_and_other_clients_stay(
    loop: asyncio.AbstractEventLoop, stage: Stage, text: bytes, opcode: int
) -> None:
    """JSON of all kinds, mutated messages, depth, width, odd numbers, half characters, bytes."""

    async def say_it() -> None:
        async with await Raw.register(stage.running, "mallory") as raw:
            raw.frame(text[:65_000], opcode=opcode)
            heard = await stage.hear_out(raw)
            *answers, last = heard or [{}]
            if "close" in last:
                assert last["close"] in CLOSES | ({Code.UNSUPPORTED} if opcode == 2 else set())
            elif last:
                answers.append(last)
            for answer in answers:
                check_documented(answer)
        await stage.check_neighbour()

    run(loop, say_it())


@examples(150)
@given(frames=ANY_FRAMES, places=PLACES)
def test_any_bytes_of_one_client_leave_other_clients_connected(
    loop: asyncio.AbstractEventLoop, stage: Stage, frames: list[bytes], places: list[int]
) -> None:
    """Frames of all kinds in several packets; the connection ends, or answers are documented."""

    async def send_it() -> None:
        async with await Raw.register(stage.running, "mallory") as raw:
            with contextlib.suppress(ConnectionError):
                for chunk in cut(b"".join(frames), places):
                    raw.writer.write(chunk)
                    await raw.writer.drain()
                raw.writer.write_eof()
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    opcode, payload = await raw.hear()
                    if opcode == 1:
                        check_documented(json.loads(payload))
        await stage.check_neighbour()

    run(loop, send_it())


# --- from Redis -----------------------------------------------------------------------------------

PARTIES = ("alice", "bob")
ENVELOPES = st.one_of(
    st.sampled_from([*NOT_OURS.values(), *NOT_FOR_US.values()]).filter(lambda d: len(d) < 10_000),
    st.builds(
        lambda kind, more: written({"type": kind} | more),
        st.sampled_from(["direct", "broadcast", "kick", "bounce", "probe", "takeover", "message"]),
        st.dictionaries(
            st.sampled_from(
                ["from", "to", "content", "id", "fromGw", "fromConn", "toConn", "epoch", "user",
                 "connId", "token", "boot", "n"]
            ),
            st.sampled_from(["alice", "bob", "CONN-alice", "CONN-bob", "x", "gateway-01", ""])
            | VALUES,
            max_size=8,
        ),
    ),
    st.builds(
        lambda to, conn, edits: mutated(
            said(type="direct", **{"from": "eve"}, to=to, content="x", toConn=conn, epoch=1), edits
        ),
        st.sampled_from([*PARTIES, "nobody"]),
        st.sampled_from(["", "CONN-alice", "CONN-bob", "x"]),
        EDITS,
    ),
    st.binary(max_size=60),
)  # fmt: skip


def named(data: bytes) -> set[str]:
    """Return whom an envelope is for, and who it says was replaced."""
    try:
        # Bytes that are not UTF-8 in an unknown field make no difference to the gateway.
        document = json.loads(data.decode(errors="replace"), strict=False)
    except (ValueError, RecursionError):
        return set()
    if not isinstance(document, dict):
        return set()
    if document.get("type") == "broadcast":
        return {*PARTIES, "neighbour"}
    return {document[key] for key in ("to", "user") if isinstance(document.get(key), str)}


@pytest.mark.slow
@examples(500)
@given(data=ENVELOPES)
def test_a_published_envelope_reaches_only_the_user_it_names(
    loop: asyncio.AbstractEventLoop, stage: Stage, data: bytes
) -> None:
    """A malformed envelope is counted, and the next one is handled. (A well-formed kick or bounce
    that names a session by user and connection is valid: those are not tried.)
    """

    async def publish() -> None:
        running = stage.running
        async with (
            await User.register("alice", running.url) as alice,
            await User.register("bob", running.url) as bob,
        ):
            text = data
            for party in PARTIES:
                session = running.registry.by_user(party)
                assert session is not None
                text = text.replace(f"CONN-{party}".encode(), session.conn_id.encode())
            try:
                decode_envelope(text)
                malformed = 0
            except BadEnvelope:
                malformed = 1
            assume(not re.search(rb"kick|bounce", text) or malformed)
            before = running.counters.malformed_envelopes
            await stage.publisher.publish(stage.channel, text)
            for user in (alice, bob, stage.neighbour):
                end = said(type="direct", **{"from": "end"}, to=user.name, content="")
                await stage.publisher.publish(stage.channel, end)
            for user in (alice, bob, stage.neighbour):
                while (heard := await user.hear())["from"] != "end":
                    assert user.name in named(text), heard
            assert running.counters.malformed_envelopes == before + malformed

    run(loop, publish())


# --- and what is left of it -----------------------------------------------------------------------


def random_inputs(count: int) -> list[list[bytes]]:
    """Return conversations in chunks, always the same: frames good and bad, handshakes, junk."""
    dice = random.Random(2_026)
    texts = [said(type="ping"), said(type="message", to="u1", content="x" * 50, id="1"),
             b"nonsense", b"\xff", b"[" * 3_000, said(type="register", userId="u2"),
             said(type="message", to="nobody", content="y"), b"{}", b"x" * 70_000]  # fmt: skip

    starts = [HELLO, HELLO, HELLO, request(USUAL, "GET /ws?x HTTP/1.1"),
              request({"Host": "x"}, "GET /stats HTTP/1.1"), HELLO[:-3], b"\0" * 50]  # fmt: skip

    def one() -> bytes:
        kind = dice.randrange(8)
        if kind < 5:
            return frame(dice.choice(texts), fin=dice.random() < 0.9)
        if kind == 5:
            return frame(dice.randbytes(dice.randrange(130)), opcode=dice.choice([0, 2, 8, 9, 10]))
        if kind == 6:
            return frame(b"x", rsv=dice.randrange(8), mask=dice.random() < 0.5)
        return dice.randbytes(dice.randrange(20))

    def conversation() -> list[bytes]:
        user = said(type="register", userId=f"u{dice.randrange(20)}")
        start = dice.choice(starts)
        data = start + frame(user) + b"".join(one() for _ in range(dice.randrange(8)))
        return cut(data, [dice.randrange(400) for _ in range(dice.randrange(4))])

    return [conversation() for _ in range(count)]


def left_over(offline: Offline, loop: asyncio.AbstractEventLoop) -> dict[str, int]:
    """Count what a gateway holds, and which of our objects are alive."""
    gc.collect()
    alive = Counter(type(item) for item in gc.get_objects())
    timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    gateway = offline.gateway
    return {
        "sockets": len(offline.services.sockets),
        "sessions": len(gateway.registry),
        "sessions by connection": len(gateway.registry._by_conn),
        "addresses": len(gateway._access.present),
        "tasks": len(gateway._tasks) + len(asyncio.all_tasks(loop)),
        "timers": len(timers),
        "Socket": alive[Socket],
        "Session": alive[Session],
        "Outbox": alive[Outbox],
    }


@pytest.mark.slow
@pytest.mark.parametrize("fast_frames", [True, False], ids=["fast", "general"])
def test_thousands_of_bad_inputs_leave_nothing_behind(
    loop: asyncio.AbstractEventLoop, fast_frames: bool
) -> None:
    """Connections that come, say anything and go: objects and memory are as after the first round.

    The first round warms caches up; a second and a third of the same inputs add nothing.
    """
    inputs = random_inputs(rounds(2_000))

    async def begin() -> Offline:
        return Offline(fast_frames)

    async def round_of(offline: Offline) -> None:
        for chunks in inputs:
            await offline.converse(chunks)

    offline = run(loop, begin())
    empty = left_over(offline, loop)
    assert not any(empty.values()), empty
    run(loop, round_of(offline))
    tracemalloc.start()
    try:
        run(loop, round_of(offline))
        assert left_over(offline, loop) == empty
        before, _ = tracemalloc.get_traced_memory()
        run(loop, round_of(offline))
        assert left_over(offline, loop) == empty
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    counters = offline.gateway.counters
    assert counters.registers_ok > len(inputs) / 2, "not vacuous"
    assert counters.malformed_messages > len(inputs) / 8, "not vacuous"
    assert after - before < 32 * 1024, f"{(after - before) / len(inputs):.1f} bytes an input"
