"""Book: how do the solved lessons become pages of the documentation site? `make book`

Each is converted to Markdown, with its outputs, so it has the search, the look and the navigation
of the other pages. A second tool for books would be a second site, with libraries from other hosts.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from nbconvert import MarkdownExporter

from tools import lessons
from tools.notebook import read

DOCS: Final = Path(__file__).parents[1] / "docs"
FOLDER: Final = "lessons"
WIDE: Final = "---\nhide:\n  - toc\n---\n\n"
"""Without a table of contents beside it, a page has room for figures in their own size."""


def navigation() -> list[dict[str, str]]:
    """Return the entries of the lessons, in order."""
    return [
        {lessons.about(source)["title"].partition(":")[0]: f"{FOLDER}/{source.stem}.md"}
        for source in lessons.sources()
    ]


def pages() -> dict[str, str]:
    """Return the text of each page, by its path below docs/."""
    return {
        f"{FOLDER}/{source.stem}.md": WIDE + page(_solved(source), source.stem)
        for source in lessons.sources()
    }


def _solved(source: Path) -> Any:
    return read(lessons.target(source, solved=True))


def page(notebook: Any, stem: str) -> str:
    """Return a solved lesson as Markdown."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _linked(cell.source, stem)
    exporter: Any = MarkdownExporter  # It has no types.
    text, _ = exporter().from_notebook_node(notebook)
    # In a notebook, what is folded is Markdown; here it has to be said.
    return str(text).replace("<details>", '<details markdown="1">')


def _linked(text: str, stem: str) -> str:
    """Return the text of a cell with links that work in the site, also to other lessons."""
    text = re.sub(r"^(# .+) \(solved\)$", r"\1", text, flags=re.MULTILINE)
    text = text.replace(
        f"[the lesson](../{stem}.ipynb)", f"To run it: `make lab`, then `notebooks/{stem}.ipynb`."
    )
    known = {source.stem for source in lessons.sources()}

    def link(found: re.Match[str]) -> str:
        words, path, anchor = found.groups(default="")
        name = posixpath.basename(path)
        if name.removesuffix(".ipynb") in known:
            return f"[{words}]({name.removesuffix('.ipynb')}.md{anchor})"
        if name.endswith(".md") and (DOCS / name).exists():
            return f"[{words}](../{name}{anchor})"
        return f"{words} (`{path}`)"

    return re.sub(r"\[([^\]\n]+)\]\(((?!https?:|#)[^)#\s]+)(#[^)\s]*)?\)", link, text)
