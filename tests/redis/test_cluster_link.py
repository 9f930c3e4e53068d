"""Does every command of a cluster find its server, once and in order, or an honest failure?

On a fake cluster (`fake_cluster`), in virtual time. What a real cluster does is in
`test_cluster_link_real`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.examples import seeds
from tests.redis.fake_cluster import LATENCY_S, FakeCluster, FakeLink, FakeNode, Sender, simulate
from wsdemo.redis.cluster_link import ClusterLink, first_key, key_of
from wsdemo.redis.connection import pack_command
from wsdemo.redis.interface import Link
from wsdemo.redis.lanes import PAUSE_S, SETTLE_S
from wsdemo.redis.link import LinkBusy, LinkDown, LinkTimeout, RedisLink
from wsdemo.redis.scripts import Script
from wsdemo.redis.slots import slot_of
from wsdemo.settings import Limits

ONE = ("{a}1", "{a}2", "{a}3")
TWO = ("{b}1", "{b}2")
SLOT = slot_of(ONE[0])
LIMITS = Limits(redis_timeout_s=2.0)


class World:
    """A fake cluster, the link to it, and who sends."""

    def __init__(self, limits: Limits = LIMITS, seed: int = 1) -> None:
        self.cluster = FakeCluster([*ONE, *TWO])
        self.link = FakeLink(self.cluster, limits, seed)
        self.sender = Sender(self.link)

    async def settled(self) -> None:
        """Wait until every command has its outcome."""
        async with asyncio.timeout(60):
            while not self.sender.all_told or self.link.pending:
                await asyncio.sleep(0.01)

    def executed(self, key: str) -> list[int]:
        return [number for other, number in self.cluster.executed if other == key]


@asynccontextmanager
async def world(limits: Limits = LIMITS, seed: int = 1) -> AsyncIterator[World]:
    """A world whose link is connected."""
    made = World(limits, seed)
    await made.link.start()
    try:
        yield made
    finally:
        await made.link.stop()


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test of a coroutine function that runs on a loop with virtual time."""

    def run() -> None:
        simulate(test)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def moved(world: World, to: FakeNode) -> None:
    """Let the slot move, so that the old owner and the new one know it, and not the third."""
    world.cluster.give(SLOT, to, heard_by=[world.cluster.owner(SLOT)])


# --- one refusal ----------------------------------------------------------------------------------


@in_virtual_time
async def test_a_command_goes_to_the_owner_of_its_slot() -> None:
    """And the others hear nothing of it."""
    async with world() as it:
        number = it.sender.push(ONE[0])
        await it.settled()
        assert it.sender.told[number] == [1]
        assert it.executed(ONE[0]) == [number]
        assert all(words[0] == b"CLUSTER" for words in it.cluster.node(1).heard)


@in_virtual_time
async def test_a_slot_that_moves_in_the_middle_of_a_pipeline_keeps_its_order() -> None:
    """All are executed, once, in the order in which they were sent; also what is sent meanwhile."""
    async with world() as it:
        before = [it.sender.push(ONE[0]) for _ in range(20)]
        await asyncio.sleep(LATENCY_S * 1.5)
        after = [it.sender.push(ONE[0]) for _ in range(20)]
        moved(it, it.cluster.node(1))
        await asyncio.sleep(LATENCY_S * 2.1)
        meanwhile = [it.sender.push(ONE[0]) for _ in range(20)]
        await it.settled()
        assert it.executed(ONE[0]) == before + after + meanwhile
        assert it.link.lanes.refusals["MOVED"] == 20
        assert not it.link.lanes.open


@in_virtual_time
async def test_what_was_moved_is_sent_again_after_the_subscribers_have_moved_too() -> None:
    """Not at once: the channels of the slot have no subscriber at the new owner yet."""
    async with world() as it:
        loop = asyncio.get_running_loop()
        moved(it, it.cluster.node(1))
        it.sender.push(ONE[0])
        started = loop.time()
        await it.settled()
        assert loop.time() - started > 0.8 * SETTLE_S


