"""Jupyter widget: how does the board get into a notebook, over the kernel's own connection?

Without a port, so a hub or Binder will do. Batches come from the lab's thread; a comm belongs to
the kernel's loop, so they are handed over there. The widget is made by `board_in_a_cell`, since
anywidget is an extra: it is not needed for anything else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import anywidget
import traitlets

from wsdemo.lab.classroom.bundle import STATIC, bundle
from wsdemo.lab.classroom.feed import Feed

if TYPE_CHECKING:
    pass

RENDER: Final = """
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
AT_ONCE: Final = 200
"""So many batches of the past go into one message."""
