"""The board in a notebook, over the kernel's connection: no port, so a hub or Binder will do.

It needs anywidget. Batches come from the lab's thread; a comm belongs to the kernel's, so they
are handed over on the kernel's loop, in one message each.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anywidget
import traitlets

from wsdemo.lab.classroom.recording import BOARD, bundle
from wsdemo.lab.classroom.room import STATIC, Classroom

RENDER = """
export default {
  render({ model, el }) {
    el.style.height = model.get("height");
    const board = new Board(el, { send: (what) => model.send(what) });
    globalThis.board = board;
    model.on("msg:custom", (m) => {
      if (m.type === "batches") for (const batch of m.batches) board.batch(batch);
      else if (m.type === "hello") { board.hello(m); board.connection(true); }
      else board.reply(m);
    });
    model.send({ type: "ready" });
    return () => board.destroy();
  },
};
"""


class Board(anywidget.AnyWidget):
    """The board of a room, with the teacher's buttons: who can run cells can do anything anyway."""

    _esm = bundle(*BOARD) + RENDER
    _css = (STATIC / "board.css").read_text()
    height = traitlets.Unicode("640px").tag(sync=True)

    def __init__(self, room: Classroom, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._room = room
        self._kernel = asyncio.get_running_loop()
        self._listening = False
        self.on_msg(self._heard)

    def _heard(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        if content.get("type") == "ready":
            self._begin()
        elif content.get("type") == "do":
            lab_loop = self._room.lab._driver.loop
            lab_loop.call_soon_threadsafe(self._room.do, content, self._tell)

    def _begin(self) -> None:
        before, hello = self._room.lab._do(lambda: self._room.listen(self._on_batch) if not self._listening else self._again())
        self._listening = True
        self.send(json.loads(hello))
        for start in range(0, len(before), 200):
            self.send({"type": "batches", "batches": [json.loads(text) for text in before[start : start + 200]]})

    def _again(self) -> tuple[list[str], str]:
        return list(self._room.feed.history), json.dumps(self._room._hello("teacher"))

    def _tell(self, document: dict[str, Any]) -> None:
        self._kernel.call_soon_threadsafe(self.send, document)

    def _on_batch(self, text: str) -> None:
        self._kernel.call_soon_threadsafe(lambda: self.send({"type": "batches", "batches": [json.loads(text)]}))
