"""Does a gateway write its log, all of it and in order, and does it live on when nobody reads it?

Real processes, whose stderr is a pipe, a file, a terminal or a device that the test holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.cluster import gateway
from tests.processes import User, http_get
from tests.waiting import until
from wsdemo.gateway.log import Format, Json, ProcessJournal, Text, TextJournal, journal_of
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace
from wsdemo.streams import BOUND_BYTES, LineHandler
from wsdemo.user_ids import USER_ID_PATTERN, user_ids

START_S = 30.0
NOTE = re.compile(r"\[Log\] (\d+) lines were dropped here")
STAMP = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ")
FAST = ("--messages-per-s", "1000000", "--message-burst", "1000000")
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")

PLAIN_LOOP = "import sys; sys.modules['uvloop'] = None"
"""With this, a gateway runs on asyncio's own loop."""

MISHAPS = """
import asyncio, logging, sys, threading, warnings
import wsdemo.gateway.server as server

class Finalised:
    def __del__(self):
        raise ValueError("in a finaliser")

def fail(text):
    raise ValueError(text)

start = server.Gateway.start
async def start_and_fail(self):
    await start(self)
    loop = asyncio.get_running_loop()
    loop.call_soon(fail, "in a callback")
    await asyncio.sleep(0)
    thread = threading.Thread(target=fail, args=("in a thread",), name="worker")
    thread.start()
    thread.join()
    Finalised()
    warnings.warn("a warning of Python's", UserWarning)
    logging.getLogger("foreign").error("two\\nlines \\x1b[2J of a library")
    fail("at the start \\x1b[2J")
server.Gateway.start = start_and_fail
"""
"""With this, a gateway meets every kind of error that Python would print by itself."""


