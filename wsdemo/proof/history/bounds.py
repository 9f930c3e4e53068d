"""Bounds: how long may things take in a history, and how near must a fault be to explain them?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple


class Near(NamedTuple):
    """How near in time a fault must be to explain an event, in seconds.

    The fault began at most `before_s` after the event, or had ended at most `after_s` before it.
    """

    before_s: float = 0.5
    after_s: float = 1.0


NEAR: Final = Near()
"""In nine recorded runs of real processes, no loss was farther from a fault than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long things may take, and how near a fault must be. Seconds."""

    answer_s: float
    """From a message with an id to its answer: the Redis timeout of its gateway, plus a second."""
    arrive_s: float
    """From a message to its arrival, while no fault is active."""
    pong_s: float
    """From a ping to its pong."""
    settle_s: float
    """A user who has been online all the time must be found so long after a fault."""
    aftermath_s: float
    """What a fault leaves (a half-open socket, a session without a lease) may still end a session
    so long after it."""
    register_s: float
    """How long a register may take until its client has the answer."""
    near: Near = NEAR


Causes = Mapping[int, frozenset[str] | None]
"""Which faults explain a close code; None: every fault does. A code that is not in it is right only
when the user ended the session, or when a newer session took its place."""

MACHINE: Final = "(the machine)"
"""Stands among the names of faults for a machine that was too busy."""

DEFINITELY_NOT: Final = frozenset({"offline", "unreachable", "busy", "refused"})
"""Answers that promise that the message was not delivered and will not be.

`unreachable` is one of them. It means that nobody listened, or that the gateway which listened had
no such session and sent the message back. A gateway never delivers a message and sends it back too.
`unknown` promises nothing, and `routed` promises only that somebody listened.
"""
