"""Does a durable message reach its recipient, whatever happens on its way?

Named after the promises D1 to D8 (docs/guarantees.md). What the scripts decide is in `tests/inbox`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import redis.asyncio as redis_client

from tests.gateway.cluster import Raw, gateway, over_wire
from tests.waiting import until
from wsdemo.events import Event, Kind
from wsdemo.features import InboxSettings
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.socket import Socket
from wsdemo.protocol import Code
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.link import LinkBusy, RedisLink
from wsdemo.redis.server import BundledServer
from wsdemo.rig.wire import Wire
from wsdemo.settings import GatewaySettings, Keyspace

pytestmark = pytest.mark.both_loops

Start = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture
def start(shared_server: BundledServer, keyspace: Keyspace) -> Start:
    """Starts gateways that store messages; `inbox` has the flags."""

    @asynccontextmanager
    async def starting(
        gateway_id: str = "gateway-01", *, server: BundledServer = shared_server, **inbox: Any
    ) -> AsyncIterator[Gateway]:
        limits = inbox.pop("limits", {})
        settings = {"inbox": InboxSettings(**inbox)}
        async with gateway(server, keyspace, gateway_id, settings=settings, **limits) as running:
            yield running

    return starting


async def register(running: Gateway, user: str, resume: Any = None) -> Raw:
    """Connect and be `user`, who has read so far; None: knows nothing of inboxes."""
    raw = await Raw.open(running)
    hello = {"type": "register", "userId": user}
    say(raw, hello if resume is None else hello | {"resume": resume})
    answer = await raw.answer()
    assert answer["type"] == "registered" and answer["durable"] is True
    return raw


def say(raw: Raw, document: dict[str, Any]) -> None:
    raw.frame(json.dumps(document).encode())


async def send(raw: Raw, to: str, content: str, msg_id: str) -> str:
    """Send a durable message; return the status of its ack."""
    document = {"type": "message", "to": to, "content": content, "id": msg_id, "durable": True}
    say(raw, document)
    answer = await raw.answer()
    assert (answer["type"], answer["id"]) == ("ack", msg_id)
    return str(answer["status"])


async def test_a_stored_message_waits_for_a_user_who_is_away(start: Start) -> None:
    """D2: it is stored while bob is away; he gets it when he comes."""
    async with start() as running, await Raw.register(running, "alice") as alice:
        assert await send(alice, "bob", "Hi", "a-1") == "stored"
        async with await register(running, "bob", {}) as bob:
            resumed = await bob.answer()
            message = await bob.answer()
            assert resumed["type"] == "resumed" and resumed["recovered"] is False
            assert message.pop("offset").startswith("1-")
            assert message == {"type": "message", "from": "alice", "content": "Hi", "id": "a-1"}


@pytest.mark.parametrize("gateways", [1, 2])
async def test_a_stored_message_reaches_a_user_who_is_here_at_once(
    start: Start, gateways: int
) -> None:
    async with start("gateway-01") as one, start("gateway-02") as two:
        there = (one, two)[gateways - 1]
        async with (
            await register(there, "bob", {}) as bob,
            await Raw.register(one, "alice") as alice,
        ):
            assert (await bob.answer())["type"] == "resumed"
            for n in range(5):
                assert await send(alice, "bob", f"Hi {n}", f"a-{n}") == "stored"
            got = [await bob.answer() for _ in range(5)]
            assert [message["content"] for message in got] == [f"Hi {n}" for n in range(5)]


async def test_who_comes_back_with_a_position_goes_on_there(start: Start, redis_db: Any) -> None:
    """D2, D3: what was not seen follows, and nothing else."""
    async with start("gateway-01") as one, start("gateway-02") as two:
        async with await Raw.register(one, "alice") as alice:
            async with await register(one, "bob", {}) as bob:
                epoch = (await bob.answer())["epoch"]
                assert await send(alice, "bob", "first", "a-1") == "stored"
                offset = (await bob.answer())["offset"]
                say(bob, {"type": "ack", "epoch": epoch, "offset": offset})
            await until("bob has gone", lambda: one.registry.by_user("bob") is None)
            assert await send(alice, "bob", "second", "a-2") == "stored"
            resume = {"epoch": epoch, "offset": offset}
            async with await register(two, "bob", resume) as bob:
                resumed, message = await bob.answer(), await bob.answer()
                assert resumed["recovered"] is True and resumed["offset"] == offset
                assert message["content"] == "second"


# --- what a sender is told -----------------------------------------------------------------------


async def test_the_same_message_again_is_a_duplicate(start: Start) -> None:
    """D4: on whichever gateway it is said again."""
    async with start("gateway-01") as one, start("gateway-02") as two:
        async with await Raw.register(one, "alice") as alice:
            assert await send(alice, "bob", "Hi", "a-1") == "stored"
            assert await send(alice, "bob", "Hi", "a-1") == "duplicate"
        async with await Raw.register(two, "alice") as alice:
            assert await send(alice, "bob", "Hi", "a-1") == "duplicate"
        async with await register(one, "bob", {}) as bob:
            await bob.answer()
            assert (await bob.answer())["id"] == "a-1"
            assert await send(bob, "bob", "to myself", "b-1") == "stored"
            assert (await bob.answer())["id"] == "b-1", "nothing came in between"


async def test_a_sender_hears_busy_without_redis_and_unknown_without_its_answer(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """D1: `stored` is never a guess; and the same id is stored once in the end."""
    async with Wire("127.0.0.1", shared_server.port) as wire:
        settings = over_wire(
            wire, shared_server, keyspace, inbox=InboxSettings(), redis_timeout_s=1.0
        )
        async with Gateway(settings) as running, await Raw.register(running, "alice") as alice:
            wire.drop("down")  # Also on the next connection, so that there is none for a while.
            assert await send(alice, "bob", "Hi", "a-1") == "unknown"
            assert await send(alice, "bob", "Hi", "a-1") == "busy"
            session = running.registry.by_user("alice")
            assert session is not None and session.in_flight == 0
            wire.release()
            wire.cut()
            await until("there is a way to Redis", lambda: running._link.up)
            assert await send(alice, "bob", "Hi", "a-1") == "duplicate"


async def test_a_sender_is_read_no_further_than_redis_answers(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back-pressure: as many durable messages wait for Redis as plain ones may."""
    waiting: list[Any] = []
    async with (
        start(limits={"in_flight": 4}) as running,
        await Raw.register(running, "alice") as alice,
    ):
        assert running._durable is not None
        inbox, store = running._durable._inbox, running._durable._inbox.send
        monkeypatch.setattr(inbox, "send", lambda *message: waiting.append(message))
        document = {"type": "message", "to": "bob", "content": "x", "durable": True}
        for n in range(4):
            say(alice, document | {"id": str(n)})
        session = running.registry.by_user("alice")
        assert session is not None
        await until("four wait", lambda: session.in_flight == 4)
        for n in range(4, 6):
            say(alice, document | {"id": str(n)})
        assert session.socket._reading_paused
        monkeypatch.setattr(inbox, "send", store)
        for message in waiting:
            store(*message)
        answers = {(await alice.answer())["id"] for _ in range(6)}
        assert answers == {str(n) for n in range(6)}


