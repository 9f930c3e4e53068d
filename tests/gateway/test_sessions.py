"""Does a session keep its promises at the edges?

What `test_conversations` says of the common cases is said here of their limits, exactly: the last
byte that is taken and the first that is not, frames cut anywhere, names that look alike, sessions
that move, and what others write into our channels. Each with the fast path for frames and without.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.gateway.cluster import Raw, gateway
from tests.processes import User
from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.settings import GatewaySettings, Keyspace, Limits, Timing

REGISTER = b'{"type":"register","userId":"alice"}'
PING = b'{"type":"ping"}'
INVALID = {"type": "error", "error": "Invalid message format", "code": "invalid"}
NOT_FOUND = {"type": "error", "error": "User not found", "code": "offline"}


@pytest.fixture(params=[True, False], ids=["fast-frames", "general-parser"])
def fast_frames(request: pytest.FixtureRequest) -> bool:
    """Both paths are one protocol."""
    return bool(request.param)


@pytest.fixture
async def one(
    fast_frames: bool, shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[Gateway]:
    """gateway-01."""
    async with gateway(shared_server, keyspace, fast_frames=fast_frames) as running:
        yield running


@pytest.fixture
async def two(
    one: Gateway, fast_frames: bool, shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[Gateway]:
    """gateway-02, beside gateway-01."""
    async with gateway(shared_server, keyspace, "gateway-02", fast_frames=fast_frames) as running:
        yield running


async def enter(raw: Raw, user: str = "alice") -> dict[str, Any]:
    """Register over a raw socket; return the answer."""
    raw.frame(json.dumps({"type": "register", "userId": user}).encode())
    return await text(raw, "registered")


async def text(raw: Raw, kind: str) -> dict[str, Any]:
    """The next frame is a text, and a message of this type."""
    opcode, payload = await raw.hear()
    assert opcode == 1, (opcode, payload)
    document: dict[str, Any] = json.loads(payload)
    assert document["type"] == kind, document
    return document


async def still_works(user: User) -> None:
    """A ping, and its pong as the very next thing that is heard."""
    await user.say(type="ping")
    assert await user.hear() == {"type": "pong"}


async def entry(redis_db: Any, keyspace: Keyspace, user: str) -> dict[str, str]:
    """What Redis believes about a user."""
    found: dict[str, str] = await redis_db.hgetall(keyspace.presence(user))
    return found


# --- registering -------------------------------------------------------------------------------


async def test_a_registered_user_is_where_redis_says(
    one: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """The entry names this gateway and the connection of the answer, and ends by itself."""
    async with await Raw.open(one) as raw:
        answer = await enter(raw)
        found = await entry(redis_db, keyspace, "alice")
        assert (found["gwId"], found["connId"]) == ("gateway-01", answer["connId"])
        assert 0 < await redis_db.pttl(keyspace.presence("alice")) <= 90_000
    await until("no session", lambda: not len(one.registry))

    async def gone() -> bool:
        return not await entry(redis_db, keyspace, "alice")

    await until("the entry went with her", gone)


async def test_registering_again_changes_nothing(
    one: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """The same answer, the same entry to the last field, and no second register in Redis."""
    async with await Raw.open(one) as raw:
        first = await enter(raw)
        before = await entry(redis_db, keyspace, "alice")
        assert await enter(raw) == first
        assert await entry(redis_db, keyspace, "alice") == before
    assert one.counters.registers_ok == 1


async def test_who_wants_to_become_another_user_loses_both(
    one: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """4505; neither the old name nor the new one stays in Redis."""
    async with await User.register("alice", one.url) as alice:
        await alice.say(type="register", userId="mallory")
        assert await alice.closed() == (4505, "already registered as another user")

    async def gone() -> bool:
        return not await entry(redis_db, keyspace, "alice")

    await until("alice's entry is gone", gone)
    assert not await entry(redis_db, keyspace, "mallory")


@pytest.mark.parametrize(
    "document",
    [
        '{"type":"register","userId":null}',
        '{"type":"register","userId":true}',
        '{"type":"register","userId":["alice"]}',
        '{"type":"register","userId":{"a":1}}',
        '{"type":"register","userId":"alice","att":-1}',
        '{"type":"register","userId":"alice","att":1.5}',
        '{"type":"register","userId":"alice","att":true}',
        '{"type":"register","userId":"alice","att":9007199254740992}',
        '{"type":"register","userId":"alice","inst":7}',
        '{"type":"register","userId":"alice","inst":"%s"}' % ("i" * 65),
        '{"type":"register","userId":"alice","token":[]}',
        '{"type":"register","userId":"\\ud800"}',
        '{"type":"register","userId":"alice","userId":"bob"}',
    ],
)
async def test_a_register_with_a_field_of_a_wrong_type_is_invalid(
    one: Gateway, document: str
) -> None:
    """Row 49: an error, not a close; and the connection may still register."""
    async with await Raw.open(one) as raw:
        raw.frame(document.encode())
        assert await text(raw, "error") == INVALID
        assert (await enter(raw))["gatewayId"] == "gateway-01"


@pytest.mark.parametrize("user", ["", " ", "\t \n", "\u2003"])
async def test_a_blank_name_is_no_name(one: Gateway, user: str) -> None:
    """Row 48: the demo's text."""
    async with await Raw.open(one) as raw:
        raw.frame(json.dumps({"type": "register", "userId": user}).encode())
        answer = await text(raw, "error")
        assert answer["error"] == "UserID is required for registration"
        await enter(raw)


