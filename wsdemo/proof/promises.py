"""Promises: what does the gateway promise about presence, in one sentence each?

This is the only place where the ids P1 to P8 and X are given a meaning. Checks name a promise as
`Promise.P3`, and a violation then says "P3" where it is printed. `docs/guarantees.md` has the whole
text, with what is not promised. In these sentences, the entry of a user is the hash
`presence:{user}` in Redis, and a token is the number that orders the sessions of one user.
"""

from __future__ import annotations

from enum import StrEnum


class Promise(StrEnum):
    """An id of a promise; `says` is its sentence."""

    P1 = "P1"
    P2 = "P2"
    P3 = "P3"
    P4 = "P4"
    P5 = "P5"
    P6 = "P6"
    P7 = "P7"
    P8 = "P8"
    X = "X"

    @property
    def says(self) -> str:
        """The promise as one sentence."""
        return _SENTENCES[self]


_SENTENCES: dict[Promise, str] = {
    Promise.P1: "A release removes the entry of its own session, or nothing.",
    Promise.P2: "A refresh never changes or prolongs the entry of a newer session.",
    Promise.P3: "A session that was released or superseded never owns the entry again.",
    Promise.P4: "An accepted session owns the entry, which is complete and has a TTL.",
    Promise.P5: "The tokens of successive owners increase, whatever any clock does.",
    Promise.P6: "An entry ends at most one TTL after its last accepted register or refresh.",
    Promise.P7: "After its release a session has no entry, or its entry ends within one TTL.",
    Promise.P8: "In the end exactly one session believes that it owns the user, and it does.",
    Promise.X: (
        "Within the bound X after the last fault, each user who wants to be online is registered, "
        "and presence is right."
    ),
}