@in_virtual_time
async def test_a_key_that_has_moved_ahead_of_its_slot_is_asked_for_where_it_is() -> None:
    """ASKING and the command, together, at the new owner; the other keys stay at the old one."""
    async with world() as it:
        source, target = it.cluster.node(0), it.cluster.node(1)
        it.cluster.moving[SLOT] = (source.address, target.address)
        it.cluster.at[ONE[0]] = target.address
        numbers = [it.sender.push(key) for key in (*ONE, *ONE)]
        await it.settled()
        assert [it.sender.told[number] for number in numbers] == [[1]] * 6
        heard = [words[0] for words in target.heard if words[0] != b"CLUSTER"]
        assert heard == [b"ASKING", b"RPUSH"] * 2
        assert it.executed(ONE[0]) == [numbers[0], numbers[3]]
        assert it.link.owner(SLOT) == source.address


@in_virtual_time
async def test_keys_on_two_servers_are_tried_again_until_they_are_together() -> None:
    """TRYAGAIN says that nothing was executed."""
    async with world() as it:
        source, target = it.cluster.node(0), it.cluster.node(1)
        it.cluster.moving[SLOT] = (source.address, target.address)
        it.cluster.at[ONE[0]] = target.address
        number = it.sender.push(ONE[0], ONE[1])
        await asyncio.sleep(10 * PAUSE_S)
        assert it.sender.told[number] == []
        it.cluster.at[ONE[1]] = target.address
        await it.settled()
        assert it.sender.told[number] == [1]
        assert it.link.lanes.refusals["TRYAGAIN"] > 3


@pytest.mark.parametrize(
    "refusal",
    [
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "LOADING Valkey is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down",
        "READONLY You can't write against a read only replica.",
    ],
)
def test_what_no_server_takes_before_its_deadline_fails_as_not_sent(refusal: str) -> None:
    """`LinkDown`, not `CommandError`: the command is right, and its user must not be closed."""

    async def run() -> None:
        async with world() as it:
            it.cluster.node(0).refuses = refusal
            started = asyncio.get_running_loop().time()
            number = it.sender.push(ONE[0])
            later = it.sender.push(ONE[0])
            await it.settled()
            took = asyncio.get_running_loop().time() - started
            assert isinstance(it.sender.told[number][0], LinkDown)
            assert isinstance(it.sender.told[later][0], LinkDown)
            assert refusal in str(it.sender.told[number][0])
            assert LIMITS.redis_timeout_s <= took < LIMITS.redis_timeout_s + 0.1
            assert it.cluster.executed == []

    simulate(run)


@in_virtual_time
async def test_a_refusal_of_the_commands_own_is_told_as_it_is() -> None:
    """It is no matter of the cluster."""
    async with world() as it:
        it.cluster.node(0).refuses = "WRONGTYPE Operation against a key"
        number = it.sender.push(ONE[0])
        await it.settled()
        assert "WRONGTYPE" in str(it.sender.told[number][0])
        assert it.link.open and it.link.up


@in_virtual_time
async def test_each_server_gets_a_deadline_on_its_own_clock() -> None:
    """Also a command that was refused by one server and goes to another, whose clock differs."""
    it = World()
    it.link.keep_deadlines()
    old, new = it.cluster.node(0), it.cluster.node(1)
    old.ahead_s = 1000.0
    await it.link.start()
    await asyncio.sleep(0.1)
    numbers = [it.sender.push_in_time(ONE[0]) for _ in range(5)]
    moved(it, new)
    await asyncio.sleep(LATENCY_S * 2.1)
    numbers += [it.sender.push_in_time(ONE[0]) for _ in range(5)]
    await it.settled()
    assert it.executed(ONE[0]) == numbers
    limits_ms = [int(words[3]) for words in new.heard if words[0] == b"TIMED"]
    assert len(limits_ms) == 10
    latest = 1000 * (new.time() + LIMITS.redis_timeout_s)
    assert all(latest - 200 < limit_ms <= latest for limit_ms in limits_ms)
    await it.link.stop()


# --- what must not be sent again ------------------------------------------------------------------


