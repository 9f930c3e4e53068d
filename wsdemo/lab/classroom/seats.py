"""Who may sit down, and under which name?

A seat is one student: a user id that a gateway accepts, the name as it was written, and a secret
by which the student's browser is known again. The code of the class is short because it may have
to be typed; what makes it hold is that wrong tries are counted.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from wsdemo.user_ids import valid_user_id

ALPHABET: Final = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
"""Without I, L, O, 0 and 1: read aloud, they are taken for each other."""
CODE_CHARS: Final = 6
NAME_CHARS: Final = 20
SEATS: Final = 60
TRIES_PER_MINUTE: Final = 6
"""Wrong codes of one address; all addresses together may have ten times as many."""


class Refused(Exception):
    """Somebody may not sit down; the text says why, to the student."""


@dataclass(slots=True, eq=False)
class Seat:
    """One student."""

    user: str
    name: str
    secret: str = field(repr=False)
    number: int = 0


class Tries:
    """Counts what went wrong, by whom, within the last minute."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._failed: dict[str, list[float]] = {}

    def may(self, who: str) -> bool:
        since = self._clock() - 60
        recent = [t for t in self._failed.get(who, ()) if t > since]
        if recent:
            self._failed[who] = recent
        else:
            self._failed.pop(who, None)
        return len(recent) < self._limit

    def failed(self, who: str) -> None:
        self._failed.setdefault(who, []).append(self._clock())


class Seats:
    """All seats of a class.

    Args:
        taken: says whether a user id is somebody's already (a simulated user's, the teacher's).
    """

    def __init__(self, taken: Callable[[str], bool], limit: int = SEATS) -> None:
        self.code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_CHARS))
        self.open = True
        self.by_user: dict[str, Seat] = {}
        self._by_secret: dict[str, Seat] = {}
        self._taken, self._limit = taken, limit
        self._tries = Tries(TRIES_PER_MINUTE)
        self._all_tries = Tries(10 * TRIES_PER_MINUTE)

    def is_code(self, code: str, address: str) -> bool:
        """Say whether this is the code; after too many wrong ones, the right one is wrong too."""
        if not self._tries.may(address) or not self._all_tries.may(""):
            raise Refused("too many wrong codes: wait a minute")
        given = code.upper().replace("-", "").replace(" ", "")
        if hmac.compare_digest(given.encode(), self.code.encode()):
            return True
        self._tries.failed(address)
        self._all_tries.failed("")
        return False

    def sit(self, code: str, name: str, address: str) -> Seat:
        """Give a student a seat."""
        if not self.is_code(code, address):
            raise Refused("that is not the code of this class")
        if not self.open:
            raise Refused("the teacher has closed the door")
        if len(self.by_user) >= self._limit:
            raise Refused(f"all {self._limit} seats are taken")
        shown = plain_name(name)
        if not shown:
            raise Refused("a name has at least one letter or digit")
        seat = Seat(self._free(user_id(shown)), shown, secrets.token_urlsafe(18))
        seat.number = len(self.by_user)
        self.by_user[seat.user] = self._by_secret[seat.secret] = seat
        return seat

    def known(self, secret: str) -> Seat | None:
        """Return the seat of a browser that was here before."""
        return self._by_secret.get(secret)

    def remove(self, user: str) -> None:
        seat = self.by_user.pop(user, None)
        if seat is not None:
            self._by_secret.pop(seat.secret, None)

    def _free(self, wanted: str) -> str:
        """Return the id, with a number when somebody has it."""
        for suffix in ("", *(f"-{n}" for n in range(2, 100))):
            user = wanted[: 24 - len(suffix)] + suffix
            if user not in self.by_user and not self._taken(user):
                return user
        raise Refused("that name is taken")


def plain_name(name: str) -> str:
    """Return a name that can be shown: one line, no control or direction characters, not long."""
    composed = unicodedata.normalize("NFC", name[:200])
    kept = "".join(c if unicodedata.category(c)[0] in "LMNPSZ" else " " for c in composed)
    shown = " ".join(kept.split())[:NAME_CHARS].strip()
    return shown if any(unicodedata.category(c)[0] in "LN" for c in shown) else ""


def user_id(shown: str) -> str:
    """Return a user id for a name: what a gateway accepts, and can be told apart by eye."""
    flat = unicodedata.normalize("NFKD", shown).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9._-]+", "-", flat).strip("-._")[:20]
    if not slug:  # A name in letters that ASCII has nothing for.
        slug = f"student-{secrets.token_hex(2)}"
    return slug if valid_user_id(slug) and slug != "redis" else f"s-{slug}"[:20]


