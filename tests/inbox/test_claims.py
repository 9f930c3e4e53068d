"""Do the scripts of the inbox keep their promises, on a real server?

Named after the promises D1 to D7. What holds under random accidents is `test_random.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import msgspec
import pytest

from tests.hearing import HEARD_S, confirmed_async
from tests.inbox.box import Box, box_on, ids
from tests.inbox.world import lasting
from wsdemo.inbox import Inbox, StoreOutcome
from wsdemo.inbox.store import SEND
from wsdemo.redis.outcome import CommandError, Outcome
from wsdemo.redis.scripts import Script
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

BoxWith = Callable[..., AbstractAsyncContextManager[Box]]
Hints = Callable[[], Awaitable[list[str]]]
"""Gives the offsets of the hints that have come since it was called last."""
DUPLICATE = StoreOutcome.DUPLICATE
STORED = StoreOutcome.STORED


@pytest.fixture
async def box(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Box]:
    async with box_on(shared_server, keyspace) as made:
        yield made


@pytest.fixture
def box_with(shared_server: BundledServer, keyspace: Keyspace) -> BoxWith:
    return partial(box_on, shared_server, keyspace)


async def stored(box: Box, *msg_ids: str, content: str = "x") -> list[str]:
    """Store messages; return their offsets."""
    replies = [await box.send(msg_id, content) for msg_id in msg_ids]
    assert {reply.outcome for reply in replies} == {STORED}
    return [reply.offset for reply in replies]


# --- storing -----------------------------------------------------------------------------------


async def test_what_is_stored_can_be_read_in_its_order(box: Box) -> None:
    """D1, D5."""
    offsets = await stored(box, "1", "2", "3")
    page = await box.read()
    assert ids(page) == ["1", "2", "3"]
    assert [offset.decode() for offset, _ in page.rows] == offsets
    assert [offset.split("-")[0] for offset in offsets] == ["1", "2", "3"]
    assert page.last == offsets[-1] == await box.last()
    assert page.rows[0][1] == b'{"type":"message","from":"alice","content":"x","id":"1"'


async def test_the_same_id_is_stored_once(box: Box) -> None:
    """D4: and the answer names the offset that the message has."""
    first = await box.send("1")
    again = await box.send("1", "another text")
    assert (again.outcome, again.offset, again.epoch) == (DUPLICATE, first.offset, first.epoch)
    assert len((await box.read()).rows) == 1


async def test_an_id_belongs_to_its_sender(box: Box) -> None:
    """Also when names and ids have colons: nobody can take away another user's id."""
    for sender, msg_id in (("x", "y:z"), ("x:y", "z"), ("x%3Ay", "z"), ("x", "z")):
        assert (await box.send(msg_id, sender=sender)).outcome is STORED
    assert box.id_key("a", "b", "c") != box.id_key("a:b", "c", "")


async def test_the_id_of_a_message_that_was_lost_is_stored_anew(box: Box) -> None:
    """D4 ends where Redis has lost the inbox: `duplicate` would hide a loss."""
    await stored(box, "1")
    await box.link.call("DEL", box.stream, box.meta)
    await stored(box, "2")
    assert (await box.send("1")).outcome is STORED
    assert ids(await box.read()) == ["2", "1"]


async def test_a_new_inbox_has_nothing_of_the_old_one(box: Box) -> None:
    """When Redis has lost only what it knew of the inbox, by sending and by reading."""
    await stored(box, "1", "2")
    await box.link.call("DEL", box.meta)
    await stored(box, "3")
    assert ids(await box.read()) == ["3"]
    await box.link.call("DEL", box.meta)
    page = await box.read()
    assert (ids(page), page.last) == ([], "0-0")
    assert not await box.link.call("EXISTS", box.stream)


