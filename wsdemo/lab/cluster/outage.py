"""Redis outage: how is Redis stopped, frozen and started again?"""

from __future__ import annotations

import asyncio

from wsdemo.events import Kind
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.trace.frames import REDIS
from wsdemo.lab.trace.recorder import Recorder
from wsdemo.redis.server import BundledServer, RedisServer


class Outage:
    """The faults of a laboratory's Redis; only of one that it has started itself."""

    def __init__(self, server: RedisServer, recorder: Recorder) -> None:
        self._server = server
        self._recorder = recorder
        self._frozen = False

    @property
    def running(self) -> bool:
        """Whether the process of the lab's own Redis lives; another one is not looked at."""
        return self._server.bundled is None or self._server.bundled.running

    @property
    def frozen(self) -> bool:
        """Whether its process has been stopped, and not gone on since."""
        return self._frozen and self.running

    def _own(self) -> BundledServer:
        if self._server.bundled is None:
            raise LabRefused(
                f"this Redis is not the lab's own ({self._server.source}): unset "
                "WSDEMO_REDIS_URL and make the lab without redis=..."
            )
        return self._server.bundled

    async def stop(self) -> None:
        """Kill it: connections break, nothing is answered, all data are lost."""
        server = self._own()
        self._recorder.note(Kind.CRASH, REDIS)
        self._frozen = False
        await asyncio.to_thread(server.stop)

    async def restart(self, *, empty: bool = True) -> None:
        """Start it again at the same address, after killing it if it runs.

        Args:
            empty: False keeps the data that it had when this call killed it.
        """
        server = self._own()
        self._frozen = False
        if server.running:
            self._recorder.note(Kind.CRASH if empty else Kind.FAULT, REDIS, reason="restarted")
            await asyncio.to_thread(server.restart, empty=empty)
        else:
            await asyncio.to_thread(server.start)
            self._recorder.note(Kind.FAULT, REDIS, reason="started")

    async def freeze(self) -> None:
        """Stop its process: connections stay, and nothing is answered. Idempotent."""
        self._own().pause()
        self._frozen = True
        self._recorder.note(Kind.FREEZE, REDIS)

    async def thaw(self) -> None:
        """Let it go on. Idempotent."""
        self._own().resume()
        self._frozen = False
        self._recorder.note(Kind.THAW, REDIS)
