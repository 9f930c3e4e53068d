"""Lesson 08: does a real crowd come back as the lesson says, and does the model agree with it?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.lab.readable import assert_no_text_covers_another, assert_no_text_is_clipped, words
from wsdemo.lab import Lab, pace
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.figures.herd import herd
from wsdemo.lab.lessons.herd import (
    QUESTION,
    Crowd,
    HerdRun,
    calibrated,
    crowd,
    hint_of,
    judge_backoff,
    knock_at_a_full_gateway,
    ranking,
    restart,
)
from wsdemo.lab.lessons.herd_model import SmallGateway, come_back_in_a_model

Rule = Callable[[int, random.Random], float]
SMALL: Final = Crowd(45)
FAST: Final = 3.0
"""So small a crowd dials fast enough for this speed."""


def every_2_s(attempt: int, rng: random.Random) -> float:
    return 2.0


def exponential(attempt: int, rng: random.Random) -> float:
    return min(60.0, 2.0 ** min(attempt - 1, 9))


def jitter(attempt: int, rng: random.Random) -> float:
    return rng.uniform(0, exponential(attempt, rng))


RULES: Final[dict[str, Rule]] = {
    "every 2 s": every_2_s,
    "exponential": exponential,
    "jitter": jitter,
}


def real(rule: Rule, **options: Any) -> HerdRun:
    with Lab(gateways=1, wires=True, scale=FAST, backoff=rule) as lab:
        run = restart(lab, SMALL, **options)
    assert lab.leaks() == []
    return run


# --- the real crowd ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fixed() -> HerdRun:
    """Real users who all try every 2 s."""
    return real(every_2_s)


def test_users_who_wait_equally_long_come_in_waves(fixed: HerdRun) -> None:
    """All arrive together, and each wave brings in as many as there are places."""
    accepted = fixed.attempts[fixed.attempts["accepted"]]
    waves = accepted.groupby((accepted["t"] / 2).round())["user"].count()
    assert fixed.back == SMALL.users == 45
    assert waves.iloc[0] <= 2 * SMALL.places, "and most of the first wave is refused"
    assert fixed.each > 2 and len(waves) >= 3


def test_the_model_agrees_with_the_real_crowd_that_it_was_calibrated_on(fixed: HerdRun) -> None:
    """When the last user is back, and with how many attempts."""
    gateway = calibrated(fixed, SMALL)
    assert gateway.places == 6 and gateway.service_s >= 0.3
    model = come_back_in_a_model(every_2_s, gateway, SMALL.users)
    assert model.each == pytest.approx(fixed.each, rel=0.35)
    assert model.last_s == pytest.approx(fixed.last_s, rel=0.4)


def test_a_crowd_that_is_not_waited_for_is_partly_outside() -> None:
    """After four seconds of exponential pauses there were two waves."""
    run = real(exponential, patience_s=4.5)
    assert 0 < run.back < SMALL.users and run.last_s == math.inf
    assert ranking({"slow": run, "fast": run._replace(users=run.back)}) == "fast, slow"


def test_a_full_gateway_says_when_to_come_back() -> None:
    """In its HTTP answer."""
    with Lab(gateways=1) as lab:
        answer = knock_at_a_full_gateway(lab)
    assert answer == "503 Service Unavailable, Retry-After: 1"


def test_a_busy_machine_gets_a_smaller_crowd_and_a_smaller_gateway(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same users a place; and it is said."""
    assert crowd() == Crowd(300) and Crowd(300).places == 40
    assert "busy" not in capsys.readouterr().out
    for share, users in ((0.5, 150), (0.3, 90), (0.01, 60)):
        monkeypatch.setattr(pace, "_measure", lambda share=share: share)
        monkeypatch.setattr(pace, "_measured", {})
        small = crowd()
        assert small.users == users and small.places == users / 7.5
        assert f"This machine is busy: {users} users instead of 300" in capsys.readouterr().out


