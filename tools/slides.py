"""Slides: how does a lesson look on a projector? `make slides`

One HTML file a lesson, with everything in it: reveal.js, which is in tools/reveal, and the figures
of the solved copy. Each has a slide, and is as wide as it: so its letters have 18 pt. The file
opens without a network. Key S shows the notes for the speaker, which come from docs/teaching.md.

(The exporter of nbconvert loads four libraries from other hosts, and shows a notebook's cells. Here
are only a vote, figures and what to keep, in letters that the last row can read.)
"""

from __future__ import annotations

import base64
import html
import math
import re
import struct
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple

from nbconvert.filters.markdown_mistune import markdown2html_mistune

from tools import lessons
from tools.notebook import html_outputs, read
from tools.teachers_notes import Notes, beats, notes_of, questions_of
from wsdemo.lab.lessons import Question

REVEAL: Final = Path(__file__).parent / "reveal"
WIDTH_PX, HEIGHT_PX = 1280, 720
LEAST_PX: Final = 24
"""18 pt on a slide of 13.3 inches, which is what 1280 px are."""
LINE_PX, CHARS_PER_LINE = 30, 95
"""Of a caption."""
HEADER_CHARS: Final = 64
"""So much of a PNG in base64 has its size in it."""
LETTERS: Final = "ABCDEFGH"

_STYLE: Final = """
.reveal { font: 30px/1.35 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  color: #1b1b1b }
.reveal-viewport { background: #fff }
.reveal .slides { text-align: left }
.reveal h1 { font-size: 58px; line-height: 1.15; margin: 140px 0 40px }
.reveal h2 { font-size: 42px; line-height: 1.2; margin: 0 0 24px }
.reveal p { margin: 0 0 20px }
.reveal li { margin: 0 0 16px }
.reveal code { font: 27px ui-monospace, Menlo, Consolas, monospace; background: #f0f0f0 }
.reveal table { border-collapse: collapse }
.reveal th, .reveal td { text-align: left; vertical-align: top; padding: 12px 24px 12px 0;
  border-bottom: 2px solid #ccc }
.reveal section { padding: 24px 56px !important; box-sizing: border-box }
.reveal section.figure { padding: 0 !important }
.reveal figure { margin: 0; height: 720px; display: flex; flex-direction: column;
  justify-content: center }
.reveal figure img { width: 100%; min-height: 0; object-fit: contain; margin: 0 }
.reveal figcaption { font-size: 24px; line-height: 1.25; color: #444; text-align: left;
  padding: 0 24px }
.reveal:has(section.figure.present) .slide-number { display: none !important }
.reveal .slide-number { font-size: 24px; background: none; color: #767676 }
.reveal .vote { list-style: none; padding: 0; display: grid; grid-template-columns: 1fr 1fr;
  gap: 24px; font-size: 36px }
.reveal .vote li { border: 3px solid #0072b2; border-radius: 12px; padding: 20px 28px; margin: 0 }
.reveal .vote b { color: #0072b2; margin-right: 20px }
.reveal a { color: #0072b2 }
"""

_START: Final = (
    f"Reveal.initialize({{width: {WIDTH_PX}, height: {HEIGHT_PX}, margin: 0, hash: true, "
    "center: false, controls: false, transition: 'none', slideNumber: 'c/t', "
    "plugins: [RevealNotes]});"
)


class Figure(NamedTuple):
    """A figure of a lesson, as its outputs hold it."""

    source: str
    alt: str
    caption: str

    @property
    def size(self) -> tuple[int, int]:
        """How many pixels it has, across and downwards."""
        head = base64.b64decode(self.source.partition("base64,")[2][:HEADER_CHARS])
        width, height = struct.unpack(">II", head[16:24])
        return int(width), int(height)

    @property
    def height_px(self) -> float:
        """How high it is when it is as wide as a slide."""
        width, height = self.size
        return WIDTH_PX * height / width

    @property
    def has_room_for_its_caption(self) -> bool:
        """Whether both fit on a slide, without making the figure smaller."""
        lines = math.ceil(len(self.caption) / CHARS_PER_LINE)
        return self.height_px + lines * LINE_PX <= HEIGHT_PX


