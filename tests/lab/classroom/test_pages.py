"""The pages of a classroom: what does a student see, and does a board show what is so?

In a real Chromium, against a real lab. What needs no browser runs in Node (tests/js).
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from tests import browser
from tests.browser import Browser
from tests.node import NODE, node, node_tests
from tests.pages import ROOT
from tests.waiting import until
from wsdemo.lab import Lab

STATIC: Final = ROOT / "wsdemo" / "lab" / "classroom" / "static"
STEP_S: Final = 20.0
HOURS: Final = "0.4"
"""How long the class of the memory test is; `node tests/js/memory.mjs 2` is two hours."""

with_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
with_chromium = pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed")


# --- without a browser -----------------------------------------------------------------------


@with_node
async def test_a_moment_by_its_checkpoint_is_the_moment_replayed_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every entry of a recorded run, and of random ones; also after the oldest were dropped."""
    recorded = await asyncio.to_thread(recorded_run)
    kinds = {event["k"] for batch in recorded for event in batch.get("e", ())}
    assert {"ready", "set", "close", "msg", "crash", "drain", "rej"} <= kinds
    (tmp_path / "run.json").write_text(json.dumps(recorded), encoding="utf-8")
    monkeypatch.setenv("RUN", str(tmp_path / "run.json"))
    assert await node_tests("test_model.mjs") >= 13


@with_node
async def test_what_happened_is_told_in_words() -> None:
    """Thirty lines of the same become one."""
    assert await node_tests("test_words.mjs") >= 6


@with_node
async def test_the_memory_of_a_board_has_a_bound() -> None:
    """Rows, checkpoints and marks, however long a class is."""
    said = await node("--expose-gc", ROOT / "tests" / "js" / "memory.mjs", HOURS, "100")
    measured = json.loads(said.splitlines()[-1])
    assert measured["rows"] <= 500_000
    assert measured["checkpoints"] <= 61
    assert measured["marks"] <= 600


def test_pages_write_text_only_as_text() -> None:
    """Names and messages are written by others; no page has a word for HTML."""
    for path in [*STATIC.glob("*.js"), ROOT / "wsdemo" / "client" / "wsdemo.js"]:
        text = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, f"{path.name}: {word}"


def test_no_page_asks_another_host() -> None:
    """No address of another machine is in them, but for the name of the language of drawings."""
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        if path.suffix != ".json":
            assert not re.search(r"(?:https?:)?//\w+\.\w", text), path.name


