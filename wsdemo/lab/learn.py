"""Predictions and checks: what did the reader predict, and is the reader's code right?

Plain text in and out; in a live notebook, an answer can be clicked as well. A prediction is written
down before the run: readers learn from a result when they have predicted it. A check says `ok`,
`wrong` with one hint, or `could not judge` with the reason, and never the answer.
"""

from __future__ import annotations

import html
import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wsdemo.drawing.show import to_html
from wsdemo.drawing.style import Picture
from wsdemo.lab.lessons import CHECKS, QUESTIONS, Judgement, NotJudged
from wsdemo.lab.notes import LearnersNotes, Progress, here
from wsdemo.lab.progress import watched
from wsdemo.terminal import say

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
        if isinstance(self.evidence, Picture):
            return line + to_html(self.evidence)
        return line + (f"<pre>{html.escape(self.evidence)}</pre>" if self.evidence else "")


def predict(question: str, answer: object = None) -> None:
    """Write down a prediction, or ask the question when none is given.

    Asking again keeps an answer that was written down before, and shows it.

    Raises:
        ValueError: there is no such question, or the answer is not one of its options.
    """
    asked = QUESTIONS.get(question)
    if asked is None:
        raise ValueError(f"there is no question {question!r}; there are: {', '.join(QUESTIONS)}")
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
    if answer not in asked.options:
        raise ValueError(f"{answer!r} is none of the options: {options}")
    notes().say(question, answer)
    say(f"Written down: {answer}. Now run it.")


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
    """Return the reader's prediction; None when there is none."""
    asked, said = QUESTIONS.get(question), notes().said(question)
    # What a file says need not be an option: the lesson may be newer than the file.
    return next((option for option in asked.options if option == said), None) if asked else None


def reveal(question: str, measured: object) -> None:
    """Print how the prediction compares with what was measured, and why it was tempting."""
    asked, said = QUESTIONS[question], predicted(question)
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
        ValueError: there is no such exercise.
    """
    judge = CHECKS.get(exercise)
    if judge is None:
        raise ValueError(f"there is no exercise {exercise!r}; there are: {', '.join(CHECKS)}")
    verdict = _judged(exercise, judge, answer)
    if verdict:
        notes().passed(exercise)
    return verdict


def progress() -> Progress:
    """Return what this learner has predicted and passed, as a table of the lessons."""
    return Progress.of(notes(), QUESTIONS, CHECKS)


def _judged(exercise: str, judge: Callable[[Any], Judgement], answer: Any) -> Verdict:
    """Run the judge in a thread: the answer may never return."""
    found: list[Verdict] = []

    def run() -> None:
        try:
            result = judge(answer)
        except NotImplementedError:
            found.append(Verdict(exercise, "could not judge", "It is not written yet."))
        except NotJudged as problem:
            found.append(Verdict(exercise, "could not judge", str(problem)))
        except Exception as problem:
            why = f"The check itself failed: {type(problem).__name__}: {problem}"
            found.append(Verdict(exercise, "could not judge", why))
        else:
            verdict = "ok" if result.ok else "wrong"
            found.append(Verdict(exercise, verdict, result.hint, result.evidence))

    thread = threading.Thread(target=run, name=f"check {exercise}", daemon=True)
    thread.start()
    thread.join(CHECK_TIMEOUT_S)
    if not found:
        why = f"It did not come to an end within {CHECK_TIMEOUT_S:g} s."
        return Verdict(exercise, "could not judge", why)
    return found[0]
