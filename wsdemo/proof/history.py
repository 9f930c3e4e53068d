"""What happened, and was it allowed?

A history is a list of records in the order in which they happened, each with a monotone time `t`
(s): what users tried and were told, what their clients received, who Redis said was the owner of a
user, which faults began and ended, and what was found when somebody looked. Whoever runs a cluster
under faults (real processes, or a simulation) writes one; the checks below read it. They are pure,
and each of them returns the violations that it found: none is the claim.

The claims are those of the guarantees: P1, P3-P5, P7 and P8 for presence, FIFO and the meaning of
an ack for messages. How long a lease is does not show in a history, so that a refresh prolongs no
other's (P2, P6) is left to the model checker; what shows is an entry that stays (P7).
What neighbours of a fault are owed is here as well: each message its answer and each ping its pong
within a bound (`answers`, `pongs`), no loss and no end of a session without a reason (`lost`,
`closes`), nobody called absent who is there (`denied`), and while nothing is wrong everything
(`calm`). A reason is near in time, and near in place where a fault says where it was.
A check that had nothing to look at says so as a violation of its own, because a run in which
nothing happened proves nothing: `sometimes`, `convergence`, `calm`, and the "nothing to lose" of
`check`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec


class Phase(StrEnum):
    """Where an operation stands. `unknown`: it may or may not have happened, now or later."""

    INVOKE = "invoke"
    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


class _Base(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="is"):
    t: float
    """Monotone seconds; all records of a history are on one clock."""


class Registered(_Base, frozen=True, tag="register"):
    """A user wants to be, or is, registered. `conn` and `gateway` are known when it is `ok`."""

    user: str
    phase: Phase
    conn: str = ""
    gateway: str = ""


class Sent(_Base, frozen=True, tag="send"):
    """A user sends a message. `id` is unique in the history.

    The `invoke` record stands where the message left its client, on connection `conn`; a later one
    says what its gateway answered (`status`: a value of `wsdemo.protocol.Status`). There may be
    several answers; the last one counts.
    `asks`: the message has an id on the wire, so its gateway owes an answer. `told`: the gateway
    has said so; if not, the client has given up waiting by itself.
    """

    user: str
    phase: Phase
    id: str
    to: str = ""
    conn: str = ""
    status: str = ""
    asks: bool = True
    told: bool = True


class Received(_Base, frozen=True, tag="receive"):
    """The client of `user`, registered as session `conn`, was given a message."""

    user: str
    conn: str
    id: str
    sender: str = ""


class Closed(_Base, frozen=True, tag="closed"):
    """The connection of a session has ended for its client; `code` 0 when there was no goodbye."""

    user: str
    conn: str
    code: int = 0


class Left(_Base, frozen=True, tag="left"):
    """A user ends a session of its own accord, now: with a goodbye, or by hanging up."""

    user: str
    conn: str


class Pinged(_Base, frozen=True, tag="ping"):
    """The client of a session asks its gateway for a pong."""

    user: str
    conn: str


class Ponged(_Base, frozen=True, tag="pong"):
    """The client of a session is given a pong."""

    user: str
    conn: str


class Owner(_Base, frozen=True, tag="owner"):
    """The entry of a user, as Redis has it from now on; in Redis' own order.

    `conn` is empty when there is no entry. `token` is None where presence knows no tokens.
    `complete`: all fields and a TTL are there. Where the command that made the change is known,
    `verb` is its name and `by` the session that it spoke for.
    """

    user: str
    conn: str = ""
    gateway: str = ""
    token: int | None = None
    complete: bool = True
    verb: str = ""
    by: str = ""


class Released(_Base, frozen=True, tag="released"):
    """Redis has executed a release of a session, whether or not it owned anything."""

    user: str
    conn: str


class Forgotten(_Base, frozen=True, tag="forgotten"):
    """Redis has lost its data, fences included: that of one user, or ('') of all."""

    user: str = ""


class Fault(_Base, frozen=True, tag="fault"):
    """A fault begins or ends. One that takes no time does both at once.

    `where` names what it touches: gateways and users by their names, `REDIS` and `USERS`. What
    happens elsewhere is not its doing. None: it may be to blame for anything.
    """

    name: str
    begins: bool
    where: tuple[str, ...] | None = None


class Healed(_Base, frozen=True, tag="healed"):
    """No fault is active from here on, until the next one begins."""


class Calm(_Base, frozen=True, tag="calm"):
    """From here on, or until here, everything is right, nothing is broken and nobody moves."""

    begins: bool


class Late(_Base, frozen=True, tag="late"):
    """For so long (s), until now, the machine has kept somebody waiting who was ready to run: what
    took longer meanwhile, or was given up, was not the fault of a gateway.
    """

    for_s: float


class Gap(_Base, frozen=True, tag="gap"):
    """For so long (s), until now, nobody saw what Redis did."""

    for_s: float


class Counted(_Base, frozen=True, tag="counted"):
    """Somebody has counted something at a gateway, when nothing was under way.

    `wanted` is how many there ought to be; None: as many as the history has sessions there.
    """

    gateway: str
    what: str
    count: int
    wanted: int | None = None


class Looked(_Base, frozen=True, tag="looked"):
    """What was found when somebody looked at a user.

    `online` says whether the user wants to be there. `conn` is the session that the client of the
    user believes to have, `believers` are the sessions that gateways believe to be the owner, and
    `owner` is what Redis says.
    """

    user: str
    online: bool
    conn: str = ""
    believers: tuple[str, ...] = ()
    owner: str = ""


class Happened(_Base, frozen=True, tag="happened"):
    """Something that a good run contains at least once: the outcome of a script, say."""

    name: str


Record = (
    Registered
    | Sent
    | Received
    | Closed
    | Left
    | Pinged
    | Ponged
    | Owner
    | Released
    | Forgotten
    | Fault
    | Healed
    | Calm
    | Late
    | Gap
    | Counted
    | Looked
    | Happened
)
History = Sequence[Record]

REDIS: Final = "redis"
USERS: Final = "users"
"""Places of faults: the server, and what lies between users and gateways."""

DEFINITELY_NOT: Final = frozenset({"offline", "unreachable", "busy", "refused"})
"""Answers that promise that the message was not delivered and will not be.

