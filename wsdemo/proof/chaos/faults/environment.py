"""Environment faults: what if a gateway loses the reader of its log, disk space, CPU time or the
right time of day, or is told to stop at a bad moment?
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import struct
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from wsdemo.proof.chaos.cluster import LIMITS
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
from wsdemo.proof.chaos.faults import wallclock
from wsdemo.proof.chaos.faults.arrange import BrokenPromise, ready
from wsdemo.proof.chaos.faults.probe import ProbeUser
from wsdemo.proof.history import Violation

FULL: Final = Path("/dev/full")
EXCHANGED: Final = 150
"""Messages through Redis. Their log lines fill a small pipe several times."""
BATCH: Final = 25
HOUR_S: Final = 3600.0
RUNS_S: Final = 0.02
STANDS_S: Final = 0.08
"""A fifth of a processor, in the time slices of a scheduler with a quota."""
STARTS_S: Final = 0.8
"""About how long a gateway takes to start on an idle machine."""
ENDS_S: Final = LIMITS.drain_s + 5.0


# --- its log -----------------------------------------------------------------------------------


@fault("log that nobody reads", 110, lasts_s=0.5, needs=(GATEWAY, REDIS))
async def log_unread(scene: Scene) -> Steps:
    """The pipe of its log is full, and the gateway works as usual."""
    await ready(scene)
    gateway = scene.cluster.gateways[scene.gateway]
    async with _pair(scene) as (here, there):
        gateway.block_log()
        try:
            await _exchange(here, there)
            yield
            await _exchange(here, there)
            await here.pong()
        finally:
            gateway.unblock_log()


@fault("log on a full disk", 111, lasts_s=0.5, touches=(GATEWAY,), needs=(REDIS,))
async def log_on_a_full_disk(scene: Scene) -> Steps:
    """Every write to its log fails, and the gateway works as usual."""
    if not FULL.exists():
        raise NotArranged(f"there is no {FULL}", for_good=True)
    cluster, gateway = scene.cluster, scene.cluster.gateways[scene.gateway]
    await cluster.drain(scene.gateway)
    try:
        await gateway.start_into(FULL)
        await ready(scene)
        async with _pair(scene) as (here, there):
            await _exchange(here, there)
            yield
            await here.pong()
        await cluster.drain(scene.gateway)
    finally:
        await gateway.stop()
        await cluster.start_again(scene.gateway)


@contextlib.asynccontextmanager
async def _pair(scene: Scene) -> AsyncIterator[tuple[ProbeUser, ProbeUser]]:
    """Return a probe at this gateway, and one at another gateway that accepts it at once."""
    others = [name for name in sorted(scene.cluster.gateways) if name != scene.gateway]
    async with ProbeUser(scene, "here") as here:
        for name in scene.rng.sample(others, len(others)):
            async with contextlib.AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(1.0):
                        there = await stack.enter_async_context(ProbeUser(scene, "there", name))
                except (NotArranged, TimeoutError):
                    continue
                yield here, there
                return
        raise NotArranged("no other gateway accepted a probe")


async def _exchange(here: ProbeUser, there: ProbeUser) -> None:
    """Send messages through Redis. Each is answered in time, and neither `busy` nor `unknown`.

    The other gateway may be touched by another fault, so `offline` is allowed.
    """
    for _ in range(EXCHANGED // BATCH):
        statuses = await here.ask(*[there.user] * BATCH)
        if {"busy", "unknown"}.intersection(statuses):
            raise BrokenPromise(f"messages were called {statuses}")


# --- how it is told to stop ----------------------------------------------------------------------


@fault("SIGTERM twice", 2, 112, lasts_s=0.3, touches=(GATEWAY,))
async def sigterm_twice(scene: Scene) -> Steps:
    """After the second signal it ends soon. Its exit code says whether it has drained."""
    await _terminate(scene, (0, 1), twice_after_s=scene.rng.uniform(0.0, 0.1))
    yield
    await scene.cluster.start_again(scene.gateway)


@fault("SIGTERM during the start", 2, 113, lasts_s=0.3, touches=(GATEWAY,), at=ANYWHERE)
async def sigterm_during_start(scene: Scene) -> Steps:
    """At any moment of the start. Nothing is left that keeps the next gateway from starting."""
    cluster, gateway = scene.cluster, scene.cluster.gateways[scene.gateway]
    await cluster.drain(scene.gateway)
    await gateway.launch()
    await asyncio.sleep(scene.rng.uniform(0.0, STARTS_S))
    await _terminate(scene, (0, -signal.SIGTERM))
    yield
    await cluster.start_again(scene.gateway)


async def _terminate(
    scene: Scene, codes: tuple[int, ...], twice_after_s: float | None = None
) -> None:
    cluster, gateway = scene.cluster, scene.cluster.gateways[scene.gateway]
    gateway.signal(signal.SIGTERM)
    if twice_after_s is not None:
        await asyncio.sleep(twice_after_s)
        gateway.signal(signal.SIGTERM)
    try:
        code: int | None = await gateway.wait(ENDS_S)
    except TimeoutError:
        code = None
    await gateway.stop()
    how = "twice" if twice_after_s is not None else "during its start"
    cluster.seen[f"told to go {how}, exit code {code}"] += 1
    if code not in codes:
        text = f"{scene.gateway} was told to go {how}, and ended with {code}"
        cluster.complain(Violation("drain", cluster.clock(), f"{text}: {list(gateway.log)[-3:]}"))


# --- its time ----------------------------------------------------------------------------------


@fault("CPU throttled", 114, lasts_s=1.5, touches=(GATEWAY,), at=ONE_PROCESS)
async def throttled(scene: Scene) -> Steps:
    """It runs a fifth of the time, in slices. It is slow, and everything else is as usual."""
    gateway = scene.cluster.gateways[scene.gateway]

    async def throttle() -> None:
        while True:
            gateway.signal(signal.SIGSTOP)
            await asyncio.sleep(STANDS_S)
            gateway.signal(signal.SIGCONT)
            await asyncio.sleep(RUNS_S)

    throttling = asyncio.create_task(throttle(), name="throttle")
    try:
        yield
    finally:
        throttling.cancel()
        await asyncio.wait([throttling])
        gateway.signal(signal.SIGCONT)


@fault("wall clock set", 40, 115, lasts_s=1.0, touches=(GATEWAY,), needs=(REDIS,))
async def wall_clock_set(scene: Scene) -> Steps:
    """The clock is an hour ahead, then an hour behind. No user is affected."""
    cluster, gateway = scene.cluster, scene.cluster.gateways[scene.gateway]
    await cluster.drain(scene.gateway)
    with tempfile.NamedTemporaryFile(prefix="wsdemo-clock-") as file:
        ahead = Path(file.name)
        _set(ahead, 0.0)
        try:
            await gateway.start(wallclock.__file__, **{wallclock.VARIABLE: str(ahead)})
            await ready(scene)
            async with _pair(scene) as (here, there):
                for step_s in (HOUR_S, -HOUR_S):
                    _set(ahead, step_s)
                    await _exchange(here, there)
                    await here.pong()
                yield
                await _exchange(here, there)
                await here.pong()
            await cluster.drain(scene.gateway)
        finally:
            await gateway.stop()
            await cluster.start_again(scene.gateway)


def _set(file: Path, ahead_s: float) -> None:
    """Set the clock. The file is changed in place, because the gateway has it mapped."""
    with file.open("r+b") as opened:
        opened.write(struct.pack("d", ahead_s))


FAULTS: Final[tuple[FaultType, ...]] = (
    log_unread,
    log_on_a_full_disk,
    sigterm_twice,
    sigterm_during_start,
    throttled,
    wall_clock_set,
)
