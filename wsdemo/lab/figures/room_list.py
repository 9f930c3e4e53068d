"""Room membership: who is listed in a room, beside who is really there, over time?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from matplotlib.axes import Axes

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    INK,
    ORANGE,
    VERMILLION,
    Picture,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import counted, plain

MOST_PANELS: Final = 3
CAPTION: Final = (
    "Solid: users whose socket is connected. Dashed: users in the list of the room. Between the "
    "two lie ghosts (hatched): they are listed, and not there. Sampled each production second."
)


class Occupancy(Protocol):
    """The room at a moment."""

    @property
    def t(self) -> float: ...

    @property
    def there(self) -> frozenset[str]: ...

    @property
    def listed(self) -> frozenset[str]: ...


class Curve(NamedTuple):
    """One run, as numbers."""

    name: str
    t: list[float]
    there: list[int]
    listed: list[int]
    ghosts: list[int]
    missing: list[int]

    @property
    def wrong_s(self) -> float:
        """For how long the list was wrong, from the first wrong sample to the last one."""
        wrong = [t for t, g, m in zip(self.t, self.ghosts, self.missing, strict=True) if g or m]
        return self._step + wrong[-1] - wrong[0] if wrong else 0.0

    @property
    def _step(self) -> float:
        return self.t[1] - self.t[0] if len(self.t) > 1 else 0.0

    @property
    def heals(self) -> bool:
        """Whether the list is right at the end."""
        return not self.ghosts[-1] and not self.missing[-1]

    @property
    def verdict(self) -> str:
        if not self.wrong_s:
            return "right all the time"
        if self.heals:
            return f"right again after {self.wrong_s:.0f} s"
        parts = [
            f"{count} {what}"
            for count, what in (
                (self.ghosts[-1], "ghost" if self.ghosts[-1] == 1 else "ghosts"),
                (self.missing[-1], "missing"),
            )
            if count
        ]
        return f"at the end {' and '.join(parts)}"


@in_house_style
def room_list(
    runs: Mapping[str, Sequence[Occupancy]],
    *,
    fault: tuple[float, str] | None = None,
    prediction: object = None,
    title: str = "{worst}: {ghosts} ghosts at the end; {best}: right after {heals_s} s",
) -> Picture:
    """Draw how many users are in a room, and how many are listed.

    Args:
        runs: name -> its samples; at most three.
        fault: when something happened (production seconds), and what.
        prediction: how many ghosts the reader said that the first run would have at the end.
        title: a template; known facts: worst, ghosts (at its end), best, heals_s (of it).

    Raises:
        ValueError: there is nothing to draw, or too much.
    """
    if not 0 < len(runs) <= MOST_PANELS or not all(runs.values()):
        raise ValueError(f"draw 1 to {MOST_PANELS} runs, each with a sample")
    curves = [_curve(name, samples) for name, samples in runs.items()]
    fig = picture(height_in=1.5 + 1.1 * len(curves))
    axes = fig.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    claim(fig, title, _facts(curves))
    for ax, curve in zip(axes, curves, strict=True):
        _draw(ax, curve)
    axes[-1].set_xlabel("production seconds")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower left", ncols=3)
    freeze_layout(fig)
    for number, (ax, curve) in enumerate(zip(axes, curves, strict=True)):
        _label(ax, curve, fault, prediction if number == 0 else None)
    return tell(fig, caption=CAPTION, alt=_alt(curves, fault, prediction))


# --- compute -----------------------------------------------------------------------------------


def _curve(name: str, samples: Sequence[Occupancy]) -> Curve:
    return Curve(
        plain(name),
        [one.t for one in samples],
        [len(one.there) for one in samples],
        [len(one.listed) for one in samples],
        [len(one.listed - one.there) for one in samples],
        [len(one.there - one.listed) for one in samples],
    )


def _facts(curves: Sequence[Curve]) -> dict[str, Any]:
    worst = max(curves, key=lambda one: one.ghosts[-1])
    best = min(curves, key=lambda one: (not one.heals, one.wrong_s))
    return {
        "worst": worst.name,
        "ghosts": worst.ghosts[-1],
        "best": best.name,
        "heals_s": round(best.wrong_s),
    }


# --- draw --------------------------------------------------------------------------------------


def _draw(ax: Axes, curve: Curve) -> None:
    t, there, listed = (np.array(values) for values in (curve.t, curve.there, curve.listed))
    style: dict[str, Any] = {"step": "post", "lw": 0, "alpha": 0.35}
    ax.fill_between(t, there, listed, where=listed >= there, color=VERMILLION, hatch="//", **style)
    ax.fill_between(t, there, listed, where=listed < there, color=ORANGE, hatch="..", **style)
    ax.step(t, there, where="post", color=INK, lw=2, label="there")
    ax.step(t, listed, where="post", color=BLUE, lw=2, ls=(0, (4, 1.5)), label="listed")
    top = max(max(curve.there), max(curve.listed))
    ax.set_ylabel("users")
    ax.set_ylim(0, 1.5 * top)
    ax.set_yticks([0, top // 2, top])
    ax.set_xlim(t.min(), t.max())


def _label(ax: Axes, curve: Curve, fault: tuple[float, str] | None, prediction: object) -> None:
    placer = Placer(ax)
    box = ax.bbox
    words = f"{curve.name}: {curve.verdict}"
    if prediction is not None:
        words += f" (you said {plain(prediction, 12)})"
    bad = not curve.heals
    placer.put(
        words,
        [Spot(box.x1 - 4, box.y1 - 2, "right", "top")],
        color=VERMILLION if bad else INK,
        fontweight="bold",
    )
    if fault is not None:
        ax.axvline(fault[0], color=INK, ls=":", lw=1.4)
        x, _ = ax.transData.transform((fault[0], 0))
        low = box.y0 + 0.12 * box.height
        placer.put(plain(fault[1]), [Spot(x + 5, low), Spot(x - 5, low, "right")])


# --- words -------------------------------------------------------------------------------------


def _alt(curves: Sequence[Curve], fault: tuple[float, str] | None, prediction: object) -> str:
    parts = [
        f"{one.name}: {counted(one.there[-1], 'user')} there at the end, {one.listed[-1]} listed; "
        f"{one.verdict}"
        for one in curves
    ]
    text = f"Users in a room and users in its list over time. {'. '.join(parts)}."
    if fault is not None:
        text += f" At {fault[0]:.0f} s: {plain(fault[1])}."
    return text if prediction is None else f"{text} You said {plain(prediction)}."
