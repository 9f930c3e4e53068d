"""Several devices of a user: did each of them get what was sent to the user, once?

In such a history a user is called `alice/phone`: P1 to P8 hold for each device as for a user with
one session, and `owners` and `convergence` check them as they are. Messages are sent to `alice`.
"""

from __future__ import annotations

from collections.abc import Iterator

from wsdemo.proof.history.bounds import NEAR, Near
from wsdemo.proof.history.circumstances import Circumstances
from wsdemo.proof.history.records import REDIS, USERS, Calm, History, Looked, Phase, Received, Sent
from wsdemo.proof.history.violation import Violation


def user_of_device(name: str) -> str:
    """Return the user of a device."""
    return name.partition("/")[0]


def devices(history: History, arrive_s: float = 1.0, near: Near = NEAR) -> list[Violation]:
    """Check what the devices of users received.

    Each message is received by devices of its recipient only, and not before it was sent; by each
    session at most once. A gateway hands it to its own sessions at once, and then searches for the
    others. So a device may receive it once more by a new session that began after the message was
    sent, or shortly before; or near a fault, in which the search may be executed late, and after
    which an older session of the device may not know yet that it has to go. In a calm period, all
    devices that are online get what was sent.

    Args:
        near: how near such a fault is. A session that was not told learns it by its next refresh.
    """
    violations = [*_received(history, near), *_not_received(history, arrive_s)]
    return sorted(violations, key=lambda violation: violation.t)


def _received(history: History, near: Near) -> Iterator[Violation]:
    sent: dict[str, Sent] = {}
    received: dict[tuple[str, str], Received] = {}
    circumstances = Circumstances(history)
    for record in history:
        if isinstance(record, Sent) and record.phase is Phase.INVOKE:
            sent[record.id] = record
        if not isinstance(record, Received):
            continue
        left, key = sent.get(record.id), (record.user, record.id)
        if left is None:
            text = f"{record.user} received {record.id}, which nobody had sent"
            yield Violation("phantom", record.t, text, (record,))
        elif left.to != user_of_device(record.user):
            text = f"{record.id} was for {left.to}, and {record.user} received it"
            yield Violation("wrong user", record.t, text, (left, record))
        elif key in received and _twice(left, received[key], record, circumstances, near):
            text = f"{record.user} received {record.id} twice"
            yield Violation("duplicate", record.t, text, (received[key], record))
        received[key] = record


def _twice(
    left: Sent, first: Received, second: Received, circumstances: Circumstances, near: Near
) -> bool:
    """Say whether a device may not receive a message in both of these ways."""
    if first.conn == second.conn:
        return True
    began = circumstances.sessions.get(second.conn)
    if began is not None and began.t >= left.t - NEAR.before_s:
        return False
    places = circumstances.at(left.conn, first.conn, second.conn) | {first.user, REDIS, USERS}
    return not circumstances.fault(first.t, second.t, near, places)


def _not_received(history: History, arrive_s: float) -> Iterator[Violation]:
    online: dict[str, bool] = {}
    sent: dict[str, Sent] | None = None
    received: set[tuple[str, str]] = set()
    circumstances = Circumstances(history)
    for record in history:
        match record:
            case Looked(user=name, conn=conn):
                online[name] = bool(conn)
            case Calm(begins=True):
                sent = {}
            case Sent(phase=Phase.INVOKE) if sent is not None:
                sent[record.id] = record
            case Received(user=name, id=msg_id):
                received.add((name, msg_id))
            case Calm(begins=False, t=t):
                for left in (sent or {}).values():
                    deadline = circumstances.due(left.t, arrive_s)
                    for name in sorted(name for name, is_online in online.items() if is_online):
                        is_due = deadline <= t and user_of_device(name) == left.to
                        if is_due and (name, left.id) not in received:
                            text = f"{left.id} was sent in a calm, and {name} has not received it"
                            yield Violation("lost", left.t, text, (left,))
                sent = None
            case _:
                pass
