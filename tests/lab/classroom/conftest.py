"""A class room on real gateways, for the tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.browser import Chromium
from wsdemo.lab import Lab
from wsdemo.lab.classroom.room import Classroom


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    with Lab(gateways=2, scale=6) as lab:
        yield lab.classroom()
    assert lab.leaks() == []  # The lab has closed its room.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chromium]:
    """One Chromium for the pages of a module."""
    async with Chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running
