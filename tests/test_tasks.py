"""Does a task end that must end?"""

from __future__ import annotations

import asyncio

import pytest

from wsdemo.tasks import end


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_task_that_swallows_its_cancellation_is_ended(times: int) -> None:
    """As often as it does so."""
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed == times:
                    raise
                swallowed += 1

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(asyncio.Event().wait())]
    await asyncio.sleep(0)
    await asyncio.wait_for(end(*tasks), 10)
    assert swallowed == times and all(task.cancelled() for task in tasks)


async def test_ending_no_tasks_or_ended_tasks_does_nothing() -> None:
    """Also if an ended task has an exception."""

    async def fail() -> None:
        raise ValueError

    failed = asyncio.create_task(fail())
    await asyncio.wait([failed])
    await end()
    await end(failed)
    assert isinstance(failed.exception(), ValueError)
