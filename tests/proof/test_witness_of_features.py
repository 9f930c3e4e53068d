"""Witness of features: does it read in MONITOR what the scripts of inboxes and rooms really did?"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.waiting import until
from wsdemo.inbox import store as inbox
from wsdemo.inbox.devices import DEVICES_ACK, DEVICES_READ, DEVICES_SEND
from wsdemo.presence.devices import DEVICES_REFRESH, DEVICES_REGISTER, DEVICES_RELEASE
from wsdemo.presence.store import REGISTER
from wsdemo.proof.chaos.witness import Witness
from wsdemo.proof.history import (
    InboxAcknowledged,
    InboxesLost,
    InboxStored,
    InboxTrimmed,
    Owner,
    Record,
    RoomRegister,
    RunChanged,
    owners,
    rooms,
)
from wsdemo.redis.deadline import NEVER_MS
from wsdemo.redis.scripts import Script
from wsdemo.redis.server import BundledServer
from wsdemo.rooms.store import JOIN, LEAVE, SWEEP
from wsdemo.router import ROUTE

LIFE_MS = 60_000


OF_INBOX = {
    "send stored": 2,
    "send duplicate": 1,
    "send trimmed": 1,
    "send expired": 1,
    "read answered": 1,
    "read superseded": 1,
    "ack taken": 1,
    "ack refused": 1,
}
"""Each outcome of a script of the inbox, as two tests bring it about."""


@pytest.fixture
async def records() -> list[Record]:
    return []


@pytest.fixture
async def witness(server: BundledServer, records: list[Record]) -> AsyncIterator[Witness]:
    witness = Witness(server.url, records.append, time.monotonic)
    await witness.start()
    yield witness
    await witness.stop()


async def seen(witness: Witness, database: Any) -> None:
    """Wait until the witness has seen everything that was done so far."""
    before = witness.monitor_log.outcomes["route offline"]
    await database.eval(ROUTE.text, 1, "presence:nobody", "{", "", NEVER_MS)
    await database.ping()
    await until("seen", lambda: witness.monitor_log.outcomes["route offline"] > before)


def feature_outcomes(witness: Witness) -> dict[str, int]:
    """Return how often each script of a feature had which outcome."""
    counts = witness.monitor_log.outcomes.items()
    return {name: n for name, n in counts if name.startswith(("send", "read", "ack", "room"))}


async def send(
    database: Any, msg_id: str, mark: int, most: int = 9, until_ms: int = NEVER_MS
) -> str:
    """Store a message of carol for bob, as a gateway does; its id has a colon."""
    keys = ("presence:bob", "inbox:bob", "inboxmeta:bob")
    key = f"inboxid:bob:carol:{msg_id.replace(':', '%3A')}"
    head = f'{{"type":"message","from":"carol","content":"a \\" b","id":"{msg_id}"'
    limits = (most, 9999, LIFE_MS, LIFE_MS)
    words = (head, mark, "b1", "run", *limits, "", "gw", until_ms)
    outcome: str = (await database.eval(inbox.SEND.text, 4, *keys, key, *words))[0]
    return outcome


async def read(database: Any, conn: str, token: int) -> str:
    keys = ("presence:bob", "inbox:bob", "inboxmeta:bob")
    words = (conn, token, "", "0-0", 9, 9999, "b2", "run", LIFE_MS)
    outcome: str = (await database.eval(inbox.READ.text, 3, *keys, *words))[0]
    return outcome


async def test_every_outcome_of_an_inbox_is_recognised(
    witness: Witness, database: Any, records: list[Record]
) -> None:
    """What is stored is recorded with its id and offset, and once."""
    session = ("c1", "gw", 5, LIFE_MS, LIFE_MS, "", 0)
    await database.eval(REGISTER.text, 2, "presence:bob", "fence:bob", *session)
    assert await send(database, "d:carol#1:1", 11) == "stored"
    assert await send(database, "d:carol#1:1", 12) == "duplicate"
    assert await send(database, "d:carol#1:2", 13, most=1) == "stored"
    assert await send(database, "d:carol#1:3", 14, until_ms=0) == "expired"
    assert await read(database, "c1", 5) == "reset"
    assert await read(database, "c0", 4) == "superseded"
    keys = ("presence:bob", "inbox:bob", "inboxmeta:bob")
    assert await database.eval(inbox.ACK.text, 3, *keys, "c1", "b1.run", "2-13", "run") == 1
    assert await database.eval(inbox.ACK.text, 3, *keys, "c0", "b1.run", "2-13", "run") == -1
    await seen(witness, database)
    assert feature_outcomes(witness) == OF_INBOX
    stored = [(r.user, r.id, r.offset) for r in records if isinstance(r, InboxStored)]
    assert stored == [("bob", "d:carol#1:1", "1-11"), ("bob", "d:carol#1:2", "2-13")]


async def test_every_outcome_of_an_inbox_of_several_devices_is_recognised(
    witness: Witness, database: Any, records: list[Record]
) -> None:
    """As for one session; and it is recorded which device has a cursor, and what a full inbox has
    dropped. The scripts are recognised by their text, too."""
    register = ("gw", 5, LIFE_MS, LIFE_MS, "", 0, "phone", 2, 9, "")
    await database.eval(DEVICES_REGISTER.text, 2, "presence:bob", "fence:bob", "p1", *register)
    keys = ("presence:bob", "inbox:bob", "inboxmeta:bob")

    async def store(msg_id: str, mark: int, most: int, until_ms: int = NEVER_MS) -> str:
        head = f'{{"type":"message","from":"carol","content":"x","id":"{msg_id}"'
        limits = (most, 9999, LIFE_MS, LIFE_MS)
        words = (head, mark, "b1", "run", *limits, "", "gw", LIFE_MS, until_ms)
        key = f"inboxid:bob:carol:{msg_id}"
        return str((await database.eval(DEVICES_SEND.text, 4, *keys, key, *words))[0])

    async def look(conn: str, token: int) -> str:
        words = (conn, token, "", "0-0", 9, 9999, "b2", "run", LIFE_MS, "phone", 2, 1, LIFE_MS)
        return str((await database.eval(DEVICES_READ.text, 3, *keys, *words))[0])

    async def acknowledge(conn: str, offset: str) -> int:
        words = (conn, "b1.run", offset, "run", "phone", 2, LIFE_MS, LIFE_MS)
        return int(await database.eval(DEVICES_ACK.text, 3, *keys, *words))

    assert await store("m1", 11, 9) == "stored"
    assert await store("m1", 12, 9) == "duplicate"
    assert await store("m2", 13, 1) == "stored"
    assert await store("m3", 14, 9, until_ms=0) == "expired"
    assert await look("p1", 5) == "reset"
    assert await look("p0", 4) == "superseded"
    assert await acknowledge("p1", "2-13") == 1
    assert await acknowledge("p0", "2-13") == -1
    await seen(witness, database)
    assert feature_outcomes(witness) == OF_INBOX
    of_inbox = InboxStored | InboxTrimmed | InboxAcknowledged
    told = [(type(r), r.user, r.offset) for r in records if isinstance(r, of_inbox)]
    assert told == [
        (InboxStored, "bob", "1-11"),
        (InboxTrimmed, "bob", "1-11"),
        (InboxStored, "bob", "2-13"),
        (InboxAcknowledged, "bob/phone", "2-13"),
    ]


async def join(database: Any, member: str, token: int, seq: int, most: int = 2) -> str:
    words = (member, token, seq, "gw", "gw.0", f"c{token}", most, LIFE_MS, "r", "den")
    outcome: str = (await database.eval(JOIN.text, 2, "room:den", "roomout:den", *words))[0]
    return outcome


async def leave(database: Any, member: str, token: int, seq: int) -> int:
    words = (member, token, seq, "left", LIFE_MS, "r", "den")
    return int(await database.eval(LEAVE.text, 2, "room:den", "roomout:den", *words))


async def test_every_outcome_of_a_room_is_recognised(
    witness: Witness, database: Any, records: list[Record]
) -> None:
    """Each change of a register is recorded, with its stamp; and the history of them is right."""
    assert await join(database, "alice", 5, 1) == "joined"
    assert await join(database, "alice", 6, 1) == "moved"
    assert await join(database, "alice", 6, 1) == "same"
    assert await join(database, "alice", 5, 2) == "stale"
    assert await join(database, "bob", 7, 1) == "joined"
    assert await join(database, "carol", 8, 1) == "full"
    assert await leave(database, "alice", 5, 9) == 0
    assert await leave(database, "alice", 6, 2) == 1
    swept = (2, "room:den", "roomout:den", "r", "den", LIFE_MS, "gw.0")
    assert await database.eval(SWEEP.text, *swept) == 1
    assert await database.eval(SWEEP.text, *swept) == 0
    await seen(witness, database)
    assert feature_outcomes(witness) == {
        "room_join joined": 2,
        "room_join moved": 1,
        "room_join same": 1,
        "room_join stale": 1,
        "room_join full": 1,
        "room_leave nothing": 1,
        "room_leave left": 1,
        "room_sweep swept": 1,
        "room_sweep nothing": 1,
    }
    registers = [r for r in records if isinstance(r, RoomRegister)]
    assert [(r.member, r.state, r.token, r.seq, r.verb) for r in registers] == [
        ("alice", "in", 5, 1, "join"),
        ("alice", "in", 6, 1, "join"),
        ("bob", "in", 7, 1, "join"),
        ("alice", "out", 6, 2, "leave"),
        ("bob", "out", 7, 0, "sweep"),
    ]
    assert rooms(records) == []


async def test_what_was_stored_and_joined_in_a_gap_is_known_after_it(
    witness: Witness, server: BundledServer, database: Any, records: list[Record]
) -> None:
    """The witness reads inboxes and rooms when it is back, and a new run of Redis is recorded
    where the old one ended."""
    await send(database, "m1", 11)
    await seen(witness, database)
    witness.restart_will_come()
    await _in_a_gap(witness, server, lambda: _send_anew(database))
    await until("it has asked", lambda: any(_is(r, InboxStored, "m2") for r in records))
    ids = [r.id if isinstance(r, InboxStored) else type(r) for r in records]
    assert [one for one in ids if one in ("m1", "m2", RunChanged)] == ["m1", RunChanged, "m2"]
    assert not any(isinstance(r, InboxesLost) for r in records)


async def _send_anew(database: Any) -> None:
    """Store a message, on another connection than that to the server which was killed."""
    await database.connection_pool.disconnect()
    await send(database, "m2", 12)


def _is(record: Record, kind: type[Record], msg_id: str) -> bool:
    return isinstance(record, kind) and getattr(record, "id", "") == msg_id


async def _in_a_gap(witness: Witness, server: BundledServer, act: Callable[[], Any]) -> None:
    """Do something after the witness lost its connection, and before it has another one."""
    dial = witness._dial

    async def refuse() -> Any:
        raise OSError("not yet")

    witness._dial = refuse  # type: ignore[method-assign]
    server.kill(keep_data=True)
    server.start()
    await until("a gap", lambda: not witness.watching.is_set())
    await act()
    witness._dial = dial  # type: ignore[method-assign]


async def test_a_loss_of_data_is_a_loss_of_inboxes_and_rooms(
    witness: Witness, database: Any, records: list[Record]
) -> None:
    """FLUSHALL: what was stored is lost, and nobody is in a room."""
    await send(database, "m1", 11)
    await join(database, "alice", 5, 1)
    await database.flushall()
    await seen(witness, database)
    assert [type(r) for r in records if isinstance(r, InboxesLost)] == [InboxesLost]
    assert await join(database, "alice", 4, 1) == "joined"
    await seen(witness, database)
    assert feature_outcomes(witness)["room_join joined"] == 2
    assert rooms(records) == []


async def test_every_outcome_of_the_scripts_for_devices_is_recognised(
    witness: Witness, database: Any, records: list[Record]
) -> None:
    """Each device has owners of its own; one that has to go for another is evicted."""

    async def write(script: Script, device: str, conn: str, token: int) -> str:
        life = LIFE_MS if script is DEVICES_REFRESH else 9
        words = (conn, "gw", token, LIFE_MS, LIFE_MS, "", 0, device, 2, life, "")
        keys = ("presence:bob", "fence:bob")
        outcome: str = (await database.eval(script.text, 2, *keys, *words))[0]
        return outcome

    async def release(device: str, conn: str, token: int) -> int:
        words = (conn, token, LIFE_MS, device, LIFE_MS, "", "")
        text = DEVICES_RELEASE.text
        return int(await database.eval(text, 2, "presence:bob", "fence:bob", *words))

    assert await write(DEVICES_REGISTER, "phone", "p1", 1) == "ok"
    assert await write(DEVICES_REGISTER, "laptop", "l1", 2) == "ok"
    assert await write(DEVICES_REGISTER, "phone", "p2", 4) == "ok"
    assert await write(DEVICES_REGISTER, "phone", "p1", 3) == "stale"
    assert await write(DEVICES_REFRESH, "phone", "p1", 1) == "superseded"
    assert await write(DEVICES_REFRESH, "laptop", "l1", 2) == "ok"
    assert await write(DEVICES_REGISTER, "tablet", "t1", 5) == "ok"  # For it the laptop goes.
    assert await write(DEVICES_REFRESH, "laptop", "l1", 2) == "closed"
    assert await release("laptop", "l1", 2) == 0
    await database.delete("presence:bob")
    assert await write(DEVICES_REFRESH, "phone", "p2", 4) == "reclaimed"
    assert await release("phone", "p2", 4) == 1
    await seen(witness, database)
    counts = witness.monitor_log.outcomes.items()
    assert {name: n for name, n in counts if not name.startswith("route")} == {
        "register ok": 4,
        "register stale": 1,
        "refresh ok": 1,
        "refresh superseded": 1,
        "refresh closed": 1,
        "refresh reclaimed": 1,
        "release kept": 1,
        "release removed": 1,
    }
    changes = [(r.user, r.conn, r.verb) for r in records if isinstance(r, Owner)]
    assert changes[:5] == [
        ("bob/phone", "p1", "register"),
        ("bob/laptop", "l1", "register"),
        ("bob/phone", "p2", "register"),
        ("bob/tablet", "t1", "register"),
        ("bob/laptop", "", "evict"),
    ]
    assert set(changes[5:7]) == {
        ("bob/phone", "", "del"),
        ("bob/tablet", "", "del"),
    }
    assert changes[7:] == [("bob/phone", "p2", "refresh"), ("bob/phone", "", "release")]
    assert owners(records) == []