NAMES = {
    "NUL": "ali\x00ce",
    "newline at the end": "alice\n",
    "space at the end": "alice ",
    "star": "*",
    "question mark": "alic?",
    "bracket": "[alice]",
    "slash": "a/b",
    "brace": "{alice}",
    "escape": "\x1b[31m",
    "right-to-left": "alice\u202e",
    "zero width": "ali\u200bce",
    "emoji": "🎉",
    "composed": "é",
    "decomposed": "e\u0301",
    "full-width digits": "\uff11",
    "arabic digits": "\u0661",
    "sixty-five": "a" * 65,
    "a gateway": "gateway-",
    "a probe": "__x__",
}


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_that_could_be_mistaken_is_refused_and_leaves_no_key(
    one: Gateway, redis_db: Any, keyspace: Keyspace, name: str
) -> None:
    """Rows 50 and 51: 4513, before Redis hears of it."""
    async with await Raw.open(one) as raw:
        raw.frame(json.dumps({"type": "register", "userId": NAMES[name]}).encode())
        assert await raw.closed() == 4513
    assert not [key async for key in redis_db.scan_iter(f"{keyspace.prefix}*")]


@pytest.mark.parametrize("user", ["a", "a" * 64, "A.b_c@d-9", "gateway", "__x", "-", "..."])
async def test_a_name_within_the_rules_is_taken(one: Gateway, user: str) -> None:
    """One to sixty-four of the letters that are allowed; case matters."""
    async with (
        await User.register(user, one.url) as owner,
        await User.register("sender", one.url) as sender,
    ):
        assert await sender.send(user, "x") == "routed"
        assert (await owner.hear())["content"] == "x"
        assert await sender.send(user.swapcase() + "x", "x") == "offline"