@in_virtual_time
async def test_what_got_no_answer_is_never_sent_again() -> None:
    """The server may have executed it. Its outcome is unknown, and it is at most once there."""
    async with world() as it:
        node = it.cluster.node(0)
        node.frozen = True
        numbers = [it.sender.push(ONE[0]) for _ in range(5)]
        await asyncio.sleep(0.1)
        node.hang_up()
        await it.settled()
        assert all(isinstance(it.sender.told[n][0], LinkTimeout) for n in numbers)
        node.thaw()
        await asyncio.sleep(5)
        assert it.executed(ONE[0]) == numbers


@in_virtual_time
async def test_a_refused_command_that_was_overtaken_fails() -> None:
    """A refusal that ends in the middle of a pipeline: sent again, it would come after the next."""
    async with world() as it:
        node = it.cluster.node(0)
        node.refuses = "CLUSTERDOWN The cluster is down"
        first = it.sender.push(ONE[0])
        await asyncio.sleep(LATENCY_S / 2)
        second = it.sender.push(ONE[0])
        await asyncio.sleep(LATENCY_S * 0.75)
        node.refuses = ""
        await it.settled()
        assert isinstance(it.sender.told[first][0], LinkDown)
        assert it.sender.told[second] == [1]
        assert it.executed(ONE[0]) == [second]
        assert it.link.lanes.overtaken == 1


@in_virtual_time
async def test_a_server_that_is_lost_while_a_lane_waits_for_it_lets_the_lane_go_on() -> None:
    """What it has not answered is unknown; what it had refused goes to the new owner."""
    async with world() as it:
        old, new = it.cluster.node(0), it.cluster.node(1)
        moved(it, new)
        refused = it.sender.push(ONE[0])
        await asyncio.sleep(LATENCY_S / 2)
        unknown = it.sender.push(ONE[0])
        await asyncio.sleep(LATENCY_S * 0.75)
        old.frozen = True  # It has refused the first, and will not see the second.
        await asyncio.sleep(LATENCY_S)
        waits = it.sender.push(ONE[0])
        assert it.link.lanes.open
        old.kill()
        await it.settled()
        assert isinstance(it.sender.told[unknown][0], LinkTimeout)
        assert it.executed(ONE[0]) == [refused, waits]


@in_virtual_time
async def test_a_new_map_lets_no_command_overtake_what_the_old_owner_has_still_to_answer() -> None:
    """The old owner will refuse it; those behind it wait for that."""
    async with world() as it:
        moved(it, it.cluster.node(1))
        await asyncio.sleep(LATENCY_S)
        early = it.sender.push(ONE[0])
        await asyncio.sleep(LATENCY_S / 2)
        it.link.moved(SLOT, it.cluster.node(1).address)  # As a subscription learns it.
        late = it.sender.push(ONE[0])
        await it.settled()
        assert it.executed(ONE[0]) == [early, late]


# --- failover -----------------------------------------------------------------------------------


@in_virtual_time
async def test_commands_for_a_dead_server_fail_at_once_and_others_do_not_notice() -> None:
    """Until another one has its slots."""
    async with world() as it:
        it.cluster.give(slot_of(TWO[0]), it.cluster.node(2))
        it.cluster.gossip()
        it.sender.push(TWO[0])
        await it.settled()
        it.cluster.node(0).kill()
        await asyncio.sleep(0.01)
        dead = it.sender.push(ONE[0])
        assert isinstance(it.sender.told[dead][0], LinkDown)
        assert it.link.up and not it.link.up_at(SLOT)
        assert it.link.down_shards == [it.cluster.node(0).address]
        alive = it.sender.push(TWO[0])
        it.cluster.give(SLOT, it.cluster.node(1))
        it.cluster.gossip()
        await asyncio.sleep(0.5)
        again = it.sender.push(ONE[0])
        await it.settled()
        assert it.sender.told[alive] == it.sender.told[again] == [1]


@in_virtual_time
async def test_a_frozen_server_is_left_as_soon_as_another_has_its_slots() -> None:
    """Long before the deadline of the commands: what it has not answered is unknown now."""
    async with world() as it:
        loop = asyncio.get_running_loop()
        old = it.cluster.node(0)
        old.frozen = True
        unknown = it.sender.push(ONE[0])
        started = loop.time()
        it.cluster.give(SLOT, it.cluster.node(1))
        it.cluster.give(slot_of(TWO[0]), it.cluster.node(1))
        it.cluster.gossip()
        while not it.sender.told[unknown]:
            await asyncio.sleep(0.01)
        assert isinstance(it.sender.told[unknown][0], LinkTimeout)
        assert loop.time() - started < LIMITS.redis_timeout_s / 2


