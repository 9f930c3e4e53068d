"""Exercises: what do the lessons ask, and how are answers judged?

A question has options, and each wrong one is a misconception with a name and an answer. A judge
runs the reader's answer against what real gateways and a real server do, and returns a hint for
the first misunderstanding that it finds. There is one module for each lesson,
loaded when it is asked for: some of them draw.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

from wsdemo.lab.lessons.question import Judgement, NotJudged, Question

__all__ = [
    "CHECKS",
    "QUESTIONS",
    "SYNONYMS",
    "TIMEOUTS_S",
    "Judgement",
    "NotJudged",
    "Question",
]

T = TypeVar("T")


class LessonTable(Mapping[str, T]):
    """What the lessons contain, by name. A value is loaded from its module when it is used.

    Args:
        places: name -> module and attribute: "start.QUESTION".
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> T:
        module, _, attribute = self._places[name].partition(".")
        found: T = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


QUESTIONS: Final[Mapping[str, Question]] = LessonTable(
    {
        "q00": "start.QUESTION",
        "q00b": "counting.QUESTION",
        "q01": "cost.QUESTION",
        "q02": "lease.QUESTION",
        "q03": "maps.QUESTION",
        "q03b": "maps.WITHOUT_PINGS",
        "q04": "cleanup.QUESTION",
        "q04b": "devices.QUESTION",
        "q05": "orders.QUESTION",
        "q05b": "invariants.QUESTION",
        "q06": "clocks.QUESTION",
        "q07": "deaths.QUESTION",
        "q08": "herd.QUESTION",
        "q09": "gap.QUESTION",
        "q10": "redis_away.QUESTION",
        "q10b": "redis_away.ONE_OF_THREE",
        "q11": "balancing.QUESTION",
        "q12": "capacity.QUESTION",
        "q13": "room_list.QUESTION",
        "q14": "classroom.QUESTION",
        "q15": "own_gateway.QUESTION",
        "q16": "break_it.QUESTION",
    }
)

CHECKS: Final[Mapping[str, Callable[[Any], Judgement]]] = LessonTable(
    {
        "ex00": "start.judge_where_is",
        "ex00b": "counting.judge_count",
        "ex01": "cost.judge_route",
        "ex02": "lease.judge_choose_ttl",
        "ex03": "maps.judge_cleanup",
        "ex04": "cleanup.judge_delete_if_mine",
        "ex04b": "devices.judge_release_device",
        "ex05": "orders.judge_step",
        "ex05b": "invariants.judge_invariant",
        "ex06": "clocks.judge_register",
        "ex07": "deaths.judge_next_gateway",
        "ex08": "herd.judge_backoff",
        "ex09": "gap.judge_read_on",
        "ex10": "redis_away.judge_readiness",
        "ex11": "balancing.judge_spreading",
        "ex12": "capacity.judge_plan",
        "ex13": "room_list.judge_newer",
        "ex14": "classroom.judge_belief_gap",
        "ex15": "own_gateway.judge_gateway",
        "ex16": "break_it.judge_nemesis",
    }
)

SYNONYMS: Final[Mapping[str, str]] = {"yours": "ex15"}
"""Other names of exercises."""

TIMEOUTS_S: Final[Mapping[str, float]] = {"ex15": 90.0, "ex16": 90.0}
"""How long a check may take whose faults last longer than those of the others."""
