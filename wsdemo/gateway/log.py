"""Logging: how does the log leave a gateway process, at what cost, and what if nobody reads it?

Everything leaves through one `LineWriter`, in order: the line of each message as its parts, of
which the writer's thread makes a line; the journal's other lines as text; everything else, also
from libraries, as records of the logging module. An entry is one line, whatever characters it has;
only a traceback stands in more lines below it. As JSON, an entry is always one line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Final, NoReturn, Protocol, Self, cast

from wsdemo.gateway.journal import GATEWAY_LOG, LEFT, REGISTERED, ROUTED, ROUTER_LOG, Journal
from wsdemo.streams import PARTS_CHARS, LineHandler, LineWriter, Parts, dropped_note

STDERR: Final = 2
_now: Final = time.time
_quoted: Final = json.JSONEncoder().encode
"""`json.dumps`, which looks at nine options first."""
VISIBLE: Final = bytes(range(0x21, 0x7F))
"""The characters of ASCII that can be seen."""
IMPATIENT_S: Final = 0.2
"""How long the last lines are waited for when a process is ended at once."""


Routed = tuple[float, str, str, bytes]
"""A message that was routed: when (Unix time), from whom, to whom, and via which gateway."""


class Format(Protocol):
    """How an entry looks."""

    def info(self, now: float, logger: str, text: str) -> str:
        """Return an entry of level INFO."""
        ...

    def routed(self, messages: Iterable[Routed]) -> list[str]:
        """Return the entries of messages that were routed."""
        ...

    def record(self, record: logging.LogRecord) -> str:
        """Return a record of the logging module as an entry."""
        ...


class Text:
    """`2026/11/26 07:19:34 [Router] Routed message ...`, as the demo's log looks."""

    def __init__(self) -> None:
        self._stamp = (0, 0, "")
        """The second for which the last stamp was made, the one after it (Unix time), and the
        stamp. In one tuple, because several threads use it."""

    def info(self, now: float, logger: str, text: str) -> str:
        return self._entry(now, text)

    def routed(self, messages: Iterable[Routed]) -> list[str]:
        second, next_second, stamp = self._stamp
        return [
            f"{stamp if second <= now < next_second else self._stamp_of(now)[2]} "
            f"[Router] Routed message from {sender} to {to} via gateway {gateway.decode()}"
            for now, sender, to, gateway in _in_one_line(messages)
        ]

    def _stamp_of(self, now: float) -> tuple[int, int, str]:
        """Make the time as it stands at the beginning of an entry, once a second."""
        second, next_second, _ = self._stamp
        if not second <= now < next_second:
            second = int(now)
            text = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(now))
            self._stamp = (second, second + 1, text)
        return self._stamp

    def record(self, record: logging.LogRecord) -> str:
        entry = self._entry(record.created, record.getMessage())
        details = _details(record)
        if not details:
            return entry
        return "\n".join([entry, *(_escaped(line, "\t") for line in details.splitlines())])

    def _entry(self, now: float, text: str) -> str:
        entry = f"{self._stamp_of(now)[2]} {text}"
        return entry if entry.isprintable() else _escaped(entry)


class Json:
    """One JSON object a line."""

    def info(self, now: float, logger: str, text: str) -> str:
        return self._entry(now, "info", logger, text)

    def routed(self, messages: Iterable[Routed]) -> list[str]:
        return [
            self._entry(now, "info", ROUTER_LOG, ROUTED % (sender, to, gateway.decode()))
            for now, sender, to, gateway in messages
        ]

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


def _in_one_line(messages: Iterable[Routed]) -> list[Routed]:
    """Return them with nothing in a name that would break the line.

    The sender was checked when it registered, the gateway by the script. A recipient may have
    registered with a gateway that checks nothing.
    """
    messages = list(messages)
    names = "".join([to for _, _, to, _ in messages])
    # All names at once, and as bytes: `isprintable` would take as long as all the rest of a line.
    if names.isascii() and not names.encode().translate(None, VISIBLE):
        return messages
    return [
        (now, sender, to if to.isprintable() else _escaped(to), gateway)
        for now, sender, to, gateway in messages
    ]


class _Formatter(logging.Formatter):
    def __init__(self, shape: Format) -> None:
        super().__init__()
        self._shape = shape

    def format(self, record: logging.LogRecord) -> str:
        return self._shape.record(record)


class ProcessJournal(LineWriter):
    """Writes its lines without a log record, a handler or a lock.

    Args:
        descriptor: where it writes to.
        shape: how an entry looks.
        encoding: of the output.
    """

    def __init__(self, descriptor: int, shape: Format, encoding: str = "utf-8") -> None:
        self._shape = shape
        super().__init__(descriptor, self._note_of, encoding)

    def _note_of(self, lines: int) -> str:
        text = dropped_note(lines)
        return self._shape.record(
            logging.LogRecord(GATEWAY_LOG, logging.WARNING, "", 0, text, None, None)
        )

    def _lines_of(self, parts: Iterable[Parts]) -> list[str]:
        return self._shape.routed(cast(Iterable[Routed], parts))

    def routed(self, sender: str, to: str, gateway: bytes) -> None:
        # As `add` does it, without a call, and without the line: the thread makes it.
        if self._put - self._taken > self._limit:
            self.add(*self._lines_of([(_now(), sender, to, gateway)]))
            return
        self._put += PARTS_CHARS
        self._queue.append((_now(), sender, to, gateway))
        if self._asleep:
            self._bell.ring()

    def registered(self, user: str, gateway: str, conn_id: str) -> None:
        self._add_text(REGISTERED % (user, gateway, conn_id))

    def left(self, user: str, conn_id: str) -> None:
        self._add_text(LEFT % (user, conn_id))

    def _add_text(self, text: str) -> None:
        self.add(self._shape.info(_now(), GATEWAY_LOG, text))


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
    """

    def __init__(self, log_format: str, level: str, descriptor: int = STDERR) -> None:
        shape = FORMATS[log_format]()
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        writer = ProcessJournal(descriptor, shape, encoding)
        self._handler = LineHandler(writer)
        self._handler.setFormatter(_Formatter(shape))
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
