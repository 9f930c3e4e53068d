"""Lesson 16: is each seeded mistake found by its schedule, by no other, and never where none is?"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.interrupting import KILLED, interrupted_at
from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped, words
from tools import lessons
from tools.notebook import build
from wsdemo.drawing.style import Picture
from wsdemo.lab import check
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.figures.exposed import exposed
from wsdemo.lab.lessons import break_it
from wsdemo.lab.lessons.break_it import judge_nemesis, unleash
from wsdemo.lab.lessons.nemesis import GHOST, INVARIANTS, LOSS, PRESENCE, REASON, Schedule, Violated
from wsdemo.lab.lessons.seeded_gateways import SEEDED

pytestmark = pytest.mark.timeout(150)

(SOURCE,) = lessons.named("16")


def defined_in_the_solution(name: str) -> Callable[..., Any]:
    """Return a function of the solved notebook."""
    names: dict[str, Any] = {"Schedule": Schedule}
    for cell in build(SOURCE, solved=True).cells:
        if cell.cell_type == "code" and cell.source.startswith("def "):
            exec(compile(cell.source.partition("\n\n\n")[0], SOURCE.name, "exec"), names)
    found: Callable[..., Any] = names[name]
    return found


nemesis = defined_in_the_solution("nemesis")
LEAVES, DRAINS, LATE, FROZEN = nemesis()
PAIR = Schedule().connect("alice", "gateway-01").connect("bob", "gateway-02")
KILL = (
    PAIR.send("bob", "alice", 3)
    .kill("gateway-01")
    .send("bob", "alice")
    .connect("alice", "gateway-03")
    .send("bob", "alice", 3)
)
MOVES = (
    PAIR.send("bob", "alice", 3)
    .move("alice", "gateway-03")
    .send("bob", "alice", 3)
    .leave("alice")
    .send("bob", "alice")
    .connect("alice", "gateway-01")
    .connect("alice", "gateway-02")
    .rest(2)
    .drain("gateway-03")
)
"""Ordinary use: nothing is held, frozen or killed."""


def seen(schedule: Schedule, seed: int) -> dict[str, str]:
    """Return gateway -> the invariant that was violated, where one was."""
    report = unleash(schedule, seed)
    return {name: one.violated.invariant for name, one in report.items() if one.violated}


@pytest.mark.parametrize(
    ("schedule", "found"),
    [
        pytest.param(LEAVES, {"A": LOSS}, id="a recipient leaves"),
        pytest.param(DRAINS, {"C": LOSS}, id="a drain"),
        pytest.param(LATE, {"B": REASON, "D": PRESENCE}, id="a late release"),
        pytest.param(FROZEN, {"E": PRESENCE}, id="a frozen Redis"),
        pytest.param(KILL, {}, id="a kill"),
        pytest.param(MOVES, {}, id="no fault"),
    ],
)
def test_a_schedule_exposes_these_mistakes_and_no_other(
    schedule: Schedule, found: dict[str, str]
) -> None:
    """On the sound gateway nothing is seen. A busy machine may need a second run."""
    assert found in (seen(schedule, seed) for seed in (3, 4))


def test_the_solution_exposes_all_five_and_leaves_nothing_behind() -> None:
    """Through `check`, in parts that are drawn."""
    verdict = check("ex16", nemesis)
    assert verdict, verdict.hint
    assert "5 of 5 exposed in 20 steps" in verdict.hint
    assert not [one for one in threading.enumerate() if one.name.startswith("gateway-")]


VIOLATED = Violated(LOSS, "A message was lost.")


@pytest.mark.parametrize("missed", SEEDED)
def test_a_mistake_that_was_missed_has_a_hint_of_its_own(missed: str) -> None:
    """The first one that is missing; how many were found is told with it."""
    found = {name: None if name == missed else VIOLATED for name in SEEDED}
    judgement = break_it._judged({break_it.SOUND: None, **found}, 20)
    assert not judgement.ok
    assert "4 of 5 exposed" in judgement.hint and break_it.MISSED[missed] in judgement.hint


def test_a_nemesis_without_its_late_words_is_told_what_it_missed() -> None:
    """On running gateways."""
    judgement = judge_nemesis(lambda: [KILL], seed=1)
    assert "0 of 5 exposed" in judgement.hint and break_it.MISSED["A"] in judgement.hint


def test_a_false_alarm_and_a_nemesis_that_is_too_long_are_told() -> None:
    """Also when all five are exposed."""
    found = dict.fromkeys(SEEDED, VIOLATED)
    accused = break_it._judged({break_it.SOUND: VIOLATED, **found}, 20)
    assert not accused.ok and break_it.ACCUSED in accused.hint
    long = break_it._judged({break_it.SOUND: None, **found}, break_it.MOST + 1)
    assert not long.ok and break_it.TOO_LONG in long.hint


def test_what_is_no_nemesis_is_told() -> None:
    """Nothing, something else, or a mistake in a step: with the step's own sentence."""
    assert check("ex16", list).hint == break_it.EMPTY
    assert check("ex16", lambda: [Schedule()]).hint == break_it.EMPTY
    assert check("ex16", lambda: "kill -9").hint == break_it.EMPTY
    assert "must be a function" in check("ex16", 7).hint

    def stub() -> Any:
        raise NotImplementedError

    assert check("ex16", stub).verdict == "could not judge"
    misspelt = check("ex16", lambda: Schedule().kill("gateway-1"))
    assert misspelt.verdict == "wrong" and "gateway-01" in misspelt.hint


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Schedule().connect("not a name", "gateway-01"),
        lambda: Schedule().connect("alice", "gateway-9"),
        lambda: Schedule().hold("gateway-01", "drain"),
        lambda: Schedule().let_go("gateway-01", "everything"),
        lambda: Schedule().rest(1000),
        lambda: Schedule().send("alice", "bob", 0),
        lambda: functools.reduce(lambda plan, _: plan.freeze(), range(99), Schedule()),
        lambda: unleash([]),  # type: ignore[arg-type]
    ],
)
def test_a_step_that_cannot_be_is_refused_when_it_is_written(wrong: Callable[[], Any]) -> None:
    """In a sentence, before anything runs."""
    with pytest.raises(LabRefused):
        wrong()


