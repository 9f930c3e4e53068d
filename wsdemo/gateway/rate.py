"""Rate limit: may one more message pass now?

This is the generic cell rate algorithm (GCRA), which decides as a token bucket does. What a
connection has used is kept as one number: the moment until which it has paid. So a connection that
stays within its rate costs one addition and two comparisons a message, and no object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ROUNDING: Final = 1e-4
"""A burst is larger than asked for by this part of one message: floating-point sums are not exact,
and the last message of a burst must not be refused for that."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many a second in the long run, and how many at once (the burst)."""

    interval_s: float
    """The time between two messages, in the long run."""
    burst_s: float
    """How far a client may be ahead of the long run."""

    @classmethod
    def of(cls, per_s: float, burst: int) -> Rate:
        """Return the rate of `per_s` a second, of which `burst` may come at once."""
        return cls(1 / per_s, (burst + ROUNDING) / per_s)

    def take(self, paid_until: float, now: float) -> float | None:
        """Return until when a client has paid after one more message at `now` (s); None when that
        exceeds the burst.

        A refused message costs nothing. A client that has sent nothing yet begins with 0.
        """
        paid_until = (paid_until if paid_until > now else now) + self.interval_s
        return paid_until if paid_until - now <= self.burst_s else None

    def has_calmed_down(self, paid_until: float, now: float) -> bool:
        """Say whether a client has used less than half its burst."""
        return paid_until - now <= self.burst_s / 2
