"""Gateways in the test's own process, and raw sockets that say what no client would."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self

import pytest

from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.presence import Claim, RedisPresence, Registration
from wsdemo.redis.server import BundledServer
from wsdemo.rig.wire import Wire
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
    time_of_day: Callable[[], float] = time.time,
    settings: Mapping[str, Any] | None = None,
    **limits: Any,
) -> AsyncIterator[Gateway]:
    """A running gateway on the shared server."""
    told = GatewaySettings(
        gateway_id=gateway_id,
        port=0,
        redis_url=server.url,
        keyspace=keyspace,
        fast_frames=fast_frames,
        timing=timing or Timing(),
        limits=dataclasses.replace(Limits(), **limits),
        **settings or {},
    )
    async with Gateway(told, emit=emit, time_of_day=time_of_day) as running:
        yield running


def over_wire(
    wire: Wire, server: BundledServer, keyspace: Keyspace, *, inbox: Any = None, **limits: Any
) -> GatewaySettings:
    """Return the settings of a gateway that reaches its Redis over a wire."""
    return GatewaySettings(
        gateway_id="gateway-01",
        port=0,
        redis_url=server.url_by(wire.port),
        keyspace=keyspace,
        limits=dataclasses.replace(Limits(), **limits),
        inbox=inbox,
    )


USUAL = {
    "Host": "localhost:8080",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
"""The headers of a handshake that every gateway takes."""


def request(
    headers: Mapping[str, str] = USUAL, line: str = "GET /ws HTTP/1.1", without: str = ""
) -> bytes:
    """Return a request for a WebSocket; `without` names a header to be left out."""
    kept = [f"{name}: {value}" for name, value in headers.items() if name != without]
    return ("\r\n".join([line, *kept]) + "\r\n\r\n").encode("latin-1")


def frame(
    payload: bytes = b"",
    *,
    opcode: int = 1,
    fin: bool = True,
    rsv: int = 0,
    mask: bool = True,
    width: int = 0,
    length: int | None = None,
) -> bytes:
    """Return a frame as RFC 6455 has it, or as it should not be.

    Args:
        rsv: the three reserved bits.
        width: bytes of the length field, 0, 2 or 8; at least as many as the length needs.
        length: what the frame says its length is, if that is a lie.
    """
    size = len(payload) if length is None else length
    bit = 0x80 if mask else 0
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    if size < 126 and width == 0:
        head = bytes([first, bit | size])
    elif size < 65536 and width <= 2:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not mask:
        return head + payload
    key = b"\x01\x02\x03\x04"
    body = int.from_bytes(payload, "big") ^ int.from_bytes(
        (key * (len(payload) // 4 + 1))[: len(payload)], "big"
    )
    return head + key + body.to_bytes(len(payload), "big")


class Raw:
    """A WebSocket of bytes: frames as we like them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, gateway: Gateway) -> Self:
        """Connect, and say nothing yet."""
        return cls(*await asyncio.open_connection("127.0.0.1", gateway.port))

    @classmethod
    async def open(cls, gateway: Gateway) -> Self:
        """Connect, and shake hands."""
        raw = await cls.connect(gateway)
        raw.writer.write(request())
        head = await raw.head()
        assert b" 101 " in head.splitlines()[0], head
        return raw

    @classmethod
    async def register(cls, gateway: Gateway, user: str) -> Self:
        """Connect, shake hands, and be `user`."""
        raw = await cls.open(gateway)
        raw.frame(json.dumps({"type": "register", "userId": user}).encode())
        answer = await raw.answer()
        assert answer["type"] == "registered", answer
        return raw

    def frame(self, payload: bytes = b"", **options: Any) -> None:
        """Send one frame; for the options see `frame`."""
        self.writer.write(frame(payload, **options))

    async def head(self, timeout_s: float = 10.0) -> bytes:
        """Return the head of a HTTP answer."""
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), timeout_s)

    async def rest(self, timeout_s: float = 10.0) -> bytes:
        """Return all that comes until the gateway hangs up."""
        return await asyncio.wait_for(self.reader.read(), timeout_s)

    async def answer(self, timeout_s: float = 10.0) -> dict[str, Any]:
        """Return the next message."""
        opcode, payload = await self.hear(timeout_s)
        assert opcode == 1, (opcode, payload)
        document: dict[str, Any] = json.loads(payload)
        return document

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

    def half_close(self) -> None:
        """Say that nothing more will be said, as a client does that shuts down its writing side."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Hang up with a TCP reset, as the kernel of a killed process does, or a lost network."""
        end = self.writer.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def leave(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.leave()


class Gates:
    """Where the way of mallory's register can be held, or end in an exception. Others pass.

    `where` is one of mint, register (nothing has reached Redis) and registered (it has taken
    effect, and nobody knows it).
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.where = ""
        self.open = asyncio.Event()
        self.problem: Exception | None = None
        """What comes when the gate opens."""
        self.passed: list[str] = []
        """Where mallory has been, in order."""
        mint, register = RedisPresence.mint, RedisPresence.register

        async def held_mint(presence: RedisPresence, user: str) -> int:
            await self._pass("mint", user)
            return await mint(presence, user)

        async def held_register(presence: RedisPresence, claim: Claim) -> Registration:
            await self._pass("register", claim.user)
            registration = await register(presence, claim)
            await self._pass("registered", claim.user)
            return registration

        monkeypatch.setattr(RedisPresence, "mint", held_mint)
        monkeypatch.setattr(RedisPresence, "register", held_register)

    async def _pass(self, where: str, user: str) -> None:
        if user != "mallory":
            return
        self.passed.append(where)
        if where == self.where:
            await self.open.wait()
            if self.problem is not None:
                raise self.problem

    async def reached(self) -> None:
        """Wait until mallory stands at the gate."""
        await until(f"mallory is at {self.where}", lambda: self.where in self.passed)
