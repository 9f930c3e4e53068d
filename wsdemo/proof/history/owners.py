"""Owners: did the entries in Redis belong to the right sessions? (P1, P3, P4, P5)

P2 and P6 do not show in a history, because it does not record how long a lease is. The model
checker tests those two. What does show is an entry that stays too long (P7, `convergence`).
"""

from __future__ import annotations

from collections.abc import Iterator

from wsdemo.proof.history.records import Forgotten, History, Owner, Record, Released
from wsdemo.proof.history.violation import Violation
from wsdemo.proof.promises import Promise


def owners(history: History, *, ttl_s: float = 90.0) -> list[Violation]:
    """Check who owned the users: P1, P3, P4, P5.

    A loss of data weakens these promises. Tokens increase between two losses, but not across a
    loss (P5). A session that was released or superseded before the loss may own again, but only
    until one TTL after the loss (P3). That a wrong owner does not stay is P8: see `convergence`.
    """
    by_user: dict[str, OwnerSequence] = {}
    violations: list[Violation] = []
    lost_at = float("-inf")
    for record in history:
        match record:
            case Forgotten(user="", t=t):
                lost_at = t
                for sequence in by_user.values():
                    sequence.forget(t)
            case Forgotten(user=user, t=t):
                by_user.setdefault(user, OwnerSequence(ttl_s, lost_at)).forget(t)
            case Released(user=user):
                by_user.setdefault(user, OwnerSequence(ttl_s, lost_at)).release(record)
            case Owner(user=user):
                sequence = by_user.setdefault(user, OwnerSequence(ttl_s, lost_at))
                violations += sequence.change(record)
    return violations


class OwnerSequence:
    """The owners of one user so far."""

    def __init__(self, ttl_s: float, lost_at: float) -> None:
        self._ttl_s = ttl_s
        self._lost_at = lost_at
        self._owner: Owner | None = None
        self._highest: Owner | None = None
        """The owner with the highest token since the last loss of data."""
        self._ended: dict[str, Record] = {}
        """Sessions that must not own again, each with its release or with its successor."""
        self._ended_before_loss: dict[str, Record] = {}
        """The same, for sessions that ended before the last loss of data."""

    def forget(self, t: float) -> None:
        self._lost_at = t
        self._owner = self._highest = None
        self._ended_before_loss |= self._ended
        self._ended = {}

    def release(self, record: Released) -> None:
        self._ended[record.conn] = record

    def change(self, now: Owner) -> Iterator[Violation]:
        before, self._owner = self._owner, (now if now.conn else None)
        if not now.complete:
            text = f"{now.user} has an entry that is not complete"
            yield Violation(Promise.P4, now.t, text, (now,))
        if not now.conn:
            yield from self._removed(before, now)
            return
        yield from self._may_own(now)
        if before is None or before.conn != now.conn:
            yield from self._succeeded(now)
        if self._highest is None or (now.token or 0) >= (self._highest.token or 0):
            self._highest = now

    def _removed(self, before: Owner | None, now: Owner) -> Iterator[Violation]:
        if before is not None and now.verb == "release" and now.by != before.conn:
            text = f"the release of {now.by} removed the entry of {before.conn}"
            yield Violation(Promise.P1, now.t, text, (before, now))

    def _may_own(self, now: Owner) -> Iterator[Violation]:
        if (why := self._ended.get(now.conn)) is not None:
            text = f"{now.conn} owns {now.user} again, after its end"
            yield Violation(Promise.P3, now.t, text, (why, now))
        elif (why := self._ended_before_loss.get(now.conn)) and now.t > self._lost_at + self._ttl_s:
            text = f"{now.conn} owns {now.user} again, more than a TTL after the loss of data"
            yield Violation(Promise.P3, now.t, text, (why, now))

    def _succeeded(self, now: Owner) -> Iterator[Violation]:
        """Check a session that owns the user now and did not own it just before."""
        highest = self._highest
        if highest is None or highest.conn == now.conn or now.token is None:
            return
        if now.token <= (highest.token or 0):
            text = f"{now.user}: token {now.token} of {now.conn} after {highest.token}"
            yield Violation(Promise.P5, now.t, text, (highest, now))
        else:
            # A newer session has registered, so this one must not own the user any more.
            self._ended[highest.conn] = now
