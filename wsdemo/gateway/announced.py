"""How does a connection begin that a proxy has to announce?

With `--proxy-protocol`, what a trusted proxy opens begins with a header that says for whom
(`proxy_header`). It is read here, to its last byte and no further, because what follows may be a
handshake of TLS, which is the event loop's to read. Then the connection becomes what it would have
been without a proxy: a `Socket`, over TLS or not, with the address that the header tells.

Only a trusted proxy is asked. Whoever else connects speaks for itself, without a header.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

from wsdemo.gateway.door import SPARE_SOCKETS
from wsdemo.gateway.proxy_header import Announced, BadHeader, missing, read
from wsdemo.gateway.socket import Front, Socket, peer_of

_log = logging.getLogger("wsdemo.gateway")

MAX_TOLD: Final = 100
"""Proxies whose bad headers are told of, each once; it is counted always."""


class Entrance:
    """Makes the protocols of new connections.

    Args:
        tls: how they are encrypted, if they are.
        spawn: runs something that ends before the gateway does.
    """

    def __init__(
        self,
        front: Front,
        tls: ssl.SSLContext | None,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.front = front
        self.tls = tls
        self.spawn = spawn
        self.waiting: set[Arrival] = set()
        """Connections that are no sockets yet: without their header, or their TLS."""
        self._told: set[str] = set()

    def protocol(self) -> Arrival:
        """Return the protocol of a new connection."""
        return Arrival(self)

    def close(self) -> None:
        """Hang up on all that are still waiting."""
        for arrival in list(self.waiting):
            arrival.abort()

    def complain(self, proxy: str, why: str) -> None:
        """Count a bad header; log the first one of each proxy."""
        self.front.counters.proxied_malformed += 1
        if proxy not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(proxy)
            _log.warning(
                "[Gateway] %s is a trusted proxy and sends no good PROXY header (%s): it is hung "
                "up on. Let it send one (HAProxy: send-proxy-v2; nginx: proxy_protocol on), or "
                "start the gateway without --proxy-protocol",
                proxy or "unix",
                why,
            )


class Arrival(asyncio.BufferedProtocol):
    """One connection until it is a socket."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._said = bytearray()
        self._buffer = bytearray(missing(b""))
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        entrance, front = self._entrance, self._entrance.front
        self._transport = cast(asyncio.Transport, transport)
        peer = peer_of(self._transport)
        entrance.waiting.add(self)
        most = 2 * front.limits.max_connections + SPARE_SOCKETS
        if len(entrance.waiting) + len(front.sockets) > most:
            front.counters.connections_refused += 1
            self.abort()
        elif front.door.is_proxy(peer):
            self._timer = front.loop.call_later(front.limits.handshake_timeout_s, self._too_late)
        else:
            self._go_on(None)

    # --- the header --------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> bytearray:
        """No more room than for what is certainly part of the header."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._said += self._buffer[:nbytes]
        said = bytes(self._said)
        try:
            more = missing(said)
            announced = read(said) if not more else None
        except BadHeader as problem:
            self._refuse(str(problem))
            return
        if announced is None:
            self._buffer = bytearray(more)
        else:
            self._go_on(announced)

    def eof_received(self) -> bool:
        if self._said:
            self._refuse("it ends too early")
        return False  # Without a byte: a check whether somebody listens.

    def _too_late(self) -> None:
        self._refuse("it did not come in time")

    def _refuse(self, why: str) -> None:
        assert self._transport is not None
        self._entrance.complain(peer_of(self._transport), why)
        self.abort()

    def abort(self) -> None:
        assert self._transport is not None
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._leave()

    def _leave(self) -> None:
        self._entrance.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- what comes after --------------------------------------------------------------------

    def _go_on(self, announced: Announced | None) -> None:
        """Become a socket; `announced` is what the header says, None when there is none."""
        entrance, transport = self._entrance, self._transport
        assert transport is not None
        front = entrance.front
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if announced is not None:
            front.counters.proxied_local += announced.is_local
            front.counters.proxied_accepted += not announced.is_local
        if entrance.tls is not None:
            transport.pause_reading()  # Or a loop reads on before `start_tls` takes over.
            entrance.spawn(self._encrypt(transport, announced, entrance.tls))
        else:
            self._hand_over(transport, announced)

    def _hand_over(self, transport: asyncio.Transport, announced: Announced | None) -> Socket:
        self._leave()
        front, proxy = self._entrance.front, peer_of(transport)
        if announced is None:
            socket = Socket(front)
        else:
            visitor = front.door.announced(proxy, announced.address, announced.is_local)
            socket = Socket(front, announced.address or proxy, visitor)
        transport.set_protocol(socket)
        socket.connection_made(transport)
        return socket

    async def _encrypt(
        self, transport: asyncio.Transport, announced: Announced | None, tls: ssl.SSLContext
    ) -> None:
        """Shake hands of TLS, and hand over."""
        early, front = _Early(), self._entrance.front
        timeout_s = front.limits.handshake_timeout_s
        try:
            if self._is_lost or transport.is_closing():
                return  # Nobody would tell `start_tls` any more.
            async with asyncio.timeout(timeout_s):
                secure = await front.loop.start_tls(transport, early, tls, server_side=True)
        except OSError:
            transport.abort()  # Its own affair, as with any handshake of TLS that fails.
            return
        finally:
            self._leave()
        if secure is None or secure.get_extra_info("cipher") is None:
            return  # It was lost meanwhile, which `start_tls` does not tell.
        early.hand_over(self._hand_over(secure, announced))


class _Early(asyncio.Protocol):
    """Keeps what arrives between the end of TLS' handshake and the turn in which we hear of it."""

    def __init__(self) -> None:
        self._kept: list[Callable[[asyncio.Protocol], object]] = []
        self._heir: asyncio.Protocol | None = None

    def hand_over(self, heir: asyncio.Protocol) -> None:
        """Tell it what has happened, and what may still be told to us."""
        self._heir = heir
        for tell in self._kept:
            tell(heir)

    def _tell(self, what: Callable[[asyncio.Protocol], object]) -> None:
        if self._heir is not None:
            what(self._heir)
        else:
            self._kept.append(what)

    def data_received(self, data: bytes) -> None:
        self._tell(lambda heir: heir.data_received(data))

    def eof_received(self) -> bool:
        self._tell(lambda heir: heir.eof_received())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell(lambda heir: heir.connection_lost(exc))
