"""Admission: who may join the class, and is this browser one that has joined before?

A seat is one student: a user id that a gateway accepts, the name as it is shown, and a secret by
which the student's browser is known again. The code of the class is short, because it may have to
be typed. It is safe because wrong codes are counted.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from wsdemo.lab.classroom.rate_limit import FailureLimit
from wsdemo.lab.classroom.student_names import display_name, user_id_for

ALPHABET: Final = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
"""Without I, L, O, 0 and 1, which are easily taken for each other."""
CODE_CHARS: Final = 6
SEATS: Final = 60
MOST_SEATS: Final = 180
"""Each student has two connections, of the 400 that there may be."""
FAILURES_OF_ONE: Final = 6
"""So many wrong codes a minute of one address, before it has to wait."""
FAILURES_OF_ALL: Final = 60
"""The same of all addresses together."""
ID_CHARS: Final = 24
SAME_NAME: Final = 200
"""So many students may have one name."""


class NotAdmitted(Exception):
    """Somebody may not join; the text says why, to the student."""


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """One student."""

    user: str
    name: str
    number: int
    """The how-maniest seat it was: students start at the gateways in turn."""
    secret: str = field(repr=False)


class Seats:
    """All seats of a class.

    Args:
        is_taken: says whether somebody else has a user id: a simulated user, the teacher.
        limit: how many students at most.
    """

    def __init__(
        self,
        is_taken: Callable[[str], bool],
        limit: int = SEATS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_CHARS))
        self.admits = True
        """Whether new students may join; those who have a seat keep it."""
        self.by_user: dict[str, Seat] = {}
        self._by_secret: dict[str, Seat] = {}
        self._is_taken, self._limit = is_taken, limit
        self._failures = FailureLimit(FAILURES_OF_ONE, FAILURES_OF_ALL, clock)

    def is_code(self, code: str, address: str) -> bool:
        """Say whether this is the code of the class.

        Raises:
            NotAdmitted: there were too many wrong codes; the right one is refused as well.
        """
        if self._failures.is_exceeded(address):
            raise NotAdmitted("too many wrong codes: wait a minute")
        given = code[:64].upper().replace("-", "").replace(" ", "")
        if hmac.compare_digest(given.encode("utf-8", "replace"), self.code.encode()):
            return True
        self._failures.add(address)
        return False

    def join(self, code: str, name: str, address: str) -> Seat:
        """Give a student a seat.

        Raises:
            NotAdmitted: the text says why.
        """
        if not self.is_code(code, address):
            raise NotAdmitted("that is not the code of this class")
        if not self.admits:
            raise NotAdmitted("the teacher admits nobody at the moment")
        if len(self.by_user) >= self._limit:
            raise NotAdmitted(f"all {self._limit} seats are taken")
        shown = display_name(name)
        if not shown:
            raise NotAdmitted("a name has at least one letter or digit")
        user = self._free_id(user_id_for(shown))
        seat = Seat(user, shown, len(self.by_user), secrets.token_urlsafe(18))
        self.by_user[seat.user] = self._by_secret[seat.secret] = seat
        return seat

    def find(self, secret: str) -> Seat | None:
        """Return the seat of a browser that has joined before."""
        return self._by_secret.get(secret)

    def _free_id(self, wanted: str) -> str:
        """Return the id, with a number when somebody has it."""
        for number in range(1, SAME_NAME + 1):
            suffix = "" if number == 1 else f"-{number}"
            user = wanted[: ID_CHARS - len(suffix)] + suffix
            if user not in self.by_user and not self._is_taken(user):
                return user
        raise NotAdmitted("too many students have this name: choose another one")
