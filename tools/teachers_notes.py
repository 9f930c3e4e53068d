"""Teacher's notes: what does docs/teaching.md say about a lesson?

The notes of a lesson are a section of that page, whose heading begins like the lesson's title. A
line in it, `Six words: lease, TTL, ...`, names the terms for the handout.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, NamedTuple

from tools import lessons
from wsdemo.lab.lessons import QUESTIONS, Question

PAGE: Final = Path(__file__).parents[1] / "docs" / "teaching.md"
WORDS: Final = "Six words: "


class Notes(NamedTuple):
    """What the page says about a lesson; empty where it says nothing."""

    text: str = ""
    words: tuple[str, ...] = ()


def notes_on(title: str, page: str) -> Notes:
    """Find the section of a lesson (`04 · The late cleanup: ...`), by its number."""
    number = title.partition(" ")[0]
    sections = (part.partition("\n") for part in re.split(r"^#+ ", page, flags=re.MULTILINE))
    text = next((text for heading, _, text in sections if heading.split(" ")[0] == number), "")
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n{2,}", text.strip())]
    told = [p for p in paragraphs if not p.startswith(WORDS)]
    listed = [p.removeprefix(WORDS).rstrip(".").split(", ") for p in paragraphs if p not in told]
    return Notes("\n\n".join(told), tuple(word for words in listed for word in words))


def notes_of(source: Path) -> Notes:
    """Return the notes on the lesson of a source."""
    return notes_on(lessons.about(source)["title"], PAGE.read_text(encoding="utf-8"))


def questions_of(source: Path) -> list[Question]:
    """Return what the lesson asks its readers to predict, in order."""
    asked = re.findall(r'\bpredict\("(\w+)"', source.read_text(encoding="utf-8"))
    return [QUESTIONS[name] for name in dict.fromkeys(asked) if name in QUESTIONS]


def beats(notebook: Any) -> dict[str, str]:
    """Return the text that stands below each heading of a notebook, in its own cell."""
    found = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (
            heading := re.match(r"## (.+)\n*((?:.|\n)*)", cell.source)
        ):
            found[heading[1]] = heading[2].strip()
    return found
