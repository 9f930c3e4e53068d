"""Mistakes in what follows a primary that moves."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant


def _tests(claim: str) -> tuple[str, ...]:
    return (f"tests/redis/test_primary.py::test_{claim}",)


IN_PRIMARY: Final[tuple[Mutant, ...]] = (
    Mutant(
        "the oldest configuration counts",
        "redis/primary.py",
        "return max(answers).place",
        "return min(answers).place",
        _tests("the_answer_of_the_newest_configuration_counts"),
    ),
    Mutant(
        "all sentinels have to answer",
        "redis/primary.py",
        "        if not done:\n            break\n",
        "",
        _tests("a_sentinel_that_is_frozen_or_gone_delays_nobody"),
    ),
    Mutant(
        "a primary that is down is connected to",
        "redis/primary.py",
        """    if "master" not in flags or flags & {"s_down", "o_down"}:\n""",
        "    if False:\n",
        _tests("the_reason_why_there_is_no_primary_is_told"),
    ),
    Mutant(
        "a sentinel that is gone is quoted, not one that answers",
        "redis/primary.py",
        "        troubles.sort(key=lambda trouble: trouble.outcome is Outcome.UNREACHABLE)\n",
        "",
        _tests("the_reason_why_there_is_no_primary_is_told"),
    ),
    Mutant(
        "nobody listens to sentinels",
        "redis/primary.py",
        "        for watch in self._watches:\n            watch.start_soon()\n",
        "",
        _tests("what_one_sentinel_says_makes_both_connections_move_at_once"),
    ),
    Mutant(
        "a sentinel that is heard again is not asked",
        "redis/primary.py",
        "limits, self._heard, self.doubt, rng)",
        "limits, self._heard, lambda: None, rng)",
        _tests("a_switch_that_nobody_heard_is_found_when_the_sentinel_is_heard_again"),
    ),
    Mutant(
        "a sentinel that falls silent is waited for",
        "redis/primary.py",
        "            self.reset(SILENT)\n            return\n",
        "            return\n",
        _tests("a_sentinel_that_falls_silent_is_connected_to_anew"),
    ),
    Mutant(
        "a pong of a sentinel is not noticed",
        "redis/primary.py",
        "            self._waits_for_pong = False\n        else:\n",
        "            pass\n        else:\n",
        _tests("a_sentinel_that_falls_silent_is_connected_to_anew"),
    ),
    Mutant(
        "a connection to the old primary stays",
        "redis/connection.py",
        "            self.reset(MOVED)\n",
        "            pass\n",
        _tests("what_one_sentinel_says_makes_both_connections_move_at_once"),
    ),
    Mutant(
        "every doubt breaks the connection",
        "redis/connection.py",
        "        if self._url != url:\n            self.reset(MOVED)\n",
        "        self.reset(MOVED)\n",
        _tests("a_doubt_moves_only_what_is_at_another_server"),
    ),
    Mutant(
        "the pause before a reconnect is kept",
        "redis/connection.py",
        "        if not self.open:\n            self._hurry.set()\n",
        "",
        _tests("a_connection_that_waits_connects_without_a_pause"),
    ),
    Mutant(
        "a start does not wait for a successor",
        "redis/connection.py",
        "or (away and self._whereabouts is not None)",
        "",
        _tests("a_start_waits_for_the_successor_of_a_primary_that_is_gone"),
    ),
    Mutant(
        "the place of the primary is asked for once only",
        "redis/connection.py",
        "        if self._whereabouts is not None:\n            async with",
        "        if self._whereabouts is not None and not self._url:\n            async with",
        _tests("a_connection_that_waits_connects_without_a_pause"),
    ),
    Mutant(
        "a stopped connection is told of moves",
        "redis/connection.py",
        "            self._whereabouts.forget(self)\n",
        "            pass\n",
        _tests("a_doubt_moves_only_what_is_at_another_server"),
    ),
    Mutant(
        "a probe that nobody counted says nothing about the link",
        "router.py",
        "        if self._primary is not None:\n            self._primary.doubt()\n        if",
        "        if",
        _tests("a_link_that_was_left_behind_is_found_by_the_probe"),
    ),
    Mutant(
        "a subscription at the right server is given up for a link at the wrong one",
        "router.py",
        "        if self._primary is None or self._primary.are_together:\n",
        "        if True:\n",
        _tests("a_link_that_was_left_behind_is_found_by_the_probe"),
    ),
)
