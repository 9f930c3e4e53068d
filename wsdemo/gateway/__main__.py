"""python -m wsdemo.gateway: a gateway as a process of its own.

A mistake on the command line, or a gateway that cannot start, is one line on stderr and exit
code 2. SIGTERM, SIGINT and SIGHUP drain it, with code 0; signalled again, it ends at once, with
code 1 (`signals` says more).
"""

from __future__ import annotations

if __name__ == "__main__":
    # First of all: a signal may come during the imports, which take time.
    from wsdemo.gateway.signals import leave_at_once

    leave_at_once()

import argparse
import asyncio
import dataclasses
import gc
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from wsdemo.command_line import Parser, positive_float
from wsdemo.features import ApiSettings, InboxSettings, RoomSettings, WatchSettings
from wsdemo.gateway import signals
from wsdemo.gateway.auth import mint_token, read_secret
from wsdemo.gateway.descriptors import given_sockets, make_room
from wsdemo.gateway.journal import Journal
from wsdemo.gateway.listening import Bind, CannotListen, bind, inherit, inherited
from wsdemo.gateway.log import FORMATS, Log, end_at_once
from wsdemo.gateway.server import Gateway, TLSUnusable
from wsdemo.gateway.workers.count import number_of_workers
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.router import DuplicateGateway
from wsdemo.settings import (
    FORWARDED_HEADERS,
    LOCAL_ORIGINS,
    SUBPROTOCOL,
    GatewaySettings,
    Keyspace,
    Limits,
    SettingsError,
    Timing,
    redacted,
)
from wsdemo.streams import open_standard_streams
from wsdemo.user_ids import MAX_USER_ID_CHARS, USER_ID_PATTERN

if TYPE_CHECKING:
    from wsdemo.gateway.workers.worker import Worker

DEFAULT_REDIS = "localhost:6379"
GIVEN = "[Gateway] the sockets are given: --host, --port and --listen do not count"
TOKEN_TTL_S = 8 * 3600.0
_log = logging.getLogger("wsdemo.gateway")


PROGRAM = "wsdemo.gateway"


def parser() -> Parser:
    """Return the command line: the demo's flags, with one or two dashes, and all timings."""
    result = Parser(
        PROGRAM,
        description="A gateway: users connect to it, Redis tells it where the others are.",
        epilog="python -m wsdemo.gateway secret FILE makes a secret for --auth-secret-file; "
        "token USER --auth-secret-file FILE --ttl-s SECONDS mints a token with it; "
        "api VERB --api URL --api-key-file FILE --reason TEXT asks the server API (api --help).",
    )
    add = result.add_argument
    add("-id", "--id", required=True, help="name of this gateway, e.g. gateway-01")
    add("-port", "--port", type=int, default=8080, help="0 lets the system choose (%(default)s)")
    add("-host", "--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add(
        "--listen",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="in place of --host and --port: host:port, [v6]:port or unix:/path; repeat it (none)",
    )
    add(
        "--unix-mode",
        type=permissions,
        default="660",
        help="permissions of unix sockets (%(default)s)",
    )
    add(
        "-redis",
        "--redis",
        default=None,
        help=f"host:port or URL (WSDEMO_REDIS_URL, else {DEFAULT_REDIS})",
    )
    add("--key-prefix", default="", help="before every key and channel (none)")
    add("--takeover", action="store_true", help="replace a running gateway of the same id")
    add(
        "--workers",
        type=int,
        default=None,
        help="so many processes behind one port, 0: one for each core; Linux (one process)",
    )
    add("--log-format", choices=tuple(FORMATS), default="text", help="(%(default)s)")
    add(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="info writes a line a message (%(default)s)",
    )
    _add_security(result.add_argument_group("security"))
    _add_features(result)
    _add_fields(result.add_argument_group("timing, in seconds"), Timing, skip={"scale"})
    _add_fields(result.add_argument_group("limits"), Limits)
    return result


def permissions(text: str) -> int:
    """Read permissions as chmod(1) takes them."""
    return int(text, 8)


