"""Gateways in the test's own process, and raw sockets that say what no client would."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import os
import struct
from collections.abc import AsyncIterator
from typing import Any, Self

from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.settings import GatewaySettings, Keyspace, Limits, Timing


@contextlib.asynccontextmanager
async def gateway(
    server: BundledServer,
    keyspace: Keyspace,
    gateway_id: str = "gateway-01",
    *,
    fast_frames: bool = True,
    timing: Timing | None = None,
    emit: Any = None,
    **limits: Any,
) -> AsyncIterator[Gateway]:
    """A running gateway on the shared server."""
    settings = GatewaySettings(
        gateway_id=gateway_id,
        port=0,
        redis_url=server.url,
        keyspace=keyspace,
        fast_frames=fast_frames,
        timing=timing or Timing(),
        limits=dataclasses.replace(Limits(), **limits),
    )
    async with Gateway(settings, emit=emit) as running:
        yield running


class Raw:
    """A WebSocket of bytes: frames as we like them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, gateway: Gateway) -> Self:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert b" 101 " in head.splitlines()[0], head
        return cls(reader, writer)

    def frame(
        self, payload: bytes, *, opcode: int = 1, fin: bool = True, mask: bool = True
    ) -> None:
        """Send one frame."""
        first = (0x80 if fin else 0) | opcode
        size, bit = len(payload), 0x80 if mask else 0
        if size < 126:
            head = bytes([first, bit | size])
        elif size < 65536:
            head = bytes([first, bit | 126]) + struct.pack("!H", size)
        else:
            head = bytes([first, bit | 127]) + struct.pack("!Q", size)
        key = b"\x01\x02\x03\x04" if mask else b""
        body = bytes(b ^ key[i % 4] for i, b in enumerate(payload)) if mask else payload
        self.writer.write(head + key + body)

    async def hear(self, timeout_s: float = 10.0) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame."""
        async with asyncio.timeout(timeout_s):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(size)

    async def closed(self, timeout_s: float = 10.0) -> int:
        """Read until the close frame; return its code, or 1006 when there was none."""
        try:
            while True:
                opcode, payload = await self.hear(timeout_s)
                if opcode == 8:
                    return int.from_bytes(payload[:2], "big")
        except (asyncio.IncompleteReadError, ConnectionError):
            return 1006

    async def leave(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.leave()
