"""Histogram of votes: what did a class predict, and what was measured?

A bar for each option. The measured one is hatched and named; a measured value that was no option
stands in the title.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from wsdemo.drawing.style import (
    BLUE,
    GREEN,
    INK,
    NOTE_PT,
    Picture,
    Role,
    claim,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import plain

OTHERS: Final = Role(BLUE)
MEASURED: Final = Role(GREEN, hatch="//")
OPTION_CHARS: Final = 28
TITLE: Final = "{right} of {votes} said what was measured: {measured}"
NO_OPTION_TITLE: Final = "Measured: {measured}, which was no option; {votes} voted"
CAPTION: Final = "{question} The hatched bar is what was measured afterwards."
NO_OPTION_CAPTION: Final = "{question} None of the options is what was measured afterwards."


@in_house_style
def votes(question: str, counts: Mapping[str, int], measured: str, *, title: str = "") -> Picture:
    """Draw how many chose each option.

    Args:
        question: its text.
        counts: option -> how many.
        measured: what the run gave.
        title: a template; known facts: measured, right, votes.

    Raises:
        ValueError: nobody has voted.
    """
    facts = {
        "measured": plain(measured, OPTION_CHARS),
        "right": counts.get(measured, 0),
        "votes": sum(counts.values()),
    }
    if not facts["votes"]:
        raise ValueError("nobody has voted: there is nothing to draw")
    is_option = measured in counts
    fig = _draw(counts, measured, facts, title or (TITLE if is_option else NO_OPTION_TITLE))
    caption = (CAPTION if is_option else NO_OPTION_CAPTION).format(question=plain(question, 400))
    return tell(fig, caption=caption, alt=_alt(counts, measured))


def _draw(
    counts: Mapping[str, int], measured: str, facts: Mapping[str, Any], title: str
) -> Picture:
    fig = picture(height_in=1.1 + 0.42 * len(counts))
    ax = fig.add_subplot()
    claim(fig, title, facts)
    for y, (option, count) in enumerate(counts.items()):
        _draw_bar(ax, y, count, MEASURED if option == measured else OTHERS)
    names = [
        plain(option, OPTION_CHARS) + ("\nmeasured" if option == measured else "")
        for option in counts
    ]
    ax.set_yticks(range(len(counts)), names)
    ax.set_xlabel("votes")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlim(0, 1.08 * max(counts.values()))
    ax.set_ylim(-0.6, len(counts) - 0.4)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return fig


def _draw_bar(ax: Axes, y: int, count: int, role: Role) -> None:
    ax.barh(y, count, 0.62, color=role.colour, hatch=role.hatch, edgecolor="white")
    ax.annotate(
        str(count),
        (count, y),
        (6, 0),
        textcoords="offset points",
        va="center",
        fontsize=NOTE_PT,
        color=INK,
    )


def _alt(counts: Mapping[str, int], measured: str) -> str:
    each = ", ".join(f"{plain(option, OPTION_CHARS)}: {n}" for option, n in counts.items())
    return f"Bars of the votes for each option. {each}. Measured: {plain(measured, OPTION_CHARS)}."
