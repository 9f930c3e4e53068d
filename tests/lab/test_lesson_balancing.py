"""Lesson 11: are users spread as it says, and can its figures be read?"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.examples import seeds
from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped, words
from wsdemo.drawing.style import Picture
from wsdemo.lab import Lab, check
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.figures.crossing_share import crossing_share
from wsdemo.lab.figures.load_stream import load_stream
from wsdemo.lab.figures.rules import rules
from wsdemo.lab.figures.shards import shards
from wsdemo.lab.lessons.balancing import Gateways, judge_spreading
from wsdemo.lab.lessons.behind_balancer import (
    BehindBalancer,
    Crossing,
    LoadMoment,
    broken_gateway,
    connections,
    crossing_by_gateways,
    scale_out,
    surplus,
    through_nginx,
)
from wsdemo.lab.lessons.growing import buckets_by_server, move_while_talking, take_from_each
from wsdemo.rig import nginx

pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("lesson_balancing")]


# --- the experiments ---------------------------------------------------------------------------


def test_a_new_gateway_stays_empty_until_users_are_sent_away_and_nobody_moves_twice() -> None:
    """Sent away by the server API; and the gateways count the same users as the balancer."""
    with Lab(gateways=3, scale=15, api=True) as lab:
        crowd = BehindBalancer(lab)
        crowd.come(30)
        lab.start_gateway("gateway-04")
        crowd.add("gateway-04")
        lab.let_pass(30)
        assert crowd.share("gateway-04") == 0 and crowd.forced_moves == 0
        plan = surplus(crowd.counts)
        assert sum(plan.values()) == 6
        crowd.send_away(plan)
        assert connections(lab) == crowd.counts and set(crowd.counts.values()) == {8, 6} | {8}
        assert crowd.imbalance <= 1.15 and crowd.most_moves == 1 and crowd.forced_moves == 6
    assert lab.leaks() == []


def test_the_gateway_that_is_restarted_last_is_empty() -> None:
    """And some users have moved more than once."""
    with Lab(gateways=3, scale=15) as lab:
        crowd = BehindBalancer(lab)
        crowd.come(30)
        for name in ("gateway-01", "gateway-02", "gateway-03"):
            crowd.restart(name)
        assert crowd.counts["gateway-03"] == 0 and sum(crowd.counts.values()) == 30
        assert crowd.most_moves >= 2
        assert [one.words for one in crowd.marks] == ["restart 01", "restart 02", "restart 03"]
    assert lab.leaks() == []


def test_old_news_makes_a_herd_of_least_connections_only() -> None:
    """Real connections to six gateways, of which three are empty."""
    with Lab(gateways=6, scale=15) as lab:
        crowd = BehindBalancer(lab, lab.cluster.names[:3])
        crowd.come(60)
        for name in lab.cluster.names[3:]:
            crowd.add(name)
        least = [scale_out(crowd, "least connections", 60, old_news=old) for old in (False, True)]
        assert least == [1.0, 3.0]
        assert scale_out(crowd, "power of two", 60, old_news=True) < 2
        assert scale_out(crowd, "round robin", 60, old_news=True) == 1.5


def test_a_gateway_that_fails_fast_attracts_users_until_the_balancer_asks() -> None:
    """Without checks most attempts fail; with them none does."""
    with Lab(gateways=3, scale=30, wires=True) as lab:
        without = broken_gateway(lab, None)
    with Lab(gateways=3, scale=30, wires=True) as lab:
        with_checks = broken_gateway(lab, 5)
    assert without.came < 20 and without.attracted > 0.5
    assert with_checks.came == 20 and with_checks.attracted == 0
    assert lab.leaks() == []


def test_the_share_of_messages_that_cross_is_what_the_gateways_count() -> None:
    """None with one gateway, about two thirds with three."""
    with Lab(gateways=3, scale=15) as lab:
        one, three = crossing_by_gateways(lab, (1, 3), users=30)
    assert one == Crossing(1, 300, 0)
    assert three.gateways == 3 and three.messages == 300 and abs(three.share - 2 / 3) < 0.12


@pytest.mark.skipif(not nginx.installed(), reason="nginx is not installed")
def test_users_come_through_the_real_nginx_and_a_reload_leaves_them_where_they_are() -> None:
    """Twelve before, six after it."""
    with Lab(gateways=4, scale=15) as lab:
        before, after = through_nginx(lab, 12, 6)
    assert list(before.values()) == [4, 4, 4, 0] and sum(after.values()) == 18
    assert all(after[name] >= users for name, users in before.items())
    assert lab.leaks() == []


def test_a_new_server_of_a_cluster_has_no_bucket_until_some_are_moved() -> None:
    """And users keep their connections."""
    with Lab(gateways=2, redis="cluster", scale=15) as lab:
        users = lab.connect_many(12)
        before = buckets_by_server(lab)
        new = lab.redis.add_primary()
        assert buckets_by_server(lab) == [*before, 0]
        chosen = take_from_each(lab, 16)
        move = move_while_talking(lab, chosen, new)
        assert sorted(lab.redis.buckets_of(new)) == chosen and sum(buckets_by_server(lab)) == 64
        assert move.told["routed"] > 0 and 0 < move.gap_ms < 10_000
        assert all(user.gateway for user in users)
    assert lab.leaks() == []


def test_only_a_cluster_gets_one_more_server() -> None:
    """Anywhere else it is refused, with what to do."""
    with Lab(gateways=1, scale=15) as lab:
        with pytest.raises(LabRefused, match=r'Lab\(redis="cluster"\)'):
            lab.redis.add_primary()


# --- the exercise ------------------------------------------------------------------------------


def pick(gateways: Gateways) -> str:
    two = random.sample(list(gateways), min(2, len(gateways)))
    return min(two, key=lambda name: gateways[name])


def rebalance(gateways: Gateways) -> Gateways:
    mean = sum(gateways.values()) / len(gateways)
    return {name: int(users - mean) for name, users in gateways.items() if users > 1.15 * mean}


def by_room(gateways: Gateways) -> str:
    """Another right answer: the emptier, the likelier."""
    return random.choices(list(gateways), [1 / (1 + users) for users in gateways.values()])[0]


class OwnCount:
    """Another right answer: the fewest connections, if one's own picks are counted as well."""

    def __init__(self) -> None:
        self._heard: Gateways = {}
        self._now: Gateways = {}

    def __call__(self, gateways: Gateways) -> str:
        if gateways != self._heard:
            self._heard, self._now = dict(gateways), dict(gateways)
        name = min(self._now, key=lambda one: self._now[one])
        self._now[name] += 1
        return name


