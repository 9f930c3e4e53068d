"""How does one connection to Redis live, die and come back?

redis-py's `Connection` does what it does well (addresses, TLS, AUTH, the first words), then hands
its transport to us. From there on every byte that arrives is parsed by hiredis within the event
loop's own callback: no task is woken and nothing is awaited per reply. Measured against
`redis.asyncio`'s client, that is a tenth of the time a command.

The library's retries are off. It runs a write that timed out a second time and reports one
success; whoever sends a command here hears of each failure and decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from wsdemo.addresses import RedisAddress, without_secrets
from wsdemo.settings import Limits

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_CAP_S: Final = 2.0
_INCOMPLETE: Final = object()


pack_command = cast(Callable[[tuple[str | bytes | int, ...]], bytes], hiredis.pack_command)
"""Write a command in RESP. (hiredis' annotation names a tuple of one; it takes any.)"""


class RedisUnavailable(Exception):
    """Redis cannot be reached, or refuses us; the text says why, in one line."""


class CommandError(Exception):
    """Redis answered a command with an error; `code` is its first word (NOSCRIPT, OOM, ...)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.partition(" ")[0]


class RedisConnection(asyncio.Protocol):
    """A connection that is kept up from `start` to `stop`.

    Subclasses say what is done first on each new connection (`_greet`), with each reply
    (`_reply`) and when it breaks (`_broken`).

    Args:
        url: where Redis is.
        limits: its timeouts.
        on_state: called with True when the connection is ready for use, with False when it is
            no longer.
    """

    def __init__(self, url: str, limits: Limits, on_state: Callable[[bool], None]) -> None:
        self._url = url
        self._limits = limits
        self._on_state = on_state
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        self._transport: asyncio.Transport | None = None
        self._reader: Any = None
        self._lost: asyncio.Event = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self.up = False
        """Whether commands have a way to Redis right now."""

    # --- what a subclass says ----------------------------------------------------------------

    async def _greet(self) -> None:
        """Make a new connection ready for use; raise if that fails."""

    def _reply(self, reply: Any) -> None:
        """Take one reply."""
        raise NotImplementedError

    def _broken(self) -> None:
        """Clean up after a connection that is gone."""

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and stay connected from here on.

        Raises:
            RedisUnavailable: the first attempt failed; nothing is left running.
        """
        self._loop = asyncio.get_running_loop()
        try:
            await self._connect()
        except _FAILURES as problem:
            self._disconnect()
            raise RedisUnavailable(said_of(problem)) from None
        self._set_up(True)
        self._keeper = self._loop.create_task(self._keep(), name="redis-connection")

    async def stop(self) -> None:
        """Disconnect for good. Idempotent."""
        self._stopping = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        self._disconnect()
        self._set_up(False)

    def reset(self) -> None:
        """Give up the present connection; the keeper makes a new one."""
        self._set_up(False)  # First, so that nobody uses what is about to be torn down.
        self._disconnect()
        self._lost.set()

    async def _keep(self) -> None:
        while True:
            await self._lost.wait()
            await self._reconnect()
            self._set_up(True)

    async def _reconnect(self) -> None:
        pause_s = BACKOFF_FIRST_S
        while True:
            # Full jitter: the gateways of a cluster all lost the same server at the same moment.
            await asyncio.sleep(random.uniform(pause_s / 4, pause_s))
            try:
                await self._connect()
                return
            except _FAILURES:
                self._disconnect()
                pause_s = min(2 * pause_s, BACKOFF_CAP_S)

    async def _connect(self) -> None:
        self._lost.clear()
        async with asyncio.timeout(self._limits.redis_connect_timeout_s):
            with one_line():
                connection = await _dial(self._url, self._limits)
            self._adopt(connection)
            await self._greet()
        if self._lost.is_set():
            raise ConnectionError("the connection broke at once")

    def _adopt(self, connection: Connection) -> None:
        """Take the transport over from redis-py, which has said hello and awaits nothing."""
        writer = connection._writer
        assert writer is not None
        # uvloop's transports have all the methods, but not the base class.
        transport = cast(asyncio.Transport, writer.transport)
        self._connection = connection  # Kept alive: it closes its transport when collected.
        self._transport = transport
        self._reader = hiredis.Reader(
            replyError=CommandError, notEnoughData=_INCOMPLETE, protocolError=ConnectionError
        )
        transport.set_protocol(self)

    def _disconnect(self) -> None:
        transport, self._transport = self._transport, None
        connection, self._connection = self._connection, None
        self._reader = None
        if transport is not None:
            transport.abort()
        if connection is not None:
            # redis-py must not close, from its finalizer, a transport that is gone.
            connection._reader = connection._writer = None
        self._broken()

    def _set_up(self, up: bool) -> None:
        if up != self.up:
            self.up = up
            self._on_state(up)

    # --- asyncio.Protocol --------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            return
        try:
            reader.feed(data)
            reply = reader.gets()
            while reply is not _INCOMPLETE:
                self._reply(reply)
                if self._reader is not reader:
                    return
                reply = reader.gets()
        except ConnectionError:
            self.reset()  # Not RESP: nothing that follows can be trusted.

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self.reset()


_FAILURES = (OSError, RedisUnavailable, CommandError)
"""What an attempt to connect can end with; a TimeoutError is an OSError."""


# --- redis-py --------------------------------------------------------------------------------


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn whatever redis-py raises into `RedisUnavailable`, whose text is one line.

    The seam to that library: its own exceptions, those of sockets and of TLS, and what becomes of
    an option or a host name that it does not like (ValueError, TypeError, AttributeError) all mean
    that there is no connection. Nothing of ours runs within.
    """
    try:
        yield
    except Exception as problem:
        raise RedisUnavailable(said_of(problem)) from problem


async def _dial(url: str, limits: Limits) -> Connection:
    connection = _library_connection(url, limits)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


def _library_connection(url: str, limits: Limits) -> Connection:
    options: dict[str, Any] = dict(parse_url(library_url(url)))
    connection_class = options.pop("connection_class", Connection)
    options.update(
        socket_timeout=limits.redis_timeout_s,
        socket_connect_timeout=limits.redis_connect_timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
        maint_notifications_config=None,
    )
    connection: Connection = connection_class(**options)
    return connection


def library_url(address: str) -> str:
    """Return an address as redis-py may be given it: without the options that are none of ours.

    Raises:
        SettingsError: it cannot be read, or asks for something that cannot be.
    """
    return RedisAddress.parse(address).effective().url


def said_of(problem: BaseException) -> str:
    """Return the text of an exception as one line, without secrets."""
    if isinstance(problem, TimeoutError) and not str(problem):
        return "no answer in time"
    text = " ".join(str(problem).split()).rstrip(".")
    return without_secrets(text) or type(problem).__name__
