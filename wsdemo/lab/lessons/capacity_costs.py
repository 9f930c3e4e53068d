"""Costs: how much CPU and memory do heartbeats, messages and moves take on this machine?

Two gateways run as processes of their own, so that the CPU of each can be told from that of the
users. They do one kind of work at a time: a `CostSheet` comes from what is more than before.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import psutil
import redis

from wsdemo.client import Client, ClientClosed
from wsdemo.lab.cluster.hosts import Process
from wsdemo.lab.lab import Lab
from wsdemo.lab.lessons.capacity_model import CostSheet, UserLoad, simulate
from wsdemo.lab.pace import Pace
from wsdemo.rig.accounting import cpu_s_of

GATEWAYS: Final = ("gateway-02", "gateway-03")
SECONDS: Final = 2.0
"""Wall seconds of each measurement, at least: it lasts a whole number of heartbeats."""
TALKING: Final = UserLoad(300, message_rate=1 / 60, move_rate=0.0)
MOVING: Final = UserLoad(300, message_rate=0.0, move_rate=1 / 300)
MIXED: Final = UserLoad(300, message_rate=1 / 80, move_rate=1 / 600)
"""What the model has to foretell: other rates than those from which the costs come, at once."""
SIMULATED_S: Final = 20.0
TOLERANCE: Final = 0.2
"""By which share the model may be wrong."""


class WorkDone(NamedTuple):
    """What processes did in a time: seconds of CPU, and how often."""

    seconds: float
    redis_s: float
    gateways_s: float
    commands: float
    refreshes: float
    messages: float
    moves: float

    def above(self, rest: WorkDone) -> WorkDone:
        """Return what is more than at rest. Refreshes, messages and moves are none at rest."""
        share = self.seconds / rest.seconds
        return self._replace(
            redis_s=self.redis_s - share * rest.redis_s,
            gateways_s=self.gateways_s - share * rest.gateways_s,
            commands=self.commands - share * rest.commands,
        )


class CapacityBench:
    """A lab whose two gateways are processes, with users and a meter.

    Args:
        pace: how many users, and how fast their clock runs.
    """

    def __init__(self, pace: Pace) -> None:
        self.users, self.scale = pace.users, pace.scale
        self.lab = Lab(gateways=1, scale=pace.scale)
        starting = [self.lab.cluster.start_process(name) for name in GATEWAYS]
        self.lab.loop.run(_all(starting))
        self.lab.drain("gateway-01")
        self.pids = [_pid(self.lab, name) for name in GATEWAYS]

    def close(self) -> None:
        """Stop users, gateways and Redis."""
        self.lab.close()

    def database(self) -> redis.Redis:
        """Return a connection to the Redis of the lab, to be closed by the caller."""
        return redis.Redis.from_url(self.lab.cluster.redis_url, decode_responses=True)

    # --- load ------------------------------------------------------------------------------

    def work(self, load: UserLoad, seconds: float = SECONDS) -> WorkDone:
        """Let users do something for so many wall seconds or a little more; return what it took.

        Their heartbeats may come in waves, so it lasts a whole number of them.
        """
        beat_s = load.heartbeat_s / self.scale
        seconds = math.ceil(seconds / beat_s) * beat_s
        with self.metered() as done:
            self.lab.loop.run(self._live(load.faster(self.scale), seconds), 60 + seconds)
        return done[0]

    def connect(self, users: int) -> None:
        """Connect some of the users."""
        self.lab.connect_many(users)

    async def _live(self, load: UserLoad, seconds: float) -> None:
        clients, rng = list(self.lab.cluster.users.values()), random.Random(12)
        urls, loop = self.lab.cluster.urls, asyncio.get_running_loop()
        ends_at = loop.time() + seconds
        acts: list[tuple[float, Callable[[Client], Any]]] = [
            (load.message_rate, lambda one: _talk(one, clients, rng)),
            (load.move_rate, lambda one: _move(one, urls)),
        ]
        async with asyncio.TaskGroup() as group:
            for rate, act in acts:
                group.create_task(_repeat(rate * len(clients), act, clients, rng, ends_at))
            group.create_task(asyncio.sleep(seconds))

    # --- meter -----------------------------------------------------------------------------

    @contextmanager
    def metered(self) -> Iterator[list[WorkDone]]:
        """Add what is done in the meantime to a list."""
        done: list[WorkDone] = []
        counted, began = self._counts(), self._read()
        yield done
        used = [after - before for before, after in zip(began, self._read(), strict=True)]
        counts = [after - before for before, after in zip(counted, self._counts(), strict=True)]
        done.append(WorkDone(*used, *counts))

    def _read(self) -> tuple[float, float, float, float]:
        with self.database() as database:
            cpu, calls = database.info("cpu"), database.info("commandstats")
        one = "_main_thread" if "used_cpu_user_main_thread" in cpu else ""
        return (
            time.monotonic(),
            cpu[f"used_cpu_user{one}"] + cpu[f"used_cpu_sys{one}"],
            sum(map(cpu_s_of, self.pids)),
            float(calls.get("cmdstat_evalsha", {}).get("calls", 0)),
        )

    def _counts(self) -> list[int]:
        counters = [self.lab.stats(name)["counters"] for name in GATEWAYS]
        names = ("refreshes_ok", "routes_routed", "registers_ok")
        return [sum(int(one[name]) for one in counters) for name in names]

    # --- memory ----------------------------------------------------------------------------

    def gateway_bytes(self) -> int:
        """Return the memory of both gateways."""
        return sum(psutil.Process(pid).memory_info().rss for pid in self.pids)

    def redis_bytes_a_user(self) -> float:
        """Return what Redis keeps of a user, on average: her entry and her fence."""
        keyspace, names = self.lab.cluster.keyspace, list(self.lab.users)[:50]
        keys = [key for name in names for key in (keyspace.presence(name), keyspace.fence(name))]
        with self.database() as database:
            return sum(database.memory_usage(key) or 0 for key in keys) / len(names)


class MeasuredCosts(NamedTuple):
    """What was measured with users of this machine."""

    sheet: CostSheet
    commands: float
    """Of Redis, a production second and user, when users send heartbeats and nothing else."""
    redis_bytes: float
    """Of a user."""
    gateway_bytes: float
    """Of a connection."""


def measure_costs(bench: CapacityBench) -> MeasuredCosts:
    """Let gateways rest, then let users come, send heartbeats, talk, and move; return the costs."""
    quiet = UserLoad(bench.users, message_rate=0.0, move_rate=0.0)
    rest = bench.work(quiet)
    bench.connect(bench.users // 2)  # A process has some free memory; these fill it.
    memory, later = bench.gateway_bytes(), bench.users - bench.users // 2
    bench.connect(later)
    memory = bench.gateway_bytes() - memory
    works = [bench.work(load) for load in (quiet, TALKING, MOVING)]
    beats = works[0].above(rest)
    return MeasuredCosts(
        sheet_of(rest, *works),
        beats.commands / beats.seconds / bench.users / bench.scale,
        bench.redis_bytes_a_user(),
        memory / later,
    )


def sheet_of(rest: WorkDone, beats: WorkDone, talk: WorkDone, moves: WorkDone) -> CostSheet:
    """Return the cost of each thing, from what was done at rest, with heartbeats only, and with
    heartbeats and something else.
    """
    beats, talk, moves = (one.above(rest) for one in (beats, talk, moves))
    refresh_s = beats.redis_s / beats.refreshes
    beats_a_s = beats.gateways_s / beats.seconds

    def redis_us(work: WorkDone, times: float) -> float:
        return 1e6 * (work.redis_s - work.refreshes * refresh_s) / times

    def gateway_us(work: WorkDone, times: float) -> float:
        return 1e6 * (work.gateways_s - work.seconds * beats_a_s) / times

    return CostSheet(
        redis_refresh_us=1e6 * refresh_s,
        redis_message_us=redis_us(talk, talk.messages),
        redis_move_us=redis_us(moves, moves.moves),
        gateway_heartbeat_us=1e6 * beats.gateways_s / beats.refreshes,
        gateway_message_us=gateway_us(talk, talk.messages),
        gateway_move_us=gateway_us(moves, moves.moves),
        redis_rest=rest.redis_s / rest.seconds,
        gateway_rest=rest.gateways_s / rest.seconds / len(GATEWAYS),
        commands_a_move=(moves.commands - moves.refreshes) / moves.moves,
        commands_at_rest=rest.commands / rest.seconds,
    )


# --- the model beside the real thing -----------------------------------------------------------


class ModelError(NamedTuple):
    """A number of the real run, and what the model had said."""

    what: str
    real: float
    model: float

    @property
    def error(self) -> float:
        """By which share the model is wrong."""
        return self.model / self.real - 1

    def __str__(self) -> str:
        return f"{self.what:28}{self.real:10.4g}{self.model:10.4g}{100 * self.error:+8.0f} %"


class ComparedRun(NamedTuple):
    """All that is compared; in a cell a table."""

    rows: list[ModelError]
    users: float
    """So many do in production what those of the run did, on their faster clock."""
    redis_cores: float
    """Without what it uses at rest."""
    gateways_cores: float

    @property
    def worst(self) -> float:
        """The largest error, without its sign."""
        return max(abs(row.error) for row in self.rows)

    def __repr__(self) -> str:
        head = f"{'':28}{'real':>10}{'model':>10}{'error':>10}"
        return "\n".join([head, *map(str, self.rows)])


def compare(bench: CapacityBench, costs: CostSheet, load: UserLoad = MIXED) -> ComparedRun:
    """Let the model foretell a load, and then run it for real."""
    played = dataclasses.replace(load, users=bench.users).faster(bench.scale)
    model = simulate(played, costs, len(GATEWAYS), seconds=SIMULATED_S)
    real = bench.work(load, 1.5 * SECONDS)
    redis, gateway = real.redis_s / real.seconds, real.gateways_s / real.seconds / len(GATEWAYS)
    return ComparedRun(
        [
            ModelError("Redis commands a second", real.commands / real.seconds, model.commands_a_s),
            ModelError("Redis, % of a core", 100 * redis, 100 * model.redis_share),
            ModelError("a gateway, % of a core", 100 * gateway, 100 * model.gateway_share),
        ],
        bench.users * bench.scale,
        redis - costs.redis_rest,
        (gateway - costs.gateway_rest) * len(GATEWAYS),
    )


# --- what users do -----------------------------------------------------------------------------


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*work)


async def _repeat(
    rate: float,
    act: Callable[[Client], Coroutine[Any, Any, None]],
    clients: Sequence[Client],
    rng: random.Random,
    ends_at: float,
) -> None:
    """Let some user do something, so many times a second on average, whether or not what came
    before is done.
    """
    loop = asyncio.get_running_loop()
    due = loop.time()
    async with asyncio.TaskGroup() as group:
        while rate and (due := due + rng.expovariate(rate)) < ends_at:
            await asyncio.sleep(max(0.0, due - loop.time()))
            group.create_task(act(rng.choice(clients)))


async def _talk(one: Client, clients: Sequence[Client], rng: random.Random) -> None:
    others = [client for client in clients if client.gateway_id != one.gateway_id]
    if others:
        with contextlib.suppress(TimeoutError, ClientClosed):
            await one.send(rng.choice(others).user, "hello")


async def _move(one: Client, urls: Mapping[str, str]) -> None:
    there = next(url for name, url in urls.items() if name != one.gateway_id)
    with contextlib.suppress(TimeoutError, ClientClosed):
        await one.move(there)


def _pid(lab: Lab, name: str) -> int:
    host = lab.cluster.host(name)
    assert isinstance(host, Process)
    return host.pid
