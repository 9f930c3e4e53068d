"""Flow control of an inbox: when is it read for one connection, and what is written?

Pure: a `Pump` is told what happened (a hint, a page, an acknowledgement, room on the wire), and
asks its port for what is to be done. The inbox is the buffer: while the reader is slow nothing is
read, so nothing can overflow. Pub/Sub is a hint: whatever it says, the inbox is read.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from wsdemo.inbox import InboxPage


class Resumed(NamedTuple):
    """What a client is told that begins to read, or that has lost something."""

    recovered: bool
    epoch: str
    offset: str
    last: str
    missed: int | None
    """How many messages are lost; None when that is not known, or there is nothing to count."""


class InboxPort(Protocol):
    """What a pump acts through."""

    def has_room(self) -> bool:
        """Say whether the wire takes more."""
        ...

    def read(self, position: tuple[str, str], most: int) -> None:
        """Ask for a page: its answer comes to `Pump.page` or `Pump.failed`."""
        ...

    def write(self, offset: bytes, head: bytes) -> None:
        """Send a message to the client."""
        ...

    def tell(self, resumed: Resumed) -> None:
        """Tell the client where it goes on."""
        ...


def number(offset: str) -> int:
    """Return the number of an offset: messages are counted without holes."""
    return int(offset.partition("-")[0])


class Pump:
    """The way from one user's inbox to one connection.

    Args:
        window: how many messages may be on their way without an acknowledgement.
        position: what the client had last; `NO_POSITION` when it knows none.
        automatic: the client knows nothing of acknowledgements: what is written counts as taken.
    """

    __slots__ = (
        "_hinted",
        "_port",
        "_reading",
        "_started",
        "_untold",
        "_window",
        "acked",
        "automatic",
        "behind",
        "ended",
        "epoch",
        "sent",
        "to_ack",
    )

    def __init__(
        self, port: InboxPort, window: int, position: tuple[str, str], *, automatic: bool = False
    ) -> None:
        self._port = port
        self._window = window
        self.epoch, self.sent = position
        """What was sent last."""
        self.acked = number(self.sent)
        """The number of what was acknowledged last."""
        self.automatic = automatic
        self._reading = self._started = False
        self._hinted: tuple[str, str] | None = None
        """The newest message of which a hint has told since a page was asked for."""
        self._untold = False
        """Whether the client has yet to confirm that it was told where it goes on."""
        self.ended = False
        self.behind = True
        """Whether there may be more in the inbox than was sent."""
        self.to_ack: tuple[str, str] | None = None
        """The position that Redis has to be told of."""

    # --- what is written, and when -------------------------------------------------------------

    @property
    def _open(self) -> int:
        """How many messages may be sent now."""
        if self.ended or not self._port.has_room():
            return 0
        return self._window - (number(self.sent) - self.acked)

    def pump(self) -> None:
        """Read on, if there may be more and the client can take it."""
        if self.behind and not self._reading and (room := self._open) > 0:
            self.behind, self._reading = False, True
            self._port.read((self.epoch, self.sent), room)

    def look(self) -> None:
        """Take note that a hint may have been lost."""
        self.behind = True
        self.pump()

    def hint(self, epoch: str, offset: str) -> bool:
        """Take note that something was stored; say whether it was news."""
        if not self._is_news(epoch, offset):
            return False  # A page was faster.
        hinted = self._hinted
        if not self._reading:
            self.look()
        elif hinted is None or (epoch == hinted[0] and number(offset) > number(hinted[1])):
            self._hinted = (epoch, offset)  # It may be on the page that is on its way.
        elif hinted != (epoch, offset):
            self.behind = True
        return True

    def _is_news(self, epoch: str, offset: str) -> bool:
        """Say whether a message may not have been sent yet."""
        if self._started and epoch == self.epoch:
            n, sent = number(offset), number(self.sent)
            if n < sent or offset == self.sent:
                return False
        return True

    def newest(self, last: str) -> None:
        """Take note of the newest message that there is, as it was when the lease was renewed."""
        if self._started and not self._reading and last != self.sent:
            self.look()

    def failed(self) -> None:
        """Take note that a page could not be read. Somebody has to call `pump` later."""
        self._reading, self.behind = False, True
        self._hinted = None

    def page(self, page: InboxPage) -> None:
        """Send what was read."""
        self._reading = False
        hinted, self._hinted = self._hinted, None
        if self.ended:
            return
        if not page.recovered or not self._started:
            self._begin(page)
        for offset, head in page.rows:
            self._put(offset, head)
            if self.ended:
                return
        if page.rows and self.sent != page.last:
            self.behind = True  # Without rows there is no more, whatever Redis calls the last one.
        if hinted is not None and self._is_news(*hinted):
            self.behind = True
        self.pump()

    def _begin(self, page: InboxPage) -> None:
        """Go on from where the page says. Without an acknowledgement of it, a later session is told
        again: what was told may have been lost on the wire.
        """
        same_birth = self.epoch.partition(".")[0] == page.epoch.partition(".")[0]
        missed = number(page.since) - number(self.sent)
        knows = not page.recovered and same_birth and missed >= 0
        self._started, self.epoch, self.sent = True, page.epoch, page.since
        self.acked = number(page.since)
        self._untold, self.to_ack = True, None
        if self.automatic:
            self._untold, self.to_ack = False, (page.epoch, page.since)
        self._port.tell(
            Resumed(page.recovered, page.epoch, page.since, page.last, missed if knows else None)
        )

    def _put(self, offset: bytes, head: bytes) -> None:
        self.sent = offset.decode()
        if self.automatic:
            self.acked, self.to_ack = number(self.sent), (self.epoch, self.sent)
        self._port.write(offset, head)

    # --- acknowledgements ----------------------------------------------------------------------

    def ack(self, epoch: str, offset: str) -> bool:
        """Take note that the client has everything up to this offset; say whether that can be."""
        n = number(offset)
        if self.automatic or epoch != self.epoch or n > number(self.sent):
            return False
        if n > self.acked or (n == self.acked and self._untold):
            self.acked, self.to_ack, self._untold = n, (epoch, offset), False
            self.pump()
        return True
