"""Resume: which durable messages has the application had, and which come again?

Three places in the inbox differ: what has arrived (the next connection goes on after it), what the
application has finished with (this is saved, and then acknowledged), and what was acknowledged.

After a loss of data a gateway may go back behind messages that have arrived. Offsets alone do not
show this, since an offset may be given to another message then. So a message counts as a double
only when the inbox (its birth) and the whole offset are the same.

Pure: it is told what came, and answers what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from wsdemo.client.items import Arrived, Message, Missed
from wsdemo.client.positions import Position, is_epoch, is_offset, number_of

REMEMBERED: Final = 1024
"""So many of the last messages are recognised when they come again."""
ACK_AFTER_MESSAGES: Final = 32
"""When the application has finished with so many, they are acknowledged at once."""
ACK_AFTER_S: Final = 1.0
"""The longest time between the end of a message and its acknowledgement."""


class InboxProgress:
    """The reading of one user's inbox by one client.

    Args:
        start: where an earlier process has stopped; None when there was none.
    """

    def __init__(self, user: str, device: str, start: Position | None) -> None:
        self._user, self._device = user, device
        self._arrived = self.finished = start or Position(user=user, device=device)
        self.acked: Position | None = None
        """What was acknowledged on this connection."""
        self._unacked = 0
        self._is_resumed = False
        self._known: dict[tuple[str, str], None] = {}

    # --- from the gateway --------------------------------------------------------------------

    def resume(self) -> dict[str, str]:
        """Return where to go on, for a register; nothing is acknowledged on that connection yet."""
        self._is_resumed, self.acked = False, None
        return {"epoch": self._arrived.epoch, "offset": self._arrived.offset}

    def resumed(self, document: Mapping[str, Any]) -> Arrived | None:
        """Note where the gateway goes on; return the gap, if there is one."""
        epoch, offset = document.get("epoch"), document.get("offset")
        if not is_epoch(epoch) or not is_offset(offset):
            return None  # Not a message of the protocol.
        before = self._arrived
        here = self._arrived = self._at(epoch, offset)
        self._is_resumed = True
        if document.get("recovered") is not True:
            count = document.get("missed")
            known = type(count) is int and count > 0
            return Arrived(Missed(count if known else None), here)
        if not before.epoch:
            self.finished = here  # On from what an earlier process has acknowledged.
        return None

    def arrived(self, message: Message) -> Arrived:
        """Note a message; return it, or only its position when it has come before."""
        offset = message.offset
        if not self._is_resumed or not is_offset(offset):
            return Arrived(message)  # Nobody knows its epoch.
        key = (self._arrived.birth, offset)
        is_double = number_of(offset) <= number_of(self._arrived.offset) or key in self._known
        if number_of(offset) > number_of(self._arrived.offset):
            self._arrived = self._at(self._arrived.epoch, offset)
        self._known[key] = None
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return Arrived(None if is_double else message, self._arrived)

    def _at(self, epoch: str, offset: str) -> Position:
        return Position(epoch, offset, self._user, self._device)

    # --- from the application ----------------------------------------------------------------

    def finish(self, position: Position) -> None:
        """Note that the application has finished with everything up to here."""
        self.finished = position
        self._unacked += 1

    @property
    def hurries(self) -> bool:
        """Whether so much is finished that it is to be acknowledged at once."""
        return self._unacked >= ACK_AFTER_MESSAGES

    def ack(self, finished: Position) -> dict[str, str] | None:
        """Return the acknowledgement of what is finished (and saved); None when the gateway knows
        it.
        """
        if not self._is_resumed or finished.epoch != self._arrived.epoch or finished == self.acked:
            return None  # What was finished in another epoch means nothing to this one.
        self.acked, self._unacked = finished, 0
        return {"type": "ack", "epoch": finished.epoch, "offset": finished.offset}
