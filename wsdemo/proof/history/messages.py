"""Delivery: was each message delivered to the right user, at most once, and in order?"""

from __future__ import annotations

import math
from collections.abc import Iterator

from wsdemo.proof.history.bounds import NEAR
from wsdemo.proof.history.circumstances import Circumstances
from wsdemo.proof.history.records import REDIS, History, Phase, Received, Registered, Sent
from wsdemo.proof.history.tracked import TrackedMessage, tracked_messages
from wsdemo.proof.history.violation import Violation


def messages(history: History) -> list[Violation]:
    """Check what was delivered.

    Each message must be received by its recipient only, after it was sent, at most once, not after
    an answer that excludes delivery, and in order.

    Order is promised per connection of the sender and session of the recipient, and only for
    messages that were not answered `unknown`. An unknown message may still be on its way to Redis,
    on a connection that its gateway has given up, and may be routed behind later messages until its
    deadline (`late`). The gateway then answers those later as well. So a message that was `routed`
    before another became unknown must not overtake that one. If a client has only stopped waiting,
    nobody has answered it: then a fault must have been near.
    """
    tracked = tracked_messages(history)
    violations = list(_phantoms(history, tracked))
    for message in tracked.values():
        violations += _misdelivered(message)
    violations += _overtaken(history, tracked)
    return sorted(violations, key=lambda violation: violation.t)


def _phantoms(history: History, tracked: dict[str, TrackedMessage]) -> Iterator[Violation]:
    sent: set[str] = set()
    for record in history:
        if isinstance(record, Sent) and record.phase is Phase.INVOKE:
            sent.add(record.id)
        elif isinstance(record, Received) and record.id not in sent:
            text = f"{record.user} received {record.id}, which nobody had sent"
            yield Violation("phantom", record.t, text, (record,))


def _misdelivered(message: TrackedMessage) -> Iterator[Violation]:
    left, received = message.left, message.received
    for record in received:
        if record.user != left.to:
            text = f"{left.id} was for {left.to}, and {record.user} received it"
            yield Violation("wrong user", record.t, text, (left, record))
        if record.sender not in ("", left.user):
            text = f"{left.id} is from {left.user}, and was received as {record.sender}'s"
            yield Violation("wrong sender", record.t, text, (left, record))
    if len(received) > 1:
        text = f"{left.id} was received {len(received)} times"
        yield Violation("duplicate", received[1].t, text, (left, *received))
    if received and message.no is not None:
        text = f"{left.id} was {message.no.status}, and was received"
        yield Violation("ack", received[0].t, text, (left, message.no, received[0]))


def _overtaken(history: History, tracked: dict[str, TrackedMessage]) -> Iterator[Violation]:
    """Check the order.

    It is promised from the moment when the recipient's session is registered. A message that left
    before, while the recipient moved, may still be on its way through Redis when a later one finds
    the new session on the sender's own gateway ("no order across reconnects").
    """
    latest: dict[tuple[str, str], tuple[TrackedMessage, Received]] = {}
    circumstances = Circumstances(history)
    registered_at = {
        r.conn: r.t for r in history if isinstance(r, Registered) and r.phase is Phase.OK
    }
    for record in history:
        if not isinstance(record, Received) or (message := tracked.get(record.id)) is None:
            continue
        way = (message.left.conn, record.conn)
        if way in latest:
            earlier, witness = latest[way]
            overtook = earlier.number > message.number
            if overtook and _may_be_overtaken(message, earlier, circumstances):
                continue
            if message.left.t <= registered_at.get(record.conn, -math.inf):
                continue
            if overtook:
                text = f"{record.id} was sent before {earlier.left.id}, and received after it"
                evidence = (message.left, earlier.left, witness, record)
                yield Violation("order", record.t, text, evidence)
                continue
        latest[way] = message, record


def _may_be_overtaken(
    message: TrackedMessage, by: TrackedMessage, circumstances: Circumstances
) -> bool:
    """Say whether a message that was sent later may arrive before this one.

    It may if the gateway had given up this message when it routed the later one: then it had said
    so when it answered the later one, unless a fault kept it from saying so.
    """
    if message.answer is None or message.status != "unknown":
        return False
    was_given_up_first = by.status != "routed" or by.answered_at > message.answered_at
    left = message.left
    return was_given_up_first and (
        message.answer.told
        or circumstances.fault(
            left.t, message.answer.t, NEAR, circumstances.at(left.conn) | {REDIS}
        )
    )
