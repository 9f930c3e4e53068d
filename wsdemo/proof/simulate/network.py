"""What lies between two simulated hosts, and what can happen to it?

Connections like those of TCP: bytes arrive late but in order, or not at all. Each direction of
each connection can be delayed, held and let go, or lost; a lost direction stays lost for this
connection, because TCP never delivers what comes after a gap. Whoever is at its other end finds out
by a timeout, or not at all (half-open). New connections take the manners of the route at that
moment.

The network goes on while hosts stand still: a frozen host accepts connections and takes bytes, as
its kernel would, and its processes see them when they go on.

An end is no more polite than uvloop's transports, on which gateways run: writing after
`connection_lost`, or after `write_eof`, raises. `abort` tells the other side by a reset, which may
overtake what its process has not read yet.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, Literal

from wsdemo.proof.simulate.hosts import NOWHERE, TICK_S, Host, Loop

Direction = Literal["up", "down"]
"""up: from whoever dialled to whom was dialled. down: back."""

BOTH: Final[tuple[Direction, Direction]] = ("up", "down")
LATENCY_S: Final = 0.0002
JITTER_S: Final = 0.0006
WINDOW_BYTES: Final = 128 * 1024
"""What the network takes from a sender before its reader has taken it."""


class Signal(Enum):
    """What travels beside bytes."""

    SYN = auto()
    ACCEPTED = auto()
    REFUSED = auto()
    EOF = auto()
    RESET = auto()


@dataclass(slots=True)
class Manner:
    """How one direction treats what is sent. Durations in seconds."""

    held: bool = False
    lost: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0


class Way:
    """One direction of one connection."""

    def __init__(self, loop: Loop, rng: random.Random, manner: Manner) -> None:
        self._loop = loop
        self._rng = rng
        self.manner = Manner(manner.held, manner.lost, manner.delay_s, manner.jitter_s)
        self._queue: deque[tuple[float, bytes | Signal]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._last_due = 0.0
        self.in_flight = 0
        """Bytes that were sent, and not yet taken by the reader."""
        self.sender: End
        self.reader: End

    def carry(self, what: bytes | Signal) -> None:
        """Take something on its way. What is lost is in flight for ever, as far as one knows."""
        if isinstance(what, bytes):
            self.in_flight += len(what)
        manner = self.manner
        if manner.lost:
            return
        late_s = LATENCY_S + manner.delay_s + (JITTER_S + manner.jitter_s) * self._rng.random()
        # Jitter must not let later bytes overtake earlier ones.
        self._last_due = max(self._last_due, self._loop.time() + late_s)
        self._queue.append((self._last_due, what))
        self._arm()

    def taken(self, size: int) -> None:
        """The reader has taken so many bytes."""
        self.in_flight -= size
        self.sender.room_made()

    def hold(self) -> None:
        self.manner.held = True

    def lose(self) -> None:
        """Lose what is on the way, and everything after it."""
        self.manner.lost = True
        self._queue.clear()

    def delay(self, delay_s: float, jitter_s: float) -> None:
        self.manner.delay_s, self.manner.jitter_s = delay_s, jitter_s

    def heal(self) -> None:
        """Let go what was held, and be quick again. What was lost stays lost."""
        self.manner.held = False
        self.manner.delay_s = self.manner.jitter_s = 0.0
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._queue and not self.manner.held:
            self._timer = self._loop.call_at(self._queue[0][0], self._arrive, context=NOWHERE)

    def _arrive(self) -> None:
        self._timer = None
        now = self._loop.time() + TICK_S
        while self._queue and self._queue[0][0] <= now and not self.manner.held:
            self.reader.arrive(self._queue.popleft()[1])
        self._arm()


class Link:
    """One connection: two ways, two ends."""

    def __init__(self, network: Network, caller: Host, target: Host, port: int) -> None:
        network.links_made += 1
        self.number = network.links_made
        self.caller, self.target, self.port = caller, target, port
        rng = random.Random(f"{network.seed}:link:{self.number}")
        route = network.route(caller.name, target.name)
        self.ways: dict[Direction, Way] = {
            way: Way(network.loop, rng, route.manners[way]) for way in BOTH
        }
        up, down = self.ways["up"], self.ways["down"]
        self.near = End(self, caller, out=up, back=down)
        self.far = End(self, target, out=down, back=up)
        up.sender = down.reader = self.near
        down.sender = up.reader = self.far
        self.accepted: asyncio.Future[None] = network.loop.create_future()
        self._network = network

    def knock(self) -> None:
        """The wish for a connection has arrived."""
        factory = self._network.listener(self.target, self.port)
        if factory is None:
            self.ways["down"].carry(Signal.REFUSED)
            self.far.dead = True
            return
        self.ways["down"].carry(Signal.ACCEPTED)
        self._network.loop.call_soon(self._welcome, factory, context=self.target.context)

    def _welcome(self, factory: Callable[[], asyncio.Protocol]) -> None:
        if not self.far.dead:
            self.far.serve(factory())

    def cut(self) -> None:
        """End it in both directions at once; both sides are told, however the wire is."""
        for end in (self.near, self.far):
            end.break_off()

    def reset(self) -> None:
        """Cut off whoever dialled, now; a packet like any other tells the other side."""
        if not self.near.dead:
            self.ways["up"].carry(Signal.RESET)
            self.near.break_off()

    def half_close(self) -> None:
        """Let whoever was dialled believe that the other side has nothing more to say."""
        if not self.near.dead:
            self.ways["up"].carry(Signal.EOF)


class End(asyncio.Transport):
    """One end of a connection, as asyncio sees it."""

    def __init__(self, link: Link, host: Host, out: Way, back: Way) -> None:
        super().__init__()
        self.link = link
        self.host = host
        self._out, self._back = out, back
        self._protocol: Any = None
        self._closing = self._eof_sent = self._lost = False
        self._reading = True
        self._full = False
        self._high = 64 * 1024
        self._waiting: deque[bytes | Signal] = deque()
        self.dead = False
        """Whether there is nothing at this end any more."""

    # --- the network's side ------------------------------------------------------------------

    def arrive(self, what: bytes | Signal) -> None:
        """Something has come. The kernel answers what concerns the connection itself."""
        accepted = self.link.accepted
        match what:
            case Signal.SYN:
                self.link.knock()
            case Signal.ACCEPTED | Signal.REFUSED if accepted.done():
                self._out.carry(Signal.RESET)  # Whoever dialled has given up.
            case Signal.ACCEPTED:
                accepted.set_result(None)
            case Signal.REFUSED:
                accepted.set_exception(ConnectionRefusedError("nobody listens"))
            case Signal.RESET:
                self.break_off()
            case _ if self.dead:
                if what is not Signal.EOF:
                    self._out.carry(Signal.RESET)
            case _:
                self._waiting.append(what)
                self._soon(self._pump)

    def break_off(self) -> None:
        """The connection is gone, without a goodbye."""
        if not self.dead:
            self.dead = True
            self._soon(self._lose, ConnectionResetError("connection reset"))

    def vanish(self) -> None:
        """The process at this end has died; its kernel says so, if the network lets it."""
        if not self.dead:
            self.dead = True
            self._out.carry(Signal.RESET)

    def _soon(self, callback: Callable[..., object], *args: Any) -> None:
        self.host.loop.call_soon(callback, *args, context=self.host.context)

    def _pump(self) -> None:
        """Give what has come to the process, while it is ready to read."""
        while self._waiting and self._reading and self._protocol is not None:
            item = self._waiting.popleft()
            if self._closing:
                if item is not Signal.EOF and not self.dead:
                    self._out.carry(Signal.RESET)
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
        """Refuse what a transport refuses whose handle is closed (`UVHandle._ensure_alive`)."""
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
        """From now on, this protocol hears of everything."""
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
        self._high = 64 * 1024 if high is None else high

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._must_be_alive()
        if not self._eof_sent and not self._closing:
            self._eof_sent = True
            self._say_last(Signal.EOF)

    def _say_last(self, what: Signal) -> None:
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
        self._hang_up(Signal.EOF)

    def abort(self) -> None:
        self._hang_up(Signal.RESET)

    def _hang_up(self, how: Signal) -> None:
        if self._closing and (how is Signal.EOF or self._lost or self.dead):
            return
        if how is Signal.RESET or not self._eof_sent:
            self._say_last(how)
        if not self._closing:
            self._closing = True
            self._soon(self._lose, None)
        self.dead = self.dead or how is Signal.RESET

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name in {"peername", "sockname"}:
            other = self.link.far if self is self.link.near else self.link.near
            end = other if name == "peername" else self
            return (end.host.name, self.link.number)
        return default


class Listening:
    """What `create_server` returns."""

    def __init__(self, network: Network, host: Host, port: int) -> None:
        self._network, self._host, self._port = network, host, port
        self.sockets = (self,)

    def getsockname(self) -> tuple[str, int]:
        return self._host.name, self._port

    async def start_serving(self) -> None:
        """It does so already."""

    def close(self) -> None:
        self._network.forget(self._host, self._port)


@dataclass(slots=True)
class Route:
    """How connections to come between two hosts will treat what is sent."""

    manners: dict[Direction, Manner] = field(
        default_factory=lambda: {way: Manner() for way in BOTH}
    )


class Network:
    """All hosts and what lies between them."""

    def __init__(self, loop: Loop, seed: str) -> None:
        self.loop = loop
        self.seed = seed
        self.hosts: dict[str, Host] = {}
        self.links_made = 0
        self._links: list[Link] = []
        self._routes: dict[tuple[str, str], Route] = {}
        self._listeners: dict[tuple[Host, int], Callable[[], asyncio.Protocol]] = {}

    def host(self, name: str) -> Host:
        """Put a machine on the network: a new one, or one in the place of another."""
        self.hosts[name] = host = Host(self.loop, name, f"{self.seed}:{self.links_made}")
        return host

    def route(self, caller: str, target: str) -> Route:
        return self._routes.setdefault((caller, target), Route())

    def links(self, caller: str = "", target: str = "") -> Iterator[Link]:
        """Iterate over the living connections between two hosts ('': any), the oldest first."""
        self._links = [link for link in self._links if not (link.near.dead and link.far.dead)]
        for link in list(self._links):
            if caller in {"", link.caller.name} and target in {"", link.target.name}:
                yield link

    def listener(self, host: Host, port: int) -> Callable[[], asyncio.Protocol] | None:
        return self._listeners.get((host, port))

    def listen(self, host: Host, port: int, factory: Callable[[], asyncio.Protocol]) -> Listening:
        if (host, port) in self._listeners:
            raise OSError(f"{host.name}:{port} is in use")
        self._listeners[host, port] = factory
        return Listening(self, host, port)

    def forget(self, host: Host, port: int) -> None:
        self._listeners.pop((host, port), None)

    async def dial(self, target: str, port: int) -> End:
        """Connect the host that asks.

        Raises:
            ConnectionRefusedError: nobody listens there.
            OSError: the host that asks is dead.
        """
        if Host.here().dead:
            raise OSError("no network")
        link = Link(self, Host.here(), self.hosts[target], port)
        self._links.append(link)
        link.ways["up"].carry(Signal.SYN)
        try:
            await link.accepted
        except BaseException:
            link.near.dead = True
            raise
        return link.near

    def kill(self, host: Host) -> None:
        """End a host as SIGKILL ends a process: its peers are told, it is not."""
        host.die()
        for key in [key for key in self._listeners if key[0] is host]:
            del self._listeners[key]
        for link in self.links():
            for end in (link.near, link.far):
                if end.host is host:
                    end.vanish()

    # --- accidents ---------------------------------------------------------------------------

    def hold(self, caller: str, target: str, *ways: Direction) -> None:
        """Keep what is sent between two hosts, also on connections to come, until `heal`."""
        for way in ways or BOTH:
            self.route(caller, target).manners[way].held = True
            for link in self.links(caller, target):
                link.ways[way].hold()

    def lose(self, caller: str, target: str, *ways: Direction) -> None:
        """Lose what is sent between two hosts; connections to come work after `heal`."""
        for way in ways or BOTH:
            self.route(caller, target).manners[way].lost = True
            for link in self.links(caller, target):
                link.ways[way].lose()

    def delay(
        self, caller: str, target: str, delay_s: float, jitter_s: float, *ways: Direction
    ) -> None:
        """Let everything between two hosts arrive later."""
        for way in ways or BOTH:
            manner = self.route(caller, target).manners[way]
            manner.delay_s, manner.jitter_s = delay_s, jitter_s
            for link in self.links(caller, target):
                link.ways[way].delay(delay_s, jitter_s)

    def cut(self, caller: str, target: str) -> None:
        """Break the connections between two hosts; new ones work."""
        for link in self.links(caller, target):
            link.cut()

    def heal(self, caller: str, target: str) -> None:
        """Let new connections work and held ones go on. What was lost leaves them half-open."""
        self._routes.pop((caller, target), None)
        for link in self.links(caller, target):
            for way in link.ways.values():
                way.heal()
