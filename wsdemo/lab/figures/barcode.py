"""Interleavings: under which policy do how many of all possible orders end wrong?

A row for each policy, a column for each order, a cell for how it ended. The columns are sorted so
that orders with the same results stand together: where a policy repairs some orders, a stripe
becomes blank; where it breaks some, a stripe becomes filled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from wsdemo.drawing.style import (
    GREEN,
    INK,
    ORANGE,
    SKY,
    VERMILLION,
    Picture,
    Role,
    claim,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import clock_error, counted, plain
from wsdemo.lab.races.orders import Exploration, OrderEnd
from wsdemo.rig.policies import POLICIES

ENDS: Final[dict[OrderEnd, Role]] = {
    OrderEnd.CORRECT: Role(SKY, marker=""),
    OrderEnd.LOST: Role(ORANGE, marker="o"),
    OrderEnd.DEAD: Role(VERMILLION, marker="x"),
}
WORDS: Final = {
    OrderEnd.CORRECT: "correct: Redis says gateway-02",
    OrderEnd.LOST: "alice is lost",
    OrderEnd.DEAD: "Redis still says gateway-01",
}


@in_house_style
def barcode(
    explorations: Sequence[Exploration],
    *,
    title: str = "{worst} ends wrong in {most} of {orders} orders, {best} in {least}",
    predictions: Mapping[str, int | None] | None = None,
) -> Picture:
    """Draw how every order ended under several policies.

    Args:
        explorations: of the same orders, one a row.
        title: a template; known facts: orders, worst, most, best, least, and for each row the
            number of its wrong orders: go_demo, timestamp, timestamp_slow, ...
        predictions: policy -> how many wrong orders the reader said, without skew.

    Raises:
        ValueError: there are none, or they are not of the same orders.
    """
    if not explorations:
        raise ValueError("nothing was explored: there is no row to draw")
    ends = _matrix(explorations)
    facts = _facts(explorations)
    said = {k: v for k, v in (predictions or {}).items() if v is not None}
    fig = picture(height_in=1.25 + 0.42 * len(explorations))
    ax = fig.add_subplot()
    claim(fig, title, facts)
    _draw_cells(ax, ends)
    for row, one in enumerate(explorations):
        _draw_count(ax, row, one, said.get(one.policy) if not one.skew_s else None)
    _dress(ax, explorations, ends.shape[1])
    _draw_legend(fig)
    caption = (
        f"Each column is one of {facts['orders']} orders of the same steps, sorted so that equal "
        f"ends stand together. Played by {explorations[0].by}."
    )
    return tell(fig, caption=caption, alt=_alt(explorations, facts, said))


def label(one: Exploration) -> str:
    """Return the label of a row."""
    return f"… {clock_error(one.skew_s)}" if one.skew_s else _title(one.policy)


def _long_label(one: Exploration) -> str:
    name = _title(one.policy)
    return f"{name}, {clock_error(one.skew_s)}" if one.skew_s else name


def _title(policy: str) -> str:
    """Return the label of a policy; for a model that the reader wrote, its name."""
    return POLICIES[policy].title if policy in POLICIES else plain(policy)


def _matrix(explorations: Sequence[Exploration]) -> np.ndarray[Any, Any]:
    """Return the ends as numbers, a row a policy, the columns sorted by the rows from above."""
    orders = explorations[0].orders
    if any(set(one.orders) != set(orders) for one in explorations):
        raise ValueError("these explorations are of different orders: explore the same ones")
    known = list(ENDS)
    by_order = [{p.order: known.index(p.end) for p in one.played} for one in explorations]
    ends = np.array([[row[order] for order in orders] for row in by_order])
    return ends[:, np.lexsort(ends[::-1])]


def _facts(explorations: Sequence[Exploration]) -> dict[str, Any]:
    worst = max(explorations, key=lambda one: len(one.wrong))
    best = min(explorations, key=lambda one: len(one.wrong))
    facts: dict[str, Any] = {
        "orders": len(explorations[0].played),
        "worst": _long_label(worst),
        "most": len(worst.wrong),
        "best": _long_label(best),
        "least": len(best.wrong),
    }
    for one in explorations:
        speed = "" if not one.skew_s else "_slow" if one.skew_s < 0 else "_fast"
        facts[one.policy.replace("-", "_") + speed] = len(one.wrong)
    return facts


def _draw_cells(ax: Axes, ends: np.ndarray[Any, Any]) -> None:
    colours = ListedColormap([role.colour for role in ENDS.values()])
    rows, columns = ends.shape
    for row in range(rows):
        ax.pcolormesh(
            np.arange(columns + 1),
            [row + 0.1, row + 0.9],
            ends[row : row + 1],
            cmap=colours,
            vmin=-0.5,
            vmax=len(ENDS) - 0.5,
            edgecolors="white",
            linewidth=1.0,
        )
    for number, role in enumerate(ENDS.values()):
        if role.marker:
            y, x = np.nonzero(ends == number)
            size = min(4.5, 270 / columns)
            ax.plot(x + 0.5, y + 0.5, role.marker, color="black", ms=size, ls="")


def _draw_count(ax: Axes, row: int, one: Exploration, said: int | None) -> None:
    wrong, orders = len(one.wrong), len(one.played)
    words = f"{wrong}/{orders} wrong"
    ax.text(
        orders + 0.6,
        row + (0.5 if said is None else 0.3),
        words,
        va="center",
        fontweight="bold",
        color=VERMILLION if wrong else GREEN,
    )
    if said is not None:
        ax.text(orders + 0.6, row + 0.76, f"◇ you said {said}", va="center", color=INK)


def _dress(ax: Axes, explorations: Sequence[Exploration], columns: int) -> None:
    ax.set_xlim(0, columns * 1.16)
    ax.set_ylim(len(explorations), 0)
    ax.set_yticks(
        [row + 0.5 for row in range(len(explorations))], [label(one) for one in explorations]
    )
    ax.set_xticks([])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _draw_legend(fig: Picture) -> None:
    handles: list[Any] = []  # A square with its mark on it.
    for role in ENDS.values():
        square = Line2D([], [], marker="s", ls="", ms=11, color=role.colour)
        mark = Line2D([], [], marker=role.marker or "None", ls="", ms=4.5, color="black")
        handles.append((square, mark))
    fig.legend(
        handles,
        list(WORDS.values()),
        loc="outside lower center",
        ncols=len(handles),
        handler_map={tuple: HandlerTuple(ndivide=1)},
    )


def _alt(
    explorations: Sequence[Exploration], facts: Mapping[str, Any], said: Mapping[str, int]
) -> str:
    rows = "; ".join(
        f"{_long_label(one)}: {len(one.wrong)} wrong ({one.count(OrderEnd.LOST)} lost, "
        f"{one.count(OrderEnd.DEAD)} pointing at gateway-01)"
        for one in explorations
    )
    guesses = "".join(f" You said {n} for {_title(k)}." for k, n in said.items())
    return (
        f"Barcode with {counted(len(explorations), 'row')}, one a policy, and {facts['orders']} "
        f"columns, one an order. {rows}.{guesses}"
    )
