"""What when a client ends rudely, or for a while takes nothing?

A phone that loses its network, and a process that is killed, reset their connections at any
moment. Some programs close their half and go on listening. Whatever one client does, its
neighbours on the same gateway get every ack and every pong within its bound, and nothing of the
rude one is left.
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

from wsdemo.proof.chaos.faults.arrange import (
    ANSWER_S,
    BrokenPromise,
    Guest,
    Steps,
    dial,
    held,
    ready,
    registered,
    reset,
    say_register,
    until,
)
from wsdemo.proof.chaos.nemesis import GATEWAY, REDIS, NotArranged, Scene, fault
from wsdemo.proof.chaos.users import MARK
from wsdemo.proof.chaos.world import LIMITS, commands

NEIGHBOURS: Final = 4
RUDE: Final = 6
GONE_S: Final = 1.0
"""Within so long nothing is left of a client that has gone, in the gateway and in Redis."""
UNDER_WAY_S: Final = 0.2
"""How long answers of Redis lie on the wire: less than a gateway waits for them."""
ARRIVES_S: Final = 0.03
"""For so long it stands still for what is on the way to it to arrive."""
LETTERS: Final = 200
LETTER_BYTES: Final = 1024
DEAF_S: Final = 0.5 * LIMITS.write_deadline_s

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
    """Between neighbours that wait for their acks, others reset their connections while theirs
    are on the way: in a turn of the gateway's loop before the acks; or in the same turn, before or
    behind them. For that, the gateway stands still for a moment, as on a busy machine.
    """
    await ready(scene)
    async with contextlib.AsyncExitStack() as guests:
        neighbours = [
            await guests.enter_async_context(Guest(scene, "neighbour")) for _ in range(NEIGHBOURS)
        ]
        for order in scene.rng.sample(ORDERS, len(ORDERS)):
            rude = [await guests.enter_async_context(Guest(scene, "rude")) for _ in range(RUDE)]
            await _reset_and_answer(scene, neighbours, rude, order)
            await _all_gone(scene, [guest.user for guest in rude])
        yield


ORDERS: Final = ("resets, then acks", "resets and acks", "acks and resets")


async def _reset_and_answer(
    scene: Scene, neighbours: list[Guest], rude: list[Guest], order: str
) -> None:
    gateway = scene.world.gateways[scene.gateway]
    strands = list(scene.world.wires[scene.gateway].strands(commands))
    waiting = []
    try:
        with held(strands, "down"):
            # In turns: those who are gone stand before and behind those who wait.
            for n in range(max(NEIGHBOURS, RUDE)):
                for guest in rude[n : n + 1]:
                    await guest.write("nobody-here")
                for guest in neighbours[n : n + 1]:
                    waiting.append((guest, await guest.write("nobody-here")))
            await asyncio.sleep(UNDER_WAY_S)
            if order != "resets, then acks":
                gateway.signal(signal.SIGSTOP)
            if order != "acks and resets":
                await _reset(rude)
        if order == "acks and resets":
            await asyncio.sleep(ARRIVES_S)
            await _reset(rude)
        await asyncio.sleep(ARRIVES_S)
    finally:
        gateway.signal(signal.SIGCONT)
    for guest, ids in waiting:
        (status,) = await guest.answered(ids)
        if status not in ("offline", "unknown"):
            raise BrokenPromise(f"a message to nobody was called {status}")
        await guest.pong()


async def _reset(guests: list[Guest]) -> None:
    """Reset their connections, and wait until the gateway could know."""
    for guest in guests:
        reset(guest.connection.transport)
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
    _, writer = await dial(scene.world.gateways[scene.gateway].port)
    writer.write(HANDSHAKE[: scene.rng.randrange(1, len(HANDSHAKE))])
    await asyncio.sleep(0.01)
    end(writer.transport)


async def _with_the_last_byte_of_it(scene: Scene, user: str, end: End) -> None:
    _, writer = await dial(scene.world.gateways[scene.gateway].port)
    writer.write(HANDSHAKE)
    end(writer.transport)


async def _before_it_registers(scene: Scene, user: str, end: End) -> None:
    _, writer = await dial(scene.world.gateways[scene.gateway].port)
    writer.write(HANDSHAKE)
    await asyncio.sleep(0.02)
    end(writer.transport)


async def _while_it_registers(scene: Scene, user: str, end: End) -> None:
    connection = await say_register(scene.world.gateways[scene.gateway].url, user)
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


async def _with_letters_on_the_way_to_it(scene: Scene, user: str, end: End) -> None:
    connection = await _someone(scene, user)
    letter = _frame({"type": "message", "to": user, "content": MARK, "id": "m"})
    connection.transport.write(letter * 20)
    await asyncio.sleep(0.005)
    end(connection.transport)


async def _with_its_goodbye(scene: Scene, user: str, end: End) -> None:
    connection = await _someone(scene, user)
    connection.transport.write(bytes([0x88, 0x82]) + NO_MASK + (1000).to_bytes(2, "big"))
    end(connection.transport)


async def _while_it_reads_nothing(scene: Scene, user: str, end: End) -> None:
    connection = await _someone(scene, user)
    connection.transport.pause_reading()
    letter = _frame({"type": "message", "to": user, "content": MARK})
    connection.transport.write(letter * 50)
    await asyncio.sleep(0.02)
    end(connection.transport)


async def _someone(scene: Scene, user: str) -> ClientConnection:
    connection = await registered(scene.world.gateways[scene.gateway].url, user)
    if connection is None:
        raise NotArranged(f"{user} could not register with {scene.gateway}")
    return connection


MOMENTS: Final[tuple[Callable[[Scene, str, End], Awaitable[None]], ...]] = (
    *(_in_the_handshake, _with_the_last_byte_of_it, _before_it_registers, _while_it_registers),
    *(_with_half_a_frame, _with_pings_unanswered, _with_letters_on_the_way_to_it),
    *(_with_its_goodbye, _while_it_reads_nothing),
)


@fault("client RST at any moment", 107, lasts_s=0.1, needs=(GATEWAY, REDIS))
async def reset_at_any_moment(scene: Scene) -> Steps:
    async for step in _at_any_moment(scene, "reset", reset):
        yield step


@fault("client half-close at any moment", 108, lasts_s=0.1, needs=(GATEWAY, REDIS))
async def half_close_at_any_moment(scene: Scene) -> Steps:
    """It says that it will send no more, and goes on listening."""
    async for step in _at_any_moment(scene, "half", _half_close):
        yield step


def _half_close(transport: Any) -> None:
    if not transport.is_closing() and transport.can_write_eof():
        transport.write_eof()


async def _at_any_moment(scene: Scene, name: str, end: End) -> AsyncIterator[None]:
    """Let clients end at every moment of a session, while neighbours talk to each other."""
    await ready(scene)
    users = [f"{name}-{n}-{scene.rng.randrange(10**9)}" for n in range(len(MOMENTS))]
    async with Guest(scene, "neighbour") as one, Guest(scene, "neighbour") as other:
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


async def _talk(one: Guest, other: Guest, over: asyncio.Event) -> None:
    """Write to and fro, locally and through Redis, each with an answer and a pong, to the last."""
    while not over.is_set():
        for guest, to in ((one, other.user), (other, one.user), (one, "nobody-here")):
            (status,) = await guest.ask(to)
            wanted = "offline" if to == "nobody-here" else "routed"
            if status != wanted:
                raise BrokenPromise(f"a message that had to be {wanted} was called {status}")
            await guest.pong()


async def _all_gone(scene: Scene, users: list[str]) -> None:
    """See that Redis has no entry of these users any more; a gateway that still had one of them
    in its registry would be found out when sessions are counted.
    """
    keys = [f"presence:{user}" for user in users]

    async def are() -> bool:
        return not await scene.world.admin.exists(*keys)

    try:
        await until(are, "no entry of those who have gone", GONE_S + ANSWER_S)
    except TimeoutError as problem:
        raise BrokenPromise(str(problem)) from None


# --- a window that closes and opens again ------------------------------------------------------


@fault("zero window that reopens", 36, 109, lasts_s=DEAF_S, needs=(GATEWAY, REDIS))
async def zero_window(scene: Scene) -> Steps:
    """She takes nothing for a while, less than the write deadline, and then everything: it comes
    in order, and she is not given up.
    """
    await ready(scene)
    async with (
        Guest(scene, "slow-to-read", small_buffer=True) as slow,
        Guest(scene, "writer") as writer,
    ):
        transport = slow.connection.transport
        transport.pause_reading()
        letters = [
            json.dumps(
                {"type": "message", "to": slow.user, "content": MARK + "x" * LETTER_BYTES, "id": n}
            )
            for n in map(str, range(LETTERS))
        ]
        for letter in letters:
            await writer.connection.send(letter)
        yield
        transport.resume_reading()
        await slow.got(LETTERS, ANSWER_S)
        if slow.received != [str(n) for n in range(LETTERS)]:
            raise BrokenPromise("what waited for a closed window came out of order")
        await slow.pong()
