"""Leases: how often does one run out although its user is there, and how long does it outlive her?

A user says every heartbeat that she is there, and each heartbeat may get lost. Her lease counts
from the last one that was heard. After k lost heartbeats in a row, the next one that is heard
comes (k + 1) heartbeats after the one before: if that is a TTL or more, Redis has forgotten her
meanwhile. "Or more", because a heartbeat that comes when the lease ends comes too late: it has
still to be written.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

HOUR_S: Final = 3600.0
ROUNDING: Final = 1e-9
"""So near to a whole number of heartbeats is one."""


class Ghost(NamedTuple):
    """For how long Redis believes in a user who is gone (s)."""

    mean_s: float
    """When she goes at any moment between two heartbeats, and none gets lost."""
    worst_s: float
    """When she goes just after a heartbeat."""


def fatal_losses(heartbeat_s: float, ttl_s: float) -> int:
    """Return how many heartbeats lost in a row take a live user offline: for 30 and 90 s, two.

    Raises:
        ValueError: a duration is not positive.
    """
    if not 0 < heartbeat_s < math.inf or not 0 < ttl_s < math.inf:
        raise ValueError(f"heartbeat and TTL are positive seconds, not {heartbeat_s} and {ttl_s}")
    return math.ceil(ttl_s / heartbeat_s - ROUNDING) - 1


def false_offline_rate(heartbeat_s: float, ttl_s: float, loss: float) -> float:
    """Return how often a live user is taken offline, per hour of her being there. Exact.

    Each time it happens, a heartbeat was heard, and so many after it were not.

    Args:
        loss: the probability that a heartbeat gets lost, each by itself.

    Raises:
        ValueError: a duration is not positive, or the loss is no probability.
    """
    _require_probability(loss)
    fatal = fatal_losses(heartbeat_s, ttl_s)
    return HOUR_S / heartbeat_s * (1 - loss) * loss**fatal


def simulated_false_offline_rate(
    heartbeat_s: float, ttl_s: float, loss: float, *, user_hours: float = 10_000.0, seed: int = 7
) -> float:
    """Return what `false_offline_rate` says, counted: heartbeat by heartbeat, seeded.

    Raises:
        ValueError: as `false_offline_rate`, or there is no time to simulate.
    """
    _require_probability(loss)
    fatal_losses(heartbeat_s, ttl_s)
    beats = round(user_hours * HOUR_S / heartbeat_s)
    if beats < 1:
        raise ValueError(f"in {user_hours:g} user-hours there is no heartbeat: simulate more")
    (heard,) = np.nonzero(np.random.default_rng(seed).random(beats) >= loss)
    silences_s = np.diff(heard) * heartbeat_s
    expired = silences_s >= ttl_s - ROUNDING * heartbeat_s
    return float(expired.sum()) / user_hours


def ghost(heartbeat_s: float, ttl_s: float) -> Ghost:
    """Return for how long Redis believes in a user who is gone."""
    return Ghost(ttl_s - heartbeat_s / 2, ttl_s)


def _require_probability(loss: float) -> None:
    if not 0 <= loss <= 1:
        raise ValueError(f"the loss is a probability between 0 and 1, not {loss}")
