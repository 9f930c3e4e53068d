"""Durable messages under way: which were stored, and not yet taken by their recipients?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from wsdemo.proof.history import GapTold, InboxesLost, InboxStored, Record, Taken


class UntakenMessages:
    """Follows the records of a history.

    Args:
        users: who read their inbox; what is stored for others is of no interest.
    """

    def __init__(self, users: Collection[str]) -> None:
        self._users = users
        self._stored: dict[str, dict[str, float]] = defaultdict(dict)
        """By user: when each message was stored."""
        self._taken: set[str] = set()

    def note(self, record: Record) -> None:
        """Take note of one record."""
        match record:
            case InboxStored(user=user, id=msg_id, t=t):
                if user in self._users and msg_id not in self._taken:
                    self._stored[user][msg_id] = t
            case Taken(user=user, id=msg_id):
                self._taken.add(msg_id)
                self._stored[user].pop(msg_id, None)
            case GapTold(user=user):
                self._stored[user].clear()
            case InboxesLost():
                self._taken.clear()
            case _:
                pass

    def since(self, stored_before: float) -> list[str]:
        """Return the messages that were stored before some time, and are still not taken."""
        return [
            msg_id
            for stored in self._stored.values()
            for msg_id, t in stored.items()
            if t < stored_before
        ]
