"""What is seen from outside while it goes on?

Samples, at a steady pace: who believes to be registered, whom Redis believes in (as the witness has
it), and what each gateway process uses and says of itself. The counters of a killed gateway are
those of its last page; what it did after that is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from wsdemo.proof.chaos.users import Plain, Talker
from wsdemo.proof.chaos.world import World
from wsdemo.proof.history import Closed, Late, Phase, Record, Registered
from wsdemo.redis.server import ServerError

LOOK_EVERY_S: Final = 0.05
PAGE_EVERY_S: Final = 0.5
PAGE_S: Final = 0.4
LATE_S: Final = 0.15
"""When we come so much too late to a look, the machine was busy with something else: what took
longer meanwhile says nothing about a gateway."""
STARVED_EVERY_S: Final = 0.25
STARVED: Final = 0.5
"""A process that was ready to run for this share of a time, and was not let run, was starved."""
WARM_UP_S: Final = 8.0
"""The memory of a young process grows whatever it does: it is not judged before this age."""
JUDGED_S: Final = 10.0
"""A shorter stretch says nothing about a slope."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at all users."""

    t: float
    registered: int
    """Users who believe to be registered."""
    present: int
    """Users in whom Redis believes."""
    wrong: frozenset[str]
    """Users for whom the two differ."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What one gateway process used at a moment."""

    t: float
    gateway: str
    pid: int
    rss_bytes: int


@dataclass(slots=True)
class Watch:
    """Looks until cancelled: `asyncio.create_task(watch.run())`."""

    world: World
    samples: list[Sample] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    _counters: dict[str, dict[str, int]] = field(default_factory=dict)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look(), name="watch: users")
            group.create_task(self._look_at_the_machine(), name="watch: machine")
            for name in self.world.gateways:
                group.create_task(self._read(name), name=f"watch: {name}")

    async def _look(self) -> None:
        while True:
            before = self.world.clock()
            self.samples.append(look(self.world))
            await asyncio.sleep(LOOK_EVERY_S)
            now = self.world.clock()
            if (late_s := now - before - LOOK_EVERY_S) > LATE_S:
                self.world.note(Late(t=now, for_s=late_s))

    async def _look_at_the_machine(self) -> None:
        """Take note when a gateway, Redis or we were ready to run, and the machine did not let
        them: it has something else to do. (One that is stopped by a signal is not ready to run.)
        """
        before: dict[int, float] = {}
        while True:
            began = self.world.clock()
            await asyncio.sleep(STARVED_EVERY_S)
            now = self.world.clock()
            waited = {pid: waited_s(pid) for pid in self._pids()}
            longest = max(
                (waited[pid] - before[pid] for pid in waited.keys() & before.keys()), default=0.0
            )
            if longest > STARVED * (now - began):
                self.world.note(Late(t=now, for_s=now - began))
            before = waited

    def _pids(self) -> list[int]:
        gateways = self.world.gateways.values()
        pids = [os.getpid(), *(gateway.pid for gateway in gateways if gateway.running)]
        with contextlib.suppress(ServerError):
            pids.append(self.world.server.pid)
        return pids

    async def _read(self, name: str) -> None:
        gateway = self.world.gateways[name]
        while True:
            with contextlib.suppress(OSError, TimeoutError, ValueError, KeyError):
                self._note_page(json.loads((await gateway.get("/stats", PAGE_S))[1]))
            with contextlib.suppress(psutil.Error):
                if gateway.running:
                    rss = psutil.Process(gateway.pid).memory_info().rss
                    self.memory.append(Memory(self.world.clock(), name, gateway.pid, rss))
            await asyncio.sleep(PAGE_EVERY_S)

    def _note_page(self, page: dict[str, Any]) -> None:
        self._counters[page["bootId"]] = page["counters"]

    @property
    def counters(self) -> Counter[str]:
        """What all processes have counted, those that are gone included."""
        total: Counter[str] = Counter()
        for counters in self._counters.values():
            total.update(counters)
        return total


def waited_s(pid: int) -> float:
    """Return how long the first thread of a process has been ready to run and was not let run, in
    all (s); 0 where the system does not say (it is Linux that does).
    """
    try:
        words = Path(f"/proc/{pid}/schedstat").read_text().split()
    except OSError:
        return 0.0
    return int(words[1]) / 1e9 if len(words) == 3 else 0.0


def believers(user: Talker | Plain) -> list[str]:
    """Return the sessions of a user that believe to be registered."""
    if isinstance(user, Talker):
        return [client.conn_id for client in user.registered]
    return [user.conn] if user.conn else []


def look(world: World) -> Sample:
    """Compare what users believe with what Redis does, now."""
    registered = present = 0
    wrong = set()
    for user in world.users:
        mine, owner = believers(user), world.witness.ledger.owner(user.name)
        registered += bool(mine)
        present += bool(owner)
        if mine != ([owner] if owner else []) or (user.online and not mine):
            wrong.add(user.name)
    return Sample(world.clock(), registered, present, frozenset(wrong))


def converged_after_s(samples: Iterable[Sample], healed: float) -> float | None:
    """Return how long after a heal the last user who was wrong then was right for once.

    It is an upper bound where another fault is active meanwhile. None when a user never was.
    """
    later = [sample for sample in samples if sample.t >= healed]
    if not later:
        return None
    left = set(later[0].wrong)
    if not left:
        return 0.0
    for sample in later:
        left &= sample.wrong
        if not left:
            return sample.t - healed
    return None


def back_after_s(history: Iterable[Record], gateway: str, began: float) -> list[float]:
    """Return how long after a moment the users of a gateway were registered with another one.

    Those whose session had ended before, and those who never came back, are not in the list.
    """
    sessions: dict[str, Registered] = {}
    found = []
    for record in history:
        if record.t < began:
            if isinstance(record, Registered) and record.phase is Phase.OK:
                sessions[record.user] = record
            elif isinstance(record, Closed):
                last = sessions.get(record.user)
                if last is not None and last.conn == record.conn:
                    del sessions[record.user]
        elif isinstance(record, Registered) and record.phase is Phase.OK:
            before = sessions.pop(record.user, None)
            if before is not None and gateway == before.gateway != record.gateway:
                found.append(record.t - began)
    return found


def peaks(memory: Iterable[Memory]) -> dict[str, int]:
    """Return the most memory that each process had at any time of its life (bytes)."""
    found: dict[str, int] = {}
    for one in memory:
        name = f"{one.gateway} (pid {one.pid})"
        found[name] = max(found.get(name, 0), one.rss_bytes)
    return found


def slopes(memory: Iterable[Memory]) -> dict[str, float]:
    """Return the growth of each process that lived long enough (KiB a minute), by least squares.

    Keys are "gateway-01 (pid 123)".
    """
    by_process: dict[tuple[str, int], list[Memory]] = {}
    for one in memory:
        by_process.setdefault((one.gateway, one.pid), []).append(one)
    found = {}
    for (gateway, pid), all_of_it in by_process.items():
        warm = [one for one in all_of_it if one.t - all_of_it[0].t >= WARM_UP_S]
        if len(warm) >= 3 and warm[-1].t - warm[0].t >= JUDGED_S:
            minutes = np.array([one.t for one in warm]) / 60
            kib = np.array([one.rss_bytes for one in warm]) / 1024
            found[f"{gateway} (pid {pid})"] = float(np.polyfit(minutes, kib, 1)[0])
    return found
