"""Do the published pages tell the truth?

The quick start of the README is carried out as it stands, in order, on real processes; only the
ports are replaced by free ones. The commands of docs/operating.md, docs/library.md and
docs/teaching.md come behind it. The conversations of docs/protocol.md are held with a gateway. What
the tables say is compared with the code. `tests/pages.py` has the marks that say what a block is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.gateway.cluster import gateway
from tests.pages import (
    KINDS,
    PAGES,
    ROOT,
    TESTED_LANGUAGES,
    Block,
    blocks_of,
    table,
    tables_of,
    without_blocks,
)
from tests.waiting import until
from wsdemo.features import ApiSettings, InboxSettings, RoomSettings, WatchSettings
from wsdemo.gateway.server import Gateway
from wsdemo.gateway.workers.sums import worker_metrics
from wsdemo.protocol import CLOSE_POLICIES
from wsdemo.redis.server import BundledServer
from wsdemo.settings import GatewaySettings, Keyspace, Limits, Timing

STORY = (
    *("README.md", "docs/operating.md", "docs/library.md", "docs/teaching.md"),
    "docs/server-api.md",
)
"""In the order in which somebody would carry them out."""
PORTS = ("6379", "8080", "8081", "8082", "8083", "8090")
PROGRAMS = ("wsdemo.gateway", "wsdemo.client", "wsdemo.redis")

CURL = """
import sys, urllib.request
words, headers, body = iter(sys.argv[1:]), {}, None
for word in words:
    if word == "-H":
        name, _, value = next(words).partition(": ")
        headers[name] = value
    elif word == "--json":
        headers["Content-Type"], body = "application/json", next(words).encode()
    elif word != "-s":
        url = word
