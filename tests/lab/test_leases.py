"""Leases: do the formulas agree with a simulation, and with real users?"""

from __future__ import annotations

import itertools
from collections import Counter

import pandas as pd
import pytest

from tests.examples import seeds
from wsdemo.events import Kind
from wsdemo.lab import Lab
from wsdemo.lab.leases import (
    false_offline_rate,
    fatal_losses,
    ghost,
    plausible_counts,
    simulated_false_offline_rate,
)
from wsdemo.lab.lessons.lease import latest_s
from wsdemo.lab.trace.frames.columns import COLUMNS
from wsdemo.settings import Timing

pytestmark = pytest.mark.xdist_group("clock")


@pytest.mark.parametrize(
    ("ttl_s", "losses"), [(30, 0), (59, 1), (60, 1), (61, 2), (90, 2), (90.5, 3), (120, 3)]
)
def test_a_heartbeat_at_the_end_of_the_lease_is_too_late(ttl_s: float, losses: int) -> None:
    """A lease of three intervals survives one lost heartbeat; a little longer survives two."""
    assert fatal_losses(30, ttl_s) == losses


def test_fractions_of_seconds_cause_no_rounding_error() -> None:
    """Whole numbers of heartbeats are found although fractions do not add up exactly."""
    assert fatal_losses(0.1, 0.3) == 2
    assert fatal_losses(0.1, 0.301) == 3


@pytest.mark.parametrize(
    ("heartbeat_s", "ttl_s", "loss"),
    [(30, 90, 0.05), (30, 60, 0.01), (20, 90, 0.3), (30, 120, 0.5), (10, 45, 0.2), (30, 25, 0.1)],
)
def test_the_formula_agrees_with_counting(heartbeat_s: float, ttl_s: float, loss: float) -> None:
    """Within five standard deviations of a simulated count, on three seeds."""
    exact = false_offline_rate(heartbeat_s, ttl_s, loss)
    hours = 20_000.0
    for seed in seeds(3):
        counted = simulated_false_offline_rate(
            heartbeat_s, ttl_s, loss, user_hours=hours, seed=seed
        )
        assert abs(counted - exact) * hours < 5 * (exact * hours) ** 0.5


def test_the_formula_is_the_sum_over_all_runs_of_losses() -> None:
    """Every history of twelve heartbeats, weighed by its probability."""
    loss, heartbeat_s, ttl_s = 0.3, 30.0, 90.0
    beats, expected = 12, 0.0
    for heard in itertools.product((True, False), repeat=beats):
        times = [n for n, one in enumerate(heard) if one]
        weight = (1 - loss) ** len(times) * loss ** (beats - len(times))
        # Counted at the heartbeat after which it happens, and only if its end is within the
        # history.
        expected += weight * sum(not any(heard[n + 1 : n + 3]) for n in times if n < beats - 2)
    an_hour = expected / (beats - 2) * 3600 / heartbeat_s
    assert false_offline_rate(heartbeat_s, ttl_s, loss) == pytest.approx(an_hour)


def test_the_rate_is_zero_without_loss_and_with_total_loss() -> None:
    """The ends of the scale: a user whose heartbeats are all lost expires only once, which is
    not a rate."""
    assert false_offline_rate(30, 90, 0) == 0
    assert false_offline_rate(30, 90, 1) == 0
    assert simulated_false_offline_rate(30, 90, 0.0, user_hours=10) == 0


def test_a_user_who_leaves_just_after_a_heartbeat_stays_listed_for_a_ttl() -> None:
    """On average for half a heartbeat interval less."""
    assert ghost(30, 90) == (75, 90)


@pytest.mark.parametrize(
    ("events", "low", "high"),
    [(0, 0.0, 3.689), (1, 0.0253, 5.572), (4, 1.090, 10.242), (100, 81.36, 121.63)],
)
def test_a_few_events_leave_room_for_many_rates(events: int, low: float, high: float) -> None:
    """The exact interval of 95 %, as tables of the Poisson distribution give it. (With none in n
    tries the upper end is 3.7 / n.)
    """
    assert plausible_counts(events) == pytest.approx((low, high), abs=0.006)


