"""Logging: how does the log leave a gateway process, at what cost, and what if nobody reads it?

Everything leaves through one `LineWriter`, in order: the journal's lines, one for each message, as
finished text; everything else, also from libraries, as records of the logging module. An entry is
one line, whatever characters it has; only a traceback stands in more lines below it. As JSON, an
entry is always one line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from types import TracebackType
from typing import Final, NoReturn, Protocol, Self

from wsdemo.gateway.journal import GATEWAY_LOG, LEFT, REGISTERED, ROUTED, ROUTER_LOG, Journal
from wsdemo.streams import LineHandler, LineWriter, dropped_note

STDERR: Final = 2
_now: Final = time.time
_quoted: Final = json.JSONEncoder().encode
"""`json.dumps`, which looks at nine options first."""
IMPATIENT_S: Final = 0.2
"""How long the last lines are waited for when a process is ended at once."""


class Format(Protocol):
    """How an entry looks."""

    def info(self, now: float, logger: str, text: str) -> str:
        """Return an entry of level INFO."""
        ...

    def record(self, record: logging.LogRecord) -> str:
        """Return a record of the logging module as an entry."""
        ...


Stamp = tuple[float, float, str]
"""A second, the next one (Unix time), and the time as it stands at the beginning of an entry.
(No whole numbers: to compare those with a `float` takes ten times as long.)"""


class Text:
    """`2026/11/26 07:19:34 [Router] Routed message ...`, as the demo's log looks.

    Args:
        worker: stands behind the time, where several workers write one log.
    """

    def __init__(self, worker: str = "") -> None:
        self._stamp: Stamp = (0.0, 0.0, "")
        self._worker = f" {worker}" if worker else ""

    def info(self, now: float, logger: str, text: str) -> str:
        return self._entry(now, text)

    def stamp(self, now: float) -> Stamp:
        """Return the stamp of this moment; it is made once a second."""
        stamp = self._stamp
        if not stamp[0] <= now < stamp[1]:  # A clock may be set back, too.
            text = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(now)) + self._worker
            # Several threads use it: a new one takes the place of the old one in one step.
            second = float(int(now))
            self._stamp = stamp = (second, second + 1.0, text)
        return stamp

    def record(self, record: logging.LogRecord) -> str:
        entry = self._entry(record.created, record.getMessage())
        details = _details(record)
        if not details:
            return entry
        return "\n".join([entry, *(_escaped(line, "\t") for line in details.splitlines())])

    def _entry(self, now: float, text: str) -> str:
        entry = f"{self.stamp(now)[2]} {text}"
        return entry if entry.isprintable() else _escaped(entry)


class Json:
    """One JSON object a line.

    Args:
        worker: who writes, where several workers write one log.
    """

    def __init__(self, worker: str = "") -> None:
        self._worker = f'"worker": {_quoted(worker)}, ' if worker else ""

    def info(self, now: float, logger: str, text: str) -> str:
        return self._entry(now, "info", logger, text)

    def record(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        entry = self._entry(record.created, level, record.name, record.getMessage())
        details = _details(record)
        return f'{entry[:-1]}, "exception": {_quoted(details)}}}' if details else entry

    def _entry(self, now: float, level: str, logger: str, text: str) -> str:
        return (
            f'{{"t": {now:.6f}, {self._worker}"level": "{level}", "logger": {_quoted(logger)}, '
            f'"message": {_quoted(text)}}}'
        )


FORMATS: Final[dict[str, type[Text] | type[Json]]] = {"text": Text, "json": Json}


def _details(record: logging.LogRecord) -> str:
    """Return the traceback and the stack of a record, if it has any."""
    parts = []
    if record.exc_info and record.exc_info[1] is not None:
        parts.append(_formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


_formatter = logging.Formatter()


def _escaped(text: str, but_for: str = "") -> str:
    """Escape what would end the line, move the cursor or change the direction of the text."""
    return "".join(
        c if c.isprintable() or c in but_for else c.encode("unicode_escape").decode() for c in text
    )


class EntryFormatter(logging.Formatter):
    """Makes an entry of a record."""

    def __init__(self, shape: Format) -> None:
        super().__init__()
        self._shape = shape

    def format(self, record: logging.LogRecord) -> str:
        return self._shape.record(record)


class ProcessJournal(LineWriter):
    """A line writer with a journal: its lines need no log record, no handler and no lock.

    Args:
        descriptor: where it writes to.
        shape: how an entry looks.
        encoding: of the output.
    """

    def __init__(self, descriptor: int, shape: Format, encoding: str = "utf-8") -> None:
        self._shape = shape

        def note(lines: int) -> str:
            text = dropped_note(lines)
            return shape.record(
                logging.LogRecord(GATEWAY_LOG, logging.WARNING, "", 0, text, None, None)
            )

        super().__init__(descriptor, note, encoding)

    def routed(self, sender: str, to: str, gateway: bytes) -> None:
        self._say(ROUTER_LOG, ROUTED % (sender, to, gateway.decode()))

    def registered(self, user: str, gateway: str, conn_id: str) -> None:
        self._say(GATEWAY_LOG, REGISTERED % (user, gateway, conn_id))

    def left(self, user: str, conn_id: str) -> None:
        self._say(GATEWAY_LOG, LEFT % (user, conn_id))

    def _say(self, logger: str, text: str) -> None:
        self.add(self._shape.info(_now(), logger, text))


class TextJournal(ProcessJournal):
    """The same as text; the line of each message is made with as few steps as possible."""

    def __init__(self, descriptor: int, shape: Text, encoding: str = "utf-8") -> None:
        self._stamp_of = shape.stamp
        self._stamp: Stamp = (0.0, 0.0, "")
        super().__init__(descriptor, shape, encoding)

    def routed(self, sender: str, to: str, gateway: bytes) -> None:
        # As `add` does it, without a call. No name breaks the line: `UserIds` has judged both, and
        # the script the gateway's.
        waiting, now, stamp = self._text, _now(), self._stamp
        if len(waiting) > self._limit:
            super().routed(sender, to, gateway)
            return
        if not stamp[0] <= now < stamp[1]:
            stamp = self._stamp = self._stamp_of(now)
        waiting += (
            f"{stamp[2]} [Router] Routed message from {sender} to {to} "
            f"via gateway {gateway.decode()}\n"
        ).encode(self._encoding, "backslashreplace")
        if self._asleep:
            self._bell.ring()


def journal_of(shape: Format, descriptor: int, encoding: str) -> ProcessJournal:
    """Return the cheapest journal for entries of this shape."""
    if isinstance(shape, Text):
        return TextJournal(descriptor, shape, encoding)
    return ProcessJournal(descriptor, shape, encoding)


class QuietJournal:
    """For the levels above INFO: none of these lines is written."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    @property
    def dropped(self) -> int:
        return self._writer.dropped

    def routed(self, sender: str, to: str, gateway: bytes) -> None:
        pass

    def registered(self, user: str, gateway: str, conn_id: str) -> None:
        pass

    def left(self, user: str, conn_id: str) -> None:
        pass


