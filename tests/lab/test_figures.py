"""Figures of leases, consistency, verdicts, detection and availability: do they show what happened?

Most traces here are written by hand, in production seconds, so that the correct answer does not
come from the code under test; some are of real gateways.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from tests.lab.readable import (
    assert_no_text_covers_another,
    assert_no_text_is_clipped,
    texts,
    words,
)
from wsdemo import Timing
from wsdemo.drawing.show import to_html, to_png
from wsdemo.drawing.style import INK, NOTE, PAGE_DPI, Picture
from wsdemo.lab import Lab
from wsdemo.lab.figures.availability import ROLES, service_of
from wsdemo.lab.figures.detection import detection_delays
from wsdemo.lab.figures.fault_lines import faults
from wsdemo.lab.figures.ledger import RUG_ROOM, RUGS, RUNS
from wsdemo.lab.figures.runs import RecordedRun
from wsdemo.lab.plots import availability, deaths, detection, ledger, ribbons, sawtooth
from wsdemo.lab.trace import frames

pytestmark = pytest.mark.xdist_group("figures")

SCALE = 60.0
TTL_S = 90.0
HEARTBEAT_S = 30.0
MOMENT_S = 0.06
"""Production seconds between the write of an entry and `registered` at its client."""
LONG = "alice-whose-name-does-not-end-for-a-very-long-time"
ODD = "$bob_{x}$\nand more"


class Story:
    """Writes a trace by hand. All times in production seconds."""

    def __init__(self, token: int = 1) -> None:
        self._rows: list[dict[str, Any]] = []
        self._token = token

    def row(self, t: float, lane: str, kind: str, **fields: Any) -> None:
        self._rows.append({"t": t / SCALE, "lane": lane, "kind": kind, **fields})

    def write(self, t: float, user: str, gateway: str, conn: str, kind: str, **more: Any) -> None:
        fields: dict[str, Any] = {"user": user, "gateway": gateway, "conn_id": conn}
        fields |= {"peer": frames.REDIS, "t_recv": t / SCALE, "token": self._token}
        self.row(t, gateway, f"presence_{kind}", **{**fields, **more})

    def reject(self, t: float, user: str, gateway: str, conn: str, reason: str) -> None:
        self.write(t, user, gateway, conn, "reject", ok=False, reason=reason)

    def arrive(self, t: float, user: str, gateway: str, conn: str) -> None:
        self.write(t, user, gateway, conn, "set")
        told = {"user": user, "gateway": gateway, "conn_id": conn}
        self.row(t + MOMENT_S, user, "registered", **told)

    def leave(self, t: float, user: str, conn: str, reason: str) -> None:
        self.row(t, user, "ws_close", user=user, conn_id=conn, reason=reason)

    def goodbye(self, t: float, user: str, gateway: str, conn: str) -> None:
        """A client that closes does not report it; its gateway does."""
        self.row(t, gateway, "ws_close", user=user, gateway=gateway, conn_id=conn)
        self.write(t, user, gateway, conn, "del")

    def crash(self, t: float, gateway: str, *connections: tuple[str, str]) -> None:
        self.row(t, gateway, "crash", gateway=gateway)
        for user, conn in connections:
            self.leave(t + MOMENT_S, user, conn, "closed with 1006")

    def cleanup(self, t: float, user: str, gateway: str, conn: str) -> None:
        self.row(t, gateway, "cleanup", user=user, gateway=gateway, conn_id=conn)

    def watch(self, user: str, gateway: str, conn: str, renewed: list[float], until: float) -> None:
        """Sample each second a lease that is renewed at these times, and ends or goes on."""
        t = renewed[0]
        while t <= until:
            left_s = max(0.0, max(r for r in renewed if r <= t) + TTL_S - t)
            named = {"gateway": gateway, "conn_id": conn} if left_s else {}
            self.row(t, frames.REDIS, "pttl", user=user, ts_current=1000 * left_s, **named)
            t += 1.0
        for moment in renewed[1:]:
            self.write(moment, user, gateway, conn, "refresh", reason="ok")

    def scan(self, t: float) -> None:
        """Add an event at this time, so that the trace lasts until then."""
        self.row(t, "gateway-01", "scan", gateway="gateway-01")

    def trace(self) -> pd.DataFrame:
        return frames.normal(pd.DataFrame(self._rows))


def crashed(users: list[str], *, back_after_s: float = 4.0, until: float = 120.0) -> pd.DataFrame:
    """All are at gateway-01, which crashes at 60; they come back one after the other, at
    gateway-02.
    """
    story = Story()
    for n, user in enumerate(users):
        story.arrive(1 + 0.1 * n, user, "gateway-01", f"{n} old")
    story.crash(60, "gateway-01", *((user, f"{n} old") for n, user in enumerate(users)))
    for n, user in enumerate(users):
        story.arrive(60 + back_after_s * (n + 1), user, "gateway-02", f"{n} new")
    story.scan(until)
    return story.trace()


def watched(users: list[str]) -> pd.DataFrame:
    """All are watched and renew three times; then their gateway crashes at 70, and nobody comes
    back.
    """
    story = Story()
    for n, user in enumerate(users):
        story.arrive(1 + n, user, "gateway-01", f"{n}")
        story.watch(user, "gateway-01", f"{n}", [1 + n, 31 + n, 61 + n], 170)
    story.crash(70, "gateway-01")
    return story.trace()


def vanished(users: list[str], delays_s: list[float]) -> pd.DataFrame:
    """They vanish one after the other, and each is detected after a given time."""
    story = Story()
    for n, (user, delay_s) in enumerate(zip(users, delays_s, strict=True)):
        story.arrive(1 + n, user, "gateway-01", f"{n}")
        story.leave(50 + n, user, f"{n}", "vanished")
        story.cleanup(50 + n + delay_s, user, "gateway-01", f"{n}")
        story.write(51 + n + delay_s, user, "gateway-01", f"{n}", "del")
    return story.trace()


def late(users: list[str], *, accepted: bool) -> pd.DataFrame:
    """All move at 40; the release of the old connection comes late, at 50 and on."""
    story = Story(token=0 if accepted else 1)
    for n, user in enumerate(users):
        story.arrive(1 + 0.1 * n, user, "gateway-01", f"{n} old")
        story.leave(40 + n - 1, user, f"{n} old", "closed with 1000")
        story.arrive(40 + n, user, "gateway-02", f"{n} new")
        if accepted:
            story.write(50 + n, user, "gateway-01", f"{n} old", "del")
        else:
            story.reject(50 + n, user, "gateway-01", f"{n} old", "other owner")
    story.scan(50 + len(users) + 20)
    return story.trace()


def run(trace: pd.DataFrame) -> RecordedRun:
    return RecordedRun(trace, SCALE, TTL_S)


def two_rules(users: list[str]) -> dict[str, RecordedRun]:
    """Late releases under two rules; under the first, each comes twice."""
    twice = late(users, accepted=True)
    again = twice[twice["kind"] == "presence_del"].assign(
        kind="presence_reject", ok=False, reason=frames.NO_ENTRY
    )
    again = again.assign(t=again["t"] + 1 / SCALE, t_recv=again["t_recv"] + 1 / SCALE)
    return {
        "the demo's rule": run(frames.normal(pd.concat([twice, again]))),
        "compare-and-set": run(late(users, accepted=False)),
    }


def named(n: int) -> list[str]:
    return [f"user{k:03}" for k in range(1, n + 1)]


CASTS = {"one": ["alice"], "three": ["alice", "bob", "carol"], "eight": named(8)}
CASTS |= {"long names": [LONG, ODD]}


def figures(users: list[str]) -> dict[str, Picture]:
    delays_s = [65 + 70 * n / len(users) for n in range(len(users))]
    return {
        "sawtooth": sawtooth(watched(users[:6]), users[:6], scale=SCALE, prediction=50),
        "ribbons": ribbons(crashed(users), scale=SCALE),
        "ledger": ledger(two_rules(users)),
        "deaths": deaths(
            {"crash": run(crashed(users)), "another crash": run(crashed(users, back_after_s=9))}
        ),
        "detection": detection(vanished(users, delays_s), scale=SCALE),
        "availability": availability(crashed(users), scale=SCALE),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, Picture]:
    out = {
        f"{name} of {cast}": fig
        for cast, users in CASTS.items()
        for name, fig in figures(users).items()
    }
    hundred = crashed(named(100), back_after_s=0.3)
    out["availability of a hundred"] = availability(hundred, scale=SCALE)
    out["ribbons of a hundred"] = ribbons(hundred, scale=SCALE)
    return out


def title(fig: Picture) -> str:
    return fig.get_suptitle()


# --- every figure -----------------------------------------------------------------------------


def test_no_two_texts_of_a_figure_overlap(drawn: Mapping[str, Picture]) -> None:
    """Every label can be read, with one user, with a hundred, and with long names."""
    assert_no_text_covers_another(drawn)


@pytest.mark.slow
def test_no_text_leaves_the_figure(drawn: Mapping[str, Picture]) -> None:
    """Nothing is clipped at the edge."""
    assert_no_text_is_clipped(drawn)


def test_no_text_of_a_figure_is_smaller_than_eleven_points(drawn: Mapping[str, Picture]) -> None:
    """As shown: a figure is no wider than the output of a cell, so it is not made smaller."""
    for name, fig in drawn.items():
        assert fig.get_figwidth() * PAGE_DPI <= 830, name
        assert min(float(text.get_fontsize()) for text in texts(fig)) >= 11, name


def test_a_figure_can_be_seen_on_a_white_page_and_on_a_dark_one(
    drawn: Mapping[str, Picture],
) -> None:
    """Its ground is transparent, and its grey has a contrast of more than 4 to either page."""
    with Image.open(io.BytesIO(to_png(drawn["ribbons of one"]))) as image:
        alpha = image.convert("RGBA").getchannel("A")
    assert alpha.getpixel((0, 0)) == 0 and alpha.histogram()[0] > alpha.width * alpha.height / 3

    def light(colour: str) -> float:
        parts = [float(((c + 0.055) / 1.055) ** 2.4) for c in to_rgb(colour)]
        return 0.05 + sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    assert light("#ffffff") / light(INK) > 4 < light(INK) / light("#111111")


def test_every_figure_has_an_alt_text_and_a_caption(drawn: Mapping[str, Picture]) -> None:
    """The caption says how much faster than production time the clock ran."""
    for name, fig in drawn.items():
        assert len(fig.wsdemo_alt) >= 40, name
        assert "by a clock 60 times as fast" in fig.wsdemo_caption, name


def test_the_html_of_a_figure_contains_alt_text_and_caption(drawn: Mapping[str, Picture]) -> None:
    """Names are escaped in HTML as well."""
    html = to_html(drawn["ribbons of long names"])
    assert '<img alt="Two ribbons' in html and "<figcaption>" in html


def test_nouns_agree_with_their_number(drawn: Mapping[str, Picture]) -> None:
    """One user is not "1 users"."""
    for name, fig in drawn.items():
        if name.endswith(" of one"):
            said = f"{title(fig)} {fig.wsdemo_alt} {' '.join(words(fig))}"
            assert "1 users" not in said.replace("of 1 users", "")


@pytest.mark.slow
def test_the_same_trace_gives_the_same_bytes() -> None:
    """Each figure is a pure function of the trace."""
    once, again = ([to_png(fig) for fig in figures(["alice"]).values()] for _ in range(2))
    assert once == again


def test_a_figure_changes_nothing_in_its_trace() -> None:
    """The next figure is drawn from the same one."""
    for draw, trace in (
        (ribbons, crashed(["a"])),
        (availability, crashed(["a"])),
        (detection, vanished(["a"], [70])),
        (lambda trace, scale: ledger({"": run(trace)}), late(["a"], accepted=True)),
        (lambda trace, scale: deaths({"": run(trace)}), crashed(["a"])),
    ):
        before = trace.copy()
        draw(trace, scale=SCALE)
        pd.testing.assert_frame_equal(trace, before)


@pytest.mark.parametrize(
    ("draw", "why"),
    [
        (lambda trace: sawtooth(trace, ["alice"]), r"nobody of these was watched: call lab\.watch"),
        (ribbons, "nobody of these was ever registered"),
        (lambda trace: ledger({"": RecordedRun(trace)}), "presence was never asked"),
        (lambda trace: deaths({"": RecordedRun(trace)}), "nobody of these was ever registered"),
        (detection, "nobody has vanished and been found"),
        (availability, "nobody of these was ever registered"),
    ],
)
def test_an_empty_trace_is_an_error_with_a_reason(
    draw: Callable[[pd.DataFrame], Picture], why: str
) -> None:
    """It is not drawn as an empty figure."""
    with pytest.raises(ValueError, match=why):
        draw(frames.empty())


def test_a_title_with_an_unknown_fact_lists_the_known_ones() -> None:
    """The reader writes the template; the error helps to correct it."""
    with pytest.raises(
        ValueError, match="known facts: longest_s, mean_s, users, wrong_s, wrong_users"
    ):
        ribbons(crashed(["alice"]), scale=SCALE, title="{nonsense}")


def test_colour_is_never_the_only_difference() -> None:
    """What differs in colour differs in hatch, in dash, or has a row with its own words."""
    assert len({role.hatch for role in ROLES.values()}) == len(ROLES)
    assert len({role.dash for role in RUNS}) == len(RUNS)
    assert {f"3 {said}" for said in RUGS.values()} <= words(ledger(two_rules(named(3))))


def test_the_same_accident_to_several_users_has_one_label() -> None:
    """And a wire that drops because the lid was shut is not a second accident."""
    story = Story()
    for gateway in ("gateway-01", "gateway-02", "gateway-03"):
        story.row(5, gateway, "fault", reason="cleans up 20 s too late")
    story.row(9, "alice", "fault", reason="wire drops")
    story.leave(9, "alice", "1", "vanished")
    story.row(20, frames.REDIS, "crash")
    said = [fault.words for fault in faults(story.trace())]
    assert said == [
        "gateway-01 and 2 more: cleans up 20 s too late",
        "alice vanishes",
        "Redis crashes",
    ]


# --- truth and belief -------------------------------------------------------------------------


def test_a_normal_close_ends_the_stay_of_a_user() -> None:
    """The client reports nothing when it leaves, but its gateway does."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "1")
    story.goodbye(20, "alice", "gateway-01", "1")
    story.scan(60)
    (stay,) = frames.truth(story.trace())
    assert stay.end == pytest.approx(20 / SCALE)
    assert ribbons(story.trace(), scale=SCALE).wsdemo_facts["wrong_s"] == 0


