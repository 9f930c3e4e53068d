"""Which mistakes are tried?

Each is one that somebody might make in this very line, and each names the tests that have to
notice. `EQUIVALENT` are changes that no test can notice, with the reason.
"""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Equivalent, Mutant
from tests.mutants.of_gateway import EQUIVALENT_IN_GATEWAY, IN_GATEWAY
from tests.mutants.of_others import EQUIVALENT_IN_OTHERS, IN_OTHERS

MUTANTS: Final[tuple[Mutant, ...]] = (*IN_GATEWAY, *IN_OTHERS)
EQUIVALENT: Final[tuple[Equivalent, ...]] = (*EQUIVALENT_IN_GATEWAY, *EQUIVALENT_IN_OTHERS)
