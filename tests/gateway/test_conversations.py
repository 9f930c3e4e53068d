"""Does a gateway answer as its protocol tables say, whatever it is told?

In-process gateways on the real server, real sockets; each test runs with the fast path for common
frames and without, because both must be one protocol.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.gateway.cluster import Raw, gateway
from tests.processes import User
from tests.waiting import until
from wsdemo.events import Event, Kind
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Timing


@pytest.fixture(params=[True, False], ids=["fast-frames", "general-parser"])
async def one(
    request: pytest.FixtureRequest, shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[Gateway]:
    """gateway-01."""
    async with gateway(shared_server, keyspace, fast_frames=request.param) as running:
        yield running


@pytest.fixture
async def two(
    one: Gateway, shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[Gateway]:
    """gateway-02, beside gateway-01."""
    fast = one.settings.fast_frames
    async with gateway(shared_server, keyspace, "gateway-02", fast_frames=fast) as running:
        yield running


async def still_works(user: User) -> None:
    """A ping, and its pong as the next thing that is heard."""
    await user.say(type="ping")
    assert await user.hear() == {"type": "pong"}


# --- registering -------------------------------------------------------------------------------


async def test_a_register_is_answered_with_gateway_and_connection(one: Gateway) -> None:
    """The demo's fields, and ours."""
    async with connect(one.url, proxy=None) as socket:
        await socket.send('{"type":"register","userId":"alice"}')
        answer = json.loads(await socket.recv())
    assert answer["type"] == "registered"
    assert answer["content"] == "Successfully registered"
    assert answer["gatewayId"] == "gateway-01"
    assert answer["connId"]
    assert answer["heartbeatMs"] == 30_000


async def test_registering_again_as_the_same_user_is_answered_again(one: Gateway) -> None:
    """Idempotent: same connection, same answer, one session."""
    async with await User.register("alice", one.url) as alice:
        await alice.say(type="register", userId="alice")
        assert (await alice.hear())["type"] == "registered"
        assert len(one.registry) == 1


async def test_a_connection_cannot_become_another_user(one: Gateway) -> None:
    """4505, and the entry is gone."""
    async with await User.register("alice", one.url) as alice:
        await alice.say(type="register", userId="mallory")
        assert (await alice.closed())[0] == 4505
    await until("nobody is left", lambda: len(one.registry) == 0)


@pytest.mark.parametrize("name", ["gateway-01", "__probe__", "a b", "a" * 65, "é", "x:y"])
async def test_a_name_that_is_not_allowed_is_refused(one: Gateway, name: str) -> None:
    """4513: it would become part of a key, or be mistaken for a gateway."""
    async with connect(one.url, proxy=None) as socket:
        await socket.send(json.dumps({"type": "register", "userId": name}))
        await socket.wait_closed()
        assert socket.close_code == 4513