async def test_lives_are_those_of_the_settings(box_with: BoxWith) -> None:
    """The messages live for the retention, what is known of them twice as long."""
    async with box_with(retention_s=1000, dedup_s=500) as box:
        await stored(box, "1")
        keys = {box.stream: 1000, box.meta: 2000, box.id_key("bob", "alice", "1"): 500}
        for key, life_s in keys.items():
            assert life_s - 20 < int(await box.link.call("TTL", key)) <= life_s
        await box.link.call("PEXPIRE", box.meta, 5000)
        await box.read()
        assert int(await box.link.call("TTL", box.meta)) > 1900


# --- bounds ------------------------------------------------------------------------------------


async def test_the_oldest_go_when_there_are_too_many(box_with: BoxWith) -> None:
    async with box_with(inbox_messages=3, durable_window=2) as box:
        first, second, *_ = await stored(box, "1", "2", "3", "4")
        reply = await box.send("5")
        assert (reply.trimmed_by_number, reply.trimmed_by_bytes) == (1, 0)
        epoch = reply.epoch
        assert int(await box.link.call("XLEN", box.stream)) == 3
        for position in ((epoch, "0-0"), (epoch, first)):
            page = await box.read(position)
            assert (page.recovered, ids(page), page.since) == (False, ["3", "4", "5"], second)
        page = await box.read((epoch, second))
        assert (page.recovered, ids(page)) == (True, ["3", "4", "5"]), "second was read: no gap"


async def test_the_oldest_go_when_they_are_too_large(box_with: BoxWith) -> None:
    """Whatever was acknowledged before: the size is that of what is there."""
    async with box_with(inbox_bytes=1000, page_bytes=1000) as box:
        await box.owner("c1")
        offsets = await stored(box, "1", "2", content="x" * 300)
        await box.ack(((await box.read()).epoch, offsets[0]))
        trimmed = 0
        for n in range(3, 9):
            reply = await box.send(str(n), "x" * 300)
            trimmed += reply.trimmed_by_bytes
            assert reply.trimmed_by_number == 0
            rows = await box.link.call("XRANGE", box.stream, "-", "+")
            assert sum(len(fields[1]) for _, fields in rows) <= 1000
            assert len(rows) == 2
        assert trimmed == 5


async def test_a_message_larger_than_an_inbox_is_stored_alone(box_with: BoxWith) -> None:
    async with box_with(inbox_bytes=100, page_bytes=100) as box:
        await stored(box, "1", "2", content="x" * 300)
        assert ids(await box.read()) == ["2"]


async def test_a_page_ends_at_its_limits(box_with: BoxWith) -> None:
    """By the number of messages, by their bytes; and the first one is always on it."""
    async with box_with(page_messages=3, page_bytes=500) as box:
        await stored(box, *"12345")
        page = await box.read()
        assert ids(page) == ["1", "2", "3"]
        assert ids(await box.read(most=2)) == ["1", "2"]
        rest = await box.read((page.epoch, page.rows[-1][0].decode()))
        assert (rest.recovered, ids(rest)) == (True, ["4", "5"])
        await box.link.call("DEL", box.stream, box.meta)
        await stored(box, *"678", content="x" * 300)
        assert ids(await box.read()) == ["6"]
        await stored(box, "9")


# --- positions ---------------------------------------------------------------------------------


async def test_who_was_never_here_is_told_that_nobody_knows(box: Box) -> None:
    """D2: what was before the first acknowledgement of anybody is not known."""
    assert not (await box.read()).recovered
    await stored(box, "1")
    page = await box.read()
    assert (page.recovered, ids(page)) == (False, ["1"])


async def test_a_reset_counts_as_told_when_it_was_acknowledged(box: Box) -> None:
    """What was told may be lost on the wire: until the client confirms it, it is told again."""
    await box.owner("c1")
    page = await box.read()
    assert not page.recovered
    page = await box.read()
    assert not page.recovered, "it was only read"
    assert await box.ack((page.epoch, page.since)) == 0
    assert (await box.read()).recovered


