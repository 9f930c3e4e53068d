"""Redis server: how do I get one without Docker? `python -m wsdemo.redis --port 6379`

It runs in the foreground until Ctrl-C or SIGTERM and keeps no data. It listens on the loopback
address only, and by default needs no password, so that `localhost:6379` is all that the gateways
need to know.

`--cluster 3` runs a Redis Cluster instead, `--sentinel` a primary, a replica and three sentinels.
Both print the URL that a gateway needs.

`--call HGETALL presence:alice` asks a running server instead, for people without redis-cli. In a
cluster, `--key alice` prints the key that a user has there, and the server that has the key.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final, NoReturn

from wsdemo.addresses import RedisAddress, SettingsError, redacted, without_secrets
from wsdemo.command_line import Parser
from wsdemo.redis.cluster_server import BundledCluster
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.sentinel_server import BundledSentinel
from wsdemo.redis.server import HOST, URL_VARIABLE, BundledServer, ServerError
from wsdemo.redis.where import ask, place_of, server_of
from wsdemo.streams import complain, open_standard_streams, say
from wsdemo.terminal import printable

PROGRAM: Final = "wsdemo.redis"
DEFAULT_PORT: Final = 6379
DEFAULT: Final = f"localhost:{DEFAULT_PORT}"
PASSWORD_VARIABLE: Final = "WSDEMO_REDIS_PASSWORD"
"""Where a password comes from, if there is one: `ps` shows arguments to everybody."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until told to stop; return the exit code."""
    open_standard_streams()
    arguments = _parse(argv)
    asked = arguments.redis or os.environ.get(URL_VARIABLE) or DEFAULT
    if arguments.key is not None:
        return _tell_key(asked, arguments.key, arguments.key_prefix)
    if arguments.call is not None:
        return _call(asked, arguments.call)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        password = os.environ.get(PASSWORD_VARIABLE, "")
        if arguments.cluster is not None:
            tail = _serve_cluster(arguments, password)
        elif arguments.sentinel:
            tail = _serve_sentinel(arguments.port or 0, password)
        else:
            tail = _serve(DEFAULT_PORT if arguments.port is None else arguments.port, password)
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


def _serve_cluster(arguments: argparse.Namespace, password: str) -> str:
    """Run a cluster until one of its servers ends by itself, and return that one's last line."""
    primaries, replicas = arguments.cluster, arguments.replicas
    port = arguments.port or 0
    with BundledCluster(primaries, replicas, port=port, password=password) as cluster:
        what = f"{cluster.binary}: a cluster of {primaries} primaries"
        more = f" with {replicas} replica(s) each" if replicas else ""
        how = f", password from {PASSWORD_VARIABLE}" if password else ""
        say(f"{what}{more}{how} (stop it with Ctrl-C)")
        say(f"redis+cluster://{','.join(cluster.addresses)}")
        ended = cluster.wait()
        return cluster.servers[ended or 0].log_tail(1)


def _serve_sentinel(port: int, password: str) -> str:
    """Run a primary and its sentinels until the first sentinel ends; return its last line."""
    with BundledSentinel(password=password, port=port) as servers:
        what = f"{servers.primary.binary}: a primary, a replica and three sentinels"
        how = f", password from {PASSWORD_VARIABLE}" if password else ""
        say(f"{what}{how} (stop it with Ctrl-C)")
        say(redacted(servers.url))
        servers.wait()
        return servers.sentinels[0].log_tail(1)


def _call(address: str, words: Sequence[str]) -> int:
    """Send one command to a running server and print its reply."""
    if not words:
        _say("--call needs a command, for example PING")
        return 2
    try:
        raw = [os.fsencode(word) for word in words]
        server = server_of(RedisAddress.parse(address), raw[1] if len(raw) > 1 else b"")
        reply = ask(server, raw)
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


def _tell_key(address: str, user: str, prefix: str) -> int:
    """Print the key of a user's presence and the server that has it."""
    try:
        key, server = place_of(RedisAddress.parse(address), user, prefix)
    except (SettingsError, RedisUnavailable) as problem:
        _say(str(problem))
        return 2
    unsaid = say(f"{printable(key)} {server}")
    if unsaid is not None:
        _say(f"stdout: {unsaid.strerror}")
    return 0 if unsaid is None else 2


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
        "-port",
        "--port",
        type=int,
        help=f"0 lets the system choose (default {DEFAULT_PORT}; of several servers: the first)",
    )
    parser.add_argument(
        "--cluster", type=int, metavar="N", help="run a Redis Cluster of N primaries instead"
    )
    parser.add_argument(
        "--replicas", type=int, default=0, metavar="N", help="for each primary of the cluster"
    )
    parser.add_argument(
        "--sentinel",
        action="store_true",
        help="run a primary, a replica and three sentinels instead",
    )
    parser.add_argument(
        "--call",
        nargs=argparse.REMAINDER,
        metavar="WORD",
        help="ask a running server instead; the last option: all that follows is the command",
    )
    parser.add_argument(
        "--key", metavar="USER", help="print the key of a user's presence, and which server has it"
    )
    parser.add_argument("--key-prefix", default="", help="that of the gateways, for --key (none)")
    parser.add_argument(
        "-redis",
        "--redis",
        help=f"whom --call and --key ask ({URL_VARIABLE}, else {DEFAULT})",
    )
    return parser.read(argv)


if __name__ == "__main__":
    sys.exit(main())
