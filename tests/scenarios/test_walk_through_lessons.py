"""JupyterLab: does a learner who goes through a lesson cell by cell see what the lesson promises?

In a real browser: predicts, by a click or by typing; steps with Shift-Enter; answers wrongly, then
rightly; restarts the kernel; and runs cells again in another order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests import browser
from tests.browser import Browser
from tests.jupyterlab import (
    CELLS,
    FIGURES,
    JupyterLab,
    Reader,
    jupyterlab_at,
    jupyterlab_process,
)
from tools import lessons

pytestmark = [
    pytest.mark.xdist_group("walk_through_lessons"),
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(240),
    pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed"),
]

WIDTH_PX, HEIGHT_PX = 1280, 900
"""A small laptop."""


class Walk(NamedTuple):
    """What a learner says and writes in a lesson, and what has to be shown then."""

    lesson: str
    said: object
    """A wrong prediction: the lesson has to say why it was tempting."""
    typed: bool
    """Whether the prediction is typed into the cell; otherwise it is clicked."""
    measured: str
    wrong: str
    """A wrong answer to the exercise."""
    hint: str
    evidence: str = ""
    """The case in which the wrong answer fails: text; a figure when empty."""

    @property
    def number(self) -> str:
        return self.lesson.partition("-")[0]

    def solution(self) -> str:
        """The right answer to the exercise, from the source of the lesson."""
        cells = lessons.parse(lessons.ROOT / "src" / f"{self.lesson}.py").cells
        check = next(n for n, c in enumerate(cells) if f'check("ex{self.number}"' in c.source)
        before = [c.source for c in cells[:check] if "solution" in c.metadata.get("tags", [])]
        return str(before[-1])


WALKS: Final = (
    Walk(
        "00-start-here",
        said=5,
        typed=False,
        measured="Measured: 4; you said 5.",
        wrong='def where_is(record):\n    return record.get("connId")\n',
        hint="That names the connection. Where is the gateway named?",
        evidence="where_is({",
    ),
    Walk(
        "02-presence-is-a-lease",
        said=3,
        typed=True,
        measured="Measured: 2; you said 3.",
        wrong="def choose_ttl(heartbeat, loss, most):\n    return 3 * heartbeat\n",
        hint="The heartbeat that is due at its very end comes too late.",
    ),
    Walk(
        "04-the-late-cleanup",
        said="gateway-02",
        typed=False,
        measured="Measured: nothing; you said gateway-02.",
        wrong="DELETE_IF_MINE = \"return redis.call('DEL', KEYS[1])\"\n",
        hint="Alice had moved to another gateway, and lost her entry. Whose was it?",
        evidence="entry after:  none",
    ),
    Walk(
        "05-every-order-there-is",
        said=4,
        typed=True,
        measured="Measured: 19; you said 4.",
        wrong=(
            "def step(state, action):\n"
            "    if action in ('r_set', 'h_set'):\n"
            "        state['redis']['alice'] = {'gateway': state['gateway']}\n"
            "    elif action == 'c_del':\n"
            "        state['redis']['alice'] = None\n"
        ),
        hint="25 of 45 orders end wrong.",
    ),
    Walk(
        "07-a-gateway-dies",
        said="all",
        typed=False,
        measured="Measured: those not yet back; you said all.",
        wrong=(
            "def next_gateway(history, gateways):\n"
            "    return history[-1][0] if history else gateways[0]\n"
        ),
        hint="The gateway that has just failed is asked again at once.",
        evidence="history, the oldest first:",
    ),
    Walk(
        "08-the-herd",
        said="jitter, exponential, every 2 s",
        typed=False,
        measured=(
            "Measured: jitter, every 2 s, exponential; you said jitter, exponential, every 2 s."
        ),
        wrong="def backoff(attempt, rng):\n    return rng.uniform(0, 5)\n",
        hint="What differs after a fifth failure from after the first?",
    ),
    Walk(
        "09-the-message-in-the-gap",
        said=20,
        typed=False,
        measured="Measured: 40; you said 20.",
        wrong=(
            "def read_on(place, before, entries):\n"
            "    numbers = [before[0]] + [number for number, _, _ in entries]\n"
            "    if place[0] in numbers:\n"
            "        return 'recovered', [t for number, _, t in entries if number > place[0]]\n"
            "    return 'reset', [text for _, _, text in entries]\n"
        ),
        hint="Bob's number is there, but another message has it: its mark is another one.",
        evidence="before the oldest:",
    ),
    Walk(
        "11-spreading-users",
        said=25,
        typed=False,
        measured="Measured: 0; you said 25.",
        wrong=(
            "def pick(gateways):\n"
            "    return min(gateways, key=gateways.get)\n\n"
            "def rebalance(gateways):\n"
            "    return {}\n"
        ),
        hint="Until the next report all of them see the same old numbers",
        evidence="newcomers:",
    ),
    Walk(
        "13-who-is-in-the-room",
        said=0,
        typed=False,
        measured="Measured: 6; you said 0.",
        wrong=(
            "def newer(kept, word):\n"
            "    return word if kept is None or word[2] > kept[2] else kept\n"
        ),
        hint="A new session was not believed. It counts from 1 again",
        evidence="kept:    ('out', 5, 2)",
    ),
)
each_walk = pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.lesson)


@pytest.fixture(scope="module")
def jupyter_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    home = tmp_path_factory.mktemp("walk")
    with jupyterlab_process(home, [walk.lesson for walk in WALKS]) as token:
        yield home, token


@pytest.fixture
async def jupyter(jupyter_process: tuple[Path, str]) -> JupyterLab:
    """Wait until it answers."""
    return await jupyterlab_at(*jupyter_process)


@pytest.fixture
async def page(jupyter_process: tuple[Path, str]) -> AsyncIterator[Browser]:
    async with Browser(jupyter_process[0]) as browser:
        await browser.resize(WIDTH_PX, HEIGHT_PX)
        yield browser


@each_walk
async def test_a_learner_goes_through_a_lesson(
    walk: Walk, jupyter: JupyterLab, page: Browser
) -> None:
    """No answer before the question; a prediction stays; a wrong answer gets its hint, the right
    one passes; a new kernel knows what was said; cells in the wrong order say what is missing.
    """
    reader = Reader(page, walk.lesson)
    await reader.open(jupyter)
    assert await page.value(f"{FIGURES}.length") == 0, "a figure before the question"

    await predict(reader, walk)
    check = reader.cell("check(", f'"ex{walk.number}"')
    await reader.walk(check)
    assert await reader.figures(observed(reader, walk)), "the figure is not shown"
    assert walk.measured in await reader.shown(reader.cell("reveal(", f'"q{walk.number}"'))
    await answer(reader, walk, check)
    if walk.number == "02":
        await move_a_slider(reader)

    await reader.restart_kernel()
    await run_in_another_order(reader, walk, check)
    assert page.problems == [] and page.requested_elsewhere() == []


async def predict(reader: Reader, walk: Walk) -> None:
    """Step to the question, see that nothing is known, and answer; then once more Shift-Enter."""
    cell, said = reader.cell("predict(", f'"q{walk.number}"'), str(walk.said)
    await reader.walk(cell)
    top = f"{CELLS}[{observed(reader, walk)}].getBoundingClientRect().top"
    assert await reader.page.value(f"{top} > {HEIGHT_PX}"), "a title is seen before the question"
    asked = await reader.run(cell)
    assert "You have not said anything yet." in asked
    buttons = f"{CELLS}[{cell}].querySelector('.widget-radio-box')"
    assert await reader.is_in_view(buttons), "Shift-Enter has scrolled the question away"
    assert await reader.chosen(cell) == ""
    if walk.typed:
        await reader.write(cell, source_of(reader, cell).replace("None", repr(walk.said)))
        assert f"Written down: {said}." in await reader.run(cell)
        await reader.write(cell, source_of(reader, cell))
    else:
        await reader.choose(cell, walk.said)
        written = f"{CELLS}[{cell}].textContent.includes('Written down: {said}.')"
        await reader.page.until("it is written down", written)
    assert f"You said: {said}." in await reader.run(cell)
    assert await reader.chosen(cell) == said


def observed(reader: Reader, walk: Walk) -> int:
    """Return the cell that shows what happened."""
    return reader.cell("barcode(" if walk.number == "05" else "plot")


def source_of(reader: Reader, cell: int) -> str:
    return "".join(reader.cells[cell]["source"])


async def answer(reader: Reader, walk: Walk, check: int) -> None:
    """Answer the exercise not at all, wrongly, and rightly."""
    number = f"ex{walk.number}"
    assert f"{number}: could not judge. It is not written yet" in await reader.run(check)
    exercise = check - 1
    assert "exercise" in reader.cells[exercise]["metadata"]["tags"]

    await reader.write(exercise, walk.wrong)
    await reader.run(exercise)
    told = await reader.run(check)
    assert f"{number}: wrong." in told and walk.hint in told
    if walk.evidence:
        assert walk.evidence in told
    else:
        assert len(await reader.figures(check)) == 1

    await reader.write(exercise, walk.solution())
    await reader.run(exercise)
    assert f"✔ {number}: ok" in await reader.run(check)
    await reader.walk(len(reader.cells) - 1)


async def move_a_slider(reader: Reader) -> None:
    """One step of the TTL, by the arrow key: the figure is drawn anew, in its place."""
    cell = reader.cell("lease_sliders(")
    before = await reader.figures(cell)
    handle = f"{CELLS}[{cell}].querySelector('.noUi-handle')"
    await reader.page.click("the handle of the first slider", handle)
    await reader.page.value(f"{handle}.focus()")
    await reader.page.key("ArrowRight", windows=39)
    figures = f"{CELLS}[{cell}].querySelectorAll('figure img')"
    drawn = f"{figures}.length === 1 && !{before!r}.includes({figures}[0].src)"
    await reader.page.until("the figure is another one", drawn)
    assert "125 s" in await reader.page.value(f"{figures}[0].alt + {CELLS}[{cell}].textContent")


async def run_in_another_order(reader: Reader, walk: Walk, check: int) -> None:
    """In a new kernel, the check first, then the question, then the last cells."""
    await reader.run(check)
    assert "NameError: name 'check' is not defined" in await reader.trouble(check)
    question = reader.cell("predict(", f'"q{walk.number}"')
    assert f"You said: {walk.said}." in await reader.run(question)
    assert await reader.chosen(question) == str(walk.said)

    await reader.run(check)
    missing = await reader.trouble(check)
    assert "NameError" in missing and "Traceback" in missing
    await reader.run(check - 1)
    assert f"ex{walk.number}: ok" in await reader.run(check)
