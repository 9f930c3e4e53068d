"""Room list as a set: what becomes of it when a clean-up comes late, or a gateway dies?

Presence is the product's own. Beside it there is a list of one room: each register adds the user to
a set, each release removes the user from it. Nothing says whose word about a user is newer, and
nobody removes the users of a dead gateway. It is for lesson 13, and must not be used in production.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from wsdemo.presence import (
    Claim,
    Presence,
    Refresh,
    Register,
    Registration,
    Release,
    Renewal,
)
from wsdemo.redis.interface import Link
from wsdemo.rig.policies.fenced import fenced_presence
from wsdemo.settings import Keyspace, Timing

ROOM: Final = "lobby"
"""The only room: everybody is in it who is registered."""


def room_set(keyspace: Keyspace) -> str:
    """Return the key of the set."""
    return keyspace.key("roomset", ROOM)


class RoomBySet:
    """Presence that also keeps the members of a room in a set."""

    def __init__(
        self, link: Link, keyspace: Keyspace, timing: Timing, wall_clock: Callable[[], float]
    ) -> None:
        self._link = link
        self._members = room_set(keyspace)
        self._presence: Presence = fenced_presence(link, keyspace, timing, wall_clock)

    async def mint(self, user: str) -> int:
        return await self._presence.mint(user)

    async def register(self, claim: Claim) -> Registration:
        registration = await self._presence.register(claim)
        if registration.outcome is Register.OK:
            await self._link.call("SADD", self._members, claim.user)
        return registration

    async def refresh(self, renewals: Sequence[Renewal]) -> Sequence[Refresh | Exception]:
        return await self._presence.refresh(renewals)

    async def release(self, claim: Claim) -> Release:
        released = await self._presence.release(claim)
        await self._link.call("SREM", self._members, claim.user)
        return released
