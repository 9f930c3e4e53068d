"""Calibration: is the clock of a lesson as fast as this machine can afford, and no faster?"""

from __future__ import annotations

import itertools
import threading

import pytest

from wsdemo.lab import Lab
from wsdemo.lab import lab as lab_module
from wsdemo.lab import pace as pacing
from wsdemo.lab.errors import LabTimeout
from wsdemo.lab.pace import SPEEDS, Pace, affordable, pace, warn_of_crowd


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine of which this process gets a third; how often it was measured."""
    times: list[int] = []

    def measure() -> float:
        times.append(1)
        return 1 / 3

    monkeypatch.setattr(pacing, "_measure", measure)
    monkeypatch.setattr(pacing, "_measured", {})
    return times


@pytest.mark.parametrize("share", [1.0, 0.93])
def test_a_free_machine_runs_at_full_speed_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    """Three hundred users at sixty times the speed of production. No machine does nothing else."""
    monkeypatch.setattr(pacing, "_measure", lambda: share)
    assert pace(300) == Pace(60.0, 300)
    assert not capsys.readouterr().out


def test_a_busy_machine_runs_more_slowly_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The speed is chosen from the measurement."""
    assert pace(300) == Pace(20.0, 300)
    said = capsys.readouterr().out
    assert said == "This machine is busy: running at 20x instead of 60x.\n"


def test_it_is_said_once_a_measurement(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not for each laboratory of a lesson; and again when the machine was measured anew."""
    assert [pace(300), pace(300)] == [Pace(20.0, 300)] * 2
    assert capsys.readouterr().out.count("This machine is busy") == 1
    monkeypatch.setattr(pacing, "FRESH_S", 0.0)
    pacing.free_core(0)
    pace(300)
    assert capsys.readouterr().out.count("This machine is busy") == 1


def test_a_lab_without_a_scale_runs_at_the_speed_for_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a busy machine it is slower, and says so; with a scale, nothing is measured."""
    monkeypatch.setattr(pacing, "_measure", lambda: 0.1)
    with Lab(gateways=1) as lab:
        assert lab.scale == pace().scale == 20
    assert capsys.readouterr().out.count("running at 20x instead of 60x") == 1
    monkeypatch.setattr(pacing, "_measured", {})
    monkeypatch.setattr(pacing, "_measure", lambda: 1.0)
    with Lab(gateways=1) as lab:
        assert lab.scale == 60
    monkeypatch.setattr(pacing, "_measure", lambda: pytest.fail("it was measured"))
    monkeypatch.setattr(pacing, "_measured", {})
    with Lab(gateways=1, scale=60) as lab:
        assert lab.scale == 60
    assert not capsys.readouterr().out


def test_a_crowd_that_is_too_large_for_the_clock_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what fits instead. A crowd of the pace's own size and speed is never too large."""
    monkeypatch.setattr(pacing, "_measure", lambda: 0.1)
    warn_of_crowd(300, 60)
    said = "300 users at 60x are more than this machine can do now"
    assert capsys.readouterr().out.startswith(said)
    for share in (0.01, 0.03, 0.1, 0.35, 0.8, 1.0):
        monkeypatch.setattr(pacing, "_measured", {})
        monkeypatch.setattr(pacing, "_measure", lambda share=share: share)
        for users in (2, 60, 300):
            at = pace(users)
            capsys.readouterr()
            warn_of_crowd(at.users, at.scale)
            warn_of_crowd(at.users, at.scale / 3)
            assert not capsys.readouterr().out
    monkeypatch.setattr(pacing, "_measured", {})
    monkeypatch.setattr(pacing, "_measure", lambda: 0.1)
    with Lab(gateways=1, scale=60) as lab:
        lab.connect_many(60)
    assert "60 users at 60x are more" in capsys.readouterr().out


def test_what_a_slower_lab_waits_for_may_take_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten seconds at full speed; the same production time on a slower clock."""
    monkeypatch.setattr(lab_module, "LEAST_WAIT_S", 0.1)
    monkeypatch.setattr(lab_module, "WAIT_S", 6.0)
    for scale, words in ((60.0, "not within 0.1 s"), (20.0, "not within 0.3 s")):
        with Lab(gateways=1, scale=scale) as lab, pytest.raises(LabTimeout, match=words):
            lab.wait_until("nothing", lambda: False)


def test_a_very_busy_machine_takes_a_smaller_crowd() -> None:
    """Before the clock becomes so slow that nobody wants to wait for it."""
    found = affordable(0.1, 300, 60)
    assert found == Pace(20.0, 90)
    assert affordable(0.001, 300, 60) == Pace(SPEEDS[-1], 60)
    assert affordable(0.001, 2, 60) == Pace(SPEEDS[-1], 2)


@pytest.mark.parametrize("users", [2, 60, 300])
def test_less_of_a_core_never_means_more_speed(users: int) -> None:
    """And never more speed than was asked for."""
    work = [affordable(share / 50, users, 60) for share in range(51)]
    assert all(a.scale * a.users <= b.scale * b.users for a, b in itertools.pairwise(work))
    assert all(affordable(1, users, 15).scale == 15 for users in (2, 60, 300))


def test_two_labs_that_are_compared_have_the_same_clock(measured: list[int]) -> None:
    """The measurement is kept."""
    assert pace(300) == pace(300)
    assert measured == [1]


def test_the_measurement_is_a_share_of_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, on whatever machine this is."""
    monkeypatch.undo()
    assert 0 < pacing._measure() <= 1


def test_an_open_lab_does_not_make_the_machine_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other threads of this process use is its own. A lesson keeps its labs open, and must
    not run more slowly for that.
    """
    monkeypatch.undo()
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            pass

    other = threading.Thread(target=work)
    alone, together = [], []
    for _ in range(3):  # The best of three: others use this machine, too.
        alone.append(pacing._measure())
    other.start()
    try:
        for _ in range(3):
            together.append(pacing._measure())
    finally:
        ended.set()
        other.join()
    assert max(together) > 0.7 * max(alone)
