"""Attack load: what does a hostile client do to a gateway? One attacker, in its own process.

`python -m benchmarks.attacker` takes plans as `benchmarks.load` does. Every attack is bounded in
time and in rate, far below what keeps a core busy: the neighbours then see what the
gateway does, and not that an attacker has taken their processor away. An attacker that is thrown
out comes back, at a bounded rate as well. The result says what the gateway did to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from benchmarks.load import run_worker
from benchmarks.websocket import CLOSE, REGISTERED, TEXT, UPGRADED, FrameClient, frame, register

TICK_S = 0.01
OPEN_TIMEOUT_S = 3.0
REOPEN_S = 0.25
"""How long an attacker waits after its connection was closed."""
LISTEN_S = 0.2
"""How long it reads at the end, to learn the reason."""
SMALL_BUFFER_BYTES = 4096
"""Receive buffer of a client that does not read: all else waits in the gateway."""
FRIENDS = 20
"""Users that send to the slow reader: each stays below every limit, together they send a lot."""
LARGEST_PING = b"\x89\xfd" + bytes(4) + b"p" * 125
"""The gateway has to answer each with a pong that is as large."""


class AttackConnection(FrameClient):
    """One connection of the attacker; counts in `tally` how it ends.

    Args:
        name: whom it registers as; when None, it never does.
        on_error: gets the code of each error frame.
    """

    def __init__(
        self, tally: Counter[str], name: str | None, on_error: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.gone = False
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether it is registered."""
        self._tally = tally
        self._name = name
        self._on_error = on_error
        self._end = "hung up"
        self._leaving = False

    def _answered(self, status: str) -> None:
        if status != UPGRADED:
            self._end = f"answered {status}"
            self.transport.close()
        elif self._name is None:
            self._is_in()
        else:
            self.transport.write(register(self._name))

    def _take(self, first: int, payload: bytes) -> None:
        if first == CLOSE and len(payload) >= 2:
            self._end = f"closed {int.from_bytes(payload[:2])}"
            self.transport.close()
        elif first == TEXT and REGISTERED in payload:
            self._is_in()
        elif first == TEXT and b'"error"' in payload:
            self._on_error(json.loads(payload).get("code", "?"))

    def _is_in(self) -> None:
        if not self.ready.done():
            self.ready.set_result(True)

    def leave(self) -> None:
        """Hang up; this is not counted as something that the gateway did."""
        self._leaving = True
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if not self._leaving:
            self._tally[self._end] += 1
        if not self.ready.done():
            self.ready.set_result(False)


