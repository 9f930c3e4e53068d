"""Lesson 07: what does Redis say when a gateway has died, and where shall its users go?"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import takewhile
from typing import Final, Literal, NamedTuple

from wsdemo.lab.lessons.question import Judgement, NotJudged, Question

QUESTION: Final = Question(
    "100 users sit at gateway-01, which dies by kill -9. Two seconds later some of them are back "
    "at another gateway, others still try. How many entries in Redis name gateway-01?",
    {
        "0": "Nobody told Redis. Who could have deleted them? The gateway is dead, and the others "
        "do not know whom it had.",
        "some, by chance": "It is less than 100, but chance has no part in it: a registration "
        "elsewhere overwrites the user's own entry, and only that one.",
        "those not yet back": "Every registration elsewhere overwrites one entry. The others stay "
        "until their TTL ends, at the latest 90 s after their users' last heartbeat.",
        "100": "True in the first instant. But an entry belongs to its user, not to the gateway, "
        "and whoever registers elsewhere overwrites it.",
    },
)

OUTAGES: Final = 200
CLIENTS: Final = 10
"""Users in each outage; every one has the gateways in an order of its own."""
GATEWAYS: Final = ("gateway-01", "gateway-02", "gateway-03", "gateway-04")
BAR_S: Final = 8.0
"""99 of 100 users must have a gateway again within this time of the first moment when there is
one to be had."""
GIVEN_UP_S: Final = 60.0
"""The model looks no further."""
REFUSED_S: Final = 0.02
SILENT_S: Final = 5.0
"""An attempt at a machine that answers nothing: the client's connect timeout."""
REGISTER_S: Final = 0.05
PAUSE_S: Final = (0.2, 0.6)
"""Between two attempts. How to choose pauses is another lesson."""

Attempt = tuple[str, Literal["ok", "failed"]]
History = list[Attempt]
NextGateway = Callable[[History, list[str]], str]


class Outage(NamedTuple):
    """When each gateway takes users again (s), and how long an attempt takes until then."""

    home: str
    back_at: dict[str, float]
    attempt_s: dict[str, float]

    def first_chance_s(self) -> float:
        """Return the first moment at which some gateway takes users."""
        return min(self.back_at.values())


class Refusal(Exception):
    """An answer that no client may give; the text is the hint."""


def judge_next_gateway(next_gateway: NextGateway) -> Judgement:
    """Play 200 outages with the reader's `next_gateway(history, gateways)`.

    It is called whenever a client has to dial, and returns the gateway to dial next.
    `gateways` are the names of all gateways, in an order of this client's own. `history` holds
    the client's attempts, the oldest first, as pairs: `("gateway-02", "ok")` for an attempt that
    led to a registration, which has ended since, and `("gateway-02", "failed")` for one that did
    not. It is empty when the client dials for the first time. What follows the last "ok" is the
    outage of now.

    In the model a gateway dies as a process (attempts are refused at once), or as a machine
    (attempts take the whole connect timeout); sometimes two die, sometimes none can be reached
    and one comes back. Two things are asked for: within `BAR_S`, 99 of 100 clients have a gateway
    again, counted from the moment when there is one; and no client dials a gateway that has
    failed twice in this outage while another has not been tried in it.
    """
    if not callable(next_gateway):
        raise NotJudged(f"next_gateway must be a function, not {type(next_gateway).__name__}.")
    return judge_seeded(next_gateway, random.randrange(2**32))


