"""Do the mutants of the product fit the code? Whether they are killed: `make mutants`."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.catalogue import EQUIVALENT, MUTANTS
from tests.mutants.mutant import ROOT, Mutant, MutantError

ALL = [*MUTANTS, *(one.mutant for one in EQUIVALENT)]
ENOUGH = 150


@pytest.mark.parametrize("mutant", ALL, ids=str)
def test_a_mutant_fits_the_code(mutant: Mutant) -> None:
    """Its piece stands there once, and what takes its place is Python as well, where that was."""
    text = mutant.text()
    if mutant.file.endswith(".py"):
        ast.parse(text)


def test_there_are_enough_mutants_and_no_two_are_equal() -> None:
    """Mistakes in every part of the product."""
    assert len(MUTANTS) >= ENOUGH
    assert len({(one.file, one.piece, one.replacement) for one in ALL}) == len(ALL)
    assert len({str(one) for one in ALL}) == len(ALL)


def test_the_tests_that_kill_the_mutants_exist() -> None:
    """A renamed file or test would leave its mutants without a test."""
    for mutant in MUTANTS:
        assert mutant.tests, mutant
        for test in mutant.tests:
            file, _, name = test.partition("::")
            assert not name or f"def {name}(" in (ROOT / file).read_text(), mutant


@pytest.mark.parametrize("piece", ["nowhere to be found", "import "])
def test_a_mutant_that_does_not_fit_is_an_error(piece: str) -> None:
    """A piece that is gone, or stands there twice, must not become a mutant of something else."""
    with pytest.raises(MutantError, match="times, not once"):
        Mutant("wrong", "gateway/session.py", piece, "", ("tests",)).text()
