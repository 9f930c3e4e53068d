"""How does a gateway run as a process that can be killed, stopped and told to go?

By its command line, as production runs it: nothing here reaches into the process. It is known by
its pid, by what it writes to stderr, and by the pages that it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Final, Self

START_S: Final = 20.0
"""Generous: a process starts in well under a second on an idle machine."""
PAGE_S: Final = 10.0
LOG_LINES: Final = 2000
"""What is kept of the log; a long run writes millions of lines."""


class GatewayDied(Exception):
    """The process ended before it listened; the text is what it wrote."""


class GatewayProcess:
    """`python -m wsdemo.gateway` on a port of the system's choice, as a context manager.

    The port, once chosen, stays for the life of this object: users find the gateway again after
    `stop` and `start`. `prefix` is a command that runs another one, before its name.
    """

    def __init__(
        self, gateway_id: str, redis_url: str, *flags: str, prefix: Sequence[str] = ()
    ) -> None:
        self.gateway_id = gateway_id
        self.url = ""
        self.port = 0
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self._flags = flags
        self._prefix = prefix
        self._redis_url = redis_url
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 before the first start."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether the process exists; a stopped (SIGSTOP) one does."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> Self:
        """Start it and wait until it listens.

        Raises:
            GatewayDied: it ended instead; `wait` then returns its exit code.
        """
        # The URL holds a password, and `ps` shows everybody the arguments.
        environment = {**os.environ, "WSDEMO_REDIS_URL": self._redis_url}
        where = ("--id", self.gateway_id, "--port", str(self.port))
        # Options that are given twice count as given last: flags may choose a port.
        self._process = await asyncio.create_subprocess_exec(
            *(*self._prefix, sys.executable, "-m", "wsdemo.gateway", *where, *self._flags),
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        listens = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read_log(listens), name="log reader")
        async with asyncio.timeout(START_S):
            if not await listens:
                raise GatewayDied("\n".join(self.log))
        return self

    async def _read_log(self, listens: asyncio.Future[bool]) -> None:
        assert self._process is not None and self._process.stderr is not None
        async for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            self.log.append(text)
            if found := re.search(r"listens on (wss?://\S+:(\d+)/ws)", text):
                self.url, self.port = found[1], int(found[2])
                if not listens.done():
                    listens.set_result(True)
        if not listens.done():
            listens.set_result(False)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if there is still somebody to send it to."""
        assert self._process is not None
        if self._process.returncode is None:
            # Not by the library's way: it first looks whether the process has just ended, and so
            # takes the exit code away from whoever waits for it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def wait(self, timeout_s: float) -> int:
        """Wait for the end and return the exit code; minus the signal's number if one ended it.

        Raises:
            TimeoutError: it still runs.
        """
        assert self._process is not None
        async with asyncio.timeout(timeout_s):
            return await self._process.wait()

    async def stop(self) -> None:
        """End it, by force if need be. Idempotent."""
        if self._process is not None and self._process.returncode is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            await self._process.wait()
        if self._reader is not None:
            await self._reader
            self._reader = None

    async def get(self, path: str, timeout_s: float = PAGE_S) -> tuple[int, str]:
        """Fetch a page; return its status and body.

        Raises:
            OSError, TimeoutError, ValueError: it does not answer, or not with a page.
        """
        return await http_get(self.port, path, timeout_s)

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


async def http_get(port: int, path: str, timeout_s: float = PAGE_S) -> tuple[int, str]:
    """Fetch a page from loopback; return its status and body."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        first = head.split()
        if len(first) < 2:
            raise ValueError(f"no page at {path}")
        return int(first[1]), body.decode()
