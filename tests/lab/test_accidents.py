"""Faults: does every fault of the laboratory really happen, and is it in the trace?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psutil
import pytest

from tests.waiting import until
from wsdemo.events import Kind
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.cluster.hosts import Process
from wsdemo.lab.trace import frames
from wsdemo.protocol import Status

pytestmark = pytest.mark.xdist_group("clock")


def kinds(cluster: Cluster, lane: str) -> list[str]:
    trace = cluster.trace()
    found: list[str] = trace[trace["lane"] == lane]["kind"].tolist()
    return found


def is_at(cluster: Cluster, user: str, gateway: str) -> Callable[[], bool]:
    client = cluster.users[user]
    return lambda: client.gateway_id == gateway and client.state == "registered"


async def test_a_crash_releases_nothing_and_its_users_come_back_elsewhere() -> None:
    """Redis names the crashed gateway until each user has registered again."""
    async with Cluster(gateways=2) as cluster:
        alice = await cluster.connect("alice", to="gateway-01")
        bob = await cluster.connect("bob", to="gateway-02")
        await cluster.hold("alice", at="gateway-02", verb="register")
        await cluster.crash("gateway-01")
        assert (await cluster.record("alice"))["gwId"] == "gateway-01"
        assert "gateway-01" not in cluster.urls
        await cluster.let_go("alice", at="gateway-02", verb="register")
        await until("alice is back", is_at(cluster, "alice", "gateway-02"))
        assert (await cluster.record("alice"))["gwId"] == "gateway-02"
        assert (await bob.send("alice", "hello")).status is Status.ROUTED
        assert (await alice.receive(5)).content == "hello"
        trace = cluster.trace()
        crash = trace[trace["kind"] == "crash"].iloc[0]
        later = trace[(trace["lane"] == "gateway-01") & (trace["t"] > crash["t"])]
        assert later.empty, "the dead report nothing"
        stays = [s for s in frames.truth(trace) if s.user == "alice"]
        assert [s.gateway for s in stays] == ["gateway-01", "gateway-02"]
        assert stays[0].end == pytest.approx(crash["t"])


async def test_a_crashed_gateway_can_be_started_again() -> None:
    """Under the same id, and its users find it."""
    async with Cluster(gateways=1) as cluster:
        await cluster.connect("alice")
        await cluster.crash("gateway-01")
        await cluster.start_gateway("gateway-01")
        with pytest.raises(ValueError, match="is running"):
            await cluster.start_gateway("gateway-01")
        await cluster.connect("bob")
        assert (await cluster.record("bob"))["gwId"] == "gateway-01"


async def test_a_drained_gateway_releases_its_users_before_it_stops() -> None:
    """A normal stop: no entry in Redis names it any more."""
    async with Cluster(gateways=2) as cluster:
        await cluster.connect("alice", to="gateway-01")
        await cluster.drain("gateway-01")
        assert (await cluster.record("alice")).get("gwId") != "gateway-01"
        assert {"drain", "stopped"} <= set(kinds(cluster, "gateway-01"))
        await until("alice is back", is_at(cluster, "alice", "gateway-02"))


async def test_a_frozen_gateway_stops_while_the_others_serve() -> None:
    """Its users get no answer; after the freeze it notices the stall."""
    async with Cluster(gateways=2, freezable=["gateway-01"]) as cluster:
        alice = await cluster.connect("alice", to="gateway-01")
        bob = await cluster.connect("bob", to="gateway-02")
        carol = await cluster.connect("carol", to="gateway-02")
        await cluster.freeze("gateway-01")
        asked = asyncio.create_task(alice.send("bob", "hello?"))
        assert (await carol.send("bob", "hello")).status is Status.ROUTED
        assert (await bob.receive(5)).sender == "carol"
        assert not asked.done()
        await cluster.thaw("gateway-01")
        assert await asked is not None
        assert {"freeze", "thaw"} <= set(kinds(cluster, "gateway-01"))


async def test_a_gateway_on_the_shared_loop_cannot_be_frozen() -> None:
    """The others would stop as well; the error says what to do instead."""
    async with Cluster(gateways=1) as cluster:
        with pytest.raises(ValueError, match=r'freezable=\["gateway-01"\]'):
            await cluster.freeze("gateway-01")


async def test_a_process_joins_the_cluster_freezes_and_is_killed() -> None:
    """SIGSTOP, SIGCONT and SIGKILL on a real gateway process with the lab's clock."""
    async with Cluster(gateways=1) as cluster:
        await cluster.start_process("gateway-09")
        host = cluster.host("gateway-09")
        assert isinstance(host, Process)
        alice = await cluster.connect("alice", to="gateway-09")
        bob = await cluster.connect("bob", to="gateway-01")
        assert (await bob.send("alice", "hello")).status is Status.ROUTED
        assert (await alice.receive(5)).content == "hello"
        assert (await cluster.stats("gateway-09"))["connections"] == 1
        await cluster.freeze("gateway-09")
        process = psutil.Process(host.pid)
        await until("it stands still", lambda: process.status() == psutil.STATUS_STOPPED)
        await cluster.thaw("gateway-09")
        await cluster.crash("gateway-09")
        assert not psutil.pid_exists(host.pid)
        await until("alice is back", is_at(cluster, "alice", "gateway-01"))


