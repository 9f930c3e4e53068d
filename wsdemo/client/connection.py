"""Reconnection: how does a user stay connected?

One task dials, registers and reads. When the connection ends, it decides whether, where and when to
dial again: the close code says whether, the failover list says where, and an exponential backoff
with full jitter says when, so that a thousand users who lost the same gateway do not come back at
the same moment. An attempt has succeeded when `registered` arrives, not when a socket is open.

A connection can be dead without any sign. Unanswered heartbeats detect this.

Where gateways require a token, a new one is sent before the old one expires, on the same
connection; while there is none, the client waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import re
import secrets
import ssl
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from wsdemo.client.dial import RETRYABLE_HTTP, answered, dial, parsed, why_not
from wsdemo.client.tokens import TokenSource, TokenUnavailable, expires_at, fetch, outlives
from wsdemo.events import Emit, Event, Kind
from wsdemo.protocol import (
    CLOSE_POLICIES,
    Code,
    retry_after_s,
    should_reconnect,
)
from wsdemo.settings import ClientSettings, Timing, redacted
from wsdemo.tasks import end

MAX_FRAME_BYTES: Final = 256 * 1024
UNCLEAR: Final = frozenset({None, Code.PROTOCOL_ERROR, 1005, 1006})
"""Close codes that say nothing, or were changed on the way: after these, a `bye` message counts."""
TOKEN_PACE_S: Final = 1.0
"""A source of tokens is not asked more often than this, except for a new connection."""
TOKEN_CAP_S: Final = 60.0
STOOD_STILL_S: Final = 1.0
"""When a timer is this late, the process was suspended, and has not read what came meanwhile."""
LOOK_UP_S: Final = 10.0
"""How often the time of day is compared with our timers, which stop while a laptop sleeps."""
NO_INBOX: Final = "this gateway stores no messages; start it with --durable"
BackoffRule = Callable[[int, random.Random], float]
"""Says how long to wait (s) before the next attempt to connect, by its number: 1 for the first one
after a connection was lost, and one more after each attempt that failed."""
_PING: Final = '{"type":"ping"}'
_encode: Final = msgspec.json.encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class State(StrEnum):
    """The states of a client."""

    CONNECTING = "connecting"
    REGISTERED = "registered"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class ConnectFailed(Exception):
    """The client could not register anywhere; the text says why, in one line."""


class NotDurable(ConnectFailed):
    """No gateway in the list stores messages, and the client was to be durable."""


class ClientClosed(Exception):
    """The client is closed for good; the text says why."""


class _Ended(NamedTuple):
    """How an attempt to be connected ended."""

    registered: bool
    reconnect: bool
    why: str
    advice_s: float | None = None
    url: str = ""
    """The URL that was dialled; '' when none was."""
    code: int | None = None


class _Bye(NamedTuple):
    """The `bye` message of a gateway: what the close frame after it will say."""

    code: int
    advice_s: float | None


class Connection:
    """One user's connection to one of several gateways, made again whenever it is lost.

    `Client` has the arguments, and says what goes over it.
    """

    def __init__(
        self,
        user: str,
        gateways: Sequence[str],
        *,
        settings: ClientSettings | None = None,
        timing: Timing | None = None,
        token: str | TokenSource = "",
        tls: ssl.SSLContext | None = None,
        emit: Emit | None = None,
        backoff: BackoffRule | None = None,
        rng: random.Random | None = None,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], float] = time.time,
        should_ping: Callable[[], bool] = lambda: True,
    ) -> None:
        user.encode()  # No name has a lone surrogate; a UnicodeEncodeError is a ValueError.
        self._gateways = [gateways] if isinstance(gateways, str) else list(gateways)
        if not self._gateways:
            raise ValueError("a client needs at least one gateway")
        for url in self._gateways:
            parsed(url)
        self.user = user
        self.state = State.CONNECTING
        self.gateway_id = ""
        """The id of the gateway that we are registered with, as it told us."""
        self.conn_id = ""
        self.closed_because = ""
        self.close_code: int | None = None
        """The code of the close that `closed_because` is about; None when it is about none."""
        self.attempts = 0
        """How often we dialled; a later attempt wins over an earlier one in Redis."""
        self._settings = settings or ClientSettings()
        self._timing = timing
        self._token = token
        self._shown = ""
        """The token that was sent last."""
        self._next_token: str | None = None
        """A token other than `_shown`, found after that one was refused."""
        self._token_trouble = ""
        self._refusals = 0
        """How many tokens were refused since we were registered."""
        self._tls = tls
        self._emit = emit
        self._backoff = backoff
        self._rng = rng or random.Random()
        self._clock = clock
        self._time_of_day = time_of_day
        self._should_ping = should_ping
        self._instance = new_id()
        self._turn = 0
        self._connection: ClientConnection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._registered = asyncio.Event()
        self._ended = asyncio.Event()
        self._hurry = asyncio.Event()
        self._known: set[str] = set()
        """The URLs where we have been registered."""
        self._bye: _Bye | None = None
        self._told_again: asyncio.Event | None = None
        """Set by the answer to a register on a connection that is registered already."""
        self._moving = False
        self._closing = False
        self._not_durable = False
        """Whether the last attempt found a gateway that stores no messages."""
        self._asked_at: float | None = None
        """When the earliest heartbeat was sent that is not answered yet (the loop's clock)."""

    # --- what goes over it: for subclasses ------------------------------------------------------

    async def _prepare(self) -> None:
        """Get ready before the first connection."""

    def _hello_fields(self, again: bool) -> dict[str, Any]:
        """Return what else a register says; `again` when it is not the first on a connection."""
        return {}

    def _is_enough(self, registered: Mapping[str, Any]) -> bool:
        """Say whether this gateway offers what we need, by its answer to our register."""
        return True

    def _work(
        self, connection: ClientConnection
    ) -> Iterable[tuple[Coroutine[Any, Any, None], str]]:
        """Return what runs beside the reading of a connection, and its names."""
        return ()

    def _is_full(self) -> bool:
        """Say whether we read nothing at the moment, because the application takes nothing."""
        return False

    async def _take_other(self, document: dict[str, Any]) -> None:
        """Take what a gateway said, other than about the connection itself."""

    def _let_go(self, why: str) -> None:
        """Take note that nothing is answered any more on the connection that we had."""

    async def _last_words(self) -> None:
        """Say what there is to say before the connection is closed."""

    # --- life --------------------------------------------------------------------------------

    async def start(self, timeout_s: float = 15.0) -> None:
        """Connect, wait until registered, and stay connected from here on.

        Raises:
            ConnectFailed: no gateway took us, or none in time; nothing is left running.
            NotDurable: it is a durable client, and no gateway stores messages.
            PositionError: the position cannot be read, or it is another user's.
            RuntimeError: it was started before.
        """
        if self._keeper is not None:
            raise RuntimeError(f"client {self.user} was started already")
        await self._prepare()
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
            failure = NotDurable if self._not_durable else ConnectFailed
            raise failure(f"{self.user}: {problem}") from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Send a close frame and stop. Idempotent; when cancelled, it stops without one.

        What is done is saved and acknowledged. The item that the application has now is not done:
        call `done` first where it is.
        """
        self._closing = True
        keeper = self._keeper
        try:
            await self._last_words()
            if self._connection is not None and self.state is State.REGISTERED:
                await self._say_goodbye(self._connection)
        finally:
            if keeper is not None:
                keeper.cancel()
        if keeper is not None:
            await end(keeper)
        self._finish(self.closed_because or "closed by us")

    async def _say_goodbye(self, connection: ClientConnection) -> None:
        """Close with a close frame; abort when the gateway does not answer in time."""
        try:
            # Twice: `close_timeout` of the connection begins when our own frame is written, and a
            # gateway that does not read may never take it.
            async with asyncio.timeout(2 * self._settings.close_timeout_s):
                await connection.close(Code.NORMAL)
        except TimeoutError:
            connection.transport.abort()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def _wait_registered(self) -> None:
        while not self._registered.is_set():
            if self.state is State.CLOSED:
                raise ClientClosed(self.closed_because)
            registered = asyncio.ensure_future(self._registered.wait())
            ended = asyncio.ensure_future(self._ended.wait())
            try:
                await asyncio.wait([registered, ended], return_when=asyncio.FIRST_COMPLETED)
            finally:
                registered.cancel()
                ended.cancel()

    async def move(self, url: str, timeout_s: float = 10.0) -> None:
        """Leave this gateway and register with another one; it heads the list from now on.

        Raises:
            TimeoutError: we were not registered there in time; the client goes on trying.
            ClientClosed: the client is closed for good.
            ValueError: that is no WebSocket URL.
        """
        parsed(url)
        if url not in self._gateways:
            self._gateways.append(url)
        self._turn = self._gateways.index(url)
        self._moving = True
        self._hurry.set()
        self._registered.clear()
        async with asyncio.timeout(timeout_s):
            if self._connection is not None:
                await self._say_goodbye(self._connection)
            await self._wait_registered()

    def abort(self) -> None:
        """Break the connection without a close frame, as a lost network does; then reconnect."""
        if self._connection is not None:
            self._connection.transport.abort()

    @property
    def gateway(self) -> str:
        """The URL in use, or to be tried next; `redacted` is what may be printed of it."""
        return self._gateways[self._turn % len(self._gateways)]

    # --- staying connected -------------------------------------------------------------------

    async def _keep(self) -> None:
        """Dial again and again, until the client is closed or a gateway forbids it."""
        failures = 0
        while True:
            self._moving = False  # The next attempt goes where `move` has told us.
            ended = await self._attempt()
            self._lost(ended)
            again = ended.reconnect
            if ended.code == Code.AUTH and callable(self._token) and not self._closing:
                again = await self._another_token()
            if not again:
                self._finish(ended.why)
                return
            if self._moving:
                failures = 0
                continue
            failures = 0 if ended.registered else failures + 1
            if ended.url:
                self._turn += 1
            await self._rest(self._pause_s(failures, ended.advice_s))

    async def _rest(self, seconds: float) -> None:
        """Wait for so long, or until a move."""
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        """Finish when the task has ended in any way: nobody may wait for messages for ever."""
        if keeper.cancelled():
            ours = "closed by us" if self._closing else "cancelled"
            self._finish(self.closed_because or ours)
        elif (problem := keeper.exception()) is not None:
            self.close_code = None
            self._finish(f"{type(problem).__name__}: {why_not(problem)}")
            keeper.get_loop().call_exception_handler(
                {"message": f"client {self.user} failed", "exception": problem, "task": keeper}
            )

    def _pause_s(self, failures: int, advice_s: float | None) -> float:
        """Return how long to wait, by our rule or by exponential backoff with full jitter; never
        less than the gateway asked for.
        """
        if self._backoff is not None:
            return (advice_s or 0.0) + self._backoff(failures + 1, self._rng)
        settings = self._settings
        # After a night of failures 2**failures would be too large for a float.
        ceiling_s = min(settings.backoff_cap_s, settings.backoff_base_s * 2 ** min(failures, 64))
        return (advice_s or 0.0) + self._rng.uniform(0, ceiling_s)

    async def _attempt(self) -> _Ended:
        """Be connected to one gateway, for as long as it lasts."""
        try:
            token = await self._token_to_show()
        except TokenUnavailable as problem:
            self._tell_token(str(problem))
            return _Ended(False, True, str(problem), TOKEN_PACE_S)
        url = self.gateway
        self._moving = self._not_durable = False
        self.attempts += 1
        try:
            connection = await dial(url, self._settings, self._tls, MAX_FRAME_BYTES)
        except InvalidStatus as problem:
            return self._refused(url, problem)
        except ssl.SSLCertVerificationError as problem:
            return self._forbidden(url, f"{redacted(url)}: {problem.verify_message}")
        except Exception as problem:  # websockets, TLS and the resolver raise many kinds.
            return _Ended(False, True, f"{redacted(url)}: {why_not(problem)}", url=url)
        try:
            if self._moving:  # While we dialled.
                return _Ended(False, True, f"{redacted(url)}: left before registering", url=url)
            self._connection = connection
            self._observe(Kind.WS_OPEN)
            return await self._converse(connection, url, token)
        finally:
            self._registered.clear()  # First, so that nobody uses the connection that has ended.
            self._connection = None
            connection.transport.abort()

    def _refused(self, url: str, problem: InvalidStatus) -> _Ended:
        """Decide what follows from an HTTP answer that is no WebSocket."""
        why = f"{redacted(url)}: {answered(url, problem)}"
        if problem.response.status_code not in RETRYABLE_HTTP:
            return self._forbidden(url, why)
        advice = problem.response.headers.get("Retry-After", "")
        seconds = float(advice) if re.fullmatch(r"[0-9]{1,6}", advice) else None
        return _Ended(False, True, why, seconds, url=url)

    def _forbidden(self, url: str, why: str) -> _Ended:
        """Remove a gateway from the list that answers 403 or 404: it will do so again.

        A gateway where we have been registered before stays: a proxy may answer like this while
        gateways restart.
        """
        if url in self._known:
            return _Ended(False, True, why, url=url)
        others = [other for other in self._gateways if other != url]
        if not others:
            return _Ended(False, False, why, url=url)
        # The next one in the list is tried next, and is not skipped.
        self._turn = self._turn % len(self._gateways) - 1
        self._gateways = others
        return _Ended(False, True, why, url=url)

    async def _converse(self, connection: ClientConnection, url: str, token: str) -> _Ended:
        """Register, then read until the connection ends, with heartbeats in a task beside it."""
        beside: list[asyncio.Task[None]] = []
        registered = False
        self._bye = None
        self._shown = token
        try:
            try:
                async with asyncio.timeout(self._settings.register_timeout_s):
                    await connection.send(self._hello(token), text=True)
                    heartbeat_s = await self._answer_to_hello(connection)
            except TimeoutError:
                return _Ended(False, True, f"{redacted(url)}: no answer to register", url=url)
            if heartbeat_s is None:
                self._not_durable = True
                await self._say_goodbye(connection)
                return self._forbidden(url, f"{redacted(url)}: {NO_INBOX}")
            registered = True
            self._known.add(url)
            beside.append(self._beside(connection, self._beat(connection, heartbeat_s), "heart"))
            for work, name in self._work(connection):
                beside.append(self._beside(connection, work, name))
            if callable(self._token) and expires_at(token) is not None:
                beside.append(self._beside(connection, self._renew(connection), "token"))
            while True:
                await self._take(await connection.recv())
        except ConnectionClosed:
            pass
        finally:
            await _stopped(beside)
        return self._ended_by(connection, registered, url)

    def _beside(
        self, connection: ClientConnection, work: Coroutine[Any, Any, None], name: str
    ) -> asyncio.Task[None]:
        """Run a task beside the reading of a connection; when it fails, the connection ends."""

        def done(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None:
                connection.transport.abort()

        task = asyncio.get_running_loop().create_task(work, name=f"{name} of {self.user}")
        task.add_done_callback(done)
        return task

    def _ended_by(self, connection: ClientConnection, registered: bool, url: str) -> _Ended:
        code, reason = connection.close_code, connection.close_reason or ""
        advice_s, bye = retry_after_s(reason), self._bye
        if bye is not None and code in UNCLEAR:
            policy = CLOSE_POLICIES.get(bye.code)
            code, reason = bye.code, policy.reason if policy else "as it was announced"
        if bye is not None and advice_s is None:
            advice_s = bye.advice_s
        why = f"closed with {code} {reason}".strip()
        again = not self._closing and (self._moving or should_reconnect(code))
        if code == Code.AUTH and not self._moving:
            # The first new token is sent at once; after several refusals we wait longer.
            advice_s = min(TOKEN_CAP_S, 2.0**self._refusals) if self._refusals else None
            self._refusals = min(self._refusals + 1, 10)
        return _Ended(registered, again, why, advice_s, url, code)

    def _hello(self, token: str, *, again: bool = False) -> bytes:
        document: dict[str, Any] = {"type": "register", "userId": self.user}
        if token:
            document["token"] = token
        document |= {"inst": self._instance, "att": self.attempts}
        return _encode(document | self._hello_fields(again))

    async def _answer_to_hello(self, connection: ClientConnection) -> float | None:
        """Wait for `registered`; return the heartbeat interval to keep (s).

        Return None when this gateway does not offer what we need.
        """
        while True:
            answer = _document(await connection.recv())
            match answer.get("type"):
                case "registered":
                    break
                case "bye":
                    self._take_bye(answer)
                case _:
                    pass  # After an error comes a close frame, whose code says what to do.
        if not self._is_enough(answer):
            return None
        self.gateway_id = str(answer.get("gatewayId", ""))
        self.conn_id = str(answer.get("connId", ""))
        self.state = State.REGISTERED
        self.closed_because, self.close_code = "", None
        self._refusals = 0
        self._asked_at = None
        self._observe(Kind.REGISTERED)
        self._registered.set()
        if self._timing is not None:
            return self._timing.heartbeat_s
        asked_ms = answer.get("heartbeatMs")
        return asked_ms / 1000 if isinstance(asked_ms, int) and asked_ms > 0 else 30.0

    async def _beat(self, connection: ClientConnection, heartbeat_s: float) -> None:
        """Send heartbeats; abort a connection on which they are not answered."""
        loop, patience_s = asyncio.get_running_loop(), self._settings.pong_within_s(heartbeat_s)
        # The first one comes at a random time, so that clients that connected together spread out.
        beat_at = loop.time() + heartbeat_s * self._rng.random()
        while True:
            asked_at = math.inf if self._asked_at is None else self._asked_at
            stood_still = await self._sleep_until(min(beat_at, asked_at + patience_s))
            now = loop.time()
            if stood_still:
                # What has arrived meanwhile is not read yet: ask again.
                self._asked_at, beat_at = None, now
            if self._is_full():
                # While our own queue is full we do not read, and so cannot see an answer.
                self._asked_at = None
            elif self._asked_at is not None and now >= self._asked_at + patience_s:
                connection.transport.abort()
                return
            if now >= beat_at:
                beat_at = now + heartbeat_s
                if self._should_ping() and not await self._say_ping(connection, now, patience_s):
                    connection.transport.abort()
                    return

    async def _sleep_until(self, at: float) -> bool:
        """Sleep until a time of the loop. Return True, at once, when this process was suspended."""
        loop = asyncio.get_running_loop()
        while True:
            now, told = loop.time(), self._time_of_day()
            nap_s = max(0.0, min(at - now, LOOK_UP_S))
            await asyncio.sleep(nap_s)
            passed_s = max(loop.time() - now, self._time_of_day() - told)
            if passed_s > nap_s + STOOD_STILL_S:
                return True
            if loop.time() >= at:
                return False

    async def _say_ping(self, connection: ClientConnection, now: float, within_s: float) -> bool:
        """Send a heartbeat; say whether it could be written in time."""
        if self._asked_at is None:
            self._asked_at = now
        self._observe(Kind.PING)
        try:
            async with asyncio.timeout(within_s):
                await connection.send(_PING)
        except TimeoutError:
            return False
        except ConnectionClosed:
            pass  # The reader has noticed.
        return True

    # --- tokens ------------------------------------------------------------------------------

    async def _token_to_show(self) -> str:
        """Return the token for a new connection.

        Raises:
            TokenUnavailable: there is none now.
        """
        token, self._next_token = self._next_token, None
        if token is None:
            token = await fetch(self._token, self._settings.token_timeout_s)
            self._tell_token("")
        return token

    async def _another_token(self) -> bool:
        """Wait for another token after one was refused; say whether there is one.

        A client that has been registered had a valid token once, so a new one may come soon: it
        waits for `token_patience_s`, and without an end while the source has no token at all.
        """
        loop, settings = asyncio.get_running_loop(), self._settings
        give_up_at = loop.time() + (settings.token_patience_s if self._known else 0.0)
        while True:
            try:
                token = await fetch(self._token, settings.token_timeout_s)
            except TokenUnavailable as problem:
                self._tell_token(str(problem))
            else:
                if token != self._shown:
                    self._next_token = token
                    self._tell_token("")
                    return True
                if loop.time() >= give_up_at:
                    return False
                self._tell_token("the token was refused, and there is no other one")
            await self._rest(TOKEN_PACE_S * self._rng.uniform(1.0, 1.5))

    async def _renew(self, connection: ClientConnection) -> None:
        """Send a new token before the one in use expires, again and again."""
        loop, settings = asyncio.get_running_loop(), self._settings
        taken, taken_at = self._shown, loop.time()
        while (end := expires_at(taken)) is not None:
            await self._sleep_until(loop.time() + self._look_after_s(end, taken_at))
            try:
                token = await fetch(self._token, settings.token_timeout_s)
            except TokenUnavailable as problem:
                self._tell_token(str(problem))
                continue
            if not outlives(token, taken):
                # Report it only when there is not much time left.
                if end - self._time_of_day() < 2 * TOKEN_PACE_S:
                    self._tell_token("the token ends, and there is no fresh one")
                continue
            if await self._show_again(connection, token):
                taken, taken_at = token, loop.time()
                self._tell_token("")

    def _look_after_s(self, end: float, taken_at: float) -> float:
        """Return after how long to look for a new token.

        First after three quarters of the time that is left: a clock that is wrong by less than the
        last quarter does no harm. Then at shorter and shorter intervals. When the token has expired
        by our clock, the intervals grow again: our clock may be wrong, and the gateway decides.
        """
        left_s, spread = end - self._time_of_day(), self._rng.uniform(0.9, 1.1)
        if left_s > 0:
            return max(TOKEN_PACE_S, 0.75 * left_s * spread)
        held_s = asyncio.get_running_loop().time() - taken_at
        return max(TOKEN_PACE_S, min(0.5 * held_s, TOKEN_CAP_S) * spread)

    async def _show_again(self, connection: ClientConnection, token: str) -> bool:
        """Register once more, with a new token; say whether it was accepted."""
        self._shown = token
        self._told_again = answered = asyncio.Event()
        try:
            async with asyncio.timeout(self._settings.register_timeout_s):
                await connection.send(self._hello(token, again=True), text=True)
                await answered.wait()
        except TimeoutError:
            return False
        except ConnectionClosed:
            return False  # The reader sees its code.
        finally:
            self._told_again = None
        return True

    def _tell_token(self, trouble: str) -> None:
        """Emit an event when the trouble with the token changes ('' is none)."""
        if trouble != self._token_trouble:
            self._token_trouble = trouble
            self._observe(Kind.TOKEN, ok=not trouble, reason=trouble)

    # --- from the gateway --------------------------------------------------------------------

    async def _take(self, text: str | bytes) -> None:
        document = _document(text)
        match document.get("type"):
            case "pong":
                self._asked_at = None
                self._observe(Kind.PONG)
            case "registered":
                if self._told_again is not None:
                    self._told_again.set()
            case "bye":
                self._take_bye(document)
            case _:
                await self._take_other(document)

    def _take_bye(self, document: dict[str, Any]) -> None:
        """Keep what the next close frame means: some proxies change its code."""
        code, after_ms = document.get("code"), document.get("retryAfterMs", "")
        if type(code) is int and 1000 <= code < 5000:
            wise = type(after_ms) is int and 0 <= after_ms < 10_000_000
            self._bye = _Bye(code, float(after_ms) / 1000 if wise else None)

    # --- changes of state --------------------------------------------------------------------

    def _lost(self, ended: _Ended) -> None:
        self._registered.clear()
        if self.state is State.REGISTERED:
            self.state = State.RECONNECTING
            self._observe(Kind.WS_CLOSE, reason=ended.why, close_code=ended.code)
        elif ended.url and ended.reconnect and not self._moving:
            self._observe(
                Kind.WS_FAIL,
                ok=False,
                peer=redacted(ended.url),
                reason=ended.why,
                close_code=ended.code,
            )
        self.close_code = ended.code
        self.closed_because = ended.why
        self._let_go("the connection broke")

    def _finish(self, why: str) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self.closed_because = why
        self._registered.clear()
        self._let_go(why)
        self._ended.set()

    def _observe(
        self,
        kind: Kind,
        peer: str = "",
        msg_id: str = "",
        ok: bool = True,
        reason: str = "",
        close_code: int | None = None,
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
                close_code=close_code,
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


async def _stopped(tasks: list[asyncio.Task[None]]) -> None:
    """End tasks.

    Raises:
        Exception: that of the first task that had failed.
    """
    await end(*tasks)
    for task in tasks:
        if not task.cancelled() and (problem := task.exception()) is not None:
            raise problem
