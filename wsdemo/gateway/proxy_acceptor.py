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

from wsdemo.gateway.access_control import SPARE_SOCKETS
from wsdemo.gateway.proxy_header import BadHeader, ProxyHeader, missing, read
from wsdemo.gateway.socket import Socket, SocketServices, peer_of

_log = logging.getLogger("wsdemo.gateway")

MAX_TOLD: Final = 100
"""Proxies whose bad headers are told of, each once; it is counted always."""


class ProxyAcceptor:
    """Makes the protocols of new connections.

    Args:
        tls: how they are encrypted, if they are.
        spawn: runs something that ends before the gateway does.
    """

    def __init__(
        self,
        services: SocketServices,
        tls: ssl.SSLContext | None,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.services = services
        self.tls = tls
        self.spawn = spawn
        self.waiting: set[PendingConnection] = set()
        """Connections that are no sockets yet: without their header, or their TLS."""
        self._told: set[str] = set()

    def protocol(self) -> PendingConnection:
        """Return the protocol of a new connection."""
        return PendingConnection(self)

    def close(self) -> None:
        """Hang up on all that are still waiting."""
        for connection in list(self.waiting):
            connection.abort()

    def complain(self, proxy: str, why: str) -> None:
        """Count a bad header; log the first one of each proxy."""
        self.services.counters.proxied_malformed += 1
        if proxy not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(proxy)
            _log.warning(
                "[Gateway] %s is a trusted proxy and sends no good PROXY header (%s): it is hung "
                "up on. Let it send one (HAProxy: send-proxy-v2; nginx: proxy_protocol on), or "
                "start the gateway without --proxy-protocol",
                proxy or "unix",
                why,
            )


class PendingConnection(asyncio.BufferedProtocol):
    """One connection until it is a socket."""

    def __init__(self, acceptor: ProxyAcceptor) -> None:
        self._acceptor = acceptor
        self._said = bytearray()
        self._buffer = bytearray(missing(b""))
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        acceptor, services = self._acceptor, self._acceptor.services
        self._transport = cast(asyncio.Transport, transport)
        peer = peer_of(self._transport)
        acceptor.waiting.add(self)
        most = 2 * services.limits.max_connections + SPARE_SOCKETS
        if len(acceptor.waiting) + len(services.sockets) > most:
            services.counters.connections_refused += 1
            self.abort()
        elif services.access.is_proxy(peer):
            self._timer = services.loop.call_later(
                services.limits.handshake_timeout_s, self._too_late
            )
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
            header = read(said) if not more else None
        except BadHeader as problem:
            self._refuse(str(problem))
            return
        if header is None:
            self._buffer = bytearray(more)
        else:
            self._go_on(header)

    def eof_received(self) -> bool:
        if self._said:
            self._refuse("it ends too early")
        return False  # Without a byte: a check whether somebody listens.

    def _too_late(self) -> None:
        self._refuse("it did not come in time")

    def _refuse(self, why: str) -> None:
        assert self._transport is not None
        self._acceptor.complain(peer_of(self._transport), why)
        self.abort()

    def abort(self) -> None:
        assert self._transport is not None
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._leave()

    def _leave(self) -> None:
        self._acceptor.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- what comes after --------------------------------------------------------------------

    def _go_on(self, header: ProxyHeader | None) -> None:
        """Become a socket; `header` is what the header says, None when there is none."""
        acceptor, transport = self._acceptor, self._transport
        assert transport is not None
        services = acceptor.services
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if header is not None:
            services.counters.proxied_local += header.is_local
            services.counters.proxied_accepted += not header.is_local
        if acceptor.tls is not None:
            transport.pause_reading()  # Or a loop reads on before `start_tls` takes over.
            acceptor.spawn(self._encrypt(transport, header, acceptor.tls))
        else:
            self._hand_over(transport, header)

    def _hand_over(self, transport: asyncio.Transport, header: ProxyHeader | None) -> Socket:
        self._leave()
        services, proxy = self._acceptor.services, peer_of(transport)
        if header is None:
            socket = Socket(services)
        else:
            slot = services.access.announced(proxy, header.address, header.is_local)
            socket = Socket(services, header.address or proxy, slot)
        transport.set_protocol(socket)
        socket.connection_made(transport)
        return socket

    async def _encrypt(
        self, transport: asyncio.Transport, header: ProxyHeader | None, tls: ssl.SSLContext
    ) -> None:
        """Shake hands of TLS, and hand over."""
        early, services = _EarlyEvents(), self._acceptor.services
        timeout_s = services.limits.handshake_timeout_s
        try:
            if self._is_lost or transport.is_closing():
                return  # Nobody would tell `start_tls` any more.
            async with asyncio.timeout(timeout_s):
                secure = await services.loop.start_tls(transport, early, tls, server_side=True)
        except OSError:
            transport.abort()  # Its own affair, as with any handshake of TLS that fails.
            return
        finally:
            self._leave()
        if secure is None or secure.get_extra_info("cipher") is None:
            return  # It was lost meanwhile, which `start_tls` does not tell.
        early.hand_over(self._hand_over(secure, header))


class _EarlyEvents(asyncio.Protocol):
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
