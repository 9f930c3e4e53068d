"""Expectation: is a reader told what was expected, what was seen, and what to do?"""

from __future__ import annotations

import os

import pytest

from wsdemo.lab import expect
from wsdemo.lab import pace as pacing
from wsdemo.lab.errors import in_short
from wsdemo.lab.expectation import Unexpected, steadily
from wsdemo.lab.pace import Pace


def test_a_claim_that_holds_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """And the machine is not measured for it."""
    expect("one is one", 1 == 1, seen=1)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("share", "told", "not_told"),
    [
        (0.4, "busy: this notebook gets 40% of a core. Close other programs and run", "out of"),
        (1.0, "not busy now. If it was, or if you have changed a cell, run the lesson", "Close"),
    ],
)
def test_a_claim_that_does_not_hold_says_what_was_seen_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, share: float, told: str, not_told: str
) -> None:
    """How busy the machine is, is measured at that moment."""
    monkeypatch.setattr(pacing, "_measure", lambda: share)
    with pytest.raises(Unexpected) as caught:
        expect("Redis names gateway-02", False, seen={"gwId": "gateway-01"})
    said = str(caught.value)
    assert said.startswith("Expected: Redis names gateway-02. Seen: {'gwId': 'gateway-01'}. ")
    assert told in said and not_told not in said
    assert isinstance(caught.value, AssertionError)


def test_what_was_seen_is_shown_in_one_line_and_cut_when_it_is_long() -> None:
    """A table of a thousand rows would hide the advice."""
    with pytest.raises(Unexpected) as caught:
        expect("few rows", False, seen="row\n" * 1000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_the_error_shows_the_readers_line_and_no_frame_of_the_lab() -> None:
    """Like all errors of the laboratory."""
    cell = compile("expect('one is two', 1 == 2, seen=1)", "cell.py", "exec")
    with pytest.raises(Unexpected) as caught:
        exec(cell, {"expect": expect})
    shown = "\n".join(in_short(caught.value))
    assert "Expected: one is two" in shown
    assert f"lab{os.sep}expectation.py" not in shown


def test_an_experiment_that_fails_is_repeated_once_at_a_third_of_the_speed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second failure is the learner's to see."""
    tried: list[float] = []

    def experiment(at: Pace) -> str:
        tried.append(at.scale)
        if len(tried) % 2:
            raise TimeoutError("not within 3 s: they are back")
        return "well"

    assert steadily(experiment, users=60) == "well"
    assert tried == [60.0, 20.0]
    assert "(not within 3 s: they are back). Once more, at 20x." in capsys.readouterr().out

    def hopeless(at: Pace) -> None:
        raise AssertionError(f"too slow at {at.scale:g}x")

    with pytest.raises(AssertionError, match="too slow at 20x"):
        steadily(hopeless, users=60)


def test_an_error_of_the_reader_is_not_blamed_on_the_machine() -> None:
    """It is raised at once."""
    with pytest.raises(ZeroDivisionError):
        steadily(lambda at: 1 // 0)


def test_an_experiment_in_which_a_claim_does_not_hold_is_repeated_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`steadily` takes it for a busy machine, and says in one line what was wrong."""

    def experiment(at: Pace) -> float:
        expect("the run is slow", at.scale < 60, seen=at.scale)
        return at.scale

    assert steadily(experiment) == 20
    said = capsys.readouterr().out
    assert "(Expected: the run is slow. Seen: 60.0). Once more, at 20x." in said
