"""Authentication: how does the teacher's browser, and no other, get the buttons?

A cell shows a link with a ticket in it. The first use turns the ticket into a cookie that scripts
cannot read, so a link on a photograph of the projector is worth nothing. Cookies belong to a host,
not to a port, so the cookie's name carries the port: two rooms on one machine keep apart.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final

from wsdemo.lab.classroom.http import HttpRequest

TICKET_S: Final = 600.0
TICKETS: Final = 64
"""Unused ones; each time that a cell shows the room makes one. The oldest are forgotten."""
COOKIE_S: Final = 12 * 3600
LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})


class TeacherTickets:
    """Tickets that have not been used, and the cookies of those that have.

    Args:
        from_elsewhere: whether other machines than this one may have the buttons.
    """

    def __init__(
        self, from_elsewhere: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._from_elsewhere = from_elsewhere
        self._clock = clock
        self._ends_at: dict[str, float] = {}
        self._keys: set[str] = set()

    def issue(self) -> str:
        """Return a new ticket."""
        ticket = secrets.token_urlsafe(18)
        self._ends_at[ticket] = self._clock() + TICKET_S
        if len(self._ends_at) > TICKETS:
            self._ends_at.pop(next(iter(self._ends_at)))
        return ticket

    def redeem(self, ticket: str, request: HttpRequest, port: int) -> str | None:
        """Return the cookie for a ticket, as a header; None for one that is used, old or unknown,
        and for a machine that may not have the buttons.
        """
        if not self._may_teach(request) or ticket not in self._ends_at:
            return None
        if self._ends_at.pop(ticket) < self._clock():
            return None
        key = secrets.token_urlsafe(24)
        self._keys.add(key)
        name = cookie_name(port)
        # Without a path, it is good for the folder of the link: behind a proxy, for this room only.
        return f"{name}={key}; HttpOnly; SameSite=Strict; Max-Age={COOKIE_S}"

    def is_teacher(self, request: HttpRequest, port: int) -> bool:
        """Say whether a request comes from a browser that has redeemed a ticket."""
        return request.cookie(cookie_name(port)) in self._keys and self._may_teach(request)

    def _may_teach(self, request: HttpRequest) -> bool:
        return self._from_elsewhere or request.address in LOOPBACK


def cookie_name(port: int) -> str:
    return f"teacher-{port}"
