"""What when Redis answers, and does not work?

A server that refuses writes is no server for a gateway, whatever its reason. Each of these states
lasts longer than a lease, and the promise is the same in all: the gateway says within seconds that
it is not ready, and why, in Redis' own words; users keep their sockets and get their pongs;
newcomers are told to come back (1013); a message with an id is answered in time, and not as if
it had been handed on. When the state is over everything works again within a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from redis.exceptions import RedisError
from websockets.exceptions import ConnectionClosed

from wsdemo.proof.chaos.faults.arrange import (
    ANSWER_S,
    BrokenPromise,
    Guest,
    Steps,
    answers,
    page,
    ready,
    say_register,
    until,
)
from wsdemo.proof.chaos.nemesis import GATEWAY, REDIS, NotArranged, Scene, fault
from wsdemo.proof.chaos.world import LIMITS, TIMING, World
from wsdemo.protocol import Code

LASTS_S: Final = 1.25 * TIMING.presence_ttl_s
"""Longer than a lease: whoever counts refused refreshes must not drop anybody for them."""
NOTICE_S: Final = 2.0
"""Within so long a gateway has noticed. Leases are renewed every half a heartbeat, and probes are
sent more often than that."""
BACK_S: Final = 6.0
"""Within so long after it everything works: a pause between two attempts, and a heartbeat."""
TOLD_S: Final = LIMITS.register_deadline_s + 1.0
TRUE_ANSWERS: Final = frozenset({"busy", "unknown", "offline", "unreachable"})
"""What may be said of a message to nobody: not that it was handed on."""

State = Callable[[Scene], AbstractAsyncContextManager[None]]


async def _outage(scene: Scene, state: State, says: str) -> Steps:
    """Hold Redis in a state; see that the gateway says so, and keeps what it has promised."""
    await ready(scene)
    async with Guest(scene, "resident") as resident:
        async with state(scene):
            await _says(scene, says)
            await _sends_away(scene)
            _true_of_nobody(await resident.ask("nobody-here", "nobody-there"))
            await resident.pong()
            yield
            _true_of_nobody(await resident.ask("nobody-here"))
            await resident.pong()
        await ready(scene, BACK_S)
        await _serves_newcomers(scene, resident)


async def _says(scene: Scene, words: str) -> None:
    """Wait until `/ready` is 503 and names the reason."""
    said = ""

    async def does() -> bool:
        nonlocal said
        status, said = await page(scene, "/ready")
        return status == 503 and words in " ".join(json.loads(said)["reasons"])

    try:
        await until(does, f"{scene.gateway} says {words!r} at /ready", NOTICE_S)
    except TimeoutError as problem:
        raise BrokenPromise(f"{problem}; it says {said}") from None


async def _sends_away(scene: Scene) -> None:
    """See that a newcomer is told to come back."""
    connection = await say_register(scene.world.gateways[scene.gateway].url, "newcomer")
    if connection is None:
        raise BrokenPromise(f"{scene.gateway} takes no connections any more")
    try:
        async with asyncio.timeout(TOLD_S):
            while True:
                await connection.recv()
    except TimeoutError:
        raise BrokenPromise(f"a newcomer was told nothing within {TOLD_S:g} s") from None
    except ConnectionClosed:
        if connection.close_code != Code.TRY_LATER:
            text = f"a newcomer was told {connection.close_code}, and not {Code.TRY_LATER}"
            raise BrokenPromise(text) from None
    finally:
        connection.transport.abort()


def _true_of_nobody(statuses: list[str]) -> None:
    if not TRUE_ANSWERS.issuperset(statuses):
        raise BrokenPromise(f"messages to nobody were called {statuses}")


async def _serves_newcomers(scene: Scene, resident: Guest) -> None:
    """See that one who comes now gets a message of one who was there all the time."""
    elsewhere = [name for name in scene.world.gateways if name != scene.gateway]
    last = "nobody came"

    async def does() -> bool:
        nonlocal last
        try:
            async with Guest(scene, "latecomer", scene.rng.choice(elsewhere)) as latecomer:
                (last,) = await resident.ask(latecomer.user)
                if last == "routed":
                    last = "routed, and lost"
                    await latecomer.got(1, ANSWER_S)
                    return True
        except (NotArranged, BrokenPromise):
            pass  # That gateway is touched by another fault, or has not noticed yet: another one.
        return False

    try:
        await until(does, "a message to a latecomer", 2 * BACK_S)
    except TimeoutError as problem:
        raise BrokenPromise(f"{problem}; the last one: {last}") from None


# --- the states --------------------------------------------------------------------------------


@fault("primary turned replica", 25, 101, lasts_s=LASTS_S, touches=(REDIS,), needs=(GATEWAY,))
async def turned_replica(scene: Scene) -> Steps:
    """Its primary is nowhere, so it keeps its data, serves them, and takes no writes."""
    async for step in _outage(scene, _replica, "READONLY"):
        yield step


@asynccontextmanager
async def _replica(scene: Scene) -> AsyncIterator[None]:
    with socket.socket() as nowhere:
        nowhere.bind(("127.0.0.1", 0))  # And nobody listens there.
        port = nowhere.getsockname()[1]
        await scene.world.admin.execute_command("REPLICAOF", "127.0.0.1", str(port))
        try:
            yield
        finally:
            await scene.world.admin.execute_command("REPLICAOF", "NO", "ONE")


@fault("LOADING after a restart", 12, 102, lasts_s=LASTS_S, touches=(REDIS,), needs=(GATEWAY,))
async def loading(scene: Scene) -> Steps:
    """It has much to read, and answers everything with LOADING until it has."""
    async for step in _outage(scene, _loading, "LOADING"):
        yield step


SLOW_LOAD: Final = {"key-load-delay": "50000", "loading-process-events-interval-bytes": "1024"}
"""Microseconds a key, and how often it looks up from its reading."""
PADDING_KEYS: Final = 128
PADDING_BYTES: Final = 1024
"""It looks up after each of these, which are random and so cannot be compressed; the entries of
users are shorter than a kilobyte."""


@asynccontextmanager
async def _loading(scene: Scene) -> AsyncIterator[None]:
    world = scene.world
    await _pad(world)
    await world.admin.execute_command("CLIENT", "PAUSE", "5000", "WRITE")
    await asyncio.to_thread(world.server.kill, keep_data=True)
    world.server.settings.update(SLOW_LOAD)
    try:
        await asyncio.to_thread(world.server.start)
        yield
    finally:
        for name in SLOW_LOAD:
            del world.server.settings[name]
        await until(lambda: world.admin.config_set("key-load-delay", "0"), "an end of the delay")
        await until(lambda: _loaded(world), "all data loaded")
        await answers(world)
        await world.admin.delete(*_padding())


def _padding() -> list[str]:
    return [f"padding:{n}" for n in range(PADDING_KEYS)]


async def _pad(world: World) -> None:
    for key in _padding():
        await world.admin.set(key, secrets.token_hex(PADDING_BYTES // 2), px=60_000)


async def _loaded(world: World) -> bool:
    return not (await world.admin.info("persistence"))["loading"]


@fault("MISCONF: cannot save", 29, 103, lasts_s=LASTS_S, touches=(REDIS,), needs=(GATEWAY,))
async def misconf(scene: Scene) -> Steps:
    """A directory is where the dump should go, so the snapshot fails, and writes are refused."""
    async for step in _outage(scene, _cannot_save, "MISCONF"):
        yield step


@asynccontextmanager
async def _cannot_save(scene: Scene) -> AsyncIterator[None]:
    world = scene.world
    in_the_way = world.server.directory / "dump.rdb"
    in_the_way.unlink(missing_ok=True)
    in_the_way.mkdir()
    try:
        await world.admin.config_set("save", "3600 1")
        await world.admin.execute_command("BGSAVE")
        await until(lambda: _saved(world, "err"), "a snapshot that failed")
        yield
    finally:
        in_the_way.rmdir()
        await world.admin.execute_command("BGSAVE")
        await until(lambda: _saved(world, "ok"), "a snapshot that was saved")
        await world.admin.config_set("save", "")


async def _saved(world: World, status: str) -> bool:
    info = await world.admin.info("persistence")
    return info["rdb_last_bgsave_status"] == status and not info["rdb_bgsave_in_progress"]


@fault("NOPERM: rights taken away", 104, lasts_s=LASTS_S, touches=(REDIS,), needs=(GATEWAY,))
async def no_permission(scene: Scene) -> Steps:
    """Somebody changes the rights of the account: no scripts any more, or no key to write to."""
    async for step in _outage(scene, _no_rights, "NOPERM"):
        yield step


RIGHTS: Final = (
    (("-eval", "-evalsha", "-script"), ("+eval", "+evalsha", "+script")),
    (("resetkeys", "%R~*"), ("allkeys",)),
)
"""What is taken away, and how it is given back."""


@asynccontextmanager
async def _no_rights(scene: Scene) -> AsyncIterator[None]:
    admin = scene.world.admin
    taken, given = scene.rng.choice(RIGHTS)
    await admin.execute_command("ACL", "SETUSER", "default", *taken)
    try:
        yield
    finally:
        await admin.execute_command("ACL", "SETUSER", "default", *given)


@fault("maxclients reached", 105, lasts_s=LASTS_S, touches=(REDIS,), needs=(GATEWAY,))
async def max_clients(scene: Scene) -> Steps:
    """Gateways lose their connections, and Redis takes no new ones."""
    async for step in _outage(scene, _no_room, "max number of clients"):
        yield step


@asynccontextmanager
async def _no_room(scene: Scene) -> AsyncIterator[None]:
    admin = scene.world.admin
    ours = {"nemesis"}
    clients = await admin.client_list()
    before = (await admin.config_get("maxclients"))["maxclients"]
    await admin.config_set("maxclients", "1")
    try:
        for client in clients:
            if client["cmd"] != "monitor" and client["name"] not in ours:
                with contextlib.suppress(RedisError):
                    await admin.execute_command("CLIENT", "KILL", "ID", client["id"])
        yield
    finally:
        await until(lambda: _more_room(admin, before), "room for clients again")


async def _more_room(admin: Any, count: str) -> bool:
    return bool(await admin.config_set("maxclients", count))
