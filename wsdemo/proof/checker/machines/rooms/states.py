"""Model state of a room: everything on which the future of one room depends.

Two gateways have the sessions of a few users. The token of a session is its number: a user's later
session has the larger one. What watchers have been told is in the state as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from wsdemo.proof.checker.runner import LEFT_MS, LIFE_MS, Data, Kept, Spelling
from wsdemo.proof.checker.subject import Invariant, Subject
from wsdemo.rooms.store import BOOTS as BOOTS_SCRIPT
from wsdemo.rooms.store import JOIN, LEAVE, LIST, SWEEP

ROOM: Final = "room:lobby"
OUT: Final = "roomout:lobby"
BOOTS: Final = "boots:all"
KEYS: Final = (ROOM, OUT)
GATEWAYS: Final = ("gateway-01", "gateway-02")
LATER: Final = "later"
PAST: Final = "past"
NOW: Final = "now"
"""When a member left, so recently that it is remembered."""
KEEP_MS: Final = LIFE_MS // 2
"""How long it is remembered who left; keys get twice that."""

Stamp = tuple[int, int]


class RoomSpelling(Spelling):
    """The scores of both sorted sets are times."""

    def written(self, key: str, field: str, value: str, now_ms: int) -> str:
        if key == BOOTS:
            return str(now_ms + LEFT_MS if value == LATER else now_ms - 10_000)
        if key == OUT:
            return str(now_ms if value == NOW else 1)
        return value

    def read(self, key: str, field: str, value: str, now_ms: int) -> str:
        if key == BOOTS:
            return LATER if int(value) > now_ms else PAST
        if key == OUT:
            return NOW if int(value) > now_ms - KEEP_MS else PAST
        return value


class RoomVerb(StrEnum):
    """The two commands about one member."""

    JOIN = "join"
    LEAVE = "leave"


class Visit(NamedTuple):
    """A session, and its stay in the room as its gateway knows it."""

    is_on: bool = False
    is_over: bool = False
    seq: int = 0
    joined: int = 0
    """The seq of its join, as long as it is in the room; else 0."""
    sent: frozenset[tuple[RoomVerb, int]] = frozenset()
    """Commands that were sent: they, or copies of them, may come later."""


class GatewayState(NamedTuple):
    """A gateway process."""

    is_dead: bool = False
    must_say: bool = False
    """It was given up meanwhile: it has to say again who is in the room by it."""
    lapsed: frozenset[str] = frozenset()
    """The processes that its last beat has shown to be gone."""


class RoomFaults(NamedTuple):
    """How many faults of each kind may still happen."""

    copies: int = 0
    """A command is executed later, or once more."""
    deaths: int = 0
    """A gateway dies."""
    lapses: int = 0
    """The lease of a gateway process ends, whether it is dead or only asleep."""
    forgets: int = 0
    """It was long ago that a member left."""
    losses: int = 0
    rollbacks: int = 0


class RoomCopy(NamedTuple):
    """A state of Redis to which a failover returns."""

    data: Data
    told: frozenset[str]


class RoomState(NamedTuple):
    """Everything on which the future depends."""

    data: Data
    told: frozenset[str]
    """Who is in the room, by the events so far."""
    visits: tuple[Visit, ...]
    gateways: tuple[GatewayState, ...]
    left: RoomFaults
    out: tuple[Stamp, ...] = ()
    """For each user the highest stamp of a leave or a sweep that Redis has to remember."""
    copy: RoomCopy | None = None


@dataclass(frozen=True, slots=True)
class RoomScenario:
    """What may happen.

    Args:
        sessions: the user of each session, and the number of its gateway.
        most: how many members a room may have.
        joins: how often a session joins.
        left: which faults may happen, how often.
    """

    sessions: tuple[tuple[str, int], ...] = (("alice", 0), ("alice", 1))
    most: int = 9
    joins: int = 1
    left: RoomFaults = field(default_factory=RoomFaults)

    @property
    def machine(self) -> str:
        """The name of its machine."""
        return "rooms"

    @property
    def users(self) -> tuple[str, ...]:
        """Each user once, in the order of their names."""
        return tuple(sorted({user for user, _ in self.sessions}))

    def stamp(self, number: int, seq: int) -> Stamp:
        """Return what orders a command of a session among all of its user."""
        return number + 1, seq

    def shipped(self) -> Mapping[str, str]:
        """Return the texts of the scripts of rooms."""
        return {script.name: script.text for script in (JOIN, LEAVE, SWEEP, LIST, BOOTS_SCRIPT)}

    def invariants(self) -> Sequence[Invariant]:
        """Return all that is checked."""
        from wsdemo.proof.checker.machines.rooms.invariants import INVARIANTS

        return INVARIANTS

    def subject(self, url: str, scripts: Mapping[str, str]) -> Subject:
        """Return the machine of this scenario, on a server, with some scripts replaced."""
        from wsdemo.proof.checker.machines.rooms.subject import RoomSubject

        return RoomSubject(url, scripts, self)

    def start(self) -> RoomState:
        """Return the state in which two gateways have begun to live."""
        boots = tuple((boot_of(n), LATER) for n in range(len(GATEWAYS)))
        return RoomState(
            ((BOOTS, Kept(boots)),),
            frozenset(),
            (Visit(),) * len(self.sessions),
            (GatewayState(),) * len(GATEWAYS),
            self.left,
            ((0, 0),) * len(self.users),
        )

    def __str__(self) -> str:
        names = ", ".join(f"{user} at {GATEWAYS[n]}" for user, n in self.sessions)
        parts = [names, *([f"{self.most} members at most"] * (self.most < 9))]
        parts += [f"{self.joins} joins each"] * (self.joins > 1)
        return "; ".join([*parts, *(f"{n} {name}" for name, n in self.left._asdict().items() if n)])


def boot_of(gateway: int) -> str:
    """Return the name of a gateway's process."""
    return f"{GATEWAYS[gateway]}.0"
