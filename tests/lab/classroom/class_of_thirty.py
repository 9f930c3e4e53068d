"""A class of thirty: is each message heard by one, is everybody back in time, is the board right?

`python -m tests.lab.classroom.class_of_thirty --minutes 10` runs a class with every button pressed
again and again, and prints what it was like. A test does the same for a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.browser import CHROMIUM, Chromium, Page
from tests.lab.classroom.replay import Replayed, replay
from tests.lab.classroom.scripted import (
    RULES,
    ScriptedStudent,
    ScriptedTeacher,
    scripted_students,
    scripted_teacher,
)
from tests.waiting import until
from wsdemo.lab import Lab
from wsdemo.lab.classroom.room import Classroom

STUDENTS: Final = 30
FREEZABLE: Final = "gateway-03"
SCALE: Final = 12.0
EVERY_S: Final = 2.0
CHECK_S: Final = 0.25
AGREED_S: Final = 30.0
"""Registries, Redis and the board agree within this time: a lease, and the slowest way back."""

FAULTS: Final = {
    "crash": "start",
    "drain": "start",
    "freeze": "thaw",
    "hold": "let_go",
    "redis_stop": "redis_start",
    "redis_freeze": "redis_thaw",
    "ask": "reveal",
}
"""Each of the teacher's buttons that change something, and the one that ends it."""


class Fault(NamedTuple):
    """One fault, and how long it took until everybody was back."""

    what: str
    back_s: float


