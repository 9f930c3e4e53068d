"""Documentation site: what of a page is for GitHub and for the tests, and not for the site?

MkDocs calls `on_page_markdown` while `make docs` builds. A link that leads out of docs/ has no page
there: the site names the file. The comments that say how a block is tested are left out.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page as the site has it."""
    return for_the_site(markdown, posixpath.dirname(page.file.src_uri))


def for_the_site(markdown: str, folder: str) -> str:
    """Return the text of a page that lies in a folder of docs/ ("" for docs/ itself)."""

    def inside(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", folder, link[2]))
        if path.startswith("docs/"):
            return link[0]
        return f"`{path}`" if link[1] == path else f"{link[1]} (`{path}`)"

    text = re.sub(r"^<!-- test: .+ -->\n", "", markdown, flags=re.MULTILINE)
    return re.sub(r"\[([^\]\n]+)\]\((\.\./[\w./-]+)(?:#[\w-]+)?\)", inside, text)
