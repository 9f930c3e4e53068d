"""Interleavings: do the real scripts end as the lessons say, in every order? The results are exact:
orders are played step by step, and the test sets the clocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from wsdemo.lab.cluster.directors import Before, Gates, HeldLink, HeldVerbs, Place
from wsdemo.lab.plots import spacetime
from wsdemo.lab.races.interleavings import SKEWS, explore, explore_all
from wsdemo.lab.races.models import MODELS, State, explore_model, plain
from wsdemo.lab.races.orders import (
    CALM,
    THREADS,
    Action,
    Exploration,
    OrderEnd,
    all_orders,
    compare,
    distance,
    is_feasible,
    summary,
)
from wsdemo.lab.races.stage import HandClock
from wsdemo.lab.trace import frames
from wsdemo.presence import Claim
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import BundledServer
from wsdemo.rig.policies import POLICIES
from wsdemo.rig.policies.timestamp import TimestampPresence
from wsdemo.settings import Keyspace, Limits, Timing

pytestmark = pytest.mark.xdist_group("interleavings")

WRONG = {
    ("plain", 0.0): 25,
    ("plain", -10.0): 25,
    ("plain", 10.0): 25,
    ("go-demo", 0.0): 19,
    ("go-demo", -10.0): 28,
    ("go-demo", 10.0): 19,
    ("check-then-delete", 0.0): 14,
    ("check-then-delete", -10.0): 25,
    ("check-then-delete", 10.0): 14,
    ("timestamp", 0.0): 0,
    ("timestamp", -10.0): 37,
    ("timestamp", 10.0): 0,
    ("fenced", 0.0): 0,
    ("fenced", -10.0): 0,
    ("fenced", 10.0): 0,
}
"""How many of 45 orders end wrong. Lesson 06 shows that timestamps are worse than no comparison."""

LATE_CLEANUP: tuple[Action, ...] = ("h_ts", "h_set", "c_read", "r_ts", "r_set", "c_del")


@pytest.fixture(scope="module")
def explored(shared_server: BundledServer) -> dict[tuple[str, float], Exploration]:
    found = explore_all(orders=all_orders(feasible=False), redis=shared_server.url)
    return {(one.policy, one.skew_s): one for one in found}


def feasible(one: Exploration) -> Exploration:
    played = tuple(p for p in one.played if is_feasible(p.order))
    return Exploration(one.policy, one.skew_s, played)


def test_there_are_ninety_orders_and_half_of_them_can_happen() -> None:
    """Six steps in three threads; alice pings gateway-01 before she leaves it."""
    everything = all_orders(feasible=False)
    assert len(everything) == len(set(everything)) == 90
    assert len(all_orders()) == 45
    for order in everything:
        for thread in THREADS.values():
            assert order.index(thread[0]) < order.index(thread[1])


def test_fewer_threads_have_fewer_orders() -> None:
    """A variant is a choice of threads."""
    assert len(all_orders(["clean-up", "re-register"])) == 6
    with pytest.raises(ValueError, match="there are: heartbeat, clean-up, re-register"):
        all_orders(["goodbye"])


@pytest.mark.parametrize(("policy", "skew_s"), WRONG)
def test_as_many_orders_end_wrong_as_the_lessons_say(
    policy: str, skew_s: float, explored: dict[tuple[str, float], Exploration]
) -> None:
    """On the real scripts, for every policy and skew."""
    one = feasible(explored[policy, skew_s])
    assert len(one.played) == 45
    assert len(one.wrong) == WRONG[policy, skew_s]


def test_the_product_is_right_also_in_impossible_orders(
    explored: dict[tuple[str, float], Exploration],
) -> None:
    """A ping that waited in a buffer is read after she has left; policies with timestamps fail
    then."""
    for skew_s in SKEWS:
        assert not explored["fenced", skew_s].wrong
    assert explored["timestamp", 0.0].wrong


@pytest.mark.parametrize("policy", MODELS)
def test_a_model_and_the_real_scripts_agree_on_every_order(
    policy: str, explored: dict[tuple[str, float], Exploration]
) -> None:
    """All ninety, for each clock skew: what is proved of the model holds for the scripts."""
    for skew_s in SKEWS:
        real = explored[policy, skew_s]
        agreement = compare(explore_model(MODELS[policy], skew_s, orders=real.orders), real)
        assert agreement, repr(agreement)


def test_a_different_model_is_detected(
    explored: dict[tuple[str, float], Exploration],
) -> None:
    """The comparison can fail, and names the first order that differs."""

    def forgetful(state: State, action: Action) -> None:
        if action != "c_del":
            MODELS["fenced"](state, action)

    ghost = compare(explore_model(plain), feasible(explored["fenced", 0.0]))
    assert not ghost
    assert "differs from fenced on 25 of 45 orders, first on h_ts" in repr(ghost)
    same = compare(explore_model(forgetful), feasible(explored["fenced", 0.0]))
    assert same, "a clean-up that does nothing leaves no trace when she is elsewhere"
    with pytest.raises(ValueError, match="different orders"):
        compare(explore_model(plain), explored["fenced", 0.0])


def test_a_model_cannot_read_another_gateways_memory() -> None:
    """Each gateway has only its own memory, and Redis."""
    seen: list[tuple[str, set[str]]] = []

    def step(state: State, action: Action) -> None:
        seen.append((state["gateway"], set(state["mine"])))
        state["mine"][state["gateway"]] = True

    explore_model(step, orders=[CALM])
    assert all(memory <= {gateway} for gateway, memory in seen)


def test_the_minimal_failing_order_is_one_swap_from_a_good_one(
    explored: dict[tuple[str, float], Exploration],
) -> None:
    """With the demo's policy it is the late clean-up of lesson 04."""
    found = feasible(explored["go-demo", 0.0]).minimal()
    assert found is not None
    bad, near = found
    assert (bad.order, bad.end, near.end) == (LATE_CLEANUP, OrderEnd.LOST, OrderEnd.CORRECT)
    assert distance(bad.order, near.order) == 1
    assert feasible(explored["fenced", 0.0]).minimal() is None


