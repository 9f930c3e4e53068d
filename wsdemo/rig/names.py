"""Spelling: which of the known names did the caller mean?

A name that is not known is answered with those that are. The one that is meant comes first, when
the name looks like a typing error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

LIKE: Final = 0.7
"""Two names with so much in common (a ratio of difflib) differ by a typing error."""
SHOWN: Final = 20
"""At most so many known names are listed."""


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """Return the text of an error about a name that is not known.

    Args:
        what: what is named: "gateway", "option".
    """
    names = list(known)
    there_are = "there are" if len(names) != 1 else "there is"
    listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "") or "none"
    meant = _meant(str(name), names)
    if meant:
        return (
            f"there is no {what} {name!r}; did you mean {meant!r}? "
            f"{there_are.capitalize()}: {listed}"
        )
    return f"there is no {what} {name!r}; {there_are}: {listed}"


def _meant(name: str, known: list[str]) -> str:
    """Return the known name that differs by a typing error, or nothing.

    A wrong number is not one: gateway-01 is not what is meant by gateway-99.
    """
    lower = {one.lower(): one for one in known if _letters(one) != _letters(name)}
    close = difflib.get_close_matches(name.lower(), lower, 1, LIKE)
    return lower[close[0]] if close else ""


def _letters(name: str) -> str:
    return "".join(character for character in name if not character.isdigit())
