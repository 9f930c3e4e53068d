"""JupyterLab: does a reader who opens a lesson and runs all cells see the expected outputs?

A real browser, a real JupyterLab, started as `make lab` does it, on a copy of the lessons.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest

from tests import browser
from tests.browser import Browser
from tests.processes import http_get
from tests.waiting import until

pytestmark = [
    pytest.mark.xdist_group("jupyterlab"),
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(180),
    pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed"),
]

ROOT: Final = Path(__file__).parents[2]
NOTEBOOKS: Final = ROOT / "notebooks"
LAB_S: Final = 40.0
RUN_S: Final = 60.0
LESSONS: Final = ("00-start-here", "04-the-late-cleanup")

CODE: Final = "[...document.querySelectorAll('.jp-Notebook .jp-CodeCell')]"
NUMBERS: Final = f"{CODE}.map(cell => cell.querySelector('.jp-InputPrompt').textContent)"
IDLE: Final = (
    "(document.querySelector('.jp-Notebook-ExecutionIndicator') || {dataset: {}})"
    ".dataset.status === 'idle'"
)
# Without a kernel it says idle, too; to run a cell then opens a dialog.
KERNEL: Final = (
    "/Python 3/.test((document.querySelector('.jp-Toolbar-kernelName, .jp-KernelName') || {})"
    ".textContent)"
)
FIGURES: Final = "[...document.querySelectorAll('.jp-OutputArea-output figure img')]"
LOADED: Final = f"{FIGURES}.filter(image => image.complete && image.naturalWidth > 0).length"
TROUBLE: Final = (
    '[...document.querySelectorAll(\'.jp-OutputArea-output[data-mime-type$="stderr"],'
    ' .jp-OutputArea-output[data-mime-type$="error"], .Toastify__toast, .jp-Dialog\')]'
    ".map(node => node.textContent)"
)
BOARD: Final = """
from wsdemo.lab import Lab
lab = Lab(gateways=2, scale=6)
alice = lab.connect("alice")
room = lab.classroom()
lab.board(height="560px")
"""
WRITTEN: Final = (
    "[...document.querySelectorAll('.widget-label')].some(label =>"
    " label.textContent.startsWith('Written down: '))"
)


def menu(name: str) -> str:
    """Return the expression that finds an entry of a menu by its words."""
    return (
        "[...document.querySelectorAll('.lm-MenuBar-item, .lm-Menu-item')].find(item =>"
        " (item.querySelector('.lm-MenuBar-itemLabel, .lm-Menu-itemLabel') || {}).textContent"
        f" === {json.dumps(name)})"
    )


class JupyterLab(NamedTuple):
    """A running JupyterLab."""

    home: Path
    port: int
    token: str

    def url(self, lesson: str) -> str:
        address = f"http://127.0.0.1:{self.port}/lab/tree/notebooks/{lesson}.ipynb"
        return f"{address}?reset&token={self.token}"


@pytest.fixture(scope="module")
def jupyter_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Start JupyterLab on a copy of the lessons; end it and all that it started."""
    home, token = tmp_path_factory.mktemp("jupyterlab"), secrets.token_hex(8)
    copy_lessons(home / "work" / "notebooks")
    # The environment that `make` makes has this as a default; a test may run in another.
    news = home / "config/lab/user-settings/@jupyterlab/apputils-extension"
    news.mkdir(parents=True)
    (news / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    environment = {
        **{name: value for name, value in os.environ.items() if "JUPYTER" not in name},
        "HOME": str(home),
        "JUPYTER_PATH": "",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    with (home / "jupyter.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser"),
                *("--ServerApp.root_dir=.", "--ip=127.0.0.1", "--port=0"),
                f"--IdentityProvider.token={token}",
            ],
            cwd=home / "work",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield home, token
    finally:
        _end(process)


def cells_of(lesson: str) -> list[dict[str, Any]]:
    """Return the code cells of a committed lesson."""
    cells = json.loads((NOTEBOOKS / f"{lesson}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def figures_of(lesson: str) -> int:
    """Return how many figures a lesson has: the committed outputs of its solved copy say it."""
    solved = json.loads((NOTEBOOKS / "solutions" / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in solved["cells"] for output in cell.get("outputs", [])]
    return sum("".join(o.get("data", {}).get("text/html", "")).count("<figure") for o in outputs)


def copy_lessons(to: Path) -> None:
    """Copy the learner's lessons, which have no outputs: what is there afterwards was run."""
    to.mkdir(parents=True)
    for lesson in LESSONS:
        shutil.copy(NOTEBOOKS / f"{lesson}.ipynb", to)
    notebook = {
        "cells": [
            {"cell_type": "code", "id": name, "metadata": {}, "outputs": [], "source": source}
            | {"execution_count": None}
            for name, source in (("board", BOARD.strip()), ("close", "lab.close()"))
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (to / "board.ipynb").write_text(json.dumps(notebook), encoding="utf-8")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, with its kernels; insist where that does not help."""
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    family += [child for parent in family for child in parent.children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=15)
    for survivor in left:
        survivor.kill()
    process.wait()
    assert not left, f"JupyterLab left behind: {left}"


@pytest.fixture
async def jupyter(jupyter_process: tuple[Path, str]) -> JupyterLab:
    """Wait until it answers."""
    home, token = jupyter_process

    def listening() -> int:
        for file in (home / "runtime").glob("jpserver-*.json"):
            return int(json.loads(file.read_text() or "{}").get("port", 0))
        return 0

    async def answers() -> bool:
        try:
            return (await http_get(port, f"/api?token={token}"))[0] == 200
        except OSError:
            return False

    port = await until("JupyterLab listens", listening, LAB_S, every_s=0.1)
    await until("JupyterLab answers", answers, LAB_S, every_s=0.1)
    return JupyterLab(home, port, token)


@pytest.fixture
async def page(jupyter_process: tuple[Path, str]) -> AsyncIterator[Browser]:
    async with Browser(jupyter_process[0]) as browser:
        yield browser


@pytest.mark.parametrize("lesson", LESSONS)
async def test_run_all_cells_in_a_browser(
    lesson: str, jupyter: JupyterLab, page: Browser, tmp_path: Path
) -> None:
    """Every cell gets its number, figures appear, an answer can be clicked, no other host is
    contacted.
    """
    count, figures = len(cells_of(lesson)), figures_of(lesson)
    await page.open(jupyter.url(lesson))
    await page.until("the notebook is there", f"{CODE}.length === {count}", LAB_S)
    await page.until("it has a kernel, which is idle", f"{KERNEL} && {IDLE}", LAB_S)
    assert await page.value(f"{FIGURES}.length") == 0, "a learner's copy has no outputs"

    await page.click("the menu Run", menu("Run"))
    await page.click("Run All Cells", menu("Run All Cells"))
    numbers = [f"[{n}]:" for n in range(1, count + 1)]
    in_order = (
        f"JSON.stringify({NUMBERS}) === {json.dumps(json.dumps(numbers, separators=(',', ':')))}"
    )
    await page.until("every cell has its number", in_order, RUN_S)
    await page.until("the kernel is idle again", IDLE, RUN_S)
    await page.until(f"{figures} figures", f"{LOADED} === {figures}")
    await page.value(f"{FIGURES}[0].scrollIntoView()")
    await page.picture(tmp_path / f"{lesson}.png")

    await page.click("an answer", "document.querySelector('.widget-radio-box label')")
    await page.until("it is written down", WRITTEN)

    assert await page.value(TROUBLE) == []
    assert page.problems == []
    assert page.requested and page.requested_elsewhere() == []


async def test_the_board_in_a_cell_shows_the_lab_and_its_button_works(
    jupyter: JupyterLab, page: Browser
) -> None:
    """By the kernel's own connection: no other port and no other host is contacted."""
    await page.open(jupyter.url("board"))
    await page.until("the notebook is there", f"{CODE}.length === 2", LAB_S)
    await page.until("it has a kernel, which is idle", f"{KERNEL} && {IDLE}", LAB_S)
    await page.click("the first cell", f"{CODE}[0].querySelector('.cm-content')")
    await page.key("Enter", windows=13, shift=True)
    await page.until("the board is there", "!!document.querySelector('.ws-board.is-live')", RUN_S)
    await page.until_text("alice registered with gateway-01", "[aria-label='What happened']")
    await page.press("Crash gateway-01")
    await page.until_text("crashed", ".ws-board [aria-label='gateway-01']")
    await page.until_text(
        "alice moved from gateway-01 to gateway-02", "[aria-label='What happened']"
    )
    tall = "document.querySelector('.ws-board').clientHeight === 560"
    await page.until("the board is as tall as was asked", tall)

    await page.click("the second cell", f"{CODE}[1].querySelector('.cm-content')")
    await page.key("Enter", windows=13, shift=True)
    await page.until("the lab is closed", f"{CODE}[1] && {NUMBERS}[1] === '[2]:'", RUN_S)
    await page.until("the kernel is idle", IDLE, RUN_S)
    assert await page.value(TROUBLE) == []
    assert page.problems == []
    ports = {urlsplit(url).port for url in page.requested if url.startswith(("http", "ws"))}
    assert ports == {jupyter.port}
    assert page.requested_elsewhere() == []