def _add_security(group: Any) -> None:
    add = group.add_argument
    add("--certfile", default="", help="certificate (PEM): serve wss:// and https://")
    add("--keyfile", default="", help="its key, when it is not in --certfile")
    add("--auth-secret-file", default="", help="register needs a token signed with what is in it")
    add(
        "--user-id-pattern",
        default=None,
        metavar="REGEX",
        help=f"what a user id must match in full; the same for all gateways ({USER_ID_PATTERN})",
    )
    add(
        "--origin",
        action="append",
        metavar="ORIGIN",
        help="whose pages may connect, beside our own: scheme://host[:port], :* for any port, "
        "null, or '*' for any; repeat it (pages of this machine)",
    )
    add(
        "--subprotocol",
        action="append",
        default=[],
        metavar="NAME",
        help=f"what a client may offer and is told to have been chosen, beside {SUBPROTOCOL}; "
        "repeat it (none)",
    )
    add(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="address or network whose word about its clients is believed, or unix; repeat it "
        "(none)",
    )
    add(
        "--forwarded-header",
        choices=FORWARDED_HEADERS,
        default=FORWARDED_HEADERS[0],
        help="the one header in which they name the client (%(default)s)",
    )
    add(
        "--proxy-protocol",
        action="store_true",
        help="they begin each connection with a PROXY header, version 1 or 2",
    )
    add(
        "--limit-loopback",
        action="store_true",
        help="limits per address hold for this machine as well",
    )


def _add_features(parser: Parser) -> None:
    """Add the optional features: a flag that asks for each, and those that say how much of it."""
    parser.add_argument_group("devices").add_argument(
        "--devices",
        type=int,
        default=1,
        help="devices of one user that may be connected; the same for all gateways (%(default)s)",
    )
    inbox = parser.add_argument_group("durable messages")
    inbox.add_argument(
        "--durable", action="store_true", help="keep messages for users who are away (no)"
    )
    _add_fields(inbox, InboxSettings)
    rooms = parser.add_argument_group("rooms")
    rooms.add_argument(
        "--rooms", action="store_true", help="users may join rooms and publish in them (no)"
    )
    _add_fields(rooms, RoomSettings, skip={"trust_redis"})  # It is there already.
    watch = parser.add_argument_group("presence events")
    watch.add_argument(
        "--watch", action="store_true", help="tell users when others come and go (no)"
    )
    _add_fields(watch, WatchSettings)
    api = parser.add_argument_group("server API")
    api.add_argument(
        "--api-port", type=int, default=None, help="serve it there; 0 lets the system choose (no)"
    )
    api.add_argument("--api-host", default=None, help="address of that port (127.0.0.1)")
    api.add_argument(
        "--api-key-file", default=None, metavar="FILE", help="what a backend has to know"
    )
    _add_fields(api, ApiSettings, skip={"api_host", "api_port", "api_key"})


def token_parser() -> Parser:
    """Return the command line of `token`."""
    result = Parser(f"{PROGRAM} token", description="Print a token with which a user may register.")
    result.add_argument("user")
    result.add_argument("--auth-secret-file", required=True, help="that of the gateways")
    result.add_argument(
        "--ttl-s",
        type=positive_float,
        default=TOKEN_TTL_S,
        help="how long it is good (%(default)g)",
    )
    for claim, what in (("rooms", "rooms that the user may join"), ("watch", "users to watch")):
        result.add_argument(
            f"--{claim}",
            action="append",
            default=[],
            metavar="PATTERN",
            help=f"{what}, as 'lobby*'; repeat it (none)",
        )
    return result


def make_secret(argv: Sequence[str]) -> None:
    """Carry out `secret FILE`: nobody but its owner can read the file, and none is overwritten."""
    result = Parser(
        f"{PROGRAM} secret", description="Make a file with a new secret, for --auth-secret-file."
    )
    result.add_argument("file")
    path = result.read(argv).file
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    except OSError as problem:
        result.fail(f"secret file {path}: {problem.strerror or problem}")
    result.tell(f"wrote {path}; all gateways of the cluster need the same one")


def print_token(argv: Sequence[str]) -> None:
    """Carry out `token USER`."""
    command = token_parser()
    arguments = command.read(argv)
    try:
        secret = read_secret(arguments.auth_secret_file)
        may = {"rooms": arguments.rooms, "watch": arguments.watch}
        command.tell(mint_token(secret, arguments.user, time.time() + arguments.ttl_s, **may))
    except ValueError as problem:
        command.fail(str(problem))


def ask_api(argv: Sequence[str]) -> None:
    """Carry out `api VERB ...`."""
    from wsdemo.gateway.api.client import main as ask  # Not for a gateway.

    ask(argv)


def _add_fields(
    group: Any, settings: type[Any], skip: frozenset[str] | set[str] = frozenset()
) -> None:
    for item in dataclasses.fields(settings):
        if item.name in skip:
            continue
        flag = f"--{item.name.replace('_', '-')}"
        if isinstance(item.default, bool):
            group.add_argument(flag, action="store_true", default=None, help="(no)")
        else:
            kind = int if isinstance(item.default, int) else float
            group.add_argument(flag, type=kind, default=None, help=f"({item.default:.10g})")