class Process:
    """A gateway process whose stderr is given. It listens on the port that `listens` finds."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.pid = process.pid
        self.port = port

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    async def dropped(self) -> int:
        _, text = await http_get(self.port, "/metrics")
        found = re.search(r"^wsdemo_log_lines_dropped_total (\S+)$", text, re.M)
        assert found is not None
        return int(float(found[1]))

    async def end(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        """End it with a signal and return its exit code."""
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, timeout_s)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def running(
    server: BundledServer,
    *flags: str,
    gateway_id: str = "gateway-01",
    first: str = "",
    shell: str = "",
    **streams: Any,
) -> AsyncIterator[Process]:
    """A gateway process that serves.

    Args:
        first: Python that runs in it before anything else.
        shell: redirections.
        streams: those of Popen.
    """
    port = free_port()
    command = [
        *(sys.executable, "-c", f"{first}\nfrom wsdemo.gateway.__main__ import main; main()"),
        *("--id", gateway_id, "--port", str(port), "--redis", server.url, *flags),
    ]
    if shell:
        command = ["sh", "-c", f'exec "$0" "$@" {shell}', *command]
    process = subprocess.Popen(command, **{"stdin": subprocess.DEVNULL, **streams})

    async def serves() -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}"
        try:
            return (await http_get(port, "/health"))[0] == 200
        except (OSError, ValueError):
            return False

    try:
        await until("it serves", serves, START_S, 0.02)
        yield Process(process, port)
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


@pytest.fixture
def prefix(keyspace: Keyspace) -> tuple[str, str]:
    return ("--key-prefix", keyspace.prefix)


Chat = Callable[[Process, Process, int], Awaitable[None]]


async def chat(
    here: Process, there: Process, messages: int, names: tuple[str, str] = ("alice", "bob")
) -> None:
    """Let alice, here, write to bob, there, and wait until all has arrived."""
    async with await User.register(names[0], here.url) as alice:
        async with await User.register(names[1], there.url) as bob:

            async def read() -> None:
                for _ in range(messages):
                    await bob.hear(30)

            reading = asyncio.create_task(read())
            for _ in range(messages):
                await alice.connection.send(
                    json.dumps({"type": "message", "to": names[1], "content": "SECRET"})
                )
            await reading


async def churn(gateway: Process, users: int) -> None:
    """Let users register and leave: two lines each."""
    for n in range(users):
        async with await User.register(f"user-{n}", gateway.url):
            pass


async def works(gateway: Process) -> None:
    """Fail unless users are served at once."""
    async with await User.register("carol", gateway.url) as carol:
        assert await carol.send("nobody", "hello?") == "offline"


def texts(path: Path, log_format: str) -> list[str]:
    """Return the messages of a log whose every line is an entry."""
    lines = path.read_text().splitlines()
    if log_format == "json":
        return [json.loads(line)["message"] for line in lines]
    assert all(STAMP.match(line) for line in lines), lines
    return [line[20:] for line in lines]


# --- when it is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_every_log_line_is_written_in_order_and_none_holds_message_content(
    shared_server: BundledServer, prefix: tuple[str, str], tmp_path: Path, log_format: str
) -> None:
    """At the default level a line for every message; and nothing is lost at a clean stop."""
    path = tmp_path / "log"
    flags = (*prefix, "--log-format", log_format)
    with path.open("wb") as log:
        async with (
            running(shared_server, *flags, stderr=log) as here,
            running(
                shared_server,
                *flags,
                "--log-level=debug",
                gateway_id="gateway-02",
                stderr=subprocess.PIPE,
            ) as there,
        ):
            await chat(here, there, 500)
            assert await here.end() == 0
            assert await there.end() == 0
            other = (there.process.stderr or log).read().decode()
    lines = texts(path, log_format)
    routed = "[Router] Routed message from alice to bob via gateway gateway-02"
    assert lines.count(routed) == 500
    told = [re.sub(r"\(\w+\)", "(id)", line) for line in lines if line != routed]
    assert told == [
        f"[Gateway] gateway-01 listens on {here.url}",
        "[Gateway] User alice registered on gateway gateway-01 (id)",
        "[Gateway] User alice left (id)",
        "[Gateway] gateway-01 stopped",
    ]
    assert lines.index(routed) == 2
    assert "SECRET" not in path.read_text() + other


@pytest.mark.slow
async def test_at_level_warning_no_message_is_logged(
    shared_server: BundledServer, prefix: tuple[str, str], tmp_path: Path
) -> None:
    """Nor of a user."""
    path = tmp_path / "log"
    with path.open("wb") as log:
        async with (
            running(shared_server, *prefix, "--log-level=warning", stderr=log) as here,
            running(
                shared_server,
                *prefix,
                "--log-level=warning",
                gateway_id="gateway-02",
                stderr=log,
            ) as there,
        ):
            await chat(here, there, 5)
            assert await here.end() == 0
            assert await there.end() == 0
    assert path.read_text() == ""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_every_error_of_a_process_is_logged_whole_and_in_order(
    shared_server: BundledServer, prefix: tuple[str, str], log_format: str
) -> None:
    """Of a callback, a thread, a finaliser, a warning, a library, and the one that ends it."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"{MISHAPS}\nfrom wsdemo.gateway.__main__ import main; main()"),
            *("--id", "gateway-01", "--port", "0", "--redis", shared_server.url),
            *("--log-format", log_format, *prefix),
        ],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    places = ["in a callback", "in a thread", "in a finaliser"]
    if log_format == "json":
        entries = [json.loads(line) for line in done.stderr.splitlines()]
        tracebacks = [entry["exception"] for entry in entries if "exception" in entry]
        messages = [entry["message"] for entry in entries]
        assert "two\nlines \x1b[2J of a library" in messages
        levels = [entry["level"] for entry in entries if "Redis:" not in entry["message"]]
        assert levels == ["info", "error", "error", "error", "warning", "error", "critical"]
        places.append("at the start \x1b[2J")
    else:
        tracebacks = re.findall(
            r"^Traceback \(most recent call last\):\n(?:.*\n)*?ValueError: .*$", done.stderr, re.M
        )
        messages = [line[20:] for line in done.stderr.splitlines() if STAMP.match(line)]
        assert "two\\nlines \\x1b[2J of a library" in messages
        places.append("at the start \\x1b[2J")
    assert [trace.splitlines()[-1] for trace in tracebacks] == [
        f"ValueError: {place}" for place in places
    ]
    assert all(trace.count("  File ") >= 1 for trace in tracebacks)
    at = [
        next(n for n, text in enumerate(messages) if re.search(pattern, text))
        for pattern in (
            r"listens on",
            r"^Exception in callback",
            r"^\[Gateway\] thread worker ended by an error",
            r"^\[Gateway\] nobody catches an error in Finalised.__del__",
            r"UserWarning: a warning of Python's",
            r"of a library",
            r"^\[Gateway\] ended by an error",
        )
    ]
    assert at == sorted(at) and at[-1] == len(messages) - 1


