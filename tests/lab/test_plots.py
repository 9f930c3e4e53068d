"""Figures: do they and their alt texts agree with the trace, and can they be read?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped, texts
from wsdemo.client import Receipt
from wsdemo.drawing.show import to_html, to_png
from wsdemo.drawing.style import Picture
from wsdemo.lab import Lab
from wsdemo.lab.plots import spacetime, steps
from wsdemo.lab.trace.frames import empty

pytestmark = pytest.mark.xdist_group("plots")


@pytest.fixture(scope="module")
def recorded() -> Iterator[tuple[Lab, Receipt, Receipt]]:
    """A message that arrived, and one without a recipient."""
    with Lab(gateways=3) as lab:
        alice, bob = lab.connect("alice", to="gateway-01"), lab.connect("bob", to="gateway-02")
        arrived = alice.send("bob", "hello")
        bob.receive()
        nowhere = alice.send("nobody", "hello")
        yield lab, arrived, nowhere


def figures(recorded: tuple[Lab, Receipt, Receipt]) -> dict[str, Picture]:
    lab, arrived, nowhere = recorded
    return {
        "spacetime": lab.plot.spacetime(arrived, prediction=5),
        "to nobody": lab.plot.spacetime(nowhere),
        "to scale": lab.plot.spacetime(arrived, even=False),
        "steps": lab.plot.steps(arrived),
    }


def test_no_two_texts_of_a_figure_overlap(recorded: tuple[Lab, Receipt, Receipt]) -> None:
    """Every label can be read."""
    assert_no_text_covers_another(figures(recorded))


def test_no_text_leaves_the_figure(recorded: tuple[Lab, Receipt, Receipt]) -> None:
    """Nothing is clipped at the edge."""
    assert_no_text_is_clipped(figures(recorded))


@pytest.mark.slow
def test_every_figure_has_an_alt_text_and_a_caption(
    recorded: tuple[Lab, Receipt, Receipt],
) -> None:
    """An alt text names the lanes and the outcome, a caption says where the data come from."""
    for fig in figures(recorded).values():
        assert len(fig.wsdemo_alt) >= 40
        assert fig.wsdemo_caption
        assert "gateway-01" in fig.wsdemo_alt
        html = to_html(fig)
        assert '<img alt="' in html and "<figcaption>" in html


def test_the_number_in_the_title_comes_from_the_data(
    recorded: tuple[Lab, Receipt, Receipt],
) -> None:
    """It is counted, not written by hand."""
    lab, arrived, nowhere = recorded
    assert lab.plot.spacetime(arrived).wsdemo_facts["hops"] == len(lab.hops(arrived)) == 4
    assert lab.plot.spacetime(nowhere).wsdemo_facts["hops"] == len(lab.hops(nowhere)) == 2


def test_the_prediction_is_drawn_beside_the_result(recorded: tuple[Lab, Receipt, Receipt]) -> None:
    """What the reader predicted, and what was measured."""
    lab, arrived, _ = recorded
    fig = lab.plot.spacetime(arrived, prediction=5)
    assert any(t.get_text() == "you said 5, measured 4" for t in texts(fig))


@pytest.mark.slow
def test_the_same_figure_gives_the_same_bytes(recorded: tuple[Lab, Receipt, Receipt]) -> None:
    """A pure function of the trace."""
    lab, arrived, _ = recorded
    trace = lab.trace()
    one, two = (to_png(spacetime(trace, msg_id=arrived.id)) for _ in range(2))
    assert one == two


def test_an_empty_trace_is_an_error_with_a_reason() -> None:
    """It is not drawn as an empty figure."""
    with pytest.raises(ValueError, match="nothing travelled"):
        spacetime(empty())
    with pytest.raises(ValueError, match="knows no message"):
        steps(empty(), "1")


def test_the_moments_of_a_message_are_few_boxes(recorded: tuple[Lab, Receipt, Receipt]) -> None:
    """A table that never changes is one box, over all moments; the message has a box a moment."""
    lab, arrived, _ = recorded
    fig = lab.plot.steps(arrived)
    gateways = 3
    assert fig.wsdemo_facts == {"panels": 5, "boxes": gateways + 1, "changed": "none"}
    (ax,) = fig.axes
    assert len(ax.patches) == (gateways + 1) + 5
    assert [label.get_text() for label in ax.get_yticklabels()][-2:] == ["Redis", "the message"]
    said = {text.get_text() for text in texts(fig)}
    assert {"not sent yet", "at gateway-01", "at Redis", "at gateway-02", "read by bob"} <= said


def test_too_many_arrows_are_refused_with_advice(
    recorded: tuple[Lab, Receipt, Receipt],
) -> None:
    """A figure that could not be read is not drawn."""
    lab, _, _ = recorded
    with Lab(gateways=1) as other:
        alice, bob = other.connect("alice"), other.connect("bob")
        for n in range(15):
            alice.send("bob", str(n))
            bob.receive()
        with pytest.raises(ValueError, match="choose a part with t0 and t1"):
            spacetime(other.trace())
    del lab
