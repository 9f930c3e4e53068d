"""Who is connected to this gateway?

Two maps, user to session and connection to session, that agree. They are a cache of the sockets
of this process and nothing more: where a user *is*, Redis says. No lock: between two awaits the
event loop is ours. Removal is by identity, so the end of an old session never takes away the
newer session of the same user.

Whoever does something with many connections in one go does it with `each`: the failure of one is
its own end, and the others have their turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, ValuesView
from typing import Generic, Protocol, TypeVar


class Registrable(Protocol):
    """What the registry needs to know of a session."""

    @property
    def user(self) -> str: ...
    @property
    def conn_id(self) -> str: ...


class Fallible(Protocol):
    """What may fail alone."""

    def fail(self, problem: Exception) -> None:
        """Hang up because of this. Must not raise."""


S = TypeVar("S", bound=Registrable)
F = TypeVar("F", bound=Fallible)


def each(connections: Iterable[F], act: Callable[[F], None]) -> None:
    """Do something with every one of several sessions or sockets, whatever becomes of each."""
    for connection in connections:
        try:
            act(connection)
        except Exception as problem:
            connection.fail(problem)


class Registry(Generic[S]):
    """The registered sessions of one gateway, and those about to be."""

    def __init__(self) -> None:
        self._by_user: dict[str, S] = {}
        self._by_conn: dict[str, S] = {}
        self._expected: dict[str, S] = {}

    def __len__(self) -> int:
        return len(self._by_user)

    def __iter__(self) -> Iterator[S]:
        return iter(list(self._by_user.values()))

    def sessions(self) -> ValuesView[S]:
        """Return a live view; do not bind or remove while iterating over it."""
        return self._by_user.values()

    def by_user(self, user: str) -> S | None:
        return self._by_user.get(user)

    def by_conn(self, conn_id: str) -> S | None:
        """Return the session, also one whose register is still under way: Redis may already know
        it, and messages for it may arrive before the answer to its register does.
        """
        return self._by_conn.get(conn_id) or self._expected.get(conn_id)

    def expect(self, session: S) -> None:
        """A register of this session is under way."""
        self._expected[session.conn_id] = session

    def bind(self, session: S) -> S | None:
        """The session is registered now. Return the user's earlier session here, if there is one;
        it is no longer found.
        """
        self._expected.pop(session.conn_id, None)
        earlier = self._by_user.get(session.user)
        if earlier is session:
            return None
        if earlier is not None:
            self._by_conn.pop(earlier.conn_id, None)
        self._by_user[session.user] = session
        self._by_conn[session.conn_id] = session
        return earlier

    def remove(self, session: S) -> bool:
        """Forget a session; True when it was bound. Idempotent."""
        if self._expected.get(session.conn_id) is session:
            del self._expected[session.conn_id]
        if self._by_conn.get(session.conn_id) is session:
            del self._by_conn[session.conn_id]
        if self._by_user.get(session.user) is session:
            del self._by_user[session.user]
            return True
        return False
