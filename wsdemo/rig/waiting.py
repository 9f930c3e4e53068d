"""Polling: how does one wait for a condition that nobody signals?

Redis tells nobody when a key is gone, and another process tells nobody when it is ready. They have
to be asked again and again, with a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from typing import Any


async def until(
    what: str,
    holds: Callable[[], Any],
    within_s: float = 10.0,
    *,
    every_s: float = 0.01,
    ignoring: tuple[type[Exception], ...] = (),
) -> Any:
    """Wait until a condition holds, and return its value.

    Args:
        what: the condition in words, for the error.
        holds: the condition, a plain or an asynchronous function.
        ignoring: errors of the condition that mean "not yet".

    Raises:
        TimeoutError: it did not hold in time; the text says what was waited for.
    """
    try:
        async with asyncio.timeout(within_s):
            while True:
                with contextlib.suppress(*ignoring):
                    value = holds()
                    if inspect.isawaitable(value):
                        value = await value
                    if value:
                        return value
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise TimeoutError(f"{what}: not within {within_s:g} s") from None