def test_a_late_close_of_an_old_connection_ends_no_newer_stay() -> None:
    """A gateway that notices a close late reports the old connection."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "old")
    story.arrive(10, "alice", "gateway-02", "new")
    story.row(30, "gateway-01", "ws_close", user="alice", gateway="gateway-01", conn_id="old")
    story.scan(60)
    assert frames.where(frames.truth(story.trace()), 45 / SCALE) == "gateway-02"


def test_a_refresh_without_comparison_does_not_restore_an_entry() -> None:
    """The Go demo's refresh of a missing entry makes half an entry, which names no gateway."""
    story = Story(token=0)
    story.arrive(1, "alice", "gateway-02", "1")
    story.write(10, "alice", "gateway-01", "old", "del")
    story.write(20, "alice", "gateway-02", "1", "refresh", reason="ok")
    story.scan(60)
    assert frames.where(frames.belief(story.trace()), 40 / SCALE) == ""
    assert ribbons(story.trace(), scale=SCALE).wsdemo_facts["wrong_s"] == 50


def test_a_refresh_without_comparison_does_not_change_the_gateway() -> None:
    """It renews whatever entry is there, and a newer connection keeps its place."""
    story = Story(token=0)
    story.arrive(1, "alice", "gateway-02", "new")
    story.write(20, "alice", "gateway-01", "old", "refresh", reason="ok")
    story.scan(60)
    assert frames.where(frames.belief(story.trace()), 40 / SCALE) == "gateway-02"