def least(gateways: Gateways) -> str:
    return min(gateways, key=lambda name: gateways[name])


def any_one(gateways: Gateways) -> str:
    return random.choice(list(gateways))


def two_of_them(gateways: Gateways) -> str:
    return min(random.sample(list(gateways), 2), key=lambda name: gateways[name])


def takes_note(gateways: Gateways) -> str:
    name = pick(gateways)
    gateways[name] += 1
    return name


def every_excess(gateways: Gateways) -> Gateways:
    mean = sum(gateways.values()) / len(gateways)
    return {name: int(users - mean) for name, users in gateways.items() if users > mean}


def empties_the_fullest(gateways: Gateways) -> Gateways:
    fullest = max(gateways, key=lambda name: gateways[name])
    return {fullest: gateways[fullest]}


Pair = tuple[Callable[[Gateways], object], Callable[[Gateways], object]]
WRONG: dict[str, tuple[Pair, str]] = {
    "goes by old numbers": ((least, rebalance), "all of them see the same old numbers"),
    "looks at no number": ((any_one, rebalance), "which number did pick not look at"),
    "always the same one": ((lambda g: max(g), rebalance), ""),
    "needs two": ((two_of_them, rebalance), "There may be only one gateway"),
    "writes into the numbers": ((takes_note, rebalance), "pick changed the numbers"),
    "invents a gateway": ((lambda g: "gateway-00", rebalance), "none of the gateways"),
    "waits for users to move": ((pick, lambda g: {}), "nobody moves by himself"),
    "moves one at a time": ((pick, lambda g: dict.fromkeys(rebalance(g), 1)), "too few"),
    "moves everybody": ((pick, dict), "where she should be"),
    "chases every difference": ((pick, every_excess), "Is it worth a move?"),
    "empties the fullest": ((pick, empties_the_fullest), "How many are too many?"),
    "sends away more than there are": (
        (pick, lambda g: {name: 2 * users for name, users in g.items()}),
        "and has",
    ),
    "sends away fractions": ((pick, lambda g: dict.fromkeys(g, 0.5)), "a whole number"),
    "lists gateways": ((pick, list), "A plan is a dictionary"),
    "plans for a gateway that is not there": ((pick, lambda g: {"x": 1}), "which is no gateway"),
}


@pytest.mark.parametrize("right", [pick, by_room])
def test_a_correct_answer_is_accepted_on_every_seed(right: Callable[[Gateways], str]) -> None:
    """By chance among the emptier ones, in whatever way."""
    for seed in seeds(5):
        judgement = judge_spreading((right, rebalance), seed=seed)
        assert judgement.ok, judgement.hint
    assert judge_spreading((OwnCount(), rebalance), seed=1).ok
    assert check("ex11", (pick, rebalance))


@pytest.mark.parametrize("name", WRONG)
def test_a_named_misunderstanding_gets_its_hint_on_every_seed(name: str) -> None:
    """No wrong answer passes by chance, and the hint is about what is wrong."""
    answer, hint = WRONG[name]
    for seed in seeds(5):
        judgement = judge_spreading(answer, seed=seed)
        assert not judgement.ok and hint in judgement.hint, judgement.hint
        assert judgement.evidence


