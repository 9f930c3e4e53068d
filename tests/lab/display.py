"""Display of a live cell: what does a learner see while something runs?"""

from __future__ import annotations


class Display:
    """Replaces the display of a live cell."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def __call__(self, words: dict[str, str], **_: object) -> Display:
        self.update(words)
        return self

    def update(self, words: dict[str, str], **_: object) -> None:
        self.shown.append(words["text/plain"])
