"""Does a gateway know whether it hears, and does it hear everything that was said to it?"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio as redis_client

from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.protocol import Direct, Kick, Probe, encode_envelope
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import BundledServer
from wsdemo.rig.wire import Wire
from wsdemo.router import DuplicateGateway, Router, trial_of
from wsdemo.settings import GatewaySettings, Keyspace, Timing

pytestmark = pytest.mark.both_loops

BOOT = "this-boot"


@dataclasses.dataclass
class Ears:
    """A router, with a wire to Redis for each of its two connections."""

    router: Router
    link: RedisLink
    link_wire: Wire
    ear_wire: Wire
    heard: list[Any]
    channel: str
    on_state: Callable[[], None] = lambda: None


@contextlib.asynccontextmanager
async def ears(
    server: BundledServer, keyspace: Keyspace, probe_interval_s: float
) -> AsyncIterator[Ears]:
    heard: list[Any] = []
    async with (
        Wire("127.0.0.1", server.port) as link_wire,
        Wire("127.0.0.1", server.port) as ear_wire,
    ):
        settings = GatewaySettings(
            gateway_id="gateway-01",
            redis_url=server.url_by(ear_wire.port),
            keyspace=keyspace,
            timing=dataclasses.replace(Timing(), probe_interval_s=probe_interval_s),
        )
        link = RedisLink(
            server.url_by(link_wire.port),
            settings.limits,
            trial=trial_of(keyspace),
        )
        router = Router(
            link,
            settings,
            BOOT,
            on_malformed=lambda: heard.append("malformed"),
            on_replaced=lambda: heard.append("replaced"),
            on_state=lambda: made.on_state(),
        )
        channel = keyspace.gateway_channel("gateway-01")
        made = Ears(router, link, link_wire, ear_wire, heard, channel)
        await link.start()
        await router.start(heard.append, heard.append)
        yield made
        ear_wire.release()
        link_wire.release()
        await router.stop()
        await link.stop()


def message(content: str) -> bytes:
    """An envelope for a user of this gateway."""
    return f'{{"type":"direct","from":"a","to":"b","content":"{content}"}}'.encode()


async def test_a_probe_from_before_the_failure_does_not_make_a_gateway_ready(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """It was sent before the deafness was found; only the newest says that we hear now."""
    async with ears(shared_server, keyspace, 0.1) as it:
        await until("a few probes were heard", lambda: it.router._heard >= 2)

        def keep_new_probes() -> None:
            if not it.router.ready:
                it.link_wire.hold("up")

        it.on_state = keep_new_probes
        (strand,) = it.ear_wire.strands()
        strand.drop("down")
        await until("it is found deaf", lambda: it.router.probes_lost == 1)
        await until("it listens anew", lambda: it.router._subscription.up)
        assert it.router.gaps == 1, "messages may have been missed"
        assert not it.router.ready
        assert await redis_db.publish(it.channel, encode_envelope(Probe(boot=BOOT, n=2))) == 1
        await redis_db.publish(it.channel, message("behind it"))
        await until("both have come", lambda: it.heard)
        assert not it.router.ready
        it.on_state = lambda: None
        it.link_wire.release("up")
        await until("it is ready again", lambda: it.router.ready)


async def test_a_lost_link_does_not_count_as_a_failed_subscription(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """A probe that never left says nothing about our ears: no reason to subscribe anew."""
    async with ears(shared_server, keyspace, 0.4) as it:
        sent = it.router._sent
        it.link_wire.hold("up")
        await until("a probe is on its way", lambda: it.router._sent > sent)
        it.link_wire.cut()
        it.link_wire.release("up")
        await until("the link is back", lambda: it.link.up)
        sent = it.router._sent
        await until("more probes were heard", lambda: it.router._heard > sent + 1)
        assert it.router.probes_lost == 0
        assert it.router._subscription.rounds == 1
        assert it.router.ready


async def test_messages_published_before_unsubscribing_are_received(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """Its sender was told "routed"; it may still be on the wire when the gateway stops."""
    async with ears(shared_server, keyspace, 60.0) as it:
        it.ear_wire.hold("down")
        assert await redis_db.publish(it.channel, message("last words")) == 1
        stopping = asyncio.create_task(it.router.stop(), name="stopping")

        async def has_left() -> bool:
            return bool(await redis_db.pubsub_numsub(it.channel) == [(it.channel, 0)])

        await until("Redis knows that it has left", has_left)
        assert not stopping.done()
        it.ear_wire.release("down")
        await asyncio.wait_for(stopping, 10)
        (envelope,) = it.heard
        assert isinstance(envelope, Direct) and bytes(envelope.content) == b'"last words"'


@pytest.mark.slow
async def test_a_probe_with_no_counted_subscriber_is_a_failure_although_it_arrives(
    keyspace: Keyspace,
) -> None:
    """The subscription stayed at the old primary, which repeats what is said at the new one: but
    there nobody knows of a listener, and messages for this gateway would be refused.
    """
    with BundledServer(password="") as old, BundledServer(password="") as new:
        async with ears(old, keyspace, 0.2) as it:
            async with redis_client.Redis.from_url(old.url) as database:
                await database.replicaof("127.0.0.1", new.port)
                await until("it is a replica", lambda: _is_in_step(database))
            it.link_wire.lead_to(new.port)
            it.link_wire.cut()
            (strand,) = it.ear_wire.strands()
            it.ear_wire.lead_to(new.port)
            await until("it has left", lambda: strand not in list(it.ear_wire.strands()))
            await until("it is ready again", lambda: it.router.ready)
            assert it.router._subscription.rounds == 2
            assert await it.link.call("PUBLISH", it.channel, message("x")) == 1


async def _is_in_step(database: Any) -> bool:
    return bool((await database.info("replication"))["master_link_status"] == "up")


async def test_a_notice_is_published_only_to_valid_gateway_ids(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """What stands in an entry may be anything; a name that no gateway can have is none."""
    async with ears(shared_server, keyspace, 60.0) as it, redis_db.pubsub() as listening:
        for name in ("a b", "gateway-02"):
            await listening.subscribe(keyspace.gateway_channel(name))
        for name in ("a b", "gateway-02"):
            it.router.tell(name, Kick("alice", "c1", 7))
        async for said in listening.listen():
            if said["type"] == "message":
                assert said["channel"] == keyspace.gateway_channel("gateway-02")
                break


async def test_a_probe_with_no_counted_subscriber_fails_at_once(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Redis has said that nobody listens: that is known at once, not at the next probe."""
    with BundledServer() as other:
        async with ears(shared_server, keyspace, 60.0) as it:
            password = other.url.partition("@")[0].rpartition(":")[2]
            it.link._url = f"redis://:{password}@127.0.0.1:{it.link_wire.port}/0"
            it.link_wire.lead_to(other.port)
            it.link_wire.cut()
            await until("the link has gone", lambda: not it.link.up)
            await until("it is back, elsewhere", lambda: it.link.up)
            await it.router._send_probe(it.router._subscription.rounds)
            assert it.router.probes_lost == 1
            assert not it.router.ready


