"""Bundled cluster: how do I get a Redis Cluster of my own, and break it?

`BundledCluster` starts several servers as `BundledServer` does, on free loopback ports, and makes a
cluster of them: primaries with equal ranges of slots, and replicas if asked for. A server that was
killed comes back as the same member, without its data.

Starting takes some 2.3 seconds. Two of them are a constant in the server: a new cluster refuses
writes for that long.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from wsdemo.redis.connection import RedisUnavailable, one_line
from wsdemo.redis.server import HOST, Binary, BundledServer, PortInUse, ServerError, find_binary
from wsdemo.redis.slots import SLOTS, ClusterMember, SlotMap, claims, members, place, ranges_of

NODES_FILE: Final = "nodes.conf"
"""Who a member is, and what it knows of the others. It outlives a kill."""
AGREE_DEADLINE_S: Final = 20.0
MOVE_DEADLINE_S: Final = 30.0
ADMIN_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.01
PORT_ATTEMPTS: Final = 5
MIGRATE_KEYS: Final = 100
"""How many keys one MIGRATE carries, where slots move key by key."""


class BundledCluster:
    """A Redis Cluster of our own. All methods are synchronous.

    A server has a number, from 0 on: first the primaries, then the replicas (of server 0,
    of server 1, ...), then what `add_primary` has added. It keeps its number when it becomes a
    replica, or a primary.

    Args:
        replicas: how many for each primary.
        port: of server 0; the others have the ports that follow. 0 lets the system choose.
        password: of all servers. None makes a random one; empty means that none is asked for.
        node_timeout_s: how long a server may be silent until the others call it failed.
        full_coverage: whether all slots refuse commands when one slot has no server. (This is the
            default of Redis, and not ours.)
        settings: more lines of their configuration, name to value.
        binary: which server; by default what `find_binary` finds.
    """

    def __init__(
        self,
        primaries: int = 3,
        replicas: int = 0,
        *,
        port: int = 0,
        password: str | None = None,
        node_timeout_s: float = 1.0,
        full_coverage: bool = False,
        settings: Mapping[str, str] | None = None,
        binary: Binary | None = None,
    ) -> None:
        if primaries < 1 or replicas < 0:
            raise ServerError("a cluster has at least 1 primary, and 0 or more replicas for each")
        self.primaries = primaries
        """How many there are at the start: servers 0, 1, ..."""
        self.replicas = replicas
        """How many each of them has."""
        self._port = port
        self._password = secrets.token_hex(16) if password is None else password
        self._binary = binary
        self._settings = {
            "cluster-enabled": "yes",
            "cluster-config-file": NODES_FILE,
            "cluster-node-timeout": str(round(1000 * node_timeout_s)),
            "cluster-require-full-coverage": "yes" if full_coverage else "no",
            "cluster-allow-replica-migration": "no",
            "repl-diskless-sync-delay": "0",
            **({"masterauth": self._password} if self._password else {}),
            **(settings or {}),
        }
        self.servers: list[BundledServer] = []
        """Each of them; empty before the start."""
        self.ids: list[str] = []
        """The cluster's names of them."""

    @property
    def url(self) -> str:
        """Where clients find it; with the password, so `redacted(url)` is what may be printed."""
        user = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis+cluster://{user}{','.join(self.addresses)}"

    @property
    def ports(self) -> list[int]:
        """Where each server is found, by clients and by the others."""
        return [server.port for server in self.servers]

    def _bus_port(self, number: int) -> int:
        """Return where the others find a server."""
        return int(self.servers[number].settings["cluster-port"])

    @property
    def addresses(self) -> list[str]:
        """`host:port` of each server."""
        return [place(self.host(number), port) for number, port in enumerate(self.ports)]

    def host(self, number: int) -> str:
        """Return on which host a server is found. Here all are on this machine."""
        return HOST

    @property
    def binary(self) -> Binary | None:
        """Which program the servers are; None before the first start, unless it was given."""
        return self._binary

    # --- life --------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start it, if it does not run, and return when every slot takes writes.

        Raises:
            PortInUse: another process has one of the given ports.
            ServerError: there is no binary, or the servers do not come to terms. Nothing is left
                running.
        """
        if self.servers:
            return self
        self._binary = self._binary or find_binary()
        try:
            self._start_servers()
            self._join()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kill all servers and remove their directories. Idempotent."""
        servers, self.servers, self.ids = self.servers, [], []
        for server in servers:
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until a server is dead, for at most so long, and return its number; None if all
        live.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            for number, server in enumerate(self.servers):
                if not server.running:
                    return number
            if deadline is not None and time.monotonic() >= deadline:
                return None
            self.servers[0].wait(0.2 if deadline is None else min(0.2, timeout_s or 0.0))

    # --- looking -----------------------------------------------------------------------------

    def call(self, number: int, *words: str | int, timeout_s: float = ADMIN_TIMEOUT_S) -> Any:
        """Send one command to one server, and return its reply as it is.

        Raises:
            ServerError: the server cannot be reached, or refuses the command.
        """
        try:
            with one_line(), self._client(number, timeout_s) as client:
                # Not through the client's commands, which change many replies.
                connection = client.connection_pool.get_connection()
                connection.send_command(*words)
                return connection.read_response()
        except RedisUnavailable as problem:
            raise ServerError(f"server {number} of the cluster: {problem}") from None

    def owner(self, slot: int) -> int:
        """Return the number of the server that has a slot, as far as any of them knows."""
        slots = SlotMap()
        for number in self._answering():
            slots.learn(claims(self.call(number, "CLUSTER", "NODES"), self.addresses[number]))
        address = slots.owners[slot]
        if address not in self.addresses:
            raise ServerError(f"no server has slot {slot}")
        return self.addresses.index(address)

    def slots_of(self, number: int) -> list[int]:
        """Return the slots that a server itself claims."""
        ranges = self._myself(number).ranges
        return [slot for first, last in ranges for slot in range(first, last + 1)]

    def is_primary(self, number: int) -> bool:
        """Say what a server says of itself."""
        return self._myself(number).is_primary

    def replicas_of(self, number: int) -> list[int]:
        """Return the servers that call themselves replicas of this one."""
        own = self.ids[number]
        return [n for n in self._answering() if n != number and self._myself(n).primary == own]

    def _myself(self, number: int) -> ClusterMember:
        text = self.call(number, "CLUSTER", "NODES")
        return next(m for m in members(text, self.addresses[number]) if "myself" in m.flags)

    def _answering(self) -> list[int]:
        return [n for n, server in enumerate(self.servers) if server.running and self._answers(n)]

    def _answers(self, number: int) -> bool:
        with contextlib.suppress(ServerError):
            return bool(self.call(number, "PING", timeout_s=0.5))
        return False

    # --- breaking ----------------------------------------------------------------------------

    def kill(self, number: int) -> None:
        """End a server by SIGKILL, as an accident would. `revive` brings it back, empty."""
        self.servers[number].kill()

    def revive(self, number: int) -> None:
        """Start a killed server again, as the member that it was, without its data; also let a
        paused one go on. Idempotent.
        """
        server = self.servers[number]
        if server.running:
            server.resume()
        else:
            server.start()

    def pause(self, number: int) -> None:
        """Stop the process of a server (SIGSTOP): connections stay, nothing is answered."""
        self.servers[number].pause()

    def resume(self, number: int) -> None:
        """Let its process go on (SIGCONT). Idempotent."""
        self.servers[number].resume()

    def fail_over(self, number: int) -> int:
        """Let a replica of this primary take its place, as planned; return the replica's number.

        Raises:
            ServerError: it has no replica, or the replica does not take over in time.
        """
        replicas = self.replicas_of(number)
        if not replicas:
            raise ServerError(f"server {number} of the cluster has no replica")
        replica = replicas[0]
        self.call(replica, "CLUSTER", "FAILOVER")
        self.until(
            f"server {replica} is the primary",
            lambda: self.is_primary(replica) and not self.is_primary(number),
        )
        return replica

    def heal(self) -> None:
        """Bring every server back, and return when the cluster works: all slots have a primary, and
        replicas are in step. Roles stay as they are.
        """
        for number in range(len(self.servers)):
            self.revive(number)
        self.until("all servers agree", self._agree)
        self.until("the replicas are in step", self._in_step)

    def move(self, slots: Iterable[int], to: int, *, atomic: bool | None = None) -> None:
        """Move slots, with their keys, to a primary.

        Args:
            atomic: True: all slots of a server change hands at once (Valkey 9). False: key by key,
                as every version can. None: the first where the server can.

        Raises:
            ServerError: they could not be moved.
        """
        wanted = set(slots)
        for source in range(len(self.servers)):
            here = wanted.intersection(self._slots_here(source)) if source != to else ()
            if not here:
                continue
            if self._moves_at_once(source) if atomic is None else atomic:
                self._move_at_once(here, source, to)
            else:
                for slot in sorted(here):
                    self._move_by_key(slot, source, to)
        self.until("the others know it", lambda: self._all_see(wanted, to))

    def _slots_here(self, number: int) -> list[int]:
        return self.slots_of(number) if number in self._answering() else []

    # --- growing -----------------------------------------------------------------------------

    def add_primary(self) -> int:
        """Start one more server, let it join without any slot, and return its number, which comes
        after all others. `move` gives it slots.

        Raises:
            ServerError: it does not start, or the others do not meet it.
        """
        bus, port = _free_ports(2)
        self.servers.append(self._server(port, bus).start())
        number = len(self.servers) - 1
        self.ids.append(self.call(number, "CLUSTER", "MYID"))
        meeting = self.ports[number], self._bus_port(number)
        self.call(0, "CLUSTER", "MEET", self.host(number), *meeting)
        self.until("the servers have met", self._met)
        self.until("the new one works", self._agree)
        return number

    def _server(self, port: int, bus: int) -> BundledServer:
        return BundledServer(
            port,
            password=self._password,
            binary=self._binary,
            settings={**self._settings, "cluster-port": str(bus)},
            keeps=(NODES_FILE,),
        )

    # --- how slots move ----------------------------------------------------------------------

    def _moves_at_once(self, number: int) -> bool:
        known = self.call(number, "COMMAND", "INFO", "CLUSTER|MIGRATESLOTS")
        return bool(known and known[0])

    def _move_at_once(self, slots: Iterable[int], source: int, to: int) -> None:
        ranges = [number for first_and_last in ranges_of(slots) for number in first_and_last]
        node = self.ids[to]
        self.call(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *ranges, "NODE", node)
        self.until("the slots have moved", lambda: self._moved(source), MOVE_DEADLINE_S)

    def _moved(self, source: int) -> bool:
        jobs = self.call(source, "CLUSTER", "GETSLOTMIGRATIONS")
        last = dict(zip(jobs[0][::2], jobs[0][1::2], strict=True)) if jobs else {}
        if last.get("state") in {"failed", "cancelled"}:
            raise ServerError(f"the slots could not be moved: {last.get('message')}")
        return last.get("state") == "success"

    def _move_by_key(self, slot: int, source: int, to: int) -> None:
        self.call(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        self.call(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[to])
        while keys := self.call(source, "CLUSTER", "GETKEYSINSLOT", slot, MIGRATE_KEYS):
            self.migrate(keys, source, to)
        for number in (to, source):
            self.call(number, "CLUSTER", "SETSLOT", slot, "NODE", self.ids[to])

    def migrate(self, keys: Sequence[str], source: int, to: int) -> None:
        """Move keys of a slot that is on its way, and no other."""
        login = ("AUTH", self._password) if self._password else ()
        where = (self.host(to), self.ports[to], "", 0, round(1000 * ADMIN_TIMEOUT_S))
        self.call(source, "MIGRATE", *where, *login, "KEYS", *keys)

    def _all_see(self, slots: set[int], to: int) -> bool:
        address = self.addresses[to]
        for number in self._answering():
            view = SlotMap()
            view.learn(claims(self.call(number, "CLUSTER", "NODES"), self.addresses[number]))
            if any(view.owners[slot] != address for slot in slots):
                return False
        return True

    # --- starting ----------------------------------------------------------------------------

    def _start_servers(self) -> None:
        for attempt in range(PORT_ATTEMPTS):
            try:
                self._launch()
                return
            except PortInUse:
                # Another process took a port after the system had chosen it for us.
                if self._port or attempt == PORT_ATTEMPTS - 1:
                    raise

    def _launch(self) -> None:
        count = self.primaries * (1 + self.replicas)
        free = _free_ports(2 * count)
        ports = [self._port + n for n in range(count)] if self._port else free[count:]
        servers = [self._server(port, bus) for port, bus in zip(ports, free[:count], strict=True)]
        try:
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(BundledServer.start, servers))
        except BaseException:
            for server in servers:
                server.stop()
            raise
        self.servers = servers

    def _join(self) -> None:
        self.ids = [self.call(n, "CLUSTER", "MYID") for n in range(len(self.servers))]
        share = SLOTS / self.primaries
        for n in range(self.primaries):
            last = round((n + 1) * share) - 1
            self.call(n, "CLUSTER", "ADDSLOTSRANGE", round(n * share), last)
            self.call(n, "CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for n in range(1, len(self.servers)):
            self.call(0, "CLUSTER", "MEET", self.host(n), self.ports[n], self._bus_port(n))
        self.until("the servers have met", self._met)
        for n in range(self.primaries, len(self.servers)):
            self._follow(n, n % self.primaries)
        self.until("the cluster takes writes", self._agree)
        self.until("the replicas are in step", self._in_step)

    def _follow(self, replica: int, primary: int) -> None:
        def follows() -> bool:
            with contextlib.suppress(ServerError):  # It has not heard of its primary yet.
                return bool(self.call(replica, "CLUSTER", "REPLICATE", self.ids[primary]))
            return False

        self.until(f"server {replica} is a replica", follows)

    def _met(self) -> bool:
        return all(
            self._info(n).get("cluster_known_nodes") == str(len(self.servers))
            for n in range(len(self.servers))
        )

    def _agree(self) -> bool:
        """Whether every server says that the cluster works, and that it has no failed member."""
        for n in self._answering():
            info = self._info(n)
            if info.get("cluster_state") != "ok" or info.get("cluster_slots_ok") != str(SLOTS):
                return False
        return len(self._answering()) == len(self.servers)

    def _in_step(self) -> bool:
        return all(
            self.is_primary(n) or "master_link_status:up" in self.call(n, "INFO", "replication")
            for n in range(len(self.servers))
        )

    def _info(self, number: int) -> dict[str, str]:
        lines = self.call(number, "CLUSTER", "INFO").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def _client(self, number: int, timeout_s: float) -> redis.Redis:
        return redis.Redis(
            host=self.host(number),
            port=self.servers[number].port,
            password=self._password or None,
            decode_responses=True,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def until(
        self, what: str, holds: Callable[[], bool], within_s: float = AGREE_DEADLINE_S
    ) -> None:
        """Ask again and again until something holds.

        Raises:
            ServerError: it does not, within so many seconds.
        """
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                raise ServerError(f"the cluster: not within {within_s:g} s: {what}")
            time.sleep(POLL_S)


def _free_ports(count: int) -> list[int]:
    """Return ports that are free now, all of them different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