class ClassOfThirty:
    """A class that takes part while the teacher presses buttons.

    Args:
        seed: of the order of the buttons, and of what they are pressed on.
    """

    def __init__(
        self,
        room: Classroom,
        students: list[ScriptedStudent],
        teacher: ScriptedTeacher,
        entries: redis.asyncio.Redis,
        seed: int,
    ) -> None:
        self.students = students
        self.teacher = teacher
        self.faults: list[Fault] = []
        self.checked: list[list[str]] = []
        """What a board had heard at each moment at which it was right."""
        self._room = room
        self._cluster = room.lab.cluster
        self._entries = entries
        self._rng = random.Random(seed)

    @property
    def promise_s(self) -> float:
        """Everybody is back within this time: a silent gateway is noticed by a heartbeat and its
        answer; one attempt may meet a gateway that stands still, and one pause is the longest.
        """
        heartbeat_s = self._cluster.timing.heartbeat_s
        noticed_s = heartbeat_s + RULES.pong_within_s(heartbeat_s)
        return noticed_s + RULES.connect_timeout_s + RULES.backoff_cap_s

    # --- faults ------------------------------------------------------------------------------

    async def every_fault(self) -> None:
        """Press each button once, in an order of the seed; check after each."""
        for what in self._rng.sample(list(FAULTS), len(FAULTS)):
            await self.fault(what)

    async def fault(self, what: str) -> None:
        """Break something, let the class notice, mend it, and wait until all is right."""
        on, heard = self._on(what), len(self.teacher.batches)
        began = time.monotonic()
        if what == "hold":
            await self.teacher.press("hold", **on)
            await self._by_name(on["u"]).move(self._another(on["g"]))
        else:
            await self.teacher.press(what, **on)
        if what.startswith("redis"):
            # Without Redis nobody registers: the promise begins when it is back.
            await self._told("beliefs_unknown", heard)
            await self.teacher.press(FAULTS[what], **on)
            began = time.monotonic()
        await self._everybody_is_back(what, began)
        if not what.startswith("redis"):
            await self.teacher.press(FAULTS[what], **on)
        await self.agreed()

    def _on(self, what: str) -> dict[str, Any]:
        """Choose what a button is pressed on."""
        if what in ("crash", "drain"):
            return {"g": self._rng.choice(self._cluster.names)}
        if what == "freeze":
            return {"g": FREEZABLE}
        if what == "hold":
            student = self._rng.choice(self.students)
            return {"u": student.user, "g": student.gateway}
        return {"q": "q04", "a": "nothing"} if what == "ask" else {}

    def _by_name(self, user: str) -> ScriptedStudent:
        return next(one for one in self.students if one.user == user)

    def _another(self, gateway: str) -> str:
        return self._rng.choice([name for name in self._cluster.names if name != gateway])

    async def _told(self, kind: str, heard: int) -> None:
        """Wait until the board is told of something, after so many batches."""

        def told() -> bool:
            later = self.teacher.batches[heard:]
            return any(e["k"] == kind for text in later for e in json.loads(text).get("e", ()))

        await until(f"the board is told {kind}", told, AGREED_S, CHECK_S)

    async def _everybody_is_back(self, what: str, began: float) -> None:
        """Wait until each student is registered with a gateway that runs and answers."""

        def missing() -> list[str]:
            alive = {name for name, host in self._cluster.hosts.items() if not host.frozen}
            return [one.name for one in self.students if one.gateway not in alive]

        await until(f"everybody is back after {what}", lambda: not missing(), self.promise_s)
        self.faults.append(Fault(what, time.monotonic() - began))

    # --- truth -------------------------------------------------------------------------------

    async def agreed(self) -> None:
        """Wait until the board, replayed from its first batch, says what registries and Redis say.

        What students say of themselves is compared as well, and `lab.where()`.
        """
        deadline = time.monotonic() + AGREED_S
        while differences := await self._differences():
            assert time.monotonic() < deadline, differences
            await asyncio.sleep(CHECK_S)
        self.checked.append(list(self.teacher.batches))

    async def _differences(self) -> list[str]:
        # Not on this loop, on which the students' heartbeats are.
        board = await asyncio.to_thread(replay, list(self.teacher.batches))
        sockets = dict(board.sockets.values())
        connections = {
            session.conn_id: (session.user, name)
            for name, gateway in self._cluster.gateways.items()
            for session in gateway.registry
        }
        registries = dict(connections.values())
        says = await self._redis_says(registries)
        where = await asyncio.to_thread(self._room.lab.where)
        return [
            *_different("the board's chips and the registries", board.sockets, connections),
            *_different("the board's rows and Redis", _rows(board), says),
            *_different("Redis and the registries", says, registries),
            *_different(
                "students and registries",
                {one.user: one.gateway for one in self.students},
                {one.user: registries.get(one.user, "") for one in self.students},
            ),
            *_different("the board and where()", sockets, dict(where["socket"]), part=True),
            *_different("Redis and where()", says, dict(where["Redis says"]), part=True),
        ]

    async def _redis_says(self, users: Any) -> dict[str, str]:
        named = list(users)
        async with self._entries.pipeline(transaction=False) as asked:
            for user in named:
                asked.hget(self._cluster.keyspace.presence(user), "gwId")
            answers = await asked.execute()
        return {user: one.decode() for user, one in zip(named, answers, strict=True) if one}

    # --- the end -----------------------------------------------------------------------------

    def strays(self) -> list[str]:
        """Return what was heard by somebody for whom it was not, or twice."""
        return [stray for one in self.students for stray in one.strays]


def _rows(board: Replayed) -> dict[str, str]:
    return {user: gateway for user, (gateway, _) in board.entries.items()}


def _different(
    what: str, one: dict[str, Any], other: dict[str, Any], *, part: bool = False
) -> list[str]:
    """Return where two answers differ; of a part, only what the second one has counts."""
    keys = other.keys() if part else one.keys() | other.keys()
    wrong = {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}
    return [f"{what}: {wrong}"] if wrong else []


