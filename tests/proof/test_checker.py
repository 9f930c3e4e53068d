"""Does the model checker look at everything, find the shortest way, and say so when it did not?"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from wsdemo.presence import Claim, RedisPresence, Renewal
from wsdemo.proof.checker import SHIPPED, ScriptError, __main__, check_presence
from wsdemo.proof.checker.machines import Checked
from wsdemo.proof.checker.machines.presence.invariants import (
    ENDS,
    STEPS,
    PresenceStep,
    Settled,
    broken_at_end,
    broken_by_step,
)
from wsdemo.proof.checker.machines.presence.machine import (
    FENCE_TTL_MS,
    OUTCOMES,
    TTL_MS,
    Call,
    Machine,
    arguments,
    texts_of,
)
from wsdemo.proof.checker.machines.presence.moves import Move, MoveKind, after, call_of, moves
from wsdemo.proof.checker.machines.presence.mutants import MUTANTS
from wsdemo.proof.checker.machines.presence.scenarios import DEEP, EVERYDAY
from wsdemo.proof.checker.machines.presence.states import (
    Clock,
    Memory,
    ModelPhase,
    ModelState,
    Scenario,
    Verb,
)
from wsdemo.proof.checker.mutants import Mutant
from wsdemo.proof.checker.report import Result
from wsdemo.proof.checker.search import check
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Timing

# --- the shipped scripts -----------------------------------------------------------------------


LONG = {str(Scenario(rollbacks=1)), str(Scenario(clock=Clock.FREE, losses=1))}


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(each, id=str(each), marks=pytest.mark.slow if str(each) in LONG else ())
        for each in EVERYDAY
    ],
)
def test_the_shipped_scripts_keep_every_promise_in_every_order(
    scenario: Scenario, shared_server: BundledServer
) -> None:
    """Two sessions, with copies, expiry, loss of data, a rollback, and any clock."""
    result = check(scenario, redis=shared_server.url)
    assert result.ok, result
    assert result.states > 500 and 0 < result.calls < result.steps


def test_every_kind_of_fault_is_in_a_scenario_of_the_fast_profile() -> None:
    """And scenarios with three sessions in the full profile."""
    for name in ("duplicates", "expiries", "losses", "rollbacks"):
        assert any(getattr(scenario, name) for scenario in EVERYDAY), name
    assert any(scenario.clock is Clock.FREE for scenario in EVERYDAY)
    assert all(scenario.sessions == 2 for scenario in EVERYDAY)
    assert any(scenario.sessions == 3 for scenario in DEEP)


def test_every_invariant_kills_a_mutant() -> None:
    """An invariant that no mistake can break would prove nothing."""
    assert {mutant.breaks for mutant in MUTANTS} == {i.name for i in (*STEPS, *ENDS)}


@pytest.mark.slow
def test_a_run_in_which_an_answer_never_occurred_fails(shared_server: BundledServer) -> None:
    """Every answer of every script must have occurred."""
    result = check_presence(redis=shared_server.url)
    said = {(verb.value, str(outcome)) for verb, some in OUTCOMES.items() for outcome in some}
    assert set(result.outcomes) == {*said, ("mint", "token")}
    never = SHIPPED["refresh"].replace("return {'reclaimed'", "return {'ok'")
    vacuous = check_presence({"refresh": never}, redis=shared_server.url)
    assert vacuous.missing == {("refresh", "reclaimed")}
    assert not vacuous.ok and "never seen: refresh reclaimed" in str(vacuous)


# --- the shortest way --------------------------------------------------------------------------


class _ByHand:
    """Every order of a scenario, one by one: no state is renamed, remembered or looked up."""

    def __init__(self, machine: Machine, scenario: Scenario) -> None:
        self._machine, self._scenario = machine, scenario

    def broken(self, length: int) -> list[set[str]]:
        """Return what is broken by orders of each length up to this, from 1."""
        level, found = [self._scenario.start()], []
        for _ in range(length):
            steps = list(self._steps(level))
            level = [step.after for step in steps]
            broken = [broken_by_step(step) for step in steps if step.move.verb is not None]
            broken += [broken_at_end(self._end(state, order)) for state, order in _ends(level)]
            found.append({invariant.name for several in broken for invariant in several})
        return found

    def _end(self, state: ModelState, order: Sequence[int]) -> Settled:
        """Let all sessions that are up refresh twice."""
        now = state
        for number in (*order, *order):
            if now.sessions[number].phase is ModelPhase.UP:
                move = Move(MoveKind.SEND, number, Verb.REFRESH)
                call = call_of(now, move)
                assert call is not None
                now = after(now, move, self._machine.reply(call), self._scenario)
        return Settled(state, (), now, self._scenario)

    def _steps(self, level: Sequence[ModelState]) -> Iterator[PresenceStep]:
        planned = [(s, m, call_of(s, m)) for s in level for m in moves(s, self._scenario)]
        self._machine.prepare(call for _, _, call in planned if call is not None)
        for state, move, call in planned:
            reply: Any = None if call is None else self._machine.reply(call)
            yield PresenceStep(
                state, move, reply, after(state, move, reply, self._scenario), self._scenario
            )


def _ends(level: Sequence[ModelState]) -> Iterator[tuple[ModelState, Sequence[int]]]:
    for state in level:
        up = [n for n, session in enumerate(state.sessions) if session.phase is ModelPhase.UP]
        for order in itertools.permutations(up):
            yield state, order


def _of(mutant: Mutant) -> Scenario:
    assert isinstance(mutant.scenario, Scenario)
    return mutant.scenario


BY_HAND = [
    *[m for m in MUTANTS if _of(m).sessions == 2 and m.breaks.startswith("W")][::3],
    *[m for m in MUTANTS if m.breaks.startswith("E")],
]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", BY_HAND, ids=str)
def test_every_counterexample_is_as_short_as_possible(
    mutant: Mutant, shared_server: BundledServer
) -> None:
    """All shorter orders, executed one by one with the tokens that the server gives, break no
    such promise; of the orders as long as the counterexample, at least one does."""
    found = mutant.check(redis=shared_server.url).violations[mutant.breaks]
    scenario = _of(mutant)
    machine = Machine(shared_server.url, mutant.scripts(), scenario.cast, scenario.clock)
    try:
        broken = _ByHand(machine, scenario).broken(len(found))
    finally:
        machine.close()
    assert [mutant.breaks in names for names in broken] == [False] * (len(found) - 1) + [True]


def test_the_counterexample_of_the_demo_s_release_is_the_late_cleanup(
    shared_server: BundledServer,
) -> None:
    """Two sessions register, the clean-up of the first comes last: the entry is gone."""
    (demo,) = [m for m in MUTANTS if str(m) == "release: deletes unconditionally, as the demo"]
    found = demo.check(redis=shared_server.url).violations["S1"]
    table = found.table()
    assert list(table.columns) == ["who", "what", "answer", "owner after", "token", "fence"]
    assert list(table["what"]) == ["mint", "register", "mint", "register", "release"]
    assert list(table["owner after"]) == ["-", "s1", "s1", "s2", "-"]
    assert table["who"].iloc[-1] == "s1 at gateway-01" and table["token"].iloc[-1] == "1"
    assert "S1 (P1)" in str(found) and "S1 (P1)" in found._repr_html_()


def test_the_table_shows_the_refreshes_that_must_not_help(shared_server: BundledServer) -> None:
    """A promise about the end is shown with the two rounds of refreshes after which it is
    broken."""
    (mutant,) = [m for m in MUTANTS if str(m) == "refresh: says ok, and brings nothing back"]
    found = mutant.check(redis=shared_server.url).violations["E2"]
    words = list(found.table()["what"])
    assert len(found) == 3 and words[:3] == ["mint", "register", "the entry expires"]
    assert words[3:] == ["refresh, nothing else happens"] * 2


# --- the machine -------------------------------------------------------------------------------


class _Listening:
    """A link that notes what a gateway would send."""

    def __init__(self) -> None:
        self.heard: dict[str, tuple[Any, ...]] = {}

    async def run(self, script: Any, keys: Sequence[str], *args: Any) -> Any:
        self.heard[script.name] = args
        return {"mint": b"5", "register": [b"ok", b"", b"", b"0"], "release": 1}[script.name]

    def start_script(self, script: Any, keys: Sequence[str], args: Any) -> Any:
        raise NotImplementedError


async def test_scripts_are_called_as_gateways_call_them() -> None:
    """The same arguments in the same order, or the checker would check something else."""
    link: Any = _Listening()
    timing = Timing(presence_ttl_s=TTL_MS / 1000, fence_ttl_s=FENCE_TTL_MS / 1000)
    presence = RedisPresence(link, Keyspace(), timing)
    (actor,) = Scenario(sessions=1).cast
    claim = Claim("alice", actor.conn_id, actor.gateway_id, 5, actor.inst, actor.att)
    await presence.mint("alice")
    await presence.register(claim)
    await presence.release(claim)
    for verb in (Verb.MINT, Verb.REGISTER, Verb.RELEASE):
        assert link.heard[verb.value] == arguments(Call(Memory(), verb, 0, 5), actor)
    refresh = presence._write(Renewal(claim, TTL_MS).claim, TTL_MS)
    assert refresh == arguments(Call(Memory(), Verb.REFRESH, 0, 5), actor)


def test_only_the_clock_read_of_mint_is_replaced_and_only_with_a_free_clock() -> None:
    """In one script, in one place. All other texts are the shipped ones."""
    assert texts_of({}, Clock.TRUE) == SHIPPED
    free = texts_of({}, Clock.FREE)
    assert {name for name in SHIPPED if free[name] != SHIPPED[name]} == {"mint"}
    assert SHIPPED["mint"].count("redis.call('TIME')") == 1
    assert free["mint"].replace("{0, ARGV[2]}", "redis.call('TIME')") == SHIPPED["mint"]


def test_a_search_on_a_shared_server_leaves_nothing_behind(
    shared_server: BundledServer,
) -> None:
    """Neither keys of its own, nor a change to those of others."""
    with redis.Redis.from_url(shared_server.url) as client:
        client.set("presence:alice", "somebody's")
        before = set(client.keys("*"))
        # A lease of another test may end meanwhile.
        lasting = {key for key in before if client.ttl(key) == -1}
        check_presence(redis=shared_server.url)
        assert lasting <= set(client.keys("*")) <= before
        assert client.getdel("presence:alice") == b"somebody's"


@pytest.mark.parametrize(
    ("scripts", "complaint"),
    [
        ({"release": "return redis.call("}, r"^release\.lua is no script: .*unexpected symbol"),
        ({"release": "return 'gone'"}, r"^release\.lua answered 'gone'; .*: 0, 1, -1$"),
        ({"release": "return nil"}, r"^release\.lua answered 'nil'; .*: 0, 1, -1$"),
        ({"register": "return {'yes'}"}, r"^register\.lua answered 'yes'; .*: ok, stale$"),
        ({"register": "return {}"}, r"^register\.lua answered 'nothing'"),
        ({"mint": "return 'soon'"}, r"^mint\.lua answered 'soon', which is no token$"),
        ({"mint": "return 1 .. nil"}, r"^mint\.lua failed: .*concatenate"),
        ({"delete": "return 1"}, r"^there is no script 'delete'; there are: mint, register"),
    ],
    ids=["syntax", "answer", "no answer", "word", "empty", "token", "failure", "name"],
)
def test_a_wrong_script_is_named_in_one_line(
    scripts: dict[str, str], complaint: str, shared_server: BundledServer
) -> None:
    """For the author of the script; not a traceback of the client."""
    with pytest.raises(ScriptError, match=complaint):
        check_presence(scripts, redis=shared_server.url)


def test_a_mint_that_reads_no_clock_is_refused_with_a_free_clock(
    shared_server: BundledServer,
) -> None:
    """Otherwise the run would claim something about clocks that it did not check."""
    with pytest.raises(ScriptError, match="its clock cannot be set free"):
        check_presence({"mint": "return '5'"}, clock="free", redis=shared_server.url)


# --- its bounds --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "said"),
    [({"max_states": 700}, "after 700 states"), ({"deadline_s": 0.0}, "at the deadline")],
    ids=["states", "deadline"],
)
def test_a_search_that_stopped_early_is_not_ok(
    bound: dict[str, Any], said: str, shared_server: BundledServer
) -> None:
    """It says why, and claims nothing."""
    result = check_presence(losses=1, redis=shared_server.url, **bound)
    assert not result.complete and not result.ok and not result.violations
    assert f"stopped {said}" in str(result)
    assert result.table().empty


@pytest.mark.parametrize(
    "wrong", [{"sessions": 4}, {"expiries": -1}, {"clock": "slow"}, {"until": "S9"}], ids=str
)
def test_invalid_scenarios_are_refused(wrong: dict[str, Any], shared_server: BundledServer) -> None:
    """Before anything runs."""
    with pytest.raises(ValueError):
        check_presence(redis=shared_server.url, **wrong)


# --- the command -------------------------------------------------------------------------------


def _only(monkeypatch: pytest.MonkeyPatch, url: str, scripts: dict[str, str]) -> None:
    """Let the command check one small scenario, with other scripts perhaps."""

    def checked(scenario: Scenario, **how: Any) -> Result:
        return check(scenario, scripts, redis=url, **how)

    monkeypatch.setattr(__main__, "MACHINES", {"presence": Checked((Scenario(),), (), (), ())})
    monkeypatch.setattr(__main__, "check", checked)


def test_the_command_prints_a_table_and_writes_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shared_server: BundledServer,
    tmp_path: Path,
) -> None:
    """A row for each scenario; the same as JSON; exit code 0."""
    _only(monkeypatch, shared_server.url, {})
    assert __main__.main(["--json", str(tmp_path / "found.json")]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.startswith("2 sessions, 1 duplicate, 1 expiry ") and line.endswith("  ok")
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert found["ok"] and f"{found['states']:,}" in line and found["outcomes"]["refresh closed"]


def test_the_command_fails_with_the_counterexample(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shared_server: BundledServer,
) -> None:
    """As a table; exit code 1."""
    broken = SHIPPED["release"].replace("owner == conn", "owner")
    _only(monkeypatch, shared_server.url, {"release": broken})
    assert __main__.main([]) == 1
    said = capsys.readouterr().out
    assert "broken: " in said and "S1 (P1): a release leaves another's entry alone" in said
    assert re.search(r"^5 +s1 at gateway-01 +release +1 +- ", said, re.MULTILINE)


def test_the_command_reports_a_wrong_script_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shared_server: BundledServer,
) -> None:
    """On stderr; exit code 1."""
    _only(monkeypatch, shared_server.url, {"mint": "return"})
    assert __main__.main([]) == 1
    assert capsys.readouterr().err == "mint.lua answered 'nil', which is no token\n"
