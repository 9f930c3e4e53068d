"""A class of thirty for a minute: every button of the teacher, in an order of a seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lab.classroom.class_of_thirty import FAULTS, FREEZABLE, SCALE, STUDENTS, class_of_thirty
from tests.lab.classroom.replay import NO_NODE, NODE, replay, replay_by_model
from tests.node import node_tests
from wsdemo.lab import Lab

SEED = 15


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(240)
async def test_every_button_is_pressed_in_a_class_of_thirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody hears what is for somebody else, and everybody is back in time; the board is right.

    After each button, the board is replayed from its first batch, and says what registries, Redis
    and `lab.where()` say. At each of these moments, and at every entry, the browser's model says
    the same by its checkpoints. Nothing is left behind.
    """
    with Lab(gateways=3, scale=SCALE, freezable=[FREEZABLE], seed=SEED) as lab:
        room = lab.classroom()
        lab.connect_many(6)
        async with class_of_thirty(room, seed=SEED) as made:
            await made.every_fault()
            assert made.strays() == []
            assert sum(one.heard for one in made.students) > STUDENTS
            assert {fault.what for fault in made.faults} == FAULTS.keys()
            assert len(room.students) == STUDENTS
            assert len(room.votes) == STUDENTS
            checked = made.checked
    assert lab.leaks() == []
    if NODE is None:
        pytest.skip(f"the model of the browser was not compared: {NO_NODE}")
    by_model = replay_by_model(checked)
    assert by_model == [replay(batches) for batches in checked]
    run = tmp_path / "run.json"
    run.write_text(f"[{','.join(checked[-1])}]", encoding="utf-8")
    assert json.loads(run.read_text(encoding="utf-8"))
    monkeypatch.setenv("RUN", str(run))
    assert await node_tests("test_model.mjs") > 0
