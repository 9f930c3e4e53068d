"""File descriptors: which ones was this process given, and how many may it open?

Each connection is an open file. A limit that is too low is raised as far as the system allows, and
a warning is logged when that is not enough: otherwise users would be the first to notice.

A service manager may have opened the listening sockets already (systemd's socket activation:
LISTEN_FDS and LISTEN_PID, descriptors from 3 on). Then new connections wait in them while a
gateway restarts, and the gateway needs no right to open a port.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from wsdemo.settings import Limits, SettingsError

try:
    import resource
except ImportError:  # pragma: no cover - Windows has no such limit
    resource = None  # type: ignore[assignment]

FIRST_GIVEN: Final = 3
RESERVE: Final = 32
"""Open files beside connections: Redis, listening sockets, the log, the event loop's own, and
connections that are about to be refused."""
FAMILIES: Final = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", None)}


def make_room(limits: Limits) -> str:
    """Raise the limit of open files to what a gateway with these limits may need.

    Returns:
        A warning when not even all allowed connections fit; '' when they do.
    """
    if resource is None:
        return ""
    # Up to twice the allowed connections are accepted, to be refused with an answer.
    wanted, needed = 2 * limits.max_connections + RESERVE, limits.max_connections + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return ""
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (ValueError, OSError):
        raised = soft  # macOS has one more bound, below the hard limit.
    if raised >= needed:
        return ""
    return (
        f"only {raised} files may be open (ulimit -n), room for {max(0, raised - RESERVE)} "
        f"connections of the {limits.max_connections} of --max-connections: raise the limit of "
        "open files, or lower that one"
    )


def given_sockets(environ: MutableMapping[str, str]) -> tuple[list[socket.socket], str]:
    """Take the listening sockets that a service manager has opened for this process.

    Returns:
        The sockets, and a warning; both are usually empty. The environment variables are removed,
        so that no child process takes them for its own.

    Raises:
        SettingsError: a gateway cannot listen on them.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if not count:
        return [], ""
    if pid != str(os.getpid()):
        return [], f"LISTEN_FDS is meant for process {pid[:20]!r}, not for this one: ignored"
    if not (count.isascii() and count.isdecimal() and len(count) < 6):
        raise SettingsError(f"LISTEN_FDS is {count[:20]!r}, which is no number of sockets")
    return [_socket(FIRST_GIVEN + n) for n in range(int(count))], ""


def _socket(descriptor: int) -> socket.socket:
    try:
        given = socket.socket(fileno=descriptor)
    except OSError:
        raise SettingsError(f"LISTEN_FDS: descriptor {descriptor} is no socket") from None
    given.set_inheritable(False)
    given.setblocking(False)
    listens = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if given.family not in FAMILIES or given.type != socket.SOCK_STREAM or not listens:
        raise SettingsError(
            f"LISTEN_FDS: descriptor {descriptor} is no listening stream socket "
            "(ListenStream= and Accept=no in the .socket unit)"
        )
    return given
