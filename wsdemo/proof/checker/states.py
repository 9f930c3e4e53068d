"""What can the world look like to the four scripts?

A state is a value: what Redis holds about one user, how far each of her sessions is, and which
accidents may still happen. Tokens are renamed in it to the same few, in their order, since that is
all that the scripts look at; so the same situation is the same state, whenever it comes.
Everything here is pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

TOKEN_BASE: Final = 1_700_000_000_000_000
"""Renamed tokens are as large as real ones, though older than every clock, ..."""
TOKEN_STEP: Final = 1_009
"""... so far apart that `mint` may put one between two others, and not round: a script that writes
them with too few digits is found out.
"""

Field = int | str | tuple[int, str]
"""A field of a hash: a token, any other text, or a token with a text behind it (`token:connId`)."""

Hash = tuple[tuple[str, Field], ...]
"""The fields of a hash by name, in the order of their names; empty when there is no such key."""


class Verb(StrEnum):
    """The scripts."""

    MINT = "mint"
    REGISTER = "register"
    REFRESH = "refresh"
    RELEASE = "release"


class Memory(NamedTuple):
    """What Redis holds about the user: `presence:{user}` and `fence:{user}`."""

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


class Phase(StrEnum):
    """How far a session is, as its gateway sees it."""

    NEW = "new"
    MINTED = "minted"
    """It has its token, and has not sent its register."""
    UP = "up"
    """Its register was accepted, and nothing has told it otherwise."""
    LEAVING = "leaving"
    """It has been turned away, or does not know what became of its register: it will release."""
    DOWN = "down"
    """It sends nothing any more. What it sent may still arrive."""


class Session(NamedTuple):
    """One connection of the user."""

    phase: Phase
    refreshes: int
    """How many it may still send."""
    token: int = 0
    has_owned: bool = False
    """The entry has named it, as far as Redis can remember: not before a loss of all data."""
    was_released: bool = False
    """A release of it has been executed."""


class Replica(NamedTuple):
    """A state of Redis to which a failover goes back."""

    memory: Memory
    has_owned: tuple[bool, ...]
    """Of each session, at that time."""


class Accidents(NamedTuple):
    """How many of each may still happen."""

    duplicates: int = 0
    """A command arrives once more, or for the first time, at any later moment."""
    expiries: int = 0
    losses: int = 0
    """Redis forgets everything."""
    rollbacks: int = 0
    """Redis goes back to any earlier state, as after a failover to a replica that was behind."""


class State(NamedTuple):
    """Everything on which the future depends."""

    memory: Memory
    sessions: tuple[Session, ...]
    accidents: Accidents
    has_forgotten: bool = False
    """A loss or a rollback has happened: not everything that was promised holds (P8 does)."""
    replica: Replica | None = None


class Clock(StrEnum):
    """What Redis' clock may do between two mints."""

    TRUE = "true"
    """It is the server's own, and goes forward."""
    FREE = "free"
    """Anything: stand still, jump back, jump ahead."""


class Clients(StrEnum):
    """Whose the sessions are. A client may count its attempts to connect; see `Claim`."""

    SILENT = "silent"
    """Clients that do not count, each at a gateway of its own."""
    ONE = "one"
    """Attempts of one client process, all at one gateway."""
    SEVERAL = "several"
    """Clients of their own that count: s1 has dialled more often than s2."""


@dataclass(frozen=True, slots=True)
class Actor:
    """What a session says of itself."""

    conn_id: str
    gateway_id: str
    inst: str = ""
    att: int = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """What may happen. All of it does, in every order.

    Args:
        sessions: connections of one user, 1 to 3.
        refreshes: how many each of them sends.
        duplicates, expiries, losses, rollbacks: as in `Accidents`.
        clock: what Redis' clock may do.
        clients: whose the sessions are.
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
    def cast(self) -> tuple[Actor, ...]:
        """Who the sessions are, in the order of their connection ids."""
        numbers = range(1, self.sessions + 1)
        match self.clients:
            case Clients.ONE:
                return tuple(Actor(f"s{n}", "gateway-01", "client", n) for n in numbers)
            case Clients.SEVERAL:
                return tuple(Actor(f"s{n}", f"gateway-0{n}", f"client-{n}", 4 - n) for n in numbers)
            case _:
                return tuple(Actor(f"s{n}", f"gateway-0{n}") for n in numbers)

    def start(self) -> State:
        """Return the state before anything has happened."""
        session = Session(Phase.NEW, self.refreshes)
        accidents = Accidents(self.duplicates, self.expiries, self.losses, self.rollbacks)
        return State(Memory(), (session,) * self.sessions, accidents)

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
"""The new name of each token of a state."""


def tokens_of(state: State) -> list[int]:
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


def canonical(state: State) -> tuple[State, Renaming]:
    """Rename the tokens of a state; return it, and what became of each."""
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
    """Return what Redis holds, with other names for the tokens."""
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
