"""User ids: what may a user be called?

A user id becomes part of a key in Redis, of JSON that is put together without an encoder, and of
log lines. So some characters are never allowed, whatever pattern a cluster has; the pattern decides
about the rest. Ids are compared without normalisation: é as one code point and é as two are two
users.

Python's regular expressions cannot be interrupted, and every message names a user. So a pattern
with catastrophic backtracking would let any client stop the gateway (ReDoS). An id has at most 128
characters, and a pattern is tested on names that are made for this purpose, before it is used; this
finds the usual mistakes, such as `(a+)+`, not every one.
"""

from __future__ import annotations

import functools
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Final

from wsdemo.addresses import SettingsError

MAX_USER_ID_CHARS: Final = 128
"""No user id may be longer, whatever the pattern."""
USUAL_USER_ID_CHARS: Final = 64
"""How long a user id may be unless told otherwise."""

USER_ID_PATTERN: Final = "[A-Za-z0-9._@-]+"
"""What a user id must match in full unless told otherwise."""

NEVER_IN_USER_ID: Final = frozenset('{}*?[]\\"')
"""Characters that no pattern allows, in addition to white space and what cannot be printed: they
have a meaning in patterns of keys, in names of keys, or in JSON."""

RESERVED_USER_ID: Final = re.compile(r"gateway-.*|__.*__|@.*")
"""Names that are reserved for gateways, for the kit's own probes, and for who sends by the server
API (`@app`)."""

RULE: Final = (
    f"1 to {MAX_USER_ID_CHARS} characters that can be printed, no white space, "
    f"none of {''.join(sorted(NEVER_IN_USER_ID))}, and none of gateway-..., __...__ and @..."
)

REMEMBERED: Final = 1_024
"""For so many names it is remembered whether there may be such a user."""
MAX_PATTERN_CHARS: Final = 1_000
MAX_MATCH_S: Final = 0.001
"""How long a pattern may take for one name (CPU time); usual ones take a microsecond."""


@dataclass(frozen=True, slots=True)
class UserIds:
    """The rule of one cluster."""

    pattern: str
    max_chars: int
    possible: Callable[[str], object] = field(repr=False, compare=False)
    """Whether there may be such a user. Called for the recipient of each message."""

    def may_register(self, user: str) -> bool:
        """Say whether a user may be called this."""
        return bool(self.possible(user)) and RESERVED_USER_ID.fullmatch(user) is None


def is_fit(user: str) -> bool:
    """Say whether some cluster may have a user of this name, whatever its pattern."""
    return (
        _is_fit(user)
        and len(user) <= MAX_USER_ID_CHARS
        and RESERVED_USER_ID.fullmatch(user) is None
    )


def _is_fit(user: str) -> bool:
    return (
        user.isprintable()  # No control characters, no half of a surrogate pair, no U+202E.
        and user != ""
        and " " not in user
        and NEVER_IN_USER_ID.isdisjoint(user)
    )


@functools.lru_cache(maxsize=64)
def user_ids(pattern: str = USER_ID_PATTERN, max_chars: int = USUAL_USER_ID_CHARS) -> UserIds:
    """Return the rule that a pattern makes.

    Raises:
        SettingsError: it is no regular expression, or takes too long to judge a name.
    """
    if pattern == USER_ID_PATTERN:
        # One expression is enough: it allows none of the forbidden characters.
        matches = re.compile(rf"{USER_ID_PATTERN.removesuffix('+')}{{1,{max_chars}}}").fullmatch

        def possible(user: str) -> bool:
            return matches(user) is not None
    else:
        matches = _compiled(pattern).fullmatch
        _require_quick(matches, pattern)

        def possible(user: str) -> bool:
            # The length first: it bounds what the pattern can cost.
            return len(user) <= max_chars and _is_fit(user) and matches(user) is not None

    # Most messages go to users to whom one has just gone.
    return UserIds(pattern, max_chars, functools.lru_cache(maxsize=REMEMBERED)(possible))


def valid_user_id(user: str, max_chars: int = USUAL_USER_ID_CHARS) -> bool:
    """Say whether a user may be called this where no pattern is set."""
    return user_ids(max_chars=max_chars).may_register(user)


def _compiled(pattern: str) -> re.Pattern[str]:
    if not pattern or len(pattern) > MAX_PATTERN_CHARS:
        raise SettingsError(f"the user id pattern must have 1 to {MAX_PATTERN_CHARS} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # A later Python may read it differently.
            return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as problem:
        raise SettingsError(f"user id pattern {pattern!r:.80}: {problem}") from None


# --- protection against ReDoS ------------------------------------------------------------------

_LENGTHS: Final = (4, 8, 12, 16, 20, 24, 28, 32, 48, 64, 96, MAX_USER_ID_CHARS)
"""In small steps where a bad pattern takes twice as long with each character: the first name that
takes too long then takes milliseconds, not hours."""


def _require_quick(matches: Callable[[str], object], pattern: str) -> None:
    for start, unit, end in _provocations(pattern):
        for length in _LENGTHS:
            name = (start + unit * length)[: length - len(end)] + end
            if _seconds(matches, name) > MAX_MATCH_S:
                raise SettingsError(
                    f"user id pattern {pattern!r:.80} takes too long to judge a name of {length} "
                    "characters: a repetition within a repetition can be matched in many ways"
                )


def _provocations(pattern: str) -> Iterator[tuple[str, str, str]]:
    """Yield beginnings, middles to repeat, and ends that make a match fail at the last moment."""
    plain = re.sub(r"\\([^A-Za-z0-9])", r"\1", pattern)
    literal = [run for run in re.split(r"\\[A-Za-z]|[^\w@:|.-]+", plain) if run][:4]
    own = list(dict.fromkeys(c for c in pattern if c.isprintable()))[:10]
    letters = list(dict.fromkeys([*own, *"a0A._-\N{LATIN SMALL LETTER E WITH ACUTE}"]))
    units = [*letters, *(a + b for a, b in product(own[:6], repeat=2) if a != b)]
    yield from product(["", *literal], units, ["", "\N{SNOWMAN}"])


def _seconds(matches: Callable[[str], object], name: str) -> float:
    """Measure the CPU time of this thread; again when it is long: the machine may be busy."""
    best_s = float("inf")
    for _ in range(3):
        started_s = time.thread_time()
        matches(name)
        best_s = min(best_s, time.thread_time() - started_s)
        if best_s <= MAX_MATCH_S:
            break
    return best_s
