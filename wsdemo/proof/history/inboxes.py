"""Durable messages: was each one that was stored delivered once, or told as missing? (D1 to D7)"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from wsdemo.proof.history.circumstances import Circumstances
from wsdemo.proof.history.devices import user_of_device
from wsdemo.proof.history.records import (
    DurableSent,
    GapTold,
    Healed,
    History,
    InboxesLost,
    InboxOpened,
    InboxStored,
    Looked,
    Phase,
    Record,
    RunChanged,
    Taken,
)
from wsdemo.proof.history.violation import Violation
from wsdemo.proof.promises import DurablePromise


@dataclass(slots=True)
class _Reader:
    """What a user, or one device of a user, has had from the inbox, as a history tells of it."""

    taken: dict[str, list[Taken]] = field(default_factory=lambda: defaultdict(list))
    """By the id of the message."""
    gaps: list[GapTold] = field(default_factory=list)
    is_online: bool = True
    """Whether it was, when somebody looked last."""


@dataclass(slots=True)
class _Inboxes:
    """All inboxes, and who reads them."""

    stored: dict[str, list[InboxStored]] = field(default_factory=lambda: defaultdict(list))
    """By user."""
    readers: dict[str, _Reader] = field(default_factory=lambda: defaultdict(_Reader))
    """Those that have opened an inbox, by their name in the history."""

    def note(self, record: Record) -> None:
        match record:
            case InboxStored(user=user):
                self.stored[user].append(record)
            case Taken(user=name, id=msg_id):
                self.readers[name].taken[msg_id].append(record)
            case GapTold(user=name):
                self.readers[name].gaps.append(record)
            case InboxOpened(user=name):
                self.readers[name].is_online = True
            case Looked(user=name, online=is_online) if name in self.readers:
                self.readers[name].is_online = is_online
            case _:
                pass

    def untold(self, name: str, stored_before: float, until: float) -> Iterator[InboxStored]:
        """Iterate over the messages that were stored before some time, of which a reader had
        nothing until another time.
        """
        reader = self.readers[name]
        last_gap = max((gap.t for gap in reader.gaps if gap.t <= until), default=-math.inf)
        for stored in self.stored[user_of_device(name)]:
            if stored.t >= stored_before or stored.t <= last_gap:
                continue
            if not any(taken.t <= until for taken in reader.taken.get(stored.id, ())):
                yield stored


def inboxes(history: History, lag_s: float = 0.0) -> list[Violation]:
    """Check what became of durable messages; a history without any is right.

    D1: `stored` and `duplicate` are said of messages that Redis has stored. D2: each stored message
    was taken, or a gap was told after it was stored; and nothing is missing between two messages
    that a process takes, unless a gap is told between them. D3: a
    process takes no message twice. D4: no id is stored twice. D5: offsets follow the order in which
    a process has sent. D7: after a change of the run of Redis, a user is told of a gap before any
    message that was stored later.

    A user is judged who has a process that reads the inbox, so at the end of a history all of them
    must have been online for a while. Where users have several devices, each device is judged as a
    user; at the end only those that were online when somebody looked last: one that has to go for
    another one is told when it comes back. Where Redis has lost an inbox, an id may be stored anew
    (D4), and then be taken under another offset.

    Args:
        lag_s: what Redis does is recorded so much later than what clients are told.
    """
    known = _Inboxes()
    for record in history:
        known.note(record)
    violations = [
        *_answers_without_store(history, lag_s),
        *_stored_twice(history),
        *_out_of_order(history),
        *_untold_runs(history),
        *_in_each_process(history),
        *_not_delivered(history, known),
    ]
    return sorted(violations, key=lambda violation: violation.t)


def number(offset: str) -> int:
    """Return the number of an offset: the messages of an inbox are counted without holes."""
    return int(offset.partition("-")[0])


def _answers_without_store(history: History, lag_s: float) -> Iterator[Violation]:
    """D1."""
    first: dict[str, float] = {}
    for record in history:
        if isinstance(record, InboxStored):
            first.setdefault(record.id, record.t)
    circumstances = Circumstances(history)
    for record in history:
        if isinstance(record, DurableSent) and record.phase is Phase.OK:
            text = f"{record.id} was called {record.status}, and Redis has not stored it"
            if first.get(record.id, math.inf) > circumstances.due(record.t, lag_s):
                yield Violation(DurablePromise.D1, record.t, text, (record,))


def _stored_twice(history: History) -> Iterator[Violation]:
    """D4."""
    stored: dict[str, InboxStored] = {}
    for record in history:
        if isinstance(record, InboxStored):
            if record.id in stored:
                text = f"{record.id} was stored twice, and Redis had lost nothing"
                yield Violation(DurablePromise.D4, record.t, text, (stored[record.id], record))
            stored[record.id] = record
        elif isinstance(record, InboxesLost):
            stored = {
                msg_id: one
                for msg_id, one in stored.items()
                if record.user and record.user != one.user
            }


def _out_of_order(history: History) -> Iterator[Violation]:
    """D5: a message that a process sent after it was told that another one is stored."""
    told: dict[tuple[str, str], str] = {}
    after: dict[str, str] = {}
    stored: dict[str, InboxStored] = {}
    for record in history:
        match record:
            case InboxesLost():
                stored, told = {}, {}
            case DurableSent(phase=Phase.INVOKE, process=process, to=to, id=msg_id):
                after[msg_id] = told.get((process, to), "")
            case DurableSent(phase=Phase.OK, process=process, to=to, id=msg_id):
                told[process, to] = msg_id
            case InboxStored(id=msg_id, offset=offset):
                stored[msg_id] = record
                before = stored.get(after.get(msg_id, ""))
                if before is not None and number(before.offset) >= number(offset):
                    text = f"{msg_id} was sent after {before.id}, and stored before it"
                    yield Violation(DurablePromise.D5, record.t, text, (before, record))
            case _:
                pass


def _untold_runs(history: History) -> Iterator[Violation]:
    """D7."""
    run: RunChanged | None = None
    stored: set[str] = set()
    told: set[str] = set()
    for record in history:
        match record:
            case RunChanged():
                run, stored, told = record, set(), set()
            case GapTold(user=user):
                told.add(user)
            case InboxStored(id=msg_id):
                stored.add(msg_id)
            case Taken(user=user, id=msg_id) if run is not None and msg_id in stored:
                if user not in told:
                    text = f"{user} took {msg_id} of a new run of Redis, and was told of no gap"
                    yield Violation(DurablePromise.D7, record.t, text, (run, record))
                    told.add(user)
            case _:
                pass


def _in_each_process(history: History) -> Iterator[Violation]:
    """D2 and D3, for what one process takes."""
    last: dict[str, Taken | InboxOpened] = {}
    taken: dict[str, dict[str, Taken]] = defaultdict(dict)
    numbers: dict[str, set[int]] = defaultdict(set)
    for record in history:
        if isinstance(record, InboxOpened) and record.after:
            last[record.process] = record
        if isinstance(record, GapTold):
            last.pop(record.process, None)
        if not isinstance(record, Taken):
            continue
        process = record.process
        twice = taken[process].get(record.offset)
        if twice is not None:
            text = f"{record.user} was given {record.id} twice in one process"
            yield Violation(DurablePromise.D3, record.t, text, (twice, record))
        if (before := last.get(process)) is not None:
            yield from _follows(before, record, numbers[process])
        last[process], taken[process][record.offset] = record, record
        numbers[process].add(number(record.offset))


def _follows(before: Taken | InboxOpened, record: Taken, known: set[int]) -> Iterator[Violation]:
    """Check what a process takes after a message, or after its position, without a gap between."""
    after = before.offset if isinstance(before, Taken) else before.after
    first, n = number(after), number(record.offset)
    missing = [i for i in range(first + 1, n) if i not in known]
    if missing or (n <= first and after != record.offset):
        text = f"{record.user} took {record.offset} after {after}, and was told of no gap"
        yield Violation(DurablePromise.D2, record.t, text, (before, record))


def _not_delivered(history: History, known: _Inboxes) -> Iterator[Violation]:
    """D2: stored - taken - told = 0, for each reader that is online long after a heal, and for all
    at the end.
    """
    healed_at, accused = -math.inf, set[tuple[str, str]]()
    for record in history:
        if isinstance(record, Healed):
            healed_at = record.t
        elif isinstance(record, Looked) and record.online and record.conn:
            name = record.user
            for lost in known.untold(name, healed_at, record.t) if name in known.readers else ():
                if (name, lost.id) not in accused:
                    accused.add((name, lost.id))
                    text = f"{lost.id} was stored before the heal, and {name} has not got it"
                    yield Violation(DurablePromise.D2, lost.t, text, (lost, record))
    for name, reader in known.readers.items():
        if not reader.is_online and user_of_device(name) != name:
            continue
        for lost in known.untold(name, math.inf, math.inf):
            if (name, lost.id) not in accused:
                text = f"{lost.id} was stored, and {name} was told neither it nor a gap"
                yield Violation(DurablePromise.D2, lost.t, text, (lost,))
