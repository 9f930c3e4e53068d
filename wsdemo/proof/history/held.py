"""Held messages: did each device get what Redis held for it, or did another device take it away?

D2 is kept when a gap is told, whatever the reason. That is not enough where a user has several
devices: a product in which the phone's acknowledgement throws away what the laptop has not read
would tell the laptop of a gap, and nothing more. So here the reason counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from wsdemo.proof.history.circumstances import Circumstances
from wsdemo.proof.history.devices import user_of_device
from wsdemo.proof.history.inboxes import number
from wsdemo.proof.history.records import (
    History,
    InboxAcknowledged,
    InboxesLost,
    InboxOpened,
    InboxStored,
    InboxTrimmed,
    ObservationGap,
    Record,
    RunChanged,
    Taken,
)
from wsdemo.proof.history.violation import Violation
from wsdemo.proof.promises import DurablePromise


class _Skipped(NamedTuple):
    """A device took a later message, and not this one."""

    name: str
    stored: InboxStored
    later: Taken


def held(history: History, most: int, lag_s: float = 0.0) -> list[Violation]:
    """Check that no device takes a message from another one.

    From its first acknowledgement on, a device has a cursor, and what is stored is held for it.
    If it takes a later message and never this one, then this one is gone; and that is allowed only
    if the inbox was full, or Redis has lost it. A run of Redis that may have lost something is
    believed to have done so. All that is judged anew after the next acknowledgement.

    Not judged are users with more devices than hold messages: some of those are forgotten, and
    which ones does not show in a history. The retention does not end here: it is a day.

    Args:
        most: how many devices of one user hold messages.
        lag_s: what Redis does is recorded so much later than what clients are told.
    """
    check = _HeldCheck(history, most, lag_s)
    for record in history:
        check.note(record)
    return sorted(check.violations(), key=lambda violation: violation.t)


class _HeldCheck:
    def __init__(self, history: History, most: int, lag_s: float) -> None:
        self._circumstances = Circumstances(history)
        self._lag_s = lag_s
        self._judged = _judged(history, most)
        self._held: dict[str, dict[str, InboxStored]] = {}
        """By device with a cursor: what it has not taken yet, by id."""
        self._taken: dict[str, set[str]] = defaultdict(set)
        self._skipped: list[_Skipped] = []

    def note(self, record: Record) -> None:
        match record:
            case InboxAcknowledged(user=name) if name in self._judged:
                self._held.setdefault(name, {})
            case InboxStored():
                self._stored(record)
            case Taken(user=name) if name in self._judged:
                self._took(name, record)
            case InboxTrimmed(user=user, offset=offset):
                last = number(offset)
                self._excuse(record.t, lambda one: one.user == user and number(one.offset) <= last)
            case InboxesLost(user=user):
                self._lost(record.t, user)
            case RunChanged():
                self._lost(record.t)
            case ObservationGap(for_s=for_s):
                self._lost(record.t, blind_s=for_s)
            case _:
                pass

    def violations(self) -> Iterator[Violation]:
        for name, stored, later in self._skipped:
            text = (
                f"{stored.id} was held for {name}, which took {later.id} and never this one; "
                "Redis had lost nothing, and the inbox was not full"
            )
            yield Violation(DurablePromise.D2, later.t, text, (stored, later))

    def _stored(self, record: InboxStored) -> None:
        for name, messages in self._held.items():
            # A client may be given a message before the witness has seen that it is stored.
            if user_of_device(name) == record.user and record.id not in self._taken[name]:
                messages[record.id] = record

    def _took(self, name: str, record: Taken) -> None:
        self._taken[name].add(record.id)
        self._skipped = [
            one for one in self._skipped if (one.name, one.stored.id) != (name, record.id)
        ]
        messages = self._held.get(name, {})
        messages.pop(record.id, None)
        last = number(record.offset)
        for stored in [one for one in messages.values() if number(one.offset) < last]:
            del messages[stored.id]
            self._skipped.append(_Skipped(name, stored, record))

    def _lost(self, t: float, user: str = "", blind_s: float = 0.0) -> None:
        """Redis may have lost what it held for a user, or ('') for all, and the cursors too."""
        self._excuse(t, lambda one: user in ("", one.user), blind_s)
        for name in [name for name in self._held if user in ("", user_of_device(name))]:
            del self._held[name]

    def _excuse(self, t: float, fits: Callable[[InboxStored], bool], blind_s: float = 0.0) -> None:
        """These messages are gone, and it may be that what is told of this comes late."""
        for messages in self._held.values():
            for msg_id in [one.id for one in messages.values() if fits(one)]:
                del messages[msg_id]
        late_s = self._lag_s + blind_s
        self._skipped = [
            one
            for one in self._skipped
            if not fits(one.stored) or self._circumstances.due(one.later.t, late_s) < t
        ]


def _judged(history: History, most: int) -> set[str]:
    """Return the devices that read the inbox, of users who have no more devices than `most`."""
    readers: dict[str, set[str]] = defaultdict(set)
    devices: dict[str, set[str]] = defaultdict(set)
    for record in history:
        if isinstance(record, InboxOpened):
            readers[user_of_device(record.user)].add(record.user)
        if isinstance(record, InboxOpened | InboxAcknowledged):
            devices[user_of_device(record.user)].add(record.user)
    return {name for user, names in readers.items() if len(devices[user]) <= most for name in names}