def test_a_refresh_that_reclaims_sets_the_gateway() -> None:
    """The entry was lost, or belonged to another session, and is hers again."""
    story = Story(token=0)
    story.arrive(1, "alice", "gateway-02", "1")
    story.write(10, "alice", "gateway-01", "old", "del")
    story.write(20, "alice", "gateway-02", "1", "refresh", reason="reclaimed")
    story.scan(60)
    assert frames.where(frames.belief(story.trace()), 40 / SCALE) == "gateway-02"


def test_a_sampled_half_entry_names_nobody() -> None:
    """A sampled lease without a gateway does not say where she is."""
    story = Story(token=0)
    story.arrive(1, "alice", "gateway-01", "1")
    story.row(10, frames.REDIS, "pttl", user="alice", ts_current=80_000)
    story.scan(30)
    assert frames.where(frames.belief(story.trace()), 20 / SCALE) == ""


def test_a_departure_is_told_from_a_dropped_connection() -> None:
    """A normal close and a shut lid are departures; a crash, a move and a timeout are not."""
    story = Story()
    for user in ("goodbye", "lid", "crash", "move", "dropped"):
        story.arrive(1, user, "gateway-01", user)
    story.goodbye(10, "goodbye", "gateway-01", "goodbye")
    story.leave(20, "lid", "lid", "vanished")
    story.leave(30, "move", "move", "closed with 1000")
    story.cleanup(40, "dropped", "gateway-01", "dropped")
    story.row(40, "gateway-01", "ws_close", user="dropped", conn_id="dropped")
    story.crash(50, "gateway-01", ("crash", "crash"))
    left = frames.departures(story.trace())
    assert left == pytest.approx({"goodbye": 10 / SCALE, "lid": 20 / SCALE})


