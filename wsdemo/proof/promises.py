"""Promises: what does the gateway promise, in one sentence each?

This is the only place where the ids P1 to P8, X, D1 to D8 and R1 to R5 are given a meaning. Checks
name a promise as `Promise.P3`, and a violation then says "P3" where it is printed.
`docs/guarantees.md` has the whole text, with what is not promised. In these sentences, the entry of
a user is the hash `presence:{user}` in Redis, and a token is the number that orders the sessions of
one user.
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


class DurablePromise(StrEnum):
    """An id of a promise about durable messages; `says` is its sentence."""

    D1 = "D1"
    D2 = "D2"
    D3 = "D3"
    D4 = "D4"
    D5 = "D5"
    D6 = "D6"
    D7 = "D7"
    D8 = "D8"

    @property
    def says(self) -> str:
        """The promise as one sentence."""
        return _OF_INBOXES[self]


_OF_INBOXES: dict[DurablePromise, str] = {
    DurablePromise.D1: "Stored is said only after the message is in its recipient's inbox.",
    DurablePromise.D2: "Each stored message is delivered in order, or a gap is told after it.",
    DurablePromise.D3: "A client process gives each stored message to its application once.",
    DurablePromise.D4: "An id has one offset as long as it is remembered.",
    DurablePromise.D5: "An inbox has one order.",
    DurablePromise.D6: "Pub/Sub is only a hint, and the inbox is what is read.",
    DurablePromise.D7: "A Redis that may have lost what it had confirmed is noticed and told.",
    DurablePromise.D8: "A client that knows nothing of this gets stored messages at most once.",
}


class RoomPromise(StrEnum):
    """An id of a promise about rooms; `says` is its sentence."""

    R1 = "R1"
    R2 = "R2"
    R3 = "R3"
    R4 = "R4"
    R5 = "R5"

    @property
    def says(self) -> str:
        """The promise as one sentence."""
        return _OF_ROOMS[self]


_OF_ROOMS: dict[RoomPromise, str] = {
    RoomPromise.R1: "A command changes the entry of a member only to a higher stamp.",
    RoomPromise.R2: "Who has left does not come back by an older command.",
    RoomPromise.R3: "The events of a room add up to its list.",
    RoomPromise.R4: "After the death of a gateway the list is right within one lease and one beat.",
    RoomPromise.R5: "A gateway repairs what the list says of its own sessions.",
}