# --- who reads -----------------------------------------------------------------------------------


async def test_a_client_that_knows_nothing_of_inboxes_gets_its_messages_too(
    start: Start, redis_db: Any, keyspace: Keyspace
) -> None:
    """D8: as plain messages, in order, and once: what was written counts as taken."""
    async with start(ack_every_s=0.05) as running, await Raw.register(running, "alice") as alice:
        for n in range(3):
            assert await send(alice, "bob", f"Hi {n}", f"a-{n}") == "stored"
        async with await Raw.register(running, "bob") as bob:
            assert await send(alice, "bob", "Hi 3", "a-3") == "stored"
            for n in range(4):
                expected = {
                    "type": "message",
                    "from": "alice",
                    "content": f"Hi {n}",
                    "id": f"a-{n}",
                }
                assert await bob.answer() == expected

        async def all_taken() -> bool:
            return not int(await redis_db.xlen(keyspace.key("inbox", "bob")))

        await until("nothing is kept of them", all_taken)
        async with await Raw.register(running, "bob") as bob:
            assert await send(alice, "bob", "Hi 4", "a-4") == "stored"
            assert (await bob.answer())["id"] == "a-4"


async def test_no_more_than_the_window_is_sent_without_an_acknowledgement(start: Start) -> None:
    """A slow application stops acknowledging: then its messages wait in Redis, and none is lost."""
    async with (
        start(durable_window=2) as running,
        await register(running, "bob", {}) as bob,
        await Raw.register(running, "alice") as alice,
    ):
        epoch = (await bob.answer())["epoch"]
        for n in range(5):
            assert await send(alice, "bob", str(n), f"a-{n}") == "stored"
        got = [await bob.answer(), await bob.answer()]
        say(bob, {"type": "ping"})
        assert await bob.answer() == {"type": "pong"}, "no third message came"
        say(bob, {"type": "ack", "epoch": epoch, "offset": got[1]["offset"]})
        got += [await bob.answer(), await bob.answer()]
        say(bob, {"type": "ack", "epoch": epoch, "offset": got[2]["offset"]})
        got.append(await bob.answer())
        assert [message["content"] for message in got] == ["0", "1", "2", "3", "4"]


