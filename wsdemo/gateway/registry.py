"""Session registry: who is connected to this gateway?

Two maps, user to session and connection to session, that agree. They only index the connections
of this process; where a user *is* in the cluster, Redis says. There is no lock: no other code runs
between two awaits. Removal compares identity, so the end of an old session never removes the newer
session of the same user.

Code that acts on many connections in one go uses `each`: an error ends that one connection, and
the others are handled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, ValuesView
from typing import Generic, Protocol, TypeVar


class Registrable(Protocol):
    """What the registry needs of a session."""

    @property
    def user(self) -> str: ...
    @property
    def conn_id(self) -> str: ...


class Fallible(Protocol):
    """A connection that can fail without the others."""

    def fail(self, problem: Exception) -> None:
        """Abort the connection because of this error. Must not raise."""


S = TypeVar("S", bound=Registrable)
F = TypeVar("F", bound=Fallible)


def each(connections: Iterable[F], act: Callable[[F], None]) -> None:
    """Act on each of several sessions or sockets; an error ends only the one that it is about."""
    for connection in connections:
        try:
            act(connection)
        except Exception as problem:
            connection.fail(problem)


class Registry(Generic[S]):
    """The registered sessions of one gateway, and those whose register is under way."""

    def __init__(self) -> None:
        self._by_user: dict[str, S] = {}
        self._by_conn: dict[str, S] = {}
        # These two are called for each message: as functions of the maps they cost no more than
        # a look-up.
        self.by_user: Callable[[str], S | None] = self._by_user.get
        self.by_conn: Callable[[str], S | None] = self._by_conn.get
        """Also finds a session whose register is still under way: Redis may already know it, and
        messages for it may arrive before the answer to its register does."""

    def __len__(self) -> int:
        return len(self._by_user)

    def __iter__(self) -> Iterator[S]:
        return iter(list(self._by_user.values()))

    def sessions(self) -> ValuesView[S]:
        """Return a live view; do not bind or remove while iterating over it."""
        return self._by_user.values()

    def all_of(self, user: str) -> Sequence[S]:
        """Return the sessions of a user; several when users may have several devices."""
        session = self._by_user.get(user)
        return () if session is None else (session,)

    def expect(self, session: S) -> None:
        """Take note that a register of this session is under way."""
        self._by_conn[session.conn_id] = session

    def bind(self, session: S) -> S | None:
        """Take note that the session is registered. Return the user's earlier session on this
        gateway, if there is one; it is no longer found.
        """
        earlier = self._by_user.get(session.user)
        if earlier is session:
            return None
        if earlier is not None:
            self._by_conn.pop(earlier.conn_id, None)
        self._by_user[session.user] = session
        self._by_conn[session.conn_id] = session
        return earlier

    def remove(self, session: S) -> bool:
        """Remove a session; True when it was bound. Idempotent."""
        if self._by_conn.get(session.conn_id) is session:
            del self._by_conn[session.conn_id]
        if self._by_user.get(session.user) is session:
            del self._by_user[session.user]
            return True
        return False
