"""Does docs/operating.md tell the truth about what a gateway does when Redis refuses?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from wsdemo.redis.outcome import CURES, Cure, Outcome, classify

MANUAL: Final = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
DOES: Final = {Cure.DIAL: "dials anew", Cure.WAIT: "asks again"}


def rows() -> list[tuple[list[Outcome], str, str]]:
    """The rows of the table: what Redis says, what a gateway does, and what a start does."""
    table = MANUAL.partition("| Redis says |")[2]
    found = []
    for line in table.splitlines()[2:]:
        if not line.startswith("|"):
            break
        says, does, at_the_start = (cell.strip() for cell in line.strip("|").split("|"))
        words = re.findall(r"`([^`]+)`", says)
        outcomes = {classify(word) for word in words} - {Outcome.OWN}  # OWN: `ROLE`.
        if "unknown command" in says:
            outcomes |= {Outcome.UNKNOWN_COMMAND, Outcome.TOO_OLD}
        if says.startswith("nothing"):
            outcomes = {Outcome.UNREACHABLE}
        found.append((sorted(outcomes), does, at_the_start))
    return found


def test_the_manual_has_a_row_with_a_remedy_for_each_outcome() -> None:
    """What a gateway does, and whether a start waits for it."""
    told = [outcome for outcomes, _, _ in rows() for outcome in outcomes]
    assert len(told) == len(set(told))
    # A command's own failure is no state of Redis; words that nobody knows are in no table.
    assert set(told) == set(CURES) - {Outcome.OWN, Outcome.UNFIT}
    for outcomes, does, at_the_start in rows():
        for outcome in outcomes:
            assert DOES[outcome.cure] in does, outcome
            assert at_the_start == ("waits" if outcome.passes else "exit code 2"), outcome
