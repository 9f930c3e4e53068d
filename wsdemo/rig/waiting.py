"""Polling: how does one wait for a condition that nobody signals?

Redis does not report that a key has expired, nor a process that it is ready. Both have to be asked
again and again, with a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final

POLL_S: Final = 0.005
"""Between two checks of the condition."""

Condition = Callable[[], Any | Awaitable[Any]]
"""A plain or an asynchronous function; the condition holds when its value is true."""


async def wait_until(
    what: str,
    holds: Condition,
    timeout_s: float = 10.0,
    every_s: float = POLL_S,
    *,
    ignoring: tuple[type[Exception], ...] = (),
) -> Any:
    """Wait until a condition holds, and return its value.

    Args:
        what: the condition in words, for the error.
        ignoring: errors of the condition that mean "not yet".

    Raises:
        TimeoutError: it did not hold in time; the text says what was waited for.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(*ignoring):
                    value = holds()
                    if inspect.isawaitable(value):
                        value = await value
                    if value:
                        return value
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise TimeoutError(f"not within {timeout_s:g} s: {what}") from None
