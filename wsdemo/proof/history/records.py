"""History records: what can have happened in a run?

A history is a list of these records in the order in which they happened. Each has a monotone time
`t` in seconds, and all records of one history use the same clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec


class Phase(StrEnum):
    """How far an operation is. `unknown`: it may or may not have happened, now or later."""

    INVOKE = "invoke"
    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


class _Base(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="is"):
    t: float
    """Monotone seconds; all records of a history use one clock."""


# --- users and messages ----------------------------------------------------------------------


class Registered(_Base, frozen=True, tag="register"):
    """A user wants to be registered, or is. `conn` and `gateway` are known when it is `ok`."""

    user: str
    phase: Phase
    conn: str = ""
    gateway: str = ""


class Sent(_Base, frozen=True, tag="send"):
    """A user sends a message. `id` is unique in the history.

    The `invoke` record says when the message left its client, and on which connection `conn`. A
    later record has the answer of the gateway (`status`: a value of `wsdemo.protocol.Status`).
    There may be several answers; the last one counts.
    `asks`: the message has an id on the wire, so the gateway has to answer it. `told`: the gateway
    has answered; if false, the client has stopped waiting by itself. `gateway`: a backend has asked
    this one by HTTP; then `conn` is this request.
    """

    user: str
    phase: Phase
    id: str
    to: str = ""
    conn: str = ""
    status: str = ""
    asks: bool = True
    told: bool = True
    gateway: str = ""


class Received(_Base, frozen=True, tag="receive"):
    """The client of `user`, registered as session `conn`, has received a message."""

    user: str
    conn: str
    id: str
    sender: str = ""


class Closed(_Base, frozen=True, tag="closed"):
    """The client sees that the connection of a session has ended. `code` is 0 without a close
    frame.
    """

    user: str
    conn: str
    code: int = 0


class Left(_Base, frozen=True, tag="left"):
    """A user ends a session on purpose, now: with a close frame or without one."""

    user: str
    conn: str


class Pinged(_Base, frozen=True, tag="ping"):
    """The client of a session sends a ping to its gateway."""

    user: str
    conn: str


class Ponged(_Base, frozen=True, tag="pong"):
    """The client of a session receives a pong."""

    user: str
    conn: str


# --- durable messages ------------------------------------------------------------------------


class InboxOpened(_Base, frozen=True, tag="reader"):
    """A process of `user` begins to read its inbox, and acknowledges what it has taken.

    `after` is the offset after which it wants to go on; '' when it knows none.
    """

    user: str
    process: str
    after: str = ""


class DurableSent(_Base, frozen=True, tag="durable"):
    """A user sends a durable message. `id` is unique in the history, `process` is who sends.

    The `invoke` record says when the application asked for it. Later, `status` says what it was
    told: `ok` is `stored` or `duplicate`. The client may have sent it many times in between.
    """

    user: str
    phase: Phase
    id: str
    to: str
    process: str
    status: str = ""


class InboxStored(_Base, frozen=True, tag="stored"):
    """Redis has stored a message in the inbox of `user`. These are in the order of Redis."""

    user: str
    id: str
    offset: str


class Taken(_Base, frozen=True, tag="taken"):
    """The application of `user` has taken a durable message."""

    user: str
    process: str
    id: str
    offset: str


class GapTold(_Base, frozen=True, tag="missed"):
    """The application of `user` is told that durable messages before this point may be lost."""

    user: str
    process: str
    count: int | None = None


class InboxAcknowledged(_Base, frozen=True, tag="acknowledged"):
    """Redis has taken the acknowledgement of one of several devices: from now on it has a cursor,
    and holds for it what comes after this offset.
    """

    user: str
    offset: str


class InboxTrimmed(_Base, frozen=True, tag="trimmed"):
    """The inbox of `user` was full: its messages up to this offset are gone."""

    user: str
    offset: str


class InboxesLost(_Base, frozen=True, tag="inboxes lost"):
    """Redis has lost what it had stored, or a part of it: for one user, or ('') for all."""

    user: str = ""


class RunChanged(_Base, frozen=True, tag="run"):
    """Redis is a new process, which gateways do not trust to know all that it had confirmed."""


# --- rooms -----------------------------------------------------------------------------------


class RoomRegister(_Base, frozen=True, tag="register of room"):
    """What Redis says of one member of a room from now on. These are in the order of Redis.

    `state` is `in` or `out`; '' when nothing is kept. (token, seq) is the stamp. `verb` is the
    script that made the change.
    """

    room: str
    member: str
    state: str
    token: int = 0
    seq: int = 0
    verb: str = ""


class RoomSaid(_Base, frozen=True, tag="said"):
    """A user publishes a message in a room."""

    user: str
    room: str
    id: str


class RoomHeard(_Base, frozen=True, tag="heard"):
    """The application of `user` has heard a message in a room."""

    user: str
    process: str
    room: str
    id: str


class RoomLooked(_Base, frozen=True, tag="looked into room"):
    """One room, at the moment when somebody looked.

    `listed` is who is in it, as Redis says. `told` is, for each user whose application believes to
    be in it, whom this application believes to be there.
    """

    room: str
    listed: tuple[str, ...]
    told: dict[str, tuple[str, ...]]


# --- presence events -------------------------------------------------------------------------


class WatchTold(_Base, frozen=True, tag="watched"):
    """The application of `user` is told that `of` has come or gone.

    `state` is `online` or `offline`. `is_there`: `of` has an entry in Redis at this moment.
    """

    user: str
    process: str
    of: str
    state: str
    is_there: bool


class WatchLooked(_Base, frozen=True, tag="looked at watch"):
    """What the application of `user` was told last of `of`, at the moment when somebody looked."""

    user: str
    process: str
    of: str
    state: str
    is_there: bool


# --- the server API --------------------------------------------------------------------------


class Disconnected(_Base, frozen=True, tag="disconnect"):
    """A backend wants to end all sessions of a user, with this close code.

    When it is `ok`, `conns` are the sessions whose gateways were told. `fail`: nobody was asked.
    """

    user: str
    phase: Phase
    id: int
    code: int
    conns: tuple[str, ...] = ()


class PresenceTold(_Base, frozen=True, tag="presence"):
    """A backend that asked at `since` was told now that a user has these sessions."""

    user: str
    since: float
    conns: tuple[str, ...] = ()


# --- Redis -----------------------------------------------------------------------------------


class Owner(_Base, frozen=True, tag="owner"):
    """The entry of a user, as it is in Redis from now on. These are in the order of Redis.

    `conn` is empty when there is no entry. `token` is None where presence has no tokens.
    `complete`: the entry has all its fields and a TTL. If the command that made the change is
    known, `verb` is its name and `by` is the session for which it was sent.
    """

    user: str
    conn: str = ""
    gateway: str = ""
    token: int | None = None
    complete: bool = True
    verb: str = ""
    by: str = ""


class Released(_Base, frozen=True, tag="released"):
    """Redis has executed a release of a session, whether or not that session owned the entry."""

    user: str
    conn: str


class Forgotten(_Base, frozen=True, tag="forgotten"):
    """Redis has lost its data, fences included: those of one user, or ('') of all users."""

    user: str = ""


# --- the run ---------------------------------------------------------------------------------


class Fault(_Base, frozen=True, tag="fault"):
    """A fault begins or ends. One that takes no time does both at once.

    `where` names what it touches: gateways and users by their names, `REDIS` and `USERS`. The
    fault explains nothing that happens elsewhere. None: it may explain anything.
    """

    name: str
    begins: bool
    where: tuple[str, ...] | None = None


class Healed(_Base, frozen=True, tag="healed"):
    """No fault is active from now on, until the next one begins."""


class Calm(_Base, frozen=True, tag="calm"):
    """A calm period begins or ends: no fault is active, and no user comes or goes."""

    begins: bool


class Late(_Base, frozen=True, tag="late"):
    """The machine was too busy: for the last `for_s` seconds, a process that was ready to run had
    to wait. What took longer in this time is not the fault of a gateway.
    """

    for_s: float


class ObservationGap(_Base, frozen=True, tag="gap"):
    """For the last `for_s` seconds, nobody observed what Redis did."""

    for_s: float


class Counted(_Base, frozen=True, tag="counted"):
    """A number that was read at a gateway at a quiet moment.

    `wanted` is what the number should be; None: as many as the history has sessions there.
    """

    gateway: str
    what: str
    count: int
    wanted: int | None = None


class Looked(_Base, frozen=True, tag="looked"):
    """The state of one user, at the moment when somebody looked.

    `online` says whether the user wants to be online. `conn` is the session that the client
    believes to have, `believers` are the sessions that gateways believe to own the user, and
    `owner` is the session that Redis names.
    """

    user: str
    online: bool
    conn: str = ""
    believers: tuple[str, ...] = ()
    owner: str = ""


class Happened(_Base, frozen=True, tag="happened"):
    """Something that a good run contains at least once, for example an outcome of a script."""

    name: str


Record = (
    Registered
    | Sent
    | Received
    | Closed
    | Left
    | Pinged
    | Ponged
    | InboxOpened
    | DurableSent
    | InboxStored
    | Taken
    | GapTold
    | InboxAcknowledged
    | InboxTrimmed
    | InboxesLost
    | RunChanged
    | RoomRegister
    | RoomSaid
    | RoomHeard
    | RoomLooked
    | WatchTold
    | WatchLooked
    | Disconnected
    | PresenceTold
    | Owner
    | Released
    | Forgotten
    | Fault
    | Healed
    | Calm
    | Late
    | ObservationGap
    | Counted
    | Looked
    | Happened
)
History = Sequence[Record]

REDIS: Final = "redis"
USERS: Final = "users"
"""Places of faults: the Redis server, and the network between users and gateways."""
