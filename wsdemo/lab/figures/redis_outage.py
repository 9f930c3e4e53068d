"""Redis outage: what were the senders of messages told, and how many users did Redis know,
while something was done to Redis?

A strip for each kind of message: one stroke a message, at the time when it was sent. Below, on the
same axis, the users that are connected and those that Redis knows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    FONT_PT,
    GREY,
    INK,
    ORANGE,
    SKY,
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

TITLE: Final = "Of the messages, {arrived_of} arrive"
OUTCOMES: Final = {
    "routed": Role(SKY),
    "busy": Role(ORANGE, hatch="//"),
    "unknown": Role(VERMILLION, hatch="xx"),
    "offline": Role(GREY, hatch=".."),
}
"""What a sender is told. Anything else is drawn as `OTHER`."""
OTHER: Final = "unknown"
MOST_STRIPS: Final = 4
STRIP_IN: Final = 0.34
CAPTION: Final = (
    "Upper part: one stroke for each message, at the time when it was sent; its colour is what the "
    "sender was told. Lower part: where there is no dashed line, Redis did not answer."
)


class SenderTold(Protocol):
    """What the sender of one message was told."""

    @property
    def kind(self) -> str: ...
    @property
    def t(self) -> float: ...
    @property
    def status(self) -> str: ...


class UsersKnown(Protocol):
    """How many users Redis knew at a moment; None: it did not answer."""

    @property
    def t(self) -> float: ...
    @property
    def users(self) -> int | None: ...


class DoneToRedis(Protocol):
    """What was done to Redis, and when."""

    @property
    def t(self) -> float: ...
    @property
    def words(self) -> str: ...


class SeenTraffic(Protocol):
    """What was seen during an outage (production seconds)."""

    @property
    def kinds(self) -> Mapping[str, Any]: ...
    @property
    def told(self) -> Sequence[SenderTold]: ...
    @property
    def known(self) -> Sequence[UsersKnown]: ...
    @property
    def moments(self) -> Sequence[DoneToRedis]: ...
    @property
    def users(self) -> int: ...
    @property
    def lasted_s(self) -> float: ...


@in_house_style
def redis_outage(seen: SeenTraffic, *, title: str = TITLE) -> Picture:
    """Draw what became of messages, and what Redis knew.

    Args:
        seen: the messages, the looks at Redis, and what was done to it.
        title: a template; known facts: sent, arrived and failed (by kind of message, as
            `{failed[across gateways]}`), arrived_of (in words), users, rebuilt_s (from the last
            thing that was done until Redis knew all users).

    Raises:
        ValueError: no message was sent, or there are too many kinds.
    """
    if not seen.told or not 0 < len(seen.kinds) <= MOST_STRIPS:
        raise ValueError(f"draw 1 to {MOST_STRIPS} kinds of messages, of which some were sent")
    facts = _facts(seen)
    strips = len(seen.kinds)
    fig = picture(height_in=2.6 + STRIP_IN * strips)
    above, below = fig.subplots(2, 1, sharex=True, height_ratios=[STRIP_IN * strips, 1.1])
    claim(fig, title, facts)
    _draw_strips(above, seen)
    _draw_known(below, seen)
    _draw_legend(fig, seen)
    freeze_layout(fig)
    for ax in (above, below):
        for moment in seen.moments:
            ax.axvline(moment.t, color=INK, ls=":", lw=1.4)
    _label(below, seen)
    return tell(fig, caption=CAPTION, alt=_alt(seen, facts))


# --- compute -----------------------------------------------------------------------------------


def _outcome(told: SenderTold) -> str:
    return told.status if told.status in OUTCOMES else OTHER


def _facts(seen: SeenTraffic) -> dict[str, Any]:
    sent = Counter(one.kind for one in seen.told)
    arrived = Counter(one.kind for one in seen.told if one.status == "routed")
    kinds = list(seen.kinds)
    return {
        "sent": {kind: sent[kind] for kind in kinds},
        "arrived": {kind: arrived[kind] for kind in kinds},
        "failed": {kind: sent[kind] - arrived[kind] for kind in kinds},
        "arrived_of": ", ".join(f"{arrived[k]} of {sent[k]} ({k})" for k in kinds),
        "users": seen.users,
        "rebuilt_s": "more than all" if math.isinf(took := rebuilt_s(seen)) else round(took),
    }


def rebuilt_s(seen: SeenTraffic) -> float:
    """Return how long it took, after the last thing that was done to Redis, until Redis knew all
    users; infinite when it never did.
    """
    began = max((moment.t for moment in seen.moments), default=0.0)
    after = [one for one in seen.known if one.t >= began]
    wrong = [n for n, one in enumerate(after) if one.users != seen.users]
    if not wrong:
        return 0.0
    if wrong[-1] + 1 >= len(after):
        return math.inf
    return after[wrong[-1] + 1].t - began


# --- draw --------------------------------------------------------------------------------------


def _draw_strips(ax: Axes, seen: SeenTraffic) -> None:
    kinds = list(seen.kinds)
    width = _stroke_s(seen)
    for outcome, role in OUTCOMES.items():
        boxes = [
            _box(one.t, one.t + width, kinds.index(one.kind))
            for one in seen.told
            if _outcome(one) == outcome
        ]
        if boxes:
            ax.add_collection(
                PolyCollection(
                    boxes, facecolor=role.colour, hatch=role.hatch, edgecolor="white", lw=0
                ),
                autolim=False,
            )
    ax.set_ylim(len(kinds) - 0.5, -0.5)
    ax.set_yticks(range(len(kinds)), [plain(kind) for kind in kinds], fontsize=FONT_PT)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _stroke_s(seen: SeenTraffic) -> float:
    """Return how wide a stroke is: as far apart as messages of a kind usually are."""
    most = max(Counter(one.kind for one in seen.told).values())
    return max(one.t for one in seen.told) / most


def _box(x0: float, x1: float, y: int) -> list[tuple[float, float]]:
    return [(x0, y - 0.38), (x1, y - 0.38), (x1, y + 0.38), (x0, y + 0.38)]


def _draw_known(ax: Axes, seen: SeenTraffic) -> None:
    t = [one.t for one in seen.known]
    users = [math.nan if one.users is None else one.users for one in seen.known]
    ax.step([0, seen.lasted_s], [seen.users] * 2, color=INK, lw=2, label="connected")
    ax.step(t, users, where="post", color=BLUE, lw=2.4, ls=(0, (4, 1.5)), label="known to Redis")
    ax.set_xlim(0, seen.lasted_s)
    ax.set_ylim(0, 1.75 * seen.users)
    ax.set_yticks([0, seen.users // 2, seen.users])
    ax.set_ylabel("users")
    ax.set_xlabel("production seconds")


def _draw_legend(fig: Picture, seen: SeenTraffic) -> None:
    there = {_outcome(one) for one in seen.told}
    keys: list[Any] = [
        Patch(facecolor=role.colour, hatch=role.hatch, edgecolor="white", label=name)
        for name, role in OUTCOMES.items()
        if name in there
    ]
    lines, _ = fig.axes[1].get_legend_handles_labels()
    fig.legend(handles=[*keys, *lines], loc="outside lower left", ncols=6, columnspacing=1.2)


def _label(ax: Axes, seen: SeenTraffic) -> None:
    placer = Placer(ax)
    box = ax.bbox
    for moment in seen.moments:
        x, _ = ax.transData.transform((moment.t, 0))
        high, low = box.y1 - 1, box.y1 - 0.22 * box.height
        spots = [
            Spot(x + side * 5, y, align, "top")
            for y in (high, low)
            for side, align in ((1, "left"), (-1, "right"))
        ]
        placer.put([plain(moment.words, 28), plain(moment.words, 16)], spots)


# --- words -------------------------------------------------------------------------------------


def _alt(seen: SeenTraffic, facts: Mapping[str, Any]) -> str:
    kinds = ". ".join(
        f"Messages {plain(kind)}: {facts['arrived'][kind]} of {facts['sent'][kind]} were routed"
        for kind in seen.kinds
    )
    done = "; ".join(f"at {moment.t:.0f} s: {plain(moment.words, 40)}" for moment in seen.moments)
    fewest = min((one.users for one in seen.known if one.users is not None), default=0)
    return (
        f"What senders of messages were told over time, and how many users Redis knew. {kinds}. "
        f"What was done to Redis: {done or 'nothing'}. {counted(seen.users, 'user')} connected; "
        f"Redis knew {fewest} of them at the fewest."
    )
