"""Simulated TCP: does a transport fail as those do on which gateways run?"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from wsdemo.gateway.delivery import Delivery
from wsdemo.gateway.session import Session
from wsdemo.gateway.socket import Socket
from wsdemo.proof.simulate import simulate
from wsdemo.proof.simulate.connection import SimulatedTransport
from wsdemo.proof.simulate.loop import VirtualTimeLoop
from wsdemo.proof.simulate.network import SimulatedNetwork


class Peer(asyncio.Protocol):
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.end: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.end = transport

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append(type(exc))


Conversation = Callable[[SimulatedTransport, Peer, Peer], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a simulation leaves to the collector must not be blamed on another test."""
    yield
    gc.collect()


def converse(conversation: Conversation) -> None:
    """Connect two hosts, and let one of them do something with its end."""
    loop = VirtualTimeLoop()
    network = loop.network = SimulatedNetwork(loop, "1")
    server, client = network.host("server"), network.host("client")
    far, near = Peer(), Peer()

    async def work() -> None:
        network.listen(server, 1, lambda: far)
        end = await network.dial("server", 1)
        end.serve(near)
        await asyncio.sleep(1.0)
        await conversation(end, near, far)
        await asyncio.sleep(1.0)
        for peer in (near, far):
            if not peer.end.is_closing():
                peer.end.abort()

    async def run() -> None:
        await client.spawn(work(), "work")

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


def test_writing_after_the_loss_of_a_connection_raises() -> None:
    """As with uvloop's transports. Between `abort` and `connection_lost`, it is ignored."""

    async def conversation(end: SimulatedTransport, near: Peer, far: Peer) -> None:
        end.abort()
        end.write(b"too late")
        await asyncio.sleep(1.0)
        assert near.heard == [type(None)]
        writes: list[Callable[[], object]] = [lambda: end.write(b"later"), end.write_eof]
        for late in writes:
            with pytest.raises(RuntimeError, match="the handler is closed"):
                late()

    converse(conversation)


def test_writing_after_write_eof_raises() -> None:
    """The other direction goes on."""

    async def conversation(end: SimulatedTransport, near: Peer, far: Peer) -> None:
        end.write_eof()
        with pytest.raises(RuntimeError, match="after write_eof"):
            end.write(b"one thing more")
        await asyncio.sleep(1.0)
        assert far.heard == ["eof", type(None)]

    converse(conversation)


def test_an_abort_is_a_reset_at_the_other_side() -> None:
    """What was sent before it may be read, and the end is an error."""

    async def conversation(end: SimulatedTransport, near: Peer, far: Peer) -> None:
        end.write(b"last words")
        end.abort()
        await asyncio.sleep(1.0)
        assert far.heard == [b"last words", ConnectionResetError]

    converse(conversation)


def test_a_close_is_an_end_at_the_other_side() -> None:
    """The other side reads to the end, and gets no error."""

    async def conversation(end: SimulatedTransport, near: Peer, far: Peer) -> None:
        end.write(b"last words")
        end.close()
        await asyncio.sleep(1.0)
        assert far.heard == [b"last words", "eof", type(None)]

    converse(conversation)


def test_a_reset_client_cannot_be_written_to() -> None:
    """The host that was dialled learns it from a packet, and then its transport is gone."""

    async def conversation(end: SimulatedTransport, near: Peer, far: Peer) -> None:
        end.connection.reset()
        await asyncio.sleep(1.0)
        assert near.heard == far.heard == [ConnectionResetError]
        with pytest.raises(RuntimeError, match="the handler is closed"):
            far.end.write(b"an ack")

    converse(conversation)


def test_a_half_closed_client_can_still_read() -> None:
    """Until the other side has answered the end with its own."""

    async def conversation(end: SimulatedTransport, near: Peer, far: Peer) -> None:
        far.end.write(b"before")
        end.connection.half_close()
        await asyncio.sleep(1.0)
        assert far.heard == ["eof", type(None)]
        assert near.heard == [b"before", "eof", type(None)]

    converse(conversation)


def planted(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    """Put a mistake into the gateways."""
    if mistake == "something is written to a connection that is lost":
        lost = Socket.connection_lost

        def connection_lost(self: Socket, exc: Exception | None) -> None:
            lost(self, exc)
            self._transport.write(b"late")

        monkeypatch.setattr(Socket, "connection_lost", connection_lost)
    elif mistake == "every third ack is not sent":
        _skip(monkeypatch, Session, "send", 3, only=b'"ack"')
    elif mistake == "every third pong is not sent":
        _skip(monkeypatch, Session, "send", 3, only=b'"pong"')
    else:
        assert mistake == "every fifth message is not delivered"
        _skip(monkeypatch, Delivery, "receive_direct", 5)


def _skip(
    monkeypatch: pytest.MonkeyPatch, where: type, name: str, every: int, only: bytes = b""
) -> None:
    done, count = getattr(where, name), 0

    def now_and_then(self: Any, what: Any) -> None:
        nonlocal count
        if not only or only in what:
            count += 1
            if count % every == 0:
                return
        done(self, what)

    monkeypatch.setattr(where, name, now_and_then)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("mistake", "claims"),
    [
        ("something is written to a connection that is lost", {"exception"}),
        ("every third ack is not sent", {"answer", "calm"}),
        ("every third pong is not sent", {"pong", "calm"}),
        ("every fifth message is not delivered", {"lost", "calm"}),
    ],
)
@pytest.mark.slow
def test_the_simulation_finds_a_planted_mistake(
    mistake: str, claims: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the gateways is found within a few seeds, as a violation of the right claims."""
    planted(monkeypatch, mistake)
    found: set[str] = set()
    for seed in range(1, 6):
        found |= {violation.claim for violation in simulate(seed, 3.0).violations}
        if claims <= found:
            return
    raise AssertionError(f"found only {sorted(found)}")
