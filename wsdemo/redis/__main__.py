"""Redis server: how do I get one without Docker? `python -m wsdemo.redis --port 6379`

It runs in the foreground until Ctrl-C or SIGTERM and keeps no data. It listens on the loopback
address only, and by default needs no password, so that `localhost:6379` is all that the gateways
need to know.

`--call HGETALL presence:alice` asks a running server instead, for people without redis-cli.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final, NoReturn

import redis

from wsdemo.addresses import SettingsError, without_secrets
from wsdemo.command_line import Parser
from wsdemo.redis.connection import RedisUnavailable, library_url, one_line
from wsdemo.redis.server import HOST, URL_VARIABLE, BundledServer, ServerError
from wsdemo.streams import complain, open_standard_streams, say
from wsdemo.terminal import printable

PROGRAM: Final = "wsdemo.redis"
DEFAULT: Final = "localhost:6379"
CALL_TIMEOUT_S: Final = 5.0
PASSWORD_VARIABLE: Final = "WSDEMO_REDIS_PASSWORD"
"""Where a password comes from, if there is one: `ps` shows arguments to everybody."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until told to stop; return the exit code."""
    open_standard_streams()
    arguments = _parse(argv)
    if arguments.call is not None:
        return _call(arguments.redis or os.environ.get(URL_VARIABLE) or DEFAULT, arguments.call)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        tail = _serve(arguments.port, os.environ.get(PASSWORD_VARIABLE, ""))
    except KeyboardInterrupt:
        return 0
    except ServerError as problem:
        _say(str(problem))
        return 2
    _say(f"the server has ended by itself; its log ends: {tail}")
    return 1


def _serve(port: int, password: str) -> str:
    """Run the server until it ends by itself, and return the last line of its log."""
    with BundledServer(port, password=password) as server:
        what = f"{server.binary} listens on {HOST}:{server.port}"
        how = f", password from {PASSWORD_VARIABLE}" if password else ""
        say(f"{what}{how} (stop it with Ctrl-C)")
        server.wait()
    return server.log_tail(1)


def _call(address: str, words: Sequence[str]) -> int:
    """Send one command to a running server and print its reply."""
    if not words:
        _say("--call needs a command, for example PING")
        return 2
    try:
        url = library_url(address)
        with one_line():
            reply = _ask(url, words)
    except (SettingsError, RedisUnavailable) as problem:
        # Redis repeats the words of an unknown command, which may be a mistyped AUTH.
        _say(str(problem).partition(", with args beginning")[0])
        return 2
    # A pipe gets the value itself; for a terminal, control characters are escaped.
    lines = [printable(line) if sys.stdout.isatty() else line for line in _lines(reply)]
    unsaid = say("\n".join(lines)) if lines else None
    if unsaid is not None:
        _say(f"stdout: {unsaid.strerror}")
    return 0 if unsaid is None else 2


def _ask(url: str, words: Sequence[str]) -> object:
    with redis.Redis.from_url(url, socket_timeout=CALL_TIMEOUT_S, protocol=2) as client:
        # Not through the client's commands, which turn OK into True and lists into dictionaries.
        connection = client.connection_pool.get_connection()
        connection.send_command(*(os.fsencode(word) for word in words))
        return connection.read_response()


def _say(text: str) -> None:
    complain(f"{PROGRAM}: {without_secrets(text)}")


def _lines(reply: object) -> Iterator[str]:
    """Write a reply as redis-cli does in a pipe: one value a line."""
    if isinstance(reply, bytes):
        yield reply.decode(errors="backslashreplace")
    elif isinstance(reply, list):
        for item in reply:
            yield from _lines(item)
    else:
        yield "" if reply is None else str(reply)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        PROGRAM,
        description="Run a Redis of our own in the foreground, on the loopback address.",
        epilog=f"A password, if one is wanted, comes from {PASSWORD_VARIABLE}.",
    )
    parser.add_argument(
        "-port", "--port", type=int, default=6379, help="0 lets the system choose (default 6379)"
    )
    parser.add_argument(
        "--call",
        nargs=argparse.REMAINDER,
        metavar="WORD",
        help="ask a running server instead; the last option: all that follows is the command",
    )
    parser.add_argument(
        "-redis",
        "--redis",
        help=f"whom --call asks ({URL_VARIABLE}, else {DEFAULT})",
    )
    return parser.read(argv)


if __name__ == "__main__":
    sys.exit(main())
