"""Students' feed: what does a student's page learn from the room, and what may it say?

It learns who is in the class, which question is asked, and what Redis believes of this student; it
joins, votes, and says what its connection went through. Messages go by the gateways, and never by
this feed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from wsdemo.lab.classroom.channel import FeedChannel
from wsdemo.lab.classroom.rate_limit import Throttle
from wsdemo.lab.classroom.seats import NotAdmitted, Seat

TICK_S: Final = 0.5
MESSAGES_PER_S: Final = 3.0
BURST: Final = 10
SKIPPED_BYTES: Final = 64 * 1024
"""A page with so much unread gets the next state, and not this one."""
LONGEST_AWAY_S: Final = 3600.0
CLOSE_CODES: Final = range(1000, 5000)

Document = dict[str, Any]


class StudentPage:
    """One open page of a student, or of somebody who has not joined yet."""

    def __init__(self, channel: FeedChannel, address: str) -> None:
        self.channel = channel
        self.address = address
        self.seat: Seat | None = None
        self.throttle = Throttle(MESSAGES_PER_S, BURST)
        """With a seat, one for all pages of the student."""
        self._told: dict[str, str] = {}

    def tell_news(self, kind: str, text: str) -> None:
        """Send a document, unless the page has it already, or does not read."""
        if self._told.get(kind) == text or self.channel.unread_bytes > SKIPPED_BYTES:
            return
        self._told[kind] = text
        self.channel.send(text)


class StudentFeeds:
    """The feeds of all students.

    Args:
        join: gives a seat for what a page says; raises `NotAdmitted`.
        seated: what a page is told with its seat.
        class_now: what all are told of the class.
        belief: what Redis was last heard to say of a user: gateway, and for how many seconds; None
            while Redis cannot be asked.
        vote: counts a vote: seat, question, option.
        saw: a student's page says with which code its connection ended, and how long it was away.
    """

    def __init__(
        self,
        *,
        join: Callable[[Document, str], Seat],
        seated: Callable[[Seat], Document],
        class_now: Callable[[], Document],
        belief: Callable[[str], tuple[str, float] | None],
        vote: Callable[[Seat, str, str], None],
        saw: Callable[[Seat, int, float], None],
    ) -> None:
        self._join, self._seated, self._class_now = join, seated, class_now
        self._belief, self._vote, self._saw = belief, vote, saw
        self._pages: set[StudentPage] = set()
        self._throttles: dict[str, Throttle] = {}
        """By user id: more pages of a student do not give the student more votes and words."""

    async def serve(self, channel: FeedChannel, address: str) -> None:
        """Serve a page until it is gone."""
        page = StudentPage(channel, address)
        self._pages.add(page)
        try:
            await channel.receive(
                lambda document: self._take(page, document), lambda: page.throttle
            )
        finally:
            self._pages.discard(page)

    async def run(self) -> None:
        """Tell each student twice a second what has changed."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tell_class()
            for page in list(self._pages):
                if page.seat is not None:
                    page.tell_news("you", _text(self._entry(page.seat.user)))

    def _entry(self, user: str) -> Document:
        """Return what a student is told of the own entry in Redis."""
        belief = self._belief(user)
        gateway, left_s = belief or ("", 0.0)
        left = round(max(0.0, left_s), 1)
        return {"type": "you", "known": belief is not None, "gateway": gateway, "left": left}

    def tell_class(self) -> None:
        """Tell all students of the class, when that has changed."""
        text = _text(self._class_now())
        for page in list(self._pages):
            if page.seat is not None:
                page.tell_news("class", text)

    def close(self, reason: str) -> None:
        """Tell all pages that it is over."""
        for page in list(self._pages):
            page.channel.close(1001, reason)

    # --- what a page says --------------------------------------------------------------------

    def _take(self, page: StudentPage, document: Document) -> None:
        kind = document.get("type")
        if page.seat is None:
            self._admit(page, document)
        elif kind == "vote":
            question, option = document.get("q"), document.get("o")
            if isinstance(question, str) and isinstance(option, str):
                self._vote(page.seat, question, option)
        elif kind == "saw":
            self._take_saw(page.seat, document.get("code"), document.get("away"))

    def _admit(self, page: StudentPage, document: Document) -> None:
        if document.get("type") != "join":
            page.channel.tell({"type": "no", "why": "join the class first"})
            return
        try:
            page.seat = self._join(document, page.address)
        except NotAdmitted as problem:
            page.channel.tell({"type": "no", "why": str(problem)})
            return
        page.throttle = self._throttles.setdefault(page.seat.user, page.throttle)
        page.channel.admit()
        page.channel.tell(self._seated(page.seat))
        page.tell_news("class", _text(self._class_now()))

    def _take_saw(self, seat: Seat, code: object, away_s: object) -> None:
        if isinstance(code, bool) or not isinstance(code, int) or code not in CLOSE_CODES:
            return
        if isinstance(away_s, bool) or not isinstance(away_s, int | float):
            return
        if 0 <= away_s <= LONGEST_AWAY_S:  # Neither infinite, nor NaN, nor of 400 digits.
            self._saw(seat, code, round(float(away_s), 2))


def _text(document: Document) -> str:
    return json.dumps(document, separators=(",", ":"))
