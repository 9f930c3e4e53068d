"""Event to history record: which record does an observed event become?

Chaos and the simulation observe the same client, so both translate its events here. What an event
does not show (why a user left, that a client stopped waiting for an answer) they record themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

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
)
from wsdemo.protocol import Status

_PHASES: Final = {Status.ROUTED: Phase.OK, Status.UNKNOWN: Phase.UNKNOWN}

IdOf = Callable[[str, str], str]
"""Makes an id that is unique in a history out of the sender and the id on the wire."""


def id_on_the_wire(sender: str, msg_id: str) -> str:
    """Keep the id as it is: for clients whose ids are unique in the whole run."""
    return msg_id


def id_with_sender(sender: str, msg_id: str) -> str:
    """Put the sender before the id: for clients whose ids are unique for each sender."""
    return f"{sender}:{msg_id}"


def record_of(event: Event, *, t: float, user: str, id_of: IdOf = id_on_the_wire) -> Record | None:
    """Return the record of an event that the client of `user` has emitted; None if it has none.

    Args:
        t: the time of the record, on the clock of the history.
        id_of: makes the message ids of the history.
    """
    conn = event.conn_id
    match event.kind:
        case Kind.WS_OPEN:
            return Registered(t=t, user=user, phase=Phase.INVOKE)
        case Kind.REGISTERED:
            return Registered(t=t, user=user, phase=Phase.OK, conn=conn, gateway=event.gateway)
        case Kind.PING:
            return Pinged(t=t, user=user, conn=conn)
        case Kind.PONG:
            return Ponged(t=t, user=user, conn=conn)
        case Kind.SEND:
            msg_id = id_of(user, event.msg_id)
            return Sent(t=t, user=user, phase=Phase.INVOKE, id=msg_id, to=event.peer, conn=conn)
        case Kind.ACK:
            msg_id = id_of(user, event.msg_id)
            return answer(t=t, user=user, msg_id=msg_id, to=event.peer, status=Status(event.reason))
        case Kind.ARRIVE:
            msg_id = id_of(event.peer, event.msg_id)
            return Received(t=t, user=user, conn=conn, id=msg_id, sender=event.peer)
        case Kind.WS_CLOSE:
            return Closed(t=t, user=user, conn=conn, code=event.close_code or 0)
        case _:
            return None


def answer(
    *, t: float, user: str, msg_id: str, status: Status, to: str = "", told: bool = True
) -> Sent:
    """Return the record of an answer to a message.

    Args:
        msg_id: as it is in the history.
        told: whether the gateway gave it; if not, the client has stopped waiting by itself.
    """
    phase = _PHASES.get(status, Phase.FAIL)
    return Sent(t=t, user=user, phase=phase, id=msg_id, to=to, status=status.value, told=told)
