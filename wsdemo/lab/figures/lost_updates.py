"""Lost updates: how many additions to a shared counter are lost when reading and writing are two
commands?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    GREEN,
    GREY,
    NOTE_PT,
    VERMILLION,
    Picture,
    Role,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import counted, plain

ROLES: Final = (
    Role(VERMILLION, marker="X", dash="-"),
    Role(BLUE, marker="o", dash=(0, (5, 2))),
    Role(GREEN, marker="s", dash=(0, (1, 1.2))),
)
CAPTION: Final = (
    "Two clients add 1 to the same counter at the same time. Line: what the counter said after "
    "each addition, the smallest first; dotted: what it would say if none were lost. Measured in "
    "real time."
)


@in_house_style
def lost_updates(
    counted_by: Mapping[str, Sequence[int]],
    *,
    title: str = "{worst} loses {lost} of {additions} additions",
) -> Picture:
    """Draw what a counter said while two clients added to it.

    Args:
        counted_by: name of the way of adding -> what the counter said after each addition, and at
            the end; at most three.
        title: a template; known facts: additions, worst (which way), lost (by it).

    Raises:
        ValueError: there is nothing to draw, or too much.
    """
    if not 0 < len(counted_by) <= len(ROLES) or not all(len(v) > 1 for v in counted_by.values()):
        raise ValueError(f"draw 1 to {len(ROLES)} ways of adding, each with an addition")
    facts = _facts(counted_by)
    fig = picture(height_in=3.9)
    ax = fig.add_subplot()
    claim(fig, title, facts)
    most = max(len(values) - 1 for values in counted_by.values())
    ax.plot([0, most], [0, most], color=GREY, ls=":", lw=1.6)
    for (name, values), role in zip(counted_by.items(), ROLES, strict=False):
        steps = range(1, len(values))
        # Two clients note their answers in another order than Redis gave them.
        said = sorted(values[:-1])
        ax.plot(steps, said, color=role.colour, ls=role.dash, lw=2, label=plain(name))
        ax.plot(len(values) - 1, values[-1], role.marker, color=role.colour, ms=9, clip_on=False)
    ax.set_xlabel("additions made by both clients")
    ax.set_ylabel("the counter says")
    ax.set_xlim(0, 1.02 * most)
    ax.set_ylim(0, 1.08 * most)
    fig.legend(loc="outside lower left", ncols=len(ROLES))
    freeze_layout(fig)
    _label(ax, counted_by)
    return tell(fig, caption=CAPTION, alt=_alt(counted_by))


def _lost(values: Sequence[int]) -> int:
    return len(values) - 1 - values[-1]


def _facts(counted_by: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    worst = max(counted_by, key=lambda name: _lost(counted_by[name]))
    values = counted_by[worst]
    return {"additions": f"{len(values) - 1:,}", "worst": plain(worst), "lost": _lost(values)}


def _label(ax: Axes, counted_by: Mapping[str, Sequence[int]]) -> None:
    placer = Placer(ax)
    for values, role in zip(counted_by.values(), ROLES, strict=False):
        x, y = ax.transData.transform((len(values) - 1, values[-1]))
        spots = [Spot(x - 12, y + dy, "right") for dy in (0, 16, -16, -32)]
        style: dict[str, Any] = {"color": role.colour, "fontweight": "bold", "fontsize": NOTE_PT}
        placer.put(f"{values[-1]:,}", spots, **style)


def _alt(counted_by: Mapping[str, Sequence[int]]) -> str:
    parts = [
        f"{plain(name)}: {counted(len(values) - 1, 'addition')}, the counter says {values[-1]:,}, "
        f"{_lost(values)} lost"
        for name, values in counted_by.items()
    ]
    return f"What a shared counter said after each addition. {'; '.join(parts)}."