`unreachable` is one of them: it means that nobody listened, or that the gateway which listened had
no such session and sent the message back; it never delivers and bounces the same message.
`unknown` promises nothing, and `routed` only that somebody listened.
"""

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Record)


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that was not allowed: which claim it breaks, when, in words, and what shows it."""

    claim: str
    t: float
    text: str
    evidence: tuple[Record, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.claim} at {self.t:.3f} s: {self.text}"]
        lines += [f"    {to_line(record)}" for record in self.evidence]
        return "\n".join(lines)


# --- as text ---------------------------------------------------------------------------------


def to_line(record: Record) -> str:
    """Return a record as one line of JSON."""
    return _encoder.encode(record).decode()


def to_jsonl(history: Iterable[Record]) -> str:
    """Return a history as text, one record a line."""
    return "".join(f"{to_line(record)}\n" for record in history)


def from_jsonl(text: str) -> list[Record]:
    """Read what `to_jsonl` wrote.

    Raises:
        ValueError: a line is no record; the text says which.
    """
    history: list[Record] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            history.append(_decoder.decode(line))
        except msgspec.MsgspecError as problem:
            raise ValueError(f"line {number}: {problem}") from None
    return history


# --- owners ----------------------------------------------------------------------------------


def owners(history: History, *, ttl_s: float = 90.0) -> list[Violation]:
    """Check who owned the users: P1, P3, P4, P5.

    A loss of data weakens them as the guarantees say. Tokens increase between two losses, not
    across one (P5); a session that had been released or superseded before the loss may own again,
    but as a ghost that appears no later than one TTL after it (P3). That the wrong owner does not
    stay is P8: see `convergence`.
    """
    by_user: dict[str, _Throne] = {}
    violations: list[Violation] = []
    lost_at = float("-inf")
    for record in history:
        match record:
            case Forgotten(user="", t=t):
                lost_at = t
                for throne in by_user.values():
                    throne.forget(t)
            case Forgotten(user=user, t=t):
                by_user.setdefault(user, _Throne(ttl_s, lost_at)).forget(t)
            case Released(user=user):
                by_user.setdefault(user, _Throne(ttl_s, lost_at)).release(record)
            case Owner(user=user):
                throne = by_user.setdefault(user, _Throne(ttl_s, lost_at))
                violations += throne.change(record)
    return violations


class _Throne:
    """One user's owners so far."""

    def __init__(self, ttl_s: float, lost_at: float) -> None:
        self._ttl_s = ttl_s
        self._lost_at = lost_at
        self._owner: Owner | None = None
        self._highest: Owner | None = None
        """The owner with the highest token since the last loss of data."""
        self._gone: dict[str, Record] = {}
        """Sessions that must not own again, and why: their release, or who superseded them."""
        self._ghosts: dict[str, Record] = {}
        """Those of them that became so before the last loss of data."""

    def forget(self, t: float) -> None:
        self._lost_at = t
        self._owner = self._highest = None
        self._ghosts |= self._gone
        self._gone = {}

    def release(self, record: Released) -> None:
        self._gone[record.conn] = record

    def change(self, now: Owner) -> Iterator[Violation]:
        before, self._owner = self._owner, (now if now.conn else None)
        if not now.complete:
            yield Violation("P4", now.t, f"{now.user} has an entry that is not whole", (now,))
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
            yield Violation("P1", now.t, text, (before, now))

    def _may_own(self, now: Owner) -> Iterator[Violation]:
        if (why := self._gone.get(now.conn)) is not None:
            text = f"{now.conn} owns {now.user} again, after its end"
            yield Violation("P3", now.t, text, (why, now))
        elif (why := self._ghosts.get(now.conn)) and now.t > self._lost_at + self._ttl_s:
            text = f"{now.conn} owns {now.user} again, more than a TTL after the loss of data"
            yield Violation("P3", now.t, text, (why, now))

    def _succeeded(self, now: Owner) -> Iterator[Violation]:
        """Somebody owns who did not just before."""
        highest = self._highest
        if highest is None or highest.conn == now.conn or now.token is None:
            return
        if now.token <= (highest.token or 0):
            text = f"{now.user}: token {now.token} of {now.conn} after {highest.token}"
            yield Violation("P5", now.t, text, (highest, now))
        else:
            # A newer session has registered: this one will not be the owner any more.
            self._gone[highest.conn] = now


# --- messages --------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What became of the messages of a history. Counts; keys are values of `Status`."""

    sent: Counter[str] = field(default_factory=Counter)
    """By the last answer."""
    delivered: int = 0
    lost_in_faults: Counter[str] = field(default_factory=Counter)
    """Not delivered, by the last answer, while a fault was active or had just been."""
    lost_in_calm: Counter[str] = field(default_factory=Counter)
    """The same, far from any fault: to users who were moving, or leaving."""


