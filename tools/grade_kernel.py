"""Sandbox: how are the cells of a stranger run, and what is left when they misbehave?

Each notebook gets a process of its own, in a folder of its own with its own copy of the checks, and
deadlines for each cell and for the whole. Its outputs are not read, so they cannot fill any memory.
At the end the folder goes, and with it every process that was started there.
"""

from __future__ import annotations

import ast
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from wsdemo.lab.progress import HEADLESS

ROOT: Final = Path(__file__).parents[1]
START_S: Final = 60.0
INTERRUPT_S: Final = 5.0
"""How long an interrupted cell may take to end."""
MARK: Final = "WSDEMO_GRADED"
"""Environment variable by which the processes of a notebook are found again."""


class Stuck(Exception):
    """A notebook cannot go on; the text says why."""


def _in_a_line(error: Mapping[str, Any]) -> str:
    told = f"{error.get('ename', 'error')}: {error.get('evalue', '')}"
    return told.partition("\n")[0].rstrip(": ")[:200]


class Sandbox:
    """A kernel for one notebook."""

    def __init__(self, process: subprocess.Popen[bytes], client: Any, notebook_s: float) -> None:
        self._process = process
        self._client = client
        self._ends = time.monotonic() + notebook_s
        self._notebook_s = notebook_s

    def run(self, cell: str, deadline_s: float) -> str:
        """Run a cell; return its error in one line, or an empty text.

        Raises:
            Stuck: it does not end, or it ended the kernel.
        """
        content = self._answer(cell, {}, deadline_s)
        if content["status"] == "ok":
            return ""
        return _in_a_line(content)

    def value(self, expression: str, deadline_s: float) -> Any:
        """Return the value of an expression, a list of plain text.

        Raises:
            Stuck: it has no such value, it does not end, or it ended the kernel.
        """
        content = self._answer("", {"value": expression}, deadline_s)
        found = content.get("user_expressions", {}).get("value", {})
        if found.get("status") != "ok":
            raise Stuck(_in_a_line(found or content))
        try:
            value = ast.literal_eval(str(found["data"]["text/plain"])[:10_000])
            return [str(part) for part in value]
        except (KeyError, SyntaxError, TypeError, ValueError):
            raise Stuck("the check gave no verdict") from None

    def _answer(self, cell: str, expressions: dict[str, str], deadline_s: float) -> dict[str, Any]:
        asked = self._client.execute(
            cell,
            store_history=False,
            user_expressions=expressions,
            allow_stdin=False,
            stop_on_error=False,  # Or the kernel drops the cell that comes next.
        )
        left_s = self._ends - time.monotonic()
        reply = self._reply(asked, min(deadline_s, left_s))
        if reply is not None:
            return reply
        limit = f"{deadline_s:g} s" if deadline_s <= left_s else f"{self._notebook_s:g} s in all"
        self._process.send_signal(signal.SIGINT)
        if self._reply(asked, INTERRUPT_S) is None:
            raise Stuck(f"it does not end within {limit}, and cannot be interrupted")
        return {"status": "error", "ename": f"it does not end within {limit}"}

    def _reply(self, asked: str, deadline_s: float) -> dict[str, Any] | None:
        ends = time.monotonic() + deadline_s
        while time.monotonic() < ends:
            with suppress(queue.Empty):
                reply = self._client.get_shell_msg(timeout=min(0.5, deadline_s))
                if reply["parent_header"].get("msg_id") == asked:
                    return dict(reply["content"])
            if self._process.poll() is not None:
                raise Stuck("it ended the kernel")
        return None


@contextmanager
def sandbox(notebook_s: float) -> Iterator[Sandbox]:
    """Start a kernel in a folder of its own, and remove both with all that was started there.

    Raises:
        Stuck: the kernel does not start.
    """
    # A short name: it is the beginning of the names of sockets.
    home = Path(tempfile.mkdtemp(prefix="grade-"))
    mark = secrets.token_hex(16)
    client, process = None, None
    try:
        _copy_the_checks(home / "code")
        for name in ("work", "tmp"):
            (home / name).mkdir()
        connection, _ = write_connection_file(
            str(home / "kernel.json"), transport="ipc", ip=str(home / "k"), key=mark.encode()
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.grade_inside", connection, str(home)],
            cwd=home / "work",
            env=_environment(home, mark),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        client = BlockingKernelClient(connection_file=connection)
        client.load_connection_file()
        # Without iopub, what the cells print goes nowhere.
        client.start_channels(shell=True, iopub=False, stdin=False, hb=False, control=False)
        kernel = Sandbox(process, client, notebook_s + START_S)
        if problem := kernel.run("import tools.grade_inside as _g; _g.begin(); del _g", START_S):
            raise Stuck(f"the kernel does not start: {problem}")
        yield Sandbox(process, client, notebook_s)
    finally:
        if client is not None:
            client.stop_channels()
        if process is not None:
            _end(process, mark)
        shutil.rmtree(home, ignore_errors=True)


def _copy_the_checks(to: Path) -> None:
    """Copy what the kernel imports from this checkout: a notebook that edits it spoils its own."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "wsdemo", to / "wsdemo", ignore=ignored)
    (to / "tools").mkdir()
    for name in ("__init__.py", "grade_inside.py"):
        shutil.copy(ROOT / "tools" / name, to / "tools")


def _environment(home: Path, mark: str) -> dict[str, str]:
    """Return the little that a lesson needs; nothing of what else the teacher's has."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    folders = dict.fromkeys(
        ("HOME", "TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"), str(home / "tmp")
    )
    return {
        **kept,
        **folders,
        "PYTHONPATH": str(home / "code"),
        "PYTHONDONTWRITEBYTECODE": "1",
        HEADLESS: "1",
        MARK: mark,
        "JPY_PARENT_PID": str(os.getpid()),  # The kernel ends when the grader is killed.
    }


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kill the kernel and all that came from it, also what has left its family."""
    family: Sequence[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for one in (*family, *_marked(mark)):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            one.kill()


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if one.environ().get(MARK) == mark:
                found.append(one)
    return found