@pytest.mark.slow
async def test_the_last_lines_are_written_before_a_forced_end(
    shared_server: BundledServer, prefix: tuple[str, str], tmp_path: Path
) -> None:
    """A second signal ends the process at once, though not before its last lines are written."""
    path = tmp_path / "log"
    with path.open("wb") as log:
        async with (
            running(shared_server, *prefix, "--close-timeout-s=20", stderr=log) as here,
            running(shared_server, *prefix, gateway_id="gateway-02") as there,
        ):
            async with await User.register("alice", here.url) as alice:
                # A client that does not answer a close frame keeps the drain waiting.
                alice.connection.transport.pause_reading()
                async with await User.register("bob", there.url) as bob:
                    for n in range(100):
                        await alice.connection.send(
                            json.dumps({"type": "message", "to": "bob", "content": str(n)})
                        )
                    for _ in range(100):
                        await bob.hear()
                    here.process.send_signal(signal.SIGTERM)
                    await until("it drains", lambda: draining(here))

                    def ended() -> bool:
                        # Signals that come together are one request: ask again and again.
                        here.process.send_signal(signal.SIGTERM)
                        return here.process.poll() is not None

                    await until("it ends at once", ended, 5.0, every_s=0.1)
                    assert here.process.returncode == 1
                alice.connection.transport.abort()
    assert path.read_text().count("Routed message") == 100


async def draining(process: Process) -> bool:
    try:
        return (await http_get(process.port, "/ready"))[0] == 503
    except (OSError, ValueError):
        return True


# --- when it is not ----------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_full_log_pipe_blocks_nothing_and_dropped_lines_are_counted(
    shared_server: BundledServer, prefix: tuple[str, str]
) -> None:
    """Thousands of messages into a full log: all arrive, memory is bounded, drops are counted; and
    when the pipe is read again, it says how many lines are missing.
    """
    read_end, write_end = os.pipe()
    messages = 14_500
    try:
        async with (
            running(shared_server, *prefix, *FAST, stderr=write_end) as here,
            running(shared_server, *prefix, gateway_id="gateway-02") as there,
        ):
            before = psutil.Process(here.pid).memory_info().rss
            await chat(here, there, messages, ("a" * 64, "b" * 64))  # Long lines: fewer will do.
            await works(here)
            await until("all have left", lambda: empty(here))
            dropped = await here.dropped()
            assert dropped > 500
            assert psutil.Process(here.pid).memory_info().rss - before < 16 * 1024 * 1024
            os.close(write_end)
            write_end = -1
            reading = asyncio.create_task(asyncio.to_thread(read_all, read_end))
            assert await here.end() == 0
            lines = (await reading).decode().splitlines()
            notes = [int(found[1]) for line in lines if (found := NOTE.search(line))]
            assert sum(notes) == dropped
            routed = sum("Routed message" in line for line in lines)
            assert routed > 10_000 and messages <= routed + dropped <= messages + 4
            assert all(STAMP.match(line) for line in lines)
            assert lines[-1].endswith("[Gateway] gateway-01 stopped")
    finally:
        for end in (read_end, write_end):
            with contextlib.suppress(OSError):
                os.close(end)


