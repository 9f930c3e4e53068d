"""A class room on real gateways, for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wsdemo.lab import Lab
from wsdemo.lab.classroom.room import Classroom


@pytest.fixture(scope="module")
def room() -> Iterator[Classroom]:
    with Lab(gateways=2, scale=6) as lab:
        yield lab.classroom()
    assert lab.leaks() == []  # The lab has closed its room.
