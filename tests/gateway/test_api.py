"""Server API: what does a backend get that asks a gateway by HTTP?"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.gateway.api import BEARER, KEY, Backend, api_gateway, head, once, post
from tests.gateway.cluster import gateway
from tests.processes import User, http_get
from tests.waiting import until
from wsdemo.features import ApiSettings, InboxSettings, RoomSettings
from wsdemo.gateway.api.http import HEAD_S, MAX_CONNECTIONS, UNAUTHORIZED
from wsdemo.gateway.listening import CannotListen
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.settings import GatewaySettings, Keyspace

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def one(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    """gateway-01, with a server API."""
    async with api_gateway(shared_server, keyspace) as running:
        yield running


@pytest.fixture
async def two(
    one: Gateway, shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[Gateway]:
    """gateway-02 beside it, without one."""
    async with gateway(shared_server, keyspace, "gateway-02") as running:
        yield running


@pytest.fixture
async def backend(one: Gateway) -> AsyncIterator[Backend]:
    """A connection to gateway-01's."""
    async with await Backend.connect(one) as connected:
        yield connected


# --- publish ---------------------------------------------------------------------------------


async def test_a_message_of_a_backend_reaches_a_user_of_this_gateway(
    one: Gateway, backend: Backend
) -> None:
    """It comes from "@app", and the answer is that of an ack."""
    async with await User.register("bob", one.url) as bob:
        reply = await backend.post("/api/publish", to="bob", content="Hi\n", id="7")
        assert reply.told == (200, {"status": "routed", "id": "7"})
        message = {"type": "message", "from": "@app", "content": "Hi\n", "id": "7"}
        assert await bob.hear() == message


async def test_a_message_of_a_backend_reaches_a_user_of_another_gateway(
    one: Gateway, two: Gateway, backend: Backend
) -> None:
    """By the route script; a backend may name itself, and the gateway makes an id."""
    async with await User.register("bob", two.url) as bob:
        reply = await backend.post(
            "/api/publish", **{"to": "bob", "content": "é\\", "from": "@shop"}
        )
        assert reply.status == 200 and reply.document["status"] == "routed"
        said = await bob.hear()
        assert said == {
            "type": "message",
            "from": "@shop",
            "content": "é\\",
            "id": reply.document["id"],
        }


@pytest.mark.parametrize("name", ["carol", "no such name", "é", "gateway-01", "@app"])
async def test_a_user_who_is_not_there_is_offline(backend: Backend, name: str) -> None:
    """Also one that cannot be there: the answer does not tell them apart."""
    reply = await backend.post("/api/publish", to=name, content="Hi", id="1")
    assert reply.told == (200, {"status": "offline", "id": "1"})


async def test_a_gateway_that_listens_no_more_is_unreachable(
    one: Gateway, backend: Backend, redis_db: Any, keyspace: Keyspace
) -> None:
    """The entry of a user names it, and nobody hears the message."""
    entry = {"gwId": "gateway-09", "connId": "c1", "epoch": "5"}
    await redis_db.hset(keyspace.presence("bob"), mapping=entry)
    reply = await backend.post("/api/publish", to="bob", content="Hi", id="1")
    assert reply.told == (200, {"status": "unreachable", "id": "1"})
    reply = await backend.post("/api/disconnect", user="bob")
    assert reply.document["status"] == "unreachable"
    await redis_db.delete(keyspace.presence("bob"))


async def test_a_bounce_after_the_answer_is_counted_and_reaches_nobody(
    one: Gateway, two: Gateway, backend: Backend, redis_db: Any, keyspace: Keyspace
) -> None:
    """`routed` means handed on: the other gateway finds no session, and removes the entry."""
    entry = {"gwId": "gateway-02", "connId": "gone", "epoch": "5"}
    await redis_db.hset(keyspace.presence("bob"), mapping=entry)
    reply = await backend.post("/api/publish", to="bob", content="Hi")
    assert reply.document["status"] == "routed"
    await until("the bounce", lambda: one.counters.bounces_received == 1)

    async def is_gone() -> bool:
        return not await redis_db.exists(keyspace.presence("bob"))

    await until("the entry is gone", is_gone)


