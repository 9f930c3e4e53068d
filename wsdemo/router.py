"""Publish/subscribe: how does a message reach another gateway?

By the channel of that gateway, `gateway:{id}`. One script looks the recipient up and publishes to
its gateway, so the user cannot move between the two steps. Redis Pub/Sub delivers at most once, and
only to current subscribers. Therefore a gateway subscribes before it accepts users, and counts
every renewed subscription as a gap. It also keeps sending itself a probe: a subscription can be up
and deaf at the same time, or be at a server where nobody publishes any more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from wsdemo.events import Emit, Event, Kind
from wsdemo.protocol import (
    BadEnvelope,
    Bounce,
    Broadcast,
    Copies,
    Direct,
    Envelope,
    Kick,
    Probe,
    StoredHint,
    Takeover,
    decode_envelope,
    encode_envelope,
)
from wsdemo.redis.connection import Backoff, RedisUnavailable
from wsdemo.redis.ears import Ears
from wsdemo.redis.interface import Link
from wsdemo.redis.link import LINK_ERRORS, LinkBusy, LinkDown, Trial
from wsdemo.redis.outcome import CommandError, Outcome, Trouble
from wsdemo.redis.primary import Primary
from wsdemo.redis.scripts import WHEN_FULL, Script, bulk, lua_text
from wsdemo.redis.subscription import Subscription
from wsdemo.settings import GATEWAY_ID, GatewaySettings, Keyspace
from wsdemo.tasks import end

ROUTE = Script.read("wsdemo", "route", in_cluster=WHEN_FULL, in_time=True)
DEVICES_ROUTE = Script.read(
    "wsdemo",
    "devices_route",
    lua_text("wsdemo.presence", "devices_entries"),
    in_cluster=WHEN_FULL,
    in_time=True,
)
TRIAL = Script.read("wsdemo", "trial")
NOBODY: Final = "__nobody__"
"""The user of the trial: no real user can be called this."""
CLAIM_TRIES: Final = 5
"""How often a start backs off for another one with the same id that began at the same time."""
DEAF: Final = Trouble(Outcome.UNREACHABLE, "it did not hear its own probe")
_log = logging.getLogger("wsdemo.router")


class DuplicateGateway(Exception):
    """Another process with this gateway's id is subscribed."""


def trial_of(keyspace: Keyspace, *channels: str) -> Trial:
    """Return the trial that a server must pass to serve the users of this keyspace.

    Args:
        channels: kinds of channels that optional features publish to (`Keyspace.channel`).
    """
    keys = (keyspace.presence(NOBODY), keyspace.fence(NOBODY))
    # A name that no gateway can have, among those that gateways may publish to.
    own = keyspace.gateway_channel(f":{NOBODY}")
    return Trial(TRIAL, keys, (own, *(keyspace.channel(kind, NOBODY) for kind in channels)))


