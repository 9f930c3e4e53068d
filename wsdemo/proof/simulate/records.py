"""Event to history record: which record does an event of a client become?

One function per source, so that a history means the same whoever records it: `record_of` for the
events of a client, `answer` for what a client was told of a message, or gave up waiting for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

from wsdemo.events import Event, Kind
from wsdemo.proof.history import (
    Closed,
    Phase,
    Pinged,
    Ponged,
    Received,
    Record,
    Registered,
    Sent,
    Violation,
)
from wsdemo.proof.simulate.loop import VirtualTimeLoop
from wsdemo.protocol import Status

_PHASES: Final = defaultdict(
    lambda: Phase.FAIL, {Status.ROUTED: Phase.OK, Status.UNKNOWN: Phase.UNKNOWN}
)


class HistoryRecorder:
    """The history of one simulation, and what must never happen but is no part of a history."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self.history: list[Record] = []
        self.problems: list[Violation] = []

    @property
    def now(self) -> float:
        """Return the time of a record that is made now (s)."""
        return round(float(self._loop.time()), 6)

    def note(self, record: Callable[..., Record], **fields: Any) -> None:
        """Make a record, now."""
        self.history.append(record(t=self.now, **fields))

    def add(self, record: Record | None) -> None:
        """Keep a record, if there is one."""
        if record is not None:
            self.history.append(record)

    def violated(self, claim: str, text: str) -> None:
        """Keep a violation that no check of the history could find."""
        self.problems.append(Violation(claim, self._loop.time(), text))


def record_of(event: Event, *, t: float, user: str) -> Record | None:
    """Return the record of an event that the client of `user` has emitted; None if it has none."""
    conn = event.conn_id
    match event.kind:
        case Kind.REGISTERED:
            return Registered(t=t, user=user, phase=Phase.OK, conn=conn, gateway=event.gateway)
        case Kind.PING:
            return Pinged(t=t, user=user, conn=conn)
        case Kind.PONG:
            return Ponged(t=t, user=user, conn=conn)
        case Kind.SEND:
            msg_id = history_id(user, event.msg_id)
            return Sent(t=t, user=user, phase=Phase.INVOKE, id=msg_id, to=event.peer, conn=conn)
        case Kind.ACK:
            status = Status(event.reason)
            return answer(t=t, user=user, msg_id=event.msg_id, to=event.peer, status=status)
        case Kind.ARRIVE:
            msg_id = history_id(event.peer, event.msg_id)
            return Received(t=t, user=user, conn=conn, id=msg_id, sender=event.peer)
        case Kind.WS_CLOSE:
            return Closed(t=t, user=user, conn=conn, code=close_code(event.reason))
        case _:
            return None


def history_id(sender: str, msg_id: str) -> str:
    """Return the id of a message in a history: ids on the wire differ for each sender only."""
    return f"{sender}:{msg_id}"


def answer(*, t: float, user: str, msg_id: str, to: str, status: Status, told: bool = True) -> Sent:
    """Return the record of an answer to a message.

    Args:
        msg_id: as it is on the wire.
        told: whether a gateway gave it; if not, the client has stopped waiting.
    """
    return Sent(
        t=t,
        user=user,
        phase=_PHASES[status],
        id=history_id(user, msg_id),
        to=to,
        status=status.value,
        told=told,
    )


def close_code(reason: str) -> int:
    """Return the close code in the reason that a client gives; 0 when there was no close frame."""
    words = reason.removeprefix("closed with ").split()
    return int(words[0]) if words and words[0].isdigit() else 0
