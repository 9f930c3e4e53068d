"""TCP connections: what does a process see of one, and how can it end?

A connection is two pipes and two transports. A transport is as strict as those of uvloop, on which
gateways run: writing after `connection_lost`, or after `write_eof`, raises. `abort` tells the other
side by a reset, which may overtake what its process has not read yet.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from wsdemo.proof.simulate.hosts import SimulatedHost
from wsdemo.proof.simulate.pipe import BOTH, Direction, Pipe, Segment

if TYPE_CHECKING:
    from wsdemo.proof.simulate.network import SimulatedNetwork

WINDOW_BYTES: Final = 128 * 1024
"""What the network takes from a sender before its reader has taken it."""
HIGH_WATER_BYTES: Final = 64 * 1024


class SimulatedConnection:
    """One connection: two pipes, two transports."""

    def __init__(
        self, network: SimulatedNetwork, caller: SimulatedHost, target: SimulatedHost, port: int
    ) -> None:
        self.number = network.next_number()
        self.caller, self.target, self.port = caller, target, port
        rng = random.Random(f"{network.seed}:link:{self.number}")
        route = network.route(caller.name, target.name)
        self.pipes: dict[Direction, Pipe] = {
            way: Pipe(network.loop, rng, route.conditions[way]) for way in BOTH
        }
        up, down = self.pipes["up"], self.pipes["down"]
        self.near = SimulatedTransport(self, caller, out=up, back=down)
        """The end of the host that dialled."""
        self.far = SimulatedTransport(self, target, out=down, back=up)
        up.sender = down.reader = self.near
        down.sender = up.reader = self.far
        self.accepted: asyncio.Future[None] = network.loop.create_future()
        self._network = network

    def knock(self) -> None:
        """A SYN has arrived: the kernel accepts if a process listens."""
        factory = self._network.listener(self.target, self.port)
        if factory is None:
            self.pipes["down"].carry(Segment.REFUSED)
            self.far.dead = True
            return
        self.pipes["down"].carry(Segment.ACCEPTED)
        self._network.loop.call_soon(self._welcome, factory, context=self.target.context)

    def _welcome(self, factory: Callable[[], asyncio.Protocol]) -> None:
        if not self.far.dead:
            self.far.serve(factory())

    def cut(self) -> None:
        """End it in both directions at once; both sides notice it, whatever the state of the
        network.
        """
        for end in (self.near, self.far):
            end.break_off()

    def reset(self) -> None:
        """Cut off the host that dialled, now; a packet like any other tells the other side."""
        if not self.near.dead:
            self.pipes["up"].carry(Segment.RESET)
            self.near.break_off()

    def half_close(self) -> None:
        """Tell the host that was dialled that the other side has nothing more to say."""
        if not self.near.dead:
            self.pipes["up"].carry(Segment.EOF)


class SimulatedTransport(asyncio.Transport):
    """One end of a connection, as asyncio sees it."""

    def __init__(
        self, connection: SimulatedConnection, host: SimulatedHost, out: Pipe, back: Pipe
    ) -> None:
        super().__init__()
        self.connection = connection
        self.host = host
        self._out, self._back = out, back
        self._protocol: Any = None
        self._closing = self._eof_sent = self._lost = False
        self._reading = True
        self._full = False
        self._high = HIGH_WATER_BYTES
        self._waiting: deque[bytes | Segment] = deque()
        self.dead = False
        """Whether there is nothing at this end any more."""

    # --- the network's side ------------------------------------------------------------------

    def arrive(self, what: bytes | Segment) -> None:
        """Take what has come. The kernel answers what concerns the connection itself."""
        accepted = self.connection.accepted
        match what:
            case Segment.SYN:
                self.connection.knock()
            case Segment.ACCEPTED | Segment.REFUSED if accepted.done():
                self._out.carry(Segment.RESET)  # The host that dialled has given up.
            case Segment.ACCEPTED:
                accepted.set_result(None)
            case Segment.REFUSED:
                accepted.set_exception(ConnectionRefusedError("nobody listens"))
            case Segment.RESET:
                self.break_off()
            case _ if self.dead:
                if what is not Segment.EOF:
                    self._out.carry(Segment.RESET)
            case _:
                self._waiting.append(what)
                self._soon(self._pump)

    def break_off(self) -> None:
        """End it here, without a close frame."""
        if not self.dead:
            self.dead = True
            self._soon(self._lose, ConnectionResetError("connection reset"))

    def vanish(self) -> None:
        """The process at this end has died; its kernel sends a reset, if the network lets it."""
        if not self.dead:
            self.dead = True
            self._out.carry(Segment.RESET)

    def _soon(self, callback: Callable[..., object], *args: Any) -> None:
        self.host.loop.call_soon(callback, *args, context=self.host.context)

    def _pump(self) -> None:
        """Give what has come to the process, while it is ready to read."""
        while self._waiting and self._reading and self._protocol is not None:
            item = self._waiting.popleft()
            if self._closing:
                if item is not Segment.EOF and not self.dead:
                    self._out.carry(Segment.RESET)
            elif isinstance(item, bytes):
                self._back.taken(len(item))
                self._protocol.data_received(item)
            elif not self._protocol.eof_received():
                self.close()

    def _lose(self, problem: Exception | None) -> None:
        self.dead = True
        self._closing = True
        self._waiting.clear()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(problem)
        self._lost = True

    def _must_be_alive(self) -> None:
        """Raise what uvloop raises when the handle of a transport is closed."""
        if self._lost and not self.host.dead:
            raise RuntimeError(f"unable to perform operation on {self!r}; the handler is closed")

    def room_made(self) -> None:
        """The reader at the other end has taken something."""
        if self._full and self.get_write_buffer_size() <= self._high // 4:
            self._full = False
            self._soon(self._resume_writer)

    def _resume_writer(self) -> None:
        if self._protocol is not None and not self._full:
            self._protocol.resume_writing()

    # --- the process' side -------------------------------------------------------------------

    def serve(self, protocol: Any) -> None:
        """From now on, this protocol gets all events."""
        self._protocol = protocol
        protocol.connection_made(self)
        if self._waiting:
            self._soon(self._pump)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self._must_be_alive()
        if self._eof_sent:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._closing or self.dead or not data:
            return
        self._out.carry(bytes(data))
        if not self._full and self.get_write_buffer_size() > self._high:
            self._full = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return max(0, self._out.in_flight - WINDOW_BYTES)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._must_be_alive()
        self._high = HIGH_WATER_BYTES if high is None else high

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._must_be_alive()
        if not self._eof_sent and not self._closing:
            self._eof_sent = True
            self._send_last(Segment.EOF)

    def _send_last(self, what: Segment) -> None:
        if not self.dead:
            self._out.carry(what)

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        if self._waiting:
            self._soon(self._pump)

    def is_reading(self) -> bool:
        return self._reading

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._hang_up(Segment.EOF)

    def abort(self) -> None:
        self._hang_up(Segment.RESET)

    def _hang_up(self, how: Segment) -> None:
        if self._closing and (how is Segment.EOF or self._lost or self.dead):
            return
        if how is Segment.RESET or not self._eof_sent:
            self._send_last(how)
        if not self._closing:
            self._closing = True
            self._soon(self._lose, None)
        self.dead = self.dead or how is Segment.RESET

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name in {"peername", "sockname"}:
            connection = self.connection
            other = connection.far if self is connection.near else connection.near
            end = other if name == "peername" else self
            return (end.host.name, connection.number)
        return default