@dataclass(slots=True)
class _Letter:
    """One message: when it left, the last answer, who received it."""

    left: Sent
    number: int
    answer: Sent | None = None
    answered_at: int = -1
    """Where in the history the last answer stands."""
    first: Sent | None = None
    """The first answer that its gateway gave."""
    no: Sent | None = None
    """The last answer that promised that it was not, and will not be, delivered."""
    received: list[Received] = field(default_factory=list)

    @property
    def status(self) -> str:
        return self.answer.status if self.answer is not None else "unknown"


def _letters(history: History) -> dict[str, _Letter]:
    letters: dict[str, _Letter] = {}
    for at, record in enumerate(history):
        match record:
            case Sent(phase=Phase.INVOKE, id=msg_id):
                letters[msg_id] = _Letter(record, len(letters))
            case Sent(id=msg_id) if msg_id in letters:
                letter = letters[msg_id]
                letter.answer, letter.answered_at = record, at
                if letter.first is None and record.told:
                    letter.first = record
                letter.no = record if record.status in DEFINITELY_NOT else letter.no
            case Received(id=msg_id) if msg_id in letters:
                letters[msg_id].received.append(record)
            case _:
                pass
    return letters


def messages(history: History) -> list[Violation]:
    """Check what was delivered: to the right user, sent before, once, not after a "no", in order.

    Order is per connection of the sender and session of the recipient; nothing is promised beyond,
    nor for a message whose sender was told `unknown`: it may still lie on the way to Redis, on a
    connection that its gateway has given up, and be routed behind later ones. Those are answered
    later as well: one that was `routed` before the other became unknown must not overtake it.
    A client that has only stopped waiting was told nothing: then a fault must have been near.
    """
    letters = _letters(history)
    violations = list(_phantoms(history, letters))
    for letter in letters.values():
        violations += _misdelivered(letter)
    violations += _overtaken(history, letters)
    return sorted(violations, key=lambda violation: violation.t)


def _phantoms(history: History, letters: dict[str, _Letter]) -> Iterator[Violation]:
    sent: set[str] = set()
    for record in history:
        if isinstance(record, Sent) and record.phase is Phase.INVOKE:
            sent.add(record.id)
        elif isinstance(record, Received) and record.id not in sent:
            text = f"{record.user} received {record.id}, which nobody had sent"
            yield Violation("phantom", record.t, text, (record,))


def _misdelivered(letter: _Letter) -> Iterator[Violation]:
    left, received = letter.left, letter.received
    for record in received:
        if record.user != left.to:
            text = f"{left.id} was for {left.to}, and {record.user} received it"
            yield Violation("wrong user", record.t, text, (left, record))
        if record.sender not in ("", left.user):
            text = f"{left.id} is of {left.user}, and was received as {record.sender}'s"
            yield Violation("wrong sender", record.t, text, (left, record))
    if len(received) > 1:
        text = f"{left.id} was received {len(received)} times"
        yield Violation("duplicate", received[1].t, text, (left, *received))
    if received and letter.no is not None:
        text = f"{left.id} was {letter.no.status}, and was received"
        yield Violation("ack", received[0].t, text, (left, letter.no, received[0]))


def _overtaken(history: History, letters: dict[str, _Letter]) -> Iterator[Violation]:
    """Order is promised from when the recipient's session is registered. What left
    before, while the recipient moved, may be on its way through Redis still when a later one finds
    the new session on the sender's own gateway ("no order across reconnects").
    """
    latest: dict[tuple[str, str], tuple[_Letter, Received]] = {}
    circumstances = _Circumstances(history)
    registered_at = {
        r.conn: r.t for r in history if isinstance(r, Registered) and r.phase is Phase.OK
    }
    for record in history:
        if not isinstance(record, Received) or (letter := letters.get(record.id)) is None:
            continue
        way = (letter.left.conn, record.conn)
        if way in latest:
            earlier, witness = latest[way]
            if earlier.number > letter.number and _may_be_overtaken(letter, earlier, circumstances):
                continue
            if letter.left.t <= registered_at.get(record.conn, -math.inf):
                continue
            if earlier.number > letter.number:
                text = f"{record.id} was sent before {earlier.left.id}, and received after it"
                evidence = (letter.left, earlier.left, witness, record)
                yield Violation("order", record.t, text, evidence)
                continue
        latest[way] = letter, record


def _may_be_overtaken(letter: _Letter, by: _Letter, circumstances: _Circumstances) -> bool:
    """Say whether one that was sent later may arrive earlier: only if its gateway had given the
    first one up when it routed this one, and so had said so when it answered this one; or if a
    fault has kept it from saying so.
    """
    if letter.answer is None or letter.status != "unknown":
        return False
    was_given_up_first = by.status != "routed" or by.answered_at > letter.answered_at
    return was_given_up_first and (
        letter.answer.told
        or circumstances.fault(
            letter.left.t, letter.answer.t, NEAR, circumstances.at(letter.left.conn) | {REDIS}
        )
    )


def tally(history: History, *, near_s: float = 10.0) -> Tally:
    """Count what became of messages. `near_s`: a fault is to blame this long before and after."""
    counts = Tally()
    faults = list(_active(history))
    for letter in _letters(history).values():
        counts.sent[letter.status] += 1
        if letter.received:
            counts.delivered += 1
            continue
        t = letter.left.t
        near = any(begin - near_s <= t <= end + near_s for begin, end in faults)
        (counts.lost_in_faults if near else counts.lost_in_calm)[letter.status] += 1
    return counts


