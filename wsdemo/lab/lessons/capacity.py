"""Lesson 12: how many gateways and Redis servers does a load need, when one of them may die?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from wsdemo.lab.lessons.capacity_model import (
    CONNECTIONS,
    GATEWAY_CEILING,
    REDIS_CEILING,
    CostSheet,
    UserDemand,
    UserLoad,
    a_gateway_dies,
)
from wsdemo.lab.lessons.question import Judgement, NotJudged, Question, WrongAnswer

QUESTION: Final = Question(
    "A million users are connected. Each client sends a heartbeat every 30 seconds, and nobody "
    "has sent a message yet. How many commands does Redis get each second?",
    {
        3_000: "It would be so with a heartbeat every five minutes. A dead user would then be "
        "listed for a quarter of an hour.",
        33_000: "A million leases, each renewed once in 30 seconds: nothing else happens, and it "
        "never stops.",
        300_000: "It would be so with ten million users, or with a heartbeat every 3 seconds.",
        1_000_000: "It would be so if each lease were renewed every second. A lease lasts 90 "
        "seconds, so that once in 30 is enough.",
    },
)

# --- the exercise ------------------------------------------------------------------------------

Plan = Callable[[int, float, float], Any]

SHEET: Final = CostSheet(
    redis_refresh_us=30,
    redis_message_us=60,
    redis_move_us=120,
    gateway_heartbeat_us=100,
    gateway_message_us=150,
    gateway_move_us=900,
)
"""The costs of the exercise: the same on each machine."""
GHOST_S: Final = 180
"""Nobody who has gone may be listed for longer: a lease of three heartbeats."""
SHARD_PRICE: Final = 10
"""A primary and its replica, in gateways."""
WASTE: Final = 0.1
"""A plan may cost so much more than the cheapest one."""
P99_S: Final = 0.5
"""What a message may take while the users of a dead gateway come to the others."""
POINTS: Final = (
    UserLoad(56_000, message_rate=0.01),
    UserLoad(100_000, message_rate=0.5),
    UserLoad(3_000_000, message_rate=0.001, move_rate=1 / 2_000),
    UserLoad(1_000_000, message_rate=0.05),
    UserLoad(10_000_000, message_rate=0.02, move_rate=1 / 1_000),
)


class PlannedFleet(NamedTuple):
    """What the reader's function returned."""

    gateways: int
    shards: int
    heartbeat_s: float

    @property
    def price(self) -> int:
        """In gateways."""
        return self.gateways + SHARD_PRICE * self.shards


class _Point(NamedTuple):
    """A load, and what a plan for it must bear, in cores."""

    load: UserLoad
    heartbeat_s: float

    @property
    def each(self) -> UserDemand:
        """One refresh for each heartbeat, as the exercise says."""
        beats = 1 / self.heartbeat_s
        return UserDemand(beats, beats, self.load.message_rate, self.load.move_rate)

    @property
    def redis(self) -> float:
        return self.load.users * self.each.redis_cores(SHEET)

    @property
    def gateway(self) -> float:
        return self.load.users * self.each.gateway_cores(SHEET)


def cheapest(load: UserLoad) -> PlannedFleet:
    """Return the cheapest plan that bears a load."""
    heartbeat_s = GHOST_S / 3
    point = _Point(load, heartbeat_s)
    gateways = math.ceil(max(point.gateway / GATEWAY_CEILING, load.users / CONNECTIONS)) + 1
    return PlannedFleet(gateways, math.ceil(point.redis / REDIS_CEILING), heartbeat_s)


def judge_plan(plan: Plan, seed: int | None = None) -> Judgement:
    """Ask the reader's function for plans of five loads, and let each one bear its load."""
    if not callable(plan):
        raise NotJudged(f"plan must be a function, not {type(plan).__name__}.")
    rng = random.Random(seed)
    dearer = 0.0
    try:
        for point in POINTS:
            load = _varied(point, rng)
            dearer = max(dearer, _examine(load, _asked(plan, load)))
        took_s = _play_a_death(plan, _varied(POINTS[1], rng))
    except WrongAnswer as wrong:
        return wrong.judgement
    return Judgement(
        True,
        f"{len(POINTS)} loads, at most {100 * dearer:.0f} % dearer than the cheapest plan. In the "
        "model, one gateway died at peak: 99 of 100 messages took less than "
        f"{1000 * took_s:.0f} ms.",
    )


def _varied(load: UserLoad, rng: random.Random) -> UserLoad:
    return UserLoad(
        100 * round(load.users * rng.uniform(0.9, 1.1) / 100),
        load.heartbeat_s,
        load.message_rate * rng.uniform(0.9, 1.1),
        load.move_rate * rng.uniform(0.9, 1.1),
    )


