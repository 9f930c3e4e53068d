"""Does the bundled cluster start, break and heal as it says?"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.server import ServerError
from wsdemo.redis.slots import SLOTS, slot_of

KEY = "presence:{45.23}:alice"
SLOT = slot_of(KEY)


@pytest.fixture(scope="module")
def cluster() -> Iterator[BundledCluster]:
    """One for the whole module: a start takes two seconds."""
    with BundledCluster(3, 1) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def healed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test leaves a cluster that works."""
    yield
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").heal()


def another(cluster: BundledCluster, owner: int) -> int:
    """A primary that is not this one."""
    return next(n for n in range(len(cluster.servers)) if n != owner and cluster.is_primary(n))


def test_every_slot_has_one_of_three_primaries_in_equal_shares(cluster: BundledCluster) -> None:
    """And each of them has a replica."""
    primaries = [n for n in range(6) if cluster.is_primary(n)]
    shares = [cluster.slots_of(n) for n in primaries]
    assert sorted(slot for share in shares for slot in share) == list(range(SLOTS))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [len(cluster.replicas_of(n)) for n in primaries] == [1, 1, 1]


@pytest.mark.parametrize("atomic", [None, False], ids=["as the server can", "key by key"])
def test_a_slot_moves_with_its_keys(cluster: BundledCluster, atomic: bool | None) -> None:
    """Afterwards, every server names its new owner."""
    source = cluster.owner(SLOT)
    to = another(cluster, source)
    for number in range(3):
        cluster.call(source, "SET", f"{KEY}{number}", number)
    cluster.move([SLOT], to, atomic=atomic)
    assert cluster.owner(SLOT) == to
    assert [cluster.call(to, "GET", f"{KEY}{number}") for number in range(3)] == ["0", "1", "2"]
    with pytest.raises(ServerError, match=f"{SLOT} {cluster.addresses[to]}"):
        cluster.call(source, "GET", f"{KEY}0")


def test_a_planned_failover_swaps_a_primary_and_its_replica(cluster: BundledCluster) -> None:
    """Nothing is lost: the replica has the keys."""
    primary = cluster.owner(SLOT)
    cluster.call(primary, "SET", KEY, "here")
    replica = cluster.fail_over(primary)
    assert cluster.owner(SLOT) == replica
    assert cluster.call(replica, "GET", KEY) == "here"
    assert not cluster.is_primary(primary)


def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(cluster: BundledCluster) -> None:
    """With the name that it had in the cluster."""
    primary = cluster.owner(SLOT)
    (replica,) = cluster.replicas_of(primary)
    cluster.kill(primary)
    cluster.until("the replica is promoted", lambda: cluster.is_primary(replica))
    assert cluster.owner(SLOT) == replica
    cluster.heal()
    assert cluster.replicas_of(replica) == [primary]
    assert cluster.call(primary, "CLUSTER", "MYID") == cluster.ids[primary]


def test_a_paused_server_is_not_asked(cluster: BundledCluster) -> None:
    """The others still say who has which slot, and it goes on when told."""
    primary = cluster.owner(SLOT)
    cluster.pause(primary)
    assert cluster.owner(SLOT) in (primary, *range(6))
    with pytest.raises(ServerError, match=f"server {primary} of the cluster"):
        cluster.call(primary, "PING", timeout_s=0.1)
    cluster.resume(primary)
    assert cluster.call(primary, "PING") == "PONG"


def test_without_a_replica_a_failover_is_refused_and_a_killed_primary_comes_back_empty() -> None:
    """It keeps its slots."""
    with BundledCluster(1, password="") as cluster:
        with pytest.raises(ServerError, match="no replica"):
            cluster.fail_over(0)
        cluster.call(0, "SET", KEY, "here")
        assert cluster.wait(0) is None
        cluster.kill(0)
        assert cluster.wait(0) == 0
        cluster.heal()
        assert len(cluster.slots_of(0)) == SLOTS
        assert cluster.call(0, "GET", KEY) is None
        processes = [psutil.Process(server.pid) for server in cluster.servers]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            assert process.status() == psutil.STATUS_ZOMBIE
    assert cluster.servers == []


@pytest.mark.parametrize(("primaries", "replicas"), [(0, 0), (3, -1)])
def test_a_cluster_of_nothing_is_refused(primaries: int, replicas: int) -> None:
    """In one line."""
    with pytest.raises(ServerError, match="at least 1 primary"):
        BundledCluster(primaries, replicas)


def test_in_the_foreground_a_cluster_prints_its_url_and_stops_on_request() -> None:
    """`python -m wsdemo.redis --cluster 2`; and nothing outlives it."""
    command = [sys.executable, "-m", "wsdemo.redis", "--cluster", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout is not None
        try:
            assert select.select([program.stdout], [], [], 20)[0]
            assert "a cluster of 2 primaries" in program.stdout.readline()
            assert program.stdout.readline().startswith("redis+cluster://127.0.0.1:")
            children = psutil.Process(program.pid).children(recursive=True)
            assert children
        finally:
            os.kill(program.pid, signal.SIGTERM)
        assert program.wait(10) == 0
    assert psutil.wait_procs(children, timeout=5)[1] == []