request = urllib.request.Request(url, body, headers)
print(urllib.request.urlopen(request).read().decode())
"""
"""For machines without curl."""

START_S = 20.0
"""Generous: a process starts in well under a second on an idle machine."""
STEP_S = 20.0


# --- carrying it out -------------------------------------------------------------------------


class Process:
    """A command in a terminal of its own: all that it prints, and a way to type."""

    def __init__(self, command: str, process: asyncio.subprocess.Process) -> None:
        self.command = command
        self.output = ""
        self._process = process
        self._reader = asyncio.create_task(self._read(), name=f"reader of {command}")

    @classmethod
    async def start(
        cls, command: str, environment: dict[str, str], directory: Path = ROOT
    ) -> Process:
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", f"exec {command}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=directory,
            env=environment,
        )
        return cls(command, process)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.output += line.decode()

    async def prints(self, pattern: str, timeout_s: float = STEP_S) -> None:
        """Wait until the output contains what the pattern matches."""

        def found() -> bool:
            if re.search(pattern, self.output):
                return True
            code = self._process.returncode
            assert code is None, f"{self.command} ended with {code}:\n{self.output}"
            return False

        try:
            await until(f"{pattern!r} from {self.command}", found, timeout_s)
        except pytest.fail.Exception as problem:
            raise AssertionError(f"{problem}; it printed:\n{self.output}") from None

    def type(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())

    async def kill(self) -> None:
        """SIGKILL, which a process cannot catch. Idempotent."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reader

    async def leave(self) -> int:
        """End a client by the end of its input; return the exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(STEP_S):
            return await self._process.wait()

    async def stop(self) -> int:
        """Ctrl-C; return the exit code."""
        self._process.send_signal(signal.SIGINT)
        async with asyncio.timeout(STEP_S):
            return await self._process.wait()


class Story:
    """Executes the quick start as a reader would."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = free_ports()
        self._path = f"{directory}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.processes: list[Process] = []
        """In the order of their start."""
        self.clients: dict[str, Process] = {}
        self.steps: list[str] = []
        """The kinds of blocks that were carried out."""
        if shutil.which("curl") is None:
            self._make_curl()

    def _make_curl(self) -> None:
        """Put a program on the path that fetches as curl does with the flags of the pages."""
        shim = self._directory / "curl"
        shim.write_text(f"#!{sys.executable}\n{CURL}")
        shim.chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        """Return what a fresh terminal with the virtual environment has."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("WSDEMO_")}
        return {**inherited, "PATH": self._path, "PYTHONUNBUFFERED": "1", **more}

    async def do(self, block: Block) -> None:
        text = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda m: self._ports[m[0]], block.text)
        match block.kind:
            case "server" | "servers":
                for line in text.splitlines():
                    await (await self._start(line)).prints("listens on", START_S)
            case "client" | "clients":
                for name, line in zip(block.argument.split(), text.splitlines(), strict=True):
                    self.clients[name] = client = await self._start(line)
                    await client.prints(rf"{name} registered on ", START_S)
            case "type":
                await self._type(block.argument, text)
            case "expect":
                await self.clients[block.argument].prints(re.escape(text))
            case "kill":
                await self._process(block.argument).kill()
            case "run":
                for line in text.splitlines():
                    await self._run(line)
            case "python":
                # On a busy machine, a first line says how fast the clock of the lab is.
                assert (await self._script(text))[-1:] == [block.argument]
        self.steps.append(block.kind)

    async def _start(self, command: str) -> Process:
        assert len(command.splitlines()) == 1, command
        process = await Process.start(command, self.environment(), self._directory)
        self.processes.append(process)
        return process

    def _process(self, gateway_id: str) -> Process:
        (process,) = (p for p in self.processes if f"-id {gateway_id} " in p.command)
        return process

    async def _type(self, argument: str, text: str) -> None:
        words = re.fullmatch(r"(\w+)(?: after (\w+) registered)?", argument)
        assert words, argument
        if other := words[2]:
            # At another gateway than the first one: its name differs.
            await self.clients[other].prints(
                rf"(?s){other} registered on (\S+)\n.*{other} registered on (?!\1\n)\S+\n"
            )
        self.clients[words[1]].type(text)

    async def _run(self, line: str) -> None:
        # The commands that name no server mean the one on the default port.
        redis = f"redis://localhost:{self._ports['6379']}"
        output = await self._finish("/bin/sh", "-c", line, WSDEMO_REDIS_URL=redis)
        assert output.strip(), f"{line} printed nothing"
        if line.endswith("/stats"):
            assert output.startswith('{"gatewayId": "gateway-02", "connections": 2')
        if "HGETALL" in line:
            fields = output.split()
            assert dict(zip(fields[::2], fields[1::2], strict=True))["gwId"] == "gateway-02"

    async def _script(self, text: str) -> list[str]:
        script = self._directory / "script.py"
        script.write_text(text)
        return (await self._finish("python", str(script))).splitlines()

    async def _finish(self, *command: str, **environment: str) -> str:
        """Run a command to its end, which must be a good one; return its output."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._directory,  # Some commands write a file.
            env=self.environment(**environment),
        )
        try:
            async with asyncio.timeout(STEP_S):
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = f"{command} ended with {process.returncode}: {errors.decode()}{output.decode()}"
        assert process.returncode == 0, said
        return output.decode()

    async def end(self) -> None:
        """End everything that was started, by force."""
        for process in reversed(self.processes):
            await process.kill()


def free_ports() -> dict[str, str]:
    """Return a free port for each port of the quick start.

    They lie below those that systems give to outgoing connections: nobody takes one meanwhile.
    """
    found: dict[str, str] = {}
    for port in random.sample(range(15_000, 32_000), 200):
        if len(found) == len(PORTS):
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found[PORTS[len(found)]] = str(port)
    assert len(found) == len(PORTS)
    return found


# --- the tests -------------------------------------------------------------------------------


