"""How do I get a Redis without Docker? `python -m wsdemo.redis --port 6379`

It runs in the foreground until Ctrl-C or SIGTERM and keeps nothing. It listens on the loopback
address only, where by default it asks for no password, so that `localhost:6379` is all that the
gateways need to know.

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

from wsdemo.redis.server import HOST, BundledServer, ServerError
from wsdemo.settings import SettingsError, redis_url
from wsdemo.terminal import never_refuse_text, printable

PROGRAM: Final = "python -m wsdemo.redis"
CALL_TIMEOUT_S: Final = 5.0
PASSWORD_VARIABLE: Final = "WSDEMO_REDIS_PASSWORD"
"""Where a password comes from, if one is wanted: `ps` shows everybody the arguments."""


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until told to stop; return the exit code."""
    arguments = _parse(argv)
    never_refuse_text()
    if arguments.call is not None:
        return _call(arguments.redis, arguments.call)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        tail = _serve(arguments.port, os.environ.get(PASSWORD_VARIABLE, ""))
    except KeyboardInterrupt:
        return 0
    except ServerError as problem:
        print(f"{PROGRAM}: {problem}", file=sys.stderr)
        return 2
    print(f"{PROGRAM}: the server has ended by itself; its log ends: {tail}", file=sys.stderr)
    return 1


def _serve(port: int, password: str) -> str:
    """Run the server until it ends by itself, and return the last line of its log."""
    with BundledServer(port, password=password) as server:
        what = f"{server.binary} listens on {HOST}:{server.port}"
        how = f", password from {PASSWORD_VARIABLE}" if password else ""
        print(f"{what}{how} (stop it with Ctrl-C)", flush=True)
        server.wait()
    return server.log_tail(1)


def _call(address: str, words: Sequence[str]) -> int:
    """Send one command to a running server and print its reply."""
    if not words:
        print(f"{PROGRAM}: --call needs a command, for example PING", file=sys.stderr)
        return 2
    try:
        options = {"socket_timeout": CALL_TIMEOUT_S, "protocol": 2}
        with redis.Redis.from_url(redis_url(address), **options) as client:
            # Below the client's commands, which make True of OK and dictionaries of lists.
            connection = client.connection_pool.get_connection()
            connection.send_command(*words)
            for line in _lines(connection.read_response()):
                # In a pipe it is the value itself; a terminal must not obey it.
                print(printable(line) if sys.stdout.isatty() else line)
    except (SettingsError, redis.RedisError) as problem:
        print(f"{PROGRAM}: {problem}", file=sys.stderr)
        return 2
    return 0


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
    parser = _OneLineParser(
        prog=PROGRAM,
        description="Run a Redis of our own in the foreground, on the loopback address.",
        epilog=f"A password, if one is wanted, comes from {PASSWORD_VARIABLE}.",
        allow_abbrev=False,
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
        default=os.environ.get("WSDEMO_REDIS_URL", "localhost:6379"),
        help="whom --call asks (WSDEMO_REDIS_URL, else localhost:6379)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
