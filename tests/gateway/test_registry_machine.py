"""Session registry: do its maps agree with a model in every history?

Hypothesis writes histories of the sessions of two users: they are expected, bound, bound once
more, replaced and removed, also those that were replaced or removed before. The model is one dict
of who is bound, and one of who is expected.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.examples import examples
from wsdemo.gateway.registry import Registry

USERS = ("alice", "bob")


@dataclass(frozen=True, eq=False)
class Session:
    """What the registry looks at. Two of them are never equal, as with real ones."""

    user: str
    conn_id: str


class RegistryMachine(RuleBasedStateMachine):
    """Any rule may pick any session that ever was."""

    sessions: Bundle[Session] = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.registry: Registry[Session] = Registry()
        self.ever: list[Session] = []
        self.bound: dict[str, Session] = {}
        self.expected: dict[str, Session] = {}

    @initialize(target=sessions)
    def start(self) -> MultipleResults[Session]:
        """With nobody there, all that can happen is nothing."""
        return multiple(*(self._arrive(user) for user in (*USERS, *USERS)))

    @rule(target=sessions, user=st.sampled_from(USERS))
    def arrive(self, user: str) -> Session:
        return self._arrive(user)

    def _arrive(self, user: str) -> Session:
        session = Session(user, f"c{len(self.ever)}")
        self.ever.append(session)
        return session

    @rule(session=sessions)
    def expect(self, session: Session) -> None:
        """Its register is on its way to Redis; once it was accepted, no other one is sent."""
        if self.bound.get(session.user) is session:
            return
        self.registry.expect(session)
        self.expected[session.conn_id] = session

    @rule(session=sessions)
    def bind(self, session: Session) -> None:
        """Its register was accepted; perhaps it was bound before."""
        earlier = self.bound.get(session.user)
        assert self.registry.bind(session) is (None if earlier is session else earlier)
        self.bound[session.user] = session
        self.expected.pop(session.conn_id, None)

    @rule(session=sessions)
    def remove(self, session: Session) -> None:
        """It has ended; perhaps long after another took its place."""
        mine = self.bound.get(session.user) is session
        assert self.registry.remove(session) is mine
        if mine:
            del self.bound[session.user]
        self.expected.pop(session.conn_id, None)

    @precondition(lambda self: bool(self.bound))
    @rule(data=st.data())
    def kick(self, data: st.DataObject) -> None:
        """Another gateway has her now: the session that is found is ended, twice."""
        user = data.draw(st.sampled_from(sorted(self.bound)))
        found = self.registry.by_user(user)
        assert found is self.bound.pop(user)
        self.expected.pop(found.conn_id, None)
        assert self.registry.remove(found) is True
        assert self.registry.remove(found) is False

    @invariant()
    def everybody_is_found_who_is_there_and_nobody_else(self) -> None:
        there = list(self.bound.values())
        assert len(self.registry) == len(there)
        assert {id(session) for session in self.registry} == {id(session) for session in there}
        assert {id(s) for s in self.registry.sessions()} == {id(session) for session in there}
        for user in USERS:
            assert self.registry.by_user(user) is self.bound.get(user)
        for session in self.ever:
            known = session in there or session.conn_id in self.expected
            assert self.registry.by_conn(session.conn_id) is (session if known else None)


def test_the_registry_agrees_with_a_model_in_any_history() -> None:
    """A bound session is found under its user and its connection; an expected one by its
    connection; no other is found."""
    run_state_machine_as_test(RegistryMachine, settings=examples(200, stateful_step_count=40))
