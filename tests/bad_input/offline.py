"""What does a connection write, without a network?

A gateway that was not started, and transports that write into a list: everything from the bytes of
a client to the bytes of its answers is the gateway's own code, and thousands of conversations take
a second. Presence is a count in memory; Redis is away, so a message for somebody else is `busy`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from wsdemo.gateway.server import Gateway
from wsdemo.gateway.socket import Socket
from wsdemo.presence import Claim, Refresh, Register, Registration, Release, Renewal
from wsdemo.settings import GatewaySettings, Limits

EOF, ABORTED = b"<end>", b"<aborted>"
"""What the transport notes between the bytes. No answer of a gateway contains them."""


class Recorder(asyncio.Transport):
    """A transport whose peer reads everything at once; what is written, and its end, is noted."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written: list[bytes] = []
        self.reading = True
        self._closing = False

    def write(self, data: Any) -> None:
        assert EOF not in self.written, "nothing can be written behind the end"
        if not self._closing:
            self.written.append(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.written.append(EOF)

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        if not self._closing:
            self.written.append(ABORTED)
        self._closing = True

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """It is never full."""


class MemoryPresence:
    """Every session that registers becomes the owner."""

    def __init__(self) -> None:
        self._tokens = itertools.count(1)

    async def mint(self, user: str) -> int:
        return next(self._tokens)

    async def register(self, claim: Claim) -> Registration:
        return Registration(Register.OK)

    async def refresh(self, renewals: Sequence[Renewal]) -> Sequence[Refresh | Exception]:
        return [Refresh.OK] * len(renewals)

    async def release(self, claim: Claim) -> Release:
        return Release.REMOVED


class Offline:
    """A gateway without a network. Its clock does not move, and its connections are numbered."""

    def __init__(self, fast_frames: bool, **limits: Any) -> None:
        ids = itertools.count()
        self.gateway = Gateway(
            GatewaySettings(
                gateway_id="gateway-01",
                fast_frames=fast_frames,
                limits=dataclasses.replace(Limits(), **limits),
            ),
            presence=lambda link, settings: MemoryPresence(),
            clock=lambda: 1.0,
            new_id=lambda: f"c{next(ids)}",
        )
        # What `start` does, but for Redis and the port.
        self.services = self.gateway._make_socket_services(asyncio.get_running_loop())
        self.gateway._socket_services = self.services

    async def converse(self, chunks: Sequence[bytes]) -> bytes:
        """Let a client connect, send these chunks and disconnect; return all that it receives."""
        transport, socket = Recorder(), Socket(self.services)
        socket.connection_made(transport)
        for chunk in chunks:
            if transport.is_closing():
                break
            assert transport.reading, "nothing here takes so long that reading has to stop"
            if chunk:
                socket.data_received(chunk)
            await self.settle()
        if not transport.is_closing():
            socket.eof_received()
            await self.settle()
        transport.close()
        socket.connection_lost(None)
        await self.settle()
        return b"".join(transport.written)

    async def settle(self) -> None:
        """Let end what is under way: registers, releases, and the writes of this turn."""
        await asyncio.sleep(0)
        while self.gateway._tasks:
            await asyncio.sleep(0)
        await asyncio.sleep(0)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut at these places, taken modulo the length."""
    at = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(at)]
