"""How often does a lease forget a live user, and for how long does it believe in a dead one?

Heartbeats come at a fixed interval and each gets lost with the same probability, independently.
The lease counts from the last heartbeat that was heard. After k losses in a row the gap is
(k + 1) intervals; when that is as long as the lease, the next heartbeat comes too late by the time
that it travels.
"""

from __future__ import annotations

import math
import random


def losses_survived(heartbeat_s: float, ttl_s: float) -> int:
    """Return how many heartbeats in a row may get lost without the lease running out.

    Raises:
        ValueError: the lease is not longer than a heartbeat.
    """
    if not 0 < heartbeat_s < ttl_s:
        raise ValueError(
            f"a lease of {ttl_s:g} s is not longer than one heartbeat ({heartbeat_s:g} s)"
        )
    return math.ceil(ttl_s / heartbeat_s) - 2


def false_offline_per_hour(heartbeat_s: float, ttl_s: float, loss: float) -> float:
    """Return how often an hour a live user is forgotten, on average.

    A false alarm is a heartbeat that was heard, followed by as many losses as are too many.

    Raises:
        ValueError: the lease is not longer than a heartbeat, or `loss` is no probability.
    """
    if not 0 <= loss < 1:
        raise ValueError(f"loss is a probability below 1, not {loss!r}")
    too_many = losses_survived(heartbeat_s, ttl_s) + 1
    return 3600 / heartbeat_s * (1 - loss) * loss**too_many


def simulate_false_offline(
    heartbeat_s: float, ttl_s: float, loss: float, user_hours: float, rng: random.Random
) -> int:
    """Return how often live users were forgotten in so many simulated user-hours."""
    too_many = losses_survived(heartbeat_s, ttl_s) + 1
    count = run = 0
    for _ in range(round(user_hours * 3600 / heartbeat_s)):
        run = run + 1 if rng.random() < loss else 0
        count += run == too_many
    return count


def longest_lie_s(ttl_s: float) -> float:
    """Return for how long Redis may believe in a user who is gone: one whole lease."""
    return ttl_s
