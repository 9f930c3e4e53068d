"""No fencing token: what have the policies in common that use a gateway's own clock?

They mint nothing, and renew each lease with commands of its own. What differs stands in one file
each: who may register, what a renewal writes, and what a release deletes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from wsdemo.presence import Refresh, Renewal
from wsdemo.redis.interface import Link
from wsdemo.settings import Keyspace, Timing


class UnfencedPresence:
    """Mint and refresh; each policy adds its own register and release.

    Args:
        wall_clock: the gateway's own clock, in Unix seconds; the laboratory skews it.
    """

    def __init__(
        self,
        link: Link,
        keyspace: Keyspace,
        timing: Timing,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._link = link
        self._keyspace = keyspace
        self._ttl_ms = timing.presence_ttl_ms
        self._wall_clock = wall_clock

    async def mint(self, user: str) -> int:
        """There are no tokens."""
        return 0

    async def refresh(self, renewals: Sequence[Renewal]) -> Sequence[Refresh | Exception]:
        return await asyncio.gather(*(self._refresh(renewal) for renewal in renewals))

    async def _refresh(self, renewal: Renewal) -> Refresh | Exception:
        """Renew one lease."""
        raise NotImplementedError
