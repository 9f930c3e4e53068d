"""Expectation: does a lesson show what it claims, and what can a reader do when it does not?

A bare `assert` in a cell ends in the line of its condition, and the reader does not know whether
the lesson is wrong, the machine is busy, or a knob was turned. Here each claim is a sentence, and
when it does not hold, the error says what was expected, what was seen, and what to do.
"""

from __future__ import annotations

from typing import Final

from wsdemo.lab.errors import LabError
from wsdemo.lab.pace import free_core

MUCH: Final = 0.9
"""With so much of a core, load is an unlikely reason."""
LONGEST: Final = 300
"""Characters of what was seen."""


class Unexpected(LabError, AssertionError):
    """A lesson did not show what it claims."""


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
        raise Unexpected(f"Expected: {claim}. Seen: {_in_short(seen)}. {_advice(free_core(0))}")


def _in_short(seen: object) -> str:
    text = " ".join(str(seen).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def _advice(share: float) -> str:
    """Say how busy the machine is, and what follows from that."""
    again = "run the lesson again from its first cell"
    if share < MUCH:
        return (
            f"This machine is busy: this notebook gets {share:.0%} of a core. Close other programs "
            f"and {again}; Lab(scale=10) gives it more time."
        )
    return (
        f"This machine is not busy now. If it was, or if you have changed a cell, {again}. If it "
        "happens again, the lesson is out of date."
    )
