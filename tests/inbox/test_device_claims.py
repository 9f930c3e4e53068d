"""Does each device of a user get every message, whatever the other devices have acknowledged?

Named after the promises D2 to D7, for each device. What holds under random accidents is
`test_random_devices.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest

from tests.hearing import HEARD_S, confirmed_async
from tests.inbox.box import Box, box_on, ids
from tests.inbox.test_claims import stored
from wsdemo.inbox import InboxPage
from wsdemo.inbox.devices import DEVICES_SEND
from wsdemo.inbox.store import NO_POSITION, SEND
from wsdemo.redis.outcome import CommandError, Outcome
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

BoxWith = Callable[..., AbstractAsyncContextManager[Box]]
PHONE, LAPTOP, TABLET = "phone", "laptop", "tablet"


@pytest.fixture
async def box(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Box]:
    """The inbox of bob, whose phone and laptop are connected: as c-phone and c-laptop."""
    async with box_on(shared_server, keyspace, devices=2) as made:
        for token, device in enumerate((PHONE, LAPTOP), start=1):
            await made.device(device, f"c-{device}", token)
        yield made


@pytest.fixture
def box_with(shared_server: BundledServer, keyspace: Keyspace) -> BoxWith:
    return partial(box_on, shared_server, keyspace)


async def read(box: Box, device: str, position: tuple[str, str] = NO_POSITION) -> InboxPage:
    return await box.read(position, f"c-{device}", 9, device=device)


async def ack(box: Box, device: str, position: tuple[str, str]) -> int:
    return await box.ack(position, f"c-{device}", device)


async def read_and_ack(box: Box, *devices: str) -> str:
    """Let these devices read what there is and acknowledge it; return the epoch."""
    for device in devices:
        page = await read(box, device)
        last = page.rows[-1][0].decode() if page.rows else page.since
        assert await ack(box, device, (page.epoch, last)) >= 0
    return page.epoch


async def left(box: Box) -> int:
    return int(await box.link.call("XLEN", box.stream))


# --- several cursors ---------------------------------------------------------------------------


async def test_what_one_device_has_read_is_kept_for_the_other(box: Box) -> None:
    """D2: and goes when both have it."""
    await read_and_ack(box, PHONE, LAPTOP)
    offsets = await stored(box, "1", "2", "3")
    epoch = (await read(box, PHONE)).epoch
    assert await ack(box, PHONE, (epoch, offsets[2])) == 0
    page = await read(box, LAPTOP)
    assert (page.recovered, ids(page)) == (True, ["1", "2", "3"])
    assert await ack(box, LAPTOP, (epoch, offsets[1])) == 2
    assert await ack(box, LAPTOP, (epoch, offsets[2])) == 1
    for device in (PHONE, LAPTOP):
        page = await read(box, device)
        assert (page.recovered, ids(page), page.since) == (True, [], offsets[2])


async def test_each_device_goes_on_after_its_own_acknowledgement(box: Box) -> None:
    offsets = await stored(box, "1", "2", "3")
    for device, offset, rest in ((PHONE, offsets[0], ["2", "3"]), (LAPTOP, offsets[1], ["3"])):
        epoch = (await read(box, device)).epoch
        assert await ack(box, device, (epoch, offset)) >= 0
        page = await read(box, device)
        assert (page.recovered, page.since, ids(page)) == (True, offset, rest)
        page = await read(box, device, (epoch, offsets[2]))
        assert (page.recovered, ids(page)) == (True, [])


async def test_what_is_being_read_is_held_before_it_is_acknowledged(box: Box) -> None:
    """The first page of a device that has no cursor gives it one."""
    offsets = await stored(box, "1", "2")
    page = await read(box, PHONE)
    await read(box, LAPTOP)
    assert await ack(box, LAPTOP, (page.epoch, offsets[1])) == 0
    again = await read(box, PHONE)
    assert (again.recovered, ids(again)) == (False, ["1", "2"]), "not acknowledged: not told"


async def test_what_was_only_sent_to_a_device_is_held_for_it(box: Box) -> None:
    """A server that went back has lost the cursor; the gateway reads on, and the client dies."""
    (first,) = await stored(box, "1")
    page = await read(box, PHONE)
    await box.link.call("HDEL", box.meta, f"acked:{PHONE}")
    assert (await read(box, PHONE, (page.epoch, first))).recovered
    page = await read(box, PHONE)
    assert (page.recovered, ids(page)) == (False, ["1"])


async def test_the_last_acknowledgement_of_all_is_what_one_device_goes_on_from(
    shared_server: BundledServer, keyspace: Keyspace, box: Box
) -> None:
    """A gateway with `--devices 1` loses nothing: it begins where the last device is."""
    offsets = await stored(box, "1", "2", "3")
    epoch = (await read(box, PHONE)).epoch
    await read(box, LAPTOP)
    await ack(box, LAPTOP, (epoch, offsets[0]))
    await ack(box, PHONE, (epoch, offsets[2]))
    async with box_on(shared_server, keyspace) as plain:
        await plain.owner("c1")
        plain.new_run(epoch.partition(".")[2])
        page = await plain.read()
        assert (page.recovered, page.since, ids(page)) == (True, offsets[0], ["2", "3"])
        await plain.ack((epoch, offsets[1]))
    await box.device(PHONE, f"c-{PHONE}")
    page = await read(box, PHONE)
    assert (page.recovered, page.since, ids(page)) == (True, offsets[2], [])
    page = await read(box, LAPTOP, (epoch, offsets[0]))
    assert (page.recovered, ids(page)) == (False, ["3"]), "it was taken away: told"
    assert await ack(box, PHONE, (epoch, offsets[2])) == 0, "held for the laptop"
    page = await read(box, PHONE, (epoch, offsets[1]))
    assert (page.recovered, ids(page)) == (True, ["3"]), "what was taken away last has its mark"


# --- the first time ----------------------------------------------------------------------------


async def test_the_first_device_of_a_user_gets_all_that_waits(box: Box) -> None:
    await stored(box, "1", "2")
    page = await read(box, PHONE)
    assert (page.recovered, ids(page)) == (False, ["1", "2"])


async def test_a_new_device_gets_what_no_device_has_acknowledged(box: Box) -> None:
    """No history; but what waits for a phone that is lost reaches the laptop."""
    offsets = await stored(box, "1", "2")
    await read_and_ack(box, PHONE)
    await stored(box, "3")
    page = await read(box, LAPTOP)
    assert (page.recovered, page.since, ids(page)) == (False, offsets[1], ["3"])
    assert await ack(box, LAPTOP, (page.epoch, page.since)) == 0
    assert (await read(box, LAPTOP)).recovered


async def test_a_new_device_begins_at_the_furthest_acknowledgement(box: Box) -> None:
    """Also when the device that has gone furthest is forgotten, or was behind another one."""
    offsets = await stored(box, "1", "2", "3")
    epoch = (await read(box, PHONE)).epoch
    await read(box, LAPTOP)
    await ack(box, PHONE, (epoch, offsets[2]))
    await ack(box, LAPTOP, (epoch, offsets[0]))
    await box.leave(PHONE)
    await box.device(TABLET, f"c-{TABLET}", 3)
    page = await read(box, TABLET)
    assert (page.recovered, page.since, ids(page)) == (False, offsets[2], [])


# --- devices that are away ---------------------------------------------------------------------


async def test_a_device_that_is_away_is_held_its_messages(box: Box) -> None:
    """For the retention, since it was last here."""
    await read_and_ack(box, PHONE, LAPTOP)
    await box.leave(LAPTOP)
    await stored(box, "1", "2")
    epoch = await read_and_ack(box, PHONE)
    assert await left(box) == 2
    await box.device(LAPTOP, f"c-{LAPTOP}")
    page = await read(box, LAPTOP)
    assert (page.epoch, page.recovered, ids(page)) == (epoch, True, ["1", "2"])


async def test_who_is_away_for_longer_than_the_retention_is_told_a_gap(box: Box) -> None:
    """And how many it missed, if it says where it was; then it holds nothing any longer."""
    await read_and_ack(box, PHONE, LAPTOP)
    (first,) = await stored(box, "1")
    epoch = await read_and_ack(box, LAPTOP, PHONE)
    await box.leave(LAPTOP)
    await stored(box, "2", "3")
    await box.link.call("HSET", box.meta, f"seen:{LAPTOP}", "1")
    await read_and_ack(box, PHONE)
    assert await left(box) == 0
    assert set(await box.cursors()) == {PHONE}
    await stored(box, "4")
    await box.device(LAPTOP, f"c-{LAPTOP}")
    page = await read(box, LAPTOP, (epoch, first))
    assert (page.recovered, ids(page), page.since.split("-")[0]) == (False, ["4"], "3")


async def test_who_was_connected_is_away_only_since_then(box: Box) -> None:
    """A lease that is live counts, however long ago the device has read."""
    await read_and_ack(box, PHONE, LAPTOP)
    await stored(box, "1")
    await box.link.call("HSET", box.meta, f"seen:{LAPTOP}", "1")
    await read_and_ack(box, PHONE)
    assert await left(box) == 1
    await read(box, LAPTOP)
    await box.leave(LAPTOP)
    await read_and_ack(box, PHONE)
    assert await left(box) == 1, "it was here when it read"


async def test_no_more_devices_hold_messages_than_may_be_connected(box: Box) -> None:
    """One that was evicted for good does not hold them for ever: the one seen last stays."""
    await read_and_ack(box, PHONE, LAPTOP)
    await box.leave(PHONE)
    await box.leave(LAPTOP)
    (first,) = await stored(box, "1")
    for device, seen in ((PHONE, 1), (LAPTOP, 2)):
        await box.link.call("HINCRBY", box.meta, f"seen:{device}", -10 + seen)
    await box.device(TABLET, f"c-{TABLET}", 3)
    page = await read(box, TABLET)
    assert set(await box.cursors()) == {LAPTOP, TABLET}
    assert await ack(box, TABLET, (page.epoch, first)) == 0
    assert set(await box.cursors()) == {LAPTOP, TABLET}
    await box.device(LAPTOP, f"c-{LAPTOP}", 4)
    page = await read(box, LAPTOP)
    assert (page.recovered, ids(page)) == (True, ["1"])


async def test_devices_that_are_connected_come_first(box: Box) -> None:
    """However long ago they have read."""
    await read_and_ack(box, PHONE, LAPTOP)
    await box.leave(LAPTOP)
    await box.link.call("HINCRBY", box.meta, f"seen:{PHONE}", -1000)
    await box.device(TABLET, f"c-{TABLET}", 3)
    await read_and_ack(box, TABLET)
    assert set(await box.cursors()) == {PHONE, TABLET}


async def test_devices_that_are_connected_all_hold_messages(box: Box) -> None:
    """Also when there are more of them than this gateway allows."""
    await box.device(TABLET, f"c-{TABLET}", 3)
    await read_and_ack(box, PHONE, LAPTOP, TABLET)
    offsets = await stored(box, "1")
    epoch = (await read(box, TABLET)).epoch
    for device, gone in ((PHONE, 0), (LAPTOP, 0), (TABLET, 1)):
        assert await ack(box, device, (epoch, offsets[0])) == gone


# --- whose word counts -------------------------------------------------------------------------


async def test_only_the_owner_of_a_device_speaks_for_it(box: Box) -> None:
    """Not another device of the same user, not a session that was replaced or has gone."""
    (first,) = await stored(box, "1")
    epoch = (await read(box, PHONE)).epoch
    await read(box, LAPTOP)
    assert await box.ack((epoch, first), "c-phone", LAPTOP) == -1
    await box.device(PHONE, "c-newer", 5)
    assert await ack(box, PHONE, (epoch, first)) == -1
    await box.device(PHONE, f"c-{PHONE}", 6, life_ms=-1)
    assert await ack(box, PHONE, (epoch, first)) == -1, "its lease has ended"
    await box.leave(PHONE)
    assert await ack(box, PHONE, (epoch, first)) == -1
    assert (await box.cursors())[PHONE] != first


async def test_who_reads_without_a_lease_holds_nothing(box: Box) -> None:
    """It was evicted, and has yet to hear so. It makes nobody forgotten either."""
    await box.leave(PHONE)
    await stored(box, "1")
    assert ids(await read(box, PHONE)) == ["1"]
    assert await box.cursors() == {}
    await read_and_ack(box, LAPTOP)
    await box.leave(LAPTOP)
    await box.link.call("HSET", box.meta, f"seen:{LAPTOP}", "1")
    await read(box, PHONE)
    assert set(await box.cursors()) == {LAPTOP}


async def test_a_replaced_session_of_a_device_ends_when_it_reads(box: Box) -> None:
    """Sessions of other devices do not; nor does one that is newer than what Redis knows."""
    await box.device(PHONE, "c-newer", 5)
    assert await box.try_read(conn_id="c-phone", token=1, device=PHONE) is None
    assert await box.try_read(conn_id="c-phone", token=9, device=PHONE) is not None
    assert await box.try_read(conn_id="c-laptop", token=2, device=LAPTOP) is not None


# --- positions ---------------------------------------------------------------------------------


async def test_another_run_of_redis_is_told_to_each_device(box: Box) -> None:
    """D7: and each goes on from its own place."""
    offsets = await stored(box, "1", "2")
    epoch = (await read(box, PHONE)).epoch
    await read(box, LAPTOP)
    await ack(box, PHONE, (epoch, offsets[1]))
    box.new_run("ffffffff")
    for device, rest in ((PHONE, []), (LAPTOP, ["1", "2"])):
        page = await read(box, device)
        assert (page.recovered, ids(page)) == (False, rest)
        assert await ack(box, device, (epoch, offsets[1])) == -1, "of the run before"
        assert await ack(box, device, (page.epoch, page.since)) >= 0
        assert (await read(box, device)).recovered
    page = await read(box, PHONE, (epoch, offsets[1]))
    assert (page.recovered, page.since) == (False, offsets[1]), "of the run before"
    page = await read(box, PHONE, ("000000000000.ffffffff", offsets[1]))
    assert not page.recovered, "of another inbox"


async def test_a_message_with_the_number_of_another_one_is_noticed(box: Box) -> None:
    """D7: a server came back with less than it had, and nobody was told."""
    await read_and_ack(box, PHONE, LAPTOP)
    (first,) = await stored(box, "1")
    saved = {key: await box.link.call("DUMP", key) for key in (box.stream, box.meta)}
    (lost,) = await stored(box, "2")
    for key, value in saved.items():
        await box.link.call("RESTORE", key, 60_000, value, "REPLACE")
    (other,) = await stored(box, "3")
    epoch = (await read(box, LAPTOP)).epoch
    assert await ack(box, PHONE, (epoch, lost)) == -1
    page = await read(box, PHONE, (epoch, lost))
    assert (page.recovered, ids(page)) == (False, ["1", "3"])
    for device in (PHONE, LAPTOP):
        assert await ack(box, device, (epoch, other)) >= 0
    assert await left(box) == 0
    assert await ack(box, PHONE, (epoch, lost)) == -1, "the place before the oldest has a mark"
    assert not (await read(box, PHONE, (epoch, lost))).recovered
    assert not (await read(box, PHONE, (epoch, first))).recovered


async def test_a_reset_that_goes_back_counts_as_told_when_it_was_acknowledged(box: Box) -> None:
    """Also when the device comes without a position next time; and what it reads is held."""
    offsets = await stored(box, "1", "2")
    epoch = (await read(box, PHONE)).epoch
    await read(box, LAPTOP)
    await ack(box, PHONE, (epoch, offsets[0]))
    page = await read(box, PHONE, (epoch, "2-77"))
    assert (page.recovered, ids(page)) == (False, ["1", "2"])
    page = await read(box, PHONE)
    assert (page.recovered, ids(page)) == (False, ["1", "2"])


async def test_who_goes_back_to_an_older_position_is_held_what_comes_after_it(box: Box) -> None:
    """Its disk was restored, perhaps."""
    offsets = await stored(box, "1", "2", "3")
    epoch = (await read(box, PHONE)).epoch
    await read(box, LAPTOP)
    assert await ack(box, PHONE, (epoch, offsets[1])) == 0
    page = await read(box, PHONE, (epoch, offsets[0]))
    assert (page.recovered, ids(page)) == (True, ["2", "3"])
    assert await ack(box, LAPTOP, (epoch, offsets[2])) == 1
    assert await ack(box, PHONE, (epoch, offsets[0])) == 0
    assert (await box.cursors())[PHONE] == offsets[0]


async def test_a_page_ends_at_its_limits(box_with: BoxWith) -> None:
    """By the number of messages, by their bytes; and the first one is always on it."""
    async with box_with(devices=2, page_messages=3, page_bytes=500) as box:
        await stored(box, *"12345")
        assert ids(await read(box, PHONE)) == ["1", "2", "3"]
        assert ids(await box.read(most=2, device=PHONE)) == ["1", "2"]
        await box.link.call("DEL", box.stream, box.meta)
        await stored(box, "6", "7", content="x" * 300)
        assert ids(await read(box, PHONE)) == ["6"]
        await box.link.call("DEL", box.stream, box.meta)
        await stored(box, "8", content="x" * 600)
        assert ids(await read(box, PHONE)) == ["8"]


async def test_what_was_trimmed_is_told_to_who_has_not_read_it(box_with: BoxWith) -> None:
    """The bounds of an inbox are above all cursors."""
    async with box_with(devices=2, inbox_messages=3, durable_window=2) as box:
        for device in (PHONE, LAPTOP):
            await box.device(device, f"c-{device}")
        await read_and_ack(box, PHONE, LAPTOP)
        first, *_ = await stored(box, "1", "2")
        epoch = await read_and_ack(box, PHONE)
        offsets = await stored(box, "3", "4", "5")
        page = await read(box, LAPTOP)
        assert (page.recovered, ids(page)) == (False, ["3", "4", "5"])
        assert await ack(box, PHONE, (epoch, offsets[2])) == 0
        assert await ack(box, LAPTOP, (epoch, first)) == -1, "it is gone"
        assert await ack(box, LAPTOP, (epoch, page.since)) == 0
        assert (await read(box, LAPTOP)).recovered
        assert await ack(box, LAPTOP, (epoch, offsets[2])) == 3
        await stored(box, "6")
        assert ids(await read(box, PHONE)) == ["6"]


async def test_a_gap_that_nothing_is_known_of_is_told_once(box: Box) -> None:
    """Somebody has deleted a message: the place where it was has no mark but the one told."""
    await read_and_ack(box, PHONE, LAPTOP)
    (first, _) = await stored(box, "1", "2")
    await box.link.call("XDEL", box.stream, first)
    page = await read(box, PHONE)
    assert (page.recovered, page.since, ids(page)) == (False, "1-0", ["2"])
    assert await ack(box, PHONE, (page.epoch, page.since)) == 0
    page = await read(box, PHONE)
    assert (page.recovered, page.since, ids(page)) == (True, "1-0", ["2"])


async def test_a_lost_inbox_begins_without_cursors(box: Box) -> None:
    """Redis has lost what it knew: nothing of it counts for the next one."""
    await stored(box, "1", "2")
    await read_and_ack(box, PHONE, LAPTOP)
    await box.link.call("HDEL", box.meta, "birth")
    page = await read(box, PHONE)
    assert (page.recovered, ids(page), page.last) == (False, [], "0-0")
    assert await box.cursors() == {PHONE: "0-0"}


# --- who is told -------------------------------------------------------------------------------


async def test_the_gateway_of_each_device_is_told(box: Box) -> None:
    """Not one whose lease has ended; the one that stores hears of its own sessions by the reply."""
    await box.device(PHONE, "c-phone", 1, "gateway-09")
    await box.device(LAPTOP, "c-laptop", 2, "gateway-02")
    await box.device(TABLET, "c-tablet", 3, "gateway-03", life_ms=-1)
    reply = await box.send("1")
    owners = {(reply.gateway_id, reply.conn_id), *reply.others}
    assert owners == {("gateway-09", "c-phone"), ("gateway-02", "c-laptop")}
    assert (await box.send("1")).others == ()
    await box.link.call("DEL", box.presence)
    reply = await box.send("2")
    assert (reply.gateway_id, reply.conn_id, reply.others) == ("", "", ())


async def test_one_session_of_a_gateway_without_devices_is_told(box: Box) -> None:
    """During a rolling upgrade."""
    await box.owner("c1", "gateway-02")
    await box.link.call("HSET", box.presence, "ts", 1)
    reply = await box.send("1")
    assert (reply.gateway_id, reply.conn_id) == ("gateway-02", "c1")


async def test_hints_say_which_session_and_nothing_foreign(
    box: Box, redis_db: Any, keyspace: Keyspace
) -> None:
    """An entry that somebody else has written must not become part of a channel or of JSON."""
    async with redis_db.pubsub() as heard:
        await heard.psubscribe(keyspace.channel_prefix + "*")
        await confirmed_async(heard)
        await box.device(PHONE, "c-phone", 1, "gateway-09")
        impossible = (("gate:way", "c1"), ("broadcast", "c1"), ("g" * 65, "c1"))
        for gateway, conn in (*impossible, ("x", 'c"'), ("x", "c" * 129)):
            await box.device(LAPTOP, conn, 2, gateway)
            reply = await box.send(f"{gateway} {conn}")
            assert (reply.gateway_id, reply.conn_id, reply.others) == ("gateway-09", "c-phone", ())
            await read(box, PHONE)
        await box.device(LAPTOP, "c:1", 2, "gateway-02")
        reply = await box.send("hinted")
        hint = await heard.get_message(ignore_subscribe_messages=True, timeout=HEARD_S)
        assert hint["channel"] == keyspace.gateway_channel("gateway-02")
        assert hint["data"] == (
            f'{{"type":"stored","toConn":"c:1","epoch":"{reply.epoch}","offset":"{reply.offset}"}}'
        )
        assert await heard.get_message(ignore_subscribe_messages=True, timeout=0.01) is None


def test_storing_is_the_same_for_users_with_one_device() -> None:
    """The scripts differ in who is told, and in nothing else."""
    common = SEND.text[: SEND.text.index("local epoch = birth")]
    assert DEVICES_SEND.text.startswith(common)


async def test_a_full_redis_goes_on_reading(server: BundledServer, keyspace: Keyspace) -> None:
    async with box_on(server, keyspace, devices=2) as box:
        await box.device(PHONE, "c-phone")
        offsets = await stored(box, "1", "2")
        await box.link.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(CommandError) as refusal:
            await box.send("3")
        assert refusal.value.outcome is Outcome.OOM
        page = await read(box, PHONE)
        assert ids(page) == ["1", "2"]
        assert await ack(box, PHONE, (page.epoch, offsets[0])) == 1


async def test_keys_that_hold_something_else_are_an_error(box: Box) -> None:
    await box.link.call("SET", box.meta, "x")
    with pytest.raises(CommandError):
        await read(box, PHONE)
    with pytest.raises(CommandError):
        await ack(box, PHONE, ("0", "1-1"))


async def test_a_hint_stands_only_when_all_devices_were_told(
    box: Box, keyspace: Keyspace, redis_db: Any
) -> None:
    """And until one of them has read. A hint of the scripts for one session stands as well."""
    async with redis_db.pubsub() as heard:
        await box.device(LAPTOP, f"c-{LAPTOP}", 2, "gateway-02")
        await heard.subscribe(keyspace.gateway_channel("gateway-01"))
        await confirmed_async(heard)
        for msg_id in "12":
            assert len((await box.send(msg_id)).others) == 1, "the laptop's gateway does not hear"
        await heard.subscribe(keyspace.gateway_channel("gateway-02"))
        await confirmed_async(heard)
        await box.send("3")
        assert int(await box.link.call("HGET", box.meta, "told") or 0) > 0
        await read(box, PHONE)
        assert await box.link.call("HGET", box.meta, "told") == b"0"
        assert len((await box.send("4")).others) == 1, "the laptop has not read, the phone has"
