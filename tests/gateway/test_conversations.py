"""Does a gateway answer as its protocol tables say, whatever it is told?

In-process gateways on the real server, real sockets; each test runs with the fast path for common
frames and without, because both must be one protocol.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.gateway.cluster import USUAL, Raw, frame, gateway, request
from tests.processes import User
from tests.waiting import until
from wsdemo.events import Event, Kind
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Timing

pytestmark = pytest.mark.both_loops


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


# --- fragments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["GET /ws HTTP/1.1", "GET /ws?x HTTP/1.1"])
async def test_frames_in_the_packet_of_the_handshake_are_answered_behind_it(
    one: Gateway, line: str
) -> None:
    """First 101, then the pong and the answer to the register; with the short way and without."""
    async with await Raw.connect(one) as raw:
        register = frame(b'{"type":"register","userId":"alice"}')
        raw.writer.write(request(USUAL, line) + frame(b"hello", opcode=9) + register)
        assert b" 101 " in await raw.head()
        assert await raw.hear() == (10, b"hello")
        assert (await raw.answer())["type"] == "registered"


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


async def test_each_ack_says_what_became_of_the_message(
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


async def test_messages_without_an_id_get_the_answers_of_the_go_demo(
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


@pytest.mark.parametrize(
    "goodbye",
    [
        frame(b"\x03\xe8", opcode=8),
        frame(b"binary", opcode=2),
        frame(b"\xff"),
        frame(b"", opcode=9) * 40,
    ],
    ids=["its own", "1003", "1007", "4008"],
)
async def test_a_client_that_was_sent_a_close_frame_is_offline(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any, goodbye: bytes
) -> None:
    """A message that cannot reach it any more is answered `offline`, and its entry is gone."""
    async with (
        gateway(shared_server, keyspace, close_timeout_s=30.0) as running,
        await Raw.register(running, "mallory") as mallory,
        await Raw.register(running, "bob") as bob,
    ):
        mallory.writer.write(goodbye)
        await mallory.closed()

        async def gone() -> bool:
            return not await redis_db.exists(keyspace.presence("mallory"))

        await until("her entry is gone", gone)
        bob.frame(b'{"type":"message","to":"mallory","content":"x","id":"1"}')
        assert await bob.answer() == {"type": "ack", "id": "1", "status": "offline"}
        assert running.stats()["sockets"] == 2, "she has not hung up"


async def test_a_message_for_an_ended_session_is_unreachable_and_removes_its_entry(
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


# --- what arrives through Redis ------------------------------------------------------------------


async def test_an_envelope_of_the_go_demo_is_delivered(
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


# --- slow and silent clients ---------------------------------------------------------------------


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


async def test_a_subscription_that_receives_nothing_makes_ready_503_and_is_rebuilt(
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
            return bool(await redis_db.publish(channel, "{}") == 1)

        await until("it listens again", heard)
    kinds = [event.kind for event in events]
    assert Kind.GAP in kinds
    assert Kind.UNREADY in kinds and kinds.index(Kind.UNREADY) < len(kinds) - 1 - kinds[::-1].index(
        Kind.READY
    )


async def test_a_gateway_is_ready_only_after_its_subscription_received_a_probe(
    one: Gateway,
) -> None:
    """A subscription that is up may be deaf, although Redis has no complaint."""
    assert one.ready
    one._router._hears = False
    assert one.unready_because() == ["subscription is down or deaf"]
    one._router._hears = True


async def test_pages_have_their_documented_content(one: Gateway) -> None:
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
