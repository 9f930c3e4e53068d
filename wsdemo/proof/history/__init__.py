"""History: what happened in a run under faults, and was all of it allowed?

A history is a list of records in the order in which they happened: what users tried and were
answered, what their clients received, which session Redis named as the owner of a user, which
faults began and ended, and what was found when somebody looked. Whoever runs a cluster under faults
(real processes or a simulation) writes one, and the checks here read it. They are pure functions,
and each returns the violations that it found.

* `owners`, `convergence`: the promises P1, P3, P4, P5, P7, P8 and X (`wsdemo.proof.promises`).
* `messages`: right user, at most once, FIFO order, and the meaning of an ack.
* `inboxes`: durable messages, D1 to D5 and D7, for each device of a user.
* `held`: what Redis held for a device does not go because of another device.
* `rooms`: the lists of rooms, R1 to R5, and what is heard in them.
* `watches`: what watchers were told, W1 to W3.
* `devices`: what each device of a user receives.
* `backends`: what the server API answered about sessions, A1.
* `late`: what was told `unknown` arrives in time, or never.
* `answers`, `pongs`, `lost`, `closes`, `denied`, `calm`, `counted`: what users may expect who are
  not touched by a fault.

A check that had nothing to test says so as a violation of its own, because a run in which nothing
happened proves nothing: `sometimes`, `convergence`, `calm`, and "nothing to lose" in `check`.
"""

from wsdemo.proof.history.answers import answers, denied, pongs
from wsdemo.proof.history.backends import backends
from wsdemo.proof.history.bounds import DEFINITELY_NOT, MACHINE, NEAR, Bounds, Causes, Near
from wsdemo.proof.history.calm import calm, counted, present
from wsdemo.proof.history.check import check, happened, kept, sometimes, well_formed
from wsdemo.proof.history.closes import closes
from wsdemo.proof.history.convergence import convergence
from wsdemo.proof.history.devices import devices, user_of_device
from wsdemo.proof.history.held import held
from wsdemo.proof.history.inboxes import inboxes
from wsdemo.proof.history.jsonl import from_jsonl, to_jsonl, to_line
from wsdemo.proof.history.lateness import late
from wsdemo.proof.history.losses import lost, unexplained
from wsdemo.proof.history.messages import messages
from wsdemo.proof.history.owners import owners
from wsdemo.proof.history.records import (
    REDIS,
    USERS,
    Calm,
    Closed,
    Counted,
    Disconnected,
    DurableSent,
    Fault,
    Forgotten,
    GapTold,
    Happened,
    Healed,
    History,
    InboxAcknowledged,
    InboxesLost,
    InboxOpened,
    InboxStored,
    InboxTrimmed,
    Late,
    Left,
    Looked,
    ObservationGap,
    Owner,
    Phase,
    Pinged,
    Ponged,
    PresenceTold,
    Received,
    Record,
    Registered,
    Released,
    RoomHeard,
    RoomLooked,
    RoomRegister,
    RoomSaid,
    RunChanged,
    Sent,
    Taken,
    WatchLooked,
    WatchTold,
)
from wsdemo.proof.history.rooms import rooms
from wsdemo.proof.history.tracked import Tally, by_fault, tally
from wsdemo.proof.history.violation import Violation
from wsdemo.proof.history.watches import watches

__all__ = [
    "DEFINITELY_NOT",
    "MACHINE",
    "NEAR",
    "REDIS",
    "USERS",
    "Bounds",
    "Calm",
    "Causes",
    "Closed",
    "Counted",
    "Disconnected",
    "DurableSent",
    "Fault",
    "Forgotten",
    "GapTold",
    "Happened",
    "Healed",
    "History",
    "InboxAcknowledged",
    "InboxOpened",
    "InboxStored",
    "InboxTrimmed",
    "InboxesLost",
    "Late",
    "Left",
    "Looked",
    "Near",
    "ObservationGap",
    "Owner",
    "Phase",
    "Pinged",
    "Ponged",
    "PresenceTold",
    "Received",
    "Record",
    "Registered",
    "Released",
    "RoomHeard",
    "RoomLooked",
    "RoomRegister",
    "RoomSaid",
    "RunChanged",
    "Sent",
    "Taken",
    "Tally",
    "Violation",
    "WatchLooked",
    "WatchTold",
    "answers",
    "backends",
    "by_fault",
    "calm",
    "check",
    "closes",
    "convergence",
    "counted",
    "denied",
    "devices",
    "from_jsonl",
    "happened",
    "held",
    "inboxes",
    "kept",
    "late",
    "lost",
    "messages",
    "owners",
    "pongs",
    "present",
    "rooms",
    "sometimes",
    "tally",
    "to_jsonl",
    "to_line",
    "unexplained",
    "user_of_device",
    "watches",
    "well_formed",
]
