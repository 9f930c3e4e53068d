"""What every test of the laboratory gets: a clock that no load of the machine slows down."""

from __future__ import annotations

import pytest

from wsdemo.lab import pace


@pytest.fixture(autouse=True)
def free_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a `Lab()` without a scale run at full speed: many run at once, and each test has
    deadlines of its own.
    """
    monkeypatch.setattr(pace, "_measure", lambda: 1.0)
    monkeypatch.setattr(pace, "_measured", {})
