"""Static files: what does a browser get, and from where may its page load something?

All files are read once, at the start. So there is no path that could lead out of the folder: a name
is in the dictionary, or there is no such page.
"""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Final

import wsdemo.client
from wsdemo.lab.classroom.http import HttpReply, HttpRequest, refusal

STATIC: Final = Path(__file__).parent / "static"
LIBRARY: Final = Path(wsdemo.client.__file__).parent / "wsdemo.js"
"""The client for browsers, which the students' page uses as anybody could."""
SVG: Final = "image/svg+xml"
CONTENT_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": SVG,
}
PAGES: Final = {"/": "student.html", "/board": "board.html"}
PREFIX: Final = "/static/"


class StaticFiles:
    """The files of the pages, by name."""

    def __init__(self) -> None:
        paths = [*STATIC.iterdir(), *([LIBRARY] if LIBRARY.is_file() else [])]
        self._files = {p.name: p.read_bytes() for p in paths if p.suffix in CONTENT_TYPES}

    def reply(self, request: HttpRequest) -> HttpReply:
        """Return a page, or a file of one."""
        if request.path.startswith(PREFIX):
            name = request.path.removeprefix(PREFIX)
        else:
            name = PAGES.get(request.path, "")
        if name not in self._files:
            return refusal(HTTPStatus.NOT_FOUND)
        content_type = CONTENT_TYPES[Path(name).suffix]
        headers = {}
        if request.path in PAGES:
            headers["Content-Security-Policy"] = content_security_policy(request.host)
        return HttpReply(HTTPStatus.OK, self._files[name], content_type, headers)


def content_security_policy(host: str) -> str:
    """Return from where a page may load: from this room, and from nowhere else."""
    # Older Safaris do not count ws:// as 'self'.
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' ws://{host} wss://{host}; base-uri 'none'; form-action 'none'; "
        # Cookies are the same for all ports of a machine: in a frame on a page of another port, a
        # click on something else would press the teacher's buttons.
        "frame-ancestors 'none'"
    )
