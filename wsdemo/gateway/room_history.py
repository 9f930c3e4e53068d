"""History of a room: what does a client that joins hear of what was said before?

The last messages, or all after the one that it heard last. A position is an epoch and an offset, as
in an inbox: the epoch names the history and the run of Redis, and the offset names one message, not
only its number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from wsdemo.protocol import MAX_ID_CHARS, ProtocolError, Say

LOG_OFFSET: Final = re.compile(r"[0-9]{1,16}-[0-9]{1,19}")


class HistoryWish(NamedTuple):
    """What a client that joins wants to hear."""

    most: int
    """So many messages, when the client has no position, or it is not known any more."""
    epoch: str = ""
    offset: str = ""

    @property
    def has_position(self) -> bool:
        return bool(self.epoch)


class RoomBacklog(NamedTuple):
    """What a room has said before a client joined."""

    recovered: bool
    """Whether nothing is missing between the client's position and this."""
    epoch: str
    last: str
    messages: list[bytes]


def history_wish(document: Mapping[str, Any], most: int) -> HistoryWish | None:
    """Read what a join says about history; None when it says nothing.

    Args:
        most: messages that the room keeps.

    Raises:
        ProtocolError: a field is wrong.
    """
    wanted, epoch, offset = (document.get(name) for name in ("history", "epoch", "offset"))
    if wanted is None and epoch is None and offset is None:
        return None
    wanted = most if wanted is None else wanted
    if type(wanted) is not int or wanted < 1 or (epoch is None) != (offset is None):
        raise ProtocolError(Say.INVALID)
    if epoch is None:
        return HistoryWish(min(wanted, most))
    if not isinstance(epoch, str) or not 0 < len(epoch) <= MAX_ID_CHARS:
        raise ProtocolError(Say.INVALID)
    if not isinstance(offset, str) or not LOG_OFFSET.fullmatch(offset):
        raise ProtocolError(Say.INVALID)
    return HistoryWish(min(wanted, most), epoch, offset)


def backlog_of(reply: Sequence[Any]) -> RoomBacklog:
    """Read the reply of `room_log.lua`."""
    recovered, epoch, last, *rows = reply
    messages = [
        b'%b,"offset":"%b"}' % (text, offset)
        for offset, text in zip(rows[::2], rows[1::2], strict=True)
    ]
    return RoomBacklog(bool(recovered), epoch.decode(), last.decode(), messages)


def number_of(offset: str) -> int:
    """Return the number in an offset; 0 when there is none."""
    number = offset.partition("-")[0]
    return int(number) if number.isdecimal() else 0
