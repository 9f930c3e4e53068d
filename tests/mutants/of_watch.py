"""Mistakes in presence events."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_WATCH: Final = "gateway/watch.py"
_WATCHING: Final = "gateway/watching.py"


def _pure(*claims: str) -> tuple[str, ...]:
    return tuple(f"tests/gateway/test_watch.py::test_{claim}" for claim in claims)


def _real(*claims: str) -> tuple[str, ...]:
    return tuple(f"tests/gateway/test_watching.py::test_{claim}" for claim in claims)


IN_WATCH: Final[tuple[Mutant, ...]] = (
    Mutant(
        "an event of an older session counts",
        _WATCH,
        "    if event.token < known.token:\n",
        "    if event.token < 0:\n",
        _pure("an_older_event_says_nothing"),
    ),
    Mutant(
        "a reading that crossed an event is believed",
        _WATCH,
        "    if reading.asked != known.heard:\n",
        "    if reading.asked > known.heard:\n",
        _pure("a_reading_that_crossed_an_event_is_made_again"),
    ),
    Mutant(
        "who is back seems still to be gone",
        _WATCH,
        "    known = replace(known, absence=None)\n    if known.told",
        "    if known.told",
        _pure("after_two_readings_the_last_state_told_is_the_true_one"),
    ),
    Mutant(
        "online is told again and again",
        _WATCH,
        "    if known.told is not None and known.told.state is UserState.ONLINE:\n",
        "    if known.told is not None and known.told.state is None:\n",
        _pure("no_two_equal_states_are_told_in_a_row"),
    ),
    Mutant(
        "an absence is told at the first reading",
        _WATCH,
        "    if now < absence.due_s:\n",
        "    if now < 0:\n",
        _pure(
            "an_absence_is_told_with_its_own_reason_and_time",
            "who_is_told_to_be_gone_has_been_so_for_the_grace",
        ),
    ),
    Mutant(
        "an absence is told without a reading",
        _WATCH,
        "    if not is_sure:\n",
        "    if not is_sure and now < absence.due_s:\n",
        _pure("a_goodbye_after_the_grace_waits_for_a_reading"),
    ),
    Mutant(
        "each goodbye begins the grace anew",
        _WATCH,
        "absence._replace(reason=told.reason, at=told.at)",
        "Absence(now + grace_s, told.reason, told.at)",
        _pure("a_second_goodbye_keeps_the_time_at_which_the_absence_is_told"),
    ),
    Mutant(
        "one permitted user permits the others",
        _WATCHING,
        "        if not all(permits(session.claims, CLAIM, user) for user in users):\n",
        "        if not any(permits(session.claims, CLAIM, user) for user in users):\n",
        _real("a_token_says_whom_its_user_may_watch"),
    ),
    Mutant(
        "a token that permits less ends no watch",
        _WATCHING,
        "            if not permits(session.claims, CLAIM, user):\n",
        "            if session.claims == {}:\n",
        _real("a_token_says_whom_its_user_may_watch"),
    ),
    Mutant(
        "the subscription to a user whom nobody watches stays",
        _WATCHING,
        "            self._router.unlisten(self._channel(user))\n",
        "",
        _real("who_unwatches_is_told_nothing_more_and_the_gateway_unsubscribes"),
    ),
    Mutant(
        "the timer of a user whom nobody watches stays",
        _WATCHING,
        "            self._no_timer(watched)\n            self._router",
        "            self._router",
        _real("the_end_of_a_gateway_leaves_no_timer"),
    ),
    Mutant(
        "a session that has ended goes on watching",
        _WATCHING,
        "            self._remove(session, user)\n        self._watchers.pop",
        "            user.strip()\n        self._watchers.pop",
        _real("who_unwatches_is_told_nothing_more_and_the_gateway_unsubscribes"),
    ),
    Mutant(
        "a session that ends at its first snapshot goes on watching",
        _WATCHING,
        "            if session not in self._watchers:\n",
        "            if session is None:\n",
        _real("a_session_that_ends_while_it_is_told_leaves_no_watch"),
    ),
    Mutant(
        "what was missed while there was no subscription is not looked for",
        _WATCHING,
        "    def gap(self) -> None:\n        self._soon.set()",
        "    def gap(self) -> None:\n        self._soon.clear()",
        _real("events_that_were_missed_are_made_up_for_when_the_subscription_is_back"),
    ),
    Mutant(
        "a reading that failed is not made up for when Redis is back",
        _WATCHING,
        "    def link_is_back(self) -> None:\n        self._soon.set()",
        "    def link_is_back(self) -> None:\n        self._soon.clear()",
        _real("a_snapshot_waits_for_redis_and_comes_when_it_is_back"),
    ),
    Mutant(
        "asking to watch costs nothing",
        _WATCHING,
        "        watcher.paid_until = paid_until\n",
        "",
        _real("who_asks_to_watch_too_often_is_refused"),
    ),
    Mutant(
        "who watches others already may watch as many more",
        _WATCHING,
        "        if len(watched.keys() | set(users)) > self._limits.watched_users:\n",
        "        if len(set(users)) > self._limits.watched_users:\n",
        _real("one_user_more_than_the_limit_is_refused_and_changes_nothing"),
    ),
    Mutant(
        "a release tells nobody",
        "presence/store.py",
        "claim.reason or UNKNOWN) if self._announces else ()",
        "claim.reason or UNKNOWN) if not self._announces else ()",
        _real("a_watcher_gets_a_snapshot_and_is_then_told_of_logins_and_goodbyes"),
    ),
    Mutant(
        "the close code of a client is no reason",
        "gateway/session.py",
        "reason_of(code or self._socket.ended_with())",
        "reason_of(code)",
        _real("a_watcher_gets_a_snapshot_and_is_then_told_of_logins_and_goodbyes"),
    ),
    Mutant(
        "the reason of a session's end is forgotten on the way",
        "gateway/session.py",
        "                claim = self.claim = dataclasses.replace(claim, reason=reason.value)\n",
        "                claim = dataclasses.replace(claim)\n",
        _real("the_users_of_a_gateway_that_stops_are_told_as_drained"),
    ),
)