@pytest.mark.slow
async def test_a_user_who_vanishes_sends_no_fin_and_is_dropped_after_the_timeout() -> None:
    """No FIN: her gateway keeps her session until she has been silent for too long."""
    async with Cluster(gateways=1) as cluster:
        await cluster.connect("alice", wired=True)
        await cluster.vanish("alice")
        assert (await cluster.stats("gateway-01"))["connections"] == 1
        assert (await cluster.record("alice"))["gwId"] == "gateway-01"
        await until("it is noticed", lambda: "cleanup" in kinds(cluster, "gateway-01"))
        stay = next(s for s in frames.truth(cluster.trace()) if s.user == "alice")
        found = cluster.trace().query("kind == 'cleanup'").iloc[0]
        assert found["t"] > stay.end


@pytest.mark.slow
async def test_lost_heartbeats_are_lost_exactly() -> None:
    """A given number of the next ones, or each with a probability, from the seed."""
    async with Cluster(gateways=1) as cluster:
        await cluster.connect("alice")
        cluster.drop_pings("alice", following=2)
        await until("two are lost", lambda: kinds(cluster, "alice").count("drop") == 2)
        await until("the next arrives", lambda: kinds(cluster, "alice")[-1] == "pong")
        assert kinds(cluster, "alice").count("drop") == 2
        cluster.drop_pings("alice", 1.0)
        await until("all are lost", lambda: kinds(cluster, "alice").count("drop") == 4)


async def test_presence_in_redis_is_sampled_for_watched_users() -> None:
    """Leases in production milliseconds, and 0 when there is no entry."""
    async with Cluster(gateways=1) as cluster:
        cluster.watch("alice")
        await cluster.connect("alice")
        await until("she is seen", lambda: "gateway-01" in _watched(cluster))
        await cluster.disconnect("alice")
        await until("she is gone", lambda: _watched(cluster)[-1] == "")
        leases = cluster.trace().query("kind == 'pttl'")["ts_current"]
        assert 0 < leases.max() <= 90_000
        assert leases.iloc[-1] == 0


def _watched(cluster: Cluster) -> list[str]:
    return cluster.trace().query("kind == 'pttl'")["gateway"].tolist() or ["?"]


async def test_a_held_wire_to_redis_delays_a_register() -> None:
    """Nothing is lost: it goes on when the wire is released."""
    async with Cluster(gateways=2, wires=True) as cluster:
        wire = cluster.wire("gateway-01", "redis")
        wire.hold("down")
        coming = asyncio.create_task(cluster.connect("alice", to="gateway-01"))
        bob = await cluster.connect("bob", to="gateway-02")
        assert bob.gateway_id == "gateway-02" and not coming.done()
        wire.release()
        assert (await coming).gateway_id in ("gateway-01", "gateway-02")
        assert cluster.trace().query("kind == 'fault'")["reason"].tolist() == [
            "wire held",
            "wire released",
        ]


