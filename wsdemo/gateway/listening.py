"""Listening sockets: where does a gateway listen, and at which address can clients reach it?

It binds sockets of its own. For a name with an IPv4 and an IPv6 address, asyncio would take two
different ports when the system may choose, and it would use `::` for IPv6 only. Here, a name gets
one port on all of its addresses, and `::` serves both families where the system can.

A unix socket is a file. One that a dead process has left is replaced; one on which a process
answers is not. At the end the file is removed, unless another process has put its own there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wsdemo.settings import Address, GatewaySettings

_log = logging.getLogger("wsdemo.gateway")

BACKLOG: Final = 1024
"""Connections that the kernel queues for us when many come at once."""
PORT_TRIES: Final = 20
"""How often the system may choose a port that is taken in the other family."""
PROBE_S: Final = 1.0
"""How long we wait for a process that may still listen on a unix socket."""
NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})
"""This machine does not have such an address, or not even the family."""


class CannotListen(OSError):
    """An address cannot be listened on; the text says which and why, in one line."""


@dataclass(slots=True, eq=False)
class BoundAddress:
    """The sockets of one address. `made` identifies the file of a unix socket that is ours (device
    and inode); None when there is none, or when it is not ours to remove.
    """

    sockets: list[socket.socket]
    host: str = ""
    path: str = ""
    made: tuple[int, int] | None = None

    @property
    def port(self) -> int:
        """0 for a unix socket."""
        return 0 if self.path else int(self.sockets[0].getsockname()[1])

    @property
    def is_local(self) -> bool:
        """Whether only clients of this machine can connect here."""
        return bool(self.path) or all(_is_loopback(end) for end in self.sockets)

    def url(self, scheme: str) -> str:
        """Return where clients of this machine connect (`scheme` is ws or wss)."""
        if self.path:
            return f"{scheme}+unix:{self.path}:/ws"
        host = self._reachable_host()
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/ws"

    def told(self, scheme: str) -> str:
        """Return the text for the log."""
        if self.path or not is_everywhere(self.host):
            return self.url(scheme)
        families = " and ".join(sorted(self._families()))
        only = " only" if len(self._families()) == 1 else ""
        return f"{self.url(scheme)} (all addresses, {families}{only})"

    def _reachable_host(self) -> str:
        """Return the host as given, or for "all addresses" a host that reaches this machine."""
        if not is_everywhere(self.host):
            return self.host
        families = self._families()
        if len(families) == 2:
            return "localhost"
        return "127.0.0.1" if families == {"IPv4"} else "::1"

    def _families(self) -> set[str]:
        found = set()
        for end in self.sockets:
            if end.family == socket.AF_INET:
                found.add("IPv4")
            else:
                found.add("IPv6")
                if not end.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
                    found.add("IPv4")
        return found

    def close(self) -> None:
        """Close the sockets, if no server has taken them over, and remove the file."""
        for end in self.sockets:
            end.close()
        self.remove_file()

    def remove_file(self) -> None:
        """Remove the file of a unix socket, if it is still ours. Idempotent."""
        made, self.made = self.made, None
        if made is not None:
            with contextlib.suppress(OSError):  # It is gone, or not ours to remove any more.
                if _identity(self.path) == made:
                    Path(self.path).unlink()


Bind = Callable[[GatewaySettings], Awaitable[Sequence[BoundAddress]]]


class Listeners:
    """All places where one gateway accepts connections."""

    def __init__(self, bound: Sequence[BoundAddress], servers: Sequence[asyncio.Server]) -> None:
        self.bound = bound
        self._servers = servers

    @property
    def sockets(self) -> list[Any]:
        """The listening sockets, to look at; none after `close`."""
        return [end for server in self._servers for end in server.sockets]

    def close(self) -> None:
        """Stop listening; connections stay. Idempotent."""
        for server in self._servers:
            server.close()
        for place in self.bound:
            place.remove_file()


async def listen(
    bound: Sequence[BoundAddress],
    factory: Callable[[], asyncio.BaseProtocol],
    tls: ssl.SSLContext | None,
    handshake_timeout_s: float,
) -> Listeners:
    """Accept connections on sockets that are bound; `factory` makes the protocol of each one.

    When it fails, or is cancelled, nothing is left open.
    """
    loop, servers = asyncio.get_running_loop(), list[asyncio.Server]()
    ends = [end for place in bound for end in place.sockets]
    try:
        for end in ends:
            server = await loop.create_server(
                factory,
                sock=end,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=handshake_timeout_s if tls else None,
                start_serving=False,  # So that a cancellation here leaves nothing open.
            )
            servers.append(server)
        for server in servers:
            await server.start_serving()
    except BaseException:
        for server in servers:
            server.close()  # It closes its socket as well.
        for end in ends[len(servers) :]:
            end.close()
        for place in bound:
            place.remove_file()
        raise
    return Listeners(bound, servers)


# --- binding -----------------------------------------------------------------------------------


async def bind(settings: GatewaySettings) -> list[BoundAddress]:
    """Bind all addresses of the settings.

    Raises:
        CannotListen: one of them cannot be bound; nothing is left open.
    """
    bound: list[BoundAddress] = []
    try:
        for address in settings.addresses:
            bound.append(await bind_address(address, settings.unix_mode))
    except BaseException:
        close_all(bound)
        raise
    return bound


async def bind_address(address: Address, unix_mode: int = 0o660) -> BoundAddress:
    """Bind one address.

    Raises:
        CannotListen: it cannot be bound; nothing is left open.
    """
    try:
        if address.path:
            return _bind_path(address.path, unix_mode)
        return await _bind_host(address)
    except (OSError, UnicodeError) as problem:  # UnicodeError: no name can be like that.
        why = getattr(problem, "strerror", None) or problem
        raise CannotListen(f"{address}: {why}") from None


def bind_for_workers(address: Address, unix_mode: int = 0o660) -> BoundAddress:
    """Bind one address for several processes, without an event loop. A port does not listen yet:
    each worker listens on a `twin` of it. A unix socket listens, and is shared as it is.

    Raises:
        CannotListen: it cannot be bound; nothing is left open.
    """
    try:
        if address.path:
            return _bind_path(address.path, unix_mode)
        infos = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # First without sharing, or we would share the port with somebody who has it already.
        alone = _bind_places(address, infos)
        port = alone.port
        alone.close()
        return _bind_places(Address(address.host, port), infos, share=True)
    except (OSError, UnicodeError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise CannotListen(f"{address}: {why}") from None


def twin(place: BoundAddress) -> BoundAddress:
    """Return what one worker listens on: the same port on a socket of its own, or the same unix
    socket, whose file is not the worker's to remove.

    Raises:
        CannotListen: it cannot be bound; nothing is left open.
    """
    if place.path or _listens(place.sockets[0]):
        return BoundAddress([end.dup() for end in place.sockets], place.host, place.path)
    ends = list[socket.socket]()
    try:
        for end in place.sockets:
            both = end.family == socket.AF_INET6 and not end.getsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
            )
            ends.append(_bind_one(end.family, end.getsockname(), both, share=True))
    except OSError as problem:
        for end in ends:
            end.close()
        raise CannotListen(f"{place.host}:{place.port}: {problem.strerror}") from None
    return BoundAddress(ends, host=place.host)


def _listens(end: socket.socket) -> bool:
    return bool(end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def inherited(sockets: Sequence[socket.socket]) -> list[BoundAddress]:
    """Return sockets that listen already as addresses; their files are not ours to remove."""
    return [_inherited(end) for end in sockets]


def inherit(sockets: Sequence[socket.socket]) -> Bind:
    """Return a `Bind` for sockets that listen already; their files are not ours to remove."""

    async def taken(settings: GatewaySettings) -> list[BoundAddress]:
        return inherited(sockets)

    return taken


def close_all(bound: Sequence[BoundAddress]) -> None:
    """Close what was bound and is not needed after all."""
    for place in bound:
        place.close()


def _inherited(end: socket.socket) -> BoundAddress:
    name = end.getsockname()
    if isinstance(name, tuple):
        return BoundAddress([end], host=name[0])
    return BoundAddress([end], path=os.fsdecode(name) or "(without a name)")


async def _bind_host(address: Address) -> BoundAddress:
    infos = await asyncio.get_running_loop().getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return _bind_places(address, infos)


def _bind_places(address: Address, infos: Sequence[Any], share: bool = False) -> BoundAddress:
    # The resolver may return an address twice.
    places = list(dict.fromkeys((family, name) for family, _, _, _, name in infos))
    both_families = ":" in address.host and is_everywhere(address.host)
    for tries_left in reversed(range(PORT_TRIES if address.port == 0 else 1)):
        try:
            ends = _bind_each(address, places, both_families, share)
            return BoundAddress(ends, host=address.host)
        except OSError as problem:
            if problem.errno != errno.EADDRINUSE or not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def _bind_each(
    address: Address, places: Sequence[tuple[int, Any]], both_families: bool, share: bool
) -> list[socket.socket]:
    """Bind one socket to each address, all to the same port. Addresses that this machine does not
    have are left out, if it has at least one of them.
    """
    port, ends, missing = address.port, list[socket.socket](), list[tuple[str, OSError]]()
    try:
        for family, name in places:
            try:
                end = _bind_one(family, (name[0], port, *name[2:]), both_families, share)
            except OSError as problem:
                if problem.errno not in NOT_HERE:
                    raise
                missing.append((name[0], problem))
            else:
                ends.append(end)
                port = end.getsockname()[1]
        if not ends:
            raise missing[0][1]
    except BaseException:
        for end in ends:
            end.close()
        raise
    for where, why in missing:
        text = "[Gateway] %s is %s as well, where this machine cannot listen: %s"
        _log.warning(text, address.host or "every address", where, why.strerror)
    return ends


def _bind_one(family: int, name: Any, both_families: bool, share: bool) -> socket.socket:
    # asyncio sets TCP_NODELAY only on connections of a listener that says that it is TCP.
    end = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        end.setblocking(False)
        if os.name == "posix":
            # Connections of an earlier process (TIME_WAIT) must not keep us from the port.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # OpenBSD can do only one of the two.
                end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both_families)
        if share:
            # Each worker has a socket of its own on the port; the kernel spreads connections.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        end.bind(name)
    except BaseException:
        end.close()
        raise
    return end


def _bind_path(path: str, mode: int) -> BoundAddress:
    _make_room(path)
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    place = BoundAddress([end], path=path)
    try:
        end.setblocking(False)
        end.bind(path)
        place.made = _identity(path)
        # Nobody can connect before `listen`: the mode is set in time.
        Path(path).chmod(mode)
        end.listen(BACKLOG)
    except BaseException:
        place.close()
        raise
    return place


def _make_room(path: str) -> None:
    """Remove the socket file of a process that is dead.

    Raises:
        OSError: a process answers there, or the file is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is a file in its place that is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_S)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        return
    except (BlockingIOError, TimeoutError):
        pass  # A process listens, whose backlog is full.
    raise OSError(errno.EADDRINUSE, "another process listens there")


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def is_everywhere(host: str) -> bool:
    """Say whether a host stands for all addresses: '', 0.0.0.0, :: and its longer spellings."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_loopback(end: socket.socket) -> bool:
    try:
        return ipaddress.ip_address(end.getsockname()[0].partition("%")[0]).is_loopback
    except ValueError:
        return False
