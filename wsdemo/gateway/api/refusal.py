"""Refusal: why does a request of a backend get no answer but an error?"""

from __future__ import annotations

from collections.abc import Mapping


class Refusal(Exception):
    """A request that is refused. `code` is for programs, `text` for people; neither repeats what
    the request said.
    """

    def __init__(
        self, status: int, code: str, text: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text
        self.headers = headers or {}