async def empty(process: Process) -> bool:
    return bool(json.loads((await http_get(process.port, "/stats"))[1])["connections"] == 0)


def read_all(descriptor: int) -> bytes:
    data = b""
    while got := os.read(descriptor, 1 << 16):
        data += got
    return data


@pytest.mark.slow
async def test_a_stopped_log_reader_gets_every_line_later(
    shared_server: BundledServer, prefix: tuple[str, str], tmp_path: Path
) -> None:
    """A stopped process at the other end of the pipe: some thousand lines wait for it."""
    path = tmp_path / "log"
    with path.open("wb") as log:
        reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        try:
            async with running(shared_server, *prefix, stderr=reader.stdin) as process:
                assert reader.stdin is not None
                reader.stdin.close()
                reader.send_signal(signal.SIGSTOP)
                await churn(process, 600)
                await works(process)
                reader.send_signal(signal.SIGCONT)
                assert await process.dropped() == 0
                assert await process.end() == 0
                assert await asyncio.to_thread(reader.wait, 20) == 0
        finally:
            reader.kill()
            await asyncio.to_thread(reader.wait)
    assert path.read_text().count(" registered on ") == 601
    assert path.read_text().splitlines()[-1].endswith("stopped")


@pytest.mark.slow
async def test_a_full_log_pipe_does_not_delay_the_exit_for_long(
    shared_server: BundledServer, prefix: tuple[str, str]
) -> None:
    """A full pipe at the end: it drains, waits a moment, and ends with code 0."""
    read_end, write_end = os.pipe()
    try:
        os.set_blocking(write_end, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write_end, b"x" * 4096)
        os.set_blocking(write_end, True)
        async with running(shared_server, *prefix, stderr=write_end) as process:
            await works(process)
            started = time.monotonic()
            assert await process.end() == 0
            assert time.monotonic() - started < 10
    finally:
        os.close(read_end)
        os.close(write_end)


async def test_a_stopped_terminal_does_not_block_the_gateway(
    shared_server: BundledServer, prefix: tuple[str, str]
) -> None:
    """Ctrl-S; after Ctrl-Q every line is there."""
    master, slave = os.openpty()
    seen = b""
    try:
        async with running(shared_server, *prefix, stderr=slave) as process:
            os.write(master, b"\x13")
            await churn(process, 100)
            await works(process)
            os.write(master, b"\x11")
            os.set_blocking(master, False)

            def all_there() -> bool:
                nonlocal seen
                with contextlib.suppress(BlockingIOError):
                    seen += os.read(master, 1 << 16)
                return seen.count(b" registered on ") == 101

            await until("every line is there", all_there)
            assert await process.dropped() == 0
            assert await process.end() == 0
    finally:
        os.close(master)
        os.close(slave)


@FULL
@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_a_full_disk_does_not_block_the_gateway(
    shared_server: BundledServer, prefix: tuple[str, str], log_format: str
) -> None:
    """Every line is counted as dropped."""
    with Path("/dev/full").open("wb") as full:
        flags = (*prefix, "--log-format", log_format)
        async with running(shared_server, *flags, stderr=full) as process:
            await churn(process, 10)
            await works(process)
            await until("they are counted", lambda: counted(process, 21))
            assert await process.end() == 0


async def counted(process: Process, at_least: int) -> bool:
    return await process.dropped() >= at_least


@pytest.mark.parametrize("first", ["", PLAIN_LOOP], ids=["uvloop", "asyncio"])
async def test_a_broken_log_pipe_does_not_block_the_gateway(
    shared_server: BundledServer, prefix: tuple[str, str], first: str
) -> None:
    """Whoever has read the log is gone."""
    read_end, write_end = os.pipe()
    async with running(shared_server, *prefix, first=first, stderr=write_end) as process:
        os.close(write_end)
        os.close(read_end)
        await churn(process, 10)
        await works(process)
        await until("they are counted", lambda: counted(process, 20))
        assert await process.end() == 0


