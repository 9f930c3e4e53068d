"""Leases: how often does one expire although its user is connected, and how long does it last after
she left?

A client sends heartbeats, and each of them may be lost. Its lease counts from the last one that
arrived. After k lost heartbeats in a row, the next one arrives (k + 1) intervals after the last
one: if that is a TTL or more, the entry has expired meanwhile. "Or more", because a heartbeat that
arrives at the end of the lease is too late: the entry has still to be written.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

HOUR_S: Final = 3600.0
ROUNDING: Final = 1e-9
"""A number so near to a whole number of heartbeats counts as that whole number."""


class Ghost(NamedTuple):
    """For how long Redis lists a user who is gone (s)."""

    mean_s: float
    """On average, when she leaves at any moment between two heartbeats, and none is lost."""
    worst_s: float
    """When she leaves just after a heartbeat."""


def fatal_losses(heartbeat_s: float, ttl_s: float) -> int:
    """Return how many lost heartbeats in a row make a live user expire: for 30 and 90 s, two.

    Raises:
        ValueError: a duration is not positive.
    """
    if not 0 < heartbeat_s < math.inf or not 0 < ttl_s < math.inf:
        raise ValueError(f"heartbeat and TTL are positive seconds, not {heartbeat_s} and {ttl_s}")
    return math.ceil(ttl_s / heartbeat_s - ROUNDING) - 1


def false_offline_rate(heartbeat_s: float, ttl_s: float, loss: float) -> float:
    """Return how often the entry of a live user expires, per hour of her connection. This is exact:
    each time it happens, a heartbeat arrived, and so many after it did not.

    Args:
        loss: the probability that a heartbeat is lost, independent of the others.

    Raises:
        ValueError: a duration is not positive, or the loss is not a probability.
    """
    _require_probability(loss)
    fatal = fatal_losses(heartbeat_s, ttl_s)
    return HOUR_S / heartbeat_s * (1 - loss) * loss**fatal


def simulated_false_offline_rate(
    heartbeat_s: float, ttl_s: float, loss: float, *, user_hours: float = 10_000.0, seed: int = 7
) -> float:
    """Return the same rate as `false_offline_rate`, from a seeded simulation of each heartbeat.

    Raises:
        ValueError: as `false_offline_rate`, or there is no time to simulate.
    """
    _require_probability(loss)
    fatal_losses(heartbeat_s, ttl_s)
    beats = round(user_hours * HOUR_S / heartbeat_s)
    if beats < 1:
        raise ValueError(f"in {user_hours:g} user-hours there is no heartbeat: simulate more")
    import numpy as np

    (heard,) = np.nonzero(np.random.default_rng(seed).random(beats) >= loss)
    silences_s = np.diff(heard) * heartbeat_s
    expired = silences_s >= ttl_s - ROUNDING * heartbeat_s
    return float(expired.sum()) / user_hours


def ghost(heartbeat_s: float, ttl_s: float) -> Ghost:
    """Return for how long Redis lists a user who is gone."""
    return Ghost(ttl_s - heartbeat_s / 2, ttl_s)


def plausible_counts(events: int, sure: float = 0.95) -> tuple[float, float]:
    """Return between which two numbers the true mean lies, when so many rare events were counted
    (the exact interval of the Poisson distribution).

    Raises:
        ValueError: the number is negative.
    """
    if events < 0:
        raise ValueError(f"a number of events is not negative: {events}")
    tail = (1 - sure) / 2
    low = _mean_with(events - 1, 1 - tail) if events else 0.0
    return low, _mean_with(events, tail)


def _mean_with(at_most: int, probability: float) -> float:
    """Return the mean at which that many events or fewer have this probability, by bisection."""
    low, high = 0.0, 10.0 + 5.0 * at_most
    for _ in range(60):
        mean = (low + high) / 2
        terms = (k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(at_most + 1))
        low, high = (mean, high) if sum(map(math.exp, terms)) > probability else (low, mean)
    return low


def _require_probability(loss: float) -> None:
    if not 0 <= loss <= 1:
        raise ValueError(f"the loss is a probability between 0 and 1, not {loss}")