async def test_what_is_off_is_said_and_nothing_is_sent(one: Gateway, backend: Backend) -> None:
    """A durable message is never sent as a plain one."""
    async with await User.register("bob", one.url) as bob:
        told = await backend.post("/api/publish", to="bob", content="Hi", durable=True)
        assert told.told == (404, "not_durable")
        told = await backend.post("/api/publish", room="lobby", content="Hi")
        assert told.told == (404, "no_rooms")
        await bob.say(type="message", to="bob", content="first")
        assert (await bob.hear())["content"] == "first"


async def test_while_redis_is_away_the_answer_is_503(
    server: BundledServer, keyspace: Keyspace
) -> None:
    """For every endpoint; users of the gateway itself are still reached."""
    async with api_gateway(server, keyspace) as running:
        async with (
            await User.register("bob", running.url) as bob,
            await Backend.connect(running) as backend,
        ):
            server.stop()
            await until("unready", lambda: not running.ready)
            told = await backend.post("/api/publish", to="carol", content="Hi")
            assert told.told == (503, "unavailable") and told.headers["retry-after"] == "1"
            assert (await backend.post("/api/disconnect", user="bob")).status == 503
            assert (await backend.get("/api/presence")).status == 503
            assert (await backend.get("/api/presence/bob")).status == 503
            assert (await backend.post("/api/publish", to="bob", content="Hi")).status == 200
            assert (await bob.hear())["content"] == "Hi"
            server.start()
            await until("ready", lambda: running.ready, timeout_s=20)


# --- with other features ----------------------------------------------------------------------


