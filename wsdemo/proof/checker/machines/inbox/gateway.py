"""Gateway and client of an inbox: what do the real pump and a careful client make of a page?

The pump is the one that gateways run. It is made anew for each move from what it remembers, and
what it asks for is written down. The client does what the client library does: it drops what it
has, by number and by (birth, offset).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from wsdemo.inbox import InboxPage
from wsdemo.proof.checker.machines.inbox.invariants import (
    NO_HOLE,
    ON_FROM_POSITION,
    ONCE,
    message_of,
    number,
)
from wsdemo.proof.checker.machines.inbox.states import (
    ClientProcess,
    HeldPage,
    Position,
    PumpState,
)
from wsdemo.proof.checker.subject import Invariant, ScriptError

_REMEMBERS: Final = ("epoch", "sent", "acked", "_started", "_untold", "to_ack")
"""The fields of a pump, in the order of `PumpState`."""


class ToldResumed(NamedTuple):
    """A `resumed` on its way to the client."""

    recovered: bool
    epoch: str
    offset: str


Frame = ToldResumed | tuple[str, str]
"""What a gateway writes: a `resumed`, or a message with its offset and head."""


class _Port:
    """Writes down what a pump wants."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.reads: list[tuple[Position, int]] = []

    def has_room(self) -> bool:
        return True

    def read(self, position: Position, most: int) -> None:
        self.reads.append((position, most))

    def write(self, offset: bytes, head: bytes) -> None:
        self.frames.append((offset.decode(), head.decode()))

    def tell(self, resumed: Any) -> None:
        self.frames.append(ToldResumed(resumed.recovered, resumed.epoch, resumed.offset))


def pump_class(source: str) -> Callable[..., Any]:
    """Return the class of pumps that this text defines.

    Raises:
        ScriptError: it defines none.
    """
    names: dict[str, Any] = {"__name__": "wsdemo.gateway.inbox"}
    try:
        exec(compile(source, "inbox.py", "exec"), names)
        pump: Callable[..., Any] = names["Pump"]
    except (SyntaxError, KeyError) as problem:
        raise ScriptError(f"the pump is no program: {problem!r}") from None
    return pump


class Pumping:
    """One pump, for the time of one move."""

    def __init__(self, make: Callable[..., Any], window: int, state: PumpState) -> None:
        self._port = _Port()
        self._pump = make(self._port, window, (state.epoch, state.sent))
        for name, value in zip(_REMEMBERS, state, strict=True):
            setattr(self._pump, name, value)

    def wants(self) -> tuple[Position, int] | None:
        """Return what it reads when it looks whether there is more; None when nothing."""
        self._pump.look()
        return self._port.reads[0] if self._port.reads else None

    def page(self, page: HeldPage) -> list[Frame]:
        """Return what it writes to the client when a page arrives."""
        self._pump._reading = True
        rows = [(offset.encode(), head.encode()) for offset, head in page.rows]
        self._pump.page(InboxPage(page.recovered, page.epoch, page.since, page.last, rows))
        return self._port.frames

    def ack(self, position: Position) -> Position | None:
        """Return what it tells Redis when a client acknowledges; None when nothing."""
        self._pump.ack(*position)
        told: Position | None = self._pump.to_ack
        self._pump.to_ack = None
        return told

    @property
    def on_the_way(self) -> int:
        """How many messages were written and not acknowledged."""
        return number(self._pump.sent) - int(self._pump.acked)

    def state(self) -> PumpState:
        """Return what it remembers."""
        return PumpState(*(getattr(self._pump, name) for name in _REMEMBERS))


def hear(
    process: ClientProcess, frames: list[Frame], *, forgot: bool
) -> tuple[ClientProcess, bool, list[Invariant]]:
    """Let a client read frames; return it, whether it was told of a gap, and what is broken.

    Args:
        forgot: Redis has lost something, so an id may have been stored twice.
    """
    told, broken = False, []
    for frame in frames:
        if isinstance(frame, ToldResumed):
            told |= not frame.recovered
            position = (frame.epoch, frame.offset)
            if frame.recovered and process.position[0] and position != process.position:
                broken.append(ON_FROM_POSITION)
            process = process._replace(position=position)
            continue
        offset, head = frame
        epoch, old = process.position
        if number(offset) <= number(old):
            continue
        if number(offset) != number(old) + 1 or not epoch:
            broken.append(NO_HOLE)
        process = process._replace(position=(epoch, offset))
        one, message = (epoch.partition(".")[0], offset), message_of(head)
        if one in process.had:
            continue  # A reset went back behind what it has.
        if message in process.seen and not forgot:
            broken.append(ONCE)
        process = process._replace(had=process.had | {one}, seen=process.seen | {message})
    return process, told, broken
