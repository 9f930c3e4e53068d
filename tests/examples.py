"""Test profile: how many examples, seeds and rounds does a test look at?

A test names its count once, for the full run: `@examples(500)`, `seeds(200)`, `rounds(100)`. The
environment variable WSDEMO_TESTS chooses what becomes of it:

    WSDEMO_TESTS=fast   A tenth of each count, one loop, one way to read frames. The tests marked
                        `slow` are left out.
    WSDEMO_TESTS=all    Each count as it is written. This is also what runs without the variable:
                        `pytest` by itself tests all that a test claims.
    WSDEMO_TESTS=deep   Twenty times each count, with other examples on every run. What it finds
                        can be repeated with the blob that Hypothesis prints.

With `fast` and `all` the examples are the same on every run: a test that fails now and then says
little about the last change.

A test that must find a planted mistake passes `shrinks=False`: it needs its whole count, and it
stops at the first find anyway. A loop that is itself the subject ("the 1001st is refused") has an
ordinary number.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

FACTORS = {"fast": 0.1, "all": 1.0, "deep": 20.0}

PROFILE = os.environ.get("WSDEMO_TESTS") or "all"
if PROFILE not in FACTORS:
    raise SystemExit(f"WSDEMO_TESTS is {PROFILE!r}: choose one of {', '.join(FACTORS)}")

FRAME_PATHS = {"fast": True} if PROFILE == "fast" else {"fast": True, "general": False}
"""By which way a gateway reads frames: its short way for usual ones, which is what people start, or
the library's for all. What is said of one input holds on both."""


def rounds(full: int, *, fast: int | None = None) -> int:
    """Return how often to repeat: `full` times, or what the profile makes of it, at least once.

    `fast` is the number in the fast profile where a tenth is not what it should be.
    """
    if PROFILE == "fast" and fast is not None:
        return fast
    return max(1, round(full * FACTORS[PROFILE]))


def seeds(full: int, *, fast: int | None = None) -> range:
    """Return so many seeds, from 1; a smaller profile has the first ones of a larger one."""
    return range(1, rounds(full, fast=fast) + 1)


def examples(full: int = 100, *, shrinks: bool = True, **more: Any) -> settings:
    """Return Hypothesis' settings for so many examples: a decorator, or an argument of
    `run_state_machine_as_test`. A test with `@given` alone has 100.
    """
    return settings(max_examples=rounds(full) if shrinks else full, **more)


settings.register_profile(
    PROFILE,
    max_examples=rounds(100),
    derandomize=PROFILE != "deep",
    deadline=None,  # The machine may be busy.
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile(PROFILE)
