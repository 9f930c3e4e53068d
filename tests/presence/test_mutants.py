"""Would the model checker notice a mistake in a script? It must kill every mutant."""

from __future__ import annotations

from typing import Any

import pytest

from wsdemo.proof.checker.machines.presence.machine import SHIPPED
from wsdemo.proof.checker.machines.presence.mutants import EQUIVALENT, MUTANTS
from wsdemo.proof.checker.machines.presence.states import Clock, Scenario
from wsdemo.proof.checker.mutants import Change, Equivalent, Mutant, MutantError
from wsdemo.proof.checker.search import check
from wsdemo.proof.checker.subject import World
from wsdemo.redis.server import BundledServer


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_checker_kills_every_mutant(mutant: Mutant, shared_server: BundledServer) -> None:
    """With the invariant that the mutant is known to break, and a table of the steps."""
    result = mutant.check(redis=shared_server.url)
    assert mutant.breaks in result.violations, f"{mutant} survives: {result.verdict()}"
    assert not result.ok
    assert len(result.violations[mutant.breaks].table()) >= 1


def _deep(scenario: World) -> Any:
    """Three sessions have many orders."""
    marks = [pytest.mark.slow] if str(scenario).startswith("3 sessions") else []
    return pytest.param(scenario, marks=marks, id=str(scenario))


@pytest.mark.parametrize(
    "scenario", [_deep(one) for one in sorted({m.scenario for m in MUTANTS}, key=str)]
)
def test_the_shipped_scripts_pass_where_mutants_fail(
    scenario: Scenario, shared_server: BundledServer
) -> None:
    """What kills a mutant is its mistake, and not the scenario."""
    result = check(scenario, redis=shared_server.url)
    assert not result.violations, result
    assert result.complete


@pytest.mark.parametrize("change", EQUIVALENT, ids=str)
@pytest.mark.slow
def test_an_equivalent_change_is_not_killed(
    change: Equivalent, shared_server: BundledServer
) -> None:
    """Otherwise it belongs to the mutants."""
    for scenario in (Scenario(), Scenario(duplicates=0, losses=1, clock=Clock.FREE)):
        assert check(scenario, change.scripts(), redis=shared_server.url).ok


def test_there_are_mutants_of_every_script_and_no_two_are_equal() -> None:
    """At least eleven, as in the first version."""
    texts = [tuple(sorted(mutant.scripts().items())) for mutant in MUTANTS]
    assert len(set(texts)) == len(MUTANTS) >= 11
    assert {change.script for mutant in MUTANTS for change in mutant.changes} == set(SHIPPED)
    assert len({str(mutant) for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("piece", ["nowhere to be found", "redis.call("])
def test_a_mutant_that_does_not_fit_the_script_is_an_error(piece: str) -> None:
    """A piece that is missing, or occurs twice, must not make a mutant that changes nothing or
    something else."""
    mutant = Mutant("wrong", "S1", (Change("release", piece, ""),), Scenario())
    with pytest.raises(MutantError, match=r"release\.lua has this"):
        mutant.scripts()
