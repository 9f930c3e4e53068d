"""What may happen next, and what is the world like then?

A move is one step of a session, or one accident. Those that run a script need its reply; the
others do not ask Redis. Everything here is pure.

Two things are left out, because others come to the same. A gateway that dies before its session is
registered: that session just never goes on. And a refresh that is delayed: it is one that was
executed earlier, when it changed nothing, and arrives once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from wsdemo.presence import Refresh, Register
from wsdemo.proof.checker.machine import Call, Reply
from wsdemo.proof.checker.states import (
    TOKEN_BASE,
    TOKEN_STEP,
    Clock,
    Memory,
    Phase,
    Replica,
    Scenario,
    Session,
    State,
    Verb,
    tokens_of,
)


class Kind(StrEnum):
    """What a move is."""

    SEND = "send"
    """A command is sent, executed and answered."""
    UNANSWERED = "unanswered"
    """A register is executed, and its answer gets lost."""
    LATE = "late"
    """A command that was sent before is executed (again)."""
    GIVE_UP = "give up"
    """A register is sent, and is still under way when its gateway gives up."""
    CRASH = "crash"
    """The gateway of a session dies."""
    EXPIRE = "expire"
    """The entry's TTL runs out."""
    LOSE = "lose"
    """Redis forgets everything."""
    REPLICATE = "replicate"
    """A replica gets this far, and no further."""
    FAIL_OVER = "fail over"
    """The replica takes over."""


class Move(NamedTuple):
    """One thing that may happen."""

    kind: Kind
    session: int = -1
    """Whose; -1 when it is Redis' own."""
    verb: Verb | None = None
    """The script that runs; None when none does."""
    clock_us: int | None = None
    """What a free clock shows to `mint`."""


FAR_BEHIND_US: Final = 1
"""What the clock shows that has gone back before all tokens."""

COMMANDS: Final = (Verb.REGISTER, Verb.REFRESH, Verb.RELEASE)
"""What may arrive late. A mint that does gives out a token that nobody waits for."""


def moves(state: State, scenario: Scenario) -> Iterator[Move]:
    """Iterate over everything that may happen next."""
    for number, session in enumerate(state.sessions):
        yield from _steps(state, number, scenario)
        if state.accidents.duplicates:
            for verb in COMMANDS:
                if _was_sent(verb, session, scenario):
                    yield Move(Kind.LATE, number, verb)
    yield from _accidents(state)


def _steps(state: State, number: int, scenario: Scenario) -> Iterator[Move]:
    """Iterate over what a session may do by itself."""
    session = state.sessions[number]
    match session.phase:
        case Phase.NEW:
            for clock_us in _clocks(state, scenario):
                yield Move(Kind.SEND, number, Verb.MINT, clock_us)
        case Phase.MINTED:
            yield Move(Kind.SEND, number, Verb.REGISTER)
            yield Move(Kind.UNANSWERED, number, Verb.REGISTER)
            yield Move(Kind.GIVE_UP, number)
        case Phase.UP:
            if session.refreshes:
                yield Move(Kind.SEND, number, Verb.REFRESH)
            yield Move(Kind.SEND, number, Verb.RELEASE)
            yield Move(Kind.CRASH, number)
        case Phase.LEAVING:
            yield Move(Kind.SEND, number, Verb.RELEASE)


def _clocks(state: State, scenario: Scenario) -> Iterator[int | None]:
    """Iterate over what the clock may show: less than all tokens, any of them, more than all."""
    if scenario.clock is Clock.TRUE:
        yield None
        return
    tokens = tokens_of(state)
    yield from (FAR_BEHIND_US, *tokens, (tokens[-1] if tokens else TOKEN_BASE) + TOKEN_STEP)


def _was_sent(verb: Verb, session: Session, scenario: Scenario) -> bool:
    if verb is Verb.REGISTER:
        return session.phase not in (Phase.NEW, Phase.MINTED)
    if verb is Verb.REFRESH:
        return session.refreshes < scenario.refreshes
    return session.was_released


