"""Witness: does it read in MONITOR what the scripts really did?"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import NoScriptError

from tests.waiting import until
from wsdemo.presence import store
from wsdemo.proof.chaos.monitor_log import UNSEEN
from wsdemo.proof.chaos.witness import Witness
from wsdemo.proof.history import Forgotten, ObservationGap, Owner, Record, Released, owners
from wsdemo.redis.deadline import NEVER_MS
from wsdemo.redis.server import BundledServer
from wsdemo.router import ROUTE

TTL_MS, FENCE_MS = 3000, 60_000


class Scripts:
    """Runs the scripts of presence as a gateway does, for one user."""

    def __init__(self, database: Any, user: str) -> None:
        self._db = database
        self.keys = [f"presence:{user}", f"fence:{user}"]

    async def mint(self) -> int:
        return int(await self._db.eval(store.MINT.text, 1, self.keys[1], FENCE_MS))

    async def write(self, script: Any, conn: str, token: int) -> str:
        args = (conn, "gw", token, TTL_MS, FENCE_MS, "", 0)
        outcome: str = (await self._db.eval(script.text, 2, *self.keys, *args))[0]
        return outcome

    async def release(self, conn: str, token: int) -> int:
        return int(await self._db.eval(store.RELEASE.text, 2, *self.keys, conn, token, FENCE_MS))


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


async def test_every_outcome_of_every_script_is_recognised(
    witness: Witness, database: Any, records: list[Record]
) -> None:
    """The calls of a script that MONITOR shows determine its answer."""
    bob = Scripts(database, "bob")
    old, new = await bob.mint(), await bob.mint()
    assert await bob.write(store.REGISTER, "c-old", old) == "ok"
    assert await bob.write(store.REFRESH, "c-old", old) == "ok"
    assert await bob.write(store.REGISTER, "c-new", new) == "ok"
    assert await bob.write(store.REGISTER, "c-old", old) == "stale"
    assert await bob.write(store.REFRESH, "c-old", old) == "superseded"
    assert await bob.release("c-old", old) == -1
    await database.delete("presence:bob")
    assert await bob.write(store.REFRESH, "c-new", new) == "reclaimed"
    await database.eval(ROUTE.text, 1, "presence:bob", "{", "", NEVER_MS)
    await database.eval(ROUTE.text, 1, "presence:bob", "{", "", 1)
    assert await bob.release("c-new", new) == 1
    assert await bob.write(store.REFRESH, "c-new", new) == "closed"
    await seen(witness, database)
    assert witness.monitor_log.outcomes == Counter(
        {
            "mint ok": 2,
            "register ok": 2,
            "register stale": 1,
            "refresh ok": 1,
            "refresh superseded": 1,
            "refresh reclaimed": 1,
            "refresh closed": 1,
            "release removed": 1,
            "release kept": 1,
            "route published": 1,
            "route offline": 1,
            "route expired": 1,
        }
    )
    owners = [(r.conn, r.token, r.verb) for r in records if isinstance(r, Owner)]
    assert owners == [
        ("c-old", old, "register"),
        ("c-new", new, "register"),
        ("", None, "del"),
        ("c-new", new, "refresh"),
        ("", None, "release"),
    ]
    assert all(r.complete for r in records if isinstance(r, Owner))
    assert [r.conn for r in records if isinstance(r, Released)] == ["c-old", "c-new"]


async def test_evalsha_and_eval_are_the_same_script(witness: Witness, database: Any) -> None:
    """A gateway calls EVALSHA, and after NOSCRIPT it calls EVAL."""
    with pytest.raises(NoScriptError):
        await database.evalsha(store.MINT.sha, 1, "fence:bob", FENCE_MS)
    await database.script_load(store.MINT.text)
    await database.evalsha(store.MINT.sha, 1, "fence:bob", FENCE_MS)
    await seen(witness, database)
    assert witness.monitor_log.outcomes["mint ok"] == 1


async def test_an_entry_ends_with_its_lease(witness: Witness, database: Any) -> None:
    """MONITOR does not show an expiry, so the witness computes its time."""
    bob = Scripts(database, "bob")
    token = await bob.mint()
    args = ("c1", "gw", token, 60, FENCE_MS, "", 0)
    await database.eval(store.REGISTER.text, 2, *bob.keys, *args)
    await seen(witness, database)
    await until("it is forgotten", lambda: witness.monitor_log.owner("bob") == "")
    await until("so it is in Redis", lambda: _absent(database))


async def test_a_change_during_a_gap_is_not_a_violation(
    witness: Witness, database: Any, records: list[Record]
) -> None:
    """Session c2 became the owner, and the witness has not seen it. A release of c2 then removes
    the entry: a violation of P1, unless there was a gap in which c2 may have registered, and no
    owner was seen since.
    """
    bob = Scripts(database, "bob")

    async def lives(conn: str, *, gap: bool, refreshes: bool = False) -> list[str]:
        token = await bob.mint()
        assert await bob.write(store.REGISTER, conn, token) == "ok"
        await seen(witness, database)
        if gap:
            witness.monitor_log.gap()
        if refreshes:
            assert await bob.write(store.REFRESH, conn, token) == "ok"
        await database.hset("presence:bob", "connId", "c2")
        assert await bob.release("c2", token) == 1
        await seen(witness, database)
        return [violation.claim for violation in owners(records)]

    assert await lives("c0", gap=True) == []
    records.clear()
    assert await lives("c1", gap=True, refreshes=True) == ["P1"]
    records.clear()
    assert await lives("c3", gap=False) == ["P1"]


async def test_all_entries_are_read_after_a_gap(
    witness: Witness, server: BundledServer, database: Any, records: list[Record]
) -> None:
    """The owner is known again before anybody refreshes, so a wrong release breaks P1."""
    bob = Scripts(database, "bob")
    token = await bob.mint()
    assert await bob.write(store.REGISTER, "c1", token) == "ok"
    await seen(witness, database)
    await asyncio.to_thread(server.kill, keep_data=True)
    await asyncio.to_thread(server.start)
    await database.connection_pool.disconnect()
    await until("it is back", lambda: witness.gaps == 1 and witness.watching.is_set())
    await seen(witness, database)
    assert witness.monitor_log.owner("bob") == "c1" and witness.blind == 0
    await database.hset("presence:bob", "connId", "c2")
    assert await bob.release("c2", token) == 1
    await seen(witness, database)
    assert [violation.claim for violation in owners(records)] == ["P1"]
    assert len([record for record in records if isinstance(record, ObservationGap)]) == 1


async def test_changes_in_a_gap_are_recorded_after_it(
    witness: Witness, database: Any, records: list[Record]
) -> None:
    """A new owner with its token, and an entry that is gone. An incomplete entry has no owner."""
    bob, carol = Scripts(database, "bob"), Scripts(database, "carol")
    old, new, hers = await bob.mint(), await bob.mint(), await carol.mint()
    assert await bob.write(store.REGISTER, "c1", old) == "ok"
    assert await carol.write(store.REGISTER, "c5", hers) == "ok"
    await seen(witness, database)
    records.clear()
    (monitor,) = [one for one in await database.client_list() if one["cmd"] == "monitor"]
    # In one transaction: the witness is cut off, and all the rest is over before it can be back.
    async with database.pipeline(transaction=True) as gap:
        gap.client_kill_filter(_id=monitor["id"])
        args = ("c2", "gw", new, TTL_MS, FENCE_MS, "", 0)
        gap.eval(store.REGISTER.text, 2, *bob.keys, *args)
        gap.delete("presence:carol")
        gap.hset("presence:half", "gwId", "gw")
        await gap.execute()
    await until("it is back", lambda: witness.gaps == 1 and witness.watching.is_set())
    await seen(witness, database)
    found = [(r.user, r.conn, r.token, r.verb) for r in records if isinstance(r, Owner)]
    assert sorted(found) == [("bob", "c2", new, UNSEEN), ("carol", "", None, UNSEEN)]
    assert witness.monitor_log.owner("bob") == "c2" and witness.monitor_log.owner("half") == ""


async def test_unreadable_entries_stay_unknown(
    witness: Witness, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is counted, and a release before the next refresh is not judged."""
    bob = Scripts(database, "bob")
    token = await bob.mint()
    assert await bob.write(store.REGISTER, "c1", token) == "ok"
    await seen(witness, database)
    monkeypatch.setattr("wsdemo.proof.chaos.witness.ENTRIES", "this is no script")
    (monitor,) = [one for one in await database.client_list() if one["cmd"] == "monitor"]
    await database.client_kill_filter(_id=monitor["id"])
    await until("it is back", lambda: witness.gaps == 1 and witness.watching.is_set())
    assert witness.blind == 1
    assert await bob.release("c1", token) == 1
    await seen(witness, database)
    assert witness.monitor_log.unjudged == 1