async def test_nothing_is_read_while_the_transport_is_full(start: Start) -> None:
    """A slow line: the messages wait in Redis, and leave when there is room."""
    async with (
        start() as running,
        await register(running, "bob", {}) as bob,
        await Raw.register(running, "alice") as alice,
    ):
        await bob.answer()
        durable, session = running._durable, running.registry.by_user("bob")
        assert durable is not None and session is not None
        await until(
            "the empty inbox was read", lambda: not durable._readers[session.conn_id].pump._reading
        )
        session.socket.pause_writing()
        for n in range(3):
            assert await send(alice, "bob", str(n), f"a-{n}") == "stored"
        assert durable.counted.pages.counts["messages"] == 0
        assert running.stats()["counters"]["outbox_overflows"] == 0
        session.socket.resume_writing()
        assert [(await bob.answer())["content"] for _ in range(3)] == ["0", "1", "2"]


async def test_what_was_acknowledged_at_the_very_end_counts(start: Start) -> None:
    """The last acknowledgement reaches Redis before the release, after which no word counts."""
    async with start(ack_every_s=60.0) as running, await Raw.register(running, "alice") as alice:
        async with await register(running, "bob", {}) as bob:
            epoch = (await bob.answer())["epoch"]
            assert await send(alice, "bob", "Hi", "a-1") == "stored"
            offset = (await bob.answer())["offset"]
            say(bob, {"type": "ack", "epoch": epoch, "offset": offset})
        await until("bob has gone", lambda: running.counters.releases_removed == 1)
        assert running.stats()["counters"]["inbox_acks_taken"] == 1
        async with await register(running, "bob", {}) as bob:
            resumed = await bob.answer()
            assert (resumed["recovered"], resumed["offset"]) == (True, offset)


async def test_acknowledgements_are_told_to_redis_together(start: Start) -> None:
    """One command for a session in each `ack_every_s`, however many there were."""
    async with (
        start(ack_every_s=0.3) as running,
        await register(running, "bob", {}) as bob,
        await Raw.register(running, "alice") as alice,
    ):
        epoch = (await bob.answer())["epoch"]
        say(bob, {"type": "ack", "epoch": epoch, "offset": "0-0"})
        for n in range(20):
            assert await send(alice, "bob", str(n), f"a-{n}") == "stored"
            offset = (await bob.answer())["offset"]
            say(bob, {"type": "ack", "epoch": epoch, "offset": offset})
        counts = running.stats()["counters"]
        assert counts["inbox_acks_taken"] < 10
        assert running._durable is not None
        acks = running._durable.counted.acks.counts
        await until("the last one is taken", lambda: acks["taken"] > counts["inbox_acks_taken"])


