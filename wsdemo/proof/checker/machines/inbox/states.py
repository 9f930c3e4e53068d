"""Model state of an inbox: everything on which the future of one user's durable messages depends.

Messages are numbered in the order of their first SEND; each has its own id. Marks, births and run
ids are numbers that count up, in the place of random ones: what matters is that no two are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.resources import files
from typing import Final, NamedTuple

from wsdemo.inbox.devices import DEVICES_ACK, DEVICES_READ, DEVICES_SEND
from wsdemo.inbox.store import ACK, NO_POSITION, READ, SEND
from wsdemo.proof.checker.runner import LIFE_MS, Data, Spelling
from wsdemo.proof.checker.subject import Invariant, Subject

PUMP: Final = "pump"
"""The flow control of a gateway is replaced by mutants like a script."""

PRESENCE: Final = "presence:bob"
INBOX: Final = "inbox:bob"
META: Final = "inboxmeta:bob"
KEYS: Final = (PRESENCE, INBOX, META)

DEVICE: Final = "phone"
"""The device of all sessions, as far as the scripts for several devices are played."""
ENTRY_OF_DEVICE: Final = f"s:{DEVICE}"
"""The field of a presence that such a script reads; those for one session read the others."""
_LATER: Final = "later"
_NOW: Final = "now"
_NEVER: Final = "0"
TOLD: Final = "told"
"""The field of an inbox that says until when nobody is told of more."""

Position = tuple[str, str]


class InboxSpelling(Spelling):
    """A model has no times: a lease of a device ends later, what was seen was seen now, and a hint
    stands until somebody reads.
    """

    def written(self, key: str, field: str, value: str, now_ms: int) -> str:
        if key == PRESENCE and field == ENTRY_OF_DEVICE:
            return value.replace(_LATER, str(now_ms + LIFE_MS))
        if key == META and field == TOLD and value == _LATER:
            return str(now_ms + LIFE_MS)
        return str(now_ms) if key == META and value == _NOW else value

    def read(self, key: str, field: str, value: str, now_ms: int) -> str:
        if key == PRESENCE and field == ENTRY_OF_DEVICE:
            gateway, conn, token, _, *rest = value.split(" ")
            return " ".join([gateway, conn, token, _LATER, *rest])
        if key == META and field == TOLD and value != _NEVER:
            return _LATER
        return _NOW if key == META and field.startswith("seen:") else value


def entry_of_device(gateway: str, conn: str, token: int) -> str:
    """Return what a presence says of the device."""
    return f"{gateway} {conn} {token} {_LATER} 0 "


def id_key(message: int) -> str:
    """Return the key that remembers the id of a message."""
    return f"inboxid:bob:al:m{message}"


class SenderKnows(StrEnum):
    """What the sender of a message knows."""

    NEW = "new"
    """It is not sent yet."""
    UNKNOWN = "unknown"
    """A SEND was executed, and its answer was lost: the sender may repeat it."""
    STORED = "stored"


class Offset(NamedTuple):
    """A message that was stored, in the order of the present inbox."""

    offset: str
    message: int


class InboxHistory(NamedTuple):
    """What has truly happened to the inbox that Redis has now; a rollback takes it back."""

    stored: tuple[Offset, ...] = ()
    """Since the birth of the inbox, without holes."""
    ids: tuple[Position | None, ...] = ()
    """For each message: (birth, offset), as long as its id has to be remembered."""
    acked: Position | None = None
    """What the owner acknowledged last in this inbox: (epoch, offset)."""


class PumpState(NamedTuple):
    """What the pump of a session remembers, between two things that it does."""

    epoch: str
    sent: str
    acked: int
    started: bool = False
    untold: bool = False
    to_ack: Position | None = None


class HeldPage(NamedTuple):
    """The answer of a READ that has not reached the pump yet."""

    recovered: bool
    epoch: str
    since: str
    last: str
    rows: tuple[tuple[str, str], ...]
    lost: frozenset[int]
    """The messages that were sent before, and are not in the inbox any more."""


class ClientProcess(NamedTuple):
    """A client process, and what its application has."""

    position: Position = NO_POSITION
    had: frozenset[Position] = frozenset()
    """Each message by (birth, offset)."""
    seen: frozenset[int] = frozenset()


class LinkPhase(StrEnum):
    """How far a session is, from the view of its gateway."""

    NEW = "new"
    UP = "up"
    ZOMBIE = "zombie"
    """Its client has gone, and its gateway does not know yet."""
    OVER = "over"


class InboxSession(NamedTuple):
    """One connection of the user. Its token is its number plus one."""

    phase: LinkPhase = LinkPhase.NEW
    process: int = 0
    pump: PumpState = PumpState("", "0-0", 0)
    page: HeldPage | None = None
    words: tuple[Position, frozenset[int]] | None = None
    """An acknowledgement that was on the wire when its client left, and what that client had."""
    copy: tuple[Position, frozenset[int]] | None = None
    """The last ACK that was executed: a copy of it may come later."""
    will_read: bool = True
    """Whether it is going to read, without being told of anything more: it has just begun, or was
    told and has not read since. Only for one that is up."""


class AccidentsLeft(NamedTuple):
    """How many accidents of each kind may still happen."""

    copies: int = 0
    """An ACK is executed once more, later."""
    restarts: int = 0
    """Redis is another process with the same data: a new run id."""
    losses: int = 0
    failovers: int = 0
    """Redis returns to an earlier state, with another run id."""
    secret: int = 0
    """The same, and the run id tells nobody (`--trust-redis`)."""
    evictions: int = 0
    """One key goes: evicted, expired, or deleted."""
    deaths: int = 0
    """A client process ends, and the next one has no position."""


class Backup(NamedTuple):
    """A state of Redis to which a failover returns."""

    data: Data
    history: InboxHistory


class InboxState(NamedTuple):
    """Everything on which the future depends."""

    data: Data
    history: InboxHistory
    told: tuple[SenderKnows, ...]
    sessions: tuple[InboxSession, ...]
    processes: tuple[ClientProcess, ...]
    left: AccidentsLeft
    run: int = 0
    births: int = 0
    marks: int = 0
    done: frozenset[int] = frozenset()
    """The messages that a process had when it acknowledged."""
    excused: frozenset[int] = frozenset()
    """The messages that were lost before a gap that a client was told of."""
    forgot: bool = False
    """A key was lost: an id may be stored anew."""
    backup: Backup | None = None


@dataclass(frozen=True, slots=True)
class InboxScenario:
    """What may happen.

    Args:
        messages: how many are sent.
        sessions: how many connections the user makes.
        processes: how many devices they belong to, 1 or 2; a device keeps a position.
        most: how many messages an inbox keeps.
        room: how many bytes.
        page: how many messages are read at once.
        window: how many may be on their way.
        several: the scripts are those for several devices; the user has one of them. Then every
            answer has to be as for a user with one session.
        left: which accidents may happen, how often.
    """

    messages: int = 2
    sessions: int = 2
    processes: int = 1
    most: int = 9
    room: int = 9_999
    page: int = 2
    window: int = 9
    several: bool = False
    left: AccidentsLeft = field(default_factory=AccidentsLeft)

    @property
    def machine(self) -> str:
        """The name of its machine."""
        return "inbox"

    @property
    def trusts(self) -> bool:
        """Whether the run id is left out of the epoch."""
        return bool(self.left.secret)

    def shipped(self) -> Mapping[str, str]:
        """Return the texts of the three scripts, and of the pump, as gateways use them."""
        pump = files("wsdemo.gateway").joinpath("inbox.py").read_text(encoding="utf-8")
        scripts = (DEVICES_SEND, DEVICES_READ, DEVICES_ACK) if self.several else (SEND, READ, ACK)
        texts = [script.text for script in scripts]
        return {**dict(zip(("send", "read", "ack"), texts, strict=True)), PUMP: pump}

    def invariants(self) -> Sequence[Invariant]:
        """Return all that is checked."""
        from wsdemo.proof.checker.machines.inbox.invariants import INVARIANTS

        return INVARIANTS

    def subject(self, url: str, scripts: Mapping[str, str]) -> Subject:
        """Return the machine of this scenario, on a server, with some scripts replaced."""
        from wsdemo.proof.checker.machines.inbox.subject import InboxSubject

        return InboxSubject(url, scripts, self)

    def start(self) -> InboxState:
        """Return the state before anything has happened."""
        return InboxState(
            (),
            InboxHistory(ids=(None,) * self.messages),
            (SenderKnows.NEW,) * self.messages,
            (InboxSession(),) * self.sessions,
            (ClientProcess(),) * self.processes,
            self.left,
        )

    def __str__(self) -> str:
        sizes = [f"{self.messages} messages", f"{self.sessions} sessions"]
        sizes += ["2 devices"] * (self.processes > 1)
        sizes += ["scripts for several devices"] * self.several
        sizes += [f"{self.most} kept"] * (self.most < self.messages)
        sizes += [f"{self.room} bytes kept"] * (self.room < 9_999)
        sizes += [f"pages of {self.page}"] * (self.page != 2)
        sizes += [f"window {self.window}"] * (self.window < 9)
        accidents = [f"{n} {name}" for name, n in self.left._asdict().items() if n]
        return ", ".join([*sizes, *accidents])