def by_fault(history: History) -> dict[str, Counter[str]]:
    """Count, for each fault, what became of the messages that left while it was active.

    Keys are "delivered", and the last answer of each that was not. A message counts for every
    fault that was active.
    """
    open_faults: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    letters = _letters(history)
    for record in history:
        if isinstance(record, Fault):
            open_faults[record.name] += 1 if record.begins else -1
        elif isinstance(record, Sent) and record.phase is Phase.INVOKE:
            letter = letters[record.id]
            for name, times in open_faults.items():
                if times > 0:
                    counts[name]["delivered" if letter.received else letter.status] += 1
    return dict(counts)


def unexplained(
    history: History, *, near_s: float = 10.0, aftermath_s: float = 10.0
) -> list[Violation]:
    """Check that what was `routed` far from any fault, to a user who stayed, was delivered.

    A message is far from a fault that begins more than `near_s` after it, or that has ended more
    than `aftermath_s` before it: what a fault leaves (a half-open socket, a superseded session
    whose kick got lost) takes messages until a heartbeat or a refresh finds it.
    A user stays who has one session, and only that one, from `near_s` before until `near_s` after
    the message left; also the sender's history must go on for that long.
    """
    violations = []
    for letter in _promised(history, near_s, aftermath_s, of_lost_ones=True):
        assert letter.answer is not None
        text = f"{letter.left.id} to {letter.left.to} got lost, and nothing had happened"
        violations.append(Violation("lost", letter.left.t, text, (letter.left, letter.answer)))
    return violations


def _promised(
    history: History, near_s: float, aftermath_s: float, *, of_lost_ones: bool
) -> Iterator[_Letter]:
    """Iterate over the messages that had to arrive, see `unexplained`: those that got lost, or
    those that did arrive.
    """
    spans = _sessions(history)
    c = _Circumstances(history)
    ends_at = history[-1].t if history else 0.0
    for letter in _letters(history).values():
        t = letter.left.t
        if bool(letter.received) is of_lost_ones or letter.status != "routed":
            continue
        if t + near_s > ends_at:
            continue
        places = c.at(letter.left.conn, *c.of_user[letter.left.to]) | {
            letter.left.user,
            letter.left.to,
            REDIS,
            USERS,
        }
        if c.fault(t, t, Near(near_s, aftermath_s), places):
            continue
        around = [(a, b) for a, b in spans[letter.left.to] if a <= t + near_s and b >= t - near_s]
        if len(around) == 1 and around[0][0] <= t - near_s and around[0][1] >= t + near_s:
            yield letter


def _nothing_to_lose(history: History, near_s: float, aftermath_s: float) -> Iterator[Violation]:
    """Complain when no message had to arrive: then `unexplained` has looked at nothing."""
    ways = (_promised(history, near_s, aftermath_s, of_lost_ones=lost) for lost in (False, True))
    if not any(True for way in ways for _ in way):
        yield Violation("lost", 0.0, "nothing to lose: no message was far from every fault")


def _active(history: History) -> Iterator[tuple[float, float]]:
    """Iterate over the times (from, to) during which a fault was active."""
    return ((span.begin, span.end) for span in _faults(history))


def _sessions(history: History) -> dict[str, list[tuple[float, float]]]:
    """Return the times (from, to) of each user's sessions, as the clients saw them."""
    began: dict[tuple[str, str], float] = {}
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in history:
        match record:
            case Registered(phase=Phase.OK, user=user, conn=conn, t=t):
                began[user, conn] = t
            case Closed(user=user, conn=conn, t=t) if (user, conn) in began:
                spans[user].append((began.pop((user, conn)), t))
            case _:
                pass
    for (user, _), t in began.items():
        spans[user].append((t, float("inf")))
    return spans


# --- what neighbours of a fault are owed -----------------------------------------------------


class Near(NamedTuple):
    """How near a fault has to be to explain something (s): it began at most `before_s` after it,
    or had ended at most `after_s` before it.
    """

    before_s: float = 0.5
    after_s: float = 1.0


NEAR: Final = Near()
"""On nine recorded runs of real processes, no loss was farther from a fault than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long things may take in a history, and how near a reason must be. Seconds."""

    answer_s: float
    """From a message with an id to its answer: the Redis timeout of its gateway, and a second."""
    arrive_s: float
    """From a message to its arrival, while nothing is wrong."""
    pong_s: float
    """From a ping to its pong."""
    settle_s: float
    """After a fault, a user who has been there for so long all the time must be found."""
    aftermath_s: float
    """What a fault leaves (a half-open socket, a session without a lease) may still end a session
    so long after it."""
    register_s: float
    """For so long a register may be under way before its user hears of it."""
    near: Near = NEAR


Causes = Mapping[int, frozenset[str] | None]
"""Which faults explain a close code; None: any fault does. A code that is not in it needs the
user's own doing or a newer session, or is never right."""

MACHINE: Final = "(the machine)"
"""Among the names of faults: that the machine was late."""
OWN_DOING: Final = frozenset({0, 1000, 1005, 1006})
"""How a session may end for a client that has ended it itself."""
SUPERSEDED: Final = 4509
STALE: Final = 4010


class _Span(NamedTuple):
    """A fault, from its begin to its end."""

    begin: float
    end: float
    name: str
    where: frozenset[str] | None