@pytest.fixture
async def full(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    """gateway-01, with durable messages, rooms, and a server API."""
    features = {"inbox": InboxSettings(), "rooms": RoomSettings()}
    async with api_gateway(shared_server, keyspace, settings=features) as running:
        yield running


async def reader_of(name: str, running: Gateway) -> User:
    """A client that reads its inbox, and keeps no position."""
    user = User(name, await connect(running.url, proxy=None, compression=None))
    await user.say(type="register", userId=name, resume={})
    assert (await user.hear())["type"] == "registered"
    return user


async def test_a_durable_message_of_a_backend_is_stored_once(full: Gateway) -> None:
    """Its id makes a repeated request harmless; the inbox is counted, and not shown."""
    empty = {"user": "bob", "count": 0, "bytes": 0, "last": "", "acked": ""}
    message = {"to": "bob", "content": "Hi", "id": "7", "durable": True}
    async with await Backend.connect(full) as backend:
        assert (await backend.get("/api/inbox/bob")).document == empty
        twice = [(await backend.post("/api/publish", **message)).document for _ in range(2)]
        assert [each["status"] for each in twice] == ["stored", "duplicate"]
        found = (await backend.get("/api/inbox/bob")).document
        assert (found["count"], found["acked"]) == (1, "")
        stored = b'{"type":"message","from":"@app","content":"Hi","id":"7"'
        assert found["bytes"] == len(stored)
        assert found["last"].startswith("1-")
        async with await reader_of("bob", full) as bob:
            assert (await bob.hear())["type"] == "resumed"
            said = await bob.hear()
            assert (said["from"], said["content"], said["offset"]) == ("@app", "Hi", found["last"])
        told = await backend.post("/api/publish", **{**message, "to": "no such name"})
        assert told.document["status"] == "offline"


async def test_an_inbox_is_counted_after_an_acknowledgement(full: Gateway) -> None:
    """What is acknowledged is gone, from the number and from the bytes."""
    async with await Backend.connect(full) as backend:
        for n in range(3):
            body = {"to": "bob", "content": "x" * n, "id": str(n), "durable": True}
            assert (await backend.post("/api/publish", **body)).document["status"] == "stored"
        async with await reader_of("bob", full) as bob:
            epoch = (await bob.hear())["epoch"]
            first, second, third = [(await bob.hear())["offset"] for _ in range(3)]
            await bob.say(type="ack", epoch=epoch, offset=second)

            async def left() -> bool:
                return bool((await backend.get("/api/inbox/bob")).document["count"] == 1)

            await until("two are gone", left)
            found = (await backend.get("/api/inbox/bob")).document
        assert (found["last"], found["acked"]) == (third, second)
        assert found["bytes"] == len(b'{"type":"message","from":"@app","content":"xx","id":"2"')
        assert first != second


async def test_a_backend_publishes_in_a_room_and_sees_its_members(full: Gateway) -> None:
    """It is no member itself, and nobody is told that it has looked."""
    async with (
        await Backend.connect(full) as backend,
        await User.register("bob", full.url) as bob,
        await User.register("alice", full.url) as alice,
    ):
        for user in (bob, alice):
            await user.say(type="join", room="lobby")
            assert (await user.hear())["type"] == "joined"
        assert (await bob.hear())["user"] == "alice"
        told = await backend.get("/api/rooms/lobby")
        assert told.told == (200, {"room": "lobby", "members": ["alice", "bob"], "count": 2})
        told = await backend.post("/api/publish", room="lobby", content="Hi", id="1")
        assert told.told == (200, {"status": "routed", "id": "1"})
        for user in (bob, alice):
            said = await user.hear()
            assert (said["from"], said["room"], said["content"]) == ("@app", "lobby", "Hi")
        await bob.say(type="leave", room="lobby")
        assert (await bob.hear())["type"] == "left"
        assert (await backend.get("/api/rooms/lobby")).document["members"] == ["alice"]


async def test_what_a_backend_says_in_a_room_is_in_its_history(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """As what a member says."""
    features = {"rooms": RoomSettings(room_history=5)}
    async with (
        api_gateway(shared_server, keyspace, settings=features) as running,
        await Backend.connect(running) as backend,
        await User.register("bob", running.url) as bob,
    ):
        told = await backend.post("/api/publish", room="lobby", content="Hi", id="1")
        assert told.told == (200, {"status": "unreachable", "id": "1"})
        await bob.say(type="join", room="lobby", history=5)
        assert (await bob.hear())["type"] == "joined"
        said = await bob.hear()
        assert (said["from"], said["content"]) == ("@app", "Hi")


@pytest.mark.parametrize("name", ["attic", "no such name"])
async def test_a_room_that_nobody_is_in_is_empty(full: Gateway, name: str) -> None:
    """Also one that nobody can be in; a message for it is heard by nobody."""
    async with await Backend.connect(full) as backend:
        told = await backend.get(f"/api/rooms/{name.replace(' ', '%20')}")
        assert told.told == (200, {"room": name, "members": [], "count": 0})
        told = await backend.post("/api/publish", room=name, content="Hi", id="1")
        assert told.told == (200, {"status": "unreachable", "id": "1"})


async def test_endpoints_of_features_that_are_off_say_so(backend: Backend) -> None:
    """404, with a code that names the feature."""
    assert (await backend.get("/api/rooms/lobby")).told == (404, "no_rooms")
    assert (await backend.get("/api/inbox/bob")).told == (404, "not_durable")


# --- disconnect ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["gateway-01", "gateway-02"])
async def test_a_session_is_ended_wherever_it_is(
    one: Gateway, two: Gateway, backend: Backend, place: str
) -> None:
    """With 4515, after which a client stays away, and with the words of the operator."""
    where = one if place == "gateway-01" else two
    async with await User.register("bob", where.url) as bob:
        reply = await backend.post("/api/disconnect", user="bob", reason="account closed")
        assert reply.document["status"] == "kicked"
        assert [each["gatewayId"] for each in reply.document["sessions"]] == [place]
        assert await bob.closed() == (4515, "account closed")
    await until("offline", lambda: len(where.registry) == 0)


async def test_a_client_may_be_told_to_come_back(one: Gateway, backend: Backend) -> None:
    """1012 sends it to another gateway; without words, those of the code are said."""
    async with await User.register("bob", one.url) as bob:
        reply = await backend.post("/api/disconnect", user="bob", code=1012)
        assert reply.document["status"] == "kicked"
        assert await bob.closed() == (1012, "service restart")


@pytest.mark.parametrize("more", [{"code": 1000}, {"code": 4515, "reason": "x" * 200}])
async def test_a_kick_that_no_operator_can_send_is_a_usual_one(
    one: Gateway, redis_db: Any, keyspace: Keyspace, more: dict[str, Any]
) -> None:
    """What is published may come from anybody who can write to Redis."""
    async with await User.register("bob", one.url) as bob:
        conn_id = await redis_db.hget(keyspace.presence("bob"), "connId")
        kick = {"type": "kick", "user": "bob", "connId": conn_id, "token": 1, **more}
        await redis_db.publish(keyspace.gateway_channel("gateway-01"), json.dumps(kick))
        assert (await bob.closed())[0] == 4509


async def test_a_newer_session_is_not_ended(
    one: Gateway, two: Gateway, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look-up and the kick, bob has come back: the kick names the older session."""
    api = one._api
    assert api is not None
    kick = api._actions.router.kick
    async with await User.register("bob", two.url) as old:

        async def late(gateway_id: str, envelope: Any) -> int:
            newer.append(await User.register("bob", two.url))
            return await kick(gateway_id, envelope)

        newer: list[User] = []
        monkeypatch.setattr(api._actions.router, "kick", late)
        reply = await backend.post("/api/disconnect", user="bob")
        assert reply.document["status"] == "kicked"
        assert (await old.closed())[0] == 4509
        (bob,) = newer
        async with bob:
            assert await bob.send("carol", "still here") == "offline"


async def test_one_device_of_a_user_is_ended_or_all_of_them(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Presence lists each; a kick names the device, or none."""

    async def device_of(running: Gateway, device: str) -> User:
        user = User("bob", await connect(running.url, proxy=None, compression=None))
        await user.say(type="register", userId="bob", device=device)
        assert (await user.hear())["type"] == "registered"
        return user

    async with (
        api_gateway(shared_server, keyspace, settings={"devices": 3}) as running,
        await Backend.connect(running) as backend,
        await device_of(running, "phone") as phone,
        await device_of(running, "laptop") as laptop,
        await device_of(running, "watch") as watch,
    ):
        told = (await backend.get("/api/presence/bob")).document
        assert {each["device"] for each in told["sessions"]} == {"phone", "laptop", "watch"}
        assert all(0 < each["leaseMs"] <= 90_000 for each in told["sessions"])
        assert (await backend.post("/api/publish", to="bob", content="Hi")).status == 200
        assert (await phone.hear())["content"] == (await laptop.hear())["content"] == "Hi"
        told = (await backend.post("/api/disconnect", user="bob", device="phone")).document
        assert [each["device"] for each in told["sessions"]] == ["phone"]
        assert (await phone.closed())[0] == 4515
        told = (await backend.post("/api/disconnect", user="bob", device="fridge")).document
        assert told == {"status": "offline", "sessions": []}

        async def two_left() -> bool:
            found = (await backend.get("/api/presence/bob")).document["sessions"]
            return len(found) == 2

        await until("the phone is gone", two_left)
        told = (await backend.post("/api/disconnect", user="bob")).document
        assert (told["status"], len(told["sessions"])) == ("kicked", 2)
        assert (await laptop.closed())[0] == (await watch.closed())[0] == 4515


async def test_nobody_is_kicked_who_is_not_there(backend: Backend) -> None:
    """The answer has no more than that."""
    assert (await backend.post("/api/disconnect", user="bob")).told == (
        200,
        {"status": "offline", "sessions": []},
    )


# --- presence --------------------------------------------------------------------------------


async def test_presence_says_what_redis_says(
    one: Gateway, two: Gateway, backend: Backend, redis_db: Any, keyspace: Keyspace
) -> None:
    """Gateway, connection and the rest of the lease; of an offline user, nothing."""
    async with await User.register("bob", two.url):
        told = (await backend.get("/api/presence/bob")).document
        assert told["online"]
        (session,) = told["sessions"]
        assert session["connId"] == await redis_db.hget(keyspace.presence("bob"), "connId")
        assert session["gatewayId"] == "gateway-02"
        assert 0 < session["leaseMs"] <= 90_000
    told = await backend.get("/api/presence/carol")
    assert told.told == (200, {"user": "carol", "online": False, "sessions": []})


FOREIGN: list[dict[str, str]] = [
    {"ts": "5"},
    {"gwId": "a b", "connId": "c"},
    {"gwId": "broadcast", "connId": "c"},
]


async def test_a_foreign_entry_is_offline(
    one: Gateway, backend: Backend, redis_db: Any, keyspace: Keyspace
) -> None:
    """A key of another type, half an entry, and a gateway that is no possible name."""
    key = keyspace.presence("bob")
    await redis_db.set(key, "text")
    assert (await backend.get("/api/presence/bob")).document["online"] is False
    for foreign in FOREIGN:
        await redis_db.delete(key)
        await redis_db.hset(key, mapping=foreign)
        assert (await backend.get("/api/presence/bob")).document["online"] is False
        assert (await backend.post("/api/disconnect", user="bob")).document["status"] == "offline"
    await redis_db.delete(key)


async def test_users_are_listed_page_by_page(
    one: Gateway, backend: Backend, redis_db: Any, keyspace: Keyspace
) -> None:
    """Each of them is on a page; what is no user's entry is on none."""
    names = {f"user-{n}" for n in range(40)}
    for name in (*names, "no user"):
        await redis_db.hset(keyspace.presence(name), mapping={"gwId": "g", "connId": "c"})
    found, cursor = set[str](), "0"
    while True:
        # The keys of other tests are on the same server: in smaller steps, it would be too often.
        page = (await backend.get(f"/api/presence?cursor={cursor}&count=20")).document
        found |= {*page["users"]}
        cursor = page["cursor"]
        if cursor == "0":
            break
    assert found == names
    for name in (*names, "no user"):
        await redis_db.delete(keyspace.presence(name))


# --- the key ---------------------------------------------------------------------------------

STRANGERS = {
    "no key": head("GET /api/presence", key=None),
    "another key": head("GET /api/presence", key=f"Bearer {'x' * 32}"),
    "a part of the key": head("GET /api/presence", key=BEARER[:-1]),
    "the key and more": head("GET /api/presence", key=f"{BEARER}0"),
    "no scheme": head("GET /api/presence", key=KEY.decode()),
    "basic": head("GET /api/presence", key=f"Basic {KEY.decode()}"),
    "an empty key": head("GET /api/presence", key="Bearer "),
    "twice": head("GET /api/presence", {"authorization": BEARER}),
    "an unknown path": head("GET /nothing", key=None),
    "the description": head("GET /openapi.json", key=None),
    "another method": head("DELETE /api/publish", key=None),
    "no HTTP": b"hello\r\n\r\n",
    "a huge head": head("GET /api/presence", {"X": "x" * 40_000}),
    "a huge body": head("POST /api/publish", {"Content-Length": "99999999"}, key=None),
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "no host": f"GET / HTTP/1.1\r\nAuthorization: {BEARER}\r\n\r\n".encode(),
}


@pytest.mark.parametrize("request_", STRANGERS.values(), ids=STRANGERS)
async def test_a_stranger_learns_nothing(one: Gateway, request_: bytes) -> None:
    """Every request without the key gets the same bytes, and the connection ends (A2)."""
    async with await Backend.connect(one) as stranger:
        stranger.say(request_)
        assert await stranger.rest() == UNAUTHORIZED
    assert one.stats()["counters"]["api_requests_unauthenticated"] == 1


async def test_every_stranger_waits_as_long(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """No answer before `auth_delay_s` has passed, whatever was wrong."""
    loop = asyncio.get_running_loop()
    async with api_gateway(shared_server, keyspace, auth_delay_s=0.3) as running:
        for request_ in STRANGERS.values():
            async with await Backend.connect(running) as stranger:
                began = loop.time()
                stranger.say(request_)
                assert await stranger.rest() == UNAUTHORIZED
                assert loop.time() - began >= 0.29


async def test_the_port_of_users_has_no_server_api(one: Gateway) -> None:
    """Not even with the key: there is no such page."""
    for path in ("/api/presence", "/api/publish", "/openapi.json"):
        assert (await http_get(one.port, path))[0] == 404


async def test_the_key_is_in_no_log_and_no_text_of_the_settings(
    one: Gateway, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """A log is read by many."""
    assert (await backend.get("/api/presence/bob")).status == 200
    assert KEY.decode() not in caplog.text
    assert KEY.decode() not in repr(one.settings)
    assert KEY.decode() not in str(one.stats())


# --- HTTP ------------------------------------------------------------------------------------


async def test_requests_may_follow_each_other_without_waiting(backend: Backend) -> None:
    """Pipelined requests are answered in their order, one by one."""
    backend.say(b"".join(head(f"GET /api/presence/u{n}") for n in range(50)))
    for n in range(50):
        assert (await backend.hear()).document["user"] == f"u{n}"


async def test_a_request_may_arrive_byte_by_byte(backend: Backend) -> None:
    """Where the packets end means nothing."""
    for byte in post("/api/publish", {"to": "bob", "content": "é", "id": "1"}):
        backend.say(bytes([byte]))
        await asyncio.sleep(0)
    assert (await backend.hear()).document["status"] == "offline"


@pytest.mark.parametrize(
    ("target", "user"),
    {"%62ob": "bob", "b%C3%A9": "bé", "a%2Fb": "a/b", "%25": "%", "a+b": "a+b"}.items(),
)
async def test_a_name_may_be_percent_encoded(backend: Backend, target: str, user: str) -> None:
    """A plus sign in a path is a plus sign; a slash that is encoded does not end the name."""
    told = await backend.get(f"/api/presence/{target}")
    assert told.told == (200, {"user": user, "online": False, "sessions": []})


async def test_head_is_get_without_the_body(backend: Backend) -> None:
    """With the length of the body that is left out; the connection goes on."""
    full = await backend.get("/api/presence/bob")
    backend.say(head("HEAD /api/presence/bob"))
    bare = await backend.hear(is_head=True)
    assert bare.status == 200
    assert bare.headers["content-length"] == full.headers["content-length"]
    assert (await backend.get("/api/presence/bob")).status == 200


async def test_a_client_that_asks_may_send_its_body(backend: Backend) -> None:
    """`Expect: 100-continue` is answered before the body comes."""
    request = post("/api/publish", {"to": "bob", "content": "x", "id": "1"})
    start, _, body = request.partition(b"\r\n\r\n")
    backend.say(start + b"\r\nExpect: 100-continue\r\n\r\n")
    told = await asyncio.wait_for(backend.reader.readuntil(b"\r\n\r\n"), 10)
    assert told.startswith(b"HTTP/1.1 100 ")
    backend.say(body)
    assert (await backend.hear()).status == 200


async def test_a_client_that_sends_no_more_gets_its_answer(backend: Backend) -> None:
    """Half-closed connections are answered to the end."""
    backend.say(head("GET /api/presence/bob") + head("GET /api/presence/carol"))
    backend.writer.write_eof()
    assert (await backend.hear()).document["user"] == "bob"
    assert (await backend.hear()).document["user"] == "carol"
    assert await backend.rest() == b""


async def test_a_stranger_that_sends_no_more_gets_the_usual_answer(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Also when its end comes before it is time for the answer."""
    async with api_gateway(shared_server, keyspace, auth_delay_s=0.2) as running:
        async with await Backend.connect(running) as stranger:
            stranger.say(head("GET /api/presence", key=None))
            stranger.writer.write_eof()
            assert await stranger.rest() == UNAUTHORIZED


async def test_who_wants_to_end_is_hung_up_on(backend: Backend) -> None:
    """`Connection: close` ends the connection after the answer."""
    backend.say(head("GET /api/presence/bob", {"Connection": "close"}))
    assert (await backend.hear()).headers["connection"] == "close"
    assert await backend.rest() == b""


async def test_too_many_requests_are_refused_for_a_while(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """All who know the key share one rate."""
    async with api_gateway(shared_server, keyspace, api_burst=3, api_requests_per_s=0.01) as one:
        async with await Backend.connect(one) as backend:
            told = [(await backend.get("/api/presence/bob")).status for _ in range(4)]
        assert told == [200, 200, 200, 429]
        assert (await once(one, head("GET /api/presence"))).told == (429, "rate_limited")


async def test_connections_have_a_limit(one: Gateway) -> None:
    """One more is hung up on without a byte; when one goes, another may come."""
    many = [await Backend.connect(one) for _ in range(MAX_CONNECTIONS)]
    assert (await many[-1].get("/api/presence/bob")).status == 200
    async with await Backend.connect(one) as late:
        late.say(head("GET /api/presence/bob"))
        assert await late.rest() == b""
    async with many.pop():
        pass
    await until("a place", lambda: one._gauges()["api_connections"][1]() < MAX_CONNECTIONS)
    assert (await once(one, head("GET /api/presence/bob"))).status == 200
    for backend in many:
        async with backend:
            pass


@pytest.mark.parametrize("sent", [b"", b"GET /api/pres", head("GET /x")[:-2]])
async def test_a_head_that_does_not_come_is_not_waited_for(
    one: Gateway, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends without a byte."""
    assert HEAD_S == 5.0
    monkeypatch.setattr("wsdemo.gateway.api.http.HEAD_S", 0.1)
    async with await Backend.connect(one) as slow:
        slow.say(sent)
        assert await slow.rest() == b""


async def test_a_second_head_that_does_not_come_is_not_waited_for(
    one: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deadline begins with its first byte; without one, a connection may be idle for longer."""
    monkeypatch.setattr("wsdemo.gateway.api.http.HEAD_S", 0.1)
    async with await Backend.connect(one) as slow, await Backend.connect(one) as idle:
        assert (await idle.get("/api/presence/bob")).status == 200
        assert (await slow.get("/api/presence/bob")).status == 200
        slow.say(b"GET")
        assert await slow.rest() == b""
        assert (await idle.get("/api/presence/bob")).status == 200


async def test_a_connection_that_is_idle_for_long_ends(
    one: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a byte."""
    monkeypatch.setattr("wsdemo.gateway.api.http.IDLE_S", 0.1)
    async with await Backend.connect(one) as idle:
        assert (await idle.get("/api/presence/bob")).status == 200
        assert await idle.rest() == b""


async def test_a_body_that_does_not_come_is_not_waited_for(
    one: Gateway, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who knows the key is told why."""
    monkeypatch.setattr("wsdemo.gateway.api.http.BODY_S", 0.1)
    backend.say(post("/api/publish", {"to": "bob"})[:-1])
    assert (await backend.hear()).told == (408, "too_slow")
    assert await backend.rest() == b""


async def test_a_body_that_ends_too_early_is_refused(backend: Backend) -> None:
    """Who sends half a message gets an answer, if it still reads."""
    backend.say(post("/api/publish", {"to": "bob", "content": "Hi"})[:-5])
    backend.writer.write_eof()
    assert (await backend.hear()).told == (400, "bad_body")
    assert await backend.rest() == b""


async def test_a_backend_that_vanishes_is_no_error(one: Gateway) -> None:
    """Before its request, in the middle of it, and before the answer."""
    for sent in (b"", b"GET /api", post("/api/publish", {"to": "bob"})[:-3], head("GET /x")):
        backend = await Backend.connect(one)
        backend.say(sent)
        end = backend.writer.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        backend.writer.transport.abort()
    await until("nobody is left", lambda: one._gauges()["api_connections"][1]() == 0)
    assert one.counters.unhandled_errors == 0


# --- life ------------------------------------------------------------------------------------


async def test_a_drain_ends_open_connections(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Idle ones and those in the middle of a request; no connection is waited for in vain."""
    async with api_gateway(shared_server, keyspace) as running:
        async with (
            await Backend.connect(running) as idle,
            await Backend.connect(running) as begun,
            await Backend.connect(running) as silent,
        ):
            assert (await idle.get("/api/presence/bob")).status == 200
            begun.say(b"GET /api")
            async with asyncio.timeout(running.settings.limits.drain_s):
                await running.stop()
            assert [await each.rest() for each in (idle, begun, silent)] == [b"", b"", b""]
            with pytest.raises(OSError):
                await Backend.connect(running)


async def test_a_port_that_is_taken_is_said(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """The gateway does not start, and leaves nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"127.0.0.1:{port}: Address already in use"):
            async with api_gateway(shared_server, keyspace, api_port=port):
                pass


async def test_without_it_a_gateway_has_no_trace_of_it(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """No port, no counter, no gauge."""
    async with gateway(shared_server, keyspace) as running:
        assert running.api_url == ""
        assert not [name for name in running.stats()["counters"] if name.startswith("api")]
        assert not [family for family in running.metrics() if "api" in family.name]


async def test_requests_are_counted_by_their_outcome(one: Gateway, backend: Backend) -> None:
    """In `/stats` and in `/metrics`."""
    assert (await backend.get("/api/presence/bob")).status == 200
    assert (await backend.get("/api/nothing")).status == 404
    counters = json.loads((await http_get(one.port, "/stats"))[1])["counters"]
    assert (counters["api_requests_ok"], counters["api_requests_refused"]) == (1, 1)
    assert (await once(one, post("/api/publish", b"x" * 70_000))).status == 413
    assert (await once(one, head("GET /", key=None))).status == 401
    assert one.stats()["counters"]["api_requests_refused"] == 2
    assert one.stats()["counters"]["api_requests_unauthenticated"] == 1
    text = (await http_get(one.port, "/metrics"))[1]
    assert 'wsdemo_api_requests_total{outcome="ok"} 1.0' in text
    assert "wsdemo_api_connections 1.0" in text


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 31, b"x" * 40 + b" y", "é".encode() * 20])
def test_a_key_has_to_be_long_and_to_fit_into_a_header(key: bytes) -> None:
    """Or the gateway does not start; the key itself is not repeated."""
    with pytest.raises(ValueError, match="needs a key of at least 32") as problem:
        GatewaySettings(gateway_id="g", api=ApiSettings(api_key=key))
    assert not key or key.decode() not in str(problem.value)
