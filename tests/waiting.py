"""Waiting for a condition, with a deadline, and with words for what did not come."""

from __future__ import annotations

from typing import Any

import pytest

from wsdemo.rig.waiting import POLL_S, Condition, wait_until


async def until(
    what: str, condition: Condition, timeout_s: float = 10.0, every_s: float = POLL_S
) -> Any:
    """Wait until a condition, plain or asynchronous, holds; return its value."""
    try:
        return await wait_until(what, condition, timeout_s, every_s)
    except TimeoutError as problem:
        pytest.fail(str(problem))