def deck(source: Path) -> str:
    """Return the slides of a lesson as one page that needs nothing else."""
    about, notes = lessons.about(source), notes_of(source)
    slides = "\n".join(_slides(about, read(lessons.target(source, solved=True)), source, notes))
    style, script, plugin = (
        (REVEAL / name).read_text(encoding="utf-8")
        for name in ("reveal.css", "reveal.js", "notes.js")
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(about['title'])}</title>\n"
        f"<style>{style}</style>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<div class="reveal"><div class="slides">\n{slides}\n</div></div>\n'
        f"<script>{_inside(script)}</script>\n<script>{_inside(plugin)}</script>\n"
        f"<script>{_START}</script>\n</body>\n</html>\n"
    )


def _inside(script: str) -> str:
    """Return a script that can stand in a page: a text in it must not end it."""
    return script.replace("</script", "<\\/script")


def _slides(about: Any, notebook: Any, source: Path, notes: Notes) -> Iterator[str]:
    text = beats(notebook)
    yield _slide(
        f"<h1>{html.escape(about['title'])}</h1><p>{html.escape(about['question'])}</p>", notes.text
    )
    yield _slide(f"<h2>The story</h2>{to_html(text.get('Story', ''))}")
    # Each figure answers the next question, as long as there are questions.
    for question, figure in zip_longest(questions_of(source), figures(notebook)):
        if question is not None:
            yield _slide(_vote(question), notes.text)
        if figure is not None:
            told = "" if figure.has_room_for_its_caption else f"{figure.caption}\n\n"
            yield _slide(_figure(figure), told + figure.alt)
        if question is not None:
            yield _slide(_tempting(question))
    yield from map(_slide, _keep(text.get("Keep", "")))


def _slide(body: str, notes: str = "") -> str:
    told = f'<aside class="notes">{to_html(notes)}</aside>' if notes else ""
    kind = ' class="figure"' if body.startswith("<figure") else ""
    return f"<section{kind}>{body}{told}</section>"


def _vote(question: Question) -> str:
    options = "".join(
        f"<li><b>{letter}</b>{html.escape(str(option))}</li>"
        for letter, option in zip(LETTERS, question.options, strict=False)
    )
    return f'<h2>Vote</h2><p>{html.escape(question.text)}</p><ol class="vote">{options}</ol>'


def _tempting(question: Question) -> str:
    answers = "".join(
        f"<li><b>{html.escape(str(option))}</b>: {html.escape(why)}</li>"
        for option, why in question.options.items()
    )
    return f"<h2>Why was it tempting?</h2><ul>{answers}</ul>"


def _figure(figure: Figure) -> str:
    alt = html.escape(figure.alt, quote=True)
    shown = figure.caption and figure.has_room_for_its_caption
    caption = f"<figcaption>{html.escape(figure.caption)}</figcaption>" if shown else ""
    return f'<figure><img alt="{alt}" src="{figure.source}">{caption}</figure>'


def _keep(text: str) -> Iterator[str]:
    """Points, misconceptions and questions have a slide each; where the code is, has none."""
    blocks = [b for b in re.split(r"\n{2,}", text) if b and not b.startswith("In the code")]
    points = [block for block in blocks if block.startswith("* ")]
    tables = [block for block in blocks if block.startswith("|")]
    others = [block for block in blocks if block not in (*points, *tables)]
    for title, chosen in (
        ("Keep", points),
        ("One may think, but", tables),
        ("From memory", others),
    ):
        if chosen:
            yield f"<h2>{title}</h2>{to_html(chr(10).join([*chosen, '']))}"


def to_html(markdown: str) -> str:
    """Return Markdown as HTML; links to other notebooks lead nowhere here, so their words stay."""
    plain = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", markdown)
    convert: Any = markdown2html_mistune  # It has no types.
    return str(convert(plain))


def figures(notebook: Any) -> list[Figure]:
    """Return the figures of a notebook, in order."""
    return [
        Figure(
            source=_first(r'src="(data:image/png;base64,[^"]+)"', shown),
            alt=html.unescape(_first(r'alt="([^"]*)"', shown)),
            caption=html.unescape(_first(r"<figcaption>(.*?)</figcaption>", shown)),
        )
        for output in html_outputs(notebook)
        for shown in re.findall(r"<figure.*?</figure>", output, re.DOTALL)
    ]


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.DOTALL)
    return found[1] if found else ""
