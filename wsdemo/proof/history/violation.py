"""Violation: how does a check say what was not allowed?"""

from __future__ import annotations

from dataclasses import dataclass

from wsdemo.proof.history.jsonl import to_line
from wsdemo.proof.history.records import Record


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that was not allowed.

    `claim` is the promise that it breaks (see `wsdemo.proof.promises`), or the name of the check
    that found it. `t` is when it happened, and `evidence` are the records that show it.
    """

    claim: str
    t: float
    text: str
    evidence: tuple[Record, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.claim} at {self.t:.3f} s: {self.text}"]
        lines += [f"    {to_line(record)}" for record in self.evidence]
        return "\n".join(lines)