@pytest.mark.parametrize("first", ["", PLAIN_LOOP], ids=["uvloop", "asyncio"])
@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.slow
async def test_a_gateway_works_with_closed_standard_streams(
    shared_server: BundledServer, prefix: tuple[str, str], closed: str, first: str
) -> None:
    """They are /dev/null from the start, and it ends as it should."""
    async with running(
        shared_server, *prefix, first=first, shell=closed, stderr=subprocess.DEVNULL
    ) as process:
        for number in re.findall(r"(\d)[<>]", closed):
            assert str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) == os.devnull
        await works(process)
        assert await process.dropped() == 0
        assert await process.end() == 0


@pytest.mark.slow
async def test_a_failed_start_exits_also_with_closed_standard_streams() -> None:
    """Exit code 2 within a moment, whatever is wrong with stderr."""
    command = [sys.executable, "-m", "wsdemo.gateway", "--id", "gateway-01", "--port", "nowhere"]
    read_end, write_end = os.pipe()
    broken = os.pipe()
    os.close(broken[0])
    try:
        os.set_blocking(write_end, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write_end, b"x" * 4096)
        os.set_blocking(write_end, True)
        for stderr, closed in ((write_end, ""), (broken[1], ""), (None, "2>&-")):
            shell = ["sh", "-c", f'exec "$0" "$@" {closed}', *command]
            done = await asyncio.to_thread(subprocess.run, shell, stderr=stderr, timeout=20)
            assert done.returncode == 2
    finally:
        for descriptor in (read_end, write_end, broken[1]):
            os.close(descriptor)


@pytest.mark.slow
@FULL
def test_a_token_that_cannot_be_printed_is_an_error(tmp_path: Path) -> None:
    """One line, exit code 2: a script must not go on with an empty token."""
    secret = tmp_path / "secret"
    subprocess.run(
        [sys.executable, "-m", "wsdemo.gateway", "secret", str(secret)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "wsdemo.gateway", "token", "alice"),
                *("--auth-secret-file", str(secret)),
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr == "wsdemo.gateway: stdout: No space left on device\n"


# --- how an entry looks --------------------------------------------------------------------------


def lines_of(tmp_path: Path, shape: Format, say: Callable[[ProcessJournal], None]) -> list[str]:
    """Return what was written."""
    path = tmp_path / "lines"
    with path.open("wb") as file, journal_of(shape, file.fileno(), "utf-8") as journal:
        say(journal)
        assert journal.flush(20)
    return path.read_text().splitlines()


def record(text: str, *arguments: object, name: str = "wsdemo.router") -> logging.LogRecord:
    return logging.LogRecord(name, logging.INFO, "", 0, text, arguments, None)


@pytest.mark.parametrize("shape", [Text(), Json()], ids=["text", "json"])
def test_a_fast_log_line_equals_that_of_a_log_record(shape: Text | Json, tmp_path: Path) -> None:
    """Made more cheaply, and otherwise the same; in both formats."""
    text = "[Router] Routed message from %s to %s via gateway %s"
    wanted = shape.record(record(text, "alice", "bob", "gateway-02"))
    [line] = lines_of(tmp_path, shape, lambda it: it.routed("alice", "bob", b"gateway-02"))
    if isinstance(shape, Text):
        assert STAMP.sub("", line) == STAMP.sub("", wanted)
        return
    got, want = json.loads(line), json.loads(wanted)
    assert abs(got.pop("t") - want.pop("t")) < 60
    assert (
        got
        == want
        == {
            "level": "info",
            "logger": "wsdemo.router",
            "message": "[Router] Routed message from alice to bob via gateway gateway-02",
        }
    )


PATTERNS = (USER_ID_PATTERN, ".*", r"[\w:]+", r"(.|\s)*")
NAMES = st.one_of(st.text(max_size=20), st.from_regex(USER_ID_PATTERN, fullmatch=True))


@given(
    st.lists(st.tuples(st.floats(1_700_000_000, 1_900_000_000), NAMES, NAMES)),
    st.sampled_from(PATTERNS),
    st.sampled_from(["utf-8", "ascii", "latin-1"]),
)
def test_the_line_of_a_message_equals_the_general_one_byte_for_byte(
    messages: list[tuple[float, str, str]], pattern: str, encoding: str
) -> None:
    """For all names that a gateway may accept, in every encoding, whatever the clock does."""
    accepted = user_ids(pattern).possible
    made: list[bytes] = []
    for kind in (TextJournal, ProcessJournal):
        journal = kind(0, Text(), encoding)
        journal.close()  # Nothing is written: what waits is looked at.
        for now, sender, to in messages:
            if accepted(sender) and accepted(to):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("wsdemo.gateway.log._now", lambda now=now: now)
                    journal.routed(sender, to, b"gateway-02")
        made.append(bytes(journal._text))
    assert made[0] == made[1]
    stamps = [line[:19] for line in made[0].decode(encoding).splitlines()]
    assert stamps == [
        time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(now))
        for now, sender, to in messages
        if accepted(sender) and accepted(to)
    ]


