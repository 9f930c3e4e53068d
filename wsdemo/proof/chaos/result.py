"""Result: what does a chaos run return?"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from wsdemo.proof import history as h
from wsdemo.proof.chaos.bounds import ROUNDS
from wsdemo.proof.chaos.deployment import USUAL, Deployment
from wsdemo.proof.chaos.measures import peaks, slopes
from wsdemo.proof.chaos.nemesis import InjectedFault
from wsdemo.proof.chaos.sampling import MemorySample, Sample
from wsdemo.proof.history import Violation
from wsdemo.proof.mix import PLAIN_MIX, FeatureMix


@dataclass(slots=True)
class ChaosResult:
    """The result of a run. Times are seconds since its begin."""

    seed: int
    seconds: float
    rounds: int = ROUNDS
    mix: FeatureMix = PLAIN_MIX
    """The optional features of the gateways."""
    deployment: Deployment = USUAL
    users: int = 0
    history: list[h.Record] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    injections: list[InjectedFault] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    memory: list[MemorySample] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    """Outcomes of the scripts, as the witness saw them."""
    counters: Counter[str] = field(default_factory=Counter)
    """The sums over all gateways."""
    seen: Counter[str] = field(default_factory=Counter)
    gaps: int = 0
    blind: int = 0
    """Gaps of the witness after which it could not read all entries."""
    unjudged: int = 0
    """Releases that the witness did not judge, because they ran before it had read the entries."""
    rests: list[float] = field(default_factory=list)
    """How long it took after each heal until everything was right; NaN if it never was."""
    pairs: int = 0
    """Messages between any two users in calm periods. If one does not arrive, the run is red."""
    idle_bytes: int = 0
    """The memory of a gateway without users."""
    log_lines: int = 0
    """How many lines gateways have logged. All of them were read."""
    tally: h.Tally = field(default_factory=h.Tally)
    took_s: float = 0.0
    finished: bool = False

    @property
    def green(self) -> bool:
        """Whether everything that happened was allowed, and all that was wanted has happened."""
        return self.finished and not self.violations

    @property
    def converged_s(self) -> float:
        """The longest time from a heal until everything was right; NaN when it never was."""
        return math.nan if any(map(math.isnan, self.rests)) else max(self.rests, default=math.nan)

    @property
    def late_s(self) -> float:
        """For how long, in all, a process that was ready to run had to wait for the machine."""
        total = until = 0.0
        for record in self.history:
            if isinstance(record, h.Late):
                total += record.t - max(until, record.t - record.for_s)
                until = record.t
        return total

    @property
    def peaks(self) -> dict[str, int]:
        """The most memory that each process had (bytes)."""
        return peaks(self.memory)

    @property
    def slopes(self) -> dict[str, float]:
        """How much each process grew, KiB a minute."""
        return slopes(self.memory)
