"""Directors: can each verb of a running gateway be made to wait?"""

from __future__ import annotations

import asyncio

import pytest

from tests.waiting import until
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.cluster.directors import HeldVerbs, Verb

pytestmark = pytest.mark.xdist_group("clock")


async def test_a_held_register_waits_until_it_is_released() -> None:
    """Others register meanwhile."""
    async with Cluster(gateways=1) as cluster:
        director = cluster.directors["gateway-01"]
        director.hold("alice", "register")
        coming = asyncio.create_task(cluster.connect("alice"))
        await until("her register waits", lambda: director.waiting("alice", "register") == 1)
        await cluster.connect("bob")
        assert await cluster.record("alice") == {}
        assert director.holds("alice", "register") and not director.is_done("alice", "register")
        director.let_go("alice", verb="register")
        await asyncio.wait_for(director.done("alice", "register"), 5)
        await coming
        assert (await cluster.record("alice"))["gwId"] == "gateway-01"
        assert director.is_done("alice", "register")


@pytest.mark.slow
async def test_a_held_refresh_lets_the_lease_expire() -> None:
    """It expires, and then the next refresh of her gateway writes it again."""
    async with Cluster(gateways=1) as cluster:
        await cluster.connect("alice")
        director = cluster.directors["gateway-01"]
        director.hold("alice", "refresh")
        await until("her refresh waits", lambda: director.waiting("alice", "refresh") == 1)

        async def is_gone() -> bool:
            return await cluster.record("alice") == {}

        await cluster.until("her lease has run down", is_gone)
        director.let_go("alice")
        await asyncio.wait_for(director.done("alice", "refresh"), 5)
        assert (await cluster.record("alice"))["gwId"] == "gateway-01"


@pytest.mark.parametrize("verb", ["mint", "register", "refresh", "release"])
async def test_release_ends_the_hold_of_one_verb_of_one_user_or_of_all(verb: Verb) -> None:
    """One verb of a user, all of hers, or everybody's."""
    async with Cluster(gateways=1) as cluster:
        director = cluster.directors["gateway-01"]
        for user in ("alice", "bob"):
            director.hold(user, verb)
        director.let_go("alice", verb)
        assert not director.holds("alice", verb) and director.holds("bob", verb)
        director.let_go()
        assert not director.holds("bob", verb)
        await cluster.connect("alice")


def test_the_director_of_releases_has_its_old_name_too() -> None:
    """Lesson 04 and the cluster use the old name."""
    assert HeldVerbs is HeldVerbs