# --- ribbons ----------------------------------------------------------------------------------


def test_wrong_user_seconds_count_from_crash_to_return() -> None:
    """Each of three users is listed at the dead gateway until she is back: 4 + 8 + 12 s."""
    fig = ribbons(crashed(["alice", "bob", "carol"]), scale=SCALE)
    facts = fig.wsdemo_facts
    assert (facts["users"], facts["wrong_users"]) == (3, 3)
    assert facts["wrong_s"] == 4 + 8 + 12
    assert facts["longest_s"] == 12
    assert "24 s" in title(fig)
    assert {"wrong 4 s", "wrong 8 s", "wrong 12 s", "gateway-01 crashes"} <= words(fig)


def test_users_are_sorted_by_wrong_seconds_and_limited_in_number() -> None:
    """Eight of a hundred are drawn, and the title counts all."""
    fig = ribbons(crashed(named(100), back_after_s=0.4), scale=SCALE)
    (ax,) = fig.axes
    names = [tick.get_text() for tick in ax.get_yticklabels()][::2]
    assert names == [f"user{n:03}: truth" for n in range(100, 92, -1)]
    assert fig.wsdemo_facts["wrong_users"] == 100
    assert fig.wsdemo_facts["wrong_s"] == round(sum(0.4 * n for n in range(1, 101)))


def test_the_title_counts_only_what_is_drawn() -> None:
    """With t0 and t1, the seconds of the title are those of the figure."""
    trace = crashed(["alice", "bob", "carol"])
    fig = ribbons(trace, scale=SCALE, t0=66, t1=100)
    assert fig.wsdemo_facts["wrong_s"] == (68 - 66) + (72 - 66)
    assert fig.wsdemo_facts["wrong_users"] == 2
    with pytest.raises(ValueError, match="must lie before"):
        ribbons(trace, scale=SCALE, t0=50, t1=50)


