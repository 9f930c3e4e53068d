"""Robustness: does a client survive every answer of a gateway, a resolver or a library?"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest
from websockets.exceptions import InvalidHandshake, ProxyError, WebSocketException

from tests.waiting import until
from wsdemo import Client
from wsdemo.client import connection as module
from wsdemo.client.connection import ConnectFailed
from wsdemo.protocol import retry_after_s
from wsdemo.settings import ClientSettings

HASTY = ClientSettings(connect_timeout_s=0.2, backoff_base_s=0.001, backoff_cap_s=0.002)


async def failure(url: str) -> str:
    """Try to register there again and again; return the error when the start gives up."""
    client = Client("alice", [url], settings=HASTY)
    start = asyncio.create_task(client.start(timeout_s=50), name="start")
    try:
        await until("a second attempt", lambda: start.done() or client.attempts > 1, 40)
        assert not start.done(), start.exception()
    finally:
        await client.close()
        with pytest.raises(ConnectFailed) as problem:
            await start
    text = str(problem.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize(
    "url",
    ["ws://no-such-host.invalid/ws", "ws://[::1]:1/ws", "ws://127.0.0.1:1/ws",
     "wss://127.0.0.1:1/ws", "ws://b\u00fccher.invalid/ws"],
)  # fmt: skip
async def test_a_host_name_that_cannot_be_resolved_is_tried_again(url: str) -> None:
    """Also a name that no resolver accepts. It is reported in one line."""
    await failure(url)


@pytest.mark.parametrize(
    "problem",
    [UnicodeError("label too long"), TypeError("x"), ssl.SSLError(1, "x"), EOFError(), OSError(),
     ProxyError("x"), InvalidHandshake("x"), WebSocketException("x"), ValueError("ws://u:s3cret@h")],
    ids=lambda problem: type(problem).__name__,
)  # fmt: skip
async def test_any_exception_of_the_websockets_library_is_a_failed_attempt(
    problem: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that a later release may raise; it is reported without secrets."""

    async def connect(*args: object, **options: object) -> None:
        raise problem

    monkeypatch.setattr(module, "dial", connect)
    assert "s3cret" not in await failure("ws://127.0.0.1:1/ws")


@contextlib.asynccontextmanager
async def answering(text: bytes) -> AsyncIterator[str]:
    """A server that answers every request with this."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # A client that has given up.
            await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
    finally:
        server.close()


@pytest.mark.parametrize("advice", ["²", "x", "-1", "9" * 400, "1e3", "", "0"])
async def test_an_invalid_retry_after_header_is_ignored(advice: str) -> None:
    """A header that is not a number neither ends the client nor lets it sleep for ever."""
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: "
    async with answering(head + advice.encode() + b"\r\n\r\n") as url:
        assert "HTTP 503" in await failure(url)


@pytest.mark.parametrize(
    "text", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 999 x\r\n\r\n", b"\xff" * 99]
)
async def test_a_server_that_is_not_a_gateway_is_reported_in_one_line(text: bytes) -> None:
    """Whatever it answers."""
    async with answering(text) as url:
        await failure(url)


async def test_a_redirect_is_not_followed() -> None:
    """Our token goes only to the configured address. The target of the redirect is reported in one
    line, without secrets."""
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
    for place in (b"http://[", b"ws://u:s3cret@a..b/ws?token=s3cret", b"ftp://h/", b"ws://h:http/"):
        async with answering(head + place + b"\r\n\r\n") as url:
            with pytest.raises(ConnectFailed) as problem:
                await Client("alice", [url], settings=HASTY).start()
        text = str(problem.value)
        assert "HTTP 302" in text and "s3cret" not in text and len(text.splitlines()) == 1


@pytest.mark.parametrize("number", ["²", "٣", "-1", "1.5", "12345678", "", " 7", "7\n"])
def test_an_invalid_retry_advice_in_a_close_frame_is_ignored(number: str) -> None:
    """Digits of other scripts are digits to Python, but not a valid number of milliseconds."""
    assert retry_after_s(f"service restart; retryAfterMs={number}") is None
