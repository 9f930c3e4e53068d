"""May one more go through now?

A token bucket without a bucket: what a connection has used up is kept as one number, the moment
until which it has paid (the generic cell rate algorithm). So a connection that stays within its
rate costs one addition and two comparisons a message, and no object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ROUNDING: Final = 1e-4
"""Part of one message that a burst is larger than asked for: a sum of times is not exact, and the
last message of a burst must not be refused for that."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second in the long run, so many at once."""

    interval_s: float
    """Between two, in the long run."""
    burst_s: float
    """How far somebody may be ahead of the long run."""

    @classmethod
    def of(cls, per_s: float, burst: int) -> Rate:
        """Return the rate of `per_s` a second, of which `burst` may come at once."""
        return cls(1 / per_s, (burst + ROUNDING) / per_s)

    def take(self, paid_until: float, now: float) -> float | None:
        """Return until when is paid with one more at `now` (s); None when that is too many.

        Who is refused pays nothing. 0 is the mark of somebody who has taken none yet.
        """
        paid_until = (paid_until if paid_until > now else now) + self.interval_s
        return paid_until if paid_until - now <= self.burst_s else None

    def has_calmed_down(self, paid_until: float, now: float) -> bool:
        """Say whether somebody has fallen back behind half of what may come at once."""
        return paid_until - now <= self.burst_s / 2