def test_a_lab_refuses_a_rule_that_is_none() -> None:
    """In words."""
    with pytest.raises(LabRefused, match=r"backoff is a function of \(attempt, rng\), not 2"):
        Lab(backoff=2)  # type: ignore[arg-type]


# --- the model ---------------------------------------------------------------------------------

GATEWAY: Final = SmallGateway(places=40, service_s=0.3, spread_s=0.2)


def test_the_rules_are_ranked_as_the_lesson_says_for_300_users_and_for_2000() -> None:
    """Jitter first, the exponential rule last, by far."""
    for users in (300, 2_000):
        for seed in range(3):
            runs = {
                name: come_back_in_a_model(rule, GATEWAY._replace(spread_s=0.1), users, seed=seed)
                for name, rule in RULES.items()
            }
            assert ranking(runs) == "jitter, every 2 s, exponential"
            assert ranking(runs) in QUESTION.options
            assert runs["exponential"].last_s > 10 * runs["jitter"].last_s
            assert runs["jitter"].each < runs["every 2 s"].each / 2


def test_no_more_users_are_accepted_than_there_are_places() -> None:
    """Within the time of a register; and each user is accepted once."""
    result = come_back_in_a_model(jitter, GATEWAY, 300)
    accepted = [one for one in result.attempts if one.accepted]
    assert sorted(one.user for one in accepted) == list(range(300))
    times = [one.t for one in accepted]
    assert all(
        late - early >= GATEWAY.service_s
        for early, late in zip(times, times[GATEWAY.places :], strict=False)
    )


def test_a_gateway_that_is_away_accepts_nobody() -> None:
    """Until it is back."""
    away = GATEWAY._replace(away_s=10.0)
    result = come_back_in_a_model(jitter, away, 100)
    assert min(one.t for one in result.attempts if one.accepted) >= 10
    assert result.back == 100 and result.last_s > 10


def test_a_hint_spreads_the_users_only_when_each_is_told_another_time() -> None:
    """The same hint for all moves the wave as a whole."""
    runs = {
        jitters: come_back_in_a_model(
            exponential, GATEWAY, 300, hint=hint_of(2.25, jitter=jitters), until_s=20
        )
        for jitters in (True, False)
    }
    assert runs[True].back == 300 and runs[True].last_s < 20
    assert runs[False].back < 300


def test_a_rule_without_end_is_stopped() -> None:
    """Whoever never waits asks without end."""
    away = GATEWAY._replace(away_s=math.inf, spread_s=0.0)
    result = come_back_in_a_model(lambda attempt, rng: 0.0, away, 10)
    assert result.back == 0 and result.last_s == math.inf


# --- the figure --------------------------------------------------------------------------------


def test_a_run_that_was_stopped_says_so_instead_of_never() -> None:
    """Its users may have come back later."""
    run = come_back_in_a_model(exponential, GATEWAY, 300, until_s=12)
    runs = {
        "exponential": run.table(),
        "jitter": come_back_in_a_model(jitter, GATEWAY, 300).table(),
    }
    fig = herd(runs, GATEWAY.capacity, bin_s=0.3, stopped_s={"exponential": 12})
    away = 300 - run.back
    assert any(text.startswith(f"{away} users not back after 12 s") for text in words(fig))
    assert fig.wsdemo_facts["worst_end"] == "not within 12 s"
    assert f"{away} users not back after 12 s" in fig.wsdemo_alt
    assert_no_text_covers_another({"stopped": fig})
    assert_no_text_is_clipped({"stopped": fig})


def test_the_case_of_a_wrong_answer_is_a_figure_that_can_be_read() -> None:
    """Of the crowd that came back by the reader's rule."""
    hasty = judge_backoff(lambda attempt, rng: rng.uniform(0, 0.5), seed=1)
    assert not hasty.ok and not isinstance(hasty.evidence, str)
    assert_no_text_covers_another({"hasty": hasty.evidence})
    assert_no_text_is_clipped({"hasty": hasty.evidence})
