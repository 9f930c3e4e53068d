"""Balancing rules: how full is the fullest gateway after newcomers were spread by each rule?

A row for each rule, and a mark for each kind of news that the balancer had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from matplotlib.axes import Axes

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    INK,
    LANE,
    VERMILLION,
    Picture,
    Role,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import plain

ROLES: Final = (Role(BLUE, marker="o"), Role(VERMILLION, marker="D"))
SIZES: Final = (13, 8)
"""The second mark does not hide the first one."""
MOST_KINDS: Final = len(ROLES)
CAPTION: Final = (
    "The fullest gateway, divided by the mean of all, when the newcomers are in; 1 is a perfect "
    "balance. Counted on real connections."
)

Ratios = Mapping[str, float]
"""Rule -> fullest / mean."""


@in_house_style
def rules(
    results: Mapping[str, Ratios],
    *,
    limit: float = 1.15,
    title: str = "With {old}, {worst_rule} fills one gateway to {worst} x the mean",
) -> Picture:
    """Draw the imbalance that each rule leaves.

    Args:
        results: what the balancer knew -> rule -> fullest / mean; one or two kinds of knowledge.
        limit: the imbalance that is allowed.
        title: a template; known facts: old (the last kind), worst_rule and worst (of the last
            kind), best_rule and best (of the last kind), and `ratios[kind][rule]`.

    Raises:
        ValueError: there is nothing to draw, too much, or the rules are not the same.
    """
    kinds = list(results)
    if not 1 <= len(kinds) <= MOST_KINDS or not all(results.values()):
        raise ValueError(f"draw 1 to {MOST_KINDS} kinds of news, each with a rule")
    names = list(results[kinds[0]])
    if any(set(results[kind]) != set(names) for kind in kinds):
        raise ValueError("all kinds of news need the same rules")
    facts = _facts(results)
    fig = picture(height_in=1.5 + 0.58 * len(names))
    ax = fig.subplots()
    claim(fig, title, facts)
    _draw(ax, results, names, limit)
    fig.legend(loc="outside lower left", ncols=len(kinds))
    freeze_layout(fig)
    _label(ax, results, names, limit)
    return tell(fig, caption=CAPTION, alt=_alt(results))


def _facts(results: Mapping[str, Ratios]) -> dict[str, Any]:
    old = list(results)[-1]
    last = results[old]
    worst, best = max(last, key=lambda name: last[name]), min(last, key=lambda name: last[name])
    return {
        "old": old,
        "worst_rule": worst,
        "worst": f"{last[worst]:.1f}",
        "best_rule": best,
        "best": f"{last[best]:.1f}",
        "ratios": {
            kind: {name: f"{ratio:.1f}" for name, ratio in ratios.items()}
            for kind, ratios in results.items()
        },
    }


def _draw(ax: Axes, results: Mapping[str, Ratios], names: list[str], limit: float) -> None:
    for y, name in enumerate(names):
        ends = [ratios[name] for ratios in results.values()]
        ax.plot([min(1.0, *ends), max(ends)], [y, y], color=LANE, lw=1.2, zorder=1)
    for (kind, ratios), role, size in zip(results.items(), ROLES, SIZES, strict=False):
        ax.plot(
            [ratios[name] for name in names],
            range(len(names)),
            role.marker,
            color=role.colour,
            mec="white",
            ms=size,
            label=plain(kind, 40),
        )
    ax.axvline(limit, color=INK, ls=(0, (4, 2)), lw=1.2)
    ax.set_yticks(range(len(names)), [plain(name) for name in names])
    ax.set_ylim(len(names) - 0.5, -1.0)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    most = max(max(ratios.values()) for ratios in results.values())
    ax.set_xlim(0.9, max(1.7, 1.08 * most))
    ax.set_xlabel("fullest gateway / mean")


def _label(ax: Axes, results: Mapping[str, Ratios], names: list[str], limit: float) -> None:
    placer = Placer(ax)
    x, _ = ax.transData.transform((limit, 0))
    placer.put(f"allowed: {limit:g}", [Spot(x + 5, ax.bbox.y1 - 2, "left", "top")])
    for y, name in enumerate(names):
        for kind, role in zip(results, ROLES, strict=False):
            ratio = results[kind][name]
            x, height = ax.transData.transform((ratio, y))
            spots = [Spot(x, height - 20, "center"), Spot(x, height + 20, "center")]
            spots += [Spot(x + 10, height), Spot(x - 10, height, "right")]
            placer.put(f"{ratio:.2f}", spots, color=role.colour, fontweight="bold")


def _alt(results: Mapping[str, Ratios]) -> str:
    parts = [
        f"{kind}: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        for kind, ratios in results.items()
    ]
    return f"The fullest gateway divided by the mean, for each rule. {'. '.join(parts)}."