@in_virtual_time
async def test_an_older_view_of_the_map_changes_nothing() -> None:
    """The third server has not heard of the move."""
    async with world() as it:
        it.cluster.give(SLOT, it.cluster.node(1), heard_by=[it.cluster.node(0)])
        await it.link._read_map(it.link.node_at(it.cluster.node(0).address))
        assert it.link.owner(SLOT) == it.cluster.node(1).address
        third = it.link.node_at(it.cluster.node(2).address)
        async with asyncio.timeout(1):
            while not third.open:
                await asyncio.sleep(LATENCY_S)
        await it.link._read_map(third)
        assert it.link.owner(SLOT) == it.cluster.node(1).address


@in_virtual_time
async def test_when_all_known_servers_are_gone_those_of_the_address_are_asked_again() -> None:
    """One of them may have all the slots by now, although it had none before."""
    async with world() as it:
        last = it.cluster.node(2)
        await asyncio.sleep(6)  # It has no slot, so it is not connected to any more.
        assert last.address not in {node.address for node in it.link.all_nodes()}
        for slot in it.cluster.slots:
            it.cluster.give(slot, last)
        for number in (0, 1):
            it.cluster.node(number).kill()
        await asyncio.sleep(3)
        number = it.sender.push(ONE[0])
        await it.settled()
        assert it.sender.told[number] == [1]


@in_virtual_time
async def test_a_link_without_any_server_says_so_and_comes_back_by_itself() -> None:
    """As soon as one of them is there."""
    async with world() as it:
        for node in it.cluster.nodes.values():
            node.kill()
        await asyncio.sleep(3)
        assert not it.link.open and it.link.trouble is not None
        it.cluster.heal()
        await asyncio.sleep(3)
        number = it.sender.push(ONE[0])
        await it.settled()
        assert it.sender.told[number] == [1]


@in_virtual_time
async def test_the_commands_that_wait_in_lanes_are_bounded() -> None:
    """The next one is refused, and was not sent."""
    limits = Limits(redis_timeout_s=2.0, redis_max_pending=10)
    async with world(limits) as it:
        it.cluster.node(0).refuses = "CLUSTERDOWN The cluster is down"
        it.sender.push(ONE[0])
        await asyncio.sleep(0.1)
        numbers = [it.sender.push(ONE[0]) for _ in range(15)]
        full = [n for n in numbers if it.sender.told[n]]
        assert full == numbers[9:]
        assert all(isinstance(it.sender.told[n][0], LinkBusy) for n in full)
        await it.settled()
        assert it.link.lanes.waiting == 0


@in_virtual_time
async def test_a_link_that_is_stopped_leaves_no_command_without_an_outcome() -> None:
    """Those in lanes were not executed; those under way may have been."""
    async with world() as it:
        it.cluster.node(0).refuses = "CLUSTERDOWN The cluster is down"
        lane = it.sender.push(ONE[0])
        await asyncio.sleep(0.1)
        await it.link.stop()
        assert isinstance(it.sender.told[lane][0], LinkDown)


# --- everything at once ---------------------------------------------------------------------------


def something_happens(it: World, rng: random.Random) -> None:
    """One accident, or one step of a move."""
    cluster = it.cluster
    node, slot = rng.choice(list(cluster.nodes.values())), rng.choice(cluster.slots)
    owner = cluster.owner(slot)
    kind = rng.choice(["give", "give", "start", "key", "key", "finish", "down", "cut", "freeze"])
    if kind == "give" and node.alive and node is not owner:
        cluster.give(slot, node, heard_by=[owner] if rng.random() < 0.7 else [])
    elif kind == "start" and slot not in cluster.moving and node is not owner:
        cluster.moving[slot] = (owner.address, node.address)
    elif kind == "key" and cluster.moving:
        moving = rng.choice(list(cluster.moving))
        key = rng.choice([key for key in cluster.keys if slot_of(key) == moving])
        cluster.at[key] = cluster.moving[moving][1]
    elif kind == "finish" and slot in cluster.moving:
        target = cluster.nodes[cluster.moving[slot][1]]
        cluster.give(slot, target, heard_by=[owner])
    elif kind == "down":
        codes = ("CLUSTERDOWN the cluster is down", "LOADING it loads", "")
        node.refuses = rng.choice(codes) if not node.refuses else ""
    elif kind == "cut":
        node.hang_up()
    elif kind == "freeze":
        node.thaw() if node.frozen else setattr(node, "frozen", True)
    if rng.random() < 0.5:
        cluster.gossip()


