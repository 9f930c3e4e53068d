"""Log with a snapshot: what does a board hear first that joins late, when memory has a limit?

All batches, in order. Beyond the limit the oldest are dropped, and one batch with the state at the
cut takes their place (`BoardState.snapshot`): a replay from the first batch still ends in the
right state, and what is lost is how it came to that.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from typing import Final

from wsdemo.lab.classroom.state import Batch, BoardState

HISTORY_BYTES: Final = 32 * 1024 * 1024
"""Nearly an hour of three hundred users who write and move."""


class History:
    """The batches of a feed, as they were sent.

    Args:
        limit_bytes: of all batches together, without the snapshot.
    """

    def __init__(self, limit_bytes: int = HISTORY_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._texts: deque[str] = deque()
        self._dropped: BoardState | None = None
        """The state after all batches that have been dropped."""
        self._snapshot = ""
        self._lock = threading.Lock()
        """A cell saves the run in its own thread; no batch may be dropped while it reads."""
        self.bytes = 0

    def add(self, text: str) -> None:
        """Keep one more batch, and drop the oldest that are too many."""
        with self._lock:
            self._texts.append(text)
            self.bytes += len(text)  # JSON of ours is ASCII.
            while self.bytes > self._limit_bytes and len(self._texts) > 1:
                self._drop(self._texts.popleft())

    def _drop(self, text: str) -> None:
        if self._dropped is None:
            self._dropped = BoardState()
        self._dropped.apply(json.loads(text))
        self._snapshot = ""
        self.bytes -= len(text)

    def texts(self) -> list[str]:
        """Return what a board has to hear before the next batch."""
        with self._lock:
            if self._dropped is None:
                return list(self._texts)
            if not self._snapshot:
                self._snapshot = encoded(self._dropped.snapshot())
            return [self._snapshot, *self._texts]


def decoded(text: str) -> Batch:
    """Return a batch from what was sent."""
    batch: Batch = json.loads(text)
    return batch


def encoded(batch: Batch) -> str:
    """Return a batch as it is sent."""
    return json.dumps(batch, separators=(",", ":"))
