"""Does the benchmark run, and is a message cheaper here than in a plain port of the demo?

Nothing absolute: both systems run in turns on the same machine in the same minute, and only their
ratio is looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.timeout(180)
def test_every_phase_is_cheaper_than_on_the_plain_port(tmp_path: Path) -> None:
    """A short round of each phase, with the table, the JSON and the pictures."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--smoke", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (document,) = tmp_path.glob("*.json")
    content = json.loads(document.read_text())
    assert {"saturation", "1,000 a second", "4,000 a second", "registration storm"} <= set(
        content["ratios"]
    )
    assert all(ratio < 1 for ratio in content["ratios"].values()), content["ratios"]
    # Half of what a message costs there is far above what is measured, so noise cannot reach it.
    assert content["ratios"]["saturation"] < 0.5
    assert sum(sample["lost"] for sample in content["samples"]) == 0
    assert list(tmp_path.glob("*.png"))
