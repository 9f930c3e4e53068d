"""Message loss: which messages arrived at once, which came late, and which never?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    INK,
    OFFLINE,
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

MOST_ROWS: Final = 4
TICK: Final = 0.24
"""Half the height of a tick, where the distance of two rows is 1."""
CAPTION: Final = (
    "One row for each way to bring messages to Bob, one mark for each message, in the order of "
    "sending. Solid tick: it arrived at once. Dashed tick with a triangle: it arrived late. Cross: "
    "it never arrived."
)


class Arrival(Protocol):
    """What became of one message."""

    @property
    def number(self) -> int: ...

    @property
    def lost(self) -> bool: ...

    @property
    def late(self) -> bool: ...


class RasterRow(NamedTuple):
    """The messages of one row, by what became of them."""

    name: str
    at_once: list[int]
    late: list[int]
    lost: list[int]
    note: str

    @property
    def sent(self) -> int:
        return len(self.at_once) + len(self.late) + len(self.lost)

    @property
    def verdict(self) -> str:
        said = f"{len(self.lost)} of {self.sent} lost"
        late = f"{said}, {len(self.late)} late" if self.late else said
        return f"{late}; {self.note}" if self.note else late


@in_house_style
def loss_raster(
    rows: Mapping[str, Sequence[Arrival]],
    *,
    gaps: Mapping[str, range] | None = None,
    notes: Mapping[str, str] | None = None,
    prediction: object = None,
    title: str = "{worst} loses {lost} of {sent} messages; {best} loses {least}",
) -> Picture:
    """Draw what became of each message.

    Args:
        rows: name -> its messages; at most four rows.
        gaps: name -> the numbers of the messages that were sent in it.
        notes: name of a row -> what else is to be said of it.
        prediction: how many the reader said that the first row would lose.
        title: a template; known facts: sent, worst, lost (by it), best, least (lost by it).

    Raises:
        ValueError: there is nothing to draw, or too much.
    """
    if not 0 < len(rows) <= MOST_ROWS or not all(rows.values()):
        raise ValueError(f"draw 1 to {MOST_ROWS} rows, each with a message")
    found = [_row(name, arrivals, (notes or {}).get(name, "")) for name, arrivals in rows.items()]
    fig = picture(height_in=1.7 + 0.75 * len(found))
    ax = fig.add_subplot()
    claim(fig, title, _facts(found))
    _draw(ax, found, gaps or {})
    fig.legend(handles=_legend(found), loc="outside lower left", ncols=3)
    freeze_layout(fig)
    _label(ax, found, gaps or {}, prediction)
    return tell(fig, caption=CAPTION, alt=_alt(found, gaps or {}, prediction))


# --- compute -----------------------------------------------------------------------------------


def _row(name: str, arrivals: Sequence[Arrival], note: str) -> RasterRow:
    return RasterRow(
        plain(name),
        [one.number for one in arrivals if not one.lost and not one.late],
        [one.number for one in arrivals if one.late],
        [one.number for one in arrivals if one.lost],
        plain(note, 48),
    )


def _facts(rows: Sequence[RasterRow]) -> dict[str, Any]:
    worst = max(rows, key=lambda row: len(row.lost))
    best = min(rows, key=lambda row: len(row.lost))
    return {
        "sent": worst.sent,
        "worst": worst.name,
        "lost": len(worst.lost),
        "best": best.name,
        "least": len(best.lost) or "none",
    }


# --- draw --------------------------------------------------------------------------------------


def _draw(ax: Axes, rows: Sequence[RasterRow], gaps: Mapping[str, range]) -> None:
    last = max(row.sent for row in rows)
    for gap in gaps.values():
        ax.axvspan(gap.start - 0.5, gap.stop - 0.5, color=OFFLINE, lw=0)
    for y, row in enumerate(rows):
        ax.vlines(row.at_once, y - TICK, y + TICK, color=BLUE, lw=1.6)
        ax.vlines(row.late, y - TICK, y + TICK, color=ORANGE, lw=1.6, ls=(0, (2, 1)))
        ax.plot(row.late, [y - TICK] * len(row.late), "v", color=ORANGE, ms=4)
        ax.plot(row.lost, [y] * len(row.lost), "X", color=VERMILLION, ms=6, mew=0)
    ax.set_yticks(range(len(rows)), [row.name for row in rows])
    ax.set_ylim(len(rows) - 0.45, -1.05)
    ax.set_xlim(0, last + 1)
    ax.set_xlabel("number of the message, in the order of sending")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _legend(rows: Sequence[RasterRow]) -> list[Line2D]:
    style: dict[str, Any] = {"ls": "none"}
    handles = [Line2D([], [], color=BLUE, marker="|", ms=12, mew=1.6, label="at once", **style)]
    if any(row.late for row in rows):
        handles.append(Line2D([], [], color=ORANGE, marker="v", label="late", **style))
    if any(row.lost for row in rows):
        handles.append(Line2D([], [], color=VERMILLION, marker="X", label="never", **style))
    return handles


def _label(
    ax: Axes, rows: Sequence[RasterRow], gaps: Mapping[str, range], prediction: object
) -> None:
    placer = Placer(ax)
    for name, gap in gaps.items():
        x, y = ax.transData.transform(((gap.start + gap.stop - 1) / 2, -1.0))
        placer.put(plain(name), [Spot(x, y, "center", "top")], color=INK, fontweight="bold")
    right = ax.bbox.x1
    for number, row in enumerate(rows):
        words = row.verdict
        if number == 0 and prediction is not None:
            words += f" (you said {plain(prediction, 12)})"
        _, y = ax.transData.transform((0, number - TICK - 0.06))
        colour = VERMILLION if row.lost else INK
        placer.put(words, [Spot(right, y, "right", "bottom")], color=colour, fontweight="bold")


# --- words -------------------------------------------------------------------------------------


def _alt(rows: Sequence[RasterRow], gaps: Mapping[str, range], prediction: object) -> str:
    parts = [f"{row.name}: {row.verdict}" for row in rows]
    where = [f"{plain(name)} from {gap.start} to {gap.stop - 1}" for name, gap in gaps.items()]
    text = f"What became of {counted(rows[0].sent, 'message')}. {'. '.join(parts)}."
    if where:
        text += f" The gaps: {'; '.join(where)}."
    return text if prediction is None else f"{text} You said {plain(prediction)}."
