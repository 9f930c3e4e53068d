"""A class in real browsers: students at their phones, and the teacher at the board."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest

from tests import browser
from tests.browser import Chromium, Page
from tests.waiting import until
from wsdemo.lab import Lab
from wsdemo.lab.classroom.room import Classroom

PHONE: Final = (360, 740)
PROJECTOR: Final = (1280, 720)
OFTEN_S: Final = 0.1
OUTAGE_S: Final = 30.0
"""A page is back after any fault within this time: a lease, and the slowest attempts after it."""

IN_CHROMIUM: Final = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(150),
    pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed"),
]
"""The marks of a module whose tests share one Chromium and one lab."""

BOARD_TEXT: Final = "document.querySelector('.ws-board').innerText"
LOG: Final = "[aria-label='What happened']"
GATEWAY: Final = "document.querySelector('.status[data-state=\"up\"] .where')?.textContent"


class StudentAtPhone:
    """Somebody who has joined, and the page on which that was."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.name = name
        self.user = name.lower()

    async def gateway(self) -> str:
        """Return the gateway that the page says it is registered with; wait for it."""
        return str(await self.page.until(f"{self.name} is registered", GATEWAY, OUTAGE_S))

    async def move_to(self, gateway: str) -> None:
        """Go there, unless the page is there already."""
        if await self.gateway() != gateway:
            await self.page.press(f"Move to {gateway}")
            there = f"{GATEWAY} === {gateway!r}"
            await self.page.until(f"{self.name} is at {gateway}", there, OUTAGE_S)

    async def write(self, to: str, text: str) -> None:
        """Choose somebody by the name that the list shows, write, and send."""
        chosen = (
            "(() => { const list = document.querySelector('[aria-label=\"To whom\"]');"
            f" const one = [...list.options].find((option) => option.text === {to!r});"
            " if (!one) return false; list.value = one.value;"
            " list.dispatchEvent(new Event('change')); return true })()"
        )
        await self.page.until(f"{to} is in the list", chosen)
        await self.page.type("Message", text)
        await self.page.press("Send")

    async def sees(self, text: str, within: str = "main", timeout_s: float = OUTAGE_S) -> None:
        await self.page.until_text(text, within, timeout_s)


@contextlib.asynccontextmanager
async def joined(
    chromium: Chromium, room: Classroom, name: str, *, at: str = "", **options: Any
) -> AsyncIterator[StudentAtPhone]:
    """Join as a student does who has scanned the QR code; leave at the end.

    Args:
        at: the gateway to be at.
    """
    options = {"size": PHONE, "phone": True, **options}
    async with chromium.page(**options) as page:
        await page.open(room.join_url)
        await page.type("Your name", name)
        await page.press("Join")
        student = StudentAtPhone(page, name)
        await student.gateway()
        if at:
            await student.move_to(at)
        yield student
        assert not page.problems, page.problems
        assert page.requested_elsewhere() == []


@contextlib.asynccontextmanager
async def board_of(chromium: Chromium, room: Classroom, **options: Any) -> AsyncIterator[Page]:
    """Open the teacher's board, and wait until it is live."""
    async with chromium.page(**{"size": PROJECTOR, **options}) as page:
        await page.open(room.board_url())
        await page.until(
            "the board is live", "!!document.querySelector('.ws-board.is-live.can-act')"
        )
        yield page
        assert not page.problems, page.problems
        assert page.requested_elsewhere() == []


async def state_of(board: Page) -> dict[str, Any]:
    """Return the state that the board shows."""
    return dict(await board.value("board.state"))


async def log_says(board: Page, text: str, timeout_s: float = OUTAGE_S) -> None:
    """Wait until the list of what happened has this line."""
    await board.until_text(text, LOG, timeout_s)


async def says_it_was_closed(board: Page, student: StudentAtPhone, code: int) -> None:
    """Wait until the board knows what the student's page has seen; several may share a line."""
    saw = f"board.state.saw.some((row) => row[1] === {student.user!r} && row[2] === {code})"
    await board.until(f"{student.name} has told the board of {code}", saw, OUTAGE_S)
    await log_says(board, f"closed with {code}")


async def agreed(board: Page, student: StudentAtPhone, gateway: str) -> None:
    """Wait until the student's chip is at this gateway, and Redis says the same."""
    label = f"{student.name}, connected to {gateway}; Redis says {gateway}"

    async def shown() -> bool:
        return len(await board.named(label)) == 1

    await until(f"the board shows {label!r}", shown, OUTAGE_S, every_s=OFTEN_S)


@contextlib.contextmanager
def mended(lab: Lab) -> Iterator[None]:
    """Mend at the end what a test has broken, also one that failed."""
    try:
        yield
    finally:
        cluster = lab.cluster
        if not cluster.redis.running:
            lab.redis.restart()
        elif cluster.redis.frozen:
            lab.redis.thaw()
        for name in cluster.names:
            if name not in cluster.hosts:
                lab.start_gateway(name)
            elif cluster.host(name).frozen:
                lab.thaw(name)
        lab.let_all_go()
        lab.wait_until("all gateways are ready", lambda: _all_ready(lab), OUTAGE_S)


def _all_ready(lab: Lab) -> bool:
    """Say whether new users are taken again: after an outage of Redis, that is a moment later."""
    return all(lab.stats(name)["ready"] for name in lab.cluster.names)
