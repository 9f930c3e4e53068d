"""Handout: what does a class get on paper? `make handout`

One page a lesson, to be printed: the vote, an empty space-time diagram to fill in, and six words to
explain. It is HTML with the sizes of paper; the browser prints it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tools import lessons
from tools.teachers_notes import notes_of, questions_of
from wsdemo.lab.lessons import Question

DIAGRAM_HEIGHTS: Final = (396, 240)
"""With one vote on the page, and with two, when 720 is the width of the page."""
LANES: Final = ("Alice", "gateway-01", "Redis", "gateway-02", "Bob")

_STYLE: Final = """
@page { size: A4; margin: 14mm }
* { box-sizing: border-box }
body { font: 11pt/1.4 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: #000;
  max-width: 182mm; margin: 0 auto }
h1 { font-size: 15pt; line-height: 1.2; margin: 0 0 2mm }
h2 { font-size: 12pt; margin: 5mm 0 1.5mm }
p { margin: 0 0 2mm }
.name { display: flex; gap: 8mm; margin: 0 0 4mm }
.name span { flex: 1; border-bottom: 0.3mm solid #000; padding-top: 4mm }
.vote { list-style: none; padding: 0; margin: 2mm 0 0; display: flex; flex-wrap: wrap;
  gap: 2mm 9mm }
.vote li::before { content: ""; display: inline-block; width: 4mm; height: 4mm;
  border: 0.4mm solid #000; margin-right: 2mm; vertical-align: -0.7mm }
.why { border-bottom: 0.3mm solid #000; height: 8mm }
svg { width: 100%; display: block; border: 0.3mm solid #bbb }
.words { display: grid; grid-template-columns: 1fr 1fr; gap: 1mm 8mm; margin: 0 }
.words dt { font-weight: 600; border-bottom: 0.3mm solid #000; height: 17mm }
@media screen { body { padding: 10mm } }
@media print { h1, h2, svg, .words { break-inside: avoid } }
"""


def sheet(source: Path) -> str:
    """Return the page of a lesson."""
    about = lessons.about(source)
    words, questions = notes_of(source).words, questions_of(source)
    height = DIAGRAM_HEIGHTS[len(questions) - 1]
    explained = f"<h2>In your own words</h2>{_words(words)}" if words else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(about['title'])}</title>\n<style>{_STYLE}</style>\n</head>\n"
        "<body>\n"
        f'<div class="name"><span>Name</span><span>Date</span></div>\n'
        f"<h1>{html.escape(about['title'])}</h1>\n<p>{html.escape(about['question'])}</p>\n"
        f"{''.join(map(_vote, questions))}\n"
        f"<h2>Draw it: who says what to whom, and when?</h2>\n{diagram(LANES, height)}\n"
        f"{explained}\n</body>\n</html>\n"
    )


def _vote(question: Question) -> str:
    options = "".join(f"<li>{html.escape(str(option))}</li>" for option in question.options)
    return (
        f"<h2>Predict</h2><p>{html.escape(question.text)}</p>"
        f'<ul class="vote">{options}</ul><p class="why">because</p>'
    )


def _words(words: Iterable[str]) -> str:
    return f'<dl class="words">{"".join(f"<dt>{html.escape(word)}</dt>" for word in words)}</dl>'


def diagram(lanes: Sequence[str], height: int = DIAGRAM_HEIGHTS[0]) -> str:
    """Return an empty space-time diagram: a lane each, and time from left to right."""
    width, left, top = 720, 110, 26
    step = (height - 2 * top - 20) / max(1, len(lanes) - 1)
    parts = []
    for number, lane in enumerate(lanes):
        y = round(top + number * step)
        parts.append(
            f'<text x="12" y="{y + 5}">{html.escape(lane)}</text>'
            f'<line x1="{left}" y1="{y}" x2="{width - 14}" y2="{y}" stroke="#888"/>'
        )
    foot = height - 12
    parts.append(
        f'<text x="{left}" y="{foot}">time</text>'
        f'<path d="M{left + 40} {foot - 5}H{width - 20}m-7 -4l7 4l-7 4" fill="none" stroke="#000"/>'
    )
    told = f"Empty space-time diagram with the lanes {', '.join(lanes)}"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(told)}" '
        f'font-size="15" preserveAspectRatio="xMidYMid meet">{"".join(parts)}</svg>'
    )
