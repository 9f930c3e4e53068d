"""What is a mutant of the product?

The shipped code with one mistake that somebody might make, or might let pass in a review. It names
the tests that have to notice. A mutant that survives means that those tests are blind, not that
the code is right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]


class MutantError(Exception):
    """A mutant does not fit the code any more; the text says why."""


class Mutant(NamedTuple):
    """One mistake.

    Args:
        name: what goes wrong, as a short sentence.
        file: the file that has the mistake, below `wsdemo/`.
        piece: a text that stands in the file once.
        replacement: what takes its place.
        tests: what has to notice, as arguments of pytest, the likeliest first.
    """

    name: str
    file: str
    piece: str
    replacement: str
    tests: tuple[str, ...]

    def text(self) -> str:
        """Return the text of the file with the mistake in it.

        Raises:
            MutantError: the piece does not stand there once, or the mistake changes nothing.
        """
        text = (ROOT / "wsdemo" / self.file).read_text(encoding="utf-8")
        if (times := text.count(self.piece)) != 1:
            raise MutantError(f"{self}: the piece stands in {self.file} {times} times, not once")
        if self.piece == self.replacement:
            raise MutantError(f"{self}: nothing is changed")
        return text.replace(self.piece, self.replacement)

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


class Equivalent(NamedTuple):
    """A change of which can be argued that no test can notice it, and why."""

    mutant: Mutant
    why: str
