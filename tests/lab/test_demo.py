"""Demo: does `make demo` show both scenarios, as they really happen?"""

from __future__ import annotations

import pytest

from wsdemo.lab.demo import tell


async def test_the_demo_shows_a_message_a_move_and_the_late_cleanup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both scenarios happen; the naive presence loses alice's entry, the product's does not."""
    assert await tell() == 0
    story = capsys.readouterr().out
    assert "bob reads: alice: Hello from Alice!" in story
    assert "alice reads: carol: Are you still there?" in story
    naive, fenced = story.split("The late clean-up")[1:]
    assert "She is online, and lost." in naive
    assert "She is at gateway-02, and Redis knows it." in fenced
