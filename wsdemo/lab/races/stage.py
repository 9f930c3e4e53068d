"""Schedule: how do three concurrent verbs happen in exactly this order?

All three are begun, and stopped before they start. Then one step at a time is released, and the
next one follows when Redis has answered it. Between steps the clocks of the gateways are set
forward by a second, so that their readings are as exact as the order.

The verbs are those of the presence that gateways use. The stage works in the same way with two
running gateways and without any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from wsdemo.lab.cluster.directors import Before, Gates, HeldVerbs, Place, Verb
from wsdemo.lab.races.models import STEP_S
from wsdemo.lab.races.orders import GATEWAY_OF, THREAD_OF, THREADS, USER, WRITES, Action
from wsdemo.rig.clocks import WallClock

STEP_TIMEOUT_S: Final = 5.0
MIDNIGHT: Final = 1_800_000_000.0
"""Where the clocks begin, in Unix seconds: a whole number, the same in every run."""

VERBS: Final[dict[str, tuple[Verb, Verb]]] = {
    "heartbeat": ("refresh", "refresh"),
    "clean-up": ("release", "release"),
    # The token of a registration is minted before its write: this is the read of the fenced policy.
    "re-register": ("mint", "register"),
}
"""In which verb a thread reads, and in which it writes."""


class HandClock(WallClock):
    """A wall clock that stands still unless it is set forward."""

    def __init__(self, error_s: float = 0.0) -> None:
        super().__init__(1.0, error_s)
        self._now = MIDNIGHT

    def move(self, seconds: float) -> None:
        """Let so much time pass."""
        self._now += seconds

    def __call__(self) -> float:
        return self._now + self.error_s


class Stage:
    """The directors of both gateways and their clocks, which play an order."""

    def __init__(
        self, directors: Mapping[str, HeldVerbs], clocks: Mapping[str, HandClock], user: str = USER
    ) -> None:
        self._directors = directors
        self._clocks = clocks
        self._user = user

    def pass_time(self, seconds: float) -> None:
        """Let time pass on all clocks."""
        for clock in self._clocks.values():
            clock.move(seconds)

    def hold(self) -> None:
        """From now on all verbs of the user wait, before they start and before they write."""
        for thread, (look, write) in VERBS.items():
            director = self._directors[GATEWAY_OF[thread]]
            director.gates.shut(Place(self._user, look))
            director.gates.shut(Place(self._user, write, Before.WRITE))

    async def begun(self, thread: str) -> None:
        """Wait until a thread waits before its first step.

        Raises:
            TimeoutError: it does not arrive there.
        """
        gates = self._directors[GATEWAY_OF[thread]].gates
        place = Place(self._user, VERBS[thread][0])
        await self._until(gates, lambda: gates.waiting(place) > 0, f"the {thread} begins")

    async def step(self, action: Action) -> None:
        """Let a second pass, then one step happen; return when Redis has answered it.

        Raises:
            TimeoutError: it did not happen.
        """
        self.pass_time(STEP_S)
        thread = THREAD_OF[action]
        if action in WRITES:
            await self._write(thread)
        else:
            await self._look(thread)

    async def _look(self, thread: str) -> None:
        director = self._directors[GATEWAY_OF[thread]]
        look, write = VERBS[thread]
        before_write, answered = Place(self._user, write, Before.WRITE), self._answered(thread)
        director.gates.let_through(Place(self._user, look))
        # A verb that has nothing to do ends here, without a write.
        await self._until(
            director.gates,
            lambda: director.gates.waiting(before_write) > 0 or self._answered(thread) > answered,
            THREADS[thread][0],
        )

    async def _write(self, thread: str) -> None:
        director = self._directors[GATEWAY_OF[thread]]
        place, answered = Place(self._user, VERBS[thread][1], Before.WRITE), self._answered(thread)
        if not director.gates.waiting(place):
            return
        director.gates.let_through(place)
        await self._until(
            director.gates, lambda: self._answered(thread) > answered, THREADS[thread][1]
        )

    def _answered(self, thread: str) -> int:
        return self._directors[GATEWAY_OF[thread]].answered(self._user, VERBS[thread][1])

    async def _until(self, gates: Gates, holds: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                await gates.until(holds)
        except TimeoutError:
            raise TimeoutError(f"not within {STEP_TIMEOUT_S:g} s: {what}") from None
