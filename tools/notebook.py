"""Notebook: how does one source become a notebook, and was it edited after that?

Cells tagged `exercise` are the learner's, cells tagged `solution` replace them in the solved copy.
Each notebook carries the fingerprint of its source and that of its own cells as they were built;
when its cells differ from that, it was edited. Outputs, counts and metadata do not matter: running
a notebook does not count as an edit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import nbformat

from tools import lessons

KERNEL: Final = {
    "display_name": "Python 3 (ipykernel)",
    "language": "python",
    "name": "python3",
}
_KEPT_TAGS: Final = ("exercise", "solution", "slide")


def build(source: Path, *, solved: bool) -> Any:
    """Return the notebook of a source, not executed."""
    notebook = lessons.parse(source)
    dropped = "exercise" if solved else "solution"
    cells = [c for c in notebook.cells if dropped not in c.metadata.get("tags", [])]
    notebook.cells = [_markdown(_header(source, solved)), *cells, _markdown(_way(source))]
    for number, cell in enumerate(notebook.cells):
        # Stable ids: a rebuilt notebook differs only where its source does.
        cell["id"] = hashlib.sha256(f"{source.stem}:{solved}:{number}".encode()).hexdigest()[:12]
        tags = [tag for tag in cell.metadata.get("tags", []) if tag in _KEPT_TAGS]
        slides = cell.metadata.get("slideshow")
        if solved and cell.cell_type == "markdown":
            cell.source = cell.source.replace("](../docs/", "](../../docs/")
        cell.metadata.clear()
        if tags:
            cell.metadata["tags"] = tags
        if slides:
            cell.metadata["slideshow"] = slides
    stamp = {
        "source": source.name,
        "source_sha": lessons.fingerprint(source),
        "cells_sha": cells_fingerprint(notebook),
    }
    notebook.metadata.clear()
    notebook.metadata.update(kernelspec=KERNEL, language_info={"name": "python"}, wsdemo=stamp)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def cells_fingerprint(notebook: Any) -> str:
    """Return a fingerprint of the cells of a notebook, as they were written.

    Kind, text and pasted pictures, in their order; not what an editor or a kernel adds.
    """
    cells = [(cell.cell_type, cell.source, cell.get("attachments", {})) for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()[:16]


def _markdown(text: str) -> Any:
    return nbformat.v4.new_markdown_cell(text)  # type: ignore[no-untyped-call]


def _header(source: Path, solved: bool) -> str:
    told = lessons.about(source)
    minutes = told["minutes"]
    total = sum(minutes.values())
    able = "\n".join(f"* {part.strip()}" for part in told["able"].split(";"))
    other = f"{source.stem}.ipynb"
    link = f"[the lesson](../{other})" if solved else f"[the solution](solutions/{other})"
    title = told["title"] + (" (solved)" if solved else "")
    return (
        f"# {title}\n\n**{told['question']}**\n\nYou will be able to\n\n{able}\n\n"
        f"| minutes | needs | failure injected | level |\n|---|---|---|---|\n"
        f"| {total} (read {minutes['read']}, run {minutes['run']}, exercise "
        f"{minutes['exercise']}) | {told['needs']} | {told['failure']} | {told['level']} |\n\n"
        f"{link}\n\n{_way(source)}{_contents(source)}"
    )


def _way(source: Path) -> str:
    """Return the links to the neighbours of a lesson: the same in both copies, because a copy and
    its neighbours are in one folder."""
    known = lessons.sources()
    here = known.index(source)
    first, before, after = known[0], known[:here], known[here + 1 :]
    links = [
        _link("\N{LEFTWARDS ARROW} Previous: {}", before[-1]) if before else "",
        _link("Contents", first) if before else "",
        _link("Next: {} \N{RIGHTWARDS ARROW}", after[0]) if after else "",
    ]
    return " | ".join(link for link in links if link) or "This is the only lesson."


def _link(words: str, lesson: Path) -> str:
    return (
        f"[{words.format(lessons.about(lesson)['title'].partition(':')[0])}]({lesson.stem}.ipynb)"
    )


def _contents(source: Path) -> str:
    """Return the list of all lessons, in the first of them only."""
    known = lessons.sources()
    if source != known[0]:
        return ""
    rows = [f"* {_link('{}', lesson)}" for lesson in known[1:]]
    return "\n\nAll lessons:\n\n" + "\n".join(rows) if rows else ""


def read(path: Path) -> Any:
    """Return a notebook from a file."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def text_of(notebook: Any) -> str:
    """Return a notebook as the text of its file."""
    return str(nbformat.writes(notebook)) + "\n"  # type: ignore[no-untyped-call]


def write(path: Path, content: bytes) -> None:
    """Write a file in one step: after an interruption there is the old file or the new one."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_bytes(content)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def figures(notebook: Any) -> int:
    """Return how many figures the outputs hold."""
    return sum(html.count("<figure") for html in html_outputs(notebook))


def pictures(notebook: Any) -> list[bytes]:
    """Return the figures that the outputs hold, as PNG."""
    found = [re.findall(r'src="data:image/png;base64,([^"]+)"', h) for h in html_outputs(notebook)]
    return [base64.b64decode(data) for several in found for data in several]


def html_outputs(notebook: Any) -> Iterator[str]:
    """Iterate over the HTML in the outputs of a notebook."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield "".join(output.get("data", {}).get("text/html", ""))


def cell_texts(notebook: Any) -> list[tuple[str, str, str]]:
    """Return id, kind and text of each cell: what a rebuild must reproduce."""
    return [(cell["id"], cell.cell_type, cell.source) for cell in notebook.cells]


def read_if_any(path: Path) -> Any | None:
    """Return a notebook; None when there is no file, or it is not a valid notebook."""
    try:
        notebook = read(path)
        cells_fingerprint(notebook)
    except Exception:  # The library raises many kinds: half a file, the marks of a merge, ...
        return None
    return notebook


def _stamp(notebook: Any) -> dict[str, Any]:
    stamp = notebook.metadata.get("wsdemo")
    return stamp if isinstance(stamp, dict) else {}


def is_edited(source: Path, *, solved: bool) -> bool:
    """Say whether a copy was edited, so that it must not be overwritten. This includes a file that
    cannot be read as a notebook: its content is unknown.
    """
    path = lessons.target(source, solved=solved)
    if not path.exists():
        return False
    notebook = read_if_any(path)
    if notebook is None:
        return True
    cells = cells_fingerprint(notebook)
    if cells == cells_fingerprint(build(source, solved=solved)):
        return False
    return bool(_stamp(notebook).get("cells_sha") != cells)


def is_fresh(source: Path, *, solved: bool) -> bool:
    """Say whether the committed copy is what this source gives, executed with it."""
    committed = read_if_any(lessons.target(source, solved=solved))
    return committed is not None and comes_from(committed, source, solved)


def comes_from(committed: Any, source: Path, solved: bool) -> bool:
    """Say whether a notebook is what this source gives."""
    wanted = build(source, solved=solved)
    return _stamp(committed) == _stamp(wanted) and cell_texts(committed) == cell_texts(wanted)
