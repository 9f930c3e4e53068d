"""The class room in a real browser: what do students and the teacher see when something breaks?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Chromium
from tests.lab.classroom.in_browsers import (
    GATEWAY,
    IN_CHROMIUM,
    OUTAGE_S,
    agreed,
    board_of,
    joined,
    log_says,
    mended,
    says_it_was_closed,
    state_of,
)
from tests.waiting import until
from wsdemo.lab import Lab
from wsdemo.lab.classroom.room import Classroom
from wsdemo.lab.lessons import QUESTIONS

pytestmark = IN_CHROMIUM

CANNOT: str = "Redis cannot be asked: nobody knows where anybody is"


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    """A heartbeat in 2.5 s, a lease of 7.5 s."""
    with Lab(gateways=3, scale=12, freezable=["gateway-03"]) as lab:
        yield lab.classroom()
    assert lab.leaks() == []


@pytest.fixture(autouse=True)
def _mended(room: Classroom) -> Iterator[None]:
    with mended(room.lab):
        yield


def registered(room: Classroom, gateway: str, user: str) -> bool:
    """Say whether the registry of a gateway has this user."""
    return room.lab.cluster.gateway(gateway).registry.by_user(user) is not None


# --- who joins, and writes -------------------------------------------------------------------


async def test_the_link_of_the_qr_code_fills_in_the_code(
    chromium: Chromium, room: Classroom
) -> None:
    """Only a name is asked for, and the board shows who joined where the registry has them."""
    async with board_of(chromium, room) as board, chromium.page(phone=True) as page:
        await page.open(room.join_url)
        await page.until("the form is there", "!!document.querySelector('input[name=name]')")
        assert await page.value("document.querySelector('input[name=code]').value") == room.code
        assert await page.value("document.querySelector('input[name=code]').offsetWidth") == 0
        await page.type("Your name", "Zoë <b>")
        await page.key("Enter", windows=13)
        gateway = await page.until("she is registered", GATEWAY)
        await board.until_text("Zoë <b>", f"[aria-label={gateway!r}]")
        await log_says(board, f"Zoë <b> registered with {gateway}")
        assert registered(room, gateway, "zoe-b")


async def test_a_seat_outlives_a_reload(chromium: Chromium, room: Classroom) -> None:
    """The page that is opened again is the same student, without a name or a code."""
    async with joined(chromium, room, "Rosa") as rosa:
        before = len(room.students)
        await rosa.page.open("about:blank")
        await rosa.page.open(room.url)
        await rosa.gateway()
        await rosa.sees("You are Rosa", ".status")
        assert len(room.students) == before


async def test_a_message_is_routed_and_nobody_of_that_name_is_offline(
    chromium: Chromium, room: Classroom
) -> None:
    """The page of the recipient shows it; no board and no record does."""
    secret = "meet me at seven"
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Ann", at="gateway-01") as ann,
        joined(chromium, room, "Ben", at="gateway-02") as ben,
    ):
        count = (await state_of(board))["messages"]
        await ann.write("Ben", secret)
        await ann.sees("routed", "[aria-label=Messages] .mine")
        await ben.sees(f"Ann: {secret}", "[aria-label=Messages]")
        await ann.write("nobody of this name", secret)
        await ann.sees("offline", "[aria-label=Messages] .mine")
        await log_says(board, "Ann to nobody-of-this-name: offline")
        await board.until("both are counted", f"board.state.messages === {count + 2}")
        assert secret not in await board.value("document.documentElement.outerHTML")
        assert not [text for text in room.feed.history if secret in text]


# --- gateways --------------------------------------------------------------------------------


async def test_after_a_crash_a_page_shows_1006_and_comes_back_elsewhere(
    chromium: Chromium, room: Classroom
) -> None:
    """And tells the board what it saw, and for how long it was away."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Cleo", at="gateway-02") as cleo,
    ):
        await agreed(board, cleo, "gateway-02")
        await board.press("Crash gateway-02")
        await cleo.sees("1006 the connection broke, and nobody said why")
        gateway = await cleo.gateway()
        assert gateway != "gateway-02"
        await log_says(board, "gateway-02 crashed")
        await says_it_was_closed(board, cleo, 1006)
        await agreed(board, cleo, gateway)
        (saw,) = [row for row in (await state_of(board))["saw"] if row[1] == "cleo"]
        assert saw[2] == 1006 and 0 <= saw[3] < OUTAGE_S
        await board.press("Start gateway-02")
        await log_says(board, "gateway-02 is ready")


