"""Teaching material: do slides and handouts say what the lesson says, without a network?"""

from __future__ import annotations

import base64
import html
import html.parser
import re
from pathlib import Path
from typing import Any

import pytest

from tests import browser
from tests.browser import Browser
from tools import handout, lessons, slides, teaching
from tools import notebook as notebooks
from tools.site_hooks import loads_from_elsewhere
from tools.teachers_notes import PAGE, Notes, notes_of, notes_on, questions_of
from wsdemo.drawing import style

SOURCES = lessons.sources()
each_lesson = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


class Page(html.parser.HTMLParser):
    """What a page loads, and the texts of its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag != "a":
            self.loaded += [v or "" for k, v in given.items() if k in ("src", "href", "srcset")]

    def count(self, tag: str, **wanted: str) -> int:
        """How many tags of a kind have these attributes."""
        given = {name.rstrip("_"): value for name, value in wanted.items()}
        return sum(t == tag and given.items() <= a.items() for t, a in self.tags)


def loads(text: str) -> list[str]:
    """All that a page needs besides itself."""
    # Scripts are left out: they contain such words, and nothing in them is a style.
    plain = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    styles = re.findall(r"url\(\s*['\"]?(?!data:)([^)]+)|@import\s+([^;]+)", plain)
    files = [address for address in Page(text).loaded if not address.startswith("data:")]
    return [*files, *(one or other for one, other in styles), *loads_from_elsewhere(text)]


@each_lesson
def test_slides_and_handout_load_nothing(source: Path) -> None:
    """No file, no other host: a copy on a stick is enough."""
    assert loads(slides.deck(source)) == []
    assert loads(handout.sheet(source)) == []


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://x/y.js"></script>',
        '<link rel="stylesheet" href="//x/y.css">',
        '<img src="figure.png">',
        "<style>a { background: url(https://x/y.png) }</style>",
        '<style>@import "y.css";</style>',
    ],
)
def test_what_loads_something_is_found(text: str) -> None:
    """So that the test above can fail."""
    assert loads(text)


@each_lesson
def test_each_figure_has_a_slide_of_its_own(source: Path) -> None:
    """All of the solved copy, with their alt texts."""
    deck = slides.deck(source)
    found = slides.figures(notebooks.read(lessons.target(source, solved=True)))
    pages = re.findall(r"<section.*?</section>", deck, re.DOTALL)
    assert len(found) >= 1 and all(figure.source and len(figure.alt) >= 40 for figure in found)
    assert [page.count("<figure") for page in pages if "<figure" in page] == [1] * len(found)


@each_lesson
def test_the_vote_comes_before_the_first_figure_and_its_answer_after_it(source: Path) -> None:
    """Nobody may see an answer before the question; the speaker reads the notes beside it."""
    deck = slides.deck(source)
    pages = re.findall(r"<section.*?</section>", deck, re.DOTALL)
    kinds = [
        next((k for k in ('class="vote"', "<figure", "Why was it tempting") if k in page), "")
        for page in pages
    ]
    assert [kind for kind in kinds if kind][:3] == [
        'class="vote"',
        "<figure",
        "Why was it tempting",
    ]
    vote = pages[kinds.index('class="vote"')]
    (question, *_) = questions_of(source)
    assert vote.count("<li>") == len(question.options)
    assert 'class="notes"' in vote and "Vote:" in vote


def test_no_text_of_a_slide_is_smaller_than_18_pt() -> None:
    """On a slide of 13.3 inches; the last row can read it."""
    sizes = [int(size) for size in re.findall(r"(?:font-size: |font: )(\d+)px", slides._STYLE)]
    assert len(sizes) >= 6 and min(sizes) >= slides.LEAST_PX
    assert slides.LEAST_PX * 72 / 96 == 18 and pytest.approx(13.3, abs=0.1) == slides.WIDTH_PX / 96


@each_lesson
def test_the_letters_of_a_figure_have_18_pt_on_its_slide(source: Path) -> None:
    """It is as wide as the slide, and not higher. A caption for which there is no room is told
    by the speaker.
    """
    deck = slides.deck(source)
    for figure in slides.figures(notebooks.read(lessons.target(source, solved=True))):
        width, _ = figure.size
        letters_px = style.FONT_PT / 72 * style.DPI * slides.WIDTH_PX / width
        assert letters_px >= slides.LEAST_PX and figure.height_px <= slides.HEIGHT_PX
        slide = deck[deck.index(figure.source) :].partition("</figure>")[0]
        shown = f"<figcaption>{html.escape(figure.caption)}</figcaption>" in slide
        assert shown == (bool(figure.caption) and figure.has_room_for_its_caption)
        assert shown or not figure.caption or slides.to_html(figure.caption).strip() in deck


@each_lesson
def test_a_handout_has_the_vote_the_empty_diagram_and_the_words(source: Path) -> None:
    """With all options, and with room for an answer to each."""
    page = Page(sheet := handout.sheet(source))
    (question, *_) = questions_of(source)
    assert sheet.count("<li>") == sum(len(q.options) for q in questions_of(source))
    assert all(str(option) in sheet for option in question.options)
    (size,) = (attrs["viewbox"] for tag, attrs in page.tags if tag == "svg")
    assert size in {f"0 0 720 {height}" for height in handout.DIAGRAM_HEIGHTS}
    assert page.count("svg") == 1 and page.count("dt") == len(notes_of(source).words)
    assert all(f">{lane}</text>" in sheet for lane in handout.LANES)
    assert "size: A4" in sheet
    assert all(why not in sheet for why in question.options.values() if why)


def test_the_notes_of_a_lesson_are_its_section() -> None:
    """Without the next one, and without the words for the handout."""
    page = "### 00 · A: b\n\nVote: x.\nMore.\n\nSix words: a, b c,\nd.\n\n### 01 · B\n\nOther.\n"
    assert notes_on("00 · A: b", page) == Notes("Vote: x. More.", ("a", "b c", "d"))
    assert notes_on("01 · New title", page) == Notes("Other.")
    assert notes_on("02 · C", page) == Notes()


def test_every_list_of_words_has_six_different_ones() -> None:
    """As the handout has room for."""
    headings = re.findall(r"^### (\d.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    found = [notes_on(heading, PAGE.read_text(encoding="utf-8")).words for heading in headings]
    assert sum(bool(words) for words in found) >= 8
    assert all(len(set(words)) == len(words) == 6 for words in found if words)


def test_files_are_written_for_one_lesson_or_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it is said where."""
    assert teaching.main(["handout", "--lesson=04", f"--to={tmp_path}"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["04-the-late-cleanup.html"]
    assert teaching.main(["slides", "--lesson=", f"--to={tmp_path / 'all'}"]) == 0
    assert len(list((tmp_path / "all").iterdir())) == len(SOURCES)
    assert str(tmp_path / "all") in capsys.readouterr().out


def test_a_script_cannot_be_ended_by_a_text_in_it() -> None:
    """An inlined script that contains the end of one."""
    inside: Any = slides._inside("a = '<script></script>'")
    assert "</script" not in inside


OVERFULL = """(() => {
  const found = [];
  for (let number = 0; number < Reveal.getTotalSlides(); number++) {
    Reveal.slide(number);
    const slide = Reveal.getCurrentSlide(), frame = slide.parentNode.getBoundingClientRect();
    for (const part of slide.querySelectorAll(":scope > :not(.notes), :scope > :not(.notes) *")) {
      const box = part.getBoundingClientRect();
      if (box.width && (box.right > frame.right + 1 || box.bottom > frame.bottom + 1))
        found.push(number + 1 + ": " + part.tagName + " " + part.textContent.slice(0, 40));
    }
  }
  return found;
})()"""
WIDTHS = """(() => {
  const found = [];
  for (let number = 0; number < Reveal.getTotalSlides(); number++) {
    Reveal.slide(number);  // Slides far from the one that is shown have no size.
    for (const image of Reveal.getCurrentSlide().querySelectorAll("figure img"))
      found.push(image.offsetWidth);
  }
  return found;
})()"""
IS_OPEN = "typeof Reveal !== 'undefined' && Reveal.isReady()"
LOADED = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed")
async def test_nothing_leaves_its_slide_in_a_browser(tmp_path: Path) -> None:
    """Each deck opens as a file, every slide has room for what it says, and no host is asked."""
    teaching.main(["slides", f"--to={tmp_path / 'slides'}"])
    async with Browser(tmp_path) as page:
        for source in SOURCES:
            await page.open((tmp_path / "slides" / f"{source.stem}.html").as_uri())
            await page.until("the deck is there", IS_OPEN)
            await page.until("its figures are", LOADED)
            assert await page.value(OVERFULL) == [], source.stem
            assert set(await page.value(WIDTHS)) == {slides.WIDTH_PX}, source.stem
        assert page.problems == [] and page.requested_elsewhere() == []


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed")
async def test_a_handout_is_one_page_of_paper(tmp_path: Path) -> None:
    """As the browser prints it."""
    teaching.main(["handout", f"--to={tmp_path / 'handout'}"])
    async with Browser(tmp_path) as page:
        for source in SOURCES:
            await page.open((tmp_path / "handout" / f"{source.stem}.html").as_uri())
            await page.until("it is there", "document.readyState === 'complete'")
            printed = await page.call("Page.printToPDF", preferCSSPageSize=True)
            pdf = base64.b64decode(printed["data"])
            assert len(re.findall(rb"/Type ?/Page\b", pdf)) == 1, source.stem