def settings_of(arguments: argparse.Namespace) -> GatewaySettings:
    """Return the settings that a command line asks for.

    Raises:
        SettingsError: they cannot work.
    """
    address = arguments.redis or os.environ.get("WSDEMO_REDIS_URL") or DEFAULT_REDIS
    pattern = arguments.user_id_pattern
    _check_trust(arguments)
    return GatewaySettings(
        gateway_id=arguments.id,
        host=arguments.host,
        port=arguments.port,
        listen=tuple(arguments.listen),
        unix_mode=arguments.unix_mode,
        redis_url=address,
        timing=Timing(**_given(arguments, Timing)),
        limits=_limits_of(arguments),
        keyspace=Keyspace(arguments.key_prefix),
        takeover=arguments.takeover,
        origins=tuple(arguments.origin) if arguments.origin else LOCAL_ORIGINS,
        subprotocols=tuple(arguments.subprotocol),
        trusted_proxies=tuple(arguments.trusted_proxy),
        forwarded_header=arguments.forwarded_header,
        proxy_protocol=arguments.proxy_protocol,
        limit_loopback=arguments.limit_loopback,
        certfile=arguments.certfile,
        keyfile=arguments.keyfile,
        auth_secret=_secret_of(arguments),
        user_id_pattern=USER_ID_PATTERN if pattern is None else pattern,
        devices=arguments.devices,
        inbox=_feature(arguments, "--durable", arguments.durable, InboxSettings),
        rooms=_feature(arguments, "--rooms", arguments.rooms, RoomSettings),
        watch=_feature(arguments, "--watch", arguments.watch, WatchSettings),
        api=_api_of(arguments),
    )


S = TypeVar("S")


def _feature(arguments: argparse.Namespace, flag: str, wanted: bool, settings: type[S]) -> S | None:
    """Return the settings of an optional feature, None when it is not wanted.

    Raises:
        SettingsError: it is not wanted, and a flag says how much of it.
    """
    given = _given(arguments, settings)
    if wanted:
        return settings(**given)
    given.pop("trust_redis", None)  # Another feature may have it.
    if given:
        name = next(iter(given)).replace("_", "-")
        raise SettingsError(f"--{name} has no effect without {flag}")
    return None


def _check_trust(arguments: argparse.Namespace) -> None:
    if arguments.trust_redis and not (arguments.durable or arguments.room_history):
        raise SettingsError("--trust-redis has no effect without --durable or --room-history")


def _api_of(arguments: argparse.Namespace) -> ApiSettings | None:
    path, wanted = arguments.api_key_file, arguments.api_port is not None
    if wanted and not path:
        raise SettingsError("the server API needs a key: --api-key-file FILE")
    if path and not wanted:
        raise SettingsError("--api-key-file has no effect without --api-port")
    arguments.api_key = read_secret(path) if path else None
    return _feature(arguments, "--api-port", wanted, ApiSettings)


def _limits_of(arguments: argparse.Namespace) -> Limits:
    given = _given(arguments, Limits)
    if arguments.user_id_pattern is not None:
        # A pattern of one's own decides the length as well.
        given.setdefault("max_user_id_chars", MAX_USER_ID_CHARS)
    return Limits(**given)


def _secret_of(arguments: argparse.Namespace) -> bytes | None:
    return read_secret(arguments.auth_secret_file) if arguments.auth_secret_file else None


def _given(arguments: argparse.Namespace, settings: type[Any]) -> dict[str, Any]:
    values = {
        item.name: getattr(arguments, item.name, None) for item in dataclasses.fields(settings)
    }
    return {name: value for name, value in values.items() if value is not None}


async def serve(
    settings: GatewaySettings, journal: Journal, bind: Bind = bind, worker: Worker | None = None
) -> None:
    """Run a gateway until it is told to stop, or is replaced.

    Args:
        worker: what it is, where several processes serve one port.
    """
    loop = asyncio.get_running_loop()
    if worker is None:
        gateway = Gateway(settings, journal=journal, bind=bind)
    else:
        gateway = worker.gateway(journal)
    loop.set_exception_handler(gateway.note_unhandled)
    told = asyncio.Event()
    starting = loop.create_task(gateway.start(), name="start")

    def on_first() -> None:
        told.set()
        starting.cancel()  # If it has not ended; it undoes what it has begun.

    requests = signals.Requests(on_first, gateway.hurry, end_at_once)
    with (
        requests.heard_on(loop) if worker is None else worker.obeying(requests, gateway.hurry, loop)
    ):
        try:
            await starting
        except asyncio.CancelledError:
            if not told.is_set():
                raise
            _log.info("[Gateway] %s was told to stop before it ran", settings.gateway_id)
            return
        # What exists now stays: the garbage collector need not check it again and again.
        gc.collect()
        gc.freeze()
        await _run(gateway, told)