def test_a_user_who_returns_to_the_same_gateway_was_wrong_in_redis_until_then() -> None:
    """Redis named the right gateway all the time, but she was not connected there."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "1")
    story.leave(20, "alice", "1", "vanished")
    story.arrive(35, "alice", "gateway-01", "2")
    story.scan(60)
    assert ribbons(story.trace(), scale=SCALE).wsdemo_facts["wrong_s"] == 15


def test_a_third_ribbon_shows_what_the_table_of_a_gateway_says() -> None:
    """The lease ends 90 s after the last heartbeat, and the table is cleaned up 20 s later: each
    has a ribbon, and its own time of being wrong.
    """
    story = Story()
    for user, gone in (("alice", 20), ("bob", 30)):
        story.arrive(1, user, "gateway-01", user)
        story.row(1, "gateway-01", "welcome", user=user, gateway="gateway-01", conn_id=user)
        story.leave(gone, user, user, "vanished")
        story.cleanup(111, user, "gateway-01", user)
        story.reject(111, user, "gateway-01", user, "not owner")
    story.scan(150)
    fig = ribbons(story.trace(), scale=SCALE, tables=True)
    facts = fig.wsdemo_facts
    assert (facts["wrong_s"], facts["mean_s"]) == (71 + 61, 66)
    assert (facts["table_s"], facts["table_mean_s"]) == (91 + 81, 86)
    assert {"wrong 71 s", "wrong 61 s", "wrong 91 s", "wrong 81 s"} <= words(fig)
    (ax,) = fig.axes
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names[:3] == ["alice: truth", "the gateway", "Redis says"]


def test_two_gateways_may_list_a_user_at_one_time() -> None:
    """She has moved, and the old gateway has not cleaned up yet."""
    story = Story()
    for t, gateway in ((1, "gateway-01"), (20, "gateway-02")):
        story.arrive(t, "alice", gateway, gateway)
        story.row(t, gateway, "welcome", user="alice", gateway=gateway, conn_id=gateway)
    story.cleanup(80, "alice", "gateway-01", "gateway-01")
    story.scan(100)
    spans = [
        (stay.gateway, stay.start * SCALE, stay.end * SCALE)
        for stay in frames.tables(story.trace())
    ]
    assert spans == [("gateway-01", 1, 80), ("gateway-02", 20, 100)]


def test_an_arriving_user_is_not_counted_as_wrong() -> None:
    """Between the write of an entry and `registered`, Redis names her before her client knows
    it."""
    story = Story()
    story.write(1, "alice", "gateway-01", "1", "set")
    story.row(9, "alice", "registered", user="alice", gateway="gateway-01", conn_id="1")
    story.scan(60)
    assert ribbons(story.trace(), scale=SCALE).wsdemo_facts["wrong_users"] == 0


# --- sawtooth ---------------------------------------------------------------------------------


def test_each_lost_heartbeat_has_a_mark() -> None:
    """At the moment at which it should have arrived."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "1")
    story.watch("alice", "gateway-01", "1", [1, 91], 120)
    for t in (31, 61):
        story.row(t, "alice", "drop", user="alice", reason="heartbeat")
    story.row(40, "bob", "drop", user="bob", reason="heartbeat")
    fig = sawtooth(story.trace(), ["alice"], scale=SCALE)
    (marks,) = (line for line in fig.axes[0].lines if line.get_marker() == "x")
    assert np.asarray(marks.get_xdata()).tolist() == pytest.approx([31, 61])
    assert "2 heartbeats lost" in fig.wsdemo_alt


def test_a_wrong_entry_lasts_for_the_rest_of_the_lease() -> None:
    """The last renewal is at 61, the crash at 70, the lease ends at 151."""
    fig = sawtooth(watched(["alice"]), ["alice"], scale=SCALE)
    assert fig.wsdemo_facts["ghost_s"] == 61 + TTL_S - 70
    assert "81 s" in title(fig)
    assert {"still listed for 81 s", "gateway-01 crashes"} <= words(fig)


def test_a_wrong_entry_at_the_end_of_the_trace_is_drawn_as_unfinished() -> None:
    """It is shaded up to the last sample, and nothing is crossed out yet."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "1")
    story.watch("alice", "gateway-01", "1", [1, 31], 61)
    story.leave(41, "alice", "1", "vanished")
    fig = sawtooth(story.trace(), ["alice"], scale=SCALE)
    assert fig.wsdemo_facts["ghost_s"] == 61 - 41
    assert not any(line.get_marker() == "X" for ax in fig.axes for line in ax.lines)


def test_a_wrong_entry_ends_when_the_user_is_back() -> None:
    """The lease did not expire; the entry is right again."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "1")
    story.watch("alice", "gateway-01", "1", [1, 31, 55], 80)
    story.leave(40, "alice", "1", "closed with 1006")
    story.arrive(55, "alice", "gateway-01", "2")
    assert sawtooth(story.trace(), ["alice"], scale=SCALE).wsdemo_facts["ghost_s"] == 15


def test_a_live_user_who_loses_her_lease_is_named() -> None:
    """Bob's heartbeats are lost until his lease has expired; he is connected all the time."""
    story = Story()
    for user in ("alice", "bob"):
        story.arrive(1, user, "gateway-01", user)
    story.watch("alice", "gateway-01", "alice", [1, 31, 61, 91, 121], 150)
    story.watch("bob", "gateway-01", "bob", [1, 121], 150)
    fig = sawtooth(story.trace(), ["alice", "bob"], scale=SCALE)
    assert fig.wsdemo_facts["lapsed"] == 1
    assert fig.wsdemo_facts["who"] == "bob"
    assert title(fig) == "The leases of 1 of 2 live users ended: bob"
    assert "gone, although she is there" in words(fig)


def test_the_prediction_is_drawn_beside_the_measured_end_of_the_lease() -> None:
    """At the time that the reader predicted."""
    fig = sawtooth(watched(["alice"]), ["alice"], scale=SCALE, prediction=30)
    assert "you said 30 s, measured 81 s" in words(fig)
    assert "You said 30 s." in fig.wsdemo_alt
    dashed = [line for line in fig.axes[0].lines if line.get_linestyle() == "--"]
    assert [round(float(np.ravel(line.get_xdata())[0])) for line in dashed] == [70 + 30]


def test_too_many_strips_are_refused() -> None:
    """A figure that could not be read is not drawn."""
    with pytest.raises(ValueError, match="choose up to 6"):
        sawtooth(watched(named(2)), named(7), scale=SCALE)


# --- ledger -----------------------------------------------------------------------------------


def effects(story: Story) -> list[str]:
    return [effect for effect in frames.verdicts(story.trace())["effect"] if effect]


