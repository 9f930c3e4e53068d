"""Lease samples: what is left of a user's lease, moment by moment? Redis does not report it, so it
has to be asked again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

import redis.asyncio as redis_client
from redis.exceptions import RedisError

from wsdemo.lab.trace.recorder import Recorder
from wsdemo.settings import Keyspace
from wsdemo.tasks import end

EVERY_S: Final = 1.0
"""Production seconds between two samples."""


class LeaseSampler:
    """Records the entries of chosen users, and what is left of their leases."""

    def __init__(
        self, database: redis_client.Redis, keyspace: Keyspace, recorder: Recorder, scale: float
    ) -> None:
        self._database = database
        self._keyspace = keyspace
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
        pipeline = self._database.pipeline(transaction=False)
        for user in users:
            key = self._keyspace.presence(user)
            pipeline.hmget(key, ["gwId", "connId"])
            pipeline.pttl(key)
        answers = await pipeline.execute()
        for user, (gateway, conn_id), left_ms in zip(
            users, answers[::2], answers[1::2], strict=True
        ):
            self._recorder.sample(
                user, gateway or "", conn_id or "", max(0.0, left_ms) * self._scale
            )
