"""Does a server that is cut off from its cluster behave as in a network that is split?"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis

from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.server import ServerError
from wsdemo.redis.slots import slot_of
from wsdemo.rig.split_cluster import SplitCluster

KEY = "presence:{45.23}:alice"
SLOT = slot_of(KEY)


@pytest.fixture(scope="module")
def cluster() -> Iterator[SplitCluster]:
    """One for the whole module: a start takes two seconds."""
    with SplitCluster(3, 1) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def healed(cluster: SplitCluster) -> Iterator[None]:
    """Each test leaves a cluster that works."""
    yield
    cluster.heal()


def client(cluster: BundledCluster, number: int, name: str) -> redis.Redis:
    """A client with a name, in the network of the cluster."""
    return redis.Redis.from_url(
        cluster.servers[number].url_by(cluster.ports[number]),
        client_name=name,
        socket_timeout=0.5,
        socket_connect_timeout=0.5,
        retry=None,
    )


def test_what_a_minority_primary_has_acknowledged_is_lost(cluster: SplitCluster) -> None:
    """It takes writes, then refuses them; its replica is promoted, and has none of them."""
    old = cluster.owner(SLOT)
    (replica,) = cluster.replicas_of(old)
    cluster.call(old, "SET", KEY, "before")
    assert cluster.call(old, "WAIT", 1, 5000) == 1
    cluster.isolate(old)
    assert cluster.call(old, "SET", KEY, "lost") == "OK"

    def refuses() -> bool:
        try:
            cluster.call(old, "GET", KEY)
        except ServerError as problem:
            assert "The cluster is down" in str(problem)
            return True
        return False

    cluster.until("it refuses", refuses)
    cluster.until("its replica is promoted", lambda: cluster.is_primary(replica))
    assert cluster.is_primary(old), "nobody can tell it"
    cluster.heal()
    assert not cluster.is_primary(old)
    assert cluster.call(replica, "GET", KEY) == "before"


def test_a_client_that_is_near_reaches_only_the_server_that_is_cut_off(
    cluster: SplitCluster,
) -> None:
    """One that is far reaches only the others, and one without a side reaches all."""
    old = cluster.owner(SLOT)
    other = next(n for n in range(6) if n != old)
    cluster.isolate(old, near=["near"], far=["far"])
    reached = {}
    for name in ("near", "far", "anybody"):
        for number in (old, other):
            with client(cluster, number, name) as one:
                try:
                    reached[name, number] = bool(one.ping())
                except redis.RedisError:
                    reached[name, number] = False
    assert [key for key, answers in reached.items() if not answers] == [
        ("near", other),
        ("far", old),
    ]
    cluster.rejoin()
    with client(cluster, other, "near") as one:
        assert one.ping()


def test_a_stopped_split_cluster_leaves_no_thread() -> None:
    """It can be stopped twice."""
    with SplitCluster(1) as cluster:
        names = [thread.name for thread in threading.enumerate()]
        assert "relays of a cluster" in names
        threads = threading.enumerate()
    cluster.stop()
    ours = [thread for thread in threads if thread.name == "relays of a cluster"]
    assert sum(thread.is_alive() for thread in ours) < len(ours)
