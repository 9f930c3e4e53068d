"""Redis outages: what if Redis answers, but refuses writes or connections?

For a gateway, a server that refuses writes is not usable, whatever the reason. Each of these states
lasts longer than a lease, and the promise is the same in all of them. The gateway says within
seconds that it is not ready, and why, in the words of Redis. Users keep their connections and get
their pongs. New users are told to try later (1013). A message with an id is answered in time, and
not with `routed`. When the state is over, everything works again within a bound.
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

from wsdemo.proof.chaos.cluster import LIMITS, TIMING, ProcessCluster
from wsdemo.proof.chaos.fault import GATEWAY, REDIS, FaultType, NotArranged, Scene, Steps, fault
from wsdemo.proof.chaos.faults.arrange import (
    BrokenPromise,
    answers,
    page,
    ready,
    say_register,
    until,
)
from wsdemo.proof.chaos.faults.probe import ANSWER_S, ProbeUser
from wsdemo.protocol import Code
from wsdemo.redis.connection import BACKOFF_CAP_S

LASTS_S: Final = 1.25 * TIMING.presence_ttl_s
"""Longer than a lease: a gateway must not drop a session because refreshes were refused."""
NOTICE_S: Final = 2 * (BACKOFF_CAP_S + LIMITS.redis_connect_timeout_s)
"""Within this time a gateway has noticed, and knows why: also after a restart, when its first
attempt to connect found nobody or got no answer, and the second one came after the longest pause.
"""
BACK_S: Final = 6.0
"""Within this time after the state, everything works: a reconnect pause and a heartbeat."""
TOLD_S: Final = LIMITS.register_deadline_s + 1.0
HONEST_ANSWERS: Final = frozenset({"busy", "unknown", "offline", "unreachable"})
"""The allowed answers to a message for an unknown user. `routed` would be wrong."""

RedisState = Callable[[Scene], AbstractAsyncContextManager[None]]


async def _outage(scene: Scene, state: RedisState, says: str) -> Steps:
    """Keep Redis in a state. Check that the gateway reports it, and that it keeps its promises."""
    await ready(scene)
    async with ProbeUser(scene, "resident") as resident:
        async with state(scene):
            await _says(scene, says)
            await _rejects_new_users(scene)
            _answers_are_honest(await resident.ask("nobody-here", "nobody-there"))
            await resident.pong()
            yield
            _answers_are_honest(await resident.ask("nobody-here"))
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


async def _rejects_new_users(scene: Scene) -> None:
    """Check that a new user is told to try later."""
    connection = await say_register(scene.cluster.gateways[scene.gateway].url, "newcomer")
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


def _answers_are_honest(statuses: list[str]) -> None:
    if not HONEST_ANSWERS.issuperset(statuses):
        raise BrokenPromise(f"messages to nobody were called {statuses}")


async def _serves_newcomers(scene: Scene, resident: ProbeUser) -> None:
    """Check that a user who registers now receives a message from one who was online all along."""
    elsewhere = [name for name in scene.cluster.gateways if name != scene.gateway]
    last = "nobody came"

    async def does() -> bool:
        nonlocal last
        try:
            async with ProbeUser(scene, "latecomer", scene.rng.choice(elsewhere)) as latecomer:
                (last,) = await resident.ask(latecomer.user)
                if last == "routed":
                    last = "routed, and lost"
                    await latecomer.got(1, ANSWER_S)
                    return True
        except (NotArranged, BrokenPromise):
            pass  # That gateway is touched by another fault, or has not noticed yet: try again.
        return False

    try:
        await until(does, "a message to a latecomer", 2 * BACK_S)
    except TimeoutError as problem:
        raise BrokenPromise(f"{problem}; the last one: {last}") from None


# --- the states --------------------------------------------------------------------------------


@fault("primary turned replica", 25, 101, lasts_s=LASTS_S, touches=(REDIS,), needs=(GATEWAY,))
async def turned_replica(scene: Scene) -> Steps:
    """Its primary does not exist, so it keeps its data, answers reads, and refuses writes."""
    async for step in _outage(scene, _replica, "READONLY"):
        yield step


@asynccontextmanager
async def _replica(scene: Scene) -> AsyncIterator[None]:
    with socket.socket() as nowhere:
        nowhere.bind(("127.0.0.1", 0))  # Nobody listens there.
        port = nowhere.getsockname()[1]
        await scene.cluster.admin.execute_command("REPLICAOF", "127.0.0.1", str(port))
        try:
            yield
        finally:
            await scene.cluster.admin.execute_command("REPLICAOF", "NO", "ONE")


@fault("LOADING after a restart", 12, 102, lasts_s=LASTS_S, touches=(REDIS,), needs=(GATEWAY,))
async def loading(scene: Scene) -> Steps:
    """It has much data to load, and answers everything with LOADING until it is done."""
    async for step in _outage(scene, _loading, "LOADING"):
        yield step


SLOW_LOAD: Final = {"key-load-delay": "50000", "loading-process-events-interval-bytes": "1024"}
"""Microseconds per key, and how often Redis handles other events while it loads."""
PADDING_KEYS: Final = 128
PADDING_BYTES: Final = 1024
"""Redis handles other events after each of these. They are random, so they cannot be compressed;
the entries of users are shorter than a kilobyte."""


@asynccontextmanager
async def _loading(scene: Scene) -> AsyncIterator[None]:
    cluster = scene.cluster
    await _pad(cluster)
    await cluster.admin.execute_command("CLIENT", "PAUSE", "5000", "WRITE")
    cluster.witness.restart_will_come()
    await asyncio.to_thread(cluster.server.kill, keep_data=True)
    cluster.server.settings.update(SLOW_LOAD)
    try:
        await asyncio.to_thread(cluster.server.start)
        yield
    finally:
        for name in SLOW_LOAD:
            del cluster.server.settings[name]
        await until(lambda: cluster.admin.config_set("key-load-delay", "0"), "an end of the delay")
        await until(lambda: _loaded(cluster), "all data loaded")
        await answers(cluster)
        await cluster.admin.delete(*_padding())


def _padding() -> list[str]:
    return [f"padding:{n}" for n in range(PADDING_KEYS)]


async def _pad(cluster: ProcessCluster) -> None:
    for key in _padding():
        await cluster.admin.set(key, secrets.token_hex(PADDING_BYTES // 2), px=60_000)


async def _loaded(cluster: ProcessCluster) -> bool:
    return not (await cluster.admin.info("persistence"))["loading"]


@fault("MISCONF: cannot save", 29, 103, lasts_s=LASTS_S, touches=(REDIS,), needs=(GATEWAY,))
async def misconf(scene: Scene) -> Steps:
    """A directory is in the place of the dump file, so snapshots fail, and writes are refused."""
    async for step in _outage(scene, _cannot_save, "MISCONF"):
        yield step


@asynccontextmanager
async def _cannot_save(scene: Scene) -> AsyncIterator[None]:
    cluster = scene.cluster
    in_the_way = cluster.server.directory / "dump.rdb"
    in_the_way.unlink(missing_ok=True)
    in_the_way.mkdir()
    try:
        await cluster.admin.config_set("save", "3600 1")
        await cluster.admin.execute_command("BGSAVE")
        await until(lambda: _saved(cluster, "err"), "a snapshot that failed")
        yield
    finally:
        in_the_way.rmdir()
        await cluster.admin.execute_command("BGSAVE")
        await until(lambda: _saved(cluster, "ok"), "a snapshot that was saved")
        await cluster.admin.config_set("save", "")


async def _saved(cluster: ProcessCluster, status: str) -> bool:
    info = await cluster.admin.info("persistence")
    return info["rdb_last_bgsave_status"] == status and not info["rdb_bgsave_in_progress"]


@fault("NOPERM: rights taken away", 104, lasts_s=LASTS_S, touches=(REDIS,), needs=(GATEWAY,))
async def no_permission(scene: Scene) -> Steps:
    """The rights of the account change: it may not run scripts, or not write to any key."""
    async for step in _outage(scene, _no_rights, "NOPERM"):
        yield step


RIGHTS: Final = (
    (("-eval", "-evalsha", "-script"), ("+eval", "+evalsha", "+script")),
    (("resetkeys", "%R~*"), ("allkeys",)),
)
"""Which rights are removed, and how they are given back."""


@asynccontextmanager
async def _no_rights(scene: Scene) -> AsyncIterator[None]:
    admin = scene.cluster.admin
    taken, given = scene.rng.choice(RIGHTS)
    await admin.execute_command("ACL", "SETUSER", "default", *taken)
    try:
        yield
    finally:
        await admin.execute_command("ACL", "SETUSER", "default", *given)


@fault("maxclients reached", 105, lasts_s=LASTS_S, touches=(REDIS,), needs=(GATEWAY,))
async def max_clients(scene: Scene) -> Steps:
    """Gateways lose their connections, and Redis accepts no new ones."""
    async for step in _outage(scene, _no_room, "max number of clients"):
        yield step


@asynccontextmanager
async def _no_room(scene: Scene) -> AsyncIterator[None]:
    admin = scene.cluster.admin
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


FAULTS: Final[tuple[FaultType, ...]] = (
    turned_replica,
    loading,
    misconf,
    no_permission,
    max_clients,
)
