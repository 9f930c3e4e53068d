"""Presence policies: which rules can a gateway use to decide whose entry is valid?

This table is the only list of them. A policy is one file beside this one, with the four verbs of
`wsdemo.presence.Presence`, and one line here; the laboratory, the exploration of orders and the
figures take it from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from wsdemo.presence import Presence
from wsdemo.redis.interface import Link
from wsdemo.rig.clocks import WallClock
from wsdemo.rig.names import unknown
from wsdemo.rig.policies.check_then_delete import CheckThenDeletePresence
from wsdemo.rig.policies.fenced import fenced_presence
from wsdemo.rig.policies.go_demo import GoDemoPresence
from wsdemo.rig.policies.plain import PlainPresence
from wsdemo.rig.policies.room_by_set import RoomBySet
from wsdemo.rig.policies.timestamp import TimestampPresence
from wsdemo.settings import Keyspace, Timing


class PresencePolicy(NamedTuple):
    """How the presence of a gateway is made, and what it is called in a figure."""

    make: Callable[[Link, Keyspace, Timing, WallClock], Presence]
    title: str
    verbs_only: bool = True
    """Whether it changes what the four verbs do, and nothing beside presence."""


PRODUCT: Final = "fenced"
"""The policy of the product: the only one under which a gateway runs as a process of its own."""

POLICIES: Final[dict[str, PresencePolicy]] = {
    "plain": PresencePolicy(PlainPresence, "plain SET + DEL"),
    "go-demo": PresencePolicy(GoDemoPresence, "the demo: CAS on SET only"),
    "check-then-delete": PresencePolicy(CheckThenDeletePresence, "the demo, check then DEL"),
    "timestamp": PresencePolicy(TimestampPresence, "CAS by timestamp"),
    "room-by-set": PresencePolicy(RoomBySet, "fencing token, room as a set", verbs_only=False),
    PRODUCT: PresencePolicy(fenced_presence, "fencing token"),
}
"""From no protection at all to full protection."""

OF_PRESENCE: Final = tuple(name for name, policy in POLICIES.items() if policy.verbs_only)
"""Those whose orders of commands are explored."""


def policy_named(name: str) -> PresencePolicy:
    """Return a policy by its name.

    Raises:
        ValueError: there is no such policy; the text lists those that there are.
    """
    if name not in POLICIES:
        raise ValueError(unknown("policy", name, POLICIES))
    return POLICIES[name]
