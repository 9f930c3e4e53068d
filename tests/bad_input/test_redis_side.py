"""Redis: what if somebody else writes to it? (bad input 78 to 80)

Whoever may write there is trusted with a lot: a well-formed envelope is believed, so `from` can be
forged by who can publish ("forged" in the list), and a valid kick or takeover is obeyed. What
is claimed here is that nothing which is not well formed is believed, and that nothing at all ends
the loop that listens.
"""

from __future__ import annotations

import json
from typing import Any

from tests.bad_input.conftest import Start, inputs
from tests.processes import User
from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.settings import Keyspace


def envelope(**fields: Any) -> bytes:
    """Return a direct message for the neighbour, but for these fields; None leaves one out."""
    usual = {"type": "direct", "from": "mallory", "to": "neighbour-0", "content": "forged"}
    return json.dumps({k: v for k, v in (usual | fields).items() if v is not None}).encode()


NOT_OURS: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"hello",
    "half of it": envelope()[:-10],
    "two of them": envelope() * 2,
    "not UTF-8": b"\xff\xfe",
    "not UTF-8 in the content": envelope().replace(b"forged", b"\xff\xfe"),
    "not UTF-8 in the recipient": envelope().replace(b"neighbour-0", b"\xff\xfe"),
    "UTF-16": envelope().decode().encode("utf-16"),
    "a list": b"[]",
    "a list of one": b"[%b]" % envelope(),
    "a number": b"7",
    "null": b"null",
    "an empty object": b"{}",
    "no type": envelope(type=None),
    "an unknown type": envelope(type="dance"),
    "a client's type": envelope(type="message"),
    "a type of another case": envelope(type="Direct"),
    "type of a wrong type": envelope(type=7),
    "no recipient": envelope(to=None),
    "a recipient of a wrong type": envelope(to=7),
    "no sender": b'{"type":"direct","to":"neighbour-0","content":"x"}',
    "a sender of a wrong type": envelope(**{"from": ["mallory"]}),
    "no content": envelope(content=None),
    "content that is a number": envelope(content=7),
    "content that is an object": envelope(content={"type": "message"}),
    "content null": envelope().replace(b'"forged"', b"null"),
    "content with half of a character": envelope().replace(b"forged", b"\\ud800"),
    "a sender with half of a character": envelope().replace(b"mallory", b"\\udc00"),
    "an id with half of a character": envelope(id="7").replace(b'"7"', b'"\\ud800"'),
    "a raw line feed in the content": envelope().replace(b"forged", b"\n"),
    "an id of a wrong type": envelope(id=7),
    "a session of a wrong type": envelope(toConn=7),
    "a token of a wrong type": envelope(epoch="7"),
    "a token that is no integer": envelope(epoch=1.5),
    "a token of 5,000 digits": envelope(epoch=0).replace(b": 0", b": " + b"9" * 5_000),
    "1 MB of content": envelope(content="x" * 1_000_000),
    "1 MB of sender": envelope(**{"from": "m" * 1_000_000}),
    "1 MB of spaces": envelope() + b" " * 1_000_000,
    "a depth of 50,000": b"[" * 50_000 + b"]" * 50_000,
    "a depth in an unknown field": b'{"x":%b,%b' % (b"[" * 20_000 + b"]" * 20_000, envelope()[1:]),
    "a broadcast without content": b'{"type":"broadcast"}',
    "a broadcast of a number": b'{"type":"broadcast","content":7}',
    "a kick of nobody": b'{"type":"kick"}',
    "a kick without a token": b'{"type":"kick","user":"neighbour-0","connId":"x"}',
    "a bounce of nothing": b'{"type":"bounce"}',
    "a probe of nobody": b'{"type":"probe"}',
    "a takeover by nobody": b'{"type":"takeover"}',
}
NOT_FOR_US: dict[str, bytes] = {
    "for nobody": envelope(to=""),
    "for an absent user": envelope(to="nobody"),
    "for another session": envelope(toConn="c1", epoch=1),
    "for another session, with the highest token": envelope(toConn="c1", epoch=2**63 - 1),
    "for another session, with a negative token": envelope(toConn="c1", epoch=-(2**63)),
    "for a pattern": envelope(to="neighbour-*"),
    "for a name with NUL": envelope(to="neighbour-0\0"),
    "from a gateway that cannot be": envelope(to="nobody", fromGw="a b*", fromConn="c"),
    "from everybody's gateway": envelope(to="nobody", fromGw="broadcast", fromConn="c"),
    "with an id of 100,000": envelope(to="nobody", id="i" * 100_000),
}


