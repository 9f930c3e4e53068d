"""Durable messages: what does a gateway answer to bad ones? (bad input 63, 64, 140 to 154)"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from tests.bad_input.conftest import Start, inputs
from tests.bad_input.test_fields import NOT_REGISTERED, NOT_TEXT, TOO_LARGE, UNKNOWN, said
from tests.bad_input.test_json import INVALID, PING, PONG, answer_to
from tests.gateway.cluster import Raw
from tests.waiting import until
from wsdemo.features import InboxSettings
from wsdemo.gateway.server import Gateway
from wsdemo.settings import Keyspace

WITH = {"inbox": InboxSettings(ack_every_s=0.05)}
NOT_OFFSETS = {
    "empty": "",
    "a number": "1",
    "a word": "x",
    "no mark": "1-",
    "no number": "-1",
    "negative": "-1-1",
    "hexadecimal": "0x1-1",
    "a space": "1 -1",
    "a line feed": "1-1\n",
    "a special id": "$",
    "the lowest": "-",
    "the highest": "+",
    "an open end": "(1-1",
    "16 digits": f"{10**15}-1",
    "a mark of 16 digits": f"1-{10**15}",
    "100,000 digits": "1" * 50_000 + "-1",
    "digits of another script": "١-١",
}
NOT_EPOCHS = {
    "a space": " ",
    "capitals": "ABC.DEF",
    "two points": "a.b.c",
    "long": "a" * 17,
    "long run": "a." + "b" * 17,
    "a pattern": "*",
    "NUL": "\0",
    "half of a character": "é",
}


def durable(**fields: Any) -> bytes:
    return said(**{"type": "message", "to": "mallory", "content": "x", "durable": True} | fields)


async def test_an_ack_to_a_gateway_that_stores_nothing(one: Gateway) -> None:
    """It does not know the word (bad input 63)."""
    assert await answer_to(one, said(type="ack", epoch="", offset="0-0")) == UNKNOWN


@inputs(NOT_TEXT | {"a position": {"epoch": "a.b", "offset": "1-1"}, "a text": "1-1"})
async def test_a_resume_to_a_gateway_that_stores_nothing(one: Gateway, case: Any) -> None:
    """It is no field of its (bad input 64)."""
    async with await Raw.open(one) as raw:
        raw.frame(said(type="register", userId="mallory", resume=case))
        answer = await raw.answer()
        assert answer["type"] == "registered" and "durable" not in answer
        raw.frame(PING)
        assert await raw.answer() == PONG


async def test_a_durable_message_without_an_id(start: Start) -> None:
    """The client could not repeat it without sending it twice (bad input 140)."""
    error = {"type": "error", "error": "A durable message needs an id", "code": "id_required"}
    assert await answer_to(await start(settings=WITH), durable()) == error


@inputs({name: value for name, value in NOT_TEXT.items() if name not in ("true", "false")})
@pytest.mark.parametrize("stores", [True, False])
async def test_durable_that_is_neither_true_nor_false(
    start: Start, case: Any, stores: bool
) -> None:
    """Whether the gateway stores messages or not (bad input 141)."""
    running = await start(settings=WITH if stores else {})
    assert await answer_to(running, durable(durable=case, id="7")) == INVALID | {"id": "7"}


@inputs({"with an id": {"id": "7"}, "without one": {}})
async def test_a_durable_message_to_a_gateway_that_stores_nothing(
    one: Gateway, case: dict[str, str]
) -> None:
    """Its sender relies on what a plain message does not do (bad input 142)."""
    error = {"type": "error", "error": "This gateway stores no messages", "code": "not_durable"}
    assert await answer_to(one, durable(to="neighbour-0", **case)) == error | case


@inputs(
    {
        "a space": "a b",
        "long": "x" * 65,
        "a pattern": "*",
        "a number": 7,
        "a gateway": "gateway-01",
    }
)
async def test_a_durable_message_to_a_name_that_no_user_can_have(
    start: Start, redis_db: Any, keyspace: Keyspace, case: Any
) -> None:
    """As for a plain message: the rules for names are not told (bad input 143)."""
    running = await start(settings=WITH)
    acknowledged = {"type": "ack", "id": "7", "status": "offline"}
    assert await answer_to(running, durable(to=case, id="7")) == acknowledged
    assert not await redis_db.exists(keyspace.key("inbox", str(case)))


async def test_a_durable_message_that_is_too_large(start: Start) -> None:
    """The limit is that of a plain one (bad input 144)."""
    running = await start(settings=WITH)
    assert await answer_to(running, durable(content="x" * 16_385, id="7")) == TOO_LARGE | {
        "id": "7"
    }


async def refused(running: Gateway, resume: Any) -> None:
    """The register is refused, and may be said again."""
    async with await Raw.open(running) as raw:
        raw.frame(said(type="register", userId="mallory", resume=resume))
        assert await raw.answer() == INVALID
        raw.frame(said(type="register", userId="mallory", resume={}))
        assert (await raw.answer())["type"] == "registered"
        assert (await raw.answer())["type"] == "resumed"


@inputs(
    {name: value for name, value in NOT_TEXT.items() if name not in ("null", "an object")}
    | {"a text": "1-1"}
    | {f"epoch {name}": {"epoch": value, "offset": "0-0"} for name, value in NOT_TEXT.items()}
    | {f"offset {name}": {"epoch": "a.b", "offset": value} for name, value in NOT_TEXT.items()}
)
async def test_a_resume_of_a_wrong_type(start: Start, case: Any) -> None:
    """Before anything is asked of Redis (bad input 145)."""
    await refused(await start(settings=WITH), case)


@inputs(
    {f"offset {name}": {"epoch": "a.b", "offset": text} for name, text in NOT_OFFSETS.items()}
    | {f"epoch {name}": {"epoch": text, "offset": "1-1"} for name, text in NOT_EPOCHS.items()}
)
async def test_a_resume_that_cannot_be_a_position(start: Start, case: dict[str, str]) -> None:
    """Nothing of it becomes part of a command (bad input 146)."""
    await refused(await start(settings=WITH), case)


@inputs(
    {
        "an epoch of nobody": {"epoch": "0123456789ab.01234567", "offset": "1-1"},
        "no epoch, and an offset": {"offset": "5-5"},
        "the largest offset": {"epoch": "a.b", "offset": f"{10**15 - 1}-{10**15 - 1}"},
        "no run": {"epoch": "0123456789ab", "offset": "1-1"},
        "no birth": {"epoch": ".01234567", "offset": "0-0"},
        "other fields": {"position": "1-1", "epoch": ""},
    }
)
async def test_a_position_that_was_never_given_out(start: Start, case: dict[str, str]) -> None:
    """Nobody can know what came after it (bad input 147)."""
    running = await start(settings=WITH)
    async with await Raw.register(running, "alice") as alice:
        alice.frame(durable(id="7"))
        assert (await alice.answer())["status"] == "stored"
    async with await Raw.open(running) as raw:
        raw.frame(said(type="register", userId="mallory", resume=case))
        assert (await raw.answer())["type"] == "registered"
        resumed = await raw.answer()
        assert (resumed["type"], resumed["recovered"]) == ("resumed", False)
        assert (await raw.answer())["id"] == "7"


@inputs(
    {"nothing": {}, "no offset": {"epoch": "a.b"}, "no epoch": {"offset": "1-1"}}
    | {f"epoch {name}": {"epoch": value, "offset": "0-0"} for name, value in NOT_TEXT.items()}
    | {f"offset {name}": {"epoch": "a.b", "offset": value} for name, value in NOT_TEXT.items()}
    | {f"offset {name}": {"epoch": "a.b", "offset": text} for name, text in NOT_OFFSETS.items()}
    | {f"epoch {name}": {"epoch": text, "offset": "1-1"} for name, text in NOT_EPOCHS.items()}
)
async def test_an_ack_that_cannot_be_one(start: Start, case: dict[str, Any]) -> None:
    """It is malformed, and counts as that (bad input 148)."""
    assert await answer_to(await start(settings=WITH), said(type="ack", **case)) == INVALID


async def reader(running: Gateway, resume: Any) -> tuple[Raw, str, str]:
    """mallory has got a message; return the epoch and the offset ('' when she was told none)."""
    async with await Raw.register(running, "alice") as alice:
        alice.frame(durable(id="7"))
        assert (await alice.answer())["status"] == "stored"
    raw = await Raw.open(running)
    raw.frame(said(type="register", userId="mallory", **resume))
    assert (await raw.answer())["type"] == "registered"
    epoch = (await raw.answer())["epoch"] if resume else ""
    return raw, epoch, str((await raw.answer()).get("offset", ""))


async def stays(running: Gateway, raw: Raw, redis_db: Any, key: str, ack: dict[str, str]) -> None:
    """The acknowledgement is counted, and the message is kept."""
    assert running._durable is not None
    raw.frame(said(type="ack", **ack))
    raw.frame(PING)
    assert await raw.answer() == PONG
    assert running._durable.counted.acks.counts["impossible"] == 1
    assert int(await redis_db.xlen(key)) == 1


@inputs(
    {
        "another birth": ("0123456789ab.{run}", "{offset}"),
        "another run": ("{birth}.00000000", "{offset}"),
        "no run": ("{birth}", "{offset}"),
        "no epoch": ("", "{offset}"),
        "the next one": ("{birth}.{run}", "2-1"),
        "the last one that there can be": ("{birth}.{run}", f"{10**15 - 1}-0"),
    }
)
async def test_an_ack_of_what_was_never_sent(
    start: Start, redis_db: Any, keyspace: Keyspace, case: tuple[str, str]
) -> None:
    """Also when a reset has crossed it (bad input 149)."""
    running = await start(settings=WITH)
    raw, epoch, offset = await reader(running, {"resume": {}})
    async with raw:
        birth, _, run = epoch.partition(".")
        said_epoch, said_offset = (
            text.format(birth=birth, run=run, offset=offset) for text in case
        )
        ack = {"epoch": said_epoch, "offset": said_offset}
        await stays(running, raw, redis_db, keyspace.key("inbox", "mallory"), ack)


async def test_an_ack_before_the_register(start: Start) -> None:
    """Nobody's messages are meant (bad input 150)."""
    async with await Raw.open(await start(settings=WITH)) as raw:
        raw.frame(said(type="ack", epoch="", offset="0-0"))
        assert await raw.answer() == NOT_REGISTERED


