"""Leaks: which sockets and processes are left after the end of a cluster?"""

from __future__ import annotations

from collections.abc import Set

import psutil


def open_sockets(ports: Set[int]) -> list[str]:
    """Return the open TCP sockets of this process with one of these ports at either end."""
    return [
        f"socket {end.laddr.port}"
        for end in psutil.Process().net_connections("tcp")
        if end.status in (psutil.CONN_LISTEN, psutil.CONN_ESTABLISHED)
        and ports & {side.port for side in (end.laddr, end.raddr) if side}
    ]


def live_processes(pids: Set[int]) -> list[str]:
    """Return which of these processes are still there."""
    return [f"process {pid}" for pid in pids if psutil.pid_exists(pid)]
