"""History: where do the records of a simulation go?

Every part of the cluster that sees something gets the recorder and adds its records, in the order
in which things happen. What must never happen, but is no part of a history, goes there as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wsdemo.proof.history import Record, Violation
from wsdemo.proof.simulate.loop import VirtualTimeLoop


class HistoryRecorder:
    """The history of one simulation, and what must never happen but is no part of a history."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self.history: list[Record] = []
        self.problems: list[Violation] = []

    @property
    def now(self) -> float:
        """Return the time of a record that is made now (s)."""
        return round(float(self._loop.time()), 6)

    def note(self, record: Callable[..., Record], **fields: Any) -> None:
        """Make a record, now."""
        self.history.append(record(t=self.now, **fields))

    def add(self, record: Record | None) -> None:
        """Keep a record, if there is one."""
        if record is not None:
            self.history.append(record)

    def violated(self, claim: str, text: str) -> None:
        """Keep a violation that no check of the history could find."""
        self.problems.append(Violation(claim, self._loop.time(), text))
