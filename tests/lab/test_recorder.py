"""Recorder: does who reads again and again get each event once, or learn that it is gone?"""

from __future__ import annotations

import threading

from wsdemo.events import Event, Kind
from wsdemo.lab.trace.recorder import Recorder


def event(number: int, lane: str = "gateway-01") -> Event:
    """Return an event with a number."""
    return Event(Kind.PING, float(number), lane)


def test_since_returns_what_is_new_and_nothing_twice() -> None:
    """Each answer has the mark of the next question."""
    recorder = Recorder()
    for number in range(3):
        recorder.emit(event(number))
    first = recorder.since()
    assert [e.t for e in first.events] == [0, 1, 2]
    assert recorder.since(first.mark) == ([], first.mark, 0)
    recorder.emit(event(3))
    second = recorder.since(first.mark)
    assert [e.t for e in second.events] == [3]
    assert (second.mark, second.lost) == (4, 0)
    assert [e.t for e in recorder.events] == [0, 1, 2, 3]


def test_since_can_be_asked_for_a_part() -> None:
    """The oldest part, so that the next question goes on from there."""
    recorder = Recorder()
    for number in range(5):
        recorder.emit(event(number))
    part = recorder.since(1, at_most=2)
    assert [e.t for e in part.events] == [1, 2]
    assert [e.t for e in recorder.since(part.mark, at_most=9).events] == [3, 4]


def test_the_oldest_are_removed_and_a_slow_reader_learns_how_many() -> None:
    """The newest `limit` events stay, and never more than `slack` beyond them."""
    recorder = Recorder(limit=10, slack=5)
    for number in range(12):
        recorder.emit(event(number))
    mark = recorder.since(0, at_most=4).mark
    for number in range(12, 100):
        recorder.emit(event(number))
        assert 10 <= len(recorder.events) <= 15
    new = recorder.since(mark)
    assert new.lost > 0
    assert [e.t for e in new.events] == list(range(4 + new.lost, 100))
    assert new.mark == 100
    assert recorder.since(new.mark).lost == 0


def test_no_event_of_any_thread_is_missed_or_read_twice() -> None:
    """Four threads record while one reads; what each has recorded is read in its order, and what
    is not read is counted as lost.
    """
    recorder = Recorder(limit=2_000, slack=100)
    each = 20_000

    def record(lane: str) -> None:
        for number in range(each):
            recorder.emit(event(number, lane))

    threads = [threading.Thread(target=record, args=(f"g{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    read: dict[str, list[float]] = {f"g{n}": [] for n in range(4)}
    mark = lost = 0
    while True:
        over = not any(thread.is_alive() for thread in threads)
        new = recorder.since(mark)
        mark, lost = new.mark, lost + new.lost
        for one in new.events:
            read[one.lane].append(one.t)
        if over:
            break
    for thread in threads:
        thread.join()
    assert mark == 4 * each
    assert sum(map(len, read.values())) + lost == 4 * each
    for numbers in read.values():
        assert numbers == sorted(set(numbers))
