"""Does the prompt survive its terminal, its pipes and its signals?

With `python -m wsdemo.client` as a process of its own: terminals that know no emoji, streams that
are closed, full, slow or broken, and signals at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import re
import shutil
import signal
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pexpect
import pytest
import trustme
from websockets.asyncio.server import ServerConnection

from tests.client.fakes import fake_gateway, hear_nothing, tell, until_offline, welcome
from tests.client.test_prompt import READY, START_S, Piped, lines_of
from tests.waiting import until
from wsdemo import Gateway, GatewaySettings
from wsdemo.client import Client
from wsdemo.client.__main__ import HELP, Leaving
from wsdemo.client.output import Output
from wsdemo.protocol import Status
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

LATIN = "smile \\U0001f600 Gr\udcfc\udcdfe \\u4f60\\u597d"
"""As bytes of a terminal that knows Latin letters only; they are no UTF-8."""
SMILE = "smile \U0001f600 Grüße 你好"


@pytest.fixture
def settings(shared_server: BundledServer, keyspace: Keyspace) -> GatewaySettings:
    return GatewaySettings(
        gateway_id="gateway-01", port=0, redis_url=shared_server.url, keyspace=keyspace
    )


@pytest.fixture
async def gateway(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    async with Gateway(settings) as gateway:
        yield gateway


async def run(
    shell: str, gateway: Gateway, stdin: bytes | None = None, user: str = "alice"
) -> tuple[int, str, str]:
    """Run the client as a shell would with these redirections; return code, stdout and stderr."""
    command = f'exec "$0" -m wsdemo.client -user {user} -gateway {gateway.url} {shell}'
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", command, sys.executable),
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(START_S):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), err.decode()


# --- what a terminal cannot print ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, r"smile \U0001f600 Gr\xfc\xdfe \u4f60\u597d"),
        ({"PYTHONIOENCODING": "cp1252"}, LATIN),
        (
            {"PYTHONIOENCODING": "latin-1:strict"},
            LATIN,
        ),
        ({"PYTHONIOENCODING": "utf-8"}, SMILE),
        (
            {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
            r"smile \U0001f600 Gr\xfc\xdfe \u4f60\u597d",
        ),
    ],
    ids=["ascii", "cp1252", "latin-1", "utf-8", "C"],
)
async def test_characters_that_the_encoding_lacks_are_escaped(
    gateway: Gateway, environment: dict[str, str], shown: str
) -> None:
    """An emoji in a message of another user does not end the client."""
    async with (
        Client("bob", [gateway.url]) as bob,
        Piped(
            "-user", "alice", "-gateway", gateway.url, errors="surrogateescape", **environment
        ) as alice,
    ):
        await alice.prints("registered on gateway-01")
        await bob.send("alice", SMILE)
        await alice.prints(f"[Message] bob: {shown}\n")
        alice.type("send \U0001f600 hello")
        alice.type("quit")
        assert await alice.ended() == 0


async def test_escape_sequences_from_a_gateway_are_not_executed() -> None:
    """Its name, its errors and the reason of its close are text from another machine, too."""
    evil = "\x1b[2J\u202e\n"

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await connection.recv()
        await tell(connection, type="registered", gatewayId=f"gw{evil}")
        message = re.search(r'"id":"([^"]+)"', str(await connection.recv()))
        assert message is not None
        await tell(connection, type="error", id=message[1], error=f"no{evil}")
        await tell(connection, type="message", **{"from": f"bob{evil}", "content": "hi"})
        await hear_nothing(connection)

    async with fake_gateway(behave) as url, Piped("-user", "alice", "-gateway", url) as alice:
        await alice.prints("registered on gw\\x1b[2J\\u202e\\n\n")
        alice.type("send bob hello")
        await alice.prints("[Client] bob: no\\x1b[2J\\u202e\\n\n")
        await alice.prints("[Message] bob\\x1b[2J\\u202e\\n: hi\n")

    async def close(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        await connection.close(4513, evil)

    async with fake_gateway(close) as url, Piped("-user", "alice", "-gateway", url) as alice:
        assert await alice.ended(START_S) == 0
        assert lines_of(alice.output)[-1] == "[Client] closed with 4513 \\x1b[2J\\u202e"


async def test_commands_accept_any_white_space_and_keep_that_of_the_text(gateway: Gateway) -> None:
    """A Japanese keyboard has a space of its own; a file from Windows begins with a byte order
    mark."""
    async with (
        Client("bob", [gateway.url]) as bob,
        Piped("-user", "alice", "-gateway", gateway.url) as alice,
    ):
        alice.type(b"\xef\xbb\xbfsend bob one\r")
        alice.type("send\u3000bob\u3000こんにちは\u3000世界\u3000")
        alice.type("send bob  \u3000indented ")
        alice.type("send bob \u3000 ")
        alice.type("send bob a" + " " * 15_000 + "b")
        alice.type("quit")
        assert await alice.ended(START_S) == 0, alice.output
        for text in ("one", "こんにちは\u3000世界\u3000", "\u3000indented", f"a{' ' * 15_000}b"):
            assert (await bob.receive(5)).content == text
        assert lines_of(alice.output)[-2] == "usage: send <user> <message>"


class Terminal:
    """The prompt at a terminal, as a context manager."""

    def __init__(
        self, *arguments: str, program: str = sys.executable, code: str = "", **environment: str
    ) -> None:
        module = ["-c", code] if code else ["-m", "wsdemo.client"]
        self.screen = pexpect.spawn(
            program,
            [*(module if program == sys.executable else ()), *arguments],
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment},
            dimensions=(24, 100),
            encoding="utf-8",
            codec_errors="surrogateescape",
            timeout=START_S,
        )

    async def __aenter__(self) -> Terminal:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.screen.close(force=True)

    async def shows(self, text: str) -> None:
        await self.screen.expect(re.escape(text), async_=True)

    async def ended(self) -> int | None:
        with contextlib.suppress(pexpect.EOF):
            await self.screen.expect(pexpect.EOF, async_=True)
        await until("the process ends", lambda: not self.screen.isalive())
        code: int | None = self.screen.exitstatus
        return code


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, r"smile \U0001f600 Gr\xfc\xdfe \u4f60\u597d"),
        ({"PYTHONIOENCODING": "utf-8"}, SMILE),
    ],
    ids=["ascii", "utf-8"],
)
async def test_a_terminal_with_any_encoding_sends_utf8_and_shows_what_it_can(
    gateway: Gateway, environment: dict[str, str], shown: str
) -> None:
    """Whatever encoding it declares: text typed in UTF-8 is sent, and invalid bytes are
    replaced."""
    pytest.importorskip("prompt_toolkit")
    async with (
        Client("bob", [gateway.url]) as bob,
        Terminal("-user", "alice", "-gateway", gateway.url, **environment) as alice,
    ):
        await alice.shows(READY)
        await bob.send("alice", SMILE)
        await alice.shows(f"[Message] bob: {shown}")
        alice.screen.send(f"send bob {SMILE}\r")
        assert (await bob.receive(10)).content == SMILE
        os.write(alice.screen.child_fd, b"send bob caf\xe9 \xff!\r")
        assert (await bob.receive(10)).content == "caf\ufffd \ufffd!"
        alice.screen.send("quit\r")
        assert await alice.ended() == 0


async def test_a_terminal_works_without_prompt_toolkit(gateway: Gateway) -> None:
    """In its own encoding, if that is a valid one."""
    code = (
        "import sys; sys.modules['prompt_toolkit'] = None\n"
        "from wsdemo.client.__main__ import main\nmain()"
    )
    arguments = ("-user", "alice", "-gateway", gateway.url)
    async with (
        Client("bob", [gateway.url]) as bob,
        Terminal(*arguments, code=code, PYTHONIOENCODING="latin-1") as alice,
    ):
        await alice.shows(HELP.splitlines()[-1].strip())
        os.write(alice.screen.child_fd, "send bob café\n".encode("latin-1"))
        assert (await bob.receive(10)).content == "café"
        alice.screen.send("quit\n")
        assert await alice.ended() == 0


# --- whom we try to reach ------------------------------------------------------------------------


@pytest.mark.slow
async def test_without_a_gateway_the_prompt_names_the_address_it_tries(
    gateway: Gateway, settings: GatewaySettings
) -> None:
    """Once, however many attempts; and then that it is connected, lost, and connected again."""
    port, url = gateway.port, gateway.url
    await gateway.stop()
    again = Gateway(_at(settings, port))
    async with Piped("-user", "alice", "-gateway", url) as alice:
        refused = f"[Client] {url}: Connection refused; trying again\n"
        await alice.prints(refused)
        async with again:
            await alice.prints("[Client] alice registered on gateway-01\n")
        await alice.prints("connection lost (closed with 1012 service restart")
        alice.type("status")
        await alice.prints(f"[Client] alice is reconnecting, trying {url} (")
        await until("it is told again", lambda: alice.output.count(refused) == 2, START_S)
        async with Gateway(_at(settings, port)):
            await until("it is back", lambda: alice.output.count("registered on") == 2, START_S)
            assert alice.output.count(refused) == 2
            alice.end_input()
            assert await alice.ended() == 0


def _at(settings: GatewaySettings, port: int) -> GatewaySettings:
    return dataclasses.replace(settings, port=port)


@pytest.mark.slow
async def test_a_repeated_problem_is_reported_once() -> None:
    """Not once for each attempt."""
    attempts = 0

    def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        async with Piped("-user", "alice", "-gateway", url) as alice:
            await until("it was tried often", lambda: attempts >= 5, START_S)
            assert alice.output.count("\n") == 1
            assert alice.output.startswith(f"[Client] {url}: ")


async def test_a_gateway_that_does_not_answer_is_named_within_a_second() -> None:
    """Nothing has failed yet, and the user knows what is being waited for."""
    hold = asyncio.Event()

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await connection.recv()
        await hold.wait()
        await tell(connection, type="registered", gatewayId="slow")
        await hear_nothing(connection)

    async with fake_gateway(behave) as url, Piped("-user", "alice", "-gateway", url) as alice:
        await alice.prints(f"[Client] trying {url} ...\n")
        hold.set()
        await alice.prints("[Client] alice registered on slow\n")
        alice.end_input()
        assert await alice.ended() == 0


@pytest.mark.slow
async def test_no_reachable_gateway_is_one_line_and_exit_code_2() -> None:
    """After the lines about each attempt, and without the password of the address."""
    async with Piped("-user", "alice", "-gateway", "ws://me:s3cr3t@127.0.0.1:1/ws") as alice:
        assert await alice.ended(60) == 2
    first, last = alice.output.splitlines()
    address = "ws://me:***@127.0.0.1:1/ws"
    assert first == f"[Client] {address}: Connection refused; trying again"
    address = "ws://***@127.0.0.1:1/ws"  # A line of unknown origin hides more.
    assert last == f"wsdemo.client: alice: {address}: Connection refused (within 15 s)"


@pytest.mark.slow
async def test_cafile_makes_a_private_certificate_trusted(
    settings: GatewaySettings, tmp_path: Path
) -> None:
    """`--cafile`; a file that cannot be read, or is not a certificate, is reported in one line."""
    authority, pem, ca = trustme.CA(), tmp_path / "gateway.pem", tmp_path / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(ca)
    async with Gateway(dataclasses.replace(settings, certfile=str(pem))) as secure:
        arguments = ("-user", "alice", "-gateway", secure.url)
        async with Piped(*arguments, "--cafile", str(ca)) as alice:
            await alice.prints("registered on gateway-01")
            alice.end_input()
            assert await alice.ended() == 0
        async with Piped(*arguments) as alice:
            assert await alice.ended(START_S) == 2
        assert alice.output.endswith("unable to get local issuer certificate\n")
        for bad in (tmp_path / "absent", tmp_path):
            async with Piped(*arguments, "--cafile", str(bad)) as alice:
                assert await alice.ended(START_S) == 2
            (line,) = alice.output.splitlines()
            assert line.startswith(f"wsdemo.client: certificates {bad}: ")


# --- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["0<&-", "0<&- 1>&-", "0<&- 1>&- 2>&-", "0</dev/null"])
async def test_a_closed_stdin_is_an_empty_input(gateway: Gateway, closed: str) -> None:
    """The client connects, and leaves; it does not read commands from its own socket."""
    code, out, err = await run(closed, gateway)
    assert (code, err) == (0, "")
    assert out == ("" if "1>&-" in closed else "[Client] alice registered on gateway-01\n")


@pytest.mark.parametrize("closed", ["1>&-", "1>&- 2>&-", "2>&-"])
async def test_a_closed_stdout_does_not_stop_the_commands(gateway: Gateway, closed: str) -> None:
    """The commands are carried out."""
    async with Client("bob", [gateway.url]) as bob:
        code, _, err = await run(closed, gateway, b"send bob hi\nquit\n")
        assert (code, err) == (0, "")
        assert (await bob.receive(5)).content == "hi"


async def test_a_full_disk_is_reported_once_and_stops_nothing(gateway: Gateway) -> None:
    """The commands are carried out, and the exit code says that the answers were not written."""
    async with Client("bob", [gateway.url]) as bob:
        code, _, err = await run("1>/dev/full", gateway, b"send bob hi\nsend bob ho\nquit\n")
        assert code == 1
        assert err == "wsdemo.client: cannot write: No space left on device; lines are lost\n"
        assert [(await bob.receive(5)).content for _ in range(2)] == ["hi", "ho"]


@pytest.mark.parametrize("streams", ["2>/dev/full", "1>/dev/full 2>/dev/full", "1>/dev/full 2>&-"])
async def test_a_full_stderr_does_not_make_the_client_fail(gateway: Gateway, streams: str) -> None:
    code, _, err = await run(streams, gateway, b"quit\n")
    assert (code, err) == (1 if "1>" in streams else 0, "")


async def test_a_reader_that_closes_the_pipe_ends_the_client_like_sigpipe(gateway: Gateway) -> None:
    """`client | head -1`: without a message, and with a close frame to the gateway."""
    async with Client("bob", [gateway.url]) as bob:
        client = f'"$0" -m wsdemo.client -user alice -gateway {gateway.url}'
        command = f"({client}; echo code $? >&2) | head -1"
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", command, sys.executable),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        first = await asyncio.wait_for(process.stdout.readline(), START_S)
        assert first == b"[Client] alice registered on gateway-01\n"
        # The pipe may take another line or two before it breaks.
        await until_offline("alice", bob)
        async with asyncio.timeout(START_S):
            assert await process.stderr.read() == b"code 141\n"
            await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--help", "--nonsense", "-user='a b'"])
@pytest.mark.parametrize("streams", [">/dev/full", ">&-", "2>/dev/full", "2>&-", "| true"])
async def test_help_and_usage_errors_work_with_closed_streams(
    gateway: Gateway, flag: str, streams: str
) -> None:
    """No traceback on any stream that is left, whatever the others are."""
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", f'"$0" -m wsdemo.client {flag} {streams}', sys.executable),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(START_S):
        out, err = await process.communicate()
    assert b"Traceback" not in out + err and b"Exception" not in out + err
    if "|" not in streams:
        assert process.returncode == (0 if flag == "--help" else 2)


def waiting(pipe: int) -> int:
    """Return how many bytes wait to be read."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4), sys.byteorder)


