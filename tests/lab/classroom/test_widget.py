"""Board in a cell: does it hear everything over the kernel's connection, and leave nothing?"""

from __future__ import annotations

import asyncio
import builtins
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from wsdemo.lab import Lab
from wsdemo.lab.classroom import widget as widgets
from wsdemo.lab.classroom.widget import AT_ONCE, SILENT_S, BoardWidget, in_messages
from wsdemo.lab.errors import LabClosed, LabRefused

pytestmark = pytest.mark.xdist_group("clock")

KERNEL_S = 50.0


class Page:
    """What a page of the notebook would hear and say, without a kernel: there ipywidgets uses a
    comm that leads nowhere.
    """

    def __init__(self, board: BoardWidget, monkeypatch: pytest.MonkeyPatch) -> None:
        self.board = board
        self.heard: list[dict[str, Any]] = []
        monkeypatch.setattr(board, "send", self.heard.append)

    def says(self, **content: Any) -> None:
        self.board._handle_custom_msg(content, [])

    def types(self) -> list[str]:
        return [message["type"] for message in self.heard]

    def events(self) -> list[str]:
        texts = [text for m in self.heard if m["type"] == "batches" for text in m["texts"]]
        return [event["k"] for text in texts for event in json.loads(text).get("e", ())]


def senders() -> list[str]:
    """Return the threads that send to boards."""
    return [t.name for t in threading.enumerate() if t.name == "board in a cell"]


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Two gateways; nothing of it is left at the end."""
    with Lab(gateways=2) as lab:
        yield lab
    assert lab.leaks() == []
    deadline = time.monotonic() + 10
    while senders() and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    assert senders() == [] and widgets._feeds == {}


def test_a_board_of_a_lab_alone_shows_and_has_no_buttons(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lab without a class room: no port is opened, and a button is answered in words."""
    page = Page(BoardWidget(lab._loop, lab.cluster), monkeypatch)
    assert page.heard == []
    page.says(type="ready")
    lab.connect("ann")
    lab.wait_until("ann is shown", lambda: "set" in page.events())
    hello = page.heard[0]
    assert (hello["type"], hello["role"], hello["room"]) == ("hello", "viewer", {})
    assert "ready" in page.events(), "the past comes first"
    page.says(type="do", what="crash", g="gateway-01")
    lab.wait_until("it is answered", lambda: "failed" in page.types())
    why = next(m["why"] for m in page.heard if m["type"] == "failed")
    assert "only shows" in why and "gateway-01" in lab.cluster.hosts


def test_boards_of_one_lab_share_a_feed(lab: Lab) -> None:
    """A cell that is run again costs nothing more."""
    one, two = (BoardWidget(lab._loop, lab.cluster) for _ in range(2))
    assert one._feed is two._feed


