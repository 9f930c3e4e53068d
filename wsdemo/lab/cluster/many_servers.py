"""Redis servers: how are those of a lab's cluster, or of its Sentinel trio, broken and healed?

A server has a number, from 0 on, and keeps it whatever its role is. In a cluster of three, servers
0 to 2 are the primaries at the start; their replicas follow. Of a Sentinel trio, server 0 is the
primary at the start. All these verbs are those of the kit (`wsdemo.redis.cluster_server`,
`wsdemo.redis.sentinel_server`); here they are recorded, and run beside the lab's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

from wsdemo import buckets
from wsdemo.addresses import RedisAddress
from wsdemo.events import Kind
from wsdemo.lab.cluster.outage import NO_REPLICA, RedisFaults
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.trace.frames import REDIS
from wsdemo.lab.trace.recorder import Recorder
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.sentinel_server import BundledSentinel, HandOver
from wsdemo.redis.server import BundledServer, ServerError
from wsdemo.redis.slots import SlotMap, claims, slot_of
from wsdemo.rig.names import unknown
from wsdemo.settings import Keyspace

SEVERAL: Final = (
    "this Redis has several servers: lab.redis.kill(1), .pause(1) and .revive(1) are for one "
    "of them, and lab.redis.heal() is for all"
)
NO_PASSWORD: Final = "not-the-password"


class ServersFaults(RedisFaults):
    """The faults of a Redis of several servers."""

    refusal = SEVERAL

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._paused: set[int] = set()

    @property
    def _servers(self) -> Sequence[BundledServer]:
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return all(server.running for server in self._servers)

    @property
    def frozen(self) -> bool:
        return any(self._servers[number].running for number in self._paused)

    def wake(self) -> None:
        for number in self._paused:
            if self._servers[number].running:
                self._servers[number].resume()
        self._paused.clear()

    def pids(self) -> set[int]:
        return {server.pid for server in self._servers if server.running}

    async def _chosen(self, number: int | None) -> int:
        """Return the number of the server that is meant; None: there is only one that can be.

        Raises:
            LabRefused: there is no such server.
        """
        if number is None:
            raise LabRefused(f"say which server, as a number from 0 to {len(self._servers) - 1}")
        return self._known(number)

    def _known(self, number: object) -> int:
        if type(number) is not int or not 0 <= number < len(self._servers):
            raise LabRefused(unknown("server", number, map(str, range(len(self._servers)))))
        return number

    def _note(self, what: str) -> None:
        self._recorder.note(Kind.FAULT, REDIS, reason=what)

    async def kill(self, number: int | None) -> int:
        chosen = await self._chosen(number)
        self._note(f"server {chosen} killed")
        self._paused.discard(chosen)
        await asyncio.to_thread(self._servers[chosen].kill)
        return chosen

    async def pause(self, number: int | None) -> int:
        chosen = await self._chosen(number)
        self._servers[chosen].pause()
        self._paused.add(chosen)
        self._note(f"server {chosen} frozen")
        return chosen

    async def revive(self, number: int) -> None:
        chosen = self._known(number)
        await asyncio.to_thread(self._bring_back, chosen)
        self._paused.discard(chosen)
        self._note(f"server {chosen} is back")

    def _bring_back(self, number: int) -> None:
        raise NotImplementedError

    async def heal(self) -> None:
        await asyncio.to_thread(self._heal)
        self._paused.clear()
        self._note("all servers are back")

    def _heal(self) -> None:
        raise NotImplementedError


class ClusterFaults(ServersFaults):
    """The faults of a cluster's servers."""

    def __init__(self, cluster: BundledCluster, keyspace: Keyspace, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._cluster = cluster
        self._keyspace = keyspace
        self._slots = buckets.slots(keyspace.buckets)

    @property
    def _servers(self) -> Sequence[BundledServer]:
        return self._cluster.servers

    def _bring_back(self, number: int) -> None:
        self._cluster.revive(number)

    def _heal(self) -> None:
        self._cluster.heal()

    async def call(self, number: int, *words: str | int) -> Any:
        return await asyncio.to_thread(self._cluster.call, self._known(number), *words)

    async def fail_over(self, number: int | None, how: str | None) -> int:
        chosen = await self._chosen(number)
        if how is not None:
            raise LabRefused('a cluster has one way to fail over: how=... is for "sentinel"')
        if not self._cluster.replicas:
            raise LabRefused(NO_REPLICA)
        replica = await asyncio.to_thread(self._cluster.fail_over, chosen)
        self._note(f"server {replica} takes over from {chosen}")
        return replica

    async def move(self, buckets: int | Iterable[int], to: int) -> None:
        target = self._known(to)
        wanted = sorted({buckets} if isinstance(buckets, int) else set(buckets))
        for bucket in wanted:
            if type(bucket) is not int or not 0 <= bucket < len(self._slots):
                raise LabRefused(f"a bucket is a number from 0 to {len(self._slots) - 1}")
        await asyncio.to_thread(self._cluster.move, [self._slots[b] for b in wanted], target)
        self._note(f"{len(wanted)} buckets move to server {target}")

    async def add_primary(self) -> int:
        number = await asyncio.to_thread(self._cluster.add_primary)
        self._note(f"server {number} joins")
        return number

    async def primaries(self) -> list[int]:
        return await asyncio.to_thread(self._primaries)

    def _primaries(self) -> list[int]:
        found = []
        for number, server in enumerate(self._servers):
            if server.running and number not in self._paused:
                with contextlib.suppress(ServerError):  # It has just started.
                    if self._cluster.is_primary(number):
                        found.append(number)
        return found

    async def servers_of(self, users: Iterable[str]) -> dict[str, int]:
        owners = await asyncio.to_thread(self._owners)
        places = {user: owners[slot_of(self._keyspace.presence(user))] for user in users}
        numbers = {place: number for number, place in enumerate(self._cluster.addresses)}
        return {user: numbers[place] for user, place in places.items()}

    def _owners(self) -> list[str]:
        """Return the address of the server that has each slot, as the newest of them knows it."""
        known = SlotMap()
        for number in self._primaries():
            text = self._cluster.call(number, "CLUSTER", "NODES")
            known.learn(claims(text, self._cluster.addresses[number]))
        return known.owners

    async def buckets_of(self, number: int) -> list[int]:
        chosen = self._known(number)
        here = set(await asyncio.to_thread(self._cluster.slots_of, chosen))
        return [bucket for bucket, slot in enumerate(self._slots) if slot in here]


class SentinelFaults(ServersFaults):
    """The faults of the servers that sentinels watch; the sentinels themselves stay well."""

    def __init__(self, trio: BundledSentinel, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._trio = trio

    @property
    def _servers(self) -> Sequence[BundledServer]:
        return self._trio.servers

    def _number(self, server: BundledServer) -> int:
        return next(n for n, one in enumerate(self._trio.servers) if one is server)

    async def _chosen(self, number: int | None) -> int:
        if number is None:
            return await asyncio.to_thread(lambda: self._number(self._trio.primary))
        return self._known(number)

    def _bring_back(self, number: int) -> None:
        self._trio.revive(self._trio.servers[number])

    def _heal(self) -> None:
        self._let_replicate()
        self._trio.heal()

    async def call(self, number: int, *words: str | int) -> Any:
        server = self._trio.servers[self._known(number)]
        return await asyncio.to_thread(self._trio.call, server, *words)

    async def stop_replication(self) -> None:
        await asyncio.to_thread(self._cut_off_replicas)
        self._note("the replica gets nothing more")

    def _cut_off_replicas(self) -> None:
        for replica in self._trio.replicas:
            # It comes back without the right to read, and asks in vain.
            self._trio.call(replica, "CONFIG", "SET", "masterauth", NO_PASSWORD)
        self._trio.call(self._trio.primary, "CLIENT", "KILL", "TYPE", "replica")

    def _let_replicate(self) -> None:
        for server in self._trio.servers:
            if server.running:
                server.resume()
                password = RedisAddress.parse(server.url).password or ""
                self._trio.call(server, "CONFIG", "SET", "masterauth", password)

    async def fail_over(self, number: int | None, how: str | None) -> int:
        primary = await self._chosen(None)
        if number not in (None, primary):
            raise LabRefused(f"server {number} is not the primary: server {primary} is")
        ways: dict[str, Any] = {way.value: way for way in HandOver}
        if how is not None and how not in ways:
            raise LabRefused(unknown("way to fail over", how, ways))
        way = HandOver.COORDINATED if how is None else ways[how]
        await asyncio.to_thread(self._trio.fail_over, way)
        (now,) = await self.primaries()
        self._note(f"server {now} takes over from {primary}")
        return now

    async def primaries(self) -> list[int]:
        return [await self._chosen(None)]