async def test_unread_lines_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that cannot wait are dropped when a thousand lines wait; `room` waits long before
    that."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stdout, os.fdopen(reader, "rb") as pipe:
        monkeypatch.setattr(sys, "stdout", stdout)
        output = Output(lambda: None)
        monkeypatch.undo()
        for n in range(3000):
            output.say(f"{n:0100}")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(output.room(), 0.05)
        assert 1500 < output.lost <= 2000
        kept = 3000 - output.lost
        async with asyncio.timeout(START_S):
            lines, _ = await asyncio.gather(
                asyncio.to_thread(lambda: [pipe.readline() for _ in range(kept)]),
                output.written(),
            )
        assert lines == [b"%0100d\n" % n for n in range(len(lines))]


async def test_a_non_blocking_stdin_pipe_works_like_a_blocking_one(gateway: Gateway) -> None:
    """Some programs start processes with such pipes; an empty pipe is not the end of the input."""
    ends = [*os.pipe(), *os.pipe()]
    for end in ends:
        fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_NONBLOCK)
    read_in, write_in, read_out, write_out = ends
    async with Client("alice", [gateway.url]):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wsdemo.client", "-user", "bob", "-gateway", gateway.url),
            stdin=read_in,
            stdout=write_out,
            stderr=asyncio.subprocess.STDOUT,
        )
        os.close(write_out)
        output = b""

        def more() -> bytes:
            nonlocal output
            with contextlib.suppress(BlockingIOError):
                output += os.read(read_out, 65536)
            return output

        await until("it is registered", lambda: b"registered on" in more(), START_S)
        os.write(write_in, b"help\n" * 1000)
        await until("its output is full", lambda: waiting(read_out) > 60_000, START_S)
        await until("all is answered", lambda: more().count(b"quit  ") == 1000, START_S)
        os.write(write_in, b"send alice hi\nquit\n")
        await until("it is sent", lambda: b"sent to alice" in more(), START_S)
        async with asyncio.timeout(START_S):
            assert await process.wait() == 0
        for end in (read_in, write_in, read_out):
            os.close(end)


