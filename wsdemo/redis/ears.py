"""Subscriptions: what does a gateway need of whatever receives messages for it?

On a single Redis that is one connection (`subscription`), in a cluster one for each primary
(`cluster_ears`).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from wsdemo.redis.outcome import Trouble


class Ears(Protocol):
    """The subscribed connections of one gateway."""

    @property
    def up(self) -> bool:
        """Whether everything that a gateway has to hear is subscribed to."""
        ...

    @property
    def trouble(self) -> Trouble | None:
        """Why it is not, when there is a known reason."""
        ...

    @property
    def rounds(self) -> int:
        """How many times everything was confirmed; each time after the first is a gap."""
        ...

    async def start(self, patience_s: float = 0.0) -> None:
        """Subscribe, and stay subscribed from here on.

        Raises:
            RedisUnavailable: it could not be done; nothing is left running.
        """
        ...

    async def unsubscribe(self) -> None:
        """Unsubscribe from all; what was published before still arrives."""
        ...

    async def stop(self) -> None:
        """Disconnect for good. Idempotent."""
        ...

    def reset(self, trouble: Trouble) -> None:
        """Give up what there is, and subscribe anew."""
        ...

    def add(self, channel: str) -> asyncio.Future[None]:
        """Subscribe to one more channel; see `Subscription.add`."""
        ...

    def remove(self, channel: str) -> None:
        """Unsubscribe from a channel that was added. What was published before may still arrive."""
        ...
