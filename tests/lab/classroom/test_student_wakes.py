"""Wake-up: does a student's page come back by itself when the phone has slept?

The gateway's user is the library's matter (tests/client/test_browser_client.py). Here it is the
page's feed: the room has hung up on a phone that slept, and a phone does not hear of that.
"""

from __future__ import annotations

import pytest

from tests.browser import Chromium
from tests.lab.classroom.in_browsers import IN_CHROMIUM, joined
from tests.waiting import until
from wsdemo.lab.classroom.room import Classroom
from wsdemo.lab.classroom.students import StudentPage

pytestmark = IN_CHROMIUM

SLEEP = "const now = Date.now; Date.now = () => now() + 60_000;"
"""A minute passes in which nothing is heard."""


def pages_of(room: Classroom, user: str) -> list[StudentPage]:
    """Return the feeds of a student."""
    return [page for page in list(room._students._pages) if page.seat and page.seat.user == user]


@pytest.mark.parametrize("event", ["pageshow", "online", "visibilitychange"])
async def test_a_page_that_wakes_up_opens_its_feed_anew(
    chromium: Chromium, room: Classroom, event: str
) -> None:
    """One that has just heard something keeps it."""
    target = "document" if event == "visibilitychange" else "globalThis"
    wake = f"{target}.dispatchEvent(new Event({event!r}));"
    async with joined(chromium, room, f"Ann-{event}") as ann:
        (before,) = pages_of(room, ann.user)
        await ann.page.value(wake)
        assert pages_of(room, ann.user) == [before]
        await ann.page.value(f"(() => {{ {SLEEP} {wake} return true }})()")

        def replaced() -> bool:
            pages = pages_of(room, ann.user)
            return len(pages) == 1 and pages[0] is not before

        await until("there is a new feed, and the old one is gone", replaced)
