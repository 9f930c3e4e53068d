"""Users who talk through two gateways on a cluster, and what became of each of their messages.

Senders are on the first gateway, recipients on the second. Each message has an id, and its content
is its number, so that it can be told what came, how often and in which order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.waiting import until
from wsdemo.gateway.server import Gateway
from wsdemo.settings import GatewaySettings, Keyspace, Limits, Timing

TIMING = Timing(
    heartbeat_s=2.0, presence_ttl_s=6.0, idle_timeout_s=8.0, tick_s=0.2, probe_interval_s=1.0
)


@contextlib.asynccontextmanager
async def gateways(
    url: str, keyspace: Keyspace, count: int = 2, **settings: Any
) -> AsyncIterator[list[Gateway]]:
    """Run gateways of this process on a cluster."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Gateway(
                    GatewaySettings(
                        gateway_id=f"gateway-{number:02}",
                        port=0,
                        redis_url=url,
                        keyspace=keyspace,
                        **{"timing": TIMING, "limits": Limits(), **settings},
                    )
                )
            )
            for number in range(1, count + 1)
        ]


class Talker:
    """One user."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.acks: dict[str, str] = {}
        self.got: list[dict[str, Any]] = []
        self.frames: list[dict[str, Any]] = []
        self.closed: str = ""
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self, gateway: Gateway, **fields: Any) -> dict[str, Any]:
        """Connect and register; return what the gateway said first."""
        socket = self._socket = await connect(gateway.url, proxy=None, ping_interval=None)
        await socket.send(json.dumps({"type": "register", "userId": self.name, **fields}))
        first: dict[str, Any] = json.loads(await socket.recv())
        self._task = asyncio.create_task(self._read(socket))
        return first

    async def _read(self, socket: ClientConnection) -> None:
        beat = asyncio.create_task(self._beat(socket))
        try:
            async for text in socket:
                frame = json.loads(text)
                self.frames.append(frame)
                if frame["type"] == "ack":
                    self.acks[frame["id"]] = frame["status"]
                elif frame["type"] == "message":
                    self.got.append(frame)
        except ConnectionClosed:
            pass
        finally:
            beat.cancel()
        self.closed = f"{socket.close_code} {socket.close_reason}"

    @staticmethod
    async def _beat(socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(1.0)
                await socket.send('{"type":"ping"}')

    async def send(self, **document: Any) -> None:
        """Send a frame, if there is a connection."""
        if self._socket is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._socket.send(json.dumps(document))

    async def close(self) -> None:
        """Disconnect."""
        if self._socket is not None:
            await self._socket.close()
        if self._task is not None:
            await self._task


@dataclass
class Traffic:
    """Pairs of users, and all that they have sent."""

    senders: Sequence[Talker]
    readers: Sequence[Talker]
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By id: which pair, and which number."""
    closed: list[str] = field(default_factory=list)
    """Why gateways have closed connections."""
    _going: bool = True

    async def run(self, per_s: float) -> None:
        """Send until `end`, from one pair after the other."""
        loop = asyncio.get_running_loop()
        began, n = loop.time(), 0
        while self._going:
            while n <= (loop.time() - began) * per_s:
                await self.say(n % len(self.senders), n // len(self.senders))
                n += 1
            await asyncio.sleep(0.005)

    async def say(self, pair: int, number: int) -> None:
        """Send one message."""
        msg_id = f"{pair}-{number}"
        self.sent[msg_id] = pair, number
        to = self.readers[pair].name
        await self.senders[pair].send(type="message", to=to, content=str(number), id=msg_id)

    async def flows(self) -> None:
        """Wait until each pair has had a message routed that was sent after this call."""
        first = len(self.sent) // len(self.senders) + 1
        what = "new messages of all pairs are routed"
        await until(what, lambda: self._flows_from(first), 20, every_s=0.02)

    def _flows_from(self, first: int) -> bool:
        numbers = range(first, 1 + len(self.sent) // len(self.senders))
        return all(
            any(one.acks.get(f"{pair}-{number}") == "routed" for number in numbers)
            for pair, one in enumerate(self.senders)
        )

    def end(self) -> None:
        """Send no more."""
        self._going = False

    @property
    def acks(self) -> dict[str, str]:
        """What senders were told."""
        return {msg_id: status for one in self.senders for msg_id, status in one.acks.items()}

    @property
    def told(self) -> Counter[str]:
        """How often senders were told what."""
        return Counter(self.acks.values())

    def heard(self) -> Counter[str]:
        """How often each message came."""
        return Counter(str(frame["id"]) for reader in self.readers for frame in reader.got)

    def check(self) -> None:
        """Check the promises: told is heard, at most once, and in order among what was told to be
        routed.
        """
        heard, acks = self.heard(), self.acks
        routed = {msg_id for msg_id, status in acks.items() if status == "routed"}
        assert set(acks) == set(self.sent), "each message has an answer"
        assert routed <= heard.keys(), f"told, and not heard: {routed - heard.keys()}"
        assert max(heard.values()) == 1, "heard twice"
        busy = {msg_id for msg_id, status in acks.items() if status == "busy"}
        assert not busy & heard.keys(), "heard, and told that it was never sent"
        for reader in self.readers:
            order = [int(f["content"]) for f in reader.got if f["id"] in routed]
            assert order == sorted(order), f"{reader.name} heard {order}"


@contextlib.asynccontextmanager
async def traffic(
    two: Sequence[Gateway], pairs: int = 24, per_s: float = 120.0
) -> AsyncIterator[Traffic]:
    """Let pairs of users talk; at the end all is answered, and the promises are checked."""
    it = Traffic([Talker(f"s{n}") for n in range(pairs)], [Talker(f"r{n}") for n in range(pairs)])
    await asyncio.gather(*(one.open(two[0]) for one in it.senders))
    await asyncio.gather(*(one.open(two[1]) for one in it.readers))
    talking = asyncio.create_task(it.run(per_s))
    try:
        yield it
        it.end()
        await talking
        await _settle(it)
        it.closed = [one.closed for one in (*it.senders, *it.readers) if one.closed]
    finally:
        it.end()
        await asyncio.wait([talking])
        await asyncio.gather(*(one.close() for one in (*it.senders, *it.readers)))
    it.check()


async def _settle(it: Traffic) -> None:
    """Wait until each message has its answer, and what was told to be routed has come."""
    async with asyncio.timeout(10):
        while len(it.acks) < len(it.sent):
            await asyncio.sleep(0.02)
        while any(s == "routed" and not it.heard()[i] for i, s in it.acks.items()):
            await asyncio.sleep(0.05)