async def test_a_client_that_does_not_register_in_time_is_let_go(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """4001."""
    async with (
        gateway(shared_server, keyspace, register_deadline_s=0.1) as running,
        connect(running.url, proxy=None) as socket,
    ):
        await socket.wait_closed()
        assert socket.close_code == 4001


async def test_a_second_login_on_one_gateway_replaces_the_first(one: Gateway) -> None:
    """4509 for the old one; the new one is who is found."""
    async with await User.register("alice", one.url) as old:
        async with await User.register("alice", one.url) as new:
            assert (await old.closed())[0] == 4509
            async with await User.register("bob", one.url) as bob:
                assert await bob.send("alice", "which one?") == "routed"
            assert (await new.hear())["content"] == "which one?"


async def test_a_second_login_elsewhere_kicks_the_first(one: Gateway, two: Gateway) -> None:
    """One winner, told at once across gateways."""
    async with await User.register("alice", one.url) as old:
        async with await User.register("alice", two.url):
            assert (await old.closed(5))[0] == 4509
            await until("gateway-01 has forgotten her", lambda: len(one.registry) == 0)
            assert len(two.registry) == 1


async def test_frames_behind_a_register_wait_for_its_answer(one: Gateway) -> None:
    """Register, ping and message in one write are answered in this order."""
    async with await Raw.open(one) as raw:
        raw.frame(b'{"type":"register","userId":"alice"}')
        raw.frame(b'{"type":"ping"}')
        raw.frame(b'{"type":"message","to":"alice","content":"me","id":"1"}')
        kinds = [json.loads((await raw.hear())[1])["type"] for _ in range(4)]
    assert kinds == ["registered", "pong", "message", "ack"]


# --- what is malformed ---------------------------------------------------------------------------

BAD: dict[str, tuple[str | bytes, str]] = {
    "not JSON": ("hello", "Invalid message format"),
    "half of a document": ('{"type":"ping"', "Invalid message format"),
    "nothing": ("", "Invalid message format"),
    "a list": ('["ping"]', "Invalid message format"),
    "a number": ("7", "Invalid message format"),
    "null": ("null", "Invalid message format"),
    "no type": ("{}", "Invalid message format"),
    "type of a wrong type": ('{"type":7}', "Invalid message format"),
    "unknown type": ('{"type":"dance"}', "Unknown message type"),
    "a server's type": ('{"type":"pong"}', "Unknown message type"),
    "no recipient": ('{"type":"message","content":"x"}', "Recipient is required"),
    "empty recipient": ('{"type":"message","to":"","content":"x"}', "Recipient is required"),
    # What a user may be called is not told to whoever tries (row 55).
    "recipient of a wrong type": ('{"type":"message","to":7,"content":"x"}', "User not found"),
    "recipient too long": ('{"type":"message","to":"%s"}' % ("b" * 65), "User not found"),
    "two documents": ('{"type":"ping"}{"type":"ping"}', "Invalid message format"),
    "a comment": ('{"type":"ping"} // hi', "Invalid message format"),
    "single quotes": ("{'type':'ping'}", "Invalid message format"),
    "a trailing comma": ('{"type":"ping",}', "Invalid message format"),
    "a raw control character": ('{"type":"message","to":"bob","content":"\n"}', "Invalid"),
    "a key twice": ('{"type":"ping","type":"register"}', "Invalid message format"),
    "5,000 keys": (
        '{"type":"ping",' + ",".join(f'"{n}":0' for n in range(5000)) + "}",
        "Invalid message format",
    ),
    "surrogates in the wrong order": (
        '{"type":"message","to":"bob","content":"\\udc00\\ud800"}',
        "Invalid message format",
    ),
    "a type in capitals": ('{"type":"PING"}', "Unknown message type"),
    "content null": ('{"type":"message","to":"bob","content":null}', "Invalid message format"),
    "id too long": ('{"type":"message","to":"bob","content":"","id":"%s"}' % ("i" * 65), "Invalid"),
    "content of a wrong type": ('{"type":"message","to":"bob","content":7}', "Invalid"),
    "id of a wrong type": ('{"type":"message","to":"bob","content":"x","id":7}', "Invalid"),
    "a lone surrogate": (
        '{"type":"message","to":"bob","content":"\\ud800"}',
        "Invalid message format",
    ),
    "deep nesting": ("[" * 5000 + "]" * 5000, "Invalid message format"),
    "very deep nesting": ('{"type":"ping","x":' + "[" * 30_000, "Invalid message format"),
    "a number of 5,000 digits": ('{"type":"ping","x":%s}' % ("9" * 5000), "Invalid"),
    "a number beyond all": ('{"type":"ping","x":1e999}', "Invalid message format"),
    "a byte order mark": ("\ufeff" + '{"type":"ping"}', "Invalid message format"),
    "trailing text": ('{"type":"ping"} x', "Invalid message format"),
    "NaN": ('{"type":"message","to":"bob","content":NaN}', "Invalid message format"),
    "content too large": (
        json.dumps({"type": "message", "to": "bob", "content": "x" * 20_000}),
        "Message too large",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_malformed_message_gets_its_error_and_the_connection_stays(
    one: Gateway, name: str
) -> None:
    """The documented text, and then a ping is answered as if nothing had been."""
    text, words = BAD[name]
    async with await User.register("alice", one.url) as alice:
        await alice.connection.send(text)
        answer = await alice.hear()
        assert answer["type"] == "error"
        assert answer["error"].startswith(words)
        await still_works(alice)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"type":"register"}', "UserID is required for registration"),
        ('{"type":"register","userId":""}', "UserID is required for registration"),
        ('{"type":"register","userId":7}', "Invalid message format"),
        ('{"type":"message","to":"bob","content":"x"}', "Not registered"),
    ],
)
async def test_before_registering_the_demo_s_texts_are_the_answer(
    one: Gateway, text: str, words: str
) -> None:
    """And registering is still possible afterwards."""
    async with connect(one.url, proxy=None) as socket:
        await socket.send(text)
        assert json.loads(await socket.recv())["error"] == words
        await socket.send('{"type":"register","userId":"alice"}')
        assert json.loads(await socket.recv())["type"] == "registered"