def test_a_schedule_reads_as_it_was_written() -> None:
    """One step a line."""
    plan = PAIR.send("bob", "alice", 3).rest(1).let_go()
    assert str(plan).splitlines() == [
        "connect('alice', 'gateway-01')",
        "connect('bob', 'gateway-02')",
        "send('bob', 'alice', 3)",
        "rest(1)",
        "let_go()",
    ]
    assert len(plan) == 5 and len(PAIR) == 2


# --- the figure ----------------------------------------------------------------------------------


def drawn() -> dict[str, Picture]:
    none = dict.fromkeys(("sound", *SEEDED), "")
    full = none | dict(zip(SEEDED, INVARIANTS, strict=False))
    return {
        "two": exposed({"a gateway is killed": none, "a late release": full}, prediction=3),
        "one": exposed({"yours": {"A": GHOST, "B": ""}}),
    }


def test_every_text_of_the_matrix_can_be_read() -> None:
    """Also when each gateway violates another invariant."""
    assert_no_text_covers_another(figures := drawn())
    assert_no_text_is_clipped(figures)
    assert "You said 3 for the first row; it was 0." in words(figures["two"])
    assert figures["two"].wsdemo_facts["most"] == 5 and figures["one"].wsdemo_facts["all"] == 2
    assert "a gateway is killed exposes nothing" in figures["two"].wsdemo_alt


def test_what_cannot_be_drawn_is_an_error_with_a_reason() -> None:
    """No schedule, no gateway, or nothing that was violated."""
    with pytest.raises(ValueError, match="at least one schedule"):
        exposed({})
    with pytest.raises(LabRefused, match="No invariant"):
        break_it.Exposed("A", None).figure()


@KILLED
def test_an_interrupt_ends_a_schedule_soon_and_leaves_nothing() -> None:
    """Threads and servers of the trial have ended when the cell has; the next one works."""
    with interrupted_at("gateway-03"):
        unleash(FROZEN)
    assert unleash(FROZEN)["E"].violated


@KILLED
def test_an_interrupt_ends_a_check_soon_and_leaves_nothing() -> None:
    """A judge works in a thread, which no interrupt reaches: it is told."""
    with interrupted_at("nemesis_0"):
        check("ex16", lambda: [LEAVES, FROZEN])
