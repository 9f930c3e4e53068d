"""Waiting for events, with deadlines, and with words for what did not come."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest


async def until(
    what: str, condition: Callable[[], Any], timeout_s: float = 10.0, every_s: float = 0.005
) -> Any:
    """Wait until a condition, plain or asynchronous, holds; return its value."""
    value: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                value = condition()
                if inspect.isawaitable(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(every_s)
    except TimeoutError:
        pytest.fail(f"not within {timeout_s:g} s: {what}")
