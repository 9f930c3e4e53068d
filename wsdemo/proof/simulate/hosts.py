"""How does time pass, and for whom?

Time is virtual: the loop jumps to the next timer instead of waiting for it, so that an hour in
which little happens costs little. What runs on the loop belongs to hosts, machines that can stand
still or die alone. A callback knows its host from its context, which tasks and timers inherit, so
the code that runs on a host needs to know nothing of it.

What code asks of the outer world by name (`random`, `secrets`, `time`) is answered by its host
while a simulation runs it, and by the real modules otherwise: two simulations, or one beside a
real cluster, do not disturb each other.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from functools import cache
from importlib import import_module
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
        self.ids = _Ids(self.rng)
        self.wall = _Wall(loop)
        self.context = Context()
        self.context.run(_HOST.set, self)
        self.stands_still = False
        self.dead = False
        self._backlog: list[asyncio.Handle] = []

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


class _Ids:
    """`secrets`, as far as it is used for ids."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def token_hex(self, nbytes: int) -> str:
        return self._rng.randbytes(nbytes).hex()

    def token_bytes(self, nbytes: int) -> bytes:
        return self._rng.randbytes(nbytes)


class _Wall:
    """`time`, as far as it is used for the time of day. `error_s`: how wrong this clock is."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.error_s = 0.0

    def time(self) -> float:
        return EPOCH + float(self._loop.time()) + self.error_s


class _Substitute:
    """Stands in for a module in another one: on a simulated host, its functions are the host's."""

    def __init__(self, real: Any, of_host: Callable[[Host], Any]) -> None:
        self._real = real
        self._of_host = of_host

    def __getattr__(self, name: str) -> Any:
        host = _HOST.get(None)
        return getattr(self._real if host is None else self._of_host(host), name)


_ASKED: Final[dict[str, tuple[Callable[[Host], Any], tuple[str, ...]]]] = {
    "random": (
        lambda host: host.rng,
        ("wsdemo.gateway.session", "wsdemo.gateway.health", "wsdemo.redis.connection"),
    ),
    "secrets": (
        lambda host: host.ids,
        (
            "wsdemo.gateway.server",
            "wsdemo.client.connection",
            "websockets.frames",
            "websockets.utils",
        ),
    ),
    "time": (
        lambda host: host.wall,
        (
            "wsdemo.client.connection",
            "wsdemo.gateway.handshake",
            "fakeredis._helpers",
            "fakeredis._core._server",
            "fakeredis._socket._base",
            "fakeredis.commands_mixins.server_mixin",
            "fakeredis.model._client_info",
        ),
    ),
}
"""Module that is asked -> what answers instead, and the modules that ask."""


@cache
def substitute() -> None:
    """Let hosts answer for `random`, `secrets` and `time` wherever simulated code asks them."""
    for name, (of_host, askers) in _ASKED.items():
        real = import_module(name)
        for asker in askers:
            module: Any = import_module(asker)
            assert getattr(module, name) is real, f"{asker} does not ask {name}"
            setattr(module, name, _Substitute(real, of_host))
