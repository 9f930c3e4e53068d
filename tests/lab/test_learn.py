"""Questions: are they printed as text, and have they buttons in a live notebook?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import IPython.display
import nbformat
import pytest

from tools import notebook_runner as runner
from wsdemo.lab import check, learn, predict
from wsdemo.lab.learn import buttons, predicted, progress, reveal
from wsdemo.lab.lessons import CHECKS, QUESTIONS, Judgement
from wsdemo.lab.notes import NOTES_FILE, LearnersNotes
from wsdemo.lab.races.models import MODELS


@pytest.fixture(autouse=True)
def new_learner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Somebody who has not said anything yet, in a folder of their own."""
    monkeypatch.setattr(learn, "_in_memory", LearnersNotes())
    monkeypatch.setattr(learn, "_on_disk", {})
    monkeypatch.setattr(learn, "here", lambda: tmp_path / NOTES_FILE)


WORDS = "Your options: gateway-01, gateway-02, nothing, both. You have not said anything yet."


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The objects that a cell would display besides text."""
    out: list[Any] = []
    monkeypatch.setattr(IPython.display, "display", out.append)
    return out


def test_a_question_in_a_script_is_text(
    shown: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing else."""
    predict("q04")
    assert WORDS in capsys.readouterr().out
    assert shown == []


def test_a_question_in_a_notebook_has_buttons(
    shown: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text stays; each option has a button, and none of them is chosen."""
    monkeypatch.setattr(learn, "watched", lambda: True)
    predict("q04")
    assert WORDS in capsys.readouterr().out
    (box,) = shown
    choice, _ = box.children
    assert [value for _, value in choice.options] == list(QUESTIONS["q04"].options)
    assert choice.value is None and predicted("q04") is None


def test_a_written_answer_shows_no_buttons(
    shown: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that is answered in the cell is not asked again."""
    monkeypatch.setattr(learn, "watched", lambda: True)
    predict("q04", "both")
    assert shown == [] and predicted("q04") == "both"


def test_without_ipywidgets_a_question_is_text(
    shown: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is optional."""
    monkeypatch.setattr(learn, "watched", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    predict("q04")
    assert shown == []


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_option_can_be_clicked(question: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A click stores the option itself, not its text, and confirms it."""
    choice, told = buttons(question).children
    for option in QUESTIONS[question].options:
        choice.value = option
        assert predicted(question) == option
        assert str(option) in told.value
    reveal(question, option)
    assert "as you said" in capsys.readouterr().out


def test_running_the_question_again_keeps_and_shows_a_clicked_answer(
    shown: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`predict("q04", None)` runs again with every Run All; the new buttons show the answer too."""
    monkeypatch.setattr(learn, "watched", lambda: True)
    predict("q04")
    shown[0].children[0].value = "both"
    predict("q04", None)
    assert predicted("q04") == "both" and shown[1].children[0].value == "both"
    assert "You said: both" in capsys.readouterr().out
    reveal("q04", "nothing")
    told = capsys.readouterr().out
    assert "you said both" in told and "did not predict" not in told


def test_a_written_answer_survives_the_question_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Written, then asked again; another answer replaces it."""
    predict("q04", "both")
    predict("q04", None)
    assert predicted("q04") == "both" and "You said: both" in capsys.readouterr().out
    predict("q04", "nothing")
    assert predicted("q04") == "nothing"


def test_a_live_notebook_remembers_after_a_restart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers and passed checks are in a file beside it; a script writes none."""
    monkeypatch.setattr(learn, "watched", lambda: True)
    predict("q04", "both")
    predict("q00", 5)
    judge = {"ex04": lambda answer: Judgement(answer == "right")}
    monkeypatch.setattr(learn, "CHECKS", {**CHECKS, **judge})
    assert not check("ex04", "wrong") and (check("ex04", "right") and not check("ex04", "wrong"))
    learn._on_disk.clear()  # As a new process would begin.
    predict("q04", None)
    assert (predicted("q04"), predicted("q00"), predicted("q01")) == ("both", 5, None)
    assert re.search(r"^04 +✔ +✔$", repr(progress()), re.MULTILINE)
    assert re.search(r"^01 +not yet +not yet$", repr(progress()), re.MULTILINE)
    assert "1 of" in progress()._repr_html_()
    monkeypatch.setattr(learn, "watched", lambda: False)
    assert predicted("q04") is None, "a script has notes of its own"


@pytest.mark.slow
def test_a_built_notebook_contains_no_buttons() -> None:
    """A committed notebook has text and figures: no widget, no state of one."""
    cell = nbformat.v4.new_code_cell(  # type: ignore[no-untyped-call]
        "from wsdemo.lab import predict\npredict('q04')"
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])  # type: ignore[no-untyped-call]
    assert runner.execute(notebook) == ""
    (output,) = notebook.cells[0].outputs
    assert WORDS in output.text
    assert "widget" not in nbformat.writes(notebook)  # type: ignore[no-untyped-call]


def wrong_route(presence: dict[str, str], me: str) -> tuple[str, str | None]:
    return ("local", None)


EVIDENCE: dict[str, tuple[object, str]] = {
    "ex00": (lambda record: None, "where_is({"),
    "ex01": (wrong_route, "route({"),
    "ex02": (lambda heartbeat, loss, at_most: 3 * heartbeat, "Heat map|heartbeats"),
    "ex03": (lambda conn, users, conns: users.pop(conns.pop(conn, ""), None), "registers on conn-"),
    "ex04": ("return redis.call('DEL', KEYS[1])", "entry before:"),
    "ex05": (lambda state, action: MODELS["plain"](state, action), "Space-time diagram"),
    "ex06": ("return redis.call('INCR', KEYS[1])", "KEYS[1]:"),
    "ex07": (lambda history, gateways: gateways[0], "history, the oldest first"),
    "ex10": (lambda state: (True, True), "primaries: ("),
    "ex11": ((max, dict), "gateways:|before:"),
    "ex13": (lambda kept, word: word, "arrives:"),
    "ex09": (lambda place, before, entries: ("recovered", []), "Bob's place:"),
}


@pytest.mark.parametrize("exercise", EVIDENCE)
def test_a_wrong_answer_is_shown_a_case_in_which_it_is_wrong(exercise: str) -> None:
    """As a figure, or as text; in a cell and in a terminal. A correct answer needs none."""
    answer, words = EVIDENCE[exercise]
    verdict = check(exercise, answer)
    assert verdict.verdict == "wrong"
    assert any(word in repr(verdict) for word in words.split("|")), repr(verdict)
    page = verdict._repr_html_()
    assert "<figure" in page or "<pre>" in page
    assert page.count(verdict.hint[:20]) <= 1