async def _run(gateway: Gateway, told: asyncio.Event) -> None:
    stop = asyncio.create_task(told.wait(), name="told to stop")
    replaced = asyncio.create_task(gateway.replaced.wait(), name="replaced")
    try:
        await asyncio.wait([stop, replaced], return_when=asyncio.FIRST_COMPLETED)
        if replaced.done():
            _log.warning(
                "[Gateway] another process has taken the id %s: stopping",
                gateway.settings.gateway_id,
            )
    finally:
        stop.cancel()
        replaced.cancel()
        await gateway.stop()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where there is one: fewer and cheaper wake-ups (performance, measured)."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    open_standard_streams()
    is_all = argv is None
    argv = sys.argv[1:] if argv is None else argv
    tools = {"secret": make_secret, "token": print_token, "api": ask_api}
    if argv and argv[0] in tools:
        signals.take_back()
        tools[argv[0]](argv[1:])
        return
    command = parser()
    arguments = command.read(argv)
    try:
        settings = settings_of(arguments)
        workers = number_of_workers(arguments.workers)
        given, remark = given_sockets(os.environ)
    except SettingsError as problem:
        command.fail(str(problem))
    if workers > 1:
        warnings = (remark, make_room(settings.limits))
        run_workers(command, settings, arguments, workers, given, warnings, is_all=is_all)
        return
    with Log(arguments.log_format, arguments.log_level) as log:
        for warning in (remark, make_room(settings.limits)):
            if warning:
                _log.warning("[Gateway] %s", warning)
        if given:
            _log.info(GIVEN)
        run(command, settings, log, inherit(given) if given else bind, is_all=is_all)


def run_workers(
    command: Parser,
    settings: GatewaySettings,
    arguments: argparse.Namespace,
    count: int,
    given: Sequence[socket.socket],
    warnings: Sequence[str],
    *,
    is_all: bool,
) -> None:
    """Run several workers to their end. This returns, or exits, once in each process.

    Args:
        given: sockets that a service manager has opened.
        warnings: for the log.
    """
    # Imported here: most gateways have no workers.
    from wsdemo.gateway.workers.parent import CannotStart, Parent, import_for_workers
    from wsdemo.gateway.workers.parent_log import log_as_parent

    import_for_workers(settings)
    loop_factory()
    log_as_parent(arguments.log_format, arguments.log_level)
    for warning in warnings:
        if warning:
            _log.warning("[Gateway] %s", warning)
    if given:
        _log.info(GIVEN)
    try:
        result = Parent(settings, count, inherited(given)).run()
    except CannotListen as problem:
        command.fail(f"cannot listen on {problem}")
    except (CannotStart, SettingsError) as problem:
        command.fail(str(problem))
    if isinstance(result, int):
        sys.exit(result)
    worker, name = result, result.settings.gateway_id
    with Log(arguments.log_format, arguments.log_level, worker=name) as log:
        run(command, worker.settings, log, worker.bind, is_all=is_all, worker=worker)


def run(
    command: Parser,
    settings: GatewaySettings,
    log: Log,
    bind: Bind,
    *,
    is_all: bool,
    worker: Worker | None = None,
) -> None:
    """Run a gateway to its end; one that cannot start ends with one line and exit code 2.

    Args:
        is_all: whether the process does nothing else, and may be ended.
        worker: what it is, where several processes serve one port; then its parent writes the line.
    """

    def fail(why: str, *, lacks_redis: bool = False) -> NoReturn:
        log.flush()  # So that this line is the last one.
        if worker is not None:
            worker.fail(why, lacks_redis=lacks_redis)
        command.fail(why)

    runner = asyncio.Runner(loop_factory=loop_factory())
    try:
        runner.run(serve(settings, log.journal, bind, worker))
    except RedisUnavailable as problem:
        where = f"Redis at {redacted(settings.redis_url)}"
        if problem.answered:
            fail(f"{where} cannot be used: {problem}")
        fail(
            f"{where} cannot be reached: {problem}. "
            "Start one with: python -m wsdemo.redis --port 6379",
            lacks_redis=True,
        )
    except TLSUnusable as problem:
        fail(f"cannot serve TLS with {problem}")
    except DuplicateGateway:
        fail(
            f"another gateway is running as {settings.gateway_id!r}; "
            "choose another --id, or replace that one with --takeover"
        )
    except CannotListen as problem:
        fail(f"cannot listen on {problem}")
    finally:
        if is_all:
            # All is done; closing the loop may wait for a resolver that does not answer.
            signals.end_soon(sys.exception())
        runner.close()


if __name__ == "__main__":
    main()
