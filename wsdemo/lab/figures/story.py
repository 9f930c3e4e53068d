"""Lost update: which write changed the entry of a user, and could she be reached after it?

A space-time diagram of one user: what her clients and gateways did, in order. Under it stand two
strips: where her socket is, and what her entry in Redis says after each write. A release that
removed the entry of another session has the colour of an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    FONT_PT,
    GREEN,
    INK,
    LANE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTH_IN,
    Picture,
    Role,
    claim,
    freeze_layout,
    in_house_style,
    note,
    picture,
    roles_of,
    tell,
)
from wsdemo.drawing.words import counted, lane_name, listed, plain
from wsdemo.lab.trace import frames
from wsdemo.lab.trace.frames import Stay

MOST_STEPS: Final = 16
LANE_IN: Final = 0.61
"""Height of a lane."""
PAUSE: Final = 2.2
"""Steps between what a client asks for and her leaving, for the words in the strips."""
ROOM: Final = (1.2, 2.8)
"""Steps before and after the arrow that the figure is about."""
CAPTION: Final = (
    "Measured on running gateways; one step an event, not to scale. Light: WebSocket; dark: Redis "
    "command; dashed: Pub/Sub. Refreshes and the answers to register are not drawn."
)

SOCKET: Final = Role(SKY, dash="-")
COMMAND: Final = Role(BLUE, dash="-")
PUBLISHED: Final = Role(PURPLE, dash=(0, (4, 2)))
REFUSED: Final = Role(VERMILLION, dash="-")
KILLS: Final = Role(VERMILLION, dash="-")
KEPT: Final = Role(GREEN, dash="-")

WORDS: Final = {
    frames.ASKS: "register",
    frames.LEAVES: "leave",
    frames.HEARS: "answer",
    "message": "send",
    "route": "look up",
    "publish": "publish",
    "deliver": "deliver",
    "presence_set": "register",
    "presence_del": "release",
}
NOT_DRAWN: Final = frozenset({"presence_refresh", "welcome"})


class StoryStep(NamedTuple):
    """One arrow: what it is, and where it begins and ends on the axis of steps."""

    row: Any
    begin: float
    end: float
    words: str
    role: Role
    matters: bool
    """It is what the figure is about: drawn thicker, labelled first."""


class Spell(NamedTuple):
    """A piece of one of the strips: a gateway (empty: none), from one place to another."""

    begin: float
    end: float
    gateway: str
    alarm: bool = False


@in_house_style
def story(
    trace: pd.DataFrame,
    user: str,
    *,
    title: str = "The entry of {user} in {hops} steps: {writes} writes",
    steps: int = 0,
) -> Picture:
    """Draw what happened to a user, and her entry after each write.

    Args:
        user: whose story it is.
        title: a template; known facts: user, hops, writes, and of the last release of an old
            connection that met a newer one: late (its gateway) and owner (whose entry it met).
        steps: leave room for so many, so that two stories have the same layout.

    Raises:
        ValueError: there is nothing to draw, or too much to be read.
    """
    trace = frames.normal(trace)
    told = _steps(trace, user)
    lanes = _lanes(told, user)
    facts = _facts(trace, told, user)
    spells = _socket(trace, told, user), _entry(trace, told, user)
    after = ROOM[1] if told[-1].matters else 0.0  # Its words stand behind it.
    room = told[-1].end + 0.6 + max(after, steps - len(told))
    fig = _draw(told, lanes, spells, user, facts, title, room)
    return tell(fig, caption=CAPTION, alt=_alt(told, lanes, spells, user))


# --- compute -----------------------------------------------------------------------------------


def _steps(trace: pd.DataFrame, user: str) -> list[StoryStep]:
    """Return the arrows of her story in the order of time: hers, and those of messages to her."""
    known = frames.arrows(trace)
    both = pd.concat([known, frames.requests(trace)], ignore_index=True)
    messages = set(both[(both["user"] == user) & (both["msg_id"] != "")]["msg_id"])
    about = (both["user"] == user) & (both["msg_id"] == "") | both["msg_id"].isin(messages)
    both = both[about & ~both["kind"].isin(NOT_DRAWN)]
    if both.empty:
        raise ValueError(f"nothing in this trace is about {plain(user)}")
    if len(both) > MOST_STEPS:
        raise ValueError(
            f"{len(both)} arrows are too many to read, at most {MOST_STEPS}: draw the story of a "
            "user to whom less has happened"
        )
    # What a gateway asks of Redis comes after what its client asked of it.
    both = both.sort_values(["t", "t_recv"], kind="stable")
    effects = _effects(trace)
    at, steps = 0.0, []
    for row in both.itertuples():
        write = row.kind.startswith("presence_")
        effect = effects.get((row.conn_id, float(row.t_recv)), "") if write else ""
        step = _step(row, effect)
        before, after = ROOM if step.matters else (PAUSE if row.kind == frames.LEAVES else 0.0, 0.0)
        at += before
        steps.append(step._replace(begin=at + 0.1, end=at + 0.8))
        at += 1 + after
    return steps


def _effects(trace: pd.DataFrame) -> dict[tuple[str, float], str]:
    """Return what each write meant for its user, by connection and time."""
    book = frames.verdicts(trace)
    return {(row.conn_id, float(row.t)): row.effect for row in book.itertuples()}


def _step(row: Any, effect: str) -> StoryStep:
    word = WORDS.get(row.kind, row.kind)
    role = COMMAND if frames.REDIS in (row.lane, row.peer) else SOCKET
    if row.kind == "publish":
        role = PUBLISHED
    elif row.kind == "route":
        word = f"look up → {row.reason}" if not row.ok else "look up + publish"
        role = COMMAND if row.ok else REFUSED
    elif row.kind == frames.HEARS:
        word, role = f"“{row.reason}”", REFUSED
    elif effect == "lost":
        word, role = f"{plain(row.gateway)}: release {plain(row.user)}", KILLS
    elif row.kind == "presence_reject":
        released = frames.is_release(row.reason)
        verb = "release" if released else "register"
        word = f"{plain(row.gateway)}: {verb} {plain(row.user)}\n→ {row.reason}"
        role = KEPT if effect == "saved" else REFUSED
    return StoryStep(row, 0.0, 0.0, word, role, bool(effect) or row.kind == "presence_reject")


def _lanes(steps: Sequence[StoryStep], user: str) -> list[str]:
    """Return the lanes from top to bottom: others, gateways around Redis, and the user."""
    seen = list(dict.fromkeys(name for s in steps for name in (s.row.lane, s.row.peer)))
    gateways = sorted({s.row.gateway for s in steps if s.row.gateway in seen})
    others = [name for name in seen if name not in (*gateways, frames.REDIS, user)]
    return [*others, *gateways[:1], frames.REDIS, *gateways[1:], user]


def _facts(trace: pd.DataFrame, steps: Sequence[StoryStep], user: str) -> dict[str, Any]:
    book = frames.verdicts(trace)
    late = book[(book["user"] == user) & book["effect"].isin(["lost", "saved"])]
    return {
        "user": plain(user),
        "hops": len(steps),
        "writes": sum(s.row.kind in ("presence_set", "presence_del") for s in steps),
        "late": plain(late["gateway"].iloc[-1]) if len(late) else "nobody",
        "owner": plain(late["owner"].iloc[-1]) if len(late) else "nobody",
    }


def _entry(trace: pd.DataFrame, steps: Sequence[StoryStep], user: str) -> list[Spell]:
    """Return what her entry said, from write to write."""
    stays = [stay for stay in frames.belief(trace, until=math.inf) if stay.user == user]
    writes = [s for s in steps if s.row.kind.startswith("presence_")]
    spells: list[Spell] = []
    for step, following in zip(writes, [*writes[1:], None], strict=True):
        after = step.row.t_recv
        said = next((s.gateway for s in stays if s.start <= after < s.end), "")
        end = following.end if following else float("inf")
        if spells and spells[-1].gateway == said:
            spells[-1] = spells[-1]._replace(end=end)
        else:
            spells.append(Spell(step.end, end, said, step.role is KILLS))
    return spells


def _socket(trace: pd.DataFrame, steps: Sequence[StoryStep], user: str) -> list[Spell]:
    """Return where her socket was: from the write that took effect to her leaving."""
    stays: list[Stay] = [stay for stay in frames.truth(trace) if stay.user == user]
    spells = []
    for stay in stays:
        mine = [s for s in steps if s.row.conn_id == stay.conn_id]
        begins = [s.end for s in mine if s.row.kind == "presence_set"]
        ends = [s.begin for s in mine if s.row.kind == frames.LEAVES]
        if begins:
            spells.append(Spell(begins[0], ends[0] if ends else float("inf"), stay.gateway))
    return spells


# --- draw --------------------------------------------------------------------------------------


def _draw(
    steps: Sequence[StoryStep],
    lanes: Sequence[str],
    spells: tuple[Sequence[Spell], Sequence[Spell]],
    user: str,
    facts: Mapping[str, Any],
    title: str,
    room: float,
) -> Picture:
    fig = picture(WIDTH_IN, 1.0 + LANE_IN * (len(lanes) + 1.2))
    ax = fig.add_subplot()
    claim(fig, title, facts)
    strips = len(lanes) - 0.25, len(lanes) + 0.4
    _dress(ax, lanes, strips, user, room)
    for y, pieces in zip(strips, spells, strict=True):
        _draw_strip(ax, pieces, y, room)
    for step in steps:
        _draw_arrow(ax, step, lanes)
        if step.row.kind.startswith("presence_"):
            foot = lanes.index(step.row.peer), strips[1] - STRIP / 2
            colour = step.role.colour if step.matters else LANE
            ax.vlines(step.end, *foot, colors=colour, linestyles=":", lw=1.2, zorder=2)
    freeze_layout(fig)
    _label(ax, steps, lanes)
    return fig


STRIP: Final = 0.42
"""Height of a strip."""


def _dress(
    ax: Axes, lanes: Sequence[str], strips: tuple[float, float], user: str, room: float
) -> None:
    for y in range(len(lanes)):
        ax.axhline(y, color=LANE, lw=1, zorder=1)
    names = [*(lane_name(lane) for lane in lanes), f"{plain(user, 10)} is at", "Redis says"]
    ax.set_yticks([*range(len(lanes)), *strips], names, fontsize=FONT_PT)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(strips[1] + 0.35, -0.4)
    ax.set_xlim(-0.1, room + 0.1)
    ax.set_xticks([])
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _draw_strip(ax: Axes, pieces: Sequence[Spell], y: float, room: float) -> None:
    roles = roles_of(piece.gateway for piece in pieces)
    for begin, end, gateway, alarm in pieces:
        end = min(end, room)
        colour = VERMILLION if alarm else roles[gateway].colour
        box = Rectangle((begin, y - STRIP / 2), end - begin, STRIP, lw=1.2, zorder=3)
        box.set(facecolor="none", edgecolor=colour)
        ax.add_patch(box)
        tint = Rectangle((begin, y - STRIP / 2), end - begin, STRIP, lw=0, alpha=0.25, zorder=3)
        tint.set(facecolor=colour)
        ax.add_patch(tint)
        words = gateway or "nothing"
        style: dict[str, Any] = {"fontsize": FONT_PT, "ha": "center", "va": "center"}
        if alarm:
            style |= {"color": VERMILLION, "fontweight": "bold"}
        note(ax, (begin + end) / 2, y, words, **style)


def _draw_arrow(ax: Axes, step: StoryStep, lanes: Sequence[str]) -> None:
    y0, y1 = float(lanes.index(step.row.lane)), float(lanes.index(step.row.peer))
    style: dict[str, Any] = {
        "color": step.role.colour,
        "linestyle": step.role.dash,
        "lw": 3.2 if step.matters else 1.8,
        "shrinkA": 0,
        "shrinkB": 2,
        "arrowstyle": "-|>,head_width=.28,head_length=.5",
    }
    if step.matters and not step.row.ok:
        style["arrowstyle"] = "|-|,widthA=0,widthB=.5"
    ax.annotate("", (step.end, y1), (step.begin, y0), arrowprops=style, zorder=4)
    ax.plot(step.begin, y0, "o", color=step.role.colour, ms=5, zorder=4)


def _label(ax: Axes, steps: Sequence[StoryStep], lanes: Sequence[str]) -> None:
    placer = Placer(ax)
    ends = [
        ax.transData.transform(
            [(s.begin, lanes.index(s.row.lane)), (s.end, lanes.index(s.row.peer))]
        )
        for s in steps
    ]
    for text in ax.texts:
        if text.get_text():
            placer.keep_clear_of(text)
    for y in range(len(lanes)):
        placer.line(*[(float(x), float(v)) for x, v in ax.transData.transform([(0, y), (99, y)])])
    for points in ends:
        placer.line(*[(float(x), float(y)) for x, y in points])
    for step, ((x0, y0), (x1, y1)) in sorted(
        zip(steps, ends, strict=True), key=lambda pair: not pair[0].matters
    ):
        spots = []
        for share in _between_lanes(step, lanes):
            x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
            falls = y1 < y0
            spots += [
                Spot(x + 5, y + 3 if falls else y - 3, va="bottom" if falls else "top"),
                Spot(x - 5, y - 3 if falls else y + 3, "right", "top" if falls else "bottom"),
                Spot(x + 5, y),
                Spot(x - 5, y, "right"),
            ]
        colour = step.role.colour if step.matters or step.role is REFUSED else INK
        weight = "bold" if step.matters else "normal"
        narrow = step.words.replace(": ", ":\n", 1).replace(" + ", "\n+ ")
        wordings = [narrow] if step.matters else [step.words, narrow]
        if step.matters:
            spots = [Spot(x1 + 2, (y0 + y1) / 2), *spots]
        placer.put(wordings, spots, fontsize=FONT_PT, color=colour, fontweight=weight)


def _between_lanes(step: StoryStep, lanes: Sequence[str]) -> list[float]:
    """Return at which shares of an arrow its words may stand: not on a lane, the middle first."""
    passed = abs(lanes.index(step.row.lane) - lanes.index(step.row.peer))
    if passed < 2:
        return [0.5, 0.35, 0.65, 0.2, 0.8]
    middles = [(gap + 0.5) / passed for gap in range(passed)]
    return sorted(middles, key=lambda share: abs(share - 0.5))


# --- words -------------------------------------------------------------------------------------


def _alt(
    steps: Sequence[StoryStep],
    lanes: Sequence[str],
    spells: tuple[Sequence[Spell], Sequence[Spell]],
    user: str,
) -> str:
    way = "; ".join(
        f"{plain(s.row.lane)} to {lane_name(s.row.peer)}: {' '.join(s.words.split())}"
        for s in steps
    )
    said = ", then ".join(piece.gateway or "nothing" for piece in spells[1]) or "nothing"
    at = ", then ".join(piece.gateway for piece in spells[0]) or "no gateway"
    return (
        f"Space-time diagram of {plain(user)} with lanes {listed(lanes)}: "
        f"{counted(len(steps), 'arrow')}. {way}. Her socket was at {at}; Redis said {said}."
    )
