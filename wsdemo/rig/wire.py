"""TCP relay: what lies between two processes, and how does it fail?

A wire is such a relay: one end listens on loopback, the other dials the real target. Bytes pass
unchanged until the wire is told otherwise, in one direction or both: held and later released,
delayed, sliced, dropped while the connection stays open (half-open), cut or reset without a close
frame, also in the middle of a message. Neither end notices the wire, so production code has no hook
for any of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, Self

from wsdemo.tasks import end

Direction = Literal["up", "down"]
"""up: from the side that dialled to the target. down: from the target back."""

BOTH: Final[tuple[Direction, Direction]] = ("up", "down")
CHUNK: Final = 64 * 1024
ON_THE_WAY: Final = 256
"""Chunks that a held or slow direction keeps; beyond it the sender feels back-pressure."""
SAID: Final = 4096
"""How many of the first bytes of a connection are kept, to tell connections apart."""


class _Impairment:
    """What is done to the bytes of one direction, of one connection or of all to come (seconds)."""

    def __init__(self, rng: random.Random) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.dropping = False
        self.delay_s = self.jitter_s = 0.0
        self.slice_bytes = 0
        self._rng = rng

    def like(self) -> _Impairment:
        """Return another one that begins as this one is now."""
        other = _Impairment(self._rng)
        if not self.open.is_set():
            other.open.clear()
        other.dropping, other.delay_s, other.jitter_s = self.dropping, self.delay_s, self.jitter_s
        other.slice_bytes = self.slice_bytes
        return other

    def lateness_s(self) -> float:
        return self.delay_s + self.jitter_s * self._rng.random()


class _Impairable:
    """Something that can be told to hold, release, drop, delay and slice bytes."""

    def _impairments(self, directions: Iterable[Direction]) -> Iterator[_Impairment]:
        raise NotImplementedError

    def hold(self, *directions: Direction) -> None:
        """From now on keep all bytes, in order, until `release`."""
        for impairment in self._impairments(directions or BOTH):
            impairment.open.clear()

    def release(self, *directions: Direction) -> None:
        """Pass on what was held, and everything after it; drop, delay and slice nothing more."""
        for impairment in self._impairments(directions or BOTH):
            impairment.dropping = False
            impairment.delay_s = impairment.jitter_s = 0.0
            impairment.slice_bytes = 0
            impairment.open.set()

    def drop(self, *directions: Direction) -> None:
        """From now on drop all bytes, while the connection looks alive."""
        for impairment in self._impairments(directions or BOTH):
            impairment.dropping = True

    def delay(self, seconds: float, *directions: Direction, jitter_s: float = 0.0) -> None:
        """Let everything from now on arrive this much later, and up to `jitter_s` more, in order.

        Raises:
            ValueError: a duration is negative.
        """
        if seconds < 0 or jitter_s < 0:
            raise ValueError(f"a delay is not negative: {seconds:g} s, jitter {jitter_s:g} s")
        for impairment in self._impairments(directions or BOTH):
            impairment.delay_s, impairment.jitter_s = seconds, jitter_s

    def slice(self, size_bytes: int, *directions: Direction) -> None:
        """Let everything from now on arrive in pieces of at most this size, each in a segment of
        its own if the receiver is quick enough.

        Raises:
            ValueError: a piece has at least one byte.
        """
        if size_bytes < 1:
            raise ValueError(f"a piece has at least one byte, not {size_bytes}")
        for impairment in self._impairments(directions or BOTH):
            impairment.slice_bytes = size_bytes


class Strand(_Impairable):
    """One connection through a wire."""

    def __init__(self, up: _Impairment, down: _Impairment) -> None:
        self.said = b""
        """The first bytes that went up."""
        self._ways: dict[Direction, _Impairment] = {"up": up, "down": down}
        self._writers: list[asyncio.StreamWriter] = []
        self._last_bytes: dict[Direction, int] = {}
        self._on_said: Callable[[Strand], None] = lambda strand: None

    def _impairments(self, directions: Iterable[Direction]) -> Iterator[_Impairment]:
        return (self._ways[direction] for direction in directions)

    @property
    def held(self) -> bool:
        """Whether bytes of both directions are held."""
        return not any(way.open.is_set() for way in self._ways.values())

    def cut(self) -> None:
        """End the connection in both directions at once, without a goodbye."""
        for writer in self._writers:
            writer.transport.abort()

    def reset(self) -> None:
        """End the connection in both directions with a TCP reset."""
        for writer in self._writers:
            if (end := writer.get_extra_info("socket")) is not None:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def reset_within(self, size_bytes: int, direction: Direction) -> None:
        """Let so many bytes of what comes next in this direction pass, then reset: in the middle
        of a reply, if the reply is longer.
        """
        self._last_bytes[direction] = size_bytes

    async def _carry(
        self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Read and write at the same time: a delay makes bytes late, not the wire slow."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(ON_THE_WAY)
        taking = asyncio.create_task(self._take(direction, reader, on_the_way), name="wire")
        try:
            await self._pass_on(direction, on_the_way, writer)
        except ConnectionError:
            pass  # The receiver is gone; the sender is told when this connection ends.
        finally:
            await end(taking)

    async def _take(
        self,
        direction: Direction,
        reader: asyncio.StreamReader,
        on_the_way: asyncio.Queue[tuple[float, bytes]],
    ) -> None:
        loop, impairment, due = asyncio.get_running_loop(), self._ways[direction], 0.0
        while True:
            try:
                data = await reader.read(CHUNK)
            except ConnectionError:
                data = b""
            if direction == "up" and len(self.said) < SAID:
                self.said += data[: SAID - len(self.said)]
                self._on_said(self)
            # Jitter must not let later bytes overtake earlier ones: this is TCP.
            due = max(due, loop.time() + impairment.lateness_s())
            await on_the_way.put((due, data))
            if not data:
                return

    async def _pass_on(
        self,
        direction: Direction,
        on_the_way: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
    ) -> None:
        loop, impairment = asyncio.get_running_loop(), self._ways[direction]
        while True:
            due, data = await on_the_way.get()
            if (early_s := due - loop.time()) > 0:
                await asyncio.sleep(early_s)
            await impairment.open.wait()
            if writer.is_closing():
                return  # On uvloop, a write to a closing transport raises.
            if not impairment.dropping:
                if data and direction in self._last_bytes:
                    await self._write(data[: self._last_bytes[direction]], 0, writer)
                    self.reset()
                elif data:
                    await self._write(data, impairment.slice_bytes, writer)
                elif writer.can_write_eof():
                    writer.write_eof()
            if not data:
                return

    @staticmethod
    async def _write(data: bytes, slice_bytes: int, writer: asyncio.StreamWriter) -> None:
        size = slice_bytes or len(data)
        for start in range(0, len(data), size):
            if not writer.is_closing():
                writer.write(data[start : start + size])
                await writer.drain()


class Wire(_Impairable):
    """A TCP relay on loopback: `async with Wire(host, port) as wire`, then dial `wire.port`.

    What the wire is told holds for the connections that are open, and for those to come.

    Args:
        rng: source of the jitter.
    """

    def __init__(self, host: str, port: int, rng: random.Random | None = None) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._strands: list[Strand] = []
        rng = rng or random.Random()
        self._to_come: dict[Direction, _Impairment] = {way: _Impairment(rng) for way in BOTH}
        self._which_held: Callable[[Strand], bool] = lambda strand: False
        self.port = 0

    def _impairments(self, directions: Iterable[Direction]) -> Iterator[_Impairment]:
        chosen = list(directions)
        yield from (self._to_come[direction] for direction in chosen)
        for strand in list(self._strands):
            yield from strand._impairments(chosen)

    def hold_those(self, which: Callable[[Strand], bool]) -> None:
        """Hold the connections of which this is true, and those to come, from the moment when it
        becomes true: who dials can be told by what is said first. Until `release`.
        """
        self._which_held = which
        for strand in self.strands():
            self._hold_if(strand)

    def _hold_if(self, strand: Strand) -> None:
        if self._which_held(strand):
            strand.hold()

    def release(self, *directions: Direction) -> None:
        self._which_held = lambda strand: False
        super().release(*directions)

    @property
    def target_port(self) -> int:
        """Where it leads."""
        return self._target[1]

    def lead_to(self, port: int) -> None:
        """Lead new connections to another port of the same host; those that are open stay."""
        self._target = (self._target[0], port)

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
        await end(*self._tasks)

    def strands(self, which: Callable[[Strand], bool] = lambda strand: True) -> Iterator[Strand]:
        """Iterate over the connections that are open now, the oldest first."""
        yield from [strand for strand in self._strands if which(strand)]

    def cut(self) -> None:
        """End all connections at once, without a goodbye; new ones pass."""
        for strand in self.strands():
            strand.cut()

    def reset(self) -> None:
        """End all connections with a TCP reset; new ones pass."""
        for strand in self.strands():
            strand.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        strand = Strand(self._to_come["up"].like(), self._to_come["down"].like())
        strand._writers.append(writer)
        strand._on_said = self._hold_if
        self._strands.append(strand)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target, limit=CHUNK)
            strand._writers.append(far_writer)
            await asyncio.gather(
                strand._carry("up", reader, far_writer), strand._carry("down", far_reader, writer)
            )
        except (OSError, RuntimeError, asyncio.CancelledError):
            # The target is not there, or the wire is taken away: both ends see a cut. (uvloop
            # raises a RuntimeError for a transport that is closed.)
            pass
        finally:
            strand.cut()
            self._strands.remove(strand)
            self._tasks.discard(task)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()


class Bundle(_Impairable):
    """Several wires that are told the same; what is done to them is recorded.

    Args:
        wires: told together.
        note: is told in words what was done to them.
    """

    def __init__(self, wires: Iterable[Wire], note: Callable[[str], None]) -> None:
        self.wires = list(wires)
        self._note = note

    def _impairments(self, directions: Iterable[Direction]) -> Iterator[_Impairment]:
        chosen = list(directions)
        for wire in self.wires:
            yield from wire._impairments(chosen)

    def hold(self, *directions: Direction) -> None:
        super().hold(*directions)
        self._note("wire held")

    def release(self, *directions: Direction) -> None:
        super().release(*directions)
        self._note("wire released")

    def drop(self, *directions: Direction) -> None:
        super().drop(*directions)
        self._note("wire drops")

    def delay(self, seconds: float, *directions: Direction, jitter_s: float = 0.0) -> None:
        super().delay(seconds, *directions, jitter_s=jitter_s)
        self._note(f"wire delays by {1000 * seconds:g} ms")

    def cut(self) -> None:
        """End all connections at once, without a goodbye; new ones pass."""
        for wire in self.wires:
            wire.cut()
        self._note("wire cut")

    def reset(self) -> None:
        """End all connections with a TCP reset; new ones pass."""
        for wire in self.wires:
            wire.reset()
        self._note("wire reset")
