"""Deadline: did a message that was told `unknown` arrive in time, or never?"""

from __future__ import annotations

from wsdemo.proof.history.bounds import MACHINE, Bounds
from wsdemo.proof.history.circumstances import Circumstances
from wsdemo.proof.history.records import REDIS, History
from wsdemo.proof.history.tracked import tracked_messages
from wsdemo.proof.history.violation import Violation


def late(history: History, bounds: Bounds, delays: frozenset[str]) -> list[Violation]:
    """Check that no message arrives late whose sender was told `unknown`.

    Its gateway had sent it to Redis before it told that. So Redis executes it within the timeout
    from then on, or never. After that, only a fault between Redis and the recipient may delay it.

    Args:
        delays: the names of such faults. A Redis that stands still is none: what it has published
            is on its way.
    """
    c = Circumstances(history)
    violations = []
    for message in tracked_messages(history).values():
        first = message.first
        if first is None or first.status != "unknown":
            continue
        deadline = c.due(first.t, bounds.answer_s)
        for received in message.received:
            places = c.at(received.conn) | {message.left.to, REDIS}
            if received.t > deadline and not c.fault(
                first.t, received.t, bounds.near, places, delays | {MACHINE}
            ):
                text = f"{message.left.id} was told unknown, and arrived too late"
                evidence = (message.left, first, received)
                violations.append(Violation("late", received.t, text, evidence))
    return violations
