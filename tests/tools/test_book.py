"""Book: is every solved lesson a page of the site, with its outputs, and do its links lead on?"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.pages import ROOT
from tools import book, lessons
from tools import notebook as notebooks
from tools.site_hooks import loads_from_elsewhere

SOURCES = lessons.sources()


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return book.pages()


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_lesson_is_a_page_with_all_its_figures(source: Path, pages: dict[str, str]) -> None:
    """Of the solved copy: the answers, the outputs and the figures, which have room for their own
    size: no table of contents stands beside them.
    """
    text = pages[f"lessons/{source.stem}.md"]
    solved = notebooks.read(lessons.target(source, solved=True))
    assert text.count("<figure") == notebooks.figures(solved) >= 1
    assert f"<b>ex{source.stem.partition('-')[0]}</b>: ok" in text
    assert text.startswith(book.WIDE)
    assert text.removeprefix(book.WIDE).lstrip().startswith(f"# {lessons.about(source)['title']}\n")


def test_the_course_shows_the_question_and_a_picture_of_each_lesson(pages: dict[str, str]) -> None:
    """In order; a picture has its alternative text. And it says what fits into a given time."""
    text = pages[book.COURSE]
    lines = text.splitlines()
    heads = [f"## [{lessons.about(source)['title']}]({source.stem}.md)" for source in SOURCES]
    assert [line for line in lines if line.startswith("## [")] == heads
    for source in SOURCES:
        assert lessons.about(source)["question"] in lines
    assert len(
        re.findall(r'<img src="data:image/png;base64,[^"]{1000,}" alt="[^"]{20,}">', text)
    ) == len(SOURCES)
    assert "| a full day |" in text


def test_links_lead_to_pages_of_the_site(pages: dict[str, str]) -> None:
    """To other lessons and to pages of docs/; a file without a page is named."""
    for text in pages.values():
        assert ".ipynb)" not in text
        for link in re.findall(r"\]\(((?!https?:)[\w./-]+\.md)", text):
            assert f"lessons/{link}" in pages or (ROOT / "docs" / link[3:]).exists()
    cell = nbformat.v4.new_markdown_cell(  # type: ignore[no-untyped-call]
        "[a](01-follow-the-message.ipynb#keep) [b](../../docs/teaching.md#x) [c](../src/x.py)"
        " [d](https://localhost/)"
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])  # type: ignore[no-untyped-call]
    assert book.page(notebook, "00-start-here").strip() == (
        "[a](01-follow-the-message.md#keep) [b](../teaching.md#x) c (`../src/x.py`)"
        " [d](https://localhost/)"
    )


def test_the_navigation_lists_all_lessons_in_order(pages: dict[str, str]) -> None:
    """What is in it is there, and nothing is missing."""
    assert [path for entry in book.navigation() for path in entry.values()] == list(pages)
    assert list(pages) == [book.COURSE, *sorted(pages.keys() - {book.COURSE})]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_site_has_the_lessons_and_needs_no_network(tmp_path: Path) -> None:
    """Built as `make book` does it, with warnings as errors; what is folded is no raw Markdown."""
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        timeout=200,
    )
    for source in SOURCES:
        page = (tmp_path / "lessons" / f"{source.stem}.html").read_text(encoding="utf-8")
        assert page.count("<figure") >= 1 and loads_from_elsewhere(page) == []
        assert not re.search(r"<details[^>]*><summary>[^<]*</summary>\s*\*", page)
    assert 'href="lessons/00-start-here.html"' in (tmp_path / "index.html").read_text()
