"""The bye message: what does a client hear before a close frame that its library may hide?"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.examples import FRAME_PATHS
from tests.gateway.cluster import Raw, frame, gateway, request
from tests.processes import GatewayProcess
from tests.waiting import until
from wsdemo.client import Client
from wsdemo.client.connection import State
from wsdemo.gateway.server import Gateway
from wsdemo.protocol import CLOSE_POLICIES, Code, bye_text
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

REGISTER = b'{"type":"register","userId":"alice"}'


@pytest.fixture(params=FRAME_PATHS.values(), ids=[*FRAME_PATHS])
async def one(
    request: pytest.FixtureRequest, shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[Gateway]:
    async with gateway(shared_server, keyspace, fast_frames=request.param) as running:
        yield running


async def last_words(raw: Raw) -> list[Any]:
    """Return all that comes until the gateway hangs up: documents, and the code and reason of its
    close frame."""
    heard: list[Any] = []
    while True:
        opcode, payload = await raw.hear()
        if opcode == 8:
            raw.frame(payload[:2], opcode=8)
            return [*heard, (int.from_bytes(payload[:2], "big"), payload[2:].decode())]
        heard.append(json.loads(payload))


def test_a_bye_says_what_its_close_frame_says() -> None:
    """A bye carries the close code, and after how many milliseconds to come back, if known."""
    assert json.loads(bye_text(Code.RESTART, 1500)) == {
        "type": "bye",
        "code": 1012,
        "retryAfterMs": 1500,
    }
    assert json.loads(bye_text(Code.TRY_LATER)) == {"type": "bye", "code": 1013}


@pytest.mark.parametrize("code", list(Code))
async def test_a_bye_precedes_close_codes_1012_and_1013_only(one: Gateway, code: Code) -> None:
    """Before 1012 and 1013: after everything sent earlier, right before the close frame."""
    async with await Raw.register(one, "alice") as alice:
        (session,) = one.registry
        session.send(b'{"type":"pong"}')
        session.end(code, 1234)
        said: list[dict[str, Any]] = [{"type": "pong"}]
        if code in {Code.RESTART, Code.TRY_LATER}:
            said.append({"type": "bye", "code": int(code), "retryAfterMs": 1234})
        reason = f"{CLOSE_POLICIES[code].reason}; retryAfterMs=1234"
        assert await last_words(alice) == [*said, (code, reason)]


@pytest.mark.slow
async def test_a_client_that_has_not_registered_gets_a_bye_too(one: Gateway) -> None:
    """A drain meets connections in every state; each that is a WebSocket hears a bye."""
    async with await Raw.open(one) as raw:
        await until(
            "it has a session", lambda: one._socket_services and one._socket_services.sockets
        )
        stopping = asyncio.create_task(one.stop())
        bye, (code, reason) = await last_words(raw)
        assert (bye["type"], bye["code"], code) == ("bye", 1012, 1012)
        assert reason.endswith(f"retryAfterMs={bye['retryAfterMs']}")
        await stopping


@pytest.mark.parametrize("so_far", [b"", b"GET /ws HT", request()[:-2]], ids=["", "half", "nearly"])
async def test_a_drain_before_the_handshake_closes_without_a_byte(
    one: Gateway, so_far: bytes
) -> None:
    """A drain closes a connection that has not sent its WebSocket request, without a byte."""
    async with await Raw.connect(one) as raw:
        raw.writer.write(so_far)
        await until("it is there", lambda: one._socket_services and one._socket_services.sockets)
        stopping = asyncio.create_task(one.stop())
        assert await raw.rest() == b""
        await stopping


@pytest.mark.parametrize("behind", [b"", frame(REGISTER)], ids=["alone", "with a register"])
async def test_on_notice_the_answer_to_the_handshake_comes_first(
    shared_server: BundledServer, keyspace: Keyspace, behind: bytes
) -> None:
    """101, bye, close, in this order, also for who has said more in the same packet; and nobody
    is registered."""
    for fast in (True, False):
        async with gateway(
            shared_server, keyspace, fast_frames=fast, drain_notice_s=300.0
        ) as running:
            stopping = asyncio.create_task(running.stop())
            await until("it is on notice", lambda: not running.ready)
            async with await Raw.connect(running) as raw:
                raw.writer.write(request() + behind)
                assert b" 101 " in (await raw.head()).splitlines()[0]
                bye, (code, _) = await last_words(raw)
                assert (bye["type"], bye["code"], code) == ("bye", 1012, 1012)
                assert await raw.rest() == b""
            assert running.counters.registers_ok == 0
            assert running.hurry()
            await stopping


async def test_the_client_of_the_kit_understands_a_bye(one: Gateway) -> None:
    """The Python client shows a bye neither as message nor as error; it reconnects by itself."""
    async with Client("alice", [one.url]) as alice:
        (session,) = one.registry
        session.end(Code.RESTART, 10)
        await until("she is away", lambda: not len(one.registry))
        await until("she is back", lambda: len(one.registry) and alice.state is State.REGISTERED)
        assert (await alice.send("alice", "hello")).status == "routed"
        assert (await alice.receive()).content == "hello"


@pytest.mark.slow
async def test_a_drain_says_bye_on_uvloop_too(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """A gateway process with default flags: bye, then 1012, then the end of the connection."""
    flags = ("--key-prefix", keyspace.prefix)
    async with GatewayProcess("gateway-01", shared_server.url, *flags) as process:
        raw = Raw(*await asyncio.open_connection("127.0.0.1", process.port))
        raw.writer.write(request() + frame(REGISTER))
        assert b" 101 " in (await raw.head()).splitlines()[0]
        assert (await raw.answer())["type"] == "registered"
        process.signal(signal.SIGTERM)
        bye, (code, _) = await last_words(raw)
        assert (bye["type"], bye["code"], code) == ("bye", 1012, 1012)
        assert await raw.rest() == b""
        assert await process.wait(20) == 0
        await raw.leave()
