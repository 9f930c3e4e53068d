"""Comparison: which recorded runs are drawn on one axis, and where is zero on it?

Two labs are compared by drawing both from the moment of their first fault, in production seconds.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from wsdemo.drawing.words import listed, number
from wsdemo.lab.figures.fault_lines import faults
from wsdemo.lab.trace import frames


class RecordedRun(NamedTuple):
    """One recorded run: `lab.plot.run()`."""

    trace: pd.DataFrame
    scale: float = 1.0
    """Production seconds per second of the trace."""
    ttl_s: float = 90.0
    """The lease (production seconds), for users who are not watched."""

    def began(self) -> float:
        """Return when the first fault was (s of the trace); without one, when the run began."""
        accidents = faults(self.trace)
        return accidents[0].t if accidents else frames.span(self.trace)[0]

    def after(self, t: float) -> float:
        """Return a time of the trace as production seconds since the first fault."""
        return (t - self.began()) * self.scale


def normal(run: RecordedRun) -> RecordedRun:
    """Return the run with every column in its trace."""
    return run._replace(trace=frames.normal(run.trace))


def measured(runs: list[RecordedRun]) -> str:
    """Return the sentence of a caption that says how fast the clocks of these runs were."""
    scales = sorted({run.scale for run in runs})
    if scales == [1.0]:
        return "Measured in real time."
    clocks = "a clock" if len(scales) == 1 else "clocks"
    return f"Measured by {clocks} {listed([number(scale) for scale in scales])} times as fast."