def test_a_rejected_late_release_keeps_a_user_and_an_accepted_one_loses_her() -> None:
    """Five late releases: one policy keeps five users, the other loses five."""
    users = named(5)
    fig = ledger(two_rules(users))
    facts = fig.wsdemo_facts
    assert (facts["losts"], facts["saveds"]) == ([5, 0], [0, 5])
    assert facts["mosts"] == [5, 0], "each who was lost stays unreachable"
    assert "5 late clean-ups accepted" in words(fig) and "5 late clean-ups rejected" in words(fig)
    assert title(fig) == "Live users whom nobody can reach: 5 at most, after 5 late releases"


def test_the_words_beside_the_ticks_of_late_releases_keep_their_room() -> None:
    """With two digits, and with a gap; otherwise they would touch the first ticks."""
    fig = ledger(two_rules(named(24)))
    fig.draw_without_rendering()
    beside = [text for text in texts(fig) if text.get_text() in {f"24 {s}" for s in RUGS.values()}]
    assert len(beside) == len(RUGS)
    for text in beside:
        assert text.axes is not None
        width = text.get_window_extent().width / text.axes.bbox.width
        assert width < RUG_ROOM - 0.05, f"{text.get_text()!r} takes {width:.2f} of the width"


def test_a_clean_up_that_found_no_entry_rescued_nobody() -> None:
    """It is counted apart: the lease had run out, or the entry was gone before."""
    facts = ledger(two_rules(named(5))).wsdemo_facts
    assert (facts["no_entries"], facts["saveds"]) == ([5, 0], [0, 5])


def test_a_release_at_the_end_of_a_session_loses_no_user() -> None:
    """Nor does one that comes before she is back."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "1")
    story.goodbye(20, "alice", "gateway-01", "1")
    story.arrive(21, "alice", "gateway-02", "2")
    assert effects(story) == []


def test_a_rejected_late_refresh_keeps_a_user_too() -> None:
    """Without a comparison, it would have pointed to the gateway that she has left."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "old")
    story.arrive(10, "alice", "gateway-02", "new")
    story.reject(15, "alice", "gateway-01", "old", "superseded")
    assert effects(story) == ["saved"]


def test_a_lost_user_is_counted_once() -> None:
    """A second late release finds no entry, and no policy has rejected it."""
    story = Story(token=0)
    story.arrive(1, "alice", "gateway-01", "first")
    story.arrive(10, "alice", "gateway-02", "second")
    story.arrive(20, "alice", "gateway-03", "third")
    story.write(30, "alice", "gateway-01", "first", "del")
    story.reject(35, "alice", "gateway-02", "second", frames.NO_ENTRY)
    book = frames.verdicts(story.trace())
    assert book["effect"].tolist()[-2:] == ["lost", ""]
    assert book["reason"].tolist()[-1] == frames.NO_ENTRY
    facts = ledger({"": run(story.trace())}).wsdemo_facts
    assert (facts["saved"], facts["no_entry"], facts["lost"]) == (0, 1, 1)


def test_an_expired_lease_does_not_count_as_kept() -> None:
    """A late release after the end of the lease finds nothing, and presence says so."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "old")
    story.arrive(10, "alice", "gateway-02", "new")
    story.reject(10 + TTL_S + 5, "alice", "gateway-01", "old", frames.NO_ENTRY)
    facts = ledger({"": run(story.trace())}).wsdemo_facts
    assert (facts["no_entry"], facts["saved"]) == (1, 0)
    assert facts["most"] == 1, "and she is not listed, although she is there"


def between(token: int, *, accepted: bool) -> Story:
    """The release of the old connection is answered after the newer register, before `registered`
    arrives.
    """
    story = Story(token)
    story.arrive(1, "alice", "gateway-01", "old")
    story.leave(5, "alice", "old", "closed with 1000")
    story.arrive(10, "alice", "gateway-02", "new")
    if accepted:
        story.write(10 + MOMENT_S / 2, "alice", "gateway-01", "old", "del")
    else:
        story.reject(10 + MOMENT_S / 2, "alice", "gateway-01", "old", "other owner")
    story.scan(40)
    return story


@pytest.mark.parametrize("token", [0, 1])
def test_replies_in_another_order_than_their_commands_lose_nobody(token: int) -> None:
    """The release was sent first; that its reply comes second means nothing."""
    story = between(token, accepted=True)
    assert effects(story) == []
    assert frames.where(frames.belief(story.trace()), 30 / SCALE) == "gateway-02"


def test_a_rejected_release_proves_that_the_newer_entry_was_there() -> None:
    """Whether or not the client of the newer session had been told."""
    assert effects(between(1, accepted=False)) == ["saved"]


def test_a_release_with_a_token_never_removes_a_newer_entry() -> None:
    """The script has compared: what it removed was the session's own entry."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "old")
    story.arrive(10, "alice", "gateway-02", "new")
    story.write(20, "alice", "gateway-01", "old", "del")
    assert frames.where(frames.belief(story.trace(), until=1), 40 / SCALE) == "gateway-02"


def test_a_rejected_register_counts_only_for_users_without_another_connection() -> None:
    """Alice has no other connection; bob has a newer one."""
    story = Story()
    story.reject(5, "alice", "gateway-02", "1", "stale register")
    story.arrive(6, "bob", "gateway-01", "2")
    story.reject(7, "bob", "gateway-02", "3", "stale register")
    book = frames.verdicts(story.trace())
    harmed = book[book["effect"] == "refused"]
    assert harmed["user"].tolist() == ["alice"]


