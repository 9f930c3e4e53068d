"""Log lines: what have the gateways of a lab logged lately?

The lines are kept in memory. Printed from another thread, they would appear in the wrong cell.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from wsdemo.terminal import printable

LINES: Final = 500


class LogTail(logging.Handler):
    """Keeps the last lines of the product's log, from `attach` to `detach`."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=LINES)
        self._logger = logging.getLogger("wsdemo")
        self._level_before = self._logger.level

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def attach(self) -> None:
        """Keep lines from now on, those at level INFO too."""
        self._logger.addHandler(self)
        self._level_before = self._logger.level
        self._logger.setLevel(logging.INFO)

    def detach(self) -> None:
        """Keep no more lines, and leave the logger as it was."""
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level_before)

    def text(self, lines: int) -> str:
        """Return the last lines, safe to print in a terminal."""
        told = "\n".join(list(self._lines)[-lines:])
        return "\n".join(printable(line) for line in told.split("\n"))
