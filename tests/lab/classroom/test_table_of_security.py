"""Table of security: has each row of docs/teaching.md a test, and each limit its number?"""

from __future__ import annotations

import re
from pathlib import Path

from tests.pages import table
from wsdemo.lab.classroom import channel, frames, http, listener, observers, relay, seats, students

SOURCES = "".join(
    path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("test_*.py"))
)
ROWS = table("what comes to the room", "what it gets", "test")


def test_every_row_names_a_test_that_exists() -> None:
    """By its name, or by the id of one of its cases."""
    names = [name.strip("`") for _, _, name in ROWS]
    assert len(names) > 25
    missing = [
        name for name in names if f"def {name}(" not in SOURCES and f'id="{name}"' not in SOURCES
    ]
    assert missing == []


def test_every_number_of_the_table_is_the_one_in_the_code() -> None:
    """A page that promises another limit is worse than none."""
    text = " ".join(" | ".join(row) for row in ROWS)
    for pattern, number in (
        (r"head of more than (\d+) KiB", http.HEAD_BYTES // 1024),
        (r"whole after (\d+) s", listener.HEAD_S),
        (r"After (\d+) a minute of one address", seats.FAILURES_OF_ONE),
        (r"or (\d+) of all", seats.FAILURES_OF_ALL),
        (r"more than (\d+) KiB \| closed with 1009", frames.FRAME_BYTES // 1024),
        (r"more than (\d+) messages a second", relay.MESSAGES_PER_S),
        (r"messages a second \((\d+) at once\)", relay.BURST),
        (r"more than (\d+) a second to the room", students.MESSAGES_PER_S),
        (r"to the room itself \((\d+) at once\)", students.BURST),
        (r"(\d+) of a board", observers.PRESSES_PER_S),
        (r"of a board \((\d+)\)", observers.BURST),
        (r"the (\d+)st student", seats.SEATS + 1),
        (r"the (\d+)st connection of one", listener.PER_ADDRESS + 1),
        (r"the (\d+)st in all", listener.CONNECTIONS + 1),
        (r"does not read \((\d+) MB\)", channel.UNREAD_BYTES // 2**20),
        (r"after (\d+) s the connection is reset", relay.STALLED_S),
        (r"asked after (\d+) s", channel.PING_S),
        (r"dropped after (\d+) more", channel.PING_S),
    ):
        found = re.search(pattern, text)
        assert found is not None, pattern
        assert float(found[1]) == number, pattern
