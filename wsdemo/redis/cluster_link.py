"""Cluster link: how does a command find its server in a cluster, and its reply come back?

One auto-pipelined connection for each primary (`node_link`), and a map that says which primary has
which slot (`slots`). It is used as the link to one server is (`interface.Link`).

A command belongs to the slot of its first key. What a server refuses because the slot is elsewhere,
or is nowhere for a moment, is sent again in its order (`lanes`). What got no answer is never sent
again: it may have been executed.

The map is asked for with CLUSTER NODES, which says the configuration epoch of each claim (CLUSTER
SLOTS does not): every few seconds, and up to ten times a second while something is amiss.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from wsdemo.addresses import HostPort, RedisAddress
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.connection import pack_command as _pack
from wsdemo.redis.deadline import EXPIRED
from wsdemo.redis.lanes import LaneNode, Lanes, Parcel
from wsdemo.redis.link import (
    LINK_ERRORS,
    Arg,
    Callback,
    LinkDown,
    LinkTimeout,
    Trial,
    future_reply,
    packed,
    packed_in_time,
)
from wsdemo.redis.node_link import NodeLink, Sendable, note_of
from wsdemo.redis.outcome import Outcome, Trouble
from wsdemo.redis.scripts import Script
from wsdemo.redis.slots import SlotMap, claims, slot_of
from wsdemo.settings import Limits
from wsdemo.tasks import end

LOOK_S: Final = 0.1
"""Between two looks at the map while something is amiss."""
LOOK_IDLE_S: Final = 5.0
"""Between two looks at the map while all is well."""
SLOW_S: Final = 0.5
"""A reply that takes longer is a reason to look at the map, long before the command is given up."""
SCAN_NODES: Final = 1024
"""A cursor of SCAN over all primaries is that of one primary, times this, plus its number."""
NO_MAP: Final = Trouble(Outcome.UNREACHABLE, "the map of the cluster is not known")
AWAY: Final = "no connection to the server that has this slot"
NO_KEY: Final = frozenset(
    {"CLIENT", "CONFIG", "DBSIZE", "ECHO", "INFO", "PING", "PUBLISH", "PUBSUB", "ROLE", "TIME"}
)
"""Commands without a key: any server may answer them."""
_BY_SCRIPT: Final = frozenset({"EVAL", "EVALSHA"})


class ClusterLink:
    """The command connections of one gateway to a cluster (a `Link`).

    Commands without a key (PING, TIME, INFO, CONFIG, PUBLISH, PUBSUB ...) go to one server, any
    that is there. SCAN goes over all primaries in turn; a key that moves meanwhile may be seen
    twice, or not at all.

    Args:
        url: a `redis+cluster://` address; one of the servers that it names must answer.
        on_state: called with True whenever a primary is there again, with False when none is left.
        scripts: loaded on each new connection, so that EVALSHA finds them.
        trials: by slot, what the primary of that slot must accept.
        on_trouble: called when a primary cannot be used, with the reason.
        on_shard: called with the address of a server that is there (True), or no longer (False).
        rng: source of the jitter.
    """

    added_args = NodeLink.added_args
    _node_type: type[NodeLink] = NodeLink
    """What is made for each server; tests have another."""

    def __init__(
        self,
        url: str,
        limits: Limits,
        on_state: Callable[[bool], None] = lambda up: None,
        scripts: Iterable[Script] = (),
        *,
        trials: dict[int, Trial] | None = None,
        on_trouble: Callable[[Trouble], None] = lambda trouble: None,
        on_shard: Callable[[str, bool], None] = lambda address, up: None,
        rng: random.Random | None = None,
    ) -> None:
        self._address = RedisAddress.parse(url)
        self._limits = limits
        self._on_state = on_state
        self._on_trouble = on_trouble
        self._on_shard = on_shard
        self._scripts = list(scripts)
        self._first: list[tuple[Callback, tuple[Arg, ...]]] = []
        self._keeps_time = False
        self._trials = dict(trials or {})
        self._rng = rng or random.Random()
        self._map = SlotMap()
        self._owners = self._map.owners
        self._numbers = 0
        self._nodes: dict[str, NodeLink] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._look: asyncio.Event = asyncio.Event()
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._told: list[Callable[[], None]] = []
        self._timeouts_before = 0
        self.lanes = Lanes(self, _LoopTimer(), limits.redis_max_pending, self._rng)
        self.away_s = 0.0
        """How long the last primary that came back was away."""
        self.expired = 0
        """How many commands came to a server too late, and were not executed."""
        self.looks = 0
        """How many views of the map were read."""

    # --- life --------------------------------------------------------------------------------

    def load(self, scripts: Iterable[Script]) -> None:
        """Load these scripts as well on each new connection. Call it before `start`."""
        self._scripts.extend(scripts)

    def ask_first(self, callback: Callback, *args: Arg) -> None:
        """Send a command on each new connection, to each server, before it is up. Call it before
        `start`.
        """
        self._first.append((callback, args))

    def keep_deadlines(self) -> None:
        """Ask each server for its clock, so that commands with a deadline expire; see `RedisLink`.
        Call it before `start`.
        """
        self._keeps_time = True

    async def start(self, patience_s: float = 0.0) -> None:
        """Read the map, and connect to all primaries; return when each is there, or some are and
        the others did not answer in time.

        Raises:
            RedisUnavailable: no server answers, or what answers is no cluster; nothing is left
                running.
        """
        loop = asyncio.get_running_loop()
        gives_up_at = loop.time() + max(patience_s, self._limits.redis_connect_timeout_s)
        try:
            await self._first_map(patience_s)
            while self.down_shards and loop.time() < gives_up_at:
                self._look.clear()
                await self._wait_for_news(LOOK_S)
            if not self.open:
                raise RedisUnavailable("no primary of the cluster answers")
        except BaseException:
            await self.stop()
            raise
        self._keeper = loop.create_task(self._keep(), name="cluster-map")

    async def _first_map(self, patience_s: float) -> None:
        problem: RedisUnavailable | None = None
        seeds = [str(seed) for seed in self._address.seeds]
        for address in self._rng.sample(seeds, len(seeds)):
            node = self._node(address)
            try:
                await node.start(patience_s)
                await self._read_map(node)
                return
            except RedisUnavailable as failure:
                problem = failure
            except LINK_ERRORS as failure:
                problem = RedisUnavailable(_why_no_map(failure), answered=True)
            self._drop(address)
        raise problem or RedisUnavailable("the address names no server")

    async def stop(self) -> None:
        """Disconnect for good. Idempotent."""
        was_up, keeper, self._keeper = self.up, self._keeper, None
        for task in (keeper, *self._asking.values()):
            if task is not None:
                await end(task)
        self._asking.clear()
        for address in list(self._nodes):
            self._drop(address)
        if self._ending:
            await asyncio.wait(self._ending)
        self.lanes.close("the link was closed")
        if was_up:
            self._on_state(False)

    # --- state -------------------------------------------------------------------------------

    @property
    def primaries(self) -> list[str]:
        """The addresses of all primaries that have a slot, in order."""
        return sorted(self._map.addresses)

    @property
    def down_shards(self) -> list[str]:
        """The addresses of the primaries that cannot be used right now."""
        return [address for address in self.primaries if not self._is_up(address)]

    @property
    def open(self) -> bool:
        """Whether commands have a way to some primary."""
        return any(self._is_open(address) for address in self._map.addresses)

    @property
    def up(self) -> bool:
        """Whether they have, and some primary does what we need of it."""
        return any(self._is_up(address) for address in self._map.addresses)

    def up_at(self, slot: int) -> bool:
        """Whether the primary of this slot can be used."""
        return self._is_up(self._owners[slot])

    @property
    def trouble(self) -> Trouble | None:
        """Why some primary cannot be used; None when all can."""
        down = self.down_shards
        if down:
            node = self._nodes.get(down[0])
            why = (node.trouble if node is not None else None) or NO_MAP
            return Trouble(why.outcome, f"{down[0]}: {why.words}")
        return None if self._map.addresses else NO_MAP

    @property
    def pending(self) -> int:
        """How many commands wait for an answer, or to be sent."""
        return self.lanes.waiting + sum(node.pending for node in self._nodes.values())

    @property
    def timeouts(self) -> int:
        """How often a connection was given up because a reply did not come in time."""
        return self._timeouts_before + sum(node.timeouts for node in self._nodes.values())

    def _is_open(self, address: str) -> bool:
        node = self._nodes.get(address)
        return node is not None and node.open

    def _is_up(self, address: str) -> bool:
        node = self._nodes.get(address)
        return node is not None and node.up

    def check(self) -> None:
        """Start a trial at each primary, to see whether it still does what we need."""
        for node in self._nodes.values():
            node.check()

    # --- the map, for others -----------------------------------------------------------------

    def owner(self, slot: int) -> str:
        """Return the address of the primary that has a slot; '' when that is not known."""
        return self._owners[slot]

    def url_of(self, address: str) -> str:
        """Return the URL of one server."""
        host, _, port = address.rpartition(":")
        return self._address.server_at(HostPort(host.strip("[]"), int(port))).url

    def on_map(self, told: Callable[[], None]) -> None:
        """Call this whenever the map has changed."""
        self._told.append(told)

    def look_soon(self, address: str = "") -> None:
        """Ask for the map again.

        Args:
            address: ask this server at once: it is known to know better.
        """
        node = self._nodes.get(address)
        if node is None or not node.open:
            self._look.set()
        elif address not in self._asking:
            loop = asyncio.get_running_loop()
            self._asking[address] = loop.create_task(self._ask(node), name="cluster-map-now")

    def moved(self, slot: int, address: str) -> None:
        """Take the word of a server that another one has the slot now."""
        if self._map.moved(slot, address):
            self._map_changed({slot})
        self.look_soon(address)

    # --- looking at the map ------------------------------------------------------------------

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while True:
            amiss = self._amiss()
            news = await self._wait_for_news(LOOK_S if amiss else SLOW_S / 2)
            if news:
                # Not all gateways in the same moment, and not more often than this.
                await asyncio.sleep(self._rng.uniform(0.2, 1.0) * LOOK_S / 2)
            elif not amiss and loop.time() - looked < LOOK_IDLE_S:
                continue
            self._look.clear()
            looked = loop.time()
            await self._look_around()

    async def _wait_for_news(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._look.wait()
        except TimeoutError:
            return False
        return True

    def _amiss(self) -> bool:
        return bool(self.lanes.open or self._slow() or self.down_shards)

    def _slow(self) -> list[NodeLink]:
        """Return the servers that let a command wait for long."""
        return [node for node in self._nodes.values() if node.late_by() > SLOW_S]

    async def _look_around(self) -> None:
        """Ask servers in a random order for their view, until one has told it."""
        slow = self._slow()
        nodes = [node for node in self._nodes.values() if node.open and node not in slow]
        if not nodes:
            for seed in self._address.seeds:
                self.node_at(str(seed))
        for node in self._rng.sample(nodes, len(nodes)):
            try:
                await self._read_map(node)
                return
            except LINK_ERRORS:
                continue

    async def _ask(self, node: NodeLink) -> None:
        try:
            await self._read_map(node)
        except LINK_ERRORS:
            self._look.set()
        finally:
            self._asking.pop(node.address, None)

    async def _read_map(self, node: NodeLink) -> None:
        try:
            async with asyncio.timeout(SLOW_S):
                text = await node.call("CLUSTER", "NODES")
        except TimeoutError:
            raise LinkTimeout("no map in time") from None
        self.looks += 1
        changed = self._map.learn(claims(text.decode(errors="replace"), node.address))
        for address in self._map.addresses:
            self.node_at(address)
        self._hang_up()
        if changed:
            self._map_changed(changed)
        self._forget_idle(node)

    def _hang_up(self) -> None:
        """Leave servers that do not answer and have no slot any more: others were elected in their
        place. What they have not answered is unknown now, not in two seconds.
        """
        for node in self._slow():
            if node.address not in self._map.addresses:
                node.reset()

    def _map_changed(self, slots: set[int]) -> None:
        waiting = set[int]().union(*(node.unanswered_slots() for node in self._nodes.values()))
        self.lanes.owner_changed(slots & waiting)
        for told in self._told:
            told()

    def _forget_idle(self, asked: NodeLink) -> None:
        """Disconnect from servers that have no slot; from the one just asked not yet."""
        for address, node in list(self._nodes.items()):
            if address not in self._map.addresses and not node.pending and node is not asked:
                self._drop(address)

    # --- the servers -------------------------------------------------------------------------

    def all_nodes(self) -> Iterable[NodeLink]:
        """Return each server that we are connected to, or try to be."""
        return self._nodes.values()

    def owner_node(self, slot: int) -> LaneNode | None:
        """Return the server that has a slot, if it is known."""
        return self._nodes.get(self._owners[slot])

    def node_at(self, address: str) -> NodeLink:
        """Return the server at an address; a new one is being connected to."""
        node = self._node(address)
        if not node.started:
            node.start_soon()
        return node

    def _node(self, address: str) -> NodeLink:
        node = self._nodes.get(address)
        if node is None:
            url = self.url_of(address)
            node = self._node_type(self, address, url, self._limits, self._scripts, self._rng)
            for callback, args in self._first:
                node.ask_first(callback, *args)
            if self._keeps_time:
                node.keep_deadlines()
            self._nodes[address] = node
        return node

    def _drop(self, address: str) -> None:
        node = self._nodes.pop(address)
        self._timeouts_before += node.timeouts
        task = asyncio.get_running_loop().create_task(node.stop(), name="cluster-node-stop")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def trial_for(self, address: str) -> Trial | None:
        """Return a trial whose keys this server has; None when it has none."""
        for slot, trial in self._trials.items():
            if self._owners[slot] == address:
                return trial
        return None

    def node_changed(self, node: NodeLink, up: bool) -> None:
        """Note that a server is there, or no longer."""
        self._look.set()
        if self._nodes.get(node.address) is not node:
            return
        if up:
            self.away_s = node.away_s
        self._on_shard(node.address, up)
        if up or not self.up:
            self._on_state(up)

    def node_trouble(self, node: NodeLink, trouble: Trouble) -> None:
        """Note why a server cannot be used."""
        if node.address in self._map.addresses:
            self._on_trouble(Trouble(trouble.outcome, f"{node.address}: {trouble.words}"))

    def _any(self) -> NodeLink:
        for node in self._nodes.values():
            if node.up:
                return node
        raise LinkDown("no connection to any server of the cluster")

    # --- commands ----------------------------------------------------------------------------

    def submit_at(
        self,
        slot: int,
        callback: Callback,
        command: bytes,
        script: Script | None = None,
        *,
        in_time: bool = False,
    ) -> None:
        """Send a command of a slot that the caller has packed; otherwise as `submit`.

        Each server is told the deadline (`in_time`) on its own clock, and its own origin.

        Raises:
            LinkDown, LinkBusy: it was not sent, and `callback` will not be called.
        """
        self._numbers = number = self._numbers + 1
        if slot in self.lanes.open:
            deadline = asyncio.get_running_loop().time() + self._limits.redis_timeout_s
            sendable = Sendable(command, script, in_time)
            self.lanes.hold(slot, Parcel(number, deadline, callback, sendable))
            return
        node = self._nodes.get(self._owners[slot])
        if node is None:
            raise LinkDown(AWAY)
        note = note_of(slot, number, in_time)
        node.submit_packed(callback, command, script, note, in_time=in_time)

    def submit_packed(
        self,
        callback: Callback,
        command: bytes,
        script: Script | None = None,
        *,
        in_time: bool = False,
    ) -> None:
        """Send a command that the caller has packed; otherwise as `submit`. Its slot is read from
        it, which `submit_at` need not do.
        """
        slot = slot_of(first_key(command))
        self.submit_at(slot, callback, command, script, in_time=in_time)

    def submit_in_time(
        self, callback: Callback, script: Script, keys: Sequence[str], *args: Arg
    ) -> None:
        """Run a script that knows deadlines; otherwise as `submit`. See `RedisLink`."""
        command = packed_in_time(script, keys, args, self.added_args)
        self.submit_at(slot_of(keys[0]), callback, command, script, in_time=True)

    def in_time(self, reply: Any) -> Any:
        """Return the reply to a command with a deadline: a `LinkTimeout` if it came too late."""
        if type(reply) is not list or reply[0] != EXPIRED:
            return reply
        self.expired += 1
        for node in self._nodes.values():
            node.ask_time()
        return LinkTimeout("the command came to Redis too late, and was not executed")

    def submit(self, callback: Callback, *args: Arg) -> None:
        """Send a command; `callback` gets its reply.

        Raises:
            LinkDown, LinkBusy: it was not sent, and `callback` will not be called.
        """
        key = key_of(args)
        if key is None:
            self._any().submit(callback, *args)
        else:
            self.submit_at(slot_of(key), callback, _pack(args))

    def submit_beside(self, callback: Callback, key: str, *args: Arg) -> None:
        """Send a command that has no key, as TIME, to the server that has this key; otherwise as
        `submit`.
        """
        self.submit_at(slot_of(key), callback, _pack(args))

    def submit_script(
        self, callback: Callback, script: Script, keys: Sequence[str], *args: Arg
    ) -> None:
        """Run a script; otherwise as `submit`. Its keys must have one slot."""
        command = packed(script, (len(keys), *keys, *args))
        self.submit_at(slot_of(keys[0]), callback, command, script)

    async def call(self, *args: Arg) -> Any:
        """Send a command and wait for its reply.

        Raises:
            LinkDown, LinkBusy: it was not sent, or no server took it in time.
            LinkTimeout: its outcome is unknown.
            CommandError: Redis refused it.
        """
        if args[0] == "SCAN":
            return await self._scan(int(args[1]), args[2:])
        future, settle = future_reply()
        self.submit(settle, *args)
        return await future

    async def call_beside(self, key: str, *args: Arg) -> Any:
        """Send a command as `submit_beside`, and wait for its reply; otherwise as `call`."""
        return await self.call_at(slot_of(key), *args)

    async def call_at(self, slot: int, *args: Arg) -> Any:
        """Send a command to the server that has a slot; otherwise as `call`."""
        future, settle = future_reply()
        self.submit_at(slot, settle, _pack(args))
        return await future

    async def run(self, script: Script, keys: Sequence[str], *args: Arg) -> Any:
        """Run a script and wait for its result; otherwise as `call`."""
        return await self.start_script(script, keys, *args)

    def start_script(self, script: Script, keys: Sequence[str], *args: Arg) -> asyncio.Future[Any]:
        """Run a script and return at once the future of its result; otherwise as `call`."""
        future, settle = future_reply()
        self.submit_script(settle, script, keys, *args)
        return future

    async def _scan(self, position: int, args: tuple[Arg, ...]) -> list[Any]:
        """Run one step of SCAN at one primary, and say where to go on."""
        cursor, number = divmod(position, SCAN_NODES)
        primaries = self.primaries
        if number >= len(primaries):
            return [b"0", []]
        node = self._nodes.get(primaries[number])
        if node is None:
            raise LinkDown(AWAY)
        told, keys = await node.call("SCAN", cursor, *args)
        following = int(told) * SCAN_NODES + number
        if int(told) == 0:
            following = number + 1 if number + 1 < len(primaries) else 0
        return [b"%d" % following, keys]


class _LoopTimer:
    """The clock of the loop that runs."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Any:
        return asyncio.get_running_loop().call_later(delay, callback, *args)