def _accidents(state: State) -> Iterator[Move]:
    left, memory = state.accidents, state.memory
    if left.expiries and memory.entry and memory.entry_ends:
        yield Move(Kind.EXPIRE)
    if left.losses and memory != Memory():
        yield Move(Kind.LOSE)
    if left.rollbacks and state.replica is None:
        yield Move(Kind.REPLICATE)
    if left.rollbacks and state.replica is not None:
        yield Move(Kind.FAIL_OVER)


def call_of(state: State, move: Move) -> Call | None:
    """Return the script call that a move makes; None when it makes none."""
    if move.verb is None:
        return None
    token = state.sessions[move.session].token
    return Call(state.memory, move.verb, move.session, token, move.clock_us)


# --- afterwards --------------------------------------------------------------------------------


def after(state: State, move: Move, reply: Reply | None, scenario: Scenario) -> State:
    """Return the state after a move, its tokens not yet renamed."""
    if move.session < 0:
        return _after_accident(state, move)
    session = state.sessions[move.session]
    if reply is None:
        phase = Phase.LEAVING if move.kind is Kind.GIVE_UP else Phase.DOWN
        return _with(state, move.session, session._replace(phase=phase))
    session = _after_reply(session, move, reply)
    if reply.memory.owner == scenario.cast[move.session].conn_id:
        session = session._replace(has_owned=True)
    state = _with(state, move.session, session)._replace(memory=reply.memory)
    if move.kind is Kind.LATE:
        duplicates = state.accidents.duplicates - 1
        return state._replace(accidents=state.accidents._replace(duplicates=duplicates))
    return state


def _with(state: State, number: int, session: Session) -> State:
    sessions = (*state.sessions[:number], session, *state.sessions[number + 1 :])
    return state._replace(sessions=sessions)


def _after_reply(session: Session, move: Move, reply: Reply) -> Session:
    if move.verb is Verb.RELEASE:
        session = session._replace(was_released=True)
    if move.kind is Kind.LATE:
        return session  # Nobody reads the answer.
    if move.kind is Kind.UNANSWERED:
        return session._replace(phase=Phase.LEAVING)
    match move.verb:
        case Verb.MINT:
            return session._replace(phase=Phase.MINTED, token=reply.token)
        case Verb.REGISTER:
            accepted = reply.outcome == Register.OK
            return session._replace(phase=Phase.UP if accepted else Phase.LEAVING)
        case Verb.REFRESH:
            accepted = reply.outcome in (Refresh.OK, Refresh.RECLAIMED)
            phase = Phase.UP if accepted else Phase.LEAVING
            return session._replace(phase=phase, refreshes=session.refreshes - 1)
        case _:
            return session._replace(phase=Phase.DOWN)


def _after_accident(state: State, move: Move) -> State:
    left, memory = state.accidents, state.memory
    match move.kind:
        case Kind.EXPIRE:
            left = left._replace(expiries=left.expiries - 1)
            return state._replace(memory=memory._replace(entry=()), accidents=left)
        case Kind.REPLICATE:
            owned = tuple(session.has_owned for session in state.sessions)
            return state._replace(replica=Replica(memory, owned))
        case Kind.FAIL_OVER if state.replica is not None:
            left = left._replace(rollbacks=left.rollbacks - 1)
            return _remembering(state._replace(accidents=left, replica=None), state.replica)
        case _:
            left = left._replace(losses=left.losses - 1)
            nothing = Replica(Memory(), (False,) * len(state.sessions))
            return _remembering(state._replace(accidents=left), nothing)


def _remembering(state: State, replica: Replica) -> State:
    """Return the state in which Redis knows this and no more."""
    sessions = tuple(
        session._replace(has_owned=owned)
        for session, owned in zip(state.sessions, replica.has_owned, strict=True)
    )
    return state._replace(memory=replica.memory, sessions=sessions, has_forgotten=True)