def _asked(plan: Plan, load: UserLoad) -> PlannedFleet:
    said = plan(load.users, load.message_rate, load.move_rate)
    whole = isinstance(said, tuple | list) and len(said) == 3 and _are_whole(said[:2])
    if not whole or not isinstance(said[2], int | float) or not said[2] > 0:
        raise WrongAnswer(
            "Return three numbers: gateways and shards, both whole and at least 1, and the seconds "
            "between heartbeats.",
            _shown(load, said),
        )
    return PlannedFleet(*said)


def _are_whole(numbers: Any) -> bool:
    return all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in numbers)


def _examine(load: UserLoad, fleet: PlannedFleet) -> float:
    """Return how much dearer than the cheapest one a plan is, as a share.

    Raises:
        WrongAnswer: it does not bear its load, or costs too much.
    """
    point = _Point(load, fleet.heartbeat_s)
    for hint in (_why_ghosts(fleet), _why_gateways(point, fleet), _why_redis(point, fleet)):
        if hint:
            raise WrongAnswer(hint, _shown(load, fleet))
    best = cheapest(load)
    dearer = fleet.price / best.price - 1
    if dearer > WASTE:
        raise WrongAnswer(_why_dear(fleet, best), _shown(load, fleet))
    return dearer


def _why_ghosts(fleet: PlannedFleet) -> str:
    if 3 * fleet.heartbeat_s <= GHOST_S:
        return ""
    return (
        "A lease lasts three heartbeats, and so long a user who has gone is listed. This is more "
        "than the three minutes that are allowed."
    )


def _why_gateways(point: _Point, fleet: PlannedFleet) -> str:
    if point.load.users / fleet.gateways > CONNECTIONS:
        return "Some gateway has more connections than it may have, and nothing has died yet."
    if point.gateway / fleet.gateways > GATEWAY_CEILING:
        return (
            "The gateways are busier than they may be, and nothing has died yet. They pay for "
            "heartbeats, messages and reconnects."
        )
    left = fleet.gateways - 1
    if (
        not left
        or max(point.load.users / left / CONNECTIONS, point.gateway / left / GATEWAY_CEILING)
        > 1 + 1e-9
    ):
        return "One gateway dies at peak, and the others have to carry its users. Can they?"
    return ""


def _why_redis(point: _Point, fleet: PlannedFleet) -> str:
    share = point.redis / fleet.shards
    if share <= REDIS_CEILING + 1e-9:
        return ""
    silent = 1e-6 * SHEET.redis_refresh_us * point.load.users / point.heartbeat_s
    if share > 1 or (point.redis - silent) / fleet.shards <= REDIS_CEILING:
        return (
            "A shard has too much to do. Redis is asked at each heartbeat, each message and each "
            "reconnect: is one of them missing?"
        )
    return (
        "A shard is busier than it may be. Half of its core is kept free: for a failover, after "
        "which everybody comes at once."
    )


def _why_dear(fleet: PlannedFleet, best: PlannedFleet) -> str:
    if fleet.heartbeat_s < best.heartbeat_s and fleet.shards > best.shards:
        return (
            "It bears the load, but a cheaper plan does so too. What do you pay for each "
            "heartbeat, and how rare may they be?"
        )
    return "It bears the load, but a cheaper plan does so too. One spare gateway is enough."


def _play_a_death(plan: Plan, load: UserLoad) -> float:
    """Let the simulation play a plan while one gateway dies; return the 99th percentile."""
    fleet = _asked(plan, load)
    load = UserLoad(load.users, fleet.heartbeat_s, load.message_rate, load.move_rate)
    share = SHEET.scaled(**dict.fromkeys(_OF_REDIS, 1 / fleet.shards))
    played = a_gateway_dies(load, share, fleet.gateways, 12.0, crowd=2_000)
    if played.p99_s > P99_S:
        raise WrongAnswer(
            "In the model a gateway died, and after that messages waited too long.",
            _shown(load, fleet),
        )
    return played.p99_s


_OF_REDIS: Final = ("redis_refresh_us", "redis_message_us", "redis_move_us")


def _shown(load: UserLoad, said: object) -> str:
    lines = [
        f"plan({load.users}, {load.message_rate:.4g}, {load.move_rate:.4g})  →  {_plain(said)}"
    ]
    if isinstance(said, PlannedFleet):
        point, left = _Point(load, said.heartbeat_s), max(1, said.gateways - 1)
        lines += [
            f"a shard:   {point.redis / said.shards:7.0%} of a core",
            f"a gateway: {point.gateway / said.gateways:7.0%} of a core, "
            f"{load.users / said.gateways:,.0f} connections",
            f"one dies:  {point.gateway / left:7.0%} of a core, "
            f"{load.users / left:,.0f} connections",
            f"price:     {said.price}",
        ]
    return "\n".join(lines)


def _plain(said: object) -> str:
    return repr(tuple(said)) if isinstance(said, PlannedFleet) else repr(said)
