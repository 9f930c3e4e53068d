"""Recording: is a saved run whole, does it ask nobody, and does it say what is inferred?"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import CHROMIUM, Browser
from tests.lab.classroom.replay import replay
from wsdemo.events import Event, Kind
from wsdemo.lab import Lab
from wsdemo.lab.classroom.recording import INFERRED, inferred, page, save_html, to_html
from wsdemo.lab.classroom.room import Classroom
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.trace.recorder import Recorder

pytestmark = pytest.mark.xdist_group("clock")

CONTENT = "xyzzy, and nobody may read this"  # Not one of the random words of a page.


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    """A class room, a late clean-up and a message with a content."""
    with Lab(gateways=2, policy="go-demo") as lab:
        room = lab.classroom()
        bob, alice = lab.connect("bob"), lab.connect("alice")
        lab.hold_cleanup("alice", at="gateway-01")
        alice.move("gateway-02")
        lab.let_go("alice", at="gateway-01")
        bob.send("alice", CONTENT)
        lab.wait_until("the feed has it", lambda: '"k":"del"' in "".join(room.feed.history))
        yield room


def recorded(page: str) -> dict[str, Any]:
    """Return the run that a page contains."""
    found = re.search(r'<script type="application/octet-stream" id="run">(.*?)</script>', page)
    assert found is not None
    run: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return run


def test_a_saved_run_is_what_the_class_room_recorded(room: Classroom, tmp_path: Path) -> None:
    """The path is returned; nothing else is left in the folder."""
    path = save_html(room, tmp_path / "run.html")
    assert path == tmp_path / "run.html" and list(tmp_path.iterdir()) == [path]
    run = recorded(path.read_text(encoding="utf-8"))
    told = [json.dumps(batch, separators=(",", ":")) for batch in run["batches"]]
    assert told == room.feed.history[: len(told)] and len(told) >= 2
    assert [gateway["name"] for gateway in run["lab"]["gateways"]] == ["gateway-01", "gateway-02"]
    assert INFERRED not in path.read_text(encoding="utf-8")


def test_a_saved_run_asks_nobody_for_anything(room: Classroom) -> None:
    """By its text, and by its content security policy, for whatever the text may hide."""
    page = to_html(room, "<late & clean>")
    assert "<title>&lt;late &amp; clean&gt;</title>" in page
    rest = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|wss?://|@import|url\(", rest)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None and policy[1].startswith("default-src 'none'; ")
    assert "connect-src" not in policy[1] and "form-action 'none'" in policy[1]


def test_a_name_with_markup_ends_no_element_of_a_saved_run() -> None:
    """A student may be called so; the page has the two script elements that it has always."""
    name = "</script><script>x()"
    batch = json.dumps({"t": 1, "n": 0, "e": [{"k": "seat", "t": 1, "u": "ann", "n": name}]})
    lab: dict[str, Any] = {"gateways": [], "ttl": 15, "policy": name, "scale": 6}
    saved = page(lab, [batch], name, name)
    assert saved.count("<script") == saved.count("</script>") == 2
    assert recorded(saved)["batches"][0]["e"][0]["n"] == name


def test_no_message_is_in_a_saved_run(room: Classroom) -> None:
    """Only who wrote to whom; and neither the code of the class nor its address."""
    for saved in (to_html(room), to_html(room.lab)):
        text = saved + json.dumps(recorded(saved))
        assert CONTENT not in text and '"k": "msg"' in text
        assert room.seats.code not in text and room.url not in text


def test_a_lab_without_a_class_room_says_that_its_leases_are_inferred(room: Classroom) -> None:
    """On the page itself."""
    page = to_html(room.lab)
    assert f'role="note">{INFERRED}</p>' in page
    told = replay([json.dumps(batch) for batch in recorded(page)["batches"]])
    assert told.sockets.keys() and "alice" not in told.entries, "the seed of the race is in it"


def test_inferred_leases_end_when_redis_has_forgotten_them() -> None:
    """And after a freeze they are there again: nothing of them was lost."""
    recorder = Recorder(clock=lambda: 0.0)

    def happens(t: float, kind: Kind, lane: str = "g", **fields: Any) -> None:
        recorder.emit(Event(kind, t, lane, gateway=lane, **fields))

    def entries() -> dict[str, tuple[str, str]]:
        return replay(inferred(recorder, 15.0)).entries

    happens(1, Kind.PRESENCE_SET, user="ann", conn_id="a")
    happens(2, Kind.PRESENCE_REFRESH, user="ann", conn_id="a")
    assert json.loads(inferred(recorder, 15.0)[-1])["b"] == [["ann", "g", "a", 17.0]]
    happens(3, Kind.FREEZE, "redis")
    assert entries() == {}
    happens(4, Kind.THAW, "redis")
    assert entries() == {"ann": ("g", "a")}
    happens(5, Kind.CRASH, "redis", reason="restarted")
    assert entries() == {}
    happens(6, Kind.PRESENCE_REFRESH, user="ann", conn_id="a", reason="reclaimed")
    assert entries() == {"ann": ("g", "a")}


# --- bad paths -----------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_named(room: Classroom, tmp_path: Path) -> None:
    """It is not made: the name may have a typing error."""
    with pytest.raises(LabRefused, match=r"there is no folder .*nowhere': make it first"):
        save_html(room, tmp_path / "nowhere" / "run.html")
    with pytest.raises(LabRefused, match="is a folder: give the name of a file"):
        save_html(room, tmp_path)


def test_a_file_is_replaced_whole_or_not_at_all(
    room: Classroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves the file as it was, and no other one."""
    path = save_html(room, str(tmp_path / "run.html"), "first")
    before = path.read_text(encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(LabRefused, match="cannot be written: No space left"):
            save_html(room, path, "second")
    assert path.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [path]
    save_html(room, path, "third")
    assert "<title>third</title>" in path.read_text(encoding="utf-8")


# --- in a browser --------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
async def test_a_saved_run_plays_in_a_browser_without_a_network(tmp_path: Path) -> None:
    """Opened as a file: it shows the end of the run, and asks for nothing but itself."""
    events = {"ready": {"g": "gateway-01"}}
    session = {"u": "ann", "g": "gateway-01", "c": "c1"}
    batches = [
        {"type": "batch", "t": 1.0, "e": [{"t": 1.0, "k": "ready", **events["ready"]}]},
        {"type": "batch", "t": 2.0, "e": [{"t": 2.0, "k": "set", "x": 17.0, **session}]},
    ]
    lab = {"scale": 6, "ttl": 15, "heartbeat": 5, "policy": "fenced"}
    lab["gateways"] = [{"name": "gateway-01", "freezable": False}]
    path = tmp_path / "run.html"
    text = page(lab, [json.dumps(batch) for batch in batches], "A run", INFERRED)
    path.write_text(text, encoding="utf-8")
    async with Browser(tmp_path / "home") as browser:
        await browser.open(path.as_uri())
        await browser.until("the run is there", "globalThis.board?.run.end === 2")
        await browser.value("board.seek(2), 0")
        shown = await browser.value("document.body.innerText")
        assert "Ann" in shown or "ann" in shown
        assert INFERRED in shown
        box = await browser.value("JSON.stringify(document.body.getBoundingClientRect())")
        assert json.loads(box)["height"] <= 1600
        assert [one for one in browser.requested if not one.startswith(("file:", "data:"))] == []
        assert browser.problems == []