@pytest.mark.parametrize("shape", [Text(), Json()], ids=["text", "json"])
@pytest.mark.parametrize(
    "user", ['a"b\\c', "a\nb", "\x1b[2Jx", "\u202ex", "a\u2028b", "Jürgen", "\ud800"], ids=ascii
)
def test_no_user_id_breaks_a_log_line(shape: Text | Json, user: str, tmp_path: Path) -> None:
    """Whatever an id may hold: what no gateway accepts reaches no line of a message, and of other
    lines it is escaped.
    """
    assert user == "Jürgen" or not any(user_ids(pattern).possible(user) for pattern in PATTERNS)
    [line] = lines_of(tmp_path, shape, lambda journal: journal.left(user, "c1"))
    if isinstance(shape, Text):
        assert STAMP.match(line) and line.isprintable() and line.endswith(" left (c1)")
    else:
        assert json.loads(line)["message"] == f"[Gateway] User {user} left (c1)"


def test_lines_of_all_kinds_are_written_in_order(tmp_path: Path) -> None:
    """Those of messages, those of users, and records; each in its place."""
    logger = logging.Logger("wsdemo.gateway")

    def say(journal: ProcessJournal) -> None:
        logger.addHandler(LineHandler(journal))
        for n in range(300):
            for _ in range(n % 4):
                journal.routed("alice", f"user-{n}", b"gateway-02")
            if n % 3:
                journal.left(f"user-{n}", "c1")
            if not n % 5:
                logger.warning("record %d", n)

    wanted = []
    for n in range(300):
        wanted += n % 4 * [f"[Router] Routed message from alice to user-{n} via gateway gateway-02"]
        wanted += [f"[Gateway] User user-{n} left (c1)"] if n % 3 else []
        wanted += [f"record {n}"] if not n % 5 else []
    assert [STAMP.sub("", line) for line in lines_of(tmp_path, Text(), say)] == wanted


def test_lines_of_messages_into_a_full_pipe_are_bounded_and_counted() -> None:
    """As all other lines."""
    read_end, write_end = os.pipe()
    said = 50_000
    try:
        with TextJournal(write_end, Text()) as journal:
            for n in range(said):
                journal.routed("alice", f"{n}", b"gateway-02")
            assert BOUND_BYTES * 9 // 10 < journal.waiting <= BOUND_BYTES + 100
            dropped = journal.dropped
            assert dropped > 1_000
            os.set_blocking(read_end, False)
            data = b""
            while data.count(b"\n") < said - dropped + 1:
                with contextlib.suppress(BlockingIOError):
                    data += os.read(read_end, 1 << 16)
            assert journal.flush(20) and journal.dropped == dropped
    finally:
        os.close(read_end)
        os.close(write_end)
    *lines, note = data.decode().splitlines()
    assert [line.split()[8] for line in lines] == [str(n) for n in range(said - dropped)]
    assert NOTE.search(note) and str(dropped) in note and STAMP.match(note)


