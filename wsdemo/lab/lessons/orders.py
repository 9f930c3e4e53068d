"""Lesson 05: how many orders end wrong, and can you write a policy for which none does?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wsdemo.lab.lessons.question import Judgement, NotJudged, Question, WrongAnswer
from wsdemo.lab.races.models import ModelCluster, State, Step, explore_model
from wsdemo.lab.races.orders import (
    GATEWAY_OF,
    OLD,
    THREAD_OF,
    WRITES,
    Action,
    Exploration,
    Order,
    OrderEnd,
    Played,
    all_orders,
)

if TYPE_CHECKING:
    from wsdemo.drawing.style import Picture

QUESTION: Final = Question(
    "A heartbeat, a clean-up and a new registration: six steps, 45 orders that can happen. The "
    "demo compares timestamps when it registers, and nowhere else. After how many of the 45 does "
    "Redis not say where alice is?",
    {
        0: "That would be so if only registering wrote. A heartbeat and a clean-up write as well.",
        4: "A bad moment is rare in time. Among the orders it is not.",
        15: "Those are the orders in which the DEL comes last of all. There are more in which it "
        "comes after her registration, and a heartbeat then raises half an entry.",
        19: "All orders in which the DEL comes after her registration.",
        25: "So many end wrong when nothing is compared at all. The demo does better in 6, but not "
        "by comparing: its heartbeat writes a timestamp only, and not the name of its gateway.",
    },
)

SKEWS: Final = (-10.0, 10.0)
"""A policy that fails with these is right here, and is told of lesson 06."""
SHOWN: Final[dict[Action, str]] = {
    "h_ts": "heartbeat looks",
    "h_set": "heartbeat writes",
    "c_read": "clean-up looks",
    "c_del": "clean-up deletes",
    "r_ts": "register looks",
    "r_set": "register writes",
}


def judge_step(step: Step) -> Judgement:
    """Play the reader's policy without a race, then in every order, with right clocks."""
    if not callable(step):
        raise NotJudged(f"step must be a function, not {type(step).__name__}.")
    step = _guarded(step)
    try:
        for examine in (_registers, _cleans_up, _heals, _stays_within_bounds, _keeps_to_state):
            examine(step)
        _ends_well(step)
    except WrongAnswer as wrong:
        return wrong.judgement
    count = len(all_orders())
    if any(explore_model(step, skew_s).wrong for skew_s in SKEWS):
        more = "It trusts clocks, and here they are right: lesson 06 asks what if one is not."
    else:
        more = "Also when a clock is wrong, which lesson 06 is about."
    return Judgement(True, f"0 wrong of {count} orders. {more}")


def _guarded(step: Step) -> Step:
    """Make a hint of what would break the play."""

    def guarded(state: State, action: Action) -> Any:
        try:
            answer = step(state, action)
        except NotImplementedError:
            raise
        except Exception as problem:
            words = f"{type(problem).__name__}: {problem}"
            raise WrongAnswer(
                f"In {action!r} it raised {words}. What is there already in that moment?"
            ) from None
        entry = (answer if isinstance(answer, dict) else state)["redis"].get("alice")
        if entry is not None and not isinstance(entry, dict):
            raise WrongAnswer(
                f"After {action!r} alice's entry is {entry!r}: it must be a dict, or None."
            )
        return answer

    return guarded


# --- everyday life -----------------------------------------------------------------------------


def _registers(step: Step) -> None:
    cluster = ModelCluster(step)
    if cluster.entry().get("gwId") != OLD:
        raise WrongAnswer(
            "alice has registered with gateway-01, and Redis does not say so. What has to be in "
            'state["redis"]["alice"] then?'
        )
    cluster.play(["h_ts", "h_set"])
    if cluster.entry().get("gwId") != OLD:
        raise WrongAnswer("A heartbeat of a user who has not moved made her disappear.")


def _cleans_up(step: Step) -> None:
    cluster = ModelCluster(step)
    cluster.play(["h_ts", "h_set", "c_read", "c_del"])
    if cluster.entry():
        raise WrongAnswer(
            "alice closed her laptop and went nowhere else, and after the clean-up she is still "
            "listed. A policy that never deletes is full of ghosts."
        )


def _heals(step: Step) -> None:
    cluster = ModelCluster(step)
    cluster.redis["alice"] = None
    cluster.play(["h_ts", "h_set"])
    if cluster.entry().get("gwId") != OLD:
        raise WrongAnswer(
            "Redis had lost alice's entry, and her heartbeat did not bring it back. Whole, with "
            "the name of her gateway."
        )


def _stays_within_bounds(step: Step) -> None:
    for order in all_orders():
        cluster = ModelCluster(step)
        for action in order:
            before = cluster.entry()
            cluster.play([action])
            after = cluster.entry()
            gateway = GATEWAY_OF[THREAD_OF[action]]
            if after == before:
                continue
            if action not in WRITES:
                raise WrongAnswer(
                    f"In {action!r} alice's entry changed. Looking must not write it: between "
                    "looking and writing, others write."
                )
            if after.get("gwId", gateway) not in (gateway, before.get("gwId")):
                raise WrongAnswer(
                    f"In {action!r}, {gateway} wrote the name of another gateway. It knows of its "
                    "own users only."
                )


def _keeps_to_state(step: Step) -> None:
    """Two simulated worlds must not share state."""
    for order in all_orders()[::7]:
        alone = ModelCluster(step)
        alone.play(order)
        together, beside = ModelCluster(step), ModelCluster(step)
        for action in order:
            together.play([action])
            beside.play([action])
        if alone.entry() != together.entry():
            raise WrongAnswer(
                "It remembers something outside of `state`, which two gateways could not share. "
                'What a gateway remembers goes into state["mine"].'
            )


# --- every order -------------------------------------------------------------------------------


def _ends_well(step: Step) -> None:
    found = explore_model(step)
    if found.wrong:
        bad = _simplest(found)
        count = f"{len(found.wrong)} of {len(found.played)} orders"
        raise WrongAnswer(f"{count} end wrong. {_why(bad)}", _picture(bad))


def _simplest(found: Exploration) -> Played:
    pair = found.minimal()
    return pair[0] if pair is not None else found.wrong[0]


def _picture(bad: Played) -> Picture:
    from wsdemo.lab.figures.crossing import crossing

    return crossing(bad, title="Your policy, in this order: {end}")


def _why(bad: Played) -> str:
    entry = bad.entries[-1]
    if bad.end is OrderEnd.DEAD:
        why = "gateway-01 has the last word, although alice has left it. Who may write?"
    elif entry:
        why = "What is left is half an entry, which names nobody. Who wrote into nothing?"
    else:
        why = "The entry of gateway-02 was deleted. Whose clean-up was that, and what did it ask?"
    return f"{why} For example: {in_short(bad.order)}."


def in_short(order: Order) -> str:
    """Return an order in a line."""
    return ", ".join(SHOWN[action] for action in order)