async def test_a_delayed_wire_makes_a_message_late_and_keeps_the_order() -> None:
    """Also with jitter: TCP does not reorder."""
    async with Cluster(gateways=2, wires=True) as cluster:
        alice = await cluster.connect("alice", to="gateway-01")
        bob = await cluster.connect("bob", to="gateway-02")
        quick = await alice.send("bob", "0")
        cluster.wire("gateway-01", "redis").delay(0.02, jitter_s=0.02)
        receipts = await asyncio.gather(*(alice.send("bob", str(n)) for n in range(1, 11)))
        assert min(receipt.latency_s for receipt in receipts) > quick.latency_s
        assert all(receipt.latency_s >= 0.04 for receipt in receipts), "there and back"
        said = [(await bob.receive(5)).content for _ in range(11)]
        assert said == [str(n) for n in range(11)]


async def test_a_cut_wire_of_a_user_makes_her_reconnect() -> None:
    """Cut or reset, the client dials again through the same wires."""
    async with Cluster(gateways=2) as cluster:
        alice = await cluster.connect("alice", wired=True)
        for accident in (cluster.wire("alice").cut, cluster.wire("alice").reset):
            before = alice.conn_id
            accident()
            await until("she is back", lambda: alice.conn_id != before)
        assert kinds(cluster, "alice").count("ws_close") == 2


async def test_a_redis_restarted_empty_gets_presence_from_the_gateways() -> None:
    """The laboratory's own Redis can be killed; presence is rebuilt from the gateways."""
    async with Cluster(gateways=2) as cluster:
        await cluster.connect("alice", to="gateway-01")
        await cluster.redis.stop()
        await cluster.redis.restart()

        async def known() -> bool:
            try:
                return (await cluster.record("alice")).get("gwId") == "gateway-01"
            except ConnectionError:
                return False

        await cluster.until("presence is rebuilt", known)
        assert kinds(cluster, "redis").count("crash") == 1


async def test_a_wrong_clock_is_in_the_trace() -> None:
    """And only a gateway that exists has one."""
    async with Cluster(gateways=2, policy="go-demo", clocks={"gateway-02": -10.0}) as cluster:
        one, two = cluster.clocks["gateway-01"], cluster.clocks["gateway-02"]
        assert two() - one() == pytest.approx(-10, abs=1)
        cluster.set_clock("gateway-02", 5)
        assert two() - one() == pytest.approx(5, abs=1)
        told = cluster.trace().dropna(subset="clock_error_s")
        assert list(zip(told["gateway"], told["clock_error_s"], strict=True)) == [("gateway-02", 5)]
        with pytest.raises(ValueError, match="there is no gateway"):
            cluster.set_clock("gateway-07", 1)
    with pytest.raises(ValueError, match="there is no gateway 'gateway-07'"):
        Cluster(gateways=2, clocks={"gateway-07": 1})


@pytest.mark.slow
async def test_a_crowd_talks_and_moves_and_every_message_is_accounted_for() -> None:
    """Each sent message has an outcome; each routed or delivered one was received."""
    async with Cluster(gateways=3) as cluster:
        await cluster.connect_many(60)
        life = await cluster.live(60, talk_every_s=10)
        assert sum(life.sent.values()) > 100
        arrived = life.sent["routed"]
        assert arrived == sum(life.sent.values()) >= life.received >= arrived - 60
        moved = await cluster.live(30, hop_every_s=20)
        assert moved.moves > 20 and moved.moves_failed == 0
        for name, client in cluster.users.items():
            assert (await cluster.record(name))["gwId"] == client.gateway_id


async def test_impossible_accidents_are_refused_with_a_reason() -> None:
    """A typing error is an error, before anything is done."""
    async with Cluster(gateways=1) as cluster:
        with pytest.raises(ValueError, match="it takes Lab"):
            cluster.wire("gateway-01", "redis")
        with pytest.raises(ValueError, match="wired=True"):
            cluster.wire("alice")
        with pytest.raises(ValueError, match="there is no gateway"):
            await cluster.crash("gateway-09")
        with pytest.raises(ValueError, match="there is no user 'alice'"):
            await cluster.vanish("alice")
        with pytest.raises(ValueError, match="probability"):
            await cluster.connect("alice", drop_pings=2)
        with pytest.raises(ValueError, match="positive"):
            await cluster.live(-1, talk_every_s=1)
        assert Kind.CRASH not in {event.kind for event in cluster.recorder.events}
