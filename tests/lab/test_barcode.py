"""Figures of orders: do they show the results of the orders, and can they be read?"""

from __future__ import annotations

import numpy as np
import pytest

from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped
from wsdemo.drawing.show import to_html, to_png
from wsdemo.drawing.style import VERMILLION, Picture
from wsdemo.lab.figures.barcode import barcode
from wsdemo.lab.figures.crossing import crossing
from wsdemo.lab.races.models import MODELS, explore_model
from wsdemo.lab.races.orders import Exploration, OrderEnd, all_orders

pytestmark = pytest.mark.xdist_group("barcode")

ROWS = [(p, s) for p in MODELS for s in (0.0, -10.0, 10.0)]


def explored(feasible: bool = True) -> list[Exploration]:
    """Here a model is equal to the real scripts, and faster."""
    orders = all_orders(feasible=feasible)
    return [explore_model(MODELS[p], s, orders=orders, name=p) for p, s in ROWS]


def figures() -> dict[str, Picture]:
    rows = explored()
    minimal = {one.policy: one.minimal() for one in rows if one.minimal()}
    drawn = {
        "all": barcode(rows),
        "one row": barcode(rows[3:4]),
        "with a prediction": barcode(rows[:6], predictions={"go-demo": 4, "plain": 45}),
        "all ninety": barcode(explored(feasible=False)[::3]),
    }
    for policy, pair in minimal.items():
        assert pair is not None
        drawn[f"minimal {policy}"] = crossing(pair[0], near=pair[1].order)
    last = next(one for one in rows[3].played if set(one.entries[-1]) == {"ts"})
    drawn["half an entry"] = crossing(last)
    return drawn


@pytest.fixture(scope="module")
def drawn() -> dict[str, Picture]:
    return figures()


def test_no_two_texts_of_a_figure_overlap_and_none_is_clipped(drawn: dict[str, Picture]) -> None:
    """Every label can be read, also beside a prediction."""
    assert_no_text_covers_another(drawn)
    assert_no_text_is_clipped(drawn)


def test_the_write_that_loses_alice_has_the_colour_of_an_alarm(drawn: dict[str, Picture]) -> None:
    """It took the name of gateway-02 away. Where she was never named, no write has it."""
    (ax,) = drawn["minimal go-demo"].axes
    alarming = [text.get_text() for text in ax.texts if text.get_color() == VERMILLION]
    assert [text.partition(",")[0] for text in alarming] == ["release"]
    (calm,) = crossing(next(p for p in explored()[0].played if p.end == "correct")).axes
    assert not [text for text in calm.texts if text.get_color() == VERMILLION]


@pytest.mark.slow
def test_a_figure_has_an_alt_text_of_what_it_shows(drawn: dict[str, Picture]) -> None:
    """Each row with its numbers; each order with its steps."""
    alt = drawn["all"].wsdemo_alt
    assert "15 rows" in alt and "45 columns" in alt
    assert "the demo: CAS on SET only: 19 wrong (19 lost, 0 pointing at gateway-01)" in alt
    assert "CAS by timestamp, clock 10 s slow: 37 wrong (12 lost, 25 pointing" in alt
    assert "You said 4 for the demo" in drawn["with a prediction"].wsdemo_alt
    alt = drawn["minimal go-demo"].wsdemo_alt
    assert "6 gateway-01 deletes alice's entry → Redis: nobody. The end: lost." in alt
    assert all(fig.wsdemo_caption and '<img alt="' in to_html(fig) for fig in drawn.values())


@pytest.mark.slow
def test_the_numbers_of_a_title_are_counted(drawn: dict[str, Picture]) -> None:
    """By policy and clock skew, or as the worst and the best."""
    facts = drawn["all"].wsdemo_facts
    rows = {(one.policy, one.skew_s): one for one in explored()}
    assert facts["go_demo"] == len(rows["go-demo", 0.0].wrong)
    assert facts["timestamp_slow"] == facts["most"] == len(rows["timestamp", -10.0].wrong)
    assert facts["check_then_delete_fast"] == len(rows["check-then-delete", 10.0].wrong)
    assert facts["orders"] == 45 and facts["least"] == 0
    assert drawn["minimal go-demo"].wsdemo_facts["swaps"] == "1 swap"


def test_every_cell_is_one_order(drawn: dict[str, Picture]) -> None:
    """A row has as many marks as wrong orders; orders with the same result stand together."""
    one = explored()[3]
    fig = drawn["one row"]
    marks = {line.get_marker(): np.size(line.get_xdata()) for line in fig.axes[0].lines}
    assert marks == {"o": one.count(OrderEnd.LOST), "x": one.count(OrderEnd.DEAD)}
    (mesh,) = fig.axes[0].collections
    array = mesh.get_array()
    assert array is not None
    ends = array.ravel().tolist()
    assert ends == sorted(ends) and len(ends) == 45


@pytest.mark.slow
def test_the_same_figure_gives_the_same_bytes() -> None:
    """A pure function of the explorations."""
    one, two = (to_png(barcode(explored()[:6])) for _ in range(2))
    assert one == two


def test_invalid_input_is_an_error_with_a_reason() -> None:
    """No explorations, and rows of different orders."""
    with pytest.raises(ValueError, match="nothing was explored"):
        barcode([])
    with pytest.raises(ValueError, match="different orders"):
        barcode([explored()[0], explored(feasible=False)[0]])
    with pytest.raises(ValueError, match="known facts"):
        barcode(explored()[:1], title="{nonsense}")
