"""Cancellation: how is a task ended for certain, when what it awaits may swallow a cancellation?

Up to Python 3.11, `asyncio.wait_for` does so: when the awaited task ends in the same turn of the
loop, the cancellation is lost, and the outer task goes on. Libraries that we use call it. So a
single `cancel` followed by an unlimited wait may hang.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

AGAIN_S: Final = 0.05
"""How long a cancelled task may take before it is cancelled once more."""


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, again and again, until all have ended. Their results are ignored."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
