"""Transitions: what may happen next in a state, and which state follows?

A move is one step of a session, or one fault of Redis. Moves that run a script need its reply; the
others do not need Redis. Everything here is pure.

Two moves are left out, because other moves have the same effect. A gateway that crashes before its
session is registered: that session makes no more moves. And a refresh that is delayed: it equals a
refresh that was executed earlier, without effect, and is executed once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from wsdemo.presence import Refresh, Register
from wsdemo.proof.checker.machines.presence.machine import Call, Reply
from wsdemo.proof.checker.machines.presence.states import (
    TOKEN_BASE,
    TOKEN_STEP,
    Clock,
    Memory,
    ModelPhase,
    ModelSession,
    ModelState,
    Replica,
    Scenario,
    Verb,
    tokens_of,
)


class MoveKind(StrEnum):
    """The kinds of moves."""

    SEND = "send"
    """A command is sent, executed and answered."""
    UNANSWERED = "unanswered"
    """A register is executed, and its answer is lost."""
    LATE = "late"
    """A command that was sent before is executed now, perhaps again."""
    GIVE_UP = "give up"
    """A register is sent, and its gateway gives up before it is executed."""
    CRASH = "crash"
    """The gateway of a session crashes."""
    EXPIRE = "expire"
    """The entry's TTL runs out."""
    LOSE = "lose"
    """Redis loses all data."""
    REPLICATE = "replicate"
    """A replica copies this state, and no later one."""
    FAIL_OVER = "fail over"
    """The replica takes over."""


class Move(NamedTuple):
    """One thing that may happen."""

    kind: MoveKind
    session: int = -1
    """The session that moves; -1 for Redis."""
    verb: Verb | None = None
    """The script that runs; None when none does."""
    clock_us: int | None = None
    """The time that a free clock shows to `mint`."""


FAR_BEHIND_US: Final = 1
"""The time of a clock that has gone back to before all tokens."""

COMMANDS: Final = (Verb.REGISTER, Verb.REFRESH, Verb.RELEASE)
"""Commands that may arrive late. A late mint returns a token that is not used any more."""


def moves(state: ModelState, scenario: Scenario) -> Iterator[Move]:
    """Iterate over all moves that are possible now."""
    for number, session in enumerate(state.sessions):
        yield from _steps(state, number, scenario)
        if state.faults_left.duplicates:
            for verb in COMMANDS:
                if _was_sent(verb, session, scenario):
                    yield Move(MoveKind.LATE, number, verb)
    yield from _faults(state)


def _steps(state: ModelState, number: int, scenario: Scenario) -> Iterator[Move]:
    """Iterate over the moves of one session."""
    session = state.sessions[number]
    match session.phase:
        case ModelPhase.NEW:
            for clock_us in _clocks(state, scenario):
                yield Move(MoveKind.SEND, number, Verb.MINT, clock_us)
        case ModelPhase.MINTED:
            yield Move(MoveKind.SEND, number, Verb.REGISTER)
            yield Move(MoveKind.UNANSWERED, number, Verb.REGISTER)
            yield Move(MoveKind.GIVE_UP, number)
        case ModelPhase.UP:
            if session.refreshes:
                yield Move(MoveKind.SEND, number, Verb.REFRESH)
            yield Move(MoveKind.SEND, number, Verb.RELEASE)
            yield Move(MoveKind.CRASH, number)
        case ModelPhase.LEAVING:
            yield Move(MoveKind.SEND, number, Verb.RELEASE)


def _clocks(state: ModelState, scenario: Scenario) -> Iterator[int | None]:
    """Iterate over the times that matter: before all tokens, at each of them, after all."""
    if scenario.clock is Clock.TRUE:
        yield None
        return
    tokens = tokens_of(state)
    yield from (FAR_BEHIND_US, *tokens, (tokens[-1] if tokens else TOKEN_BASE) + TOKEN_STEP)


def _was_sent(verb: Verb, session: ModelSession, scenario: Scenario) -> bool:
    if verb is Verb.REGISTER:
        return session.phase not in (ModelPhase.NEW, ModelPhase.MINTED)
    if verb is Verb.REFRESH:
        return session.refreshes < scenario.refreshes
    return session.was_released


