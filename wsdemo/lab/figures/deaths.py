"""Outage: for how long was each user without service, after each kind of death of a gateway?

A row for each run, all on one axis that begins at the fault: a line for each user, sorted by
outage, and the median of the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import Any, Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch

from wsdemo.drawing.style import (
    FONT_PT,
    ON_COLOUR,
    WIDTH_IN,
    Picture,
    claim,
    in_house_style,
    note,
    picture,
    tell,
)
from wsdemo.drawing.words import counted, number, plain
from wsdemo.lab.figures.availability import ROLES, Service, ServiceSpan, service_of
from wsdemo.lab.figures.runs import RecordedRun, measured, normal

TITLE: Final = "{names[0]}: the median outage is {medians[0]} s, the longest {longests[0]} s"
ROW_IN: Final = 1.15
AFTER: Final = 1.12
"""The axis ends so much later than the longest outage."""
CAPTION: Final = (
    "A user is served while her socket is open, its gateway runs, and Redis names that gateway. "
    "One line a user, the longest outage below. "
)


class Death(NamedTuple):
    """One row: what it is called, and the outages of its users (production seconds)."""

    name: str
    service: Service
    run: RecordedRun
    outages_s: list[float]

    @property
    def median_s(self) -> float:
        """The outage of the user in the middle."""
        return round(median_low(self.outages_s), 1)

    @property
    def longest_s(self) -> float:
        """The longest outage."""
        return round(max(self.outages_s), 1)

    @property
    def back_s(self) -> float:
        """When the last user was served again, after the fault."""
        spans = [span for row in self.service.rows for span in row.spans if span.state != "served"]
        return max((self.run.after(span.end) for span in spans), default=0.0)


@in_house_style
def deaths(
    runs: Mapping[str, RecordedRun],
    *,
    title: str = TITLE,
) -> Picture:
    """Draw the outages of users after several deaths, one row each, on one axis.

    Args:
        runs: what each row is called, and its run.
        title: a template; known facts, each a list in the order of the rows: names, medians,
            longests; and by name: median, longest (`{median[crash]}`).

    Raises:
        ValueError: in one of them nobody was ever registered.
    """
    rows = [death(name, normal(run)) for name, run in runs.items()]
    facts = _facts(rows)
    fig = _draw(rows, facts, title)
    return tell(fig, caption=CAPTION + measured([row.run for row in rows]), alt=_alt(rows))


# --- compute -----------------------------------------------------------------------------------


def death(name: str, run: RecordedRun) -> Death:
    """Return one row."""
    began = run.began()
    service = service_of(run.trace, scale=run.scale, ttl_s=run.ttl_s, since=began * run.scale)
    return Death(name, service, run, [row.outage_s * run.scale for row in service.rows])


def _facts(rows: Sequence[Death]) -> dict[str, Any]:
    medians = [number(row.median_s) for row in rows]
    longests = [number(row.longest_s) for row in rows]
    names = [row.name for row in rows]
    return {
        "names": [plain(name) for name in names],
        "medians": medians,
        "longests": longests,
        "median": dict(zip(names, medians, strict=True)),
        "longest": dict(zip(names, longests, strict=True)),
        "users": len(rows[0].outages_s),
    }


# --- draw --------------------------------------------------------------------------------------


def _draw(rows: Sequence[Death], facts: Mapping[str, Any], title: str) -> Picture:
    fig = picture(WIDTH_IN, 1.35 + ROW_IN * len(rows))
    axes = fig.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    claim(fig, title, facts)
    end = AFTER * max(1.0, *(row.back_s for row in rows))
    for ax, row in zip(axes, rows, strict=True):
        _draw_row(ax, row, end)
    axes[-1].set_xlabel("production seconds since the gateway was hit", fontsize=FONT_PT)
    axes[-1].tick_params(axis="x", labelsize=FONT_PT)
    states = [state for state in ROLES if any(state in row.service.states for row in rows)]
    keys = [
        Patch(facecolor=ROLES[s].colour, hatch=ROLES[s].hatch, edgecolor="white", label=s)
        for s in states
    ]
    fig.legend(handles=keys, loc="outside lower left", ncols=len(keys), fontsize=FONT_PT)
    return fig


def _draw_row(ax: Axes, row: Death, end: float) -> None:
    after = row.run.after
    for state, role in ROLES.items():
        pieces = [
            _box(after(span.start), _until(row, span, end), y)
            for y, user in enumerate(row.service.rows)
            for span in user.spans
            if span.state == state
        ]
        if pieces:
            ax.add_collection(
                PolyCollection(
                    pieces, facecolor=role.colour, hatch=role.hatch, edgecolor="white", lw=0
                ),
                autolim=False,
            )
    users = len(row.outages_s)
    ax.set_ylim(users - 0.5, -0.5)
    ax.set_xlim(0, end)
    ax.set_yticks([users / 2], [plain(row.name, 14)], fontsize=FONT_PT + 1)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    words = f"median {number(row.median_s)} s, longest {number(row.longest_s)} s"
    place: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": FONT_PT + 1}
    note(ax, 0.99 * end, 0.08 * users, words, **place, **ON_COLOUR)


def _until(row: Death, span: ServiceSpan, end: float) -> float:
    """Return where a span is drawn to end. Who is served when the trace ends stays so."""
    goes_on = span.state == "served" and span.end >= row.service.last
    return end if goes_on else row.run.after(span.end)


def _box(x0: float, x1: float, y: float) -> list[tuple[float, float]]:
    return [(x0, y - 0.5), (x1, y - 0.5), (x1, y + 0.5), (x0, y + 0.5)]


# --- words -------------------------------------------------------------------------------------


def _alt(rows: Sequence[Death]) -> str:
    said = ". ".join(
        f"{plain(row.name)}: {counted(len(row.outages_s), 'user')}, the median outage is "
        f"{number(row.median_s)} s, the longest {number(row.longest_s)} s"
        for row in rows
    )
    return f"Outages after each death of a gateway, one row each, on one axis. {said}."