async def test_a_slow_reader_gets_every_line(gateway: Gateway) -> None:
    """Also the last ones: after the close of the connection the client waits for its reader."""
    read_out, write_out = os.pipe()
    count = 65536 // len(f"{HELP}\n") + 10
    async with Client("bob", [gateway.url]) as bob:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wsdemo.client", "-user", "alice", "-gateway", gateway.url),
            stdin=asyncio.subprocess.PIPE,
            stdout=write_out,
        )
        os.close(write_out)
        assert process.stdin is not None
        process.stdin.write(b"help\n" * count + b"quit\n")
        await until("its output is full", lambda: waiting(read_out) > 60_000, START_S)
        await until_offline("alice", bob)
        assert process.returncode is None
        with os.fdopen(read_out, "rb") as output:
            lines = await asyncio.to_thread(output.read)
        assert lines.count(b"quit   ") == count
        assert await asyncio.wait_for(process.wait(), START_S) == 0


@pytest.mark.slow
async def test_a_slow_reader_delays_its_lines_but_not_the_connection(
    gateway: Gateway,
) -> None:
    """A pager that shows its first page: heartbeats go on, SIGTERM is obeyed, nothing is lost while
    there is room for it."""
    asked = 0

    async def behave(connection: ServerConnection, attempt: int) -> None:
        nonlocal asked
        await welcome(connection, heartbeat_ms=200)
        for _ in range(200):
            await tell(connection, type="message", **{"from": "bob", "content": "x" * 2000})
        async for _ in connection:
            asked += 1
            await tell(connection, type="pong")

    read_out, write_out = os.pipe()
    async with fake_gateway(behave) as url:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wsdemo.client", "-user", "alice", "-gateway", url),
            stdin=asyncio.subprocess.PIPE,
            stdout=write_out,
        )
        os.close(write_out)
        await until("heartbeats go on", lambda: asked >= 5, START_S)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(START_S):
            assert await process.wait() == 143
    with os.fdopen(read_out, "rb") as output:
        lines = output.read().splitlines()
    assert lines[0] == b"[Client] alice registered on fake"
    assert lines[1:-1] == [b"[Message] bob: " + b"x" * 2000] * len(lines[1:-1])
    assert len(lines) > 20


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_closes_the_connection_cleanly(
    gateway: Gateway, number: signal.Signals
) -> None:
    """The exit code is 128 + signal, there is no traceback, and the gateway gets a close frame."""
    async with (
        Client("bob", [gateway.url]) as bob,
        Piped("-user", "alice", "-gateway", gateway.url) as alice,
    ):
        await alice.prints("registered on gateway-01")
        assert alice._process is not None
        alice._process.send_signal(number)
        assert await alice.ended() == 128 + number
        assert lines_of(alice.output) == ["[Client] alice registered on gateway-01"]
        assert (await bob.send("alice", "gone?")).status is Status.OFFLINE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_a_client_that_is_not_connected(number: signal.Signals) -> None:
    """Between two attempts, or in the middle of one."""
    async with Piped("-user", "alice", "-gateway", "ws://127.0.0.1:1/ws") as alice:
        await alice.prints("trying again")
        assert alice._process is not None
        alice._process.send_signal(number)
        assert await alice.ended() == 128 + number
        assert len(alice.output.splitlines()) == 1