async def test_a_drain_tells_a_page_to_go_elsewhere_by_1012(
    chromium: Chromium, room: Classroom
) -> None:
    """In words, on the page and on the board."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Dora", at="gateway-01") as dora,
    ):
        await board.press("Drain gateway-01")
        await dora.sees("1012 the gateway was drained")
        assert await dora.gateway() != "gateway-01"
        await says_it_was_closed(board, dora, 1012)
        await board.until_text("stopped", "[aria-label='gateway-01']")


async def test_the_first_of_two_tabs_stays_closed_until_it_is_asked(
    chromium: Chromium, room: Classroom
) -> None:
    """The seat is one user: the newer tab replaces the older one (4509)."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Elsa") as elsa,
        chromium.page(phone=True, beside=elsa.page) as second,
    ):
        await second.open(room.url)
        await second.until("the second tab is registered", GATEWAY)
        await elsa.sees("Closed: 4509", ".status")
        await elsa.sees("Your page does not come back by itself", ".status")
        # A heartbeat later, which is many times the pause of a page that comes back by itself:
        renewed = "board.state.belief.elsa?.[2] ?? 0"
        ends = await board.value(renewed)
        await board.until("the lease is renewed", f"({renewed}) > {ends} + 2", OUTAGE_S)
        await elsa.sees("Closed: 4509", ".status")
        await elsa.page.press("Come back")
        await elsa.gateway()
        await second.until_text("Closed: 4509", ".status")


async def test_a_frozen_gateway_is_left_and_its_late_clean_ups_are_refused(
    chromium: Chromium, room: Classroom
) -> None:
    """Pages leave when a heartbeat is not answered. What a thawed gateway does is shown."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Fritz", at="gateway-03") as fritz,
    ):
        await agreed(board, fritz, "gateway-03")
        await board.press("Freeze gateway-03")
        await board.until_text("frozen", "[aria-label='gateway-03']")
        await fritz.sees("no answer to a heartbeat")
        gateway = await fritz.gateway()
        assert gateway != "gateway-03"
        await board.press("Thaw gateway-03")
        await log_says(board, "gateway-03 cleaned up after Fritz, too late: refused, not the owner")
        await agreed(board, fritz, gateway)


async def test_a_held_clean_up_is_refused_when_somebody_else_owns_the_entry(
    chromium: Chromium, room: Classroom
) -> None:
    """A chip, hold back, the student moves, let go: a shield, and the entry stays."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Gina", at="gateway-01") as gina,
    ):
        await agreed(board, gina, "gateway-01")
        await board.press("Gina, connected to gateway-01; Redis says gateway-01")
        await board.press("Hold it back at gateway-01")
        await board.until_text("clean-up of Gina at gateway-01: will wait", ".held")
        await gina.move_to("gateway-02")
        await board.until_text("clean-up of Gina at gateway-01: waits", ".held")
        await board.press("Let go")
        await board.until("a shield", "!!document.querySelector('.tag.refused svg')")
        await log_says(board, "gateway-01 cleaned up after Gina, too late: refused, not the owner")
        await agreed(board, gina, "gateway-02")
        assert room.lab.record("gina")["gwId"] == "gateway-02"


# --- Redis -----------------------------------------------------------------------------------


