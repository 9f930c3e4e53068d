"""What does the log say of each message and each user?

Three lines, one of which is written for every message that goes to another gateway: looked for by
everybody who misses a message, and at thousands a second the dearest part of one if it were an
ordinary log record. So they go through this seam. In a process of its own a gateway has a journal
that writes them cheaply (`log.py`); everywhere else they are records of the logging module, like
all its other lines. What was said in a message is in none of them.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

GATEWAY_LOG: Final = "wsdemo.gateway"
ROUTER_LOG: Final = "wsdemo.router"
"""Names of loggers. Both lines of the demo are found under the demo's words."""

ROUTED: Final = "[Router] Routed message from %s to %s via gateway %s"
REGISTERED: Final = "[Gateway] User %s registered on gateway %s (%s)"
LEFT: Final = "[Gateway] User %s left (%s)"


class Journal(Protocol):
    """Where the lines go that are written for every message and every user."""

    @property
    def dropped(self) -> int:
        """Return how many lines of the log could not be written."""
        ...

    def routed(self, sender: str, to: str, gateway: bytes) -> None: ...
    def registered(self, user: str, gateway: str, conn_id: str) -> None: ...
    def left(self, user: str, conn_id: str) -> None: ...


class LoggingJournal:
    """Through the logging module: what a user of the library expects."""

    dropped = 0

    def __init__(self) -> None:
        self._gateway = logging.getLogger(GATEWAY_LOG)
        self._router = logging.getLogger(ROUTER_LOG)

    def routed(self, sender: str, to: str, gateway: bytes) -> None:
        if self._router.isEnabledFor(logging.INFO):
            self._router.info(ROUTED, sender, to, gateway.decode())

    def registered(self, user: str, gateway: str, conn_id: str) -> None:
        self._gateway.info(REGISTERED, user, gateway, conn_id)

    def left(self, user: str, conn_id: str) -> None:
        self._gateway.info(LEFT, user, conn_id)
