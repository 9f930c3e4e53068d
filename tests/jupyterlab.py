"""JupyterLab: a real one on a copy of the lessons, and what a reader does in it with two hands.

It is started as `make lab` does it, and ends with all that it has started. `Reader` sits before
the browser: presses Shift-Enter, types into a cell, clicks an answer, and sees what is shown.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from tests.browser import Browser
from tests.processes import http_get
from tests.waiting import until

ROOT: Final = Path(__file__).parents[1]
NOTEBOOKS: Final = ROOT / "notebooks"
LAB_S: Final = 40.0
RUN_S: Final = 60.0
AGAIN: Final = re.compile(r"machine (is|was too) busy|run the lesson again")
"""How a lesson says that the load of the machine may be the reason."""
PATIENCE: Final = 3
"""So often a reader begins again at Run."""

CELLS: Final = "[...document.querySelectorAll('.jp-Notebook .jp-Cell')]"
CODE: Final = "[...document.querySelectorAll('.jp-Notebook .jp-CodeCell')]"
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
DIALOG: Final = "document.querySelector('.jp-Dialog .jp-mod-accept')"


def menu(name: str) -> str:
    """Return the expression that finds an entry of a menu by its words."""
    return (
        "[...document.querySelectorAll('.lm-MenuBar-item, .lm-Menu-item')].find(item =>"
        " (item.querySelector('.lm-MenuBar-itemLabel, .lm-Menu-itemLabel') || {}).textContent"
        f" === {json.dumps(name)})"
    )


def cells_of(lesson: str) -> list[dict[str, Any]]:
    """Return the cells of a committed lesson."""
    return list(json.loads((NOTEBOOKS / f"{lesson}.ipynb").read_text(encoding="utf-8"))["cells"])


# --- the server --------------------------------------------------------------------------------


class JupyterLab(NamedTuple):
    """A running JupyterLab."""

    home: Path
    port: int
    token: str

    def url(self, lesson: str) -> str:
        address = f"http://127.0.0.1:{self.port}/lab/tree/notebooks/{lesson}.ipynb"
        return f"{address}?reset&token={self.token}"


@contextmanager
def jupyterlab_process(home: Path, lessons: Iterable[str]) -> Iterator[str]:
    """Start JupyterLab on a copy of some lessons; end it and all that it started. Yield its
    token.
    """
    token = secrets.token_hex(8)
    _copy(lessons, home / "work" / "notebooks")
    # The environment that `make` makes has this as a default; a test may run in another.
    news = home / "config/lab/user-settings/@jupyterlab/apputils-extension"
    news.mkdir(parents=True)
    (news / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    with (home / "jupyter.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser"),
                *("--ServerApp.root_dir=.", "--ip=127.0.0.1", "--port=0"),
                f"--IdentityProvider.token={token}",
            ],
            cwd=home / "work",
            env=_environment(home),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield token
    finally:
        _end(process)


def _environment(home: Path) -> dict[str, str]:
    """Return an environment in which all that it reads and writes is below `home`."""
    return {
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


def _copy(lessons: Iterable[str], to: Path) -> None:
    """Copy the learner's lessons, which have no outputs: what is there afterwards was run."""
    to.mkdir(parents=True)
    for lesson in lessons:
        shutil.copy(NOTEBOOKS / f"{lesson}.ipynb", to)


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


async def jupyterlab_at(home: Path, token: str) -> JupyterLab:
    """Wait until the JupyterLab that was started there answers."""

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


# --- the reader --------------------------------------------------------------------------------


