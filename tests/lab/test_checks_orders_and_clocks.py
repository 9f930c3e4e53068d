"""Checks of lessons 05 and 06: do they accept correct answers, and give each mistake a hint?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from tests.examples import seeds
from wsdemo.lab import check, predict
from wsdemo.lab.learn import reveal
from wsdemo.lab.lessons import QUESTIONS
from wsdemo.lab.lessons.clocks import judge_on
from wsdemo.lab.lessons.orders import judge_step
from wsdemo.lab.races.interleavings import explore
from wsdemo.lab.races.models import MODELS, State, Step
from wsdemo.lab.races.orders import Action, all_orders
from wsdemo.redis.server import BundledServer

pytestmark = pytest.mark.xdist_group("checks_orders_and_clocks")

fenced = MODELS["fenced"]


# --- questions -----------------------------------------------------------------------------------


def test_the_correct_options_are_the_measured_ones(shared_server: BundledServer) -> None:
    """And every other option has its own explanation."""
    demo = explore("go-demo", redis=shared_server.url)
    assert len(demo.played) == 45 and len(demo.wrong) == 19
    assert 19 in QUESTIONS["q05"].options
    delete_last = [one for one in demo.wrong if one.order[-1] == "c_del"]
    assert len(delete_last) == 15, "the option 15 says so"
    nothing = explore("plain", -10.0, redis=shared_server.url)
    stamps = explore("timestamp", -10.0, redis=shared_server.url)
    assert len(nothing.wrong) == 25, "the option 25 says so"
    assert len(stamps.wrong) > len(nothing.wrong), "worse"
    for name in ("q05", "q06"):
        words = list(QUESTIONS[name].options.values())
        assert len(set(words)) == len(words) and all(len(w) > 30 for w in words)


def test_a_wrong_prediction_gets_an_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    """With the reason why it was tempting."""
    predict("q05", 15)
    reveal("q05", 19)
    assert "you said 15. Those are the orders in which the DEL comes last" in (
        capsys.readouterr().out
    )
    predict("q06", "better")
    reveal("q06", "worse")
    assert "With right clocks it is." in capsys.readouterr().out


# --- ex05: a policy as a function ----------------------------------------------------------------


def instead(**changed: Callable[[State], object]) -> Step:
    """The correct policy with some actions changed."""

    def step(state: State, action: Action) -> None:
        if action in changed:
            changed[action](state)
        else:
            fenced(state, action)

    return step


def entry(state: State, **fields: object) -> dict[str, object]:
    return {"gateway": state["gateway"], "token": state["mine"].get("token"), **fields}


def write_always(state: State) -> None:
    state["redis"]["alice"] = entry(state)


def delete_always(state: State) -> None:
    state["redis"]["alice"] = None


def delete_what_was_mine(state: State) -> None:
    if state["mine"]["was mine"]:
        state["redis"]["alice"] = None


def look(state: State) -> None:
    seen = state["redis"]["alice"] or {}
    state["mine"]["was mine"] = seen.get("gateway") == state["gateway"]


def own_counter(state: State) -> None:
    state["mine"]["token"] = state["mine"].get("token", 0) + 1


def half_an_entry(state: State) -> None:
    state["redis"]["alice"] = {**(state["redis"]["alice"] or {}), "ts": 1}


def write_early(state: State) -> None:
    fenced(state, "r_ts")
    fenced(state, "r_set")


def forwarding_address(state: State) -> None:
    fenced(state, "c_del")
    if state["redis"]["alice"] is None and state["redis"]["minted"] > 1:
        state["redis"]["alice"] = entry(state, gateway="gateway-02")


def with_a_global() -> Step:
    shared: dict[str, object] = {}

    def step(state: State, action: Action) -> None:
        if action == "r_ts":
            shared["newest"] = state["mine"]["token"] = object()
        elif action == "c_del":
            if shared["newest"] is state["mine"]["token"]:
                state["redis"]["alice"] = None
        elif action in ("h_set", "r_set") and shared["newest"] is state["mine"]["token"]:
            state["redis"]["alice"] = {"gateway": state["gateway"]}

    return step


WRONG_STEPS: dict[str, tuple[Step, str]] = {
    "compares nothing": (MODELS["plain"], "25 of 45 orders end wrong. The entry of gateway-02"),
    "deletes what is there": (instead(c_del=delete_always), "Whose clean-up was that"),
    "checks, then deletes": (
        instead(c_read=look, c_del=delete_what_was_mine),
        "Whose clean-up was that",
    ),
    "lets any heartbeat write": (instead(h_set=write_always), "gateway-01 has the last word"),
    "is the demo": (MODELS["go-demo"], "did not bring it back. Whole"),
    "lets a heartbeat write half": (instead(h_set=half_an_entry), "did not bring it back. Whole"),
    "never renews": (instead(h_set=lambda s: None), "did not bring it back"),
    "never deletes": (instead(c_del=lambda s: None), "full of ghosts"),
    "never registers": (instead(r_set=lambda s: None), "Redis does not say so"),
    "writes when it should look": (instead(r_ts=write_early), "Looking must not write"),
    "speaks for another gateway": (instead(c_del=forwarding_address), "the name of another"),
    "counts in each gateway": (instead(r_ts=own_counter), "deleted"),
    "remembers in a global": (with_a_global(), "outside of `state`"),
    "forgets that there may be nothing": (
        instead(r_set=lambda s: s["redis"]["alice"]["token"]),
        "it raised",
    ),
    "stores a text": (
        instead(r_set=lambda s: s["redis"].update(alice="gateway-01")),
        "must be a dict, or None",
    ),
}


def test_correct_policies_are_accepted() -> None:
    """The product's, and one that returns its new state instead of changing the old one."""

    def pure(state: State, action: Action) -> State:
        copy: State = {**state, "redis": dict(state["redis"]), "mine": dict(state["mine"])}
        fenced(copy, action)
        return copy

    assert judge_step(fenced).ok
    assert judge_step(pure).ok
    assert "45 orders" in check("ex05", fenced).hint


