"""Invariants of an inbox: what must hold after each SEND, READ, ACK and page, and in the end?

What the scripts do is compared with the history: what has truly been stored, in its order. Each
invariant is part of a promise (`wsdemo.proof.promises`). Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from wsdemo.proof.checker.machines.inbox.states import (
    INBOX,
    META,
    PRESENCE,
    TOLD,
    InboxScenario,
    InboxState,
    Offset,
    Position,
    id_key,
)
from wsdemo.proof.checker.runner import Data, ScriptReply, fields_of, held
from wsdemo.proof.checker.subject import Invariant
from wsdemo.proof.promises import DurablePromise

ANSWERS: Final = Invariant("I0", (DurablePromise.D2,), "no script fails")
STORED_IS_THERE: Final = Invariant(
    "I1", (DurablePromise.D1,), "`stored` is said when the message is the newest of the inbox"
)
ONE_OFFSET: Final = Invariant(
    "I2", (DurablePromise.D4,), "an id has one offset as long as it is remembered"
)
WHOLE: Final = Invariant(
    "I3",
    (DurablePromise.D2, DurablePromise.D5),
    "the inbox has the newest messages, in order, without holes",
)
BOUNDS: Final = Invariant(
    "I4", (DurablePromise.D2,), "what is beyond the bounds goes, the oldest first, and nothing else"
)
ENDS: Final = Invariant(
    "I5", (DurablePromise.D4,), "no key is there for ever, and each write renews it"
)
HINTED: Final = Invariant(
    "I6", (DurablePromise.D6,), "who has the user is told that something is stored, or told before"
)
WILL_READ: Final = Invariant(
    "I8", (DurablePromise.D6,), "who has the user is going to read what is stored"
)
TOO_LATE: Final = Invariant(
    "I7", (DurablePromise.D1,), "a SEND after its deadline says so, and changes nothing"
)

READS_ONLY: Final = Invariant("Q0", (DurablePromise.D2,), "a READ acknowledges nothing")
KNOWN_POSITION: Final = Invariant(
    "Q1", (DurablePromise.D2,), "`recovered` is said only of an offset of this inbox, with its mark"
)
SAME_RUN: Final = Invariant(
    "Q2", (DurablePromise.D7,), "`recovered` is said only in the epoch of the position"
)
NO_GAP: Final = Invariant(
    "Q3", (DurablePromise.D2,), "`recovered` is said only if all after the position is there"
)
WAS_TOLD: Final = Invariant(
    "Q4",
    (DurablePromise.D2,),
    "without a position, only what was acknowledged in this epoch counts",
)
REASON: Final = Invariant(
    "Q5", (DurablePromise.D2,), "`reset` is said only when something may be missing"
)
PAGE: Final = Invariant(
    "Q6",
    (DurablePromise.D2, DurablePromise.D5),
    "a page goes on where it says, in order, without holes",
)
SUPERSEDED: Final = Invariant(
    "Q7", (DurablePromise.D2,), "a session is superseded only by a newer one, and always by it"
)

OWNER_ACKS: Final = Invariant("K1", (DurablePromise.D2,), "only the owner's word counts")
TRIMS: Final = Invariant(
    "K2", (DurablePromise.D2,), "an ACK removes what it names, and nothing after it"
)
OURS: Final = Invariant(
    "K3", (DurablePromise.D2, DurablePromise.D7), "an ACK counts only for an offset of this inbox"
)
COUNTS: Final = Invariant(
    "K4", (DurablePromise.D2,), "an ACK of the owner counts, and is remembered"
)

NO_HOLE: Final = Invariant(
    "C1",
    (DurablePromise.D2, DurablePromise.D5),
    "a client gets offsets without holes, or is told of a reset",
)
ONCE: Final = Invariant("C2", (DurablePromise.D3,), "a process gets each message once")
ON_FROM_POSITION: Final = Invariant(
    "C3", (DurablePromise.D2,), "who is recovered goes on exactly from its position"
)
WINDOW: Final = Invariant(
    "C4", (DurablePromise.D2,), "no more messages are on their way than the window allows"
)
CONFIRMED: Final = Invariant(
    "C5", (DurablePromise.D2,), "Redis hears only of what the client has acknowledged"
)

DELIVERED: Final = Invariant(
    "E1", (DurablePromise.D2,), "in the end each stored message was delivered, or a gap was told"
)
REMEMBERED: Final = Invariant(
    "E3", (DurablePromise.D2,), "in the end, what a client has acknowledged is remembered"
)
REACHES_END: Final = Invariant(
    "E2", (DurablePromise.D2,), "in the end a client has read all of its inbox"
)

INVARIANTS: Final = (
    *(ANSWERS, STORED_IS_THERE, ONE_OFFSET, WHOLE, BOUNDS, ENDS, HINTED, TOO_LATE, WILL_READ),
    *(READS_ONLY, KNOWN_POSITION, SAME_RUN, NO_GAP, WAS_TOLD, REASON, PAGE, SUPERSEDED),
    *(OWNER_ACKS, TRIMS, OURS, COUNTS),
    *(NO_HOLE, ONCE, ON_FROM_POSITION, WINDOW, CONFIRMED),
    *(DELIVERED, REACHES_END, REMEMBERED),
)


class SendTry(NamedTuple):
    """A SEND that was executed."""

    before: InboxState
    message: int
    offset: str
    """What it is stored at, when it is."""
    birth: str
    epoch: str
    reply: ScriptReply
    scenario: InboxScenario


def number(offset: str) -> int:
    """Return the number of an offset."""
    return int(offset.partition("-")[0])


def pairs_of(listed: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the offsets and messages that READ has listed, in pairs."""
    return tuple(zip(listed[::2], listed[1::2], strict=True))


