"""Event loop: how does a cell call objects on the laboratory's loop, and what is left there at the
end?

A lab has one loop, in a thread or in the kernel (`wsdemo.lab.drivers`). A cell waits for an
answer with a deadline; long work shows how far it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal, TypeVar

from wsdemo.lab.drivers import Driver, KernelDriver, ThreadDriver
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
        ValueError: there is no such kind.
    """
    if kind not in ("thread", "kernel"):
        raise ValueError(f'loop is "thread" or "kernel", not {kind!r}')


class LabLoop:
    """The loop of a lab, as cells use it. It records failures that nobody handled.

    Args:
        kind: "thread" for a loop of its own, "kernel" for the one that also runs the cells.
    """

    def __init__(self, kind: LoopKind) -> None:
        self._driver: Driver = ThreadDriver() if kind == "thread" else KernelDriver()
        self._unhandled: list[str] = []
        self._handler_before = self._driver.loop.get_exception_handler()
        self._driver.loop.set_exception_handler(
            lambda _, context: self._unhandled.append(str(context.get("message")))
        )
        self.closed = False

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
        """
        if self.closed:
            work.close()
            self.require_open()
        with ProgressLine(count or Count("", 0)) as line:

            def show() -> None:
                update()
                line.show()

            return self._driver.run(work, timeout_s, show if count is not None else lambda: None)

    def call(self, act: Callable[[], T]) -> T:
        """Call something on the loop: most parts of a lab are not thread-safe."""

        async def turn() -> T:
            return act()

        return self.run(turn())

    def pause(self, seconds: float) -> None:
        """Let the loop run for so many wall seconds."""
        self._driver.pause(seconds)

    def require_open(self) -> None:
        """Refuse a call that needs a running laboratory.

        Raises:
            RuntimeError: the lab is closed.
        """
        if self.closed:
            raise RuntimeError("this lab is closed: make a new one with Lab()")

    async def leaks(self) -> list[str]:
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
