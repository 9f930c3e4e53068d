"""Gateways as processes of their own, and users who talk to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

START_S = 20.0
"""Generous: a process starts in well under a second on an idle machine."""


class GatewayProcess:
    """`python -m wsdemo.gateway` on a port of the system's choice, as a context manager."""

    def __init__(self, gateway_id: str, redis_url: str, *flags: str) -> None:
        self.gateway_id = gateway_id
        self.url = ""
        self.port = 0
        self.log: list[str] = []
        self._arguments = ("--id", gateway_id, "--port", "0", *flags)
        self._redis_url = redis_url
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    async def start(self) -> Self:
        # The URL holds a password, and `ps` shows everybody the arguments.
        environment = {**os.environ, "WSDEMO_REDIS_URL": self._redis_url}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "wsdemo.gateway",
            *self._arguments,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        self._reader = asyncio.create_task(self._read_log(), name="log reader")
        async with asyncio.timeout(START_S):
            await self._listening.wait()
        assert self.url, "\n".join(self.log)
        return self

    async def _read_log(self) -> None:
        assert self._process is not None and self._process.stderr is not None
        async for line in self._process.stderr:
            text = line.decode().rstrip()
            self.log.append(text)
            if found := re.search(r"listens on (wss?://\S+:(\d+)/ws)", text):
                self.url, self.port = found[1], int(found[2])
                self._listening.set()
        self._listening.set()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self, timeout_s: float) -> int:
        """Wait for the end and return the exit code."""
        assert self._process is not None
        async with asyncio.timeout(timeout_s):
            return await self._process.wait()

    async def stop(self) -> None:
        """End it, by force if need be. Idempotent."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
                self.signal(signal.SIGKILL)
            await self._process.wait()
        if self._reader is not None:
            await self._reader
            self._reader = None

    async def get(self, path: str) -> tuple[int, str]:
        """Fetch a page; return its status and body."""
        return await http_get(self.port, path)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()


@contextlib.asynccontextmanager
async def gateways(count: int, redis_url: str, *flags: str) -> AsyncIterator[list[GatewayProcess]]:
    """Start several at the same time; end all of them."""
    processes = [GatewayProcess(f"gateway-{n:02}", redis_url, *flags) for n in range(1, count + 1)]
    try:
        await asyncio.gather(*(process.start() for process in processes))
        yield processes
    finally:
        await asyncio.gather(*(process.stop() for process in processes))


async def http_get(port: int, path: str) -> tuple[int, str]:
    """Fetch a page from loopback; return its status and body."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body.decode()


class User:
    """A user who says exactly what a test tells it to: no reconnect, no heartbeat."""

    def __init__(self, name: str, connection: ClientConnection) -> None:
        self.name = name
        self.connection = connection

    @classmethod
    async def register(cls, name: str, url: str) -> User:
        connection = await connect(url, proxy=None, ping_interval=None, compression=None)
        user = cls(name, connection)
        await user.say(type="register", userId=name)
        answer = await user.hear()
        assert answer["type"] == "registered", answer
        return user

    async def say(self, **document: Any) -> None:
        await self.connection.send(json.dumps(document))

    async def hear(self, timeout_s: float = 10.0) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s):
            document: dict[str, Any] = json.loads(await self.connection.recv())
            return document

    async def send(self, to: str, content: str, msg_id: str = "1") -> str:
        """Send a message and return the status of its ack."""
        await self.say(type="message", to=to, content=content, id=msg_id)
        answer = await self.hear()
        assert answer["type"] == "ack" and answer["id"] == msg_id, answer
        return str(answer["status"])

    async def closed(self, timeout_s: float = 15.0) -> tuple[int | None, str]:
        """Wait until the gateway hangs up; return its code and reason."""
        async with asyncio.timeout(timeout_s):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.connection.recv()
        return self.connection.close_code, self.connection.close_reason or ""

    async def leave(self) -> None:
        await self.connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.leave()
