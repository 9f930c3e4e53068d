"""The story of a user: does the figure show which write changed her entry, and whose it was?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from tests.lab.readable import (
    assert_no_text_covers_another,
    assert_no_text_is_clipped,
    texts,
    words,
)
from wsdemo.drawing.style import FONT_PT, GREEN, VERMILLION, Picture
from wsdemo.lab import Lab
from wsdemo.lab.figures.story import KEPT, KILLS
from wsdemo.lab.plots import story
from wsdemo.lab.trace import frames

pytestmark = pytest.mark.xdist_group("plots")

TITLE = "{late} deletes an entry that is {owner}'s"


def ride(policy: str) -> Picture:
    """Draw the late clean-up of alice's old connection, and a message to her after it."""
    with Lab(gateways=2, policy=policy) as lab:
        bob, alice = lab.connect("bob"), lab.connect("alice")
        lab.hold_cleanup("alice", at="gateway-01")
        alice.move("gateway-02")
        lab.let_go("alice", at="gateway-01")
        receipt = bob.send("alice", "Are you there?")
        if receipt.status == "routed":
            alice.receive()
        return lab.plot.story("alice", title=TITLE, steps=10)


@pytest.fixture(scope="module")
def drawn() -> Iterator[tuple[Picture, Picture]]:
    """Under the Go demo's rule, and under the product's."""
    yield ride("go-demo"), ride("fenced")


def label(fig: Picture, beginning: str) -> Text:
    (found,) = [text for text in texts(fig) if text.get_text().startswith(beginning)]
    return found


def strip(fig: Picture, name: str) -> list[str]:
    """Return what stands in one of the strips, from left to right."""
    (ax,) = fig.axes
    places = dict(
        zip((tick.get_text() for tick in ax.get_yticklabels()), ax.get_yticks(), strict=True)
    )
    inside = [text for text in ax.texts if abs(text.get_position()[1] - places[name]) < 0.01]
    return [text.get_text() for text in sorted(inside, key=lambda text: text.get_position()[0])]


def test_the_release_that_removes_anothers_entry_has_the_colour_of_an_alarm(
    drawn: tuple[Picture, Picture],
) -> None:
    """Its label says whose release of whom it is; the rejected one looks different."""
    demo, fenced = drawn
    killing, kept = label(demo, "gateway-01:"), label(fenced, "gateway-01:")
    assert killing.get_text() == "gateway-01:\nrelease alice"
    assert killing.get_color() == KILLS.colour == VERMILLION
    assert kept.get_text() == "gateway-01:\nrelease alice\n→ other owner"
    assert kept.get_color() == KEPT.colour == GREEN


def test_under_each_write_stands_what_redis_says(drawn: tuple[Picture, Picture]) -> None:
    """Beside it, where her socket is: after the late release, the two differ."""
    demo, fenced = drawn
    assert strip(demo, "alice is at") == ["gateway-01", "gateway-02"]
    assert strip(demo, "Redis says") == ["gateway-01", "gateway-02", "nothing"]
    assert strip(fenced, "alice is at") == strip(fenced, "Redis says")


def test_what_the_client_does_itself_is_drawn(drawn: tuple[Picture, Picture]) -> None:
    """She registers, leaves, and registers elsewhere; bob is told that she is offline."""
    demo, fenced = drawn
    for fig in drawn:
        said = fig.wsdemo_alt
        assert "alice to gateway-01: register" in said and "alice to gateway-01: leave" in said
        assert said.index("alice to gateway-01: leave") < said.index("alice to gateway-02: reg")
    assert {"look up → offline", "“offline”", "leave"} <= words(demo)
    assert "gateway-02 to alice: deliver" in fenced.wsdemo_alt


def test_the_title_names_who_deleted_whose_entry(drawn: tuple[Picture, Picture]) -> None:
    """Both names come from the trace."""
    for fig in drawn:
        assert fig.get_suptitle() == "gateway-01 deletes an entry that is gateway-02's"


def test_two_stories_have_the_same_layout(drawn: tuple[Picture, Picture]) -> None:
    """The same lanes, the same axis, and the late release at the same place."""
    one, two = (fig.axes[0] for fig in drawn)
    assert [t.get_text() for t in one.get_yticklabels()] == [
        t.get_text() for t in two.get_yticklabels()
    ]
    assert one.get_xlim() == pytest.approx(two.get_xlim())
    places = [label(fig, "gateway-01:").get_position()[0] for fig in drawn]
    assert places[0] == pytest.approx(places[1])


def test_every_text_of_a_story_can_be_read(drawn: tuple[Picture, Picture]) -> None:
    """None covers another, none is clipped, and none is smaller than 11 pt as it is shown."""
    figures = {"demo": drawn[0], "fenced": drawn[1]}
    assert_no_text_covers_another(figures)
    assert_no_text_is_clipped(figures)
    for fig in drawn:
        assert all(float(text.get_fontsize()) >= FONT_PT for text in texts(fig))


@pytest.fixture(scope="module")
def refused() -> Picture:
    """Draw how alice is sent back, because the clock of the new gateway is slow."""
    with Lab(gateways=2, policy="timestamp", clocks={"gateway-02": -10}) as lab:
        lab.delay_cleanups(60)
        alice = lab.connect("alice", to="gateway-01")
        lab.let_pass(5)
        alice.move("gateway-02")
        lab.wait_until("the clean-up is late", lambda: OTHER_OWNER in set(lab.trace()["reason"]))
        return lab.plot.story("alice", title="{user} is sent back")


OTHER_OWNER = "other owner"


def test_what_was_refused_is_labelled_and_not_what_the_client_asked(refused: Picture) -> None:
    """The words of each refusal stand between two lanes, and touch neither."""
    bold = [text for text in refused.axes[0].texts if text.get_fontweight() == "bold"]
    assert sorted(text.get_text() for text in bold) == [
        "gateway-01:\nrelease alice\n→ other owner",
        "gateway-02:\nregister alice\n→ stale register",
    ]
    (ax,) = refused.axes
    lanes = [ax.transData.transform((0, y))[1] for y in range(4)]
    for text in bold:
        box = text.get_window_extent()
        assert not [y for y in lanes if box.y0 < y < box.y1], text.get_text()
    assert_no_text_covers_another({"refused": refused})
    assert_no_text_is_clipped({"refused": refused})


def test_the_name_of_a_gateway_fits_into_its_piece_of_a_strip(
    drawn: tuple[Picture, Picture], refused: Picture
) -> None:
    """Otherwise nobody could see where the piece ends."""
    for fig in (*drawn, refused):
        (ax,) = fig.axes
        boxes = [b.get_window_extent() for b in ax.patches if isinstance(b, Rectangle)]
        inside = [text for text in ax.texts if text.get_text() in ("gateway-01", "gateway-02")]
        assert inside
        for text in inside:
            extent = text.get_window_extent()
            (x, y) = extent.p0 + (extent.p1 - extent.p0) / 2
            mine = [box for box in boxes if box.contains(x, y)]
            assert mine and all(extent.width < box.width for box in mine)


def test_a_story_of_nobody_is_refused() -> None:
    """Neither is one that is too long to be read drawn."""
    with pytest.raises(ValueError, match="nothing in this trace is about dora"):
        story(frames.empty(), "dora")
    with Lab(gateways=2) as lab:
        alice = lab.connect("alice")
        for n in range(5):
            alice.move(f"gateway-0{2 - n % 2}")
        with pytest.raises(ValueError, match="too many to read, at most 16"):
            lab.plot.story("alice")