async def test_a_second_signal_does_not_wait_for_close_frames() -> None:
    """A gateway that answers no close is left at once."""

    hold = asyncio.Event()

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        connection.transport.pause_reading()
        await hold.wait()

    async with fake_gateway(behave) as url, Piped("-user", "alice", "-gateway", url) as alice:
        await alice.prints("registered on fake")
        assert alice._process is not None
        for _ in range(3):
            with contextlib.suppress(ProcessLookupError):
                alice._process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.02)
        assert await alice.ended() in (130, -signal.SIGINT)
        hold.set()
        assert "Traceback" not in alice.output and "Exception" not in alice.output


async def test_a_second_signal_skips_the_clean_up() -> None:
    """Whatever the first signal waits for, the second one does not."""
    cleaning = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await asyncio.Event().wait()

    made: list[Leaving] = []

    async def talk() -> None:
        made.append(Leaving())
        await made[0].unless_told(work())

    talking = asyncio.create_task(talk())
    await until("it has begun", lambda: made)
    made[0].on_signal(signal.SIGTERM)
    await asyncio.wait_for(cleaning.wait(), 5)
    assert not talking.done()
    made[0].on_signal(signal.SIGINT)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(talking, 5)
    assert made[0].code == 130
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def test_ignored_signals_stay_ignored(gateway: Gateway) -> None:
    """As under `nohup`."""
    async with Client("bob", [gateway.url]) as bob:
        command = (
            f"trap '' HUP INT; exec \"$0\" -m wsdemo.client -user alice -gateway {gateway.url}"
        )
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", command, sys.executable),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None and process.stdin is not None
        assert b"registered" in await asyncio.wait_for(process.stdout.readline(), START_S)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        assert (await bob.send("alice", "there?")).status is Status.ROUTED
        assert b"there?" in await asyncio.wait_for(process.stdout.readline(), START_S)
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), START_S) == 0


