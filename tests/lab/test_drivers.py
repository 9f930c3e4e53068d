"""Waiting cells: does a timeout name the waiting call, and is system sleep left out of the
count?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from wsdemo.lab import drivers
from wsdemo.lab.drivers import ThreadDriver


@pytest.fixture
def driver() -> Iterator[ThreadDriver]:
    driver = ThreadDriver()
    yield driver
    driver.close()
    assert not driver.alive


async def never() -> None:
    await asyncio.Event().wait()


async def for_somebody() -> None:
    await never()


async def soon() -> str:
    await asyncio.sleep(0.3)
    return "done"


def test_a_timeout_names_the_call_that_waits(driver: ThreadDriver) -> None:
    """The error of the cell names the call that waits, and its caller."""
    with pytest.raises(TimeoutError, match=r"wait \(locks.py:\d+\) < never \(.*< for_somebody"):
        driver.run(for_somebody(), timeout_s=0.05)


def test_system_sleep_does_not_count_against_a_deadline(
    driver: ThreadDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for which the whole machine stood still is not counted."""
    began = time.monotonic()

    def clock() -> float:
        """Jump by a minute after a tenth of a second, as a laptop's clock does after sleep."""
        now = time.monotonic()
        return now + 60.0 if now - began > 0.1 else now

    monkeypatch.setattr(drivers, "time", type("Clock", (), {"monotonic": staticmethod(clock)}))
    assert driver.run(soon(), timeout_s=5.0) == "done"
