"""Scribe: which record does an event of a client become?"""

from __future__ import annotations

import pytest

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
from wsdemo.proof.scribe import answer, id_with_sender, record_of
from wsdemo.protocol import Status


def event(kind: Kind, **fields: str | int) -> Event:
    return Event(kind, 99.0, "alice", **fields)  # type: ignore[arg-type]


RECORDS: list[tuple[Event, Record | None]] = [
    (event(Kind.WS_OPEN), Registered(t=1, user="alice", phase=Phase.INVOKE)),
    (
        event(Kind.REGISTERED, conn_id="c", gateway="g"),
        Registered(t=1, user="alice", phase=Phase.OK, conn="c", gateway="g"),
    ),
    (event(Kind.PING, conn_id="c"), Pinged(t=1, user="alice", conn="c")),
    (event(Kind.PONG, conn_id="c"), Ponged(t=1, user="alice", conn="c")),
    (
        event(Kind.SEND, conn_id="c", msg_id="7", peer="bob"),
        Sent(t=1, user="alice", phase=Phase.INVOKE, id="alice:7", to="bob", conn="c"),
    ),
    (
        event(Kind.ACK, msg_id="7", peer="bob", reason="routed"),
        Sent(t=1, user="alice", phase=Phase.OK, id="alice:7", to="bob", status="routed"),
    ),
    (
        event(Kind.ARRIVE, conn_id="c", msg_id="8", peer="bob"),
        Received(t=1, user="alice", conn="c", id="bob:8", sender="bob"),
    ),
    (
        event(Kind.WS_CLOSE, conn_id="c", close_code=4509),
        Closed(t=1, user="alice", conn="c", code=4509),
    ),
    (event(Kind.STALL), None),
]


@pytest.mark.parametrize(("seen", "record"), RECORDS, ids=[str(row[0].kind) for row in RECORDS])
def test_an_event_becomes_this_record(seen: Event, record: Record | None) -> None:
    """The time of the record is that of the history, not that of the event."""
    assert record_of(seen, t=1, user="alice", id_of=id_with_sender) == record


@pytest.mark.parametrize("status", Status)
def test_each_answer_has_a_phase(status: Status) -> None:
    """Only `routed` is ok, only `unknown` is unknown, and all others have failed."""
    phases = {Status.ROUTED: Phase.OK, Status.UNKNOWN: Phase.UNKNOWN}
    sent = answer(t=1, user="alice", msg_id="7", status=status, told=False)
    assert sent.phase is phases.get(status, Phase.FAIL) and not sent.told


def test_a_connection_that_ended_without_a_close_frame_has_code_0() -> None:
    """A reset, or a network that is gone."""
    lost = event(Kind.WS_CLOSE, conn_id="c", reason="reset by peer")
    assert record_of(lost, t=1, user="alice") == Closed(t=1, user="alice", conn="c", code=0)
