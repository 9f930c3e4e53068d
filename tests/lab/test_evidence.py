"""Is the README's table of evidence what was measured, and is it of today's code?"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.bad_input.__main__ import count
from wsdemo.lab import evidence
from wsdemo.lab.chaos import faults as _  # noqa: F401  (they enter themselves into the list)
from wsdemo.lab.chaos.nemesis import FAULTS as CHAOS_FAULTS
from wsdemo.lab.mutants import MUTANTS
from wsdemo.lab.simulate.nemesis import FAULTS as SIMULATED_FAULTS


@pytest.fixture
def numbers() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(evidence.FILE.read_text())
    return content


def test_the_readme_shows_what_was_measured(numbers: dict[str, Any]) -> None:
    """To the letter, and nothing else stands between the marks."""
    assert evidence.published(evidence.README.read_text()) == evidence.table(numbers)


def test_nothing_was_found(numbers: dict[str, Any]) -> None:
    """Every part was tried, and no part has a violation."""
    assert numbers.keys() == evidence.PARTS.keys()
    found = [part.get("violations", 0) for part in numbers.values()]
    assert found == [0] * len(found)
    assert numbers["mutants"]["killed"] == numbers["mutants"]["mutants"]


def test_what_can_be_counted_is_of_today(numbers: dict[str, Any]) -> None:
    """A fault, a mutant or a bad input more, and the table has to be made anew."""
    rows = count()
    assert numbers["input"] == {
        "inputs": sum(map(len, rows.inputs.values())),
        "rows": len(rows.inputs),
        "tests": rows.tests,
    }
    assert numbers["mutants"]["mutants"] == len(MUTANTS)
    assert numbers["simulation"]["kinds"] == len(SIMULATED_FAULTS)
    assert numbers["chaos"]["kinds"] == len(CHAOS_FAULTS)


def test_a_violation_would_be_seen(numbers: dict[str, Any]) -> None:
    """The table does not say so for every number."""
    numbers["chaos"]["violations"] = 3
    assert "**3 violations**" in evidence.table(numbers)


def test_a_readme_without_a_place_for_it_is_an_error() -> None:
    """Rather than one that is silently left as it is."""
    with pytest.raises(ValueError, match="no place"):
        evidence.published("# A README")


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
        evidence.run("wsdemo.lab.simulate")


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
