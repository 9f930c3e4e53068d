"""Lesson 11: where does a balancer send a newcomer, and who has to move when a gateway is added?"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from wsdemo.lab.lessons.question import Judgement, NotJudged, Question, WrongAnswer
from wsdemo.rig.balancer import imbalance

QUESTION: Final = Question(
    "300 users are connected to three gateways, through a balancer that picks the gateway with the "
    "fewest connections. A fourth gateway is added. Nobody comes and nobody goes. Which share of "
    "the users (in percent) does it have after a minute?",
    {
        0: "A balancer decides once for each connection, when it begins. Nobody begins one.",
        8: "Some connections would have had to break by themselves. These do not: they are healthy "
        "and last for hours.",
        25: "That is what it would have if everybody connected anew. They are connected already.",
        100: "All newcomers would go to it, for it is the emptiest. But nobody is new.",
    },
)

LIMIT: Final = 1.15
"""What the fullest gateway may have, in parts of the mean."""
ROUND_S: Final = 5
"""The balancer hears new numbers every so many seconds."""
ROUNDS: Final = 12
WAVE: Final = 400
"""So many newcomers come between two reports of the numbers."""
FULL: Final = 600
"""So many users has each gateway that is full at the beginning."""
WAVES: Final = 3
"""With all of them, there are twice as many users as before."""
HERD: Final = 0.9
"""When so much of a wave goes to one gateway, it is a herd."""
SCALE_OUTS: Final = 12
Gateways = dict[str, int]
"""Gateway -> how many users it had when the balancer heard of it last."""
Pick = Callable[[Gateways], Any]
Rebalance = Callable[[Gateways], Any]


def judge_spreading(answer: Any, seed: int | None = None) -> Judgement:
    """Let the reader's `pick` spread newcomers, then let `rebalance` fill gateways that are new."""
    if not isinstance(answer, tuple) or len(answer) != 2 or not all(map(callable, answer)):
        raise NotJudged('Give both functions: check("ex11", (pick, rebalance)).')
    pick, rebalance = answer
    rng = random.Random(seed)
    try:
        _one_is_enough(pick)
        _newcomers(pick, rng)
        worst = max(_scale_out(pick, rebalance, rng, n) for n in range(SCALE_OUTS))
    except WrongAnswer as wrong:
        return wrong.judgement
    return Judgement(
        True, f"Every gateway is balanced within {worst} s, and nobody was moved a second time."
    )


# --- pick --------------------------------------------------------------------------------------


def _names(rng: random.Random, count: int) -> list[str]:
    return [f"gateway-{n:02}" for n in sorted(rng.sample(range(1, 100), count))]


def _picked(pick: Pick, heard: Gateways) -> str:
    """Ask once; the reader's function gets a copy of the numbers."""
    given = dict(heard)
    try:
        choice = pick(given)
    except (NotImplementedError, NameError):
        raise
    except Exception as problem:
        raise WrongAnswer(
            f"pick raised {type(problem).__name__}. "
            + ("There may be only one gateway." if len(heard) == 1 else "See the numbers below."),
            _shown(heard),
        ) from None
    if given != heard:
        raise WrongAnswer(
            "pick changed the numbers. They are what was heard: only read them.", _shown(heard)
        )
    if not isinstance(choice, str) or choice not in heard:
        raise WrongAnswer(
            f"pick returned {choice!r:.60}, which is none of the gateways.", _shown(heard)
        )
    return choice


def _one_is_enough(pick: Pick) -> None:
    """During a restart, there may be one gateway only."""
    _picked(pick, {"gateway-01": 7})


def _newcomers(pick: Pick, rng: random.Random) -> None:
    """Let waves come to two full gateways and an empty one, until there are twice as many users
    as before.
    """
    names = _names(rng, 3)
    real = dict.fromkeys(names, FULL)
    real[rng.choice(names)] = 0
    begin = dict(real)
    for _ in range(WAVES):
        heard = dict(real)
        for _ in range(WAVE):
            real[_picked(pick, heard)] += 1
    if imbalance(real) <= LIMIT:
        return
    came = {name: real[name] - heard[name] for name in names}
    if max(came.values()) >= HERD * WAVE:
        raise WrongAnswer(_herd(came), _waves(begin, real))
    raise WrongAnswer(
        "One gateway was empty, and newcomers could have filled it. They were spread as if all "
        "gateways had been equally full: which number did pick not look at?",
        _waves(begin, real),
    )


def _herd(came: Mapping[str, int]) -> str:
    most = max(came, key=lambda name: came[name])
    return (
        f"{came[most]} of {WAVE} newcomers went to {most}. Until the next report all of them see "
        "the same old numbers, and so all find the same gateway the emptiest."
    )


# --- rebalance ---------------------------------------------------------------------------------