def test_a_reader_can_take_a_module_at_a_time() -> None:
    """None has more than 400 lines, or very long ones; each begins by saying what it is for."""
    for path in STATIC.glob("*.js"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 400, path.name
        assert max(map(len, lines)) <= 130, path.name
        assert lines[0].startswith("// "), path.name


def recorded_run() -> list[dict[str, Any]]:
    """Return what a board hears of a lab in which something of everything happens."""
    with Lab(gateways=3, scale=6) as lab:
        room = lab.classroom()
        bob, alice = lab.connect("bob"), lab.connect("alice", to="gateway-01")
        lab.hold_cleanup("alice", at="gateway-01")
        alice.move("gateway-02")
        lab.let_go("alice", at="gateway-01")
        bob.send("alice", "hello")
        bob.send("nobody", "hello")
        lab.drain("gateway-01")
        lab.start_gateway("gateway-01")
        lab.crash("gateway-02")
        back = ("gateway-01", "gateway-03")
        for user in ("alice", "bob"):
            lab.wait_until(f"{user} is back", partial(is_at, lab, user, back))
        return heard(room)


def is_at(lab: Lab, user: str, gateways: tuple[str, ...]) -> bool:
    return at(lab, user) in gateways


def at(lab: Lab, user: str) -> str:
    """Return where a user is, as Redis says."""
    return lab.record(user).get("gwId", "")


def origin_of(room: Any) -> Origin:
    return Origin(f"http://127.0.0.1:{room.port}")


def heard(room: Any) -> list[dict[str, Any]]:
    """Return the batches that a board hears which comes now."""
    url = f"ws://127.0.0.1:{room.port}/feed?k={room.seats.code}"
    batches = []
    with connect(url, origin=origin_of(room), proxy=None) as feed:
        while (document := json.loads(feed.recv(STEP_S)))["type"] != "live":
            if document["type"] == "batch":
                batches.append(document)
    return batches


# --- in a browser ----------------------------------------------------------------------------

PHONE: Final[dict[str, Any]] = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
PROJECTOR: Final[dict[str, Any]] = {
    "width": 1280,
    "height": 720,
    "deviceScaleFactor": 1,
    "mobile": False,
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(gateways=3, scale=6) as opened:
        yield opened
    assert opened.leaks() == []


@pytest.fixture
async def page() -> AsyncIterator[Browser]:
    with tempfile.TemporaryDirectory() as home:
        async with Browser(Path(home)) as opened:
            yield opened
            assert opened.problems == []
            assert opened.requested_elsewhere() == []


async def off_loop(work: Callable[..., Any], *arguments: Any) -> Any:
    """A lab blocks; the browser's connection must go on meanwhile."""
    return await asyncio.to_thread(work, *arguments)


async def take_a_seat(page: Browser, room: Any, name: str = "Noor") -> None:
    await page.call("Emulation.setDeviceMetricsOverride", **PHONE)
    await page.open(room.join_url)
    await page.until("the form", "!!document.querySelector('form')")
    await page.value(f"document.querySelector('[name=name]').value = {json.dumps(name)}; 1")
    await page.click_until_heard("Join", "document.querySelector('form button')")
    await page.until("a gateway", STATE + " === 'up'")
    await page.until("Redis' word", "document.querySelector('.says').textContent.includes('gate')")


STATE: Final = "document.querySelector('.status')?.dataset.state"
WHERE: Final = "document.querySelector('.where').textContent"


async def say(page: Browser, to: str, text: str) -> None:
    await page.value(
        f"document.querySelector('select').value = {json.dumps(to)};"
        f"document.querySelector('.write input').value = {json.dumps(text)};"
        "document.querySelector('.write').requestSubmit(); 1"
    )


@with_chromium
async def test_a_student_joins_by_the_link_and_sees_what_becomes_of_messages(
    lab: Lab, page: Browser
) -> None:
    """`routed` to somebody who is there, `offline` to nobody; all that on a small phone."""
    room = await off_loop(lab.classroom)
    bob = await off_loop(lab.connect, "bob")
    await take_a_seat(page, room)
    await say(page, "bob", "Are you there?")
    await say(page, "nobody-of-this-name", "Anybody?")
    await page.until("`routed`", "!!document.querySelector('em.routed')")
    await page.until("`offline`", "!!document.querySelector('em.offline')")
    assert (await off_loop(bob.receive)).content == "Are you there?"
    assert await page.value("document.documentElement.scrollWidth") == PHONE["width"]
    assert await page.value(TOO_SMALL) == []
    assert await page.value(NAMELESS) == []
    assert await page.value(FAINT) == []


@with_chromium
async def test_a_student_whose_gateway_crashes_is_told_and_comes_back(
    lab: Lab, page: Browser
) -> None:
    """1006 in words, how long it took, and the board hears of it."""
    room = await off_loop(lab.classroom)
    await take_a_seat(page, room)
    before = await page.value(WHERE)
    await off_loop(lab.crash, before)
    await page.until("another gateway", f"{STATE} === 'up' && {WHERE} !== {json.dumps(before)}")
    past = await page.value("document.querySelector('.past').textContent")
    assert "1006" in past
    assert re.search(r"after \d+\.\d s without a gateway", past)
    seen = [e for batch in await heard_until(room, "saw") for e in batch.get("e", ())]
    (saw,) = [event for event in seen if event["k"] == "saw"]
    assert (saw["u"], saw["c"]) == ("noor", 1006)


async def heard_until(room: Any, kind: str) -> list[dict[str, Any]]:
    """Return the batches when there is an event of this kind in them."""
    async with asyncio.timeout(STEP_S):
        while True:
            batches: list[dict[str, Any]] = await off_loop(heard, room)
            if any(event["k"] == kind for batch in batches for event in batch.get("e", ())):
                return batches


JOIN_AT_ONCE: Final = """new MutationObserver((_, observer) => {
  const form = document.querySelector("form");
  if (!form) return;
  observer.disconnect();
  form.elements.name.value = "Noor";
  form.requestSubmit();
}).observe(document, { childList: true, subtree: true });"""


@with_chromium
async def test_who_joins_before_the_page_is_connected_is_seated(lab: Lab, page: Browser) -> None:
    """On a slow network the form is there first; nobody has to press the button twice."""
    room = await off_loop(lab.classroom)
    await page.call("Page.addScriptToEvaluateOnNewDocument", source=JOIN_AT_ONCE)
    await page.open(room.join_url)
    await page.until("a gateway", STATE + " === 'up'")


@with_chromium
async def test_a_student_who_was_replaced_comes_back_only_by_hand(lab: Lab, page: Browser) -> None:
    """4509: the page stays closed, and says what to do."""
    room = await off_loop(lab.classroom)
    await take_a_seat(page, room)
    here = await page.value(WHERE)
    elsewhere = next(name for name in ("gateway-01", "gateway-02") if name != here)
    await off_loop(partial(lab.connect, "noor", to=elsewhere))
    await page.until("it is closed", STATE + " === 'closed'")
    assert "4509" in await page.value(WHERE)
    assert await page.value(FAINT) == []
    await page.click_until_heard("Come back", "document.querySelector('.back')")
    await page.until("it is back", STATE + " === 'up'")


@with_chromium
async def test_a_student_moves_votes_and_reads_what_was_measured(lab: Lab, page: Browser) -> None:
    """By touch."""
    room = await off_loop(lab.classroom)
    await take_a_seat(page, room)
    here = await page.value(WHERE)
    await page.click_until_heard(
        "another gateway", "document.querySelector('.moves button:enabled')"
    )
    await page.until("it has moved", f"{STATE} === 'up' && {WHERE} !== {json.dumps(here)}")
    await off_loop(
        lambda: room.ask("mine", "How many <b>records</b>?", {"none": "It looks so.", "all": "No."})
    )
    await page.click_until_heard("an option", "document.querySelectorAll('.options button')[1]")
    pressed = "document.querySelector('.options [aria-pressed=true]')?.dataset.option"
    await page.until("the vote is shown", f"{pressed} === 'all'")
    await until("the vote is in", lambda: room.votes == {"noor": "all"})
    await off_loop(room.reveal, "none")
    await page.until("the answer", "!!document.querySelector('.question .measured')")
    told = await page.value("document.querySelector('.question').textContent")
    assert "How many <b>records</b>?" in told
    assert "Measured: none; you said all. No." in told
    assert await page.value(FAINT) == []


@pytest.mark.slow
@with_chromium
async def test_a_page_that_sleeps_is_forgotten_by_redis_and_is_back_when_it_wakes(
    page: Browser,
) -> None:
    """Its process stands still, as a locked phone does. Chromium's network process does not, and
    answers the WebSocket's own pings: they prove nothing.
    """
    with Lab(gateways=2, scale=20) as lab:
        room = await off_loop(lab.classroom)
        await take_a_seat(page, room)
        gateways = ("gateway-01", "gateway-02")
        with page.asleep():
            await off_loop(lab.wait_until, "Redis forgets", partial(is_at, lab, "noor", ("",)), 20)
        await off_loop(lab.wait_until, "it is back", partial(is_at, lab, "noor", gateways), 20)
        await page.until("the page knows", f"{STATE} === 'up'")


async def open_board(page: Browser, room: Any, **size: Any) -> None:
    await page.call("Emulation.setDeviceMetricsOverride", **(size or PROJECTOR))
    await page.open(room.board_url())
    ready = "globalThis.board && Object.values(board.state.gateways).filter(s => s === 'up').length"
    await page.until("the gateways", f"{ready} === 3")


@with_chromium
async def test_a_teacher_breaks_a_gateway_and_the_board_shows_what_is_so(
    lab: Lab, page: Browser
) -> None:
    """Chips stand where registries have them; what Redis says is beside it; the past is there."""
    room = await off_loop(lab.classroom)
    for name, gateway in (("ann", "gateway-01"), ("bob", "gateway-02"), ("cy", "gateway-03")):
        await off_loop(partial(lab.connect, name, to=gateway))
    await open_board(page, room)
    await page.until("three chips", "document.querySelectorAll('.gateway .chip').length === 3")
    assert await page.value(NAMELESS) == []
    assert await page.value(FAINT) == []
    await page.click_until_heard(
        "Crash", "document.querySelector('[aria-label=\"Crash gateway-02\"]')"
    )
    await page.until("it is shown", BOX_2 + ".dataset.status === 'crashed'")
    back = ("gateway-01", "gateway-03")
    await off_loop(lab.wait_until, "bob is back", partial(is_at, lab, "bob", back))
    settled = "[...document.querySelectorAll('.nowhere .chip, [data-how=ghost]')].length === 0"
    await page.until("bob is back on the board", settled)
    shown = f"JSON.stringify(Object.entries({CHIPS}).sort())"
    expected = json.dumps(json.dumps(sorted(where(lab).items()), separators=(",", ":")))
    await page.until("the chips stand where the lab says", f"{shown} === {expected}")
    assert await page.value(FAINT) == []
    # Any moment of the past, and back: the same as before.
    live = await page.value("JSON.stringify(board.state.conns)")
    crash = "board.run.marks.find(m => m.kind === 'crash').t"
    await page.value(f"board.timeline.pause(); board.seek({crash} - 0.01); 1")
    assert await page.value(BOX_2 + ".dataset.status") == "up"
    assert (await page.value(CHIPS))["bob"] == "gateway-02"
    await page.value("board.timeline.goLive(); 1")
    await page.until("it is live", BOX_2 + ".dataset.status === 'crashed'")
    assert await page.value("JSON.stringify(board.state.conns)") == live


BOX_2: Final = "document.querySelector('.gateway[aria-label=gateway-02]')"
CHIPS: Final = (
    "Object.fromEntries([...document.querySelectorAll('.gateway')].flatMap((box) =>"
    " [...box.querySelectorAll('.chip b')].map((b) => [b.textContent, box.ariaLabel])))"
)


def where(lab: Lab) -> dict[str, str]:
    return {user: at(lab, user) for user in ("ann", "bob", "cy")}


@with_chromium
async def test_while_redis_is_away_a_board_draws_nothing_as_known(lab: Lab, page: Browser) -> None:
    """Not the gateway, not the lease; and it says so."""
    room = await off_loop(lab.classroom)
    await off_loop(lab.connect, "ann")
    await open_board(page, room)
    await page.until(
        "Redis' word", "document.querySelectorAll('.belief[data-how=ok]').length === 1"
    )
    await page.click_until_heard("Kill Redis", "document.querySelector('.redis .if-up')")
    away = "document.querySelector('.redis').dataset.status === 'down'"
    await page.until("it is shown", away)
    known = "[...document.querySelectorAll('.belief, .chip')].map((e) => e.dataset.how)"
    await page.until("nothing is known", f"{known}.every((how) => how === 'unknown')")
    assert await page.value("document.querySelector('.belief .where').textContent") == "?"
    assert "cannot be asked" in await page.value("document.querySelector('.cannot').textContent")
    assert await page.value(FAINT) == []
    await page.click_until_heard("Start", "document.querySelector('.redis .if-down')")
    await page.until("ann is found again", "!!document.querySelector('.belief[data-how=ok]')")


@with_chromium
async def test_names_are_text_and_a_board_fits_a_phone(lab: Lab, page: Browser) -> None:
    """No element comes of a name; nothing is wider than the page."""
    room = await off_loop(lab.classroom)
    evil = "<img src=x>"
    url = f"ws://127.0.0.1:{room.port}/desk"
    with connect(url, origin=origin_of(room), proxy=None) as desk:
        desk.send(json.dumps({"type": "join", "code": room.seats.code, "name": evil}))
        assert json.loads(desk.recv(STEP_S))["type"] == "seated"
    await open_board(page, room, **PHONE)
    await page.until("the name", f"document.body.textContent.includes({json.dumps(evil)})")
    assert await page.value("document.querySelectorAll('img').length") == 0
    assert await page.value("document.documentElement.scrollWidth") == PHONE["width"]


@with_chromium
async def test_a_board_is_worked_by_keys_and_its_lists_have_a_bound(
    lab: Lab, page: Browser
) -> None:
    """Space, the arrows and L; sixty lines at most, and six tags."""
    room = await off_loop(lab.classroom)
    await open_board(page, room)
    await page.value(
        "globalThis.press = (key) => board.root.dispatchEvent("
        "new KeyboardEvent('keydown', { key, bubbles: true })); 1"
    )
    await page.value(
        "const t = board.run.end;"
        "const e = [...Array(300).keys()].map((i) =>"
        " ({ k: 'fault', t: t + i / 1000, g: `g${i % 3}`, r: `no. ${i}` }));"
        "for (let i = 0; i < 40; i++)"
        " e.push({ k: 'rej', t: t + 1, u: `u${i}`, g: `g${i}`, c: 'c', r: 'other owner' });"
        "board.batch({ t: t + 1, e }); 1"
    )
    lines = "document.querySelectorAll('.log li').length"
    await page.until("the lines", f"{lines} === 60")
    assert await page.value("document.querySelectorAll('.tag').length") <= 6
    await page.value("press(' '); 1")
    assert await page.value("board.timeline.playing") is False
    await page.value("press('ArrowLeft'); 1")
    before = await page.value("board.timeline.at")
    await page.value("press('ArrowLeft'); 1")
    assert await page.value("board.timeline.at") < before
    await page.value("press('ArrowRight'); 1")
    assert await page.value("board.timeline.at") == before
    await page.value("press('l'); 1")
    assert await page.value("board.timeline.live") is True


@with_chromium
async def test_who_asked_for_less_motion_sees_none(lab: Lab, page: Browser) -> None:
    """The way of a message is a line; nothing is animated."""
    room = await off_loop(lab.classroom)
    ann = await off_loop(partial(lab.connect, "ann", to="gateway-01"))
    await off_loop(partial(lab.connect, "bob", to="gateway-02"))
    await page.call(
        "Emulation.setEmulatedMedia",
        features=[{"name": "prefers-reduced-motion", "value": "reduce"}],
    )
    await open_board(page, room)
    await page.until("two chips", "document.querySelectorAll('.gateway .chip').length === 2")
    await page.value(
        "globalThis.ways = 0; new MutationObserver((all) => { for (const { addedNodes } of all)"
        " for (const node of addedNodes) if (node.classList.contains('way')) ways += 1; })"
        ".observe(document.querySelector('.sky'), { childList: true }); 1"
    )

    async def drawn() -> bool:
        # A machine that draws slowly leaves some out.
        await off_loop(ann.send, "bob", "hello")
        return bool(await page.value("ways > 0"))

    await until("a way is drawn", drawn, STEP_S, every_s=0.3)
    assert await page.value("document.getAnimations().length") == 0


@with_chromium
async def test_a_board_is_drawn_ten_times_a_second_at_most(lab: Lab, page: Browser) -> None:
    """However fast batches come."""
    room = await off_loop(lab.classroom)
    await open_board(page, room)
    await page.value(
        "globalThis.times = []; const draw = board._draw;"
        "board._draw = function () { times.push(performance.now()); draw.call(this); };"
        "const batch = () => board.batch({ t: board.run.end });"
        "for (let i = 0; i < 300; i++) setTimeout(batch, i * 5); 1"
    )
    await page.until("a dozen frames", "times.length >= 12")
    gaps = await page.value("times.slice(1).map((t, i) => t - times[i])")
    assert min(gaps) >= 95


TOO_SMALL: Final = """
[...document.querySelectorAll('button, select, input')].filter((e) => e.offsetParent)
  .map((e) => [e.outerHTML.slice(0, 60), e.getBoundingClientRect()])
  .filter(([, box]) => box.height < 44 || box.width < 44).map(([what]) => what)
"""
"""What a finger would miss."""

NAMELESS: Final = """
[...document.querySelectorAll('button, select, input')].filter((e) => e.offsetParent)
  .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length))
  .map((e) => e.outerHTML.slice(0, 80))
"""
"""What a screen reader has no name for."""

FAINT: Final = """
(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const style = getComputedStyle(e), colours = style.backgroundImage.match(/rgba?\\([^)]*\\)/g);
      if (colours) return colours.map(rgb);
      const colour = rgb(style.backgroundColor);
      if (colour[3] !== 0) return [colour];
    }
    return [[255, 255, 255]];
  };
  const found = [];
  const all = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (all.nextNode()) {
    const text = all.currentNode.textContent.trim(), e = all.currentNode.parentElement;
    if (!text || !e.offsetParent || e.closest('button:disabled, option, noscript')) continue;
    if (e.closest('.refused, .kept, .erased, .hit')) continue;
    const one = light(rgb(getComputedStyle(e).color));
    for (const other of behind(e).map(light)) {
      const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
      if (ratio < 4.5) found.push(`${text.slice(0, 30)}: ${ratio.toFixed(2)}`);
    }
  }
  return [...new Set(found)];
})()
"""
"""Words with less contrast than 4.5 to 1; of a hatched ground, to each of its colours."""
