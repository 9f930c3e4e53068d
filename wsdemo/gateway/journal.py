"""Log lines: what does the log say about each message and each user?

There are three lines. One of them is written for every message that goes to another gateway: it
helps to find a lost message, but as an ordinary log record it would be the most expensive part of
a message. So these lines have an interface of their own. In a process of its own a gateway has a
journal that writes them cheaply (`log.py`); elsewhere they are records of the logging module, like
all other lines. No line contains the content of a message.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

GATEWAY_LOG: Final = "wsdemo.gateway"
ROUTER_LOG: Final = "wsdemo.router"
"""Names of loggers. The lines have the same words as the demo's."""

ROUTED: Final = "[Router] Routed message from %s to %s via gateway %s"
REGISTERED: Final = "[Gateway] User %s registered on gateway %s (%s)"
LEFT: Final = "[Gateway] User %s left (%s)"


class Journal(Protocol):
    """Takes the lines that are written for every message and every user."""

    @property
    def dropped(self) -> int:
        """Return how many lines of the log could not be written."""
        ...

    def routed(self, sender: str, to: str, gateway: bytes) -> None:
        """Take note of a message; both names are possible ones (`UserIds`): one line, printable."""

    def registered(self, user: str, gateway: str, conn_id: str) -> None: ...
    def left(self, user: str, conn_id: str) -> None: ...


class LoggingJournal:
    """Uses the logging module, as a user of the library expects."""

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
