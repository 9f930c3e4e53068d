"""Cluster: which parts does a simulation have, how do they meet, and what is left at the end?

Three gateways, a Redis and eight users on one virtual clock. Everything that the checks of
`wsdemo.proof.history` need to know becomes a record.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from wsdemo.gateway.session import SessionState
from wsdemo.inbox.devices import DEVICES_ACK, DEVICES_READ, DEVICES_SEND
from wsdemo.inbox.store import ACK, READ, SEND
from wsdemo.presence.devices import DEVICES_SCRIPTS
from wsdemo.presence.store import SCRIPTS
from wsdemo.proof.history import Counted, Looked, RoomLooked
from wsdemo.proof.simulate.gateways import RETRY_S, GatewayFleet
from wsdemo.proof.simulate.half_open import HalfOpenWatch
from wsdemo.proof.simulate.inboxes import InboxObserver
from wsdemo.proof.simulate.loop import VirtualTimeLoop
from wsdemo.proof.simulate.network import SimulatedNetwork
from wsdemo.proof.simulate.offer import PLAIN, Offer
from wsdemo.proof.simulate.ownership import KEYSPACE, OwnershipObserver
from wsdemo.proof.simulate.records import HistoryRecorder
from wsdemo.proof.simulate.redis import SimulatedRedis
from wsdemo.proof.simulate.rooms import ROOMS, RoomsObserver
from wsdemo.proof.simulate.users import UserCrowd
from wsdemo.rooms.store import ROOM_SCRIPTS
from wsdemo.router import ROUTE

GATEWAYS: Final = 3
READ_ALL_S: Final = 20.0
"""So long after all users are online, each of them has read the inbox."""


class SimulatedCluster:
    """The cluster: `await start()`, then let time pass, then `await stop()`.

    Args:
        seed: of everything.
        policy: which presence the gateways have: "fenced", or "go-demo".
        mutants: name of a shipped script -> the text that Redis executes in its place.
        offer: the optional features of its gateways.
    """

    def __init__(
        self,
        loop: VirtualTimeLoop,
        seed: int,
        *,
        policy: str = "fenced",
        mutants: Mapping[str, str] | None = None,
        offer: Offer = PLAIN,
    ) -> None:
        names = [f"gateway-{n:02}" for n in range(1, GATEWAYS + 1)]
        self.loop = loop
        self.network = loop.network = SimulatedNetwork(loop, str(seed))
        self.offer = offer
        self.trusts_redis = offer.trusts_redis(seed)
        self.gateways = GatewayFleet(self.network, names, policy, offer.settings(seed))
        self.recorder = HistoryRecorder(loop)
        self.inboxes = InboxObserver(
            self.recorder, offer, self.trusts_redis, lambda key: self.redis.entry(key)
        )
        self.half_open = HalfOpenWatch(loop, self.recorder)
        self.observer = OwnershipObserver(
            self.recorder,
            offer.names,
            lambda key: self.redis.entry(key),
            self.gateways.fenced,
            lambda: self.redis.host.clock.time(),
        )
        self.rooms = RoomsObserver(self.recorder, lambda key: self.redis.entry(key))
        self.observer.of_features = self.inboxes.of_scripts | self.rooms.of_scripts
        self.observer.on_forgotten = self._forgotten
        self.redis = SimulatedRedis(
            self.network, self.observer.on_command, _replacements(mutants or {})
        )
        rng = random.Random(f"{seed}:users")
        self.users = UserCrowd(
            self.network, self.recorder, self.half_open, names, rng, offer, self._is_online
        )
        loop.set_exception_handler(self._failed)

    async def start(self) -> None:
        """Start Redis and the gateways, and let the users come."""
        self.redis.start()
        for name in self.gateways.names:
            self.gateways.start(name)
        await asyncio.sleep(RETRY_S)
        self.users.start()

    async def stop(self) -> None:
        """Let all users leave, stop the gateways, and look for what is left."""
        tasks = [*self.users.tasks, *self.half_open.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(1.0)  # The last messages may arrive.
        if self.offer.durable:
            # Who comes back must be given what was stored meanwhile, or be told.
            self.users.log_in_all()
            await asyncio.sleep(READ_ALL_S)
            if self.offer.devices > 1:
                self.look()  # A device that had to go for another one is not judged.
        for device in self.users.living():
            device.leave()
        await asyncio.sleep(10.0)
        self._count_what_is_left()
        await self.gateways.stop()
        await asyncio.sleep(10.0)
        self._look_for_leaks()

    def look(self) -> None:
        """Record what everybody believes of each user at this moment."""
        believed: dict[str, list[str]] = defaultdict(list)
        for _, gateway in self.gateways.serving():
            for session in gateway.registry:
                if session.state is SessionState.REGISTERED:
                    believed[name_of(session.user, session.device)].append(session.conn_id)
        for user in self.offer.names:
            self._look_at(user, believed[user])
        for device in self.users.living():
            if device.registered:
                device.look_at_watches()
        if self.offer.rooms:
            for room in ROOMS:
                self.recorder.note(
                    RoomLooked,
                    room=room,
                    listed=self.rooms.listed(room),
                    told=self.users.told_of(room),
                )

    def _look_at(self, user: str, sessions: list[str]) -> None:
        owner = self.observer.owner(user).conn
        devices = list(self.users.living(user))
        conns = [device.client.conn_id for device in devices if device.registered]
        conn = owner if owner in conns else "".join(conns[-1:])
        # Each device that believes to be connected is a believer, as each session is.
        believers = tuple(sorted({*sessions, *conns}))
        self.recorder.note(
            Looked,
            user=user,
            online=bool(devices),
            conn=conn,
            believers=believers,
            owner=owner,
        )

    def _is_online(self, user: str) -> bool:
        return bool(self.observer.owner(user).conn)

    def _forgotten(self) -> None:
        self.inboxes.lost()
        self.rooms.forgotten()

    def _count_what_is_left(self) -> None:
        """When all users have left, gateways have nothing under way."""
        for name, gateway in self.gateways.serving():
            stats = gateway.stats()
            for what in ("connections", "sockets"):
                self.recorder.note(Counted, gateway=name, what=what, count=stats[what], wanted=0)

    def _look_for_leaks(self) -> None:
        for key, expires in self.redis.keys().items():
            if key.startswith(KEYSPACE.presence("")) or not expires:
                self.recorder.violated("left", f"the key {key} is there after the end")
        left = asyncio.all_tasks(self.loop) - {asyncio.current_task(self.loop)}
        for name in sorted(task.get_name() for task in left):
            self.recorder.violated("left", f"the task {name!r} is there after the end")

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        culprit = context.get("task") or context.get("future")
        host = self.loop.host_of.get(culprit) if culprit is not None else None
        if host is not None and host.dead:
            return  # What a dead host still does has no effect.
        problem = context.get("exception")
        self.recorder.violated("exception", f"{context.get('message')}: {problem!r}")


def name_of(user: str, device: str) -> str:
    """Return what a session is called in a history."""
    return f"{user}/{device}" if device else user


def _replacements(mutants: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return text of a script -> the text that is executed in its place."""
    of_inbox = (SEND, READ, ACK, DEVICES_SEND, DEVICES_READ, DEVICES_ACK)
    return {
        script.text.encode(): mutants[script.name].encode()
        for script in (*SCRIPTS, ROUTE, *DEVICES_SCRIPTS[1:], *of_inbox, *ROOM_SCRIPTS)
        if script.name in mutants
    }
