"""Gateway processes: how do simulated gateways start, crash, drain and come back?

Each runs on a machine of its own and is the product's `Gateway`, unchanged. A gateway that could
not start tries again, as under a service manager.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from wsdemo.gateway.listening import BoundAddress
from wsdemo.gateway.server import Gateway
from wsdemo.presence import DevicePresence, Presence, RedisPresence
from wsdemo.proof.simulate.hosts import SimulatedHost
from wsdemo.proof.simulate.network import SimulatedNetwork
from wsdemo.redis.connection import RedisUnavailable
from wsdemo.redis.interface import Link
from wsdemo.rig.policies.go_demo import GoDemoPresence
from wsdemo.router import DuplicateGateway
from wsdemo.settings import GatewaySettings

PORT: Final = 8080
REDIS_URL: Final = "redis://redis:6379"
RETRY_S: Final = 1.0
"""How long a gateway that could not start waits before it tries again."""
POLICIES: Final = ("fenced", "go-demo")


@dataclass(slots=True, eq=False)
class SimulatedGateway:
    """One life of a gateway, and its machine."""

    host: SimulatedHost
    gateway: Gateway
    started: bool = False

    @property
    def serves(self) -> bool:
        """Whether it is up and running."""
        return self.started and not self.host.stands_still and not self.host.dead


@dataclass(frozen=True, slots=True)
class _BoundSocket:
    """Stands for a socket that is bound on a simulated machine: the network knows the rest."""

    name: tuple[str, int]

    def getsockname(self) -> tuple[str, int]:
        return self.name


async def _bind(settings: GatewaySettings) -> list[BoundAddress]:
    end = cast(Any, _BoundSocket((settings.host, settings.port)))
    return [BoundAddress([end], host=settings.host)]


class GatewayFleet:
    """The gateways of a cluster.

    Args:
        names: their ids, which are also their addresses.
        policy: which presence they have: "fenced", or "go-demo".
        features: more of their settings.
    """

    def __init__(
        self,
        network: SimulatedNetwork,
        names: Iterable[str],
        policy: str,
        features: Mapping[str, Any],
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"there is no policy {policy!r}; choose one of {', '.join(POLICIES)}")
        self.names = list(names)
        self.fenced = policy == "fenced"
        self._network = network
        self._features = features
        self._lives: dict[str, SimulatedGateway] = {}

    def start(self, name: str) -> None:
        """Start a gateway on a new machine, unless it has one that runs. It tries until Redis is
        there.
        """
        if name in self._network.hosts and not self._network.hosts[name].dead:
            return
        host = self._network.host(name)
        host.spawn(self._run(name, host), name)

    def crash(self, name: str) -> None:
        """End a gateway as SIGKILL does."""
        self._network.bury(self._network.hosts[name])

    async def drain(self, name: str) -> None:
        """Stop a gateway as SIGTERM does."""
        life = self._lives[name]
        stopping = life.host.spawn(life.gateway.stop(), f"drain {name}")
        await asyncio.wait([stopping])  # Which may be cancelled: it can crash meanwhile.
        self._network.bury(life.host)

    async def stop(self) -> None:
        """Stop all of them, one after the other."""
        for life in self._lives.values():
            await life.host.spawn(life.gateway.stop(), "stop")

    def serves(self, name: str) -> bool:
        """Say whether a gateway is up and running."""
        return name in self._lives and self._lives[name].serves

    def serving(self) -> Iterator[tuple[str, Gateway]]:
        """Iterate over the gateways that are up and running, by name."""
        for name in self.names:
            if self.serves(name):
                yield name, self._lives[name].gateway

    async def _run(self, name: str, host: SimulatedHost) -> None:
        """Start a gateway, again and again until that succeeds."""
        while True:
            life = self._lives[name] = SimulatedGateway(host, self._make(name, host))
            try:
                await life.gateway.start()
            except (RedisUnavailable, DuplicateGateway):
                await asyncio.sleep(RETRY_S)
                continue
            life.started = True
            return

    def _make(self, name: str, host: SimulatedHost) -> Gateway:
        settings = GatewaySettings(
            gateway_id=name,
            host=name,
            port=PORT,
            redis_url=REDIS_URL,
            # The one before it may have died in a way that Redis has not noticed.
            takeover=True,
            **self._features,
        )
        return Gateway(
            settings,
            presence=self._presence,
            clock=host.loop.time,
            time_of_day=host.clock.time,
            new_id=host.new_id,
            rng=host.rng,
            bind=_bind,
        )

    def _presence(self, link: Link, settings: GatewaySettings) -> Presence:
        if self.fenced:
            announces, told = settings.watch is not None, (link, settings.keyspace, settings.timing)
            if settings.devices > 1:
                return DevicePresence(*told, settings.devices, announces=announces)
            return RedisPresence(*told, announces=announces)
        clock = SimulatedHost.here().clock
        return GoDemoPresence(link, settings.keyspace, settings.timing, clock.time)
