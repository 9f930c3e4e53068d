"""Model state: everything on which the future of one user depends.

A state is a value: the data of Redis about one user, how far each session of that user is, and
which faults may still happen. Tokens are renamed to a few fixed values that keep their order,
because the scripts use only the order. So equal situations are equal states. Everything here is
pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from wsdemo.presence.store import SCRIPTS
from wsdemo.proof.checker.subject import Invariant, Subject

TOKEN_BASE: Final = 1_700_000_000_000_000
"""Renamed tokens are as large as real ones, but older than every clock."""
TOKEN_STEP: Final = 1_009
"""Between two renamed tokens there is room for one that `mint` returns. The step is not a round
number, so a script that writes tokens with too few digits is found.
"""

Field = int | str | tuple[int, str]
"""A field of a hash: a token, any other text, or a token with a text behind it (`token:connId`)."""

Hash = tuple[tuple[str, Field], ...]
"""The fields of a hash by name, in the order of their names; empty when there is no such key."""


class Verb(StrEnum):
    """The four scripts."""

    MINT = "mint"
    REGISTER = "register"
    REFRESH = "refresh"
    RELEASE = "release"


class Memory(NamedTuple):
    """The data of Redis about the user: `presence:{user}` and `fence:{user}`."""

    entry: Hash = ()
    entry_ends: bool = True
    """Whether the entry has a TTL."""
    fence: Hash = ()
    fence_ends: bool = True

    @property
    def owner(self) -> str | None:
        """The connection that the entry names; None when it names none."""
        return _text(self.entry, "connId")

    @property
    def owner_token(self) -> int:
        """The token of the owner; 0 when there is none."""
        token = dict(self.entry).get("epoch", 0)
        return token if isinstance(token, int) else 0


def _text(fields: Hash, name: str) -> str | None:
    value = dict(fields).get(name)
    return value if isinstance(value, str) else None


class ModelPhase(StrEnum):
    """How far a session is, from the view of its gateway."""

    NEW = "new"
    MINTED = "minted"
    """It has its token, and has not sent its register."""
    UP = "up"
    """Its register was accepted, and no later answer has ended it."""
    LEAVING = "leaving"
    """It was rejected, or its register had no answer: its gateway will release it."""
    DOWN = "down"
    """It sends nothing more. What it has sent may still arrive."""


class ModelSession(NamedTuple):
    """One connection of the user."""

    phase: ModelPhase
    refreshes: int
    """How many refreshes it may still send."""
    token: int = 0
    has_owned: bool = False
    """The entry has named it, since the last loss of all data."""
    was_released: bool = False
    """A release of it has been executed."""


class Replica(NamedTuple):
    """A state of Redis to which a failover returns."""

    memory: Memory
    has_owned: tuple[bool, ...]
    """For each session, at that time."""


class FaultsLeft(NamedTuple):
    """How many faults of each kind may still happen."""

    duplicates: int = 0
    """A command is executed once more, or for the first time, at any later moment."""
    expiries: int = 0
    losses: int = 0
    """Redis loses all data."""
    rollbacks: int = 0
    """Redis returns to an earlier state, as after a failover to a replica that was behind."""


class ModelState(NamedTuple):
    """Everything on which the future depends."""

    memory: Memory
    sessions: tuple[ModelSession, ...]
    faults_left: FaultsLeft
    has_forgotten: bool = False
    """A loss or a rollback has happened: not all promises hold any more (P8 does)."""
    replica: Replica | None = None


class Clock(StrEnum):
    """What Redis' clock may do between two mints."""

    TRUE = "true"
    """It is the server's own, and goes forward."""
    FREE = "free"
    """Anything: stop, jump back, jump ahead."""


class Clients(StrEnum):
    """To which clients the sessions belong. A client may count its attempts; see `Claim`."""

    SILENT = "silent"
    """Clients that do not count attempts, each at another gateway."""
    ONE = "one"
    """Attempts of one client process, all at one gateway."""
    SEVERAL = "several"
    """Several clients that count attempts: s1 has connected more often than s2."""


