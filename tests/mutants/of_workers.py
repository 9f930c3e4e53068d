"""Mistakes in what several workers share, and in their parent."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_LIMITS: Final = "gateway/workers/limits.py"
_PARENT: Final = "gateway/workers/parent.py"
_SHARED: Final = "gateway/workers/shared.py"
_SUMS: Final = "gateway/workers/sums.py"
_WORKER: Final = "gateway/workers/worker.py"


def _pure(*claims: str) -> tuple[str, ...]:
    return tuple(f"tests/gateway/test_worker_sums.py::test_{claim}" for claim in claims)


def _real(*claims: str) -> tuple[str, ...]:
    return tuple(f"tests/scenarios/test_workers.py::test_{claim}" for claim in claims)


IN_WORKERS: Final[tuple[Mutant, ...]] = (
    Mutant(
        "an address that ends is counted for ever",
        _LIMITS,
        "            self._own[cell] -= 1\n",
        "            self._own[cell] -= 0\n",
        _pure("counts_by_address_are_exact_sums_over_all_workers"),
    ),
    Mutant(
        "a worker looks at its own connections only",
        _LIMITS,
        "        return sockets + self._state.sockets_beside(self._own)\n",
        "        return sockets\n",
        _pure("limits_hold_over_all_workers"),
    ),
    Mutant(
        "a report is written over the one that is read",
        _SHARED,
        "        half = 1 - self._numbers[1]\n",
        "        half = self._numbers[1]\n",
        _pure("the_last_report_stays_whole_while_the_next_one_is_written"),
    ),
    Mutant(
        "half a report counts",
        _SHARED,
        "            if zlib.crc32(report) == checksum:\n",
        "            if report or not checksum:\n",
        _pure("a_report_with_a_wrong_byte_is_none"),
    ),
    Mutant(
        "what a dead worker had counted is forgotten",
        _SUMS,
        "        total = self._parent.ended\n",
        "        total = Counts()\n",
        _pure("a_sum_includes_what_ended_workers_had_counted"),
    ),
    Mutant(
        "a silent worker is ready",
        _SUMS,
        "            if self._now_s - worker.at_s > SILENT_S:\n",
        "            if self._now_s - worker.at_s > 10 * SILENT_S:\n",
        _pure("the_whole_is_ready_when_each_worker_that_listens_is"),
    ),
    Mutant(
        "a worker stays when its parent has gone",
        _WORKER,
        "        if not word or word == DRAIN_NOW:\n",
        "        if word == DRAIN_NOW:\n",
        _real("a_parent_that_is_killed_leaves_no_worker"),
    ),
    Mutant(
        "the share of a dead worker is kept",
        _PARENT,
        "        slot.clear()\n",
        "        slot.report()\n",
        _real("the_limit_of_an_address_holds_over_all_workers"),
    ),
    Mutant(
        "a later failure is a reason to end",
        _PARENT,
        "        return code != 0 and not self._report.has_started and not waits\n",
        "        return code != 0 and not waits\n",
        _real("a_worker_that_dies_is_started_anew_and_counted"),
    ),
    Mutant(
        "a Redis that is away for a moment ends the users of the first worker",
        _PARENT,
        "        waits = bool(self._listening) and child.lacks_redis\n",
        "        waits = False\n",
        _real("a_redis_that_goes_away_during_the_start_ends_nothing"),
    ),
    Mutant(
        "a start without any Redis does not end",
        _PARENT,
        "        waits = bool(self._listening) and child.lacks_redis\n",
        "        waits = child.lacks_redis\n",
        _real("workers_that_cannot_start_say_why_in_one_line"),
    ),
)
