"""Wall clock: what time is it, according to this gateway?

Presence that compares timestamps asks its gateway's own clock, and those of two machines differ.
A wall clock of the laboratory runs as much faster as everything else in it, so that a minute of
production is a minute of timestamps, and it can be set wrong.
"""

from __future__ import annotations

import time


class WallClock:
    """Unix time in production seconds, with an error of its own: `clock()`.

    Args:
        scale: how many production seconds pass in a second.
        error_s: how many production seconds it is ahead; negative when it is behind.
    """

    def __init__(self, scale: float, error_s: float = 0.0) -> None:
        self._scale = scale
        self.error_s = error_s

    def __call__(self) -> float:
        # All clocks of a process agree, apart from their errors: they start at the same moment.
        return _UNIX + (time.monotonic() - _MONOTONIC) * self._scale + self.error_s


_UNIX, _MONOTONIC = time.time(), time.monotonic()
