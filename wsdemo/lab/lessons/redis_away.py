"""Lesson 10: what still works while Redis is away, and when is a gateway ready?"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from redis.exceptions import RedisError

from wsdemo.lab.lab import Lab
from wsdemo.lab.lessons.question import Judgement, NotJudged, Question, WrongAnswer
from wsdemo.protocol import Status
from wsdemo.rig.pages import http_get

QUESTION: Final = Question(
    "Sixty users are connected. Redis is killed, and started again without its data. Nobody "
    "reconnects, and nobody sends anything but heartbeats. How many of the sixty does Redis know "
    "one minute later?",
    {
        "none": "Redis has forgotten them. But each gateway still has its users in a table.",
        "those who reconnect": "Nobody has to: no socket goes through Redis, so all stay open.",
        "those who get a message": "A message looks for an entry; it does not write one.",
        "all": "Each gateway puts back the entries of those who are connected to it.",
    },
)
ONE_OF_THREE: Final = Question(
    "Presence is spread over a cluster of three primaries. One of them is killed. While it is "
    "away, which share of the messages is not delivered?",
    {
        "0 %": "The other two do not have its entries, and nobody knows where those users are.",
        "33 %": "A message needs the entry of its recipient. One in three has it there.",
        "67 %": "That would be so if a message needed the servers of both its users.",
        "100 %": "With one server it is so. Here the other two servers answer as ever.",
    },
)

EVERY_S: Final = 1.0
"""Production seconds between two messages of a kind, and between two looks at Redis."""
PAGE_S: Final = 5.0
ANSWER_S: Final = 1.5
"""How long Redis may take to say whom it knows (wall seconds)."""
ENDING_S: Final = 5.0
"""How long the last messages may wait for an answer (wall seconds)."""

Pair = tuple[str, str]
"""Who sends to whom."""


# --- the experiment ----------------------------------------------------------------------------


class OutageAnswer(NamedTuple):
    """What the sender of one message was told (production seconds)."""

    kind: str
    """Which kind of message it was."""
    t: float
    status: str

    @property
    def routed(self) -> bool:
        return self.status == Status.ROUTED


class UsersInRedis(NamedTuple):
    """How many users Redis knew at a moment; None: it did not answer."""

    t: float
    users: int | None


class OutageStep(NamedTuple):
    """When something was done to Redis."""

    t: float
    words: str


class Traffic:
    """Messages of several kinds, one of each a second, and a look at Redis each second.

    Use it with `with`; what was seen stays afterwards.

    Args:
        kinds: name -> who sends to whom, in turn.
    """

    def __init__(self, lab: Lab, kinds: Mapping[str, Sequence[Pair]]) -> None:
        self._lab = lab
        self.kinds = {name: list(pairs) for name, pairs in kinds.items()}
        self.told: list[OutageAnswer] = []
        self.known: list[UsersInRedis] = []
        self.moments: list[OutageStep] = []
        self.users = len(lab.users)
        """How many users are connected."""
        self.lasted_s = 0.0
        self._began = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._sends: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._lab.loop.call(self._start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.lasted_s = self._now()
        self._lab.loop.run(self._stop())

    def mark(self, words: str) -> None:
        """Write down that something is done to Redis now."""
        self.moments.append(OutageStep(self._now(), words))

    def at(self, words: str) -> float:
        """Return when something was marked."""
        return next(moment.t for moment in self.moments if moment.words == words)

    def failed_share(self, kind: str, since: str, until: str) -> float:
        """Return which share of the messages of a kind did not arrive that were sent between two
        things that were done to Redis. The first second belongs to neither: it is being done.
        """
        begin, end = self.at(since) + EVERY_S, self.at(until) - EVERY_S
        sent = [one for one in self.told if one.kind == kind and begin <= one.t < end]
        return sum(not one.routed for one in sent) / max(1, len(sent))

    def failures(self, kind: str) -> int:
        """Return how many messages of a kind did not arrive, as far as their senders know."""
        return sum(not one.routed for one in self.told if one.kind == kind)

    def _now(self) -> float:
        return (time.monotonic() - self._began) * self._lab.scale

    def _start(self) -> None:
        for name, pairs in self.kinds.items():
            self._spawn(self._talk(name, pairs), self._tasks)
        self._spawn(self._look(), self._tasks)
        self._lab.cluster.at_stop(self._stop)

    def _spawn(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)

    async def _stop(self) -> None:
        """Send nothing more; wait for the answers that are on their way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if self._sends:
            await asyncio.wait(self._sends, timeout=ENDING_S)
        tasks += self._sends
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.told.sort(key=lambda one: one.t)

    async def _talk(self, kind: str, pairs: Sequence[Pair]) -> None:
        number = 0
        while True:
            sender, recipient = pairs[number % len(pairs)]
            number += 1
            # Nobody waits for the answer: the next message leaves in a second, whatever happens.
            self._spawn(self._send(kind, sender, recipient), self._sends)
            await asyncio.sleep(EVERY_S / self._lab.scale)

    async def _send(self, kind: str, sender: str, recipient: str) -> None:
        sent_at = self._now()
        client = self._lab.cluster.users.get(sender)
        if client is None:
            return  # The lab is being closed.
        receipt = await client.send(recipient, f"at {sent_at:.0f} s")
        self.told.append(OutageAnswer(kind, sent_at, str(receipt.status)))

    async def _look(self) -> None:
        users = list(self._lab.cluster.users)
        while True:
            asked_at = self._now()
            try:
                async with asyncio.timeout(ANSWER_S):
                    entries = await self._lab.cluster.records(users)
                known = sum("gwId" in entry for entry in entries.values())
                self.known.append(UsersInRedis(self._now(), known))
            except (RedisError, OSError):  # A timeout is one of these.
                self.known.append(UsersInRedis(asked_at, None))
            await asyncio.sleep(EVERY_S / self._lab.scale)


