"""Replay: does an order end on running gateways as it ends with the scripts alone?"""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.examples import rounds
from wsdemo.lab.races.interleavings import explore, explore_all
from wsdemo.lab.races.orders import CALM, Order, OrderEnd, Played, all_orders
from wsdemo.lab.races.replay import replay, replay_steps
from wsdemo.lab.trace import frames
from wsdemo.redis.server import BundledServer

pytestmark = pytest.mark.xdist_group("clock")

SEEDED = [("go-demo", 0.0), ("go-demo", -10.0), ("timestamp", -10.0)]


@pytest.fixture(scope="module")
def explored(shared_server: BundledServer) -> dict[tuple[str, float], tuple[Played, ...]]:
    """The explorations, by policy and clock skew."""
    found = explore_all(redis=shared_server.url)
    return {(one.policy, one.skew_s): one.wrong for one in found}


@pytest.mark.slow
def test_every_minimal_failing_order_fails_on_running_gateways_too(
    shared_server: BundledServer,
) -> None:
    """Step by step: after each one Redis names the same gateway as in the model."""
    failing = [one.minimal() for one in explore_all(redis=shared_server.url)]
    pairs = [pair for pair in failing if pair is not None]
    assert len(pairs) == 10
    for bad, near in pairs:
        live = replay(bad.order, bad.policy, bad.skew_s, redis=shared_server.url)
        assert live.agrees_with(bad), (live, bad)
        assert live.played.end is bad.end is not OrderEnd.CORRECT
        good = replay(near.order, near.policy, near.skew_s, redis=shared_server.url)
        assert good.agrees_with(near), (good, near)


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "skew_s"), SEEDED)
def test_wrong_orders_end_wrong_on_running_gateways_and_right_when_fenced(
    policy: str,
    skew_s: float,
    shared_server: BundledServer,
    explored: dict[tuple[str, float], tuple[Played, ...]],
) -> None:
    """A few of them, drawn by a seed; the same order, the same clocks, other scripts."""
    for bad in random.Random(5).sample(explored[policy, skew_s], rounds(5)):
        live = replay(bad.order, policy, skew_s, redis=shared_server.url)
        assert live.agrees_with(bad), (live, bad)
        assert live.played.end is not OrderEnd.CORRECT
        fenced = replay(bad.order, "fenced", skew_s, redis=shared_server.url)
        assert fenced.played.end is OrderEnd.CORRECT, fenced


@pytest.mark.slow
def test_good_orders_end_right_on_running_gateways(shared_server: BundledServer) -> None:
    """The one without a race, and three that a seed draws."""
    good = [
        one for one in explore("go-demo", redis=shared_server.url).played if one.end == "correct"
    ]
    for played in [*random.Random(7).sample(good, 3)]:
        assert replay(played.order, "go-demo", redis=shared_server.url).agrees_with(played)
    assert replay(CALM, "go-demo", redis=shared_server.url).played.end is OrderEnd.CORRECT


async def test_a_replay_is_recorded_in_the_trace(
    shared_server: BundledServer, redis_db: Any
) -> None:
    """The gateways report what they did, and nothing is left in Redis."""
    order: Order = ("h_ts", "h_set", "c_read", "r_ts", "r_set", "c_del")
    actions, lives = [], []
    async for action, entry, cluster in replay_steps(order, "fenced", redis=shared_server.url):
        actions.append(action)
        lives.append(entry.get("gwId"))
        trace = cluster.trace()
    assert tuple(actions) == order
    assert lives == ["gateway-01"] * 4 + ["gateway-02"] * 2
    kinds = frames.arrows(trace)["kind"].tolist()
    assert kinds.count("presence_set") == 2 and "presence_reject" in kinds
    assert await redis_db.keys("lab:*alice*") == []


def test_a_replay_of_two_threads_needs_no_heartbeat(shared_server: BundledServer) -> None:
    """Variants are replayed as well."""
    orders = all_orders(["clean-up", "re-register"])
    for played in explore("go-demo", orders=orders, redis=shared_server.url).played:
        assert replay(played.order, "go-demo", redis=shared_server.url).agrees_with(played)


def test_an_unknown_policy_is_named_before_anything_starts() -> None:
    """A typing error is an error."""
    with pytest.raises(ValueError, match="there is no policy 'sead'"):
        replay(CALM, "sead")