async def test_a_loading_server_is_read_when_it_has_its_data(
    witness: Witness, server: BundledServer, database: Any
) -> None:
    """Nothing changes while it loads. After that the witness knows all entries."""
    bob = Scripts(database, "bob")
    assert await bob.write(store.REGISTER, "c1", await bob.mint()) == "ok"
    await seen(witness, database)
    await asyncio.to_thread(server.kill, keep_data=True)
    server.settings["key-load-delay"] = "100000"  # Microseconds; there are two keys.
    await asyncio.to_thread(server.start)
    await database.connection_pool.disconnect()
    await until("it is back", lambda: witness.gaps >= 1 and witness.watching.is_set())
    await seen(witness, database)
    assert witness.monitor_log.owner("bob") == "c1" and witness.blind == 0


async def test_an_error_that_ended_the_witness_is_raised_by_stop(
    server: BundledServer, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not lost with the task of the witness."""

    def breaks_down(line: str) -> None:
        raise ZeroDivisionError(line)

    witness = Witness(server.url, lambda record: None, time.monotonic)
    monkeypatch.setattr(witness.monitor_log, "feed", breaks_down)
    await witness.start()
    try:
        await database.ping()
        await until("it has failed", lambda: witness._task is not None and witness._task.done())
    finally:
        with pytest.raises(ZeroDivisionError):
            await witness.stop()


async def _absent(database: Any) -> bool:
    return not await database.exists("presence:bob")


async def test_a_loss_of_data_is_recorded_at_its_time(
    server: BundledServer, witness: Witness, database: Any, records: list[Record]
) -> None:
    """FLUSHALL and a restart without data are a loss, between the records before and after it. A
    restart with data is a gap, and no loss.
    """
    bob = Scripts(database, "bob")

    async def log_in(conn: str) -> None:
        assert await bob.write(store.REGISTER, conn, await bob.mint()) == "ok"
        await seen(witness, database)

    await log_in("c1")
    await database.flushall()
    await log_in("c2")
    witness.data_will_be_lost()
    server.kill()
    await until("the end is seen", lambda: not witness.watching.is_set())
    server.start()
    await database.connection_pool.disconnect()
    await witness.watching.wait()
    await log_in("c3")
    server.kill(keep_data=True)
    await until("the end is seen", lambda: not witness.watching.is_set())
    server.start()
    await database.connection_pool.disconnect()
    await witness.watching.wait()
    assert await database.hget("presence:bob", "connId") == "c3"
    await log_in("c4")
    story = [r.conn if isinstance(r, Owner) else "lost" for r in records if _tells(r)]
    assert story == ["c1", "lost", "c2", "lost", "c3", "c4"]
    assert witness.gaps == 2


def _tells(record: Record) -> bool:
    return isinstance(record, Owner | Forgotten)
