"""Receipts: what became of a message that we sent?

Each message has an id, and its answer names that id. The last receipts are kept for a while, since
an answer may be corrected.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from wsdemo.protocol import Status

RECENT: Final = 1024
"""How many receipts are kept for a late correction."""
FINAL: Final = frozenset(Status) - {Status.BUSY, Status.UNKNOWN}
"""Answers to a durable message after which it is not sent again. An old gateway, which does not
know the word, has sent it as a plain message: then it is `routed`, and not stored."""
_STATUSES: Final = frozenset(status.value for status in Status)


@dataclass(slots=True, eq=False)
class Receipt:
    """The outcome of a message that we sent, as far as the gateways know.

    `status` may still change after it is known: a message that was `routed` can come back as
    `unreachable` when its recipient's gateway no longer has that session. `stored` and `duplicate`
    do not change: the message is in the inbox of its recipient.
    """

    id: str
    to: str
    """The recipient: a user, or a room."""
    status: Status | None = None
    error: str = ""
    latency_s: float = float("nan")
    """From sending to the answer."""
    _sent_at: float = field(default=0.0, repr=False)
    _settled: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def settled(self) -> Status:
        """Wait until something is known."""
        await self._settled.wait()
        assert self.status is not None
        return self.status

    def settle(self, status: Status, now: float, error: str = "") -> None:
        """Set the status; the first one sets the latency as well."""
        if not self._settled.is_set():
            self.latency_s = now - self._sent_at
            self._settled.set()
        self.status = status
        self.error = error

    def again(self) -> None:
        """Wait for an answer once more: the message is sent again."""
        self._settled.clear()


class Receipts:
    """The receipts of one client.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.pending: OrderedDict[str, Receipt] = OrderedDict()
        """Those that were sent and not answered."""
        self.recent: OrderedDict[str, Receipt] = OrderedDict()

    def require_new(self, msg_id: str, to: str) -> None:
        """Check an id that the application has chosen: an answer names nothing but the id.

        Raises:
            ValueError: a message with this id waits for its answer, or went to somebody else.
        """
        known = self.recent.get(msg_id)
        if msg_id in self.pending or (known is not None and known.to != to):
            raise ValueError(f"there is another message with the id {msg_id!r}")

    def sent(self, receipt: Receipt) -> None:
        """Expect an answer."""
        self.pending[receipt.id] = receipt
        self.recent[receipt.id] = receipt
        if len(self.recent) > RECENT:
            self.recent.popitem(last=False)

    def answered(self, msg_id: object, status: str, error: str = "") -> Receipt | None:
        """Note an answer; return the receipt that it is about, if there is one."""
        receipt = self.recent.get(msg_id) if isinstance(msg_id, str) else None
        if receipt is None or status not in _STATUSES:
            return None
        if receipt.status in (Status.STORED, Status.DUPLICATE):
            return None  # The answer to a repetition, which came later.
        receipt.settle(Status(status), self._clock(), error)
        return receipt

    def lost(self, why: str) -> None:
        """Settle all that waits: its answer cannot come any more."""
        for receipt in self.pending.values():
            receipt.settle(Status.UNKNOWN, self._clock(), why)
        self.pending.clear()
