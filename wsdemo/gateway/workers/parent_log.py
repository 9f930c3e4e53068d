"""Log of the parent: how does a process log that must have no thread when it forks?

It writes each line itself, in one piece. It never waits: when the log takes nothing at the moment,
the line is lost. There are few of them, and what they say is in `/stats` as well.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys

from wsdemo.gateway.log import FORMATS, STDERR, EntryFormatter
from wsdemo.streams import PIPE_BYTES


class DirectHandler(logging.Handler):
    """Writes records to a descriptor, if it takes them now."""

    def __init__(self, descriptor: int = STDERR) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._encoding = getattr(sys.stderr, "encoding", None) or "utf-8"

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n".encode(self._encoding, "backslashreplace")
        with contextlib.suppress(OSError):
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            if poll.poll(0):
                os.write(self._descriptor, line[:PIPE_BYTES])


def log_as_parent(log_format: str, level: str) -> None:
    """Let this process log so. A worker replaces it by a log of its own."""
    handler = DirectHandler()
    handler.setFormatter(EntryFormatter(FORMATS[log_format]()))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
