"""Lesson 09: are the messages of a gap lost as it says, and can its figure be read?"""

from __future__ import annotations

import pytest

from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped, words
from wsdemo.drawing.style import Picture
from wsdemo.lab import Lab
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.figures.loss_raster import loss_raster
from wsdemo.lab.lessons.gap import (
    AWAY,
    DEAF,
    GAPS,
    DurablePost,
    NumberedPost,
    PlainPost,
    PositionInMemory,
    SentMessage,
    after_failover,
    fail_over_with_a_durable_inbox,
    fail_over_with_numbers,
    send_a_hundred,
)

IN_A_GAP = {*DEAF, *AWAY}


# --- the experiment ----------------------------------------------------------------------------


def test_pub_sub_loses_the_messages_of_both_gaps_and_says_so_only_for_one() -> None:
    """Those that were sent to a deaf gateway are `routed` all the same."""
    with Lab(gateways=2, wires=True, scale=10) as lab:
        sent = send_a_hundred(lab, PlainPost(lab))
    assert {one.number for one in sent if one.lost} == IN_A_GAP
    told = {one.number: one.told for one in sent}
    assert {told[n] for n in DEAF} == {"routed"} and {told[n] for n in AWAY} == {"offline"}


@pytest.mark.parametrize("way", [NumberedPost, DurablePost])
def test_an_inbox_brings_the_messages_of_a_gap_when_the_gap_is_over(way: type[PlainPost]) -> None:
    """Late, and none is lost."""
    with Lab(gateways=2, wires=True, scale=10, durable=True) as lab:
        sent = send_a_hundred(lab, way(lab))
    arrived = {one.number: one.arrived_at for one in sent}
    late = dict.fromkeys(DEAF, DEAF.stop) | dict.fromkeys(AWAY, AWAY.stop)
    assert arrived == {n: n for n in range(1, 101)} | late
    assert {one.told for one in sent} == {"stored"}
    assert lab.leaks() == []


def test_a_number_alone_skips_two_stored_messages_after_a_failover() -> None:
    """And the answer is that nothing is missing."""
    with Lab(gateways=1, scale=10) as lab:
        page = fail_over_with_numbers(lab)
    assert (page.answer, page.texts) == ("recovered", ["new 11"])
    assert [one.number for one in after_failover(page) if one.lost] == [11, 12]


def test_the_durable_inbox_tells_bob_of_the_failover_and_skips_nothing() -> None:
    """By its marks: the run of Redis is the same."""
    with Lab(gateways=1, scale=10, durable=True) as lab:
        page = fail_over_with_a_durable_inbox(lab)
    assert page.answer == "reset" and page.texts[-3:] == ["new 9", "new 10", "new 11"]
    assert not [one for one in after_failover(page) if one.lost]


def test_what_needs_an_inbox_is_refused_where_there_is_none() -> None:
    """In words that say what to do."""
    with Lab(gateways=1, scale=10) as lab:
        with pytest.raises(LabRefused, match=r"Lab\(durable=True\)"):
            lab.connect("bob", durable=True)
        with pytest.raises(LabRefused, match=r"Lab\(durable=True\)"):
            lab.connect("alice").send("bob", "Hi", durable=True)
        with pytest.raises(LabRefused, match="only a durable user has a position"):
            lab.connect("bob", position=PositionInMemory())
    with pytest.raises(LabRefused, match=r"durable is True, False or InboxSettings"):
        Lab(durable="yes")  # type: ignore[arg-type]
    with pytest.raises(LabRefused, match="1 to 8 devices"):
        Lab(devices=9)


# --- the figure --------------------------------------------------------------------------------


def row(lost: set[int] | None = None, late: set[int] | None = None) -> list[SentMessage]:
    lost, late = lost or set(), late or set()
    return [
        SentMessage(n, "?", None if n in lost else n + 1 if n in late else n) for n in range(1, 101)
    ]


def drawn() -> dict[str, Picture]:
    rows = {"Pub/Sub alone": row(lost=IN_A_GAP), "an inbox": row(late=IN_A_GAP)}
    notes = {"an inbox": "Bob is told: recovered"}
    return {
        "two rows": loss_raster(rows, gaps=GAPS, prediction=20, notes=notes),
        "four rows": loss_raster({**rows, "third": row(), "a name that is too long": row()}),
        "one row": loss_raster({"none lost": row()}, gaps={"x": range(1, 3)}),
    }


def test_every_text_of_the_raster_can_be_read() -> None:
    """Also with a prediction, with notes, and with a long name."""
    assert_no_text_covers_another(figures := drawn())
    assert_no_text_is_clipped(figures)


def test_the_raster_counts_what_was_lost_and_what_was_late() -> None:
    """In its rows, in its title and for those who cannot see it."""
    fig = drawn()["two rows"]
    assert {"40 of 100 lost (you said 20)", "Bob is away", "gateway-02 is deaf"} <= words(fig)
    assert "0 of 100 lost, 40 late; Bob is told: recovered" in words(fig)
    assert fig.wsdemo_facts["lost"] == 40 and fig.wsdemo_facts["least"] == "none"
    assert "Bob is away from 61 to 80" in fig.wsdemo_alt and "You said 20" in fig.wsdemo_alt


def test_a_raster_of_nothing_is_an_error_with_a_reason() -> None:
    """No row, an empty row, or too many."""
    wrong: list[dict[str, list[SentMessage]]] = [
        {},
        {"empty": []},
        {str(n): row() for n in range(5)},
    ]
    for rows in wrong:
        with pytest.raises(ValueError, match="draw 1 to 4 rows"):
            loss_raster(rows)
