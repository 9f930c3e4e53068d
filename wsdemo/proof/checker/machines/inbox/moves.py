"""Transitions of an inbox: what may happen next?

A message is sent for the first time only after all before it: they have different ids and the same
form, so no other order says more. Hints are not moves: a gateway may read at any time, as after a
hint or when a lease is renewed, and may as well not.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from wsdemo.proof.checker.machines.inbox.states import (
    KEYS,
    InboxScenario,
    InboxState,
    LinkPhase,
    SenderKnows,
    id_key,
)
from wsdemo.proof.checker.runner import held


class InboxMoveKind(StrEnum):
    """The kinds of moves."""

    SEND = "send"
    SEND_UNANSWERED = "send, the answer gets lost"
    SEND_LATE = "send, after its deadline"
    CONNECT = "connects"
    CONNECT_ANEW = "connects, without a position"
    READ = "read"
    PAGE = "the page arrives"
    ACK = "ack"
    LAST_WORDS = "an ack that was on the wire"
    COPY = "a late copy of an ack"
    GONE = "its gateway notices that it has gone"
    BACK_UP = "a replica gets this far"
    FAIL_OVER = "the replica takes over"
    FAIL_OVER_SECRETLY = "the replica takes over, and the run id does not tell"
    RESTART = "the server starts again, with its data"
    LOSE = "everything is lost"
    EVICT = "a key is lost"
    END = "reads to its end"


class InboxMove(NamedTuple):
    """One thing that may happen."""

    kind: InboxMoveKind
    who: int = -1
    """The message of a SEND, the session of other moves; -1 for Redis."""
    process: int = 0
    """Which device connects."""
    key: str = ""
    """Which key is lost."""


def moves(state: InboxState, scenario: InboxScenario) -> Iterator[InboxMove]:
    """Iterate over all moves that are possible now."""
    yield from _sends(state)
    yield from _connects(state)
    for number, session in enumerate(state.sessions):
        if session.phase in (LinkPhase.UP, LinkPhase.ZOMBIE):
            yield from _of_session(state, number)
        if session.copy is not None and state.left.copies:
            yield InboxMove(InboxMoveKind.COPY, number)
    yield from _accidents(state, scenario)


def _sends(state: InboxState) -> Iterator[InboxMove]:
    for number, told in enumerate(state.told):
        if told is not SenderKnows.STORED:
            yield InboxMove(InboxMoveKind.SEND, number)
            yield InboxMove(InboxMoveKind.SEND_LATE, number)
        if told is SenderKnows.NEW:
            yield InboxMove(InboxMoveKind.SEND_UNANSWERED, number)
            return


def _connects(state: InboxState) -> Iterator[InboxMove]:
    free = [n for n, session in enumerate(state.sessions) if session.phase is LinkPhase.NEW]
    if not free:
        return
    for process in range(len(state.processes)):
        yield InboxMove(InboxMoveKind.CONNECT, free[0], process)
        if state.left.deaths:
            yield InboxMove(InboxMoveKind.CONNECT_ANEW, free[0], process)


def _of_session(state: InboxState, number: int) -> Iterator[InboxMove]:
    session = state.sessions[number]
    yield InboxMove(InboxMoveKind.READ if session.page is None else InboxMoveKind.PAGE, number)
    if session.phase is LinkPhase.UP and session.pump.started:
        yield InboxMove(InboxMoveKind.ACK, number)
    if session.phase is LinkPhase.ZOMBIE:
        if session.words is not None:
            yield InboxMove(InboxMoveKind.LAST_WORDS, number)
        yield InboxMove(InboxMoveKind.GONE, number)


def _accidents(state: InboxState, scenario: InboxScenario) -> Iterator[InboxMove]:
    left = state.left
    if (left.failovers or left.secret) and state.backup is None and state.data:
        yield InboxMove(InboxMoveKind.BACK_UP)
    if state.backup is not None and left.failovers:
        yield InboxMove(InboxMoveKind.FAIL_OVER)
    if state.backup is not None and left.secret:
        yield InboxMove(InboxMoveKind.FAIL_OVER_SECRETLY)
    if left.restarts:
        yield InboxMove(InboxMoveKind.RESTART)
    if left.losses and state.data:
        yield InboxMove(InboxMoveKind.LOSE)
    if left.evictions:
        for key in (*KEYS, *map(id_key, range(scenario.messages))):
            if held(state.data, key) is not None:
                yield InboxMove(InboxMoveKind.EVICT, -1, 0, key)
