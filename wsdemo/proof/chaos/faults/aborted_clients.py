"""Aborted clients: what if a client resets or half-closes its connection, or stops receiving?

A phone that loses its network and a process that is killed reset their connections at any moment.
Some programs close their half of a connection and go on receiving. Whatever one client does, its
neighbours on the same gateway get every ack and every pong within its bound, and nothing is left
of the client that has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from wsdemo.proof.chaos.cluster import LIMITS, commands
from wsdemo.proof.chaos.fault import GATEWAY, REDIS, FaultType, NotArranged, Scene, Steps, fault
from wsdemo.proof.chaos.faults.arrange import (
    BrokenPromise,
    dial,
    held,
    ready,
    registered,
    reset,
    say_register,
    until,
)
from wsdemo.proof.chaos.faults.probe import ANSWER_S, ProbeUser
from wsdemo.proof.chaos.users import MARK

NEIGHBOURS: Final = 4
ABORTING: Final = 6
GONE_S: Final = 1.0
"""Within this time, nothing of a client that has gone is left in the gateway and in Redis."""
UNDER_WAY_S: Final = 0.2
"""How long answers of Redis wait on the wire: less than a gateway waits for them."""
ARRIVES_S: Final = 0.03
"""How long the gateway is stopped, so that what was sent to it can arrive."""
MESSAGES: Final = 200
MESSAGE_BYTES: Final = 1024
CLOSED_WINDOW_S: Final = 0.5 * LIMITS.write_deadline_s

End = Callable[[Any], None]


# --- with answers under way --------------------------------------------------------------------


@fault(
    "client RST, answers under way",
    *(1, 106),
    lasts_s=0.1,
    touches=(GATEWAY,),
    needs=(REDIS,),
)
async def reset_with_answers_under_way(scene: Scene) -> Steps:
    """Clients reset their connections while answers to them are on the way.

    Their neighbours wait for answers at the same time. The gateway sees the resets in an earlier
    turn of its event loop than the answers; or in the same turn, before or after them. To arrange
    this, it is stopped for a moment, as on a busy machine.
    """
    await ready(scene)
    async with contextlib.AsyncExitStack() as stack:
        neighbours = [
            await stack.enter_async_context(ProbeUser(scene, "neighbour"))
            for _ in range(NEIGHBOURS)
        ]
        for order in scene.rng.sample(ORDERS, len(ORDERS)):
            aborting = [
                await stack.enter_async_context(ProbeUser(scene, "aborting"))
                for _ in range(ABORTING)
            ]
            await _reset_and_answer(scene, neighbours, aborting, order)
            await _all_gone(scene, [probe.user for probe in aborting])
        yield


async def _enter(
    stack: contextlib.AsyncExitStack, scene: Scene, name: str, count: int
) -> list[ProbeUser]:
    return [await stack.enter_async_context(ProbeUser(scene, name)) for _ in range(count)]


ORDERS: Final = ("resets, then acks", "resets and acks", "acks and resets")


async def _reset_and_answer(
    scene: Scene, neighbours: list[ProbeUser], aborting: list[ProbeUser], order: str
) -> None:
    gateway = scene.cluster.gateways[scene.gateway]
    strands = list(scene.cluster.wires[scene.gateway].strands(commands))
    waiting = []
    try:
        with held(strands, "down"):
            # In turns: so there are clients that reset before and after each one that waits.
            for n in range(max(NEIGHBOURS, ABORTING)):
                for probe in aborting[n : n + 1]:
                    await probe.write("nobody-here")
                for probe in neighbours[n : n + 1]:
                    waiting.append((probe, await probe.write("nobody-here")))
            await asyncio.sleep(UNDER_WAY_S)
            if order != "resets, then acks":
                gateway.signal(signal.SIGSTOP)
            if order != "acks and resets":
                await _reset(aborting)
        if order == "acks and resets":
            await asyncio.sleep(ARRIVES_S)
            await _reset(aborting)
        await asyncio.sleep(ARRIVES_S)
    finally:
        gateway.signal(signal.SIGCONT)
    for probe, ids in waiting:
        (status,) = await probe.answered(ids)
        if status not in ("offline", "unknown"):
            raise BrokenPromise(f"a message to nobody was called {status}")
        await probe.pong()


async def _reset(probes: list[ProbeUser]) -> None:
    """Reset their connections, and wait until the gateway can know it."""
    for probe in probes:
        reset(probe.connection.transport)
    await asyncio.sleep(ARRIVES_S)


# --- at any moment -----------------------------------------------------------------------------

HANDSHAKE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
NO_MASK: Final = bytes(4)


def _frame(document: dict[str, str]) -> bytes:
    """Return a masked text frame, its mask zero; shorter than 126 bytes."""
    data = json.dumps(document).encode()
    return bytes([0x81, 0x80 | len(data)]) + NO_MASK + data


async def _in_the_handshake(scene: Scene, user: str, end: End) -> None:
    _, writer = await dial(scene.cluster.gateways[scene.gateway].port)
    writer.write(HANDSHAKE[: scene.rng.randrange(1, len(HANDSHAKE))])
    await asyncio.sleep(0.01)
    end(writer.transport)


async def _behind_the_handshake(scene: Scene, user: str, end: End) -> None:
    _, writer = await dial(scene.cluster.gateways[scene.gateway].port)
    writer.write(HANDSHAKE)
    end(writer.transport)


async def _before_it_registers(scene: Scene, user: str, end: End) -> None:
    _, writer = await dial(scene.cluster.gateways[scene.gateway].port)
    writer.write(HANDSHAKE)
    await asyncio.sleep(0.02)
    end(writer.transport)


async def _while_it_registers(scene: Scene, user: str, end: End) -> None:
    connection = await say_register(scene.cluster.gateways[scene.gateway].url, user)
    if connection is not None:
        await asyncio.sleep(scene.rng.uniform(0.0, 0.01))
        end(connection.transport)


async def _with_half_a_frame(scene: Scene, user: str, end: End) -> None:
    connection = await _someone(scene, user)
    frame = _frame({"type": "message", "to": user, "content": MARK})
    connection.transport.write(frame[: scene.rng.randrange(1, len(frame))])
    await asyncio.sleep(0.01)
    end(connection.transport)


async def _with_pings_unanswered(scene: Scene, user: str, end: End) -> None:
    connection = await _someone(scene, user)
    connection.transport.write(_frame({"type": "ping"}) * 20)
    end(connection.transport)


async def _with_messages_on_the_way_to_it(scene: Scene, user: str, end: End) -> None:
    connection = await _someone(scene, user)
    text = _frame({"type": "message", "to": user, "content": MARK, "id": "m"})
    connection.transport.write(text * 20)
    await asyncio.sleep(0.005)
    end(connection.transport)


async def _with_its_goodbye(scene: Scene, user: str, end: End) -> None:
    connection = await _someone(scene, user)
    connection.transport.write(bytes([0x88, 0x82]) + NO_MASK + (1000).to_bytes(2, "big"))
    end(connection.transport)


async def _while_it_reads_nothing(scene: Scene, user: str, end: End) -> None:
    connection = await _someone(scene, user)
    connection.transport.pause_reading()
    text = _frame({"type": "message", "to": user, "content": MARK})
    connection.transport.write(text * 50)
    await asyncio.sleep(0.02)
    end(connection.transport)


async def _someone(scene: Scene, user: str) -> ClientConnection:
    connection = await registered(scene.cluster.gateways[scene.gateway].url, user)
    if connection is None:
        raise NotArranged(f"{user} could not register with {scene.gateway}")
    return connection


MOMENTS: Final[tuple[Callable[[Scene, str, End], Awaitable[None]], ...]] = (
    *(
        _in_the_handshake,
        _behind_the_handshake,
        _before_it_registers,
        _while_it_registers,
    ),
    *(_with_half_a_frame, _with_pings_unanswered, _with_messages_on_the_way_to_it),
    *(_with_its_goodbye, _while_it_reads_nothing),
)


@fault("client RST at any moment", 107, lasts_s=0.1, needs=(GATEWAY, REDIS))
async def reset_at_any_moment(scene: Scene) -> Steps:
    async for step in _at_any_moment(scene, "reset", reset):
        yield step


@fault("client half-close at any moment", 108, lasts_s=0.1, needs=(GATEWAY, REDIS))
async def half_close_at_any_moment(scene: Scene) -> Steps:
    """The client closes its half of the connection, and goes on receiving."""
    async for step in _at_any_moment(scene, "half", _half_close):
        yield step


def _half_close(transport: Any) -> None:
    if not transport.is_closing() and transport.can_write_eof():
        transport.write_eof()


async def _at_any_moment(scene: Scene, name: str, end: End) -> AsyncIterator[None]:
    """Let clients end at every moment of a session, while their neighbours exchange messages."""
    await ready(scene)
    users = [f"{name}-{n}-{scene.rng.randrange(10**9)}" for n in range(len(MOMENTS))]
    async with ProbeUser(scene, "neighbour") as one, ProbeUser(scene, "neighbour") as other:
        over = asyncio.Event()
        talking = asyncio.create_task(_talk(one, other, over), name="neighbours")
        try:
            for moment, user in zip(scene.rng.sample(MOMENTS, len(MOMENTS)), users, strict=True):
                with contextlib.suppress(OSError, WebSocketException):
                    await moment(scene, user, end)
            await _all_gone(scene, users)
        finally:
            over.set()
            await asyncio.wait([talking])
        talking.result()
        yield


async def _talk(one: ProbeUser, other: ProbeUser, over: asyncio.Event) -> None:
    """Exchange messages, each with an answer and a pong: on one gateway, and to an unknown user."""
    while not over.is_set():
        for probe, to in ((one, other.user), (other, one.user), (one, "nobody-here")):
            (status,) = await probe.ask(to)
            wanted = "offline" if to == "nobody-here" else "routed"
            if status != wanted:
                raise BrokenPromise(f"a message that had to be {wanted} was called {status}")
            await probe.pong()


async def _all_gone(scene: Scene, users: list[str]) -> None:
    """Check that Redis has no entry of these users any more. A gateway that still has one of them
    in its registry is found when sessions are counted.
    """
    keys = [f"presence:{user}" for user in users]

    async def are() -> bool:
        return not await scene.cluster.admin.exists(*keys)

    try:
        await until(are, "no entry of those who have gone", GONE_S + ANSWER_S)
    except TimeoutError as problem:
        raise BrokenPromise(str(problem)) from None


# --- a TCP window that closes and opens again -------------------------------------------------


@fault("zero window that reopens", 36, 109, lasts_s=CLOSED_WINDOW_S, needs=(GATEWAY, REDIS))
async def zero_window(scene: Scene) -> Steps:
    """A client receives nothing for less than the write deadline, and then everything. It comes in
    order, and the client is not disconnected.
    """
    await ready(scene)
    async with (
        ProbeUser(scene, "slow-to-read", small_buffer=True) as slow,
        ProbeUser(scene, "writer") as writer,
    ):
        transport = slow.connection.transport
        transport.pause_reading()
        texts = [
            json.dumps(
                {"type": "message", "to": slow.user, "content": MARK + "x" * MESSAGE_BYTES, "id": n}
            )
            for n in map(str, range(MESSAGES))
        ]
        for text in texts:
            await writer.connection.send(text)
        yield
        transport.resume_reading()
        await slow.got(MESSAGES, ANSWER_S)
        if slow.received != [str(n) for n in range(MESSAGES)]:
            raise BrokenPromise("what waited for a closed window came out of order")
        await slow.pong()


FAULTS: Final[tuple[FaultType, ...]] = (
    reset_with_answers_under_way,
    reset_at_any_moment,
    half_close_at_any_moment,
    zero_window,
)
