"""JupyterLab: does a reader who opens a lesson and runs all cells see the expected outputs?

A real browser, a real JupyterLab, started as `make lab` does it, on a copy of the lessons.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests import browser
from tests.browser import Browser
from tests.jupyterlab import (
    CODE,
    FIGURES,
    IDLE,
    KERNEL,
    LAB_S,
    NOTEBOOKS,
    RUN_S,
    JupyterLab,
    cells_of,
    jupyterlab_at,
    jupyterlab_process,
    menu,
)

pytestmark = [
    pytest.mark.xdist_group("jupyterlab"),
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(180),
    pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed"),
]

LESSONS: Final = ("00-start-here", "04-the-late-cleanup")

NUMBERS: Final = f"{CODE}.map(cell => cell.querySelector('.jp-InputPrompt').textContent)"
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


@pytest.fixture(scope="module")
def jupyter_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    home = tmp_path_factory.mktemp("jupyterlab")
    with jupyterlab_process(home, LESSONS) as token:
        write_board(home / "work" / "notebooks" / "board.ipynb")
        yield home, token


@pytest.fixture
async def jupyter(jupyter_process: tuple[Path, str]) -> JupyterLab:
    """Wait until it answers."""
    return await jupyterlab_at(*jupyter_process)


@pytest.fixture
async def page(jupyter_process: tuple[Path, str]) -> AsyncIterator[Browser]:
    async with Browser(jupyter_process[0]) as browser:
        yield browser


def write_board(path: Path) -> None:
    """Write a notebook of two cells: a board, and the end of its lab."""
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
    path.write_text(json.dumps(notebook), encoding="utf-8")


def code_cells(lesson: str) -> int:
    """Return how many code cells a committed lesson has."""
    return sum(cell["cell_type"] == "code" for cell in cells_of(lesson))


def figures_of(lesson: str) -> int:
    """Return how many figures a lesson has: the committed outputs of its solved copy say it."""
    solved = json.loads((NOTEBOOKS / "solutions" / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in solved["cells"] for output in cell.get("outputs", [])]
    return sum("".join(o.get("data", {}).get("text/html", "")).count("<figure") for o in outputs)


@pytest.mark.parametrize("lesson", LESSONS)
async def test_run_all_cells_in_a_browser(
    lesson: str, jupyter: JupyterLab, page: Browser, tmp_path: Path
) -> None:
    """Every cell gets its number, figures appear, an answer can be clicked, no other host is
    contacted.
    """
    count, figures = code_cells(lesson), figures_of(lesson)
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

    await page.click_until_heard("an answer", "document.querySelector('.widget-radio-box label')")
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