class _World:
    """Gateways and their users; of each user it is known whether somebody has moved her already."""

    def __init__(self, rng: random.Random, full: int, empty: int) -> None:
        names = _names(rng, full + empty)
        rng.shuffle(names)
        self.unmoved = {name: FULL if n < full else 0 for n, name in enumerate(names)}
        self.moved = dict.fromkeys(names, 0)
        self.reports = [self.counts]

    @property
    def counts(self) -> Gateways:
        return {name: self.unmoved[name] + self.moved[name] for name in sorted(self.unmoved)}

    def play(self, pick: Pick, plan: Gateways) -> None:
        """Send users away as planned; they come back through `pick`, which knows old numbers."""
        heard = self.counts
        # The emptiest first: to send its users away is the plainest mistake.
        for name, users in sorted(plan.items(), key=lambda item: heard[item[0]]):
            if users > self.unmoved[name]:
                raise WrongAnswer(_why_again(name, users, heard), self.shown(plan))
            self.unmoved[name] -= users
        for _ in range(sum(plan.values())):
            self.moved[_picked(pick, heard)] += 1
        self.reports.append(self.counts)

    def shown(self, plan: object = None) -> str:
        """Return the reports so far, as text."""
        rows = [f"after {n * ROUND_S:2} s: {_line(one)}" for n, one in enumerate(self.reports)]
        rows = rows if len(rows) <= 6 else [*rows[:3], "...", *rows[-2:]]
        return "\n".join([*rows, *([f"your plan:  {plan!r:.200}"] if plan is not None else [])])


def _scale_out(pick: Pick, rebalance: Rebalance, rng: random.Random, number: int) -> int:
    """Add gateways to full ones; return after how many seconds all is balanced for good."""
    world = _World(rng, full=3 + number % 2, empty=1 + number // 2 % 2)
    balanced_at: int | None = None
    for turn in range(1, ROUNDS + 1):
        plan = _planned(rebalance, world)
        world.play(pick, plan)
        if imbalance(world.counts) > LIMIT:
            balanced_at = None
        elif balanced_at is None:
            balanced_at = turn * ROUND_S
    if balanced_at is None:
        raise WrongAnswer(_why_late(world), world.shown())
    return balanced_at


def _planned(rebalance: Rebalance, world: _World) -> Gateways:
    """Ask for a plan, and refuse what is none."""
    heard = world.counts
    given = dict(heard)
    try:
        plan = rebalance(given)
    except (NotImplementedError, NameError):
        raise
    except Exception as problem:
        raise WrongAnswer(f"rebalance raised {type(problem).__name__}.", world.shown()) from None
    if given != heard:
        raise WrongAnswer("rebalance changed the numbers: only read them.", world.shown())
    if not isinstance(plan, dict) or not all(type(n) is int and n >= 0 for n in plan.values()):
        raise WrongAnswer(
            "A plan is a dictionary: gateway -> how many of its users are sent away, as a whole "
            "number.",
            world.shown(plan),
        )
    for name, users in plan.items():
        if name not in heard:
            raise WrongAnswer(f"The plan names {name!r}, which is no gateway.", world.shown(plan))
        if users > heard[name]:
            raise WrongAnswer(
                f"{name} is to send {users} users away, and has {heard[name]}.", world.shown(plan)
            )
    return plan


def _why_again(name: str, users: int, heard: Gateways) -> str:
    mean = sum(heard.values()) / len(heard)
    if heard[name] <= mean:
        return (
            f"A user of {name} is sent away a second time. It had no more users than the mean of "
            f"{mean:.0f}: who has to move, and who is where she should be?"
        )
    if heard[name] <= LIMIT * mean:
        return (
            f"{name} sends {users} users away, some of them for the second time. It has "
            f"{heard[name]}, and the mean is {mean:.0f}: {LIMIT} times the mean is allowed. Is it "
            "worth a move?"
        )
    return (
        f"{name} sends {users} users away, and some of them for the second time. It has "
        f"{heard[name]}, and the mean is {mean:.0f}. How many are too many?"
    )


def _why_late(world: _World) -> str:
    counts = world.counts
    ratio = f"the fullest gateway has {imbalance(counts):.2f} times the mean"
    if not any(world.moved.values()):
        return (
            f"Nobody was moved, and after {ROUNDS * ROUND_S} s {ratio}. Who is connected stays: "
            "nobody moves by himself."
        )
    return (
        f"After {ROUNDS * ROUND_S} s {ratio}; {LIMIT} is allowed. "
        f"{sum(world.moved.values())} users were moved, in {ROUNDS} rounds: too few, or from the "
        "wrong gateways?"
    )


# --- words -------------------------------------------------------------------------------------


def _line(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {users}" for name, users in counts.items())


def _shown(heard: Gateways) -> str:
    return f"gateways: {heard!r}"


def _waves(begin: Mapping[str, int], end: Mapping[str, int]) -> str:
    return f"before:               {_line(begin)}\nafter {WAVES * WAVE} newcomers: {_line(end)}"
