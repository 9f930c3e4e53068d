"""Mistakes in all that is not the gateway: Redis, router, presence, client, vocabulary."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Equivalent, Mutant

IN_OTHERS: Final[tuple[Mutant, ...]] = ()
EQUIVALENT_IN_OTHERS: Final[tuple[Equivalent, ...]] = ()
