"""Published pages: which are there, and what do their blocks and tables say?

An HTML comment before a fenced block says what the block is (`Block.kind` and `Block.argument`):

    server                          a command that starts and stays
    servers                         several of them, a line each
    client NAME                     a command that starts, stays, and is typed to
    clients NAME NAME ...           several of them, a line each
    type NAME                       what NAME types
    type NAME after OTHER registered    the same, once OTHER is registered at another gateway
    expect NAME                     what NAME reads
    kill GATEWAY                    that process is killed
    run                             commands, a line each
    python LINE                     a script, which prints this line
    wire LIMIT=VALUE ...            a conversation with a gateway that has these limits
    javascript                      a module, for Node and for a page in a browser
    skip (REASON)                   nothing
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
KINDS: Final = (
    *("server", "servers", "client", "clients", "type", "expect", "kill"),
    *("run", "python", "wire", "javascript", "skip"),
)
TESTED_LANGUAGES: Final = ("bash", "python", "text")


def markdown() -> dict[str, str]:
    """Return the pages that are written for readers, by their path in the repository."""
    paths = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / folder / "README.md" for folder in ("notebooks", "wsdemo")),
    ]
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(paths)
    }


PAGES: Final = markdown()


class Block(NamedTuple):
    """A fenced block, and what the comment before it says."""

    line: int
    language: str
    marker: str | None
    text: str

    @property
    def kind(self) -> str:
        return (self.marker or "").partition(" ")[0]

    @property
    def argument(self) -> str:
        return (self.marker or "").partition(" ")[2]


def blocks_of(markdown: str) -> Iterator[Block]:
    """Yield the fenced blocks; a marker belongs to the fence on the very next line.

    Raises:
        ValueError: a marker precedes no block, or a block does not end.
    """
    lines = iter(enumerate(markdown.splitlines(), start=1))
    marker: str | None = None
    for number, line in lines:
        if fence := re.fullmatch(r"```(\w*)", line):
            body: list[str] = []
            for _, inside in lines:
                if inside == "```":
                    break
                body.append(inside)
            else:
                raise ValueError(f"line {number}: the block does not end")
            yield Block(number, fence[1], marker, "\n".join(body))
            marker = None
        elif marker is not None:
            raise ValueError(f"line {number}: no block follows the marker {marker!r}")
        elif found := re.fullmatch(r"<!-- test: (.+) -->", line):
            marker = found[1]
    if marker is not None:
        raise ValueError(f"no block follows the marker {marker!r}")


def without_blocks(markdown: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)


def tables_of(markdown: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield the header and the rows of each table."""
    for table in re.findall(r"(?:^\|.*\|\n)+", without_blocks(markdown), re.MULTILINE):
        header, _, *rows = (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
            for line in table.splitlines()
        )
        yield header, rows


def table(*header: str) -> list[list[str]]:
    """Return the rows of the one table with this header, whichever page it is on."""
    (rows,) = (
        rows for page in PAGES.values() for found, rows in tables_of(page) if found == list(header)
    )
    return rows