async def test_without_a_position_it_goes_on_after_the_last_acknowledgement(box: Box) -> None:
    await box.owner("c1")
    offsets = await stored(box, "1", "2", "3")
    epoch = (await box.read()).epoch
    assert await box.ack((epoch, offsets[1])) == 2
    page = await box.read()
    assert (page.recovered, ids(page), page.since) == (True, ["3"], offsets[1])
    assert await box.ack((epoch, offsets[2])) == 1
    page = await box.read()
    assert (page.recovered, ids(page), page.since) == (True, [], offsets[2])
    (fourth,) = await stored(box, "4")
    page = await box.read((epoch, offsets[2]))
    assert (page.recovered, ids(page), page.last) == (True, ["4"], fourth)


async def test_another_message_with_the_same_number_is_noticed(box: Box) -> None:
    """D2, D7: a server came back with less than it had, and nobody was told."""
    await box.owner("c1")
    offsets = await stored(box, "1", "2")
    epoch = (await box.read()).epoch
    saved = {key: await box.link.call("DUMP", key) for key in (box.stream, box.meta)}
    lost = await stored(box, "3", "4")
    for key, value in saved.items():
        await box.link.call("RESTORE", key, 60_000, value, "REPLACE")
    await stored(box, "5", "6", "7")
    for offset in lost:
        page = await box.read((epoch, offset))
        assert (page.recovered, ids(page)) == (False, ["1", "2", "5", "6", "7"])
        assert await box.ack((epoch, offset)) == -1, "it would take 5 and 6 away"
    assert (await box.read((epoch, offsets[1]))).recovered


async def test_the_place_before_the_oldest_message_is_known_by_its_mark(box: Box) -> None:
    """Another session has acknowledged a message with the same number: this one never saw it."""
    await box.owner("c1")
    (first,) = await stored(box, "1")
    saved = {key: await box.link.call("DUMP", key) for key in (box.stream, box.meta)}
    (lost,) = await stored(box, "2")
    for key, value in saved.items():
        await box.link.call("RESTORE", key, 60_000, value, "REPLACE")
    other, _ = await stored(box, "3", "4")
    epoch = (await box.read()).epoch
    assert await box.ack((epoch, other)) == 2
    for position in (lost, first):
        page = await box.read((epoch, position))
        assert (page.recovered, ids(page), page.since) == (False, ["4"], other)
    assert (await box.read((epoch, other))).recovered


async def test_after_another_run_of_redis_everybody_is_told(box: Box) -> None:
    """D7: also who had seen nothing of what may be lost; and who never comes with a position."""
    await box.owner("c1")
    offsets = await stored(box, "1", "2")
    epoch = (await box.read()).epoch
    assert await box.ack((epoch, offsets[0])) == 1
    box.new_run("ffffffff")
    for position in ((epoch, offsets[1]), ("", "0-0")):
        page = await box.read(position)
        assert not page.recovered
        assert page.epoch == f"{epoch.partition('.')[0]}.ffffffff"
    assert ids(page) == ["2"]
    assert await box.ack((epoch, offsets[1])) == -1, "of the run before"


async def test_a_lost_stream_is_noticed(box: Box) -> None:
    """An eviction, or the end of its life: what the client has not seen is missing."""
    await box.owner("c1")
    first, second = await stored(box, "1", "2")
    epoch = (await box.read()).epoch
    await box.link.call("DEL", box.stream)
    page = await box.read((epoch, first))
    assert (page.recovered, page.since) == (False, second)
    assert (await box.read((epoch, second))).recovered, "nothing is missing after this one"
    await stored(box, "3")
    page = await box.read((epoch, first))
    assert (page.recovered, ids(page), page.since) == (False, ["3"], second)


@pytest.mark.parametrize(
    "position",
    [
        ("000000000000.00000000", "1-1"),
        ("nonsense", "1-1"),
        ("", "999999999999999-999999999999999"),
        (".", "0-0"),
    ],
)
async def test_a_position_that_was_never_given_out_is_a_reset(
    box: Box, position: tuple[str, str]
) -> None:
    await stored(box, "1", "2")
    page = await box.read(position)
    assert (page.recovered, ids(page)) == (False, ["1", "2"])


