"""Gateways: how are the gateways of a cluster started, found, frozen and ended?

Each one lives at a host (`wsdemo.lab.cluster.hosts`): on the loop of the laboratory, on a loop of
its own, or as a process of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Collection

from wsdemo.events import Kind
from wsdemo.gateway.listening import CannotListen
from wsdemo.gateway.server import Gateway
from wsdemo.lab.cluster.hosts import EventTap, GatewayHost, OwnLoop, Process, SharedLoop
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.trace.recorder import Recorder
from wsdemo.presence import Presence
from wsdemo.redis.interface import Link
from wsdemo.rig.names import unknown
from wsdemo.settings import GatewaySettings


class Fleet:
    """The gateways of a cluster, by their ids.

    Args:
        recorder: gets their events, and what is done to them.
        settings: makes the settings of a gateway from its id.
        presence: makes the presence of a gateway.
        cut_off: called with the id of a gateway that has crashed, before its tasks are ended.
        freezable: gateways that get a loop of their own.
    """

    def __init__(
        self,
        recorder: Recorder,
        settings: Callable[[str], Awaitable[GatewaySettings]],
        presence: Callable[[Link, GatewaySettings], Presence],
        cut_off: Callable[[str], None],
        freezable: Collection[str],
    ) -> None:
        self.hosts: dict[str, GatewayHost] = {}
        self.ports: set[int] = set()
        """Of all gateways that have ever run."""
        self.pids: set[int] = set()
        """Of all processes that have ever run."""
        self._port_of: dict[str, int] = {}
        """Where each gateway listened last."""
        self._recorder = recorder
        self._settings = settings
        self._presence = presence
        self._cut_off = cut_off
        self._freezable = frozenset(freezable)

    @property
    def gateways(self) -> dict[str, Gateway]:
        """The gateways of this process."""
        return {name: h.gateway for name, h in self.hosts.items() if h.gateway is not None}

    @property
    def freezable(self) -> frozenset[str]:
        """The gateways that can be frozen: those with a loop of their own, and processes."""
        processes = {name for name, host in self.hosts.items() if host.gateway is None}
        return self._freezable | processes

    @property
    def urls(self) -> dict[str, str]:
        """Where users connect."""
        return {name: host.url for name, host in self.hosts.items()}

    def host(self, name: str) -> GatewayHost:
        """Return where a gateway lives.

        Raises:
            LabRefused: it is not running.
        """
        if name not in self.hosts:
            raise LabRefused(unknown("gateway", name, self.hosts))
        return self.hosts[name]

    def gateway(self, name: str) -> Gateway:
        """Return a gateway of this process.

        Raises:
            LabRefused: it is not running, or not in this process.
        """
        gateway = self.host(name).gateway
        if gateway is None:
            raise LabRefused(f"{name} is a process of its own: nobody here can look into it")
        return gateway

    async def start(self, name: str) -> None:
        """Start a gateway in this process; again where it was before, if that port is still free.

        Users keep the addresses that they came with. They would never find a gateway again that
        was started somewhere else.

        Raises:
            LabRefused: it is running.
        """
        self.require_gone(name)
        settings = await self._settings(name)
        before = dataclasses.replace(settings, port=self._port_of.get(name, settings.port))
        try:
            await self._add(self._made(before))
        except CannotListen:  # Somebody else got the port meanwhile.
            await self._add(self._made(settings))

    def _made(self, settings: GatewaySettings) -> GatewayHost:
        name = settings.gateway_id

        def make() -> SharedLoop:
            tap = EventTap(self._recorder.emit)
            gateway = Gateway(settings, presence=self._presence, emit=tap)
            return SharedLoop(gateway, tap, lambda: self._cut_off(name))

        return OwnLoop(name, make) if name in self._freezable else make()

    async def start_process(self, name: str) -> None:
        """Start a gateway as a process of its own.

        Raises:
            LabRefused: it is running.
        """
        self.require_gone(name)
        process = Process(await self._settings(name))
        await self._add(process)
        self.pids.add(process.pid)

    async def _add(self, host: GatewayHost) -> None:
        await host.start()
        self.hosts[host.name] = host
        self.ports.add(host.port)
        self._port_of[host.name] = host.port

    def require_gone(self, name: str) -> None:
        """Refuse a gateway that is running.

        Raises:
            LabRefused: it is.
        """
        if name in self.hosts:
            raise LabRefused(f"{name} is running: crash or drain it first")

    def put_in_order(self, names: Collection[str]) -> None:
        """Put the gateways, all of which are running, in this order."""
        self.hosts = {name: self.hosts[name] for name in names}

    async def crash(self, name: str) -> None:
        """End a gateway at once: SIGKILL for a process, the same for a task."""
        host = self.host(name)
        self._recorder.note(Kind.CRASH, name, gateway=name)
        del self.hosts[name]
        await host.crash()

    async def drain(self, name: str) -> None:
        """Stop a gateway as SIGTERM does."""
        host = self.host(name)
        if host.gateway is None:
            self._recorder.note(Kind.DRAIN, name, gateway=name)
        del self.hosts[name]
        await host.stop()

    async def freeze(self, name: str) -> None:
        """Stop the loop of a gateway in `freezable`, or a process by SIGSTOP."""
        await self.host(name).freeze()
        self._recorder.note(Kind.FREEZE, name, gateway=name)

    async def thaw(self, name: str) -> None:
        """Let a frozen gateway go on."""
        self._recorder.note(Kind.THAW, name, gateway=name)
        await self.host(name).thaw()

    def take_all(self) -> list[GatewayHost]:
        """Return the hosts of all gateways, and forget them: they are about to be stopped."""
        hosts, self.hosts = list(self.hosts.values()), {}
        return hosts
