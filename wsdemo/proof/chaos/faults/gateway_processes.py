"""Gateway process faults: what if a gateway is killed, stopped, started twice or out of files?"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
from typing import Final

import psutil
from websockets.asyncio.client import ClientConnection

from wsdemo.proof.chaos.cluster import LIMITS, TIMING, ProcessCluster, commands
from wsdemo.proof.chaos.fault import (
    ANYWHERE,
    GATEWAY,
    ONE_PROCESS,
    REDIS,
    FaultType,
    NotArranged,
    Scene,
    Steps,
    fault,
)
from wsdemo.proof.chaos.faults.arrange import (
    CALL_S,
    BrokenPromise,
    begin_registers,
    dial,
    held,
    ready,
    registered,
    say_register,
    until,
)
from wsdemo.rig.process import GatewayDied
from wsdemo.rig.wire import Strand, Wire

LEAVERS: Final = 4
ATTEMPTS: Final = 4
DUPLICATE: Final = "another gateway is running as"
"""What a gateway logs when its id is in use."""


@fault("gateway killed, back at once", 1, 10, lasts_s=0.5, touches=(GATEWAY,), at=ANYWHERE)
async def gateway_killed(scene: Scene) -> Steps:
    await kill_gateway(scene)
    await scene.cluster.start_again(scene.gateway)
    yield


@fault("gateway killed, away", 1, 38, lasts_s=1.2, touches=(GATEWAY,), at=ANYWHERE)
async def gateway_away(scene: Scene) -> Steps:
    await kill_gateway(scene)
    yield
    await scene.cluster.start_again(scene.gateway)


async def kill_gateway(scene: Scene) -> None:
    """Kill the gateway of this scene."""
    gateway = scene.cluster.gateways[scene.gateway]
    gateway.signal(signal.SIGKILL)
    code = await gateway.wait(CALL_S)
    scene.cluster.seen[f"killed, exit code {code}"] += 1
    await gateway.stop()


@fault("gateway drained", 2, lasts_s=0.3, touches=(GATEWAY,), at=ANYWHERE)
async def gateway_drained(scene: Scene) -> Steps:
    await scene.cluster.drain(scene.gateway)
    yield
    await scene.cluster.start_again(scene.gateway)


@fault("gateway stopped, shortly", 3, lasts_s=0.4, touches=(GATEWAY,), at=ONE_PROCESS)
async def gateway_stopped(scene: Scene) -> Steps:
    scene.cluster.gateways[scene.gateway].signal(signal.SIGSTOP)
    yield
    scene.cluster.gateways[scene.gateway].signal(signal.SIGCONT)


@fault(
    "gateway a zombie",
    4,
    42,
    lasts_s=1.25 * TIMING.presence_ttl_s,
    touches=(GATEWAY,),
    at=ONE_PROCESS,
)
async def gateway_zombie(scene: Scene) -> Steps:
    scene.cluster.gateways[scene.gateway].signal(signal.SIGSTOP)
    yield
    scene.cluster.gateways[scene.gateway].signal(signal.SIGCONT)


@fault("late commands", 5, 46, 47, lasts_s=0.2, touches=(GATEWAY,), needs=(REDIS,))
async def late_commands(scene: Scene) -> Steps:
    """Commands of every kind stay on the wire until their gateway has given up the connection.
    They are executed after that, when the users have moved to another gateway or have left.
    """
    cluster, wire = scene.cluster, scene.cluster.wires[scene.gateway]
    await ready(scene)
    victims = cluster.users_of(scene.gateway)[:4]
    leavers = await begin_registers(scene, "late-leaver", LEAVERS)
    await until(lambda: _all_present(cluster, "late-leaver"), "four users registered")
    # By then the lease may be refreshed, and a ping is enough for that.
    await asyncio.sleep(0.55 * TIMING.heartbeat_s)
    old = list(wire.strands(commands))
    with held(old, "up"):  # What was sent is executed; what follows has to wait.
        for leaver in leavers:
            await leaver.send('{"type":"ping"}')
        for victim in victims[:2]:
            await victim.vanish()
        await until(lambda: given_up(wire, old), "a new connection to Redis")
        await ready(scene)
        for victim in victims[2:]:
            await victim.vanish()
        for leaver in leavers:
            leaver.transport.abort()
        # Their releases overtake the refreshes that their pings caused (fault 47).
        await until(lambda: _all_absent(cluster, "late-leaver"), "their entries gone")
        yield


async def _all_present(cluster: ProcessCluster, name: str) -> bool:
    keys = [f"presence:{name}-{n}" for n in range(LEAVERS)]
    return bool(await cluster.admin.exists(*keys) == LEAVERS)


async def _all_absent(cluster: ProcessCluster, name: str) -> bool:
    keys = [f"presence:{name}-{n}" for n in range(LEAVERS)]
    return not await cluster.admin.exists(*keys)


async def given_up(wire: Wire, old: list[Strand]) -> bool:
    """Say whether the gateway already uses another connection to Redis."""
    return any(strand not in old and strand.said for strand in wire.strands(commands))


@fault("late register", 5, 48, lasts_s=0.2, touches=(GATEWAY,), needs=(REDIS,))
async def late_register(scene: Scene) -> Steps:
    """A register with a minted token waits on the wire while its user registers elsewhere."""
    connections = await _late_register_within_attempts(scene)
    yield
    for connection in connections:
        if connection is not None:
            await connection.close()


async def _late_register_within_attempts(scene: Scene) -> list[ClientConnection | None]:
    for _ in range(ATTEMPTS):
        await ready(scene)
        with contextlib.suppress(TimeoutError):
            return await _late_register(scene)
    raise NotArranged("the gateway gave up its connection to Redis before a token was minted")


async def _late_register(scene: Scene) -> list[ClientConnection | None]:
    """Try once; return the late session and the one that was quicker.

    Raises:
        TimeoutError: the gateway gave up its connection to Redis before the token was minted.
        BrokenPromise: it did not take its register back.
    """
    cluster, wire = scene.cluster, scene.cluster.wires[scene.gateway]
    user = f"late-register-{scene.rng.randrange(10**9)}"  # It has no fence of an earlier session.
    elsewhere = [name for name in sorted(cluster.gateways) if name != scene.gateway]
    old = list(wire.strands(commands))
    with contextlib.ExitStack() as until_then:
        with held(old, "down"):
            # The mint is executed and its answer is late, so the register is later still.
            slow = await say_register(cluster.gateways[scene.gateway].url, user)
            minted_s = 2 * LIMITS.redis_timeout_s
            await until(lambda: cluster.admin.exists(f"fence:{user}"), "a token", minted_s)
            until_then.enter_context(held(old, "up"))
        await asyncio.sleep(0.1)  # By then the register is on the wire.
        quick = await _registered_at_one_of(cluster, elsewhere, user)
        if quick is None:  # Then the gateway releases what it could not register.
            try:
                await until(lambda: cluster.admin.hget(f"fence:{user}", "floor"), "a release")
            except TimeoutError as problem:
                raise BrokenPromise(str(problem)) from None
    return [slow, quick]


async def _registered_at_one_of(
    cluster: ProcessCluster, gateways: list[str], user: str
) -> ClientConnection | None:
    """Register with the first gateway that accepts at once: another fault may be active at one."""
    for name in gateways:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.4):
                if (connection := await registered(cluster.gateways[name].url, user)) is not None:
                    return connection
    return None


@fault("duplicate gateway id", 9, lasts_s=0.1, touches=(GATEWAY,), needs=(REDIS,))
async def duplicate_id(scene: Scene) -> Steps:
    """A second gateway with the same id ends by itself, and logs why."""
    cluster = scene.cluster
    await ready(scene)
    second = cluster.gateway_process(scene.gateway, cluster.redis_url)
    try:
        await second.start()
        raise BrokenPromise(f"a second {scene.gateway} started")
    except GatewayDied:
        code, said = await second.wait(CALL_S), " ".join(second.log)
        if code != 2 or DUPLICATE not in said:
            raise BrokenPromise(f"a second {scene.gateway} ended with {code}: {said}") from None
        cluster.seen[f"duplicate, exit code {code}"] += 1
    finally:
        await second.stop()
    yield


if sys.platform == "linux":  # Only there can a process change the limits of another one.

    @fault("no file descriptors left", 51, lasts_s=0.8, touches=(GATEWAY,))
    async def no_descriptors(scene: Scene) -> Steps:
        gateway = scene.cluster.gateways[scene.gateway]
        before = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        most = psutil.Process(gateway.pid).num_fds() + 1
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (most, before[1]))
        callers = [await dial(gateway.port) for _ in range(8)]
        yield
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, before)
        for _, writer in callers:
            writer.transport.abort()

    _ON_LINUX: tuple[FaultType, ...] = (no_descriptors,)
else:
    _ON_LINUX = ()


FAULTS: Final[tuple[FaultType, ...]] = (
    gateway_killed,
    gateway_away,
    gateway_drained,
    gateway_stopped,
    gateway_zombie,
    late_commands,
    late_register,
    duplicate_id,
    *_ON_LINUX,
)
