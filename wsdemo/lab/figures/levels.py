"""Fault tolerance by level: how far does each gateway come before a fault stops it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from wsdemo.drawing.style import (
    GREEN,
    INK,
    LANE,
    NOTE_PT,
    ON_COLOUR,
    VERMILLION,
    Picture,
    claim,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import plain

CAPTION: Final = (
    "Each level has faults of its own, on three running gateways. A gateway stops at the first "
    "level that it does not pass; what comes after that was not tried."
)


@in_house_style
def levels(
    passed: Mapping[str, int],
    names: Sequence[str],
    *,
    title: str = "{best} passes {most} of {all} levels",
) -> Picture:
    """Draw one row for each gateway, with a cell for each level.

    Args:
        passed: the name of a gateway -> how many levels it passed.
        names: those of the levels.
        title: a template; known facts: best, most, worst, least, all.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not passed or not names:
        raise ValueError("draw at least one gateway and one level")
    fig = picture(height_in=1.5 + 0.5 * len(passed))
    ax = fig.add_subplot()
    claim(fig, title, _facts(passed, names))
    for y, count in enumerate(passed.values()):
        for x in range(len(names)):
            _cell(ax, x, y, count)
    ax.set_xlim(-0.02, len(names))
    ax.set_ylim(len(passed) - 0.5, -0.5)
    ax.set_yticks(range(len(passed)), [plain(name) for name in passed])
    ax.set_xticks([x + 0.5 for x in range(len(names))], [_label(n, s) for n, s in enumerate(names)])
    ax.tick_params(length=0, labelsize=NOTE_PT)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return tell(fig, caption=CAPTION, alt=_alt(passed, names))


def _facts(passed: Mapping[str, int], names: Sequence[str]) -> dict[str, Any]:
    best, worst = max(passed, key=passed.__getitem__), min(passed, key=passed.__getitem__)
    most, least = passed[best], passed[worst]
    return {"best": best, "most": most, "worst": worst, "least": least, "all": len(names)}


def _cell(ax: Any, x: int, y: int, count: int) -> None:
    """Draw one level of one gateway: passed, stopped here, or not tried."""
    place: dict[str, Any] = {"height": 0.6, "left": x + 0.02, "align": "center"}
    middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": NOTE_PT}
    if x < count:
        ax.barh(y, 0.96, color=GREEN, **place)
        ax.text(x + 0.5, y, "passed", **middle, **ON_COLOUR)
    elif x == count:
        ax.barh(y, 0.96, color="none", edgecolor=VERMILLION, hatch="//", lw=1.5, **place)
        words = {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 2}}
        ax.text(x + 0.5, y, "stopped", color=INK, **middle, **words)
    else:
        ax.barh(y, 0.96, color="none", edgecolor=LANE, lw=1, **place)


def _label(number: int, name: str) -> str:
    """Break the name of a level into lines: "3 survives / a late / clean-up"."""
    lines = [str(number + 1)]
    for word in name.split():
        if len(lines[-1]) + len(word) < 13 and len(lines) > 1:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def _alt(passed: Mapping[str, int], names: Sequence[str]) -> str:
    told = [
        f"{plain(name)} passes all {len(names)} levels"
        if count == len(names)
        else f"{plain(name)} passes {count} and is stopped by level {count + 1}, {names[count]}"
        for name, count in passed.items()
    ]
    return f"One row for each gateway, one cell for each of {len(names)} levels: {'; '.join(told)}."
