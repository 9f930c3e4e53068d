"""Lower bounds: what would a message cost if our own code cost nothing?

`echo` is a WebSocket server that sends back what it receives, on the same socket layer as the
gateway, without Redis. `pubsub` publishes to itself through one Redis, without WebSockets, on the
same link and subscription as the gateway. A message across two gateways needs a little more than
both together: it is read, published, received and written once each.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import uvloop

from wsdemo.gateway.access_control import AccessControl
from wsdemo.gateway.counters import Counters
from wsdemo.gateway.outbox import Flusher
from wsdemo.gateway.rate import Rate
from wsdemo.gateway.socket import Socket, SocketServices
from wsdemo.protocol import message_text
from wsdemo.redis.link import RedisLink
from wsdemo.redis.subscription import Subscription
from wsdemo.settings import GatewaySettings, Limits


class Echo:
    """Answers `registered` to the first text and sends all others back."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._registered = False

    def on_text(self, data: bytes) -> None:
        if self._registered:
            self._socket.send(data)
        else:
            self._registered = True
            self._socket.no_deadline()
            self._socket.send(b'{"type":"registered"}')

    def on_closing(self) -> None:
        pass

    def on_closed(self) -> None:
        pass


async def echo(port: int) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    services = SocketServices(
        loop=loop,
        clock=time.monotonic,
        limits=Limits(),
        counters=Counters(),
        flusher=Flusher(loop),
        fast_frames=True,
        access=AccessControl(GatewaySettings(gateway_id="echo")),
        control_rate=Rate.of(10, 20),
        answer=lambda request, path, socket: None,
        welcome=Echo,
        sockets={},
        idle=asyncio.Event(),
    )
    server = await loop.create_server(lambda: Socket(services), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


async def pubsub(url: str, messages: int, in_flight: int, size: int) -> dict[str, Any]:
    """Publish so many messages to ourselves; return the CPU time a message, in microseconds."""
    done = asyncio.Event()
    heard = sent = 0
    text = message_text("alice", b'"%b"' % (b"x" * size), None)

    def publish() -> None:
        nonlocal sent
        if sent < messages:
            sent += 1
            link.submit(lambda reply: None, "PUBLISH", "floor", text)

    def hear(channel: bytes, data: bytes) -> None:
        nonlocal heard
        heard += 1
        if heard == messages:
            done.set()
        publish()

    link = RedisLink(url, Limits())
    subscription = Subscription(url, Limits(), ["floor"], hear)
    await link.start()
    await subscription.start()
    started = time.process_time()
    for _ in range(in_flight):
        publish()
    await asyncio.wait_for(done.wait(), 60)
    used_s = time.process_time() - started
    await subscription.stop()
    await link.stop()
    return {"cpu_us": 1e6 * used_s / messages, "messages": messages}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(echo(parser.parse_args().port))