async def test_fields_that_nobody_knows_are_ignored_and_a_sender_cannot_be_forged(
    one: Gateway,
) -> None:
    """Rows 45 and 60: the server says who the sender is."""
    async with await User.register("alice", one.url) as alice:
        await alice.say(type="message", to="alice", content="x", **{"from": "mallory", "y": [1]})
        assert (await alice.hear())["from"] == "alice"


async def test_a_ping_before_register_is_answered_and_buys_no_time(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Row 66: a pong, and the deadline to register stays where it was."""
    async with gateway(shared_server, keyspace, register_deadline_s=0.3) as running:
        async with connect(running.url, proxy=None) as socket:
            await socket.send('{"type":"ping"}')
            assert json.loads(await socket.recv()) == {"type": "pong"}
            await socket.wait_closed()
            assert socket.close_code == 4001


async def test_an_error_of_a_message_with_an_id_names_it(one: Gateway) -> None:
    """So that a client knows which one failed."""
    async with await User.register("alice", one.url) as alice:
        await alice.say(type="message", to="", content="x", id="42")
        assert (await alice.hear())["id"] == "42"


async def test_too_many_malformed_messages_end_the_connection(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """4502, after as many errors as the limit says."""
    async with gateway(shared_server, keyspace, max_malformed=3) as running:
        async with await User.register("alice", running.url) as alice:
            for _ in range(4):
                await alice.connection.send("nonsense")
            assert (await alice.closed())[0] == 4502


@pytest.mark.parametrize(
    ("payload", "options", "code"),
    [
        (b"\x00\x01", {"opcode": 2}, 1003),
        (b'{"type":"ping","x":"\xff\xfe"}', {}, 1007),
        (b'{"type":"ping"}', {"mask": False}, 1002),
        (b"x", {"opcode": 3}, 1002),
        (b"x" * 126, {"opcode": 9}, 1002),
        (b"rest", {"opcode": 0}, 1002),
        (b"x" * 70_000, {}, 1009),
    ],
    ids=["binary", "not-utf8", "unmasked", "reserved-opcode", "long-ping", "stray-rest", "huge"],
)
async def test_a_broken_frame_ends_its_own_connection_only(
    one: Gateway, payload: bytes, options: dict[str, Any], code: int
) -> None:
    """With the code that says why; the neighbour does not notice."""
    async with await User.register("bob", one.url) as bob:
        async with await Raw.open(one) as raw:
            raw.frame(b'{"type":"register","userId":"alice"}')
            await raw.hear()
            raw.frame(payload, **options)
            assert await raw.closed() == code
        await still_works(bob)


async def test_what_is_said_behind_a_goodbye_is_not_heard_and_nothing_is_written_after_it(
    one: Gateway,
) -> None:
    """Ping, close and a message in one write: the close ends it, without a failure in the loop."""
    async with await Raw.open(one) as raw:
        raw.frame(b'{"type":"register","userId":"alice"}')
        await raw.hear()
        raw.frame(b'{"type":"ping"}')
        raw.frame((1000).to_bytes(2, "big"), opcode=8)
        raw.frame(b'{"type":"message","to":"alice","content":"x"}')
        assert await raw.closed() == 1000
    await until("nobody is left", lambda: len(one.registry) == 0)
    assert one.counters.messages_received == 0


async def test_a_message_in_fragments_is_one_message(one: Gateway) -> None:
    """With a ping between them, and split at every byte of a write."""
    async with await Raw.open(one) as raw:
        raw.frame(b'{"type":"regis', fin=False)
        raw.frame(b"hello", opcode=9)
        raw.frame(b'ter","userId":"alice"}', opcode=0)
        heard = [await raw.hear(), await raw.hear()]
    assert (10, b"hello") in heard
    assert any(b'"registered"' in payload for _, payload in heard)


# --- messages ------------------------------------------------------------------------------------


async def test_what_the_sender_is_told_is_what_became_of_the_message(
    one: Gateway, two: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """routed here and there, offline, and unreachable when nobody listens for that gateway."""
    async with await User.register("alice", one.url) as alice:
        async with (
            await User.register("bob", two.url) as bob,
            await User.register("carol", one.url) as carol,
        ):
            assert await alice.send("bob", "far") == "routed"
            assert await alice.send("carol", "near") == "routed"
            assert (await bob.hear())["content"] == "far"
            assert (await carol.hear())["content"] == "near"
        assert await alice.send("nobody", "x") == "offline"
        entry = {"gwId": "gateway-99", "connId": "c", "ts": "1", "epoch": "1"}
        await redis_db.hset(keyspace.presence("ghost"), mapping=entry)
        assert await alice.send("ghost", "x") == "unreachable"
        await redis_db.delete(keyspace.presence("ghost"))


async def test_without_an_id_the_demo_s_texts_tell_the_sender(
    one: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """Silence when it was handed on, "User not found", "Failed to send message"."""
    entry = {"gwId": "gateway-99", "connId": "c", "ts": "1"}
    await redis_db.hset(keyspace.presence("ghost"), mapping=entry)
    async with await User.register("alice", one.url) as alice:
        await alice.say(type="message", to="nobody", content="x")
        assert (await alice.hear())["error"] == "User not found"
        await alice.say(type="message", to="ghost", content="x")
        assert (await alice.hear())["error"] == "Failed to send message"
        await still_works(alice)
    await redis_db.delete(keyspace.presence("ghost"))


async def test_a_message_for_a_session_that_is_gone_bounces_and_its_entry_goes(
    one: Gateway, two: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """The sender hears `unreachable` after `routed`; the stale entry is removed."""
    key = keyspace.presence("ghost")
    entry = {"gwId": "gateway-02", "connId": "gone", "ts": "1", "epoch": "1"}
    await redis_db.hset(key, mapping=entry)
    async with await User.register("alice", one.url) as alice:
        assert await alice.send("ghost", "x") == "routed"
        assert await alice.hear() == {"type": "ack", "id": "1", "status": "unreachable"}

        async def gone() -> bool:
            return not await redis_db.exists(key)

        await until("the stale entry is removed", gone)


async def test_messages_of_one_sender_arrive_in_order(one: Gateway, two: Gateway) -> None:
    """Five hundred, without waiting for any answer."""
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", two.url) as bob,
    ):
        for n in range(500):
            await alice.say(type="message", to="bob", content=str(n))
        assert [(await bob.hear())["content"] for n in range(500)] == [str(n) for n in range(500)]


@pytest.mark.parametrize(
    "content", ["", 'a"b\\c\n', "日本語 🎉", "\x00\x1f", "</script>", "x" * 16_000]
)
async def test_content_arrives_as_it_was_sent(one: Gateway, two: Gateway, content: str) -> None:
    """Byte for byte, across gateways and within one."""
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", two.url) as bob,
    ):
        await alice.say(type="message", to="bob", content=content)
        assert await bob.hear() == {"type": "message", "from": "alice", "content": content}
        await alice.say(type="message", to="alice", content=content)
        assert (await alice.hear())["content"] == content


# --- what arrives through Redis ------------------------------------------------------------------

FOREIGN = [b"", b"hello", b"{}", b"[]", b"\xff\xfe", b'{"type":"direct"}', b'{"type":"dance"}']
FOREIGN.append(b'{"type":"direct","from":"%s","to":"bob","content":"x"}' % (b"m" * 1_000_000))


@pytest.mark.parametrize("data", [*FOREIGN, b'{"type":"direct","from":1,"to":2,"content":3}'])
async def test_a_foreign_message_on_the_channel_is_dropped_and_counted(
    one: Gateway, two: Gateway, redis_db: Any, keyspace: Keyspace, data: bytes
) -> None:
    """And the loop goes on: the next message arrives."""
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", two.url) as bob,
    ):
        assert await redis_db.publish(keyspace.gateway_channel("gateway-02"), data) == 1
        await until("it is counted", lambda: two.counters.malformed_envelopes == 1)
        assert await alice.send("bob", "after it") == "routed"
        assert (await bob.hear())["content"] == "after it"


async def test_an_envelope_of_the_go_demo_is_understood(
    one: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """It names no session: then it is for whoever the user is here."""
    async with await User.register("alice", one.url) as alice:
        envelope = {"from": "bob", "to": "alice", "content": "from Go", "type": "direct"}
        await redis_db.publish(keyspace.gateway_channel("gateway-01"), json.dumps(envelope))
        assert await alice.hear() == {"type": "message", "from": "bob", "content": "from Go"}


async def test_a_broadcast_reaches_everybody(
    one: Gateway, two: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """On every gateway, through the demo's channel."""
    async with (
        await User.register("alice", one.url) as alice,
        await User.register("bob", two.url) as bob,
    ):
        envelope = {"from": "system", "content": "all hands", "type": "broadcast"}
        await redis_db.publish(keyspace.broadcast_channel, json.dumps(envelope))
        for user in (alice, bob):
            assert (await user.hear())["content"] == "all hands"


@pytest.mark.parametrize(
    "entry",
    [
        {"ts": "1"},
        {"gwId": "gateway-01"},
        {"gwId": "a b", "connId": "c"},
        {"gwId": "", "connId": ""},
        # Its channel is everybody's.
        {"gwId": "broadcast", "connId": "c"},
    ],
)
async def test_a_malformed_entry_is_offline_and_the_gateway_lives(
    one: Gateway, redis_db: Any, keyspace: Keyspace, entry: dict[str, str]
) -> None:
    """Half an entry, or one that somebody else wrote, names nobody."""
    await redis_db.hset(keyspace.presence("ghost"), mapping=entry)
    async with await User.register("alice", one.url) as alice:
        assert await alice.send("ghost", "x") == "offline"
        await still_works(alice)
    await redis_db.delete(keyspace.presence("ghost"))


async def test_an_entry_of_another_type_is_an_error_of_one_message_only(
    one: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """WRONGTYPE is told as busy; the next message goes its way."""
    await redis_db.set(keyspace.presence("ghost"), "text")
    async with await User.register("alice", one.url) as alice:
        assert await alice.send("ghost", "x") in {"busy", "offline"}
        await still_works(alice)
    await redis_db.delete(keyspace.presence("ghost"))


# --- slow and silent clients ---------------------------------------------------------------------


async def test_a_stalled_reader_is_dropped_and_delays_nobody(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Its own outbox overflows; its neighbour hears every message meanwhile."""
    async with (
        gateway(
            shared_server, keyspace, write_deadline_s=1.0, outbox_messages=64, outbox_bytes=262_144
        ) as running,
        await Raw.open(running) as stalled,
        await User.register("alice", running.url) as alice,
        await User.register("bob", running.url) as bob,
    ):
        stalled.writer.transport.pause_reading()  # type: ignore[attr-defined]
        stalled.frame(b'{"type":"register","userId":"stalled"}')
        await until("it is registered", lambda: len(running.registry) == 3)
        for n in range(2000):
            await alice.say(type="message", to="stalled", content="x" * 15_000)
            if n % 20 == 0:
                await alice.say(type="message", to="bob", content=str(n))
                assert (await bob.hear(5))["content"] == str(n)
            if len(running.registry) == 2:
                break
        await until("the stalled one is dropped", lambda: len(running.registry) == 2)
        await alice.say(type="message", to="bob", content="still here")
        assert (await bob.hear(5))["content"] == "still here"


async def test_a_ping_flood_without_reading_ends_the_connection(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """What replies to control frames pile up is bounded (row 37)."""
    limits = {"control_frames_per_s": 1e9, "control_burst": 10**9}  # Else they end it before.
    async with gateway(
        shared_server, keyspace, write_hard_cap_bytes=65_536 * 2, **limits
    ) as running:
        async with (
            await User.register("bob", running.url) as bob,
            await Raw.open(running) as flood,
        ):
            flood.frame(b'{"type":"register","userId":"flood"}')
            await until("it is registered", lambda: len(running.registry) == 2)
            flood.writer.transport.pause_reading()  # type: ignore[attr-defined]
            try:
                for _ in range(400):
                    for _ in range(500):
                        flood.frame(b"x" * 120, opcode=9)
                    async with asyncio.timeout(10):
                        await flood.writer.drain()
                    if len(running.registry) == 1:
                        break
            except (ConnectionError, TimeoutError):
                pass
            await until("it is gone", lambda: len(running.registry) == 1)
            await still_works(bob)


async def test_a_silent_client_is_forgotten_by_gateway_and_redis(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """No heartbeat: 4009 within idle timeout and health check, or dropped; and no entry stays."""
    fast = Timing().scaled(300)
    async with gateway(shared_server, keyspace, timing=fast) as running:
        async with await User.register("alice", running.url) as alice:
            assert (await alice.closed(10))[0] == 4009
        await until("no session", lambda: len(running.registry) == 0)

        async def gone() -> bool:
            return not await redis_db.exists(keyspace.presence("alice"))

        await until("no entry", gone)


async def test_a_client_that_leaves_while_it_registers_leaves_no_entry(
    one: Gateway, redis_db: Any, keyspace: Keyspace
) -> None:
    """P7: whatever the moment of its going."""
    for _ in range(50):
        raw = await Raw.open(one)
        raw.frame(b'{"type":"register","userId":"hasty"}')
        await raw.writer.drain()
        raw.writer.transport.abort()

    async def gone() -> bool:
        return not await redis_db.exists(keyspace.presence("hasty"))

    await until("no socket", lambda: one.stats()["sockets"] == 0)
    await until("no entry", gone)
    assert len(one.registry) == 0


# --- the gateway itself --------------------------------------------------------------------------


async def test_a_deaf_subscription_is_found_rebuilt_and_red_meanwhile(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """The probe finds it within two intervals; then messages arrive again."""
    events: list[Event] = []
    fast = Timing().scaled(50)
    async with gateway(shared_server, keyspace, timing=fast, emit=events.append) as running:
        subscribers = await redis_db.client_list(_type="pubsub")
        channel = keyspace.gateway_channel("gateway-01")
        assert await redis_db.publish(channel, "{}") == 1
        # The server forgets the subscription without a word: its connection stays open.
        for client in subscribers:
            await redis_db.execute_command("CLIENT", "KILL", "ID", client["id"])
        await until("the gap is seen", lambda: running.stats()["counters"]["subscription_gaps"])
        await until("it is ready again", lambda: running.ready)

        async def heard() -> bool:
            return await redis_db.publish(channel, "{}") == 1

        await until("it listens again", heard)
    kinds = [event.kind for event in events]
    assert Kind.GAP in kinds
    assert Kind.UNREADY in kinds and kinds.index(Kind.UNREADY) < len(kinds) - 1 - kinds[::-1].index(
        Kind.READY
    )


async def test_pages_say_what_they_say(one: Gateway) -> None:
    """/health, /ready, /stats, /metrics, and what is not there."""
    from tests.processes import http_get

    async with await User.register("alice", one.url):
        assert await http_get(one.port, "/health") == (200, "OK")
        status, ready = await http_get(one.port, "/ready")
        assert status == 200 and json.loads(ready)["ready"] is True
        _, stats = await http_get(one.port, "/stats")
        assert list(json.loads(stats))[:2] == ["gatewayId", "connections"]
        assert json.loads(stats)["connections"] == 1
        status, metrics = await http_get(one.port, "/metrics")
        assert status == 200 and "connections 1.0" in metrics
        assert (await http_get(one.port, "/nothing"))[0] == 404
        assert "alice" not in stats + metrics, "no user's name where anybody may read"
