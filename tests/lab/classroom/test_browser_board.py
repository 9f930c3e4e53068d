"""The board in a real browser: time travel, the recorded run, and who can read and use it.

The lab keeps the Go demo's rule, so a late clean-up erases what it should not; and the room is also
shown by a proxy, under a path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.browser import Chromium, Page
from tests.lab.classroom import reading
from tests.lab.classroom.in_browsers import (
    IN_CHROMIUM,
    OUTAGE_S,
    PHONE,
    StudentAtPhone,
    agreed,
    board_of,
    joined,
    log_says,
    mended,
    says_it_was_closed,
)
from tests.lab.classroom.prefix_proxy import PREFIX, prefix_proxy
from wsdemo.lab import Lab
from wsdemo.lab.classroom.room import Classroom

pytestmark = IN_CHROMIUM

SHOWN: Final = """JSON.stringify([
  [...document.querySelectorAll('.chip')].map((chip) => chip.getAttribute('aria-label')).sort(),
  [...document.querySelectorAll('.belief')].map((row) => [row.dataset.how,
    ...['.who', '.where'].map((part) => row.querySelector(part).textContent)].join(' ')).sort(),
  [...document.querySelectorAll('.gateway')].map((box) => box.dataset.status),
  [...document.querySelectorAll('.log li')].map((line) => line.textContent),
  document.querySelector('.counts').textContent,
])"""
"""Everything that a board says in words, but for times that run."""

COUNT_ANIMATIONS: Final = """
globalThis.animated = 0;
const animate = Element.prototype.animate;
Element.prototype.animate = function (...given) {
  animated += 1;
  return animate.apply(this, given);
};
"""
WATCH_WAYS: Final = """
globalThis.ways = [];
const added = (nodes) => nodes.forEach((node) => {
  if (node.matches?.('.way, .flight')) ways.push(node.getAttribute('class').split(' ')[0]);
});
globalThis.watching = new MutationObserver((all) => all.forEach((one) => added(one.addedNodes)));
watching.observe(document.body, { childList: true, subtree: true });
"""
REPLAY: Final = """
(() => {
  const isObject = (value) => value && typeof value === "object" && !Array.isArray(value);
  const sorted = (value) => isObject(value)
    ? Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])])) : value;
  const text = (state) => JSON.stringify(sorted(state));
  const { run } = board, state = model.initial();
  for (let i = 0; i < run.total; i++) {
    if (text(state) !== text(run.after(i))) return `differs after ${i}`;
    model.apply(state, run.entry(i));
  }
  return text(state) === text(run.head) ? run.total : "differs at the end";
})()"""
"""How many entries there are; or where a state by checkpoints is not that of a replay."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _proxy() -> AsyncIterator[tuple[int, list[int]]]:
    upstream: list[int] = []
    async with prefix_proxy(upstream) as port:
        yield port, upstream


@pytest.fixture(scope="module")
def room(_proxy: tuple[int, list[int]]) -> Iterator[Classroom]:
    port, upstream = _proxy
    with Lab(gateways=3, scale=12, policy="go-demo", freezable=["gateway-03"]) as lab:
        room = lab.classroom(public_url=f"http://127.0.0.1:{port}{PREFIX}/")
        upstream.append(room.port)
        yield room
    assert lab.leaks() == []


@pytest.fixture(autouse=True)
def _mended(room: Classroom) -> Iterator[None]:
    with mended(room.lab):
        yield


# --- the error of the Go demo ----------------------------------------------------------------


async def test_a_late_clean_up_erases_the_entry_of_another_gateway(
    chromium: Chromium, room: Classroom
) -> None:
    """Under the Go demo's rule: the board says so, the phone says so, and so do others."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Nora", at="gateway-01") as nora,
        joined(chromium, room, "Otto", at="gateway-03") as otto,
    ):
        await agreed(board, nora, "gateway-01")
        await board.press("Nora, connected to gateway-01; Redis says gateway-01")
        await board.press("Hold it back at gateway-01")
        await nora.move_to("gateway-02")
        await board.until_text("clean-up of Nora at gateway-01: waits", ".held")
        await board.press("Let go")
        await board.until("erased!", "!!document.querySelector('.tag.erased')")
        await log_says(
            board, "gateway-01 cleaned up after Nora, too late, and erased the entry of gateway-02"
        )
        await nora.sees("Redis says: nobody", "[aria-label='What Redis says of you']")
        await otto.write("Nora", "are you there?")
        await otto.sees("offline", "[aria-label=Messages] .mine")


async def test_a_room_is_used_through_a_path_of_a_proxy(
    chromium: Chromium, room: Classroom
) -> None:
    """Join, relay, the teacher's link and its buttons: no address of a page is absolute."""
    assert PREFIX in room.join_url and PREFIX in room.board_url()
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Pia", at="gateway-02") as pia,
    ):
        await agreed(board, pia, "gateway-02")
        await board.press("Crash gateway-02")
        await pia.sees("1006 the connection broke")
        for page in (board, pia.page):
            here = [url for url in page.requested if not url.startswith("data:")]
            assert here and all(f"{PREFIX}/" in url for url in here)


