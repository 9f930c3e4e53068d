"""TCP relay: does a wire do to bytes what the test says, and nothing else?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from wsdemo.rig.wire import Wire


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """An echo server; yields its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(4096):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def test_slices_arrive_complete_and_in_order(echo: int) -> None:
    """One byte at a time is slow, but the bytes are the same."""
    async with Wire("127.0.0.1", echo) as wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        wire.slice(1)
        said = bytes(range(256)) * 8
        writer.write(said)
        async with asyncio.timeout(10):
            assert await reader.readexactly(len(said)) == said
        writer.close()


async def test_a_slice_has_at_least_one_byte(echo: int) -> None:
    """Slices of no bytes would be the same as `hold`."""
    async with Wire("127.0.0.1", echo) as wire:
        with pytest.raises(ValueError, match="at least one byte"):
            wire.slice(0)


async def test_a_reset_comes_within_a_reply(echo: int) -> None:
    """After a number of bytes the connection is reset; the next connection is complete again."""
    async with Wire("127.0.0.1", echo) as wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(b"hello")
        async with asyncio.timeout(10):
            assert await reader.readexactly(5) == b"hello"
            for strand in wire.strands():
                strand.reset_within(3, "down")
            writer.write(b"world")
            heard = b""
            with pytest.raises(ConnectionResetError):
                while True:
                    data = await reader.read(100)
                    assert data, "the connection ended as if nothing had happened"
                    heard += data
            assert heard in (b"", b"wor")  # A reset may overtake what is not yet read.
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            writer.write(b"world")
            assert await reader.readexactly(5) == b"world"
        writer.close()
