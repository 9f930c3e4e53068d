"""Virtual time: how does an event loop simulate hours in seconds?

It jumps to the next timer instead of waiting for it. Every callback belongs to the host in whose
context it was made; while that host is frozen, the loop puts the callback off. Connections are
made in the simulated network, not in the operating system.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

import async_solipsism

from wsdemo.proof.simulate.hosts import SimulatedHost, host_of

TICK_S: Final = 1e-6
"""Time moves in steps of this."""

BLOCKING_S: Final = 0.005
"""How long work takes that a program gives to a thread, as to save a file."""

T = TypeVar("T")


class Wiring(Protocol):
    """What the loop needs of the simulated network."""

    async def dial(self, target: str, port: int) -> Any:
        """Connect the host that asks; return the transport."""

    def listen(
        self, host: SimulatedHost, port: int, factory: Callable[[], asyncio.Protocol]
    ) -> Any:
        """Accept connections on a port of a host."""


def _run_or_put_off(handle: asyncio.Handle, run: Callable[[], None]) -> None:
    """Run a callback, unless its host is frozen: then the host keeps it."""
    host = host_of(handle._context)  # type: ignore[attr-defined]
    if host is not None and host.stands_still:
        host.put_off(handle)
    else:
        run()


class _HostHandle(asyncio.Handle):
    """A callback that waits while its host is frozen."""

    __slots__ = ()

    def _run(self) -> None:
        _run_or_put_off(self, super()._run)


class _HostTimer(asyncio.TimerHandle):
    """The same, with a time."""

    __slots__ = ()

    def _run(self) -> None:
        _run_or_put_off(self, super()._run)


class VirtualTimeLoop(async_solipsism.EventLoop):  # type: ignore[misc]
    """An event loop with virtual time, on which hosts can be frozen.

    `network` is set by the simulation.
    """

    network: Wiring

    def __init__(self) -> None:
        super().__init__()
        self._clock_resolution = TICK_S / 2  # What is due in the next tick is not due now.
        self.host_of: WeakKeyDictionary[asyncio.Future[Any], SimulatedHost] = WeakKeyDictionary()
        """The host of each task that runs on one."""

    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = super().create_task(coro, name=name, context=context)
        host = host_of(context)
        if host is not None:
            self.host_of[task] = host
        return cast("asyncio.Task[T]", task)

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_closed()
        handle = _HostHandle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self._check_closed()
        timer = _HostTimer(self._on_tick(when), callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def _on_tick(self, when: float) -> float:
        """Return the tick at which a timer fires: never early, not even by a rounding error.

        Code that waits for a moment and wakes before it would ask again at the same moment, for
        ever.
        """
        now = float(self.time())
        soonest = round(now / TICK_S) + (when > now)
        return max(soonest, math.ceil(when / TICK_S - 0.001)) * TICK_S

    def run_in_executor(
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run blocking work without a thread: what it finds is there a little later, as from a
        disk. While the host is frozen the work waits, and on a dead host it is never done.
        """
        done: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as problem:
                if not done.done():
                    done.set_exception(problem)
            else:
                if not done.done():
                    done.set_result(result)

        self.call_later(BLOCKING_S, work)
        return done

    def run_soon(self, handles: list[asyncio.Handle]) -> None:
        """Run callbacks that were put off."""
        self._ready.extend(handles)

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: str | None = None,
        port: int | None = None,
        **_: Any,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        assert host is not None and port is not None
        transport = await self.network.dial(host, port)
        protocol = protocol_factory()
        transport.serve(protocol)
        return transport, protocol

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: str | None = None,
        port: int | None = None,
        *,
        sock: Any = None,
        **_: Any,
    ) -> Any:
        if sock is not None:
            port = sock.getsockname()[1]
        assert port is not None
        return self.network.listen(SimulatedHost.here(), port, protocol_factory)
