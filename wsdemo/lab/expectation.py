"""Expectation: does a lesson show what it claims, and what happens when it does not?

A bare `assert` in a cell ends in the line of its condition, and the reader does not know whether
the lesson is wrong, the machine is busy, or a knob was turned. Here each claim is a sentence: when
it does not hold, the error says what was expected, what was seen, and what to do. Where the load of
the machine decides, the experiment is run once more on a slower clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from wsdemo.lab.errors import LabError
from wsdemo.lab.pace import SPEEDS, Pace, free_core, pace
from wsdemo.terminal import say

LONGEST: Final = 300
"""Characters of what was seen."""

Result = TypeVar("Result")


class Unexpected(LabError, AssertionError):
    """A lesson did not show what it claims."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what} {advice}")
        self.what = what
        """Without the advice: what was expected, and what was seen."""


def expect(claim: str, holds: object, *, seen: object) -> None:
    """Go on when a claim holds.

    Args:
        claim: what a lesson expects, as a sentence without its full stop.
        holds: whether it is so.
        seen: what is there instead, shown with the error.

    Raises:
        Unexpected: it does not hold. `steadily` runs an experiment once more after that.
    """
    if not bool(holds):
        what = f"Expected: {claim}. Seen: {_in_short(seen)}."
        raise Unexpected(what, _advice(free_core(0)))


def steadily(
    experiment: Callable[[Pace], Result], *, users: int = 2, at_most: float = 60.0
) -> Result:
    """Run an experiment at the pace that this machine can afford; retry once, at a third of it.

    Args:
        experiment: takes the pace. An AssertionError or a TimeoutError means that the machine was
            too busy for it.
        users: how many it has.
        at_most: the speed on a machine that is free.
    """
    first = pace(users, at_most)
    try:
        return experiment(first)
    except (AssertionError, TimeoutError) as problem:
        second = first._replace(scale=max(first.scale / 3, SPEEDS[-1]))
        what = problem.what if isinstance(problem, Unexpected) else str(problem)
        words = " ".join(what.split()).rstrip(".")
        say(f"This machine is busy ({words}). Once more, at {second.scale:.3g}x.")
        return experiment(second)


def _in_short(seen: object) -> str:
    text = " ".join(str(seen).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def _advice(share: float) -> str:
    """Say how busy the machine is, and what follows from that."""
    again = "run the lesson again from its first cell"
    if share < 1:
        return (
            f"This machine is busy: this notebook gets {share:.0%} of a core. Close other programs "
            f"and {again}; Lab(scale=10) gives it more time."
        )
    return (
        f"This machine is not busy now. If it was, or if you have changed a cell, {again}. If it "
        "happens again, the lesson is out of date."
    )
