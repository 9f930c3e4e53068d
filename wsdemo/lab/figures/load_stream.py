"""Load balance: how many users did each gateway have over time, and how full was the fullest?

A band for each gateway, one above the other; under them the fullest gateway, divided by the mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    INK,
    NOTE_PT,
    VERMILLION,
    Picture,
    claim,
    freeze_layout,
    in_house_style,
    note,
    picture,
    roles_of,
    tell,
)
from wsdemo.drawing.words import listed, plain

ROOM: Final = 0.3
"""Beside the bands there is so much of their width for the names of the gateways."""
LINE_PX: Final = 21.0
"""Between two names below each other."""
LIMIT: Final = 1.15
"""The imbalance that lesson 11 allows."""
CAPTION: Final = (
    "Above: users of each gateway, counted by the balancer at every change. Below: the fullest "
    "gateway divided by the mean of all; 1 is a perfect balance."
)


class LoadSample(Protocol):
    """How many users each gateway had, from this moment on."""

    @property
    def t(self) -> float: ...

    @property
    def counts(self) -> dict[str, int]: ...

    @property
    def imbalance(self) -> float: ...


class Bands(NamedTuple):
    """What is drawn, as numbers: `users[gateway]` is as long as `t`."""

    t: list[float]
    users: dict[str, list[int]]
    imbalance: list[float]
    marks: list[tuple[float, str]]

    @property
    def last(self) -> dict[str, int]:
        """How many users each gateway has at the end."""
        return {name: users[-1] for name, users in self.users.items()}


@in_house_style
def load_stream(
    history: Sequence[LoadSample],
    marks: Sequence[tuple[float, str]] = (),
    *,
    since: float = 0.0,
    prediction: object = None,
    title: str = "{newest} has {share} of the users at the end; the fullest has {ratio} x the mean",
) -> Picture:
    """Draw how many users each gateway had over time, and the imbalance.

    Args:
        history: the changes, in the order of time (production seconds).
        marks: what was done, and when.
        since: draw from here on; this is 0 on the axis.
        prediction: which share the reader said that the newest gateway would have, as "25 %".
        title: a template; known facts: users, newest (the gateway with the highest number), newest_
            has (its users), share (of the newest), ratio (fullest / mean at the end), worst (the
            highest ratio since the first mark).

    Raises:
        ValueError: nothing happened in this time.
    """
    bands = _bands(history, marks, since)
    facts = _facts(bands)
    fig = picture(height_in=4.6)
    stream, ratio = fig.subplots(2, 1, sharex=True, height_ratios=[2.6, 1.0])
    claim(fig, title, facts)
    _draw_bands(stream, bands)
    _draw_ratio(ratio, bands)
    freeze_layout(fig)
    _name_bands(stream, bands, prediction)
    _label_marks(stream, ratio, bands)
    _label_ratio(ratio, bands)
    return tell(fig, caption=CAPTION, alt=_alt(bands, facts, prediction))


# --- compute -----------------------------------------------------------------------------------


def _bands(
    history: Sequence[LoadSample], marks: Sequence[tuple[float, str]], since: float
) -> Bands:
    if not history or history[-1].t <= since:
        raise ValueError("nothing happened in this time: choose an earlier since")
    before = [one for one in history if one.t <= since][-1:]
    moments = [*before, *(one for one in history if one.t > since)]
    names = sorted({name for one in moments for name in one.counts})
    return Bands(
        [max(0.0, one.t - since) for one in moments],
        {name: [one.counts.get(name, 0) for one in moments] for name in names},
        [one.imbalance for one in moments],
        [(t - since, plain(words, 32)) for t, words in marks if t >= since],
    )


def _facts(bands: Bands) -> dict[str, Any]:
    last, newest = bands.last, max(bands.last)
    total = sum(last.values())
    begin = bands.marks[0][0] if bands.marks else bands.t[0]
    since = [ratio for t, ratio in zip(bands.t, bands.imbalance, strict=True) if t >= begin]
    return {
        "users": total,
        "newest": newest,
        "newest_has": last[newest],
        "share": f"{last[newest] / total:.0%}".replace("%", " %") if total else "nothing",
        "ratio": f"{bands.imbalance[-1]:.2f}",
        "worst": f"{max(since):.2f}",
    }


# --- draw --------------------------------------------------------------------------------------


def _draw_bands(ax: Axes, bands: Bands) -> None:
    roles = roles_of(bands.users)
    floor = np.zeros(len(bands.t))
    for name, users in bands.users.items():
        role = roles[name]
        top = floor + np.array(users)
        ax.fill_between(
            bands.t,
            floor,
            top,
            step="post",
            facecolor=role.colour,
            hatch=role.hatch,
            edgecolor="white",
            lw=0,
        )
        ax.step(bands.t, top, where="post", color="white", lw=0.8)
        floor = top
    most = float(floor.max())
    ax.set_ylim(0, 1.3 * most if bands.marks else 1.05 * most)
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_ylabel("users")
    first, last = bands.t[0], bands.t[-1]
    ax.set_xlim(first, last + ROOM * (last - first))
    ax.tick_params(axis="x", length=0)


def _draw_ratio(ax: Axes, bands: Bands) -> None:
    first, last = bands.t[0], bands.t[-1]
    ax.step(bands.t, bands.imbalance, where="post", color=VERMILLION, lw=2)
    ax.plot([first, last], [LIMIT, LIMIT], color=INK, ls=(0, (4, 2)), lw=1.2)
    ax.set_ylim(0.85, max(1.6, 1.1 * max(bands.imbalance)))
    ax.set_ylabel("max / mean")
    ax.set_xlabel("production seconds", x=0.5 / (1 + ROOM))
    ticks = MaxNLocator(6, integer=True).tick_values(first, last)
    ax.set_xticks([t for t in ticks if first <= t <= last])


def _name_bands(ax: Axes, bands: Bands, prediction: object) -> None:
    """Write the names beside the bands, in their order, so that none covers another."""
    roles, last, floor = roles_of(bands.users), bands.last, 0
    x, _ = ax.transData.transform((bands.t[-1], 0))
    wanted = []
    for users in last.values():
        wanted.append(float(ax.transData.transform((0, floor + users / 2))[1]))
        floor += users
    for (name, users), y in zip(last.items(), _apart(wanted, ax.bbox.y0 + 8), strict=True):
        inverse = ax.transData.inverted()
        right, height = inverse.transform((x + 22, y))
        note(ax, right, height, f"{plain(name)}: {users}", va="center")
        ax.plot(*inverse.transform((x + 11, y)), "s", color=roles[name].colour, ms=8)
        if prediction is not None and name == max(last):
            _, above = inverse.transform((x + 22, y + LINE_PX))
            note(ax, right, above, f"(you said {plain(prediction, 8)})", va="center")


def _apart(wanted: Sequence[float], lowest: float) -> list[float]:
    """Return these heights, each raised until it is far enough from the one below."""
    out: list[float] = []
    for y in wanted:
        out.append(max(y, out[-1] + LINE_PX) if out else max(y, lowest))
    return out


def _label_marks(stream: Axes, ratio: Axes, bands: Bands) -> None:
    placer = Placer(stream)
    top = stream.bbox.y1
    for (t, words), row in zip(bands.marks, itertools.cycle((0, 1))):
        for ax in (stream, ratio):
            ax.axvline(t, color=INK, ls=":", lw=1.4)
        x, _ = stream.transData.transform((t, 0))
        heights = [top - 9 - 18 * row, top - 27 + 18 * row]
        spots = [Spot(x + 5, y) for y in heights] + [Spot(x - 5, y, "right") for y in heights]
        placer.put(words, spots, fontsize=NOTE_PT)


def _label_ratio(ax: Axes, bands: Bands) -> None:
    x, y = ax.transData.transform((bands.t[-1], bands.imbalance[-1]))
    _, limit = ax.transData.transform((0, LIMIT))
    placer = Placer(ax)
    placer.put(
        f"{bands.imbalance[-1]:.2f} at the end",
        [Spot(x + 8, y + dy) for dy in (0, 6, -6)],
        color=VERMILLION,
    )
    spots = [Spot(x + 8, limit + dy) for dy in (0, 12, 18, -12, -18, 24)]
    placer.put(f"allowed: {LIMIT}", spots)


# --- words -------------------------------------------------------------------------------------


def _alt(bands: Bands, facts: Mapping[str, Any], prediction: object) -> str:
    ends = listed([f"{name} {users}" for name, users in bands.last.items()], 20)
    done = "; ".join(f"at {t:.0f} s: {words}" for t, words in bands.marks)
    text = (
        f"Users of each gateway over {bands.t[-1] - bands.t[0]:.0f} production seconds. At the "
        f"end: {ends}. The fullest has {facts['ratio']} times the mean, {facts['worst']} at most."
    )
    if done:
        text += f" What was done: {done}."
    return text if prediction is None else f"{text} You said {plain(prediction)}."