def test_a_policy_that_trusts_clocks_is_right_and_told_that_another_lesson_asks_about_them() -> (
    None
):
    """In lesson 05 all clocks are right; how many orders a wrong one costs is not given away."""
    verdict = judge_step(MODELS["timestamp"])
    assert verdict.ok and "lesson 06 asks what if one is not" in verdict.hint
    assert "Also when a clock is wrong" in judge_step(fenced).hint


@pytest.mark.parametrize("name", WRONG_STEPS)
def test_a_wrong_policy_gets_its_own_hint(name: str) -> None:
    """Exact: no order is left out, so no wrong policy passes by chance."""
    step, words = WRONG_STEPS[name]
    verdict = judge_step(step)
    assert not verdict.ok
    assert words in verdict.hint
    assert "token" not in verdict.hint.replace("KeyError", ""), "a hint gives nothing away"


def test_a_policy_that_is_not_written_or_no_function_is_not_judged() -> None:
    """The learner's copy runs from top to bottom."""

    def stub(state: State, action: Action) -> None:
        raise NotImplementedError

    assert check("ex05", stub).verdict == "could not judge"
    assert "must be a function, not str" in check("ex05", "fenced").hint


# --- ex06: a register with a token ---------------------------------------------------------------

REGISTER = """
local token = {token}
{keep}
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'connId', ARGV[1], 'gwId', ARGV[2], 'epoch', {epoch})
{lease}
return {answer}
"""
COUNT = "redis.call('HINCRBY', KEYS[2], 'last', 1)"


def script(
    token: str = COUNT,
    keep: str = "redis.call('PEXPIRE', KEYS[2], ARGV[4])",
    epoch: str = "token",
    lease: str = "redis.call('PEXPIRE', KEYS[1], ARGV[3])",
    answer: str = "token",
) -> str:
    return REGISTER.format(token=token, keep=keep, epoch=epoch, lease=lease, answer=answer)


