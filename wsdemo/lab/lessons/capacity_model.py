"""Simulation: how busy are gateways and Redis, when each thing that users do costs so much CPU?

A discrete-event simulation. A heap holds what happens next, and the clock jumps from one event to
the next one. Each process does one thing at a time: what arrives meanwhile waits in its queue. The
numbers of a `CostSheet` are measured (`wsdemo.lab.lessons.capacity_costs`); nothing else is.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

RENEW_AFTER: Final = (0.25, 0.5)
"""A lease is renewed at a sign of life, but not sooner than so many heartbeats after the last
time; chosen anew each time. Gateways do the same (`SessionServices.next_refresh_s`)."""
BACK_WITHIN_S: Final = 30.0
"""Users of a gateway that dies come to the others within this time, evenly."""
LAST: Final = 0.25
"""What messages take is noted in this last part of the time."""
A_CROWD: Final = 500
"""To learn what one user asks for, so many are enough."""
AT_A_DEATH: Final = 600
"""While a gateway dies, so many are enough."""
CROWD_HEARTBEATS: Final = 2


@dataclass(frozen=True, slots=True)
class CostSheet:
    """What things cost, in µs of CPU, and at rest, as a share of a core."""

    redis_refresh_us: float
    redis_message_us: float
    redis_move_us: float
    gateway_heartbeat_us: float
    """With the refresh that follows from it."""
    gateway_message_us: float
    """Both gateways together; each has half of it."""
    gateway_move_us: float
    """A user registers, and her session before that ends."""
    redis_rest: float = 0.0
    gateway_rest: float = 0.0
    """Of each gateway."""
    commands_a_move: float = 3.0
    commands_at_rest: float = 0.0
    """Of all gateways, a second."""

    def __str__(self) -> str:
        rows = [
            ("a heartbeat", self.redis_refresh_us, self.gateway_heartbeat_us),
            ("a message", self.redis_message_us, self.gateway_message_us),
            ("a reconnect", self.redis_move_us, self.gateway_move_us),
        ]
        head = f"{'CPU for':16}{'Redis':>9}{'gateways':>12}"
        return "\n".join(
            [head, *(f"{what:16}{one:6.0f} µs{two:9.0f} µs" for what, one, two in rows)]
        )

    def scaled(self, **factors: float) -> CostSheet:
        """Return the sheet with some of its numbers multiplied."""
        changed = {name: getattr(self, name) * factor for name, factor in factors.items()}
        return dataclasses.replace(self, **changed)


@dataclass(frozen=True, slots=True)
class UserLoad:
    """What users do."""

    users: int
    heartbeat_s: float = 30.0
    message_rate: float = 1 / 80
    """Messages a second that one user sends, to somebody at another gateway."""
    move_rate: float = 1 / 600
    """How often a second one user comes anew, such as after a lost connection."""

    def faster(self, scale: float) -> UserLoad:
        """Return the same load on a clock that runs faster."""
        return UserLoad(
            self.users, self.heartbeat_s / scale, self.message_rate * scale, self.move_rate * scale
        )


@dataclass(slots=True)
class BusyServer:
    """A process that does one thing at a time."""

    free_at: float = 0.0
    worked_s: float = 0.0

    def take(self, now: float, work_us: float) -> float:
        """Do something as soon as what came before is done; return when it is finished."""
        self.worked_s += work_us / 1e6
        self.free_at = max(now, self.free_at) + work_us / 1e6
        return self.free_at


@dataclass(slots=True)
class PlayedLoad:
    """What came of it. Shares are of one core; more than 1 means that the queue grows."""

    seconds: float
    did: Counter[str]
    """How often: heartbeat, refresh, message, move."""
    commands_a_s: float
    redis_share: float
    gateway_shares: list[float]
    """Of those that live at the end; after a death, only in the last quarter."""
    took_s: list[float] = field(default_factory=list)
    """How long messages took, in the last quarter: only their work and their waiting."""

    @property
    def gateway_share(self) -> float:
        """Of a gateway, on average."""
        return sum(self.gateway_shares) / len(self.gateway_shares)

    @property
    def p99_s(self) -> float:
        """The 99th percentile of what a message takes."""
        return sorted(self.took_s)[int(0.99 * len(self.took_s))] if self.took_s else 0.0


def simulate(
    load: UserLoad,
    costs: CostSheet,
    gateways: int,
    *,
    seconds: float,
    dies_at: float | None = None,
    seed: int = 1,
) -> PlayedLoad:
    """Play a load on gateways and one Redis.

    Args:
        dies_at: when one of the gateways dies; its users come to the others.
    """
    world = _CapacityWorld(load, costs, gateways, random.Random(seed))
    if dies_at is not None:
        world.at(dies_at, world.die)
        world.at((1 - LAST) * seconds, world.begin_anew)
    world.run(seconds)
    return world.result(seconds)


class _CapacityWorld:
    """Users, gateways, Redis, and what happens next."""

    def __init__(self, load: UserLoad, costs: CostSheet, gateways: int, rng: random.Random) -> None:
        self.load, self.costs, self.rng = load, costs, rng
        self.redis, self.gateways = BusyServer(), [BusyServer() for _ in range(gateways)]
        self.alive = list(range(gateways))
        self.where = [user % gateways for user in range(load.users)]
        self.renew_after, self.waiting = [0.0] * load.users, [False] * load.users
        self.did: Counter[str] = Counter()
        self.took: list[tuple[float, float]] = []
        self.since, self.worked_before = 0.0, [0.0] * gateways
        self.heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self.events = 0
        for user in range(load.users):
            first = rng.uniform(0, load.heartbeat_s)
            self.at(first, self.heartbeat, user)
            self.renew_after[user] = first - load.heartbeat_s * (1 - rng.uniform(*RENEW_AFTER))
            self.after(0.0, load.message_rate, self.message, user)
            self.after(0.0, load.move_rate, self.move, user)

    def at(self, when: float, act: Callable[..., object], *args: Any) -> None:
        self.events += 1  # Of two events at the same time, the earlier one comes first.
        heapq.heappush(self.heap, (when, self.events, act, args))

    def after(self, now: float, rate: float, act: Callable[..., object], user: int) -> None:
        """Do something at a random time: so many times a second on average."""
        if rate:
            self.at(now + self.rng.expovariate(rate), act, user)

    def run(self, until: float) -> None:
        while self.heap and self.heap[0][0] < until:
            now, _, act, args = heapq.heappop(self.heap)
            act(now, *args)

    # --- what happens; a user whose gateway has died does nothing ----------------------------

    def heartbeat(self, now: float, user: int) -> None:
        self.at(now + self.load.heartbeat_s, self.heartbeat, user)
        if (here := self.where[user]) in self.alive:
            self.did["heartbeat"] += 1
            done = self.gateways[here].take(now, self.costs.gateway_heartbeat_us)
            self.at(done, self.renew, user)

    def renew(self, now: float, user: int) -> None:
        """A sign of life renews the lease: now, or as soon as that is allowed again."""
        if now < self.renew_after[user]:
            if not self.waiting[user]:
                self.waiting[user] = True
                self.at(self.renew_after[user], self.refresh, user)
        elif not self.waiting[user]:
            self.refresh(now, user)

    def refresh(self, now: float, user: int) -> None:
        self.waiting[user] = False
        self.renew_after[user] = now + self.load.heartbeat_s * self.rng.uniform(*RENEW_AFTER)
        self.did["refresh"] += 1
        self.redis.take(now, self.costs.redis_refresh_us)

    def message(self, now: float, user: int) -> None:
        self.after(now, self.load.message_rate, self.message, user)
        if (here := self.where[user]) in self.alive:
            self.did["message"] += 1
            done = self.gateways[here].take(now, self.costs.gateway_message_us / 2)
            self.at(done, self.renew, user)
            self.at(done, self.route, now, here)

    def route(self, now: float, sent: float, here: int) -> None:
        others = [there for there in self.alive if there != here] or self.alive
        done = self.redis.take(now, self.costs.redis_message_us)
        self.at(done, self.deliver, sent, self.rng.choice(others))

    def deliver(self, now: float, sent: float, there: int) -> None:
        done = self.gateways[there].take(now, self.costs.gateway_message_us / 2)
        self.took.append((sent, done - sent))

    def move(self, now: float, user: int) -> None:
        self.after(now, self.load.move_rate, self.move, user)
        if self.where[user] in self.alive:
            self.come(now, user)

    def come(self, now: float, user: int) -> None:
        self.where[user] = self.rng.choice(self.alive)
        self.did["move"] += 1
        done = self.gateways[self.where[user]].take(now, self.costs.gateway_move_us)
        self.at(done, lambda now: self.redis.take(now, self.costs.redis_move_us))

    def die(self, now: float) -> None:
        dead = self.alive.pop()
        for user, here in enumerate(self.where):
            if here == dead:
                self.at(now + self.rng.uniform(0, BACK_WITHIN_S), self.come, user)

    def begin_anew(self, now: float) -> None:
        """From now on, count what gateways do from zero."""
        self.since, self.worked_before = now, [worker.worked_s for worker in self.gateways]

    def result(self, seconds: float) -> PlayedLoad:
        moves = self.did["move"] * self.costs.commands_a_move
        asked = self.did["refresh"] + self.did["message"] + moves
        worked = [self.gateways[i].worked_s - self.worked_before[i] for i in self.alive]
        return PlayedLoad(
            seconds,
            self.did,
            asked / seconds + self.costs.commands_at_rest,
            self.redis.worked_s / seconds + self.costs.redis_rest,
            [s / (seconds - self.since) + self.costs.gateway_rest for s in worked],
            [took for sent, took in self.took if sent >= (1 - LAST) * seconds],
        )


def a_gateway_dies(
    load: UserLoad,
    costs: CostSheet,
    gateways: int,
    seconds: float = 60.0,
    *,
    crowd: int = AT_A_DEATH,
) -> PlayedLoad:
    """Play the death of one of the gateways, after a sixth of the time.

    Args:
        crowd: at most so many users are played. Where there are more, each of them stands for
            several, and all that she does costs as much as theirs.
    """
    each = max(1.0, load.users / crowd)
    fewer = dataclasses.replace(load, users=round(load.users / each))
    names = [name.name for name in dataclasses.fields(costs) if name.name.endswith("_us")]
    heavy = costs.scaled(**dict.fromkeys(names, each))
    return simulate(fewer, heavy, gateways, seconds=seconds, dies_at=seconds / 6)


# --- from one crowd to millions ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UserDemand:
    """How often a second one user does something, on average."""

    heartbeats: float
    refreshes: float
    messages: float
    moves: float

    def commands(self, costs: CostSheet) -> float:
        """Return the commands of Redis, a second."""
        return self.refreshes + self.messages + self.moves * costs.commands_a_move

    def redis_cores(self, costs: CostSheet) -> float:
        """Return the CPU of Redis, as a share of a core."""
        return 1e-6 * (
            self.refreshes * costs.redis_refresh_us
            + self.messages * costs.redis_message_us
            + self.moves * costs.redis_move_us
        )

    def gateway_cores(self, costs: CostSheet) -> float:
        """Return the CPU of gateways, as a share of a core."""
        return 1e-6 * (
            self.heartbeats * costs.gateway_heartbeat_us
            + self.messages * costs.gateway_message_us
            + self.moves * costs.gateway_move_us
        )


def demand(load: UserLoad) -> UserDemand:
    """Return what one user asks for. Only the refreshes need the simulation: a message renews a
    lease too, and then the next heartbeat may come too early for another refresh.
    """
    beats = 1 / load.heartbeat_s
    refreshes = beats * _refreshes_a_heartbeat(load.heartbeat_s, load.message_rate)
    return UserDemand(beats, refreshes, load.message_rate, load.move_rate)


@functools.lru_cache(maxsize=64)
def _refreshes_a_heartbeat(heartbeat_s: float, message_rate: float) -> float:
    crowd = UserLoad(A_CROWD, heartbeat_s, message_rate, 0.0)
    seconds = CROWD_HEARTBEATS * heartbeat_s
    did = simulate(crowd, CostSheet(0, 0, 0, 0, 0, 0), 2, seconds=seconds).did
    return did["refresh"] / did["heartbeat"]


REDIS_CEILING: Final = 0.5
"""So much of a core one Redis may use: the rest is for failovers, and for its own work."""
GATEWAY_CEILING: Final = 0.8
CONNECTIONS: Final = 20_000
"""So many connections one gateway may have."""


class FleetSize(NamedTuple):
    """How many processes a load needs."""

    users: int
    commands: float
    """Commands of Redis, a second."""
    redis: int
    gateways: int
    """One more than needed: any one of them may die."""
    redis_gb: float

    def __str__(self) -> str:
        return (
            f"{self.users:>10,} users: {self.commands:>9,.0f} commands/s, {self.redis:>3} Redis "
            f"with {self.redis_gb:.2g} GB, {self.gateways:>4} gateways"
        )


def fleet_size(load: UserLoad, costs: CostSheet, redis_bytes: float = 0.0) -> FleetSize:
    """Return what a load needs, with one gateway to spare.

    Args:
        redis_bytes: what Redis keeps of a user.
    """
    each = demand(load)
    cores = load.users * each.gateway_cores(costs)
    return FleetSize(
        load.users,
        load.users * each.commands(costs),
        math.ceil(load.users * each.redis_cores(costs) / REDIS_CEILING),
        math.ceil(max(cores / GATEWAY_CEILING, load.users / CONNECTIONS)) + 1,
        load.users * redis_bytes / 1e9,
    )


def cores(load: UserLoad, costs: CostSheet) -> float:
    """Return how many cores have to be there, of gateways and Redis, below their ceilings."""
    each = demand(load)
    one = each.gateway_cores(costs) / GATEWAY_CEILING + each.redis_cores(costs) / REDIS_CEILING
    return load.users * one


def what_if(load: UserLoad, costs: CostSheet, error: float = 0.2) -> dict[str, tuple[float, float]]:
    """Return the cores for each assumption that is too high, and too low, by this share."""
    loads = {
        "number of users": "users",
        "time between heartbeats": "heartbeat_s",
        "messages of a user": "message_rate",
        "reconnects of a user": "move_rate",
    }
    sheets = {
        "gateway: a heartbeat": ["gateway_heartbeat_us"],
        "gateway: a message": ["gateway_message_us"],
        "gateway: a reconnect": ["gateway_move_us"],
        "Redis: all its costs": ["redis_refresh_us", "redis_message_us", "redis_move_us"],
    }
    less, more = 1 - error, 1 + error

    def with_load(name: str, factor: float) -> float:
        value = getattr(load, name) * factor
        changed: dict[str, Any] = {name: round(value) if name == "users" else value}
        return cores(dataclasses.replace(load, **changed), costs)

    def with_costs(names: Sequence[str], factor: float) -> float:
        return cores(load, costs.scaled(**dict.fromkeys(names, factor)))

    found = {what: (with_load(name, less), with_load(name, more)) for what, name in loads.items()}
    return found | {
        what: (with_costs(names, less), with_costs(names, more)) for what, names in sheets.items()
    }
