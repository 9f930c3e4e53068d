"""Checks: do they accept correct answers, refuse wrong ones with the right hint, and not crash?"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wsdemo.lab import check, learn, predict
from wsdemo.lab.learn import predicted, reveal
from wsdemo.lab.lessons.start import _compare, _records_of_thirty
from wsdemo.lab.notes import LearnersNotes

pytestmark = pytest.mark.xdist_group("checks")

HINTS: dict[str, tuple[Any, str]] = {
    "forgets the offline user": (lambda r: r["gwId"], "raised KeyError"),
    "names the connection": (lambda r: r.get("connId"), "names the connection"),
    "says that nobody is there": (lambda r: None, "reported as offline"),
    "invents a gateway for the offline": (lambda r: r.get("gwId", ""), "empty record"),
    "remembers the first answer": (None, "this very record"),
    "returns the record": (lambda r: r, "should return a text"),
}


Known = list[tuple[dict[str, str], str | None]]


@pytest.fixture(scope="module", params=range(5))
def known(request: pytest.FixtureRequest) -> Known:
    """The data of a check: entries of 30 users on running gateways, five times."""
    return asyncio.run(_records_of_thirty(seed=request.param))


def test_the_solution_is_accepted_every_time(known: Known) -> None:
    """Whatever users and places the check draws."""
    assert _compare(lambda r: r.get("gwId"), known).ok


def test_a_check_of_its_own_servers_accepts_the_solution_and_refuses_a_mutant() -> None:
    """From the call in a cell to the verdict."""
    assert check("ex00", lambda r: r.get("gwId"))
    assert check("ex00", lambda r: r["gwId"]).verdict == "wrong"


@pytest.mark.parametrize("name", HINTS)
def test_a_wrong_answer_gets_its_own_hint(name: str, known: Known) -> None:
    """Each named misunderstanding is refused, every time, with its own hint."""
    if name == "remembers the first answer":
        seen: list[Any] = []

        def wrong(record: dict[str, str]) -> Any:
            seen.append(record.get("gwId"))
            return seen[0]
    else:
        wrong = HINTS[name][0]
    verdict = _compare(wrong, known)
    assert not verdict.ok
    assert HINTS[name][1] in verdict.hint
    assert "gwId" not in verdict.hint, "a hint never gives the answer away"


IF = (
    "if redis.call('HGET', KEYS[1], '{field}') == ARGV[{n}] then"
    " redis.call('DEL', KEYS[1]) return 1 end return 0"
)
SCRIPTS = {
    "deletes whatever is there": ("return redis.call('DEL', KEYS[1])", "Whose was it?"),
    "compares the gateway": (IF.format(field="gwId", n=2), "What tells the two apart?"),
    "compares the time": (IF.format(field="ts", n=3), "Is time an identity?"),
    "compares gateway and time": (
        "local e = redis.call('HMGET', KEYS[1], 'gwId', 'ts')"
        " if e[1] == ARGV[2] and e[2] == ARGV[3] then return redis.call('DEL', KEYS[1]) end"
        " return 0",
        "A heartbeat had refreshed",
    ),
    "deletes nothing": ("return 0", "must be deleted"),
    "breaks where there is nothing": (
        "local c = redis.call('HGET', KEYS[1], 'connId') if string.len(c) > 0 and c == ARGV[1]"
        " then return redis.call('DEL', KEYS[1]) end return 0",
        "There was no entry at all",
    ),
    "forgets to answer": (
        "if redis.call('HGET', KEYS[1], 'connId') == ARGV[1] then redis.call('DEL', KEYS[1]) end",
        "the answer was None",
    ),
    "is no Lua": ("delete it if it is mine", "Redis says"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_wrong_script_gets_its_own_hint(name: str) -> None:
    """Each named misunderstanding of `delete if mine` fails in the situation that shows it."""
    script, words = SCRIPTS[name]
    verdict = check("ex04", script)
    assert verdict.verdict == "wrong"
    assert words in verdict.hint
    assert "connId" not in verdict.hint.split("Redis says")[0]


def test_a_correct_script_is_accepted_and_an_endless_one_not_judged() -> None:
    """One comparison of the connection is enough."""
    assert check("ex04", IF.format(field="connId", n=1))
    assert check("ex04", "-- nothing yet").verdict == "could not judge"
    assert check("ex04", 7).verdict == "could not judge"


DEVICE_IF = (
    "local t = redis.call('HGET', KEYS[1], ARGV[1]) if {test} then {act} return 1 end return 0"
)
DEVICE_SCRIPTS = {
    "deletes the key when the token is right": (
        DEVICE_IF.format(test="t == ARGV[2]", act="redis.call('DEL', KEYS[1])"),
        "is the whole key the phone's?",
    ),
    "removes the device without a look at its token": (
        "return redis.call('HDEL', KEYS[1], ARGV[1])",
        "a newer session of the same device",
    ),
    "removes what is older as well": (
        DEVICE_IF.format(
            test="t and tonumber(t) <= tonumber(ARGV[2])",
            act="redis.call('HDEL', KEYS[1], ARGV[1])",
        ),
        "a lower token",
    ),
    "looks for the token in any field": (
        "local all = redis.call('HGETALL', KEYS[1]) for i = 1, #all, 2 do"
        " if all[i + 1] == ARGV[2] then return redis.call('HDEL', KEYS[1], all[i]) end end"
        " return 0",
        "Which field is the caller's?",
    ),
    "compares beginnings": (
        DEVICE_IF.format(
            test="t and string.sub(t, 1, #ARGV[2]) == ARGV[2]",
            act="redis.call('HDEL', KEYS[1], ARGV[1])",
        ),
        "begin alike",
    ),
    "deletes nothing": ("return 0", "The only device has left"),
    "forgets to answer": (
        DEVICE_IF.format(test="t == ARGV[2]", act="redis.call('HDEL', KEYS[1], ARGV[1])").replace(
            "return 1", ""
        ),
        "the answer was 0",
    ),
    "is no Lua": ("remove the phone", "Redis says"),
}


@pytest.mark.parametrize("name", DEVICE_SCRIPTS)
def test_a_wrong_release_of_a_device_gets_its_own_hint(name: str) -> None:
    """Each named misunderstanding fails in the situation that shows it."""
    script, words = DEVICE_SCRIPTS[name]
    verdict = check("ex04b", script)
    assert verdict.verdict == "wrong" and words in verdict.hint
    assert "HDEL" not in verdict.hint.split("Redis says")[0]


def test_a_correct_release_of_a_device_is_accepted() -> None:
    """The token of that very field is compared, and only that field goes."""
    right = DEVICE_IF.format(test="t == ARGV[2]", act="redis.call('HDEL', KEYS[1], ARGV[1])")
    assert check("ex04b", right)
    assert check("ex04b", "-- nothing yet").verdict == "could not judge"


def test_a_release_that_knows_only_the_situations_fails_in_real_gateways() -> None:
    """Their tokens are other ones."""
    script = DEVICE_IF.format(
        test="t == ARGV[2] and t == '1700'", act="redis.call('HDEL', KEYS[1], ARGV[1])"
    )
    verdict = check("ex04b", script)
    assert verdict.verdict == "wrong" and "In two real gateways" in verdict.hint


def test_a_stub_is_reported_as_not_written_yet() -> None:
    """The learner's copy runs from top to bottom."""

    def stub(record: dict[str, str]) -> str:
        raise NotImplementedError

    assert check("ex00", stub).verdict == "could not judge"


