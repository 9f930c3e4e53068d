"""Lesson 12: are costs told apart, does the model play what happens, and who judges a plan?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped, words
from wsdemo.drawing.style import Picture
from wsdemo.lab import check
from wsdemo.lab.expectation import steadily
from wsdemo.lab.figures.capacity import CapacityLine, capacity, in_round_numbers, tornado
from wsdemo.lab.lessons.capacity import POINTS, SHEET, cheapest, judge_plan
from wsdemo.lab.lessons.capacity_costs import (
    TOLERANCE,
    CapacityBench,
    ComparedRun,
    WorkDone,
    compare,
    measure_costs,
    sheet_of,
)
from wsdemo.lab.lessons.capacity_keys import KeysStall, measure_stalls
from wsdemo.lab.lessons.capacity_model import (
    CostSheet,
    UserLoad,
    a_gateway_dies,
    cores,
    demand,
    fleet_size,
    simulate,
    what_if,
)
from wsdemo.lab.pace import Pace

SEEDS = range(5)

# --- the measurement ---------------------------------------------------------------------------


def test_the_cost_of_each_thing_is_what_is_more_than_without_it() -> None:
    """Of numbers made up from known costs, the same costs come out."""
    rest = WorkDone(2.0, 0.02, 0.04, 10, 0, 0, 0)
    beats = WorkDone(2.0, 0.02 + 100 * 30e-6, 0.04 + 100 * 90e-6, 110, 100, 0, 0)
    # A message renews a lease as well: 30 refreshes more, and as many heartbeats as before.
    talk = WorkDone(
        4.0, 0.04 + 230 * 30e-6 + 50 * 60e-6, 0.08 + 200 * 90e-6 + 50 * 150e-6, 300, 230, 50, 0
    )
    moves = WorkDone(
        2.0, 0.02 + 90 * 30e-6 + 20 * 120e-6, 0.04 + 100 * 90e-6 + 20 * 900e-6, 160, 90, 0, 20
    )
    sheet = sheet_of(rest, beats, talk, moves)
    assert sheet.redis_refresh_us == pytest.approx(30)
    assert sheet.redis_message_us == pytest.approx(60)
    assert sheet.redis_move_us == pytest.approx(120)
    assert sheet.gateway_heartbeat_us == pytest.approx(90)
    assert sheet.gateway_message_us == pytest.approx(150)
    assert sheet.gateway_move_us == pytest.approx(900)
    assert (sheet.redis_rest, sheet.gateway_rest) == pytest.approx((0.01, 0.01))
    assert (sheet.commands_a_move, sheet.commands_at_rest) == pytest.approx((3, 5))


@pytest.mark.timeout(240)
def test_the_model_foretells_a_real_run_that_it_has_not_seen() -> None:
    """Within 20 %: commands of Redis, and the CPU of Redis and of gateways. Nothing is left."""

    def experiment(pace: Pace) -> tuple[CapacityBench, ComparedRun]:
        bench = CapacityBench(pace)
        try:
            costs = measure_costs(bench)
            test = compare(bench, costs.sheet)
        finally:
            bench.close()
        assert test.worst <= TOLERANCE, test
        assert 200 < costs.redis_bytes < 500
        assert costs.commands == pytest.approx(1 / 30, rel=0.15)
        return bench, test

    bench, test = steadily(experiment, users=120)
    assert bench.lab.leaks() == []
    assert "Redis commands a second" in repr(test) and repr(test).count("%") >= 3


def test_others_wait_while_keys_runs_and_not_while_scan_does() -> None:
    """On a server of its own, which is gone afterwards."""

    def experiment(_: Pace) -> list[KeysStall]:
        keys, scan = measure_stalls()
        assert keys.longest_s > keys.whole_s / 2
        assert scan.longest_s < keys.longest_s / 2
        return [keys, scan]

    keys, scan = steadily(experiment)
    assert (keys.way, scan.way) == ("KEYS", "SCAN") and keys.keys == scan.keys >= 100_000


# --- the model ---------------------------------------------------------------------------------


def test_the_model_is_as_busy_as_the_sum_of_its_work() -> None:
    """When nothing waits for long, shares are rates times costs."""
    load = UserLoad(1_000, message_rate=0.05, move_rate=0.01)
    played = simulate(load, SHEET, 4, seconds=120)
    did = played.did
    assert did["heartbeat"] == pytest.approx(120 * 1_000 / 30, rel=0.05)
    assert did["message"] == pytest.approx(120 * 1_000 * 0.05, rel=0.05)
    assert did["move"] == pytest.approx(120 * 1_000 * 0.01, rel=0.1)
    redis_us = did["refresh"] * 30 + did["message"] * 60 + did["move"] * 120
    assert played.redis_share == pytest.approx(redis_us / 120e6, rel=0.01)
    gateways_us = did["heartbeat"] * 100 + did["message"] * 150 + did["move"] * 900
    assert 4 * played.gateway_share == pytest.approx(gateways_us / 120e6, rel=0.01)


def test_the_same_seed_plays_the_same_and_another_one_does_not() -> None:
    """The simulation is exact, as the seed is."""
    load = UserLoad(200)
    one, two = (simulate(load, SHEET, 2, seconds=60, seed=7) for _ in range(2))
    assert one == two != simulate(load, SHEET, 2, seconds=60, seed=8)


def test_a_message_takes_its_work_and_no_more_when_nothing_else_happens() -> None:
    """Half of it in each gateway, and Redis in between."""
    load = UserLoad(2, heartbeat_s=1e6, message_rate=0.2, move_rate=0.0)
    played = simulate(load, SHEET, 2, seconds=400)
    assert played.took_s
    assert sorted(played.took_s)[len(played.took_s) // 2] == pytest.approx(210e-6)


def test_users_who_talk_renew_their_leases_a_little_more_often() -> None:
    """Once a heartbeat when silent; a message renews too, but not sooner than is allowed."""
    silent = demand(UserLoad(1, message_rate=0.0, move_rate=0.0))
    assert silent.refreshes == pytest.approx(1 / 30, rel=0.02)
    talking = demand(UserLoad(1, message_rate=0.5)).refreshes
    assert 2 / 30 < talking < 4 / 30, "a pause of a quarter to a half of a heartbeat"


def test_without_a_spare_gateway_the_queue_grows_and_with_one_it_does_not() -> None:
    """As many users as three gateways carry at four fifths."""
    load = UserLoad(1, message_rate=0.5)
    sheet = SHEET.scaled(redis_refresh_us=0, redis_message_us=0, redis_move_us=0)
    users = round(3 * 0.8 / demand(load).gateway_cores(sheet))
    three, four = (
        a_gateway_dies(UserLoad(users, message_rate=0.5), sheet, gateways) for gateways in (3, 4)
    )
    assert len(three.gateway_shares) == 2 and len(four.gateway_shares) == 3
    assert three.gateway_share > 1.05 and three.p99_s > 1
    assert four.gateway_share < 0.95 and four.p99_s < three.p99_s / 4


def test_a_fleet_has_one_gateway_more_than_its_load_needs() -> None:
    """By CPU or by connections, whichever is more."""
    by_connections = fleet_size(UserLoad(100_000, message_rate=0.0), SHEET)
    assert by_connections.gateways == 5 + 1
    load = UserLoad(100_000, message_rate=1.0)
    by_cpu = fleet_size(load, SHEET, redis_bytes=300)
    assert by_cpu.gateways == math.ceil(1e5 * demand(load).gateway_cores(SHEET) / 0.8) + 1 > 6
    assert by_cpu.redis_gb == pytest.approx(0.03)


def test_an_error_in_the_number_of_users_is_the_error_of_the_plan() -> None:
    """Each other assumption matters less, and a longer time between heartbeats makes it less."""
    load = UserLoad(1_000_000)
    base, found = cores(load, SHEET), what_if(load, SHEET)
    assert found["number of users"] == pytest.approx((0.8 * base, 1.2 * base))
    assert all(abs(x / base - 1) < 0.21 for pair in found.values() for x in pair)
    less, more = found["time between heartbeats"]
    assert less > base > more
    assert all(low < base < high for name, (low, high) in found.items() if "time" not in name)


# --- the exercise ------------------------------------------------------------------------------


def plan(
    users: int,
    msg_rate: float,
    hop_rate: float,
    *,
    heartbeat: float = 60,
    spare: int = 1,
    half: float = 0.5,
    most: float = 20_000,
    busy: float = 0.8,
    talk: float = 1.0,
    beats: float = 1.0,
    times: int = 1,
) -> Any:
    redis = users * (beats * 30 / heartbeat + talk * 60 * msg_rate + 120 * hop_rate) / 1e6
    gateway = users * (100 / heartbeat + 150 * msg_rate + 900 * hop_rate) / 1e6
    gateways = math.ceil(max(gateway / busy, users / most)) + spare
    return gateways, times * math.ceil(redis / half), heartbeat


def but(**changed: Any) -> Callable[..., Any]:
    return lambda users, msg_rate, hop_rate: plan(users, msg_rate, hop_rate, **changed)


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "has no spare gateway": (but(spare=0), "One gateway dies at peak"),
    "counts no connections": (but(most=1e9), "more connections than it may have"),
    "counts no CPU of gateways": (but(busy=1e9), "gateways are busier than they may be"),
    "uses the whole core of Redis": (but(half=1.0), "A shard is busier than it may be"),
    "forgets that messages ask Redis": (but(talk=0.0), "Redis is asked at each heartbeat"),
    "forgets the leases": (but(beats=0.0), "Redis is asked at each heartbeat"),
    "lets ghosts stay": (but(heartbeat=120), "A lease lasts three heartbeats"),
    "keeps the usual heartbeat": (but(heartbeat=30), "What do you pay for each heartbeat"),
    "buys twice as much": (but(times=2), "One spare gateway is enough"),
    "plans a part of a gateway": (lambda u, m, h: (u / 20_000 + 1, 1, 60), "both whole"),
    "returns two numbers": (lambda u, m, h: plan(u, m, h)[:2], "Return three numbers"),
}


def test_a_good_plan_is_accepted_on_every_seed() -> None:
    """Also one that is a little dearer, and through `check`."""
    for seed in SEEDS:
        judgement = judge_plan(plan, seed=seed)
        assert judgement.ok, judgement.hint
        assert judge_plan(but(heartbeat=55), seed=seed).ok
    assert check("ex12", plan)


@pytest.mark.parametrize("name", WRONG)
def test_a_named_misunderstanding_gets_its_hint_on_every_seed(name: str) -> None:
    """No wrong plan passes by chance, and the hint is about what is wrong."""
    wrong, hint = WRONG[name]
    for seed in SEEDS:
        judgement = judge_plan(wrong, seed=seed)
        assert not judgement.ok
        assert hint in judgement.hint
        assert "plan(" in str(judgement.evidence)


def test_the_cheapest_plan_is_the_one_of_the_solution() -> None:
    """For each of the loads."""
    for load in POINTS:
        assert tuple(cheapest(load)) == plan(load.users, load.message_rate, load.move_rate)


def test_what_is_no_plan_cannot_be_judged() -> None:
    """A stub, and something that is no function."""

    def stub(*_: Any) -> Any:
        raise NotImplementedError

    assert check("ex12", stub).verdict == "could not judge"
    assert "must be a function" in check("ex12", 7).hint


# --- the figures -------------------------------------------------------------------------------

LINES = [
    CapacityLine("Redis", 5e-6, 0.5, "Redis servers", (18_000, 0.09)),
    CapacityLine("gateway", 2e-5, 0.8, "gateways", (18_000, 0.36)),
]
BARS = {
    "users": (80.0, 120.0),
    "heartbeat": (106.0, 96.0),
    "a long name of an assumption": (99, 101),
}


def drawn() -> dict[str, Picture]:
    near = [LINES[0], LINES[1]._replace(each=8.1e-6, measured=None)]
    far = [LINES[0]._replace(each=2e-7), LINES[1]._replace(each=2e-4)]
    return {
        "capacity": capacity(LINES),
        "crossings that are near": capacity(near),
        "crossings that are far": capacity(far),
        "tornado": tornado(BARS, 100.0),
        "tornado of eight": tornado({f"assumption {n}": (100 - n, 100 + n) for n in range(8)}, 100),
    }


def test_every_text_of_the_figures_can_be_read() -> None:
    """Also where the crossings are near each other, or far."""
    assert_no_text_covers_another(figures := drawn())
    assert_no_text_is_clipped(figures)


def test_the_capacity_figure_names_the_first_wall() -> None:
    """In its title, at the crossing and for those who cannot see it."""
    fig = capacity(LINES)
    assert fig.wsdemo_facts["first"] == "gateway" and fig.wsdemo_facts["first_users"] == "40,000"
    assert {"40,000 users", "100,000 users", "one Redis: 50 % of a core"} <= words(fig)
    assert "one is full, at 80 % of a core, with 40,000 users" in fig.wsdemo_alt
    assert [in_round_numbers(n) for n in (7_432, 123_456, 1.26e6)] == [
        "7,400",
        "120,000",
        "1.3 million",
    ]


def test_the_tornado_sorts_and_counts_what_an_error_changes() -> None:
    """The most important one is at the top, and in the title."""
    facts = tornado(BARS, 100.0).wsdemo_facts
    assert (facts["worst"], facts["change"], facts["second"]) == ("users", "20 %", "heartbeat")
    assert "heartbeat: 106 to 96" in tornado(BARS, 100.0).wsdemo_alt


def test_figures_of_nothing_are_errors_with_a_reason() -> None:
    """One line, no cost, one bar, no result."""
    with pytest.raises(ValueError, match="two kinds"):
        capacity(LINES[:1])
    with pytest.raises(ValueError, match="two kinds"):
        capacity([LINES[0], LINES[1]._replace(each=0.0)])
    with pytest.raises(ValueError, match="two assumptions"):
        tornado({"one": (1, 2)}, 1.0)
    with pytest.raises(ValueError, match="two assumptions"):
        tornado(BARS, 0.0)


def test_a_sheet_is_shown_as_a_table() -> None:
    """Each thing with what it costs in Redis and in gateways."""
    told = str(CostSheet(30, 60, 120, 100, 150, 900))
    assert "a message" in told and "60 µs" in told and "900 µs" in told


@pytest.mark.parametrize("redis", [1.3e-6, 1.7e-6, 2.5e-6, 4e-6])
@pytest.mark.parametrize("times", [2.0, 3.0, 4.0])
def test_each_crossing_of_the_capacity_figure_says_how_many_users(
    redis: float, times: float
) -> None:
    """Wherever the lines are: no label gives way to another one."""
    lines = [LINES[0]._replace(each=redis), LINES[1]._replace(each=times * redis)]
    shown = words(capacity(lines))
    for line in lines:
        assert f"{in_round_numbers(line.full_at)} users" in shown
        assert any(one.startswith(f"one {line.name}: ") for one in shown)
