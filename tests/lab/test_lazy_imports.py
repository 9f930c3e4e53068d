"""Lazy imports: do modules that do not draw load neither pandas nor matplotlib?

Each question is asked in a new interpreter: in this one, other tests have loaded both.
"""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import wsdemo.lab
import wsdemo.lab.cluster
import wsdemo.lab.races
import wsdemo.lab.trace
import wsdemo.proof
import wsdemo.rig
from wsdemo.lab.lessons import QUESTIONS

HEAVY = {"pandas", "matplotlib", "IPython"}
DRAWING = {"wsdemo.proof.chaos.figures"}
"""Modules whose only purpose is to draw."""


def modules_of(*packages: str) -> list[str]:
    """Return the modules of these packages, those that draw and those that only run aside."""
    found = [
        module.name
        for package in packages
        for module in pkgutil.walk_packages(sys.modules[package].__path__, f"{package}.")
    ]
    return [name for name in found if name not in DRAWING and not name.endswith("__main__")]


def loaded_by(code: str) -> set[str]:
    """Return which of the heavy packages an interpreter has loaded after this code."""
    asks = f"{code}\nimport json, sys\nprint(json.dumps(sorted({HEAVY!r} & sys.modules.keys())))"
    told = subprocess.run(
        [sys.executable, "-c", asks], capture_output=True, text=True, timeout=50, check=True
    )
    return set(json.loads(told.stdout.splitlines()[-1]))


def test_cluster_races_trace_proof_and_rig_load_neither_pandas_nor_matplotlib() -> None:
    """All their modules together, in one interpreter."""
    names = modules_of(
        "wsdemo.lab.cluster", "wsdemo.lab.races", "wsdemo.lab.trace", "wsdemo.proof", "wsdemo.rig"
    )
    assert len(names) > 30
    assert loaded_by("\n".join(f"import {name}" for name in names)) == set()


CELL = "from wsdemo.lab import Lab, check, predict\n" + "\n".join(
    f"predict({name!r})" for name in QUESTIONS
)
RIDE = f"{CELL}\nwith Lab(gateways=1) as lab: lab.connect('alice').send('alice', 'hello')"


def test_a_first_cell_loads_neither_of_them_nor_ipython() -> None:
    """A lab starts, a question is asked, a message is sent: nobody has asked for a figure yet."""
    assert loaded_by(RIDE) == set()


@pytest.mark.slow
def test_the_laboratory_loads_them_for_the_first_table_or_figure() -> None:
    """And not before."""
    lab = "from wsdemo.lab import Lab\nwith Lab(gateways=1) as lab:"
    assert loaded_by(f"{lab} lab.trace()") == {"pandas"}
    assert loaded_by(f"{lab} lab.plot") == {"pandas", "matplotlib"}


def test_the_laboratory_lists_its_lazy_names() -> None:
    """`dir` and `from wsdemo.lab import *` know the lazy names, and no others exist."""
    assert set(wsdemo.lab.__all__) <= set(dir(wsdemo.lab))
    assert all(getattr(wsdemo.lab, name) is not None for name in wsdemo.lab.__all__)
    assert not hasattr(wsdemo.lab, "nonsense")
