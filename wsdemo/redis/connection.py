"""Connection to Redis: how is it made, how does it break, and how does it come back?

redis-py's `Connection` connects (addresses, TLS, AUTH, the first commands), then hands its
transport to us. From then on hiredis parses every byte within the event loop's own callback: no
task is woken and nothing is awaited per reply. Measured, a command takes a tenth of the time that
it takes with `redis.asyncio`'s client.

The library's retries are off. It would run a write that timed out a second time and report one
success; here, the sender of a command gets each failure and decides.

A server that answers may still be of no use: a replica, one that loads its data, one that cannot
save. So a connection is first open, and up when the server has shown that it does what we need.
The reason why it is not up is kept, in Redis' own words, and each reason is reported once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, cast

import hiredis
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from wsdemo.addresses import Form, RedisAddress, SettingsError
from wsdemo.redis.outcome import CommandError, Outcome, Refused, Trouble, text_of, trouble_of
from wsdemo.settings import Limits
from wsdemo.tasks import end

__all__ = ["CommandError", "RedisConnection", "RedisUnavailable", "Whereabouts", "pack_command"]

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_CAP_S: Final = 2.0
MAX_TOLD: Final = 16
"""Reasons reported in one outage: a server with a new text each time must not fill the log."""
NOT_YET: Final = Trouble(Outcome.UNREACHABLE, "not connected")
GIVEN_UP: Final = Trouble(Outcome.UNREACHABLE, "the connection was given up")
MOVED: Final = Trouble(Outcome.UNREACHABLE, "the primary is another server now")
CLOSED: Final = "Redis closed the connection"
_INCOMPLETE: Final = object()


pack_command = cast(Callable[[tuple[str | bytes | int, ...]], bytes], hiredis.pack_command)
"""Write a command in RESP. (hiredis' annotation names a tuple of one; it takes any.)"""


class RedisUnavailable(Exception):
    """Redis cannot be reached, or refuses us; the text says why, in one line.

    `answered` says whether a server has answered.
    """

    def __init__(self, words: str, *, answered: bool = False) -> None:
        super().__init__(words)
        self.answered = answered


class Whereabouts(Protocol):
    """Says where a server is that moves. Asked before each attempt to connect."""

    async def url(self) -> str:
        """Return the address of the server as a URL.

        Raises:
            Refused: nobody knows it now.
        """

    def follow(self, connection: RedisConnection) -> None:
        """Tell this connection from now on when the server has moved (`move_to`)."""

    def forget(self, connection: RedisConnection) -> None:
        """Do so no longer. Idempotent."""


class Backoff:
    """Exponential backoff: pauses that double up to a cap, with jitter.

    The jitter spreads the gateways of a cluster, which all lost the server at the same moment.

    Args:
        rng: source of the jitter; None makes one of its own.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._size_s = BACKOFF_FIRST_S

    def next_s(self) -> float:
        """Return how long to wait before the next attempt."""
        size_s, self._size_s = self._size_s, min(2 * self._size_s, BACKOFF_CAP_S)
        return self._rng.uniform(size_s / 4, size_s)

    def reset(self) -> None:
        """Begin with short pauses again."""
        self._size_s = BACKOFF_FIRST_S


class RedisConnection(asyncio.Protocol):
    """A connection that is kept up from `start` to `stop`.

    Subclasses say what is done first on each new connection (`_greet`), with each reply
    (`_reply`) and when it breaks (`_broken`).

    Args:
        url: where Redis is, or who knows it.
        limits: its timeouts.
        on_state: called with True when the connection is ready for use, with False when it is
            no longer.
        on_trouble: called when it is not, with the reason, and again for each other reason
            until it is.
        rng: source of the jitter between attempts to connect.
    """

    # With those of a subclass there are more than an instance dictionary shares (30): where all
    # are in one, access to each takes longer.
    __slots__ = (
        "_backoff",
        "_connection",
        "_hurry",
        "_keeper",
        "_limits",
        "_loop",
        "_lost",
        "_on_state",
        "_on_trouble",
        "_reader",
        "_told",
        "_transport",
        "_url",
        "_went_at",
        "_whereabouts",
        "_why",
        "away_s",
        "open",
        "trouble",
        "up",
    )

    def __init__(
        self,
        url: str | Whereabouts,
        limits: Limits,
        on_state: Callable[[bool], None],
        on_trouble: Callable[[Trouble], None] = lambda trouble: None,
        rng: random.Random | None = None,
    ) -> None:
        self._whereabouts = None if isinstance(url, str) else url
        self._url = url if isinstance(url, str) else ""
        self._limits = limits
        self._on_state = on_state
        self._on_trouble = on_trouble
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        self._transport: asyncio.Transport | None = None
        self._reader: Any = None
        self._lost: asyncio.Event = asyncio.Event()
        self._hurry: asyncio.Event = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._backoff = Backoff(rng)
        self._why = ""
        self._told: set[Trouble] = set()
        self._went_at = 0.0
        self.open = False
        """Whether commands have a way to Redis right now."""
        self.up = False
        """Whether they have, and the server does what we need of it."""
        self.trouble: Trouble | None = NOT_YET
        """Why it is not up; None when it is."""
        self.away_s = 0.0
        """How long the last outage lasted, when it was over."""

    # --- for subclasses ----------------------------------------------------------------------

    async def _greet(self) -> Trouble | None:
        """Make a new connection ready for use.

        Returns:
            None when it is ready; otherwise why the server cannot be used now, although it makes
            sense to stay connected.

        Raises:
            Refused, ConnectionError: it makes no sense to stay connected.
        """
        return None

    def _reply(self, reply: Any) -> None:
        """Handle one reply."""
        raise NotImplementedError

    def _broken(self, why: str) -> None:
        """Clean up after a connection that is gone."""

    # --- life --------------------------------------------------------------------------------

    async def start(self, patience_s: float = 0.0) -> None:
        """Connect, and stay connected from here on.

        Args:
            patience_s: how long to retry when the server answers "not now": it loads its data, or
                is a replica until a failover has ended.

        Raises:
            RedisUnavailable: it could not be; nothing is left running.
        """
        self._loop = loop = asyncio.get_running_loop()
        if self._whereabouts is not None:
            self._whereabouts.follow(self)
        gives_up_at = loop.time() + patience_s
        while (trouble := await self._dial()) is not None:
            self._disconnect()
            if not self._passes(trouble) or loop.time() >= gives_up_at:
                answered = trouble.outcome is not Outcome.UNREACHABLE
                self._be_forgotten()
                raise RedisUnavailable(trouble.words, answered=answered)
            self._become(False, trouble)
            await self._pause()
        self._become(True, None)
        self._keeper = loop.create_task(self._keep(), name="redis-connection")

    def _passes(self, trouble: Trouble) -> bool:
        """Whether to try again at the start. A server that is away may have a successor soon."""
        away = trouble.outcome is Outcome.UNREACHABLE
        return trouble.outcome.passes or (away and self._whereabouts is not None)

    def start_soon(self) -> None:
        """Connect in the background as soon as it is possible, and stay connected from here on."""
        self._loop = asyncio.get_running_loop()
        self._lost.set()
        self._hurry.set()
        self._keeper = self._loop.create_task(self._keep(), name="redis-connection")

    async def stop(self) -> None:
        """Disconnect for good. Idempotent."""
        self._be_forgotten()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await end(keeper)
        self._on_trouble = _say_nothing  # The caller knows why it ends.
        self._disconnect()
        self._become(False, NOT_YET)

    def reset(self, trouble: Trouble = GIVEN_UP) -> None:
        """Give up this connection; the keeper task makes a new one."""
        if self.open:
            self._become(False, trouble)  # First, so that nobody uses it any more.
        self._disconnect(trouble.words)
        self._lost.set()

    @property
    def place(self) -> str:
        """Where it is, or was last, as a URL; '' before the first attempt to connect."""
        return self._url

    def move_to(self, url: str) -> None:
        """Take note that the server is now at this address: leave any other one, and connect
        without a pause.
        """
        if self._url != url:
            self.reset(MOVED)
        if not self.open:
            self._hurry.set()

    def _be_forgotten(self) -> None:
        if self._whereabouts is not None:
            self._whereabouts.forget(self)

    async def _pause(self) -> None:
        """Wait before the next attempt to connect, unless it is known that one is worth it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._backoff.next_s()):
                await self._hurry.wait()

    async def _keep(self) -> None:
        while True:
            await self._lost.wait()
            await self._pause()
            trouble = await self._dial()
            # Lost means that `_dial` has failed: it tries again, after a longer pause.
            self._become(not self._lost.is_set(), trouble)

    async def _dial(self) -> Trouble | None:
        """Try once to connect; return why the server cannot be used, None when it can."""
        self._lost.clear()
        self._hurry.clear()
        try:
            trouble = await self._connect()
        except _FAILURES as problem:
            self._disconnect()
            self._lost.set()
            return trouble_of(problem)
        self._backoff.reset()
        self._hurry.clear()
        return trouble

    async def _connect(self) -> Trouble | None:
        if self._whereabouts is not None:
            async with asyncio.timeout(self._limits.redis_connect_timeout_s):
                self._url = await self._whereabouts.url()
        gives_up_at = asyncio.get_running_loop().time() + self._limits.redis_connect_timeout_s
        async with asyncio.timeout_at(gives_up_at):
            with one_line():
                connection = await _connected(self._url, self._limits)
        self._adopt(connection)
        # A timeout of its own: redis-py may swallow the cancellation of the first one (see
        # `wsdemo.tasks`), and a timeout cancels only once.
        async with asyncio.timeout_at(gives_up_at):
            trouble = await self._greet()
        if self._lost.is_set():
            raise ConnectionError("the connection broke at once")
        return trouble

    def _adopt(self, connection: Connection) -> None:
        """Take the transport over from redis-py, which has connected and awaits nothing now."""
        reader, writer = connection._reader, connection._writer
        assert reader is not None and writer is not None
        # uvloop's transports have all the methods, but not the base class.
        transport = cast(asyncio.Transport, writer.transport)
        self._connection = connection  # A reference, since it closes its transport when collected.
        self._transport = transport
        self._reader = hiredis.Reader(
            replyError=CommandError, notEnoughData=_INCOMPLETE, protocolError=ConnectionError
        )
        transport.set_protocol(self)
        # A server without room for us says so unasked, and closes; redis-py has not read that.
        early, ended = bytes(reader._buffer), reader.at_eof()  # type: ignore[attr-defined]
        if early:
            self._reader.feed(early)
            raise unasked(self._reader.gets())
        if ended:
            raise ConnectionError(CLOSED)

    def _disconnect(self, why: str = GIVEN_UP.words) -> None:
        transport, self._transport = self._transport, None
        connection, self._connection = self._connection, None
        self._reader = None
        self._why = why
        if transport is not None:
            transport.abort()
        if connection is not None:
            # redis-py must not close, from its finalizer, a transport that is gone.
            connection._reader = connection._writer = None
        self._broken(why)

    def _become(self, is_open: bool, trouble: Trouble | None) -> None:
        """Set the state of the connection, and report what has changed."""
        up, was_up = trouble is None, self.up
        self.open, self.trouble, self.up = is_open, trouble, up
        now = self._now()
        if was_up and not up:
            self._told.clear()
            self._went_at = now
        elif up and not was_up:
            self.away_s = now - self._went_at
        if trouble is not None and trouble not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(trouble)
            self._on_trouble(trouble)
        if up != was_up:
            self._on_state(up)

    def _now(self) -> float:
        return self._loop.time() if self._loop is not None else 0.0

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
            self.reset(Trouble(Outcome.UNFIT, "what answers does not speak Redis' protocol"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            ending = Trouble(Outcome.UNREACHABLE, CLOSED)
            self.reset(ending if exc is None else trouble_of(exc))


_FAILURES = (OSError, RedisUnavailable, CommandError, Refused)
"""The exceptions of an attempt to connect; a TimeoutError is an OSError."""


# --- redis-py --------------------------------------------------------------------------------


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn whatever redis-py raises into `RedisUnavailable`, whose text is one line.

    The boundary to that library: its own exceptions, those of sockets and TLS, and those for an
    option or a host name that it does not accept (ValueError, TypeError, AttributeError) all mean
    that there is no connection. No code of ours runs within.
    """
    try:
        yield
    except Exception as problem:
        raise RedisUnavailable(text_of(problem)) from problem


async def _connected(url: str, limits: Limits) -> Connection:
    connection = library_connection(url, limits)
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


def library_connection(url: str, limits: Limits) -> Connection:
    """Return a connection of redis-py that is not connected yet. It retries nothing, speaks RESP2,
    and says nothing about itself.
    """
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


def unasked(reply: Any) -> Refused:
    """Return the meaning of a reply without a command: usually why the server will disconnect."""
    if isinstance(reply, CommandError):
        return Refused(trouble_of(reply))
    return Refused(Trouble(Outcome.UNFIT, "what answers there speaks unasked"))


def _say_nothing(trouble: Trouble) -> None:
    """Ignore a trouble."""


def library_url(address: str) -> str:
    """Return an address for redis-py: without the options that have no effect here.

    Raises:
        SettingsError: it cannot be read, asks for something that cannot be, or is not the address
            of one server.
    """
    parsed = RedisAddress.parse(address)
    if parsed.form is not Form.SERVER:
        raise SettingsError(f"an address of one server is needed here, not of a {parsed.form}")
    return parsed.effective().url
