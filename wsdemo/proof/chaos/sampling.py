"""Sampling: what can be measured from outside during a chaos run?

At a steady pace: which users believe to be registered, which users Redis names (as the witness has
seen), and the memory and the counters of each gateway process. The counters of a killed gateway are
those of its last page; what it did after that is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from wsdemo.proof.chaos.cluster import ProcessCluster
from wsdemo.proof.chaos.deployment import DeploymentKind
from wsdemo.proof.chaos.plain_users import PlainUser
from wsdemo.proof.chaos.users import ClientUser
from wsdemo.proof.history import Late
from wsdemo.redis.server import ServerError

LOOK_EVERY_S: Final = 0.05
PAGE_EVERY_S: Final = 0.5
PAGE_S: Final = 0.4
ERRORS_EVERY_S: Final = 2.0
LATE_S: Final = 0.15
"""If a sample is late by more than this, the machine was too busy. What took longer in that time
says nothing about a gateway."""
STARVED_EVERY_S: Final = 0.25
STARVED: Final = 0.5
"""A process that was ready to run and had to wait for this share of a time was starved."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at all users."""

    t: float
    registered: int
    """Users whose clients are registered."""
    present: int
    """Users whom Redis names as present."""
    wrong: frozenset[str]
    """Users for whom the two differ."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """What one gateway process used at a moment."""

    t: float
    gateway: str
    pid: int
    rss_bytes: int


@dataclass(slots=True)
class Sampler:
    """Takes samples until cancelled: `asyncio.create_task(sampler.run())`."""

    cluster: ProcessCluster
    samples: list[Sample] = field(default_factory=list)
    memory: list[MemorySample] = field(default_factory=list)
    _counters: dict[str, Mapping[str, int]] = field(default_factory=dict)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look(), name="sample users")
            group.create_task(self._look_at_the_machine(), name="sample the machine")
            if self.cluster.deployment.kind is DeploymentKind.CLUSTER:
                group.create_task(self._read_errors(), name="sample errors of Redis")
            for name in self.cluster.gateways:
                group.create_task(self._read(name), name=f"sample {name}")

    async def _look(self) -> None:
        while True:
            before = self.cluster.clock()
            self.samples.append(look(self.cluster))
            await asyncio.sleep(LOOK_EVERY_S)
            now = self.cluster.clock()
            if (late_s := now - before - LOOK_EVERY_S) > LATE_S:
                self.cluster.note(Late(t=now, for_s=late_s))

    async def _look_at_the_machine(self) -> None:
        """Record when a gateway, Redis or this process was ready to run and had to wait.

        Then the machine was too busy. A process that a signal has stopped is not ready to run.
        """
        before: dict[int, float] = {}
        while True:
            began = self.cluster.clock()
            await asyncio.sleep(STARVED_EVERY_S)
            now = self.cluster.clock()
            waited = {pid: waited_s(pid) for pid in self._pids()}
            longest = max(
                (waited[pid] - before[pid] for pid in waited.keys() & before.keys()), default=0.0
            )
            if longest > STARVED * (now - began):
                self.cluster.note(Late(t=now, for_s=now - began))
            before = waited

    def _pids(self) -> list[int]:
        gateways = self.cluster.gateways.values()
        pids = [os.getpid(), *(gateway.pid for gateway in gateways if gateway.running)]
        for server in self.cluster.servers:
            with contextlib.suppress(ServerError):
                pids.append(server.pid)
        return pids

    async def _read(self, name: str) -> None:
        gateway = self.cluster.gateways[name]
        while True:
            with contextlib.suppress(OSError, TimeoutError, ValueError, KeyError):
                async with self.cluster.asking[name]:
                    self._note_page(json.loads((await gateway.get("/stats", PAGE_S))[1]))
            with contextlib.suppress(psutil.Error):
                if gateway.running:
                    rss = psutil.Process(gateway.pid).memory_info().rss
                    self.memory.append(MemorySample(self.cluster.clock(), name, gateway.pid, rss))
            await asyncio.sleep(PAGE_EVERY_S)

    async def _read_errors(self) -> None:
        """Count the errors that the servers tell, MOVED for example."""
        while True:
            self._counters |= await asyncio.to_thread(self.cluster.group.errors)
            await asyncio.sleep(ERRORS_EVERY_S)

    def _note_page(self, page: dict[str, Any]) -> None:
        restarts = page.get("workerRestarts", 0)
        self._counters[page["bootId"]] = {**page["counters"], "worker_restarts": restarts}

    @property
    def counters(self) -> Counter[str]:
        """The sums of the counters of all processes, including those that have ended."""
        total: Counter[str] = Counter()
        for counters in self._counters.values():
            total.update(counters)
        return total


def waited_s(pid: int) -> float:
    """Return how long the first thread of a process was ready to run and had to wait, in all (s).

    0 where the system does not say; Linux does.
    """
    try:
        words = Path(f"/proc/{pid}/schedstat").read_text().split()
    except OSError:
        return 0.0
    return int(words[1]) / 1e9 if len(words) == 3 else 0.0


def believers(user: ClientUser | PlainUser) -> list[str]:
    """Return the sessions of a user that believe to be registered."""
    if isinstance(user, ClientUser):
        return [client.conn_id for client in user.registered]
    return [user.conn] if user.conn else []


def look(cluster: ProcessCluster) -> Sample:
    """Compare the sessions of users with the entries in Redis, now."""
    registered = present = 0
    wrong = set()
    for user in cluster.users:
        mine, owner = believers(user), cluster.witness.monitor_log.owner(user.name)
        registered += bool(mine)
        present += bool(owner)
        if mine != ([owner] if owner else []) or (user.online and not mine):
            wrong.add(user.name)
    return Sample(cluster.clock(), registered, present, frozenset(wrong))