class _Circumstances:
    """What may explain what happened in a history."""

    def __init__(self, history: History) -> None:
        self.ends_at = history[-1].t if history else 0.0
        self.faults = list(_faults(history))
        self.sessions: dict[str, Registered] = {}
        """By connection: when its client heard that it is registered."""
        self.ends: dict[str, list[Left | Closed]] = defaultdict(list)
        """By connection: what ended it, in order."""
        self.of_user: dict[str, list[str]] = defaultdict(list)
        """The connections of each user, in order."""
        self._lates: list[tuple[float, float]] = []
        for record in history:
            match record:
                case Registered(phase=Phase.OK, user=user, conn=conn):
                    self.sessions[conn] = record
                    self.of_user[user].append(conn)
                case Left(conn=conn) | Closed(conn=conn):
                    self.ends[conn].append(record)
                case Late(t=t, for_s=for_s):
                    self._lates.append((t - for_s, t))
                case _:
                    pass

    def due(self, t: float, within_s: float) -> float:
        """Return when something that began at `t` must be over; the machine's own time is added."""
        deadline = t + within_s
        for begin, end in self._lates:
            if begin < deadline and end > t:
                deadline += end - max(begin, t)
        return deadline

    def at(self, *conns: str) -> set[str]:
        """Return the gateways of these sessions."""
        return {self.sessions[conn].gateway for conn in conns if conn in self.sessions}

    def fault(
        self,
        since: float,
        until: float,
        near: Near,
        places: set[str],
        names: frozenset[str] | None = None,
        *,
        machine: bool = True,
    ) -> bool:
        """Say whether a fault at one of these places (and of these names) was near, or the machine
        was late (if that counts, and is among the names as `MACHINE`).
        """
        busy = machine and (names is None or MACHINE in names)
        return (busy and self.late(since, until)) or any(
            span.begin - near.before_s <= until
            and since <= span.end + near.after_s
            and (span.where is None or not places.isdisjoint(span.where))
            and (names is None or span.name in names)
            for span in self.faults
        )

    def late(self, since: float, until: float) -> bool:
        """Say whether the machine kept anybody waiting in this time."""
        return any(begin <= until and since <= end for begin, end in self._lates)

    def over(self, conn: str, by: float) -> bool:
        """Say whether a session had ended by then."""
        return any(record.t <= by for record in self.ends.get(conn, ()))


def _faults(history: History) -> Iterator[_Span]:
    """Iterate over the faults of a history; what has no end in it lasts for ever."""
    open_since: dict[tuple[str, tuple[str, ...] | None], list[Fault]] = defaultdict(list)
    for record in history:
        if isinstance(record, Fault):
            same = open_since[record.name, record.where]
            if record.begins:
                same.append(record)
            elif same:
                yield _span(same.pop(0), record.t)
    for begins in open_since.values():
        for begin in begins:
            yield _span(begin, math.inf)


def _span(begin: Fault, end: float) -> _Span:
    where = None if begin.where is None else frozenset(begin.where)
    return _Span(begin.t, end, begin.name, where)


def answers(history: History, bounds: Bounds) -> list[Violation]:
    """Check that each message with an id was answered by its gateway in time.

    Otherwise, and when the answer is `unknown`, a fault must have been near: in time, and at the
    sender, her gateway or Redis. A sender whose session has ended meanwhile is owed nothing; that
    it ended needs a reason of its own (`closes`).
    """
    c = _Circumstances(history)
    return [
        violation
        for letter in _letters(history).values()
        if letter.left.asks and (violation := _unanswered(letter, c, bounds)) is not None
    ]


def _unanswered(letter: _Letter, c: _Circumstances, bounds: Bounds) -> Violation | None:
    left, first = letter.left, letter.first
    deadline = c.due(left.t, bounds.answer_s)
    in_time = first is not None and first.t <= deadline
    if deadline > c.ends_at or (in_time and first is not None and first.status != "unknown"):
        return None
    if not in_time and c.over(left.conn, deadline):
        return None
    places = c.at(left.conn) | {left.user, REDIS, USERS}
    until = first.t if in_time and first is not None else deadline
    if c.fault(left.t, until, bounds.near, places):
        return None
    what = "was called unknown" if in_time else f"had no answer within {bounds.answer_s:g} s"
    evidence = (left,) if first is None else (left, first)
    return Violation("answer", left.t, f"{left.id} {what}, and nothing had happened", evidence)


def pongs(history: History, bounds: Bounds) -> list[Violation]:
    """Check that each ping had its pong in time, unless its session ended, or a fault was near.

    Pongs have no names: each of them answers the first ping of its session that has none. Redis
    has no part in it, so no fault there explains anything.
    """
    c = _Circumstances(history)
    waiting: dict[str, list[Pinged]] = defaultdict(list)
    violations: list[Violation] = []
    for record in history:
        if isinstance(record, Pinged):
            waiting[record.conn].append(record)
        elif isinstance(record, Ponged) and waiting[record.conn]:
            ping = waiting[record.conn].pop(0)
            if record.t > c.due(ping.t, bounds.pong_s):
                violations += _silence(ping, c, bounds)
    for pings in waiting.values():
        for ping in pings:
            violations += _silence(ping, c, bounds)
    return sorted(violations, key=lambda violation: violation.t)


def _silence(ping: Pinged, c: _Circumstances, bounds: Bounds) -> Iterator[Violation]:
    deadline = c.due(ping.t, bounds.pong_s)
    if deadline > c.ends_at or c.over(ping.conn, deadline):
        return
    if not c.fault(ping.t, deadline, bounds.near, c.at(ping.conn) | {ping.user, USERS}):
        text = f"a ping of {ping.user} had no pong within {bounds.pong_s:g} s"
        yield Violation("pong", ping.t, f"{text}, and nothing had happened", (ping,))


