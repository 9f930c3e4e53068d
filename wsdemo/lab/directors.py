"""How does the rare race happen every time?

A director stands between a gateway and its presence and lets a verb of a user wait until it is
let go. The gateway does not know: it is passed in where the real presence would be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from wsdemo.presence import Claim, Presence, Refresh, Registration, Renewal


class HeldReleases:
    """A presence whose releases of chosen users wait."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._gates: dict[str, asyncio.Event] = {}
        self._waiting: dict[str, int] = {}
        self._done: dict[str, asyncio.Event] = {}
        self.late_s = 0.0
        """Every release that is not held comes this much too late."""

    def hold(self, user: str) -> None:
        """From now on, releases of this user wait."""
        self._gates.setdefault(user, asyncio.Event())
        self._done[user] = asyncio.Event()

    def let_go(self, user: str | None = None) -> None:
        """Let the waiting releases of a user, or of all, go on, and hold no more of them."""
        for name in [user] if user is not None else list(self._gates):
            gate = self._gates.pop(name, None)
            if gate is not None:
                gate.set()

    def holds(self, user: str) -> bool:
        """Say whether releases of this user wait from now on."""
        return user in self._gates

    def waiting(self, user: str) -> int:
        """Return how many releases of this user wait."""
        return self._waiting.get(user, 0)

    def is_done(self, user: str) -> bool:
        """Say whether a release that was held has been answered by Redis."""
        return user in self._done and self._done[user].is_set()

    async def done(self, user: str) -> None:
        """Wait until a release that was held has been answered by Redis."""
        await self._done[user].wait()

    async def mint(self, user: str) -> int:
        return await self._presence.mint(user)

    async def register(self, claim: Claim) -> Registration:
        return await self._presence.register(claim)

    async def refresh(self, renewals: Sequence[Renewal]) -> Sequence[Refresh | Exception]:
        return await self._presence.refresh(renewals)

    async def release(self, claim: Claim) -> bool:
        gate = self._gates.get(claim.user)
        if gate is None:
            if self.late_s:
                await asyncio.sleep(self.late_s)
            return await self._presence.release(claim)
        self._waiting[claim.user] = self.waiting(claim.user) + 1
        try:
            await gate.wait()
            return await self._presence.release(claim)
        finally:
            self._waiting[claim.user] -= 1
            self._done[claim.user].set()