async def test_nothing_but_a_register_extends_the_deadline(
    fast_frames: bool, shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Errors, pongs and half a frame buy no time: 4001, and a reason to read."""
    async with gateway(
        shared_server, keyspace, fast_frames=fast_frames, register_deadline_s=0.3
    ) as running:
        started = asyncio.get_running_loop().time()
        async with connect(running.url, proxy=None, compression=None) as socket:

            async def chat() -> None:
                with contextlib.suppress(Exception):
                    while True:
                        await socket.send('{"type":"ping"}')
                        await socket.recv()
                        await socket.send('{"type":"register"}')
                        await socket.recv()

            talking = asyncio.create_task(chat())
            await socket.wait_closed()
            talking.cancel()
            assert (socket.close_code, socket.close_reason) == (4001, "no register in time")
        took = asyncio.get_running_loop().time() - started
        assert 0.25 < took < 5
        async with await Raw.open(running) as dribbler:
            dribbler.writer.write(b"\x81\xa4\x01\x02\x03\x04abc")  # Row 68: it never completes.
            assert await dribbler.closed() == 4001


async def test_a_register_disarms_the_deadline(
    fast_frames: bool, shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Who came later and is let go at the deadline marks the time that alice outlived."""
    async with (
        gateway(
            shared_server, keyspace, fast_frames=fast_frames, register_deadline_s=0.3
        ) as running,
        await User.register("alice", running.url) as alice,
        connect(running.url, proxy=None, compression=None) as late,
    ):
        await late.wait_closed()
        assert late.close_code == 4001
        await still_works(alice)


# --- frames ------------------------------------------------------------------------------------


def masked(payload: bytes, first: int = 0x81) -> bytes:
    """A client's short frame, as bytes."""
    assert len(payload) < 126
    key = b"\x05\x06\x07\x08"
    body = bytes(b ^ key[i % 4] for i, b in enumerate(payload))
    return bytes([first, 0x80 | len(payload)]) + key + body


async def test_a_conversation_cut_at_every_byte_is_the_same_conversation(one: Gateway) -> None:
    """Where TCP cuts has no meaning, also at the seam of the fast path."""
    stream = masked(REGISTER) + masked(PING) + masked(b"hi", 0x89) + masked(PING)
    for cut in range(1, len(stream)):
        async with await Raw.open(one) as raw:
            raw.writer.write(stream[:cut])
            await raw.writer.drain()
            if cut >= len(masked(REGISTER)):
                await text(raw, "registered")
            raw.writer.write(stream[cut:])
            if cut < len(masked(REGISTER)):
                heard = {await raw.hear() for _ in range(3)}
                kinds = sorted(json.loads(p)["type"] for o, p in heard if o == 1)
                assert (10, b"hi") in heard
                assert kinds == ["pong", "registered"] or kinds == ["pong"], cut
            else:
                assert {await raw.hear() for _ in range(2)} == {(1, PONG), (10, b"hi")}, cut


PONG = b'{"type":"pong"}'


async def test_frames_of_all_kinds_in_one_write_are_answered_in_order(one: Gateway) -> None:
    """Short, long, fragmented and short again: each content arrives, in the order of saying."""
    contents = ["a", "b" * 200, "c", "d" * 16_000, "e", "f" * 70, "g"]
    async with await Raw.open(one) as raw, await User.register("bob", one.url) as bob:
        await enter(raw)
        for n, content in enumerate(contents):
            said = json.dumps({"type": "message", "to": "bob", "content": content}).encode()
            if n % 3 == 2:
                raw.frame(said[:5], fin=False)
                raw.frame(said[5:20], fin=False, opcode=0)
                raw.frame(said[20:], opcode=0)
            else:
                raw.frame(said)
        assert [(await bob.hear())["content"] for _ in contents] == contents


async def test_a_character_split_over_fragments_is_one_character(one: Gateway) -> None:
    """Row 27: UTF-8 is judged of the whole message."""
    said = '{"type":"message","to":"bob","content":"é日🎉"}'.encode()
    async with await Raw.open(one) as raw, await User.register("bob", one.url) as bob:
        await enter(raw)
        for n, byte in enumerate(said):
            raw.frame(bytes([byte]), opcode=0 if n else 1, fin=n == len(said) - 1)
        assert (await bob.hear())["content"] == "é日🎉"


NOT_UTF8 = {
    "stray byte": b"\xff",
    "overlong slash": b"\xc0\xaf",
    "surrogate": b"\xed\xa0\x80",
    "beyond the last": b"\xf4\x90\x80\x80",
    "cut short": b"\xe6\x97",
}


@pytest.mark.parametrize("size", [40, 200], ids=["short", "long"])
@pytest.mark.parametrize("where", ["content", "to", "unknown", "key"])
@pytest.mark.parametrize("name", NOT_UTF8)
async def test_bytes_that_are_not_utf8_end_the_connection_wherever_they_stand(
    one: Gateway, name: str, where: str, size: int
) -> None:
    """Row 26: 1007, and the recipient hears nothing of it."""
    fields = {"to": b"bob", "content": b"x" * size, "unknown": b"", "key": b"y"}
    fields[where] += NOT_UTF8[name]
    said = b'{"type":"message","to":"%b","content":"%b","z":"%b","%b":1}' % (
        fields["to"],
        fields["content"],
        fields["unknown"],
        fields["key"],
    )
    async with await Raw.open(one) as raw, await User.register("bob", one.url) as bob:
        await enter(raw)
        raw.frame(said)
        assert await raw.closed() == 1007
        await still_works(bob)


FRAMES: dict[str, tuple[bytes, int]] = {
    "binary": (masked(PING, 0x82), 1003),
    "binary in fragments": (masked(b"{", 0x02), 1003),
    "reserved bit": (masked(PING, 0xC1), 1002),
    "a second start": (masked(b"{", 0x01) + masked(PING), 1002),
    "a ping in fragments": (masked(b"x", 0x09), 1002),
    "2**63-1 bytes": (b"\x81\xff" + struct.pack("!Q", 2**63 - 1) + b"abcd", 1009),
    "one byte too many": (b"\x81\xff" + struct.pack("!Q", 65_537) + b"abcd", 1009),
    "close with one byte": (masked(b"x", 0x88), 1002),
    "close with 999": (masked(struct.pack("!H", 999), 0x88), 1002),
    "close with 1005": (masked(struct.pack("!H", 1005), 0x88), 1002),
    "close with a bad reason": (masked(struct.pack("!H", 1000) + b"\xff", 0x88), 1007),
    "5,000 empty fragments": (masked(b"", 0x01) + masked(b"", 0x00) * 5000, 1009),
    "80 KB in fragments": (masked(b"x", 0x01) + masked(b"x" * 100, 0x00) * 800, 1009),
}


@pytest.mark.parametrize("name", FRAMES)
async def test_a_frame_against_the_rules_ends_the_session_and_its_entry(
    one: Gateway, redis_db: Any, keyspace: Keyspace, name: str
) -> None:
    """The code says why; nothing of alice is left; bob does not notice."""
    data, code = FRAMES[name]
    async with await User.register("bob", one.url) as bob:
        async with await Raw.open(one) as raw:
            await enter(raw)
            raw.writer.write(data)
            assert await raw.closed() == code
        await until("only bob is left", lambda: len(one.registry) == 1)
        await still_works(bob)

    async def gone() -> bool:
        return not await entry(redis_db, keyspace, "alice")

    await until("her entry is gone", gone)


async def test_what_is_said_behind_a_close_is_not_heard(one: Gateway) -> None:
    """Row 32: in one write, a close and a message; the message goes nowhere."""
    said = masked(b'{"type":"message","to":"bob","content":"x"}')
    async with await User.register("bob", one.url) as bob, await Raw.open(one) as raw:
        await enter(raw)
        raw.writer.write(masked(PING) + masked(struct.pack("!H", 1000), 0x88) + said + said)
        assert await raw.closed() == 1000
        await until("only bob is left", lambda: len(one.registry) == 1)
        await still_works(bob)


async def test_what_is_said_behind_an_error_that_closes_is_not_heard(one: Gateway) -> None:
    """After 4505 the rest of the same write is dropped, on either path."""
    said = masked(b'{"type":"message","to":"bob","content":"x"}')
    async with await User.register("bob", one.url) as bob, await Raw.open(one) as raw:
        await enter(raw)
        raw.writer.write(masked(b'{"type":"register","userId":"eve"}') + said * 3)
        assert await raw.closed() == 4505
        await still_works(bob)
    assert one.counters.messages_received == 0


async def test_a_client_that_vanishes_within_a_frame_is_forgotten(one: Gateway) -> None:
    """Row 34: half a frame, then the end of the stream."""
    async with await Raw.open(one) as raw:
        await enter(raw)
        raw.writer.write(masked(PING)[:9])
        raw.writer.write_eof()
        await until("no session", lambda: len(one.registry) == 0)
        await until("no socket", lambda: one.stats()["sockets"] == 0)


# --- malformed messages --------------------------------------------------------------------------


async def test_the_twenty_first_malformed_message_is_the_last(one: Gateway) -> None:
    """Twenty errors and a session that works; one more, its error, and 4502."""
    async with await User.register("alice", one.url) as alice:
        for _ in range(20):
            await alice.connection.send("nonsense")
            assert await alice.hear() == INVALID
        await still_works(alice)
        await alice.connection.send("nonsense")
        assert await alice.hear() == INVALID
        assert await alice.closed() == (4502, "too many malformed messages")
    assert one.counters.malformed_messages == 21


async def test_malformed_messages_of_long_ago_are_forgiven(
    fast_frames: bool, shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Only those within the window count: the window slides."""
    ahead_s = 0.0

    def clock() -> float:
        return asyncio.get_running_loop().time() + ahead_s

    settings = GatewaySettings(
        gateway_id="gateway-01",
        port=0,
        redis_url=shared_server.url,
        keyspace=keyspace,
        fast_frames=fast_frames,
        limits=Limits(max_malformed=2, malformed_window_s=1.0),
        timing=Timing(),
    )
    async with Gateway(settings, clock=clock) as running:
        async with await User.register("alice", running.url) as alice:
            for _ in range(10):
                for _ in range(2):
                    await alice.connection.send("nonsense")
                    assert await alice.hear() == INVALID
                ahead_s += 1.1
            await still_works(alice)


@pytest.mark.parametrize(
    "said",
    [
        '{"type":"message","to":"bob","content":"\\ud83c"}',
        '{"type":"message","to":"bob","content":"\\udf89\\ud83c"}',
        '{"type":"message","to":"bob","content":"x","id":"\\ud800"}',
        '{"type":"message","to":"\\ud800","content":"x"}',
        '{"type":"message","to":"bob","content":"x","z":"\\udfff"}',
        '{"type":"message","to":"bob","content":"x","\\ud800":1}',
        '{"type":"ping","z":["\\ud800"]}',
        '{"type":"\\ud800"}',
    ],
)
async def test_a_lone_surrogate_is_refused_wherever_it_stands(one: Gateway, said: str) -> None:
    """Row 44: it could never be written as UTF-8; bob hears nothing of it."""
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", one.url) as bob,
    ):
        await alice.connection.send(said)
        assert await alice.hear() == INVALID
        await still_works(bob)


async def test_an_escaped_pair_of_surrogates_is_a_character(one: Gateway, two: Gateway) -> None:
    """On one gateway and across two."""
    for at in (one, two):
        async with (
            await User.register("alice", one.url) as alice,
            await User.register("bob", at.url) as bob,
        ):
            await alice.connection.send(
                '{"type":"message","to":"bob","content":"\\ud83c\\udf89 \\u0000 \\""}'
            )
            assert (await bob.hear())["content"] == '🎉 \x00 "'


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        ("x" * 16_384, True),
        ("x" * 16_385, False),
        ("é" * 8_192, True),
        ("é" * 8_193, False),
        ("\n" * 16_384, True),
    ],
    ids=["all", "one more", "all in two bytes", "one more of two", "all escaped"],
)
async def test_content_is_measured_in_bytes_as_its_reader_gets_it(
    one: Gateway, two: Gateway, content: str, taken: bool
) -> None:
    """16 KiB is taken, one byte more is not; an escape counts as what it stands for."""
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", two.url) as bob,
    ):
        said = {"type": "message", "to": "bob", "content": content, "id": "7"}
        await alice.connection.send(json.dumps(said, ensure_ascii=False))
        answer = await alice.hear()
        if taken:
            assert answer == {"type": "ack", "id": "7", "status": "routed"}
            assert (await bob.hear())["content"] == content
        else:
            assert (answer["error"], answer["id"]) == ("Message too large", "7")
            await still_works(bob)


@pytest.mark.parametrize("msg_id", ["7", "true", "[]", "{}", '""', '"%s"' % ("i" * 65)])
async def test_an_id_that_is_not_allowed_is_not_repeated(one: Gateway, msg_id: str) -> None:
    """Row 62: the error names no id."""
    async with await User.register("alice", one.url) as alice:
        await alice.connection.send(
            '{"type":"message","to":"alice","content":"x","id":%s}' % msg_id
        )
        assert await alice.hear() == INVALID
        await still_works(alice)


async def test_an_id_comes_back_as_it_was_given(one: Gateway, two: Gateway) -> None:
    """Sixty-four characters of any kind, to the sender and to the recipient."""
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", two.url) as bob,
    ):
        for msg_id in ("i" * 64, 'a:"b"\\\n', "🎉" * 64, "null", "\u202e"):
            assert await alice.send("bob", "x", msg_id) == "routed"
            assert (await bob.hear())["id"] == msg_id


@pytest.mark.parametrize(
    "to", ["7", "true", "[]", "{}", '" bob"', '"bob\\n"', '"b\\u0000b"', '"*"']
)
async def test_an_impossible_recipient_is_told_like_an_absent_one(one: Gateway, to: str) -> None:
    """Row 55: no rules are leaked."""
    async with await User.register("alice", one.url) as alice:
        await alice.connection.send('{"type":"message","to":"nobody","content":"x"}')
        absent = await alice.hear()
        await alice.connection.send('{"type":"message","to":%s,"content":"x"}' % to)
        assert await alice.hear() == absent == NOT_FOUND


async def test_a_message_without_content_is_an_empty_one(one: Gateway, two: Gateway) -> None:
    """Row 57: as in the demo."""
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", two.url) as bob,
    ):
        await alice.say(type="message", to="bob")
        assert await bob.hear() == {"type": "message", "from": "alice", "content": ""}


@pytest.mark.parametrize("kind", ["registered", "error", "ack", "pong", "Ping", "x" * 60_000])
async def test_an_unknown_type_is_not_repeated(one: Gateway, kind: str) -> None:
    """Rows 47 and 61: the same few words whatever it was."""
    async with await User.register("alice", one.url) as alice:
        await alice.say(type=kind, id="1", status="routed")
        answer = await alice.hear()
        assert answer == {"type": "error", "error": "Unknown message type", "code": "unknown_type"}


async def test_a_ping_is_answered_without_what_it_carried(one: Gateway) -> None:
    """Row 65: however much that was, and whatever the order of its keys."""
    async with await Raw.open(one) as raw:
        await enter(raw)
        raw.frame(b'{"z":"%b","type":"ping"}' % (b"x" * 60_000))
        assert await raw.hear() == (1, PONG)
        raw.frame(b' { "type" : "ping" } \n')
        assert await raw.hear() == (1, PONG)


# --- one user, several sessions ------------------------------------------------------------------


async def test_two_logins_at_once_on_two_gateways_leave_one(
    one: Gateway, two: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """Row 43: one session stays, Redis names it, and the other was told."""
    for _ in range(10):
        raws = [await Raw.open(gateway) for gateway in (one, two)]
        for raw in raws:
            raw.frame(REGISTER)
        await until("one is left", lambda: len(one.registry) + len(two.registry) == 1)
        winner = 0 if len(one.registry) else 1
        assert await raws[1 - winner].closed() in {4509, 4010}
        answer = await text(raws[winner], "registered")
        found = await entry(redis_db, keyspace, "alice")
        assert (found["gwId"], found["connId"]) == (answer["gatewayId"], answer["connId"])
        for raw in raws:
            await raw.leave()
        await until("nobody is left", lambda: len(one.registry) + len(two.registry) == 0)


async def test_a_user_who_flaps_between_gateways_ends_where_she_came_last(
    one: Gateway, two: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """Row 45: thirty logins, no goodbye; each kicks the one before, and nothing leaks."""
    async with await User.register("bob", one.url) as bob:
        users: list[User] = []
        for n in range(30):
            users.append(await User.register("alice", (one, two)[n % 2].url))
            if n:
                assert (await users[n - 1].closed())[0] == 4509
        assert await bob.send("alice", "where?") == "routed"
        assert (await users[-1].hear())["content"] == "where?"
        assert (await entry(redis_db, keyspace, "alice"))["gwId"] == "gateway-02"
        await users[-1].leave()

        async def gone() -> bool:
            return not await entry(redis_db, keyspace, "alice")

        await until("her entry is gone", gone)
    await until("no socket", lambda: one.stats()["sockets"] + two.stats()["sockets"] == 0)


async def test_the_goodbye_of_the_first_session_leaves_the_second_alone(
    one: Gateway, two: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """The release of who was kicked finds that it is not the owner."""
    for at in (one, two):
        async with await User.register("alice", one.url) as old:
            async with await User.register("alice", at.url) as new:
                assert (await old.closed())[0] == 4509
                await until("it was released", lambda: one.counters.releases_not_owner >= 1)
                assert (await entry(redis_db, keyspace, "alice"))["gwId"] == at.settings.gateway_id
                await still_works(new)
        await until("she is gone", lambda: len(one.registry) + len(two.registry) == 0)


# --- messages ------------------------------------------------------------------------------------


async def test_two_hundred_messages_and_their_acks_keep_their_order(
    one: Gateway, two: Gateway
) -> None:
    """Said without waiting; each is acknowledged once, and arrives once."""
    for at in (one, two):
        async with (
            await User.register("alice", one.url) as alice,
            await User.register("bob", at.url) as bob,
        ):
            for n in range(200):
                await alice.say(type="message", to="bob", content=f"m{n}", id=str(n))
            acks = [await alice.hear() for _ in range(200)]
            heard = [await bob.hear() for _ in range(200)]
            assert acks == [{"type": "ack", "id": str(n), "status": "routed"} for n in range(200)]
            assert [(m["content"], m["id"]) for m in heard] == [
                (f"m{n}", str(n)) for n in range(200)
            ]
            await still_works(alice)
            await still_works(bob)


async def test_more_messages_than_may_be_in_flight_all_arrive(
    fast_frames: bool, shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """The gateway reads its sender no further for a while, and goes on."""
    async with (
        gateway(shared_server, keyspace, fast_frames=fast_frames, in_flight=4) as here,
        gateway(shared_server, keyspace, "gateway-02", fast_frames=fast_frames) as there,
        await User.register("alice", here.url) as alice,
        await User.register("bob", there.url) as bob,
    ):
        for n in range(300):
            await alice.say(type="message", to="bob", content=str(n))
        assert [(await bob.hear())["content"] for _ in range(300)] == [str(n) for n in range(300)]
        await still_works(alice)


async def test_a_message_to_oneself_arrives(one: Gateway) -> None:
    """Row 56: message, then ack."""
    async with await User.register("alice", one.url) as alice:
        await alice.say(type="message", to="alice", content="me", id="1")
        assert (await alice.hear())["from"] == "alice"
        assert await alice.hear() == {"type": "ack", "id": "1", "status": "routed"}


# --- what arrives through Redis ------------------------------------------------------------------


async def conn_of(redis_db: Any, keyspace: Keyspace, user: str) -> str:
    return (await entry(redis_db, keyspace, user))["connId"]


async def test_a_message_for_another_session_reaches_nobody_and_bounces(
    one: Gateway, two: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """Row 50: not her newer session, not another user's; her sender is told, her entry stays."""
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", two.url) as bob,
        await User.register("carol", two.url) as carol,
    ):
        from_conn = await conn_of(redis_db, keyspace, "alice")
        before = await entry(redis_db, keyspace, "bob")
        for n, to_conn in enumerate(("stale", await conn_of(redis_db, keyspace, "carol"))):
            envelope = {
                "type": "direct",
                "from": "alice",
                "to": "bob",
                "content": "late",
                "id": str(n),
                "fromGw": "gateway-01",
                "fromConn": from_conn,
                "toConn": to_conn,
                "epoch": 1,
            }
            channel = keyspace.gateway_channel("gateway-02")
            assert await redis_db.publish(channel, json.dumps(envelope)) == 1
            assert await alice.hear() == {"type": "ack", "id": str(n), "status": "unreachable"}
        await still_works(bob)
        await still_works(carol)
        assert await entry(redis_db, keyspace, "bob") == before
        assert await entry(redis_db, keyspace, "carol")
        assert (two.counters.bounces_sent, one.counters.bounces_received) == (2, 2)
        assert await alice.send("bob", "fresh") == "routed"
        assert (await bob.hear())["content"] == "fresh"


async def test_a_bounce_without_an_id_is_the_demo_s_error(
    one: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """And a bounce for a session that is gone is for nobody."""
    async with await User.register("alice", one.url) as alice:
        channel = keyspace.gateway_channel("gateway-01")
        bounce = {"type": "bounce", "fromConn": "gone", "to": "bob"}
        await redis_db.publish(channel, json.dumps(bounce))
        bounce["fromConn"] = await conn_of(redis_db, keyspace, "alice")
        await redis_db.publish(channel, json.dumps(bounce))
        answer = await alice.hear()
        assert (answer["error"], answer["code"]) == ("Failed to send message", "unreachable")
        await still_works(alice)


async def test_a_kick_hits_the_session_that_it_names_and_no_other(
    one: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """Neither a wrong connection nor a wrong user ends anything."""
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", one.url) as bob,
    ):
        conn = await conn_of(redis_db, keyspace, "alice")
        channel = keyspace.gateway_channel("gateway-01")
        for user, conn_id in (("alice", "gone"), ("bob", conn), ("alice", "")):
            kick = {"type": "kick", "user": user, "connId": conn_id, "token": 10**15}
            await redis_db.publish(channel, json.dumps(kick))
        await until("all were received", lambda: one.counters.kicks_received == 3)
        await still_works(alice)
        await still_works(bob)
        kick = {"type": "kick", "user": "alice", "connId": conn, "token": 10**15}
        await redis_db.publish(channel, json.dumps(kick))
        assert (await alice.closed())[0] == 4509
        await still_works(bob)


BIG = "x" * 1_000_000
ENVELOPES: dict[str, bytes] = {
    "no JSON": b"hello",
    "two documents": b'{"type":"probe","boot":"","n":1}{}',
    "an array": b'[{"type":"direct"}]',
    "not UTF-8": b'{"type":"direct","from":"x","to":"bob","content":"\xff"}',
    "unknown type": b'{"type":"dance","to":"bob","content":"x","from":"y"}',
    "no type": b'{"to":"bob","content":"x","from":"y"}',
    "no recipient": b'{"type":"direct","from":"x","content":"x"}',
    "no sender": b'{"type":"direct","to":"bob","content":"x"}',
    "no content": b'{"type":"direct","from":"x","to":"bob"}',
    "content a number": b'{"type":"direct","from":"x","to":"bob","content":7}',
    "content an object": b'{"type":"direct","from":"x","to":"bob","content":{"a":"b"}}',
    "content null": b'{"type":"direct","from":"x","to":"bob","content":null}',
    "recipient a number": b'{"type":"direct","from":"x","to":7,"content":"x"}',
    "lone surrogate": b'{"type":"direct","from":"x","to":"bob","content":"\\ud800"}',
    "sender a lone surrogate": b'{"type":"direct","from":"\\ud800","to":"bob","content":"x"}',
    "raw newline in content": b'{"type":"direct","from":"x","to":"bob","content":"a\nb"}',
    "raw NUL in content": b'{"type":"direct","from":"x","to":"bob","content":"a\x00b"}',
    "content of 1 MB": b'{"type":"direct","from":"x","to":"bob","content":"%b"}' % BIG.encode(),
    "sender of 1 MB": b'{"type":"direct","from":"%b","to":"bob","content":"x"}' % BIG.encode(),
    "id of 1 MB": b'{"type":"direct","from":"x","to":"bob","content":"x","id":"%b"}' % BIG.encode(),
    "epoch a text": b'{"type":"direct","from":"x","to":"bob","content":"x","epoch":"1"}',
    "very deep": b'{"type":"direct","from":"x","to":"bob","content":%b' % (b"[" * 100_000),
    "broadcast without content": b'{"type":"broadcast"}',
    "broadcast a number": b'{"type":"broadcast","content":7}',
    "broadcast with a raw newline": b'{"type":"broadcast","content":"a\nb"}',
    "kick without token": b'{"type":"kick","user":"bob","connId":"x"}',
    "bounce without recipient": b'{"type":"bounce","fromConn":"x"}',
    "probe of a text": b'{"type":"probe","boot":"x","n":"1"}',
}


@pytest.mark.parametrize("name", ENVELOPES)
async def test_what_no_gateway_can_have_sent_is_dropped_counted_and_survived(
    one: Gateway, two: Gateway, redis_db: Any, keyspace: Keyspace, name: str
) -> None:
    """Row 78, on the gateway's channel and on everybody's: bob hears the next message only."""
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", two.url) as bob,
    ):
        for channel in (keyspace.gateway_channel("gateway-02"), keyspace.broadcast_channel):
            assert await redis_db.publish(channel, ENVELOPES[name])
        assert await alice.send("bob", "after it") == "routed"
        assert (await bob.hear())["content"] == "after it"
        assert two.counters.malformed_envelopes == 2
        assert one.counters.malformed_envelopes == 1
        assert two.ready and len(two.registry) == 1


async def test_foreign_text_reaches_everybody_as_it_was_broadcast(
    one: Gateway, two: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """Escapes and all languages; a broadcast without a sender has an empty one."""
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", two.url) as bob,
    ):
        said = 'é 🎉 "quoted" \n \x00'
        envelope = json.dumps({"type": "broadcast", "content": said})
        assert await redis_db.publish(keyspace.broadcast_channel, envelope) == 2
        for user in (alice, bob):
            assert await user.hear() == {"type": "message", "from": "", "content": said}
    assert one.counters.broadcasts_received == two.counters.broadcasts_received == 1


ENTRIES: dict[str, dict[str | bytes, str | bytes]] = {
    "no gateway": {"connId": "c", "epoch": "1"},
    "no connection": {"gwId": "gateway-02", "epoch": "1"},
    "empty gateway": {"gwId": "", "connId": "c"},
    "empty connection": {"gwId": "gateway-02", "connId": ""},
    "glob": {"gwId": "gateway-*", "connId": "c"},
    "newline": {"gwId": "gateway-02\n", "connId": "c"},
    "colon": {"gwId": "x:y", "connId": "c"},
    "not UTF-8": {"gwId": b"\xff\xfe", "connId": "c"},
    "sixty-five": {"gwId": "g" * 65, "connId": "c"},
    "quote in connection": {"gwId": "gateway-02", "connId": 'c","to":"eve'},
    "newline in connection": {"gwId": "gateway-02", "connId": "c\n"},
    "long connection": {"gwId": "gateway-02", "connId": "c" * 129},
    "everybody's channel": {"gwId": "broadcast", "connId": "c", "epoch": "1"},
}


@pytest.mark.parametrize("name", ENTRIES)
async def test_an_entry_that_no_gateway_wrote_is_offline_and_counted(
    one: Gateway, two: Gateway, redis_db: Any, keyspace: Keyspace, name: str
) -> None:
    """Rows 79 and 80: nothing is published, and the next message goes its way."""
    await redis_db.hset(keyspace.presence("ghost"), mapping=ENTRIES[name])
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", two.url) as bob,
    ):
        assert await alice.send("ghost", "x") == "offline"
        assert one.counters.malformed_presence == 1
        assert one.counters.routes_offline == 1
        assert await alice.send("bob", "y", "2") == "routed"
        assert (await bob.hear())["content"] == "y"
        assert two.counters.bounces_sent == 0
    await redis_db.delete(keyspace.presence("ghost"))


