"""Is the published evidence what was measured, and is it of today's code?"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.bad_input.__main__ import count
from tools import evidence
from wsdemo.proof.chaos.faults import FAULTS as CHAOS_FAULTS
from wsdemo.proof.checker.mutants import MUTANTS
from wsdemo.proof.simulate.faults import FAULTS as SIMULATED_FAULTS


@pytest.fixture
def numbers() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(evidence.FILE.read_text())
    return content


def test_the_pages_show_what_was_measured(numbers: dict[str, Any]) -> None:
    """To the letter, and nothing else stands between the marks."""
    assert evidence.published(evidence.PAGE.read_text()) == evidence.table(numbers)
    assert evidence.published(evidence.README.read_text()) == evidence.in_short(numbers)


def test_nothing_was_found(numbers: dict[str, Any]) -> None:
    """Every part was tried, and no part has a violation; a red seed of chaos has its cause."""
    red = [one for one in numbers["chaos"]["runs"] if one["violations"]]
    assert [one["seed"] for one in red if not one.get("cause")] == []
    assert numbers.keys() == evidence.PARTS.keys()
    found = [part.get("violations", 0) for part in numbers.values()]
    assert found == [0] * len(found)
    assert numbers["mutants"]["killed"] == numbers["mutants"]["mutants"]


@pytest.mark.slow
def test_the_number_of_bad_inputs_is_of_today(numbers: dict[str, Any]) -> None:
    """One more, and the table has to be made anew. (The fast profile leaves some of them out.)"""
    rows = count()
    assert numbers["input"] == {
        "inputs": sum(map(len, rows.inputs.values())),
        "rows": len(rows.inputs),
        "tests": rows.tests,
    }


def test_what_can_be_counted_is_of_today(numbers: dict[str, Any]) -> None:
    """A fault or a mutant more, and the table has to be made anew."""
    assert numbers["mutants"]["mutants"] == len(MUTANTS)
    assert numbers["simulation"]["kinds"] == len(SIMULATED_FAULTS)
    assert numbers["chaos"]["kinds"] == len(CHAOS_FAULTS)


def test_all_seeds_of_chaos_are_told(numbers: dict[str, Any]) -> None:
    """Those of the fixed list, each once, whatever came of them."""
    assert len(evidence.CHAOS_SEEDS) >= 10
    assert [one["seed"] for one in numbers["chaos"]["runs"]] == list(evidence.CHAOS_SEEDS)


def test_a_violation_would_be_seen(numbers: dict[str, Any]) -> None:
    """The table does not say so for every number."""
    numbers["simulation"]["violations"] = 3
    numbers["chaos"]["runs"][2:4] = [
        {"seed": 3, "violations": 3, "claims": {"pong": 2, "P8": 1}, "cause": "a slow disk"},
        {"seed": 4, "violations": 1, "claims": {"log": 1}},
    ]
    table, in_short = evidence.table(numbers), evidence.in_short(numbers)
    assert "**3 violations**" in table
    assert "**3 violations**" in in_short
    assert "without a violation; the others are told" in in_short
    assert "**seed 3: 2 of pong, 1 of P8** (a slow disk)" in table
    assert "**seed 4: 1 of log** (cause not found)" in table


def test_a_cause_stays_for_as_long_as_the_same_claims_break() -> None:
    """It was found for them; for others it would be a guess."""

    def run(seed: int, *claims: str, **fields: str) -> dict[str, Any]:
        return {"seed": seed, "claims": dict.fromkeys(claims, 1), **fields}

    old = {"runs": [run(1, "pong", cause="x"), run(2, "pong", cause="y"), run(3, cause="z")]}
    new = {"runs": [run(1, "pong"), run(2, "pong", "P8"), run(3)]}
    causes = [one.get("cause") for one in evidence.with_causes(new, old)["runs"]]
    assert causes == ["x", None, None]
    assert evidence.with_causes({"states": 3}, {}) == {"states": 3}


@pytest.mark.parametrize(("code", "told"), [(0, True), (1, True), (2, False), (-9, False)])
def test_a_command_that_found_something_may_still_be_told(
    code: int, told: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Its numbers are read when they are wanted; any other failure is one."""
    end = "os.kill(os.getpid(), 9)" if code < 0 else f"sys.exit({code})"
    (tmp_path / "finds.py").write_text(
        f"import os, pathlib, sys; pathlib.Path(sys.argv[2]).write_text('[7]'); {end}"
    )
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    if told:
        assert evidence.run("finds", output="--json", red_too=True) == [7]
    else:
        with pytest.raises(evidence.Failed, match=f"ended with {code}"):
            evidence.run("finds", output="--json", red_too=True)
    if code:
        with pytest.raises(evidence.Failed, match=f"ended with {code}"):
            evidence.run("finds", output="--json")


def test_a_page_without_a_place_for_it_is_an_error() -> None:
    """Rather than one that is silently left as it is."""
    with pytest.raises(ValueError, match="no place"):
        evidence.published("# A page")


def test_a_command_that_takes_too_long_may_clean_up() -> None:
    """It is told to end, and not killed: what it has started would outlive it."""
    waits = (
        "import signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); "
        "print('ready', flush=True); signal.sigwait({signal.SIGTERM}); sys.exit(3)"
    )
    command = [sys.executable, "-c", waits]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stdout.readline() == "ready\n"
        evidence._end(running)
    assert running.returncode == 3


def test_a_command_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it, it has failed."""
    monkeypatch.setattr(evidence, "DEADLINE_S", 0.0)
    with pytest.raises(evidence.Failed, match="did not end within 0 s"):
        evidence.run("wsdemo.proof.simulate")


def test_a_part_that_finds_something_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, with its words; the file keeps what it had."""
    kept = tmp_path / "evidence.json"
    kept.write_text("{}")

    def finds() -> evidence.Numbers:
        return dict(evidence.run("wsdemo.redis", "--no-such-flag"))

    monkeypatch.setattr(evidence, "FILE", kept)
    monkeypatch.setattr(
        evidence, "PARTS", {"orders": evidence.PARTS["orders"]._replace(gather=finds)}
    )
    assert evidence.main(["--only", "orders"]) == 1
    assert re.search(r"orders: wsdemo\.redis .* ended with 2", capsys.readouterr().err)
    assert kept.read_text() == "{}"