async def test_while_redis_is_killed_nothing_is_drawn_as_known(
    chromium: Chromium, room: Classroom
) -> None:
    """Neither on the board nor on the phone; started empty, gateways bring the entries back."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Hugo", at="gateway-01") as hugo,
    ):
        await agreed(board, hugo, "gateway-01")
        await board.press("Kill Redis")
        await board.until_text(CANNOT, "[aria-label='Redis']")
        await hugo.sees("Redis does not answer", "[aria-label='What Redis says of you']")
        state = await state_of(board)
        assert state["belief"] == {} and not state["known"]
        await board.until(
            "each chip says so",
            "[...document.querySelectorAll('.chip')].length > 0 &&"
            " [...document.querySelectorAll('.chip')].every((chip) => /cannot be asked/"
            ".test(chip.getAttribute('aria-label')) && chip.dataset.how === 'unknown')",
        )
        rows = "[...document.querySelectorAll('[aria-label=\"What Redis says\"] .where')]"
        assert set(await board.value(f"{rows}.map((cell) => cell.textContent)")) == {"?"}
        await board.press("Start Redis empty")
        await log_says(board, "brought Hugo back into Redis")
        await agreed(board, hugo, "gateway-01")
        await hugo.sees("Redis says: gateway-01", "[aria-label='What Redis says of you']")


async def test_a_frozen_redis_is_not_drawn_as_known_either(
    chromium: Chromium, room: Classroom
) -> None:
    """It goes on with its memory."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Ivo", at="gateway-02") as ivo,
    ):
        await agreed(board, ivo, "gateway-02")
        await board.press("Freeze Redis")
        await board.until_text(CANNOT, "[aria-label='Redis']")
        await board.press("Thaw Redis")
        await agreed(board, ivo, "gateway-02")


# --- a phone that sleeps ---------------------------------------------------------------------


async def test_of_a_phone_that_sleeps_redis_forgets_first(
    chromium: Chromium, room: Classroom, tmp_path: Path
) -> None:
    """The lease drains on the board, the socket stays; awake, the page is back.

    The page is stopped and its browser is not, which is how a phone sleeps.
    """
    async with (
        board_of(chromium, room) as board,
        Chromium(tmp_path) as pocket,
        joined(pocket, room, "Jana", at="gateway-02") as jana,
    ):
        await agreed(board, jana, "gateway-02")
        left = "(board.state.belief.jana?.[2] ?? 0) - board.state.t"
        with pocket.asleep():
            await board.until("the lease runs down", f"({left}) < 5 && ({left}) > 0", OUTAGE_S)
            label = "Jana, connected to gateway-02; Redis says nobody"

            async def forgotten() -> bool:
                return len(await board.named(label)) == 1

            await until("Redis forgets before the gateway", forgotten, OUTAGE_S, every_s=0.1)
            assert room.lab.record("jana") == {}
            assert registered(room, "gateway-02", "jana")
            await log_says(board, "gateway-02 gave up Jana: silent for too long (4009)")
        await jana.sees("4009 heartbeat timeout")
        await agreed(board, jana, await jana.gateway())


# --- a vote ----------------------------------------------------------------------------------


async def test_a_vote_is_counted_and_shown_when_it_is_measured(
    chromium: Chromium, room: Classroom
) -> None:
    """Asked in a cell, answered on phones, changed once; nobody sees the count before."""
    async with (
        board_of(chromium, room) as board,
        joined(chromium, room, "Kim") as kim,
        joined(chromium, room, "Leo") as leo,
    ):
        room.ask("hops", "How many hops?", {"one": "it feels direct", "three": "", "four": ""})
        await kim.page.press("one")
        await leo.page.press("three")
        await kim.page.press("three")
        await kim.sees("You say: three", ".question")
        await board.until_text("2 answers so far", ".vote")
        count = "[...document.querySelectorAll('.vote .option b')].map((b) => b.textContent)"
        assert set(await board.value(count)) == {""}
        votes = room.reveal("four")
        assert dict(votes) == {"one": 0, "three": 2, "four": 0}
        await board.until_text("Measured: four", ".vote")
        assert await board.value(count) == ["0", "2", "0"]
        await leo.sees("Measured: four; you said three", ".question")


async def test_a_question_of_a_lesson_is_answered_on_the_phone(
    chromium: Chromium, room: Classroom
) -> None:
    """Each of its options is a button, and why a wrong one is tempting comes with the answer."""
    async with joined(chromium, room, "Mia") as mia:
        room.ask("q04")
        await mia.sees(QUESTIONS["q04"].text, ".question h2")
        options = await mia.page.until(
            "the options", "[...document.querySelectorAll('.options button')].map(b => b.innerText)"
        )
        await mia.page.press(options[0])
        await until("the vote is counted", lambda: room.votes, every_s=0.1)
        assert room.votes == {"mia": options[0]}
        votes = room.reveal(options[-1])
        assert votes[options[0]] == 1 and votes.measured == options[-1]
        await mia.sees(f"Measured: {options[-1]}; you said {options[0]}", ".question")