# --- time ------------------------------------------------------------------------------------


async def drag(board: Page, key: str, windows: int) -> None:
    """Move the slider of time by a key."""
    await board.value("document.querySelector('[aria-label=\"Time\"]').focus()")
    await board.key(key, windows=windows)


async def test_the_end_of_the_time_line_is_what_is_live(
    chromium: Chromium, room: Classroom
) -> None:
    """Paused, at the beginning, and at the end again: the same in all words."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Quinn", at="gateway-01") as quinn,
    ):
        await agreed(board, quinn, "gateway-01")
        await board.press("Crash gateway-01")
        await quinn.sees("1006 the connection broke")
        await agreed(board, quinn, await quinn.gateway())
        await says_it_was_closed(board, quinn, 1006)
        await board.press("Pause")
        live = await board.value(SHOWN)
        assert "Quinn" in live
        await drag(board, "Home", 36)
        await board.until("nobody has joined yet", f"!{SHOWN}.includes('Quinn')")
        assert not await board.value("!!document.querySelector('.is-live')")
        await drag(board, "End", 35)
        assert await board.value(SHOWN) == live
        await board.press("Live")
        await board.until("it is live", "!!document.querySelector('.is-live')")
        assert await board.value(SHOWN) == live


async def test_any_moment_is_the_same_by_steps_and_by_checkpoints(
    chromium: Chromium, room: Classroom
) -> None:
    """Back and on again; and each state of the past equals a replay from the first entry."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Rita", at="gateway-01") as rita,
    ):
        await rita.move_to("gateway-02")
        await rita.write("nobody of this name", "hello")
        await log_says(board, "Rita to nobody-of-this-name: offline")
        await board.press("Pause")
        for _ in range(3):
            await board.press("One step back")
        shown, at = await board.value(SHOWN), await board.value("board.timeline.at")
        await board.press("One step back")
        assert await board.value("board.timeline.at") < at
        await board.press("One step on")
        assert await board.value("board.timeline.at") == at
        assert await board.value(SHOWN) == shown
        await board.value(
            "import('./static/model.js').then((model) => { globalThis.model = model })"
        )
        await board.until("the model is there", "!!globalThis.model")
        total = await board.value(REPLAY)
        assert isinstance(total, int) and total > 20, total


# --- the recorded run ------------------------------------------------------------------------


async def test_a_recorded_run_plays_from_a_file_without_a_network(
    chromium: Chromium, room: Classroom, tmp_path: Path
) -> None:
    """It ends as the live board did, and can be played, paused and stepped through."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Sven", at="gateway-01") as sven,
    ):
        await agreed(board, sven, "gateway-01")
        await board.press("Drain gateway-01")
        await sven.sees("1012 the gateway was drained")
        await says_it_was_closed(board, sven, 1012)
        await agreed(board, sven, await sven.gateway())
        file = room.save(tmp_path / "run.html", title="Our class")
        await board.press("Pause")
        live = await board.value(SHOWN)
    async with chromium.page() as page:
        await page.offline()
        await page.open(file.as_uri())
        await page.until("the run is there", "globalThis.board?.run.total > 20")
        assert await page.value("document.title") == "Our class"
        await drag(page, "End", 35)
        await page.until("the end is shown", "board.timeline.at === board.run.end")
        assert await page.value(SHOWN) == live
        for button in ("Crash gateway-01", "Kill Redis", "Live"):
            assert await page.named(button) == []
        await drag(page, "Home", 36)
        await page.press("Play")
        await page.until("it plays", "board.timeline.at > board.run.begin + 0.5")
        await page.press("Pause")
        await page.press("One step on")
        assert await page.value("board.timeline.at < board.run.end")
        assert not page.problems, page.problems
        assert page.requested_elsewhere() == []
        networked = [url for url in page.requested if not url.startswith(("file:", "data:"))]
        assert networked == []


# --- who reads and uses it -------------------------------------------------------------------


async def fits(page: Page, states: str) -> None:
    """Nothing is wider than the page, hard to read, or without a name."""
    assert await page.value(reading.TOO_WIDE) <= 0, states
    low = await page.value(reading.LOW_CONTRAST)
    assert not low, (states, low)
    assert not await reading.unnamed(page), states


async def test_the_page_of_a_student_fits_a_phone_in_every_state(
    chromium: Chromium, room: Classroom
) -> None:
    """360 points wide: no scrolling sideways, targets of 44 points, text of enough contrast."""

    async def fits_a_finger(page: Page, state: str) -> None:
        await fits(page, state)
        small = await page.value(reading.SMALL_TARGETS)
        assert not small, (state, small)

    async with chromium.page(size=PHONE, phone=True) as page:
        await page.open(room.url)
        await page.until("the form", "!!document.querySelector('form')")
        await fits_a_finger(page, "the form")
        await page.type("Your name", "Tilda with a long name")
        await page.type("Code of the class", "WRONG1")
        await page.press("Join")
        await page.until_text("not the code", ".problem")
        await fits_a_finger(page, "a wrong code")
    async with joined(chromium, room, "W" * 20, at="gateway-01") as student:
        page = student.page
        await fits_a_finger(page, "joined")
        await student.write("nobody of this name", "M" * 200)
        await student.sees("offline", "[aria-label=Messages] .mine")
        await fits_a_finger(page, "a long message")
        room.ask("q04")
        await page.until("the question", "document.querySelectorAll('.options button').length > 1")
        await page.click_until_heard("an option", "document.querySelector('.options button')")
        await student.sees("You say", ".question")
        await fits_a_finger(page, "a question")
        room.reveal("nothing")
        await student.sees("Measured: nothing", ".question")
        await fits_a_finger(page, "an answer")
        for gateway in ("gateway-02", "gateway-03"):
            await student.move_to(gateway)
            await fits_a_finger(page, f"at {gateway}")
        await closed_by_another_tab(chromium, room, student)
        await fits_a_finger(page, "replaced")
        await page.press("Come back")
        await student.gateway()
        room.lab.redis.stop()
        await student.sees("Redis does not answer")
        await fits_a_finger(page, "Redis is killed")


async def closed_by_another_tab(
    chromium: Chromium, room: Classroom, student: StudentAtPhone
) -> None:
    """At the same gateway: under the Go demo's rule, nobody is told of a session elsewhere."""
    here = await student.gateway()
    async with chromium.page(beside=student.page) as second:
        await second.open(room.url)
        await StudentAtPhone(second, student.name).move_to(here)
        await student.sees("Closed: 4509", ".status")