def judge_seeded(next_gateway: NextGateway, seed: int) -> Judgement:
    """Judge by the outages of one seed."""
    rng = random.Random(seed)
    asked = _Asked(next_gateway)
    waits = []
    try:
        asked.next([], _shuffled(GATEWAYS, rng))
        for _ in range(OUTAGES):
            outage = _outage(rng)
            waits += [_wait_s(asked, outage, rng) for _ in range(CLIENTS)]
    except Refusal as refusal:
        return Judgement(False, str(refusal))
    if asked.stubborn:
        return Judgement(False, asked.why_stubborn())
    waits.sort()
    p99_s = waits[len(waits) * 99 // 100]
    if p99_s > BAR_S:
        return Judgement(False, _too_slow(asked, p99_s))
    return Judgement(
        True, f"{OUTAGES} outages, {len(waits):,} users; p99 is {p99_s:.1f} s (bar: {BAR_S:g} s)."
    )


# --- the model -----------------------------------------------------------------------------------


def _outage(rng: random.Random) -> Outage:
    """Draw what dies: mostly one gateway, at times two, at times the way to all of them."""
    home, *others = _shuffled(GATEWAYS, rng)
    back_at = dict.fromkeys(GATEWAYS, 0.0)
    kind = rng.random()
    dead = [home] if kind < 0.6 else [home, others[0]] if kind < 0.85 else list(GATEWAYS)
    for name in dead:
        back_at[name] = GIVEN_UP_S * 2
    if len(dead) == len(GATEWAYS):
        back_at[rng.choice(GATEWAYS)] = rng.uniform(3.0, 10.0)
        return Outage(home, back_at, dict.fromkeys(GATEWAYS, REFUSED_S))
    return Outage(home, back_at, {name: rng.choice((REFUSED_S, SILENT_S)) for name in GATEWAYS})


def _wait_s(asked: _Asked, outage: Outage, rng: random.Random) -> float:
    """Return for how long one client had no gateway, although there was one."""
    gateways = _shuffled(GATEWAYS, rng)
    history = _past(outage.home, rng)
    now = 0.0
    while now < GIVEN_UP_S:
        chosen = asked.next(history, gateways)
        if asked.is_stubborn(chosen, history, gateways):
            return GIVEN_UP_S
        if now >= outage.back_at[chosen]:
            return max(0.0, now + REGISTER_S - outage.first_chance_s())
        history.append((chosen, "failed"))
        now += outage.attempt_s[chosen] + rng.uniform(*PAUSE_S)
    return GIVEN_UP_S


def _past(home: str, rng: random.Random) -> History:
    """Return what a client remembers of the time before: failures too, all of them overcome."""
    past: History = []
    for _ in range(rng.randint(0, 3)):
        past += [(name, "failed") for name in rng.sample(GATEWAYS, rng.randint(0, 3))]
        past.append((rng.choice(GATEWAYS), "ok"))
    return [*past, (home, "ok")]


def _shuffled(names: Sequence[str], rng: random.Random) -> list[str]:
    return rng.sample(names, len(names))


# --- the answers ---------------------------------------------------------------------------------


class Stubborn(Enum):
    """Why a client dials what has failed twice, and not what it has not tried."""

    GRUDGE = 'the others had failed before the last "ok". How long is a failure worth remembering?'
    PAIR = "in turn with another dead one. There were more gateways."
    SAME = "while others had not been tried once."


class _Asked:
    """The reader's function, with what no client may do looked after."""

    def __init__(self, next_gateway: NextGateway) -> None:
        self._next_gateway = next_gateway
        self.asked = 0
        self.first_in_list = 0
        """Answers that named the first gateway of the list."""
        self.home_first = 0
        """First attempts at the gateway whose connection had just broken."""
        self.stubborn: Counter[Stubborn] = Counter()

    def next(self, history: History, gateways: list[str]) -> str:
        """Return the answer to a history.

        Raises:
            Refusal: it is no gateway.
        """
        try:
            said = self._next_gateway(list(history), list(gateways))
        except NotImplementedError:
            raise
        except Exception as problem:
            raise Refusal(_raised(history, type(problem).__name__)) from None
        now = _failures_of_now(history)
        if said is None:
            raise Refusal(
                f"It returned None after {len(now)} failures. An outage ends one day: a client "
                "that dials nobody will not see it."
            )
        if said not in gateways:
            raise Refusal(f"It returned {said!r:.40}, which is not one of the gateways.")
        self.asked += 1
        self.first_in_list += said == gateways[0]
        self.home_first += bool(history) and not now and said == history[-1][0]
        return said

    def is_stubborn(self, said: str, history: History, gateways: list[str]) -> bool:
        """Say, and note, whether this answer has failed twice while another was not tried."""
        now = _failures_of_now(history)
        untried = set(gateways) - set(now)
        if now.count(said) < 2 or not untried:
            return False
        before = {name for name, result in history[: -len(now)] if result == "failed"}
        if untried <= before:
            self.stubborn[Stubborn.GRUDGE] += 1
        else:
            self.stubborn[Stubborn.PAIR if len(set(now)) > 1 else Stubborn.SAME] += 1
        return True

    def why_stubborn(self) -> str:
        """Return the hint to what was most often the reason."""
        told = "It dialled a gateway again that had failed twice in this outage"
        if self.first_in_list == self.asked:
            return f"{told}. Does the answer depend on the history at all?"
        return f"{told}, {self.stubborn.most_common(1)[0][0].value}"


def _failures_of_now(history: History) -> list[str]:
    """Return the gateways that failed since the last "ok", the latest first."""
    return [name for name, _ in takewhile(lambda attempt: attempt[1] == "failed", history[::-1])]


def _raised(history: History, problem: str) -> str:
    if not history:
        return f"With an empty history it raised {problem}. A client's first attempt has no past."
    if len(set(_failures_of_now(history))) == len(GATEWAYS):
        return f"When every gateway had failed it raised {problem}. Outages end: who will be asked?"
    return f"It raised {problem}."


def _too_slow(asked: _Asked, p99_s: float) -> str:
    told = f"99 of 100 users are back within {p99_s:.1f} s, and the bar is {BAR_S:g} s."
    if asked.home_first > OUTAGES * CLIENTS / 2:
        return f"{told} Most first attempts went to the gateway whose connection had just broken."
    return (
        f"{told} Sometimes all gateways fail and one of them comes back. Who asks it, and how soon?"
    )