async def test_a_replaced_session_ends_when_it_reads(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the notice of its replacement was lost: 4509, and its acknowledgement is refused."""
    async with start("gateway-01", ack_every_s=0.05) as one, start("gateway-02") as two:
        monkeypatch.setattr(two._delivery, "kick", lambda *lost: None)
        assert one._durable is not None
        async with await register(one, "bob", {}) as old, await Raw.register(one, "alice") as alice:
            epoch = (await old.answer())["epoch"]
            assert await send(alice, "bob", "Hi", "a-1") == "stored"
            offset = (await old.answer())["offset"]
            async with await register(two, "bob", {}) as new:
                assert (await new.answer())["type"] == "resumed"
                assert (await new.answer())["offset"] == offset
                say(old, {"type": "ack", "epoch": epoch, "offset": offset})
                acks = one._durable.counted.acks.counts
                await until("the old one's word was refused", lambda: acks["refused"] == 1)
                one._durable.gap()
                assert await old.closed() == Code.REPLACED
            async with await register(two, "bob", {}) as new:
                await new.answer()
                assert (await new.answer())["offset"] == offset, "nobody has taken it away"


async def test_a_session_that_fails_while_it_registers_leaves_no_reader(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended before it begins to read."""
    send = Socket.send

    def fail(socket: Socket, payload: bytes) -> None:
        if b'"registered"' in payload:
            raise RuntimeError("the connection failed")
        send(socket, payload)

    monkeypatch.setattr(Socket, "send", fail)
    async with start() as running, await Raw.open(running) as raw:
        say(raw, {"type": "register", "userId": "bob", "resume": {}})
        assert await raw.closed() == 1006
        assert running._durable is not None and not running._durable._readers
        assert running.counters.connection_failures == 1


# --- hints that are lost -------------------------------------------------------------------------


@pytest.mark.parametrize("occasion", ["refresh", "gap", "link"])
async def test_a_message_whose_hint_was_lost_arrives_later(start: Start, occasion: str) -> None:
    """D6: at the next refresh; when the subscription is renewed; when Redis is back."""
    async with start("gateway-01") as one, start("gateway-02") as two:
        two._router.on_hint = lambda hint: None
        async with await register(two, "bob", {}) as bob, await Raw.register(one, "alice") as alice:
            await bob.answer()
            assert await send(alice, "bob", "Hi", "a-1") == "stored"
            say(bob, {"type": "ping"})
            assert await bob.answer() == {"type": "pong"}, "the hint was lost"
            session = two.registry.by_user("bob")
            assert session is not None
            if occasion == "refresh":
                await two._health._refresh([session])
            elif occasion == "gap":
                two._on_gap()
            else:
                two._on_link_state(True)
            assert (await bob.answer())["content"] == "Hi"
            await until("it looks no more", lambda: behind(two) == 0)


def behind(running: Gateway) -> float:
    return running._gauges()["inbox_behind"][1]()


async def test_a_page_that_could_not_be_read_is_read_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the link had no room for it, and nothing else happens."""
    async with (
        start(ack_every_s=0.05) as running,
        await register(running, "bob", {}) as bob,
        await Raw.register(running, "alice") as alice,
    ):
        await bob.answer()
        assert running._durable is not None
        inbox = running._durable._inbox
        read = inbox.read
        refused: list[Any] = []

        def refuse_once(*args: Any) -> None:
            if not refused:
                refused.append(args)
                raise LinkBusy
            read(*args)

        monkeypatch.setattr(inbox, "read", refuse_once)
        assert await send(alice, "bob", "Hi", "a-1") == "stored"
        assert (await bob.answer())["content"] == "Hi"
        assert refused and running.stats()["counters"]["inbox_pages_failed"] == 1


# --- a Redis that has lost something -------------------------------------------------------------


async def test_after_a_restart_of_redis_everybody_is_told(
    start: Start, server: BundledServer
) -> None:
    """D7: in the middle of a session, because Redis may have lost what it had confirmed."""
    async with start(server=server) as running, await register(running, "bob", {}) as bob:
        before = (await bob.answer())["epoch"]
        say(bob, {"type": "ack", "epoch": before, "offset": "0-0"})
        server.restart(empty=False)
        resumed = await bob.answer(timeout_s=20)
        assert (resumed["type"], resumed["recovered"]) == ("resumed", False)
        assert resumed["epoch"] != before
        async with await Raw.register(running, "alice") as alice:
            assert await send(alice, "bob", "Hi", "a-1") == "stored"
            assert (await bob.answer())["content"] == "Hi"


async def test_a_trusted_redis_may_be_restarted(start: Start, server: BundledServer) -> None:
    """With `--trust-redis` a new run is no reason for a reset; a loss that can be seen is one."""
    async with start(server=server, trust_redis=True, ack_every_s=0.05) as running:
        async with await register(running, "bob", {}) as bob, connected(server) as database:
            epoch = (await bob.answer())["epoch"]
            assert epoch.endswith(".")
            say(bob, {"type": "ack", "epoch": epoch, "offset": "0-0"})
            assert running._durable is not None
            acks = running._durable.counted.acks.counts
            await until("Redis knows that it was told", lambda: acks["taken"] == 1)
            assert running._durable._inbox.run == ""
            await database.flushall()
            running._on_gap()
            resumed = await bob.answer()
            assert resumed["recovered"] is False and resumed["epoch"] != epoch


@asynccontextmanager
async def connected(server: BundledServer) -> AsyncIterator[Any]:
    client = redis_client.Redis.from_url(server.url, decode_responses=True)
    yield client
    await client.aclose()


async def test_a_gateway_that_may_not_store_does_not_start(
    server: BundledServer, database: Any, keyspace: Keyspace
) -> None:
    """It names the command that it may not use; INFO it needs only when Redis is not trusted."""
    everything = ("on", "nopass", "allkeys", "allchannels", "+@all")
    for rule, trusts, named in (
        ("-xadd", True, "XADD"),
        ("-xtrim", False, "XTRIM"),
        ("-get", False, "GET"),
        ("-info", False, "info"),
        ("-info", True, ""),
    ):
        await database.execute_command("ACL", "SETUSER", "low", "reset", *everything, rule)
        settings = GatewaySettings(
            gateway_id="gateway-01",
            port=0,
            redis_url=f"redis://low:any@127.0.0.1:{server.port}",
            keyspace=keyspace,
            inbox=InboxSettings(trust_redis=trusts),
        )
        if not named:
            async with Gateway(settings) as running:
                assert running.ready
            continue
        with pytest.raises(RedisUnavailable, match=rf"(?i)NOPERM.*{named}"):
            await Gateway(settings).start()


async def test_a_redis_that_evicts_is_warned_of(
    start: Start, server: BundledServer, database: Any
) -> None:
    """It would lose what was `stored`."""
    await database.config_set("maxmemory-policy", "allkeys-lru")
    async with start(server=server) as running:
        (warning,) = running.stats()["warnings"]
        assert "and messages that are stored" in warning


# --- the end of a gateway ------------------------------------------------------------------------


async def test_a_drain_loses_nothing(start: Start) -> None:
    """D2: bob goes on at another gateway, exactly where he was."""
    async with start("gateway-01") as one, await Raw.register(one, "alice") as alice:
        async with start("gateway-02") as two:
            bob = await register(two, "bob", {})
            epoch = (await bob.answer())["epoch"]
            assert await send(alice, "bob", "before", "a-1") == "stored"
            offset = (await bob.answer())["offset"]
        assert await bob.closed() == Code.RESTART
        await bob.leave()
        assert await send(alice, "bob", "while he is away", "a-2") == "stored"
        async with await register(one, "bob", {"epoch": epoch, "offset": offset}) as bob:
            assert (await bob.answer())["recovered"] is True
            assert (await bob.answer())["content"] == "while he is away"


# --- a gateway without it ------------------------------------------------------------------------


async def test_a_gateway_that_stores_nothing_knows_nothing_of_it(
    start: Start, shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """A hint for it is no malformed envelope; its words and counters are as ever."""
    async with gateway(shared_server, keyspace, "gateway-02") as plain, start() as running:
        async with await Raw.register(plain, "bob") as bob, await Raw.register(running, "al") as al:
            assert await send(al, "bob", "Hi", "a-1") == "stored"
            say(bob, {"type": "ack", "epoch": "", "offset": "0-0"})
            assert (await bob.answer())["error"] == "Unknown message type"
        assert plain.counters.malformed_envelopes == 0
        assert not [name for name in plain.stats()["counters"] if name.startswith("inbox")]
        assert isinstance(plain._link, RedisLink)
        assert not plain._features and plain._link._first == []


# --- what it says about itself -------------------------------------------------------------------


async def test_each_step_of_a_durable_message_can_be_observed(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    seen: list[Event] = []
    settings = {"inbox": InboxSettings(ack_every_s=0.05)}
    async with gateway(shared_server, keyspace, emit=seen.append, settings=settings) as running:
        async with (
            await register(running, "bob", {}) as bob,
            await Raw.register(running, "alice") as alice,
        ):
            epoch = (await bob.answer())["epoch"]
            assert await send(alice, "bob", "Hi", "a-1") == "stored"
            offset = (await bob.answer())["offset"]
            say(bob, {"type": "ack", "epoch": epoch, "offset": offset})
            await until("it is acknowledged", lambda: Kind.INBOX_ACK in {e.kind for e in seen})
    (store,) = [event for event in seen if event.kind is Kind.STORE]
    assert (store.user, store.peer, store.msg_id) == ("bob", "gateway-01", "a-1")
    assert (store.ok, store.reason) == (True, "stored")
    kinds = [event.kind for event in seen if event.user == "bob"]
    for kind in (Kind.RESUMED, Kind.PAGE, Kind.STORE, Kind.HINT, Kind.DELIVER):
        assert kind in kinds, kind
    (deliver,) = [event for event in seen if event.kind is Kind.DELIVER]
    assert (deliver.peer, deliver.msg_id) == ("alice", "a-1")


async def test_what_happens_to_inboxes_is_counted(start: Start) -> None:
    async with start(inbox_messages=3, durable_window=2) as running:
        async with await Raw.register(running, "alice") as alice:
            for n in range(5):
                assert await send(alice, "bob", str(n), f"a-{n}") == "stored"
            assert await send(alice, "bob", "4", "a-4") == "duplicate"
        async with await register(running, "bob", {}) as bob:
            for _ in range(3):
                await bob.answer()
            counts = running.stats()["counters"]
            expected = {
                "inbox_sends_stored": 5,
                "inbox_sends_duplicate": 1,
                "inbox_trimmed_messages": 2,
                "inbox_resumes_no": 2,  # Of alice and of bob.
                "inbox_pages_messages": 1,
            }
            assert {name: counts[name] for name in expected} == expected
            assert behind(running) == 1, "the window is full"