ENDS = {
    "return": "pass",
    "exit": "sys.exit(3)",
    "error": "raise ValueError('the end')",
    "at-once": "end_at_once(3)",
}


@pytest.mark.parametrize("end", ENDS)
def test_lines_said_before_an_end_without_a_crash_are_in_the_file(end: str, tmp_path: Path) -> None:
    """However a process ends, as long as Python ends it: nothing that was said is missing."""
    script = f"""
import sys
from wsdemo.gateway.log import Log, end_at_once
with Log("text", "info") as log:
    for n in range(2_500):
        log.journal.routed("alice", f"user-{{n}}", b"gateway-02")
    {ENDS[end]}
"""
    path = tmp_path / "log"
    with path.open("wb") as file:
        done = subprocess.run([sys.executable, "-c", script], stderr=file, timeout=60)
    assert done.returncode == {"return": 0, "error": 1}.get(end, 3)
    routed = [line for line in path.read_text().splitlines() if "Routed message" in line]
    assert [line.split()[8] for line in routed] == [f"user-{n}" for n in range(2_500)]


def test_a_record_with_a_stack_is_logged_with_it() -> None:
    """Below the line in text, within it as JSON."""
    asked = record("where am I?")
    asked.stack_info = "Stack (most recent call last):\n  here"
    text = Text().record(asked).splitlines()
    assert text[0].endswith("where am I?") and text[1:] == asked.stack_info.splitlines()
    assert json.loads(Json().record(asked))["exception"] == asked.stack_info


@pytest.mark.parametrize("of_a_message", [False, True])
def test_the_time_of_a_line_follows_the_clock_in_both_directions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_a_message: bool
) -> None:
    """It is made once a second; a clock that is set back is believed."""
    clock = (1_800_000_000.0, 1_800_000_000.9, 1_800_000_001.0, 1_799_990_000.5)
    with (tmp_path / "log").open("wb") as file, TextJournal(file.fileno(), Text()) as journal:
        for now in clock:
            with monkeypatch.context() as patch:
                patch.setattr("wsdemo.gateway.log._now", lambda now=now: now)
                if of_a_message:
                    journal.routed("alice", "bob", b"gateway-02")
                else:
                    journal.left("alice", "c1")
    stamps = [line[:19] for line in (tmp_path / "log").read_text().splitlines()]
    assert stamps == [time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(now)) for now in clock]


# --- in a library -----------------------------------------------------------------------------


async def test_a_gateway_inside_another_program_logs_like_a_library(
    shared_server: BundledServer, keyspace: Keyspace, caplog: pytest.LogCaptureFixture
) -> None:
    """Records of `wsdemo.gateway` and `wsdemo.router`, and only when somebody wants them."""
    async with (
        gateway(shared_server, keyspace) as here,
        gateway(shared_server, keyspace, "gateway-02") as there,
        await User.register("bob", there.url) as bob,
    ):
        with caplog.at_level(logging.INFO, "wsdemo"):
            async with await User.register("alice", here.url) as alice:
                assert await alice.send("bob", "SECRET") == "routed"
                await bob.hear()
            await until("alice has left", lambda: "alice left" in caplog.text)
        with caplog.at_level(logging.WARNING, "wsdemo"):
            async with await User.register("carol", here.url) as carol:
                assert await carol.send("bob", "SECRET") == "routed"
    assert {item.levelno for item in caplog.records} == {logging.INFO}
    told = [(item.name, re.sub(r"\(\w+\)", "(id)", item.getMessage())) for item in caplog.records]
    assert told == [
        ("wsdemo.gateway", "[Gateway] User alice registered on gateway gateway-01 (id)"),
        ("wsdemo.router", "[Router] Routed message from alice to bob via gateway gateway-02"),
        ("wsdemo.gateway", "[Gateway] User alice left (id)"),
    ]