MICROSECONDS = "redis.call('TIME')[1] * 1000000 + redis.call('TIME')[2]"
HYBRID = script(
    token=f"math.max({MICROSECONDS}, tonumber(redis.call('HGET', KEYS[2], 'last') or 0) + 1)",
    keep="redis.call('HSET', KEYS[2], 'last', string.format('%.0f', token)) "
    "redis.call('PEXPIRE', KEYS[2], ARGV[4])",
    epoch="string.format('%.0f', token)",
)

WRONG_SCRIPTS: dict[str, tuple[str, str]] = {
    "counts in the entry": (
        script(token="redis.call('HINCRBY', KEYS[1], 'last', 1)").replace(
            "redis.call('DEL', KEYS[1])", ""
        ),
        "Where is the counter kept",
    ),
    "ends the counter with the lease": (
        script(keep="redis.call('PEXPIRE', KEYS[2], ARGV[3])"),
        "a lease that is as short",
    ),
    "counts in seconds": (script(token="tonumber(redis.call('TIME')[1])"), "the same token"),
    "throws dice": (script(token="math.random(1000000)"), "token"),
    "counts down": (
        script(token="1000000 - redis.call('HINCRBY', KEYS[2], 'last', 1)"),
        "a smaller token",
    ),
    "trusts Redis' clock alone": (
        script(token=MICROSECONDS, epoch="string.format('%.0f', token)"),
        "Nothing is remembered in KEYS[2]",
    ),
    "keeps the counter for ever": (script(keep=""), "is kept for ever"),
    "gives no lease": (script(lease=""), "The entry has no end"),
    "forgets to answer": (script(answer="nil"), "It answered None"),
    "answers as a float": (
        script(token=MICROSECONDS, answer="tostring(token)"),
        "The gateway needs its token",
    ),
    "writes another token than it answers": (script(epoch="token + 1"), "the field epoch"),
    "lets nobody in who is there already": (
        "if redis.call('EXISTS', KEYS[1]) == 1 then"
        " return tonumber(redis.call('HGET', KEYS[1], 'epoch')) end" + script(),
        "whoever was there before",
    ),
    "writes a text, not a hash": (
        "redis.call('SET', KEYS[1], ARGV[2]) return 1",
        "is no hash with fields",
    ),
    "is no Lua": ("register her, with a token", "Redis says"),
}


@pytest.fixture(scope="module")
def database(shared_server: BundledServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(shared_server.url, decode_responses=True) as database:
        yield database


@pytest.mark.parametrize("seed", seeds(5))
@pytest.mark.parametrize("good", [script(), HYBRID])
def test_a_correct_script_is_accepted_every_time(
    good: str, seed: int, database: redis.Redis
) -> None:
    """A counter beside the entry, or a clock that never steps back; with any names."""
    verdict = judge_on(database, good)
    assert verdict.ok, verdict.hint
    assert f"0 wrong of {len(all_orders())}" in verdict.hint


@pytest.mark.parametrize("name", WRONG_SCRIPTS)
def test_a_wrong_script_gets_its_own_hint(name: str, database: redis.Redis) -> None:
    """On five draws of users and connections."""
    wrong, words = WRONG_SCRIPTS[name]
    for _ in range(5):
        verdict = judge_on(database, wrong)
        assert not verdict.ok
        assert words in verdict.hint
        assert "INCR" not in verdict.hint


def test_a_check_of_register_runs_on_a_server_of_its_own_and_leaves_nothing(
    database: redis.Redis,
) -> None:
    """From the call in a cell to the verdict; a stub, and an answer that is not a script, are not
    judged.
    """
    assert check("ex06", script())
    assert check("ex06", WRONG_SCRIPTS["counts in the entry"][0]).verdict == "wrong"
    assert check("ex06", "-- your script").verdict == "could not judge"
    assert check("ex06", 7).verdict == "could not judge"
    judge_on(database, script())
    assert database.keys("check:*") == []