class Router:
    """The channels of one gateway.

    Args:
        boot_id: tells this process from another one with the same gateway id.
        on_malformed: called when something arrived that cannot be ours.
        on_replaced: called when another process takes this gateway's place.
        on_state: called when `ready` may have changed.
        on_gap: called when the subscription was renewed: messages may be missing.
        rng: source of the jitter between attempts to subscribe.
        primary: who knows where Redis is, when it moves.
    """

    def __init__(
        self,
        link: Link,
        settings: GatewaySettings,
        boot_id: str,
        *,
        on_malformed: Callable[[], None],
        on_replaced: Callable[[], None],
        on_state: Callable[[], None],
        on_gap: Callable[[], None] = lambda: None,
        emit: Emit | None = None,
        rng: random.Random | None = None,
        primary: Primary | None = None,
    ) -> None:
        self._link = link
        self._primary = primary
        self._settings = settings
        self._boot_id = boot_id
        self._on_direct: Callable[[Direct], None]
        self._on_notice: Callable[[Broadcast | Kick | Bounce | Copies], None]
        self.on_hint: Callable[[StoredHint], None] = _ignore
        """Takes the hint that something was stored for a user; must not raise."""
        self._on_malformed = on_malformed
        self._on_replaced = on_replaced
        self._on_state = on_state
        self._on_gap = on_gap
        self._emit = emit
        self._rng = rng
        self._channel = settings.keyspace.gateway_channel(settings.gateway_id)
        broadcast = settings.keyspace.broadcast_channel
        self._own_channels = frozenset({self._channel.encode(), broadcast.encode()})
        self._takers: dict[bytes, Callable[[bytes], None]] | None = None
        """Who takes what is published on the channels of users and rooms; None: never anybody."""
        self._presence_prefix = settings.keyspace.presence("").encode()
        self._route_start = ROUTE.command_start(keys=1, args=2 + link.added_args)
        self._route_end = bulk(settings.keyspace.channel_prefix.encode())
        link.keep_deadlines()
        self._subscription: Ears = self._new_subscription()
        self._prober: asyncio.Task[None] | None = None
        self._sent = 0
        self._heard = 0
        self._hears = False
        self.gaps = 0
        """How many times the subscription was renewed."""
        self.probes_lost = 0
        """How many probes this gateway did not receive."""

    def _new_subscription(self) -> Ears:
        settings = self._settings
        return Subscription(
            self._primary or settings.redis_url,
            settings.limits,
            [self._channel, settings.keyspace.broadcast_channel],
            self._receive,
            self._gap,
            self._subscription_state,
            self._subscription_trouble,
            self._rng,
        )

    @property
    def ready(self) -> bool:
        """Whether this gateway receives what is published for it, as far as it can know."""
        return self._subscription.up and self._hears

    @property
    def trouble(self) -> Trouble | None:
        """Why it does not, when there is a known reason."""
        return self._subscription.trouble

    def buckets_at(self, address: str) -> Sequence[int]:
        """Return the buckets of users that a server has; without a cluster there is one, 0."""
        return (0,)

    @property
    def deaf_shards(self) -> list[str]:
        """The servers of a cluster whose users do not reach this gateway now."""
        return []

    @property
    def passed_on(self) -> int:
        """How many messages were dropped that a server of a cluster only passed on
        (`wsdemo.redis.origin`).
        """
        return 0

    @property
    def leases_may_lapse(self) -> bool:
        """Whether users who are online may be missing in Redis, because it refuses refreshes."""
        trouble = self._link.trouble
        return trouble is not None and trouble.outcome is not Outcome.OOM

    # --- life --------------------------------------------------------------------------------

    async def start(
        self,
        on_direct: Callable[[Direct], None],
        on_notice: Callable[[Broadcast | Kick | Bounce | Copies], None],
    ) -> None:
        """Subscribe, and check that messages arrive.

        Args:
            on_direct: takes each message for one user; must not raise.
            on_notice: takes everything else that arrives, except probes; must not raise.

        Raises:
            DuplicateGateway: the id is taken; nothing is left running.
            RedisUnavailable: Redis could not be asked.
        """
        self._on_direct = on_direct
        self._on_notice = on_notice
        try:
            await self._subscribe_alone()
            self._hears = await self._publish_probe() > 0
        except LINK_ERRORS as problem:
            await self._subscription.stop()
            answered = isinstance(problem, CommandError)
            raise RedisUnavailable(str(problem), answered=answered) from None
        self._prober = asyncio.get_running_loop().create_task(self._probe(), name="router-probe")

    async def _subscribe_alone(self) -> None:
        """Subscribe, unless another process with this id has. Two that start at once may first
        see nobody and then each other: both back off, and the first one to return stays.
        """
        pauses = Backoff(self._rng)
        for _ in range(CLAIM_TRIES):
            await self._claim_id()
            await self._subscription.start(self._settings.limits.redis_start_s)
            if self._settings.takeover or await self._listeners() <= 1:
                return
            await self._subscription.stop()
            self._subscription = self._new_subscription()
            await asyncio.sleep(pauses.next_s())
        raise DuplicateGateway(self._settings.gateway_id)

    async def _claim_id(self) -> None:
        if not await self._listeners():
            return
        if not self._settings.takeover:
            raise DuplicateGateway(self._settings.gateway_id)
        await self._ask_to_leave()

    async def _ask_to_leave(self) -> None:
        publish = self._settings.keyspace.publish
        await self._link.call(publish, self._channel, encode_envelope(Takeover(self._boot_id)))

    async def _listeners(self) -> int:
        reply = await self._link.call("PUBSUB", "NUMSUB", self._channel)
        return int(reply[1])

    async def stop(self) -> None:
        """Unsubscribe and disconnect. Idempotent."""
        prober, self._prober = self._prober, None
        if prober is not None:
            await end(prober)
        self._hears = False
        if self._subscription.up:
            await self._subscription.unsubscribe()
        await self._subscription.stop()

    # --- sending -----------------------------------------------------------------------------

    def route(self, user: bytes, head: bytes, on_reply: Callable[[Any], None]) -> None:
        """Publish an envelope (`protocol.DirectHeads`) to the gateway of `user`.

        `on_reply` gets what `route.lua` returns (`in_time`), or the exception in its place.

        Raises:
            LinkDown, LinkBusy: nothing was sent.
        """
        key = self._presence_prefix + user
        command = b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n%b" % (
            self._route_start,
            len(key),
            key,
            len(head),
            head,
            self._route_end,
        )
        self._link.submit_packed(on_reply, command, ROUTE, in_time=True)

    def route_copies(
        self,
        user: str,
        head: bytes,
        left_out: Iterable[str],
        on_reply: Callable[[Any], None],
    ) -> None:
        """Publish an envelope (`protocol.DirectHeads` without a kind) to the gateway of each device
        of `user`.

        Args:
            left_out: connections that do not get it.
            on_reply: gets what `devices_route.lua` returns (`in_time`), or the exception in its
                place.

        Raises:
            LinkDown, LinkBusy: nothing was sent.
        """
        settings = self._settings
        self._link.submit_in_time(
            on_reply,
            DEVICES_ROUTE.at(settings.keyspace),
            [settings.keyspace.presence(user)],
            head,
            settings.keyspace.script_channels(settings.keyspace.bucket(user)),
            f" {' '.join(left_out)} ",
            settings.timing.presence_ttl_ms,
        )

    def in_time(self, reply: Any) -> Any:
        """Return a reply to a route: a `LinkTimeout` in its place if the message came too late."""
        return self._link.in_time(reply)

    def tell(self, gateway_id: str, envelope: Kick | Bounce) -> None:
        """Publish a notice to a gateway. It may be lost: for every notice there is a slower way."""
        if not GATEWAY_ID.fullmatch(gateway_id):
            return
        publish, channel = self._channel_of(gateway_id, envelope)
        try:
            self._link.submit(_ignore, publish, channel, encode_envelope(envelope))
        except (LinkDown, LinkBusy):
            _log.debug("notice to %s not sent: no way to Redis", gateway_id)

    async def kick(self, gateway_id: str, kick: Kick) -> int:
        """Publish a kick to a gateway; return how many heard it: 0 when none of that id listens.

        Raises:
            LINK_ERRORS: Redis could not be asked.
        """
        publish, channel = self._channel_of(gateway_id, kick)
        return int(await self._link.call(publish, channel, encode_envelope(kick)))

    def _channel_of(self, gateway_id: str, notice: Kick | Bounce) -> tuple[str, str]:
        """Return how and where to publish a notice: on the channel of the messages that it is
        about, so that it comes behind them.
        """
        keyspace = self._settings.keyspace
        user = notice.user if isinstance(notice, Kick) else notice.to
        return keyspace.publish, keyspace.gateway_channel(gateway_id, keyspace.bucket(user))

    # --- receiving ---------------------------------------------------------------------------

    def listen(self, channel: str, take: Callable[[bytes], None]) -> asyncio.Future[None]:
        """Listen to a channel of a user or a room as well (`Keyspace.channel`).

        Args:
            take: gets each message; it must neither raise nor block.

        Returns:
            What `Subscription.add` returns: done when nothing that is published from now on is
            missed.
        """
        if self._takers is None:
            self._takers = {}
        self._takers[channel.encode()] = take
        return self._subscription.add(channel)

    def unlisten(self, channel: str) -> None:
        """End that. Does nothing when nobody listens."""
        if self._takers is not None and self._takers.pop(channel.encode(), None) is not None:
            self._subscription.remove(channel)

    def _receive(self, channel: bytes, data: bytes) -> None:
        if self._takers is not None and channel not in self._own_channels:
            take = self._takers.get(channel)
            if take is not None:
                take(data)
            return  # Without a taker, it was on its way when we ceased to listen.
        try:
            envelope: Envelope = decode_envelope(data)
        except BadEnvelope:
            self._on_malformed()
            return
        if type(envelope) is Direct:  # Nearly all are.
            self._on_direct(envelope)
            return
        match envelope:
            case Probe(boot=boot, n=n):
                self._hear(boot, n)
            case Takeover(boot=boot):
                if boot != self._boot_id:
                    self._on_replaced()
            case Broadcast() | Kick() | Bounce() | Copies():
                self._on_notice(envelope)
            case StoredHint():
                self.on_hint(envelope)

    # --- the probe ---------------------------------------------------------------------------

    def _hear(self, boot: str, n: int) -> None:
        if boot != self._boot_id:
            _log.warning("another process answers to %s", self._settings.gateway_id)
            return
        self._heard = max(self._heard, n)
        if n == self._sent and not self._hears:
            self._hears = True
            self._on_state()

    async def _probe(self) -> None:
        interval_s = self._settings.timing.probe_interval_s
        while True:
            self._link.check()
            sent = self._subscription.up and self._link.up
            rounds = self._subscription.rounds
            if sent:
                await self._send_probe(rounds)
            n = self._sent
            await asyncio.sleep(interval_s)
            if sent and self._link.up and self._heard < n and self._is_still(rounds):
                self._deaf()

    def _is_still(self, rounds: int) -> bool:
        """Whether the subscription is still the same one: a renewed one is not deaf any more."""
        return self._subscription.up and self._subscription.rounds == rounds

    async def _send_probe(self, rounds: int) -> None:
        n = self._sent + 1
        try:
            listeners = await self._publish_probe()
        except LINK_ERRORS:
            # Not sent, not answered, or refused: it says nothing about our subscription.
            self._heard = max(self._heard, n)
            return
        if not listeners and self._is_still(rounds):
            self._deaf()  # We listen at another server than the one where we publish.

    async def _publish_probe(self) -> int:
        """Publish the next probe; return how many subscribers our channel has at that server."""
        self._sent += 1
        envelope = encode_envelope(Probe(boot=self._boot_id, n=self._sent))
        return int(await self._link.call("PUBLISH", self._channel, envelope))

    def _deaf(self) -> None:
        self.probes_lost += 1
        self._hears = False
        self._observe(Kind.PROBE_LOST, ok=False)
        _log.warning("%s did not hear its own probe: subscribing anew", self._settings.gateway_id)
        self._on_state()
        if self._primary is not None:
            self._primary.doubt()
        if self._primary is None or self._primary.are_together:
            self._subscription.reset(DEAF)
        # Otherwise it may be the link that is at the wrong server. To subscribe anew at the right
        # one would lose what is on its way.

    def leave(self, trouble: Trouble) -> None:
        """Subscribe anew, because the link has left its server."""
        if self._primary is not None:
            self._primary.doubt()  # The subscription may have left it already.
            return
        self._hears = False
        self._subscription.reset(trouble)

    def link_is_back(self) -> None:
        """Send a probe at once: does our subscription hear what the link publishes now?"""
        if self._subscription.up and not self._hears:
            self._probe_soon()

    def _gap(self) -> None:
        self.gaps += 1
        self._observe(Kind.GAP, ok=False)
        _log.warning("%s subscribed anew: messages may be missing", self._settings.gateway_id)
        self._on_gap()

    def _subscription_trouble(self, trouble: Trouble) -> None:
        told = self._link.trouble  # Usually both connections fail at once, for the same reason.
        if trouble != DEAF and (told is None or told.words != trouble.words):
            _log.warning("%s hears nothing: %s", self._settings.gateway_id, trouble)

    def _subscription_state(self, up: bool) -> None:
        if up:
            self._observe(Kind.SUBSCRIBED)
            if self.gaps and not self._hears:
                self._probe_soon()
        self._on_state()

    def _probe_soon(self) -> None:
        """Send a probe at once, and not in the next round."""
        self._sent += 1
        envelope = encode_envelope(Probe(boot=self._boot_id, n=self._sent))
        try:
            self._link.submit(_ignore, "PUBLISH", self._channel, envelope)
        except (LinkDown, LinkBusy):
            self._heard = self._sent  # The prober asks when the link is back.

    def _observe(self, kind: Kind, ok: bool = True) -> None:
        if self._emit is not None:
            gateway_id = self._settings.gateway_id
            now = asyncio.get_running_loop().time()
            self._emit(Event(kind, now, gateway_id, gateway=gateway_id, ok=ok))


def _ignore(reply: Any) -> None:
    """Ignore a reply that nobody waits for."""
