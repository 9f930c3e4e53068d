"""Lesson 08: when are all users back after they were cut off together, and what does it cost?"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from wsdemo.client import BackoffRule, State
from wsdemo.lab.lab import Lab
from wsdemo.lab.lessons.herd_model import (
    HerdResult,
    HintRule,
    SmallGateway,
    come_back_in_a_model,
)
from wsdemo.lab.lessons.question import Judgement, NotJudged, Question, WrongAnswer
from wsdemo.lab.pace import free_core
from wsdemo.rig.waiting import wait_until
from wsdemo.settings import Limits
from wsdemo.terminal import say

if TYPE_CHECKING:
    import pandas as pd

    from wsdemo.drawing.style import Picture
    from wsdemo.lab.cluster.cluster import Cluster

QUESTION: Final = Question(
    "300 users lose their gateway together; it is back at once, and accepts 133 a second. All try "
    "again every 2 s, or after 1, 2, 4, 8 s (exponential), or after a random part of these "
    "(jitter). Rank the rules: whose last user is back first?",
    {
        "every 2 s, exponential, jitter": "Random pauses are not lost time: they use the time "
        "between two waves.",
        "every 2 s, jitter, exponential": "Under a fixed rule the gateway waits between two waves; "
        "with jitter it never waits.",
        "jitter, exponential, every 2 s": "Each wave brings in equally many, and exponential waves "
        "come less and less often.",
        "jitter, every 2 s, exponential": "With jitter the gateway always has work. Otherwise "
        "users come in waves, and exponential ones get rare.",
    },
)

USERS: Final = 300
USERS_A_PLACE: Final = 7.5
"""A gateway for 300 users has 40 places: so many registers at a time go to Redis, ..."""
SERVICE_S: Final = 0.3
"""... and each of them takes this long, because Redis is slow to answer."""
LEAST_USERS: Final = 60
PATIENCE_S: Final = 40.0
_GATEWAY: Final = "gateway-01"
_NO_QUEUE_S: Final = 0.001
_NO_HINT_S: Final = 0.001
_SPARE_S: Final = 20.0
"""Wall seconds that a crowd may need beside the time that it is given."""


# --- the experiment ----------------------------------------------------------------------------


class Crowd(NamedTuple):
    """So many users, and a gateway that is made for so many."""

    users: int

    @property
    def places(self) -> int:
        return round(self.users / USERS_A_PLACE)

    @property
    def capacity(self) -> float:
        """How many users can be accepted in a second."""
        return self.places / SERVICE_S


def crowd() -> Crowd:
    """Return 300 users, or as many as this machine can let dial at the same moment.

    They all dial in this process. On a busy machine a wave of them would take so long that it is
    none, so both the crowd and its gateway are smaller: the same story.
    """
    fits = round(USERS * free_core() / 2 / USERS_A_PLACE) * 2 * USERS_A_PLACE
    users = int(min(USERS, max(LEAST_USERS, fits)))
    if users < USERS:
        say(f"This machine is busy: {users} users instead of {USERS}, and a smaller gateway.")
    return Crowd(users)


class HerdRun(NamedTuple):
    """What became of a real crowd. Production seconds since it was cut off."""

    attempts: pd.DataFrame
    users: int
    service_s: float
    """How long the register of an accepted user took; the median."""

    @property
    def back(self) -> int:
        """How many users are back."""
        return int(self.attempts["accepted"].sum())

    @property
    def last_s(self) -> float:
        """When the last user was back; infinite when not all are."""
        accepted = self.attempts[self.attempts["accepted"].astype(bool)]
        return float(accepted["t"].max()) if self.back == self.users else math.inf

    @property
    def each(self) -> float:
        """Attempts a user."""
        return len(self.attempts) / self.users

    @property
    def spread_s(self) -> float:
        """How long the first attempts of all users took to arrive."""
        first = self.attempts[self.attempts["user"] != ""].groupby("user")["t"].min()
        return float(first.quantile(0.95) - first.min())


def restart(
    lab: Lab, crowd: Crowd, *, hint_s: float = _NO_HINT_S, patience_s: float = PATIENCE_S
) -> HerdRun:
    """Connect a crowd to gateway-01, restart that with a slow Redis behind it, and wait until all
    users are back. The lab needs wires.

    Args:
        hint_s: for how long the gateway asks those whom it refuses to stay away, on average.
        patience_s: who is not back after so many production seconds is not waited for.
    """
    lab.connect_many(crowd.users)
    limits = Limits(
        concurrent_registers=crowd.places,
        register_queue_s=_NO_QUEUE_S,
        retry_after_s=hint_s / lab.scale,
    )
    within_s = patience_s / lab.scale
    lab.loop.run(_restart(lab.cluster, limits, within_s), within_s + _SPARE_S)
    return _herd_run(lab.trace(), lab.scale, crowd.users)


async def _restart(cluster: Cluster, limits: Limits, within_s: float) -> None:
    clients = list(cluster.users.values())
    await cluster.crash(_GATEWAY)
    cluster.limits = limits
    await cluster.start_gateway(_GATEWAY)
    # A register asks Redis twice: for a token, and for the entry.
    cluster.wire(_GATEWAY, "redis").delay(SERVICE_S / 2 / cluster.timing.scale, "down")

    def all_are_back() -> bool:
        return all(one.state is State.REGISTERED for one in clients)

    with contextlib.suppress(TimeoutError):
        await wait_until("all are back", all_are_back, within_s)


def _herd_run(trace: pd.DataFrame, scale: float, users: int) -> HerdRun:
    from wsdemo.lab.figures.herd import attempts

    return HerdRun(attempts(trace, scale=scale), users, _service_s(trace) * scale)


def _service_s(trace: pd.DataFrame) -> float:
    """Return how long registers took since the crash; the median (wall seconds)."""
    since = trace[trace["kind"] == "crash"]["t"].min()
    opened: dict[str, float] = {}
    took: list[float] = []
    for row in trace[(trace["t"] >= since) & (trace["lane"] == trace["user"])].itertuples():
        if row.kind == "ws_open":
            opened[row.lane] = row.t
        elif row.kind == "registered" and row.lane in opened:
            took.append(row.t - opened.pop(row.lane))
    return sorted(took)[len(took) // 2] if took else math.nan


def calibrated(run: HerdRun, crowd: Crowd) -> SmallGateway:
    """Return a model gateway with what was measured in a run whose users all wait equally long."""
    return SmallGateway(crowd.places, run.service_s, run.spread_s)


def ranking(runs: Mapping[str, HerdRun | HerdResult]) -> str:
    """Return the names of the rules, the one whose last user was back first at the beginning."""
    return ", ".join(sorted(runs, key=lambda name: runs[name].last_s))


def hint_of(seconds: float, *, jitter: bool) -> HintRule:
    """Return what a gateway asks for: exactly so long, or half of it to one and a half."""
    return lambda rng: seconds * (rng.uniform(0.5, 1.5) if jitter else 1.0)


def knock_at_a_full_gateway(lab: Lab) -> str:
    """Fill gateway-01 with one user, knock once more, and return the HTTP answer."""
    return lab.loop.run(_knock(lab.cluster))


async def _knock(cluster: Cluster) -> str:
    await cluster.crash(_GATEWAY)
    cluster.limits = Limits(max_connections=1)
    await cluster.start_gateway(_GATEWAY)
    await cluster.connect("alice")
    try:
        async with connect(cluster.urls[_GATEWAY], proxy=None):
            return "101 Switching Protocols"
    except InvalidStatus as problem:
        answer = problem.response
        return (
            f"{answer.status_code} {answer.reason_phrase}, "
            f"Retry-After: {answer.headers.get('Retry-After', 'nothing')}"
        )


# --- the exercise ------------------------------------------------------------------------------

CROWD: Final = 2_000
GATEWAY: Final = SmallGateway(places=40, service_s=0.1, spread_s=0.1)
"""It accepts 400 users a second: all of them within 5 s, if they came one after another."""
AWAY_S: Final = 30.0
SEEDS: Final = 5
BACK_S: Final = 20.0
"""All are back so long after the gateway is back."""
EACH: Final = 4.0
"""Attempts a user, when the gateway is back at once, ..."""
EACH_AWAY: Final = 10.0
"""... and when it is away for half a minute."""
PEAK: Final = 5.0
"""No half second has more attempts than this, as a multiple of what can be accepted."""
ALONE_S: Final = 5.0
"""Who loses a connection alone is back within this time."""
LONG_AWAY: Final = 5_000
"""The number of an attempt of a client that has been alone for a night."""
PEAK_BIN_S: Final = 0.5
STOP_S: Final = 90.0


def judge_backoff(backoff: BackoffRule, seed: int | None = None) -> Judgement:
    """Let a crowd come back by the reader's rule, five times after a short absence of the gateway
    and five times after a long one.
    """
    if not callable(backoff):
        raise NotJudged(f"backoff must be a function, not {type(backoff).__name__}.")
    rng = random.Random(seed)
    rule = _checked(backoff)
    try:
        _examine_values(rule, rng)
        seeds = [rng.randrange(2**32) for _ in range(SEEDS)]
        short = [_examine_short(rule, one) for one in seeds]
        for one in seeds:
            _examine_long(rule, one)
        _examine_alone(rule, rng)
    except WrongAnswer as wrong:
        return wrong.judgement
    worst = max(result.last_s for result in short)
    each = max(result.each for result in short)
    return Judgement(
        True, f"{SEEDS} crowds: all back within {worst:.1f} s, {each:.1f} attempts a user at most."
    )


def _checked(backoff: BackoffRule) -> BackoffRule:
    """Return the rule, which raises WrongAnswer where it gives no pause."""

    def rule(attempt: int, rng: random.Random) -> float:
        try:
            pause = backoff(attempt, rng)
        except NotImplementedError:
            raise
        except Exception as problem:
            raise WrongAnswer(
                f"Before attempt {attempt:,} it raised {type(problem).__name__}. A client that was "
                "away for a night counts that far."
            ) from None
        if not isinstance(pause, int | float) or not 0 <= pause < math.inf:
            raise WrongAnswer(
                f"Return a number of seconds that is not negative, not {pause!r:.40} "
                f"(before attempt {attempt:,})."
            )
        return float(pause)

    return rule


def _examine_values(rule: BackoffRule, rng: random.Random) -> None:
    """Look for rules under which all users do the same."""
    rule(LONG_AWAY, random.Random(rng.random()))
    seeds = [rng.random() for _ in range(20)]
    pauses = [[rule(attempt, random.Random(one)) for one in seeds] for attempt in (1, 2, 3)]
    if not any(map(any, pauses)):
        raise WrongAnswer("Nobody waits at all: a gateway that is full is asked without end.")
    if any(len(set(same)) == 1 for same in pauses):
        raise WrongAnswer(
            "Two users with different random generators wait equally long, so they meet again at "
            "each attempt: a wave. Where does `rng` make them differ?",
            _pauses(pauses),
        )


def _pauses(pauses: list[list[float]]) -> str:
    rows = [
        f"attempt {number}: " + ", ".join(f"{pause:.2f} s" for pause in some[:4])
        for number, some in enumerate(pauses, 1)
    ]
    return "\n".join(["pauses of four users:", *rows])


def _examine_short(rule: BackoffRule, seed: int) -> HerdResult:
    """Let the gateway be back at once."""
    result = come_back_in_a_model(rule, GATEWAY, CROWD, until_s=STOP_S, seed=seed)
    if result.each > EACH:
        raise WrongAnswer(
            f"Each user makes {result.each:.1f} attempts; {EACH:g} are allowed. The gateway "
            "accepts 400 a second, however often it is asked. Wait longer after a refusal.",
            _drawn(result),
        )
    _examine_peak(rule, result)
    if result.last_s > BACK_S:
        raise WrongAnswer(
            f"The last user is {_end(result)}; {BACK_S:g} s are allowed. {_why_late(rule)}",
            _drawn(result),
        )
    return result


def _why_late(rule: BackoffRule) -> str:
    """Say what is wrong with a rule under which the last user is back too late."""
    at_the_sixth, later = (
        max(rule(attempt, random.Random(n)) for n in range(50)) for attempt in (6, 20)
    )
    if later > max(2 * at_the_sixth, BACK_S):
        return "The pauses have grown too long. What bounds them?"
    return "Some pauses are too long for a crowd that the gateway could accept in 5 s."


def _examine_peak(rule: BackoffRule, result: HerdResult) -> None:
    peak = result.peak(PEAK_BIN_S)
    if peak <= PEAK * GATEWAY.capacity:
        return
    much = (
        f"In one half second {peak:,.0f} attempts a second arrive; {PEAK:g} times 400 are allowed."
    )
    pauses = [rule(1, random.Random(n)) for n in range(100)]
    if max(pauses) - min(pauses) < sum(pauses) / len(pauses):
        raise WrongAnswer(
            f"{much} The random part is small beside the pause, so a wave stays a wave.",
            _drawn(result),
        )
    raise WrongAnswer(
        f"{much} All {CROWD:,} make their first attempt before the gateway could accept half of "
        "them. Over how many seconds does the first pause spread them?",
        _drawn(result),
    )


def _examine_long(rule: BackoffRule, seed: int) -> None:
    """Let the gateway be away for half a minute."""
    away = GATEWAY._replace(away_s=AWAY_S)
    result = come_back_in_a_model(rule, away, CROWD, until_s=STOP_S, seed=seed)
    if result.each > EACH_AWAY:
        raise WrongAnswer(
            f"The gateway is away for {AWAY_S:g} s. Each user makes {result.each:.1f} attempts; "
            f"{EACH_AWAY:g} are allowed. What differs after a fifth failure from after the first?",
            _drawn(result),
        )
    if result.last_s > AWAY_S + BACK_S:
        raise WrongAnswer(
            f"The gateway is back after {AWAY_S:g} s, and the last user is {_end(result)}; that "
            f"may take {BACK_S:g} s more. The pauses have grown too long. What bounds them?",
            _drawn(result),
        )
    _examine_peak(rule, result)


def _examine_alone(rule: BackoffRule, rng: random.Random) -> None:
    """Let one user lose a connection, while nobody else does."""
    longest_s = max(rule(1, random.Random(rng.random())) for _ in range(200))
    if longest_s > ALONE_S:
        raise WrongAnswer(
            f"One user whose Wi-Fi failed for a moment, alone, waits {longest_s:.1f} s for a "
            f"gateway that has room; {ALONE_S:g} s are allowed. Begin with a short pause."
        )


def _end(result: HerdResult) -> str:
    if result.back < result.users:
        return f"not back after {STOP_S:g} s"
    return f"back after {result.last_s:.1f} s"


def _drawn(result: HerdResult) -> Picture:
    from wsdemo.lab.figures.herd import herd

    return herd(
        {"your rule": result.table()},
        GATEWAY.capacity,
        stopped_s=STOP_S,
        title="With your rule, {attempts} a user, and the last one is back {best_end}",
    )
