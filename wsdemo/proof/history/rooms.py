"""Rooms: was the list of each room right, and was what was said heard once? (R1 to R5)"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from wsdemo.proof.history.circumstances import Circumstances
from wsdemo.proof.history.records import (
    Calm,
    Forgotten,
    History,
    RoomHeard,
    RoomLooked,
    RoomRegister,
    RoomSaid,
)
from wsdemo.proof.history.violation import Violation
from wsdemo.proof.promises import RoomPromise

SWEEPS: Final = frozenset({"sweep", "unseen"})
"""By which verbs a member may be taken out whose gateway is gone; `unseen`: nobody was there to
observe Redis."""


def rooms(history: History, arrive_s: float = 1.0) -> list[Violation]:
    """Check the rooms of a history; one without any is right.

    R1: each change of a register has a higher stamp. R2: so nobody who left comes back by an older
    one. A sweep is the exception: it notes a stamp just below the join that it takes out, so that
    this join counts when it is said again. Both begin anew when Redis has lost its data. R4 and R5:
    when somebody looks, long after a heal, the list names exactly those whose applications believe
    to be in the room. R3: and each application believes what the list says.

    A message in a room is heard at most once by a process, and only if it was said. In a calm
    period everybody who was in the room at its begin hears it within `arrive_s`.
    """
    violations = [
        *_registers(history),
        *_lists(history),
        *_heard(history),
        *_not_heard(history, arrive_s),
    ]
    return sorted(violations, key=lambda violation: violation.t)


def _registers(history: History) -> Iterator[Violation]:
    """R1 and R2."""
    last: dict[tuple[str, str], RoomRegister] = {}
    for record in history:
        if isinstance(record, Forgotten) and not record.user:
            last.clear()
        if not isinstance(record, RoomRegister):
            continue
        key = (record.room, record.member)
        before = last.pop(key, None)
        if record.state:
            last[key] = record
        if before is None or not record.state:
            continue
        if _is_sweep(before, record):
            continue
        if (record.token, record.seq) <= (before.token, before.seq):
            text = f"{record.member} is {record.state} by a stamp that is not higher"
            claim = RoomPromise.R2 if before.state == "out" else RoomPromise.R1
            yield Violation(claim, record.t, text, (before, record))


def _is_sweep(before: RoomRegister, record: RoomRegister) -> bool:
    """Say whether a member was taken out whose gateway is gone, as a sweep does it."""
    is_out = (before.state, record.state) == ("in", "out")
    swept = (before.token, before.seq - 1)
    return record.verb in SWEEPS and is_out and (record.token, record.seq) == swept


def _lists(history: History) -> Iterator[Violation]:
    """R3, R4 and R5."""
    for record in history:
        if not isinstance(record, RoomLooked):
            continue
        listed = set(record.listed)
        if listed != set(record.told):
            text = f"{sorted(record.told)} are in {record.room}, and the list has {sorted(listed)}"
            yield Violation(RoomPromise.R4, record.t, text, (record,))
        for user, told in record.told.items():
            if set(told) != listed:
                text = f"{user} was told of {sorted(told)}, and the list has {sorted(listed)}"
                yield Violation(RoomPromise.R3, record.t, text, (record,))


def _heard(history: History) -> Iterator[Violation]:
    said: dict[str, RoomSaid] = {}
    heard: dict[tuple[str, str], RoomHeard] = {}
    for record in history:
        if isinstance(record, RoomSaid):
            said[record.id] = record
        if not isinstance(record, RoomHeard):
            continue
        key = (record.process, record.id)
        if record.id not in said or said[record.id].room != record.room:
            text = f"{record.user} heard {record.id} in {record.room}, and nobody said it there"
            yield Violation("room", record.t, text, (record,))
        elif key in heard:
            text = f"{record.user} heard {record.id} twice"
            yield Violation("room", record.t, text, (heard[key], record))
        heard[key] = record


def _not_heard(history: History, arrive_s: float) -> Iterator[Violation]:
    """Whoever is in a room in a calm period hears all that is said."""
    circumstances = Circumstances(history)
    looks: dict[str, RoomLooked] = {}
    said: list[RoomSaid] | None = None
    heard: dict[str, set[str]] = defaultdict(set)
    for record in history:
        match record:
            case RoomLooked(room=room):
                looks[room] = record
            case Calm(begins=True):
                said = []
            case RoomSaid() if said is not None:
                said.append(record)
            case RoomHeard(id=msg_id, user=user):
                heard[msg_id].add(user)
            case Calm(begins=False, t=t):
                for one in said or ():
                    look = looks.get(one.room)
                    if look is None or circumstances.due(one.t, arrive_s) > t:
                        continue
                    deaf = set(look.told) - heard[one.id]
                    if deaf:
                        text = f"{one.id} was said in {one.room}, and {sorted(deaf)} have not heard"
                        yield Violation("room", one.t, f"{text} it", (one, look))
                said = None
            case _:
                pass
