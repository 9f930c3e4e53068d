"""Does a line that nobody reads hold up nobody, and is every line that is missing counted?

Real pipes, files and devices; the reader is this test.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wsdemo import streams
from wsdemo.streams import BOUND_BYTES, RESERVE_BYTES, LineHandler, LineWriter, dropped_note

PATIENCE_S = 20.0
NOTE = re.compile(r"\[Log\] (\d+) lines were dropped here: they could not be written in time")
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")


class Pipe:
    """A pipe that is read when the test says so."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def read(self, count: int = 1 << 20, timeout_s: float = PATIENCE_S) -> bytes:
        """Return what is there, or comes; fail if nothing does."""
        assert select.select([self.read_end], [], [], timeout_s)[0], "nothing was written"
        return os.read(self.read_end, count)

    def lines_until(self, holds: Callable[[list[str]], object]) -> list[str]:
        """Read until the lines so far are enough."""
        data = b""
        while not (data.endswith(b"\n") and holds(data.decode().splitlines())):
            data += self.read()
        return data.decode().splitlines()

    def close(self) -> None:
        for end in (self.read_end, self.write_end):
            with contextlib.suppress(OSError):
                os.close(end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
def writer(pipe: Pipe) -> Iterator[LineWriter]:
    """A writer into the pipe; its thread ends with the test, whoever has read."""
    with LineWriter(pipe.write_end) as made:
        yield made
        pipe.close()
        assert made.close(PATIENCE_S), "the thread outlives its reader"


def count(lines: list[str]) -> int:
    """Return how many lines there are, with those that are told to be missing."""
    notes = [NOTE.fullmatch(line) for line in lines]
    return sum(int(note[1]) if note else 1 for note in notes)


def test_lines_are_written_in_order(pipe: Pipe, writer: LineWriter) -> None:
    """Whether they may wait to be collected, or must leave at once."""
    for n in range(3_000):
        (writer.add if n % 7 else writer.add_now)(f"line {n}")
    assert pipe.lines_until(lambda lines: len(lines) == 3_000) == [
        f"line {n}" for n in range(3_000)
    ]
    assert writer.flush(PATIENCE_S)
    assert (writer.dropped, writer.waiting) == (0, 0)


@pytest.mark.slow
def test_a_single_line_is_written_without_a_following_one(pipe: Pipe, writer: LineWriter) -> None:
    """Again and again: the thread sleeps in between, and no line is left lying when it does."""
    for n in range(20):
        writer.add(f"line {n}")
        assert pipe.read() == f"line {n}\n".encode()


def test_a_line_queued_while_the_thread_goes_to_sleep_is_written(pipe: Pipe) -> None:
    """Its speaker has seen that the thread is awake, and does not ring."""

    class Drowsy(LineWriter):
        sleeping = said = False

        @property
        def _asleep(self) -> bool:
            return self.sleeping

        @_asleep.setter
        def _asleep(self, value: bool) -> None:
            if value and not self.said:
                self.said = True
                self.add("just before")
            self.sleeping = value

    with Drowsy(pipe.write_end):
        assert pipe.read() == b"just before\n"


def test_an_urgent_line_flushes_the_collected_lines_first(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the collection to end."""
    monkeypatch.setattr(streams, "COLLECT_S", 10 * PATIENCE_S)
    with LineWriter(pipe.write_end) as writer:
        writer.add("first")
        writer.add_now("now")
        assert pipe.lines_until(lambda lines: len(lines) == 2) == ["first", "now"]


def test_while_lines_keep_coming_none_has_to_wake_the_thread(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes by itself, until there was none for a while: each waking costs two switches."""
    monkeypatch.setattr(streams, "COLLECT_S", 10 * PATIENCE_S)
    with LineWriter(pipe.write_end) as writer:
        writer.add("first")
        assert writer.flush(PATIENCE_S)
        with monkeypatch.context() as patch:
            patch.setattr(writer._bell, "ring", lambda: pytest.fail("it was woken"))
            writer.add("second")
        assert writer.flush(PATIENCE_S)
        assert pipe.lines_until(lambda lines: len(lines) == 2) == ["first", "second"]


def test_the_writer_thread_blocks_all_signals(writer: LineWriter) -> None:
    """One for writing to somebody else's terminal would stop the whole process."""
    status = Path(f"/proc/self/task/{writer._thread.native_id}/status").read_text()
    found = re.search(r"^SigBlk:\s*(\w+)$", status, re.M)
    assert found is not None
    blocked = int(found[1], 16)
    for number in (signal.SIGTTOU, signal.SIGTERM, signal.SIGINT):
        assert blocked >> (number - 1) & 1


def test_no_line_of_several_threads_is_lost(pipe: Pipe, writer: LineWriter) -> None:
    """Each thread's lines are in its order."""

    def talk(name: int) -> None:
        for n in range(2_000):
            (writer.add if n % 3 else writer.add_now)(f"{name} {n}")

    threads = [threading.Thread(target=talk, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    lines = pipe.lines_until(lambda lines: len(lines) == 8_000)
    for thread in threads:
        thread.join()
    for name in range(4):
        mine = [line for line in lines if line.startswith(f"{name} ")]
        assert mine == [f"{name} {n}" for n in range(2_000)]
    assert writer.flush(PATIENCE_S) and writer.dropped == 0


@pytest.mark.slow
def test_a_line_may_be_logged_while_another_is_being_logged(pipe: Pipe, writer: LineWriter) -> None:
    """As by a finaliser or a signal handler, between any two steps: no deadlock, no line lost."""
    said = itertools.count()
    inner = 0

    def interrupt(number: int, frame: object) -> None:
        nonlocal inner
        inner += 1
        writer.add_now(f"line {next(said)}", important=True)

    read: list[str] = []
    reader = threading.Thread(
        target=lambda: read.extend(pipe.lines_until(lambda lines: lines[-1] == "end"))
    )
    reader.start()
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        ends_at = time.monotonic() + 1.0
        while time.monotonic() < ends_at:
            writer.add_now(f"line {next(said)}")
            writer.add(f"line {next(said)}")
            writer.flush(PATIENCE_S)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    writer.add_now("end")
    reader.join(PATIENCE_S)
    assert inner > 50
    assert len(read) == next(said) + 1 and writer.dropped == 0


def test_a_full_pipe_blocks_no_caller_and_dropped_lines_are_counted(
    pipe: Pipe, writer: LineWriter
) -> None:
    """What does not fit is dropped; the number stands where the lines are missing, and is exact."""
    longest_s = 0.0
    said = 60_000
    for n in range(said):
        started = time.thread_time()
        writer.add(f"line {n:060}")
        longest_s = max(longest_s, time.thread_time() - started)
    assert longest_s < 0.05
    assert writer.waiting <= BOUND_BYTES + 100
    assert writer.dropped > 10_000
    lines = pipe.lines_until(lambda lines: NOTE.fullmatch(lines[-1]))
    assert count(lines) == said
    kept = [line for line in lines if not NOTE.fullmatch(line)]
    assert kept == [f"line {n:060}" for n in range(len(kept))]
    assert said - len(kept) == writer.dropped
    writer.add("all is well")
    assert pipe.read() == b"all is well\n"


def test_lines_after_a_gap_come_after_the_number_of_dropped_lines(
    pipe: Pipe, writer: LineWriter
) -> None:
    """A slow reader: room for some, a gap, room again. Every gap is told in its place."""
    said, read = 0, b""
    for _ in range(3):
        dropped = writer.dropped
        while writer.dropped < dropped + 100:
            writer.add(f"line {said:060}")
            said += 1
        while writer.waiting > BOUND_BYTES // 2:
            read += pipe.read()
        assert writer.waiting > BOUND_BYTES // 4, "what is written is known before all is"
    while count((read + b".").decode().splitlines()[:-1]) < said:
        read += pipe.read()
    at = gaps = 0
    for line in read.decode().splitlines():
        if note := NOTE.fullmatch(line):
            at += int(note[1])
            gaps += 1
        else:
            assert line == f"line {at:060}"
            at += 1
    assert at == said and gaps >= 3


def test_important_lines_are_kept_when_the_queue_is_full(pipe: Pipe, writer: LineWriter) -> None:
    """A warning is kept when thousands of ordinary lines wait; even so, there is a bound."""
    while not writer.dropped:
        writer.add("an ordinary line")
    writer.add("a traceback\n  of two lines more\n  is three lines")
    assert writer.dropped == 4
    before = writer.dropped
    writer.add_now("a rare line")
    writer.add("an ordinary line")
    assert writer.dropped == before + 1
    while writer.dropped == before + 1:
        writer.add_now("x" * 10_000)
    writer.add_now("a warning", important=True)
    assert writer.dropped == before + 2
    while writer.dropped == before + 2:
        writer.add_now("x" * 10_000, important=True)
    assert BOUND_BYTES < writer.waiting <= BOUND_BYTES + RESERVE_BYTES + 10_000
    lines = pipe.lines_until(lambda lines: len(NOTE.findall("\n".join(lines))) == 4)
    at = lines.index("a rare line")
    assert lines[at - 1] == dropped_note(before) and lines[at + 1] == dropped_note(1)
    assert lines[lines.index("a warning") - 1] == dropped_note(1)


def test_lines_of_two_writers_into_one_pipe_are_not_mixed(pipe: Pipe) -> None:
    """Three gateways of one terminal: what is written at a time fits into a pipe at once."""
    with LineWriter(pipe.write_end) as first, LineWriter(pipe.write_end) as second:
        for n in range(4_000):
            first.add("a" * (n % 90))
            second.add("b" * (n % 90))
        data = b""
        while data.count(b"\n") < 8_000:
            data += pipe.read(
                3_000
            )  # Little by little: both wait in the middle of what they write.
    lines = data.decode().splitlines()
    assert all(re.fullmatch("a*|b*", line) for line in lines)


def test_a_non_blocking_descriptor_loses_nothing(pipe: Pipe, writer: LineWriter) -> None:
    """Somebody who shares it may have set O_NONBLOCK: nothing is lost, and it stays as it was."""
    os.set_blocking(pipe.write_end, False)
    for n in range(5_000):
        writer.add(f"line {n:060}")
    before = time.process_time()
    assert not writer.flush(0.5)
    assert time.process_time() - before < 0.25, "it asks again and again"
    lines = pipe.lines_until(lambda lines: len(lines) == 5_000)
    assert lines == [f"line {n:060}" for n in range(5_000)]
    assert fcntl.fcntl(pipe.write_end, fcntl.F_GETFL) & os.O_NONBLOCK


@FULL
def test_a_full_disk_drops_and_counts() -> None:
    """The reason is kept."""
    with LineWriter(os.open("/dev/full", os.O_WRONLY)) as writer:
        for n in range(1_000):
            writer.add(f"line {n}")
        writer.add_now("a traceback\n  of three\n  lines")
        assert writer.flush(PATIENCE_S)
        assert writer.dropped == 1_003 and writer.waiting == 0
        assert isinstance(writer.problem, OSError) and writer.problem.strerror


def test_a_pipe_with_a_new_reader_gets_the_number_of_missing_lines(tmp_path: Path) -> None:
    """A named pipe whose reader dies, and whose next reader comes."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with LineWriter(os.open(fifo, os.O_WRONLY)) as writer:
        writer.add("before")
        assert writer.flush(PATIENCE_S)
        assert os.read(reader, 100) == b"before\n"
        os.close(reader)
        for n in range(10):
            writer.add(f"line {n}")
            assert writer.flush(PATIENCE_S)
        assert writer.dropped == 10 and isinstance(writer.problem, BrokenPipeError)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        writer.add("after")
        assert writer.flush(PATIENCE_S)
        assert os.read(reader, 1000).decode() == f"{dropped_note(10)}\nafter\n"
        assert writer.problem is None
    os.close(reader)


def test_lines_dropped_for_two_reasons_are_counted_in_one_number(tmp_path: Path) -> None:
    """First nobody reads, then nobody is there: the next reader is told of both."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with LineWriter(os.open(fifo, os.O_WRONLY), bound_bytes=200_000) as writer:
        for n in range(10_000):
            writer.add(f"line {n:060}")
        assert not writer.flush(0.2) and writer.dropped > 1_000
        before = writer.dropped
        os.close(reader)
        deadline = time.monotonic() + PATIENCE_S
        while writer.dropped == before:
            assert time.monotonic() < deadline
        assert writer.flush(PATIENCE_S)
        lost = writer.dropped
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        writer.add("after")
        data = b""  # What was written before is still in the pipe.
        while not data.endswith(b"after\n"):
            assert select.select([reader], [], [], PATIENCE_S)[0]
            data += os.read(reader, 1 << 16)
    os.close(reader)
    assert data.decode().splitlines()[-2:] == [dropped_note(lost), "after"]
    assert count(data.decode().splitlines()) == 10_001


def test_a_flush_waits_for_the_number_of_missing_lines_too(
    pipe: Pipe,
) -> None:
    """Or the end of a process would take it along."""

    class Slow(LineWriter):
        noted = False

        def _write(self, data: bytes) -> int:
            if b"dropped here" in data:
                time.sleep(0.3)
                self.noted = True
            return super()._write(data)

    with Slow(pipe.write_end, bound_bytes=100) as writer:
        while not writer.dropped:
            writer.add("x" * 90)
        assert writer.flush(PATIENCE_S) and writer.noted


def test_after_a_gap_a_line_needs_no_lock_again(
    pipe: Pipe, writer: LineWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is what makes it cheap."""
    while not writer.dropped:
        writer.add("x" * 1_000)
    pipe.lines_until(lambda lines: NOTE.fullmatch(lines[-1]))
    monkeypatch.setattr(writer, "_add_if_room", lambda *_: pytest.fail("the slow way"))
    writer.add("line")
    assert pipe.read() == b"line\n"


def test_an_incomplete_line_is_not_continued_by_the_next_one(tmp_path: Path) -> None:
    """A disk that is full in the middle of a line: the next one begins on a line of its own."""
    script = """
import os, resource, sys
from wsdemo.streams import LineWriter
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
with LineWriter(descriptor) as writer:
    resource.setrlimit(resource.RLIMIT_FSIZE, (25, resource.RLIM_INFINITY))
    for n in range(5):
        writer.add(f"line number {n}")
    assert writer.flush(10)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer.add("after")
    assert writer.flush(10)
    print(writer.dropped)
"""
    path = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "4\n"
    assert path.read_text() == f"line number 0\nline number\n{dropped_note(4)}\nafter\n"


def test_a_flush_that_timed_out_is_not_waited_for_again(pipe: Pipe, writer: LineWriter) -> None:
    """Until something moves: the end of a process is not held up once for each who wants it."""
    for _ in range(5_000):
        writer.add("x" * 60)
    while not writer.stuck:  # The pipe takes some of it, at first.
        assert not writer.flush(0.1)
    started = time.monotonic()
    for _ in range(5):
        assert not writer.flush(PATIENCE_S)
    assert time.monotonic() - started < 2.0
    pipe.read()
    reader = threading.Thread(
        target=lambda: pipe.lines_until(lambda lines: lines[-1] == "end"), daemon=True
    )
    reader.start()
    writer.add("end")
    deadline = time.monotonic() + PATIENCE_S
    while not writer.flush(PATIENCE_S):
        assert time.monotonic() < deadline
    reader.join(PATIENCE_S)
    assert not writer.stuck and writer.dropped == 0


def test_a_wrong_logging_call_is_reported_and_does_not_fail(pipe: Pipe, writer: LineWriter) -> None:
    """A record whose arguments do not fit its text."""
    logger = logging.Logger("careless")
    logger.addHandler(LineHandler(writer))
    logger.warning("%d users", "many")
    logger.warning("go on")
    lines = pipe.lines_until(lambda lines: len(lines) == 2)
    assert "careless logs '%d users' with other arguments" in lines[0] and lines[1] == "go on"


def test_characters_that_the_encoding_lacks_are_escaped(pipe: Pipe) -> None:
    """For the log as well as for what is printed: neither ends in an error."""
    with LineWriter(pipe.write_end, encoding="ascii") as writer:
        writer.add("Grüße \U0001f600 \ud800")
        assert pipe.read() == b"Gr\\xfc\\xdfe \\U0001f600 \\ud800\n"
    script = """
from wsdemo.streams import open_standard_streams, say
open_standard_streams()
assert say("Gr\u00fc\u00dfe") is None
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("Gr\\xfc\\xdfe\n", "")


# --- standard streams ------------------------------------------------------------------------

CLOSED = [numbers for size in (1, 2, 3) for numbers in itertools.combinations((0, 1, 2), size)]


@pytest.mark.parametrize("numbers", CLOSED, ids=lambda numbers: "+".join(map(str, numbers)))
def test_closed_standard_streams_become_dev_null(numbers: tuple[int, ...], tmp_path: Path) -> None:
    """For Python, for the system and for children; what is open stays what it is."""
    script = """
import os, subprocess, sys
from wsdemo.streams import open_standard_streams, say
open_standard_streams()
null = os.stat("/dev/null").st_rdev
state = [os.fstat(n).st_rdev == null for n in range(3)]
ask = "[ /dev/fd/%d -ef /dev/null ]"
child = [subprocess.run(["sh", "-c", ask % n]).returncode == 0 for n in range(3)]
assert sys.stdin.isatty() is False and sys.stdin.read() == ""
assert say("to stdout") is None
print("to stderr", file=sys.stderr, flush=True)
new = os.open("/dev/null", os.O_RDONLY)
with open(sys.argv[1], "w") as file:
    print(state, child, new > 2, file=file)
"""
    result = tmp_path / "result"
    closed = " ".join(f"{number}{'<' if not number else '>'}&-" for number in numbers)
    with (tmp_path / "empty").open("w+") as empty:
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", script, str(result)],
            stdin=empty,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    became = [number in numbers for number in range(3)]
    assert result.read_text() == f"{became} {became} True\n"
    assert done.stdout == ("" if 1 in numbers else "to stdout\n")
    assert done.stderr == ("" if 2 in numbers else "to stderr\n")