async def test_of_two_gateways_with_one_id_that_start_together_one_refuses(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Both look before either is there, and see each other afterwards: one of them stays."""
    settings = GatewaySettings(
        gateway_id="gateway-01", port=0, redis_url=shared_server.url, keyspace=keyspace
    )
    gateways = [Gateway(settings), Gateway(settings)]
    results = await asyncio.gather(*(each.start() for each in gateways), return_exceptions=True)
    refused = [result for result in results if isinstance(result, DuplicateGateway)]
    assert len(refused) == 1
    assert [each.ready for each in gateways] == [result is None for result in results]
    for each in gateways:
        await each.stop()
    # And the id is free again.
    async with Gateway(settings) as running:
        assert running.ready


async def test_a_listener_gets_what_is_published_on_its_channel_and_nothing_else(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """What was under way when it ceased to listen is dropped, and is no fault of anybody."""
    async with ears(shared_server, keyspace, 60.0) as it:
        room, taken = keyspace.channel("room", "lobby"), list[bytes]()
        await asyncio.wait_for(it.router.listen(room, taken.append), 10)
        assert await redis_db.publish(room, "not even JSON") == 1
        await redis_db.publish(it.channel, message("for the gateway"))
        await until("both have come", lambda: taken and it.heard)
        assert taken == [b"not even JSON"] and type(it.heard[0]) is Direct
        it.ear_wire.hold("down")
        assert await redis_db.publish(room, "late") == 1
        it.router.unlisten(room)
        it.router.unlisten(room)
        it.ear_wire.release("down")
        await redis_db.publish(it.channel, message("after it"))
        await until("what came after it is here", lambda: len(it.heard) == 2)
        assert taken == [b"not even JSON"] and type(it.heard[1]) is Direct
        assert it.router.ready, "the probe is still heard"


async def test_a_listener_hears_again_after_the_subscription_was_renewed(
    shared_server: BundledServer, keyspace: Keyspace, redis_db: Any
) -> None:
    """And whoever keeps what was published is told of the gap after that."""
    async with ears(shared_server, keyspace, 60.0) as it:
        room, taken, gaps = keyspace.channel("room", "lobby"), list[bytes](), list[int]()
        await asyncio.wait_for(it.router.listen(room, taken.append), 10)
        it.router._on_gap = lambda: gaps.append(it.router.gaps)
        it.ear_wire.cut()
        await until("the gap is told", lambda: gaps == [1])
        assert await redis_db.publish(room, "again") == 1
        await until("it has come", lambda: taken == [b"again"])
