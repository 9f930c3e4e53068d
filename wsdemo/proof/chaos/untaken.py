"""Durable messages under way: which were stored, and not yet taken by their recipients?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from wsdemo.proof.history import (
    GapTold,
    InboxesLost,
    InboxStored,
    Record,
    Taken,
    user_of_device,
)


class UntakenMessages:
    """Follows the records of a history.

    Args:
        readers: the users who read their inbox, or their devices, each of which has to take every
            message; what is stored for others is of no interest.
    """

    def __init__(self, readers: Collection[str]) -> None:
        self._readers: dict[str, list[str]] = defaultdict(list)
        """By user."""
        for name in sorted(readers):
            self._readers[user_of_device(name)].append(name)
        self._stored: dict[str, dict[str, float]] = defaultdict(dict)
        """By reader: when each message was stored."""
        self._taken: set[tuple[str, str]] = set()
        """By reader, and id of the message."""

    def note(self, record: Record) -> None:
        """Take note of one record."""
        match record:
            case InboxStored(user=user, id=msg_id, t=t):
                for name in self._readers.get(user, ()):
                    if (name, msg_id) not in self._taken:
                        self._stored[name][msg_id] = t
            case Taken(user=name, id=msg_id):
                self._taken.add((name, msg_id))
                self._stored[name].pop(msg_id, None)
            case GapTold(user=name):
                self._stored[name].clear()
            case InboxesLost():
                self._taken.clear()
            case _:
                pass

    def since(self, stored_before: float) -> list[str]:
        """Return the messages that were stored before some time, and are still not taken; one as
        often as there are devices that have to take it.
        """
        return [
            msg_id
            for stored in self._stored.values()
            for msg_id, t in stored.items()
            if t < stored_before
        ]