def test_runs_are_compared_from_their_first_fault() -> None:
    """Whenever each lab began, and however fast its clock was."""
    slow = crashed(["alice"])
    fast = slow.assign(t=slow["t"] / 2 + 7, t_recv=slow["t_recv"] / 2 + 7)
    facts = deaths(
        {"slow": RecordedRun(slow, SCALE), "fast": RecordedRun(fast, 2 * SCALE)}
    ).wsdemo_facts
    assert facts["medians"][0] == facts["medians"][1]
    assert RecordedRun(slow, SCALE).after(61 / SCALE) == pytest.approx(1)
    assert RecordedRun(fast, 2 * SCALE).after(61 / SCALE / 2 + 7) == pytest.approx(1)


def test_deaths_share_one_axis_on_which_each_user_has_her_outage() -> None:
    """Three rows, the same ends, and the medians in the title are of the users."""
    rows = {
        "one": run(crashed(named(4), back_after_s=2)),
        "two": run(crashed(named(4), back_after_s=20)),
    }
    fig = deaths(rows, title="{median[one]} s and {median[two]} s; {longest[two]} s")
    assert title(fig) == "4.1 s and 40 s; 80 s"
    assert len({ax.get_xlim() for ax in fig.axes}) == 1
    assert fig.axes[0].get_xlim()[0] == 0 and fig.axes[0].get_xlim()[1] >= 80
    # Words on a coloured area are outlined; a halo of the page's colour would be holes in it.
    medians = [t for ax in fig.axes for t in ax.texts if t.get_text().startswith("median")]
    assert len(medians) == 2 and not [t for t in medians if t.get_gid() == NOTE]


def test_a_user_whom_a_drain_released_is_not_listed_wrongly() -> None:
    """Her gateway releases her entry some moments before it closes her connection."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "1")
    story.row(10, "gateway-01", "drain", gateway="gateway-01")
    story.write(11, "alice", "gateway-01", "1", "del")
    story.leave(14, "alice", "1", "closed with 1012 service restart")
    story.arrive(16, "alice", "gateway-02", "2")
    story.scan(30)
    service = service_of(story.trace(), scale=SCALE, ttl_s=TTL_S)
    assert service.states == ["served", "reconnecting"]
    assert service.rows[0].outage_s * SCALE == pytest.approx(16 + MOMENT_S - 11)


# --- detection -------------------------------------------------------------------------------


def test_detection_delays_are_computed_from_the_rows() -> None:
    """Mean and maximum, in production seconds; a delay may be shorter than the timeout."""
    delays_s = [62.0, 80.0, 95.0, 141.0]
    trace = vanished(named(4), delays_s)
    fig = detection(trace, scale=SCALE)
    assert fig.wsdemo_facts["users"] == 4
    assert fig.wsdemo_facts["mean_s"] == round(statistics.mean(delays_s))
    assert fig.wsdemo_facts["longest_s"] == round(max(delays_s))
    assert fig.wsdemo_facts["rule_s"] == 90 - 30 / 2 + 60 / 2
    assert {f"mean {statistics.mean(delays_s):.0f} s", "longest 141 s"} <= words(fig)
    assert "shorter" in fig.wsdemo_caption
    released = detection(trace, scale=SCALE, event="presence_del")
    assert released.wsdemo_facts["longest_s"] == 142


def test_only_vanished_connections_are_counted() -> None:
    """Alice vanishes twice, and is detected twice; bob is only dropped."""
    story = Story()
    for n, (gone, found) in enumerate(((10, 80), (200, 300))):
        story.arrive(gone - 5, "alice", "gateway-01", f"{n}")
        story.leave(gone, "alice", f"{n}", "vanished")
        story.cleanup(found, "alice", "gateway-01", f"{n}")
    story.arrive(1, "bob", "gateway-01", "bob")
    story.cleanup(90, "bob", "gateway-01", "bob")
    delays = detection_delays(story.trace()) * SCALE
    assert delays.tolist() == pytest.approx([70, 100])
    assert delays.index.tolist() == ["alice", "alice"]


def test_an_unknown_detection_event_is_refused() -> None:
    """The message lists the known ones."""
    with pytest.raises(ValueError, match="cleanup, presence_del, not 'ping'"):
        detection(vanished(["alice"], [70]), event="ping")


# --- availability ----------------------------------------------------------------------------


def test_availability_is_the_share_of_served_time() -> None:
    """Crash at 60; alice is out for 4 s, bob for 8; drawn are the seconds from 50 to 120."""
    fig = availability(crashed(["alice", "bob"]), scale=SCALE, since=50)
    share = 1 - (4 + 8 + 2 * MOMENT_S) / (2 * (120 - 50))
    assert fig.wsdemo_facts["availability"] == f"{share:.1%}"
    assert fig.wsdemo_facts["users"] == 2
    assert float(fig.wsdemo_facts["longest"]) == pytest.approx(8 + MOMENT_S, abs=0.05)
    assert float(fig.wsdemo_facts["median"]) == pytest.approx(4 + MOMENT_S, abs=0.05)
    assert f"{share:.1%}" in title(fig)
    strip, curve = fig.axes
    assert [tick.get_text() for tick in strip.get_yticklabels()] == ["alice", "bob"]
    assert not strip.get_shared_x_axes().joined(strip, curve)


def test_time_before_arrival_and_after_departure_is_no_outage() -> None:
    """Arrivals and departures are no outages."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "1")
    story.arrive(30, "late comer", "gateway-01", "2")
    story.arrive(1, "leaver", "gateway-01", "3")
    story.goodbye(20, "leaver", "gateway-01", "3")
    story.arrive(1, "lid", "gateway-01", "4")
    story.leave(40, "lid", "4", "vanished")
    story.scan(60)
    fig = availability(story.trace(), scale=SCALE, since=0)
    assert fig.wsdemo_facts["users"] == 4
    assert fig.wsdemo_facts["availability"] == "100.0%"
    assert availability(story.trace(), scale=SCALE, since=45).wsdemo_facts["users"] == 2
    with pytest.raises(ValueError, match="behind the end"):
        availability(story.trace(), scale=SCALE, since=100)


