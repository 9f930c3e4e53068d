"""Sliders: how does a figure change when a number of it changes?

The figure comes first; the sliders stand under it, and draw it anew in its place. Without a kernel,
without ipywidgets, in a script and in a build there is the figure alone, and nothing is lost. What
is drawn comes from a rule or from what was recorded: no laboratory is started by a move.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wsdemo.drawing.show import to_html
from wsdemo.drawing.style import Picture
from wsdemo.drawing.words import percent
from wsdemo.lab.figures.false_offline import false_offline
from wsdemo.lab.figures.skew import skew_map
from wsdemo.lab.leases import ghost
from wsdemo.lab.progress import watched

if TYPE_CHECKING:
    import pandas as pd

TTLS_S: Final = tuple(range(30, 151, 5))
LOSSES: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
SKEWS_S: Final = tuple(range(-10, 31, 5))
HEARTBEAT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Knob:
    """A number of a figure that the reader may change."""

    label: str
    start: float
    values: Sequence[float]
    written: Callable[[float], str]
    """How a value is written beside the slider."""

    def options(self) -> list[tuple[str, float]]:
        """Return all values with their texts, in order; the first one drawn is among them."""
        return [(self.written(value), value) for value in sorted({*self.values, self.start})]


def lease_sliders(
    measured: pd.DataFrame | None = None, *, ttl_s: float = 90.0, loss: float = 0.05
) -> None:
    """Show how often a live user is declared gone, with a slider for the TTL and one for the loss.

    Args:
        measured: as for `false_offline`.
        ttl_s, loss: where the sliders begin.

    Raises:
        ValueError: the two lie beyond the map.
    """

    def draw(ttl_s: float, loss: float) -> Picture:
        worst_s = ghost(HEARTBEAT_S, ttl_s).worst_s
        title = (
            f"TTL {ttl_s:g} s, {percent(loss)} lost: {{rate}} false alarms per user and hour, and "
            f"the dead stay listed for up to {worst_s:g} s"
        )
        return false_offline(measured, heartbeat_s=HEARTBEAT_S, ttl_s=ttl_s, loss=loss, title=title)

    with_sliders(
        draw,
        ttl_s=Knob("TTL", ttl_s, TTLS_S, lambda value: f"{value:g} s"),
        loss=Knob("lost heartbeats", loss, LOSSES, percent),
    )


def skew_slider(points: pd.DataFrame, *, slow_s: float = 10.0) -> None:
    """Show which moves a clock that is so slow refuses, with a slider for the skew.

    Args:
        points: as for `skew_map`.
        slow_s: where the slider begins, in production seconds; negative for a fast clock.
    """

    def draw(slow_s: float) -> Picture:
        return skew_map(points, slow_s=slow_s, title=_skew_title(slow_s))

    with_sliders(draw, slow_s=Knob("clock of gateway-02", slow_s, SKEWS_S, _skew_words))


def _skew_words(slow_s: float) -> str:
    return f"{abs(slow_s):g} s {'slow' if slow_s > 0 else 'fast'}" if slow_s else "right"


def _skew_title(slow_s: float) -> str:
    if slow_s > 0:
        return f"A clock {slow_s:g} s slow: whoever moves within {slow_s:g} s is refused"
    return f"A clock that is {_skew_words(slow_s)}: nobody is refused"


def with_sliders(draw: Callable[..., Picture], **knobs: Knob) -> None:
    """Show a figure; in a live notebook with ipywidgets, with a slider for each of its numbers."""
    from IPython.display import HTML, display

    def shown(**values: float) -> HTML:
        return HTML(to_html(draw(**values)))  # type: ignore[no-untyped-call]

    start = {name: knob.start for name, knob in knobs.items()}
    # The figure is an output of its own, so it is still there when the sliders are not.
    place: Any = display(shown(**start), display_id=True)  # type: ignore[no-untyped-call]
    if place is None or not watched() or importlib.util.find_spec("ipywidgets") is None:
        return
    display(sliders(knobs, lambda values: place.update(shown(**values))))  # type: ignore[no-untyped-call]


def sliders(knobs: Mapping[str, Knob], moved: Callable[[dict[str, float]], object]) -> Any:
    """Return a slider for each knob; `moved` is called with all values when one was let go of."""
    from ipywidgets import SelectionSlider, VBox

    found = {
        name: SelectionSlider(
            options=knob.options(),
            value=knob.start,
            description=knob.label,
            continuous_update=False,
            style={"description_width": "initial"},
            layout={"width": "36em"},
        )
        for name, knob in knobs.items()
    }

    def tell(_: object) -> None:
        moved({name: slider.value for name, slider in found.items()})

    for slider in found.values():
        slider.observe(tell, names="value")
    return VBox(list(found.values()))
