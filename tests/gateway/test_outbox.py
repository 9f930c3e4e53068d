"""What does an outbox hold a reader to, look by look and frame by frame?

The transport is a stand-in that takes what it is told to take: what is counted here are looks and
bytes, which a kernel takes in portions of its own. With real connections see `test_writing`.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from wsdemo.gateway.outbox import LOOKS, Flusher, Outbox, Stuck
from wsdemo.settings import Limits


class Pipe:
    """A transport that nobody empties but the test."""

    def __init__(self) -> None:
        self.left = 0

    def write(self, data: bytes) -> None:
        self.left += len(data)

    def get_write_buffer_size(self) -> int:
        return self.left

    def get_extra_info(self, name: str) -> Any:
        return None

    def is_closing(self) -> bool:
        return False


class Reader:
    """An outbox whose transport is full, and what became of it."""

    def __init__(self, limits: Limits) -> None:
        self.pipe = Pipe()
        self.stuck: list[Stuck] = []
        self.failed: list[Exception] = []
        self.outbox = Outbox(
            cast(asyncio.Transport, self.pipe),
            Flusher(asyncio.get_running_loop()),
            limits,
            self.stuck.append,
            self.failed.append,
        )
        self.outbox.write(b"x" * 1_000)
        self.outbox.pause()

    def looks_until_given_up(self) -> int:
        for look in range(1, 3 * LOOKS):
            self.outbox._stop_deadline()  # The test looks in its place.
            self.outbox._look()
            if self.stuck:
                return look
        raise AssertionError("it is never given up")


NEVER = Limits(write_deadline_s=1e4)


async def test_a_reader_that_takes_nothing_is_given_up_at_the_last_check() -> None:
    """So many looks after the transport became full, at the deadline."""
    reader = Reader(NEVER)
    assert reader.looks_until_given_up() == LOOKS
    assert reader.stuck == [Stuck.DEADLINE]


async def test_a_reader_that_stops_is_given_up_within_the_deadline() -> None:
    """It is counted as if it had taken that right behind the look before."""
    reader = Reader(NEVER)
    reader.outbox._look()
    reader.outbox._stop_deadline()
    reader.pipe.left -= 1
    reader.outbox._look()
    assert reader.looks_until_given_up() == LOOKS - 1


async def test_reading_less_than_is_written_counts_as_progress() -> None:
    """Control frames go past what waits; a reader is not blamed for those."""
    reader = Reader(NEVER)
    for _ in range(3 * LOOKS):
        reader.outbox.write(b"pong")
        reader.pipe.left -= 1
        reader.outbox._stop_deadline()
        reader.outbox._look()
    assert not reader.stuck
    reader.outbox.close()


async def test_the_outbox_holds_at_most_its_limit_of_frames() -> None:
    """The one beyond the bound is the end."""
    reader = Reader(Limits(outbox_messages=5, write_deadline_s=1e4))
    for _ in range(5):
        reader.outbox.send(b"frame")
    assert (len(reader.outbox), reader.stuck) == (5, [])
    reader.outbox.send(b"frame")
    assert (len(reader.outbox), reader.stuck) == (0, [Stuck.OVERFLOW])


async def test_the_outbox_holds_at_most_its_limit_of_bytes() -> None:
    """However few frames they are; and what has been written is not counted any more."""
    reader = Reader(Limits(outbox_bytes=100, write_deadline_s=1e4))
    for _ in range(3):
        reader.outbox.send(b"x" * 50)
        reader.outbox.send(b"x" * 50)
        reader.outbox.resume()
        reader.outbox.pause()
    assert reader.stuck == []
    reader.outbox.send(b"x" * 100)
    reader.outbox.send(b"x")
    assert reader.stuck == [Stuck.OVERFLOW]
    assert not reader.failed


async def test_after_the_close_frame_there_is_no_write_deadline() -> None:
    """The goodbye has one of its own; a transport that is full because of it begins none."""
    reader = Reader(NEVER)
    reader.outbox.resume()
    reader.outbox.close()
    reader.outbox.pause()
    assert reader.outbox._deadline is None


async def test_who_waits_for_room_is_told_when_there_is_some() -> None:
    """After what waited has left; not after the end; and its error is that of this connection."""
    reader = Reader(NEVER)
    told: list[int] = []
    reader.outbox.on_room = lambda: told.append(reader.pipe.left)
    reader.outbox.send(b"y" * 10)
    assert not told
    reader.pipe.left = 0
    reader.outbox.resume()
    assert told == [10]
    reader.outbox.on_room = lambda: told.append(1 // 0)
    reader.outbox.resume()
    assert [type(problem) for problem in reader.failed] == [ZeroDivisionError]
    reader.outbox.close()
    reader.outbox.resume()
    assert len(reader.failed) == 1