@dataclass(frozen=True, slots=True)
class Actor:
    """The names that a session gives to the scripts."""

    conn_id: str
    gateway_id: str
    inst: str = ""
    att: int = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """What may happen. The checker plays all of it, in every order.

    Args:
        sessions: how many sessions the user has, 1 to 3.
        refreshes: how many refreshes each session sends.
        duplicates, expiries, losses, rollbacks: as in `FaultsLeft`.
        clock: what Redis' clock may do.
        clients: to which clients the sessions belong.
    """

    sessions: int = 2
    refreshes: int = 1
    duplicates: int = 1
    expiries: int = 1
    losses: int = 0
    rollbacks: int = 0
    clock: Clock = Clock.TRUE
    clients: Clients = Clients.SILENT

    def __post_init__(self) -> None:
        if not 1 <= self.sessions <= 3:
            raise ValueError(f"1 to 3 sessions can be checked, not {self.sessions}")
        for name in ("refreshes", "duplicates", "expiries", "losses", "rollbacks"):
            if not 0 <= getattr(self, name) <= 3:
                raise ValueError(f"{name} must be 0 to 3, not {getattr(self, name)}")

    @property
    def machine(self) -> str:
        """The name of its machine."""
        return "presence"

    def shipped(self) -> Mapping[str, str]:
        """Return the texts of the scripts that gateways use, by name."""
        return {script.name: script.text for script in SCRIPTS}

    def invariants(self) -> Sequence[Invariant]:
        """Return all that is checked."""
        from wsdemo.proof.checker.machines.presence.invariants import INVARIANTS

        return INVARIANTS

    def subject(self, url: str, scripts: Mapping[str, str]) -> Subject:
        """Return the machine of this scenario, on a server, with some scripts replaced."""
        from wsdemo.proof.checker.machines.presence.subject import PresenceSubject

        return PresenceSubject(url, scripts, self)

    @property
    def cast(self) -> tuple[Actor, ...]:
        """The sessions, in the order of their connection ids."""
        numbers = range(1, self.sessions + 1)
        match self.clients:
            case Clients.ONE:
                return tuple(Actor(f"s{n}", "gateway-01", "client", n) for n in numbers)
            case Clients.SEVERAL:
                return tuple(Actor(f"s{n}", f"gateway-0{n}", f"client-{n}", 4 - n) for n in numbers)
            case _:
                return tuple(Actor(f"s{n}", f"gateway-0{n}") for n in numbers)

    def start(self) -> ModelState:
        """Return the state before anything has happened."""
        session = ModelSession(ModelPhase.NEW, self.refreshes)
        faults_left = FaultsLeft(self.duplicates, self.expiries, self.losses, self.rollbacks)
        return ModelState(Memory(), (session,) * self.sessions, faults_left)

    def __str__(self) -> str:
        counts = [
            f"{count} {name if count > 1 else one}"
            for count, one, name in (
                (self.duplicates, "duplicate", "duplicates"),
                (self.expiries, "expiry", "expiries"),
                (self.losses, "loss of all data", "losses of all data"),
                (self.rollbacks, "rollback", "rollbacks"),
            )
            if count
        ]
        extras = ["free clock"] if self.clock is Clock.FREE else []
        if self.clients is not Clients.SILENT:
            extras.append(f"{self.clients} client{'s' * (self.clients is Clients.SEVERAL)}")
        return ", ".join([f"{self.sessions} session{'s' * (self.sessions > 1)}", *counts, *extras])


# --- tokens ------------------------------------------------------------------------------------

Renaming = dict[int, int]
"""The new value of each token of a state."""


def tokens_of(state: ModelState) -> list[int]:
    """Return the tokens of a state, without 0, in their order."""
    found = {session.token for session in state.sessions}
    for memory in (state.memory, *((state.replica.memory,) if state.replica else ())):
        found |= {_token(value) for _, value in (*memory.entry, *memory.fence)}
    found.discard(0)
    return sorted(found)


def _token(value: Field) -> int:
    if isinstance(value, int):
        return value
    return value[0] if isinstance(value, tuple) else 0


def canonical(state: ModelState) -> tuple[ModelState, Renaming]:
    """Rename the tokens of a state; return the new state and the renaming."""
    renaming = {token: TOKEN_BASE + n * TOKEN_STEP for n, token in enumerate(tokens_of(state), 1)}
    if all(old == new for old, new in renaming.items()):
        return state, renaming
    renaming[0] = 0
    sessions = tuple(s._replace(token=renaming[s.token]) for s in state.sessions)
    memory, replica = renamed(state.memory, renaming), state.replica
    if replica is not None:
        replica = replica._replace(memory=renamed(replica.memory, renaming))
    return state._replace(memory=memory, sessions=sessions, replica=replica), renaming


def renamed(memory: Memory, renaming: Renaming) -> Memory:
    """Return the data of Redis with renamed tokens."""
    entry, fence = (
        tuple((name, _renamed(value, renaming)) for name, value in fields)
        for fields in (memory.entry, memory.fence)
    )
    return memory._replace(entry=entry, fence=fence)


def _renamed(value: Field, renaming: Renaming) -> Field:
    if isinstance(value, int):
        return renaming.get(value, value)
    if isinstance(value, tuple):
        return renaming.get(value[0], value[0]), value[1]
    return value
