"""What does a user at the prompt live through?

With `python -m wsdemo.client` as a process of its own, through a pipe and at a terminal, against
real gateways in this process.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.waiting import until
from wsdemo import Gateway, GatewaySettings
from wsdemo.client import Client
from wsdemo.client.__main__ import HELP
from wsdemo.protocol import Status
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Timing

START_S = 20.0
"""Generous: a process starts in well under a second on an idle machine."""

READY = "\x1b[?2004h"
"""What prompt_toolkit says to a terminal once it reads every key."""


@pytest.fixture
async def gateway(shared_server: BundledServer, keyspace: Keyspace) -> AsyncIterator[Gateway]:
    settings = GatewaySettings(
        gateway_id="gateway-01", port=0, redis_url=shared_server.url, keyspace=keyspace
    )
    async with Gateway(settings) as gateway:
        yield gateway


class Piped:
    """The prompt with a pipe at each end, as a context manager."""

    def __init__(self, *arguments: str, errors: str = "strict", **environment: str) -> None:
        self.output = ""
        self._errors = errors
        self._arguments = arguments
        self._environment = {**os.environ, **environment}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Piped:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wsdemo.client", *self._arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment,
        )
        self._reader = asyncio.create_task(self._read(), name="reader")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._process is not None and self._reader is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        async for line in self._process.stdout:
            self.output += line.decode(errors=self._errors)

    async def prints(self, text: str) -> None:
        """Wait until a text was printed."""
        try:
            await until(text, lambda: text in self.output, START_S)
        except pytest.fail.Exception as problem:
            raise AssertionError(f"{problem}; it printed:\n{self.output}") from None

    def type(self, line: str | bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write((line if isinstance(line, bytes) else line.encode()) + b"\n")

    def end_input(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        assert self._process is not None
        self._process.send_signal(2)

    async def ended(self, timeout_s: float = 10.0) -> int:
        """Wait for the end and return the exit code."""
        assert self._process is not None and self._reader is not None
        async with asyncio.timeout(timeout_s):
            code = await self._process.wait()
        await self._reader
        return code


def lines_of(output: str) -> list[str]:
    """Return the lines, what differs from run to run replaced."""
    return [re.sub(r"\d+\.\d ms", "N ms", line) for line in output.splitlines()]


# --- through a pipe --------------------------------------------------------------------------


async def test_commands_from_a_pipe_are_carried_out_in_order(gateway: Gateway) -> None:
    """send, status, help and quit; mistakes are answered, and nothing after quit is done."""
    url = gateway.url
    async with Client("bob", [url]) as bob, Piped("-user", "alice", "-gateway", url) as alice:
        for line in (
            "send bob  Hello from Alice! ",
            "send nobody Hello?",
            "",
            "send bob",
            "dance",
            "status",
            "help",
            "quit",
            "send bob too late",
        ):
            alice.type(line)
        assert await alice.ended() == 0, alice.output
        assert lines_of(alice.output) == [
            "[Client] alice registered on gateway-01",
            "[Client] sent to bob (N ms)",
            "[Client] nobody: User not found",
            "usage: send <user> <message>",
            "unknown command 'dance'; try help",
            f"[Client] alice is registered, gateway gateway-01 ({url})",
            *HELP.splitlines(),
        ]
        assert (await bob.receive(5)).content == "Hello from Alice!"
        assert (await bob.send("alice", "gone?")).status is Status.OFFLINE
        with pytest.raises(TimeoutError):
            await bob.receive(0.05)


async def test_the_end_of_a_pipe_waits_for_the_answers(gateway: Gateway) -> None:
    """Everything that was piped in has been answered when the process ends."""
    async with (
        Client("bob", [gateway.url]) as bob,
        Piped("-user", "alice", "-gateway", gateway.url) as alice,
    ):
        for n in range(50):
            alice.type(f"send bob {n}")
        alice.end_input()
        assert await alice.ended() == 0, alice.output
        assert lines_of(alice.output).count("[Client] sent to bob (N ms)") == 50
        assert [(await bob.receive(5)).content for _ in range(50)] == [str(n) for n in range(50)]


async def test_a_message_is_printed_and_cannot_write_to_the_terminal(gateway: Gateway) -> None:
    """Escape sequences, line feeds and marks that turn the line around are shown, not obeyed."""
    async with (
        Client("bob", [gateway.url]) as bob,
        Piped("-user", "alice", "-gateway", gateway.url) as alice,
    ):
        await alice.prints("registered on gateway-01")
        await bob.send("alice", "Grüße \x1b[2J\n[Client] fake\u202e")
        await alice.prints("[Message] bob: Grüße \\x1b[2J\\n[Client] fake\\u202e\n")


@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "C.UTF-8"}, {"LC_ALL": "POSIX"}])
async def test_invalid_utf8_on_stdin_does_not_end_the_prompt(
    gateway: Gateway, environment: dict[str, str]
) -> None:
    """Whatever bytes come through the pipe, in any locale, the prompt goes on."""
    async with (
        Client("bob", [gateway.url]) as bob,
        Piped("-user", "alice", "-gateway", gateway.url, **environment) as alice,
    ):
        alice.type(b"send bob \xff\xfe caf\xe9")
        alice.type("send bob Grüße")
        alice.type("quit")
        assert await alice.ended() == 0, alice.output
        assert "Traceback" not in alice.output
        assert (await bob.receive(5)).content == "\ufffd\ufffd caf\ufffd"
        assert (await bob.receive(5)).content == "Grüße"


async def test_a_replaced_client_says_so_and_exits_although_its_pipe_is_open(
    gateway: Gateway,
) -> None:
    """The process ends by itself: nobody has to type anything first."""
    async with Piped("-user", "alice", "-gateway", gateway.url) as alice:
        await alice.prints("registered on gateway-01")
        async with Client("alice", [gateway.url]):
            assert await alice.ended() == 0
    assert "closed with 4509 replaced by a newer session" in lines_of(alice.output)[-1]


async def test_ctrl_c_ends_a_piped_client_at_once(gateway: Gateway) -> None:
    """Exit code 130, no traceback, although the pipe is open."""
    async with Piped("-user", "alice", "-gateway", gateway.url) as alice:
        await alice.prints("registered on gateway-01")
        alice.interrupt()
        assert await alice.ended() == 130
    assert lines_of(alice.output) == ["[Client] alice registered on gateway-01"]


async def test_commands_from_a_regular_file_are_carried_out(
    gateway: Gateway, tmp_path: Path
) -> None:
    """An event loop cannot wait for a regular file; the prompt reads it all the same."""
    script = tmp_path / "script"
    script.write_text("send alice note to self\nstatus")
    with script.open() as stdin:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wsdemo.client", "-user", "alice", "-gateway", gateway.url),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    async with asyncio.timeout(START_S):
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert "[Client] sent to alice (" in output.decode()
    assert "[Client] alice is registered, gateway gateway-01" in output.decode()


@pytest.mark.slow
async def test_a_lost_gateway_is_reported_and_the_next_one_found(
    gateway: Gateway, shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """The user reads that the connection was lost, why, and where he is now."""
    settings = GatewaySettings(
        gateway_id="gateway-02", port=0, redis_url=shared_server.url, keyspace=keyspace
    )
    async with Gateway(settings) as second:
        arguments = ("-user", "alice", "-gateway", gateway.url, "-gateway", second.url)
        async with Piped(*arguments) as alice:
            await alice.prints("registered on gateway-01")
            await gateway.stop()
            await alice.prints("alice registered on gateway-02")
            assert "connection lost (closed with 1012 service restart" in alice.output
            alice.end_input()
            assert await alice.ended() == 0


# --- at a terminal ---------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_half_typed_line_survives_an_incoming_message(gateway: Gateway) -> None:
    """The message is printed above, the line is drawn again, and sends what was typed."""
    pytest.importorskip("prompt_toolkit")
    async with Client("bob", [gateway.url]) as bob:
        terminal = pexpect.spawn(
            sys.executable,
            ["-m", "wsdemo.client", "-user", "alice", "-gateway", gateway.url],
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            dimensions=(24, 100),
            encoding="utf-8",
            timeout=START_S,
        )
        try:
            await terminal.expect("registered on gateway-01", async_=True)
            await terminal.expect(re.escape(READY), async_=True)
            terminal.send("send bob half a th")
            await terminal.expect("half a th", async_=True)
            await bob.send("alice", "are you typing?")
            await terminal.expect(re.escape("[Message] bob: are you typing?"), async_=True)
            await terminal.expect("send bob half a th", async_=True)
            terminal.send("ought\r")
            assert (await bob.receive(10)).content == "half a thought"
            await terminal.expect("sent to bob", async_=True)
            terminal.send("quit\r")
            await terminal.expect(pexpect.EOF, async_=True)
            await until("the process ends", lambda: not terminal.isalive())
            assert terminal.exitstatus == 0
        finally:
            terminal.close(force=True)


async def test_ctrl_d_closes_the_connection_and_exits_with_0(gateway: Gateway) -> None:
    """Ctrl-D at the prompt: exit code 0, and alice is offline."""
    pytest.importorskip("prompt_toolkit")
    async with Client("bob", [gateway.url]) as bob:
        terminal = pexpect.spawn(
            sys.executable,
            ["-m", "wsdemo.client", "-user", "alice", "-gateway", gateway.url],
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            encoding="utf-8",
            timeout=START_S,
        )
        try:
            await terminal.expect(re.escape(READY), async_=True)
            terminal.sendeof()
            await terminal.expect(pexpect.EOF, async_=True)
            await until("the process ends", lambda: not terminal.isalive())
            assert terminal.exitstatus == 0
        finally:
            terminal.close(force=True)
        assert (await bob.send("alice", "?")).status is Status.OFFLINE


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: -user/--user"),
        (["-user", "a b"], "user id 'a b' is not valid"),
        (["-user", ""], "user id '' is not valid"),
        (["-user", "gateway-01"], "user id 'gateway-01' is not valid"),
        (["-user", "a", "-gateway", "localhost:8080"], "not a WebSocket URL"),
        (["-user", "a", "-gateway", "ws://"], "'ws://' is not a WebSocket URL"),
        (["-user", "a", "-gateway", "ws://localhost:http/ws"], "not a WebSocket URL"),
        (["-user", "a", "--nonsense"], "unrecognized arguments: --nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], says: str
) -> None:
    """Nothing but one line, and it names what is wrong."""
    async with Piped(*arguments) as client:
        assert await client.ended(START_S) == 2, client.output
    (line,) = client.output.splitlines()
    assert line.startswith("wsdemo.client: ") and says in line


async def test_an_unknown_path_is_one_line_and_exit_code_2(gateway: Gateway) -> None:
    """A gateway that answers 404 is not asked again."""
    async with Piped("-user", "alice", "-gateway", gateway.url + "x") as client:
        assert await client.ended(START_S) == 2, client.output
    (line,) = client.output.splitlines()
    assert line == f"wsdemo.client: alice: {gateway.url}x: HTTP 404"


# --- closed, full and slow streams ---------------------------------------------------------------


async def carry_out(
    url: str, commands: str, redirections: str = "", **streams: Any
) -> tuple[int | None, str]:
    """Pipe commands into a prompt with these redirections; return the code and what stderr got."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$0" "$@" {redirections}'),
        *(sys.executable, "-m", "wsdemo.client", "-user", "alice", "-gateway", url),
        **{
            "stdin": asyncio.subprocess.PIPE,
            "stdout": asyncio.subprocess.PIPE,
            "stderr": asyncio.subprocess.PIPE,
            **streams,
        },
    )
    async with asyncio.timeout(START_S):
        _, err = await process.communicate(commands.encode() or None)
    return process.returncode, (err or b"").decode()


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
async def test_a_prompt_with_closed_stdout_carries_out_commands(
    gateway: Gateway, closed: str
) -> None:
    """A closed stream becomes /dev/null: nobody wanted to read it."""
    async with Client("bob", [gateway.url]) as bob:
        assert await carry_out(gateway.url, "send bob one\nquit\n", closed) == (0, "")
        assert (await bob.receive(5)).content == "one"


