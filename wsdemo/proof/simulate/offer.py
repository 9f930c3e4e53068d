"""Features: which of the optional features does a simulated cluster have?

Users draw random numbers for a feature only where the gateways have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from wsdemo.features import InboxSettings, RoomSettings, WatchSettings
from wsdemo.proof.mix import FeatureMix

USERS: Final = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
DEVICES: Final = ("phone", "laptop", "tablet")
TOO_MANY: Final = "alice/tablet"
TRUSTING: Final = 4
"""Every so many seeds, gateways trust Redis to lose nothing that it has confirmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(FeatureMix):
    """The features of all gateways of a cluster.

    Raises:
        ValueError: these do not go together.
    """

    @property
    def users(self) -> tuple[str, ...]:
        """All to whom messages are sent."""
        return USERS if self.devices == 1 else USERS[:4]

    @property
    def names(self) -> tuple[str, ...]:
        """All users, or all devices of all users. One user has a device too many."""
        if self.devices == 1:
            return USERS
        return (*(f"{user}/{one}" for user in self.users for one in DEVICES[:2]), TOO_MANY)

    def trusts_redis(self, seed: int) -> bool:
        """Say whether gateways trust Redis, in the run of this seed."""
        return self.durable and seed % TRUSTING == 0

    def settings(self, seed: int) -> dict[str, Any]:
        """Return the settings of gateways, in the run of this seed."""
        settings: dict[str, Any] = {}
        if self.durable:
            settings["inbox"] = inbox_settings(self.trusts_redis(seed))
        if self.rooms:
            settings["rooms"] = RoomSettings(room_members=7, room_history=10)
        if self.watch:
            settings["watch"] = WatchSettings()
        if self.devices > 1:
            settings["devices"] = self.devices
        return settings


PLAIN: Final = Offer()


def inbox_settings(trust_redis: bool) -> InboxSettings:
    """Return small inboxes, so that a few messages fill a page, a window and an inbox."""
    return InboxSettings(
        inbox_messages=12,
        inbox_bytes=2_500,
        durable_window=6,
        page_messages=3,
        trust_redis=trust_redis,
    )
