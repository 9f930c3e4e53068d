"""How do I get a Redis without Docker? `python -m wsdemo.redis --port 6379`

It runs in the foreground until Ctrl-C or SIGTERM and keeps nothing. It listens on the loopback
address only, where by default it asks for no password, so that `localhost:6379` is all that the
gateways need to know.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final, NoReturn

from wsdemo.redis.server import HOST, BundledServer, ServerError

PROGRAM: Final = "python -m wsdemo.redis"
PASSWORD_VARIABLE: Final = "WSDEMO_REDIS_PASSWORD"
"""Where a password comes from, if one is wanted: `ps` shows everybody the arguments."""


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until told to stop; return the exit code."""
    port = _parse(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        tail = _serve(port, os.environ.get(PASSWORD_VARIABLE, ""))
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


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _parse(argv: Sequence[str] | None) -> int:
    parser = _OneLineParser(
        prog=PROGRAM,
        description="Run a Redis of our own in the foreground, on the loopback address.",
        epilog=f"A password, if one is wanted, comes from {PASSWORD_VARIABLE}.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-port", "--port", type=int, default=6379, help="0 lets the system choose (default 6379)"
    )
    port: int = parser.parse_args(argv).port
    return port


if __name__ == "__main__":
    sys.exit(main())
