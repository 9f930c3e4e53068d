"""Whatever redis-py, TLS, the resolver or Redis itself complain about: is it one line of ours?"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from wsdemo import Gateway
from wsdemo.redis.connection import RedisUnavailable, one_line
from wsdemo.redis.link import RedisLink
from wsdemo.redis.server import BundledServer, ServerError, find_server
from wsdemo.settings import GatewaySettings, Limits

HASTY = Limits(redis_connect_timeout_s=2.0)


async def refused(url: str) -> str:
    """Connect, which must fail as ours does; return the line."""
    link = RedisLink(url, HASTY)
    with pytest.raises(RedisUnavailable) as problem:
        await link.start()
    assert not link.up
    text = str(problem.value)
    assert text and len(text.splitlines()) == 1, text
    raised = problem.value
    assert raised.__cause__ is None
    assert raised.__context__ is None or raised.__suppress_context__
    return text


@pytest.fixture
async def mute() -> AsyncIterator[int]:
    """A port at which somebody listens and says nothing."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def rude() -> AsyncIterator[int]:
    """A port at which something answers that is no Redis."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:1",
        "redis://[::1]:1",
        "redis://no-such-host.invalid",
        "unix:///no/such/socket",
        "unix:///" + "x" * 300,
        "rediss://127.0.0.1:1?ssl_ca_certs=/no/such/file",
        "rediss://127.0.0.1:1?ssl_ciphers=NONSENSE",
        "rediss://127.0.0.1:1?ssl_certfile=/dev/null",
        "rediss://127.0.0.1:1?ssl_ca_data=nonsense",
        "redis://127.0.0.1:1?nonsense=1",
        "redis://a..b",
        "http://127.0.0.1:1",
    ],
)
async def test_an_unreachable_server_is_reported_in_one_line(url: str) -> None:
    """Sockets, names, paths, certificates, and addresses that nobody has checked before."""
    await refused(url)


async def test_an_error_of_the_system_is_reported_in_its_short_form() -> None:
    """Not in those of a library, which names the address again and a number."""
    assert await refused("redis://127.0.0.1:1") == "connection refused"
    assert await refused("unix:///no/such/socket") == "no such file or directory"


@pytest.mark.slow
async def test_a_server_that_is_not_redis_is_reported_in_one_line(mute: int, rude: int) -> None:
    """With TLS where there is none, and the other way round."""
    assert "in time" in await refused(f"redis://:pw@127.0.0.1:{mute}")
    assert "in time" in await refused(f"rediss://127.0.0.1:{mute}")
    await refused(f"redis://:pw@127.0.0.1:{rude}")
    await refused(f"rediss://127.0.0.1:{rude}")


async def test_a_refusal_by_redis_is_reported_in_its_own_words(server: BundledServer) -> None:
    """A database that is not there, a password that is wrong, a user who is none."""
    where = server.url.removesuffix("/0")
    assert "out of range" in await refused(f"{where}/99999")
    assert "out of range" in await refused(f"{where}?db=99999")
    for login in (":wrong", "nobody:wrong"):
        assert "username-password" in await refused(f"redis://{login}@127.0.0.1:{server.port}")


async def test_options_that_are_used_reach_redis(server: BundledServer) -> None:
    """The name of the connection and its database, which CLIENT LIST shows."""
    where = server.url.removesuffix("/0")
    asked = "client_name=chat&db=3&socket_keepalive=true&decode_responses=true&max_connections=1"
    link = RedisLink(f"{where}?{asked}", HASTY)
    await link.start()
    try:
        shown = (await link.call("CLIENT", "LIST")).decode()
    finally:
        await link.stop()
    assert " name=chat " in shown and " db=3 " in shown


async def test_rediss_urls_use_tls_and_check_the_certificate(
    server: BundledServer, tmp_path: Path
) -> None:
    """rediss:// checks the certificate: with its authority it connects, without it does not."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    ends: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
        pipes = [_pipe(reader, inner_writer), _pipe(inner_reader, writer)]
        await asyncio.gather(*pipes)

    front = await asyncio.start_server(
        lambda r, w: ends.add(asyncio.ensure_future(pass_on(r, w))), "127.0.0.1", 0, ssl=context
    )
    port = front.sockets[0].getsockname()[1]
    login = server.url.partition("@")[0].replace("redis://", "rediss://")
    link = RedisLink(f"{login}@localhost:{port}?ssl_ca_certs={tmp_path / 'ca.pem'}", HASTY)
    try:
        await link.start()
        assert await link.call("PING") in (b"PONG", "PONG")
        await link.stop()
        assert "certificate" in (await refused(f"{login}@localhost:{port}")).lower()
    finally:
        front.close()
        await asyncio.wait(ends, timeout=10)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except OSError:
        pass  # The other side hung up.
    finally:
        writer.close()


@pytest.mark.parametrize(
    "problem",
    [TypeError("a\nb"), AttributeError("x"), UnicodeError("x"), OSError(), KeyError("x"),
     ssl.SSLError(1, "x"), socket.gaierror(-2, "x"), RuntimeError("redis://:s3cret@h failed")],
    ids=lambda problem: type(problem).__name__,
)  # fmt: skip
def test_any_exception_of_the_library_becomes_one_line(problem: Exception) -> None:
    """What a library raises tomorrow is a line as well, without secrets."""
    with pytest.raises(RedisUnavailable) as told, one_line():
        raise problem
    text = str(told.value)
    assert text and len(text.splitlines()) == 1 and "s3cret" not in text


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, asyncio.CancelledError, SystemExit])
def test_cancellation_and_interrupts_are_not_caught(interruption: type[BaseException]) -> None:
    """They are nobody's answer."""
    with pytest.raises(interruption), one_line():
        raise interruption


def test_the_laboratory_accepts_options_without_effect_too(server: BundledServer) -> None:
    """An address that several programs share works in a lesson as well."""
    asked = "timeout=5&decode_responses=true&protocol=3&max_connections=5&retry_on_timeout=true"
    with find_server(f"{server.url}?{asked}") as found:
        assert found.url == server.url
    with pytest.raises(ServerError, match="nonsense"):
        find_server(f"{server.url}?nonsense=1")


async def test_a_gateway_warns_about_options_without_effect(server: BundledServer) -> None:
    """Among the warnings of /stats, once each."""
    url = f"{server.url}?max_connections=10&retry_on_timeout=true&client_name=chat"
    async with Gateway(GatewaySettings(gateway_id="g", port=0, redis_url=url)) as running:
        warnings = [line for line in running.stats()["warnings"] if "has no effect" in line]
    assert len(warnings) == 2
    assert "max_connections" in warnings[0] and "retry_on_timeout" in warnings[1]
