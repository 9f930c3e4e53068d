"""Lesson 07: whose entries are wrong after a crash, and where does a client reconnect?"""

from __future__ import annotations

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
"""The time that a failed attempt takes."""
GATEWAYS: Final = 4

History = list[tuple[str, str]]
NextGateway = Callable[[History, list[str]], Any]


class _Outage(NamedTuple):
    gateways: list[str]
    dead: frozenset[str]
    history: History
    back: str = ""
    back_after: int = 0
    """When all gateways are dead at first, one is back after so many attempts."""

    def serves(self, gateway: str, attempt: int) -> bool:
        """Say whether a gateway accepts a client at its `attempt`-th attempt (from 1)."""
        back = gateway == self.back and attempt > self.back_after
        return back or gateway not in self.dead


def outages(rng: random.Random) -> list[_Outage]:
    """Return outages of four gateways, three kinds in turn.

    * One or two are dead, among them the user's own. A gateway that failed long ago and served
      since then is as good as any other.
    * The client is new: it has no earlier connections.
    * All are dead for a while, then one of them is back.
    """
    out = []
    for number in range(OUTAGES):
        names = [f"gateway-{n:02}" for n in range(1, GATEWAYS + 1)]
        rng.shuffle(names)
        dead = rng.sample(names, rng.choice([1, 2]))
        history: History = []
        for name in rng.sample(names, rng.randrange(GATEWAYS + 1)):
            history += [(name, "failed"), (name, "ok")]
        history += [(dead[0], "ok"), (dead[0], "failed")]
        match number % 3:
            case 0:
                out.append(_Outage(names, frozenset(dead), history))
            case 1:
                out.append(_Outage(names, frozenset(dead), []))
            case _:
                back, after = rng.choice(names), rng.randint(GATEWAYS, 2 * GATEWAYS)
                out.append(_Outage(names, frozenset(names), history, back, after))
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
    """The client did something wrong; the text is the hint."""

    def __init__(self, hint: str, history: History) -> None:
        super().__init__(hint)
        self.history = history


def _play(next_gateway: NextGateway, outage: _Outage) -> int:
    """Let one client look for a gateway; return after how many attempts it is served."""
    history = list(outage.history)
    patience = outage.back_after + 2 * GATEWAYS
    for attempt in range(1, patience + 1):
        choice = _choose(next_gateway, history, outage.gateways)
        latest = dict(history)
        others = [name for name in outage.gateways if latest.get(name) != "failed"]
        if history and history[-1] == (choice, "failed"):
            raise _Wrong("The gateway that has just failed is asked again at once.", history)
        if latest.get(choice) == "failed" and others:
            hint = "A gateway that failed a moment ago is asked before one that did not."
            raise _Wrong(hint, [*history, (choice, "asked")])
        if outage.serves(choice, attempt):
            return attempt
        history.append((choice, "failed"))
    raise _Wrong(
        "Every gateway had failed, then one was back, and it was never asked. When all have "
        "failed, whose turn is it?",
        history,
    )


def _choose(next_gateway: NextGateway, history: History, gateways: list[str]) -> str:
    given, names = list(history), list(gateways)
    try:
        choice = next_gateway(given, names)
    except NotImplementedError:
        raise
    except Exception as problem:
        raise _Wrong(_why_it_raised(type(problem).__name__, history, gateways), history) from None
    if given != history or names != gateways:
        raise _Wrong("History and list are what happened: read them, do not change them.", history)
    if choice not in gateways:
        raise _Wrong(f"{choice!r} is none of the gateways.", history)
    return str(choice)


def _why_it_raised(error: str, history: History, gateways: list[str]) -> str:
    if not history:
        return f"For a client that has no past yet, it raised {error}. Where does it begin?"
    if len({name for name, _ in history}) == len(gateways):
        return (
            f"With every gateway having failed at some time it raised {error}. "
            "Is a failure of long ago a reason not to ask?"
        )
    return f"It raised {error}."
