"""Sliders: do they redraw the figure, and is nothing lost without them?"""

from __future__ import annotations

import importlib.util
import re
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from IPython.display import HTML

from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped
from wsdemo.drawing.show import to_html
from wsdemo.drawing.style import VERMILLION, Picture
from wsdemo.lab import sliders
from wsdemo.lab.figures.skew import skew_map
from wsdemo.lab.sliders import LOSSES, SKEWS_S, TTLS_S, lease_sliders, skew_slider

pytestmark = pytest.mark.xdist_group("figures_of_many")

MEASURED = pd.DataFrame(
    [{"heartbeat_s": 30, "ttl_s": 90, "loss": 0.05, "events": 4, "user_hours": 20}]
)
POINTS = pd.DataFrame(
    [
        {"gap_s": gap, "skew_s": skew, "rejected": skew > gap}
        for skew in (-10.0, 0.0, 10.0, 20.0, 30.0)
        for gap in (2.5, 12.5, 22.5, 32.5)
    ]
)


class Cell:
    """Replaces the display of a live cell: the figure that it shows now, and what is under it."""

    def __init__(self) -> None:
        self.figures: list[str] = []
        self.under: list[Any] = []

    def __call__(self, shown: Any, *, display_id: bool = False) -> Cell:
        if display_id:
            self.update(shown)
        else:
            self.under.append(shown)
        return self

    def update(self, shown: HTML) -> None:
        self.figures.append(str(shown.data))

    def move(self, label: str, value: float) -> None:
        """Let go of a slider at a value."""
        (box,) = self.under
        (slider,) = (child for child in box.children if child.description == label)
        slider.value = value


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """A live cell."""
    shown = Cell()
    monkeypatch.setattr("IPython.display.display", shown)
    monkeypatch.setattr(sliders, "watched", lambda: True)
    return shown


def alt(figure: str) -> str:
    (found,) = re.findall(r'alt="([^"]*)"', figure)
    return str(found)


def test_a_moved_slider_redraws_the_map_of_leases(cell: Cell) -> None:
    """With the new value of one and the old value of the other, in the place of the first."""
    lease_sliders(MEASURED, ttl_s=120, loss=0.05)
    assert len(cell.figures) == 1 and "At 5.0% loss" in alt(cell.figures[0])
    cell.move("TTL", 60)
    assert len(cell.figures) == 2 and "Ringed: 2 heartbeats" in alt(cell.figures[-1])
    cell.move("lost heartbeats", 0.2)
    assert "At 20.0% loss" in alt(cell.figures[-1])
    assert "Ringed: 2 heartbeats" in alt(cell.figures[-1])


def test_a_moved_slider_redraws_the_map_of_skews(cell: Cell) -> None:
    """From the recorded moves: no laboratory is started."""
    skew_slider(POINTS, slow_s=10)
    cell.move("clock of gateway-02", -10)
    first, second = map(alt, cell.figures)
    assert "Marked: clocks slower by 10 s" in first and "Marked: clocks slower by -10 s" in second


def test_a_slider_waits_until_it_is_let_go_of(cell: Cell) -> None:
    """Otherwise each pixel of a move would be a figure. It begins at what the cell says."""
    lease_sliders(ttl_s=77, loss=0.05)
    (box,) = cell.under
    assert [slider.continuous_update for slider in box.children] == [False, False]
    assert [slider.value for slider in box.children] == [77, 0.05]
    assert [label for label, _ in box.children[0].options].count("77 s") == 1


@pytest.mark.parametrize("missing", ["a reader", "ipywidgets"])
def test_without_sliders_there_is_the_figure(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """In a build nobody watches; and ipywidgets need not be installed."""
    if missing == "a reader":
        monkeypatch.setattr(sliders, "watched", lambda: False)
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    lease_sliders(MEASURED)
    skew_slider(POINTS)
    assert len(cell.figures) == 2 and cell.under == []


def test_numbers_beyond_the_map_are_refused(cell: Cell) -> None:
    """As without sliders: the learner may write any number into the cell."""
    with pytest.raises(ValueError, match="not on the map"):
        lease_sliders(ttl_s=600)
    assert cell.figures == []


def drawn(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> dict[str, Picture]:
    """Every figure that the sliders can draw, by what was moved last."""
    kept: dict[str, Picture] = {}

    def keep(fig: Picture) -> str:
        kept[f"{len(kept)}: {fig.get_suptitle()}"] = fig
        return to_html(fig)

    monkeypatch.setattr(sliders, "to_html", keep)
    lease_sliders(MEASURED)
    for ttl_s, loss in zip(TTLS_S[::6], LOSSES[::2], strict=False):
        cell.move("TTL", ttl_s)
        cell.move("lost heartbeats", loss)
    cell.under.clear()
    skew_slider(POINTS)
    for slow_s in SKEWS_S[::2]:
        cell.move("clock of gateway-02", slow_s)
    return kept


def test_every_text_of_a_redrawn_figure_can_be_read(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At both ends of each slider as well. Titles say the numbers."""
    figures = drawn(cell, monkeypatch)
    assert_no_text_covers_another(figures)
    assert_no_text_is_clipped(figures)
    titles = [fig.get_suptitle() for fig in figures.values()]
    assert len(set(titles)) == len(titles) - 1, "only the last value was there before"
    assert "A clock 30 s slow: whoever moves within 30 s is refused" in titles
    assert "A clock that is right: nobody is refused" in titles


def test_a_redrawn_figure_is_there_at_once(cell: Cell) -> None:
    """It costs about as much as drawing the figure itself, which is what a reader waits for."""
    lease_sliders(MEASURED)
    began = time.process_time()
    for ttl_s in (60, 90, 120):
        cell.move("TTL", ttl_s)
    redrawn_s = time.process_time() - began
    began = time.process_time()
    for _ in range(3):
        to_html(skew_map(POINTS))
    assert redrawn_s < 10 * (time.process_time() - began)


@pytest.mark.parametrize(("slow_s", "until_s"), [(10, 10), (20, 20), (-10, None)])
def test_the_marked_skew_shows_which_moves_it_refuses(slow_s: float, until_s: float | None) -> None:
    """A thick line over the gaps that are too short."""
    (ax, _) = skew_map(POINTS, slow_s=slow_s).axes
    thin, thick = (line for line in ax.lines if line.get_color() == VERMILLION)
    gaps = pd.Series(np.asarray(thick.get_xdata())).dropna()
    assert {*np.asarray(thin.get_ydata())} == {slow_s}
    assert (gaps.max() == pytest.approx(until_s, abs=0.2)) if until_s else gaps.empty