# --- whose word counts ---------------------------------------------------------------------------


async def test_the_word_of_a_replaced_session_removes_nothing(box: Box) -> None:
    """D2: the newer session has not read it yet (P1, for messages)."""
    (first,) = await stored(box, "1")
    await box.owner("c2", token=2)
    epoch = (await box.read(conn_id="c2", token=2)).epoch
    assert await box.ack((epoch, first), conn_id="c1") == -1
    assert ids(await box.read(conn_id="c2", token=2)) == ["1"]
    await box.link.call("DEL", box.presence)
    assert await box.ack((epoch, first), conn_id="c1") == -1, "nobody owns bob"


async def test_a_replaced_session_learns_it_by_reading(box: Box) -> None:
    await box.owner("c2", token=2)
    assert await box.try_read(conn_id="c1", token=1) is None
    assert await box.try_read(conn_id="c2", token=2) is not None


async def test_a_newer_session_is_not_ended_by_an_older_one(box: Box) -> None:
    """After a loss of data an older session may claim its user for a moment: it will be told at its
    refresh, and not the newer one at its read.
    """
    await box.owner("c1", token=1)
    assert await box.try_read(conn_id="c2", token=2) is not None


async def test_an_acknowledgement_removes_what_it_names(box: Box) -> None:
    await box.owner("c1")
    offsets = await stored(box, "1", "2", "3")
    epoch = (await box.read()).epoch
    assert await box.ack((epoch, offsets[1])) == 2
    assert ids(await box.read((epoch, offsets[1]))) == ["3"]
    assert await box.ack((epoch, offsets[0])) == -1, "older than the last one"
    assert await box.ack((epoch, offsets[1])) == 0, "said again"
    assert await box.ack((epoch, "3-1")) == -1, "never given out"
    assert await box.ack((epoch, "9-1")) == -1
    assert await box.ack(("", offsets[2])) == -1
    assert ids(await box.read((epoch, offsets[1]))) == ["3"]


# --- hints ---------------------------------------------------------------------------------------


async def test_the_gateway_of_the_recipient_gets_a_hint(
    box: Box, keyspace: Keyspace, redis_db: Any
) -> None:
    """D6: which session, which epoch, which offset; not when it stores itself, or for nobody."""
    async with redis_db.pubsub() as heard:
        await heard.psubscribe(f"{keyspace.gateway_channel('')}*")
        await confirmed_async(heard)
        await stored(box, "0")
        for gateway, conn in (
            ("gateway-09", "c1"),
            ("broadcast", "c1"),
            ("a b", "c1"),
            ("x", 'c"'),
            ("g" * 65, "c1"),
            ("x", "c" * 129),
        ):
            await box.owner(conn, gateway)
            await stored(box, f"{gateway} {conn}")
            await box.read(conn_id=conn)
        await box.owner("c:1", "gateway-02")
        reply = await box.send("hinted")
        assert (reply.gateway_id, reply.conn_id) == ("gateway-02", "c:1")
        hint = await heard.get_message(ignore_subscribe_messages=True, timeout=HEARD_S)
        assert hint["channel"] == keyspace.gateway_channel("gateway-02")
        assert hint["data"] == (
            f'{{"type":"stored","toConn":"c:1","epoch":"{reply.epoch}","offset":"{reply.offset}"}}'
        )
        assert await heard.get_message(ignore_subscribe_messages=True, timeout=0.01) is None


@pytest.fixture
async def listening(keyspace: Keyspace, redis_db: Any) -> AsyncIterator[Hints]:
    """What the gateway of bob hears; nobody is told twice before it has read."""
    channel = keyspace.gateway_channel("gateway-02")
    async with redis_db.pubsub() as heard:
        await heard.subscribe(channel)
        await confirmed_async(heard)

        async def hints() -> list[str]:
            found = []
            await redis_db.publish(channel, "end")
            while (hint := await heard.get_message(timeout=HEARD_S))["data"] != "end":
                found.append(msgspec.json.decode(hint["data"])["offset"])
            return found

        yield hints


