"""Does the pure core of presence events tell watchers what is so, and nothing twice?

Random histories of one user, with events that are lost and readings that come late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from wsdemo.gateway.watch import (
    Absence,
    Known,
    PresenceEvent,
    Reading,
    Told,
    UserState,
    WatchReason,
    WatchStep,
    decode_event,
    on_due,
    on_event,
    on_reading,
    reason_of,
    told_text,
)
from wsdemo.protocol import CLOSE_POLICIES, Code

GRACE_S = 5.0
ONLINE, OFFLINE = UserState.ONLINE, UserState.OFFLINE


def online(token: int, reason: WatchReason = WatchReason.LOGIN) -> PresenceEvent:
    return PresenceEvent(ONLINE, reason, token, at=token)


def offline(token: int, reason: WatchReason = WatchReason.BYE) -> PresenceEvent:
    return PresenceEvent(OFFLINE, reason, token, at=token)


class History:
    """One user, who comes and goes, and one gateway, where somebody watches."""

    def __init__(self) -> None:
        self.now = 0.0
        self.known = Known()
        self.is_there = False
        self.token = 0
        self.asked: list[tuple[bool, int, int]] = []
        """Questions that Redis has answered, and whose answers are under way."""
        self.told: list[tuple[Told, float]] = []
        self.gone_at: float | None = None
        """Since when the user is gone; None: there."""

    def comes(self, is_heard: bool) -> None:
        self.token += 1
        self.is_there, self.gone_at = True, None
        if is_heard:
            self.take(on_event(self.known, online(self.token), self.now, GRACE_S))

    def goes(self, is_heard: bool) -> None:
        if not self.is_there:
            return
        self.is_there, self.gone_at = False, self.now
        if is_heard:
            self.take(on_event(self.known, offline(self.token), self.now, GRACE_S))

    def ask(self) -> None:
        self.asked.append((self.is_there, self.token, self.known.heard))

    def answer(self) -> None:
        if self.asked:
            is_there, token, heard = self.asked.pop(0)
            reading = Reading(token if is_there else None, 0, heard)
            self.take(on_reading(self.known, reading, self.now, GRACE_S))

    def pause(self, seconds: float) -> None:
        """Let time pass; the timer of an absence goes off in it."""
        until = self.now + seconds
        absence = self.known.absence
        if absence is not None and self.now < absence.due_s <= until:
            self.now = absence.due_s
            self.take(on_due(self.known, self.now))
        self.now = until

    def take(self, step: WatchStep) -> None:
        self.known = step.known
        if step.tell is not None:
            self.told.append((step.tell, self.now))
        if step.read:
            self.ask()

    def settle(self) -> None:
        """Two readings with a grace between them, as any gateway has them in time (W1)."""
        for _ in range(2):
            self.ask()
            while self.asked:
                self.answer()
            self.pause(GRACE_S)
        while self.asked:
            self.answer()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["comes", "goes"]), st.booleans()),
        st.tuples(st.sampled_from(["ask", "answer"])),
        st.tuples(st.just("pause"), st.floats(0.01, 12)),
    ),
    max_size=40,
)


def play(steps: Sequence[tuple[object, ...]]) -> History:
    history = History()
    for name, *words in steps:
        getattr(history, str(name))(*words)
    return history


@examples(500)
@given(STEPS)
def test_no_two_equal_states_are_told_in_a_row(steps: list[tuple[object, ...]]) -> None:
    """W2: whatever is lost, and however late a reading comes."""
    history = play(steps)
    history.settle()
    states = [told.state for told, _ in history.told]
    assert all(one is not other for one, other in pairwise(states))


@examples(500)
@given(STEPS)
def test_after_two_readings_the_last_state_told_is_the_true_one(
    steps: list[tuple[object, ...]],
) -> None:
    """W1: and nothing is left over, no absence and no timer."""
    history = play(steps)
    history.settle()
    last, _ = history.told[-1]
    assert last.state is (ONLINE if history.is_there else OFFLINE)
    assert history.known.told == last
    assert history.known.absence is None


@examples(500)
@given(STEPS)
def test_who_is_told_to_be_gone_has_been_so_for_the_grace(
    steps: list[tuple[object, ...]],
) -> None:
    """W3: when no event is lost, nobody is told of an absence that ended within the grace."""
    history = History()
    for name, *words in steps:
        before = len(history.told)
        getattr(history, str(name))(*([True] if name in ("comes", "goes") else words))
        for told, when in history.told[before:]:
            if told.state is OFFLINE and before:
                assert history.gone_at is not None
                assert when - history.gone_at >= GRACE_S - 1e-6


@examples(500)
@given(STEPS)
def test_a_timer_is_wanted_only_while_somebody_who_was_there_seems_gone(
    steps: list[tuple[object, ...]],
) -> None:
    """An absence of somebody who was never told to be there would leave a timer behind."""
    history = History()
    for name, *words in steps:
        getattr(history, str(name))(*words)
        known = history.known
        if known.absence is not None:
            assert known.told is not None and known.told.state is ONLINE


THERE = Known(Told(ONLINE, WatchReason.LOGIN, 1), token=10, heard=1)


def test_an_older_event_says_nothing() -> None:
    """A goodbye of the session before this one comes late."""
    assert on_event(THERE, offline(9), 0.0, GRACE_S) == WatchStep(THERE)


def test_an_absence_is_told_with_its_own_reason_and_time() -> None:
    """Not with those of the reading that confirms it."""
    gone = on_event(THERE, offline(10), 100.0, GRACE_S).known
    assert gone.absence == Absence(105.0, WatchReason.BYE, 10)
    early = on_reading(gone, Reading(None, 77, gone.heard), 104.9, GRACE_S)
    assert early == WatchStep(gone)
    assert on_due(gone, 104.9).read is False
    assert on_due(gone, 105.0).read is True
    step = on_reading(gone, Reading(None, 77, gone.heard), 105.0, GRACE_S)
    assert step.tell == Told(OFFLINE, WatchReason.BYE, 10)
    assert step.known == replace(gone, told=step.tell, absence=None)


def test_a_second_goodbye_keeps_the_time_at_which_the_absence_is_told() -> None:
    """The login between the two was not heard. The newer reason is told, and not later than due."""
    gone = on_event(THERE, offline(10), 100.0, GRACE_S).known
    again = on_event(gone, offline(12, WatchReason.LOST), 103.0, GRACE_S).known
    assert again.absence == Absence(105.0, WatchReason.LOST, 12)


def test_a_goodbye_after_the_grace_waits_for_a_reading() -> None:
    """Only Redis itself can say that nobody is there."""
    gone = on_event(THERE, offline(10), 100.0, GRACE_S).known
    step = on_event(gone, offline(11), 106.0, GRACE_S)
    assert step.tell is None and step.known.absence is not None


def test_a_reading_that_crossed_an_event_is_made_again() -> None:
    """Nobody can say which of the two is newer: they come on two connections."""
    known = on_event(Known(), online(7), 0.0, GRACE_S).known
    assert on_reading(known, Reading(None, 0, asked=0), 0.0, GRACE_S) == WatchStep(known, read=True)


@pytest.mark.parametrize("code", [None, *CLOSE_POLICIES])
def test_every_close_code_has_a_reason(code: Code | None) -> None:
    """And none of those tells what a client did wrong."""
    reason = reason_of(code)
    expected = {
        None: "lost",
        1000: "bye",
        1012: "drained",
        4009: "lost",
        4010: "replaced",
        4011: "lost",
        4509: "replaced",
        4515: "evicted",
    }
    assert reason == expected.get(code, "unknown")


def test_what_no_script_has_published_is_no_event() -> None:
    """Missing fields, wrong types, unknown words."""
    good = b'{"state":"online","reason":"login","token":1795670065247110,"at":1795670065247}'
    assert decode_event(good) == PresenceEvent(
        ONLINE, WatchReason.LOGIN, 1795670065247110, 1795670065247
    )
    for bad in (b"", b"\xff", b"[]", good[:-1], good.replace(b"login", b"x"), b'{"token":1}'):
        assert decode_event(bad) is None


def test_the_message_has_state_reason_and_time() -> None:
    """As docs/protocol.md shows it."""
    text = told_text("bob", Told(OFFLINE, WatchReason.BYE, 5))
    assert text == b'{"type":"presence","user":"bob","state":"offline","reason":"bye","at":5}'
