"""Lesson 14: which close code does a crash leave behind, and for how long is Redis wrong?

The exercise reads what boards are told (docs/observer.md), as a plain list of moments. Its check
makes classes up, each with one thing that is easily forgotten, and compares seconds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from wsdemo.lab.lessons.question import Judgement, NotJudged, Question, WrongAnswer

QUESTION: Final = Question(
    "gateway-02 crashes. Which close code do the browsers of its students report?",
    {
        1000: "1000 is a goodbye that both sides agreed on. Nobody was left to say it.",
        1001: '1001 says "going away". A gateway that is dead says nothing any more.',
        1006: "No close frame came, so the browser writes down 1006: it never travels.",
        1012: 'A drain says 1012, "come back later". A crash has no time for that.',
        4009: "4009 is what a gateway says to a client from which it hears nothing: here it is "
        "the gateway that is gone.",
    },
)

# --- what boards are told, as a list -----------------------------------------------------------


class Moment(NamedTuple):
    """One thing that a board is told. Which fields are filled depends on the kind."""

    t: float
    """Seconds since the record began."""
    kind: str
    """"registered", "closed", "gone", "released", "says" or "unknown"."""
    user: str = ""
    gateway: str = ""
    connection: str = ""


_KINDS: Final = {
    "set": "registered",
    "close": "closed",
    "crash": "gone",
    "stopped": "gone",
    "del": "released",
    "reclaim": "says",
    "redis_down": "unknown",
    "beliefs_unknown": "unknown",
}


def moments_of(batches: Iterable[Mapping[str, Any]]) -> list[Moment]:
    """Return what happened to connections and entries, the oldest first.

    Args:
        batches: those of a class room: `room.batches()`.
    """
    moments: list[Moment] = []
    for batch in batches:
        for event in batch.get("e", ()):
            if event["k"] in _KINDS:
                fields = (event.get(key, "") for key in ("u", "g", "c"))
                moments.append(Moment(event["t"], _KINDS[event["k"]], *fields))
        for user, gateway, connection, _ in batch.get("b", ()):
            moments.append(Moment(batch["t"], "says", user, gateway, connection))
    return sorted(moments, key=lambda moment: moment.t)


# --- the right answer --------------------------------------------------------------------------


class Replay:
    """Connections and entries, moment by moment."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, str]] = {}
        """Connection -> its user and its gateway."""
        self._says: dict[str, str] = {}
        """User -> the gateway that Redis names."""

    def wrong(self) -> Iterator[str]:
        """Iterate over the users whom Redis places where they are not."""
        places = set(self._open.values())
        for user, gateway in self._says.items():
            if gateway and (user, gateway) not in places:
                yield user

    def take(self, moment: Moment) -> None:
        _, kind, user, gateway, connection = moment
        if kind == "registered":
            self._open[connection] = (user, gateway)
            self._says[user] = gateway
        elif kind == "closed":
            self._open.pop(connection, None)
        elif kind == "gone":
            self._open = {c: place for c, place in self._open.items() if place[1] != gateway}
        elif kind in ("says", "released"):
            self._says[user] = gateway if kind == "says" else ""
        elif kind == "unknown":
            self._says.clear()


def gaps_of(moments: Sequence[Moment], end: float) -> dict[str, float]:
    """Return, for each user, the seconds in which Redis named a gateway without her connection."""
    replay, gaps = Replay(), dict[str, float]()
    before = 0.0
    for moment in [*moments, Moment(end, "")]:
        for user in replay.wrong():
            gaps[user] = gaps.get(user, 0.0) + moment.t - before
        before = moment.t
        replay.take(moment)
    return {user: seconds for user, seconds in gaps.items() if seconds > 0}


# --- the check ---------------------------------------------------------------------------------

BeliefGap = Callable[[list[Moment], float], Any]
GATEWAYS: Final = ("gateway-01", "gateway-02", "gateway-03")
STUDENTS: Final = ("ada", "bjorn", "chidi", "dana", "edsger", "fran")
NEAR_S: Final = 1e-6
MIXED: Final = 20
"""Classes in which everything happens, after those with one subject."""


class MadeUpClass(NamedTuple):
    """A class with one thing that is easily forgotten."""

    moments: list[Moment]
    end: float
    hint: str


