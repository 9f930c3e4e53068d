"""Answers: was each message answered, and each ping, within its bound?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from wsdemo.proof.history.bounds import Bounds, Near
from wsdemo.proof.history.circumstances import Circumstances, session_spans
from wsdemo.proof.history.records import REDIS, USERS, History, Pinged, Ponged
from wsdemo.proof.history.tracked import TrackedMessage, tracked_messages
from wsdemo.proof.history.violation import Violation


def answers(history: History, bounds: Bounds) -> list[Violation]:
    """Check that each message with an id was answered by its gateway in time.

    If it was not, or if the answer is `unknown`, a fault must have been near: in time, and at the
    sender, its gateway or Redis. A sender whose session has ended in the meantime has no right to
    an answer; that end needs a reason of its own (`closes`).
    """
    c = Circumstances(history)
    return [
        violation
        for message in tracked_messages(history).values()
        if message.left.asks and (violation := _unanswered(message, c, bounds)) is not None
    ]


def _unanswered(message: TrackedMessage, c: Circumstances, bounds: Bounds) -> Violation | None:
    left, first = message.left, message.first
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
    """Check that each ping had its pong in time, unless its session ended or a fault was near.

    Pongs carry no id: each of them answers the oldest ping of its session that has no pong yet.
    Redis has no part in it, so a fault of Redis explains nothing here.
    """
    c = Circumstances(history)
    waiting: dict[str, list[Pinged]] = defaultdict(list)
    violations: list[Violation] = []
    for record in history:
        if isinstance(record, Pinged):
            waiting[record.conn].append(record)
        elif isinstance(record, Ponged) and waiting[record.conn]:
            ping = waiting[record.conn].pop(0)
            if record.t > c.due(ping.t, bounds.pong_s):
                violations += _no_pong(ping, c, bounds)
    for pings in waiting.values():
        for ping in pings:
            violations += _no_pong(ping, c, bounds)
    return sorted(violations, key=lambda violation: violation.t)


def _no_pong(ping: Pinged, c: Circumstances, bounds: Bounds) -> Iterator[Violation]:
    deadline = c.due(ping.t, bounds.pong_s)
    if deadline > c.ends_at or c.over(ping.conn, deadline):
        return
    if not c.fault(ping.t, deadline, bounds.near, c.at(ping.conn) | {ping.user, USERS}):
        text = f"a ping of {ping.user} had no pong within {bounds.pong_s:g} s"
        yield Violation("pong", ping.t, f"{text}, and nothing had happened", (ping,))


def denied(history: History, bounds: Bounds) -> list[Violation]:
    """Check that no message was refused without a reason.

    A user who is online all the time must not be called offline, and a gateway must not call
    itself busy, when there was no fault near and none within the last `settle_s` seconds.
    """
    c, spans = Circumstances(history), session_spans(history)
    near = Near(bounds.near.before_s, bounds.settle_s)
    violations = []
    for message in tracked_messages(history).values():
        left, no = message.left, message.no
        if no is None or no.status == "refused":
            continue
        since, until = left.t - bounds.settle_s, no.t + near.before_s
        around = [(a, b) for a, b in spans[left.to] if a <= until and b >= since]
        stays = len(around) == 1 and around[0][0] <= since and around[0][1] >= until
        if not stays and no.status != "busy":
            continue
        places = c.at(left.conn, *c.of_user.get(left.to, ())) | {left.user, left.to, REDIS, USERS}
        # A gateway on a busy machine may have lost its connection to Redis, but not an entry.
        machine = no.status != "offline"
        if since >= history[0].t and not c.fault(left.t, no.t, near, places, machine=machine):
            text = f"{left.to} was online, and {left.id} was called {no.status}"
            violations.append(Violation("denied", left.t, text, (left, no)))
    return violations
