"""Simulation: does a gateway hear every message once, whatever the servers of a cluster do?

The real link and the real ears on a fake cluster (`fake_cluster`), in virtual time, so a run of a
minute takes a part of a second, and a seed says all of it. Slots move back and forth, at once and
key by key; servers are lost, frozen, replaced by others; maps are old, answers late. It lives here,
and not in the simulation of `wsdemo.proof`, because its servers are reached by a back door of the
connections. What becomes of the commands alone is in `test_cluster_link`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.examples import seeds
from tests.redis.fake_cluster import (
    LATENCY_S,
    FakeCluster,
    FakeEars,
    FakeLink,
    FakeNode,
    Sender,
    simulate,
)
from wsdemo.redis.link import LinkBusy, LinkDown, LinkTimeout
from wsdemo.redis.slots import slot_of
from wsdemo.settings import Limits

TAGS = "abcd"
KEYS = [f"{{{tag}}}{n}" for tag in TAGS for n in (1, 2)]
CHANNELS = {slot_of(f"{{{tag}}}"): f"gateway:{{{tag}}}:g" for tag in TAGS}
LIMITS = Limits(redis_timeout_s=2.0)
STEPS = 150
LATE_S = 0.03
"""How long bytes are on their way when they are late."""
VERY_LATE_S = 1.0
"""How long a message of the bus is on its way when the network has held it."""
ANSWERED_S = 2 * LIMITS.redis_timeout_s + 0.1
"""A command has its outcome by then. One that is sent again waits behind younger ones, and is given
up with them; what is executed is executed before its own deadline all the same."""
SETTLED_S = 10.0
"""After the last accident, all is as it should be by then."""


class Hall:
    """One who sends, one who hears, and the cluster between them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.cluster = FakeCluster(KEYS)
        self.cluster.channels = {slot: name.encode() for slot, name in CHANNELS.items()}
        self.link = FakeLink(self.cluster, LIMITS, seed)
        self.link.keep_deadlines()
        self.sender = Sender(self.link)
        self.map = FakeLink(self.cluster, LIMITS, seed + 1)
        self.messages: set[int] = set()
        """The numbers of the commands that publish something."""
        self.heard: list[int] = []
        self.gaps: Counter[str] = Counter()
        self.ears = FakeEars(
            self.map,
            LIMITS,
            list(CHANNELS.values()),
            "broadcast",
            lambda channel, content: self.heard.append(int(content.strip(b"{}"))),
            lambda channel: self.gaps.update([channel]),
            rng=random.Random(seed + 2),
        )

    def say(self) -> None:
        """Send a message to somebody, or a command with two keys."""
        key = self.rng.choice(KEYS)
        if self.rng.random() < 0.85:
            self.messages.add(self.sender.route(key))
        else:
            self.sender.push(f"{key[:-1]}1", f"{key[:-1]}2")

    def places(self) -> dict[bytes, list[str]]:
        """Return on which servers each channel is subscribed to, as the servers have it."""
        return {
            name: [
                node.address
                for node in self.cluster.nodes.values()
                for transport in node.transports
                if name in transport.channels
            ]
            for name in self.cluster.channels.values()
        }

    def owners(self) -> dict[bytes, list[str]]:
        """Return where each channel should be."""
        owner = self.cluster.owner
        return {name: [owner(slot).address] for slot, name in self.cluster.channels.items()}

    @property
    def is_settled(self) -> bool:
        """Whether each command has its outcome, and each channel is where it should be."""
        return self.sender.all_told and not self.ears.deaf and self.places() == self.owners()

    async def settle(self) -> None:
        """Heal the cluster, and wait."""
        self.cluster.heal()
        async with asyncio.timeout(SETTLED_S):
            while not self.is_settled:
                await asyncio.sleep(0.01)
        await asyncio.sleep(4 * LATE_S)  # Whatever is still under way comes.