@pytest.mark.timeout(180)
async def test_the_commands_work_as_they_stand(tmp_path: Path) -> None:
    """Every block in order, on real processes; at the end, everything ends politely."""
    story = Story(tmp_path)
    try:
        for page in STORY:
            for block in blocks_of(PAGES[page]):
                try:
                    await story.do(block)
                except (AssertionError, KeyError) as problem:
                    problem.add_note(f"{page}, line {block.line}: {block.marker}")
                    raise
        assert {"server", "servers", "clients", "type", "expect", "kill", "run", "python"} <= {
            *story.steps
        }
        for client in story.clients.values():
            assert await client.leave() == 0, client.output
        killed, clients = story._process("gateway-01"), [*story.clients.values()]
        for process in reversed(story.processes):
            if process is not killed and process not in clients:
                assert await process.stop() == 0, process.output
    finally:
        await story.end()


FEATURES: dict[str, Callable[..., Any]] = {
    "devices": lambda most: most,
    "inbox": InboxSettings,
    "watch": WatchSettings,
    "api": lambda: ApiSettings(api_key=b"x" * 32),
    "rooms": RoomSettings,
}
"""Optional features whose messages and metrics the pages show: the setting, and what makes it."""

CONVERSATIONS = {
    f"{page}:{block.line}": block
    for page, text in PAGES.items()
    for block in blocks_of(text)
    if block.kind == "wire"
}


