"""Mistakes in wsdemo/gateway."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Equivalent, Mutant

IN_GATEWAY: Final[tuple[Mutant, ...]] = ()
EQUIVALENT_IN_GATEWAY: Final[tuple[Equivalent, ...]] = ()
