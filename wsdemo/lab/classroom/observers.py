"""Observer stream: how does a board get the past, the present and its buttons' answers?

A board that comes late is sent the history as fast as it reads, then `live`, then each batch as it
is made. A viewer's board gets the same batches; only a teacher's may press buttons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from wsdemo.lab.classroom.channel import UNREAD_BYTES, FeedChannel
from wsdemo.lab.classroom.controls import Tell
from wsdemo.lab.classroom.rate_limit import Throttle

PRESSES_PER_S: Final = 10.0
BURST: Final = 20
NOT_ADMITTED: Final = 4504

Document = dict[str, Any]


class BoardChannel:
    """One board on the network.

    Args:
        channel: accepted.
        press: presses a button; None when this board may not.
    """

    def __init__(
        self, channel: FeedChannel, press: Callable[[Document, Tell], None] | None
    ) -> None:
        self.channel = channel
        self._press = press
        self._late: list[str] | None = []
        """Batches that were made while it was sent the past; None when it has all of it."""
        self._late_bytes = 0

    def publish(self, text: str) -> None:
        """Send a batch, or keep it until the past has been sent: within a limit."""
        if self._late is None:
            self.channel.send(text)
            return
        self._late.append(text)
        self._late_bytes += len(text)
        if self._late_bytes > UNREAD_BYTES:
            self.channel.reset()

    async def catch_up(self, hello: Document, history: Sequence[str]) -> None:
        """Send the past.

        Raises:
            OSError: the board is gone, or does not read.
        """
        self.channel.tell(hello)
        await self.channel.send_slowly(history)
        while self._late:
            late, self._late, self._late_bytes = self._late, [], 0
            await self.channel.send_slowly(late)
        self._late = None
        self.channel.tell({"type": "live"})

    async def receive(self) -> None:
        """Take what its buttons ask for, until it is gone."""
        throttle = Throttle(PRESSES_PER_S, BURST)
        await self.channel.receive(self._take, lambda: throttle)

    def _take(self, document: Document) -> None:
        if document.get("type") != "do":
            return
        if self._press is None:
            self.channel.tell({"type": "failed", "why": "only the teacher may do that"})
        else:
            self._press(document, self.channel.tell)


class Observers:
    """All boards on the network."""

    def __init__(self) -> None:
        self.boards: set[BoardChannel] = set()

    def publish(self, text: str) -> None:
        """Send a batch to all of them."""
        for board in list(self.boards):
            board.publish(text)

    async def serve(self, board: BoardChannel, hello: Document, history: Sequence[str]) -> None:
        """Serve a board until it is gone.

        Raises:
            OSError: it did not read.
        """
        self.boards.add(board)
        try:
            await board.catch_up(hello, history)
            await board.receive()
        finally:
            self.boards.discard(board)

    def close(self, reason: str) -> None:
        """Tell all boards on the network that it is over."""
        for board in list(self.boards):
            board.channel.close(1001, reason)
