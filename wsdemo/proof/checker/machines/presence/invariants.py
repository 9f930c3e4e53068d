"""Invariants: what must hold after each step, and what after two refreshes of all sessions?

`W...` are looked at after each step, and `E...` at the end, when all sessions that are up have
refreshed twice. Each invariant is part of a promise (`wsdemo.proof.promises`). Everything here is
pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from wsdemo.presence import Refresh, Register
from wsdemo.proof.checker.machines.presence.machine import Reply
from wsdemo.proof.checker.machines.presence.moves import Move
from wsdemo.proof.checker.machines.presence.states import (
    Actor,
    Clock,
    Hash,
    ModelPhase,
    ModelSession,
    ModelState,
    Scenario,
    Verb,
)
from wsdemo.proof.checker.subject import Invariant
from wsdemo.proof.promises import Promise


class PresenceStep(NamedTuple):
    """A script that has run: the state before, its reply, and the state after."""

    before: ModelState
    move: Move
    reply: Reply
    after: ModelState
    scenario: Scenario

    @property
    def actor(self) -> Actor:
        """The session that called it, by its names."""
        return self.scenario.cast[self.move.session]

    @property
    def session(self) -> ModelSession:
        """The session that called it, as it was before the call."""
        return self.before.sessions[self.move.session]

    @property
    def accepted(self) -> bool:
        """Whether a register or a refresh was told that its session is the owner."""
        return (self.move.verb, self.reply.outcome) in (
            (Verb.REGISTER, Register.OK),
            (Verb.REFRESH, Refresh.OK),
            (Verb.REFRESH, Refresh.RECLAIMED),
        )

    @property
    def is_of_another(self) -> bool:
        """Whether the entry belonged to another session before."""
        return self.before.memory.owner not in (None, self.actor.conn_id)

    @property
    def came_back(self) -> bool:
        """Whether this step has made the session the owner."""
        mine = self.actor.conn_id
        return self.after.memory.owner == mine != self.before.memory.owner

    @property
    def entry_untouched(self) -> bool:
        """Whether the entry and its remaining TTL are as before."""
        before, after = self.before.memory, self.after.memory
        same = (before.entry, before.entry_ends) == (after.entry, after.entry_ends)
        return same and not self.reply.lease_given


class Settled(NamedTuple):
    """Two rounds of refreshes of all sessions that are up, without any fault."""

    before: ModelState
    refreshes: tuple[Move, ...]
    after: ModelState
    scenario: Scenario

    @property
    def up_before(self) -> list[int]:
        """The sessions that refresh."""
        return _up(self.before)

    @property
    def up_after(self) -> list[int]:
        """The sessions that were not rejected."""
        return _up(self.after)


def _up(state: ModelState) -> list[int]:
    return [n for n, session in enumerate(state.sessions) if session.phase is ModelPhase.UP]


def _entry_is_whole(step: PresenceStep) -> bool:
    entry = step.after.memory.entry
    if not entry:
        return True
    sessions = zip(step.scenario.cast, step.after.sessions, strict=True)
    return any(entry == _entry_of(actor, session) for actor, session in sessions)


def _entry_of(actor: Actor, session: ModelSession) -> Hash:
    """Return the entry that names a session: every field its own."""
    return (
        ("att", str(actor.att)),
        ("connId", actor.conn_id),
        ("epoch", session.token),
        ("gwId", actor.gateway_id),
        ("inst", actor.inst),
        ("ts", "0"),
    )


def _everything_ends(step: PresenceStep) -> bool:
    memory = step.after.memory
    return memory.entry_ends and memory.fence_ends


def _release_leaves_others_alone(step: PresenceStep) -> bool:
    return step.move.verb is not Verb.RELEASE or not step.is_of_another or step.entry_untouched


def _released_entry_is_gone(step: PresenceStep) -> bool:
    if step.move.verb is not Verb.RELEASE:
        return True
    owner, mine = step.before.memory.owner, step.actor.conn_id
    found = "1" if owner == mine else "-1" if owner else "0"
    return step.after.memory.owner != mine and step.reply.outcome == found


def _only_larger_replaces(step: PresenceStep) -> bool:
    if not (step.is_of_another and step.came_back):
        return True
    before = step.before.memory
    loser = (before.owner_token, before.owner or "")
    return (step.session.token, step.actor.conn_id) > loser


def _refresh_replaces_nobody(step: PresenceStep) -> bool:
    if step.move.verb is not Verb.REFRESH or step.before.has_forgotten:
        return True
    return not (step.is_of_another and step.came_back)


def _accepted_is_owner(step: PresenceStep) -> bool:
    if not step.accepted:
        return True
    given = step.reply.lease_given and step.reply.fence_life_given
    return step.after.memory.owner == step.actor.conn_id and given


def _rejected_changes_nothing(step: PresenceStep) -> bool:
    asked = step.move.verb in (Verb.REGISTER, Verb.REFRESH)
    return not asked or step.accepted or step.entry_untouched


def _newer_attempt_stays(step: PresenceStep) -> bool:
    took = step.move.verb is Verb.REGISTER and step.came_back
    return not (took and _has_dialled_again(step))


def _released_stays_away(step: PresenceStep) -> bool:
    return step.before.has_forgotten or not (step.came_back and step.session.was_released)


def _superseded_stays_away(step: PresenceStep) -> bool:
    if not step.came_back:
        return True
    return not any(s.has_owned and s.token > step.session.token for s in step.before.sessions)


def _turned_away_for_a_reason(step: PresenceStep) -> bool:
    outcome, session = step.reply.outcome, step.session
    if outcome == Refresh.CLOSED:
        return session.was_released
    if outcome == Refresh.SUPERSEDED:
        return _is_overtaken(step)
    if outcome == Register.STALE:
        # A newer session that was released also rejects older ones that are still on their way.
        gone = any(s.was_released and s.token >= session.token for s in step.before.sessions)
        return gone or _is_overtaken(step) or _has_dialled_again(step)
    return True


def _is_overtaken(step: PresenceStep) -> bool:
    """Say whether Redis knows a newer session that has owned the entry."""
    mine = (step.session.token, step.actor.conn_id)
    sessions = zip(step.scenario.cast, step.before.sessions, strict=True)
    return any(s.has_owned and (s.token, actor.conn_id) > mine for actor, s in sessions)


def _has_dialled_again(step: PresenceStep) -> bool:
    """Say whether the owner is a later attempt of the same client."""
    owners = [a for a in step.scenario.cast if a.conn_id == step.before.memory.owner]
    me = step.actor
    return any(owner.inst == me.inst != "" and owner.att > me.att for owner in owners)


def _tokens_grow(step: PresenceStep) -> bool:
    if step.move.verb is not Verb.MINT:
        return True
    if step.before.has_forgotten and step.scenario.clock is Clock.FREE:
        return True  # Nothing is left by which the script could know better.
    return all(step.reply.token > session.token for session in step.before.sessions)


def _token_counts(step: PresenceStep) -> bool:
    if step.move.verb is not Verb.MINT:
        return True
    memory = step.before.memory
    known = (value for _, value in (*memory.entry, *memory.fence) if isinstance(value, int))
    return all(step.reply.token > token for token in known)


def _other_is_named(step: PresenceStep) -> bool:
    if step.move.verb not in (Verb.REGISTER, Verb.REFRESH):
        return True
    owners = [a for a in step.scenario.cast if a.conn_id == step.before.memory.owner]
    outcome = step.reply.outcome
    has_none = outcome == Refresh.CLOSED or (outcome == Register.OK and not step.is_of_another)
    if not owners or has_none:
        return step.reply.named == ("", "")
    return step.reply.named == (owners[0].gateway_id, owners[0].conn_id)


def _one_believes(end: Settled) -> bool:
    return len(end.up_after) <= 1


def _believer_has_entry(end: Settled) -> bool:
    owner = end.after.memory.owner
    return all(end.scenario.cast[n].conn_id == owner for n in end.up_after)


def _newest_is_kept(end: Settled) -> bool:
    """All sessions may be rejected only because of a newer session, even if that one has gone."""
    if end.up_after or not end.up_before:
        return True
    sessions, cast = end.before.sessions, end.scenario.cast
    newest = max((sessions[n].token, cast[n].conn_id) for n in end.up_before)
    return any(
        session.has_owned and (session.token, cast[n].conn_id) > newest
        for n, session in enumerate(sessions)
        if n not in end.up_before
    )


STEPS: Final[dict[Invariant, Callable[[PresenceStep], bool]]] = {
    Invariant(
        "S0", (Promise.P2, Promise.P4), "an entry is whole, and all of it is one session's"
    ): _entry_is_whole,
    Invariant(
        "S1", (Promise.P1,), "a release leaves another's entry alone"
    ): _release_leaves_others_alone,
    Invariant(
        "S2",
        (Promise.P2, Promise.P5),
        "who replaces another has the larger token (or connection id)",
    ): _only_larger_replaces,
    Invariant(
        "S2b", (Promise.P2,), "a refresh replaces nobody as long as Redis remembers"
    ): _refresh_replaces_nobody,
    Invariant(
        "S3",
        (Promise.P4,),
        "who is accepted is the owner, with a lease and a fence that outlives it",
    ): _accepted_is_owner,
    Invariant(
        "S3b", (Promise.P6,), "who is rejected changes no entry, and prolongs no life"
    ): _rejected_changes_nothing,
    Invariant(
        "S3c", (Promise.P3,), "an attempt does not replace a later one of the same client"
    ): _newer_attempt_stays,
    Invariant("S4", (Promise.P7,), "a released session does not come back"): _released_stays_away,
    Invariant(
        "S4b", (Promise.P3, Promise.P5), "a superseded session does not come back"
    ): _superseded_stays_away,
    Invariant(
        "S4c",
        (Promise.P1, Promise.P7),
        "after its release a session has no entry, and the answer says so",
    ): _released_entry_is_gone,
    Invariant("S5", (Promise.P5,), "a token is larger than all before it"): _tokens_grow,
    Invariant(
        "S5b", (Promise.P5,), "a token is larger than all that Redis knows of"
    ): _token_counts,
    Invariant("S6", (Promise.P6,), "no key is there for ever"): _everything_ends,
    Invariant(
        "S7", (Promise.P8,), "the answer names the other session, and only then"
    ): _other_is_named,
    Invariant(
        "S8", (Promise.P8,), "a rejected session was released, or superseded"
    ): _turned_away_for_a_reason,
}
"""Checked after every script call."""

ENDS: Final[dict[Invariant, Callable[[Settled], bool]]] = {
    Invariant(
        "E1", (Promise.P8,), "at most one session believes that it owns the user"
    ): _one_believes,
    Invariant(
        "E2", (Promise.P8,), "the session that believes so has the entry"
    ): _believer_has_entry,
    Invariant("E3", (Promise.P8,), "the newest session is not told to leave"): _newest_is_kept,
}
"""Checked in every state, after two rounds of refreshes."""

INVARIANTS: Final = (*STEPS, *ENDS)


def broken_by_step(step: PresenceStep) -> list[Invariant]:
    """Return what a step breaks."""
    return [invariant for invariant, holds in STEPS.items() if not holds(step)]


def broken_at_end(end: Settled) -> list[Invariant]:
    """Return what is broken when nothing else happens any more."""
    return [invariant for invariant, holds in ENDS.items() if not holds(end)]