def lost(history: History, bounds: Bounds, causes: Causes) -> list[Violation]:
    """Check that each message that was `routed` and did not arrive has a reason near in time.

    A reason is a fault at one of the two users, their gateways or Redis, or the end of a session
    of the recipient; but an end that is itself without a reason (`closes`) explains nothing.
    """
    c = _Circumstances(history)
    wrong = {id(record) for record in _unexplained_ends(history, c, bounds, causes)}
    violations = []
    for letter in _letters(history).values():
        if (
            letter.status == "routed"
            and not letter.received
            and not _has_reason(letter, c, bounds, wrong)
        ):
            assert letter.answer is not None
            text = f"{letter.left.id} to {letter.left.to} was routed and got lost, without a reason"
            violations.append(Violation("lost", letter.left.t, text, (letter.left, letter.answer)))
    return violations


def _has_reason(letter: _Letter, c: _Circumstances, bounds: Bounds, wrong: set[int]) -> bool:
    left, near = letter.left, bounds.near
    since, until = left.t, letter.answer.t if letter.answer is not None else left.t
    if c.due(until, bounds.arrive_s) > c.ends_at:
        return True  # It may be on its way.
    conns = c.of_user.get(left.to, [])
    places = c.at(left.conn, *conns) | {left.user, left.to, REDIS, USERS}
    return c.fault(since, until, near, places) or any(
        end.t - near.before_s <= until and since <= end.t + near.after_s and id(end) not in wrong
        for conn in conns
        for end in c.ends.get(conn, ())
    )


def closes(history: History, bounds: Bounds, causes: Causes) -> list[Violation]:
    """Check that each session that ended did so for a reason.

    Its user wanted it (then without a goodbye of the gateway, or with an ordinary one); or a newer
    session of the same user took its place (4509; 4010 for an attempt that came late); or a fault
    near in time and place explains this very code (`causes`).
    """
    c = _Circumstances(history)
    return [
        Violation(
            "close", end.t, f"{end.user} was told {end.code} ({end.conn}), for no reason", (end,)
        )
        for end in _unexplained_ends(history, c, bounds, causes)
    ]


def _unexplained_ends(
    history: History, c: _Circumstances, bounds: Bounds, causes: Causes
) -> Iterator[Closed]:
    newer = _Newer(history, bounds)
    for record in history:
        if not isinstance(record, Closed) or record.conn not in c.sessions:
            continue
        code, conn, ends = record.code, record.conn, c.ends[record.conn]
        if code in OWN_DOING and any(isinstance(end, Left) for end in ends):
            continue
        if code in (SUPERSEDED, STALE) and newer.than(c.sessions[conn], record.t):
            continue
        near = Near(bounds.near.before_s, bounds.aftermath_s)
        places = c.at(conn) | {record.user, REDIS, USERS}
        if code in causes and c.fault(record.t, record.t, near, places, causes[code]):
            continue
        yield record


class _Newer:
    """Who came after whom."""

    def __init__(self, history: History, bounds: Bounds) -> None:
        self._register_s = bounds.register_s
        self._first: dict[str, Owner] = {}
        """When each session was first seen as the owner."""
        self._seen: dict[str, list[Owner | Registered]] = defaultdict(list)
        """Of each user: the sessions that were seen in Redis, or heard that they are registered."""
        self._gaps: list[tuple[float, float]] = []
        for record in history:
            match record:
                case Owner(user=user, conn=conn) if conn:
                    self._first.setdefault(conn, record)
                    self._seen[user].append(record)
                case Registered(phase=Phase.OK, user=user):
                    self._seen[user].append(record)
                case Gap(t=t, for_s=for_s):
                    self._gaps.append((t - for_s, t))
                case _:
                    pass

    def than(self, session: Registered, until: float) -> bool:
        """Say whether another session of this user was there after this one, by that time; or
        whether it may have been, because nobody was looking.
        """
        own = self._first.get(session.conn)
        since = session.t if own is None else min(own.t, session.t)
        return any(
            other.conn != session.conn
            and since < other.t <= until + self._late_by(other)
            and not self._is_older(other.conn, own)
            for other in self._seen[session.user]
        ) or any(begin <= until and since <= end for begin, end in self._gaps)

    def _late_by(self, other: Owner | Registered) -> float:
        """Return how much later than its effect a record may come (s)."""
        return NEAR.before_s if isinstance(other, Owner) else self._register_s

    def _is_older(self, conn: str, own: Owner | None) -> bool:
        """Say whether tokens show that a session was there before: it has only been renewed."""
        other = self._first.get(conn)
        if other is None or own is None or other.token is None or own.token is None:
            return False
        return other.token < own.token


