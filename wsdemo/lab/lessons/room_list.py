"""Lesson 13: who is in the list of a room when clean-ups come late and gateways die?"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import redis

from wsdemo.lab.handles import User
from wsdemo.lab.lab import Lab
from wsdemo.lab.lessons.question import Judgement, NotJudged, Question, WrongAnswer
from wsdemo.rig.policies.room_by_set import ROOM, room_set

QUESTION: Final = Question(
    "Ten people are in a room by gateway-03. It dies; four of them come back elsewhere, six never "
    "do. The list is a set: whoever registers is added, whoever is released is removed. How many "
    "of the six does the list show after five minutes?",
    {
        0: "Their entries in presence run out. But the set is another key, and nobody tells it.",
        3: "No rule removes half of them. Either somebody says who has gone, or nobody does.",
        6: "Who could have removed them is dead, and nobody else knows of them.",
        10: "The four who came back are in the list as well, but they are really there.",
    },
)

EVERY_S: Final = 1.0
"""Production seconds between two samples."""
TIMEOUT_S: Final = 5.0


# --- the experiment ----------------------------------------------------------------------------


class RoomSample(NamedTuple):
    """Who was in the room at a moment, and who was listed (production seconds)."""

    t: float
    there: frozenset[str]
    listed: frozenset[str]

    @property
    def ghosts(self) -> frozenset[str]:
        """Who is listed and not there."""
        return self.listed - self.there

    @property
    def missing(self) -> frozenset[str]:
        """Who is there and not listed."""
        return self.there - self.listed


class RoomList(Protocol):
    """How a room is entered, and who is in its list."""

    def enter(self, user: User) -> None: ...

    def members(self) -> frozenset[str]: ...


class ListBySet:
    """The list of `Lab(policy="room-by-set")`: whoever is registered is added to a set."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._key = room_set(lab.cluster.keyspace)

    def enter(self, user: User) -> None:
        """Nothing more to do: everybody who registers is in the room."""

    def members(self) -> frozenset[str]:
        with _database(self._lab) as database:
            found: Any = database.smembers(self._key)
        return frozenset(found)


