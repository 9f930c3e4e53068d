"""Predictions and checks: what did the reader predict, and is the reader's code right?

Plain text in and out; in a live notebook, an answer can be clicked as well. A prediction is written
down before the run: readers learn from a result when they have predicted it. A check says `ok`,
`wrong` with one hint, or `could not judge` with the reason, and never the answer. A mistake in the
reader's code, such as a wrong name or an endless loop, is told as the reader's, with its line.
"""

from __future__ import annotations

import html
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wsdemo.lab.errors import LabRefused
from wsdemo.lab.lessons import (
    CHECKS,
    QUESTIONS,
    SYNONYMS,
    TIMEOUTS_S,
    Judgement,
    NotJudged,
    Question,
)
from wsdemo.lab.notes import LearnersNotes, Progress, here
from wsdemo.lab.progress import watched
from wsdemo.lab.trial import AnswerTrial, EndlessAnswer
from wsdemo.rig.names import unknown
from wsdemo.terminal import say

if TYPE_CHECKING:
    from wsdemo.drawing.style import Picture

CHECK_TIMEOUT_S: Final = 20.0

_in_memory: Final = LearnersNotes()
_on_disk: dict[Path, LearnersNotes] = {}


def notes() -> LearnersNotes:
    """Return the learner's notes: of a file in a live notebook, otherwise of this process only."""
    path = here() if watched() else None
    return _in_memory if path is None else _on_disk.setdefault(path, LearnersNotes(path))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found: `ok`, `wrong` or `could not judge`, and why."""

    exercise: str
    verdict: str
    hint: str = ""
    evidence: Picture | str = ""
    """The case in which the answer is wrong: a figure, or text."""

    def __bool__(self) -> bool:
        return self.verdict == "ok"

    def __repr__(self) -> str:
        shown = self.evidence if isinstance(self.evidence, str) else self.evidence.wsdemo_alt
        return self._in_short() + (f"\n{shown}" if shown else "")

    def _in_short(self) -> str:
        return f"{self.exercise}: {self.verdict}" + (f". {self.hint}" if self.hint else "")

    def _repr_html_(self) -> str:
        mark = {"ok": "✔", "wrong": "✘"}.get(self.verdict, "?")
        words = self._in_short().removeprefix(f"{self.exercise}: ")
        line = f"<p>{mark} <b>{html.escape(self.exercise)}</b>: {html.escape(words)}</p>"
        if isinstance(self.evidence, str):
            return line + (f"<pre>{html.escape(self.evidence)}</pre>" if self.evidence else "")
        from wsdemo.drawing.show import to_html

        return line + to_html(self.evidence)


def predict(question: str, answer: object = None) -> None:
    """Write down a prediction, or ask the question when none is given.

    Asking again keeps an answer that was written down before, and shows it.

    Raises:
        LabRefused: there is no such question, or the answer is not one of its options.
    """
    asked = _asked(question)
    options = ", ".join(map(str, asked.options))
    if answer is None:
        said = predicted(question)
        told = (
            "You have not said anything yet."
            if said is None
            else f"You said: {said}. It stays written down until you say something else."
        )
        say(f"{asked.text}\nYour options: {options}. {told}")
        _offer(question)
        return
    if answer not in list(asked.options):
        raise LabRefused(f"{answer!r} is none of the options: {options}")
    notes().say(question, answer)
    say(f"Written down: {answer}. Now run it.")


def _asked(question: str) -> Question:
    if question not in QUESTIONS:
        raise LabRefused(unknown("question", question, QUESTIONS))
    return QUESTIONS[question]


def _offer(question: str) -> None:
    """Let the reader click an answer, in a live notebook with ipywidgets; else do nothing."""
    if not watched() or importlib.util.find_spec("ipywidgets") is None:
        return
    from IPython.display import display

    display(buttons(question))  # type: ignore[no-untyped-call]


def buttons(question: str) -> Any:
    """Return radio buttons that write down what is chosen; an earlier answer is chosen already."""
    from ipywidgets import Label, RadioButtons, VBox

    options = [(str(option), option) for option in QUESTIONS[question].options]
    said = predicted(question)
    choice = RadioButtons(options=options, value=said, layout={"width": "max-content"})
    told = Label()

    def write_down(change: Any) -> None:
        notes().say(question, change["new"])
        told.value = f"Written down: {change['new']}. Now run the next cells."

    choice.observe(write_down, names="value")
    return VBox([choice, told])


def predicted(question: str) -> Any:
    """Return the reader's prediction; None when there is none.

    Raises:
        LabRefused: there is no such question.
    """
    asked = _asked(question)
    said = notes().said(question)
    # What a file says need not be an option: the lesson may be newer than the file.
    return next((option for option in asked.options if option == said), None)


def reveal(question: str, measured: object) -> None:
    """Print how the prediction compares with what was measured, and why it was tempting.

    Raises:
        LabRefused: there is no such question.
    """
    asked, said = _asked(question), predicted(question)
    if said is None:
        say(f"Measured: {measured}. You did not predict; next time, say it first.")
    elif said == measured:
        say(f"Measured: {measured}, as you said.")
    else:
        say(f"Measured: {measured}; you said {said}. {asked.options[said]}")


def check(exercise: str, answer: Any) -> Verdict:
    """Judge an answer to an exercise. It runs on servers of its own, and does not touch the
    reader's laboratory.

    Raises:
        LabRefused: there is no such exercise.
    """
    exercise = SYNONYMS.get(exercise, exercise)
    if exercise not in CHECKS:
        raise LabRefused(unknown("exercise", exercise, CHECKS))
    verdict = _judged(exercise, CHECKS[exercise], answer)
    if verdict:
        notes().passed(exercise)
    return verdict


def progress() -> Progress:
    """Return what this learner has predicted and passed, as a table of the lessons."""
    return Progress.of(notes(), QUESTIONS, CHECKS)


def _judged(exercise: str, judge: Callable[[Any], Judgement], answer: Any) -> Verdict:
    """Judge an answer; a mistake in its code is the reader's, any other is that of the check."""
    tried = AnswerTrial(answer)
    try:
        result = tried.run(judge, TIMEOUTS_S.get(exercise, CHECK_TIMEOUT_S))
    except NotImplementedError:
        return Verdict(exercise, "could not judge", "It is not written yet.")
    except NotJudged as problem:
        return Verdict(exercise, "could not judge", str(problem))
    except EndlessAnswer as problem:
        return Verdict(exercise, "wrong", str(problem))
    except TimeoutError as problem:
        return Verdict(exercise, "could not judge", str(problem))
    except (Exception, SystemExit) as problem:
        if mistake := tried.mistake(problem):
            return Verdict(exercise, "wrong", mistake)
        why = f"The check itself failed: {type(problem).__name__}: {problem}"
        return Verdict(exercise, "could not judge", why)
    if not result.ok and (mistake := tried.mistake()):
        return Verdict(exercise, "wrong", mistake)
    return Verdict(exercise, "ok" if result.ok else "wrong", result.hint, result.evidence)