@contextlib.asynccontextmanager
async def class_of_thirty(
    room: Classroom, *, seed: int, count: int = STUDENTS, every_s: float = EVERY_S
) -> AsyncIterator[ClassOfThirty]:
    """Let a class come in and take part; everybody is registered, and the board is right."""
    again = Retry(NoBackoff(), 1)  # The connection may be to a Redis that was killed since.
    async with (
        redis.asyncio.Redis.from_url(room.lab.cluster.redis_url, retry=again) as entries,
        scripted_teacher(room) as teacher,
        scripted_students(room, count, every_s=every_s, seed=seed) as students,
    ):
        made = ClassOfThirty(room, students, teacher, entries, seed)
        await until("everybody is registered", lambda: all(one.gateway for one in students), 30.0)
        await made.agreed()
        yield made


# --- the command -----------------------------------------------------------------------------


async def run(minutes: float, seed: int, crowd: int) -> None:
    """Run a class for some minutes, and print what it was like."""
    with Lab(gateways=3, scale=SCALE, freezable=[FREEZABLE], seed=seed) as lab:
        room = lab.classroom()
        if crowd:
            lab.connect_many(crowd)
        async with class_of_thirty(room, seed=seed) as made, _board(room) as board:
            memory, heap = [_memory_mb()], [await _heap_mb(board)]
            began, busy_s = time.monotonic(), room.feed.busy_s
            while time.monotonic() < began + 60 * minutes:
                await made.every_fault()
                memory.append(_memory_mb())
                heap.append(await _heap_mb(board))
                print(f"{time.monotonic() - began:6.0f} s, {len(made.faults)} faults", flush=True)
                made.checked.clear()
            lasted_s = time.monotonic() - began
            share = (room.feed.busy_s - busy_s) / lasted_s
        _report(made, memory, heap, share, lasted_s)
    print(f"left behind:    {lab.leaks() or 'nothing'}")


def _report(
    made: ClassOfThirty, memory: list[float], heap: list[float], share: float, lasted_s: float
) -> None:
    statuses: Counter[str] = sum((one.statuses for one in made.students), Counter())
    outages = [outage for one in made.students for outage in one.outages]
    worst = max(outages, key=lambda outage: outage.away_s)
    slowest = {
        what: max((one.back_s for one in made.faults if one.what == what), default=0.0)
        for what in FAULTS
    }
    print(f"class:          {len(made.students)} students, {lasted_s:.0f} s")
    print(f"messages:       {sum(one.heard for one in made.students)} heard, {dict(statuses)}")
    print(f"strays:         {made.strays() or 'none'}")
    print(f"faults:         {dict(Counter(one.what for one in made.faults))}")
    print(f"outages:        {len(outages)}, {dict(Counter(one.code for one in outages))}")
    print(f"worst outage:   {worst.away_s:.2f} s after {worst.code}")
    print(f"back within:    { ({what: round(s, 2) for what, s in slowest.items()}) }")
    print(f"promised:       {made.promise_s:.2f} s")
    print(
        f"feed:           {share:.2%} of a core, {len(made.teacher.batches)} batches, "
        f"{sum(map(len, made.teacher.batches)) / 1e6:.1f} MB"
    )
    print(f"this process:   {memory[0]:.0f} MB at the start, {memory[-1]:.0f} MB at the end")
    print(f"board's heap:   {heap[0]:.1f} MB at the start, {heap[-1]:.1f} MB at the end")


@contextlib.asynccontextmanager
async def _board(room: Classroom) -> AsyncIterator[Page | None]:
    """Open a board in a headless browser, if there is one."""
    if CHROMIUM is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as home:
        async with Chromium(Path(home)) as chromium, chromium.page() as board:
            await board.open(room.board_url())
            await board.until("the board is live", "!!document.querySelector('.is-live')")
            yield board


async def _heap_mb(board: Page | None) -> float:
    if board is None:
        return 0.0
    await board.call("HeapProfiler.collectGarbage")
    usage = await board.call("Runtime.getHeapUsage")
    return float(usage["usedSize"]) / 1e6


def _memory_mb() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss) / 1e6


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--crowd", type=int, default=60, help="simulated users beside the class")
    given = parser.parse_args()
    asyncio.run(run(given.minutes, given.seed, given.crowd))


if __name__ == "__main__":
    main()