@inputs(
    {name: (data, "malformed_envelopes") for name, data in NOT_OURS.items()}
    | {name: (data, "bounces_sent") for name, data in NOT_FOR_US.items()}
)
async def test_a_malformed_envelope_is_dropped_and_counted(
    one: Gateway, redis_db: Any, keyspace: Keyspace, case: tuple[bytes, str]
) -> None:
    """The next envelope is read; an envelope for somebody else is not delivered here
    (bad input 78).
    """
    data, counter = case
    channel = keyspace.gateway_channel("gateway-01")
    async with await User.register("alice", one.url) as alice:
        assert await redis_db.publish(channel, data) == 1
        await redis_db.publish(channel, envelope(to="alice", content="after it"))
        heard = await alice.hear()
        assert heard == {"type": "message", "from": "mallory", "content": "after it"}
    assert getattr(one.counters, counter) == 1
    assert one.counters.messages_delivered == 1


HALVES: dict[str, dict[str, str]] = {
    "only a time, as the Go demo leaves it": {"ts": "1"},
    "no session": {"gwId": "gateway-01"},
    "no gateway": {"connId": "c", "epoch": "1"},
    "both empty": {"gwId": "", "connId": ""},
    "an empty gateway": {"gwId": "", "connId": "c"},
    "an empty session": {"gwId": "gateway-01", "connId": ""},
    "other fields": {"gateway": "gateway-01", "conn": "c"},
}


@inputs(HALVES | {"a text": "gateway-01", "a list": ["gateway-01"]})
async def test_an_incomplete_presence_entry_means_offline(
    one: Gateway, redis_db: Any, keyspace: Keyspace, case: Any
) -> None:
    """It is counted; a key of another Redis type makes that one message fail (bad input 79)."""
    key = keyspace.presence("ghost")
    match case:
        case dict():
            await redis_db.hset(key, mapping=case)
        case list():
            await redis_db.rpush(key, *case)
        case _:
            await redis_db.set(key, case)
    async with await User.register("alice", one.url) as alice:
        status = await alice.send("ghost", "x")
        await alice.say(type="ping")
        assert await alice.hear() == {"type": "pong"}
    await redis_db.delete(key)
    if isinstance(case, dict):
        assert (status, one.counters.malformed_presence) == ("offline", 1)
    else:
        assert status == "busy"


@inputs(
    {
        repr(gateway_id): gateway_id
        for gateway_id in (
            *("gateway-*", "gateway-0?", "[a-z]", "gateway-01\n", "\ngateway-01", "a b", "a:b"),
            *("../gateway-01", "gateway-01\0", "é", "x" * 65, "broadcast", "\\", '"', "{}", "%00"),
        )
    }
    | {"not UTF-8": b"\xff\xfe"}
)
async def test_a_presence_entry_with_an_invalid_gateway_id_means_offline(
    one: Gateway, redis_db: Any, keyspace: Keyspace, case: str | bytes
) -> None:
    """It is counted. The id would become part of a channel's name, perhaps that of the broadcasts
    (bad input 80).
    """
    key = keyspace.presence("ghost")
    await redis_db.hset(key, mapping={"gwId": case, "connId": "c", "ts": "1", "epoch": "1"})
    async with await User.register("alice", one.url) as alice:
        assert await alice.send("ghost", "x") == "offline"
    await redis_db.delete(key)
    assert one.counters.malformed_presence == 1


@inputs(
    {
        token: token
        for token in ("inf", "-inf", "nan", "1e308", "9" * 400, "-1", "0x10", "x", "", '1,"to":"x"')
    }
)
async def test_an_entry_with_an_invalid_token_still_names_its_session(
    start: Start, redis_db: Any, keyspace: Keyspace, case: str
) -> None:
    """The ack "routed" stays true: the session is found by its connection."""
    here, there = await start(), await start("gateway-02")
    async with (
        await User.register("alice", here.url) as alice,
        await User.register("bob", there.url) as bob,
    ):
        await redis_db.hset(keyspace.presence("bob"), "epoch", case)
        assert await alice.send("bob", "x") == "routed"
        assert (await bob.hear())["content"] == "x"
        await redis_db.delete(keyspace.presence("bob"))


async def test_two_thousand_malformed_envelopes_do_not_end_the_subscription(
    start: Start, redis_db: Any, keyspace: Keyspace
) -> None:
    """In one pipeline; then a message comes through."""
    one = await start()
    channel = keyspace.gateway_channel("gateway-01")
    small = [data for data in NOT_OURS.values() if len(data) < 10_000]
    async with await User.register("alice", one.url) as alice:
        pipeline = redis_db.pipeline(transaction=False)
        for n in range(2_000):
            pipeline.publish(channel, small[n % len(small)])
        pipeline.publish(channel, envelope(to="alice", content="after them"))
        await pipeline.execute()
        assert (await alice.hear())["content"] == "after them"
    await until("all are counted", lambda: one.counters.malformed_envelopes == 2_000)
