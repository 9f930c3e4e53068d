"""Redis outage: how is Redis stopped, frozen, replaced and started again?

`RedisFaults` are the verbs of any lab; each kind of Redis has those that make sense for it, and
refuses the others in one sentence. `Outage` is for a Redis of one server; those of several servers
are in `wsdemo.lab.cluster.many_servers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from wsdemo.events import Kind
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.trace.frames import REDIS
from wsdemo.lab.trace.recorder import Recorder
from wsdemo.redis.server import BundledServer, RedisServer

ONE_SERVER: Final = (
    "this Redis is one server: lab.redis.stop(), .restart(), .freeze() and .thaw() are for it"
)
NO_REPLICA: Final = (
    "only a replica can take over, and this Redis has none: make the lab with "
    'Lab(redis="sentinel"), or with Lab(redis="cluster", replicas=1)'
)
NO_BUCKETS: Final = (
    'only a cluster divides users into buckets: make the lab with Lab(redis="cluster")'
)


class RedisFaults:
    """What can be done to a laboratory's Redis, and asked about its servers.

    Args:
        recorder: told what is done.
    """

    refusal = ONE_SERVER
    """Why a verb is refused that is not for this kind of Redis."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    @property
    def running(self) -> bool:
        """Whether all its servers live, as far as they are the lab's own; a frozen one does."""
        raise NotImplementedError

    @property
    def frozen(self) -> bool:
        """Whether a server has been frozen, and has not gone on since."""
        raise NotImplementedError

    def wake(self) -> None:
        """Let everything go on that is frozen, at the end of a lab. Nothing is recorded."""

    def pids(self) -> set[int]:
        """Return the processes of the lab's own servers that run now."""
        return set()

    # --- one server --------------------------------------------------------------------------

    async def stop(self) -> None:
        """Kill it: connections break, nothing is answered, all data are lost."""
        raise LabRefused(self.refusal)

    async def restart(self, *, empty: bool = True) -> None:
        """Start it again at the same address, after killing it if it runs.

        Args:
            empty: False keeps the data that it had when this call killed it.
        """
        raise LabRefused(self.refusal)

    async def freeze(self) -> None:
        """Stop its process: connections stay, and nothing is answered. Idempotent."""
        raise LabRefused(self.refusal)

    async def thaw(self) -> None:
        """Let it go on. Idempotent."""
        raise LabRefused(self.refusal)

    # --- several servers ---------------------------------------------------------------------

    async def kill(self, number: int | None) -> int:
        """Kill a server (SIGKILL) with its data; return its number. None: the present primary."""
        raise LabRefused(self.refusal)

    async def pause(self, number: int | None) -> int:
        """Freeze a server (SIGSTOP); return its number. None: the present primary."""
        raise LabRefused(self.refusal)

    async def revive(self, number: int) -> None:
        """Start a killed server again, without its data; let a paused one go on. Idempotent."""
        raise LabRefused(self.refusal)

    async def fail_over(self, number: int | None, how: str | None) -> int:
        """Let a replica take over from a primary that works; return the new primary's number."""
        raise LabRefused(NO_REPLICA)

    async def move(self, buckets: int | Iterable[int], to: int) -> None:
        """Move buckets, with all their users, to a server of the cluster."""
        raise LabRefused(NO_BUCKETS)

    async def stop_replication(self) -> None:
        """From now on the replicas get nothing, until `heal`: what a primary acknowledges is lost
        when it dies.
        """
        raise LabRefused('replication can be stopped in Lab(redis="sentinel") only')

    async def add_primary(self) -> int:
        """Let one more server join a cluster, without any bucket; return its number."""
        raise LabRefused(NO_BUCKETS)

    async def heal(self) -> None:
        """Bring every server back, and wait until all is well. Roles stay as they are."""
        raise LabRefused(self.refusal)

    # --- looking -----------------------------------------------------------------------------

    async def primaries(self) -> list[int]:
        """Return the numbers of the servers that have data to serve now."""
        return [0]

    async def servers_of(self, users: Iterable[str]) -> dict[str, int]:
        """Return the number of the server that has the entry of each user now."""
        (primary,) = await self.primaries()
        return dict.fromkeys(users, primary)

    async def call(self, number: int, *words: str | int) -> Any:
        """Send one command to one server, as redis-cli would, and return its reply as it is."""
        raise LabRefused(self.refusal)

    async def buckets_of(self, number: int) -> list[int]:
        """Return the buckets that a server of a cluster has now."""
        raise LabRefused(NO_BUCKETS)


class Outage(RedisFaults):
    """The faults of a Redis of one server; only of one that the lab has started itself."""

    def __init__(self, server: RedisServer, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._server = server
        self._frozen = False

    @property
    def running(self) -> bool:
        return self._server.bundled is None or self._server.bundled.running

    @property
    def frozen(self) -> bool:
        return self._frozen and self.running

    def wake(self) -> None:
        if self.frozen and self._server.bundled is not None:
            self._server.bundled.resume()

    def pids(self) -> set[int]:
        own = self._server.bundled
        return {own.pid} if own is not None and own.running else set()

    def _own(self) -> BundledServer:
        if self._server.bundled is None:
            raise LabRefused(
                f"this Redis is not the lab's own ({self._server.source}): unset "
                "WSDEMO_REDIS_URL and make the lab without redis=..."
            )
        return self._server.bundled

    async def stop(self) -> None:
        server = self._own()
        self._recorder.note(Kind.CRASH, REDIS)
        self._frozen = False
        await asyncio.to_thread(server.stop)

    async def restart(self, *, empty: bool = True) -> None:
        server = self._own()
        self._frozen = False
        if server.running:
            self._recorder.note(Kind.CRASH if empty else Kind.FAULT, REDIS, reason="restarted")
            await asyncio.to_thread(server.restart, empty=empty)
        else:
            await asyncio.to_thread(server.start)
            self._recorder.note(Kind.FAULT, REDIS, reason="started")

    async def freeze(self) -> None:
        self._own().pause()
        self._frozen = True
        self._recorder.note(Kind.FREEZE, REDIS)

    async def thaw(self) -> None:
        self._own().resume()
        self._frozen = False
        self._recorder.note(Kind.THAW, REDIS)
