"""Jupyter widget: how does the board get into a notebook, over the kernel's own connection?

It needs no port, so a hub or Binder will do. Batches go out from a thread of the widget's own, as
ipywidgets allows: the board goes on while a cell runs. What a button says comes in on the kernel's
thread, so it waits until the cell has ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import traitlets

from wsdemo.lab.classroom.bundle import STATIC, bundle
from wsdemo.lab.classroom.feed import TICK_S, Feed, describe
from wsdemo.lab.errors import LabRefused

if TYPE_CHECKING:
    from wsdemo.lab.classroom.room import Classroom
    from wsdemo.lab.cluster.cluster import Cluster
    from wsdemo.lab.loop import LabLoop

try:
    import anywidget
except ImportError:
    raise LabRefused(
        "the board in a cell needs anywidget: pip install 'wsdemo[lab]'. "
        "Without it, lab.classroom() shows an address of the board for a browser"
    ) from None

Document = dict[str, Any]

RENDER: Final = """
export default {
  render({ model, el }) {
    el.style.height = model.get("height");
    const board = new Board(el, { send: (what) => model.send(what) });
    globalThis.board = board;
    const heard = (message) => {
      if (message.type === "batches") message.texts.forEach((one) => board.batch(JSON.parse(one)));
      else if (message.type === "hello") { board.hello(message); board.connection(true); }
      else board.reply(message);
    };
    model.on("msg:custom", heard);
    model.send({ type: "ready" });
    const watching = setInterval(() => model.send({ type: "watching" }), 20000);
    return () => {
      clearInterval(watching);
      model.off("msg:custom", heard);
      model.send({ type: "gone" });
      board.destroy();
    };
  },
};
"""
SILENT_S: Final = 300.0
"""Nobody watches when no page has said so for this time. A cell that runs longer delays the word
of a page; then the board begins anew."""
UNSENT: Final = 3_000
"""So many batches may wait to be sent; beyond that, the board begins anew."""
AT_ONCE: Final = 200
"""At most so many batches go into one message."""

_feeds: dict[Cluster, Feed] = {}
"""Of labs without a class room, while they are open."""


class BoardWidget(anywidget.AnyWidget):
    """The board of a lab in a cell.

    With a class room it has the teacher's buttons: who can run cells can do anything anyway.
    Without one it only shows.

    Args:
        loop: of the lab, which is open.
        cluster: of the lab.
        room: its class room, if it has one.
        height: of the board, as CSS says it.
    """

    _esm = bundle() + RENDER
    _css = (STATIC / "board.css").read_text(encoding="utf-8")
    height = traitlets.Unicode("640px").tag(sync=True)
    _sender: threading.Thread | None = None
    """Set here too: a widget that could not be made is closed as well."""

    def __init__(
        self,
        loop: LabLoop,
        cluster: Cluster,
        room: Classroom | None = None,
        height: str = "640px",
    ) -> None:
        feed = _feed_of(loop, cluster) if room is None else room.feed
        super().__init__(height=height)
        self._loop, self._cluster, self._room, self._feed = loop, cluster, room, feed
        self._lock = threading.Lock()
        """Guards `_unsent`: batches come from the lab's thread, answers to buttons as well."""
        self._unsent: list[str | Document] = []
        self._over = threading.Event()
        self._watched_at = 0.0
        self.on_msg(self._heard)

    # --- from the page -----------------------------------------------------------------------

    def _heard(self, _: object, content: Document, buffers: object) -> None:
        kind = content.get("type")
        self._watched_at = time.monotonic()
        sending = self._sender is not None and self._sender.is_alive()
        if kind == "ready" and self._loop.closed:
            self._send_recorded()
        elif kind == "ready" or (kind == "watching" and not sending):
            self._begin()
        elif kind == "gone":
            self._end()
        elif kind == "do":
            self._do(content)

    def _do(self, content: Document) -> None:
        room = self._room
        if room is None:
            why = "a board without a class room only shows: lab.classroom() has the buttons"
            self._tell({"type": "failed", "what": content.get("what"), "why": why})
        else:
            self._loop.call(lambda: room.do(content, self._tell))

    # --- to the page -------------------------------------------------------------------------

    def _begin(self) -> None:
        """Send everything from the beginning; a page that has it already begins anew as well."""
        self._end()
        if self._loop.closed:
            return
        self._loop.call(self._queue_all)
        self._over = threading.Event()
        self._sender = threading.Thread(
            target=self._send_all, args=(self._over,), name="board in a cell", daemon=True
        )
        self._sender.start()

    def _send_recorded(self) -> None:
        """Send what there is of a closed lab. With Run All, the page asks after the last cell."""
        history = self._feed.history
        for message in in_messages([self._hello(len(history)), *history]):
            self.send(message)

    def _queue_all(self) -> None:
        """Put the hello and all batches so far before those to come. On the lab's loop."""
        self._feed.unlisten(self._on_batch)
        history = self._feed.listen(self._on_batch)
        with self._lock:
            self._unsent = [self._hello(len(history)), *history]

    def _hello(self, history: int) -> Document:
        room = self._room
        shown = {"url": room.url.split("://")[1], "code": room.seats.code} if room else {}
        return {
            "type": "hello",
            "v": 1,
            "role": "teacher" if room else "viewer",
            "lab": describe(self._cluster),
            "room": shown,
            "t": round(self._feed.now, 3),
            "history": history,
        }

    def _on_batch(self, text: str) -> None:
        if len(self._unsent) > UNSENT + len(self._feed.history):
            self._queue_all()
        else:
            self._tell(text)

    def _tell(self, message: str | Document) -> None:
        with self._lock:
            self._unsent.append(message)

    def _send_all(self, over: threading.Event) -> None:
        """The sender's thread: it ends with the lab, and when nobody watches any more."""
        while not over.wait(TICK_S) and not self._loop.closed:
            if time.monotonic() > self._watched_at + SILENT_S:
                break
            with self._lock:
                unsent, self._unsent = self._unsent, []
            for message in in_messages(unsent):
                self.send(message)
        self._feed.unlisten(self._on_batch)

    def _end(self) -> None:
        """Send nothing any more, until a page asks again. Idempotent."""
        sender, self._sender = self._sender, None
        if sender is not None:
            self._over.set()
            sender.join()

    def close(self) -> None:
        """Take the board away. Idempotent."""
        self._end()
        super().close()


def in_messages(unsent: Iterable[str | Document]) -> Iterator[Document]:
    """Return what is to be sent in few messages: batches that follow each other go into one."""
    for are_batches, group in groupby(unsent, lambda one: isinstance(one, str)):
        if not are_batches:
            yield from (one for one in group if not isinstance(one, str))
            continue
        texts = list(group)
        for first in range(0, len(texts), AT_ONCE):
            yield {"type": "batches", "texts": texts[first : first + AT_ONCE]}


def _feed_of(loop: LabLoop, cluster: Cluster) -> Feed:
    """Return a feed of a lab without a class room; it ends with the lab."""
    if cluster not in _feeds:

        async def stop() -> None:
            await _feeds.pop(cluster).stop()

        def start() -> Feed:
            feed = Feed(cluster)
            feed.start()
            cluster.at_stop(stop)
            return feed

        _feeds[cluster] = loop.call(start)
    return _feeds[cluster]