class ListByStamp:
    """The product's list, in `Lab(rooms=True)`: a stamp beside each name, a lease a gateway."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._key = lab.cluster.keyspace.key("room", ROOM)

    def enter(self, user: User) -> None:
        user.join(ROOM)

    def members(self) -> frozenset[str]:
        return frozenset(user for user, word in self.entries().items() if word.startswith("in "))

    def entries(self) -> dict[str, str]:
        """Return what Redis has of each user: in or out, token, seq, gateway, boot, connection."""
        with _database(self._lab) as database:
            found: Any = database.hgetall(self._key)
        return dict(found)


def _database(lab: Lab) -> redis.Redis:
    options: dict[str, Any] = {"decode_responses": True, "socket_timeout": TIMEOUT_S}
    return redis.Redis.from_url(lab.cluster.redis_url, **options)


def fill(lab: Lab, room: RoomList) -> list[User]:
    """Let ten users enter the room at each of three gateways; return those of gateway-03."""
    for gateway in ("gateway-01", "gateway-02", "gateway-03"):
        for n in range(10):
            user = lab.connect(f"{gateway[-2:]}-{n}", to=gateway, wired=gateway == "gateway-03")
            room.enter(user)
    return [user for user in lab.users.values() if user.gateway == "gateway-03"]


def watch_room(lab: Lab, room: RoomList, seconds: float, since: float = 0.0) -> list[RoomSample]:
    """Look at a room for so many production seconds."""
    samples = []
    for step in range(round(seconds / EVERY_S)):
        there = frozenset(name for name, user in lab.users.items() if user.gateway)
        samples.append(RoomSample(since + step * EVERY_S, there, room.members()))
        lab.let_pass(EVERY_S)
    return samples


def gateway_dies(lab: Lab, room: RoomList) -> list[RoomSample]:
    """Fill a room; let six of ten users of gateway-03 vanish and the gateway crash; watch on."""
    users = fill(lab, room)
    samples = watch_room(lab, room, 10)
    for user in users[:6]:
        user.vanish()
    lab.crash("gateway-03")
    return samples + watch_room(lab, room, 80, since=10)


def late_cleanup(lab: Lab, room: RoomList) -> frozenset[str]:
    """Move alice while everything that gateway-01 says to Redis is held; then let it go.

    Returns:
        Who is in the list at the end.
    """
    alice = lab.connect("alice", to="gateway-01")
    room.enter(alice)
    wire = lab.wire("gateway-01", "redis")
    wire.hold("up")
    alice.move("gateway-02")
    room.enter(alice)
    wire.release()
    lab.wait_until("gateway-01's release is answered", lambda: _late_releases(lab) > 0)
    lab.let_pass(EVERY_S)
    return room.members()


def _late_releases(lab: Lab) -> int:
    return int(lab.stats("gateway-01")["counters"]["releases_other_owner"])


# --- the exercise ------------------------------------------------------------------------------

Word = tuple[str, int, int]
"""`in` or `out`, token, seq: what a gateway says of a user."""
Newer = Callable[[Word | None, Word], Any]

HISTORIES: Final = 120
FIRST: Final[tuple[list[Word], ...]] = (
    [("in", 5, 1), ("out", 5, 2), ("in", 9, 1)],
    [("in", 9, 1), ("out", 5, 2)],
    [("out", 9, 2), ("in", 5, 1)],
)
"""The clearest cases come first, so that the same mistake gets the same hint."""
LATE_LEAVE: Final = (
    "A late clean-up: the word of an older session removed a user who is there by a newer one. "
    "Which part of the stamp orders the sessions?"
)
LATE_JOIN: Final = "A late join of an older session put its word over that of a newer session."
SAME_SESSION: Final = (
    "Within one session a word came late: an older one (a lower seq) replaced a newer one."
)
NEW_SESSION: Final = (
    "A new session was not believed. It counts from 1 again, so seq alone cannot order the words."
)
IGNORED: Final = "A newer word of the same session was ignored: its seq is higher."
FORGOT: Final = (
    "After a leave nothing was kept. Then a late join of an earlier moment finds nothing to "
    "compare with, and the user is back in the list."
)


def judge_newer(newer: Newer, seed: int | None = None) -> Judgement:
    """Deliver the words of sessions to the reader's function, late and twice, and compare."""
    if not callable(newer):
        raise NotJudged(f"newer must be a function, not {type(newer).__name__}.")
    rng = random.Random(seed)
    try:
        for words in [*FIRST, *(_words(rng) for _ in range(HISTORIES))]:
            _deliver(newer, words)
    except WrongAnswer as wrong:
        return wrong.judgement
    return Judgement(True, f"{HISTORIES} histories, with words that came late or twice.")


def _words(rng: random.Random) -> list[Word]:
    """Return the words of one to three sessions, some of them twice, in the order of arrival."""
    words: list[Word] = []
    token = 0
    for _ in range(rng.randint(1, 3)):
        token += rng.randint(1, 20)
        for seq in range(1, rng.randint(2, 5)):
            words.append(("in" if seq % 2 else "out", token, seq))
    words += rng.sample(words, rng.randint(0, 2) if len(words) > 1 else 0)
    rng.shuffle(words)
    return words


def _deliver(newer: Newer, words: list[Word]) -> None:
    kept: Word | None = None
    for number, word in enumerate(words):
        evidence = f"kept:    {kept}\narrives: {word}\nbefore that came: {words[:number]}"
        try:
            said = newer(kept, word)
        except NotImplementedError:
            raise
        except Exception as problem:
            first = " Nothing is kept yet: what then?" if kept is None else ""
            raise WrongAnswer(f"It raised {type(problem).__name__}.{first}", evidence) from None
        right = word if kept is None or word[1:] > kept[1:] else kept
        if said != right:
            raise WrongAnswer(_why(kept, word, said), f"{evidence}\nyour answer: {said!r}")
        kept = right


def _why(kept: Word | None, word: Word, said: Any) -> str:
    if said is None and word[0] == "out":
        return FORGOT
    if said not in (kept, word) or said is None:
        return "Return the word that is to be kept: (state, token, seq), one of the two."
    if kept is None:
        return "Nothing was kept, so the first word that arrives is the newest one."
    if said == kept:
        return NEW_SESSION if word[1] > kept[1] else IGNORED
    if word[1] == kept[1]:
        return SAME_SESSION
    return LATE_LEAVE if word[0] == "out" else LATE_JOIN