@asynccontextmanager
async def hall(seed: int) -> AsyncIterator[Hall]:
    """A hall with everybody in it."""
    made = Hall(seed)
    await made.link.start()
    await made.map.start()
    await made.ears.start()
    try:
        yield made
    finally:
        await made.ears.stop()
        await made.map.stop()
        await made.link.stop()


def something_happens(it: Hall) -> None:
    """One accident, or one step of a move; and who hears of it."""
    cluster, rng = it.cluster, it.rng
    node, slot = rng.choice(list(cluster.nodes.values())), rng.choice(cluster.slots)
    owner = cluster.owner(slot)
    kind = rng.choice(
        [
            "give",
            "give",
            "give",
            "start",
            "key",
            "finish",
            "down",
            "cut",
            "freeze",
            "promote",
            "die",
        ]
    )
    if kind == "give" and node.alive and node is not owner:
        cluster.give(slot, node, heard_by=[owner] if is_awake(owner) and rng.random() < 0.7 else [])
    elif kind == "start" and slot not in cluster.moving and node is not owner:
        cluster.moving[slot] = (owner.address, node.address)
    elif kind == "key" and cluster.moving:
        moving = rng.choice(list(cluster.moving))
        key = rng.choice([key for key in cluster.keys if slot_of(key) == moving])
        cluster.at[key] = cluster.moving[moving][1]
    elif kind == "finish" and slot in cluster.moving:
        target = cluster.nodes[cluster.moving[slot][1]]
        cluster.give(slot, target, heard_by=[owner] if is_awake(owner) else [])
    elif kind == "down":
        codes = ("CLUSTERDOWN the cluster is down", "LOADING it loads", "")
        node.refuses = rng.choice(codes) if not node.refuses else ""
    elif kind == "cut":
        node.hang_up()
    elif kind == "freeze":
        node.thaw() if node.frozen else setattr(node, "frozen", True)
    elif kind == "promote" and is_awake(node) and node is not owner:
        cluster.promote(node, owner, heard_by=[owner] if is_awake(owner) else [])
    elif kind == "die":
        node.kill() if node.alive else setattr(node, "alive", True)
    if rng.random() < 0.5:
        cluster.gossip()


def is_awake(node: FakeNode) -> bool:
    return node.alive and not node.frozen


async def live(seed: int) -> None:
    """Send for some seconds while everything goes wrong; then judge."""
    async with hall(seed) as it:
        rng = it.rng
        it.cluster.latency_s = lambda: rng.choice((LATENCY_S, LATENCY_S, LATENCY_S, LATE_S))
        it.cluster.bus_s = lambda: rng.choice((LATENCY_S, LATE_S, VERY_LATE_S))
        for _ in range(STEPS):
            for _ in range(rng.randint(0, 6)):
                it.say()
            if rng.random() < 0.25:
                something_happens(it)
            await asyncio.sleep(rng.choice((0.0, LATENCY_S / 2, LATENCY_S, LATE_S, 0.2)))
        await it.settle()
        judge(it)


def judge(it: Hall) -> None:
    """What each was told is true; nothing was heard twice, and nothing out of order."""
    times, heard = Counter(number for _, number in it.cluster.executed), Counter(it.heard)
    assert it.sender.slowest_s < ANSWERED_S
    assert not [number for number, count in times.items() if count > 1], "executed twice"
    assert not [number for number, count in heard.items() if count > 1], "heard twice"
    cut_off = b"".join(reply for reply in it.cluster.cut_off if b"smessage" in reply)
    for number, outcomes in it.sender.told.items():
        assert len(outcomes) == 1, (number, outcomes)
        outcome = outcomes[0]
        if isinstance(outcome, int):
            assert times[number] == 1, number
            if number in it.messages and b"{%d}" % number not in cut_off:
                assert heard[number] == outcome, f"{number}: {outcome} heard it"
        elif not isinstance(outcome, LinkTimeout):
            assert isinstance(outcome, LinkDown | LinkBusy), outcome
            assert (times[number], heard[number]) == (0, 0), (number, outcome)
    for key in KEYS:
        judge_order(it, key)
    for channel in CHANNELS.values():
        assert it.gaps[channel] == it.ears.confirmed[channel] - 1
    assert it.cluster.twice == [], "joined before it was left"


