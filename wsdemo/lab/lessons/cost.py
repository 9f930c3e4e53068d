"""Lesson 01: what does it cost to cross, and where does a message go next?"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from wsdemo.lab.lessons.question import Judgement, NotJudged, Question

QUESTION: Final = Question(
    "How many times as long does the median message take across gateways as within one?",
    {
        1: "The same time would mean that two trips to and from Redis cost nothing.",
        1.5: "Half as long again would be so if Redis cost less than a hop to a user. But it is a "
        "process of its own, and has to wake up as well.",
        2: "Twice the hops, about twice the time: here all hops are short, and each of them wakes "
        "up another process.",
        3: "The two hops in the middle wake up another process each; on a busy machine that takes "
        "longer than the hop to a user.",
        5: "So much it is when Redis is farther away than your users are. Here it is a neighbour.",
        10: "A network between machines could cost so much. Here Redis is a neighbour.",
    },
)

Route = Callable[[dict[str, str], str], Any]


class _Case(NamedTuple):
    presence: dict[str, str]
    me: str
    answer: tuple[str, str | None]
    hint: str


def cases(rng: random.Random) -> list[_Case]:
    """Return the situations of a gateway, with random names."""
    here, there, gone = rng.sample([f"gateway-{n:02}" for n in range(1, 80)], 3)
    record = {"connId": f"conn-{rng.randrange(10**6)}", "ts": str(rng.randrange(10**9))}
    return [
        _Case(
            {**record, "gwId": there},
            here,
            ("publish", f"gateway:{there}"),
            "The recipient sits at another gateway. On which channel does *that one* listen?",
        ),
        _Case(
            {**record, "gwId": here},
            here,
            ("local", None),
            "The recipient sits here. Nobody else has to hear of it, not even over Redis.",
        ),
        _Case({}, here, ("offline", None), "There is no record at all. What is the user then?"),
        _Case(
            dict(record),
            here,
            ("offline", None),
            "Half a record, without a gateway: lesson 04 shows where it comes from. Nobody can "
            "be reached by it.",
        ),
        _Case(
            {**record, "gwId": gone},
            here,
            ("publish", f"gateway:{gone}"),
            "A gateway that died a moment ago may still be named. This one cannot know; PUBLISH "
            "will tell that nobody listened.",
        ),
        _Case(
            {**record, "gwId": here + "0"},
            here,
            ("publish", f"gateway:{here}0"),
            "Two ids may begin alike and be two gateways.",
        ),
    ]


def judge_route(route: Route, seed: int | None = None) -> Judgement:
    """Compare the reader's `route(presence, me)` with what the router does in each situation."""
    if not callable(route):
        raise NotJudged(f"route must be a function, not {type(route).__name__}.")
    checked = 0
    rng = random.Random(seed)
    for _ in range(20):
        for case in cases(rng):
            given = dict(case.presence)
            try:
                said = route(given, case.me)
            except NotImplementedError:
                raise
            except Exception as problem:
                hint = f"It raised {type(problem).__name__}. {case.hint}"
                return Judgement(False, hint, f"route({case.presence}, {case.me!r})")
            evidence = f"route({case.presence}, {case.me!r})  →  {said!r}"
            if not isinstance(said, tuple | list) or len(said) != 2:
                hint = "Return two things: what to do, and the channel or None."
                return Judgement(False, hint, evidence)
            if tuple(said) != case.answer:
                return Judgement(False, case.hint, evidence)
            if given != case.presence:
                return Judgement(False, "The record is somebody else's: read it, do not change it.")
            checked += 1
    return Judgement(True, f"{checked} situations.")
