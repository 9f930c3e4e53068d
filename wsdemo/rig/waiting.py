"""Polling: how does one wait for something that nobody announces?

Redis tells nobody when a key expires, and a process tells nobody what its pages will say: both
have to be asked again and again, with a deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

POLL_S: Final = 0.005
"""Between two questions."""

Condition = Callable[[], bool | Awaitable[bool]]


async def wait_until(
    what: str, holds: Condition, timeout_s: float, every_s: float = POLL_S
) -> None:
    """Wait until a condition holds, which may be a function or a coroutine function.

    Raises:
        TimeoutError: it did not, in time; the text says what was waited for.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while not await _answer(holds):  # noqa: ASYNC110
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise TimeoutError(f"not within {timeout_s:g} s: {what}") from None


async def _answer(holds: Condition) -> bool:
    answer = holds()
    return await answer if isinstance(answer, Awaitable) else bool(answer)