def denied(history: History, bounds: Bounds) -> list[Violation]:
    """Check that nobody who was there all the time was called absent, or a gateway busy, when no
    fault was near: not for `settle_s`.
    """
    c, spans = _Circumstances(history), _sessions(history)
    near = Near(bounds.near.before_s, bounds.settle_s)
    violations = []
    for letter in _letters(history).values():
        left, no = letter.left, letter.no
        if no is None or no.status == "refused":
            continue
        since, until = left.t - bounds.settle_s, no.t + near.before_s
        around = [(a, b) for a, b in spans[left.to] if a <= until and b >= since]
        stays = len(around) == 1 and around[0][0] <= since and around[0][1] >= until
        if not stays and no.status != "busy":
            continue
        places = c.at(left.conn, *c.of_user.get(left.to, ())) | {left.user, left.to, REDIS, USERS}
        # A gateway that was kept waiting may have lost its way to Redis; nobody's entry, though.
        machine = no.status != "offline"
        if since >= history[0].t and not c.fault(left.t, no.t, near, places, machine=machine):
            text = f"{left.to} was there, and {left.id} was called {no.status}"
            violations.append(Violation("denied", left.t, text, (left, no)))
    return violations


def calm(history: History, bounds: Bounds) -> list[Violation]:
    """Check that while nothing is wrong, everything is right, and no excuse counts.

    Each message to a user who is there is routed and arrives, one to a user who is not is called
    offline; each ping has its pong, each of them within its bound, and no session begins or ends.
    A calm in which nothing was said or asked, or a history without
    one, proves nothing.
    """
    c, letters, spans = _Circumstances(history), _letters(history), _sessions(history)
    periods = list(_calms(history))
    violations = [] if periods else [Violation("calm", 0.0, "there never was a calm")]
    for begin, end in periods:
        within = [record for record in history if begin <= record.t <= end]
        said = [r for r in within if isinstance(r, Sent) and r.phase is Phase.INVOKE]
        asked = [r for r in within if isinstance(r, Pinged)]
        if not said or not asked:
            violations.append(Violation("calm", begin, "a calm in which nobody said anything"))
        for record in within:
            if isinstance(record, Closed) or (
                isinstance(record, Registered) and record.phase is Phase.OK
            ):
                what = "began" if isinstance(record, Registered) else f"ended with {record.code}"
                text = f"a session of {record.user} {what}, and nothing was wrong"
                violations.append(Violation("calm", record.t, text, (record,)))
        there = {u for u, times in spans.items() if any(a <= begin < b for a, b in times)}
        for sent in said:
            violations += _not_right(letters[sent.id], sent.to in there, end, c, bounds)
        violations += _unponged(within, end, c, bounds)
    return violations


def _calms(history: History) -> Iterator[tuple[float, float]]:
    begin: float | None = None
    for record in history:
        if isinstance(record, Calm):
            if record.begins:
                begin = record.t
            elif begin is not None:
                yield begin, record.t
                begin = None


def _not_right(
    letter: _Letter, is_there: bool, end: float, c: _Circumstances, bounds: Bounds
) -> Iterator[Violation]:
    left, first, answer = letter.left, letter.first, letter.answer
    wanted = "routed" if is_there else "offline"
    deadline = c.due(left.t, bounds.answer_s)
    if left.asks and deadline <= end:
        evidence = tuple(r for r in (left, first, answer) if r is not None)
        if first is None or first.t > deadline:
            text = f"{left.id} had no answer within {bounds.answer_s:g} s, and nothing was wrong"
            yield Violation("calm", left.t, text, evidence)
        elif answer is not None and {first.status, answer.status} != {wanted}:
            if first.status == "unknown" and c.late(left.t, first.t):
                return  # It was given up because the machine was late; that is no excuse for a no.
            text = f"{left.id} to {left.to} was {answer.status}, and nothing was wrong"
            yield Violation("calm", left.t, text, evidence)
    deadline = c.due(left.t, bounds.arrive_s)
    if is_there and deadline <= end and not any(r.t <= deadline for r in letter.received):
        text = f"{left.id} to {left.to} did not arrive within {bounds.arrive_s:g} s"
        yield Violation("calm", left.t, f"{text}, and nothing was wrong", (left,))


def _unponged(
    within: History, end: float, c: _Circumstances, bounds: Bounds
) -> Iterator[Violation]:
    waiting: dict[str, list[Pinged]] = defaultdict(list)
    for record in within:
        if isinstance(record, Pinged):
            waiting[record.conn].append(record)
        elif isinstance(record, Ponged) and waiting[record.conn]:
            ping = waiting[record.conn].pop(0)
            if record.t > c.due(ping.t, bounds.pong_s):
                yield _too_late(ping, bounds)
    for pings in waiting.values():
        yield from (_too_late(p, bounds) for p in pings if c.due(p.t, bounds.pong_s) <= end)


def _too_late(ping: Pinged, bounds: Bounds) -> Violation:
    text = f"a ping of {ping.user} had no pong within {bounds.pong_s:g} s, and nothing was wrong"
    return Violation("calm", ping.t, text, (ping,))


def present(history: Iterable[Record]) -> Counter[str]:
    """Return how many sessions each gateway has at the end of these records."""
    here: dict[str, str] = {}
    for record in history:
        match record:
            case Registered(phase=Phase.OK, conn=conn, gateway=gateway):
                here[conn] = gateway
            case Closed(conn=conn):
                here.pop(conn, None)
            case _:
                pass
    return Counter(here.values())


def counted(history: History) -> list[Violation]:
    """Check that whatever was counted at gateways is as many as it ought to be."""
    here: dict[str, str] = {}
    violations = []
    for record in history:
        match record:
            case Registered(phase=Phase.OK, conn=conn, gateway=gateway):
                here[conn] = gateway
            case Closed(conn=conn):
                here.pop(conn, None)
            case Counted(gateway=gateway, what=what, count=count, wanted=wanted):
                if wanted is None:
                    wanted = sum(1 for place in here.values() if place == gateway)
                if count != wanted:
                    text = f"{gateway} has {count} {what}, and ought to have {wanted}"
                    violations.append(Violation("counted", record.t, text, (record,)))
            case _:
                pass
    return violations