class _Script:
    """Writes down the moments of a made-up class; time goes on by chance."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.moments: list[Moment] = []
        self.t = 0.0
        self._connections = 0
        self.users = rng.sample(STUDENTS, 3)
        self.gateways = rng.sample(GATEWAYS, 3)

    def later(self) -> float:
        self.t = round(self.t + self.rng.uniform(0.1, 4.0), 2)
        return self.t

    def add(self, kind: str, user: str = "", gateway: str = "", connection: str = "") -> None:
        self.moments.append(Moment(self.later(), kind, user, gateway, connection))

    def register(self, user: str, gateway: str) -> str:
        self._connections += 1
        connection = f"c{self._connections}"
        self.add("registered", user, gateway, connection)
        return connection

    def made(self, hint: str) -> MadeUpClass:
        return MadeUpClass(self.moments, self.later(), hint)


def _crash(script: _Script) -> MadeUpClass:
    ann, ben, _ = script.users
    here, there, _ = script.gateways
    for user in (ann, ben):
        script.register(user, here)
    script.add("gone", gateway=here)
    for user in (ben, ann):
        script.register(user, there)
    return script.made(
        "A gateway was gone, and closed nobody one by one. Whose connections went with it?"
    )


def _lease_ran_out(script: _Script) -> MadeUpClass:
    ann, here = script.users[0], script.gateways[0]
    script.register(ann, here)
    script.add("gone", gateway=here)
    script.add("says", ann)
    script.later()
    return script.made(
        "A lease ran out: from then on Redis named nobody. Is that still a wrong gateway?"
    )


def _came_back(script: _Script) -> MadeUpClass:
    ann, here = script.users[0], script.gateways[0]
    old = script.register(ann, here)
    script.register(ann, here)
    script.add("closed", ann, here, old)
    return script.made(
        "A student came back to the same gateway, and then her old connection was closed. Which "
        "of her connections is still open?"
    )


def _released(script: _Script) -> MadeUpClass:
    ann, here = script.users[0], script.gateways[0]
    connection = script.register(ann, here)
    script.add("released", ann, here, connection)
    script.add("closed", ann, here, connection)
    return script.made(
        "A gateway released an entry before it closed the connection, as a drain does. What does "
        "Redis name after a release?"
    )


def _still_open(script: _Script) -> MadeUpClass:
    ann, here = script.users[0], script.gateways[0]
    script.register(ann, here)
    script.add("gone", gateway=here)
    return script.made(
        "The record ended while Redis still named a wrong gateway. Until when do you count?"
    )


def _nobody_named(script: _Script) -> MadeUpClass:
    ann, here = script.users[0], script.gateways[0]
    script.register(ann, here)
    script.add("says", ann)
    return script.made(
        "Redis named nobody, and the student was connected. That is bad for her, but no wrong "
        "gateway was named."
    )


def _elsewhere(script: _Script) -> MadeUpClass:
    ann = script.users[0]
    here, there, _ = script.gateways
    script.register(ann, here)
    script.add("says", ann, there, "c9")
    script.add("says", ann, here, "c1")
    return script.made(
        "A student was connected, but not where Redis said. It is not enough to ask whether she "
        "is connected at all."
    )


def _unknown(script: _Script) -> MadeUpClass:
    ann, here = script.users[0], script.gateways[0]
    connection = script.register(ann, here)
    script.add("closed", ann, here, connection)
    script.add("unknown")
    script.add("says", ann, here, connection)
    script.add("says", ann)
    return script.made(
        "Redis could not be asked for a while. Seconds in which nobody knows what it names do not "
        "count."
    )


def _twice(script: _Script) -> MadeUpClass:
    ann = script.users[0]
    for here in script.gateways:
        script.register(ann, here)
        script.add("gone", gateway=here)
    return script.made("One student lost her gateway more than once. Her seconds add up.")


SUBJECTS: Final = (
    _released,
    _crash,
    _lease_ran_out,
    _came_back,
    _elsewhere,
    _nobody_named,
    _still_open,
    _twice,
    _unknown,
)


def _mixed(script: _Script) -> MadeUpClass:
    rng = script.rng
    connections = [(user, g, script.register(user, g)) for user, g in _pairs(script)]
    for _ in range(rng.randint(6, 14)):
        user, gateway = rng.choice(script.users), rng.choice(script.gateways)
        match rng.randrange(6):
            case 0:
                connections.append((user, gateway, script.register(user, gateway)))
            case 1 if connections:
                old = connections.pop(rng.randrange(len(connections)))
                script.add("closed", *old)
            case 2:
                script.add("gone", gateway=gateway)
                connections = [one for one in connections if one[1] != gateway]
            case 3:
                script.add("says", user, rng.choice([gateway, ""]), "c0")
            case 4:
                script.add("released", user, gateway, "c0")
            case _:
                script.add("unknown")
    return script.made("Each thing by itself is right; in a class where all happen, it is not.")


def _pairs(script: _Script) -> Iterator[tuple[str, str]]:
    return ((user, script.rng.choice(script.gateways)) for user in script.users)


def classes(rng: random.Random) -> list[MadeUpClass]:
    """Return classes with one subject each, then some in which everything happens."""
    made = [subject(_Script(rng)) for subject in SUBJECTS]
    return made + [_mixed(_Script(rng)) for _ in range(MIXED)]


def judge_belief_gap(belief_gap: BeliefGap, seed: int | None = None) -> Judgement:
    """Compare the reader's seconds with the right ones, class by class."""
    if not callable(belief_gap):
        raise NotJudged(f"belief_gap must be a function, not {type(belief_gap).__name__}.")
    made = classes(random.Random(seed))
    try:
        for one in made:
            _compare(belief_gap, one)
    except WrongAnswer as wrong:
        return wrong.judgement
    return Judgement(True, f"{len(made)} classes, with {len(SUBJECTS)} things easily forgotten.")


def _compare(belief_gap: BeliefGap, one: MadeUpClass) -> None:
    told = _told(one)
    try:
        said = belief_gap(list(one.moments), one.end)
    except NotImplementedError:
        raise
    except Exception as problem:
        raise WrongAnswer(f"{one.hint} It raised {type(problem).__name__}.", told) from None
    if not isinstance(said, Mapping) or not all(map(_is_seconds, said.values())):
        raise WrongAnswer(
            f"It returned {said!r:.80}, and should return a dict: the seconds of each user.", told
        )
    wanted = gaps_of(one.moments, one.end)
    for user in [*wanted, *said]:
        if abs(said.get(user, 0.0) - wanted.get(user, 0.0)) > NEAR_S:
            seconds = f"{user}: yours {said.get(user, 0.0):.2f} s"
            raise WrongAnswer(one.hint, f"{told}\n{seconds}")


def _is_seconds(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]


def _told(one: MadeUpClass) -> str:
    lines = [
        f"{m.t:6.2f}  {m.kind:<10}  {m.user:<6}  {m.gateway:<10}  {m.connection}".rstrip()
        for m in one.moments
    ]
    return "\n".join([*lines, f"{one.end:6.2f}  the end"])
