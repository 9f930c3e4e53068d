"""Do the notebooks run as readers run them, and are the committed ones what their sources give?"""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path
from typing import Any, TypeGuard

import nbformat
import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from tools import build_notebooks as build
from tools import lessons
from tools import notebook as notebooks

SOURCES = lessons.sources()
COPIES = [(source, solved) for source in SOURCES for solved in (False, True)]
IDS = [f"{source.stem}{'-solved' if solved else ''}" for source, solved in COPIES]
BEATS = ["Story", "Predict", "Run", "Observe", "Explain", "Modify", "Make", "Keep"]
KERNEL_S = 240.0
"""On a machine that is busy, a lesson runs on a slower clock, and may repeat an experiment."""

pytestmark = pytest.mark.timeout(600)


def committed(source: Path, solved: bool) -> Any:
    return notebooks.read(lessons.target(source, solved=solved))


def test_there_is_a_first_lesson() -> None:
    """Otherwise the tests below would test nothing."""
    assert SOURCES and SOURCES[0].stem.startswith("00-")


@pytest.mark.parametrize(("source", "solved"), COPIES, ids=IDS)
def test_a_committed_notebook_agrees_with_its_source(source: Path, solved: bool) -> None:
    """Its cells equal a rebuild, and its outputs come from this state of the source."""
    assert notebooks.is_fresh(source, solved=solved), "run `make notebooks` and commit the result"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_learner_sees_no_output_before_running_a_cell(source: Path) -> None:
    """A committed output would be the answer, shown before the question."""
    code = [cell for cell in committed(source, False).cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.parametrize(("source", "solved"), COPIES, ids=IDS)
def test_a_committed_notebook_is_valid_and_small(source: Path, solved: bool) -> None:
    """No error, no widget state, valid, no machine's path, at most 400 kB; a solved one was run
    from its first cell to its last."""
    path = lessons.target(source, solved=solved)
    notebook = committed(source, solved)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert not solved or counts == list(range(1, len(counts) + 1))
    kinds = {output.output_type for cell in notebook.cells for output in cell.get("outputs", [])}
    assert "error" not in kinds
    text = path.read_text(encoding="utf-8")
    assert len(text) <= build.MAX_BYTES
    assert "widget" not in text
    assert str(Path.home()) not in text and "/tmp/" not in text


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_every_figure_of_a_notebook_has_an_alt_text(source: Path) -> None:
    """At least 40 characters that say what it shows."""
    html = "".join(notebooks.html_outputs(committed(source, True)))
    alts = re.findall(r'<img alt="([^"]*)"', html)
    assert len(alts) == html.count("<figure") >= 1
    assert all(len(alt) >= 40 for alt in alts)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_check_of_a_lesson_accepts_its_solution(source: Path) -> None:
    """In the solved copy the verdict is ok. That it waits for the learner is tested below."""
    told = "".join(notebooks.html_outputs(committed(source, True)))
    exercise = f"ex{source.stem.partition('-')[0]}"
    assert f"✔ <b>{exercise}</b>: ok" in told


@pytest.mark.parametrize("number", range(len(SOURCES)))
def test_a_lesson_leads_to_its_neighbours_and_to_the_contents(number: int) -> None:
    """At its beginning and at its end, in both copies; every link leads to a notebook."""
    source = SOURCES[number]
    wanted = {SOURCES[0], *SOURCES[max(0, number - 1) : number + 2]} - {source}
    for solved in (True, False):
        cells, folder = (
            committed(source, solved).cells,
            lessons.target(source, solved=solved).parent,
        )
        for cell in (cells[0], cells[-1]):
            links = set(re.findall(r"\]\(([\w.-]+\.ipynb)\)", cell.source))
            assert links >= {f"{other.stem}.ipynb" for other in wanted}
            assert all((folder / link).exists() for link in links)


def test_the_first_lesson_lists_all_lessons_and_the_progress() -> None:
    """This is where Contents leads."""
    cells = committed(SOURCES[0], False).cells
    assert all(f"({other.stem}.ipynb)" in cells[0].source for other in SOURCES[1:])
    assert any("\nprogress()" in cell.source for cell in cells)


def test_the_readme_shows_figures_of_the_lessons() -> None:
    """The same pictures that the committed notebooks contain."""
    for stem, figures in build.PUBLISHED.items():
        solved = lessons.ROOT / "solutions" / f"{stem}.ipynb"
        pictures = notebooks.pictures(notebooks.read(solved))
        for number, name in figures.items():
            assert (lessons.ROOT / "figures" / name).read_bytes() == pictures[number - 1]
            assert f"notebooks/figures/{name}" in (lessons.ROOT.parent / "README.md").read_text()


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_lesson_has_the_nine_beats_in_order(source: Path) -> None:
    """A header, then the same eight headings in the same order."""
    cells = [c.source for c in committed(source, False).cells if c.cell_type == "markdown"]
    assert cells[0].startswith("# ")
    headings = [line[3:] for cell in cells for line in cell.splitlines() if line.startswith("## ")]
    assert headings == BEATS


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_lesson_links_words_of_the_glossary(source: Path) -> None:
    """Each to a heading that is there, once, and from the solved copy as well."""
    page = (lessons.ROOT.parent / "docs" / "glossary.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (.+)$", page, re.MULTILINE)
    known = {re.sub(r"[^a-z0-9 -]", "", name.lower()).replace(" ", "-") for name in headings}
    for solved, up in ((False, "../docs"), (True, "../../docs")):
        cells = [c.source for c in notebooks.build(source, solved=solved).cells]
        linked = re.findall(r"\]\(([./]+/docs)/glossary\.md#([^)]+)\)", "\n".join(cells))
        assert {folder for folder, _ in linked} <= {up}
        words = [word for _, word in linked]
        assert set(words) <= known and len(words) == len(set(words))
        assert words


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_every_claim_of_a_lesson_says_what_it_expects(source: Path) -> None:
    """In a sentence, by `expect`: a bare assert ends in the line of its condition, and nobody knows
    whether the lesson is wrong or the machine is busy.
    """
    claims = []
    for cell in notebooks.build(source, solved=True).cells:
        if cell.cell_type == "code":
            nodes = list(ast.walk(ast.parse(cell.source)))
            assert not any(isinstance(node, ast.Assert) for node in nodes), cell.source
            claims += [ast.unparse(node.args[0]) for node in nodes if is_expectation(node)]
    assert claims
    assert all(len(claim.split()) >= 4 for claim in claims), claims


def is_expectation(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "expect"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_questions_from_memory_have_their_answers_behind_a_fold(source: Path) -> None:
    """As many answers as questions."""
    cells = [c.source for c in notebooks.build(source, solved=False).cells]
    (keep,) = (cell for cell in cells if "from memory:" in cell)
    asked = keep.partition("from memory:")[2].partition("<details>")[0].count("?")
    answers = keep.partition("<details><summary>The answers</summary>")[2].partition("</details>")[
        0
    ]
    told = re.findall(r"^\d\. ", answers, re.MULTILINE)
    number = {"Four": 4, "Five": 5}[re.findall(r"(\w+) questions, from memory", keep)[0]]
    assert len(told) == number <= asked


async def run_all_at_once(client: AsyncKernelClient, notebook: Any) -> list[str]:
    """Queue every code cell without waiting, as Run All does; return each one's status."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    asked = [client.execute(source, store_history=True) for source in cells]
    statuses: dict[str, str] = {}
    async with asyncio.timeout(KERNEL_S):
        while len(statuses) < len(asked):
            reply = await client.get_shell_msg()
            if reply["parent_header"]["msg_id"] in asked:
                content = reply["content"]
                status = content["status"]
                detail = f" {content.get('ename')}: {content.get('evalue')}"
                statuses[reply["parent_header"]["msg_id"]] = status + (
                    detail if status != "ok" else ""
                )
    return [statuses[message] for message in asked]


async def verdicts(client: AsyncKernelClient) -> str:
    """Return what the checks in a kernel have said so far."""
    found = "[repr(v) for v in Out.values() if type(v).__name__ == 'Verdict']"
    asked = client.execute("", user_expressions={"found": found})
    async with asyncio.timeout(KERNEL_S):
        while (reply := await client.get_shell_msg())["parent_header"]["msg_id"] != asked:
            pass
    return str(reply["content"]["user_expressions"]["found"]["data"]["text/plain"])


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(
            source, marks=[pytest.mark.slow, pytest.mark.alone] if number else [], id=source.stem
        )
        for number, source in enumerate(SOURCES)
    ],
)
async def test_all_cells_queued_at_once_run_and_run_again(source: Path) -> None:
    """Run All loses no cell, running everything again in the same kernel is safe, and the check
    waits for the learner."""
    notebook = notebooks.build(source, solved=False)
    manager = AsyncKernelManager(kernel_name="python3")
    await manager.start_kernel(cwd=str(lessons.ROOT))
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=KERNEL_S)
        for _ in range(2):
            statuses = await run_all_at_once(client, notebook)
            assert set(statuses) == {"ok"}, statuses
        assert "could not judge. It is not written yet" in await verdicts(client)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
