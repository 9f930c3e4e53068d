"""Redis of several servers: does a cell break and heal a cluster and a Sentinel trio, and do the
laboratory's tables stay true meanwhile?

One cluster for the whole module: a start takes two seconds.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from redis.asyncio.sentinel import MasterNotFoundError

from wsdemo.events import Kind
from wsdemo.features import RoomSettings
from wsdemo.lab import Lab
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.cluster.entries import once_named
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.handles import User
from wsdemo.protocol import Status

pytestmark = [pytest.mark.xdist_group("clock"), pytest.mark.timeout(120)]

USERS = 12


@pytest.fixture(scope="module")
def whole() -> Iterator[Lab]:
    """A lab on a cluster of three primaries with a replica each."""
    with Lab(gateways=2, redis="cluster", replicas=1, scale=15) as lab:
        yield lab
    assert lab.leaks() == []


@pytest.fixture
def lab(whole: Lab) -> Iterator[Lab]:
    """The same, with twelve users; afterwards without them, and whole again."""
    whole.connect_many(USERS)
    yield whole
    whole.redis.heal()
    for user in list(whole.users.values()):
        user.disconnect()


def present(lab: Lab) -> set[str]:
    """The users that Redis knows, where it answers."""
    return {name for name, entry in lab.entries().items() if entry.get("gwId")}


def all_present(lab: Lab) -> bool:
    return len(present(lab)) == len(lab.users)


def by_server(lab: Lab) -> dict[int, list[User]]:
    """Users by the server that has their entries."""
    found: dict[int, list[User]] = {}
    for name, number in lab.redis.servers_of(*lab.users).items():
        found.setdefault(number, []).append(lab.users[name])
    return found


def test_each_user_is_found_at_the_server_of_the_bucket(lab: Lab) -> None:
    """`entries`, `record` and `where` ask the right primary; the buckets are divided into three."""
    assert present(lab) == set(lab.users)
    for name, user in lab.users.items():
        assert lab.record(name)["gwId"] == user.gateway
    where = lab.where()
    assert (where["socket"] == where["Redis says"]).all()
    assert set(by_server(lab)) <= {0, 1, 2} and lab.redis.primaries == [0, 1, 2]
    assert sorted(b for n in range(3) for b in lab.redis.buckets_of(n)) == list(range(64))


def test_a_message_crosses_and_leaves_a_trace_as_on_one_server(lab: Lab) -> None:
    """In through one gateway, through Redis in one step, out through the other."""
    sender, *rest = lab.users.values()
    other = next(user for user in rest if user.gateway != sender.gateway)
    receipt = sender.send(other.name, "hello")
    assert other.receive().content == "hello"
    assert lab.hops(receipt)["to"].tolist() == [sender.gateway, "redis", other.gateway, other.name]


def test_the_death_of_one_primary_concerns_its_own_users_only(lab: Lab) -> None:
    """The others are found, and messages for them go through; afterwards a replica has taken over,
    and everybody is there again.
    """
    theirs = by_server(lab)
    number = max(theirs, key=lambda n: len(theirs[n]))
    rest = {user.name for n, users in theirs.items() if n != number for user in users}
    lab.redis.kill(number)
    assert present(lab) == rest
    lost = theirs[number][0].name
    where = lab.where()
    assert where.loc[lost, "Redis says"] == "(no answer)"
    sender = lab.users[min(rest)]
    other = next(lab.users[name] for name in sorted(rest) if lab.users[name] != sender)
    assert sender.send(other.name, "as ever").status is Status.ROUTED
    lab.wait_until("a replica is the primary", lambda: len(lab.redis.primaries) == 3)
    assert number not in lab.redis.primaries
    lab.wait_until("everybody is back", lambda: all_present(lab))
    reasons = set(lab.trace().query("lane == 'redis'")["reason"])
    assert f"server {number} killed" in reasons


def test_a_planned_failover_keeps_every_entry(lab: Lab) -> None:
    """The replica has all entries when it takes over."""
    number = lab.redis.primaries[0]
    replica = lab.redis.fail_over(number)
    assert number not in lab.redis.primaries and replica in lab.redis.primaries
    assert all_present(lab)


def test_a_frozen_server_answers_when_it_is_revived(lab: Lab) -> None:
    """For so short a time nobody is elected in its place."""
    number, users = next(iter(by_server(lab).items()))
    lab.redis.pause(number)
    assert lab.cluster.redis.frozen and users[0].name not in present(lab)
    lab.redis.revive(number)
    lab.wait_until("everybody is there", lambda: all_present(lab))
    assert not lab.cluster.redis.frozen


def test_buckets_move_with_their_users(lab: Lab) -> None:
    """After a move, the other server has the user."""
    name = next(iter(lab.users))
    here = lab.redis.server_of(name)
    target = next(n for n in lab.redis.primaries if n != here)
    bucket = lab.cluster.keyspace.bucket(name)
    lab.redis.move(bucket, to=target)
    assert lab.redis.server_of(name) == target
    assert bucket in lab.redis.buckets_of(target)
    lab.wait_until("she is there", lambda: name in present(lab))
    lab.redis.move([bucket], to=here)


def test_leases_are_sampled_on_all_servers(lab: Lab) -> None:
    """`watch` takes users of any server."""
    one_of_each = [users[0].name for users in by_server(lab).values()]
    lab.watch(*one_of_each)

    def sampled() -> bool:
        trace = lab.trace()
        return set(one_of_each) <= set(trace[trace["kind"] == "pttl"]["user"])

    lab.wait_until("each was sampled", sampled)


def test_what_a_cluster_cannot_do_is_refused_in_one_sentence(lab: Lab) -> None:
    """Each refusal says what to do instead."""
    redis = lab.redis
    verbs: dict[str, Callable[[], object]] = {
        "lab.redis.kill(1)": redis.stop,
        ".pause(1)": redis.freeze,
        ".revive(1)": redis.restart,
        "there is no server 9": lambda: redis.kill(9),
        "from 0 to 5": redis.kill,
        "a bucket is a number from 0 to 63": lambda: redis.move(64, to=0),
        'in Lab(redis="sentinel") only': redis.stop_replication,
        'for "sentinel"': lambda: redis.fail_over(0, how="plain"),
        "a Redis of one server": lab.classroom,
        "past any wire": lambda: Lab(redis="cluster", wires=True),
        "the product's own": lambda: Lab(redis="cluster", policy="plain"),
        "no cluster but its own": lambda: Lab(redis="redis+cluster://127.0.0.1:7000"),
        "InboxSettings(trust_redis=True)": lambda: Lab(redis="cluster", durable=True),
        "RoomSettings(trust_redis=True)": lambda: Lab(
            redis="cluster", rooms=RoomSettings(room_history=5)
        ),
        "0 to 2 replicas": lambda: Lab(redis="cluster", replicas=3),
        "1 to 2 replicas": lambda: Lab(redis="sentinel", replicas=0),
        'Lab(redis="sentinel")': lambda: Lab(replicas=1),
    }
    for said, verb in verbs.items():
        with pytest.raises(LabRefused) as refused:
            verb()
        assert said in str(refused.value) and "\n" not in str(refused.value)
    assert lab.health("gateway-01")


def test_a_primary_under_sentinel_is_replaced_and_nothing_is_left_behind() -> None:
    """Killed, it comes back as a replica; frozen at the end, it ends with the lab."""
    with Lab(gateways=2, redis="sentinel", scale=15) as lab:
        lab.connect_many(6)
        assert lab.redis.call(0, "ROLE")[0] == b"master"
        assert lab.redis.kill() == 0
        lab.wait_until("the replica is the primary", lambda: lab.redis.primaries == [1])
        lab.wait_until("everybody is back", lambda: all_present(lab))
        lab.redis.revive(0)
        lab.redis.heal()
        assert lab.redis.primaries == [1] and lab.redis.server_of("user001") == 1
        assert lab.redis.fail_over(how="coordinated") == 0
        assert all_present(lab)
        with pytest.raises(LabRefused, match="way to fail over"):
            lab.redis.fail_over(how="by hand")
        with pytest.raises(LabRefused, match="server 1 is not the primary"):
            lab.redis.fail_over(1)
        lab.redis.pause()
    assert lab.leaks() == []


async def test_entries_are_read_once_sentinels_name_a_primary() -> None:
    """During a failover they name none: a cell waits for the next one, but not for ever."""
    asked: list[int] = []

    async def ask() -> str:
        asked.append(len(asked))
        if len(asked) < 3:
            raise MasterNotFoundError("nobody")
        return "the entries"

    assert await once_named(ask) == "the entries" and len(asked) == 3

    async def never() -> str:
        raise MasterNotFoundError("nobody")

    with pytest.raises(MasterNotFoundError):
        await once_named(never, within_s=0.2)


def test_one_server_has_no_server_to_choose() -> None:
    """A lab as usual refuses the verbs for several servers. At its end a frozen Redis goes on, so
    that users are released.
    """
    with Lab(gateways=1) as lab:
        for verb in (lab.redis.kill, lab.redis.pause, lab.redis.heal):
            with pytest.raises(LabRefused, match="one server"):
                verb()
        with pytest.raises(LabRefused, match="only a replica can take over"):
            lab.redis.fail_over()
        with pytest.raises(LabRefused, match="only a cluster divides"):
            lab.redis.move(1, to=0)
        assert lab.redis.primaries == [0] and lab.redis.server_of("alice") == 0
        lab.connect("alice")
        lab.redis.freeze()
    assert Kind.PRESENCE_DEL in {event.kind for event in lab.cluster.recorder.events}
    assert lab.leaks() == []


async def test_a_start_that_is_interrupted_leaves_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread starts the servers, and cannot be interrupted; what it has started is stopped."""
    begun, goes_on, stopped = threading.Event(), threading.Event(), threading.Event()

    def slowly(*_: object) -> SimpleNamespace:
        begun.set()
        goes_on.wait(10)
        return SimpleNamespace(stop=stopped.set)

    monkeypatch.setattr("wsdemo.lab.cluster.cluster.start_backend", slowly)
    starting = asyncio.create_task(Cluster(redis="sentinel").start())
    await asyncio.to_thread(begun.wait, 10)
    starting.cancel()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert stopped.is_set()
