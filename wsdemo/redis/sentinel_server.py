"""Sentinel: how do I get a Redis that fails over, on one machine?

`python -m wsdemo.redis --sentinel`: one primary, its replicas and three sentinels, each a process
of its own like `BundledServer`, with nothing that outlives them. Tests and lessons kill, freeze or
replace the primary; the sentinels do the rest, as in production, only with shorter timeouts.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, Self
from urllib.parse import quote

import redis
from redis.exceptions import RedisError, ResponseError

from wsdemo.redis.server import HOST, BundledServer, ServerError, client_options, quoted

SERVICE: Final = "mymaster"
DOWN_AFTER_S: Final = 2.0
"""How long a primary may be silent until a sentinel counts it as down. Not a second or less: after
a failover a sentinel asks the new primary for the first time when a second has passed, and would
count it as down until then. When two sentinels agree there is a second failover, unplanned.
"""
AGREE_S: Final = 30.0
"""How long the sentinels may take to find each other; three seconds are usual."""
LOOK_MS: Final = 1000
"""How often a sentinel asks a server for its state, in milliseconds."""
CALL_S: Final = 5.0
PAUSED_S: Final = 3.0
"""How long writes wait at a primary that is about to be replaced; the failover ends it sooner."""
POLL_S: Final = 0.02


class HandOver(StrEnum):
    """How a primary that works is replaced by one of its replicas."""

    COORDINATED = "coordinated"
    """SENTINEL FAILOVER ... COORDINATED: primary and replica agree (Valkey 9). Loses nothing."""
    PAUSED = "paused"
    """CLIENT PAUSE ... WRITE, then SENTINEL FAILOVER: any version. Loses nothing."""
    PLAIN = "plain"
    """SENTINEL FAILOVER alone: the old primary takes writes until it is told. They are lost."""


class ReplicaServer(BundledServer):
    """A server that is, at its start, a replica of the server at a port; 0: of none."""

    primary_port = 0

    def _lines(self) -> list[str]:
        lines = [*super()._lines(), "repl-diskless-sync-delay 0"]
        if self._password:
            lines.append(f"masterauth {quoted(self._password)}")
        if self.primary_port:
            lines.append(f"replicaof {HOST} {self.primary_port}")
        return lines


class SentinelServer(BundledServer):
    """One sentinel.

    Args:
        primary_port: where the primary is at first.
        quorum: how many sentinels have to count it as down.
        password: of the servers, and of the sentinels; empty when there is none.
    """

    _mode = ("--sentinel",)

    def __init__(
        self, primary_port: int, quorum: int, down_after_s: float, *, port: int, password: str
    ) -> None:
        super().__init__(port, password=password)
        self._told = {
            "monitor": f"{HOST} {primary_port} {quorum}",
            "down-after-milliseconds": str(max(1, round(1000 * down_after_s))),
            "failover-timeout": "3000",
            "parallel-syncs": "1",
        }

    def _lines(self) -> list[str]:
        lines = [f"sentinel {what} {SERVICE} {value}" for what, value in self._told.items()]
        if self._password:
            lines.append(f"sentinel auth-pass {SERVICE} {quoted(self._password)}")
        return lines


class BundledSentinel:
    """A primary, its replicas and its sentinels, on loopback ports.

    All methods are synchronous: they return when what they ask for has happened.

    Args:
        replicas: how many replicas the primary has.
        sentinels: how many sentinels watch over it; a majority of them decides.
        down_after_s: how long the primary may be silent until it is replaced. With a second or
            less, a failover is often followed by another one.
        password: of servers and sentinels; None makes a random one, empty means none.
        port: of the first sentinel; 0 lets the operating system choose.
    """

    def __init__(
        self,
        replicas: int = 1,
        sentinels: int = 3,
        *,
        down_after_s: float = DOWN_AFTER_S,
        password: str | None = None,
        port: int = 0,
    ) -> None:
        if replicas < 1 or sentinels < 1:
            raise ServerError("a failover needs at least one replica and one sentinel")
        self._password = secrets.token_hex(16) if password is None else password
        self.servers = [ReplicaServer(password=self._password) for _ in range(1 + replicas)]
        """All servers with data; the first one is the primary at first."""
        self.sentinels: list[SentinelServer] = []
        self._wanted = sentinels
        self._down_after_s = down_after_s
        self._port = port

    # --- life --------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start all, and return when each sentinel knows all others and each replica is in sync.

        Raises:
            ServerError: one of them does not start. Nothing is left running.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        first, *others = self.servers
        first.start()
        for server in others:
            server.primary_port = first.port
            server.start()
        _until("a replica did not get in sync", lambda: all(map(self._in_sync, others)))
        quorum = self._wanted // 2 + 1
        self.sentinels = [
            SentinelServer(
                first.port,
                quorum,
                self._down_after_s,
                port=self._port if n == 0 else 0,
                password=self._password,
            )
            for n in range(self._wanted)
        ]
        for sentinel in self.sentinels:
            self._start_sentinel(sentinel)
        _until("the sentinels did not find each other", self._agreed)

    def _start_sentinel(self, sentinel: SentinelServer) -> None:
        """Start it, if it does not run, and let it look at the servers more often than every ten
        seconds: it believes in no replica whose state is older than its last change.
        """
        sentinel.start()
        with contextlib.suppress(ResponseError):  # A version that cannot be told takes longer.
            self.call(sentinel, "SENTINEL", "DEBUG", "info-period", LOOK_MS)

    def stop(self) -> None:
        """Kill all and remove what they wrote. Idempotent."""
        for server in (*self.sentinels, *self.servers):
            server.stop()

    def wait(self) -> None:
        """Wait until one of the sentinels has ended."""
        self.sentinels[0].wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # --- what it is --------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The address for gateways, with the password: `redacted(url)` is what may be printed."""
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        if not self._password:
            return f"redis+sentinel://{hosts}/{SERVICE}"
        secret = quote(self._password, safe="")
        return f"redis+sentinel://:{secret}@{hosts}/{SERVICE}?sentinel_password={secret}"

    @property
    def running(self) -> bool:
        """Whether all processes live; a paused one does."""
        everybody = (*self.servers, *self.sentinels)
        return bool(self.sentinels) and all(one.running for one in everybody)

    @property
    def primary(self) -> ReplicaServer:
        """The server that the sentinels name at this moment."""
        return next(server for server in self.servers if server.port == self._named())

    @property
    def replicas(self) -> list[ReplicaServer]:
        """All other servers, also those that do not run."""
        port = self._named()
        return [server for server in self.servers if server.port != port]

    def _named(self) -> int:
        for sentinel in self.sentinels:
            with contextlib.suppress(RedisError, OSError, ServerError):
                found = self.call(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                return int(found[1])
        raise ServerError("no sentinel answers")

    def call(self, server: BundledServer, *words: str | int) -> Any:
        """Send one command to a server or a sentinel, and return its reply."""
        with redis.Redis.from_url(server.url, **client_options(CALL_S)) as asker:
            connection = asker.connection_pool.get_connection()
            connection.send_command(*words)
            return connection.read_response()

    # --- faults ------------------------------------------------------------------------------

    def kill(self) -> ReplicaServer:
        """End the primary by SIGKILL, and return it; `heal` starts it again, as a replica."""
        server = self.primary
        server.kill()
        return server

    def pause(self) -> ReplicaServer:
        """Freeze the primary (SIGSTOP), and return it; `heal` lets it go on."""
        server = self.primary
        server.pause()
        return server

    def fail_over(self, how: HandOver = HandOver.COORDINATED) -> ReplicaServer:
        """Replace a primary that works; return the old one as soon as there is a new one.

        Raises:
            ServerError: the servers do not know COORDINATED, or no replica can take over.
        """
        old = self.primary
        if how is HandOver.PAUSED:
            self.call(old, "CLIENT", "PAUSE", round(1000 * PAUSED_S), "WRITE")
        more = ["COORDINATED"] if how is HandOver.COORDINATED else []
        try:
            self.call(self.sentinels[0], "SENTINEL", "FAILOVER", SERVICE, *more)
        except ResponseError as problem:
            raise ServerError(f"the sentinels refuse a failover: {problem}") from None
        self.until_replaced(old)
        return old

    def until_replaced(self, old: BundledServer) -> ReplicaServer:
        """Wait until all sentinels name another primary than this one, and return it."""
        _until("the primary was not replaced", lambda: self._all_name_another(old.port))
        return self.primary

    def revive(self, server: ReplicaServer) -> None:
        """Let a paused server go on, as what it was; start a killed one, as a replica of the
        present primary, or empty if it is still the primary itself. Idempotent.
        """
        if server.running:
            server.resume()
            return
        port = self._named()
        server.primary_port = 0 if server.port == port else port
        server.start()

    def heal(self) -> None:
        """Start, or let go on, whatever does not run, and wait until all replicas are in sync and
        all sentinels content.
        """
        for sentinel in self.sentinels:
            if sentinel.running:
                sentinel.resume()
        for server in self.servers:
            self.revive(server)
        port = self._named()
        for server in self.servers:
            if server.port != port and not self._follows(server, port):
                # The sentinels would do so as well, but they take their time.
                self.call(server, "REPLICAOF", HOST, port)
        for sentinel in self.sentinels:
            self._start_sentinel(sentinel)
        # Asked each time who the primary is: on a busy machine it may be replaced once more.
        _until("a replica did not get in sync", lambda: all(map(self._in_sync, self.replicas)))
        _until("the sentinels did not find each other", self._agreed)

    # --- states ------------------------------------------------------------------------------

    def _all_name_another(self, port: int) -> bool:
        for sentinel in self.sentinels:
            if sentinel.running:
                found = self.call(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                if int(found[1]) == port:
                    return False
        return True

    def _follows(self, server: BundledServer, port: int) -> bool:
        role = self.call(server, "ROLE")
        return bool(role[0] == b"slave" and int(role[2]) == port)

    def _in_sync(self, server: BundledServer) -> bool:
        role = self.call(server, "ROLE")
        return bool(role[0] == b"slave" and role[3] == b"connected")

    def _agreed(self) -> bool:
        return all(self._is_content(sentinel) for sentinel in self.sentinels)

    def _is_content(self, sentinel: BundledServer) -> bool:
        flat = self.call(sentinel, "SENTINEL", "MASTER", SERVICE)
        state: Mapping[bytes, bytes] = dict(zip(flat[::2], flat[1::2], strict=True))
        flags = set(state[b"flags"].split(b","))
        return (
            int(state[b"num-other-sentinels"]) == self._wanted - 1
            and int(state[b"num-slaves"]) == len(self.servers) - 1
            and flags == {b"master"}
            and all(self._is_fit(found) for found in self._replicas_of(sentinel))
        )

    def _replicas_of(self, sentinel: BundledServer) -> list[dict[bytes, bytes]]:
        found = self.call(sentinel, "SENTINEL", "REPLICAS", SERVICE)
        return [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in found]

    def _is_fit(self, replica: Mapping[bytes, bytes]) -> bool:
        """Whether a sentinel would let it take over: it was heard, and is in sync."""
        return (
            set(replica[b"flags"].split(b",")) == {b"slave"}
            and replica[b"role-reported"] == b"slave"
            and replica[b"master-link-status"] == b"ok"
            and int(replica[b"master-port"]) == self._named()
        )


def _until(problem: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + AGREE_S
    while True:
        with contextlib.suppress(RedisError, OSError):
            if holds():
                return
        if time.monotonic() > deadline:
            raise ServerError(f"{problem} within {AGREE_S:g} s")
        time.sleep(POLL_S)
