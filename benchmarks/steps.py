"""Steps of a message: how many calls does the interpreter make on its way?

A guard without a clock. Two gateways run in this process, on the loop and with the log of a gateway
as people start it; a user of one sends to a user of the other, one message at a time, through a
real Redis. What is counted are the calls of functions of `wsdemo`, and the calls of C code by them.
The figure is the same on a slow or a busy machine, so a test holds it (`MOST`), and a change that
lets each message do more is seen at once. What the calls cost is what `make bench` measures.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import wsdemo
from benchmarks.websocket import REGISTERED, UPGRADED, FrameClient, frame, register
from wsdemo.gateway.journal import Journal
from wsdemo.gateway.log import Text, TextJournal
from wsdemo.gateway.server import Gateway
from wsdemo.redis.server import BundledServer
from wsdemo.settings import GatewaySettings

MESSAGES: Final = 100
WARM_UP: Final = 20
DEADLINE_S: Final = 10.0
CONTENT_BYTES: Final = 64
PACKAGE: Final = str(Path(wsdemo.__file__).parent)


@dataclass(frozen=True)
class Steps:
    """Calls a message, both gateways together."""

    python: float
    """Calls of functions of `wsdemo`."""
    c: float
    """Calls of C code by them. (Not all: operators and calls without arguments are no calls.)"""
    by_name: dict[str, float]
    """The first kind, by the module and the name of the function."""


MOST: Final = Steps(python=25, c=45, by_name={})
"""What a message may take: a little more than it does, because versions of Python differ."""


class _User(FrameClient):
    """Notes what has arrived."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.registered = asyncio.Event()
        self.heard = asyncio.Event()

    def _answered(self, status: str) -> None:
        assert status == UPGRADED, status
        self.transport.write(register(self._name))

    def _take(self, first: int, payload: bytes) -> None:
        if REGISTERED in payload:
            self.registered.set()
        elif b'"message"' in payload:
            self.heard.set()


class _Tally:
    """Counts calls while it is switched on."""

    def __init__(self) -> None:
        self.python: Counter[str] = Counter()
        self.c = 0

    def __call__(self, at: FrameType, event: str, what: Any) -> None:
        code = at.f_code
        if not code.co_filename.startswith(PACKAGE):
            return
        if event == "call":
            self.python[f"{Path(code.co_filename).stem}.{code.co_name}"] += 1
        elif event == "c_call":
            self.c += 1

    @contextmanager
    def counting(self) -> Iterator[None]:
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)


async def _join(gateway: Gateway, name: str) -> _User:
    loop = asyncio.get_running_loop()
    _, user = await loop.create_connection(lambda: _User(name), "127.0.0.1", gateway.port)
    async with asyncio.timeout(DEADLINE_S):
        await user.registered.wait()
    return user


async def _send(sender: _User, recipient: _User, message: bytes, times: int) -> None:
    for _ in range(times):
        recipient.heard.clear()
        sender.transport.write(message)
        async with asyncio.timeout(DEADLINE_S):
            await recipient.heard.wait()


async def _count(url: str, journal: Journal) -> Steps:
    gateways = [
        Gateway(GatewaySettings(gateway_id=name, port=0, redis_url=url), journal=journal)
        for name in ("gateway-01", "gateway-02")
    ]
    tally, users = _Tally(), list[_User]()
    text = {"type": "message", "to": "user-2", "content": "x" * CONTENT_BYTES}
    message = frame(json.dumps(text, separators=(",", ":")).encode())
    try:
        for gateway, name in zip(gateways, ("user-1", "user-2"), strict=True):
            await gateway.start()
            users.append(await _join(gateway, name))
        alice, bob = users
        await _send(alice, bob, message, WARM_UP)
        with tally.counting():
            await _send(alice, bob, message, MESSAGES)
    finally:
        for user in users:
            user.transport.close()
        for gateway in gateways:
            await gateway.stop()
    return Steps(
        python=tally.python.total() / MESSAGES,
        c=tally.c / MESSAGES,
        by_name={name: n / MESSAGES for name, n in tally.python.most_common()},
    )


def count_steps(loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> Steps:
    """Count, on a loop of this kind (asyncio's, unless told otherwise)."""
    with (
        BundledServer() as server,
        Path(os.devnull).open("wb") as nowhere,
        TextJournal(nowhere.fileno(), Text()) as journal,
        asyncio.Runner(loop_factory=loop) as runner,
    ):
        return runner.run(_count(server.url, journal))
