"""A cluster without processes or sockets, on an event loop with virtual time.

It follows the rules of a Redis cluster that matter to a client: who executes a command, who refuses
it and how (MOVED, ASK, TRYAGAIN, CLUSTERDOWN), what each server believes about the others, and who
hears a sharded channel. The real `ClusterLink` and the real `ClusterEars` speak to it; only
connecting is replaced.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import hiredis

from wsdemo.proof.simulate.loop import VirtualTimeLoop
from wsdemo.redis.cluster_ears import ClusterEars, Ear
from wsdemo.redis.cluster_link import ClusterLink
from wsdemo.redis.connection import _INCOMPLETE, RedisConnection, pack_command
from wsdemo.redis.deadline import EXPIRED
from wsdemo.redis.link import LINK_ERRORS, LinkTimeout, future_reply
from wsdemo.redis.node_link import NodeLink
from wsdemo.redis.outcome import CommandError, Outcome, Trouble
from wsdemo.redis.scripts import bulk
from wsdemo.redis.slots import slot_of
from wsdemo.settings import Limits

LATENCY_S = 0.001
REFUSED = Trouble(Outcome.UNREACHABLE, "connection refused")
OK = b"+OK\r\n"
ROLE_OF_PRIMARY = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
ROLE_OF_REPLICA = b"*3\r\n$5\r\nslave\r\n:0\r\n*0\r\n"


def pushed(*words: bytes) -> bytes:
    """Return what Pub/Sub says: an array of texts."""
    return b"*%d\r\n%b" % (len(words), b"".join(map(bulk, words)))


class FakeTransport:
    """One connection to a server of the fake cluster, as the client sees it."""

    def __init__(self, node: FakeNode, client: RedisConnection) -> None:
        self.node = node
        self.client = client
        self.channels: set[bytes] = set()
        """What it is subscribed to."""
        self.asking = False
        self.is_open = True
        self._reader = hiredis.Reader()
        self._loop = asyncio.get_running_loop()
        # Timers of the same moment fire in any order; bytes must not.
        self._there: deque[bytes] = deque()
        self._back: deque[bytes] = deque()
        node.transports.append(self)

    @property
    def coming(self) -> list[bytes]:
        """What is on its way to the server."""
        return list(self._there)

    def write(self, data: bytes) -> None:
        self._there.append(data)
        self._loop.call_later(self.node.cluster.latency_s(), self._arrive)

    def _arrive(self) -> None:
        self._reader.feed(self._there.popleft())
        while (words := self._reader.gets()) is not False:
            self.node.waiting.append((self, words))
        self.node.work()

    def answer(self, reply: bytes) -> None:
        self._back.append(reply)
        self._loop.call_later(self.node.cluster.latency_s(), self._deliver)

    def _deliver(self) -> None:
        reply = self._back.popleft()
        if self.is_open:
            self.client.data_received(reply)

    def abort(self) -> None:
        if self.is_open:
            self.node.cluster.cut_off.extend(self._back)
        self.is_open = False
        if self in self.node.transports:
            self.node.transports.remove(self)


class FakeNode:
    """One server. `refuses` is what it says to every command with a key; `alive` and `frozen` are
    the states of its process.
    """

    def __init__(self, cluster: FakeCluster, address: str) -> None:
        self.cluster = cluster
        self.address = address
        self.alive = True
        self.frozen = False
        self.run = cluster.new_run()
        """The id of its process."""
        self.refuses = ""
        self.replica_of = ""
        """The address of its primary; '' when it is one itself."""
        self.successor = ""
        """Who has taken its place, which it learns with its last slot."""
        self.ahead_s = 0.0
        """How far its clock is ahead of the others."""
        self.believes: dict[int, tuple[str, int]] = {}
        """For each slot, whom it takes for the owner, and since which epoch."""
        self.transports: list[FakeTransport] = []
        self.waiting: deque[tuple[FakeTransport, list[bytes]]] = deque()
        self.heard: list[list[bytes]] = []

    def work(self) -> None:
        """Handle what has come, in its order."""
        while self.waiting and self.alive and not self.frozen:
            transport, words = self.waiting.popleft()
            self.heard.append(words)
            reply = self._reply(transport, words)
            transport.answer(reply)

    def _reply(self, transport: FakeTransport, words: list[bytes]) -> bytes:
        asking, transport.asking = transport.asking, words[0] == b"ASKING"
        if words[0] == b"CLUSTER":
            text = self.cluster.nodes_text(self).encode()
            return b"$%d\r\n%b\r\n" % (len(text), text)
        if words[0] in (b"ASKING", b"PING", b"SCRIPT"):
            return OK
        if words[0] == b"INFO":
            return bulk(b"# Server\r\nrun_id:%b\r\n" % self.run)
        if words[0] == b"TIME":
            seconds, micros = b"%d" % self.time(), b"%d" % (self.time() % 1 * 1e6)
            return b"*2\r\n%b%b" % (bulk(seconds), bulk(micros))
        if words[0] == b"ROLE":
            return ROLE_OF_REPLICA if self.replica_of else ROLE_OF_PRIMARY
        if words[0] in (b"SUBSCRIBE", b"SSUBSCRIBE", b"SUNSUBSCRIBE"):
            return self._of_channel(transport, words[0].lower(), words[1])
        origin = b""
        if words[0] in (b"TIMED", b"ROUTE"):
            *words, until_ms, origin = words
            if 1000 * self.time() > int(until_ms):
                return b"*1\r\n%b" % bulk(EXPIRED)
        return self._of_keys(words, asking, origin)

    def _of_keys(self, words: list[bytes], asking: bool, origin: bytes) -> bytes:
        """Execute `RPUSH key number`, `PAIR key key number` or `ROUTE key number`, or refuse it."""
        keys = [word.decode() for word in words[1:-1]]
        slot = slot_of(keys[0])
        if self.refuses:
            return f"-{self.refuses}\r\n".encode()
        source, target = self.cluster.moving.get(slot, ("", ""))
        owner = self.believes[slot][0]
        here = [self.cluster.at[key] == self.address for key in keys]
        if owner != self.address and not (asking and self.address == target):
            return f"-MOVED {slot} {owner}\r\n".encode()
        if self.address == source and not any(here):
            return f"-ASK {slot} {target}\r\n".encode()
        if self.address in (source, target) and not all(here) and len(keys) > 1:
            return b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
        if self.address == target:
            for key in keys:
                self.cluster.at[key] = target
        self.cluster.executed.append((" ".join(keys), int(words[-1])))
        if words[0] == b"ROUTE":
            return b":%d\r\n" % self._publish(slot, b"%b{%b}" % (origin, words[-1]))
        return b":1\r\n"

    # --- sharded Pub/Sub -----------------------------------------------------------------------

    def _of_channel(self, transport: FakeTransport, verb: bytes, channel: bytes) -> bytes:
        """Do one command of Pub/Sub. A replica lets a client subscribe, too."""
        if verb == b"sunsubscribe":
            transport.channels.discard(channel)
        elif verb == b"ssubscribe":
            slot = slot_of(channel)
            owner = self.believes[slot][0]
            if owner not in (self.address, self.replica_of):
                return f"-MOVED {slot} {owner}\r\n".encode()
            if transport in self.transports:
                self.cluster.note_subscriber(transport, channel)
        return pushed(verb, channel, b"1")

    def _publish(self, slot: int, content: bytes) -> int:
        """Send a message to the subscribers here, and by the bus to the replicas, whose subscribers
        do not count. Return how many do.
        """
        channel = self.cluster.channels[slot]
        count = self._tell(channel, content)
        for node in self.cluster.nodes.values():
            if node.follows(self):
                late_s = self.cluster.bus_s()
                asyncio.get_running_loop().call_later(late_s, node._tell, channel, content)
        return count

    def _tell(self, channel: bytes, content: bytes) -> int:
        """Send a message to the subscribers here, and return how many they are."""
        here = self._subscribers(channel) if self.alive and not self.frozen else []
        for transport in here:
            transport.answer(pushed(b"smessage", channel, content))
        return len(here)

    def follows(self, node: FakeNode) -> bool:
        """Say whether it is a replica of this server, and runs."""
        return self.replica_of == node.address and self.alive and not self.frozen

    def _subscribers(self, channel: bytes) -> list[FakeTransport]:
        return [one for one in self.transports if channel in one.channels]

    def learn(self, slot: int, claim: tuple[str, int]) -> None:
        """Hear who has a slot. When it is another server than before, subscribers of its channel
        are sent away.
        """
        before, self.believes[slot] = self.believes[slot], claim
        channel = self.cluster.channels.get(slot, b"")
        for transport in self._subscribers(channel) if before[0] != claim[0] else ():
            transport.channels.discard(channel)
            transport.answer(pushed(b"sunsubscribe", channel, b"0"))
        if self.successor and self.address not in {who for who, _ in self.believes.values()}:
            self.replica_of, self.successor = self.successor, ""

    # --- what happens to it --------------------------------------------------------------------

    def time(self) -> float:
        """Return the time on its clock, in seconds."""
        return 1e9 + self.ahead_s + asyncio.get_running_loop().time()

    def hang_up(self) -> None:
        """Lose all connections."""
        for transport in list(self.transports):
            transport.abort()
            transport.client.reset()

    def kill(self) -> None:
        """End the process: what it has not answered is gone. The next one is another run."""
        self.alive = False
        self.run = self.cluster.new_run()
        self.waiting.clear()
        self.hang_up()

    def thaw(self) -> None:
        """Go on: first with what has come meanwhile, also from connections that are gone."""
        self.frozen = False
        self.work()


class FakeNodeLink(NodeLink):
    """The link to a server of the fake cluster: the real one, but for connecting."""

    async def _dial(self) -> Trouble | None:
        self._lost.clear()
        self._hurry.clear()
        await asyncio.sleep(LATENCY_S)
        node = cast(FakeLink, self._host).cluster.nodes[self.address]
        if not node.alive:
            self._lost.set()
            return REFUSED
        self._transport = cast(asyncio.Transport, FakeTransport(node, self))
        self._reader = hiredis.Reader(
            replyError=CommandError, notEnoughData=_INCOMPLETE, protocolError=ConnectionError
        )
        self._backoff.reset()
        if self._first:
            # As the real one, it is not there before these are answered.
            asked, heard = future_reply()
            for callback, args in self._first:
                self._put(callback, None, args)
            self._put(heard, None, ("PING",))
            try:
                async with asyncio.timeout(self._limits.redis_connect_timeout_s):
                    await asked
            except (LinkTimeout, TimeoutError):
                self.reset()
                return REFUSED
        if self._keeps_time:
            self._put_time()
        return None


class FakeEar(Ear):
    """A listening connection to a server of the fake cluster: the real one, but for connecting."""

    async def _connect(self) -> Trouble | None:
        await asyncio.sleep(LATENCY_S)
        node = cast(FakeLink, self._ears._shards).cluster.nodes[self.address]
        if not node.alive:
            raise ConnectionRefusedError("connection refused")
        self._transport = cast(asyncio.Transport, FakeTransport(node, self))
        self._reader = hiredis.Reader(
            replyError=CommandError, notEnoughData=_INCOMPLETE, protocolError=ConnectionError
        )
        async with asyncio.timeout(self._limits.redis_connect_timeout_s):
            trouble = await self._greet()
        if self._lost.is_set():
            raise ConnectionError("the connection broke at once")
        return trouble


class FakeEars(ClusterEars):
    """The ears of a gateway at the fake cluster. They count what servers have confirmed."""

    _ear_type = FakeEar

    def __init__(self, *args: Any, **more: Any) -> None:
        self.confirmed: Counter[str] = Counter()
        super().__init__(*args, **more)

    def joined(self, ear: Ear, channel: bytes) -> None:
        self.confirmed[channel.decode()] += 1
        super().joined(ear, channel)


class FakeLink(ClusterLink):
    """The link to the fake cluster."""

    _node_type = FakeNodeLink

    def __init__(self, cluster: FakeCluster, limits: Limits, seed: int = 1) -> None:
        url = f"redis+cluster://{','.join(cluster.nodes)}"
        super().__init__(url, limits, rng=random.Random(seed))
        self.cluster = cluster


class FakeCluster:
    """Three servers and some keys."""

    def __init__(self, keys: Sequence[str]) -> None:
        addresses = [f"node-{n}:6379" for n in range(3)]
        self.keys = list(keys)
        self.slots = sorted({slot_of(key) for key in keys})
        self.at: dict[str, str] = dict.fromkeys(keys, addresses[0])
        """Which server has each key."""
        self.moving: dict[int, tuple[str, str]] = {}
        """Slots that move key by key: from where, and where to."""
        self.executed: list[tuple[str, int]] = []
        """What was executed, in order: its keys and its number."""
        self.channels: dict[int, bytes] = {}
        """For each slot, the sharded channel to which `ROUTE` publishes."""
        self.cut_off: list[bytes] = []
        """What servers had sent when its connection was lost."""
        self.twice: list[bytes] = []
        """Channels that were subscribed to on two connections at once."""
        self.latency_s: Callable[[], float] = lambda: LATENCY_S
        """How long bytes are on their way."""
        self.bus_s: Callable[[], float] = lambda: LATENCY_S
        """How long a message is on its way to a replica."""
        self._epoch = 3
        self._runs = 0
        self.nodes = {address: FakeNode(self, address) for address in addresses}
        for node in self.nodes.values():
            node.believes = dict.fromkeys(self.slots, (addresses[0], 1))

    def new_run(self) -> bytes:
        self._runs += 1
        return b"%08x" % self._runs

    def node(self, number: int) -> FakeNode:
        return self.nodes[f"node-{number}:6379"]

    def nodes_text(self, asked: FakeNode) -> str:
        """What CLUSTER NODES says at one server. Server 1 also has a slot without keys."""
        lines = []
        others = [slot for slot in range(3) if slot not in self.slots]
        for number, address in enumerate(self.nodes):
            mine = [s for s, (owner, _) in asked.believes.items() if owner == address]
            epoch = max([1 + number, *(asked.believes[s][1] for s in mine)])
            words = [*mine, others[number]] if number == 1 else mine
            slots = " ".join(str(slot) for slot in words)
            lines.append(f"{number} {address}@1 master - 0 0 {epoch} connected {slots}")
        return "\n".join(lines)

    # --- what happens to it ------------------------------------------------------------------

    def owner(self, slot: int) -> FakeNode:
        """Who really has a slot: the claim with the highest epoch."""
        claims = [node.believes[slot] for node in self.nodes.values()]
        return self.nodes[max(claims, key=lambda claim: claim[1])[0]]

    def give(self, slot: int, to: FakeNode, *, heard_by: Sequence[FakeNode] = ()) -> None:
        """Let a slot change hands at once, with its keys. The new owner knows, and `heard_by`."""
        self.moving.pop(slot, None)
        self._epoch += 1
        to.replica_of = to.successor = ""
        for key in self.keys:
            if slot_of(key) == slot:
                self.at[key] = to.address
        for node in dict.fromkeys((to, *heard_by)):
            node.learn(slot, (to.address, self._epoch))

    def promote(self, to: FakeNode, instead_of: FakeNode, *, heard_by: Sequence[FakeNode]) -> None:
        """Let a server take over all slots of another one, which follows it as soon as it knows."""
        instead_of.successor = to.address
        for slot in [slot for slot in self.slots if self.owner(slot) is instead_of]:
            self.give(slot, to, heard_by=heard_by)

    def note_subscriber(self, transport: FakeTransport, channel: bytes) -> None:
        """Subscribe a connection to a channel."""
        all_of_them = [one for node in self.nodes.values() for one in node.transports]
        if any(channel in one.channels for one in all_of_them if one is not transport):
            self.twice.append(channel)
        transport.channels.add(channel)

    def gossip(self) -> None:
        """Let every server that runs hear of the newest claims."""
        for slot in self.slots:
            newest = max((n.believes[slot] for n in self.nodes.values()), key=lambda c: c[1])
            for node in self.nodes.values():
                if node.alive and not node.frozen:
                    node.learn(slot, newest)

    def heal(self) -> None:
        """Let every server run, and know all."""
        for slot, (_, target) in list(self.moving.items()):
            self.give(slot, self.nodes[target])
        for node in self.nodes.values():
            node.refuses = ""
            node.alive = True
            node.thaw()
        self.gossip()


class Sender:
    """Sends numbered commands, and keeps what became of each."""

    def __init__(self, link: ClusterLink) -> None:
        self.link = link
        self.sent = 0
        self.told: dict[int, list[Any]] = {}
        self.slowest_s = 0.0
        """The longest that a message had to wait for its outcome."""

    def push(self, *keys: str) -> int:
        """Send one command; return its number."""
        self.sent = number = self.sent + 1
        outcome = self.told[number] = []
        verb = "RPUSH" if len(keys) == 1 else "PAIR"
        try:
            self.link.submit(outcome.append, verb, *keys, number)
        except LINK_ERRORS as problem:
            outcome.append(problem)
        return number

    def push_in_time(self, key: str) -> int:
        """Send one command with a deadline; return its number."""
        self.sent = number = self.sent + 1
        outcome = self.told[number] = []
        command = pack_command(("TIMED", key, number, "", "")).removesuffix(2 * bulk(b""))
        self.link.submit_packed(outcome.append, command, in_time=True)
        return number

    def route(self, key: str) -> int:
        """Send one message to the subscribers of the slot of a key; return its number."""
        self.sent = number = self.sent + 1
        outcome = self.told[number] = []
        loop = asyncio.get_running_loop()
        sent_at = loop.time()

        def told(reply: Any) -> None:
            outcome.append(self.link.in_time(reply))
            self.slowest_s = max(self.slowest_s, loop.time() - sent_at)

        command = pack_command(("ROUTE", key, number, "", "")).removesuffix(2 * bulk(b""))
        try:
            self.link.submit_packed(told, command, in_time=True)
        except LINK_ERRORS as problem:
            outcome.append(problem)
        return number

    @property
    def all_told(self) -> bool:
        return all(self.told.values())


def simulate(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run something on a loop of its own, whose time jumps to the next timer."""
    loop = VirtualTimeLoop()
    problems: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    try:
        loop.run_until_complete(asyncio.wait_for(work(), 600))
    finally:
        loop.close()
    assert not problems, problems
