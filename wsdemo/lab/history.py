"""What happened, and was it allowed?

A history is a list of records in the order in which they happened, each with a monotone time `t`
(s): what users tried and were told, what their clients received, who Redis said was the owner of a
user, which faults began and ended, and what was found when somebody looked. Whoever runs a cluster
under faults (real processes, or a simulation) writes one; the checks below read it. They are pure,
and each of them returns the violations that it found: none is the claim.

The claims are those of the guarantees: P1, P3-P5, P7 and P8 for presence, FIFO and the meaning of
an ack for messages. How long a lease is does not show in a history, so that a refresh prolongs no
other's (P2, P6) is left to the model checker; what shows is an entry that stays (P7).
A check that had nothing to look at says so as a violation of its own, because a run in which
nothing happened proves nothing: `sometimes`, `convergence`, and the "nothing to lose" of `check`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final

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
    """

    user: str
    phase: Phase
    id: str
    to: str = ""
    conn: str = ""
    status: str = ""


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
    """A fault begins or ends. One that takes no time does both at once."""

    name: str
    begins: bool


class Healed(_Base, frozen=True, tag="healed"):
    """No fault is active from here on, until the next one begins."""


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
    | Owner
    | Released
    | Forgotten
    | Fault
    | Healed
    | Looked
    | Happened
)
History = Sequence[Record]

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
    no: Sent | None = None
    """The last answer that promised that it was not, and will not be, delivered."""
    received: list[Received] = field(default_factory=list)

    @property
    def status(self) -> str:
        return self.answer.status if self.answer is not None else "unknown"

    @property
    def told_unknown(self) -> bool:
        """Whether the sender has heard so; no answer at all is something else."""
        return self.answer is not None and self.answer.status == "unknown"


def _letters(history: History) -> dict[str, _Letter]:
    letters: dict[str, _Letter] = {}
    for at, record in enumerate(history):
        match record:
            case Sent(phase=Phase.INVOKE, id=msg_id):
                letters[msg_id] = _Letter(record, len(letters))
            case Sent(id=msg_id) if msg_id in letters:
                letter = letters[msg_id]
                letter.answer, letter.answered_at = record, at
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
    registered_at = {
        r.conn: r.t for r in history if isinstance(r, Registered) and r.phase is Phase.OK
    }
    for record in history:
        if not isinstance(record, Received) or (letter := letters.get(record.id)) is None:
            continue
        way = (letter.left.conn, record.conn)
        if way in latest:
            earlier, witness = latest[way]
            if earlier.number > letter.number and _may_be_overtaken(letter, earlier):
                continue
            if letter.left.t <= registered_at.get(record.conn, -math.inf):
                continue
            if earlier.number > letter.number:
                text = f"{record.id} was sent before {earlier.left.id}, and received after it"
                evidence = (letter.left, earlier.left, witness, record)
                yield Violation("order", record.t, text, evidence)
                continue
        latest[way] = letter, record


def _may_be_overtaken(letter: _Letter, by: _Letter) -> bool:
    """Say whether one that was sent later may arrive earlier: only if its gateway had given the
    first one up when it routed this one, and so had said so when it answered this one.
    """
    was_given_up_first = by.status != "routed" or by.answered_at > letter.answered_at
    return letter.told_unknown and was_given_up_first


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
    faults, spans = list(_active(history)), _sessions(history)
    ends_at = history[-1].t if history else 0.0
    for letter in _letters(history).values():
        t = letter.left.t
        if bool(letter.received) is of_lost_ones or letter.status != "routed":
            continue
        if t + near_s > ends_at:
            continue
        if any(begin - near_s <= t <= end + aftermath_s for begin, end in faults):
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
    open_since: dict[str, list[float]] = defaultdict(list)
    for record in history:
        if isinstance(record, Fault):
            if record.begins:
                open_since[record.name].append(record.t)
            elif open_since[record.name]:
                yield open_since[record.name].pop(0), record.t
    for begins in open_since.values():
        for begin in begins:
            yield begin, float("inf")


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
