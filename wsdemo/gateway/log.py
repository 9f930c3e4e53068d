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
_quoted: Final = json.JSONEncoder().encode
"""`json.dumps`, which looks at nine options first."""
IMPATIENT_S: Final = 0.2
"""How long the last lines are waited for when a process is ended at once."""


class Format(Protocol):
    """How an entry looks."""

    def info(self, logger: str, text: str) -> str:
        """Return an entry of level INFO, of now."""
        ...

    def record(self, record: logging.LogRecord) -> str:
        """Return a record of the logging module as an entry."""
        ...


class Text:
    """`2026/11/26 07:19:34 [Router] Routed message ...`, as the demo's log looks."""

    def __init__(self) -> None:
        self.second = self.next_second = 0
        """The second for which `stamp_now` was made, and the one after it (Unix time)."""
        self.stamp_now = ""

    def info(self, logger: str, text: str) -> str:
        return self._entry(time.time(), text)

    def stamp(self, now: float) -> str:
        """Return the time as it stands at the beginning of an entry; made once a second."""
        if not self.second <= now < self.next_second:  # A clock may be set back, too.
            self.second, self.next_second = int(now), int(now) + 1
            self.stamp_now = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(now))
        return self.stamp_now

    def record(self, record: logging.LogRecord) -> str:
        entry = self._entry(record.created, record.getMessage())
        details = _details(record)
        if not details:
            return entry
        return "\n".join([entry, *(_escaped(line, "\t") for line in details.splitlines())])

    def _entry(self, now: float, text: str) -> str:
        entry = f"{self.stamp(now)} {text}"
        return entry if entry.isprintable() else _escaped(entry)


class Json:
    """One JSON object a line."""

    def info(self, logger: str, text: str) -> str:
        return self._entry(time.time(), "info", logger, text)

    def record(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        entry = self._entry(record.created, level, record.name, record.getMessage())
        details = _details(record)
        return f'{entry[:-1]}, "exception": {_quoted(details)}}}' if details else entry

    def _entry(self, now: float, level: str, logger: str, text: str) -> str:
        return (
            f'{{"t": {now:.6f}, "level": "{level}", "logger": {_quoted(logger)}, '
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


class _Formatter(logging.Formatter):
    def __init__(self, shape: Format) -> None:
        super().__init__()
        self._shape = shape

    def format(self, record: logging.LogRecord) -> str:
        return self._shape.record(record)


class ProcessJournal:
    """Writes its lines directly: without a log record, a handler or a lock."""

    def __init__(self, writer: LineWriter, shape: Format) -> None:
        self._writer = writer
        self._add = writer.add
        self._info = shape.info

    @property
    def dropped(self) -> int:
        return self._writer.dropped

    def routed(self, sender: str, to: str, gateway: bytes) -> None:
        self._add(self._info(ROUTER_LOG, ROUTED % (sender, to, gateway.decode())))

    def registered(self, user: str, gateway: str, conn_id: str) -> None:
        self._add(self._info(GATEWAY_LOG, REGISTERED % (user, gateway, conn_id)))

    def left(self, user: str, conn_id: str) -> None:
        self._add(self._info(GATEWAY_LOG, LEFT % (user, conn_id)))


class TextJournal(ProcessJournal):
    """The same as text; the line of each message is made with as few steps as possible."""

    def __init__(self, writer: LineWriter, shape: Text) -> None:
        super().__init__(writer, shape)
        self._shape = shape

    def routed(self, sender: str, to: str, gateway: bytes) -> None:
        # The sender was checked when it registered, the gateway by the script. A recipient may
        # have registered with a gateway that checks nothing.
        if not to.isprintable():
            to = _escaped(to)
        shape, now = self._shape, time.time()
        stamp = shape.stamp_now if shape.second <= now < shape.next_second else shape.stamp(now)
        self._add(
            f"{stamp} [Router] Routed message from {sender} to {to} via gateway {gateway.decode()}"
        )


class QuietJournal(ProcessJournal):
    """For the levels above INFO: none of these lines is written."""

    def routed(self, sender: str, to: str, gateway: bytes) -> None:
        pass

    def registered(self, user: str, gateway: str, conn_id: str) -> None:
        pass

    def left(self, user: str, conn_id: str) -> None:
        pass


def _journal(writer: LineWriter, shape: Text | Json, quiet: bool) -> Journal:
    if quiet:
        return QuietJournal(writer, shape)
    return TextJournal(writer, shape) if isinstance(shape, Text) else ProcessJournal(writer, shape)


class Log:
    """The log of a process, from its first line to its last, as a context manager.

    Args:
        log_format: a name in `FORMATS`.
        level: a name of the logging module's, in small letters.
    """

    def __init__(self, log_format: str, level: str, descriptor: int = STDERR) -> None:
        shape = FORMATS[log_format]()

        def note(lines: int) -> str:
            text = dropped_note(lines)
            return shape.record(
                logging.LogRecord(GATEWAY_LOG, logging.WARNING, "", 0, text, None, None)
            )

        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        self._writer = LineWriter(descriptor, note, encoding)
        self._handler = LineHandler(self._writer)
        self._handler.setFormatter(_Formatter(shape))
        self._level = level.upper()
        quiet = logging.getLevelNamesMapping()[self._level] > logging.INFO
        self.journal = _journal(self._writer, shape, quiet)

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
