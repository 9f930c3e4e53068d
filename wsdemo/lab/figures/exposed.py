"""Fault injection: which schedule of faults exposes which mistake, and by which invariant?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from wsdemo.drawing.style import (
    INK,
    LANE,
    NOTE_PT,
    VERMILLION,
    Picture,
    claim,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import counted, plain

CAPTION: Final = (
    "Each schedule was played on three running gateways of each kind, with a real Redis. A "
    "hatched field names the invariant that was seen violated."
)
SOUND: Final = "sound"


@in_house_style
def exposed(
    found: Mapping[str, Mapping[str, str]],
    *,
    prediction: object = None,
    title: str = "{best}: {most} of {all} mistakes exposed",
) -> Picture:
    """Draw a row for each schedule and a column for each gateway.

    Args:
        found: schedule -> gateway -> the invariant that was violated, "" when none was.
        prediction: what the reader said that the first schedule would expose.
        title: a template; known facts: best, most, first, count (of the first), all.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not found or not all(found.values()):
        raise ValueError("draw at least one schedule and one gateway")
    gateways = list(next(iter(found.values())))
    fig = picture(height_in=1.5 + 0.72 * len(found))
    ax = fig.add_subplot()
    claim(fig, title, _facts(found))
    for y, row in enumerate(found.values()):
        for x, gateway in enumerate(gateways):
            _cell(ax, x, y, row.get(gateway, ""))
    ax.set_xlim(-0.02, len(gateways))
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_yticks(range(len(found)), [_broken(plain(name), 15) for name in found])
    ax.set_xticks([x + 0.5 for x in range(len(gateways))], [_column(name) for name in gateways])
    ax.tick_params(length=0, labelsize=NOTE_PT)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if prediction is not None:
        said = f"You said {prediction} for the first row; it was {_facts(found)['count']}."
        ax.set_xlabel(said)
    return tell(fig, caption=CAPTION, alt=_alt(found, prediction))


def _count(row: Mapping[str, str]) -> int:
    return sum(bool(invariant) for name, invariant in row.items() if name != SOUND)


def _facts(found: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    counts = {name: _count(row) for name, row in found.items()}
    best, first = max(counts, key=counts.__getitem__), next(iter(counts))
    names = {gateway for row in found.values() for gateway in row if gateway != SOUND}
    facts = {"best": best, "most": counts[best], "first": first, "count": counts[first]}
    return facts | {"all": len(names)}


def _cell(ax: Any, x: int, y: int, invariant: str) -> None:
    place: dict[str, Any] = {"height": 0.8, "left": x + 0.02, "align": "center"}
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": NOTE_PT - 1, "color": INK}
    if not invariant:
        ax.barh(y, 0.96, color="none", edgecolor=LANE, lw=1, **place)
        ax.text(x + 0.5, y, "nothing\nseen", linespacing=0.95, **style)
        return
    ax.barh(y, 0.96, color="none", edgecolor=VERMILLION, hatch="//", lw=1.5, **place)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    ax.text(x + 0.5, y, _broken(invariant, 11), linespacing=0.95, bbox=box, **style)


def _column(name: str) -> str:
    return name if name == SOUND else f"gateway {plain(name)}"


def _broken(text: str, width: int) -> str:
    """Break a text into lines of about this width."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _alt(found: Mapping[str, Mapping[str, str]], prediction: object) -> str:
    rows = []
    for name, row in found.items():
        seen = [f"{_column(gateway)} ({what})" for gateway, what in row.items() if what]
        rows.append(f"{plain(name)} exposes {', '.join(seen) or 'nothing'}")
    columns = counted(len(next(iter(found.values()))), "gateway")
    said = f" You said {prediction} for the first one." if prediction is not None else ""
    return f"Schedules in rows, {columns} in columns: {'; '.join(rows)}.{said}"
