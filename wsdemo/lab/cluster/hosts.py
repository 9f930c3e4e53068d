"""Hosting: where does a gateway of the laboratory run, and how does it crash?

Three ways to host the same gateway: on the laboratory's loop beside the others, on a loop in a
thread of its own (so that it can be frozen while the others go on), and as a real process
(SIGSTOP, SIGKILL). A crash is an end without clean-up: sockets break, nothing is released in Redis,
no close frame is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from wsdemo.events import Emit, Event
from wsdemo.gateway.server import Gateway
from wsdemo.lab.errors import LabRefused
from wsdemo.presence import Claim, Presence, Refresh, Registration, Release, Renewal
from wsdemo.redis.link import LinkDown
from wsdemo.rig.flags import flags_of
from wsdemo.rig.process import GatewayDied, GatewayProcess
from wsdemo.settings import GatewaySettings

T = TypeVar("T")


class EventTap:
    """Passes on the events of a gateway or a client until it is closed: after a crash there are
    none.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit: Emit | None = emit

    def close(self) -> None:
        self._emit = None

    def __call__(self, event: Event) -> None:
        if (emit := self._emit) is not None:
            emit(event)


class CrashablePresence:
    """A presence that a crash cuts off: from then on none of its verbs reaches Redis."""

    def __init__(self, presence: Presence) -> None:
        self.presence = presence
        self.crashed = False

    def _alive(self) -> Presence:
        if self.crashed:
            raise LinkDown("the gateway has crashed")
        return self.presence

    async def mint(self, user: str) -> int:
        return await self._alive().mint(user)

    async def register(self, claim: Claim) -> Registration:
        return await self._alive().register(claim)

    async def refresh(self, renewals: Sequence[Renewal]) -> Sequence[Refresh | Exception]:
        return await self._alive().refresh(renewals)

    async def release(self, claim: Claim) -> Release:
        return await self._alive().release(claim)


class GatewayHost(Protocol):
    """Where a gateway runs: on a shared loop, on a loop of its own, or as a process."""

    name: str
    gateway: Gateway | None
    """The gateway itself, if it is in this process."""

    @property
    def url(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def frozen(self) -> bool: ...

    async def start(self) -> None:
        """Start it; when it fails, nothing is left running."""
        ...

    async def stop(self) -> None:
        """Drain and stop it, as SIGTERM would. Idempotent."""
        ...

    async def crash(self) -> None:
        """End it without clean-up, as SIGKILL would."""
        ...

    async def freeze(self) -> None:
        """Stop its loop: connections stay, nothing is answered, no timer runs."""
        ...

    async def thaw(self) -> None:
        """Let it go on. Idempotent."""
        ...

    async def on_its_loop(self, act: Callable[[], T]) -> T:
        """Call a function on the gateway's loop: its parts are not thread-safe."""
        ...


class SharedLoop:
    """A gateway on the laboratory's own loop.

    Args:
        gateway: not started yet.
        tap: what it reports to.
        before_crash: called after its events have stopped, and before its tasks are ended.
    """

    def __init__(self, gateway: Gateway, tap: EventTap, before_crash: Callable[[], None]) -> None:
        self.name = gateway.settings.gateway_id
        self.gateway: Gateway | None = gateway
        self._gateway = gateway
        self._tap = tap
        self._before_crash = before_crash

    @property
    def url(self) -> str:
        return self._gateway.url

    @property
    def port(self) -> int:
        return self._gateway.port

    @property
    def frozen(self) -> bool:
        return False

    async def start(self) -> None:
        await self._gateway.start()

    async def stop(self) -> None:
        await self._gateway.stop()

    async def crash(self) -> None:
        self._tap.close()
        self._before_crash()
        for session in self._gateway.registry:
            session.socket.abort()
        # No turn of the loop in between: the listening socket closes before a client can reconnect.
        await self._gateway.stop()

    async def freeze(self) -> None:
        raise LabRefused(
            f"{self.name} shares its loop with the others, which would stand still as well: "
            f'make the lab with freezable=["{self.name}"]'
        )

    async def thaw(self) -> None:
        pass

    async def on_its_loop(self, act: Callable[[], T]) -> T:
        return act()


class OwnLoop:
    """A gateway on a loop of its own, in a thread of its own."""

    def __init__(self, name: str, make: Callable[[], SharedLoop]) -> None:
        self.name = name
        self.gateway: Gateway | None = None
        self._make = make
        self._host: SharedLoop | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._go_on = threading.Event()
        self._go_on.set()

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    @property
    def url(self) -> str:
        return self._alive().url

    @property
    def port(self) -> int:
        return self._alive().port

    @property
    def frozen(self) -> bool:
        return not self._go_on.is_set()

    def _alive(self) -> SharedLoop:
        if self._host is None:
            raise ValueError(f"{self.name} has not been started")
        return self._host

    async def start(self) -> None:
        self._thread.start()
        try:
            await self._run(self._start())
        except BaseException:
            await self._end()
            raise

    async def _start(self) -> None:
        self._host = self._make()
        self.gateway = self._host.gateway
        await self._host.start()

    async def stop(self) -> None:
        if self._thread.is_alive():
            await self.thaw()
            await self._run(self._alive().stop())
            await self._end()

    async def crash(self) -> None:
        if self._thread.is_alive():
            host = self._alive()
            host._tap.close()
            await self.thaw()
            await self._run(host.crash())
            await self._end()

    async def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)

    async def freeze(self) -> None:
        if not self._go_on.is_set():
            return
        self._go_on.clear()
        stands_still = threading.Event()

        def stand_still() -> None:
            stands_still.set()
            self._go_on.wait()

        self._loop.call_soon_threadsafe(stand_still)
        await asyncio.to_thread(stands_still.wait)

    async def thaw(self) -> None:
        self._go_on.set()

    async def on_its_loop(self, act: Callable[[], T]) -> T:
        async def turn() -> T:
            return act()

        return await self._run(turn())


class Process:
    """`python -m wsdemo.gateway` with the laboratory's clock, a process of its own."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.name = settings.gateway_id
        self.gateway: Gateway | None = None
        self._stopped = False
        limits = settings.limits
        self._stops_within_s = limits.drain_s + limits.close_timeout_s + 2.0
        self._process = GatewayProcess(
            self.name,
            settings.redis_url,
            *flags_of(settings.timing),
            *flags_of(limits, only=["retry_after_s"]),
            f"--key-prefix={settings.keyspace.prefix}",
            "--log-level=info",
        )

    @property
    def url(self) -> str:
        return self._process.url

    @property
    def port(self) -> int:
        return self._process.port

    @property
    def frozen(self) -> bool:
        return self._stopped

    @property
    def pid(self) -> int:
        """Its process id; 0 before the start."""
        return self._process.pid

    async def start(self) -> None:
        try:
            await self._process.start()
        except GatewayDied:
            log = " / ".join(list(self._process.log)[-3:])
            raise RuntimeError(f"{self.name} did not start: {log}") from None

    async def stop(self) -> None:
        try:
            if self._process.running:
                self._process.signal(signal.SIGCONT)
                self._process.signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await self._process.wait(self._stops_within_s)
        finally:
            await self._process.stop()

    async def crash(self) -> None:
        await self._process.stop()

    async def freeze(self) -> None:
        self._process.signal(signal.SIGSTOP)
        self._stopped = True

    async def thaw(self) -> None:
        self._process.signal(signal.SIGCONT)
        self._stopped = False

    async def on_its_loop(self, act: Callable[[], T]) -> T:
        raise LabRefused(f"{self.name} is a process of its own: no director reaches into it")
