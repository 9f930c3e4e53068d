"""`python -m wsdemo.gateway api`: what does somebody see who asks from a terminal?"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import pytest

from tests.gateway.api import KEY, api_gateway
from tests.processes import User
from wsdemo.features import InboxSettings, RoomSettings
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

RUN_S = 30.0


async def run(*arguments: str) -> tuple[int, str, list[str]]:
    """Run it; return the exit code, what it printed, and its lines on stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsdemo.gateway", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(RUN_S):
            shown, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, shown.decode(), said.decode().splitlines()


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    """The key of the gateways here."""
    path = tmp_path / "api.key"
    path.write_bytes(KEY + b"\n")
    return str(path)


async def test_each_question_prints_its_answer(
    shared_server: BundledServer, keyspace: Keyspace, key_file: str
) -> None:
    """One line of JSON, and exit code 0."""
    features = {"inbox": InboxSettings(), "rooms": RoomSettings()}
    async with api_gateway(shared_server, keyspace, settings=features) as running:

        async def ask(*words: str) -> dict[str, object]:
            given = ("--api", running.api_url, "--api-key-file", key_file)
            code, shown, said = await run("api", *given, *words)
            assert (code, said) == (0, []), said
            answer: dict[str, object] = json.loads(shown)
            return answer

        async with await User.register("bob", running.url) as bob:
            assert (await ask("publish", "bob", "Hi there"))["status"] == "routed"
            assert (await bob.hear())["content"] == "Hi there"
            assert (await ask("presence", "bob"))["online"] is True
            assert (await ask("presence"))["users"] is not None
            told = await ask("disconnect", "bob", "--reason", "bye now")
            assert told["status"] == "kicked"
            assert await bob.closed() == (4515, "bye now")
        assert (await ask("room", "lobby"))["count"] == 0
        told = await ask("publish", "--room", "lobby", "Hi", "--id", "7")
        assert told == {"status": "unreachable", "id": "7"}
        assert (await ask("publish", "a@b", "Hi", "--durable"))["status"] == "stored"
        assert (await ask("inbox", "a@b"))["count"] == 1


async def test_a_mistake_is_one_line_and_exit_code_2(
    shared_server: BundledServer, keyspace: Keyspace, key_file: str, tmp_path: Path
) -> None:
    """It names the mistake; the key is in none."""
    wrong, short = tmp_path / "wrong.key", tmp_path / "short.key"
    wrong.write_text("x" * 32)
    short.write_text("short")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    async with api_gateway(shared_server, keyspace) as running:
        url = running.api_url
        mistakes = {
            ("--api-key-file", str(wrong), "presence", "bob"): "answers 401 unauthorized",
            ("--api-key-file", str(short), "presence", "bob"): "must hold 32 to 4096 bytes",
            ("--api-key-file", str(tmp_path / "none"), "presence"): "No such file",
            ("presence", "bob"): "required: --api-key-file",
            ("--api-key-file", key_file, "publish", "bob"): "publish needs the text",
            ("--api-key-file", key_file, "publish"): "publish needs a name",
            ("--api-key-file", key_file, "inbox", "bob", "x"): "nothing else takes one",
            ("--api-key-file", key_file, "inbox", "bob"): "answers 404 not_durable",
            ("--api-key-file", key_file, "room", "lobby"): "answers 404 no_rooms",
            ("--api-key-file", key_file, "sing"): "invalid choice: 'sing'",
            ("--api", nobody, "--api-key-file", key_file, "presence"): "Connection refused",
            ("--api", "ftp://x", "--api-key-file", key_file, "presence"): "no http:// or",
            ("--api", running.url, "--api-key-file", key_file, "presence"): "no http:// or",
        }
        for words, why in mistakes.items():
            given = () if "--api" in words else ("--api", url)
            code, shown, said = await run("api", *given, *words)
            assert (code, shown, len(said)) == (2, "", 1), (words, code, shown, said)
            assert why in said[0], said
            assert KEY.decode() not in said[0]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--api-port", "0"), "the server API needs a key: --api-key-file FILE"),
        (("--api-key-file", "KEY"), "--api-key-file has no effect without --api-port"),
        (("--api-host", "::1"), "--api-host has no effect without --api-port"),
        (("--api-burst", "5"), "--api-burst has no effect without --api-port"),
        (("--api-port", "70000", "--api-key-file", "KEY"), "api_port 70000 is not between"),
        (("--api-port", "x", "--api-key-file", "KEY"), "invalid int value: 'x'"),
        (("--api-port", "0", "--api-key-file", "SHORT"), "must hold 32 to 4096 bytes"),
        (("--api-port", "0", "--api-key-file", "SPACE"), "without white space"),
        (("--api-port", "0", "--api-key-file", "KEY", "--api-host", "a b"), "api_host 'a b'"),
        (("--api-port", "TAKEN", "--api-key-file", "KEY"), "cannot listen on 127.0.0.1:"),
    ],
)
async def test_a_gateway_that_cannot_serve_it_does_not_start(
    shared_server: BundledServer, key_file: str, tmp_path: Path, words: tuple[str, ...], why: str
) -> None:
    """One line, exit code 2 (bad input 81)."""
    short, space = tmp_path / "short.key", tmp_path / "space.key"
    short.write_text("short")
    space.write_text("two words " * 8)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = {
            "KEY": key_file,
            "SHORT": str(short),
            "SPACE": str(space),
            "TAKEN": str(taken.getsockname()[1]),
        }
        given = ("-id", "api-g", "-port", "0", "-redis", shared_server.url, "--log-level", "error")
        code, _, said = await run(*given, *(known.get(word, word) for word in words))
    assert (code, len(said)) == (2, 1), said
    assert why in said[0]
    assert KEY.decode() not in said[0]
