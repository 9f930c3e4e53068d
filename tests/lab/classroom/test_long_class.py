"""Long class: does what the feed keeps depend on who is there, and not on how long it lasts?"""

from __future__ import annotations

import json

import pytest

from benchmarks.board_feed import HourFeed, MadeUpClass
from tests.lab.classroom.replay import replay
from wsdemo.lab.classroom.feed import TICK_S
from wsdemo.lab.classroom.history import History
from wsdemo.lab.classroom.state import AWAY_KEPT
from wsdemo.lab.cluster.cluster import Cluster

LIMIT_BYTES = 100_000


def sizes(feed: HourFeed, lesson: MadeUpClass) -> list[int]:
    """Return how much is remembered, each kind for itself."""
    told, translator = feed._told, feed._translator
    return [
        len(translator._open),
        len(told.connections),
        len(told.entries),
        len(lesson.sampler.users),
        len(feed._notes),
        len(feed._written),
    ]


@pytest.mark.parametrize("minutes", [10, pytest.param(120, marks=pytest.mark.slow)])
@pytest.mark.timeout(240)
def test_what_is_kept_does_not_grow_with_time(minutes: int) -> None:
    """Users come and leave all the time; a board that comes late is told of those who are here."""
    cluster = Cluster(gateways=3, scale=6)
    users = ["ann", "ben", *(f"user{n:03}" for n in range(18))]
    lesson = MadeUpClass(cluster, users, cluster.timing.presence_ttl_s)
    feed = HourFeed(cluster)
    feed._history = History(LIMIT_BYTES)
    for tick in range(1, round(minutes * 60 / TICK_S) + 1):
        feed.t = tick * TICK_S
        lesson.tick(feed.t)
        feed._tick(lesson.sampler)
        assert feed._history.bytes <= LIMIT_BYTES
        assert max(sizes(feed, lesson)) <= len(users) + 2
    first, *_ = history = feed.history
    assert lesson.left > minutes, "as many users have come and left"
    snapshot = json.loads(first)
    assert snapshot["t"] > feed.t / 4, "the oldest is gone"
    # Beside those who are here, it names some of those who have left.
    assert len(snapshot["e"]) < 2 * (2 * AWAY_KEPT + len(users)) + 20
    told = replay(history)
    assert {user for user, _ in told.sockets.values()} <= set(users)
    assert told.sockets == feed._told.connections
    assert told.entries == {u: (g, c) for u, (g, c, _) in feed._told.entries.items()}