def same_and_across(lab: Lab) -> dict[str, list[Pair]]:
    """Return pairs of users of the same gateway, and pairs of users of two gateways."""
    first, second = (
        [name for name, user in lab.users.items() if user.gateway == gateway]
        for gateway in ("gateway-01", "gateway-02")
    )
    return {
        "same gateway": list(itertools.pairwise(first)),
        "across gateways": list(zip(first, second, strict=False)),
    }


def connect_to_each(lab: Lab, users: int) -> dict[str, list[Pair]]:
    """Connect so many users for each of three servers that has their entries; return messages to
    those of each server, from users of another gateway.
    """
    wanted: dict[int, list[str]] = {0: [], 1: [], 2: []}
    names = [f"user{n:03}" for n in range(1, 40 * users)]
    for name, server in lab.redis.servers_of(*names).items():
        if len(wanted[server]) < users:
            wanted[server].append(name)
    for number, name in enumerate(name for theirs in wanted.values() for name in theirs):
        lab.connect(name, to=f"gateway-{1 + number % 2:02}")
    return {
        f"to users of server {server}": [(_sender(lab, name), name) for name in theirs]
        for server, theirs in wanted.items()
    }


def _sender(lab: Lab, recipient: str) -> str:
    """Return a user of another gateway, of any server."""
    here = lab.users[recipient].gateway
    return next(name for name, user in lab.users.items() if user.gateway != here)


def pages(lab: Lab, gateway: str) -> dict[str, int]:
    """Return what a gateway answers to the two questions of an orchestrator: 200 or 503."""
    port = lab.cluster.host(gateway).port
    return {path: lab.loop.run(http_get(port, path, PAGE_S))[0] for path in ("/health", "/ready")}


def connections(lab: Lab) -> list[str]:
    """Return the ids of all connections: a new one has a new id."""
    return [client.conn_id for client in lab.cluster.users.values()]


def reclaimed(lab: Lab) -> int:
    """Return how many entries the gateways have put back that Redis had lost."""
    stats = [lab.stats(name)["counters"] for name in lab.cluster.hosts]
    return sum(int(counters["refreshes_reclaimed"]) for counters in stats)


def known_at(lab: Lab, number: int) -> int:
    """Return how many users one server knows, asked at that server."""
    pattern = f"{lab.cluster.keyspace.prefix}presence:*"
    return len(lab.redis.call(number, "KEYS", pattern))


# --- the exercise ------------------------------------------------------------------------------

STUCK_S: Final = 60.0
"""A gateway whose own loop has stood still for so long does not go on by itself."""


class ReadinessState(NamedTuple):
    """What a gateway knows of itself and of its Redis."""

    stood_still_s: float
    """For how long its own event loop has done nothing."""
    draining: bool
    """It has been told to stop, and sends its users elsewhere."""
    hears: bool
    """Its subscription is alive: it hears the messages for its users."""
    primaries: tuple[str, ...]
    """What each primary of Redis does: "takes writes", "refuses writes" or "silent"."""
    users: int
    """How many users are connected to it."""


Readiness = Callable[[ReadinessState], Any]
TAKES, REFUSES, SILENT = "takes writes", "refuses writes", "silent"

