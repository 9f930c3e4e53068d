"""Execution: how is a notebook run from its first cell to its last, and how long did it take?"""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import Any, Final

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from tools import lessons
from wsdemo.lab.progress import HEADLESS

CELL_TIMEOUT_S: Final = 180
"""An experiment that is tried again on a slower clock takes four times as long."""
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


def execute(notebook: Any) -> str:
    """Run all cells in place, in a new kernel; return the error, or an empty text."""
    client = NotebookClient(
        notebook, timeout=CELL_TIMEOUT_S, kernel_name="python3", record_timing=True
    )
    try:
        # There is no live reader: no progress line and no buttons may stay in the outputs.
        client.execute(cwd=str(lessons.ROOT), env={**os.environ, HEADLESS: "1"})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as problem:
        lines = _COLOUR.sub("", str(problem)).strip().splitlines()
        told = [line.strip() for line in lines if line.startswith("---->")] + lines[-1:]
        return " | ".join(told) or type(problem).__name__
    return ""


def take_timing(notebook: Any) -> float:
    """Remove the times from an executed notebook; return that of the slowest cell (s)."""
    slowest_s = 0.0
    for cell in notebook.cells:
        times = cell.metadata.pop("execution", {})
        if "shell.execute_reply" in times and "iopub.execute_input" in times:
            began, ended = (
                datetime.fromisoformat(times[name])
                for name in ("iopub.execute_input", "shell.execute_reply")
            )
            slowest_s = max(slowest_s, (ended - began).total_seconds())
    return slowest_s