def test_what_is_not_two_functions_is_not_judged_and_a_mistake_is_told_with_its_line() -> None:
    """It is the reader's mistake, and is not explained by balancing."""
    assert check("ex11", pick).verdict == "could not judge"

    def misspelt(gateways: Gateways) -> Gateways:
        return sum(gateway.values())  # type: ignore[name-defined, no-any-return]  # noqa: F821

    verdict = check("ex11", (pick, misspelt))
    assert verdict.verdict == "wrong" and "misspelt raised NameError" in verdict.hint


# --- the figures -------------------------------------------------------------------------------

BEFORE = {"gateway-01": 100, "gateway-02": 100, "gateway-03": 100}
ADDED = {**BEFORE, "gateway-04": 0}
EVEN = dict.fromkeys(ADDED, 75)
HISTORY = [
    LoadMoment(0.0, BEFORE),
    LoadMoment(20.0, ADDED),
    LoadMoment(80.0, EVEN),
    LoadMoment(100.0, EVEN),
]
MARKS = [(20.0, "gateway-04 is added"), (80.0, "75 are sent away")]
NEW = {"round robin": 1.5, "least connections": 1.0, "power of two": 1.2}
OLD = {"round robin": 1.5, "least connections": 3.0, "power of two": 1.25}
COUNTS = [Crossing(3, 600, 400), Crossing(1, 600, 0), Crossing(6, 600, 510)]
STAGES = {"three": [22, 21, 21], "a fourth joins": [22, 21, 21, 0], "moved": [16, 16, 16, 16]}


def drawn() -> dict[str, Picture]:
    many = [(5.0 * n, f"restart {n:02}") for n in range(1, 9)]
    return {
        "added": load_stream([*HISTORY[:2], LoadMoment(70, ADDED)], MARKS[:1], prediction="25 %"),
        "sent away": load_stream(HISTORY, MARKS),
        "since": load_stream(HISTORY, MARKS, since=70),
        "restarts": load_stream(HISTORY, many),
        "rules": rules({"present numbers": NEW, "old numbers": OLD}),
        "one kind": rules({"present numbers": NEW}),
        "crossing": crossing_share(COUNTS),
        "shards": shards(STAGES),
        "one stage": shards({"three": [22, 21, 21]}),
    }


@pytest.fixture(scope="module")
def figures() -> dict[str, Picture]:
    return drawn()


def test_every_text_of_the_figures_can_be_read(figures: dict[str, Picture]) -> None:
    """Also with many marks, with a prediction, and with a gateway that has nobody."""
    assert_no_text_covers_another(figures)
    assert_no_text_is_clipped(figures)


def test_the_stream_counts_who_is_where_at_the_end(figures: dict[str, Picture]) -> None:
    """In its names, in its title and for those who cannot see it."""
    assert {"gateway-04: 0", "(you said 25 %)", "1.33 at the end"} <= words(figures["added"])
    facts = figures["sent away"].wsdemo_facts
    assert facts["newest"] == "gateway-04" and facts["newest_has"] == 75
    assert (facts["ratio"], facts["worst"], facts["share"]) == ("1.00", "1.33", "25 %")
    assert "At the end: gateway-01 75" in figures["sent away"].wsdemo_alt
    assert "at 10 s: 75 are sent away" in figures["since"].wsdemo_alt


def test_the_rules_figure_names_the_worst_with_old_numbers(figures: dict[str, Picture]) -> None:
    """And has every number beside its mark."""
    facts = figures["rules"].wsdemo_facts
    assert (facts["worst_rule"], facts["worst"]) == ("least connections", "3.0")
    assert {"3.00", "1.00", "1.20", "1.25"} <= words(figures["rules"])
    assert "old numbers: round robin 1.50" in figures["rules"].wsdemo_alt


def test_the_other_two_figures_say_their_numbers(figures: dict[str, Picture]) -> None:
    """Shares in percent; buckets on their bars."""
    facts = figures["crossing"].wsdemo_facts
    assert (facts["few"], facts["share"], facts["error"]) == (1, "85%", "2")
    assert "3: 67% of 600" in figures["crossing"].wsdemo_alt
    assert figures["shards"].wsdemo_facts == {"newest_has": 16, "buckets": 64, "fullest": 16}
    assert {"22", "0", "16"} <= words(figures["shards"])
    assert "a fourth joins: 22, 21, 21, 0" in figures["shards"].wsdemo_alt


def test_a_figure_of_nothing_is_an_error_with_a_reason() -> None:
    """Nothing at all, too much, or rules that do not match."""
    with pytest.raises(ValueError, match="choose an earlier since"):
        load_stream(HISTORY, since=100)
    with pytest.raises(ValueError, match="draw 1 to 2 kinds"):
        rules({})
    with pytest.raises(ValueError, match="the same rules"):
        rules({"present": NEW, "old": {"random": 1.0}})
    with pytest.raises(ValueError, match="nothing was counted"):
        crossing_share([])
    with pytest.raises(ValueError, match="draw 1 to 4 stages"):
        shards({})
