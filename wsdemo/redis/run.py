"""Run id: is this the Redis process that has confirmed what we wrote, or another one?

A Redis that was restarted, or a replica that took over, may have lost what had been confirmed. Its
run id is another one. So a position that a client keeps names the run in which it was given: a loss
that nobody has seen is noticed all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from wsdemo.redis.interface import Link
from wsdemo.redis.link import LinkDown
from wsdemo.redis.outcome import CommandError

RUN_ID: Final = re.compile(rb"^run_id:([0-9a-f]{8})", re.MULTILINE)
"""In the reply to INFO. Eight digits of it are enough to tell two runs apart."""
NO_RUN: Final = "the run id of Redis is not known"

HearRun = Callable[[str | None, CommandError | None], None]
"""Takes the run, or None and perhaps why Redis does not let us ask."""


def ask_run(link: Link, hear: HearRun) -> None:
    """Ask for the run on each new connection. Call it before the link starts.

    No other command leaves before `hear` was called, so none is sent with the run of the server
    before this one.
    """
    link.ask_first(partial(_hear_info, hear), "INFO", "server")


def _hear_info(hear: HearRun, reply: Any) -> None:
    found = RUN_ID.search(reply) if isinstance(reply, bytes) else None
    hear(found and found[1].decode(), reply if isinstance(reply, CommandError) else None)


def require_run(run: str | None) -> str:
    """Return a run that is known.

    Raises:
        LinkDown: it is not.
    """
    if run is None:
        raise LinkDown(NO_RUN)
    return run
