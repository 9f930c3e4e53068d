"""What can go wrong? One function per fault of the catalogue: it begins it, yields, and heals it.

Those that were found since are in modules of their own: `outages` (a Redis that answers and does
not work), `clients` (connections that end rudely), `hosts` (what a process lives with).

Rows of the catalogue that are not here, and why:

| row | why not |
|---|---|
| 6 | a stall of the event loop alone needs a hand inside the process; SIGSTOP (3, 4) stalls all |
| 7, 8 | a crash at one line of the code needs a hand inside; SIGKILL (1) comes at any line |
| 11 | an exception of a handler needs a hand inside |
| 24, 25, 26 | failover and split brain need a replica |
| 28 | an evicted fence is a fence that is lost: a configuration that the guarantees exclude |
| 30 | what is lost of an AOF matters to the durable mode only |
| 41 | the clock of Redis cannot be set apart from the machine's |
| 52 | the interrupt of a notebook belongs to the notebook |
| 54 | a Redis with another password or version is met at the start only |
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import sys
from typing import Any, Final

import psutil
import redis.asyncio as redis_client
from redis.exceptions import RedisError
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from wsdemo.proof.chaos.faults.arrange import (
    CALL_S,
    BrokenPromise,
    Steps,
    answers,
    begin_registers,
    dial,
    held,
    must_register,
    ready,
    registered,
    say_register,
    until,
)
from wsdemo.proof.chaos.nemesis import (
    ALL_GATEWAYS,
    GATEWAY,
    HEAL_S,
    REDIS,
    USERS,
    NotArranged,
    Scene,
    fault,
)
from wsdemo.proof.chaos.users import MARK
from wsdemo.proof.chaos.world import LIMITS, TIMING, World, commands, listens
from wsdemo.rig.process import GatewayDied
from wsdemo.rig.wire import Direction, Strand, Wire

FLOOD: Final = 40_000
"""Pings of a flood; 5 MB with their payloads."""
JUNK: Final = 8_000
LEAVERS: Final = 4
ATTEMPTS: Final = 4


# --- the processes of gateways -----------------------------------------------------------------


@fault("gateway killed, back at once", 1, 10, lasts_s=0.5, touches=(GATEWAY,))
async def gateway_killed(scene: Scene) -> Steps:
    await _kill(scene)
    await scene.world.start_again(scene.gateway)
    yield


@fault("gateway killed, away", 1, 38, lasts_s=1.2, touches=(GATEWAY,))
async def gateway_away(scene: Scene) -> Steps:
    await _kill(scene)
    yield
    await scene.world.start_again(scene.gateway)


async def _kill(scene: Scene) -> None:
    gateway = scene.world.gateways[scene.gateway]
    gateway.signal(signal.SIGKILL)
    code = await gateway.wait(CALL_S)
    scene.world.seen[f"killed, exit code {code}"] += 1
    await gateway.stop()


@fault("gateway drained", 2, lasts_s=0.3, touches=(GATEWAY,))
async def gateway_drained(scene: Scene) -> Steps:
    await scene.world.drain(scene.gateway)
    yield
    await scene.world.start_again(scene.gateway)


@fault("gateway stopped, shortly", 3, lasts_s=0.4, touches=(GATEWAY,))
async def gateway_stopped(scene: Scene) -> Steps:
    scene.world.gateways[scene.gateway].signal(signal.SIGSTOP)
    yield
    scene.world.gateways[scene.gateway].signal(signal.SIGCONT)


@fault("gateway a zombie", 4, 42, lasts_s=1.25 * TIMING.presence_ttl_s, touches=(GATEWAY,))
async def gateway_zombie(scene: Scene) -> Steps:
    scene.world.gateways[scene.gateway].signal(signal.SIGSTOP)
    yield
    scene.world.gateways[scene.gateway].signal(signal.SIGCONT)


@fault("late commands", 5, 46, 47, lasts_s=0.2, touches=(GATEWAY,), needs=(REDIS,))
async def late_commands(scene: Scene) -> Steps:
    """Commands of every kind lie on a wire until their gateway has given up the connection, and
    are then executed, when the users have long been elsewhere, or have left.
    """
    world, wire = scene.world, scene.world.wires[scene.gateway]
    await ready(scene)
    victims = world.users_of(scene.gateway)[:4]
    leavers = await begin_registers(scene, "late-leaver", LEAVERS)
    await until(lambda: _all_present(world, "late-leaver"), "four users registered")
    # By then a lease may be renewed, and a sign of life is all that it takes.
    await asyncio.sleep(0.55 * TIMING.heartbeat_s)
    old = list(wire.strands(commands))
    with held(old, "up"):  # What is under way is executed; what follows is not, for now.
        for leaver in leavers:
            await leaver.send('{"type":"ping"}')
        for victim in victims[:2]:
            await victim.vanish()
        await until(lambda: _given_up(wire, old), "a new connection to Redis")
        await ready(scene)
        for victim in victims[2:]:
            await victim.vanish()
        for leaver in leavers:
            leaver.transport.abort()
        # Their releases overtake the refreshes that their pings were for (47).
        await until(lambda: _all_absent(world, "late-leaver"), "their entries gone")
        yield


async def _all_present(world: World, name: str) -> bool:
    keys = [f"presence:{name}-{n}" for n in range(LEAVERS)]
    return bool(await world.admin.exists(*keys) == LEAVERS)


async def _all_absent(world: World, name: str) -> bool:
    keys = [f"presence:{name}-{n}" for n in range(LEAVERS)]
    return not await world.admin.exists(*keys)


async def _given_up(wire: Wire, old: list[Strand]) -> bool:
    """Say whether the gateway speaks to Redis on another connection already."""
    return any(strand not in old and strand.said for strand in wire.strands(commands))


@fault("late register", 5, 48, lasts_s=0.2, touches=(GATEWAY,), needs=(REDIS,))
async def late_register(scene: Scene) -> Steps:
    """A register that was minted lies on a wire while its user registers elsewhere."""
    connections = await _late_register_of_some_try(scene)
    yield
    for connection in connections:
        if connection is not None:
            await connection.close()


async def _late_register_of_some_try(scene: Scene) -> list[ClientConnection | None]:
    for _ in range(ATTEMPTS):
        await ready(scene)
        with contextlib.suppress(TimeoutError):
            return await _late_register(scene)
    raise NotArranged("the gateway gave up its connection to Redis before a token was minted")


async def _late_register(scene: Scene) -> list[ClientConnection | None]:
    """Do it once; return the late session and the one that was quicker.

    Raises:
        TimeoutError: the gateway gave up its connection to Redis before the token was minted.
        BrokenPromise: it did not take its register back.
    """
    world, wire = scene.world, scene.world.wires[scene.gateway]
    user = f"late-register-{scene.rng.randrange(10**9)}"  # Without a fence of an earlier time.
    elsewhere = [name for name in sorted(world.gateways) if name != scene.gateway]
    old = list(wire.strands(commands))
    with contextlib.ExitStack() as until_then:
        with held(old, "down"):
            # The mint is executed, its answer comes late, and the register later.
            slow = await say_register(world.gateways[scene.gateway].url, user)
            minted_s = 2 * LIMITS.redis_timeout_s
            await until(lambda: world.admin.exists(f"fence:{user}"), "a token", minted_s)
            until_then.enter_context(held(old, "up"))
        await asyncio.sleep(0.1)  # By then the register lies on the wire.
        quick = await _registered_at_one_of(world, elsewhere, user)
        if quick is None:  # Then the gateway will take its register back, and it is late for that.
            try:
                await until(lambda: world.admin.hget(f"fence:{user}", "floor"), "a release")
            except TimeoutError as problem:
                raise BrokenPromise(str(problem)) from None
    return [slow, quick]


async def _registered_at_one_of(
    world: World, gateways: list[str], user: str
) -> ClientConnection | None:
    """Register with the first that takes us at once: another fault may be at one of them."""
    for name in gateways:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.4):
                if (connection := await registered(world.gateways[name].url, user)) is not None:
                    return connection
    return None


@fault("duplicate gateway id", 9, lasts_s=0.1, touches=(GATEWAY,), needs=(REDIS,))
async def duplicate_id(scene: Scene) -> Steps:
    """A second one with the same id ends by itself, and says whose place it would have taken."""
    world = scene.world
    await ready(scene)
    second = world.gateway_process(scene.gateway, world.server.url)
    try:
        await second.start()
        raise BrokenPromise(f"a second {scene.gateway} started")
    except GatewayDied:
        code, said = await second.wait(CALL_S), " ".join(second.log)
        if code != 2 or DUPLICATE not in said:
            raise BrokenPromise(f"a second {scene.gateway} ended with {code}: {said}") from None
        world.seen[f"duplicate, exit code {code}"] += 1
    finally:
        await second.stop()
    yield


DUPLICATE: Final = "another gateway is running as"


if sys.platform == "linux":  # Elsewhere a process cannot change the limits of another one.

    @fault("no file descriptors left", 51, lasts_s=0.8, touches=(GATEWAY,))
    async def no_descriptors(scene: Scene) -> Steps:
        gateway = scene.world.gateways[scene.gateway]
        before = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        most = psutil.Process(gateway.pid).num_fds() + 1
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (most, before[1]))
        callers = [await dial(gateway.port) for _ in range(8)]
        yield
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, before)
        for _, writer in callers:
            writer.transport.abort()


# --- Redis -------------------------------------------------------------------------------------


@fault("Redis killed, data kept", 12, lasts_s=0.8, touches=(REDIS,))
async def redis_killed(scene: Scene) -> Steps:
    """Nothing that was acknowledged is missing afterwards, as with `appendfsync always`: writes
    pause before the snapshot that stands for the AOF is taken.
    """
    world = scene.world
    await world.admin.execute_command("CLIENT", "PAUSE", "5000", "WRITE")
    await asyncio.to_thread(world.server.kill, keep_data=True)
    yield
    await asyncio.to_thread(world.server.start)
    await answers(world)


@fault("Redis killed, data lost", 13, lasts_s=0.5, touches=(REDIS,))
async def redis_killed_empty(scene: Scene) -> Steps:
    world = scene.world
    world.witness.data_will_be_lost()
    await asyncio.to_thread(world.server.kill)
    yield
    await asyncio.to_thread(world.server.start)
    await answers(world)


@fault("Redis stopped", 14, lasts_s=1.2, touches=(REDIS,))
async def redis_stopped(scene: Scene) -> Steps:
    scene.world.server.pause()
    yield
    scene.world.server.resume()
    await answers(scene.world)


@fault("Redis stopped, users cut: a herd", 39, 38, lasts_s=0.9, touches=(REDIS, USERS))
async def herd(scene: Scene) -> Steps:
    world = scene.world
    world.server.pause()
    for user in world.users:
        for wire in user.doors.wires.values():
            wire.reset()
    yield
    world.server.resume()
    await answers(world)


@fault("CLIENT PAUSE ALL", 15, lasts_s=0.9, touches=(REDIS,))
async def client_pause_all(scene: Scene) -> Steps:
    await scene.world.admin.execute_command("CLIENT", "PAUSE", "900", "ALL")
    yield
    await answers(scene.world)


@fault("CLIENT PAUSE WRITE", 15, lasts_s=0.9, touches=(REDIS,))
async def client_pause_write(scene: Scene) -> Steps:
    await scene.world.admin.execute_command("CLIENT", "PAUSE", "5000", "WRITE")
    yield
    await scene.world.admin.execute_command("CLIENT", "UNPAUSE")


@fault("CLIENT KILL pubsub", 16, lasts_s=0.5, touches=(REDIS,))
async def client_kill_pubsub(scene: Scene) -> Steps:
    await scene.world.admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    yield


@fault("CLIENT KILL normal", 17, lasts_s=0.5, touches=(REDIS,))
async def client_kill_normal(scene: Scene) -> Steps:
    """As CLIENT KILL TYPE normal, but for the witness and ourselves."""
    admin = scene.world.admin
    for client in await admin.client_list(_type="normal"):
        if client["cmd"] != "monitor" and client["name"] != "nemesis":
            with contextlib.suppress(RedisError):
                await admin.execute_command("CLIENT", "KILL", "ID", client["id"])
    yield


@fault("maxmemory reached", 27, lasts_s=1.2, touches=(REDIS,))
async def maxmemory(scene: Scene) -> Steps:
    await scene.world.admin.config_set("maxmemory", "1mb")
    yield
    await scene.world.admin.config_set("maxmemory", "0")


@fault("FLUSHALL", 31, lasts_s=0.5, touches=(REDIS,))
async def flushall(scene: Scene) -> Steps:
    await scene.world.admin.flushall()
    yield


@fault("SCRIPT FLUSH", 31, lasts_s=0.3, touches=(REDIS,))
async def script_flush(scene: Scene) -> Steps:
    await scene.world.admin.script_flush()
    await scene.world.admin.config_resetstat()
    yield


@fault("DEL of one presence key", 31, lasts_s=0.3, touches=(REDIS,))
async def del_presence(scene: Scene) -> Steps:
    await scene.world.admin.delete(f"presence:{scene.rng.choice(scene.world.names)}")
    yield


@fault("wrong type", 32, lasts_s=1.0, touches=(REDIS,))
async def wrong_type(scene: Scene) -> Steps:
    world = scene.world
    key = f"presence:{scene.rng.choice(world.names)}"
    await world.admin.set(key, "x")
    yield
    await world.admin.delete(key)


@fault("BUSY: a script that does not end", 33, lasts_s=0.9, touches=(REDIS,))
async def busy(scene: Scene) -> Steps:
    world = scene.world
    await world.admin.config_set("lua-time-limit", "50")
    another: Any = redis_client.Redis.from_url(world.server.url, socket_timeout=HEAL_S)
    async with another:
        endless = asyncio.ensure_future(another.eval("while true do end", 0))
        try:
            yield
        finally:
            with contextlib.suppress(RedisError):
                await world.admin.execute_command("SCRIPT", "KILL")
            await asyncio.gather(endless, return_exceptions=True)


@fault("pub/sub buffer overflows", 34, lasts_s=0.5, touches=(REDIS,))
async def pubsub_overflow(scene: Scene) -> Steps:
    """A script publishes more than the buffer of a subscriber may hold, before any of it leaves."""
    admin = scene.world.admin
    await admin.config_set("client-output-buffer-limit", "pubsub 262144 131072 1")
    burst = "for i = 1, 64 do redis.call('PUBLISH', ARGV[1], ARGV[2]) end"
    await admin.eval(burst, 0, f"gateway:{scene.gateway}", "x" * 16_000)
    yield
    await admin.config_set("client-output-buffer-limit", "pubsub 33554432 8388608 60")


@fault("hostile publishes", 78, lasts_s=0.3)
async def hostile_publishes(scene: Scene) -> Steps:
    world = scene.world
    for gateway in sorted(world.gateways):
        for junk in _junk():
            with contextlib.suppress(RedisError):
                await world.admin.publish(f"gateway:{gateway}", junk)
    yield


def _junk() -> list[str]:
    envelopes: list[Any] = [
        [],
        7,
        {"type": "nonsense"},
        {"type": "direct"},
        {"type": "direct", "from": 3, "to": [], "content": {}},
        {"type": "direct", "from": "mallory", "to": "user-01", "content": MARK, "toConn": "none"},
        {"type": "kick", "user": "user-01", "connId": "none", "token": 1},
        {"type": "bounce", "fromConn": "none", "to": "user-01"},
        {"type": "direct", "from": "x", "to": "nobody-here", "content": MARK * JUNK},
    ]
    return ["", "not JSON", "\ud7ff", "{" * 5000, *(json.dumps(one) for one in envelopes)]


@fault("foreign presence entries", 79, 80, lasts_s=0.6, touches=(REDIS,), needs=(GATEWAY,))
async def foreign_entries(scene: Scene) -> Steps:
    """Half an entry, as the Go demo leaves them, and one whose gateway is no name."""
    admin = scene.world.admin
    await ready(scene)
    await admin.hset("presence:half", mapping={"gwId": scene.gateway, "ts": "1"})
    await admin.hset("presence:odd", mapping={"gwId": "a\nb*", "connId": "c", "ts": "1"})
    asker = await must_register(scene, "asker")
    for ghost in ("half", "odd"):
        await asker.send(json.dumps({"type": "message", "to": ghost, "content": MARK}))
    yield
    await admin.delete("presence:half", "presence:odd")
    await asker.close()


# --- between a gateway and Redis ---------------------------------------------------------------


@fault("subscriber half-open", 18, 49, lasts_s=1.0, touches=(GATEWAY,), needs=(REDIS,))
async def half_open_subscriber(scene: Scene) -> Steps:
    """Its connection looks alive and says nothing; a notice that it misses is a lost kick (49)."""
    world, wire = scene.world, scene.world.wires[scene.gateway]
    await ready(scene)  # One that is just subscribing, or cannot probe, does not lose a probe.
    deaf = list(wire.strands(listens))
    if not deaf:
        raise NotArranged("the gateway was subscribing just then")
    for strand in deaf:
        strand.drop()
    for victim in world.users_of(scene.gateway)[:1]:
        elsewhere = [name for name in sorted(world.gateways) if name != scene.gateway]
        await victim.log_in_twice(scene.rng.choice(elsewhere))
    yield
    for strand in deaf:
        strand.reset()  # TCP does not go on behind bytes that are missing.


@fault("replies of Redis lost", 19, lasts_s=1.2, touches=(GATEWAY,))
async def replies_lost(scene: Scene) -> Steps:
    async for step in _lossy(scene.world.wires[scene.gateway], "down"):
        yield step


@fault("requests to Redis lost", 20, lasts_s=1.2, touches=(GATEWAY,))
async def requests_lost(scene: Scene) -> Steps:
    async for step in _lossy(scene.world.wires[scene.gateway], "up"):
        yield step


async def _lossy(wire: Wire, direction: Direction) -> Steps:
    wire.drop(direction)
    yield
    # TCP does not go on behind bytes that are missing.
    wire.reset()
    wire.release()


@fault("Redis 200 ms away, give or take 100", 21, lasts_s=1.2, touches=(GATEWAY,))
async def latency(scene: Scene) -> Steps:
    wire = scene.world.wires[scene.gateway]
    wire.delay(0.05, jitter_s=0.1)
    yield
    wire.release()


@fault("one byte at a time", 22, lasts_s=0.8, touches=(GATEWAY,))
async def slicing(scene: Scene) -> Steps:
    wire = scene.world.wires[scene.gateway]
    wire.slice(1)
    yield
    wire.release()


@fault("reset in the middle of a reply", 23, lasts_s=0.5, touches=(GATEWAY,))
async def reset_in_reply(scene: Scene) -> Steps:
    for strand in scene.world.wires[scene.gateway].strands():
        strand.reset_within(3, "down")
    yield


@fault("swizzle-clog", 53, lasts_s=0.3, touches=(ALL_GATEWAYS,))
async def swizzle_clog(scene: Scene) -> Steps:
    """All wires to Redis are held, one by one, and let go in another order."""
    wires = list(scene.world.wires.values())
    try:
        for wire in scene.rng.sample(wires, len(wires)):
            wire.hold()
            await asyncio.sleep(scene.rng.uniform(0.05, 0.3))
        yield
    finally:
        for wire in scene.rng.sample(wires, len(wires)):
            wire.release()
            await asyncio.sleep(scene.rng.uniform(0.05, 0.3))


# --- users -------------------------------------------------------------------------------------


@fault(
    "client half-open",
    35,
    lasts_s=3.2 * TIMING.heartbeat_s,
    touches=(USERS,),
    needs=(GATEWAY,),
)
async def client_half_open(scene: Scene) -> Steps:
    """One whose wires lose everything, and one who is there and neither reads nor speaks."""
    victim = scene.rng.choice(list(scene.world.talkers.values()))
    silent = await must_register(scene, "silent")
    silent.transport.pause_reading()
    for wire in victim.doors.wires.values():
        for strand in wire.strands():
            strand.drop()
    yield
    for wire in victim.doors.wires.values():
        wire.reset()
        wire.release()
    silent.transport.abort()


@fault("slow consumer", 36, lasts_s=1.5, needs=(GATEWAY, REDIS))
async def slow_consumer(scene: Scene) -> Steps:
    """Somebody registers and never reads, and somebody else writes her three megabytes."""
    await ready(scene)
    slow = await must_register(scene, "slow-reader", small_buffer=True)
    writer = await must_register(scene, "fast-writer")
    slow.transport.pause_reading()
    text = json.dumps({"type": "message", "to": "slow-reader", "content": MARK * 480})
    with contextlib.suppress(WebSocketException, TimeoutError):
        async with asyncio.timeout(CALL_S):
            for _ in range(400):
                await writer.send(text)
    yield
    for connection in (slow, writer):
        connection.transport.abort()


@fault("ping flood, unread", 37, lasts_s=1.0, needs=(GATEWAY,))
async def ping_flood(scene: Scene) -> Steps:
    flooder = await must_register(scene, "flooder")
    transport = flooder.transport
    transport.pause_reading()
    # A masked ping frame with a payload of 120 bytes, its mask zero.
    frame = bytes([0x89, 0x80 | 120, 0, 0, 0, 0]) + b"x" * 120
    for _ in range(FLOOD // 400):
        if transport.is_closing():
            break
        transport.write(frame * 400)
        await asyncio.sleep(0.005)
    yield
    transport.abort()


@fault("reconnect storm", 38, lasts_s=0.6, touches=(USERS,))
async def reconnect_storm(scene: Scene) -> Steps:
    for user in scene.world.users:
        for wire in user.doors.wires.values():
            wire.reset()
    yield


@fault("two logins at once, two gateways", 43, lasts_s=0.5, touches=(USERS,))
async def two_logins(scene: Scene) -> Steps:
    victim = scene.rng.choice(list(scene.world.talkers.values()))
    await victim.log_in_twice(*scene.rng.sample(sorted(scene.world.gateways), 2))
    yield


@fault("two logins at once, one gateway", 44, lasts_s=0.5, touches=(USERS,))
async def two_logins_on_one(scene: Scene) -> Steps:
    victim = scene.rng.choice(list(scene.world.talkers.values()))
    await victim.log_in_twice(scene.gateway, scene.gateway)
    yield


@fault("flapping", 45, lasts_s=0.2, touches=(USERS,))
async def flapping(scene: Scene) -> Steps:
    urls = [gateway.url for gateway in scene.world.gateways.values()]
    for _ in range(25):
        connection = await say_register(scene.rng.choice(urls), "flapper")
        if connection is not None:
            connection.transport.abort()
    yield


@fault("socket closes during register", 48, lasts_s=0.3, touches=(GATEWAY,))
async def gone_while_registering(scene: Scene) -> Steps:
    with held(list(scene.world.wires[scene.gateway].strands()), "down"):
        for connection in await begin_registers(scene, "brief", 5):
            connection.transport.abort()
        yield


@fault("moved while a message was under way", 50, lasts_s=0.3, touches=(GATEWAY,), needs=(REDIS,))
async def moved_meanwhile(scene: Scene) -> Steps:
    """What was published for her lies on the wire while she moves: it must come back, or be lost,
    but go to nobody else.
    """
    world, rng = scene.world, scene.rng
    await ready(scene)
    elsewhere = [name for name in sorted(world.gateways) if name != scene.gateway]
    senders = [user for name in elsewhere for user in world.users_of(name)]
    with held(list(world.wires[scene.gateway].strands(listens)), "down"):
        for victim in world.users_of(scene.gateway)[:2]:
            for sender in rng.sample(senders, min(2, len(senders))):
                for client in sender.registered[:1]:
                    await sender.say(client, victim.name)
            await victim.move(rng.choice(elsewhere))
        yield


# They enter themselves into the catalogue, behind these.
from wsdemo.proof.chaos.faults import clients, hosts, outages  # noqa: E402, F401
