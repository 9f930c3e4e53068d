"""How does a user stay connected?

By expecting not to be. One task dials, registers, reads and, whatever ends the connection, decides
whether and where to dial again: the close code says whether, the failover list says where, and a
random pause, longer after each failure, says when, so that a thousand users who lost the same
gateway do not come back in the same instant. Success is `registered`, not an open socket.

A connection can be dead without a sign. Heartbeats that stay unanswered find that out.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import re
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidStatus,
    InvalidURI,
)
from websockets.uri import parse_uri

from wsdemo.addresses import ENCODE
from wsdemo.events import Emit, Event, Kind
from wsdemo.protocol import Code, Say, Status, retry_after_s, should_reconnect
from wsdemo.settings import ClientSettings, Timing, redacted, without_secrets

MAX_FRAME_BYTES: Final = 256 * 1024
RECENT: Final = 1024
"""Receipts that a late correction still finds."""
RETRYABLE_HTTP: Final = frozenset({429, 500, 502, 503, 504})
_STATUSES: Final = frozenset(status.value for status in Status)
_PING: Final = '{"type":"ping"}'
_encode: Final = msgspec.json.encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class State(StrEnum):
    """Where a client stands."""

    CONNECTING = "connecting"
    REGISTERED = "registered"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class ConnectFailed(Exception):
    """The client could not register anywhere; the text says why, in one line."""


class ClientClosed(Exception):
    """The client is closed for good; the text says why."""


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody sent to us."""

    sender: str
    content: str
    id: str | None = None


@dataclass(slots=True, eq=False)
class Receipt:
    """What became of a message that we sent, as far as the gateways know.

    `status` may still change after it was settled: a message that was `routed` can come back as
    `unreachable` when its recipient's gateway no longer has that session.
    """

    id: str
    to: str
    status: Status | None = None
    error: str = ""
    latency_s: float = float("nan")
    """From sending to the answer."""
    _sent_at: float = field(default=0.0, repr=False)
    _settled: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def settled(self) -> Status:
        """Wait until something is known."""
        await self._settled.wait()
        assert self.status is not None
        return self.status

    def settle(self, status: Status, now: float, error: str = "") -> None:
        """Take note of an answer; the first one sets the latency."""
        if not self._settled.is_set():
            self.latency_s = now - self._sent_at
            self._settled.set()
        self.status = status
        self.error = error


class _Ended(NamedTuple):
    """How an attempt to be connected ended."""

    registered: bool
    reconnect: bool
    why: str
    advice_s: float | None = None


