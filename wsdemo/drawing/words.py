"""Formatting: how are names, numbers, durations and lists written in figures, tables and reports?

Pure functions from values to text: nothing here draws, so reports can use them without loading a
plotting library.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pandas as pd

_BLANKS: Final = re.compile(r"\s+")


def plain(name: object, limit: int = 24) -> str:
    """Return a name that can stand in a figure: one line, no control characters, not too long."""
    shown = "".join(
        c if unicodedata.category(c)[0] != "C" else " " for c in _BLANKS.sub(" ", str(name))
    ).strip()
    return shown if len(shown) <= limit else shown[: limit - 1].rstrip() + "…"


def lane_name(lane: object) -> str:
    """Return the label of a lane of a trace: "Redis", or the name of a gateway or a user."""
    return "Redis" if lane == "redis" else plain(lane)


def duration(seconds: float) -> str:
    """Return a time in a readable unit: 85 µs, 1.2 ms, 3.4 s, 85 s."""
    size = abs(seconds)
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if size * factor < 999.5:
            return f"{number(seconds * factor)} {unit}"
    return f"{number(seconds)} s"


def number(value: float) -> str:
    """Return a number with two or three significant digits and no needless zeros."""
    size = abs(value)
    if size >= 100 or value == round(value):
        return f"{value:,.0f}"
    if size >= 9.95:
        return f"{value:.0f}"
    if size >= 0.995:
        return f"{value:.1f}"
    return f"{value:.2g}"


def whole_or_tenths(value: float) -> float | int:
    """Round a number: to a whole one from 10 on, to one decimal below (but 8, not 8.0)."""
    rounded = float(round(value, 1) if value < 10 else round(value))
    return int(rounded) if rounded.is_integer() else rounded


def percent(share: float) -> str:
    """Return a share as a percentage: 0.05 is "5 %"."""
    return f"{100 * share:g} %"


def listed(things: Iterable[object], limit: int = 8) -> str:
    """Return names as a part of a sentence: a, b and c."""
    names = [plain(thing) for thing in things]
    if len(names) > limit:
        names = [*names[:limit], f"{len(names) - limit} more"]
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def counted(n: int, thing: str, things: str | None = None) -> str:
    """Return "1 arrow", "3 arrows"."""
    return f"{n} {thing if n == 1 else things or thing + 's'}"


def clock_error(error_s: float) -> str:
    """Return how a clock is wrong: "clock 10 s slow", "clock 10 s fast"."""
    return f"clock {abs(error_s):g} s {'slow' if error_s < 0 else 'fast'}"


def measured_at(trace: pd.DataFrame, scale: float) -> str:
    """Return the sentence of a caption that says how much faster than production time ran."""
    if scale == 1 or trace.empty:
        return "Measured in real time."
    wall_s = float(trace["t"].max() - trace["t"].min())
    return f"Measured in {number(wall_s)} s, by a clock {number(scale)} times as fast."
