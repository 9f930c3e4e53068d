"""What a process lives with, and may lose: a reader of its log, room on the disk, its share of the
processor, the right time, and the patience of whoever tells it to go.
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

from wsdemo.proof.chaos.faults import wallclock
from wsdemo.proof.chaos.faults.arrange import BrokenPromise, Guest, Steps, ready
from wsdemo.proof.chaos.nemesis import GATEWAY, REDIS, NotArranged, Scene, fault
from wsdemo.proof.chaos.world import LIMITS
from wsdemo.proof.history import Violation

FULL: Final = Path("/dev/full")
CHATTER: Final = 150
"""Messages through Redis: lines enough in the log to fill a small pipe a few times."""
BATCH: Final = 25
HOUR_S: Final = 3600.0
RUNS_S: Final = 0.02
STANDS_S: Final = 0.08
"""A fifth of a processor, in slices as a scheduler with a quota gives them."""
STARTS_S: Final = 0.8
"""Within so long a gateway has started on an idle machine, or is about to."""
ENDS_S: Final = LIMITS.drain_s + 5.0


# --- its log -----------------------------------------------------------------------------------


@fault("log that nobody reads", 110, lasts_s=0.5, needs=(GATEWAY, REDIS))
async def log_unread(scene: Scene) -> Steps:
    """The pipe of its log is full, and it serves as ever."""
    await ready(scene)
    gateway = scene.world.gateways[scene.gateway]
    async with _pair(scene) as (here, there):
        gateway.block_log()
        try:
            await _chat(here, there)
            yield
            await _chat(here, there)
            await here.pong()
        finally:
            gateway.unblock_log()


@fault("log on a full disk", 111, lasts_s=0.5, touches=(GATEWAY,), needs=(REDIS,))
async def log_on_a_full_disk(scene: Scene) -> Steps:
    """Every line that it writes is an error, and it serves as ever."""
    if not FULL.exists():
        raise NotArranged(f"there is no {FULL}", for_good=True)
    world, gateway = scene.world, scene.world.gateways[scene.gateway]
    await world.drain(scene.gateway)
    try:
        await gateway.start_into(FULL)
        await ready(scene)
        async with _pair(scene) as (here, there):
            await _chat(here, there)
            yield
            await here.pong()
        await world.drain(scene.gateway)
    finally:
        await gateway.stop()
        await world.start_again(scene.gateway)


@contextlib.asynccontextmanager
async def _pair(scene: Scene) -> AsyncIterator[tuple[Guest, Guest]]:
    """Return a guest of this gateway, and one of another gateway that takes her at once."""
    others = [name for name in sorted(scene.world.gateways) if name != scene.gateway]
    async with Guest(scene, "here") as here:
        for name in scene.rng.sample(others, len(others)):
            async with contextlib.AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(1.0):
                        there = await stack.enter_async_context(Guest(scene, "there", name))
                except (NotArranged, TimeoutError):
                    continue
                yield here, there
                return
        raise NotArranged("no other gateway took a guest")


async def _chat(here: Guest, there: Guest) -> None:
    """Send messages through Redis; each is answered in time, and not as if it could not be sent.

    Who is elsewhere may be hit by another fault: that she was not found is no fault of ours.
    """
    for _ in range(CHATTER // BATCH):
        statuses = await here.ask(*[there.user] * BATCH)
        if {"busy", "unknown"}.intersection(statuses):
            raise BrokenPromise(f"messages were called {statuses}")


# --- how it is told to go ----------------------------------------------------------------------


@fault("SIGTERM twice", 2, 112, lasts_s=0.3, touches=(GATEWAY,))
async def told_twice(scene: Scene) -> Steps:
    """Whoever asks twice has no patience: it ends soon, and says by its code whether it drained."""
    await _told(scene, (0, 1), twice_after_s=scene.rng.uniform(0.0, 0.1))
    yield
    await scene.world.start_again(scene.gateway)


@fault("SIGTERM during the start", 2, 113, lasts_s=0.3, touches=(GATEWAY,))
async def told_while_it_starts(scene: Scene) -> Steps:
    """At any moment of it; nothing is left that would keep the next one from starting."""
    world, gateway = scene.world, scene.world.gateways[scene.gateway]
    await world.drain(scene.gateway)
    await gateway.launch()
    await asyncio.sleep(scene.rng.uniform(0.0, STARTS_S))
    await _told(scene, (0, -signal.SIGTERM))
    yield
    await world.start_again(scene.gateway)


async def _told(scene: Scene, codes: tuple[int, ...], twice_after_s: float | None = None) -> None:
    world, gateway = scene.world, scene.world.gateways[scene.gateway]
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
    world.seen[f"told to go {how}, exit code {code}"] += 1
    if code not in codes:
        text = f"{scene.gateway} was told to go {how}, and ended with {code}"
        world.complain(Violation("drain", world.clock(), f"{text}: {list(gateway.log)[-3:]}"))


# --- its time ----------------------------------------------------------------------------------


@fault("CPU throttled", 114, lasts_s=1.5, touches=(GATEWAY,))
async def throttled(scene: Scene) -> Steps:
    """It runs a fifth of the time, in slices: slow, and nothing else."""
    gateway = scene.world.gateways[scene.gateway]

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
    """An hour on, then an hour back from the right time: nobody notices."""
    world, gateway = scene.world, scene.world.gateways[scene.gateway]
    await world.drain(scene.gateway)
    with tempfile.NamedTemporaryFile(prefix="wsdemo-clock-") as file:
        ahead = Path(file.name)
        _set(ahead, 0.0)
        try:
            await gateway.start(wallclock.__file__, **{wallclock.VARIABLE: str(ahead)})
            await ready(scene)
            async with _pair(scene) as (here, there):
                for step_s in (HOUR_S, -HOUR_S):
                    _set(ahead, step_s)
                    await _chat(here, there)
                    await here.pong()
                yield
                await _chat(here, there)
                await here.pong()
            await world.drain(scene.gateway)
        finally:
            await gateway.stop()
            await world.start_again(scene.gateway)


def _set(file: Path, ahead_s: float) -> None:
    """Set the clock. In place: the gateway has the file mapped."""
    with file.open("r+b") as opened:
        opened.write(struct.pack("d", ahead_s))