def rows_of(data: Data) -> tuple[Offset, ...]:
    """Return what the inbox has: offsets, and the numbers of the messages."""
    kept = held(data, INBOX)
    return () if kept is None else tuple(Offset(row[0], message_of(row[2])) for row in kept.value)


def message_of(head: str) -> int:
    """Return the number of a message by its head."""
    return int(head.rpartition('"m')[2].rstrip('"'))


def head_of(message: int) -> str:
    """Return the head of a message."""
    return f'{{"type":"message","id":"m{message}"'


SIZE: Final = len(head_of(0))


def owner_of(data: Data) -> str:
    """Return the connection that has the user; '' when none has."""
    return fields_of(data, PRESENCE).get("connId", "")


def broken_by_send(sent: SendTry) -> list[Invariant]:
    """Return what a SEND breaks."""
    before, reply = sent.before, sent.reply
    known = before.history.ids[sent.message]
    outcome, epoch, offset, *_ = reply.answer
    if outcome == "duplicate":
        right = known == (sent.birth, offset) and epoch == sent.epoch
        same = reply.data == tuple(kv for kv in before.data if kv[0] in _keys(sent.message))
        return [ONE_OFFSET] * (not right) + [WHOLE] * (not same)
    broken = [ONE_OFFSET] * (known is not None)
    rows, history = rows_of(reply.data), _with_new(sent)
    meta = fields_of(reply.data, META)
    said = (epoch, offset, meta.get("last"), meta.get("birth"))
    if said != (sent.epoch, sent.offset, sent.offset, sent.birth) or rows[-1:] != history[-1:]:
        broken.append(STORED_IS_THERE)
    if rows != history[len(history) - len(rows) :]:
        broken.append(WHOLE)
    if len(rows) != _fitting(sent):
        broken.append(BOUNDS)
    lasting = [key for key, kept in reply.data if not kept.ends and key != PRESENCE]
    given = {id_key(sent.message)} if _was_told(sent) else {INBOX, META, id_key(sent.message)}
    if lasting or not given <= reply.given:
        broken.append(ENDS)
    return broken + [HINTED] * (not _is_hinted(sent))


def broken_by_late_send(before: Data, reply: ScriptReply) -> list[Invariant]:
    """Return what a SEND after its deadline breaks."""
    nothing = reply.data == before and not reply.given and not reply.heard
    return [TOO_LATE] * (not nothing or reply.answer != ("expired",))


def _keys(message: int) -> set[str]:
    return {PRESENCE, INBOX, META, id_key(message)}


def _with_new(sent: SendTry) -> tuple[Offset, ...]:
    return (*sent.before.history.stored, Offset(sent.offset, sent.message))


