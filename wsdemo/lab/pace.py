"""Calibration: how fast may the laboratory's clock run on this machine, and for how many users?

A cluster of some hundred users at sixty times the speed of production needs most of a core. On a
machine that is busy with something else, leases run out because nobody had time to renew them, and
a lesson would show that instead of its subject. So the machine is measured first, and the clock
runs as fast as it can afford: the same story, in more wall time.
"""

from __future__ import annotations

import json
import time
from typing import Final, NamedTuple

from wsdemo.terminal import say

REFERENCE_S: Final = 0.004
"""CPU time of `_work` on the machine on which `USERS_AT_ONCE` was measured."""
USERS_AT_ONCE: Final = 18_000.0
"""So many users times speed fit on one free core of that machine: 300 users at 60x."""
FREE: Final = 0.9
"""So much of a core counts as all of it: somebody always needs a little."""
LEAST_SPARE: Final = 4.0
"""With this part of a core per 60x, scheduling delays stay far below a lease: a quarter."""
SPEEDS: Final = (60.0, 45.0, 30.0, 20.0, 15.0, 10.0, 5.0)
WORTH_WAITING: Final = 20.0
"""Rather than run a crowd more slowly than this, a smaller one is taken, ..."""
LEAST_CROWD: Final = 60
"""... but not a smaller one than this."""
SAMPLES: Final = 12
FRESH_S: Final = 120.0
"""A measurement is used again for so long: a comparison of two labs needs the same clock."""
_TEXT: Final = json.dumps({"type": "message", "to": "bob", "content": "hello" * 12})

_measured: dict[str, float] = {}
"""The last measurement and when it was made; one a process."""
_said: set[str] = set()
"""What has been said about the last measurement: once is enough."""


def free_core(fresh_s: float = FRESH_S) -> float:
    """Return how much of the reference core this process gets: 1 is all of it, 0.3 a busy machine.

    Args:
        fresh_s: a measurement that is not older than this is used again.
    """
    now = time.monotonic()
    if "at" not in _measured or now - _measured["at"] >= fresh_s:
        share = _measure()
        _measured.update(at=now, share=1.0 if share >= FREE else share)
        _said.clear()
    return _measured["share"]


class Pace(NamedTuple):
    """What this machine can afford: `Lab(scale=pace.scale)`, `lab.connect_many(pace.users)`."""

    scale: float
    """How many times faster than production time passes."""
    users: int


def pace(users: int = 2, at_most: float = 60.0) -> Pace:
    """Return the speed for so many users, or for fewer of them; say so when it is slower, once.

    A `Lab()` without a scale runs at the speed for two.

    Args:
        users: of a crowd that needs not be of this size.
        at_most: the speed on a machine that is free.
    """
    found = affordable(free_core(), users, at_most)
    if found != (at_most, users):
        fewer = f", with {found.users} users instead of {users}" if found.users < users else ""
        _say_once(
            f"This machine is busy: running at {found.scale:g}x instead of {at_most:g}x{fewer}."
        )
    return found


def warn_of_crowd(users: int, scale: float) -> None:
    """Say, once, when so many users are more than this machine can afford at this speed."""
    found = affordable(free_core(), users, scale)
    if found != (scale, users):
        _say_once(
            f"{users:,} users at {scale:g}x are more than this machine can do now: some may be "
            f"dropped. It can do {found.users:,} with Lab(scale={found.scale:g})."
        )


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        say(text)


def affordable(share: float, users: int, at_most: float) -> Pace:
    """Return what fits on this share of a core: the highest speed; a smaller crowd before the
    clock becomes so slow that nobody wants to wait for it.
    """
    if share * USERS_AT_ONCE / users < WORTH_WAITING:
        users = min(users, max(LEAST_CROWD, int(share * USERS_AT_ONCE / WORTH_WAITING)))
    limit = min(at_most, share * USERS_AT_ONCE / users, share * LEAST_SPARE * SPEEDS[0])
    fits = [speed for speed in (at_most, *SPEEDS) if speed <= limit]
    return Pace(max(fits, default=SPEEDS[-1]), users)


def _measure() -> float:
    """Measure what this process gets, and how fast its core is.

    What other threads of this process use, such as an open laboratory, is ours: it does not make
    the machine busy.
    """
    began, worked = time.perf_counter(), time.process_time()
    best = min(_work() for _ in range(SAMPLES))
    share = (time.process_time() - worked) / (time.perf_counter() - began)
    return min(1.0, share) * min(1.0, REFERENCE_S / best)


def _work() -> float:
    """Do a fixed piece of work; return its CPU time."""
    began = time.thread_time()
    for _ in range(2_000):
        json.loads(_TEXT)
    return time.thread_time() - began
