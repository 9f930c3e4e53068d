"""Documentation: is every id defined, does every link lead somewhere, and is every list whole?

Comments, docstrings, test names and reports cite `P1` (a promise), `X`, `L9` (a loss), `D2` (the
durable mode), `R1` (rooms), `W1` (presence events), `fault 23`, `bad input 50` and `lesson 04`, and
nothing else. docs/ defines them.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.bad_input import ROWS
from tests.pages import PAGES, ROOT, blocks_of, table, tables_of, without_blocks
from tools import module_map, site_hooks

SOURCES: Final = ("wsdemo", "tests", "tools", "benchmarks", "notebooks/src", "deploy")
THIS: Final = Path(__file__).resolve()
KINDS: Final = {
    ".py",
    ".lua",
    ".js",
    ".mjs",
    ".css",
    ".html",
    ".conf",
    ".cfg",
    ".service",
    ".socket",
}
README_LINES: Final = 180


def sources() -> dict[str, str]:
    """Return every source, by its path, with its comments and lines run together: a citation may
    be broken over two lines.
    """
    found = {}
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in KINDS and not path.match("tools/reveal/*") and path != THIS:
                text = path.read_text(encoding="utf-8")
                name = path.relative_to(ROOT).as_posix()
                found[name] = re.sub(r"\s*\n\s*(?:(?:#|--) )?\s*", " ", text)
    return found


TEXTS: Final = sources()


# --- ids -------------------------------------------------------------------------------------


def rows_of(page: str) -> list[int]:
    """Return the numbers of the rows that a page defines."""
    return [
        int(row[0]) for header, rows in tables_of(PAGES[page]) if header[0] == "row" for row in rows
    ]


GUARANTEES: Final = PAGES["docs/guarantees.md"]
FAULTS: Final = rows_of("docs/faults.md")
BAD_INPUTS: Final = rows_of("docs/bad-input.md")
LESSONS: Final = {
    *(path.name[:2] for path in (ROOT / "notebooks" / "src").glob("*.py")),
}
PROMISES: Final = {
    *re.findall(r"^### ([PDRW]\d+):", GUARANTEES, re.MULTILINE),
    *re.findall(r"^\| (L\d+) \|", GUARANTEES, re.MULTILINE),
}
INVARIANTS: Final = {f"W{n}" for n in range(10)}
NUMBERS: Final = r"(\d+(?:(?:, | and | or | to |-)\d+)*)"
"""One number or several: 3, 4 and 6 to 8."""


def numbers(text: str) -> Iterator[int]:
    """Yield the numbers that a citation names; of a range, both ends and all between them."""
    for first, last in re.findall(r"(\d+)(?:(?: to |-)(\d+))?", text):
        yield from range(int(first), int(last or first) + 1)


def dangling(text: str) -> Iterator[str]:
    """Yield the ids in a text that no page defines."""
    # A lesson says how exact it is: docs/teaching.md defines these three.
    text = re.sub(r"\bL0 exact\b|\bL1 directed\b|\bL2 measured\b", "", text)
    yield from (
        found for found in re.findall(r"(?<!\.)\b[PLDRW]\d{1,2}\b", text) if found not in PROMISES
    )
    for what, known in (("fault", FAULTS), ("bad input", BAD_INPUTS)):
        cited = rf"\b{what}s?[ _]{NUMBERS}\b|_{what.replace(' ', '_')}_(\d+)_"
        for found in re.finditer(cited, text, re.IGNORECASE):
            yield from (f"{what} {n}" for n in numbers(found[1] or found[2]) if n not in known)
    for found in re.finditer(r"\blesson (\d\d)\b", text):
        if found[1] not in LESSONS:
            yield found[0]


def test_ids_are_defined_once() -> None:
    """No two rows have one number; all promises and all losses are there."""
    assert len(FAULTS) == len(set(FAULTS))
    assert len(BAD_INPUTS) == len(set(BAD_INPUTS))
    assert set(BAD_INPUTS) == set(ROWS)
    assert {f"P{n}" for n in range(1, 9)} | {f"D{n}" for n in range(1, 9)} < PROMISES
    assert {f"R{n}" for n in range(1, 6)} | {f"W{n}" for n in range(1, 4)} < PROMISES
    assert {name for name in PROMISES if name[0] == "L"} == {f"L{n}" for n in range(1, 15)}
    assert "## X: " in GUARANTEES


@pytest.mark.parametrize("page", PAGES)
def test_no_id_of_a_page_is_dangling(page: str) -> None:
    """Pages cite ids as well."""
    if page != "CHANGELOG.md":
        assert sorted(set(dangling(PAGES[page]))) == []


def test_no_id_in_a_comment_is_dangling() -> None:
    """Nor in a docstring, a test's name or a report: each is one that docs define. The model
    checker, and lesson 05b about it, have names of their own for what it checks.
    """
    found = {
        name: sorted(
            set(dangling(text)) - (INVARIANTS if re.search("checker|/05b-", name) else set())
        )
        for name, text in TEXTS.items()
    }
    assert {name: ids for name, ids in found.items() if ids} == {}


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("P9 is none, P8 is one", ["P9"]),
        ("D0, L15, W4", ["D0", "L15", "W4"]),
        ("L0 exact, L1 directed: levels of lessons", []),
        ("faults 1, 2 and 60", ["fault 60"]),
        ("fault 52 to 56", ["fault 55", "fault 56"]),
        ("def test_bad_input_82_is_none", ["bad input 82"]),
        ("bad input 81", []),
        ("lesson 04 and lesson 99", ["lesson 99"]),
    ],
)
def test_a_dangling_id_is_found(text: str, ids: list[str]) -> None:
    """Of each kind, and only that."""
    assert list(dangling(text)) == ids


FORBIDDEN: Final = {
    "a table of another document": r"\btable \d+\.\d",
    "a section of another document": r"(?<!RFC \d{4}, )\bsections? \d",
    "a row without the name of its list": r"\brows? \d|_row_\d",
    "a figure by its number": r"\bF\d{1,2}\b",
    "a mark of another document": r"\[V[ \]]",
    "a claim that has no name": r"\"2\.2\"",
    "an invariant that is named like a loss": r"Invariant\(\s*\"L\d",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_text_contains_a_forbidden_kind_of_reference(what: str) -> None:
    """Every id is one of those above; figures are referred to by name."""
    found = [
        f"{name}: ...{text[max(0, match.start() - 40) : match.end() + 20]}..."
        for name, text in TEXTS.items()
        for match in re.finditer(FORBIDDEN[what], text, re.IGNORECASE if "row" in what else 0)
    ]
    assert not found, "\n".join(found)


# --- lists -----------------------------------------------------------------------------------


def chaos_faults() -> dict[str, set[int]]:
    """Return the rows of each fault that chaos injects."""
    package = importlib.import_module("wsdemo.proof.chaos.faults")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    registry: Iterable[Any] | None = getattr(package, "FAULTS", None)
    if registry is None:
        registry = importlib.import_module("wsdemo.proof.chaos.nemesis").FAULTS
    return {fault.name: set(fault.rows) for fault in registry}


def simulated_faults() -> set[str]:
    """Return the names of the faults that the simulation injects."""
    return {*importlib.import_module("wsdemo.proof.simulate.faults").ALL_FAULTS}


def claimed() -> Iterator[tuple[int, str, str]]:
    """Yield what docs/faults.md says: the row, who injects it, and under which name."""
    for header, rows in tables_of(PAGES["docs/faults.md"]):
        if header[0] == "row":
            for number, _, injected, _ in rows:
                for part in injected.split("; "):
                    who, _, names = part.partition(": ")
                    for name in re.findall(r"`([^`]+)`", names):
                        yield int(number), who, name


def test_the_catalogue_names_exactly_the_faults_that_chaos_injects() -> None:
    """Each under all of its rows, and under no other one."""
    told: dict[str, set[int]] = {}
    for number, who, name in claimed():
        if who == "chaos":
            told.setdefault(name, set()).add(number)
    assert told == chaos_faults()


def test_the_catalogue_names_exactly_the_faults_that_the_simulation_injects() -> None:
    """Each at least once."""
    assert {name for _, who, name in claimed() if who == "simulation"} == simulated_faults()


def cited_by_tests() -> set[int]:
    """Return the rows of docs/bad-input.md that a test cites: by its name, docstring or marker."""
    found: set[int] = set()
    for path in (ROOT / "tests" / "bad_input").glob("test_*.py"):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                decorators = [ast.get_source_segment(source, one) for one in node.decorator_list]
                said = f"{ast.get_docstring(node)} {' '.join(filter(None, decorators))}"
                for one in re.finditer(rf"\bbad[ _]inputs?[ (]{NUMBERS}", said, re.IGNORECASE):
                    found.update(numbers(one[1]))
                found.update(map(int, re.findall(r"_(?:bad_input|row)_(\d+)_", node.name)))
    return found


def test_every_bad_input_has_a_test() -> None:
    """One that cites it."""
    assert set(BAD_INPUTS) - cited_by_tests() == set()


def test_every_promise_is_cited_by_a_test() -> None:
    """A promise that no test cites may be untested."""
    tests = " ".join(text for name, text in TEXTS.items() if name.startswith("tests/"))
    cited = set(re.findall(r"\bP\d\b", tests))
    for first, last in re.findall(r"\bP(\d)(?:-P?| to P?)(\d)\b", tests):
        cited |= {f"P{n}" for n in range(int(first), int(last) + 1)}
    assert {name for name in PROMISES if name[0] == "P"} <= cited


def test_every_room_is_in_the_architecture() -> None:
    """Each package of `wsdemo`, and nothing else."""
    rooms = {
        room.strip("`")
        for room, _, _ in table("room", "what is in it", "what belongs there")
        if room.startswith("`wsdemo")
    }
    packages = {
        path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "wsdemo").rglob("__init__.py")
    }
    missing = {room for room in rooms - packages if not (ROOT / f"{room}.py").is_file()}
    assert not missing, f"there is no {missing}"
    assert packages <= rooms


def test_the_map_is_up_to_date() -> None:
    """`python -m tools.module_map` makes it anew."""
    assert PAGES["docs/map.md"] == module_map.page()


def test_the_readme_is_short() -> None:
    """What it does not say, docs/ does."""
    assert len(PAGES["README.md"].splitlines()) <= README_LINES


def test_every_metric_that_a_page_names_exists() -> None:
    """As it stands in the table of metrics."""
    known = {name.strip("`") for name, _, _ in table("metric", "label", "what it counts")}
    for page, text in PAGES.items():
        if page != "CHANGELOG.md":
            found = set(re.findall(r"`(wsdemo_[a-z_]+[a-z])", text))
            assert found <= known, page


# --- links and paths -------------------------------------------------------------------------


def anchors(markdown: str) -> set[str]:
    """Return the names of the headings of a page, as a link spells them."""
    found = set()
    for heading in re.findall(r"^#{1,6} (.+)$", without_blocks(markdown), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        kept = "".join(
            char for char in text if char in " -_" or unicodedata.category(char)[0] in "LN"
        )
        found.add(kept.strip().replace(" ", "-"))
    return found


def links(markdown: str) -> set[str]:
    """Return where the links and pictures of a page lead."""
    text = re.sub(r"`[^`\n]+`", "", without_blocks(markdown))
    return {*re.findall(r"\]\(([^)\s]+)\)", text)}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    """Relative ones; we link to nothing else that could move."""
    for link in links(PAGES[page]):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{link}: there is no {path}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"no heading {link}"


PATH: Final = r"`((?:wsdemo|tests|docs|notebooks|deploy|tools|benchmarks)/[\w./-]+)`"


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_is_there(page: str) -> None:
    """A module may be named without its suffix."""
    if page == "CHANGELOG.md":  # It tells of paths that there were.
        return
    for name in re.findall(PATH, PAGES[page]):
        assert (ROOT / name).exists() or (ROOT / f"{name}.py").exists(), name


def test_blocks_of_pages_are_closed() -> None:
    """Else the rest of the page would be a block."""
    for page, text in PAGES.items():
        assert text.count("\n```") % 2 == 0, page
        list(blocks_of(text))


# --- the site --------------------------------------------------------------------------------


def test_the_site_names_what_is_not_on_it() -> None:
    """A link out of docs/ becomes the name of a file; links within it, and pictures, stay."""
    page = (
        "<!-- test: run -->\n```bash\n```\n"
        "[CONTRIBUTING.md](../CONTRIBUTING.md), [recipes](../CONTRIBUTING.md#recipes), [x](y.md#z)"
    )
    assert site_hooks.for_the_site(page, "") == (
        "```bash\n```\n`CONTRIBUTING.md`, recipes (`CONTRIBUTING.md`), [x](y.md#z)"
    )
    assert site_hooks.for_the_site("[x](../y.md), [z](../../z.md)", "api") == (
        "[x](../y.md), z (`z.md`)"
    )


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://cdn.example/x.js">',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<img alt="" src=http://example/x.png>',
    ],
)
def test_resources_of_the_site_from_other_hosts_are_found(tag: str) -> None:
    """The reader may have no network, and no other host may learn what is read."""
    assert site_hooks.loads_from_elsewhere(f"<p>{tag}</p>") == [tag]
    assert site_hooks.loads_from_elsewhere('<a href="https://x">x</a><script src="y.js">') == []