def kept(history: History, bounds: Bounds, causes: Causes) -> list[Violation]:
    """Run all checks of what neighbours of a fault are owed."""
    return [
        *answers(history, bounds),
        *pongs(history, bounds),
        *lost(history, bounds, causes),
        *closes(history, bounds, causes),
        *denied(history, bounds),
        *calm(history, bounds),
        *counted(history),
    ]


# --- convergence -----------------------------------------------------------------------------


def convergence(history: History, *, online_s: float, offline_s: float) -> list[Violation]:
    """Check that after each heal everything came right: P7, P8, and the table 2.2.

    Every look at a user that is later than `online_s` (or `offline_s`, for one who does not want
    to be there) after a heal, and before the next fault, must find: the owner in Redis is the
    session that the client has, no other session believes to be the owner; or no entry at all and
    no believer. A heal after which nobody looked in time at each user who had ever registered
    before it proves nothing, and is a violation; so is a history without a heal.
    """
    violations: list[Violation] = []
    users: dict[str, float] = {}
    for record in history:
        if isinstance(record, Registered) and record.phase is Phase.OK:
            users.setdefault(record.user, record.t)
    if not any(isinstance(record, Healed) for record in history):
        violations.append(Violation("P8", 0.0, "nothing was ever healed"))
    for heal, looks in _after_heals(history):
        late = [
            look for look in looks if look.t >= heal.t + (online_s if look.online else offline_s)
        ]
        if not late:
            text = f"nobody looked {max(online_s, offline_s):g} s after the heal"
            violations.append(Violation("P8", heal.t, text, (heal,)))
        unseen = {user for user, t in users.items() if t <= heal.t} - {look.user for look in late}
        if late and unseen:
            text = f"nobody looked at {', '.join(sorted(unseen))} after the heal"
            violations.append(Violation("P8", heal.t, text, (heal,)))
        for look in late:
            violations += _found(heal, look)
    return violations


def _after_heals(history: History) -> Iterator[tuple[Healed, list[Looked]]]:
    """Iterate over heals, each with the looks between it and the next fault."""
    heal: Healed | None = None
    looks: list[Looked] = []
    for record in history:
        match record:
            case Looked() if heal is not None:
                looks.append(record)
            case Healed() | Fault(begins=True) if heal is not None:
                yield heal, looks
                heal = None
            case _:
                pass
        if isinstance(record, Healed):
            heal, looks = record, []
    if heal is not None:
        yield heal, looks


def _found(heal: Healed, look: Looked) -> Iterator[Violation]:
    after_s = look.t - heal.t
    if not look.online:
        if look.owner or look.believers:
            what = f"an entry of {look.owner}" if look.owner else f"believers {look.believers}"
            text = f"{look.user} is gone, but {after_s:.1f} s after the heal there is {what}"
            yield Violation("P7", look.t, text, (heal, look))
        return
    if not look.conn:
        text = f"{look.user} wants to be there, and is not {after_s:.1f} s after the heal"
        yield Violation("2.2", look.t, text, (heal, look))
        return
    if look.owner != look.conn:
        text = (
            f"{look.user} is connected as {look.conn}, but {after_s:.1f} s after the heal Redis "
            f"says {look.owner or 'nobody'}"
        )
        yield Violation("P8", look.t, text, (heal, look))
    if set(look.believers) != {look.conn}:
        text = f"{look.user} is {look.conn}; those who believe to be: {sorted(look.believers)}"
        yield Violation("P8", look.t, text, (heal, look))


# --- sometimes -------------------------------------------------------------------------------


def happened(history: History) -> Counter[str]:
    """Count what happened by name: faults that began, and `Happened`."""
    names: Counter[str] = Counter()
    for record in history:
        if isinstance(record, Happened) or (isinstance(record, Fault) and record.begins):
            names[record.name] += 1
    return names


def sometimes(counts: Counter[str], wanted: Iterable[str]) -> list[Violation]:
    """Check that everything that a run is for has occurred in it at least once."""
    return [
        Violation("sometimes", 0.0, f"{name} never happened")
        for name in sorted(set(wanted))
        if not counts[name]
    ]


# --- the history itself ----------------------------------------------------------------------


def well_formed(history: History) -> list[Violation]:
    """Check that time does not run backwards, and that no message id was used twice."""
    violations = []
    for before, now in pairwise(history):
        if now.t < before.t:
            text = "a record is older than the one before it"
            violations.append(Violation("history", now.t, text, (before, now)))
    ids = Counter(r.id for r in history if isinstance(r, Sent) and r.phase is Phase.INVOKE)
    for msg_id, count in ids.items():
        if count > 1:
            violations.append(Violation("history", 0.0, f"{msg_id} was sent {count} times"))
    return violations


def check(
    history: History,
    *,
    online_s: float,
    offline_s: float,
    ttl_s: float = 90.0,
    near_s: float = 10.0,
    aftermath_s: float = 10.0,
) -> list[Violation]:
    """Run all checks but `sometimes`, which is a claim about many runs."""
    return [
        *well_formed(history),
        *owners(history, ttl_s=ttl_s),
        *messages(history),
        *unexplained(history, near_s=near_s, aftermath_s=aftermath_s),
        *_nothing_to_lose(history, near_s, aftermath_s),
        *convergence(history, online_s=online_s, offline_s=offline_s),
    ]