async def test_a_client_continues_after_sigstop_and_sigcont(gateway: Gateway) -> None:
    """SIGSTOP and SIGCONT: what came meanwhile is printed. (Ctrl-Z sends SIGTSTP, which the kernel
    ignores in an orphaned process group: there, no shell could wake the process up again.)
    """
    async with (
        Client("bob", [gateway.url]) as bob,
        Piped("-user", "alice", "-gateway", gateway.url) as alice,
    ):
        await alice.prints("registered on gateway-01")
        assert alice._process is not None
        alice._process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{alice._process.pid}/stat")
        if stat.exists():
            await until("it stands", lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        await bob.send("alice", "asleep?")
        alice._process.send_signal(signal.SIGCONT)
        await alice.prints("[Message] bob: asleep?\n")
        alice.type("send bob no")
        assert (await bob.receive(10)).content == "no"
        alice.end_input()
        assert await alice.ended() == 0


@pytest.mark.parametrize("when", ["at the prompt", "by a signal"])
async def test_ctrl_c_at_a_terminal_closes_cleanly(gateway: Gateway, when: str) -> None:
    """Exit code 130, the terminal has its old settings, and the gateway gets a close frame."""
    pytest.importorskip("prompt_toolkit")
    async with (
        Client("bob", [gateway.url]) as bob,
        Terminal("-user", "alice", "-gateway", gateway.url) as alice,
    ):
        await alice.shows(READY)
        if when == "at the prompt":
            alice.screen.sendcontrol("c")
        else:
            alice.screen.kill(signal.SIGINT)
        await alice.shows(READY.replace("h", "l"))
        assert await alice.ended() == 130
        assert (await bob.send("alice", "gone?")).status is Status.OFFLINE


async def test_a_closed_terminal_closes_the_connection_cleanly(gateway: Gateway) -> None:
    """SIGHUP, and nothing to write to any more."""
    pytest.importorskip("prompt_toolkit")
    async with (
        Client("bob", [gateway.url]) as bob,
        Terminal("-user", "alice", "-gateway", gateway.url) as alice,
    ):
        await alice.shows(READY)
        alice.screen.ptyproc.fileobj.close()
        await until("the process ends", lambda: not alice.screen.isalive())
        assert alice.screen.exitstatus == 129
        await until_offline("alice", bob)
        alice.screen.closed = alice.screen.ptyproc.closed = True


async def test_ctrl_z_at_a_terminal_suspends_and_comes_back(gateway: Gateway) -> None:
    """The half-typed line is still there."""
    pytest.importorskip("prompt_toolkit")
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("only a shell brings what was suspended back")
    # A process that is alone in its session cannot be suspended: no shell could resume it.
    start = f"{sys.executable} -m wsdemo.client -user alice -gateway {gateway.url}"
    async with (
        Client("bob", [gateway.url]) as bob,
        Terminal("--norc", "--noediting", "-i", program=shell, PS1="$ ") as alice,
    ):
        alice.screen.send(f"{start}\n")
        await alice.shows(READY)
        alice.screen.send("send bob half a th")
        await alice.shows("half a th")
        alice.screen.sendcontrol("z")
        await alice.shows("Stopped")
        alice.screen.send("fg\n")
        await alice.shows("half a th")
        alice.screen.send("ought\r")
        assert (await bob.receive(10)).content == "half a thought"
        alice.screen.send("quit\r")
        await until_offline("alice", bob)
        alice.screen.send("exit\n")
        assert await alice.ended() == 0
