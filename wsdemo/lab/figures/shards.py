"""Buckets: how many of them has each server of a cluster, before and after something was done?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    GREY,
    ORANGE,
    SKY,
    Picture,
    Role,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import plain

ROLES: Final = (Role(GREY, ".."), Role(SKY, "//"), Role(BLUE), Role(ORANGE, "xx"))
MOST_STAGES: Final = len(ROLES)
CAPTION: Final = (
    "A bucket is a part of the users: the keys and the channels of its users are on one server. "
    "What each server itself says that it has."
)


@in_house_style
def shards(
    stages: Mapping[str, Sequence[int]],
    *,
    title: str = "The new server gets nothing by itself; at the end it has {newest_has} buckets",
) -> Picture:
    """Draw the buckets of each server, as a group of bars a server.

    Args:
        stages: what was done -> the buckets of server 0, 1, ...; at most four stages.
        title: a template; known facts: newest_has (buckets of the last server at the end),
            buckets (in all), fullest (the largest number at the end).

    Raises:
        ValueError: there is nothing to draw, or too much.
    """
    if not 1 <= len(stages) <= MOST_STAGES or not all(stages.values()):
        raise ValueError(f"draw 1 to {MOST_STAGES} stages, each with a server")
    servers = max(map(len, stages.values()))
    last = list(stages.values())[-1]
    facts: dict[str, Any] = {
        "newest_has": last[servers - 1] if len(last) == servers else 0,
        "buckets": sum(last),
        "fullest": max(last),
    }
    fig = picture(height_in=3.4)
    ax = fig.subplots()
    claim(fig, title, facts)
    _draw(ax, stages, servers)
    fig.legend(loc="outside lower left", ncols=len(stages))
    freeze_layout(fig)
    _label(ax, stages)
    return tell(fig, caption=CAPTION, alt=_alt(stages))


def _places(stages: Mapping[str, Sequence[int]]) -> tuple[float, list[float]]:
    """Return how wide a bar is, and where those of each stage are beside the server's place."""
    width = 0.8 / len(stages)
    return width, [(n - (len(stages) - 1) / 2) * width for n in range(len(stages))]


def _draw(ax: Axes, stages: Mapping[str, Sequence[int]], servers: int) -> None:
    width, places = _places(stages)
    for (name, counts), role, place in zip(stages.items(), ROLES, places, strict=False):
        ax.bar(
            [n + place for n in range(len(counts))],
            list(counts),
            0.92 * width,
            color=role.colour,
            hatch=role.hatch,
            edgecolor="white",
            lw=0,
            label=plain(name, 32),
        )
    ax.set_xticks(range(servers), [f"server {n}" for n in range(servers)])
    ax.set_ylim(0, 1.2 * max(max(counts) for counts in stages.values()))
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel("buckets")


def _label(ax: Axes, stages: Mapping[str, Sequence[int]]) -> None:
    placer = Placer(ax)
    _, places = _places(stages)
    for counts, place in zip(stages.values(), places, strict=True):
        for n, count in enumerate(counts):
            x, y = ax.transData.transform((n + place, count))
            placer.put(str(count), [Spot(x, y + 3, "center", "bottom")])


def _alt(stages: Mapping[str, Sequence[int]]) -> str:
    parts = [f"{plain(name, 32)}: {', '.join(map(str, counts))}" for name, counts in stages.items()]
    return f"Buckets of each server of the cluster. {'; '.join(parts)}."
