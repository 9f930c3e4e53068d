"""Half-open connections: how long does a fault last that has lost bytes of a connection?

Until both ends know. Redis itself never finds out: of a connection to it, the gateway's end counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from wsdemo.proof.history import Fault
from wsdemo.proof.simulate.connection import SimulatedConnection
from wsdemo.proof.simulate.loop import VirtualTimeLoop
from wsdemo.proof.simulate.records import HistoryRecorder
from wsdemo.proof.simulate.redis import REDIS_HOST

HALF_OPEN: Final = "half-open"
"""The name of this fault in a history."""
LOOK_AGAIN_S: Final = 1.0


class HalfOpenWatch:
    """Records from when to when connections are half-open."""

    def __init__(self, loop: VirtualTimeLoop, recorder: HistoryRecorder) -> None:
        self._loop = loop
        self._recorder = recorder
        self.tasks: set[asyncio.Task[None]] = set()
        """One for each group of connections that is half-open."""

    def begin(
        self, connections: Sequence[SimulatedConnection], where: tuple[str, ...] | None = None
    ) -> None:
        """Bytes of these connections were lost.

        Args:
            where: which users that concerns; None when it may be any.
        """
        if not connections:
            return
        self._recorder.note(Fault, name=HALF_OPEN, begins=True, where=where)
        task = self._loop.create_task(self._until_gone(connections, where), name=HALF_OPEN)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _until_gone(
        self, connections: Sequence[SimulatedConnection], where: tuple[str, ...] | None
    ) -> None:
        while any(map(_is_half_open, connections)):  # noqa: ASYNC110 - virtual time is cheap
            await asyncio.sleep(LOOK_AGAIN_S)
        self._recorder.note(Fault, name=HALF_OPEN, begins=False, where=where)


def _is_half_open(connection: SimulatedConnection) -> bool:
    finds_out = connection.target.name != REDIS_HOST
    return not connection.near.dead or (finds_out and not connection.far.dead)
