"""State diagram: what does the board of a class show at one moment?

A still picture of the live board, for readers without a kernel. On the left, each gateway is a box
with the students whose connections it has; on the right is what Redis says of each student. Whom
Redis places where no connection is, is marked on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from wsdemo.drawing.style import (
    INK,
    OFFLINE,
    ON_COLOUR,
    VERMILLION,
    Picture,
    Role,
    claim,
    in_house_style,
    picture,
    roles_of,
    tell,
)
from wsdemo.drawing.words import counted, listed, number, plain, whole_or_tenths
from wsdemo.lab.classroom.state import Batch, BoardState
from wsdemo.lab.classroom.translator import BoardEvent

FAULTS: Final = {
    "crash": "crash of",
    "drain": "drain of",
    "freeze": "freeze of",
    "thaw": "thaw of",
    "redis_down": "end of Redis",
}
SIDE_BY_SIDE: Final = 3
"""Boxes in a row of gateways."""
IN_A_BOX: Final = 8
"""So many students are named in a box; of more, how many."""
ROWS: Final = 12
"""The same in what Redis says."""
LEFT, RIGHT = 58.0, 60.0
"""Where the gateways end and Redis begins, of a width of 100."""
ROW_IN: Final = 0.3
HEAD: Final = 1.3
"""Height of a heading, in rows."""
NAME_CHARS: Final = 12
NAMED: Final = 2
"""If no more than so many are without a connection, they are named."""
NEAR_S: Final = 0.02
"""A lease with less than this is at its end."""


class BoardScene(NamedTuple):
    """What is drawn."""

    state: BoardState
    at: float
    after_s: float
    fault: str
    """The latest one, in words; '' when nothing has gone wrong."""
    gateways: list[str]
    seated: frozenset[str]
    """Who has joined, connected or not."""

    @property
    def places(self) -> dict[str, list[str]]:
        """Where each connected student is: mostly one gateway."""
        found: dict[str, list[str]] = {}
        for user, gateway in self.state.connections.values():
            found.setdefault(user, []).append(gateway)
        return found

    @property
    def ghosts(self) -> list[str]:
        """Whom Redis places where no connection is."""
        places = self.places
        entries = sorted(self.state.entries.items())
        return [user for user, entry in entries if entry[0] not in places.get(user, [])]

    @property
    def nowhere(self) -> list[str]:
        """Students who have joined and have no connection."""
        return sorted((self.state.entries.keys() | self.seated) - self.places.keys())

    def runs(self, gateway: str) -> bool:
        return self.state.gateways[gateway] == "up"

    def at_gateway(self, gateway: str) -> list[str]:
        return sorted(user for user, there in self.places.items() if gateway in there)


@in_house_style
def class_board(
    batches: Iterable[Batch],
    *,
    at: float | None = None,
    after_s: float | None = None,
    ttl_s: float = 90.0,
    title: str = "{users} users, {wrong} of whom Redis places where they are not",
) -> Picture:
    """Draw the board of a class at one moment.

    Args:
        batches: what boards were told, the oldest first.
        at: the moment, in seconds since the record began; the end, when nothing is said.
        after_s: the moment, in seconds after the latest fault (crash, drain, freeze, ...).
        ttl_s: how long a whole lease is.
        title: a template; known facts: at_s, after_s, fault, users, wrong (how many), wrong_users
            (who), nowhere (how many have no connection).

    Raises:
        ValueError: there is nothing to draw, or `after_s` without a fault.
    """
    scene = scene_of(list(batches), at, after_s)
    facts = _facts(scene)
    fig = _draw(scene, ttl_s, facts, title)
    caption = (
        "Left: the students whose connections each gateway has. Right: where Redis says that "
        f"they are, and what is left of each lease, of {number(ttl_s)} s. Seconds are those of "
        "a watch."
    )
    return tell(fig, caption=caption, alt=_alt(scene, facts))


# --- compute -----------------------------------------------------------------------------------


def scene_of(batches: Sequence[Batch], at: float | None, after_s: float | None) -> BoardScene:
    """Return the state at a moment; the arguments are those of `class_board`."""
    if not batches:
        raise ValueError("nothing was recorded yet: there is nothing to draw")
    faults = [e for batch in batches for e in batch.get("e", ()) if e["k"] in FAULTS]
    if after_s is not None:
        if not faults:
            raise ValueError("after_s counts from a fault, and there was none")
        at = faults[-1]["t"] + after_s
    moment = batches[-1]["t"] if at is None else at
    before = [fault for fault in faults if fault["t"] <= moment]
    state = _replayed(batches, moment)
    return BoardScene(
        state,
        moment,
        after_s=moment - before[-1]["t"] if before else 0.0,
        fault=f"{FAULTS[before[-1]['k']]} {before[-1].get('g', '')}".strip() if before else "",
        gateways=sorted(state.gateways),
        seated=frozenset(event["u"] for event in _until(batches, moment) if event["k"] == "seat"),
    )


def _until(batches: Sequence[Batch], moment: float) -> Iterator[BoardEvent]:
    return (e for batch in batches for e in batch.get("e", ()) if e["t"] <= moment)


def _replayed(batches: Sequence[Batch], moment: float) -> BoardState:
    state = BoardState()
    for batch in batches:
        for event in batch.get("e", ()):
            if event["t"] <= moment:
                state.apply_event(event)
        if batch["t"] <= moment:
            state.apply_entries(batch.get("b", []))
    # Redis ends a lease by itself; that it has, boards hear with its next answer.
    for user in [u for u, entry in state.entries.items() if entry[2] < moment - NEAR_S]:
        del state.entries[user]
    return state


def _facts(scene: BoardScene) -> dict[str, Any]:
    users = scene.places.keys() | scene.state.entries.keys() | scene.seated
    return {
        "at_s": whole_or_tenths(scene.at),
        "after_s": whole_or_tenths(scene.after_s),
        "fault": scene.fault or "beginning",
        "users": len(users),
        "wrong": len(scene.ghosts),
        "wrong_users": listed(scene.ghosts) or "nobody",
        "nowhere": len(scene.nowhere),
    }


# --- draw --------------------------------------------------------------------------------------


def _draw(scene: BoardScene, ttl_s: float, facts: Mapping[str, Any], title: str) -> Picture:
    roles = roles_of(scene.gateways)
    lines = [
        scene.gateways[i : i + SIDE_BY_SIDE] for i in range(0, len(scene.gateways), SIDE_BY_SIDE)
    ]
    heights = [
        HEAD + 0.3 + max(1, *(_rows_in(scene, gateway) for gateway in line)) for line in lines
    ]
    nowhere = 1.2 if scene.nowhere else 0.0
    entries = HEAD + min(ROWS + 1, max(1, len(scene.state.entries)))
    rows = max(sum(heights) + 0.4 * (len(lines) - 1) + nowhere, entries) + 0.2
    fig = picture(height_in=0.75 + ROW_IN * rows)
    ax = fig.add_subplot()
    ax.set_xlim(-0.4, 100.4)
    ax.set_ylim(rows, 0)
    ax.set_axis_off()
    claim(fig, title, facts)
    top = 0.0
    for line, height in zip(lines, heights, strict=True):
        width = LEFT / len(line)
        for n, gateway in enumerate(line):
            _draw_gateway(ax, scene, gateway, roles[gateway], (n * width, top), (width - 2, height))
        top += height + 0.4
    if scene.nowhere:
        some = len(scene.nowhere) <= NAMED
        who = listed(scene.nowhere) if some else counted(len(scene.nowhere), "user")
        words = f"connected to nobody: {who}"
        _write(ax, 0, top + 0.3, words, color=VERMILLION, fontweight="bold")
    _draw_redis(ax, scene, roles, ttl_s)
    return fig


def _rows_in(scene: BoardScene, gateway: str) -> int:
    """Return how many rows a box needs, its heading left out."""
    return min(IN_A_BOX + 1, len(scene.at_gateway(gateway))) + (not scene.runs(gateway))


def _draw_gateway(
    ax: Axes,
    scene: BoardScene,
    gateway: str,
    role: Role,
    corner: tuple[float, float],
    size: tuple[float, float],
) -> None:
    (left, top), (width, height) = corner, size
    runs = scene.runs(gateway)
    edge: dict[str, Any] = {"edgecolor": role.colour if runs else VERMILLION, "lw": 2}
    style = "-" if runs else "--"
    ax.add_patch(Rectangle((left, top + 0.1), width, height - 0.1, fill=False, ls=style, **edge))
    _write(ax, left + 1, top + 0.75, plain(gateway, NAME_CHARS), fontweight="bold")
    row = top + HEAD
    if not runs:
        state = scene.state.gateways[gateway]
        _write(ax, left + 1, row + 0.48, state, color=VERMILLION, fontweight="bold")
        row += 1
    users = scene.at_gateway(gateway)
    shown = users if len(users) <= IN_A_BOX + 1 else users[:IN_A_BOX]
    for n, user in enumerate(shown):
        _draw_chip(ax, user, role, left + 1, row + n, width - 2)
    if len(shown) < len(users):
        words = f"and {len(users) - len(shown)} more"
        _write(ax, left + 1.5, row + len(shown) + 0.48, words)


def _draw_chip(ax: Axes, user: str, role: Role, left: float, top: float, width: float) -> None:
    style: dict[str, Any] = {"facecolor": role.colour, "hatch": role.hatch, "edgecolor": "white"}
    ax.add_patch(Rectangle((left, top + 0.08), width, 0.8, lw=0, **style))
    _write(ax, left + 1, top + 0.48, plain(user, NAME_CHARS), **ON_COLOUR)


def _draw_redis(ax: Axes, scene: BoardScene, roles: Mapping[str, Role], ttl_s: float) -> None:
    _write(ax, RIGHT, 0.75, "Redis says", fontweight="bold")
    ghosts = set(scene.ghosts)
    users = sorted(scene.state.entries, key=lambda user: (user not in ghosts, user))
    shown = users if len(users) <= ROWS + 1 else users[:ROWS]
    for n, user in enumerate(shown):
        gateway, _, ends = scene.state.entries[user]
        middle = HEAD + n + 0.48
        is_ghost = user in ghosts
        style: dict[str, Any] = {"color": VERMILLION if is_ghost else INK}
        style["fontweight"] = "bold" if is_ghost else "normal"
        _write(ax, RIGHT, middle, plain(user, NAME_CHARS), **style)
        words = f"{plain(gateway, NAME_CHARS)}{' ?' if is_ghost else ''}"
        _write(ax, RIGHT + 14.5, middle, words, **style)
        left = min(1.0, max(0.0, (ends - scene.at) / ttl_s))
        _draw_lease(ax, roles[gateway], HEAD + n, left)
    if len(shown) < len(users):
        words = f"and {len(users) - len(shown)} more"
        _write(ax, RIGHT, HEAD + len(shown) + 0.48, words)
    if not users:
        known = "nobody is here" if scene.state.known else "nothing: it cannot be asked"
        _write(ax, RIGHT, HEAD + 0.48, known)


def _draw_lease(ax: Axes, role: Role, top: float, left: float) -> None:
    begin, width = 90.0, 10.0
    ax.add_patch(Rectangle((begin, top + 0.2), width, 0.56, color=OFFLINE, lw=0))
    ax.add_patch(
        Rectangle(
            (begin, top + 0.2),
            width * left,
            0.56,
            facecolor=role.colour,
            hatch=role.hatch,
            edgecolor="white",
            lw=0,
        )
    )


def _write(ax: Axes, x: float, y: float, words: str, **style: Any) -> None:
    """Write one line; the layout is made for the boxes, and does not ask the texts."""
    ax.text(x, y, words, va="center", **style).set_in_layout(False)


# --- words -------------------------------------------------------------------------------------


def _alt(scene: BoardScene, facts: Mapping[str, Any]) -> str:
    boxes = [
        f"{gateway} ({scene.state.gateways[gateway]}) has "
        f"{listed(scene.at_gateway(gateway)) or 'nobody'}"
        for gateway in scene.gateways
    ]
    ghosts = [f"{user} at {scene.state.entries[user][0]}" for user in scene.ghosts]
    wrong = f"Redis wrongly names {listed(ghosts)}" if ghosts else "Redis names nobody wrongly"
    nowhere = f"Connected to nobody: {listed(scene.nowhere) or 'nobody'}"
    return (
        f"The board of a class of {counted(facts['users'], 'user')}, {facts['after_s']} s after "
        f"the {facts['fault']}. {'. '.join(boxes)}. {nowhere}. {wrong}."
    )