async def test_an_ack_of_a_client_that_has_not_sent_resume(start: Start) -> None:
    """What is written to it counts as taken (bad input 151)."""
    running = await start(settings=WITH)
    raw, _, _ = await reader(running, {})
    async with raw:
        raw.frame(said(type="ack", epoch="a.b", offset="0-0"))
        raw.frame(PING)
        assert await raw.answer() == PONG
        assert running._durable is not None
        assert running._durable.counted.acks.counts["impossible"] == 1


def hint(**fields: Any) -> bytes:
    return said(**{"type": "stored", "toConn": "c", "epoch": "a.b", "offset": "1-1"} | fields)


@inputs(
    {
        "nothing": (b'{"type":"stored"}', "malformed"),
        "no session": (hint(toConn=None), "malformed"),
        "an offset of a wrong type": (hint(offset=7), "malformed"),
        "another session": (hint(), "missed"),
        "no offset": (hint(toConn="CONN", offset="x"), "missed"),
        "an empty offset": (hint(toConn="CONN", offset=""), "missed"),
        "a long one": (hint(toConn="CONN", offset="1" * 100_000), "missed"),
        "an epoch of 100,000": (hint(epoch="a" * 100_000), "missed"),
    }
)
async def test_a_hint_that_is_none(
    start: Start, redis_db: Any, keyspace: Keyspace, case: tuple[bytes, str]
) -> None:
    """The next hint is read (bad input 152)."""
    running = await start(settings=WITH)
    durable = running._durable
    assert durable is not None
    data, outcome = case
    session = running.registry.by_user("neighbour-0")
    assert session is not None
    data = data.replace(b"CONN", session.conn_id.encode())
    await redis_db.publish(keyspace.gateway_channel("gateway-01"), data)
    await redis_db.publish(
        keyspace.gateway_channel("gateway-01"), hint(toConn=session.conn_id, offset="1-1")
    )
    hints = durable.counted.hints.counts
    await until("the next one is read", lambda: hints["read"] == 1)
    assert hints["missed"] == (outcome == "missed")
    assert running.counters.malformed_envelopes == (outcome == "malformed")