async def shots(rate: float, seconds: float) -> AsyncIterator[int]:
    """Yield how many shots are due, a hundred times a second, until the time is up."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    fired = 0
    while (passed_s := loop.time() - started) < seconds:
        due = int(rate * passed_s)
        yield due - fired
        fired = due
        await asyncio.sleep(TICK_S)


class Attacker:
    """The attacks; each returns `{"sent": shots, "did": {what the gateway did: how often}}`."""

    def __init__(self) -> None:
        self._tally: Counter[str] = Counter()
        self._sent = 0
        self._reader_is_gone = False

    async def slow_reader(self, port: int, seconds: float, rate: float) -> Any:
        """One client reads nothing, and friends at its gateway send it 4 KiB at this rate."""
        friends = [await self._enter(port, f"friend{n}", self._hear) for n in range(FRIENDS)]
        text = frame(b'{"type":"message","to":"sloth","content":"%b"}' % (b"z" * 4096))
        reader: AttackConnection | None = None
        reopen_at = 0.0
        loop = asyncio.get_running_loop()
        async for due in shots(rate, seconds):
            if self._reader_is_gone and reader is not None:
                await self._part(reader)
                reader, reopen_at = None, loop.time() + REOPEN_S
            if reader is None and loop.time() >= reopen_at:
                reader = await self._enter(port, "sloth", reads=False)
                self._reader_is_gone = False
            if reader is not None:
                self._fire(friends, text, due)
        if reader is not None:
            await self._part(reader)
        return self._result(friends)

    async def ping_flood(self, port: int, seconds: float, rate: float) -> Any:
        """One client sends pings and does not read the pongs."""
        return await self._flood(port, seconds, rate, LARGEST_PING, reads=False)

    async def message_flood(self, port: int, seconds: float, rate: float) -> Any:
        """One client sends messages, to itself."""
        text = frame(b'{"type":"message","to":"flood","content":"%b"}' % (b"z" * 64))
        return await self._flood(port, seconds, rate, text, reads=True)

    async def silent_sockets(self, port: int, seconds: float, rate: float) -> Any:
        """Up to 1,000 sockets shake hands, never register, and are replaced when they end."""
        silent: set[AttackConnection] = set()
        opening: set[asyncio.Task[None]] = set()

        async def open_one() -> None:
            silent.add(await self._open(port, None))
            self._sent += 1

        async for due in shots(rate, seconds):
            silent = {connection for connection in silent if not connection.gone}
            for _ in range(min(due, 1000 - len(silent) - len(opening))):
                task = asyncio.create_task(open_one())
                opening.add(task)
                task.add_done_callback(opening.discard)
        await asyncio.gather(*opening, return_exceptions=True)
        self._tally["let in at the end"] = sum(not c.gone and c.ready.done() for c in silent)
        return self._result(silent)

    # --- parts -------------------------------------------------------------------------------

    async def _flood(self, port: int, seconds: float, rate: float, shot: bytes, reads: bool) -> Any:
        connection = await self._enter(port, "flood", self._count_error, reads)
        reopen_at = 0.0
        loop = asyncio.get_running_loop()
        async for due in shots(rate, seconds):
            if not connection.gone:
                self._fire([connection], shot, due)
            elif not reopen_at:
                reopen_at = loop.time() + REOPEN_S
            elif loop.time() >= reopen_at:
                connection = await self._enter(port, "flood", self._count_error, reads)
                reopen_at = 0.0
        if not reads:
            await self._part(connection)
        return self._result([connection])

    def _fire(self, connections: list[AttackConnection], shot: bytes, count: int) -> None:
        """Send so many shots, in turns; none to a connection whose buffer is full."""
        for _ in range(count):
            connection = connections[self._sent % len(connections)]
            self._sent += 1
            if connection.transport.get_write_buffer_size() < 1 << 20:
                connection.transport.write(shot)

    def _hear(self, code: str) -> None:
        """The slow reader itself reads nothing; one of its senders gets the ack that it is gone."""
        if code in {"offline", "unreachable"}:
            self._reader_is_gone = True
        else:
            self._count_error(code)

    def _count_error(self, code: str) -> None:
        self._tally[f"error {code}"] += 1

    async def _open(
        self,
        port: int,
        name: str | None,
        on_error: Callable[[str], None] = lambda code: None,
        small_buffer: bool = False,
    ) -> AttackConnection:
        loop = asyncio.get_running_loop()
        end = socket.socket()
        end.setblocking(False)
        if small_buffer:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        try:
            await loop.sock_connect(end, ("127.0.0.1", port))
        except BaseException:
            end.close()
            raise
        made = AttackConnection(self._tally, name, on_error)
        await loop.create_connection(lambda: made, sock=end)
        return made

    async def _enter(
        self,
        port: int,
        name: str,
        on_error: Callable[[str], None] = lambda code: None,
        reads: bool = True,
    ) -> AttackConnection:
        """Open a connection and register on it; one that does not read stops after that."""
        connection = await self._open(port, name, on_error, small_buffer=not reads)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(connection.ready), OPEN_TIMEOUT_S)
        if not reads and not connection.gone:
            connection.transport.pause_reading()
        return connection

    async def _part(self, connection: AttackConnection) -> None:
        """Read at the end, to learn whether and why the gateway has closed; then leave."""
        if not connection.gone:
            connection.transport.resume_reading()
            await asyncio.sleep(LISTEN_S)
        if not connection.gone:
            connection.leave()

    def _result(self, connections: Any) -> dict[str, Any]:
        for connection in connections:
            if not connection.gone:
                connection.leave()
        did, self._tally = dict(self._tally), Counter()
        sent, self._sent = self._sent, 0
        return {"sent": sent, "did": did}


if __name__ == "__main__":
    run_worker(Attacker)