async def answers(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """Return the replies to commands for several servers, without those that are away.

    Raises:
        LinkDown, LinkTimeout: all are away.
        LinkBusy, CommandError: of the first that failed so.
    """
    replies = await asyncio.gather(*calls, return_exceptions=True)
    problems = [reply for reply in replies if isinstance(reply, BaseException)]
    for problem in problems:
        if len(problems) == len(replies) or not isinstance(problem, LinkDown | LinkTimeout):
            raise problem
    return [reply for reply in replies if not isinstance(reply, BaseException)]


def key_of(args: Sequence[Arg]) -> str | bytes | None:
    """Return the first key of a command; None when it has none."""
    verb = str(args[0]).upper()
    if verb in _BY_SCRIPT:
        return _text_or_bytes(args[3]) if int(args[2]) > 0 else None
    return None if verb in NO_KEY or len(args) < 2 else _text_or_bytes(args[1])


def _text_or_bytes(arg: Arg) -> str | bytes:
    return str(arg) if isinstance(arg, int) else arg


def first_key(command: bytes) -> bytes:
    """Return the first key of a command in RESP; '' when it has none."""
    position = command.index(b"\r\n") + 2
    words: list[bytes] = []
    wanted = 2
    while len(words) < wanted and position < len(command):
        end_of_size = command.index(b"\r\n", position)
        start = end_of_size + 2
        size = int(command[position + 1 : end_of_size])
        words.append(command[start : start + size])
        position = start + size + 2
        if words[0] in (b"EVAL", b"EVALSHA"):
            wanted = 4
    return words[wanted - 1] if len(words) == wanted else b""


def _why_no_map(failure: Exception) -> str:
    if "cluster support disabled" in str(failure):
        return "what answers is no cluster: its address begins with redis:// or rediss://"
    return f"no map of the cluster: {failure}"
