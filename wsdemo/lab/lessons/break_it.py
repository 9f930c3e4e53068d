"""Lesson 16: which of five seeded mistakes does a nemesis expose, and in how many steps?"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsdemo.lab.errors import LabRefused
from wsdemo.lab.lessons.nemesis import INVARIANTS, Schedule, Violated, play
from wsdemo.lab.lessons.own_world import SLOW, LevelFailed, TrialPace
from wsdemo.lab.lessons.question import Judgement, NotJudged, Question
from wsdemo.lab.lessons.seeded_gateways import SEEDED, SoundGateway
from wsdemo.lab.trial import run_apart
from wsdemo.lab.yours import GatewaySkeleton
from wsdemo.redis.server import ServerError

if TYPE_CHECKING:
    from wsdemo.drawing.style import Picture

__all__ = ["INVARIANTS", "QUESTION", "Schedule", "exposed", "judge_nemesis", "unleash"]

QUESTION: Final = Question(
    "Five gateways with one mistake each. A nemesis kills a gateway with a user on it, who comes "
    "back elsewhere, and messages are sent before and after. How many of the five does it expose?",
    {
        0: "None of the five mistakes is about a process that ends.",
        1: "Which one would that be? A lease repairs what a dead gateway leaves behind.",
        3: "A death is loud: connections end, and everybody notices. These mistakes are quiet.",
        5: "A death is the best known fault. It is not the one that finds the most.",
    },
)

SOUND: Final = "sound"
MOST: Final = 30
"""A nemesis of more steps than this in all has some that nobody needs."""
MISSED: Final = {
    "A": "What becomes of a message that is still on the way when its recipient leaves?",
    "B": "Which words of one gateway to another can arrive after the user has come back there?",
    "C": "A gateway drains. What may be on the way to it at that moment?",
    "D": "A late release, and the user is back at the same gateway. A heartbeat repairs the damage "
    "before you look: what else has to be held?",
    "E": "How long can Redis be frozen before something is gone that was there?",
}
TOO_LONG: Final = "Take one step away and try again: which of them does nothing?"
ACCUSED: Final = (
    "That is a false alarm, and proves nothing about the others: which step asks for more than is "
    "promised?"
)
EMPTY: Final = "`nemesis` has to return a Schedule, or a list of them, with at least one step."


class Exposed(NamedTuple):
    """What one schedule has shown of one gateway: the invariant, or nothing."""

    gateway: str
    violated: Violated | None

    def figure(self, title: str = "Gateway {level}: {seen}") -> Picture:
        """Draw the last that happened before an invariant was seen violated.

        Args:
            title: a template; known facts: level (the name of the gateway), seen.

        Raises:
            LabRefused: nothing was violated.
        """
        from wsdemo.lab.lessons.own_counterexample import counterexample

        if self.violated is None:
            raise LabRefused(f"No invariant of gateway {self.gateway} was violated.")
        return counterexample(self.gateway, self.violated.seen, self.violated.rows, title)


Report = dict[str, Exposed]
"""Gateway -> what a schedule has shown of it."""


def unleash(schedule: Schedule, seed: int | None = None) -> Report:
    """Play a schedule on the sound gateway and on each of the five.

    Args:
        seed: which of the three gateways takes which part; None: as it is written.

    Raises:
        LabRefused: it is no schedule.
        NotJudged: there is no Redis to be started.
    """
    if not isinstance(schedule, Schedule):
        raise LabRefused(f"{schedule!r} is not a Schedule")
    kinds: Mapping[str, Any] = {SOUND: SoundGateway, **SEEDED}
    found = run_apart(_on_each([schedule], kinds, seed), "nemesis")
    if found[SOUND]:
        # Nobody is to be accused because the machine is busy.
        found = run_apart(_on_each([schedule], kinds, seed, SLOW), "nemesis")
    return {name: Exposed(name, one) for name, one in found.items()}


def exposed(reports: Mapping[str, Report], **options: Any) -> Picture:
    """Draw which schedule has exposed which gateway, by which invariant."""
    from wsdemo.lab.figures.exposed import exposed as draw

    told = {
        name: {one.gateway: one.violated.invariant if one.violated else "" for one in row.values()}
        for name, row in reports.items()
    }
    return draw(told, **options)


def judge_nemesis(nemesis: Callable[[], Any], seed: int | None = None) -> Judgement:
    """Play the reader's schedules on all gateways, and count what they expose."""
    if not callable(nemesis):
        raise NotJudged(f"nemesis must be a function, not {type(nemesis).__name__}.")
    schedules = _schedules(nemesis())
    if not schedules:
        return Judgement(False, EMPTY)
    kinds: Mapping[str, Any] = {SOUND: SoundGateway, **SEEDED}
    chosen = random.randrange(1000) if seed is None else seed
    found = run_apart(_on_each(schedules, kinds, chosen), "nemesis")
    missed = {name: kinds[name] for name in SEEDED if found[name] is None}
    if missed or found[SOUND]:
        # On a machine that is busy, once more: nobody is to be judged by the load.
        again = run_apart(
            _on_each(schedules, {SOUND: SoundGateway, **missed}, chosen, SLOW), "nemesis"
        )
        found |= again
    return _judged(found, sum(len(one) for one in schedules))


def _judged(found: Mapping[str, Violated | None], steps: int) -> Judgement:
    bars = "".join("■" if found[name] else "□" for name in SEEDED)
    if alarm := found[SOUND]:
        return Judgement(False, f"The sound gateway: {alarm.invariant}. {alarm.seen} {ACCUSED}")
    told = f"{bars} {sum(found[name] is not None for name in SEEDED)} of {len(SEEDED)} exposed"
    for name in SEEDED:
        if found[name] is None:
            return Judgement(False, f"{told}; not gateway {name}. {MISSED[name]}")
    if steps > MOST:
        return Judgement(False, f"{told} in {steps} steps; {MOST} are enough. {TOO_LONG}")
    row = {name: Exposed(name, found[name]) for name in found}
    return Judgement(True, f"{told} in {steps} steps.", exposed({"yours": row}))


def _schedules(said: Any) -> list[Schedule]:
    """Return what a nemesis has returned, as a list; empty when it is none."""
    listed = [said] if isinstance(said, Schedule) else said
    if not isinstance(listed, Sequence) or not all(isinstance(one, Schedule) for one in listed):
        return []
    return [one for one in listed if len(one)]


async def _on_each(
    schedules: Sequence[Schedule],
    kinds: Mapping[str, Callable[..., GatewaySkeleton]],
    seed: int | None,
    pace: TrialPace | None = None,
) -> dict[str, Violated | None]:
    """Play on all gateways at the same time: most of it is waiting."""
    plays = [
        asyncio.create_task(_first(schedules, kind, seed, pace), name="play")
        for kind in kinds.values()
    ]
    try:
        done = await asyncio.gather(*plays)
    except (ServerError, LevelFailed) as problem:
        raise NotJudged(f"The gateways could not be started: {problem}") from None
    finally:
        # `gather` comes back with the first that has ended. Each has gateways and a server to end,
        # and a second cancellation would interrupt that.
        for play in plays:
            if not play.cancelling():
                play.cancel()
        await asyncio.wait(plays)
    return dict(zip(kinds, done, strict=True))


async def _first(
    schedules: Sequence[Schedule],
    kind: Callable[..., GatewaySkeleton],
    seed: int | None,
    pace: TrialPace | None,
) -> Violated | None:
    """Return the first violation, of whichever schedule."""
    for schedule in schedules:
        if found := await play(schedule, kind, seed, pace):
            return found
    return None
