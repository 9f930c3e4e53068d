"""How is a task ended for certain, when what it awaits may swallow a cancellation?

`asyncio.wait_for` does, up to Python 3.11: when what it waits for ends in the same turn of the
loop, the cancellation is gone, and the task goes on. Libraries that we await use it. So nobody
here cancels a task once and then waits for it without a limit.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

AGAIN_S: Final = 0.05
"""How long a cancelled task may take before it is cancelled once more."""


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, again and again, until all have ended. What they end with is not looked at."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
