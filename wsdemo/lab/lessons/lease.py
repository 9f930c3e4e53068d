"""Lesson 02: how many heartbeats may get lost, and how long shall a lease be?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsdemo.lab.leases import false_offline_rate
from wsdemo.lab.lessons.question import Judgement, NotJudged, Question

if TYPE_CHECKING:
    import pandas as pd

    from wsdemo.drawing.style import Picture

QUESTION: Final = Question(
    "A heartbeat each 30 s, a lease of 90 s. How many in a row must get lost until Redis forgets "
    "a live user?",
    {
        1: "One loss leaves 30 of the 90 seconds.",
        2: "After two losses the third heartbeat comes 90 s after the last one that was heard: "
        "just too late.",
        3: "90 / 30 is 3, but three lost heartbeats are four intervals without a word.",
        4: "Her gateway has stopped waiting long before.",
    },
)

ROOM: Final = 1.0
"""A TTL may be so many heartbeats longer than the shortest sufficient one."""


def latest_s(trace: pd.DataFrame, scale: float, heartbeat_s: float = 30.0) -> float:
    """Return by how much the latest lease was renewed too late (production seconds).

    On a machine that is busy, heartbeats are sent late and written late. Then a lease may end for
    which the lesson has another reason. Heartbeats that got lost on purpose count as sent.
    """
    late_s = max(_longest_pause_s(trace) * scale - heartbeat_s, 0.0)
    return max(late_s, _longest_write_s(trace) * scale)


def _longest_pause_s(trace: pd.DataFrame) -> float:
    """Return the longest time between two heartbeats of a connection."""
    lost = (trace["kind"] == "drop") & (trace["reason"] == "heartbeat")
    sent = (trace["kind"] == "ping") & (trace["lane"] == trace["user"])
    begun = trace["kind"] == "registered"
    last: dict[str, float] = {}
    longest = 0.0
    for row in trace[lost | sent | begun].sort_values("t").itertuples():
        if row.kind != "registered" and row.user in last:
            longest = max(longest, row.t - last[row.user])
        last[row.user] = row.t
    return longest


def _longest_write_s(trace: pd.DataFrame) -> float:
    """Return for how long a heartbeat waited at most at its gateway until it was in Redis."""
    heard: dict[str, float] = {}
    longest = 0.0
    for row in trace.sort_values("t").itertuples():
        if row.kind == "ping" and row.lane != row.user:
            heard.setdefault(row.user, row.t)
        elif row.kind in ("presence_refresh", "presence_set") and row.user in heard:
            longest = max(longest, row.t_recv - heard.pop(row.user))
    return longest


class _Wish(NamedTuple):
    heartbeat_s: float
    loss: float
    at_most: float


def wishes(rng: random.Random) -> list[_Wish]:
    """Return the requirements: two fixed ones, and three at random."""
    known = [_Wish(30.0, 0.05, 0.02), _Wish(30.0, 0.2, 0.05)]
    return known + [
        _Wish(rng.choice([5.0, 10.0, 20.0, 45.0]), rng.uniform(0.01, 0.3), 10 ** rng.uniform(-4, 0))
        for _ in range(3)
    ]


def shortest_ttl_s(wish: _Wish) -> float:
    """Return the TTL above which a requirement is met (any longer one meets it)."""
    intervals = 2
    while false_offline_rate(wish.heartbeat_s, _beyond(wish, intervals), wish.loss) > (
        wish.at_most
    ):
        intervals += 1
    return intervals * wish.heartbeat_s


def _beyond(wish: _Wish, intervals: int) -> float:
    return wish.heartbeat_s * (intervals + 1e-6)


def judge_choose_ttl(
    choose_ttl: Callable[[float, float, float], Any], seed: int | None = None
) -> Judgement:
    """Judge the reader's `choose_ttl(heartbeat, loss, max_false_offline_per_hour)`."""
    if not callable(choose_ttl):
        raise NotJudged(f"choose_ttl must be a function, not {type(choose_ttl).__name__}.")
    asked = wishes(random.Random(seed))
    said = []
    for wish in asked:
        ttl_s = choose_ttl(*wish)
        if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not ttl_s > 0:
            return Judgement(False, f"A TTL is a positive number of seconds, not {ttl_s!r}.")
        if not math.isfinite(ttl_s):
            return Judgement(False, "A lease that never ends is no lease: the dead stay for ever.")
        said.append(float(ttl_s))
    if len({round(ttl_s, 6) for ttl_s in said}) == 1:
        return Judgement(False, "The same TTL for every loss and every wish cannot be right.")
    for wish, ttl_s in zip(asked, said, strict=True):
        hint = _hint(wish, ttl_s)
        if hint:
            return Judgement(False, hint, _on_the_map(wish, ttl_s))
    return Judgement(True, f"{len(asked)} combinations of heartbeat, loss and wish.")


def _on_the_map(wish: _Wish, ttl_s: float) -> Picture | str:
    """Mark the reader's choice on the map of false positives, if it lies on it."""
    from wsdemo.lab.figures.false_offline import RATIOS, false_offline

    low, high = RATIOS
    if not low <= ttl_s / wish.heartbeat_s <= high:
        return f"TTL = {ttl_s / wish.heartbeat_s:.3g} heartbeats"
    return false_offline(heartbeat_s=wish.heartbeat_s, ttl_s=ttl_s, loss=wish.loss)


def _hint(wish: _Wish, ttl_s: float) -> str:
    """Return what is wrong with a TTL, or nothing."""
    given = f"Heartbeat {wish.heartbeat_s:g} s, loss {wish.loss:.0%}, at most {wish.at_most:.2g}/h:"
    if ttl_s <= 2 * wish.heartbeat_s:
        return f"{given} with a TTL of {ttl_s:g} s one single loss takes a live user offline."
    rate = false_offline_rate(wish.heartbeat_s, ttl_s, wish.loss)
    if rate > wish.at_most:
        exact = ttl_s % wish.heartbeat_s == 0
        why = " The heartbeat that is due at its very end comes too late." if exact else ""
        return f"{given} a TTL of {ttl_s:g} s gives {rate:.2g} false alarms an hour.{why}"
    longest_s = shortest_ttl_s(wish) + ROOM * wish.heartbeat_s
    if ttl_s > longest_s:
        return (
            f"{given} {ttl_s:g} s keeps the promise, but for so long the dead are listed as well. "
            "It can be shorter."
        )
    return ""
