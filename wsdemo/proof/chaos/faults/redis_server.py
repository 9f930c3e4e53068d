"""Redis server faults: what if Redis is killed or stopped, loses data, or holds strange data?

States in which Redis answers but refuses writes are in `outages`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Final

import redis.asyncio as redis_client
from redis.exceptions import RedisError

from wsdemo.proof.chaos.fault import (
    GATEWAY,
    HEAL_S,
    ONE_SERVER,
    REDIS,
    USERS,
    FaultType,
    Scene,
    Steps,
    fault,
)
from wsdemo.proof.chaos.faults.arrange import answers, must_register, ready
from wsdemo.proof.chaos.users import MARK

LONG: Final = 8_000
"""How often the mark is repeated in the longest envelope."""


@fault("Redis killed, data kept", 12, lasts_s=0.8, touches=(REDIS,))
async def redis_killed(scene: Scene) -> Steps:
    """No acknowledged write is missing afterwards, as with `appendfsync always`. So writes are
    paused before the snapshot is taken, which here takes the place of the AOF.
    """
    cluster = scene.cluster
    await cluster.admin.execute_command("CLIENT", "PAUSE", "5000", "WRITE")
    cluster.witness.restart_will_come()
    await asyncio.to_thread(cluster.server.kill, keep_data=True)
    yield
    await asyncio.to_thread(cluster.server.start)
    await answers(cluster)


@fault("Redis killed, data lost", 13, lasts_s=0.5, touches=(REDIS,))
async def redis_killed_empty(scene: Scene) -> Steps:
    cluster = scene.cluster
    cluster.witness.data_will_be_lost()
    await asyncio.to_thread(cluster.server.kill)
    yield
    await asyncio.to_thread(cluster.server.start)
    await answers(cluster)


@fault("Redis stopped", 14, lasts_s=1.2, touches=(REDIS,))
async def redis_stopped(scene: Scene) -> Steps:
    scene.cluster.server.pause()
    yield
    scene.cluster.server.resume()
    await answers(scene.cluster)


@fault("Redis stopped, users cut: a herd", 39, 38, lasts_s=0.9, touches=(REDIS, USERS))
async def herd(scene: Scene) -> Steps:
    cluster = scene.cluster
    cluster.server.pause()
    for user in cluster.users:
        for wire in user.routes.wires.values():
            wire.reset()
    yield
    cluster.server.resume()
    await answers(cluster)


@fault("CLIENT PAUSE ALL", 15, lasts_s=0.9, touches=(REDIS,))
async def client_pause_all(scene: Scene) -> Steps:
    await scene.cluster.admin.execute_command("CLIENT", "PAUSE", "900", "ALL")
    yield
    await answers(scene.cluster)


@fault("CLIENT PAUSE WRITE", 15, lasts_s=0.9, touches=(REDIS,))
async def client_pause_write(scene: Scene) -> Steps:
    await scene.cluster.admin.execute_command("CLIENT", "PAUSE", "5000", "WRITE")
    yield
    await scene.cluster.admin.execute_command("CLIENT", "UNPAUSE")


@fault("CLIENT KILL pubsub", 16, lasts_s=0.5, touches=(REDIS,), at=ONE_SERVER)
async def client_kill_pubsub(scene: Scene) -> Steps:
    await scene.cluster.admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    yield


@fault("CLIENT KILL normal", 17, lasts_s=0.5, touches=(REDIS,), at=ONE_SERVER)
async def client_kill_normal(scene: Scene) -> Steps:
    """As CLIENT KILL TYPE normal, except for the witness and our own connection."""
    admin = scene.cluster.admin
    for client in await admin.client_list(_type="normal"):
        if client["cmd"] != "monitor" and client["name"] != "nemesis":
            with contextlib.suppress(RedisError):
                await admin.execute_command("CLIENT", "KILL", "ID", client["id"])
    yield


@fault("maxmemory reached", 27, lasts_s=1.2, touches=(REDIS,))
async def maxmemory(scene: Scene) -> Steps:
    await scene.cluster.admin.config_set("maxmemory", "1mb")
    yield
    await scene.cluster.admin.config_set("maxmemory", "0")


@fault("FLUSHALL", 31, lasts_s=0.5, touches=(REDIS,), at=ONE_SERVER)
async def flushall(scene: Scene) -> Steps:
    await scene.cluster.admin.flushall()
    yield


@fault("SCRIPT FLUSH", 31, lasts_s=0.3, touches=(REDIS,))
async def script_flush(scene: Scene) -> Steps:
    await scene.cluster.admin.script_flush()
    await scene.cluster.admin.config_resetstat()
    yield


@fault("DEL of one presence key", 31, lasts_s=0.3, touches=(REDIS,))
async def del_presence(scene: Scene) -> Steps:
    await scene.cluster.admin.delete(f"presence:{scene.rng.choice(scene.cluster.accounts)}")
    yield


@fault("wrong type", 32, lasts_s=1.0, touches=(REDIS,))
async def wrong_type(scene: Scene) -> Steps:
    cluster = scene.cluster
    key = f"presence:{scene.rng.choice(cluster.accounts)}"
    await cluster.admin.set(key, "x")
    yield
    await cluster.admin.delete(key)


@fault("BUSY: a script that does not end", 33, lasts_s=0.9, touches=(REDIS,))
async def busy(scene: Scene) -> Steps:
    cluster = scene.cluster
    await cluster.admin.config_set("lua-time-limit", "50")
    another: Any = redis_client.Redis.from_url(cluster.server.url, socket_timeout=HEAL_S)
    async with another:
        endless = asyncio.ensure_future(another.eval("while true do end", 0))
        try:
            yield
        finally:
            with contextlib.suppress(RedisError):
                await cluster.admin.execute_command("SCRIPT", "KILL")
            await asyncio.gather(endless, return_exceptions=True)


@fault("pub/sub buffer overflows", 34, lasts_s=0.5, touches=(REDIS,))
async def pubsub_overflow(scene: Scene) -> Steps:
    """A script publishes more than the buffer of a subscriber may hold before any of it is sent."""
    admin = scene.cluster.admin
    await admin.config_set("client-output-buffer-limit", "pubsub 262144 131072 1")
    burst = "for i = 1, 64 do redis.call('PUBLISH', ARGV[1], ARGV[2]) end"
    await admin.eval(burst, 0, f"gateway:{scene.gateway}", "x" * 16_000)
    yield
    await admin.config_set("client-output-buffer-limit", "pubsub 33554432 8388608 60")


@fault("hostile publishes", 78, lasts_s=0.3)
async def hostile_publishes(scene: Scene) -> Steps:
    cluster = scene.cluster
    for gateway in sorted(cluster.gateways):
        for text in _hostile_envelopes():
            with contextlib.suppress(RedisError):
                await cluster.admin.publish(f"gateway:{gateway}", text)
    yield


def _hostile_envelopes() -> list[str]:
    envelopes: list[Any] = [
        [],
        7,
        {"type": "nonsense"},
        {"type": "direct"},
        {"type": "direct", "from": 3, "to": [], "content": {}},
        {"type": "direct", "from": "mallory", "to": "user-01", "content": MARK, "toConn": "none"},
        {"type": "kick", "user": "user-01", "connId": "none", "token": 1},
        {"type": "bounce", "fromConn": "none", "to": "user-01"},
        {"type": "direct", "from": "x", "to": "nobody-here", "content": MARK * LONG},
    ]
    return ["", "not JSON", "\ud7ff", "{" * 5000, *(json.dumps(one) for one in envelopes)]


@fault("foreign presence entries", 79, 80, lasts_s=0.6, touches=(REDIS,), needs=(GATEWAY,))
async def foreign_entries(scene: Scene) -> Steps:
    """An incomplete entry, as the Go demo leaves them, and one with an invalid gateway id."""
    admin = scene.cluster.admin
    await ready(scene)
    await admin.hset("presence:half", mapping={"gwId": scene.gateway, "ts": "1"})
    await admin.hset("presence:odd", mapping={"gwId": "a\nb*", "connId": "c", "ts": "1"})
    asker = await must_register(scene, "asker")
    for ghost in ("half", "odd"):
        await asker.send(json.dumps({"type": "message", "to": ghost, "content": MARK}))
    yield
    await admin.delete("presence:half", "presence:odd")
    await asker.close()


FAULTS: Final[tuple[FaultType, ...]] = (
    redis_killed,
    redis_killed_empty,
    redis_stopped,
    herd,
    client_pause_all,
    client_pause_write,
    client_kill_pubsub,
    client_kill_normal,
    maxmemory,
    flushall,
    script_flush,
    del_presence,
    wrong_type,
    busy,
    pubsub_overflow,
    hostile_publishes,
    foreign_entries,
)
