"""Figures of many messages, users and trials: do they agree with the data, and can they be read?"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh

from tests.lab.readable import (
    assert_no_text_covers_another,
    assert_no_text_is_clipped,
    texts,
    words,
)
from wsdemo.drawing.show import to_html, to_png
from wsdemo.drawing.style import Picture
from wsdemo.drawing.words import duration, number
from wsdemo.lab import Lab
from wsdemo.lab.figures.herd import attempts
from wsdemo.lab.leases import false_offline_rate, simulated_false_offline_rate
from wsdemo.lab.plots import false_offline, herd, latency, skew_map, stages
from wsdemo.lab.trace import frames
from wsdemo.lab.trace.journeys import ACROSS, LOCAL, STAGES, latencies, moves

pytestmark = pytest.mark.xdist_group("figures_of_many")

MESSAGES = 110


def assert_readable(drawn: Mapping[str, Picture]) -> None:
    """No text covers another one, none is clipped, and an alt text says what the picture shows."""
    assert_no_text_covers_another(drawn)
    assert_no_text_is_clipped(drawn)
    for name, fig in drawn.items():
        assert len(fig.wsdemo_alt) >= 40 and fig.wsdemo_caption, name
        assert '<img alt="' in to_html(fig)


@pytest.fixture(scope="module")
def talked() -> Iterator[pd.DataFrame]:
    """alice writes to bob at her own gateway and to carol at another; the last message has no
    recipient.
    """
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


def marks_under_words(fig: Picture) -> list[str]:
    """Return the words of the first plot that cover the middle of a mark."""
    ax = fig.axes[0]
    marks = [line for line in ax.lines if line.get_marker() in ("o", "D")]
    middles = [ax.transData.transform(np.asarray(line.get_xydata())[0]) for line in marks]
    assert middles
    return [
        text.get_text()
        for text in ax.texts
        if any(text.get_window_extent().contains(*middle) for middle in middles)
    ]


class TestMessages:
    """Latencies and their stages."""

    def test_every_delivered_message_has_a_latency_and_a_path(self, talked: pd.DataFrame) -> None:
        """A message that reached nobody has none; the stages add up to the whole."""
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
            "two of the same": latency(trace, {"first": bob, "again": bob}),
            "four": latency(trace, {f"part {n}": bob[n::4] for n in range(4)}),
            "stages": stages(trace),
            "stages of one way": stages(trace[trace["msg_id"].isin(bob)]),
        }

    def test_the_figures_can_be_read(self, talked: pd.DataFrame) -> None:
        """Also when curves lie on each other."""
        drawn = self.figures(talked)
        assert_readable(drawn)
        assert "you said 10 ×" in words(drawn["far off"])
        assert "You said 10 times" in drawn["far off"].wsdemo_alt
        for name in ("both ways", "two of the same"):
            labels = [text.get_text() for text in texts(drawn[name])]
            labels = [text for text in labels if text.startswith("p99 ")]
            assert len(labels) == 2, (name, labels)
            assert not marks_under_words(drawn[name]), name
        assert not any(words.startswith("p99 ") for words in words(drawn["four"])), (
            "of 28 messages there is no 99th of a hundred"
        )

    def test_the_numbers_of_the_title_come_from_the_data(self, talked: pd.DataFrame) -> None:
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
        assert f"{facts['ratio']} times" in fig.get_suptitle()
        assert stages(talked).wsdemo_facts["local_p50"] == facts["fast_p50"]
        assert stages(talked).wsdemo_facts["across_p50"] == facts["slow_p50"]

    def test_the_share_of_redis_is_that_of_its_two_stages(self, talked: pd.DataFrame) -> None:
        """As a part of the sum of the medians."""
        across = latencies(talked).query("way == @ACROSS")
        middle = {stage: sorted(across[stage])[(MESSAGES - 1) // 2] for stage in STAGES}
        share = (middle["to_redis_s"] + middle["from_redis_s"]) / sum(middle.values())
        assert stages(talked).wsdemo_facts["redis_share"] == round(100 * share)

    @pytest.mark.slow
    def test_the_same_figure_gives_the_same_bytes(self, talked: pd.DataFrame) -> None:
        """Pure functions of the trace."""
        for draw in (latency, stages):
            assert to_png(draw(talked)) == to_png(draw(talked))

    def test_empty_input_is_an_error_with_a_reason(self, talked: pd.DataFrame) -> None:
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


CAPACITY = 100
USERS = 400


def coming_back(pause_s: Callable[[int, random.Random], float], seed: int = 1) -> pd.DataFrame:
    """Attempts of users with pauses between them; each tenth of a second accepts a fixed number."""
    rng = random.Random(seed)
    trying = [(0.0, user, 0) for user in range(USERS)]
    taken: Counter[int] = Counter()
    rows = []
    while trying:
        t, user, tries = heapq.heappop(trying)
        accepted = taken[int(t * 10)] < CAPACITY // 10
        taken[int(t * 10)] += accepted
        rows.append((t, f"user{user}", accepted))
        if not accepted:
            heapq.heappush(trying, (t + pause_s(tries, rng), user, tries + 1))
    return pd.DataFrame(rows, columns=["t", "user", "accepted"])


@pytest.fixture(scope="module")
def runs() -> dict[str, pd.DataFrame]:
    """Models of three policies."""
    return {
        "every second": coming_back(lambda tries, rng: 1.0),
        "exponential": coming_back(lambda tries, rng: min(60.0, 2.0**tries)),
        "full jitter": coming_back(lambda tries, rng: rng.random() * min(60.0, 2.0**tries)),
    }


class TestHerd:
    """Attempts and accepted ones."""

    def test_the_figures_can_be_read(self, runs: dict[str, pd.DataFrame]) -> None:
        """Several rows, one, a user who never comes back, and a capacity that is never reached."""
        cut = runs["full jitter"].iloc[:-1]
        drawn = {
            "three": herd(runs, CAPACITY),
            "one": herd({"full jitter": runs["full jitter"]}, CAPACITY),
            "never": herd({"cut short": cut, "every second": runs["every second"]}, CAPACITY),
            "room for all": herd({"full jitter": runs["full jitter"]}, 1_000_000),
            "the first seconds": herd(runs, CAPACITY, until_s=3.0, bin_s=0.5),
            "six": herd(dict(zip("abcdef", [*runs.values()] * 2, strict=True)), 9),
        }
        assert_readable(drawn)
        assert any(words.startswith("1 user never back") for words in words(drawn["never"]))
        assert "1 user never back" in drawn["never"].wsdemo_alt
        assert any(words.endswith("→") for words in words(drawn["three"])), "beyond the axis"

    def test_the_numbers_of_the_title_are_counted(self, runs: dict[str, pd.DataFrame]) -> None:
        """Last user back, attempts per user and peaks, from the rows."""
        fig = herd(runs, CAPACITY)
        facts = fig.wsdemo_facts
        last = {name: max(run[run["accepted"]]["t"]) for name, run in runs.items()}
        best, worst = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
        assert (facts["best"], facts["best_s"]) == (best, last[best])
        assert (facts["worst"], facts["worst_s"]) == (worst, last[worst])
        assert facts["best_end"] == f"after {number(last[best])} s"
        assert facts["best_end"] in fig.get_suptitle()
        assert facts["worst_attempts"] == f"{number(len(runs[worst]) / USERS)} attempts"
        busiest = max(Counter(int(t * 10) for t in runs[worst]["t"]).values())
        assert facts["worst_peak"] == number(busiest * 10)
        assert facts["users"] == USERS

    def test_a_user_who_never_returns_is_the_worst(self, runs: dict[str, pd.DataFrame]) -> None:
        """Whatever the time of the others."""
        cut = runs["full jitter"].iloc[:-1]
        facts = herd({"cut": cut, "slow": runs["exponential"]}, CAPACITY).wsdemo_facts
        assert (facts["worst"], facts["worst_end"]) == ("cut", "never")

    def test_attempts_of_real_users_are_in_the_trace(self) -> None:
        """Ten of twenty users lose their gateway; the first attempts, before that, do not count."""
        with Lab(gateways=2, scale=60) as lab:
            crowd = lab.connect_many(20)
            before = attempts(lab.trace(), scale=lab.scale)
            assert len(before) == 20 and before["accepted"].all()
            gone = {user.name for user in crowd if user.gateway == "gateway-01"}
            lab.crash("gateway-01")
            lab.wait_until("all are back", lambda: all(user.gateway for user in crowd))
            tried = attempts(lab.trace(), scale=lab.scale)
        assert set(tried[tried["accepted"]]["user"]) == gone
        assert (tried["t"] >= 0).all()
        fig = herd({"the client's": tried}, capacity=10, bin_s=0.5)
        assert fig.wsdemo_facts["users"] == len(gone) == 10
        assert_readable({"real": fig})

    def test_an_attempt_without_a_registration_was_not_accepted(self) -> None:
        """A socket that the client gave up has no user; one without `registered` has one."""
        rows = [
            (1.0, "gateway-01", "ws_open", "", "gateway-01"),
            (1.1, "alice", "ws_open", "alice", ""),
            (1.2, "gateway-01", "ws_open", "", "gateway-01"),
            (1.3, "gateway-01", "ws_open", "", "gateway-01"),
            (1.4, "alice", "ws_open", "alice", ""),
            (1.5, "alice", "registered", "alice", "gateway-01"),
        ]
        trace = pd.DataFrame(rows, columns=["t", "lane", "kind", "user", "gateway"])
        found = attempts(trace, scale=10, since=5)
        assert found["t"].tolist() == pytest.approx([5, 7, 8])
        assert found["user"].tolist() == ["alice", "", "alice"]
        assert found["accepted"].tolist() == [False, False, True]

    @pytest.mark.slow
    def test_the_same_figure_gives_the_same_bytes(self, runs: dict[str, pd.DataFrame]) -> None:
        """A pure function of the runs."""
        assert to_png(herd(runs, CAPACITY)) == to_png(herd(runs, CAPACITY))

    def test_empty_input_is_an_error_with_a_reason(self, runs: dict[str, pd.DataFrame]) -> None:
        """No run, an empty one, and numbers that cannot be."""
        with pytest.raises(ValueError, match="1 to 6 rows"):
            herd({}, CAPACITY)
        with pytest.raises(ValueError, match="nobody tried to come back under 'nothing'"):
            herd({"nothing": attempts(frames.empty())}, CAPACITY)
        with pytest.raises(ValueError, match="positive numbers"):
            herd(runs, 0)


def measured(wrong: int = 0) -> pd.DataFrame:
    """Registrations that follow the rule, except for a given number."""
    rng = np.random.default_rng(3)
    points = pd.DataFrame(
        {
            "gap_s": rng.uniform(0, 25, 60).round(1),
            "skew_s": rng.choice([-30.0, -10.0, 0.0, 10.0, 20.0, 30.0], 60),
        }
    )
    points["rejected"] = points["skew_s"] > points["gap_s"]
    points.loc[: wrong - 1, "rejected"] = ~points["rejected"]
    return points


class TestSkewMap:
    """Gap, skew, rejected or not."""

    def test_the_figures_can_be_read(self) -> None:
        """Many points, one, all of one result, and another rule."""
        points = measured()
        drawn = {
            "many": skew_map(points),
            "one": skew_map(points[:1]),
            "nobody rejected": skew_map(points[~points["rejected"]]),
            "faster clocks only": skew_map(points[points["skew_s"] < 0]),
            "a softer rule": skew_map(points, share=lambda g, s: np.clip((s - g) / 30, 0, 1)),
            "thousands": skew_map(pd.concat([points] * 30, ignore_index=True)),
        }
        assert_readable(drawn)

    def test_the_numbers_of_the_title_are_counted(self) -> None:
        """How many were rejected, and how many of all agree with the rule."""
        points = measured(wrong=4)
        fig = skew_map(points)
        facts = fig.wsdemo_facts
        rejected = sum(points["rejected"])
        assert (facts["attempts"], facts["rejected"]) == (60, rejected)
        assert facts["accepted"] == 60 - rejected
        assert (facts["agree"], facts["differ"]) == (56, 4)
        assert "56 of 60" in fig.get_suptitle()
        assert f"{rejected} were rejected" in fig.wsdemo_alt

    def test_a_cell_shows_the_share_that_the_rule_rejects(self) -> None:
        """All of it far above the line, none far below, and about half on it."""
        fig = skew_map(pd.DataFrame({"gap_s": [10.0], "skew_s": [10.0], "rejected": [False]}))
        (mesh,) = (c for c in fig.axes[0].collections if isinstance(c, QuadMesh))
        shares = np.asarray(mesh.get_array()).reshape(8, 12)
        assert shares[-1, 0] == 1 and shares[0, -1] == 0
        assert shares.mean() == pytest.approx(0.5, abs=0.06)

    @pytest.mark.slow
    def test_the_same_figure_gives_the_same_bytes(self) -> None:
        """A pure function of the points."""
        assert to_png(skew_map(measured())) == to_png(skew_map(measured()))

    def test_empty_input_is_an_error_with_a_reason(self) -> None:
        """No points."""
        with pytest.raises(ValueError, match="no registration was measured"):
            skew_map(measured()[:0])


def suffered(*rows: tuple[float, float, float, int, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["heartbeat_s", "ttl_s", "loss", "events", "user_hours"])


class TestFalseOffline:
    """Rates over TTL and loss."""

    def test_the_figures_can_be_read(self) -> None:
        """The mark of the demo, one in each corner, with dots on it and beside it."""
        demo = (30, 90, 0.05)
        drawn = {
            "the demo's": false_offline(),
            "corner": false_offline(ttl_s=150, loss=0.5),
            "other corner": false_offline(ttl_s=30, loss=0.001),
            "one lost heartbeat is fatal": false_offline(ttl_s=60),
            "another heartbeat": false_offline(heartbeat_s=10, ttl_s=35, loss=0.2),
            "measured": false_offline(suffered((*demo, 7, 25.0))),
            "many": false_offline(
                suffered((*demo, 7, 25.0), (30, 90, 0.2, 22, 10), (20, 90, 0.05, 0, 9.5))
            ),
        }
        assert_readable(drawn)
        assert "measured 0.28 (0.11 to 0.58)" in words(drawn["measured"])
        assert "Measured at 4.5 heartbeats and 5.0% loss: 0 (0 to 0.39) an hour" in (
            drawn["many"].wsdemo_alt
        )

    def test_the_numbers_of_the_title_come_from_the_rule_and_the_data(self) -> None:
        """The same as in a simulation, and as a division by hand."""
        fig = false_offline(suffered((30, 90, 0.2, 30, 12.0)), loss=0.2)
        facts = fig.wsdemo_facts
        counted = simulated_false_offline_rate(30, 90, 0.2, user_hours=50_000)
        assert float(facts["rate"]) == pytest.approx(counted, rel=0.05)
        assert facts["rate"] == number(120 * 0.8 * 0.2**2)
        assert facts["longer_rate"] == number(120 * 0.8 * 0.2**3)
        assert (facts["losses"], facts["ratio"], facts["loss"]) == (2, "3", "20")
        assert (facts["events"], facts["measured_rate"]) == (30, "2.5")
        assert f"{facts['rate']} times an hour" in fig.get_suptitle()

    def test_exactly_three_heartbeats_belong_to_the_lower_column(self) -> None:
        """The column that ends at 3 holds the rate of exactly 3, and the next one that of more."""
        (mesh,) = (c for c in false_offline().axes[0].collections if isinstance(c, QuadMesh))
        rates = np.asarray(mesh.get_array()).reshape(-1, 4)
        edges = np.asarray(mesh.get_coordinates())[:, 0, 1]
        row = 60
        loss = (edges[row] * edges[row + 1]) ** 0.5
        assert rates[row, 1] == pytest.approx(false_offline_rate(30, 90, loss))
        assert rates[row, 2] == pytest.approx(false_offline_rate(30, 91, loss))

    @pytest.mark.slow
    def test_the_same_figure_gives_the_same_bytes(self) -> None:
        """A pure function of its arguments."""
        assert to_png(false_offline()) == to_png(false_offline())

    def test_invalid_input_is_an_error_with_a_reason(self) -> None:
        """Nothing measured, and what lies beyond the map."""
        with pytest.raises(ValueError, match="leave `measured` out"):
            false_offline(suffered())
        with pytest.raises(ValueError, match="leave `measured` out"):
            false_offline(suffered((30, 90, 0.05, 0, 0.0)))
        with pytest.raises(ValueError, match="is not on the map"):
            false_offline(ttl_s=3600)
        with pytest.raises(ValueError, match="is not on the map"):
            false_offline(suffered((30, 90, 0.9, 3, 1.0)))


def test_a_trace_shows_which_moves_a_clock_refused() -> None:
    """Gap since the old gateway's last write, skew from the trace, and the verdict."""
    rows = [
        ("redis", "presence_set", "alice", "gateway-01", 0.0, True, ""),
        ("gateway-02", "fault", "", "gateway-02", 0.1, True, "clock -10 s"),
        ("redis", "presence_refresh", "alice", "gateway-01", 0.5, True, "ok"),
        ("redis", "presence_reject", "alice", "gateway-02", 0.6, False, "stale register"),
        ("redis", "presence_reject", "alice", "gateway-01", 0.65, False, "other owner"),
        ("redis", "presence_set", "alice", "gateway-02", 0.8, True, ""),
        ("redis", "presence_set", "alice", "gateway-02", 0.9, True, ""),
        ("redis", "presence_del", "alice", "gateway-02", 1.0, True, ""),
        ("redis", "presence_set", "alice", "gateway-01", 1.1, True, ""),
    ]
    names = ["lane", "kind", "user", "gateway", "t", "ok", "reason"]
    trace = pd.DataFrame(rows, columns=names)
    trace.loc[trace["kind"] == "fault", "clock_error_s"] = -10.0
    found = moves(trace, 60)
    assert found["gap_s"].tolist() == pytest.approx([6.0, 18.0])
    assert found["skew_s"].tolist() == [10.0, 10.0]
    assert found["rejected"].tolist() == [True, False]