def test_an_order_is_described_in_sentences(
    explored: dict[tuple[str, float], Exploration],
) -> None:
    """Each step is a sentence, each write has the entry that follows from it."""
    assert explored["go-demo", 0.0][LATE_CLEANUP].words() == [
        "1 gateway-01 reads its clock for alice's heartbeat",
        "2 gateway-01 refreshes alice's entry → Redis: gateway-01",
        "3 gateway-01 decides to clean up after alice",
        "4 gateway-02 reads its clock for alice's registration",
        "5 gateway-02 registers alice → Redis: gateway-02",
        "6 gateway-01 deletes alice's entry → Redis: nobody",
    ]
    kept = explored["fenced", 0.0][LATE_CLEANUP]
    assert kept.words()[-1].endswith("→ rejected; Redis: gateway-02")
    assert str(kept).endswith("The end: correct.")


def test_the_demo_s_comparison_rejects_nothing_while_clocks_agree(
    explored: dict[tuple[str, float], Exploration],
) -> None:
    """Only the verb that needs it least compares; with a slow clock it rejects the right
    session."""
    right, slow = (feasible(explored["go-demo", skew_s]) for skew_s in (0.0, -10.0))
    assert not any("re-register" in one.rejected for one in right.played)
    turned_away = [one for one in slow.played if "re-register" in one.rejected]
    assert turned_away and all(one.end is not OrderEnd.CORRECT for one in turned_away)


def test_a_heartbeat_after_the_delete_makes_half_an_entry(
    explored: dict[tuple[str, float], Exploration],
) -> None:
    """Half an entry names no gateway: she cannot be reached."""
    played = explored["go-demo", 0.0][("h_ts", "c_read", "r_ts", "r_set", "c_del", "h_set")]
    assert set(played.entries[-1]) == {"ts"}
    assert played.end is OrderEnd.LOST
    assert played.words()[-1].endswith("Redis: half an entry")


def test_an_order_can_be_drawn_as_a_trace(
    explored: dict[tuple[str, float], Exploration],
) -> None:
    """An arrow starts at the read of a gateway and ends at its write, so that orders cross."""
    trace = explored["fenced", 0.0][LATE_CLEANUP].trace()
    assert list(trace.columns) == list(frames.COLUMNS)
    arrows = frames.arrows(trace)
    assert list(zip(arrows["t"], arrows["t_recv"], arrows["kind"], strict=True)) == [
        (1, 2, "presence_refresh"),
        (3, 6, "presence_reject"),
        (4, 5, "presence_set"),
    ]
    assert "other owner" in spacetime(trace, even=False, title="{hops} commands").wsdemo_alt


def test_an_exploration_counts_its_outcomes(
    explored: dict[tuple[str, float], Exploration],
) -> None:
    """In a table, in a line, and by order."""
    one = feasible(explored["go-demo", 0.0])
    assert "19 of 45 orders end wrong (19 lost, 0 at the dead gateway)" in repr(one)
    table = one.table()
    assert (table["end"] == "correct").sum() == 26
    assert set(table.columns) == {"order", "end", "Redis named", "rejected"}
    assert summary([one]).loc[0, "wrong"] == 19
    with pytest.raises(KeyError, match="was not played"):
        one[("r_ts", "r_set", "h_ts", "h_set", "c_read", "c_del")]


async def test_exploring_works_where_a_loop_is_running_and_leaves_no_keys(
    shared_server: BundledServer, redis_db: Any
) -> None:
    """As in a cell of a notebook."""
    one = explore("timestamp", -10.0, orders=[LATE_CLEANUP], redis=shared_server.url)
    assert one.played[0].end is OrderEnd.LOST
    assert one.played[0].rejected == {"re-register"}
    assert await redis_db.keys("orders:*") == []


def test_an_unknown_policy_is_named() -> None:
    """A typing error is an error."""
    with pytest.raises(ValueError, match="there are: plain, go-demo, check-then-delete"):
        explore("sead")
    assert MODELS.keys() <= POLICIES.keys(), "each model is of a policy"


# --- the director under it -----------------------------------------------------------------------


@pytest.fixture
async def link(shared_server: BundledServer) -> AsyncIterator[RedisLink]:
    link = RedisLink(shared_server.url, Limits(), lambda up: None)
    await link.start()
    yield link
    await link.stop()


async def test_a_verb_held_before_its_write_has_read_its_clock(
    link: RedisLink, keyspace: Keyspace, redis_db: Any
) -> None:
    """The process is paused between two lines: time goes on, but the value read does not change."""
    clock, gates = HandClock(), Gates()
    held: Any = HeldLink(link, gates)
    presence = HeldVerbs(TimestampPresence(held, keyspace, Timing(), clock), gates)
    place = Place("alice", "register", Before.WRITE)
    gates.shut(place)
    registering = asyncio.create_task(presence.register(Claim("alice", "c1", "gateway-01")))
    async with asyncio.timeout(5):
        await gates.until(lambda: gates.waiting(place) > 0)
        read = clock()
        clock.move(60)
        assert not await redis_db.exists(keyspace.presence("alice"))
        gates.open(place)
        await registering
    assert float(await redis_db.hget(keyspace.presence("alice"), "ts")) == read
    await redis_db.delete(keyspace.presence("alice"))