def _fitting(sent: SendTry) -> int:
    """How many of the entries from before fit beside the new one, which always stays."""
    there = len(rows_of(sent.before.data)) if sent.before.history.stored else 0
    by_bytes = max(1, sent.scenario.room // SIZE)
    return min(there + 1, sent.scenario.most, by_bytes)


def _was_told(sent: SendTry) -> bool:
    """Whether a hint stands for this message, which was published for one before it."""
    meta = fields_of(sent.before.data, META)
    return meta.get(TOLD, "0") != "0" and bool(rows_of(sent.before.data))


def _is_hinted(sent: SendTry) -> bool:
    owner = fields_of(sent.before.data, PRESENCE)
    if not owner or _was_told(sent):
        return sent.reply.heard == () and sent.reply.answer[3:5] == ("", "")
    gateway, conn = owner["gwId"], owner["connId"]
    text = f'{{"type":"stored","toConn":"{conn}","epoch":"{sent.epoch}","offset":"{sent.offset}"}}'
    return sent.reply.answer[3:5] == (gateway, conn) and sent.reply.heard == (
        (f"gateway:{gateway}", text),
    )


class Read(NamedTuple):
    """A READ that was executed."""

    before: InboxState
    conn: str
    token: int
    position: Position
    most: int
    birth: str
    epoch: str
    reply: ScriptReply


def broken_by_read(read: Read) -> list[Invariant]:
    """Return what a READ breaks."""
    owner = fields_of(read.before.data, PRESENCE)
    newer = bool(owner) and owner["connId"] != read.conn and int(owner["epoch"]) > read.token
    if (read.reply.answer[0] == "superseded") != newer:
        return [SUPERSEDED]
    if newer:
        return []
    broken = []
    if _meta_but_birth(read.before.data) != _meta_but_birth(read.reply.data) or (
        rows_of(read.reply.data) != (rows_of(read.before.data) if _has_meta(read.before) else ())
    ):
        broken.append(READS_ONLY)
    kept = held(read.reply.data, META)
    if kept is None or not kept.ends or META not in read.reply.given:
        broken.append(ENDS)
    return broken + _broken_by_verdict(read) + [PAGE] * (not _page_is_right(read))


def _has_meta(state: InboxState) -> bool:
    return held(state.data, META) is not None


def _meta_but_birth(data: Data) -> dict[str, str]:
    fields = fields_of(data, META)
    return {field: fields[field] for field in ("acked", "ackedin", "trimmed") if field in fields}


def _broken_by_verdict(read: Read) -> list[Invariant]:
    """Compare `recovered` or `reset` with the truth."""
    epoch, offset = read.position
    history = read.before.history if _has_meta(read.before) else None
    stored = history.stored if history else ()
    acked = history.acked if history else None
    doubts = []
    if not epoch:
        doubts += [WAS_TOLD] * (acked is None or acked[0] != read.epoch)
        offset = acked[1] if acked else "0-0"
    else:
        doubts += [SAME_RUN] * (epoch != read.epoch)
    is_start = offset.partition("-")[2] == "0"
    known = any(one.offset == offset for one in stored)
    doubts += [KNOWN_POSITION] * (not known and not is_start)
    left = rows_of(read.before.data) if history else ()
    doubts += [NO_GAP] * (len(stored) - len(left) > number(offset))
    if read.reply.answer[0] == "recovered":
        return doubts
    # What a gap left behind is no proof of what came before it, until it is acknowledged.
    return [REASON] * (not doubts and (known or offset == "0-0"))


def _page_is_right(read: Read) -> bool:
    _, epoch, since, last, listed = read.reply.answer
    has = _has_meta(read.before)
    left = rows_of(read.before.data) if has else ()
    stored = read.before.history.stored if has else ()
    if epoch != read.epoch or last != (stored[-1].offset if stored else "0-0"):
        return False
    following = [one for one in left if number(one.offset) > number(since)][: read.most]
    if tuple(Offset(o, message_of(head)) for o, head in pairs_of(listed)) != tuple(following):
        return False
    recovered = read.reply.answer[0] == "recovered"
    if recovered:
        acked = read.before.history.acked
        position = read.position[1] if read.position[0] else acked[1] if acked else "0-0"
        return bool(since == position)
    # After a reset: from the position, if it is known; or from the oldest message that is left.
    return number(since) == len(stored) - len(left) or since == read.position[1]


class Acked(NamedTuple):
    """An ACK that was executed."""

    before: InboxState
    conn: str
    position: Position
    epoch: str
    reply: ScriptReply


def broken_by_ack(ack: Acked) -> list[Invariant]:
    """Return what an ACK breaks."""
    before, after = ack.before, ack.reply
    refused = after.answer == -1
    untouched = after.data == tuple(kv for kv in before.data if kv[0] in (PRESENCE, INBOX, META))
    is_owner = owner_of(before.data) == ack.conn
    if not is_owner or refused:
        ours = is_owner and _has_meta(before) and ack.position[0] == ack.epoch and _is_there(ack)
        good = refused and untouched
        return [OWNER_ACKS] * (not is_owner and not good) + [COUNTS] * (
            is_owner and (ours or not untouched)
        )
    history, offset = before.history, ack.position[1]
    broken = []
    known = any(one.offset == offset for one in history.stored)
    is_start = offset.partition("-")[2] == "0"
    if not _has_meta(before) or ack.position[0] != ack.epoch or not (known or is_start):
        broken.append(OURS)
    n = number(offset)
    if rows_of(after.data) != tuple(r for r in rows_of(before.data) if number(r.offset) > n):
        broken.append(TRIMS)
    meta = fields_of(after.data, META)
    if (meta.get("ackedin"), meta.get("acked")) != ack.position or after.answer != len(
        rows_of(before.data)
    ) - len(rows_of(after.data)):
        broken.append(COUNTS)
    return broken


def _is_there(ack: Acked) -> bool:
    """Whether an offset is in the inbox, or the place before its oldest message."""
    rows, stored = rows_of(ack.before.data), ack.before.history.stored
    before = len(stored) - len(rows)
    known = any(one.offset == ack.position[1] for one in stored)
    return known and number(ack.position[1]) >= before
