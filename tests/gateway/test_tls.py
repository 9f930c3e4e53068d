"""TLS: does a gateway with a certificate behave the same, and refuse everything else?"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect

from tests.gateway.cluster import gateway
from tests.gateway.test_auth import run
from tests.processes import GatewayProcess
from tests.waiting import until
from wsdemo.gateway.server import Gateway, TLSUnusable
from wsdemo.protocol import Code
from wsdemo.redis.server import BundledServer
from wsdemo.settings import GatewaySettings, Keyspace

pytestmark = pytest.mark.both_loops


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certfile(authority: trustme.CA, tmp_path: Path) -> Path:
    """Certificate and key in one file."""
    path = tmp_path / "gateway.pem"
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
        path
    )
    return path


@pytest.fixture
async def secure(
    shared_server: BundledServer, keyspace: Keyspace, certfile: Path
) -> AsyncIterator[Gateway]:
    async with gateway(shared_server, keyspace, settings={"certfile": str(certfile)}) as running:
        yield running


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def register(url: str, user: str, context: ssl.SSLContext) -> ClientConnection:
    connection = await connect(url, proxy=None, ssl=context)
    await connection.send(f'{{"type":"register","userId":"{user}"}}')
    assert "registered" in str(await connection.recv())
    return connection


async def test_messages_and_close_frames_pass_over_tls(
    secure: Gateway, context: ssl.SSLContext
) -> None:
    """wss:// says the same as ws://, up to the close."""
    assert secure.url.startswith("wss://")
    alice = await register(secure.url, "alice", context)
    bob = await register(secure.url, "bob", context)
    await alice.send('{"type":"message","to":"bob","content":"Hello"}')
    assert '"Hello"' in str(await asyncio.wait_for(bob.recv(), 10))
    next(s for s in secure.registry if s.user == "bob").end(Code.RESTART)
    await asyncio.wait_for(bob.wait_closed(), 10)
    assert bob.close_code == Code.RESTART
    await alice.close()
    await until("both are gone", lambda: len(secure.registry) == 0)


@pytest.mark.parametrize("when", ["idle", "with an ack under way", "after a goodbye"])
@pytest.mark.parametrize("how", ["reset", "cut"])
async def test_a_connection_lost_without_a_tls_shutdown_leaves_nothing_and_affects_nobody(
    server: BundledServer,
    database: Any,
    keyspace: Keyspace,
    certfile: Path,
    context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    when: str,
    how: str,
) -> None:
    """Neither side has sent a TLS close; another client gets its answers."""
    settings = {"certfile": str(certfile), "keyfile": ""}
    async with gateway(server, keyspace, settings=settings, close_timeout_s=30.0) as running:
        alice = await register(running.url, "alice", context)
        bob = await register(running.url, "bob", context)
        session = running.registry.by_user("alice")
        assert session is not None
        if when == "with an ack under way":
            await database.execute_command("CLIENT", "PAUSE", 200, "ALL")
            await alice.send('{"type":"message","to":"nobody","content":"x","id":"a"}')
            await until("hers is on its way", lambda: running.counters.messages_received == 1)
        await bob.send('{"type":"message","to":"nobody","content":"x","id":"b"}')
        if when == "after a goodbye":
            session.end(Code.RESTART)
        if how == "reset":
            end = alice.transport.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        alice.transport.abort()
        assert '"id":"b"' in str(await asyncio.wait_for(bob.recv(), 10))
        await bob.send('{"type":"ping"}')
        assert "pong" in str(await asyncio.wait_for(bob.recv(), 10))
        await until("she is gone", lambda: len(running._sockets()) == 1)
        assert session.socket._timer is session.socket.outbox._deadline is None
        assert not await database.exists(keyspace.presence("alice"))
        assert running.counters.connection_failures == 0
        await bob.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_plain_text_and_old_tls_versions_get_no_answer(
    secure: Gateway, context: ssl.SSLContext
) -> None:
    """And the gateway goes on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.port)
    writer.write(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n")
    said = await asyncio.wait_for(reader.read(), 10)
    assert b"HTTP" not in said
    writer.close()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # Or our own side would not even offer it.
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)) as refused:
        await asyncio.open_connection("127.0.0.1", secure.port, ssl=context)
    assert "NO_PROTOCOLS" not in str(refused.value), "it was our own side that refused"
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    alice = await register(secure.url, "alice", context)
    await alice.close()


async def test_a_certificate_of_an_unknown_authority_is_refused_by_the_client(
    secure: Gateway,
) -> None:
    """The client checks, too."""
    with pytest.raises(ssl.SSLCertVerificationError):
        await connect(secure.url, proxy=None)


@pytest.mark.slow
async def test_a_certificate_that_cannot_be_used_is_one_line(
    shared_server: BundledServer, tmp_path: Path
) -> None:
    """In a process exit code 2; in a program an exception, and nothing is left running."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate\n")
    for path in (broken, tmp_path / "absent.pem"):
        settings = GatewaySettings(
            gateway_id="gateway-01", port=0, redis_url=shared_server.url, certfile=str(path)
        )
        with pytest.raises(TLSUnusable):
            await Gateway(settings).start()
        code, _, err = await run("--id", "gateway-01", "--port", "0", "--certfile", str(path))
        assert (code, err.count("\n")) == (2, 1), err


@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
async def test_a_gateway_reachable_from_other_machines_without_tls_warns(
    shared_server: BundledServer, certfile: Path, with_tls: bool
) -> None:
    """Once, at its start, and only then."""
    flags = ["--host", "0.0.0.0", "--key-prefix", f"tls{id(certfile)}:"]
    if with_tls:
        flags += ["--certfile", str(certfile)]
    async with GatewayProcess("gateway-01", shared_server.url, *flags) as process:
        pass  # What it has to say, it says before that it listens.
    warned = sum("without TLS" in line for line in process.log)
    assert warned == (0 if with_tls else 1)
