"""Trace: where was each user in a recorded run, and where did Redis say that she was?

Everything here takes the trace as a DataFrame and returns new frames; nothing is changed in place.
Times are those of the trace (measured seconds) unless a name says otherwise. A trace has a row for
each observed event, with the columns of `COLUMNS`.
"""

from wsdemo.lab.trace.frames.columns import (
    COLUMNS,
    NOT_LOST,
    REDIS,
    arrows,
    empty,
    gateways,
    is_lane,
    moments,
    normal,
    span,
    users,
    window,
)
from wsdemo.lab.trace.frames.mismatch import Mismatch, mismatches, wrong_beliefs
from wsdemo.lab.trace.frames.requests import ASKS, HEARS, LEAVES, requests
from wsdemo.lab.trace.frames.stays import (
    Stay,
    belief,
    departures,
    named_at,
    tables,
    truth,
    where,
)
from wsdemo.lab.trace.frames.verdict import NO_ENTRY, is_release, verdicts

__all__ = [
    "ASKS",
    "COLUMNS",
    "HEARS",
    "LEAVES",
    "NOT_LOST",
    "NO_ENTRY",
    "REDIS",
    "Mismatch",
    "Stay",
    "arrows",
    "belief",
    "departures",
    "empty",
    "gateways",
    "is_lane",
    "is_release",
    "mismatches",
    "moments",
    "named_at",
    "normal",
    "requests",
    "span",
    "tables",
    "truth",
    "users",
    "verdicts",
    "where",
    "window",
    "wrong_beliefs",
]