def test_a_frozen_gateway_serves_nobody() -> None:
    """Its sockets are open, and nothing answers: available for half of the forty seconds."""
    story = Story()
    story.arrive(1, "alice", "gateway-01", "1")
    story.row(20, "gateway-01", "freeze", gateway="gateway-01")
    story.row(40, "gateway-01", "thaw", gateway="gateway-01")
    story.scan(60)
    fig = availability(story.trace(), scale=SCALE, since=20)
    assert fig.wsdemo_facts["availability"] == "50.0%"
    assert {"no answer", "gateway-01 freezes", "gateway-01 thaws"} <= words(fig)


def test_a_user_whose_entry_is_wrong_is_not_served() -> None:
    """From the late release at 50 to the end nobody can reach her, though she is connected."""
    fig = availability(late(["alice"], accepted=True), scale=SCALE, since=41)
    assert fig.wsdemo_facts["availability"] == f"{(50 - 41) / (71 - 41):.1%}"
    assert "wrong in Redis" in words(fig)


def test_eight_rows_have_names_and_a_hundred_have_none() -> None:
    """Names that nobody could read are left out; the caption gives the order instead."""
    hundred = availability(crashed(named(100), back_after_s=0.3), scale=SCALE)
    eight = availability(crashed(named(8)), scale=SCALE)
    assert "100 users, the longest outage below" in words(hundred)
    assert set(named(8)) <= words(eight)


# --- real gateways ----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["go-demo", "fenced"])
def moved(request: pytest.FixtureRequest) -> Iterator[tuple[str, Lab]]:
    """Alice has moved, and the clean-up of her old connection came late."""
    with Lab(gateways=2, policy=request.param) as lab:
        alice = lab.connect("alice", to="gateway-01")
        lab.hold_cleanup("alice", at="gateway-01")
        alice.move("gateway-02")
        lab.let_go("alice", at="gateway-01")
        yield request.param, lab


def test_the_figures_agree_with_redis_after_a_real_late_cleanup(moved: tuple[str, Lab]) -> None:
    """Ledger and ribbons agree with the entry in Redis, also after a refresh."""
    policy, lab = moved
    facts = lab.plot.ledger().wsdemo_facts
    assert (facts["lost"], facts["saved"]) == ((1, 0) if policy == "go-demo" else (0, 1))
    lab.wait_until("she is refreshed", lambda: "presence_refresh" in set(lab.trace()["kind"]))
    named_by_redis = lab.record("alice").get("gwId", "")
    trace = lab.trace()
    end = frames.span(trace)[1]
    assert named_by_redis == ("" if policy == "go-demo" else "gateway-02")
    belief = frames.belief(trace, scale=lab.scale, ttl_s=TTL_S)
    said = [stay.gateway for stay in belief if stay.end >= end]
    assert said == ([named_by_redis] if named_by_redis else [])
    # While she moved between the two, her entry was wrong for a moment under both policies.
    wrong = [gap for gap in frames.mismatches(frames.truth(trace), belief) if gap.end >= end]
    assert bool(wrong) == (policy == "go-demo")


@pytest.mark.slow
def test_a_lab_draws_the_detection_rule_in_effect() -> None:
    """With pings, the missing pong ends the session long before the scan; without them, the scan
    does."""
    production = Timing()
    with Lab(gateways=1) as lab:
        alice = lab.connect("alice", wired=True)
        alice.vanish()
        lab.wait_until("she is found", lambda: "cleanup" in set(lab.trace()["kind"]))
        fig = lab.plot.detection()
        ping_s, pong_s = production.ws_ping_interval_s, production.ws_ping_timeout_s
        mean_s = ping_s + pong_s - ping_s / 2 + min(ping_s, pong_s) / 10
        assert fig.wsdemo_facts["rule_s"] == round(mean_s)
        trace = lab.trace()
        rows = trace[trace["user"] == "alice"].set_index("kind")["t"]
        measured_s = (
            rows["cleanup"] - trace[trace["reason"] == "vanished"]["t"].iloc[0]
        ) * lab.scale
        assert fig.wsdemo_facts["longest_s"] == round(measured_s)
    with Lab(gateways=1, timing=Timing(ws_ping_interval_s=3600)) as demo:
        alice = demo.connect("alice", wired=True)
        alice.vanish()
        demo.wait_until("she is found", lambda: "cleanup" in set(demo.trace()["kind"]))
        assert demo.plot.detection().wsdemo_facts["rule_s"] == 90 - 30 / 2 + 60 / 2
