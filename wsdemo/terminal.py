"""Terminal escapes: what may text from other users do to a terminal?

It may be read, and nothing else. Text in every script is shown as it was written: letters, marks,
spaces of all widths, joiners, emoji. What would move the cursor, start an escape sequence, change
the direction of the rest of the line or begin a new line is shown as an escape (`\\x1b`,
`\\u202e`).

A character that the terminal cannot encode is shown as an escape as well: no text can end a program
that prints it.
"""

from __future__ import annotations

import re
import sys
from typing import Final

ESCAPED: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "controls (C0, DEL, C1)": ((0x00, 0x1F), (0x7F, 0x9F)),
    "line and paragraph separators": ((0x2028, 0x2029),),
    "directional embeddings and overrides": ((0x202A, 0x202E),),
    # With the deprecated controls behind them, and the reserved place before them.
    "directional isolates": ((0x2065, 0x206F),),
    "interlinear annotations": ((0xFFF0, 0xFFFB),),
    "language tags": ((0xE0000, 0xE001F),),
    "lone surrogates": ((0xD800, 0xDFFF),),
    "noncharacters": (
        (0xFDD0, 0xFDEF),
        *((plane | 0xFFFE, plane | 0xFFFF) for plane in range(0, 0x110000, 0x10000)),
    ),
}
"""What is never written to a terminal as it is: the code points of each class, both included.

Everything else is text, on purpose also:

- the marks U+200E, U+200F and U+061C. Hebrew and Arabic need them, and unlike an override they
  do no more to a line than a letter of these scripts does;
- joiners, soft hyphens, variation selectors, and the tags (U+E0020 to U+E007F) in the flags of
  England, Scotland and Wales;
- private use, which has a glyph in some fonts, and what Python's table does not know yet: the
  emoji of next year are text as well.
"""

_UNSAFE: Final = re.compile(
    "["
    + "".join(
        f"\\U{first:08x}-\\U{last:08x}" for ranges in ESCAPED.values() for first, last in ranges
    )
    + "]"
)
_STRAY_BYTES: Final = re.compile("[\udc80-\udcff]+")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """Escape what could control a terminal; the result is one line."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def encodable(text: str, encoding: str) -> str:
    """Escape the characters that an encoding does not have."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def mended(text: str) -> str:
    """Return typed text without surrogates, which could never be sent.

    Bytes that were no text in the terminal's encoding are read as UTF-8, and what is not even
    that becomes U+FFFD, as does half of a pair.
    """
    text = _STRAY_BYTES.sub(
        lambda found: found[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace"), text
    )
    return _SURROGATES.sub("\ufffd", text)


def never_refuse_text() -> None:
    """Let stdout escape what it cannot encode, instead of raising. For programs, not libraries."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # Some who replace it have none.
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print lines of our own to stdout, in any encoding."""
    encoding = getattr(sys.stdout, "encoding", None)
    print(encodable(text, encoding) if encoding else text, flush=True)  # noqa: T201