@pytest.mark.parametrize("epoch", ["", "x", "-1", "1e400", "nan", "9" * 400])
async def test_an_entry_with_a_foreign_token_harms_nobody(
    one: Gateway, two: Gateway, redis_db: Any, keyspace: Keyspace, epoch: str
) -> None:
    """Whatever number it is or is not: the loops live, and the sender gets an answer."""
    key = keyspace.presence("ghost")
    await redis_db.hset(key, mapping={"gwId": "gateway-02", "connId": "c", "epoch": epoch})
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", two.url) as bob,
    ):
        assert await alice.send("ghost", "x") in {"routed", "offline"}
        if one.counters.routes_routed:
            await until(
                "it bounced or was dropped",
                lambda: two.counters.bounces_sent + two.counters.malformed_envelopes == 1,
            )
        await alice.say(type="message", to="bob", content="y")
        assert (await bob.hear())["content"] == "y"
        await still_works(bob)
    await redis_db.delete(key)


# --- a reader that does not read -----------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        {"write_deadline_s": 0.3, "outbox_messages": 100_000, "outbox_bytes": 2**30},
        {"write_deadline_s": 50.0, "outbox_messages": 32},
        {"write_deadline_s": 50.0, "outbox_bytes": 100_000},
    ],
    ids=["deadline", "too many messages", "too many bytes"],
)
async def test_a_stalled_reader_of_another_gateway_delays_nobody_and_is_let_go(
    fast_frames: bool,
    shared_server: BundledServer,
    keyspace: Keyspace,
    redis_db: Any,
    limits: dict[str, Any],
) -> None:
    """It is aborted and forgotten, counted once; bob hears each message within a second."""
    async with (
        gateway(shared_server, keyspace, fast_frames=fast_frames) as here,
        gateway(shared_server, keyspace, "gateway-02", fast_frames=fast_frames, **limits) as there,
        await Raw.open(there) as stalled,
        await User.register("alice", here.url) as alice,
        await User.register("bob", there.url) as bob,
    ):
        stalled.frame(b'{"type":"register","userId":"stalled"}')
        await until("it is registered", lambda: len(there.registry) == 2)
        stalled.writer.transport.pause_reading()  # type: ignore[attr-defined]

        async def push() -> bool:
            for _ in range(20):
                await alice.say(type="message", to="stalled", content="x" * 16_000)
            await alice.say(type="message", to="bob", content="on time?")
            assert (await bob.hear(1.0))["content"] == "on time?"
            return len(there.registry) == 1

        await until("the stalled one is let go", push, 30)
        await until("its socket is gone", lambda: there.stats()["sockets"] == 1)
        assert there.counters.slow_consumers == 1

        async def gone() -> bool:
            return not await entry(redis_db, keyspace, "stalled")

        await until("its entry is gone", gone)
        await still_works(bob)