def _faults(state: ModelState) -> Iterator[Move]:
    left, memory = state.faults_left, state.memory
    if left.expiries and memory.entry and memory.entry_ends:
        yield Move(MoveKind.EXPIRE)
    if left.losses and memory != Memory():
        yield Move(MoveKind.LOSE)
    if left.rollbacks and state.replica is None:
        yield Move(MoveKind.REPLICATE)
    if left.rollbacks and state.replica is not None:
        yield Move(MoveKind.FAIL_OVER)


def call_of(state: ModelState, move: Move) -> Call | None:
    """Return the script call that a move makes; None when it makes none."""
    if move.verb is None:
        return None
    token = state.sessions[move.session].token
    return Call(state.memory, move.verb, move.session, token, move.clock_us)


# --- afterwards --------------------------------------------------------------------------------


def after(state: ModelState, move: Move, reply: Reply | None, scenario: Scenario) -> ModelState:
    """Return the state after a move. Its tokens are not renamed yet."""
    if move.session < 0:
        return _after_fault(state, move)
    session = state.sessions[move.session]
    if reply is None:
        phase = ModelPhase.LEAVING if move.kind is MoveKind.GIVE_UP else ModelPhase.DOWN
        return _with(state, move.session, session._replace(phase=phase))
    session = _after_reply(session, move, reply)
    if reply.memory.owner == scenario.cast[move.session].conn_id:
        session = session._replace(has_owned=True)
    state = _with(state, move.session, session)._replace(memory=reply.memory)
    if move.kind is MoveKind.LATE:
        duplicates = state.faults_left.duplicates - 1
        return state._replace(faults_left=state.faults_left._replace(duplicates=duplicates))
    return state


def _with(state: ModelState, number: int, session: ModelSession) -> ModelState:
    sessions = (*state.sessions[:number], session, *state.sessions[number + 1 :])
    return state._replace(sessions=sessions)


def _after_reply(session: ModelSession, move: Move, reply: Reply) -> ModelSession:
    if move.verb is Verb.RELEASE:
        session = session._replace(was_released=True)
    if move.kind is MoveKind.LATE:
        return session  # Nobody reads the answer.
    if move.kind is MoveKind.UNANSWERED:
        return session._replace(phase=ModelPhase.LEAVING)
    match move.verb:
        case Verb.MINT:
            return session._replace(phase=ModelPhase.MINTED, token=reply.token)
        case Verb.REGISTER:
            accepted = reply.outcome == Register.OK
            return session._replace(phase=ModelPhase.UP if accepted else ModelPhase.LEAVING)
        case Verb.REFRESH:
            accepted = reply.outcome in (Refresh.OK, Refresh.RECLAIMED)
            phase = ModelPhase.UP if accepted else ModelPhase.LEAVING
            return session._replace(phase=phase, refreshes=session.refreshes - 1)
        case _:
            return session._replace(phase=ModelPhase.DOWN)


def _after_fault(state: ModelState, move: Move) -> ModelState:
    left, memory = state.faults_left, state.memory
    match move.kind:
        case MoveKind.EXPIRE:
            left = left._replace(expiries=left.expiries - 1)
            return state._replace(memory=memory._replace(entry=()), faults_left=left)
        case MoveKind.REPLICATE:
            owned = tuple(session.has_owned for session in state.sessions)
            return state._replace(replica=Replica(memory, owned))
        case MoveKind.FAIL_OVER if state.replica is not None:
            left = left._replace(rollbacks=left.rollbacks - 1)
            return _remembering(state._replace(faults_left=left, replica=None), state.replica)
        case _:
            left = left._replace(losses=left.losses - 1)
            nothing = Replica(Memory(), (False,) * len(state.sessions))
            return _remembering(state._replace(faults_left=left), nothing)


def _remembering(state: ModelState, replica: Replica) -> ModelState:
    """Return the state in which Redis has exactly these data."""
    sessions = tuple(
        session._replace(has_owned=owned)
        for session, owned in zip(state.sessions, replica.has_owned, strict=True)
    )
    return state._replace(memory=replica.memory, sessions=sessions, has_forgotten=True)