@pytest.mark.parametrize("closed", ["0<&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"])
async def test_a_prompt_with_closed_stdin_connects_and_exits(gateway: Gateway, closed: str) -> None:
    """The same as at the end of any input."""
    assert await carry_out(gateway.url, "", closed, stdin=None) == (0, "")
    assert gateway.counters.registers_ok == 1


@pytest.mark.slow
async def test_a_stopped_reader_of_stdout_delays_no_heartbeat_and_loses_no_message(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """Output that nobody reads for many heartbeats; then every message is there, in order."""
    settings = GatewaySettings(
        gateway_id="gateway-01",
        port=0,
        redis_url=shared_server.url,
        keyspace=keyspace,
        timing=Timing().scaled(100),
    )
    read_end, write_end = os.pipe()
    messages = 1_450  # More than is kept for the reader: beyond it, nothing more is taken in.
    text = "x" * 1000
    async with Gateway(settings) as gateway, Client("bob", [gateway.url]) as bob:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wsdemo.client", "-user", "alice", "-gateway", gateway.url),
            stdin=asyncio.subprocess.PIPE,
            stdout=write_end,
        )
        os.close(write_end)
        try:
            await until("alice is there", lambda: gateway.registry.by_user("alice"), START_S)
            for n in range(0, messages, 50):
                receipts = await asyncio.gather(
                    *(bob.send("alice", f"{m} {text}") for m in range(n, n + 50))
                )
                assert {receipt.status for receipt in receipts} == {Status.ROUTED}
            refreshed = gateway.counters.refreshes_ok
            await until(
                "some leases were renewed",
                lambda: gateway.counters.refreshes_ok > refreshed + 20,
                START_S,
            )
            assert process.returncode is None and gateway.counters.registers_ok == 2
            output = b""
            while output.count(b"[Message]") < messages or not output.endswith(b"\n"):
                output += await asyncio.to_thread(os.read, read_end, 1 << 16)
            assert process.stdin is not None
            process.stdin.write(b"quit\n")
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            os.close(read_end)
    lines = output.decode().splitlines()
    assert lines[0] == "[Client] alice registered on gateway-01"
    assert lines[1:] == [f"[Message] bob: {n} {text}" for n in range(messages)]


@pytest.mark.slow
async def test_the_exit_waits_for_a_slow_reader_of_stdout(gateway: Gateway) -> None:
    """All output is read in the end, though it is more than a pipe holds, and late."""
    read_end, write_end = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsdemo.client", "-user", "alice", "-gateway", gateway.url),
        stdin=asyncio.subprocess.PIPE,
        stdout=write_end,
    )
    os.close(write_end)
    try:
        assert process.stdin is not None
        process.stdin.write(b"help\n" * 1_000 + b"quit\n")
        await until("alice is there", lambda: gateway.counters.registers_ok, START_S)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 1.0)
        output = b""
        while data := await asyncio.to_thread(os.read, read_end, 1 << 16):
            output += data
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(read_end)
    assert output.count(b"send a message\n") == 1_000
