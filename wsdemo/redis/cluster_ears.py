"""Sharded Pub/Sub: how does a gateway hear all shards of a cluster?

By one listening connection for each primary, here called an ear. Where a channel should be
subscribed to is what the map of the cluster says. Where it is, is what servers have confirmed. One
function, `_reconcile`, closes the difference, whatever has made it: a lost connection, a channel
that the server has sent away because its slot has left, a redirection, a failover.

A channel is left at the old server before it is joined at the new one. When the old server has
confirmed, all that it had sent is read: so nothing is heard twice, and nothing out of order. In
between nobody is subscribed, and the route script tells senders so (`no_subscriber`).

Broadcasts are rare. They stay on a classic channel, which the bus of the cluster carries to every
server: one ear listens to it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from wsdemo.redis.connection import RedisConnection, RedisUnavailable, pack_command
from wsdemo.redis.link import STALL_S, role_trouble
from wsdemo.redis.origin import ANYWHERE, origin_of, without_origin
from wsdemo.redis.outcome import CommandError, Outcome, Refused, Trouble, trouble_of
from wsdemo.redis.slots import slot_of
from wsdemo.redis.subscription import Handler
from wsdemo.settings import Limits
from wsdemo.tasks import end

LEAVE_S: Final = 0.5
"""How long a server that has lost a slot may take to confirm that we have left a channel of it."""
STEP_S: Final = 0.05
"""How often we look again while a channel is not where it should be."""
REOPEN_S: Final = 0.1
"""The longest pause before another attempt to connect for the first time; with jitter."""
NO_CHANNEL: Final = b""
"""Stands for ROLE among the channels of which the answer is still to come."""
BROKEN: Final = Trouble(Outcome.UNREACHABLE, "the connection was lost")
SILENT: Final = Trouble(Outcome.UNREACHABLE, "it has lost a slot, and does not answer")
_log = logging.getLogger("wsdemo.router")


class Shards(Protocol):
    """The map of a cluster: which server has which slot?"""

    def owner(self, slot: int) -> str:
        """Return the address of the primary that has a slot; '' when that is not known."""
        ...

    def url_of(self, address: str) -> str:
        """Return the URL of a server, with what a connection to any server of the cluster needs."""
        ...

    def look_soon(self, address: str = "") -> None:
        """Ask for the map again: this server first, which knows better, if one is named."""
        ...

    def moved(self, slot: int, address: str) -> None:
        """Take the word of a server that another one has the slot now."""
        ...

    def on_map(self, told: Callable[[], None]) -> None:
        """Call this whenever the map has changed."""
        ...


class Ear(RedisConnection):
    """The listening connection to one server."""

    def __init__(
        self,
        ears: ClusterEars,
        address: str,
        url: str,
        limits: Limits,
        rng: random.Random | None,
    ) -> None:
        super().__init__(url, limits, self._state, self._note, rng)
        self._ears = ears
        self.address = address
        self.has: set[bytes] = set()
        """The channels that are subscribed to here, as confirmed."""
        self.leaving: dict[bytes, float] = {}
        """Those of them that we have asked to leave, and when."""
        self.asked: deque[bytes] = deque()
        """What the answers are about that are still to come, in their order. (An error names no
        channel.)"""
        self.progress = 0.0
        """When it last sent something, or was first asked."""
        self._origin = ANYWHERE
        """That of what is published at this server."""
        self._asks_run = False
        self._greeting: asyncio.Future[None] | None = None

    @property
    def round(self) -> object:
        """Something that is another one after each new connection."""
        return self._transport

    def _state(self, up: bool) -> None:
        self._ears.ear_state(self)

    def _note(self, trouble: Trouble) -> None:
        self._ears.ear_trouble(self, trouble)

    async def _greet(self) -> Trouble | None:
        """Ask for the role. A frozen server accepts connections (its kernel does), so only an
        answer shows that it is there. And a replica would let us subscribe, but a PUBLISH at its
        primary does not count us. And ask for the run: what was published in another one is not
        for us (`wsdemo.redis.origin`).
        """
        assert self._transport is not None and self._loop is not None
        self._greeting, self._asks_run = self._loop.create_future(), True
        self._transport.write(pack_command(("INFO", "server")) + pack_command(("ROLE",)))
        await self._greeting
        return None

    def _role(self, greeting: asyncio.Future[None], reply: Any) -> None:
        trouble = role_trouble(reply)
        if trouble is None:
            greeting.set_result(None)
        else:
            greeting.set_exception(Refused(trouble))

    # --- what we ask for -----------------------------------------------------------------------

    def join(self, channels: Sequence[bytes]) -> None:
        """Subscribe. One command a channel: two slots in one command are refused (CROSSSLOT). Ask
        for the role as well: the server may have become a replica since it greeted us.
        """
        self._ask([("SSUBSCRIBE", name) for name in channels] + [("ROLE", NO_CHANNEL)])

    def hear_classic(self, channel: bytes) -> None:
        """Subscribe to a channel that is not sharded."""
        self._ask([("SUBSCRIBE", channel)])

    def _ask(self, commands: Sequence[tuple[str, bytes]]) -> None:
        assert self._transport is not None and self._loop is not None
        if not self.asked:
            self.progress = self._loop.time()
        self.asked.extend(channel for _, channel in commands)
        words = ((verb, channel) if channel else (verb,) for verb, channel in commands)
        self._transport.write(b"".join(map(pack_command, words)))

    def leave(self, channel: bytes) -> None:
        """Unsubscribe; `ClusterEars.left` is called when that is confirmed."""
        assert self._transport is not None and self._loop is not None
        self.leaving[channel] = self._loop.time()
        self._transport.write(pack_command(("SUNSUBSCRIBE", channel)))

    # --- what comes ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        assert self._loop is not None
        self.progress = self._loop.time()
        super().data_received(data)

    def _reply(self, reply: Any) -> None:
        if type(reply) is list and (reply[0] == b"smessage" or reply[0] == b"message"):
            message = without_origin(reply[2], self._origin)
            if message is None:
                self._ears.passed_on += 1
            else:
                self._ears.on_message(reply[1], message)
        else:
            self._control(reply)

    def _control(self, reply: Any) -> None:
        greeting = self._greeting
        if greeting is not None and not greeting.done():
            if self._asks_run:
                self._asks_run, self._origin = False, origin_of(reply)
            else:
                self._role(greeting, reply)
        elif self.asked and self.asked[0] == NO_CHANNEL and _is_role(reply):
            self.asked.popleft()
            trouble = role_trouble(reply)
            if trouble is not None:
                self.reset(trouble)
        elif isinstance(reply, CommandError):
            if self.asked:
                self._ears.refused(self, self.asked.popleft(), reply)
        elif isinstance(reply, list) and reply[0] in (b"ssubscribe", b"subscribe"):
            self._confirmed(reply[1], sharded=reply[0] == b"ssubscribe")
        elif isinstance(reply, list) and reply[0] == b"sunsubscribe" and reply[1] is not None:
            was_asked = self.leaving.pop(reply[1], None) is not None
            self.has.discard(reply[1])
            self._ears.left(self, reply[1], was_asked)

    def _confirmed(self, channel: bytes, *, sharded: bool) -> None:
        if self.asked:
            self.asked.popleft()
        if sharded:
            self.has.add(channel)
            self._ears.joined(self, channel)
        else:
            self._ears.hears_classic(self)

    def _broken(self, why: str) -> None:
        greeting, self._greeting = self._greeting, None
        if greeting is not None and not greeting.done():
            greeting.set_exception(ConnectionError(why))
            greeting.exception()  # Marked as retrieved; a task that waits for it still gets it.
        had, self.has = self.has, set()
        self.asked.clear()
        self.leaving.clear()
        self._ears.lost(self, had)


def _is_role(reply: Any) -> bool:
    """Say whether this answers ROLE. What is pushed in between begins with another word."""
    if isinstance(reply, list):
        return reply[0] in (b"master", b"slave")
    return isinstance(reply, CommandError)


class ClusterEars:
    """The listening connections of one gateway, one for each primary (an `Ears`).

    Args:
        shards: the map of the cluster.
        channels: the sharded channels that the gateway has to hear.
        classic: a channel that is not sharded, and is heard as well.
        on_message: called for each message.
        on_gap: called for each channel of `channels` that is heard again after it was not.
        on_state: called when `deaf` may have changed.
        rng: source of all jitter.
    """

    _ear_type: type[Ear] = Ear
    """What is made for each server; tests have another."""

    def __init__(
        self,
        shards: Shards,
        limits: Limits,
        channels: Sequence[str],
        classic: str,
        on_message: Handler,
        on_gap: Callable[[str], None] = lambda channel: None,
        on_state: Callable[[], None] = lambda: None,
        rng: random.Random | None = None,
    ) -> None:
        self._shards = shards
        self._limits = limits
        self.on_message = on_message
        self._on_gap = on_gap
        self._on_state = on_state
        self._rng = rng or random.Random()
        self._own = {channel.encode(): slot_of(channel) for channel in channels}
        self._slots = dict(self._own)
        """Every channel that should be heard, and its slot."""
        self._classic = classic.encode()
        self._classic_at: Ear | None = None
        self._classic_heard = False
        self._at: dict[bytes, Ear] = {}
        """Where each channel is subscribed to, as confirmed."""
        self._going: dict[bytes, Ear] = {}
        """Where it was asked for, and the answer is still to come."""
        self._unsettled = set(self._slots)
        """The channels that may not be where they should be."""
        self._shunned: dict[bytes, tuple[str, float]] = {}
        """Who has sent a channel away, and when."""
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        """Who waits for a channel that was added."""
        self._seen: set[bytes] = set()
        self._deaf_since: dict[bytes, float] = {}
        self.ears: dict[str, Ear] = {}
        """By address. Those that have been connected once."""
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._troubles: dict[str, Trouble] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._whole = asyncio.Event()
        self._patient_until = 0.0
        self.rounds = 0
        self.given_up = 0
        """How often a server was hung up on, because it had lost a slot and did not answer."""
        self.longest_gap_s = 0.0
        self.passed_on = 0
        """How many messages were dropped, because they had been published at another server."""
        shards.on_map(self._map_changed)

    # --- life ----------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """Whether more than half of the gateway's own channels are heard.

        Not all: a shard that is away is away for all gateways, and a load balancer without targets
        helps nobody.
        """
        return self._keeper is not None and 2 * len(self.deaf) < len(self._own)

    @property
    def deaf(self) -> list[bytes]:
        """The gateway's own channels on which nobody would reach it now."""
        return [channel for channel in self._own if channel not in self._at]

    @property
    def deaf_shards(self) -> list[str]:
        """The addresses of the servers that have these channels."""
        return sorted({self._shards.owner(self._own[channel]) for channel in self.deaf})

    @property
    def trouble(self) -> Trouble | None:
        """Why something is not heard, when there is a known reason."""
        if self._whole.is_set() and not self.deaf:
            return None
        places = (*self.deaf_shards, *self._troubles)
        return next((self._troubles[place] for place in places if place in self._troubles), None)

    def at(self, ear: Ear) -> list[bytes]:
        """Return the gateway's own channels that are heard by an ear at the server that has them,
        in order.
        """
        return sorted(
            channel
            for channel in ear.has - ear.leaving.keys()
            if channel in self._own and self._shards.owner(self._own[channel]) == ear.address
        )

    async def start(self, patience_s: float = 0.0) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name="cluster-ears")
        self._wake.set()
        try:
            async with asyncio.timeout(max(patience_s, self._limits.redis_connect_timeout_s)):
                await self._whole.wait()
        except TimeoutError:
            if self.up and self._classic_heard:
                return  # The missing shards are away for everybody.
            trouble, deaf = self.trouble, len(self.deaf)
            await self.stop()
            raise RedisUnavailable(
                f"{deaf} of {len(self._own)} buckets cannot be heard: {trouble or 'no answer'}",
                answered=trouble is not None and trouble.outcome is not Outcome.UNREACHABLE,
            ) from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await end(keeper)
        await end(*self._opening.values())
        if self._closing:
            await asyncio.wait(self._closing)
        for ear in list(self.ears.values()):
            await ear.stop()
        self.ears.clear()
        waiting, self._waiting = self._waiting, {}
        for joined in waiting.values():
            joined.cancel()

    async def unsubscribe(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await end(keeper)
        loop = asyncio.get_running_loop()
        gives_up_at = loop.time() + self._limits.redis_timeout_s
        for ear in self.ears.values():
            for channel in ear.has if ear.up else ():
                ear.leave(channel)
        while any(ear.up and ear.has for ear in self.ears.values()) and loop.time() < gives_up_at:
            self._wake.clear()
            try:
                async with asyncio.timeout_at(gives_up_at):
                    await self._wake.wait()
            except TimeoutError:
                return

    def reset(self, trouble: Trouble) -> None:
        for ear in list(self.ears.values()):
            ear.reset(trouble)

    # --- channels that come and go -------------------------------------------------------------

    def add(self, channel: str) -> asyncio.Future[None]:
        name = channel.encode()
        known = self._waiting.get(name)
        if known is not None:
            return known
        joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._slots.setdefault(name, slot_of(channel))
        at = self._at.get(name)
        if at is not None and name not in at.leaving:
            joined.set_result(None)
            return joined
        self._waiting[name] = joined
        self._unsettled.add(name)
        self._wake.set()
        return joined

    def remove(self, channel: str) -> None:
        name = channel.encode()
        if name in self._own or self._slots.pop(name, None) is None:
            return
        joined = self._waiting.pop(name, None)
        if joined is not None:
            joined.cancel()
        self._unsettled.discard(name)
        self._shunned.pop(name, None)
        self._seen.discard(name)
        self._deaf_since.pop(name, None)
        at = self._at.get(name)
        if at is not None and at.up and name not in at.leaving:
            at.leave(name)

    # --- what should be, and what is -----------------------------------------------------------

    def _map_changed(self) -> None:
        self._unsettled.update(self._slots)
        self._wake.set()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            try:
                async with asyncio.timeout(STEP_S if self._is_unsettled() else None):
                    await self._wake.wait()
            except TimeoutError:
                if loop.time() - before > STEP_S + STALL_S / 5:
                    # Our own event loop stood still: first read, then judge who is silent.
                    self._patient_until = loop.time() + LEAVE_S
            self._wake.clear()
            self._reconcile(loop.time())

    def _is_unsettled(self) -> bool:
        return bool(self._unsettled) or self._classic_at is None

    def _reconcile(self, now: float) -> None:
        """Take one step from what is to what should be."""
        joins: dict[str, list[bytes]] = {}
        silent: set[Ear] = set()
        for channel in list(self._unsettled):
            owner, at = self._shards.owner(self._slots[channel]), self._at.get(channel)
            if at is None:
                self._approach(channel, owner, now, joins, silent)
            elif at.address == owner and channel not in at.leaving:
                self._unsettled.discard(channel)
            elif channel not in at.leaving:
                at.leave(channel)
            elif at.address != owner and now - at.leaving[channel] > LEAVE_S:
                silent.add(at)  # It may be frozen; its backlog must not come in seconds from now.
        for ear in silent if now >= self._patient_until else ():
            self.given_up += 1
            ear.reset(SILENT)
        self._join(joins)
        self._keep_classic()
        self._close_unwanted()

    def _approach(
        self,
        channel: bytes,
        owner: str,
        now: float,
        joins: dict[str, list[bytes]],
        silent: set[Ear],
    ) -> None:
        """Note where to join a channel that is subscribed to nowhere; or who is silent about it."""
        going = self._going.get(channel)
        sent_away_by, when = self._shunned.get(channel, ("", 0.0))
        if going is not None:
            # Being slow alone is no reason to hang up: what the server has sent on other channels,
            # and has counted as heard, would be lost with the connection.
            if going.address != owner and now - going.progress > LEAVE_S:
                silent.add(going)
        elif owner and not (sent_away_by == owner and now - when < LEAVE_S):
            joins.setdefault(owner, []).append(channel)

    def _join(self, joins: dict[str, list[bytes]]) -> None:
        for address, channels in joins.items():
            ear = self._ear(address)
            if ear is not None:
                self._going.update(dict.fromkeys(channels, ear))
                ear.join(channels)

    def _ear(self, address: str) -> Ear | None:
        """Return the ear at an address when it is up; open one when there is none."""
        ear = self.ears.get(address)
        if ear is not None and ear.up:
            return ear
        if ear is not None:
            self._shards.look_soon()  # Perhaps another server has its slots by now.
        elif address not in self._opening:
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._open(address), name="cluster-ear-open")
            self._opening[address] = task
        return None

    async def _open(self, address: str) -> None:
        url = self._shards.url_of(address)
        ear = self._ear_type(self, address, url, self._limits, self._rng)
        try:
            await ear.start()
            self.ears[address] = ear
        except RedisUnavailable:
            self._shards.look_soon()
            await asyncio.sleep(self._rng.uniform(REOPEN_S / 5, REOPEN_S))
        except asyncio.CancelledError:
            await ear.stop()
            raise
        finally:
            self._opening.pop(address, None)
            self._wake.set()

    def _keep_classic(self) -> None:
        """See to it that exactly one ear hears the classic channel."""
        if self._classic_at is None:
            ear = next((ear for ear in self.ears.values() if ear.up), None)
            if ear is not None:
                self._classic_at = ear
                ear.hear_classic(self._classic)

    def _close_unwanted(self) -> None:
        """Close the ears at servers that have no channel of ours any more."""
        wanted = {self._shards.owner(slot) for slot in self._own.values()}
        for address in self.ears.keys() - wanted:
            ear = self.ears[address]
            if not ear.has and not (ear.asked and ear.up):
                del self.ears[address]
                self._troubles.pop(address, None)
                closing = asyncio.get_running_loop().create_task(ear.stop())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    # --- what ears report ----------------------------------------------------------------------

    def ear_state(self, ear: Ear) -> None:
        """Take note that an ear is ready for use, or is no longer."""
        if ear.up:
            self._troubles.pop(ear.address, None)
        self._wake.set()

    def ear_trouble(self, ear: Ear, trouble: Trouble) -> None:
        """Take note of why a server cannot be heard."""
        if self._troubles.get(ear.address) != trouble:
            self._troubles[ear.address] = trouble
            _log.warning("the shard at %s cannot be heard: %s", ear.address, trouble)

    def hears_classic(self, ear: Ear) -> None:
        """Take note that broadcasts are heard."""
        self._classic_heard = True
        self._check_whole()

    def joined(self, ear: Ear, channel: bytes) -> None:
        """Take note that a channel is subscribed to."""
        self._going.pop(channel, None)
        self._at[channel] = ear
        if channel not in self._slots:  # It was removed meanwhile.
            ear.leave(channel)
            return
        self._wake.set()
        joined = self._waiting.pop(channel, None)
        if joined is not None and not joined.done():
            joined.set_result(None)
        self._note_gap(channel)
        self._check_whole()

    def _note_gap(self, channel: bytes) -> None:
        since = self._deaf_since.pop(channel, None)
        if channel in self._seen:
            if since is not None:
                gap_s = asyncio.get_running_loop().time() - since
                self.longest_gap_s = max(self.longest_gap_s, gap_s)
            self._on_gap(channel.decode())
        self._seen.add(channel)

    def _check_whole(self) -> None:
        if not self.deaf:
            if self._classic_heard:
                self._whole.set()
            self.rounds += 1
            self._on_state()

    def left(self, ear: Ear, channel: bytes, was_asked: bool) -> None:
        """Take note that a channel is subscribed to no longer. If that was not our wish, its slot
        has left that server, which therefore knows where to. (Not by being asked for the channel
        again: a primary that became a replica accepts it, and is never counted.)
        """
        self._gone(ear, [channel])
        if not was_asked and channel in self._slots:
            now = asyncio.get_running_loop().time()
            self._shunned[channel] = (ear.address, now)
            self._shards.look_soon(ear.address)
        self._wake.set()
        self._on_state()

    def _gone(self, ear: Ear, channels: Iterable[bytes]) -> None:
        now = asyncio.get_running_loop().time()
        for channel in channels:
            # A server may say goodbye twice: unasked, and in answer to us. By the second time we
            # may be subscribed elsewhere.
            if self._at.get(channel) is ear:
                del self._at[channel]
                if channel in self._slots:
                    self._deaf_since[channel] = now
                    self._unsettled.add(channel)

    def refused(self, ear: Ear, channel: bytes, problem: CommandError) -> None:
        """Take note that a server does not let us subscribe."""
        self._going.pop(channel, None)
        slot = self._slots.get(channel)
        if problem.code == "MOVED" and slot is not None:
            self._shards.moved(slot, str(problem).split()[2])
            self._shards.look_soon(ear.address)
        elif problem.outcome in (Outcome.NOPERM, Outcome.UNKNOWN_COMMAND, Outcome.OWN):
            self._forbidden(ear, channel, problem)
        else:
            self._shards.look_soon()
        self._wake.set()

    def _forbidden(self, ear: Ear, channel: bytes, problem: CommandError) -> None:
        """Handle a refusal that no other server will lift."""
        joined = self._waiting.pop(channel, None)
        if joined is None or joined.done():
            self.ear_trouble(ear, trouble_of(problem))
            self._shunned[channel] = (ear.address, asyncio.get_running_loop().time())
            return
        del self._slots[channel]
        self._unsettled.discard(channel)
        joined.set_exception(problem)

    def lost(self, ear: Ear, had: set[bytes]) -> None:
        """Take note that a connection is gone, with all that it was subscribed to."""
        if self._classic_at is ear:
            self._classic_at = None
        for channel in [name for name, going in self._going.items() if going is ear]:
            del self._going[channel]
        if had:
            self._gone(ear, had)
            self._shards.look_soon()
            self._on_state()
        self._wake.set()
