"""Simulated hosts: how can one machine freeze or crash, when all share one event loop?

A callback knows its host from its context, which tasks and timers inherit, so the code that runs on
a host does not depend on it. While a host is frozen, the loop puts off its callbacks.

Nothing of the real world is patched. Gateways and clients are given the clocks, the ids and the
random numbers of their host as arguments, so two simulations, or one beside a real cluster, do not
disturb each other. What they still take from the real world has no influence on a history: the
masks and keys of WebSocket frames, and the Date header.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from wsdemo.proof.simulate.loop import VirtualTimeLoop

EPOCH: Final = 1_700_000_000.0
"""Unix time at which every simulation begins (s)."""

_HOST: ContextVar[SimulatedHost] = ContextVar("simulated host")
NO_HOST: Final = Context()
"""The context of the network itself, which no host can stop."""

T = TypeVar("T")


def host_of(context: Context | None) -> SimulatedHost | None:
    """Return the host of a context (None: of the running code); None when it runs on no host."""
    return _HOST.get(None) if context is None else context.get(_HOST)


class HostClock:
    """The time of day of a host. `error_s` says how wrong it is."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self.error_s = 0.0

    def time(self) -> float:
        """Return Unix time (s)."""
        return EPOCH + float(self._loop.time()) + self.error_s


class SimulatedHost:
    """A machine: what runs on it stops while it is frozen, and for ever when it is dead.

    Args:
        name: also its address.
        seed: of all its randomness.
    """

    def __init__(self, loop: VirtualTimeLoop, name: str, seed: str) -> None:
        self.name = name
        self.loop = loop
        self.rng = random.Random(f"{seed}:{name}")
        self.clock = HostClock(loop)
        self.context = Context()
        self.context.run(_HOST.set, self)
        self.stands_still = False
        self.dead = False
        self._backlog: list[asyncio.Handle] = []

    def new_id(self) -> str:
        """Return an id that follows from the seed."""
        return self.rng.randbytes(8).hex()

    @staticmethod
    def here() -> SimulatedHost:
        """Return the host of the code that is running.

        Raises:
            LookupError: it does not run on any.
        """
        return _HOST.get()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run something on this host."""
        # Each task has a copy: a task may start others, and a context is entered by one at a time.
        return self.loop.create_task(work, name=name, context=self.context.copy())

    def freeze(self) -> None:
        """Let nothing run here until `thaw`, as SIGSTOP does; the network goes on."""
        self.stands_still = True

    def thaw(self) -> None:
        """Run all that has become due meanwhile: first what was received, then the timers."""
        if self.dead or not self.stands_still:
            return
        self._resume()

    def die(self) -> None:
        """Stop for good, as SIGKILL does. Tasks stay unfinished until `bury`."""
        self.dead = self.stands_still = True

    def bury(self) -> None:
        """End the tasks of a dead host, so that none is left over. Nothing of it is sent."""
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
        """Keep a callback whose time came while the host was frozen."""
        self._backlog.append(handle)
