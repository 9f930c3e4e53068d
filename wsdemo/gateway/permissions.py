"""Authorisation: which rooms may a session enter, and whom may it watch?

A claim of the user's token lists patterns as in file names (`lobby*`). Where no tokens are asked
for, everything is open; a token without the claim permits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

MAX_PATTERNS: Final = 64
"""Of one claim; those after it are not looked at."""
MAX_GLOB_CHARS: Final = 128
"""A longer pattern permits nothing."""


def permits(claims: Mapping[str, Any] | None, claim: str, name: str) -> bool:
    """Say whether a token permits a name.

    Args:
        claims: what the token says; None where no tokens are asked for.
        claim: `rooms` or `watch`.
    """
    if claims is None:
        return True
    patterns = claims.get(claim)
    if not isinstance(patterns, list):
        return False
    return any(_matches(pattern, name) for pattern in patterns[:MAX_PATTERNS])


def _matches(pattern: object, name: str) -> bool:
    return (
        isinstance(pattern, str) and len(pattern) <= MAX_GLOB_CHARS and fnmatchcase(name, pattern)
    )