class Log:
    """The log of a process, from its first line to its last, as a context manager.

    Args:
        log_format: a name in `FORMATS`.
        level: a name of the logging module's, in small letters.
        worker: who writes, where several workers write one log.
    """

    def __init__(
        self, log_format: str, level: str, descriptor: int = STDERR, worker: str = ""
    ) -> None:
        shape = FORMATS[log_format](worker)
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        writer = journal_of(shape, descriptor, encoding)
        self._handler = LineHandler(writer)
        self._handler.setFormatter(EntryFormatter(shape))
        self._level = level.upper()
        is_quiet = logging.getLevelNamesMapping()[self._level] > logging.INFO
        self.journal: Journal = QuietJournal(writer) if is_quiet else writer

    def __enter__(self) -> Self:
        logging.basicConfig(level=self._level, handlers=[self._handler], force=True)
        logging.captureWarnings(True)
        # What Python prints by itself would block the event loop.
        sys.excepthook = _log_uncaught
        sys.unraisablehook = _log_unraisable
        threading.excepthook = _log_thread
        return self

    def flush(self) -> None:
        """Wait a moment until all lines are written."""
        self._handler.flush()

    def __exit__(self, *exc_info: object) -> None:
        """Flush. The writer stays open for lines of code that ends later."""
        self.flush()


def _log_uncaught(
    kind: type[BaseException], problem: BaseException, traceback: TracebackType | None
) -> None:
    logging.getLogger(GATEWAY_LOG).critical(
        "[Gateway] ended by an error", exc_info=(kind, problem, traceback)
    )


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    if args.exc_value is None:
        return
    logging.getLogger(GATEWAY_LOG).error(
        "[Gateway] %s %s",
        args.err_msg or "nobody catches an error in",
        getattr(args.object, "__qualname__", None) or object.__repr__(args.object),
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
    )


def _log_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    name = args.thread.name if args.thread is not None else "?"
    logging.getLogger(GATEWAY_LOG).error(
        "[Gateway] thread %s ended by an error",
        name,
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
    )


def end_at_once(code: int) -> NoReturn:
    """End the process without a drain, after a moment for the last lines of the log."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.flush(IMPATIENT_S)
    os._exit(code)
