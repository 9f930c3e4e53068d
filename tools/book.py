"""Book: how do the solved lessons become pages of the documentation site? `make book`

Each is converted to Markdown, with its outputs, so it has the search, the look and the navigation
of the other pages. A second tool for books would be a second site, with libraries from other hosts.
The first page of the book is the course: what each lesson asks, with one of its pictures.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any, Final

from nbconvert import MarkdownExporter

from tools import lesson_index, lessons
from tools.notebook import html_outputs, read

DOCS: Final = Path(__file__).parents[1] / "docs"
FOLDER: Final = "lessons"
WIDE: Final = "---\nhide:\n  - toc\n---\n\n"
"""Without a table of contents beside it, a page has room for figures in their own size."""
COURSE: Final = f"{FOLDER}/index.md"
_INTRODUCTION: Final = """# The course

Each lesson asks a question, lets you predict the answer, and shows it on real gateways. Below is
one picture of each: what was measured when the lesson was run for this site. **The pictures show
answers.** If you want to predict first, begin with `make lab`.
"""


def navigation() -> list[dict[str, str]]:
    """Return the entries of the lessons, in order."""
    return [
        {"The course": COURSE},
        *(
            {lessons.about(source)["title"].partition(":")[0]: f"{FOLDER}/{source.stem}.md"}
            for source in lessons.sources()
        ),
    ]


def pages() -> dict[str, str]:
    """Return the text of each page, by its path below docs/."""
    told = {
        f"{FOLDER}/{source.stem}.md": WIDE + page(_solved(source), source.stem)
        for source in lessons.sources()
    }
    return {COURSE: course(), **told}


def course() -> str:
    """Return the page that shows the whole course: the question and a picture of each lesson, and
    which lessons fit into a given time.

    The picture is the first of the solved lesson, or the one that its header numbers (`picture`).
    """
    sources = lessons.sources()
    parts = [_INTRODUCTION]
    for source in sources:
        about = lessons.about(source)
        lesson = lesson_index.Lesson.of(source.stem, about)
        image, alt = _pictures(_solved(source))[about.get("picture", 1) - 1]
        parts.append(
            f"## [{lesson.title}]({source.stem}.md)\n\n{about['question']}\n\n"
            f'<img src="{image}" alt="{html.escape(alt)}">\n\n'
            f"{lesson.whole} minutes. What goes wrong: {lesson.failure}. {lesson.level}.\n"
        )
    known = [lesson_index.Lesson.of(source.stem, lessons.about(source)) for source in sources]
    return "\n".join([*parts, "## How much time have you?\n", lesson_index.tracks(known), ""])


def _pictures(notebook: Any) -> list[tuple[str, str]]:
    """Return the address and the alternative text of each figure in a notebook's outputs."""
    tags = [tag for text in html_outputs(notebook) for tag in re.findall(r"<img [^>]+>", text)]
    found = [
        (re.search(r'src="([^"]+)"', tag), re.search(r'alt="([^"]*)"', tag))
        for tag in tags
        if "data:image/png" in tag
    ]
    return [(src[1], html.unescape(alt[1]) if alt else "") for src, alt in found if src]


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
