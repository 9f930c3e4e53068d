"""How does time pass, and for whom?

Time is virtual: the loop jumps to the next timer instead of waiting for it, so that an hour in
which little happens costs little. What runs on the loop belongs to hosts, machines that can stand
still or die alone. A callback knows its host from its context, which tasks and timers inherit, so
the code that runs on a host needs to know nothing of it.

Nothing of the real world is patched. Gateways and clients are given the clocks, the ids and the
random numbers of their host as arguments, so two simulations, or one beside a real cluster, do not
disturb each other. What they still take from the real world has no influence on a history: the
masks and keys of WebSocket frames, and the Date header.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, Final, TypeVar, cast
from weakref import WeakKeyDictionary

import async_solipsism

TICK_S: Final = 1e-6
"""Time moves in steps of this."""
EPOCH: Final = 1_700_000_000.0
"""Unix time at which every simulation begins (s)."""

_HOST: ContextVar[Host] = ContextVar("simulated host")
NOWHERE: Final = Context()
"""The context of the network itself, which no host can stop."""

T = TypeVar("T")


class Host:
    """A machine: what runs on it stands still when it is frozen, and for ever when it is dead.

    Args:
        name: also its address.
        seed: of all its randomness.
    """

    def __init__(self, loop: Loop, name: str, seed: str) -> None:
        self.name = name
        self.loop = loop
        self.rng = random.Random(f"{seed}:{name}")
        self.wall = WallClock(loop)
        self.context = Context()
        self.context.run(_HOST.set, self)
        self.stands_still = False
        self.dead = False
        self._backlog: list[asyncio.Handle] = []

    def new_id(self) -> str:
        """Return an id that follows from the seed."""
        return self.rng.randbytes(8).hex()

    @staticmethod
    def here() -> Host:
        """Return the host of the code that is running.

        Raises:
            LookupError: it does not run on any.
        """
        return _HOST.get()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run something on this host."""
        # A copy each: a task may start others, and a context is entered by one at a time.
        return self.loop.create_task(work, name=name, context=self.context.copy())

    def freeze(self) -> None:
        """Let nothing run here until `thaw`, as SIGSTOP does; the network goes on."""
        self.stands_still = True

    def thaw(self) -> None:
        """Let go all that has become due meanwhile: first what was received, then the timers."""
        if self.dead or not self.stands_still:
            return
        self._resume()

    def die(self) -> None:
        """Stop for good, as SIGKILL does. What was running stays unfinished until `bury`."""
        self.dead = self.stands_still = True

    def bury(self) -> None:
        """End the tasks of a dead host, so that none is left over; nothing of it gets out."""
        for task, host in list(self.loop.host_of.items()):
            if host is self:
                task.cancel()
        self._resume()

    def _resume(self) -> None:
        self.stands_still = False
        backlog, self._backlog = self._backlog, []
        timers = [handle for handle in backlog if isinstance(handle, asyncio.TimerHandle)]
        timers.sort(key=lambda timer: timer.when())
        received = [handle for handle in backlog if not isinstance(handle, asyncio.TimerHandle)]
        self.loop.run_soon([*received, *timers])

    def put_off(self, handle: asyncio.Handle) -> None:
        """Keep a callback whose time came while the host stood still."""
        self._backlog.append(handle)


class _Gated(asyncio.Handle):
    """A callback that waits while its host stands still."""

    __slots__ = ()

    def _run(self) -> None:
        host = self._context.get(_HOST)  # type: ignore[attr-defined]
        if host is not None and host.stands_still:
            host.put_off(self)
        else:
            super()._run()


class _GatedTimer(asyncio.TimerHandle):
    """The same, with a time."""

    __slots__ = ()

    def _run(self) -> None:
        host = self._context.get(_HOST)  # type: ignore[attr-defined]
        if host is not None and host.stands_still:
            host.put_off(self)
        else:
            super()._run()


class Loop(async_solipsism.EventLoop):  # type: ignore[misc]
    """A loop with virtual time, on which hosts can stand still.

    `network` is set by the simulation: connections are made in it, not in the operating system.
    """

    network: Any = None

    def __init__(self) -> None:
        super().__init__()
        self._clock_resolution = TICK_S / 2  # What is due in the next tick is not due now.
        self.host_of: WeakKeyDictionary[asyncio.Future[Any], Host] = WeakKeyDictionary()
        """Of each task that runs on a host: which."""

    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = super().create_task(coro, name=name, context=context)
        host = _HOST.get(None) if context is None else context.get(_HOST)
        if host is not None:
            self.host_of[task] = host
        return cast("asyncio.Task[T]", task)

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_closed()
        handle = _Gated(callback, args, self, context)
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
        # Never early, not even by a rounding error: who waits for a moment and finds that it has
        # not come would ask again, at the same moment, for ever.
        now = self.time()
        soonest = round(now / TICK_S) + (when > now)
        when = max(soonest, math.ceil(when / TICK_S - 0.001)) * TICK_S
        timer = _GatedTimer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

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
        end = await self.network.dial(host, port)
        protocol = protocol_factory()
        end.serve(protocol)
        return end, protocol

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: str | None = None,
        port: int | None = None,
        *,
        sock: Any = None,
        **_: Any,
    ) -> Any:
        port = port if sock is None else sock.getsockname()[1]
        return self.network.listen(Host.here(), port, protocol_factory)


# --- what the outer world answers -------------------------------------------------------------


class WallClock:
    """`time`, as far as it is used for the time of day. `error_s`: how wrong this clock is."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.error_s = 0.0

    def time(self) -> float:
        return EPOCH + float(self._loop.time()) + self.error_s
