"""Model state of several devices: everything on which the future of one user with devices depends.

Beside what Redis holds there is a shadow for each device: what today's four scripts would hold, if
each device were a user of its own. Tokens are numbers that count up: they come from one mint, and
P5 is proven by the machine of presence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from wsdemo.presence.devices import DEVICES_REFRESH, DEVICES_REGISTER, DEVICES_RELEASE
from wsdemo.presence.store import REFRESH, REGISTER, RELEASE
from wsdemo.proof.checker.runner import LEFT_MS, Data, Spelling
from wsdemo.proof.checker.subject import Invariant, Subject
from wsdemo.router import DEVICES_ROUTE

PRESENCE: Final = "presence:alice"
FENCE: Final = "fence:alice"
KEYS: Final = (PRESENCE, FENCE)
TODAY: Final = {
    "today's register": REGISTER,
    "today's refresh": REFRESH,
    "today's release": RELEASE,
}
"""The scripts for users with one session, which are the shadow's."""
LATER: Final = "later"
FRESH: Final = "fresh"
"""The end of a lease that this call has given."""
PAST: Final = "past"
MARGIN_MS: Final = 60_000


def shadow_keys(device: str) -> tuple[str, str]:
    """Return the keys of a device that is a user of its own."""
    return f"presence:alice#{device}", f"fence:alice#{device}"


class DeviceSpelling(Spelling):
    """An entry of a device has the end of its lease as its fourth word; `ts` is a time as well."""

    def written(self, key: str, field: str, value: str, now_ms: int) -> str:
        if field == "ts":
            return str(now_ms // 1000)
        if not field.startswith("s:"):
            return value
        words = value.split(" ")
        words[3] = str(now_ms + LEFT_MS if words[3] == LATER else 1)
        return " ".join(words)

    def read(self, key: str, field: str, value: str, now_ms: int) -> str:
        if field == "ts":
            return "0"
        words = value.split(" ")
        if not field.startswith("s:") or len(words) < 5 or not words[3].isdecimal():
            return value
        left_ms = int(words[3]) - now_ms
        words[3] = FRESH if left_ms > LEFT_MS + MARGIN_MS else LATER if left_ms > 0 else PAST
        return " ".join(words)


class DeviceVerb(StrEnum):
    """The three scripts that a session calls."""

    REGISTER = "register"
    REFRESH = "refresh"
    RELEASE = "release"


class DevicePhase(StrEnum):
    """How far a session is, from the view of its gateway."""

    NEW = "new"
    MINTED = "minted"
    UP = "up"
    LEAVING = "leaving"
    DOWN = "down"


class ModelDevice(NamedTuple):
    """One connection of one device."""

    phase: DevicePhase
    refreshes: int
    token: int = 0
    sent: frozenset[DeviceVerb] = frozenset()
    """Commands that were sent: a copy of them may come later."""
    evicted: bool = False


class DeviceFaults(NamedTuple):
    """How many faults of each kind may still happen."""

    duplicates: int = 0
    expiries: int = 0
    losses: int = 0
    rollbacks: int = 0


class DeviceCopy(NamedTuple):
    """A state of Redis to which a failover returns."""

    data: Data
    shadow: Data


class DeviceState(NamedTuple):
    """Everything on which the future depends."""

    data: Data
    shadow: Data
    sessions: tuple[ModelDevice, ...]
    left: DeviceFaults
    tokens: int = 0
    has_forgotten: bool = False
    copy: DeviceCopy | None = None


@dataclass(frozen=True, slots=True)
class DeviceScenario:
    """What may happen.

    Args:
        devices: the device of each session.
        most: how many devices may be connected.
        remembered: how many the fence remembers.
        refreshes: how many refreshes each session sends.
        left: which faults may happen, how often.
        one_client: the sessions of a device are attempts of one client process.
    """

    devices: tuple[str, ...] = ("", "phone")
    most: int = 2
    remembered: int = 8
    refreshes: int = 1
    left: DeviceFaults = field(default_factory=DeviceFaults)
    one_client: bool = False
    ties: bool = False
    """After a loss, the mint may give the last token again, because the clock went back."""

    @property
    def machine(self) -> str:
        """The name of its machine."""
        return "devices"

    def shipped(self) -> Mapping[str, str]:
        """Return the texts of the scripts for devices; today's are those of presence."""
        scripts = (DEVICES_REGISTER, DEVICES_REFRESH, DEVICES_RELEASE, DEVICES_ROUTE)
        return {script.name: script.text for script in scripts}

    def invariants(self) -> Sequence[Invariant]:
        """Return all that is checked."""
        from wsdemo.proof.checker.machines.devices.invariants import INVARIANTS

        return INVARIANTS

    def subject(self, url: str, scripts: Mapping[str, str]) -> Subject:
        """Return the machine of this scenario, on a server, with some scripts replaced."""
        from wsdemo.proof.checker.machines.devices.subject import DeviceSubject

        return DeviceSubject(url, scripts, self)

    def start(self) -> DeviceState:
        """Return the state before anything has happened."""
        session = ModelDevice(DevicePhase.NEW, self.refreshes)
        return DeviceState((), (), (session,) * len(self.devices), self.left)

    def __str__(self) -> str:
        names = "/".join(device or "-" for device in self.devices)
        parts = [f"sessions of {names}", f"{self.most} devices at most"]
        parts += [f"{self.remembered} remembered"] * (self.remembered < 8)
        parts += ["no refreshes"] * (not self.refreshes)
        parts += ["one client"] * self.one_client + ["free clock"] * self.ties
        return ", ".join([*parts, *(f"{n} {name}" for name, n in self.left._asdict().items() if n)])