def test_an_answer_that_is_not_a_function_is_reported_with_the_reason() -> None:
    """It does not crash the check."""
    verdict = check("ex00", "gateway-01")
    assert verdict.verdict == "could not judge"
    assert "must be a function, not str" in verdict.hint
    assert not verdict


def test_an_unknown_exercise_or_question_is_named() -> None:
    """A typing error is an error."""
    with pytest.raises(ValueError, match="there are: ex00, ex00b"):
        check("ex99", None)
    with pytest.raises(ValueError, match="there are: q00, q00b"):
        predict("q99", 1)
    with pytest.raises(ValueError, match="none of the options"):
        predict("q00", 77)


def test_a_prediction_is_written_down_and_compared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right, wrong with its misconception, and none at all."""
    predict("q00", 5)
    assert predicted("q00") == 5
    reveal("q00", 4)
    assert "you said 5. Five counts look-up and publish" in capsys.readouterr().out
    predict("q00", 4)
    reveal("q00", 4)
    assert "as you said" in capsys.readouterr().out
    predict("q00")
    reveal("q00", 4)
    assert "as you said" in capsys.readouterr().out, "a question that is asked again keeps it"
    monkeypatch.setattr(learn, "_in_memory", LearnersNotes())
    reveal("q00", 4)
    assert "You did not predict" in capsys.readouterr().out