class Client:
    """A user, connected to one of several gateways: `async with Client("alice", [url]) as alice`.

    Args:
        user: who we are.
        gateways: WebSocket URLs, tried in turn.
        settings: patience.
        timing: its heartbeat is used instead of the one that the gateway asks for.
        token: proof of who we are, where gateways want one; or a function that returns it, asked
            at each attempt.
        emit: hears of everything that happens.
        rng: source of all randomness (pauses, the phase of the heartbeat).
        clock: monotonic seconds.
        should_ping: asked before each heartbeat; the laboratory drops some.

    Raises:
        ValueError: there is no gateway, or an address that is not a WebSocket URL.
    """

    def __init__(
        self,
        user: str,
        gateways: Sequence[str],
        *,
        settings: ClientSettings | None = None,
        timing: Timing | None = None,
        token: str | Callable[[], str] = "",
        emit: Emit | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        should_ping: Callable[[], bool] = lambda: True,
    ) -> None:
        self._gateways = [gateways] if isinstance(gateways, str) else list(gateways)
        if not self._gateways:
            raise ValueError("a client needs at least one gateway")
        for url in self._gateways:
            try:
                parse_uri(url)
                if any(char.isspace() or not char.isprintable() for char in url):
                    raise ValueError("not a URL")
            except (InvalidURI, ValueError):
                what = f"{redacted(url)!r} is not a WebSocket URL (ws://host:port/ws)"
                raise ValueError(f"{what}; {ENCODE}" if "@" in url else what) from None
        self.user = user
        self.state = State.CONNECTING
        self.gateway_id = ""
        """The gateway that we are registered with, by its own word."""
        self.conn_id = ""
        self.closed_because = ""
        self.attempts = 0
        """How often we dialled; a gateway lets a later attempt win over an earlier one."""
        self._settings = settings or ClientSettings()
        self._timing = timing
        self._token = token
        self._emit = emit
        self._rng = rng or random.Random()
        self._clock = clock
        self._should_ping = should_ping
        self._instance = secrets.token_hex(8)
        self._turn = 0
        self._connection: ClientConnection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._registered = asyncio.Event()
        self._ended = asyncio.Event()
        self._moving = False
        self._closing = False
        self._next_id = 0
        self._asked_at: float | None = None
        """When the earliest heartbeat left that nobody has answered (the loop's clock)."""
        self._pending: OrderedDict[str, Receipt] = OrderedDict()
        self._recent: OrderedDict[str, Receipt] = OrderedDict()
        self._inbox: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()

    # --- life --------------------------------------------------------------------------------

    async def start(self, timeout_s: float = 15.0) -> None:
        """Connect, wait until registered, and stay connected from here on.

        Raises:
            ConnectFailed: no gateway took us, or none in time; nothing is left running.
        """
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=f"{self.user}")
        self._keeper.add_done_callback(self._kept)
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait_registered()
        except TimeoutError:
            reason = self.closed_because or "no gateway answered"
            await self.close()
            raise ConnectFailed(f"{self.user}: {reason} (within {timeout_s:g} s)") from None
        except ClientClosed as problem:
            await self.close()
            raise ConnectFailed(f"{self.user}: {problem}") from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Say goodbye and stop. Idempotent."""
        self._closing = True
        keeper, self._keeper = self._keeper, None
        if self._connection is not None and self.state is State.REGISTERED:
            # The close handshake is bounded by `close_timeout` of the connection.
            await self._connection.close(Code.NORMAL)
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        self._finish(self.closed_because or "closed by us")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _wait_registered(self) -> None:
        registered = asyncio.ensure_future(self._registered.wait())
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait([registered, ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            registered.cancel()
            ended.cancel()
        if not self._registered.is_set():
            raise ClientClosed(self.closed_because)

    # --- what a user does --------------------------------------------------------------------

    async def send(self, to: str, content: str) -> Receipt:
        """Send a message and wait until its gateway says what became of it.

        Nothing that can happen to a message is an exception. `unknown` means that no answer came
        in time, or that the connection broke before it did (gateways of the Go demo never
        answer); `busy`, that it was not sent because there was no connection. Messages sent one
        after another leave in that order.
        """
        self._next_id += 1
        receipt = Receipt(f"{self._instance[:6]}-{self._next_id}", to, _sent_at=self._clock())
        try:
            async with asyncio.timeout(self._settings.ack_timeout_s):
                if await self._write(receipt, content):
                    await receipt.settled()
        except TimeoutError:
            receipt.settle(Status.UNKNOWN, self._clock(), "no answer in time")
        finally:
            self._pending.pop(receipt.id, None)
        return receipt

    async def _write(self, receipt: Receipt, content: str) -> bool:
        """Send the message of a receipt as soon as we are registered."""
        try:
            await self._wait_registered()
        except ClientClosed as problem:
            receipt.settle(Status.BUSY, self._clock(), str(problem))
            return False
        connection = self._connection
        assert connection is not None
        document = {"type": "message", "to": receipt.to, "content": content, "id": receipt.id}
        try:
            text = _encode(document)
        except UnicodeEncodeError:  # A lone surrogate: no gateway could be told of it.
            receipt.settle(Status.REFUSED, self._clock(), Say.INVALID)
            return False
        self._pending[receipt.id] = receipt
        self._remember(receipt)
        self._observe(Kind.SEND, peer=receipt.to, msg_id=receipt.id)
        try:
            await connection.send(text, text=True)
        except ConnectionClosed:
            receipt.settle(Status.UNKNOWN, self._clock(), "the connection broke")
        return True

    def _remember(self, receipt: Receipt) -> None:
        self._recent[receipt.id] = receipt
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    async def receive(self, timeout_s: float | None = None) -> Message:
        """Return the next message.

        Raises:
            TimeoutError: none came in time.
            ClientClosed: none will come any more.
        """
        async with asyncio.timeout(timeout_s):
            while not self._inbox:
                if self.state is State.CLOSED:
                    raise ClientClosed(self.closed_because)
                self._arrived.clear()
                await self._arrived.wait()
        self._room.set()
        return self._inbox.popleft()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Iterate over messages until the client is closed for good; `closed_because` says why."""
        while True:
            try:
                message = await self.receive()
            except ClientClosed:
                return
            yield message

    async def move(self, url: str, timeout_s: float = 10.0) -> None:
        """Leave this gateway and register with another one; it heads the list from now on.

        Raises:
            TimeoutError: it did not take us in time; the client goes on trying.
            ClientClosed: the client is closed for good.
        """
        if url not in self._gateways:
            self._gateways.append(url)
        self._turn = self._gateways.index(url)
        self._moving = True
        self._registered.clear()
        if self._connection is not None:
            await self._connection.close(Code.NORMAL)
        async with asyncio.timeout(timeout_s):
            await self._wait_registered()

    def abort(self) -> None:
        """Cut the connection without a goodbye, as a lost network does; then reconnect."""
        if self._connection is not None:
            self._connection.transport.abort()

    @property
    def gateway(self) -> str:
        """The URL in use, or to be tried next; `redacted` is what may be printed of it."""
        return self._gateways[self._turn % len(self._gateways)]

    # --- staying connected -------------------------------------------------------------------

    async def _keep(self) -> None:
        """Dial, and dial again, until told or forbidden to."""
        failures = 0
        while True:
            self._moving = False  # Wherever we were told to go, this attempt goes there.
            ended = await self._attempt(self.gateway)
            self._lost(ended)
            if not ended.reconnect:
                self._finish(ended.why)
                return
            if self._moving:
                failures = 0
                continue
            failures = 0 if ended.registered else failures + 1
            self._turn += 1
            await asyncio.sleep(self._pause_s(failures, ended.advice_s))

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        """However it ended, whoever waits for a message must not wait for ever."""
        if not keeper.cancelled() and (problem := keeper.exception()) is not None:
            self._finish(f"{type(problem).__name__}: {_one_line(problem)}")
            keeper.get_loop().call_exception_handler(
                {"message": f"client {self.user} failed", "exception": problem, "task": keeper}
            )

    def _pause_s(self, failures: int, advice_s: float | None) -> float:
        """Full jitter below a ceiling that doubles; never less than the gateway asked for."""
        settings = self._settings
        ceiling_s = min(settings.backoff_cap_s, settings.backoff_base_s * 2**failures)
        return (advice_s or 0.0) + self._rng.uniform(0, ceiling_s)

    async def _attempt(self, url: str) -> _Ended:
        """Be connected to one gateway, for as long as it lasts."""
        settings = self._settings
        self.attempts += 1
        try:
            connection = await connect(
                url,
                open_timeout=settings.connect_timeout_s,
                close_timeout=settings.close_timeout_s,
                ping_interval=None,  # The heartbeat is ours; the library answers the gateway's.
                max_size=MAX_FRAME_BYTES,
                max_queue=16,
                compression=None,
                proxy=None,
            )
        except InvalidStatus as problem:
            return self._refused(url, problem)
        except Exception as problem:  # Of websockets, TLS, the resolver: who knows all of them?
            return _Ended(False, True, f"{redacted(url)}: {_one_line(problem)}")
        if self._moving:  # While we dialled.
            connection.transport.abort()
            return _Ended(False, True, f"{redacted(url)}: left before registering")
        self._connection = connection
        self._observe(Kind.WS_OPEN)
        try:
            return await self._converse(connection)
        finally:
            self._connection = None
            connection.transport.abort()

    def _refused(self, url: str, problem: InvalidStatus) -> _Ended:
        """A gateway that answers 403 or 404 will do so again: it is not asked any more."""
        status = problem.response.status_code
        why = f"{redacted(url)}: HTTP {status}"
        if status in RETRYABLE_HTTP:
            advice = problem.response.headers.get("Retry-After", "")
            seconds = float(advice) if re.fullmatch(r"[0-9]{1,6}", advice) else None
            return _Ended(False, True, why, seconds)
        others = [other for other in self._gateways if other != url]
        if not others:
            return _Ended(False, False, why)
        # Whoever stood behind it in the list is next, not the one behind that.
        self._turn = self._turn % len(self._gateways) - 1
        self._gateways = others
        return _Ended(False, True, why)

    async def _converse(self, connection: ClientConnection) -> _Ended:
        """Register, then read until the connection ends; heartbeats go on beside it."""
        heart: asyncio.Task[None] | None = None
        registered = False
        try:
            async with asyncio.timeout(self._settings.register_timeout_s):
                await connection.send(self._hello(), text=True)
                heartbeat_s = await self._answer_to_hello(connection)
            registered = True
            heart = asyncio.get_running_loop().create_task(
                self._beat(connection, heartbeat_s), name=f"heart of {self.user}"
            )
            while True:
                await self._take(await connection.recv())
        except TimeoutError:
            return _Ended(False, True, f"{redacted(self.gateway)}: no answer to register")
        except ConnectionClosed:
            return self._ended_by(connection, registered)
        finally:
            if heart is not None:
                heart.cancel()
                await asyncio.wait([heart])

    def _ended_by(self, connection: ClientConnection, registered: bool) -> _Ended:
        code, reason = connection.close_code, connection.close_reason or ""
        why = f"closed with {code} {reason}".strip()
        again = not self._closing and (self._moving or should_reconnect(code))
        return _Ended(registered, again, why, retry_after_s(reason))

    def _hello(self) -> bytes:
        document: dict[str, Any] = {"type": "register", "userId": self.user}
        if token := self._token() if callable(self._token) else self._token:
            document["token"] = token
        document |= {"inst": self._instance, "att": self.attempts}
        return _encode(document)

    async def _answer_to_hello(self, connection: ClientConnection) -> float:
        """Wait for `registered`; return the heartbeat interval to keep (s)."""
        while True:
            answer = _document(await connection.recv())
            if answer.get("type") == "registered":
                break
            # An error before it is followed by a close, whose code says what to do.
        self.gateway_id = str(answer.get("gatewayId", ""))
        self.conn_id = str(answer.get("connId", ""))
        self.state = State.REGISTERED
        self._asked_at = None
        self._observe(Kind.REGISTERED)
        self._registered.set()
        if self._timing is not None:
            return self._timing.heartbeat_s
        asked_ms = answer.get("heartbeatMs")
        return asked_ms / 1000 if isinstance(asked_ms, int) and asked_ms > 0 else 30.0

    async def _beat(self, connection: ClientConnection, heartbeat_s: float) -> None:
        """Say that we are alive; cut a connection on which nobody answers."""
        loop, patience_s = asyncio.get_running_loop(), self._settings.pong_within_s(heartbeat_s)
        # The first beat comes at a random moment, so that users who came together do not beat so.
        beat_at = loop.time() + heartbeat_s * self._rng.random()
        while True:
            asked_at = math.inf if self._asked_at is None else self._asked_at
            await asyncio.sleep(min(beat_at, asked_at + patience_s) - loop.time())
            now = loop.time()
            if len(self._inbox) >= self._settings.inbox:
                # While our own inbox is full we do not read, and so cannot know of any answer.
                self._asked_at = None
            elif self._asked_at is not None and now >= self._asked_at + patience_s:
                connection.transport.abort()
                return
            if now >= beat_at:
                beat_at = now + heartbeat_s
                if self._should_ping():
                    await self._say_ping(connection, now)

    async def _say_ping(self, connection: ClientConnection, now: float) -> None:
        if self._asked_at is None:
            self._asked_at = now
        self._observe(Kind.PING)
        with contextlib.suppress(ConnectionClosed):
            await connection.send(_PING)

    # --- what a gateway says -----------------------------------------------------------------

    async def _take(self, text: str | bytes) -> None:
        document = _document(text)
        match document.get("type"):
            case "message":
                await self._take_message(document)
            case "pong":
                self._asked_at = None
                self._observe(Kind.PONG)
            case "ack":
                self._take_answer(document, str(document.get("status")))
            case "error":
                self._take_error(document)
            case _:
                pass  # Something that a later version says; it is not for us.

    async def _take_message(self, document: dict[str, Any]) -> None:
        while len(self._inbox) >= self._settings.inbox:
            # Nobody takes them: stop reading, so that the pressure reaches the gateway.
            self._room.clear()
            await self._room.wait()
        msg_id = document.get("id")
        message = Message(
            str(document.get("from", "")),
            str(document.get("content", "")),
            msg_id if isinstance(msg_id, str) else None,
        )
        self._observe(Kind.ARRIVE, peer=message.sender, msg_id=message.id or "")
        self._inbox.append(message)
        self._arrived.set()

    def _take_answer(self, document: dict[str, Any], status: str, error: str = "") -> None:
        receipt = self._recent.get(str(document.get("id")))
        if receipt is None or status not in _STATUSES:
            return
        receipt.settle(Status(status), self._clock(), error)
        ok = receipt.status is Status.ROUTED
        self._observe(Kind.ACK, peer=receipt.to, msg_id=receipt.id, ok=ok, reason=status)

    def _take_error(self, document: dict[str, Any]) -> None:
        """An error that names a message is its answer: the gateway has not taken it."""
        status = Status.OFFLINE if document.get("code") == "offline" else Status.REFUSED
        self._take_answer(document, status, str(document.get("error", "")))

    # --- changes of state --------------------------------------------------------------------

    def _lost(self, ended: _Ended) -> None:
        self._registered.clear()
        if self.state is State.REGISTERED:
            self.state = State.RECONNECTING
            self._observe(Kind.WS_CLOSE, reason=ended.why)
        self.closed_because = ended.why
        for receipt in self._pending.values():
            receipt.settle(Status.UNKNOWN, self._clock(), "the connection broke")
        self._pending.clear()

    def _finish(self, why: str) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self.closed_because = why
        self._registered.clear()
        for receipt in self._pending.values():
            receipt.settle(Status.UNKNOWN, self._clock(), why)
        self._pending.clear()
        self._ended.set()
        self._arrived.set()

    def _observe(
        self, kind: Kind, peer: str = "", msg_id: str = "", ok: bool = True, reason: str = ""
    ) -> None:
        if self._emit is None:
            return
        self._emit(
            Event(
                kind,
                self._clock(),
                self.user,
                user=self.user,
                gateway=self.gateway_id,
                peer=peer,
                conn_id=self.conn_id,
                msg_id=msg_id,
                ok=ok,
                reason=reason,
            )
        )

    def __repr__(self) -> str:
        place = self.gateway_id or redacted(self.gateway)
        where = f" at {place}" if self.state is State.REGISTERED else ""
        return f"<Client {self.user}: {self.state}{where}>"


def _document(text: str | bytes) -> dict[str, Any]:
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _one_line(problem: BaseException) -> str:
    return without_secrets(" ".join(str(problem).split())) or type(problem).__name__
