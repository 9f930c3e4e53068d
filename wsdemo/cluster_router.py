"""Sharded publish/subscribe: how does a message reach another gateway through a cluster?

By the channel that the gateway has for the bucket of the recipient. It is on the server of the
recipient's presence, so one script looks up and publishes, as on a single Redis (`router`).

Each primary is probed on its own, on the channels that we have there in turn. A probe that is not
heard resets the ear. A probe that is heard, but was counted for nobody, means that the ear is at a
replica, where publishers do not see us: then the map is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from wsdemo.buckets import bucket_of, slots
from wsdemo.events import Kind
from wsdemo.protocol import Probe, Takeover, encode_envelope
from wsdemo.redis.cluster_ears import ClusterEars, Ear
from wsdemo.redis.cluster_link import ClusterLink, answers
from wsdemo.redis.ears import Ears
from wsdemo.redis.link import LinkBusy, LinkDown, Trial
from wsdemo.redis.outcome import Outcome, Trouble
from wsdemo.redis.scripts import bulk
from wsdemo.router import DEAF, NOBODY, ROUTE, TRIAL, Router
from wsdemo.settings import Keyspace

_log = logging.getLogger("wsdemo.router")


def trials_of(keyspace: Keyspace) -> dict[int, Trial]:
    """Return the trials that the servers of a cluster must pass, by the slots of the buckets."""
    return {
        slot: Trial(
            TRIAL.at(keyspace),
            tuple(keyspace.start_of(kind, bucket) + NOBODY for kind in ("presence", "fence")),
            (keyspace.gateway_channel(f":{NOBODY}", bucket),),
        )
        for bucket, slot in enumerate(slots(keyspace.buckets))
    }


class ClusterRouter(Router):
    """The channels of one gateway in a cluster, one for each bucket."""

    _link: ClusterLink

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        keyspace = self._settings.keyspace
        count = range(keyspace.buckets)
        self._slot_of_bucket = slots(keyspace.buckets)
        self._route = ROUTE.at(keyspace)
        self._route_start = self._route.command_start(keys=1, args=2 + self._link.added_args)
        self._route_ends = [bulk(keyspace.script_channels(bucket).encode()) for bucket in count]
        self._presence_prefixes = [keyspace.start_of("presence", b).encode() for b in count]
        self._unheard: dict[int, Ear] = {}
        """By number of the probe: the ear that has still to hear it."""
        self._gap_told = False

    def _new_subscription(self) -> Ears:
        keyspace = self._settings.keyspace
        self._channels = keyspace.gateway_channels(self._settings.gateway_id)
        self._own_channels |= {channel.encode() for channel in self._channels}
        self._ears = ClusterEars(
            self._link,
            self._settings.limits,
            self._channels,
            keyspace.broadcast_channel,
            self._receive,
            self._channel_gap,
            self._on_state,
            self._rng,
        )
        return self._ears

    @property
    def ready(self) -> bool:
        return self._ears.up

    @property
    def leases_may_lapse(self) -> bool:
        """Whether users who are online may be missing in Redis, because a server of the cluster
        refuses refreshes. (One that is away does not answer for its users at all.)
        """
        troubles = (node.trouble for node in self._link.all_nodes() if node.open)
        return any(trouble and trouble.outcome is not Outcome.OOM for trouble in troubles)

    def buckets_at(self, address: str) -> list[int]:
        """Return the buckets that a server has."""
        slots_here = enumerate(self._slot_of_bucket)
        return [bucket for bucket, slot in slots_here if self._link.owner(slot) == address]

    @property
    def deaf_shards(self) -> list[str]:
        return self._ears.deaf_shards

    @property
    def passed_on(self) -> int:
        return self._ears.passed_on

    # --- life ----------------------------------------------------------------------------------

    async def _publish_probe(self) -> int:
        """Ask each primary at the start as well: what it counts shows that it hears us."""
        self._probe_all()
        return 1

    def _one_channel_a_server(self) -> list[tuple[int, str]]:
        """Return, for each server of which we know, a slot that it has and our channel there."""
        chosen = {self._link.owner(slot): n for n, slot in enumerate(self._slot_of_bucket)}
        return [(self._slot_of_bucket[n], self._channels[n]) for n in chosen.values()]

    async def _ask_to_leave(self) -> None:
        envelope = encode_envelope(Takeover(self._boot_id))
        await answers(
            self._link.call_at(slot, "SPUBLISH", channel, envelope)
            for slot, channel in self._one_channel_a_server()
        )

    async def _listeners(self) -> int:
        told = await answers(
            self._link.call_at(slot, "PUBSUB", "SHARDNUMSUB", channel)
            for slot, channel in self._one_channel_a_server()
        )
        return max(int(count) for _, count in told)

    # --- sending -------------------------------------------------------------------------------

    def route(self, user: bytes, head: bytes, on_reply: Callable[[Any], None]) -> None:
        bucket = bucket_of(user, len(self._route_ends))
        key = self._presence_prefixes[bucket] + user
        command = b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n%b" % (
            self._route_start,
            len(key),
            key,
            len(head),
            head,
            self._route_ends[bucket],
        )
        slot = self._slot_of_bucket[bucket]
        self._link.submit_at(slot, on_reply, command, self._route, in_time=True)

    # --- the probes ----------------------------------------------------------------------------

    def _hear(self, boot: str, n: int) -> None:
        if boot != self._boot_id:
            _log.warning("another process answers to %s", self._settings.gateway_id)
        self._unheard.pop(n, None)

    async def _probe(self) -> None:
        while True:
            self._link.check()
            asked = self._probe_all()
            await asyncio.sleep(self._settings.timing.probe_interval_s)
            for n, (ear, connection) in asked.items():
                if self._unheard.pop(n, None) is not None and ear.up and ear.round is connection:
                    self._deaf_at(ear)

    def _probe_all(self) -> dict[int, tuple[Ear, object]]:
        """Publish one probe for each primary; return the numbers of those that have to be heard."""
        asked: dict[int, tuple[Ear, object]] = {}
        for ear in list(self._ears.ears.values()):
            mine = self._ears.at(ear)
            if not mine or not ear.up:
                continue
            self._sent += 1
            n = self._sent
            envelope = encode_envelope(Probe(boot=self._boot_id, n=n))
            channel = mine[n % len(mine)].decode()
            self._unheard[n] = ear
            try:
                self._link.submit(self._counted(n), "SPUBLISH", channel, envelope)
            except (LinkDown, LinkBusy):
                del self._unheard[n]
            else:
                asked[n] = ear, ear.round
        return asked

    def _counted(self, n: int) -> Callable[[Any], None]:
        def take(reply: Any) -> None:
            if isinstance(reply, Exception):
                self._unheard.pop(n, None)  # Not answered: it says nothing about our ears.
            if isinstance(reply, Exception) or not reply:
                self._link.look_soon()

        return take

    def _deaf_at(self, ear: Ear) -> None:
        self.probes_lost += 1
        self._observe(Kind.PROBE_LOST, ok=False)
        _log.warning(
            "%s did not hear its own probe at %s: subscribing anew",
            self._settings.gateway_id,
            ear.address,
        )
        ear.reset(DEAF)

    def leave(self, trouble: Trouble) -> None:
        """Do nothing: each ear finds out for itself when its server is of no use."""

    def link_is_back(self) -> None:
        """Send probes at once: do our ears hear what the link publishes now?"""
        if self._prober is not None:
            self._probe_all()

    def _channel_gap(self, channel: str) -> None:
        if channel.encode() in self._own_channels:
            self.gaps += 1
        if not self._gap_told:
            self._gap_told = True
            asyncio.get_running_loop().call_soon(self._tell_gap)

    def _tell_gap(self) -> None:
        """Tell once of the gaps that came together: a server has many of our channels."""
        self._gap_told = False
        self._observe(Kind.GAP, ok=False)
        _log.warning("%s subscribed anew: messages may be missing", self._settings.gateway_id)
        self._on_gap()
