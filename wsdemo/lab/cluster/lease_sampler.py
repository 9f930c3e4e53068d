"""Lease samples: what is left of a user's lease, moment by moment? Redis does not report it, so it
has to be asked again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

from redis.exceptions import RedisError

from wsdemo.lab.cluster.entries import Entries
from wsdemo.lab.trace.recorder import Recorder
from wsdemo.tasks import end

EVERY_S: Final = 1.0
"""Production seconds between two samples."""


class LeaseSampler:
    """Records the entries of chosen users, and what is left of their leases."""

    def __init__(self, entries: Entries, recorder: Recorder, scale: float) -> None:
        self._entries = entries
        self._recorder = recorder
        self._scale = scale
        self._users: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, users: Iterable[str]) -> None:
        """From now on, sample these as well."""
        self._users |= dict.fromkeys(users)
        if self._task is None and self._users:
            self._task = asyncio.create_task(self._look(), name="lease sampler")

    async def stop(self) -> None:
        """Sample nobody any more. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)

    async def _look(self) -> None:
        while True:
            # While Redis does not answer, nothing is recorded.
            with contextlib.suppress(RedisError, OSError):
                await self._sample(list(self._users))
            await asyncio.sleep(EVERY_S / self._scale)

    async def _sample(self, users: list[str]) -> None:
        for one in await self._entries.leases(users):
            self._recorder.sample(one.user, one.gateway, one.conn_id, one.left_ms * self._scale)