class Reader:
    """Who has a lesson open in JupyterLab, and goes through it cell by cell."""

    def __init__(self, page: Browser, lesson: str) -> None:
        self.page = page
        self.lesson = lesson
        self.cells = cells_of(lesson)

    async def open(self, jupyter: JupyterLab) -> None:
        """Open the lesson, and select its first cell."""
        await self.page.open(jupyter.url(self.lesson))
        await self.page.until("it is there", f"{CELLS}.length === {len(self.cells)}", LAB_S)
        await self.page.until("it has a kernel, which is idle", f"{KERNEL} && {IDLE}", LAB_S)
        await self.select(0)

    def cell(self, *words: str, after: int = -1) -> int:
        """Return the number of the first code cell (behind another one) that has these words."""
        for number, cell in enumerate(self.cells):
            source = "".join(cell["source"])
            found = cell["cell_type"] == "code" and all(word in source for word in words)
            if number > after and found:
                return number
        raise LookupError(f"no cell of {self.lesson} has {words}")

    async def select(self, number: int) -> None:
        """Click beside a cell."""
        await self.page.click(
            f"cell {number}", f"{CELLS}[{number}].querySelector('.jp-InputPrompt')"
        )
        await self.page.until("it is selected", f"{_active()} === {number}")

    async def shift_enter(self) -> int:
        """Press Shift-Enter, wait until the cell has run, return the number of that cell."""
        number = int(await self.page.value(_active()))
        is_code = self.cells[number]["cell_type"] == "code"
        if is_code:
            # So that a number in it is new, even when it is the same one.
            await self.page.value(f"{_prompt(number)}.textContent = ''")
        await self.page.key("Enter", windows=13, shift=True)
        if is_code:
            has_run = f"/^\\[\\d+\\]:/.test({_prompt(number)}.textContent) && {IDLE}"
            await self.page.until(f"cell {number} has run", has_run, RUN_S)
        return number

    async def run(self, number: int) -> str:
        """Select a cell, run it, return what it shows."""
        await self.select(number)
        await self.shift_enter()
        return await self.shown(number)

    async def walk(self, to: int) -> None:
        """Press Shift-Enter until a cell is selected. Where the lesson says that the machine was
        too busy, begin again at Run, as it says.
        """
        patience = PATIENCE
        while (now := int(await self.page.value(_active()))) < to:
            await self.shift_enter()
            await self.page.until("the next one is selected", f"{_active()} === {now + 1}")
            trouble = await self.trouble(now)
            if AGAIN.search(trouble) and patience:
                patience -= 1
                await self.select(self.beat("Run"))
            else:
                assert not trouble, f"{self.lesson}, cell {now}: {trouble}"

    def beat(self, heading: str) -> int:
        """Return the number of the cell that has a heading."""
        return next(
            number
            for number, cell in enumerate(self.cells)
            if cell["cell_type"] == "markdown" and f"## {heading}\n" in "".join(cell["source"])
        )

    async def write(self, number: int, source: str) -> None:
        """Replace the text of a cell, by hand."""
        editor = f"{CELLS}[{number}].querySelector('.cm-content')"
        await self.page.click(f"the text of cell {number}", editor)
        await self.page.until("the cursor is in it", f"document.activeElement === {editor}")
        await self.page.key("a", windows=65, ctrl=True)
        await self.page.insert(source)
        last = json.dumps(source.strip().splitlines()[-1].strip())
        await self.page.until("it is written", f"{editor}.textContent.includes({last})")

    async def shown(self, number: int) -> str:
        """Return the texts of the outputs of a cell."""
        found = (
            f"[...{CELLS}[{number}].querySelectorAll('.jp-OutputArea-output')]"
            ".map(node => node.textContent).join('\\n')"
        )
        return str(await self.page.value(found))

    async def figures(self, number: int) -> list[str]:
        """Return the figures that a cell shows, as addresses."""
        found = f"[...{CELLS}[{number}].querySelectorAll('figure img')].map(image => image.src)"
        return list(await self.page.value(found))

    async def trouble(self, number: int) -> str:
        """Return what a cell wrote to stderr, and the exception in which it ended."""
        kinds = ", ".join(f'[data-mime-type$="{kind}"]' for kind in ("stderr", "error"))
        found = (
            f"[...{CELLS}[{number}].querySelectorAll('{kinds}')]"
            ".map(node => node.textContent).join('\\n')"
        )
        return str(await self.page.value(found))

    async def choose(self, number: int, answer: object) -> None:
        """Click an answer among the radio buttons of a cell."""
        await self.page.click(
            f"the answer {answer}",
            f"[...{CELLS}[{number}].querySelectorAll('.widget-radio-box label')]"
            f".find(label => label.textContent.trim() === {json.dumps(str(answer))})",
        )

    async def chosen(self, number: int) -> str:
        """Return the answer whose button is pressed in a cell; nothing when none is."""
        found = (
            f"(({CELLS}[{number}].querySelector('.widget-radio-box input:checked') || {{}})"
            ".parentNode || {textContent: ''}).textContent.trim()"
        )
        return str(await self.page.value(found))

    async def is_in_view(self, element: str) -> bool:
        """Say whether an element can be seen without scrolling."""
        place = (
            f"(() => {{ const box = {element}.getBoundingClientRect();"
            " const page = document.querySelector('.jp-WindowedPanel-outer')"
            ".getBoundingClientRect();"
            " return box.top >= page.top && box.bottom <= page.bottom })()"
        )
        return bool(await self.page.value(place))

    async def restart_kernel(self) -> None:
        """Restart the kernel, by the menu; the outputs stay."""
        await self.page.click("the menu Kernel", menu("Kernel"))
        await self.page.click("Restart Kernel", menu("Restart Kernel\N{HORIZONTAL ELLIPSIS}"))
        await self.page.click("yes", DIALOG)
        await self.page.until("the dialog has gone", f"!{DIALOG}")
        await self.page.until("the kernel is idle", f"{KERNEL} && {IDLE}", LAB_S)


def _active() -> str:
    return f"{CELLS}.findIndex(cell => cell.classList.contains('jp-mod-active'))"


def _prompt(number: int) -> str:
    return f"{CELLS}[{number}].querySelector('.jp-InputArea-prompt')"
