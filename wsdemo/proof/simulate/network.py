"""Network partitions: which hosts can reach each other, and with which delays and losses?

The network makes connections between hosts and treats them as the route between the two says. A
fault changes the route and the connections that exist. New connections take the conditions of the
route at that moment. After a loss, an existing connection is half-open: its other end finds out by
a timeout, or not at all.

The network goes on while hosts stand still: a frozen host accepts connections and takes bytes, as
its kernel would, and its processes see them when they go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from wsdemo.proof.simulate.connection import SimulatedConnection, SimulatedTransport
from wsdemo.proof.simulate.hosts import SimulatedHost
from wsdemo.proof.simulate.loop import VirtualTimeLoop
from wsdemo.proof.simulate.pipe import BOTH, Conditions, Direction, Segment


class SimulatedListener:
    """What `create_server` returns."""

    def __init__(self, network: SimulatedNetwork, host: SimulatedHost, port: int) -> None:
        self._network, self._host, self._port = network, host, port
        self.sockets = (self,)

    def getsockname(self) -> tuple[str, int]:
        return self._host.name, self._port

    async def start_serving(self) -> None:
        """It does so already."""

    def close(self) -> None:
        self._network.forget(self._host, self._port)


@dataclass(slots=True)
class Route:
    """How connections to come between two hosts will treat what is sent."""

    conditions: dict[Direction, Conditions] = field(
        default_factory=lambda: {way: Conditions() for way in BOTH}
    )


class SimulatedNetwork:
    """All hosts and what lies between them."""

    def __init__(self, loop: VirtualTimeLoop, seed: str) -> None:
        self.loop = loop
        self.seed = seed
        self.hosts: dict[str, SimulatedHost] = {}
        self._made = 0
        self._connections: list[SimulatedConnection] = []
        self._routes: dict[tuple[str, str], Route] = {}
        self._listeners: dict[tuple[SimulatedHost, int], Callable[[], asyncio.Protocol]] = {}

    def host(self, name: str) -> SimulatedHost:
        """Put a machine on the network: a new one, or one in the place of another."""
        host = SimulatedHost(self.loop, name, f"{self.seed}:{self._made}")
        self.hosts[name] = host
        return host

    def next_number(self) -> int:
        """Return the number of a new connection: 1, 2, ..."""
        self._made += 1
        return self._made

    def route(self, caller: str, target: str) -> Route:
        return self._routes.setdefault((caller, target), Route())

    def connections(self, caller: str = "", target: str = "") -> Iterator[SimulatedConnection]:
        """Iterate over the living connections between two hosts ('': any), the oldest first."""
        self._connections = [one for one in self._connections if not _is_over(one)]
        for connection in list(self._connections):
            if caller in {"", connection.caller.name} and target in {"", connection.target.name}:
                yield connection

    def listener(self, host: SimulatedHost, port: int) -> Callable[[], asyncio.Protocol] | None:
        return self._listeners.get((host, port))

    def listen(
        self, host: SimulatedHost, port: int, factory: Callable[[], asyncio.Protocol]
    ) -> Any:
        """Accept connections on a port of a host.

        Raises:
            OSError: the port is in use.
        """
        if (host, port) in self._listeners:
            raise OSError(f"{host.name}:{port} is in use")
        self._listeners[host, port] = factory
        return SimulatedListener(self, host, port)

    def forget(self, host: SimulatedHost, port: int) -> None:
        """Accept no more connections on a port of a host."""
        self._listeners.pop((host, port), None)

    async def dial(self, target: str, port: int) -> SimulatedTransport:
        """Connect the host that asks.

        Raises:
            ConnectionRefusedError: nobody listens there.
            OSError: the host that asks is dead.
        """
        here = SimulatedHost.here()
        if here.dead:
            raise OSError("no network")
        connection = SimulatedConnection(self, here, self.hosts[target], port)
        self._connections.append(connection)
        connection.pipes["up"].carry(Segment.SYN)
        try:
            await connection.accepted
        except BaseException:
            connection.near.dead = True
            raise
        return connection.near

    def kill(self, host: SimulatedHost) -> None:
        """End a host as SIGKILL ends a process: its peers notice it, its own code does not."""
        host.die()
        for key in [key for key in self._listeners if key[0] is host]:
            del self._listeners[key]
        for connection in self.connections():
            for end in (connection.near, connection.far):
                if end.host is host:
                    end.vanish()

    def bury(self, host: SimulatedHost) -> None:
        """End a host and the tasks on it; nothing that they still do is sent."""
        self.kill(host)
        host.bury()

    # --- faults ------------------------------------------------------------------------------

    def hold(self, caller: str, target: str, *ways: Direction) -> None:
        """Keep what is sent between two hosts, also on connections to come, until `heal`."""
        for way in ways or BOTH:
            self.route(caller, target).conditions[way].held = True
            for connection in self.connections(caller, target):
                connection.pipes[way].hold()

    def lose(self, caller: str, target: str, *ways: Direction) -> None:
        """Lose what is sent between two hosts; connections to come work after `heal`."""
        for way in ways or BOTH:
            self.route(caller, target).conditions[way].lost = True
            for connection in self.connections(caller, target):
                connection.pipes[way].lose()

    def delay(
        self, caller: str, target: str, delay_s: float, jitter_s: float, *ways: Direction
    ) -> None:
        """Let everything between two hosts arrive later."""
        for way in ways or BOTH:
            conditions = self.route(caller, target).conditions[way]
            conditions.delay_s, conditions.jitter_s = delay_s, jitter_s
            for connection in self.connections(caller, target):
                connection.pipes[way].delay(delay_s, jitter_s)

    def cut(self, caller: str, target: str) -> None:
        """Break the connections between two hosts; new ones work."""
        for connection in self.connections(caller, target):
            connection.cut()

    def heal(self, caller: str, target: str) -> None:
        """Let new connections work and held ones go on. Lost ones stay half-open."""
        self._routes.pop((caller, target), None)
        for connection in self.connections(caller, target):
            for pipe in connection.pipes.values():
                pipe.heal()


def _is_over(connection: SimulatedConnection) -> bool:
    return connection.near.dead and connection.far.dead
