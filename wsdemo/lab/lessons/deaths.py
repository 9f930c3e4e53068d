"""Lesson 07: whose records are wrong after a death, and where does a client go next?"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from wsdemo.lab.lessons.question import Judgement, NotJudged, Question

QUESTION: Final = Question(
    "A gateway with sixty users is killed. Some of them are back elsewhere, others not yet. How "
    "many records in Redis still name the dead gateway?",
    {
        "none": "Somebody would have had to release them, and whoever could is dead.",
        "half": "There is no rule that stops half way.",
        "those not yet back": "Each register overwrites one record; nothing else does, until the "
        "leases run out.",
        "all": "Right at the moment of the crash, and for those who never come back.",
    },
)

OUTAGES: Final = 200
ATTEMPT_S: Final = 2.0
"""What an attempt that fails costs a client."""

History = list[tuple[str, str]]
NextGateway = Callable[[History, list[str]], Any]


class _Outage(NamedTuple):
    gateways: list[str]
    dead: frozenset[str]
    history: History


def outages(rng: random.Random) -> list[_Outage]:
    """Return outages of four gateways: one or two are dead, among them the user's own.

    A gateway that failed long ago and served since then is as good as any other.
    """
    out = []
    for _ in range(OUTAGES):
        names = [f"gateway-{n:02}" for n in range(1, 5)]
        rng.shuffle(names)
        dead = rng.sample(names, rng.choice([1, 2]))
        history = []
        for name in rng.sample(names, rng.randrange(5)):
            history += [(name, "failed"), (name, "ok")]
        history += [(dead[0], "ok"), (dead[0], "failed")]
        out.append(_Outage(names, frozenset(dead), history))
    return out


def judge_next_gateway(next_gateway: NextGateway, seed: int | None = None) -> Judgement:
    """Play outages with the reader's client until it has found a gateway in each."""
    if not callable(next_gateway):
        raise NotJudged(f"next_gateway must be a function, not {type(next_gateway).__name__}.")
    lasted = []
    for outage in outages(random.Random(seed)):
        try:
            attempts = _play(next_gateway, outage)
        except _Wrong as wrong:
            history = "\n".join(f"{name}: {outcome}" for name, outcome in wrong.history)
            return Judgement(False, str(wrong), f"history, the oldest first:\n{history}")
        lasted.append(attempts * ATTEMPT_S)
    p99_s = sorted(lasted)[int(0.99 * len(lasted))]
    return Judgement(True, f"{len(lasted)} outages, the 99th percentile lasts {p99_s:g} s.")


class _Wrong(Exception):
    """The client did something that it had better not; the text is the hint."""

    def __init__(self, hint: str, history: History) -> None:
        super().__init__(hint)
        self.history = history


def _play(next_gateway: NextGateway, outage: _Outage) -> int:
    """Let one client look for a gateway; return after how many attempts it is served."""
    history = list(outage.history)
    for attempt in itertools.count(1):
        choice = _choose(next_gateway, history, outage.gateways)
        latest = dict(history)
        others = [name for name in outage.gateways if latest.get(name) != "failed"]
        if latest.get(choice) == "failed" and others:
            if choice == history[-1][0]:
                raise _Wrong("The gateway that has just failed is asked again at once.", history)
            hint = "A gateway that failed a moment ago is asked before one that did not."
            raise _Wrong(hint, [*history, (choice, "asked")])
        if choice not in outage.dead:
            return attempt
        history.append((choice, "failed"))
    raise AssertionError("a client that asks everybody finds one that lives")


def _choose(next_gateway: NextGateway, history: History, gateways: list[str]) -> str:
    given, names = list(history), list(gateways)
    try:
        choice = next_gateway(given, names)
    except NotImplementedError:
        raise
    except Exception as problem:
        raise _Wrong(
            f"With every gateway having failed at some time it raised {type(problem).__name__}. "
            "Is a failure of long ago a reason not to ask?"
            if len({name for name, _ in history}) == len(gateways)
            else f"It raised {type(problem).__name__}.",
            history,
        ) from None
    if given != history or names != gateways:
        raise _Wrong("History and list are what happened: read them, do not change them.", history)
    if choice not in gateways:
        raise _Wrong(f"{choice!r} is none of the gateways.", history)
    return str(choice)
