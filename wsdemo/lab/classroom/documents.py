"""JSON: what is a document that two readers cannot understand differently?"""

from __future__ import annotations

import json
from typing import Any


def json_object(data: bytes) -> dict[str, Any] | None:
    """Return the object that the bytes are, or None.

    An object that has a key twice is none: this room might believe one value, and a gateway the
    other.
    """
    try:
        document = json.loads(data.decode(), object_pairs_hook=_once_each)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError.
        return None
    return document if isinstance(document, dict) else None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key occurs twice")
    return document
