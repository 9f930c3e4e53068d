"""Inbox: how does a user catch up on messages, and what does a position in the inbox tell?

`NumberedInbox` is wrong on purpose: one stream of Redis, in which a position is only a number. The
product's inbox (`wsdemo.inbox`) gives each message a random mark beside its number. `InboxReplica`
takes its place in a failover.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import redis

from wsdemo.lab.lab import Lab

TIMEOUT_S: Final = 5.0
KIND: Final = "lesson-inbox"

STORE: Final = """
-- KEYS inbox  ARGV text  -> the number
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local n = last and tonumber(string.match(last[1], '^%d+')) or 0
redis.call('XADD', KEYS[1], string.format('%.0f-0', n + 1), 'text', ARGV[1])
return n + 1
"""


class InboxReading(NamedTuple):
    """What a reader gets."""

    answer: str
    """`recovered`: nothing is missing after your position. `reset`: your position is not here."""
    position: int
    """Where to go on the next time, where a position is only a number."""
    texts: list[str]


class NumberedInbox:
    """The inbox of one user, on the Redis of a laboratory. A position is only a number."""

    def __init__(self, lab: Lab, user: str) -> None:
        self._lab = lab
        self._key = lab.cluster.keyspace.key(KIND, user)

    def store(self, text: str) -> int:
        """Store a message; return its number."""
        with _database(self._lab) as database:
            return int(database.eval(STORE, 1, self._key, text))

    def read(self, position: int = 0) -> InboxReading:
        """Return what was stored after a position."""
        with _database(self._lab) as database:
            found: Any = database.xrange(self._key)
        rows = [(int(place.partition(b"-")[0]), row[b"text"].decode()) for place, row in found]
        numbers = [0, *(number for number, _ in rows)]
        here = position in numbers
        texts = [text for number, text in rows if number > position or not here]
        return InboxReading("recovered" if here else "reset", numbers[-1], texts)


class InboxReplica:
    """What a replica had of a user's inbox at the moment when this was made."""

    def __init__(self, lab: Lab, user: str) -> None:
        self._lab = lab
        keys = [lab.cluster.keyspace.key(kind, user) for kind in (KIND, "inbox", "inboxmeta")]
        with _database(lab) as database:
            self._had = {key: database.dump(key) for key in keys}

    def take_over(self) -> None:
        """Go on with that: what came after it is lost."""
        with _database(self._lab) as database:
            for key, value in self._had.items():
                database.delete(key)
                if value is not None:
                    database.restore(key, 0, value)


def _database(lab: Lab) -> redis.Redis:
    return redis.Redis.from_url(lab.cluster.redis_url, socket_timeout=TIMEOUT_S)