async def live(seed: int) -> None:
    """Send for some seconds while everything goes wrong; then judge."""
    rng = random.Random(seed)
    async with world(seed=seed) as it:
        for _ in range(150):
            for _ in range(rng.randint(0, 6)):
                keys = rng.choice((ONE, TWO))
                it.sender.push(*rng.sample(keys, 1 if rng.random() < 0.8 else 2))
            if rng.random() < 0.25:
                something_happens(it, rng)
            await asyncio.sleep(rng.choice((0.0, LATENCY_S / 2, LATENCY_S, 0.02, 0.2)))
        it.cluster.heal()
        await it.settled()
        judge(it)
        await asyncio.sleep(3)
        last = it.sender.push(ONE[0])
        await it.settled()
        assert it.sender.told[last] == [1]
        assert not it.link.lanes.open and it.link.lanes.waiting == 0


def judge(it: World) -> None:
    """Told done means executed once; told `LinkDown` or `LinkBusy`, never; and the order holds."""
    times = Counter(number for _, number in it.cluster.executed)
    done = set()
    for number, outcomes in it.sender.told.items():
        assert len(outcomes) == 1, (number, outcomes)
        if outcomes[0] == 1:
            done.add(number)
            assert times[number] == 1, number
        elif isinstance(outcomes[0], LinkTimeout):
            assert times[number] <= 1, number
        else:
            assert isinstance(outcomes[0], LinkDown | LinkBusy), outcomes
            assert times[number] == 0, (number, outcomes)
    for keys in {keys for keys, _ in it.cluster.executed}:
        order = [number for number in it.executed(keys) if number in done]
        assert order == sorted(order), keys


@pytest.mark.parametrize("seed", seeds(60, fast=15))
def test_whatever_happens_each_command_is_executed_once_in_order_or_fails(seed: int) -> None:
    """Moves of both kinds, failovers, frozen servers, lost connections, stale maps."""
    simulate(lambda: live(seed))


# --- reading commands ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("HMGET", "user", "field"), "user"),
        (("SPUBLISH", "channel", "text"), "channel"),
        (("EVALSHA", "0" * 40, 2, "one", "two", "more"), "one"),
        (("EVAL", "return 1", 0, "no key"), None),
        (("PING",), None),
        (("INFO", "server"), None),
        (("PUBLISH", "channel", "text"), None),
        (("SET", 7, "x"), "7"),
    ],
)
def test_the_key_of_a_command_is_found_in_its_words_and_in_its_bytes(
    words: tuple[str | int, ...], key: str | None
) -> None:
    """The bytes are what is sent for each message."""
    assert key_of(words) == key
    if key is not None:
        assert first_key(pack_command(words)) == key.encode()


def test_the_key_of_a_packed_script_is_found() -> None:
    """As the router begins it."""
    script = Script("name", "return 1")
    start = script.command_start(keys=1, args=1)
    assert first_key(b"%b$5\r\nal\r\ne\r\n$1\r\nx\r\n" % start) == b"al\r\ne"


def test_both_links_are_used_in_the_same_way() -> None:
    """The type checker compares them; here, that both have all names."""
    links: list[type[Link]] = [RedisLink, ClusterLink]
    names = [name for name in vars(Link) if not name.startswith("_")]
    assert all(hasattr(link, name) for link in links for name in names if name not in _ATTRIBUTES)


_ATTRIBUTES = {"open", "up", "trouble", "away_s", "timeouts", "expired"}