def test_invalid_numbers_are_an_error_with_a_reason() -> None:
    """No time, no probability, nothing to simulate."""
    with pytest.raises(ValueError, match="positive seconds"):
        false_offline_rate(0, 90, 0.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        false_offline_rate(30, 90, 1.5)
    with pytest.raises(ValueError, match="simulate more"):
        simulated_false_offline_rate(30, 90, 0.1, user_hours=0)


def answers_after_losses(lab: Lab, losses: int) -> list[str]:
    """Return the answer of presence to each user's first heartbeat after so many lost ones."""
    recorder = lab.cluster.recorder
    seen = len(recorder.events)
    for user in lab.users.values():
        user.lose_heartbeats(following=losses)

    def answers() -> dict[str, str]:
        # From the events, not from the trace: making a trace takes time, and heartbeats would be
        # late.
        lost: Counter[str] = Counter()
        found: dict[str, str] = {}
        for event in recorder.events[seen:]:
            if event.kind is Kind.DROP:
                lost[event.user] += 1
            elif (
                event.kind in (Kind.PRESENCE_REFRESH, Kind.PRESENCE_SET)
                and lost[event.user] == losses
            ):
                found.setdefault(event.user, event.reason or event.kind)
        return found

    lab.wait_until("everybody is heard again", lambda: len(answers()) == len(lab.users))
    return list(answers().values())


@pytest.mark.slow
def test_real_leases_survive_as_many_losses_as_the_formula_says() -> None:
    """With the product's timings one lost heartbeat does nothing, two make nearly all users
    offline. Nearly: the next heartbeat of a user may be a moment early."""
    fatal = fatal_losses(Timing().heartbeat_s, Timing().presence_ttl_s)
    assert fatal == 2
    with Lab(gateways=1, scale=60) as lab:
        lab.connect_many(10)
        assert answers_after_losses(lab, fatal - 1) == ["ok"] * 10
        assert answers_after_losses(lab, fatal).count("ok") <= 2


Row = tuple[float, str, str, str, float]
"""When, lane, kind, reason, and when it was received."""
ON_TIME: list[Row] = [
    (0.0, "alice", "registered", "", 0.0),
    (0.2, "alice", "ping", "", 0.0),
    (0.21, "gateway-01", "ping", "", 0.0),
    (0.21, "gateway-01", "presence_refresh", "ok", 0.22),
    (0.7, "alice", "drop", "heartbeat", 0.0),
    (1.2, "alice", "ping", "", 0.0),
    (1.21, "gateway-01", "ping", "", 0.0),
    (1.22, "gateway-01", "presence_refresh", "ok", 1.22),
]
"""At 60x, a heartbeat is due each 0.5 s. One got lost on purpose."""


@pytest.mark.parametrize(
    ("changes", "late_s"),
    [
        ({}, 0.6),  # the write
        ({4: (0.9, "alice", "drop", "heartbeat", 0.0)}, 12.0),
        ({3: (0.6, "gateway-01", "presence_refresh", "ok", 0.61)}, 24.0),
        # A new connection counts anew.
        ({4: (0.9, "alice", "registered", "", 0.0)}, 0.6),
    ],
)
def test_a_heartbeat_that_is_late_is_told_from_one_that_is_lost(
    changes: dict[int, Row], late_s: float
) -> None:
    """Sent late, or written late: the lesson that loses heartbeats is then repeated."""
    rows = [changes.get(number, row) for number, row in enumerate(ON_TIME)]
    trace = pd.DataFrame(rows, columns=["t", "lane", "kind", "reason", "t_recv"])
    trace = trace.assign(user="alice", gateway="gateway-01")
    assert set(trace.columns) <= set(COLUMNS)
    assert latest_s(trace, 60) == pytest.approx(late_s)
