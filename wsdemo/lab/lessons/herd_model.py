"""Thundering herd, as a model: when do many users come back, if each follows the same rule?

A gateway has so many places. Who finds a free one keeps it for the time of a register, and is back
then. Who finds none is refused at once, and tries again after the pause that the rule gives. The
numbers of places and seconds are measured on a real run; the model then answers for crowds that do
not fit on this machine.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from wsdemo.client import BackoffRule

if TYPE_CHECKING:
    import pandas as pd

MAX_ATTEMPTS: Final = 200_000
"""A rule that needs more of them is not played to its end."""

HintRule = Callable[[random.Random], float]
"""Says for how long a gateway asks a client that it refuses to stay away (s)."""


class SmallGateway(NamedTuple):
    """What a gateway can do, and how sharply a crowd arrives. Production seconds."""

    places: int
    """So many registers are under way at the same time."""
    service_s: float
    """How long a register takes."""
    spread_s: float
    """Attempts that begin at the same moment arrive within this time."""
    away_s: float = 0.0
    """For how long the gateway is away at first: every attempt fails."""

    @property
    def capacity(self) -> float:
        """How many users are accepted in a second, at most."""
        return self.places / self.service_s


class HerdAttempt(NamedTuple):
    """One attempt to connect."""

    t: float
    """Seconds since the users were cut off."""
    user: int
    accepted: bool


class HerdResult(NamedTuple):
    """All attempts of a crowd."""

    users: int
    attempts: list[HerdAttempt]

    @property
    def back(self) -> int:
        """How many users were accepted."""
        return sum(one.accepted for one in self.attempts)

    @property
    def last_s(self) -> float:
        """When the last user was accepted; infinite when one never was."""
        if self.back < self.users:
            return math.inf
        return max(one.t for one in self.attempts if one.accepted)

    @property
    def each(self) -> float:
        """Attempts a user."""
        return len(self.attempts) / self.users

    def peak(self, bin_s: float) -> float:
        """Return attempts a second in the busiest bin."""
        bins: dict[int, int] = {}
        for one in self.attempts:
            number = int(one.t / bin_s)
            bins[number] = bins.get(number, 0) + 1
        return max(bins.values()) / bin_s

    def table(self) -> pd.DataFrame:
        """Return the attempts as the figure `herd` takes them."""
        import pandas as pd

        rows = [(t, f"user{user:04}", accepted) for t, user, accepted in self.attempts]
        return pd.DataFrame(rows, columns=["t", "user", "accepted"])


def come_back_in_a_model(
    backoff: BackoffRule,
    gateway: SmallGateway,
    users: int,
    *,
    hint: HintRule | None = None,
    until_s: float = math.inf,
    seed: int = 1,
) -> HerdResult:
    """Cut off many users at the same moment, and let them come back.

    Args:
        backoff: the rule of every client.
        hint: what a refused client is asked for; it is added to its own pause.
        until_s: who is not back then is left outside.
    """
    herd = _Herd(backoff, gateway, hint, random.Random(seed))
    return HerdResult(users, herd.run(users, until_s))


class _Herd:
    """The users who are still outside, in the order of their next attempts."""

    def __init__(
        self,
        backoff: BackoffRule,
        gateway: SmallGateway,
        hint: HintRule | None,
        rng: random.Random,
    ) -> None:
        self._backoff = backoff
        self._gateway = gateway
        self._hint = hint
        self._rng = rng
        self._next: list[tuple[float, int, int]] = []
        """When, who, and the number of the attempt."""
        self._taken: list[float] = []
        """When each place that is taken becomes free."""

    def run(self, users: int, until_s: float) -> list[HerdAttempt]:
        for user in range(users):
            self._plan(0.0, user, 1)
        attempts: list[HerdAttempt] = []
        while self._next and len(attempts) < MAX_ATTEMPTS:
            t, user, number = heapq.heappop(self._next)
            if t > until_s:
                break
            accepted = self._is_accepted(t)
            attempts.append(HerdAttempt(t, user, accepted))
            if not accepted:
                asked_s = self._hint(self._rng) if self._hint is not None else 0.0
                self._plan(t + asked_s, user, number + 1)
        return attempts

    def _plan(self, now: float, user: int, number: int) -> None:
        late_s = self._rng.uniform(0, self._gateway.spread_s)
        at = now + self._backoff(number, self._rng) + late_s
        heapq.heappush(self._next, (at, user, number))

    def _is_accepted(self, t: float) -> bool:
        while self._taken and self._taken[0] <= t:
            heapq.heappop(self._taken)
        if t < self._gateway.away_s or len(self._taken) >= self._gateway.places:
            return False
        heapq.heappush(self._taken, t + self._gateway.service_s)
        return True
