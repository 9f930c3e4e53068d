"""Measures: how fast do users and presence recover, and how much do gateways grow?

Pure functions of samples and histories.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from wsdemo.proof.chaos.sampling import MemorySample, Sample
from wsdemo.proof.history import Closed, Phase, Record, Registered

WARM_UP_S: Final = 8.0
"""The memory of a young process always grows, so it is not judged before this age."""
JUDGED_S: Final = 20.0
"""A shorter time says nothing about a slope."""
PARTS: Final = 5


def converged_after_s(samples: Iterable[Sample], healed: float) -> float | None:
    """Return how long after a heal all users who were wrong then had been right once.

    It is an upper bound if another fault is active meanwhile. None if a user never was right.
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
    """Return how long after a moment users of one gateway were registered with another one.

    Users whose session had ended before, and users who never came back, are left out.
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


def peaks(memory: Iterable[MemorySample]) -> dict[str, int]:
    """Return the largest memory of each process at any time (bytes)."""
    found: dict[str, int] = {}
    for one in memory:
        name = f"{one.gateway} (pid {one.pid})"
        found[name] = max(found.get(name, 0), one.rss_bytes)
    return found


def slopes(memory: Iterable[MemorySample]) -> dict[str, float]:
    """Return the growth of each process that lived long enough (KiB a minute).

    It is the median of the growths in five parts of that life. A leak grows all the time. A slow
    consumer, or a flood of hostile envelopes, takes some megabytes at once, which the process
    keeps: by least squares such a step looks like a leak. `peaks` has a bound for steps.

    Keys are "gateway-01 (pid 123)".
    """
    by_process: dict[tuple[str, int], list[MemorySample]] = {}
    for one in memory:
        by_process.setdefault((one.gateway, one.pid), []).append(one)
    found = {}
    for (gateway, pid), all_of_it in by_process.items():
        warm = [one for one in all_of_it if one.t - all_of_it[0].t >= WARM_UP_S]
        if len(warm) >= 3 and warm[-1].t - warm[0].t >= JUDGED_S:
            minutes = np.array([one.t for one in warm]) / 60
            kib = np.array([one.rss_bytes for one in warm]) / 1024
            found[f"{gateway} (pid {pid})"] = _typical_slope(minutes, kib)
    return found


def _typical_slope(minutes: np.ndarray, kib: np.ndarray) -> float:
    edges = np.linspace(minutes[0], minutes[-1], PARTS + 1)
    growths = np.diff(np.interp(edges, minutes, kib)) / np.diff(edges)
    return float(np.median(growths))
