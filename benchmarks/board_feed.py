"""Cost of the board, `python -m benchmarks.board_feed`: what does a class cost the lab?

First what it needs of a core: a lab with gateways, simulated users and the users that stand for
students, all of whom write and move, followed by a feed for some seconds; the CPU time of the
feed's thread in ticks, questions to Redis and their answers, beside the wall time. Then what it
keeps: the events of hours, made up, through recorder, translator and history without waiting; the
bytes of the history, and the memory of the process, at each half hour.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any, Final

import psutil

from wsdemo.command_line import Parser, positive_float, positive_int
from wsdemo.events import Event, Kind
from wsdemo.lab.classroom.feed import TICK_S, Feed
from wsdemo.lab.classroom.sampler import SAMPLE_S, EntrySample, EntrySampler
from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.terminal import say

GATEWAYS: Final = ("gateway-01", "gateway-02", "gateway-03")
SCALE: Final = 6.0
TALK_EVERY_S: Final = 30.0
"""Mean production seconds between two messages of a user: five seconds of a class."""
HOP_EVERY_S: Final = 300.0
MOST_OF_A_CORE: Final = 0.03


async def share_of_a_core(students: int, simulated: int, seconds: float) -> float:
    """Return how much of a core the feed of a real lab needs."""
    async with Cluster(gateways=3, scale=SCALE) as cluster:
        await cluster.connect_many(simulated)
        for number in range(students):
            await cluster.connect(f"student-{number}", GATEWAYS[number % 3])
        feed = Feed(cluster)
        feed.start()
        talk, hop = TALK_EVERY_S, HOP_EVERY_S
        # By the end of this, the past has been read.
        await cluster.live(2 * SCALE, talk_every_s=talk, hop_every_s=hop)
        busy_s, since = feed.busy_s, feed.now
        await cluster.live(seconds * SCALE, talk_every_s=talk, hop_every_s=hop)
        share = (feed.busy_s - busy_s) / (feed.now - since)
        await feed.stop()
    return share


class MadeUpSampler(EntrySampler):
    """Answers as Redis would, from what the events have said."""

    def __init__(self, cluster: Cluster, ttl_s: float) -> None:
        super().__init__("redis://127.0.0.1:1", cluster.keyspace, lambda: self.t)
        self.t = 0.0
        self.entries: dict[str, tuple[str, str, float]] = {}
        self._ttl_s = ttl_s

    def poll(self) -> EntrySample | None:
        if self.t < self.asked_at + SAMPLE_S:
            return None
        self.asked_at = self.t
        nobody = ("", "", 0.0)
        return EntrySample(self.t, {user: self.entries.get(user, nobody) for user in self.users})


class MadeUpClass:
    """Users who come, write, move and leave, as events of their gateways."""

    def __init__(self, cluster: Cluster, users: list[str], ttl_s: float) -> None:
        self._recorder = cluster.recorder
        self._users = users
        self._ttl_s = ttl_s
        self._rng = random.Random(15)
        self._numbers = 0
        self.left = 0
        """How many have left for good."""
        self.sampler = MadeUpSampler(cluster, ttl_s)
        self._at: dict[str, tuple[str, str]] = {}

    def tick(self, t: float) -> None:
        """Let a tick pass."""
        self.sampler.t = t
        for user in self._some(TICK_S * SCALE / HOP_EVERY_S):
            self._register(user, t)
        every = round(self._ttl_s / 3 / TICK_S)
        for user in self._users[round(t / TICK_S) % every :: every]:
            self._renew(user, t)
        for user in self._some(TICK_S * SCALE / TALK_EVERY_S):
            gateway, conn = self._at.get(user, ("", ""))
            to, way = self._rng.choice(self._users), {"peer": self._rng.choice(GATEWAYS)}
            if gateway:
                self._emit(Kind.ROUTE, t, gateway, to, conn, reason="routed", **way)
        if self._rng.random() < TICK_S / 10:
            self._replace(t)

    def _some(self, share: float) -> list[str]:
        """Return this share of the users, by chance."""
        number = int(share * len(self._users) + self._rng.random())
        return self._rng.sample(self._users, number)

    def _renew(self, user: str, t: float) -> None:
        if user not in self._at:
            self._register(user, t)
            return
        gateway, conn = self._at[user]
        self.sampler.entries[user] = (gateway, conn, t + self._ttl_s)
        self._emit(Kind.PRESENCE_REFRESH, t, gateway, user, conn, reason="ok")

    def _register(self, user: str, t: float) -> None:
        self._leave(user, t)
        self._numbers += 1
        at = self._at[user] = (self._rng.choice(GATEWAYS), f"{self._numbers:016x}")
        self.sampler.entries[user] = (*at, t + self._ttl_s)
        self._emit(Kind.PRESENCE_SET, t, at[0], user, at[1])

    def _leave(self, user: str, t: float) -> None:
        if user in self._at:
            gateway, conn = self._at.pop(user)
            self._emit(Kind.WS_CLOSE, t, gateway, user, conn)

    def _replace(self, t: float) -> None:
        """Let a user leave for good, and another one come whom nobody has seen before."""
        self.left += 1
        at = self._rng.randrange(len(self._users))
        gone, self._users[at] = self._users[at], f"user{1_000 + self.left}"
        self._leave(gone, t)
        self.sampler.entries.pop(gone, None)

    def _emit(self, kind: Kind, t: float, gateway: str, user: str, conn: str, **more: Any) -> None:
        when = self._recorder.started_at + t
        self._recorder.emit(Event(kind, when, gateway, user, gateway, conn_id=conn, **more))


class HourFeed(Feed):
    """A feed on a clock of its own."""

    t = 0.0

    @property
    def now(self) -> float:
        return self.t


def memory_of_hours(students: int, simulated: int, hours: float) -> list[dict[str, float]]:
    """Return, for each half hour, what the feed has kept."""
    cluster = Cluster(gateways=3, scale=SCALE)
    # The recorder has a limit of its own, which is not what is measured here.
    cluster.recorder._limit = 10_000
    people = [f"student-{n}" for n in range(students)]
    crowd = [f"user{n:03}" for n in range(1, simulated + 1)]
    lesson = MadeUpClass(cluster, people + crowd, cluster.timing.presence_ttl_s)
    feed = HourFeed(cluster)
    rows: list[dict[str, float]] = []
    process = psutil.Process()
    ticks, half = round(hours * 3_600 / TICK_S), round(1_800 / TICK_S)
    for tick in range(1, ticks + 1):
        feed.t = tick * TICK_S
        lesson.tick(feed.t)
        feed._tick(lesson.sampler)
        if tick % half == 0 or tick == ticks:
            rows.append(
                {
                    "minutes": feed.t / 60,
                    "history_mib": feed._history.bytes / 2**20,
                    "process_mib": process.memory_info().rss / 2**20,
                    "first_mib": len(feed.history[0]) / 2**20,
                }
            )
            say(json.dumps({name: round(value, 2) for name, value in rows[-1].items()}))
    return rows


def main() -> int:
    """Measure both; fail when the feed needs more of a core than a class may cost."""
    parser = Parser("benchmarks.board_feed", __doc__)
    parser.add_argument("--students", type=positive_int, default=30)
    parser.add_argument("--simulated", type=positive_int, default=300)
    parser.add_argument("--seconds", type=positive_float, default=20.0)
    parser.add_argument("--hours", type=positive_float, default=2.0)
    options = parser.read()
    share = asyncio.run(share_of_a_core(options.students, options.simulated, options.seconds))
    say(f"the feed needs {100 * share:.2f} % of a core; the limit is {100 * MOST_OF_A_CORE:g} %")
    memory_of_hours(options.students, options.simulated, options.hours)
    return int(share > MOST_OF_A_CORE)


if __name__ == "__main__":
    sys.exit(main())
