"""Teaching material: where do slides and handouts come from? `make slides`, `make handout`

One HTML file for each lesson, in build/slides or build/handout. Each opens without a network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tools import lessons
from tools.handout import sheet
from tools.notebook import write
from tools.slides import deck
from wsdemo.command_line import Parser
from wsdemo.terminal import never_refuse_text, say

PROGRAM: Final = "tools.teaching"
KINDS: Final[dict[str, Callable[[Path], str]]] = {"slides": deck, "handout": sheet}
BUILD: Final = Path(__file__).parents[1] / "build"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = Parser(PROGRAM, description=__doc__)
    parser.add_argument("kind", nargs="?", choices=list(KINDS), help="what to make")
    parser.add_argument("--lesson", default="", metavar="LESSON", help="only this one: 04")
    parser.add_argument("--to", metavar="DIR", help="where the files go (build/slides)")
    options = parser.read(argv)
    never_refuse_text()
    if options.kind is None:
        parser.error(f"say what to make: {' or '.join(KINDS)}")
    chosen = lessons.named(options.lesson) if options.lesson.strip() else lessons.sources()
    if not chosen:
        parser.error(f"there is no lesson {options.lesson[:40]!r}")
    folder = Path(options.to) if options.to else BUILD / options.kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in chosen:
            write(folder / f"{source.stem}.html", KINDS[options.kind](source).encode())
    except OSError as problem:
        parser.fail(f"cannot write into {str(folder)!r}: {problem.strerror}")
    say(f"{len(chosen)} in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