def test_a_board_of_a_class_room_has_buttons(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can run cells may do anything anyway."""
    room = lab.classroom()
    page = Page(BoardWidget(lab._loop, lab.cluster, room, "400px"), monkeypatch)
    assert page.board.height == "400px"
    page.says(type="ready")
    lab.wait_until("it says hello", lambda: "hello" in page.types())
    assert page.heard[0]["role"] == "teacher" and page.heard[0]["room"]["code"] == room.seats.code
    page.says(type="do", what="crash", g="gateway-02")
    lab.wait_until("it is done", lambda: "done" in page.types())
    lab.wait_until("it is shown", lambda: "crash" in page.events())
    assert "gateway-02" not in lab.cluster.hosts


def test_a_second_page_begins_with_everything(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody hears a batch twice: hello means that all comes again."""
    page = Page(BoardWidget(lab._loop, lab.cluster), monkeypatch)
    page.says(type="ready")
    lab.connect("ann")
    lab.wait_until("ann is shown", lambda: "set" in page.events())
    page.heard.clear()
    page.says(type="ready")
    lab.wait_until("ann is shown again", lambda: "set" in page.events())
    assert page.types()[0] == "hello" and page.types().count("hello") == 1
    assert page.events().count("set") == 1 and len(senders()) == 1


def test_a_page_that_is_gone_costs_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a thread nor a listener is left; a page that comes back hears everything."""
    page = Page(BoardWidget(lab._loop, lab.cluster), monkeypatch)
    page.says(type="ready")
    page.says(type="gone")
    assert senders() == [] and page.board._feed._listeners == []
    page.says(type="ready")
    monkeypatch.setattr(page.board, "_watched_at", time.monotonic() - SILENT_S - 1)
    lab.wait_until("nobody is told any more", lambda: senders() == [])
    page.heard.clear()
    page.says(type="watching")
    lab.wait_until("it hears everything", lambda: page.types()[:1] == ["hello"])
    page.board.close()
    assert senders() == []


def test_a_board_that_cannot_keep_up_begins_anew(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits to be sent is bounded."""
    monkeypatch.setattr(widgets, "UNSENT", 3)
    board = BoardWidget(lab._loop, lab.cluster)
    lab._loop.call(board._queue_all)
    lengths: list[int] = []

    def many() -> bool:
        lengths.append(len(board._unsent))
        return len(lengths) > 150

    lab.wait_until("a second of batches", many)
    assert max(lengths) <= 3 + len(board._feed.history) + 2
    board.close()


def test_a_board_of_a_closed_lab_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the lab's own words; one that was there before has the recording, and no thread."""
    with Lab(gateways=1) as lab:
        page = Page(BoardWidget(lab._loop, lab.cluster), monkeypatch)
    with pytest.raises(LabClosed):
        BoardWidget(lab._loop, lab.cluster)
    page.says(type="ready")
    assert page.types()[0] == "hello" and senders() == []


def test_batches_that_follow_each_other_go_into_one_message() -> None:
    """And the order stays."""
    texts = [str(number) for number in range(AT_ONCE + 1)]
    done = {"type": "done", "what": "crash"}
    first, second, third, fourth = in_messages([*texts, done, "last"])
    assert first == {"type": "batches", "texts": texts[:AT_ONCE]}
    assert (second["texts"], third, fourth["texts"]) == ([str(AT_ONCE)], done, ["last"])


def test_without_anywidget_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what works without it."""
    original: Callable[..., Any] = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "anywidget":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.delitem(sys.modules, "wsdemo.lab.classroom.widget")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LabRefused, match=r"pip install 'wsdemo\[lab\]'.*lab\.classroom\(\)"):
        __import__("wsdemo.lab.classroom.widget")


# --- in a kernel ---------------------------------------------------------------------------------

CELL = """
from wsdemo.lab import Lab
lab = Lab(gateways=2)
room = lab.classroom()
board = lab.board(height="400px")
board
"""
END = """
import threading, time
board.close()
lab.close()
print(lab.leaks(), [t.name for t in threading.enumerate() if t.name in ("lab", "board in a cell")])
"""


@asynccontextmanager
async def kernel() -> AsyncIterator[AsyncKernelClient]:
    """Run a kernel."""
    manager = AsyncKernelManager(kernel_name="python3")
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=KERNEL_S)
        yield client
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


async def heard(client: AsyncKernelClient, what: Callable[[dict[str, Any]], bool]) -> Any:
    """Return the first message to the page that is so; a cell that fails ends the test."""
    async with asyncio.timeout(KERNEL_S):
        while True:
            message = await client.get_iopub_msg()
            assert message["msg_type"] != "error", "\n".join(message["content"]["traceback"])
            if what(message):
                return message


def custom(message: dict[str, Any]) -> dict[str, Any]:
    """Return what the board was told; empty when it was something else."""
    data = message["content"].get("data", {})
    content: dict[str, Any] = data.get("content", {}) if message["msg_type"] == "comm_msg" else {}
    return content


def tells_of(kind: str) -> Callable[[dict[str, Any]], bool]:
    """Return whether a message to the board has such an event."""

    def tells(message: dict[str, Any]) -> bool:
        texts = custom(message).get("texts", ())
        return any(event["k"] == kind for t in texts for event in json.loads(t).get("e", ()))

    return tells


def ends(cell: str) -> Callable[[dict[str, Any]], bool]:
    """Return whether a message says that a cell has ended."""

    def says(message: dict[str, Any]) -> bool:
        idle: bool = message["content"].get("execution_state") == "idle"
        return idle and bool(message["parent_header"].get("msg_id") == cell)

    return says


@pytest.mark.timeout(120)
async def test_in_a_kernel_a_board_hears_all_and_its_buttons_work() -> None:
    """Also while a cell runs; and nothing is left at the end."""
    async with kernel() as client:
        client.execute(CELL)
        opened = await heard(client, lambda m: "_esm" in str(m["content"].get("data", "")))
        comm_id = opened["content"]["comm_id"]

        def say(**content: Any) -> None:
            data = {"method": "custom", "content": content}
            asked = {"comm_id": comm_id, "data": data}
            client.shell_channel.send(client.session.msg("comm_msg", asked))

        say(type="ready")
        hello = await heard(client, lambda m: custom(m).get("type") == "hello")
        assert custom(hello)["role"] == "teacher"
        await heard(client, tells_of("ready"))
        say(type="do", what="crash", g="gateway-02")
        await heard(client, tells_of("crash"))
        cell = client.execute("import time; lab.connect('ann'); time.sleep(3)")
        await heard(client, tells_of("set"))
        # Its end comes after that, or it would have been passed over.
        await heard(client, ends(cell))
        client.execute(END)
        left = await heard(client, lambda m: m["content"].get("name") == "stdout")
        assert left["content"]["text"].strip() == "[] []"


def test_a_page_that_asks_after_the_end_of_the_lab_gets_what_was_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With Run All the page is ready after the last cell, which closes the lab."""
    with Lab(gateways=2) as lab:
        room = lab.classroom()
        page = Page(BoardWidget(lab.loop, lab.cluster, room), monkeypatch)
        lab.connect("ann")
        lab.wait_until("ann is told", lambda: any('"set"' in text for text in room.feed.history))
    page.says(type="ready")
    assert page.types()[0] == "hello" and "set" in page.events()
    heard = len(page.heard)
    page.says(type="watching")
    assert len(page.heard) == heard and senders() == []