def judge_order(it: Hall, key: str) -> None:
    """What was told is heard in the order in which it was sent."""
    told = {number for number, outcomes in it.sender.told.items() if outcomes == [1]}
    of_key = {number for other, number in it.cluster.executed if other == key}
    order = [number for number in it.heard if number in of_key & told]
    assert order == sorted(order), key


@pytest.mark.parametrize("seed", seeds(20, fast=5))
def test_whatever_happens_what_is_told_is_heard_once_and_in_order(seed: int) -> None:
    """And in the end each channel is subscribed to where its slot is, with a gap for each loss."""
    simulate(lambda: live(seed))


async def two_failovers(seed: int) -> None:
    """A server is primary for just so long that it is asked for channels."""
    async with hall(seed) as it:
        first, second, third = it.cluster.nodes.values()
        it.cluster.promote(second, first, heard_by=[first, third])
        while not any(b"SSUBSCRIBE" in data for one in second.transports for data in one.coming):
            await asyncio.sleep(LATENCY_S / 4)
        it.cluster.promote(third, second, heard_by=[first, second])
        while not any(one.channels for one in second.transports):
            await asyncio.sleep(LATENCY_S / 4)
        await asyncio.sleep(3 * LATENCY_S)  # A round trip. No look at the map is so soon.
        assert not any(one.channels for one in second.transports)
        await it.settle()
        judge(it)


@pytest.mark.parametrize("seed", seeds(3, fast=1))
def test_a_server_that_becomes_a_replica_while_it_is_asked_is_left_at_once(seed: int) -> None:
    """It lets us subscribe, and is counted by nobody: senders would be told that nobody heard."""
    simulate(lambda: two_failovers(seed))


async def moves(seed: int) -> None:
    """Send without a pause while one slot after the other moves, at once, and servers know it."""
    async with hall(seed) as it:
        nodes = list(it.cluster.nodes.values())
        for slot in it.cluster.slots * 3:
            away = it.rng.choice([node for node in nodes if node is not it.cluster.owner(slot)])
            keys = [key for key in KEYS if slot_of(key) == slot]
            for n in range(80):
                it.messages.add(it.sender.route(it.rng.choice(keys)))
                if n == 20:
                    it.cluster.give(slot, away, heard_by=nodes)
                await asyncio.sleep(LATENCY_S)
        await it.settle()
        judge(it)
        assert all(outcomes == [1] for outcomes in it.sender.told.values())
        assert set(it.gaps.values()) == {3}


@pytest.mark.parametrize("seed", seeds(5, fast=2))
def test_slots_that_move_at_once_cost_no_message(seed: int) -> None:
    """What the old server refuses waits until the subscribers have moved, too (`SETTLE_S`)."""
    simulate(lambda: moves(seed))


async def an_old_map(seed: int) -> None:
    """Move a slot, of which one server does not hear; ask all servers for their map, many times."""
    async with hall(seed) as it:
        slot, (first, _, second) = it.cluster.slots[0], it.cluster.nodes.values()
        keys = [key for key in KEYS if slot_of(key) == slot]
        it.cluster.give(slot, second, heard_by=[first])
        async with asyncio.timeout(SETTLED_S):
            while it.places() != it.owners():
                await asyncio.sleep(0.01)
        before = it.sender.sent
        for _ in range(200):
            it.messages.add(it.sender.route(it.rng.choice(keys)))
            it.map.look_soon()
            it.link.look_soon()
            await asyncio.sleep(LATE_S)
        await it.settle()
        judge(it)
        assert set(it.gaps.values()) == {1}
        assert all(it.sender.told[n] == [1] for n in range(before + 1, it.sender.sent + 1))


@pytest.mark.parametrize("seed", seeds(3, fast=1))
def test_a_server_with_an_old_map_moves_nobody(seed: int) -> None:
    """The claim of the newest configuration epoch counts, whoever is asked."""
    simulate(lambda: an_old_map(seed))
