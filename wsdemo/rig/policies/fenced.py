"""Fencing tokens: what is the product's own presence, as one policy among the others?

Redis issues a token before the write, and every later write has it. No clock of a gateway is read,
so the wall clock is not used.
"""

from __future__ import annotations

from collections.abc import Callable

from wsdemo.presence import Presence, RedisPresence
from wsdemo.redis.interface import Link
from wsdemo.settings import Keyspace, Timing


def fenced_presence(
    link: Link, keyspace: Keyspace, timing: Timing, wall_clock: Callable[[], float]
) -> Presence:
    """Return the presence that every gateway of the product has."""
    return RedisPresence(link, keyspace, timing)
