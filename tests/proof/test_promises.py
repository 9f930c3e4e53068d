"""Promises: has each id one sentence, and are all ids of violations defined?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wsdemo import proof
from wsdemo.proof.checker.machines import MACHINES
from wsdemo.proof.checker.machines.presence.invariants import ENDS, STEPS
from wsdemo.proof.promises import DurablePromise, Promise, RoomPromise

GUARANTEES = Path(__file__).parents[2] / "docs" / "guarantees.md"


@pytest.mark.parametrize("promise", [*Promise, *DurablePromise, *RoomPromise], ids=str)
def test_a_promise_is_one_sentence(promise: Promise | DurablePromise | RoomPromise) -> None:
    """It begins with a capital letter, and ends with the only full stop."""
    assert promise.says[0].isupper() and promise.says.index(".") == len(promise.says) - 1


def test_a_promise_is_named_and_not_written_as_text() -> None:
    """No module of the proofs has an id in quotes, except the one that defines it."""
    quoted = re.compile(r'"(P[1-8]|X|D[1-8]|R[1-5])"')
    folder = Path(proof.__file__).parent
    found = {path.name for path in folder.rglob("*.py") if quoted.search(path.read_text())}
    assert found == {"promises.py"}


def test_the_checker_tests_each_promise_of_presence() -> None:
    """X is about time, which the checker has not."""
    tested = {promise for invariant in (*STEPS, *ENDS) for promise in invariant.promises}
    assert tested == set(Promise) - {Promise.X}


def test_the_checker_tests_each_promise_of_inboxes_and_rooms() -> None:
    """D8 is about clients that acknowledge nothing; tests on real gateways have them."""
    for name, promises in (
        ("inbox", set(DurablePromise) - {DurablePromise.D8}),
        ("rooms", set(RoomPromise)),
    ):
        invariants = MACHINES[name].everyday[0].invariants()
        assert {promise for one in invariants for promise in one.promises} == promises


def test_an_id_of_the_guarantees_means_nothing_else_to_the_checker() -> None:
    """A violation names an invariant of its own, and the promise that this one belongs to."""
    heads = re.findall(r"^### ([A-Z]\d+):", GUARANTEES.read_text(), re.MULTILINE)
    assert {"P1", "D1", "R1", "W1", "A1"} <= set(heads)
    names: set[str] = {one.name for one in (*STEPS, *ENDS)}
    for checked in MACHINES.values():
        names |= {one.name for world in checked.everyday for one in world.invariants()}
    assert len(names) > 40
    assert {re.sub("[a-z]+$", "", name) for name in names}.isdisjoint(heads)
