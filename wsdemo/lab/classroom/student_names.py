"""Display names: what may a student be called on a screen, and which user id belongs to the name?

A name is shown on a projector, so it is one line without control or direction characters. Markup in
it is text: pages write names by `textContent` only. A gateway needs a user id, which is made of it.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from typing import Final

from wsdemo.user_ids import valid_user_id

NAME_CHARS: Final = 20
READ_CHARS: Final = 200
"""No more of what was typed is looked at."""
NOT_A_STUDENT: Final = frozenset({"redis", "nobody-of-this-name"})
"""Names of other things on the board."""


def display_name(written: str) -> str:
    """Return a name that can be shown; empty when there is no letter or digit in it."""
    composed = unicodedata.normalize("NFC", written[:READ_CHARS])
    kept = "".join(c if unicodedata.category(c)[0] in "LMNPSZ" else " " for c in composed)
    shown = " ".join(kept.split())[:NAME_CHARS].strip()
    return shown if any(unicodedata.category(c)[0] in "LN" for c in shown) else ""


def user_id_for(shown: str) -> str:
    """Return a user id for a name: a gateway accepts it, and readers can tell it from others."""
    flat = unicodedata.normalize("NFKD", shown).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9._-]+", "-", flat).strip("-._")[:NAME_CHARS]
    if not slug:  # A name in letters for which ASCII has nothing.
        slug = f"student-{secrets.token_hex(2)}"
    allowed = valid_user_id(slug) and slug not in NOT_A_STUDENT
    return slug if allowed else f"s-{slug}"[:NAME_CHARS]
