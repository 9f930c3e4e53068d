"""Lesson 10: does what it tells about an absent Redis hold, and can its figure be read?

The outages themselves are run by the notebook (`tests/tools`); here are their parts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest

from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped, words
from wsdemo.drawing.style import Picture
from wsdemo.lab import Lab
from wsdemo.lab.figures.redis_outage import rebuilt_s, redis_outage
from wsdemo.lab.lessons.redis_away import (
    OutageAnswer,
    OutageStep,
    Traffic,
    UsersInRedis,
    connections,
    pages,
    reclaimed,
    same_and_across,
)

pytestmark = pytest.mark.xdist_group("clock")


class Seen(NamedTuple):
    """Traffic written by hand."""

    kinds: dict[str, None]
    told: list[OutageAnswer]
    known: list[UsersInRedis]
    moments: list[OutageStep]
    users: int
    lasted_s: float


# --- the experiment ----------------------------------------------------------------------------


def test_without_redis_a_gateway_is_live_and_serves_its_own_users_only() -> None:
    """And when Redis is back and empty, each gateway puts back the entries of its users, over the
    same connections.
    """
    with Lab(gateways=2, scale=15) as lab:
        lab.connect_many(12)
        before = connections(lab)
        with Traffic(lab, same_and_across(lab)) as seen:
            lab.wait_until("Redis is asked", lambda: bool(seen.known))
            assert pages(lab, "gateway-01") == {"/health": 200, "/ready": 200}
            lab.redis.stop()
            seen.mark("killed")
            lab.wait_until("it is noticed", lambda: seen.known[-1].users is None)
            assert pages(lab, "gateway-01") == {"/health": 200, "/ready": 503}
            lab.let_pass(8)
            seen.mark("back, empty")
            lab.redis.restart()
            lab.wait_until("all are known", lambda: seen.known[-1].users == 12)
        assert connections(lab) == before and reclaimed(lab) == 12
    assert seen.failed_share("same gateway", "killed", "back, empty") == 0
    assert seen.failed_share("across gateways", "killed", "back, empty") == 1
    assert seen.failures("same gateway") == 0 < seen.failures("across gateways")
    assert lab.leaks() == []


def test_traffic_ends_with_its_lab() -> None:
    """Also when a cell was interrupted in the midst of it: then nobody leaves the `with`."""
    lab = Lab(gateways=2, scale=15)
    lab.connect_many(4)
    Traffic(lab, same_and_across(lab)).__enter__()
    lab.close()
    assert lab.leaks() == []


# --- the figure --------------------------------------------------------------------------------


def outage(kinds: int = 2, moments: tuple[str, ...] = ("frozen", "back, empty")) -> Seen:
    """A minute: from second 20 on Redis is away, and the last kind of message fails."""
    names = [f"kind {n}" for n in range(kinds)]
    told = [
        OutageAnswer(name, float(t), "busy" if name == names[-1] and 20 <= t < 40 else "routed")
        for t in range(60)
        for name in names
    ]
    known = [UsersInRedis(float(t), 30 if t < 20 else 10 if t < 45 else 30) for t in range(60)]
    known[25:30] = [UsersInRedis(float(t), None) for t in range(25, 30)]
    marks = [OutageStep(20.0 + 20 * n, text) for n, text in enumerate(moments)]
    return Seen(dict.fromkeys(names), told, known, marks, 30, 60.0)


def drawn() -> dict[str, Picture]:
    crowded = outage(3, ("server 0 is killed", "its replica is primary", "planned, server 1"))
    late = crowded._replace(moments=[*crowded.moments[:2], OutageStep(57.0, "planned, server 1")])
    return {
        "two": redis_outage(outage()),
        "crowded": redis_outage(late),
        "four": redis_outage(outage(4, ())),
    }


def test_every_text_of_the_figure_can_be_read() -> None:
    """Also the label of a moment at the end of the axis."""
    assert_no_text_covers_another(figures := drawn())
    assert_no_text_is_clipped(figures)
    assert "planned, server 1" in words(figures["crowded"])
    assert {"routed", "busy", "connected", "known to Redis"} <= words(figures["two"])


def test_the_figure_counts_what_failed_and_how_long_redis_took_to_know_everybody() -> None:
    """In its title, and for those who cannot see it."""
    title = "{failed[kind 1]} of {sent[kind 1]} fail, {failed[kind 0]} others; {rebuilt_s} s"
    picture = redis_outage(outage(), title=title)
    assert "20 of 60 fail, 0 others; 5 s" in words(picture)
    assert "Messages kind 1: 40 of 60 were routed" in picture.wsdemo_alt
    assert "Redis knew 10 of them at the fewest" in picture.wsdemo_alt


def test_an_outage_that_never_ends_has_no_end() -> None:
    """And one that nobody noticed lasts no time."""
    away = outage()
    assert math.isinf(rebuilt_s(away._replace(known=away.known[:44])))
    assert rebuilt_s(away._replace(known=[UsersInRedis(41.0, 30)])) == 0


def test_a_figure_of_nothing_is_an_error_with_a_reason() -> None:
    """No message, or too many kinds of them."""
    for wrong in (outage()._replace(told=[]), outage(5)):
        with pytest.raises(ValueError, match="1 to 4 kinds"):
            redis_outage(wrong)
