"""Event loops: on which one does a laboratory run, and how does a cell wait for it?

`ThreadDriver`: a loop in a thread of its own. A cell that computes for two seconds delays no
gateway. `KernelDriver`: the loop of the notebook's kernel, nested by nest-asyncio while a cell
waits. Then the gateways stop whenever a cell computes; a lesson shows the consequences.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol, TypeVar

from wsdemo.lab.errors import LabTimeout

STEP_S: Final = 0.25
"""How often a waiting cell shows how far the work is."""
END_S: Final = 30.0
STALL_S: Final = 1.0
"""A wait that ends this much too late means that the whole machine was suspended."""

T = TypeVar("T")


def _nothing() -> None:
    pass


class Driver(Protocol):
    """Runs the coroutines of a laboratory for cells, which call plain methods."""

    loop: asyncio.AbstractEventLoop

    def run(
        self, work: Coroutine[Any, Any, T], timeout_s: float, meanwhile: Callable[[], None]
    ) -> T:
        """Wait for the result; Interrupt cancels the work, and the lab stays usable.

        Raises:
            TimeoutError: it took longer than `timeout_s`; it has been cancelled.
        """
        ...

    def pause(self, seconds: float) -> None:
        """Let the laboratory run for a while."""
        ...

    def cancel_all(self) -> None:
        """Cancel what other threads wait for; their `run` raises CancelledError."""
        ...

    def close(self) -> None:
        """End what the driver began. Idempotent."""
        ...

    @property
    def alive(self) -> bool:
        """Whether something of the driver is left after `close`."""
        ...


class ThreadDriver:
    """A loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._running: set[concurrent.futures.Future[Any]] = set()
        self._thread = threading.Thread(target=self._live, name="lab", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        """The body of the laboratory's thread: its loop begins and ends here."""
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def run(
        self,
        work: Coroutine[Any, Any, T],
        timeout_s: float,
        meanwhile: Callable[[], None] = _nothing,
    ) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        self._running.add(future)
        ends_at = time.monotonic() + timeout_s
        try:
            while True:
                asked_at = time.monotonic()
                step_s = max(0.0, min(STEP_S, ends_at - asked_at))
                try:
                    return future.result(step_s)
                except concurrent.futures.TimeoutError:
                    if future.done():
                        return future.result()  # Done just now, or the TimeoutError is its own.
                now = time.monotonic()
                if (stood_still_s := now - asked_at - step_s) > STALL_S:
                    # While the machine was suspended, the work could not go on either.
                    ends_at += stood_still_s
                elif now >= ends_at:
                    raise LabTimeout(_too_late(timeout_s, work))
                meanwhile()
        except BaseException:
            future.cancel()
            raise
        finally:
            self._running.discard(future)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def cancel_all(self) -> None:
        for future in list(self._running):
            future.cancel()

    def close(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(END_S)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()


class KernelDriver:
    """The loop that runs the cells, or outside of a kernel one that runs only while it is asked."""

    def __init__(self) -> None:
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError:
            self.loop, self._own = asyncio.new_event_loop(), True
        else:
            self._own = False
            _nesting().apply(self.loop)

    def run(
        self,
        work: Coroutine[Any, Any, T],
        timeout_s: float,
        meanwhile: Callable[[], None] = _nothing,
    ) -> T:
        return self.loop.run_until_complete(self._bounded(work, timeout_s, meanwhile))

    async def _bounded(
        self, work: Coroutine[Any, Any, T], timeout_s: float, meanwhile: Callable[[], None]
    ) -> T:
        task = asyncio.ensure_future(work)
        ends_at = self.loop.time() + timeout_s
        try:
            while not task.done():
                left_s = ends_at - self.loop.time()
                if left_s <= 0:
                    raise LabTimeout(_too_late(timeout_s, work))
                await asyncio.wait([task], timeout=min(STEP_S, left_s))
                meanwhile()
            return task.result()
        finally:
            task.cancel()

    def pause(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def cancel_all(self) -> None:
        pass  # Only one thread can use this loop.

    def close(self) -> None:
        if self._own and not self.loop.is_closed():
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    @property
    def alive(self) -> bool:
        return self._own and not self.loop.is_closed()


def _too_late(timeout_s: float, work: Coroutine[Any, Any, Any]) -> str:
    """Return an error that says that the work took too long, which call waits, and who called
    it."""
    places: list[str] = []
    step: Any = work
    while (frame := getattr(step, "cr_frame", None)) is not None:
        name = Path(frame.f_code.co_filename).name
        places.append(f"{step.__qualname__} ({name}:{frame.f_lineno})")
        step = step.cr_await
    where = f"; it waits in {' < '.join(reversed(places))}" if places else ""
    return f"the lab did not answer within {timeout_s:g} s{where}"


def _nesting() -> ModuleType:
    """Return nest_asyncio2, or nest_asyncio where it is missing.

    The original loses queued cells under ipykernel 7: cells share one context there, and its
    patched tasks change it.
    """
    for name in ("nest_asyncio2", "nest_asyncio"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError('Lab(loop="kernel") needs nest-asyncio2: pip install nest-asyncio2')
