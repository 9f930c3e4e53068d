"""How cells wait: what is too late says where it stands, and a machine that slept is no culprit."""

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


def test_work_that_takes_too_long_says_where_it_waits(driver: ThreadDriver) -> None:
    """A cell that gives up names the call that waits, and who called it."""
    with pytest.raises(TimeoutError, match=r"wait \(locks.py:\d+\) < never \(.*< for_somebody"):
        driver.run(for_somebody(), timeout_s=0.05)


def test_a_machine_that_slept_costs_no_cell_its_answer(
    driver: ThreadDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever time the whole machine stood still is not held against the lab."""
    began = time.monotonic()

    def clock() -> float:
        """Jump by a minute after a tenth of a second, as a laptop's clock does behind its lid."""
        now = time.monotonic()
        return now + 60.0 if now - began > 0.1 else now

    monkeypatch.setattr(drivers, "time", type("Clock", (), {"monotonic": staticmethod(clock)}))
    assert driver.run(soon(), timeout_s=5.0) == "done"
