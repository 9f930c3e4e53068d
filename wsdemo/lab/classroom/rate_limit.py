"""Rate limit: how long does somebody wait who is too fast, and who may try a code once more?

`Throttle` slows down and never drops: whoever reads only as fast as it allows makes TCP push back,
and nothing is lost because of an eager finger. `FailureLimit` counts wrong tries, so that a short
code cannot be guessed. Both are pure but for their clock, which tests replace.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 60.0
FOLLOWED: Final = 1_024
"""Of so many addresses the failures are counted apart; of further ones, the oldest are forgotten.
Then the limit for all of them together is what holds."""


class Throttle:
    """A token bucket whose users wait.

    Args:
        per_s: how many a second in the long run.
        burst: how many at once.
    """

    def __init__(
        self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval_s = 1 / per_s
        self._burst_s = burst / per_s
        self._clock = clock
        self._paid_until = 0.0

    def delay_s(self) -> float:
        """Count one more, and return how long it has to wait."""
        now = self._clock()
        self._paid_until = max(self._paid_until, now) + self._interval_s
        return max(0.0, self._paid_until - now - self._burst_s)

    async def take(self) -> None:
        """Count one more, and wait as long as it has to."""
        if (delay_s := self.delay_s()) > 0:
            await asyncio.sleep(delay_s)


class FailureLimit:
    """How many failures there were in the last minute, of each one and of all together.

    Args:
        each: so many failures of one address are allowed.
        all_together: so many failures of all addresses are allowed.
    """

    def __init__(
        self, each: int, all_together: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._each, self._all_together = each, all_together
        self._clock = clock
        self._of_all: deque[float] = deque(maxlen=all_together)
        self._of_one: dict[str, deque[float]] = {}

    def is_exceeded(self, address: str) -> bool:
        """Say whether this address has to wait."""
        since = self._clock() - WINDOW_S
        mine = _recent(self._of_one.get(address, deque()), since)
        if not mine:
            self._of_one.pop(address, None)
        return mine >= self._each or _recent(self._of_all, since) >= self._all_together

    def add(self, address: str) -> None:
        """Count a failure."""
        now = self._clock()
        self._of_all.append(now)
        self._of_one.setdefault(address, deque(maxlen=self._each)).append(now)
        if len(self._of_one) > FOLLOWED:
            self._of_one.pop(next(iter(self._of_one)))


def _recent(times: deque[float], since: float) -> int:
    """Forget what is too long ago, and return how many are left."""
    while times and times[0] <= since:
        times.popleft()
    return len(times)