@pytest.mark.parametrize("size", [(1280, 720), PHONE], ids=["projector", "phone"])
async def test_the_board_can_be_read_in_every_state(
    chromium: Chromium, room: Classroom, size: tuple[int, int]
) -> None:
    """On a projector and on a phone: contrast, names, nothing that is cut off at the side."""
    name = f"Uma{size[0]}"
    async with (
        board_of(chromium, room, size=size) as board,
        joined(chromium, room, name, at="gateway-03") as uma,
    ):
        await agreed(board, uma, "gateway-03")
        await fits(board, "live")
        assert await board.value("document.querySelector('.code').getClientRects().length") == 1
        await board.press(f"{name}, connected to gateway-03; Redis says gateway-03")
        await fits(board, "a chip is chosen")
        await board.press("Hold it back at gateway-03")
        await board.until_text(f"clean-up of {name}", ".held")
        await fits(board, "held back")
        await board.press("Let go")
        await board.press("Freeze gateway-03")
        await board.until_text("frozen", "[aria-label='gateway-03']")
        await fits(board, "frozen")
        await board.press("Crash gateway-01")
        await board.until_text("crashed", "[aria-label='gateway-01']")
        await fits(board, "crashed")
        room.ask("q04")
        await board.until_text("answers so far", ".vote")
        await fits(board, "a question")
        room.reveal("nothing")
        await board.until_text("Measured: nothing", ".vote")
        await fits(board, "an answer")
        await board.press("Kill Redis")
        await board.until_text("Redis cannot be asked", "[aria-label='Redis']")
        await fits(board, "Redis is killed")
        await board.press("Pause")
        await fits(board, "paused")


async def test_everything_is_reached_by_the_keyboard_and_the_focus_is_seen(
    chromium: Chromium, room: Classroom
) -> None:
    """On both pages: as many stops of the Tab key as there are controls, each with a ring."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Vera", at="gateway-01") as vera,
    ):
        await agreed(board, vera, "gateway-01")
        for page in (board, vera.page):
            count = await page.value(reading.FOCUSABLE)
            stops = await reading.reached_by_tab(page, count)
            assert len(stops) == count > 4
            assert [name for name, is_seen in stops if not is_seen] == []


@pytest.mark.parametrize("calm", [True, False], ids=["less motion", "motion"])
async def test_who_prefers_less_motion_sees_none(
    chromium: Chromium, room: Classroom, calm: bool
) -> None:
    """The way of a message is drawn at once, and nothing is animated; for all others it flies."""
    names = ("Wim", "Xena") if calm else ("Yve", "Zack")
    async with (
        chromium.page(calm=calm) as board,
        joined(chromium, room, names[0], at="gateway-01") as one,
        joined(chromium, room, names[1], at="gateway-02") as other,
    ):
        await board.call("Page.addScriptToEvaluateOnNewDocument", source=COUNT_ANIMATIONS)
        await board.open(room.board_url())
        await agreed(board, other, "gateway-02")
        await board.value(WATCH_WAYS)
        sent = await board.value("board.state.messages")
        # A board that draws slowly leaves some out.
        while not (ways := await board.value("ways")):
            await one.write(other.name, "hello")
            await board.until("it is counted", f"board.state.messages > {sent}", OUTAGE_S)
            sent += 1
        assert ways[0] == ("way" if calm else "flight")
        assert (await board.value("animated") == 0) is calm
        await board.press("Crash gateway-01")
        await says_it_was_closed(board, one, 1006)
        if calm:
            assert await board.value("document.getAnimations().length") == 0
            assert await board.value("animated") == 0
