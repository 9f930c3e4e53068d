"""Command line: how does a program say what is wrong with it?

In one line on stderr, with exit code 2, for every program of the kit. Many people may read a log,
so a value is repeated only when it cannot contain a secret, and a long one is cut.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from wsdemo import __version__
from wsdemo.addresses import HIDDEN, redacted, without_secrets
from wsdemo.streams import complain, say
from wsdemo.terminal import printable

LONGEST_VALUE: int = 80
"""A longer value is cut when an error message repeats it."""


def fail(program: str, message: str) -> NoReturn:
    """End with one line and exit code 2; `Parser.fail` knows more secrets."""
    line = without_secrets(" ".join(message.split()))
    complain(printable(f"{program}: {line}"))
    raise SystemExit(2)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is behind --help, the version behind --version.

    Args:
        program: how the program is run, and how it calls itself: `wsdemo.gateway`.
    """

    def __init__(self, program: str, description: str | None = None, epilog: str | None = None):
        super().__init__(
            prog=f"python -m {program}", description=description, epilog=epilog, allow_abbrev=False
        )
        self._program = program.partition(" ")[0]
        self._words: Sequence[str] = ()
        self.add_argument(
            "--version",
            action="version",
            version=f"{self._program} {__version__}",
            help="print the version",
        )

    def read(
        self, argv: Sequence[str] | None = None, *, intermixed: bool = False
    ) -> argparse.Namespace:
        """Read a command line, by default that of this process.

        Args:
            intermixed: whether flags may stand between the other words.
        """
        self._words = sys.argv[1:] if argv is None else list(argv)
        if intermixed:
            return self.parse_intermixed_args(self._words)
        return self.parse_args(self._words)

    def error(self, message: str) -> NoReturn:
        self.fail(f"{message} (see --help)")

    def fail(self, message: str) -> NoReturn:
        """End with one line and exit code 2; a word of the command line that may be an address is
        repeated without its secrets.
        """
        fail(self._program, self._without_values(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or version; it is no error when the reader has gone (`--help | head`)."""
        say(message.removesuffix("\n"))

    def tell(self, text: str) -> None:
        """Print what was asked for, or end with one line and exit code 2."""
        problem = say(text)
        if problem is not None:
            self.fail(f"stdout: {problem.strerror}")

    def _without_values(self, message: str) -> str:
        values = {part for word in self._words for part in (word, *word.split("=", 1)[1:])}
        for value in sorted(values, key=len, reverse=True):
            shown = _shown(value)
            if shown != value:
                message = message.replace(repr(value), repr(shown)).replace(value, shown)
        return message


def _shown(value: str) -> str:
    if "://" in value or re.search(":.*@", value):  # An @ alone is that of a user id.
        name, equals, rest = value.partition("=")
        if value.startswith("-"):
            return f"{name}={redacted(rest)}" if equals and "@" not in name else HIDDEN
        return redacted(value)
    if len(value) > LONGEST_VALUE:
        return f"{value[:20]}... ({len(value)} characters)"
    return value


# --- kinds of values ---------------------------------------------------------------------------


def positive_int(text: str) -> int:
    """Read a whole number that is at least 1."""
    number = int(text)
    if not 1 <= number <= 10**9:
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 1,000,000,000")
    return number


def whole_number(text: str) -> int:
    """Read a whole number, which may be negative."""
    number = int(text)
    if abs(number) > 2**63:
        raise argparse.ArgumentTypeError("is too large a number")
    return number


def positive_float(text: str) -> float:
    """Read a positive number (of seconds, minutes, hours)."""
    number = float(text)
    if not 1e-6 <= number <= 1e9:
        raise argparse.ArgumentTypeError("must be a number above 0, and at most 1e9")
    return number


def new_file(text: str) -> Path:
    """Read the name of a file that will be written; found out now, not after hours of work."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a directory")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written")
    return path


def new_directory(text: str) -> Path:
    """Read the name of a directory that will be written to; it is made if it is not there."""
    path = Path(text)
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written to")
    return path
