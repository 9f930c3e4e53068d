"""What lies between two real things, and how does it fail?

A wire is a TCP relay: one end listens on loopback, the other dials the real target. Bytes pass
unchanged until the wire is told otherwise, in one direction or both: held back and later let go,
delayed, dropped while the connection stays open (half-open), cut without a goodbye. Neither end
knows that it is there, so production code has no hook for any of this.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final, Literal, Self

Direction = Literal["up", "down"]
"""up: from whoever dialled to the target. down: from the target back."""

BOTH: Final[tuple[Direction, Direction]] = ("up", "down")
CHUNK: Final = 64 * 1024
SAID: Final = 4096
"""How much of what a strand said at first is kept, to tell strands apart."""


class Strand:
    """One connection through a wire."""

    def __init__(self) -> None:
        self.said = b""
        """The first bytes that went up."""
        self._open: dict[Direction, asyncio.Event] = {d: asyncio.Event() for d in BOTH}
        self._dropping: dict[Direction, bool] = dict.fromkeys(BOTH, False)
        self._delay_s: dict[Direction, float] = dict.fromkeys(BOTH, 0.0)
        self._writers: list[asyncio.StreamWriter] = []
        for gate in self._open.values():
            gate.set()

    def hold(self, *directions: Direction) -> None:
        """Keep what comes from now on, in order, until `release`."""
        for direction in directions or BOTH:
            self._open[direction].clear()

    def release(self, *directions: Direction) -> None:
        """Let go what was held, and everything after it; drop nothing and delay nothing more."""
        for direction in directions or BOTH:
            self._dropping[direction] = False
            self._delay_s[direction] = 0.0
            self._open[direction].set()

    def drop(self, *directions: Direction) -> None:
        """Lose what comes from now on, while the connection looks alive."""
        for direction in directions or BOTH:
            self._dropping[direction] = True

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Let everything from now on arrive this much later, in order."""
        for direction in directions or BOTH:
            self._delay_s[direction] = seconds

    def cut(self) -> None:
        """End the connection in both directions without a goodbye (RST)."""
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(
        self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if direction == "up" and len(self.said) < SAID:
                    self.said += data[: SAID - len(self.said)]
                if delay_s := self._delay_s[direction]:
                    await asyncio.sleep(delay_s)
                await self._open[direction].wait()
                if not self._dropping[direction]:
                    writer.write(data)
                    await writer.drain()
            await self._open[direction].wait()
            if not self._dropping[direction] and writer.can_write_eof():
                writer.write_eof()


class Wire:
    """A TCP relay on loopback: `async with Wire(host, port) as wire`, then dial `wire.port`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._strands: list[Strand] = []
        self.port = 0

    async def start(self) -> Self:
        """Listen on a port of the system's choice."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Cut everything and stop listening. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def strands(self, which: Callable[[Strand], bool] = lambda strand: True) -> Iterator[Strand]:
        """Iterate over the connections that are open now, the oldest first."""
        yield from [strand for strand in self._strands if which(strand)]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        strand = Strand()
        strand._writers.append(writer)
        self._strands.append(strand)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target, limit=CHUNK)
            strand._writers.append(far_writer)
            await asyncio.gather(
                strand._carry("up", reader, far_writer), strand._carry("down", far_reader, writer)
            )
        except (OSError, asyncio.CancelledError):
            pass  # The target is not there, or the wire is taken away: both ends see a cut.
        finally:
            strand.cut()
            self._strands.remove(strand)
            self._tasks.discard(task)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()
