"""Module map: which question does each module answer? `python -m tools.module_map`

Writes docs/map.md from the first sentence of each module's docstring (of a Lua script: of its
first comment). The page is committed, so that it can be read without a build; a test compares it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "map.md"
HEAD: Final = """# The map

Each module answers one question. `python -m tools.module_map` makes this page from the modules
themselves. [The architecture](architecture.md) has the rooms, and which of them may import which.
"""
ROOMS: Final = (
    "wsdemo",
    *("wsdemo/redis", "wsdemo/presence", "wsdemo/inbox", "wsdemo/gateway", "wsdemo/client"),
    *("wsdemo/rig", "wsdemo/drawing", "wsdemo/proof", "wsdemo/lab", "tools", "benchmarks"),
)
"""In the order of reading; packages within them follow each of them."""


def question(source: str, suffix: str) -> str:
    """Return the first sentence of a module."""
    if suffix == ".lua":
        lines = (line for line in source.splitlines() if not line.startswith("#!"))
        text = next(lines, "").removeprefix("-- ")
    else:
        text = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0]
    words = " ".join(text.split())
    # The question, if there is one soon; else the first sentence. "e.g. " ends none.
    sentence = re.match(r".{,160}?\?(?=\s|$)", words) or re.match(r".*?\.(?=\s+[A-Z`(]|$)", words)
    return (sentence[0] if sentence else words).replace("|", "\\|")


def packages() -> Iterator[Path]:
    """Yield the packages, each right behind the room that it belongs to."""
    for room in ROOMS:
        folder = ROOT / room
        inside = sorted(path.parent for path in folder.rglob("__init__.py"))
        yield from [folder] if room == "wsdemo" else inside


def modules(package: Path) -> Iterator[Path]:
    """Yield the modules and scripts of one package that say something."""
    for path in sorted(package.iterdir()):
        if path.suffix in {".py", ".lua"} and path.name != "__init__.py":
            yield path


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for package in packages():
        about = question((package / "__init__.py").read_text(encoding="utf-8"), ".py")
        rows = [
            f"| `{path.name}` | {question(path.read_text(encoding='utf-8'), path.suffix)} |"
            for path in modules(package)
        ]
        parts.append(f"\n## {package.relative_to(ROOT).as_posix()}\n")
        parts += [f"\n{about}\n"] if about else []
        parts += (
            ["\n" + "\n".join(["| module | question |", "|---|---|", *rows]) + "\n"] if rows else []
        )
    return "".join(parts)


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
