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
from wsdemo.proof.chaos.deployment import DeploymentKind
from wsdemo.proof.chaos.faults import FAULTS as CHAOS_FAULTS
from wsdemo.proof.checker.machines import MACHINES
from wsdemo.proof.checker.machines.presence.mutants import MUTANTS
from wsdemo.proof.simulate.faults import faults_of
from wsdemo.proof.simulate.offer import PLAIN


@pytest.fixture
def numbers() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(evidence.FILE.read_text())
    return content


def test_the_pages_show_the_measured_numbers(numbers: dict[str, Any]) -> None:
    """Exactly, and nothing else stands between the marks."""
    assert evidence.published(evidence.PAGE.read_text()) == evidence.table(numbers)
    assert evidence.published(evidence.README.read_text()) == evidence.in_short(numbers)


def test_the_evidence_has_no_violation(numbers: dict[str, Any]) -> None:
    """Every part was run, and no part has a violation; a failed seed of chaos has its cause."""
    runs = [one for part in numbers.values() for one in part.get("runs", ())]
    red = [one for one in runs if one["violations"]]
    assert [one["seed"] for one in red if not one.get("cause")] == []
    missing = evidence.PARTS.keys() - numbers.keys()
    assert numbers.keys() <= evidence.PARTS.keys()
    assert all(name.startswith(evidence.OTHER_CHAOS) for name in missing), missing
    found = [part.get("violations", 0) for part in numbers.values()]
    assert found == [0] * len(found)
    features = numbers["features"]
    assert [features[name]["violations"] for name in evidence.FEATURES] == [0] * len(features)
    for part in (numbers["mutants"], *(numbers["machines"][name] for name in evidence.SUBJECTS)):
        assert part["killed"] == part["mutants"]


@pytest.mark.slow
def test_the_number_of_bad_inputs_is_up_to_date(numbers: dict[str, Any]) -> None:
    """With one more, the table has to be made again. (The fast profile leaves some of them out.)"""
    rows = count()
    assert numbers["input"] == {
        "inputs": sum(map(len, rows.inputs.values())),
        "rows": len(rows.inputs),
        "tests": rows.tests,
    }


def test_countable_numbers_are_up_to_date(numbers: dict[str, Any]) -> None:
    """With one more fault or mutant, the table has to be made again."""
    assert numbers["mutants"]["mutants"] == len(MUTANTS)
    for name in evidence.SUBJECTS:
        assert numbers["machines"][name]["mutants"] == len(MACHINES[name].mutants), name
    assert numbers["simulation"]["kinds"] == len(faults_of(PLAIN))
    for name, offer in evidence.FEATURES.items():
        assert numbers["features"][name]["kinds"] == len(faults_of(offer)), name
    usual = [fault for fault in CHAOS_FAULTS if DeploymentKind.SERVER in fault.at]
    assert numbers["chaos"]["kinds"] == len(usual)


def test_all_seeds_of_chaos_are_reported(numbers: dict[str, Any]) -> None:
    """Those of the fixed list, each once, whatever their result."""
    assert len(evidence.CHAOS_SEEDS) >= 10
    assert [one["seed"] for one in numbers["chaos"]["runs"]] == list(evidence.CHAOS_SEEDS)
    others = [numbers[name] for name in numbers if name.startswith(evidence.OTHER_CHAOS)]
    for part in others:
        assert [one["seed"] for one in part["runs"]] == list(evidence.OTHER_SEEDS)


def test_a_violation_is_reported(numbers: dict[str, Any]) -> None:
    """The table does not claim zero violations whatever the numbers are."""
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


def test_a_cause_is_kept_while_the_same_claims_break() -> None:
    """It was found for these claims; for others it would be a guess."""

    def run(seed: int, *claims: str, **fields: str) -> dict[str, Any]:
        return {"seed": seed, "claims": dict.fromkeys(claims, 1), **fields}

    old = {"runs": [run(1, "pong", cause="x"), run(2, "pong", cause="y"), run(3, cause="z")]}
    new = {"runs": [run(1, "pong"), run(2, "pong", "P8"), run(3)]}
    causes = [one.get("cause") for one in evidence.with_causes(new, old)["runs"]]
    assert causes == ["x", None, None]
    assert evidence.with_causes({"states": 3}, {}) == {"states": 3}


@pytest.mark.parametrize(("code", "told"), [(0, True), (1, True), (2, False), (-9, False)])
def test_the_numbers_of_a_failed_command_are_read_where_wanted(
    code: int, told: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """`red_too` accepts the exit code of a violation; any other failure is an error."""
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


def test_a_page_without_the_marks_is_an_error() -> None:
    """It must not be left unchanged silently."""
    with pytest.raises(ValueError, match="no place"):
        evidence.published("# A page")


def test_a_command_that_times_out_is_terminated_and_not_killed() -> None:
    """Killed, it would leave the processes that it has started."""
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
    """After it, the command has failed."""
    monkeypatch.setattr(evidence, "DEADLINE_S", 0.0)
    with pytest.raises(evidence.Failed, match="did not end within 0 s"):
        evidence.run("wsdemo.proof.simulate")


def test_a_part_that_fails_makes_the_command_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, with its message; the file is unchanged."""
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
