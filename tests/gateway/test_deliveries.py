"""Does delivery go on, however often something was in its way?"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.gateway.cluster import Raw, frame, gateway, over_wire
from tests.waiting import until
from wsdemo.gateway.delivery import MAX_REPAIRS
from wsdemo.gateway.server import Gateway
from wsdemo.protocol import Direct, Kick
from wsdemo.redis.server import BundledServer
from wsdemo.rig.wire import Wire
from wsdemo.settings import Keyspace

pytestmark = pytest.mark.both_loops


async def test_a_stale_entry_is_removed_however_many_were_before_it(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """More than may be under repair at the same time, one after the other."""
    channel = keyspace.gateway_channel("gateway-01")
    async with gateway(shared_server, keyspace) as running:
        for n in range(MAX_REPAIRS + 2):
            key = keyspace.presence(f"ghost-{n}")
            entry = {"gwId": "gateway-01", "connId": f"gone-{n}", "ts": "1", "epoch": "1"}
            await redis_db.hset(key, mapping=entry)
            envelope = {"from": "bob", "to": f"ghost-{n}", "content": "x", "type": "direct"}
            ours = {"toConn": f"gone-{n}", "epoch": 1}
            await redis_db.publish(channel, json.dumps(envelope | ours))

            async def gone(key: str = key) -> bool:
                return not await redis_db.exists(key)

            await until(f"entry {n} is removed", gone)
        assert running.counters.bounces_sent == MAX_REPAIRS + 2
        await until("nothing is under repair", lambda: not running._delivery._repairing)


@pytest.mark.slow
async def test_a_sender_is_read_again_after_all_of_its_messages_timed_out(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """As many as may be on their way, twice: each is `unknown`, and what comes next is answered."""
    async with Wire("127.0.0.1", shared_server.port) as wire:
        settings = over_wire(wire, shared_server, keyspace, redis_timeout_s=1.0)
        most = settings.limits.in_flight
        assert most == 256, "what is promised"
        async with Gateway(settings) as running, await Raw.register(running, "alice") as alice:
            for _ in range(2):
                await until("there is a way to Redis", lambda: running._link.up)
                for strand in wire.strands():
                    strand.drop("down")
                for n in range(most):
                    text = {"type": "message", "to": "nobody", "content": "x", "id": str(n)}
                    alice.frame(json.dumps(text).encode())
                for n in range(most):
                    answer = {"type": "ack", "id": str(n), "status": "unknown"}
                    assert await alice.answer() == answer
                alice.writer.write(frame(b'{"type":"ping"}'))
                assert await alice.answer() == {"type": "pong"}
                session = running.registry.by_user("alice")
                assert session is not None and session.in_flight == 0


async def test_a_message_beyond_the_redis_queue_is_busy_at_once(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """The sender hears so before Redis has answered anything, and is read on afterwards."""
    async with Wire("127.0.0.1", shared_server.port) as wire:
        settings = over_wire(
            wire, shared_server, keyspace, redis_max_pending=8, redis_timeout_s=60.0
        )
        async with Gateway(settings) as running, await Raw.register(running, "alice") as alice:
            for strand in wire.strands():
                strand.hold()
            for n in range(20):
                text = {"type": "message", "to": "nobody", "content": "x", "id": str(n)}
                alice.frame(json.dumps(text).encode())
            alice.frame(b'{"type":"ping"}')
            refused = []
            while (answer := await alice.answer())["type"] != "pong":
                refused.append(answer)
            assert {answer["status"] for answer in refused} == {"busy"}
            assert len(refused) >= 12
            session = running.registry.by_user("alice")
            assert session is not None and session.in_flight == 20 - len(refused)
            for strand in wire.strands():
                strand.release()
            others = [await alice.answer() for _ in range(20 - len(refused))]
            assert all(answer["status"] == "offline" for answer in others)
            assert {answer["id"] for answer in refused + others} == {str(n) for n in range(20)}
            assert session.in_flight == 0


async def test_each_message_with_an_id_has_its_ack(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Many in a row to a user of another gateway: none is forgotten, and none is told twice."""
    async with (
        gateway(shared_server, keyspace) as here,
        gateway(shared_server, keyspace, "gateway-02") as there,
        await Raw.register(here, "alice") as alice,
        await Raw.register(there, "bob") as bob,
    ):
        ids = [str(n) for n in range(30)]
        for each in ids:
            text = {"type": "message", "to": "bob", "content": "x", "id": each}
            alice.frame(json.dumps(text).encode())
        acks = [await alice.answer() for _ in ids]
        assert acks == [{"type": "ack", "id": each, "status": "routed"} for each in ids]
        assert [(await bob.answer())["id"] for _ in ids] == ids
        alice.frame(b'{"type":"ping"}')
        assert await alice.answer() == {"type": "pong"}


async def test_a_late_message_or_notice_reaches_only_the_session_it_names(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """A message or a notice that is late finds another session of the user, or, by its connection,
    another user: neither hears of it.
    """
    async with (
        gateway(shared_server, keyspace) as running,
        await Raw.register(running, "alice") as alice,
    ):
        session = running.registry.by_user("alice")
        assert session is not None
        content = msgspec.Raw(b'"not for her"')
        delivery = running._delivery
        for to, conn_id in (("alice", "gone"), ("carol", session.conn_id)):
            delivery.receive_direct(Direct(sender="bob", to=to, content=content, toConn=conn_id))
        delivery.receive(Kick(user="carol", connId=session.conn_id, token=1))
        delivery.receive(Kick(user="alice", connId="gone", token=1))
        assert running.counters.bounces_sent == 2
        alice.frame(b'{"type":"ping"}')
        assert await alice.answer() == {"type": "pong"}
        await until("nothing is under repair", lambda: not running._delivery.repairs)


async def test_messages_within_one_gateway_are_counted(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """As handed over, and as a route that needed no Redis."""
    async with (
        gateway(shared_server, keyspace) as running,
        await Raw.register(running, "alice") as alice,
        await Raw.register(running, "bob") as bob,
    ):
        alice.frame(b'{"type":"message","to":"bob","content":"x","id":"1"}')
        assert await alice.answer() == {"type": "ack", "id": "1", "status": "routed"}
        assert (await bob.answer())["id"] == "1"
        counters = running.counters
        assert (counters.messages_delivered, counters.routes_local) == (1, 1)
        assert counters.routes_routed == 0
