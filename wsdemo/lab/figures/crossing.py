"""Interleaving: how do three commands overlap in one order?

A space-time diagram of the six steps. An arrow starts when a gateway reads (its clock, or Redis)
and ends when it writes; between the two, others may write. Under the axis stands what Redis says
after each write. The write that took gateway-02's name away has the colour of an alarm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wsdemo.drawing.style import Picture, fill, in_house_style, tell
from wsdemo.drawing.words import counted
from wsdemo.lab.figures.spacetime import spacetime
from wsdemo.lab.races.orders import NEW, WRITES, Action, Played, distance, named

CAPTION: Final = (
    "One step a second. An arrow leaves when a gateway looks, and arrives when it writes; under a "
    "write stands what Redis says after it."
)

LINE_IN: Final = 0.25
"""Inches: the axes had no room yet for the last line of the words under the steps."""


@in_house_style
def crossing(
    played: Played,
    *,
    title: str = "In {steps} steps: {end}",
    near: Sequence[Action] | None = None,
) -> Picture:
    """Draw one order as it was played.

    Args:
        title: a template; known facts: steps, end, policy, and with `near`: swaps.
        near: the order to count the swaps of neighbours from.
    """
    facts = {"steps": len(played.order), "end": played.end.value, "policy": played.policy}
    if near is not None:
        facts["swaps"] = counted(distance(played.order, near), "swap")
    words = fill(title, facts).replace("{", "{{").replace("}", "}}")
    fig = spacetime(played.trace(), even=False, title=words, alarm_s=_harm(played))
    fig.wsdemo_facts = facts
    (ax,) = fig.axes
    ticks = range(1, len(played.order) + 1)
    ax.set_xticks(ticks, [_tick(played, step) for step in ticks])
    ax.set_xlabel("")
    box, line = ax.get_position(), LINE_IN / fig.get_figheight()
    ax.set_position((box.x0, box.y0 + line, box.width, box.height - line))
    ax.set_xlim(0.75, len(played.order) + 0.5)  # Room for the words under the last step.
    alt = f"{fig.wsdemo_alt} {'. '.join(played.words())}. The end: {played.end.value}."
    return tell(fig, caption=CAPTION, alt=alt)


def _harm(played: Played) -> int | None:
    """Return the step of the last write after which Redis no longer says where alice is."""
    names = [entry.get("gwId") for entry in played.entries]
    harm = None
    for step in range(2, len(names) + 1):
        before, after = names[step - 2 : step]
        if played.order[step - 1] in WRITES and before == NEW != after:
            harm = step
    return harm


def _tick(played: Played, step: int) -> str:
    if played.order[step - 1] not in WRITES:
        return str(step)
    return f"{step}\nRedis:\n{named(played.entries[step - 1])}"