@inputs(
    {
        "a text in place of the stream": ("inbox", "SET", ("x",)),
        "a list in place of the stream": ("inbox", "RPUSH", ("x",)),
        "a text in place of the hash": ("inboxmeta", "SET", ("x",)),
        "an entry of somebody else": ("inbox", "XADD", ("*", "x", "y")),
    }
)
async def test_keys_of_an_inbox_that_hold_something_else(
    start: Start, redis_db: Any, keyspace: Keyspace, case: tuple[str, str, tuple[str, ...]]
) -> None:
    """Whoever else writes there; the others go on (bad input 153)."""
    kind, command, arguments = case
    running = await start(settings=WITH)
    key = keyspace.key(kind, "mallory")
    async with await Raw.register(running, "alice") as alice:
        alice.frame(durable(id="6"))
        assert (await alice.answer())["status"] == "stored"
        await redis_db.delete(key)
        await redis_db.execute_command(command, key, *arguments)
        alice.frame(durable(id="7"))
        assert (await alice.answer())["status"] == "busy"
        async with await Raw.register(running, "mallory") as raw:
            assert running._durable is not None
            counts = running._durable.counted.pages.counts
            await until(
                "it is read", lambda: running.counters.malformed_envelopes + counts["failed"]
            )
            raw.frame(PING)
            assert await raw.answer() == PONG


def _are_taken(acks: Mapping[str, int], many: int) -> bool:
    return acks["taken"] >= many


async def test_ever_new_devices_hold_no_more_than_may_be_connected(
    start: Start, redis_db: Any, keyspace: Keyspace
) -> None:
    """Each name reads and acknowledges once, and is never seen again (bad input 154)."""
    running = await start(settings=WITH | {"devices": 2})
    acks = running._durable.counted.acks.counts if running._durable else {}
    for n in range(6):
        async with await Raw.open(running) as raw:
            hello = {"type": "register", "userId": "mallory", "device": f"d{n}", "resume": {}}
            raw.frame(json.dumps(hello).encode())
            assert (await raw.answer())["type"] == "registered"
            told = await raw.answer()
            word = {"type": "ack", "epoch": told["epoch"], "offset": told["offset"]}
            raw.frame(json.dumps(word).encode())
            await until("it is taken", partial(_are_taken, acks, n + 1))
    meta = await redis_db.hgetall(keyspace.key("inboxmeta", "mallory"))
    assert len([field for field in meta if field.startswith("acked:")]) == 2
