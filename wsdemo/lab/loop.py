"""Event loop: how does a cell call objects on the laboratory's loop, and what is left there at the
end?

A lab has one loop, in a thread or in the kernel (`wsdemo.lab.drivers`). A cell waits for an
answer with a deadline; long work shows how far it is.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Literal, TypeVar

from wsdemo.lab.drivers import Driver, KernelDriver, ThreadDriver
from wsdemo.lab.errors import LabClosed, LabRefused, spoken_in_short
from wsdemo.lab.progress import Count, ProgressLine

CALL_TIMEOUT_S: Final = 30.0
"""No cell waits longer for the laboratory than this, unless it sets a longer timeout."""
END_TIMEOUT_S: Final = 1.0
"""How long tasks may take to end after everything has been stopped."""

LoopKind = Literal["thread", "kernel"]
T = TypeVar("T")


def require_kind(kind: str) -> None:
    """Refuse a loop that does not exist.

    Raises:
        LabRefused: there is no such kind.
    """
    if kind not in ("thread", "kernel"):
        raise LabRefused(f'loop is "thread" or "kernel", not {kind!r}')


class LabLoop:
    """The loop of a lab, as cells use it. It records failures that nobody handled.

    Args:
        kind: "thread" for a loop of its own, "kernel" for the one that also runs the cells.
    """

    def __init__(self, kind: LoopKind) -> None:
        self.kind = kind
        self._driver: Driver = ThreadDriver() if kind == "thread" else KernelDriver()
        self._unhandled: list[str] = []
        self._handler_before = self._driver.loop.get_exception_handler()
        self._driver.loop.set_exception_handler(
            lambda _, context: self._unhandled.append(_in_words(context))
        )
        self.closed = False
        self._ending = False
        self._closed_by = ""

    def run(
        self,
        work: Coroutine[Any, Any, T],
        timeout_s: float = CALL_TIMEOUT_S,
        count: Count | None = None,
        update: Callable[[], None] = lambda: None,
    ) -> T:
        """Run something on the loop and wait for it; Interrupt cancels it there.

        Args:
            count: how far it is, shown while it runs.
            update: called before each time that the count is shown.

        Raises:
            LabClosed: the lab is closed, or was closed by another thread meanwhile.
        """
        if self._ending or self.closed:
            work.close()
            self.require_open()
        with ProgressLine(count or Count("", 0)) as line:

            def show() -> None:
                update()
                line.show()

            try:
                with spoken_in_short():
                    return self._driver.run(
                        work, timeout_s, show if count is not None else lambda: None
                    )
            except concurrent.futures.CancelledError:
                if not self._ending:
                    raise
                raise self._no_more() from None

    def call(self, act: Callable[[], T]) -> T:
        """Call something on the loop: most parts of a lab are not thread-safe."""

        async def turn() -> T:
            return act()

        return self.run(turn())

    def call_soon(self, act: Callable[[], object]) -> None:
        """Call something on the loop, and do not wait; not at all on a loop that has ended."""
        if not (self._ending or self.closed):
            self._driver.loop.call_soon_threadsafe(act)

    def pause(self, seconds: float) -> None:
        """Let the loop run for so many wall seconds."""
        self._driver.pause(seconds)

    def require_open(self) -> None:
        """Refuse a call that needs a running laboratory.

        Raises:
            LabClosed: the lab is closed.
        """
        if self._ending or self.closed:
            raise self._no_more()

    def _no_more(self) -> LabClosed:
        if self._closed_by:
            return LabClosed(
                f"this lab is closed: {self._closed_by} closed it. There is one lab at a time: "
                "use the latest one, and its users"
            )
        return LabClosed("this lab is closed: make a new one with Lab()")

    def end(self, stop: Coroutine[Any, Any, None], by: str = "") -> list[str]:
        """Cancel the calls of other threads, refuse new ones, run the last work of the loop, and
        return the tasks that are left and the failures that nobody handled.

        Args:
            by: who closes the lab, when that is not its user.
        """
        self._ending, self._closed_by = True, by
        self._driver.cancel_all()
        self._driver.run(stop, CALL_TIMEOUT_S, lambda: None)
        self._driver.cancel_all()  # A call that began just before it was refused.
        return self._driver.run(self._leaks(), CALL_TIMEOUT_S, lambda: None)

    async def _leaks(self) -> list[str]:
        """Return the tasks that do not end, and the failures that nobody handled.

        On the kernel's loop all other tasks are the kernel's own.
        """
        left: list[str] = []
        if isinstance(self._driver, ThreadDriver):
            this = asyncio.current_task()
            tasks = [task for task in asyncio.all_tasks() if task is not this]
            if tasks:
                await asyncio.wait(tasks, timeout=END_TIMEOUT_S)
            left = [f"task {task.get_name()}" for task in tasks if not task.done()]
        return left + [f"unhandled: {problem}" for problem in self._unhandled]

    def close(self) -> None:
        """End the loop and its thread. Idempotent."""
        if not self.closed:
            self.closed = True
            self._driver.loop.set_exception_handler(self._handler_before)
            self._driver.close()

    @property
    def alive(self) -> bool:
        """Whether a thread or a loop is left after `close`."""
        return self._driver.alive


def _in_words(context: Mapping[str, Any]) -> str:
    """Return what asyncio reports of a failure, with the failure and the name of its task."""
    task = context.get("task") or context.get("future")
    where = f" in {task.get_name()!r}" if isinstance(task, asyncio.Task) else ""
    problem = context.get("exception")
    return f"{context.get('message')}{where}" + (f": {problem!r}" if problem else "")
