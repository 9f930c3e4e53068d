"""Documentation site: how do pages and lessons become a site that needs no network?

MkDocs calls the functions `on_...` while `make docs` builds. A link that leads out of docs/ has no
page there: the site names the file. The comments that say how a block is tested are left out. The
solved lessons, with their outputs, are pages as well: the book (tools/book.py). And a page that
would load something from elsewhere ends the build.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from mkdocs.structure.files import File

from tools import book


def on_config(config: Any) -> Any:
    """Add the lessons to the navigation, before the last entry, which is for teachers."""
    config.nav.insert(-1, {"Lessons": book.navigation()})
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Add a page for each lesson."""
    for path, text in book.pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page in the form for the site."""
    return for_the_site(markdown, posixpath.dirname(page.file.src_uri))


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Return a page that was built.

    Raises:
        ValueError: it loads something from another host.
    """
    if found := loads_from_elsewhere(output):
        raise ValueError(f"{page.file.src_uri} loads {found} from elsewhere")
    return output


def loads_from_elsewhere(html: str) -> list[str]:
    """Return what a page loads from other hosts; links for the reader do not count."""
    tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", html)
    return [tag for tag in tags if re.search(r"\b(?:src|href)=[\"']?(?:https?:)?//", tag)]


def for_the_site(markdown: str, folder: str) -> str:
    """Return the text of a page in a folder of docs/ ("" for docs/ itself)."""

    def inside(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", folder, link[2]))
        if path.startswith("docs/"):
            return link[0]
        return f"`{path}`" if link[1] == path else f"{link[1]} (`{path}`)"

    text = re.sub(r"^<!-- test: .+ -->\n", "", markdown, flags=re.MULTILINE)
    return re.sub(r"\[([^\]\n]+)\]\((\.\./[\w./-]+)(?:#[\w-]+)?\)", inside, text)
