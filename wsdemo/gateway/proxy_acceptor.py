"""PROXY protocol: how is a connection accepted that begins with a proxy's header?

With `--proxy-protocol`, each connection of a trusted proxy begins with a header that names the
client (`proxy_header`). It is read here, to its last byte and no further, because the next bytes
may be a TLS handshake, which the event loop must read. Then the connection becomes a `Socket`, over
TLS or not, with the address from the header, as if there were no proxy.

Only a trusted proxy has to send a header. Other clients connect directly, without one.
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
"""So many proxies are logged for bad headers, once each; all bad headers are counted."""


class ProxyAcceptor:
    """Makes the protocols of new connections.

    Args:
        tls: encrypts the connections; None for plain ones.
        spawn: runs a task that ends before the gateway does.
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
        """Connections that are no `Socket` yet: header or TLS handshake is not complete."""
        self._told: set[str] = set()

    def protocol(self) -> PendingConnection:
        """Return the protocol of a new connection."""
        return PendingConnection(self)

    def close(self) -> None:
        """Abort all connections that are still waiting."""
        for connection in list(self.waiting):
            connection.abort()

    def complain(self, proxy: str, why: str) -> None:
        """Count a bad header; log the first one of each proxy."""
        self.services.counters.proxied_malformed += 1
        if proxy not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(proxy)
            _log.warning(
                "[Gateway] %s is a trusted proxy and sends no valid PROXY header (%s): its "
                "connection is closed. Let it send one (HAProxy: send-proxy-v2; nginx: "
                "proxy_protocol on), or start the gateway without --proxy-protocol",
                proxy or "unix",
                why,
            )


class PendingConnection(asyncio.BufferedProtocol):
    """One connection until it is a `Socket`."""

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
        """Offer no more room than for bytes that are certainly part of the header."""
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
        return False  # Without a byte it was a check whether the port is open.

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
        """Become a `Socket`; `header` is None when there is none."""
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
            transport.pause_reading()  # Or the loop reads on before `start_tls` takes over.
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
        """Do the TLS handshake, then hand over."""
        early, services = _EarlyEvents(), self._acceptor.services
        timeout_s = services.limits.handshake_timeout_s
        try:
            if self._is_lost or transport.is_closing():
                return  # `start_tls` would not be told, and would wait for its timeout.
            async with asyncio.timeout(timeout_s):
                secure = await services.loop.start_tls(transport, early, tls, server_side=True)
        except OSError:
            transport.abort()  # Not logged, as any TLS handshake that fails.
            return
        finally:
            self._leave()
        if secure is None or secure.get_extra_info("cipher") is None:
            return  # It was lost meanwhile; `start_tls` does not raise then.
        early.hand_over(self._hand_over(secure, header))


class _EarlyEvents(asyncio.Protocol):
    """Keeps events between the end of the TLS handshake and the turn that reports that end."""

    def __init__(self) -> None:
        self._kept: list[Callable[[asyncio.Protocol], object]] = []
        self._heir: asyncio.Protocol | None = None

    def hand_over(self, heir: asyncio.Protocol) -> None:
        """Pass on the events that were kept, and those that still come."""
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