@pytest.mark.parametrize("block", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
async def test_conversations_are_held_as_they_stand(
    block: Block, shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """`alice >` is what alice sends, `alice <` the next that she hears: to the letter, but for
    "...", which stands for any text.
    """
    limits: dict[str, Any] = {
        name: json.loads(value)
        for name, value in (word.split("=") for word in block.argument.split())
    }
    features = {name: FEATURES[name](**limits.pop(name)) for name in FEATURES if name in limits}
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            gateway(shared_server, keyspace, settings=features, **limits)
        )
        speakers: dict[str, ClientConnection] = {}
        for line in block.text.splitlines():
            name, direction, text = line.split(" ", 2)
            if name not in speakers:
                speakers[name] = await stack.enter_async_context(connect(running.url, proxy=None))
            if direction == ">":
                await speakers[name].send(text)
            else:
                pattern = re.escape(text).replace(re.escape('"..."'), '"[^"]+"')
                pattern = re.sub(r'(?<="at":)\d{13}\b', r"\\d{13}", pattern)
                heard = await _hear(speakers[name])
                assert re.fullmatch(pattern, heard), f"{line}\nwas: {heard}"


async def _hear(connection: ClientConnection) -> str:
    """Return the next message, or how the connection was closed."""
    async with asyncio.timeout(STEP_S):
        try:
            return str(await connection.recv())
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            return f"close {int(closed.rcvd.code)} {closed.rcvd.reason}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_how_it_is_tested(page: str) -> None:
    """No bash, python or text block of a page goes untested by accident."""
    for block in blocks_of(PAGES[page]):
        if block.language in TESTED_LANGUAGES or block.marker is not None:
            assert block.kind in KINDS, f"line {block.line}: {block.marker or 'no marker'}"
        if block.kind not in ("", "skip", "wire", "javascript"):
            assert page in STORY, f"line {block.line}: nobody carries this out"
        if block.kind == "skip":
            assert re.fullmatch(r"\(.+\)", block.argument), f"line {block.line}: skipped, but why?"


def test_no_command_has_a_pattern_for_the_shell() -> None:
    """An unquoted * that matches no file is an error in zsh, the shell of macOS."""
    for page in STORY:
        for block in blocks_of(PAGES[page]):
            if block.kind.rstrip("s") in ("server", "client", "run"):
                unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", block.text)
                assert not re.search(r"[*?\[]", unquoted), f"{page}:{block.line}: {unquoted}"


@pytest.mark.parametrize(
    "markdown",
    ["<!-- test: run -->\n\n```bash\nls\n```", "<!-- test: run -->", "```bash\nls"],
    ids=["empty line between", "nothing follows", "no end"],
)
def test_a_marker_without_a_block_is_a_mistake(markdown: str) -> None:
    """A block cannot lose its marker, nor a marker its block, without a failing test."""
    with pytest.raises(ValueError, match="block"):
        list(blocks_of(markdown))


def test_the_close_codes_are_those_of_the_protocol() -> None:
    """The table has every code of CLOSE_POLICIES, in its order, with its reason and advice."""
    assert table("close code", "why", "reconnect?") == [
        [str(int(code)), policy.reason, "yes" if policy.reconnect else "no"]
        for code, policy in CLOSE_POLICIES.items()
    ]


def test_the_timings_are_the_defaults() -> None:
    """Each row names a flag, and the default of the setting behind it."""
    rows = table("timing", "default", "flag")
    assert rows
    for _, default, flag in rows:
        name = flag.strip("`-").replace("-", "_")
        assert default == f"{getattr(Timing(), name):g} s", flag


def test_the_limits_are_the_defaults() -> None:
    """Each row names a flag, and the default of the limit behind it."""
    rows = table("limit", "default", "beyond it")
    assert len(rows) > 10
    for flag, default, _ in rows:
        name = flag.strip("`-").replace("-", "_")
        assert default == f"{getattr(Limits(), name):.10g}", flag


def test_every_metric_is_in_the_table_and_no_other() -> None:
    """With its label and the label's values, as `/metrics` shows them when all features are on."""
    every = {n: make(*([2] if n == "devices" else [])) for n, make in FEATURES.items()}
    shown: dict[str, str] = {}
    of_workers = worker_metrics(0, {"gateway-01.1": 0, "gateway-01.2": 0})
    for family in [*Gateway(GatewaySettings(gateway_id="g", **every)).metrics(), *of_workers]:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {key: None for sample in family.samples for key in sample.labels if key != "le"}
        values = [value for sample in family.samples for value in sample.labels.values()]
        label = "".join(f"`{key}`: {', '.join(values)}" for key in labels)
        shown[f"`{name}`"] = label or ("" if family.type == "counter" else f"({family.type})")
    assert {name: label for name, label, _ in table("metric", "label", "what it counts")} == shown


FOR_USERS = {page: text for page, text in PAGES.items() if page in STORY or "docs/" in page}


async def test_every_flag_exists() -> None:
    """What a page passes to a program, or says of its flags, is in that program's --help."""
    helps = {program: await _help(program) for program in PROGRAMS}
    for program in PROGRAMS:
        named = _flags_passed_to(program)
        for header, rows in (found for text in FOR_USERS.values() for found in tables_of(text)):
            if header[0] == f"flag of `python -m {program}`":
                for row in rows:
                    named.add(row[0].strip("`"))
                    assert _default_in(helps[program], row[0].strip("`"), row[1]), row
        assert named, program
        missing = [flag for flag in named if not _has(helps[program], flag)]
        assert not missing, f"{program} has no {missing}"
    for page, text in FOR_USERS.items():
        running = set(re.findall(r"`(--?[a-z][a-z-]*)[^`]*`", without_blocks(text)))
        unknown = [f for f in running if not any(_has(said, f) for said in helps.values())]
        assert not unknown, f"{page}: no program has {unknown}"


def _has(text: str, flag: str) -> bool:
    return re.search(rf"(?<!\S){flag}\b", text) is not None


async def _help(program: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", program, "--help"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    async with asyncio.timeout(START_S):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


def _flags_passed_to(program: str) -> set[str]:
    """Return the flags on the command lines of the pages, until `--call` ends them."""
    text = "\n".join(FOR_USERS.values())
    lines = re.findall(rf"python -m {re.escape(program)}\b(.*)", text)
    return {flag for line in lines for flag in re.findall(r"(?<=\s)--?[a-z][a-z-]*", line)}


def _default_in(text: str, flag: str, default: str) -> bool:
    """Say whether the help of a flag names this default."""
    if not default or default == "(required)":
        return True
    (entry,) = re.findall(rf"^  {flag}(?![\w-]).*(?:\n {{8,}}.*)*", text, re.MULTILINE)
    return default in entry