@pytest.fixture
async def patient(box_with: BoxWith, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Box]:
    """An inbox in which a hint stands for ever."""
    monkeypatch.setattr(Inbox, "send_script", Script("send", lasting(SEND.text)))
    async with box_with() as box:
        await box.owner("c1", "gateway-02")
        yield box


async def test_who_was_told_is_not_told_again_before_it_has_read(
    patient: Box, listening: Hints
) -> None:
    """All that is stored until then is read as well."""
    first, *_ = await stored(patient, "1", "2", "3")
    assert await listening() == [first]
    assert len((await patient.read()).rows) == 3
    fourth, _ = await stored(patient, "4", "5")
    assert await listening() == [fourth]


async def test_a_session_that_was_replaced_reads_for_nobody(patient: Box, listening: Hints) -> None:
    """What it asks for is not answered, so the newer session is still told."""
    await stored(patient, "1")
    await patient.owner("c2", "gateway-02", token=2)
    assert await patient.try_read(conn_id="c1", token=1) is None
    await stored(patient, "2")
    assert len(await listening()) == 1


async def test_a_gateway_that_does_not_hear_is_told_each_time(
    patient: Box, keyspace: Keyspace, redis_db: Any
) -> None:
    """When it hears again, the next message tells it."""
    for msg_id in "12":
        assert (await patient.send(msg_id)).gateway_id == "gateway-02"
    async with redis_db.pubsub() as heard:
        await heard.subscribe(keyspace.gateway_channel("gateway-02"))
        await confirmed_async(heard)
        await stored(patient, "3")
        assert await heard.get_message(ignore_subscribe_messages=True, timeout=HEARD_S)


async def test_the_gateway_that_stores_is_told_once_by_the_answer(patient: Box) -> None:
    await patient.owner("c1", "gateway-09")
    assert (await patient.send("1")).conn_id == "c1"
    assert (await patient.send("2")).conn_id == ""
    await patient.read()
    assert (await patient.send("3")).conn_id == "c1"


async def test_a_hint_stands_for_a_moment_only(box: Box, listening: Hints) -> None:
    """It may have been lost: then a later message tells it again."""
    await box.owner("c1", "gateway-02")
    number, told = 0, 0
    async with asyncio.timeout(10):
        while told < 2:
            number += 1
            await stored(box, str(number))
            told += len(await listening())
    assert number > 2, "not each message"


async def test_a_stream_that_was_lost_gets_a_new_life(patient: Box, listening: Hints) -> None:
    """Also when whoever reads it was told already."""
    await stored(patient, "1")
    await patient.link.call("DEL", patient.stream)
    await stored(patient, "2")
    assert int(await patient.link.call("PTTL", patient.stream)) > 0
    assert len(await listening()) == 2


# --- a server that is full -----------------------------------------------------------------------


async def test_a_full_redis_stores_nothing_and_goes_on_reading(
    server: BundledServer, keyspace: Keyspace
) -> None:
    async with box_on(server, keyspace) as box:
        await box.owner("c1")
        offsets = await stored(box, "1", "2")
        await box.link.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(CommandError) as refusal:
            await box.send("3")
        assert refusal.value.outcome is Outcome.OOM
        page = await box.read()
        assert ids(page) == ["1", "2"]
        assert await box.ack((page.epoch, offsets[0])) == 1
        await box.link.call("CONFIG", "SET", "maxmemory", "0")
        assert (await box.send("3")).outcome is STORED


async def test_what_redis_is_asked_before_all_is_whether_it_may_be_used(
    box: Box, keyspace: Keyspace
) -> None:
    """And the question leaves nothing behind."""
    await box._inbox.examine("__nobody__")
    assert not await box.link.call("EXISTS", keyspace.key("inbox", "__nobody__"))
    assert not await box.link.call("EXISTS", keyspace.key("inboxmeta", "__nobody__"))