NOT_LIVE: Final = (
    "Redis has a problem, and you say that the gateway is not live. Then every gateway is killed "
    "at the same moment, and all users lose a socket that worked. What would a restart repair?"
)
STUCK: Final = "Its own loop has stood still for minutes. Nothing but a restart helps this process."
DRAINING: Final = (
    "It has been told to stop, and you still send newcomers to it. They would leave at once."
)
DRAIN_KILLED: Final = (
    "It is draining, and you say that it is not live. It would be killed before its users are told."
)
NOBODY_SERVED: Final = (
    "No newcomer can register: no entry can be written. And yet the gateway says that it is ready."
)
ONLY_ANSWERS: Final = (
    "Redis answers, and takes no write: it is full, or has become a replica. An answer to PING is "
    "not enough. What does a register need?"
)
DEAF: Final = (
    "It hears nothing from Redis: whoever registers here gets no message from other gateways. "
    "Should newcomers come?"
)
ONE_SHARD: Final = (
    "One of several primaries is away, and you say that the gateway is not ready. All gateways see "
    "the same, so the balancer has none left. How many newcomers could still be served?"
)
HALF: Final = (
    "Half of all newcomers or more would be refused here, and you say that the gateway is ready."
)
EMPTY: Final = "All is well, only nobody is connected yet. A new gateway would never get a user."
WELL: Final = "All is well, and the answer is not (True, True)."


def judge_readiness(readiness: Readiness, seed: int | None = None) -> Judgement:
    """Ask the reader's function about outages, the clearest first."""
    if not callable(readiness):
        raise NotJudged(f"readiness must be a function, not {type(readiness).__name__}.")
    states = outages(random.Random(seed))
    try:
        for state in states:
            _judge(readiness, state)
    except WrongAnswer as wrong:
        return wrong.judgement
    return Judgement(True, f"{len(states)} states of a gateway, in nine kinds of outage.")


def outages(rng: random.Random) -> list[ReadinessState]:
    """Return states: one of each kind first, then mixtures."""
    well = ReadinessState(0.0, False, True, (TAKES,), 40)
    first = [
        well,
        well._replace(users=0),
        well._replace(primaries=(SILENT,), hears=False),
        well._replace(primaries=(REFUSES,)),
        well._replace(hears=False),
        well._replace(draining=True),
        well._replace(primaries=(TAKES, SILENT, TAKES)),
        well._replace(primaries=(SILENT, TAKES, SILENT)),
        well._replace(primaries=(TAKES, SILENT)),
        well._replace(stood_still_s=300.0),
    ]
    return first + [_mixture(rng) for _ in range(150)]


def _mixture(rng: random.Random) -> ReadinessState:
    words = rng.choices((TAKES, SILENT, REFUSES), (3, 1, 1), k=rng.choice((1, 1, 2, 3, 5, 8)))
    return ReadinessState(
        rng.choice((0.0, 0.0, 0.2, 2.0, 90.0, 600.0)),
        rng.random() < 0.15,
        rng.random() < 0.85,
        tuple(words),
        rng.choice((0, 1, 40, 9_000)),
    )


def _judge(readiness: Readiness, state: ReadinessState) -> None:
    evidence = "\n".join(f"{name}: {value!r}" for name, value in state._asdict().items())
    try:
        said = readiness(state)
    except NotImplementedError:
        raise
    except Exception as problem:
        raise WrongAnswer(f"It raised {type(problem).__name__}.", evidence) from None
    evidence += f"\nyour answer: {said!r}"
    if not isinstance(said, tuple) or [type(one) for one in said] != [bool, bool]:
        raise WrongAnswer("Return two truth values, (live, ready).", evidence)
    live = state.stood_still_s < STUCK_S
    if said[0] != live:
        raise WrongAnswer(_why_live(state), evidence)
    # Whoever is killed needs no newcomers, and gets none: either answer is right.
    if live and said[1] != _is_ready(state):
        raise WrongAnswer(_why_ready(state), evidence)


def _served(state: ReadinessState) -> int:
    return state.primaries.count(TAKES)


def _is_ready(state: ReadinessState) -> bool:
    return not state.draining and state.hears and 2 * _served(state) > len(state.primaries)


def _why_live(state: ReadinessState) -> str:
    if state.stood_still_s >= STUCK_S:
        return STUCK
    if state.draining:
        return DRAIN_KILLED
    return NOT_LIVE if _served(state) < len(state.primaries) or not state.hears else WELL


def _why_ready(state: ReadinessState) -> str:
    if _is_ready(state):
        if _served(state) < len(state.primaries):
            return ONE_SHARD
        return EMPTY if not state.users else WELL
    if state.draining:
        return DRAINING
    if not _served(state):
        return ONLY_ANSWERS if REFUSES in state.primaries else NOBODY_SERVED
    return HALF if 2 * _served(state) <= len(state.primaries) else DEAF
