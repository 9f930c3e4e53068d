"""Do the figures of many messages, users and trials say what the data say, and can they be read?"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import pytest

from tests.lab.test_plots import TOLERANCE_PX, texts
from wsdemo.lab import Lab
from wsdemo.lab.plots import frames, latency, stages
from wsdemo.lab.plots.journeys import ACROSS, LOCAL, STAGES, latencies
from wsdemo.lab.plots.show import to_html, to_png
from wsdemo.lab.plots.style import Picture, duration, number

MESSAGES = 110


def assert_readable(drawn: Mapping[str, Picture]) -> None:
    """No text covers another one, none is clipped, and words say what the picture shows."""
    for name, fig in drawn.items():
        fig.draw_without_rendering()
        boxes = [(t.get_text(), t.get_window_extent()) for t in texts(fig)]
        for words, box in boxes:
            inside = box.x0 >= -1 and box.y0 >= -1
            inside = inside and box.x1 <= fig.bbox.x1 + 1 and box.y1 <= fig.bbox.y1 + 1
            assert inside, f"{name}: {words!r} is clipped"
        for (a, one), (b, two) in itertools.combinations(boxes, 2):
            overlap_x = min(one.x1, two.x1) - max(one.x0, two.x0)
            overlap_y = min(one.y1, two.y1) - max(one.y0, two.y0)
            collide = overlap_x > TOLERANCE_PX and overlap_y > TOLERANCE_PX
            assert not collide, f"{name}: {a!r} covers {b!r}"
        assert len(fig.wsdemo_alt) >= 40 and fig.wsdemo_caption, name
        assert '<img alt="' in to_html(fig)


def words_of(fig: Picture) -> set[str]:
    return {text.get_text() for text in texts(fig)}


@pytest.fixture(scope="module")
def talked() -> Iterator[pd.DataFrame]:
    """alice talks to bob at her own gateway and to carol at another; the last one finds nobody."""
    with Lab(gateways=2) as lab:
        alice, bob = lab.connect("alice", to="gateway-01"), lab.connect("bob", to="gateway-01")
        carol = lab.connect("carol", to="gateway-02")
        for n in range(MESSAGES):
            for friend in (bob, carol):
                alice.send(friend.name, str(n))
                friend.receive()
        alice.send("nobody", "hello")
        yield lab.trace()


def by_hand(trace: pd.DataFrame) -> dict[str, list[float]]:
    """Recipient -> latencies (s), message by message, from the arrows."""
    arrows: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in trace[trace["msg_id"] != ""].itertuples():
        arrows[row.msg_id][row.kind] = row
    out: dict[str, list[float]] = defaultdict(list)
    for way in arrows.values():
        if "deliver" in way:
            out[way["deliver"].peer].append(way["deliver"].t_recv - way["message"].t)
    return {name: sorted(values) for name, values in out.items()}


class TestMessages:
    """F4: latencies and their stages."""

    def test_every_message_that_arrived_has_a_latency_and_a_way(self, talked: pd.DataFrame) -> None:
        """What found nobody has none; the stages add up to the whole."""
        table = latencies(talked)
        known = by_hand(talked)
        assert len(table) == len(known["bob"]) + len(known["carol"]) == 2 * MESSAGES
        assert set(table[table["way"] == LOCAL]["recipient"]) == {"bob"}
        assert set(table[table["way"] == ACROSS]["recipient"]) == {"carol"}
        assert set(table["sender"]) == {"alice"}
        across = table[table["way"] == ACROSS]
        assert sorted(across["latency_s"]) == pytest.approx(known["carol"])
        assert (table[list(STAGES)].sum(axis=1) - table["latency_s"]).abs().max() < 1e-9
        assert (across[list(STAGES)] > 0).all(axis=None)
        assert table[table["way"] == LOCAL]["to_redis_s"].isna().all()

    def test_a_trace_without_messages_has_no_latencies(self) -> None:
        """An empty table, with its columns."""
        table = latencies(frames.empty())
        assert table.empty and {"msg_id", "way", "latency_s", *STAGES} <= set(table.columns)

    def figures(self, trace: pd.DataFrame) -> dict[str, Picture]:
        bob = latencies(trace).query("recipient == 'bob'")["msg_id"]
        return {
            "both ways": latency(trace, prediction=1.5),
            "far off": latency(trace, prediction=10),
            "the same": latency(trace, prediction=1),
            "one way": latency(trace, {"to bob": bob}),
            "two halves that lie on each other": latency(
                trace, {"even": bob[::2], "odd": bob[1::2]}, prediction=1.2
            ),
            "four": latency(trace, {f"part {n}": bob[n::4] for n in range(4)}),
            "stages": stages(trace),
            "stages of one way": stages(trace[trace["msg_id"].isin(bob)]),
        }

    def test_the_figures_can_be_read(self, talked: pd.DataFrame) -> None:
        """Also when curves lie on each other."""
        drawn = self.figures(talked)
        assert_readable(drawn)
        assert "you said 10 ×" in words_of(drawn["far off"])
        assert "You said 10 times" in drawn["far off"].wsdemo_alt
        labels = [words for words in words_of(drawn["both ways"]) if words.startswith("p99 ")]
        assert len(labels) == 2
        assert not any(words.startswith("p99 ") for words in words_of(drawn["four"])), (
            "of 28 messages there is no 99th of a hundred"
        )

    def test_the_numbers_of_the_title_are_the_data_s(self, talked: pd.DataFrame) -> None:
        """Medians of messages that were sent, and their ratio."""
        fig = latency(talked)
        known = by_hand(talked)
        middle = (MESSAGES - 1) // 2
        bob, carol = known["bob"][middle], known["carol"][middle]
        facts = fig.wsdemo_facts
        assert (facts["fast"], facts["fast_p50"]) == (LOCAL, duration(bob))
        assert (facts["slow"], facts["slow_p50"]) == (ACROSS, duration(carol))
        assert facts["ratio"] == number(carol / bob) and facts["messages"] == 2 * MESSAGES
        assert facts["slow_p99"] == duration(known["carol"][108])
        assert f"{facts['ratio']} times" in fig._suptitle.get_text()
        assert stages(talked).wsdemo_facts["local_p50"] == facts["fast_p50"]
        assert stages(talked).wsdemo_facts["across_p50"] == facts["slow_p50"]

    def test_the_share_of_redis_is_that_of_its_two_stages(self, talked: pd.DataFrame) -> None:
        """Of the sum of the medians."""
        across = latencies(talked).query("way == @ACROSS")
        middle = {stage: sorted(across[stage])[(MESSAGES - 1) // 2] for stage in STAGES}
        share = (middle["to_redis_s"] + middle["from_redis_s"]) / sum(middle.values())
        assert stages(talked).wsdemo_facts["redis_share"] == round(100 * share)

    def test_the_same_figure_gives_the_same_bytes(self, talked: pd.DataFrame) -> None:
        """Pure functions of the trace."""
        for draw in (latency, stages):
            assert to_png(draw(talked)) == to_png(draw(talked))

    def test_nothing_to_draw_is_an_error_in_words(self, talked: pd.DataFrame) -> None:
        """Nothing arrived, an empty group, too many groups, an unknown fact."""
        for draw in (latency, stages):
            with pytest.raises(ValueError, match="no message has arrived"):
                draw(frames.empty())
        with pytest.raises(ValueError, match="group 'nobody' has arrived"):
            latency(talked, {"nobody": ["?"]})
        with pytest.raises(ValueError, match="choose 1 to 4"):
            latency(talked, {str(n): [] for n in range(5)})
        with pytest.raises(ValueError, match="known facts"):
            latency(talked, title="{nonsense}")
