"""Bundle: how do several JavaScript modules become one script, without a build step?

The modules are put one after the other, each after those that it imports, and the lines that only
connect them are taken away. This works for modules that import names from their neighbours as they
are (`import { a, b } from "./x.js";`), export with the declaration (`export function`), and use no
top-level name twice. Anything else is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

STATIC: Final = Path(__file__).parent / "static"
BOARD: Final = "board.js"

_IMPORT: Final = re.compile(r'^import \{([^}]*)\} from "\./([\w.-]+)";\n', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=(?:async )?function |class |const |let )", re.MULTILINE)
_LEFT: Final = re.compile(r"^\s*(?:import|export)\b.*", re.MULTILINE)
_TOP_LEVEL: Final = re.compile(r"^(?:async )?(?:function\*?|class|const|let) (\w+)", re.MULTILINE)


def modules_of(first: str, folder: Path = STATIC) -> list[str]:
    """Return a module and all that it imports, each one after those that it needs itself.

    Raises:
        ValueError: two modules import each other.
    """
    found: list[str] = []
    _visit(first, folder, found, [])
    return found


def _visit(name: str, folder: Path, found: list[str], on_the_way: list[str]) -> None:
    if name in on_the_way:
        raise ValueError(f"modules import each other: {' -> '.join([*on_the_way, name])}")
    if name not in found:
        for _, needed in _IMPORT.findall(_source(name, folder)):
            _visit(needed, folder, found, [*on_the_way, name])
        found.append(name)


def bundle(first: str = BOARD, folder: Path = STATIC) -> str:
    """Return a module, and all that it imports, as one script without imports and exports.

    Raises:
        ValueError: the modules cannot simply be put one after the other; the text says why.
    """
    owner: dict[str, str] = {}
    scripts: list[str] = []
    for name in modules_of(first, folder):
        script = _EXPORT.sub("", _IMPORT.sub("", _source(name, folder)))
        if left := _LEFT.search(script):
            raise ValueError(f"{name}: a bundle cannot contain {left[0].strip()!r}")
        for top in _TOP_LEVEL.findall(script):
            if top in owner:
                raise ValueError(f"{name} and {owner[top]} both have a top-level name {top!r}")
            owner[top] = name
        scripts.append(script)
    return "\n".join(scripts)


def _source(name: str, folder: Path) -> str:
    source = (folder / name).read_text(encoding="utf-8")
    for names, _ in _IMPORT.findall(source):
        if " as " in names:
            raise ValueError(f"{name}: a bundle cannot rename what it imports: {names.strip()!r}")
    return source
