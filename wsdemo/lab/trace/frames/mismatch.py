"""Mismatches: when did the entry of a user differ from her connection?"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from wsdemo.lab.trace.frames.stays import Stay, named_at, where

if TYPE_CHECKING:
    import pandas as pd


class Mismatch(NamedTuple):
    """Connection and entry differed from `start` to `end`."""

    user: str
    start: float
    end: float
    real: str
    """The gateway where the user really was; empty: nowhere."""
    said: str
    """The gateway that Redis named; empty: none."""


def mismatches(real: Iterable[Stay], said: Iterable[Stay], least_s: float = 0.0) -> list[Mismatch]:
    """Return when the connection and the entry of a user differed for longer than `least_s`. They
    never change at the same instant: an entry is written before its client is told. `least_s`
    leaves such moments out.
    """
    at: dict[str, tuple[list[Stay], list[Stay]]] = {}
    for which, stays in enumerate((real, said)):
        for stay in stays:
            at.setdefault(stay.user, ([], []))[which].append(stay)
    out: list[Mismatch] = []
    for user, (true, told) in at.items():
        edges = sorted({edge for stay in (*true, *told) for edge in (stay.start, stay.end)})
        out += _joined(
            Mismatch(user, a, b, where(true, (a + b) / 2), where(told, (a + b) / 2))
            for a, b in itertools.pairwise(edges)
        )
    kept = [gap for gap in out if gap.real != gap.said and gap.end - gap.start > least_s]
    return sorted(kept, key=lambda gap: (gap.user, gap.start))


def _joined(pieces: Iterable[Mismatch]) -> list[Mismatch]:
    out: list[Mismatch] = []
    for piece in pieces:
        if out and out[-1].end == piece.start and out[-1][3:] == piece[3:]:
            out[-1] = out[-1]._replace(end=piece.end)
        else:
            out.append(piece)
    return out


def wrong_beliefs(
    trace: pd.DataFrame, real: Sequence[Stay], said: Iterable[Stay], least_s: float = 0.0
) -> list[Mismatch]:
    """Return when Redis was wrong about a user for longer than `least_s`.

    The time of her arrival does not count: her entry is written, and `registered` is on its way.
    """
    named = named_at(trace)
    arrivals = {(stay.user, stay.start, stay.gateway): stay.conn_id for stay in real}
    out = []
    for gap in mismatches(real, said):
        arrived = arrivals.get((gap.user, gap.end, gap.said))
        end = gap.end if arrived is None else named.get(arrived, gap.start)
        if end - gap.start > least_s:
            out.append(gap._replace(end=min(end, gap.end)))
    return out
